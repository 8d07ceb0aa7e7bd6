//! Filters and clsact qdiscs of an interface, by its number: names can be given to another interface at any time.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
        TcOption,
    },
};

use super::{NetlinkError, Requests};

/// `ETH_P_ALL`.
const ALL_PROTOCOLS: u16 = 3;
const CLSACT: &str = "clsact";

/// A side of a clsact qdisc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the interface receives.
    Ingress,
    /// What it sends.
    Egress,
}

/// Where a filter is among those of its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Lower ones come first.
    pub priority: u16,
    /// Its number within the priority.
    pub handle: u16,
}

/// A filter that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Where.
    pub slot: Slot,
    /// The name it was given, of a BPF filter.
    pub name: Option<String>,
    /// The number of its program, of a BPF filter.
    pub program: Option<u32>,
}

impl Side {
    const fn parent(self) -> TcHandle {
        TcHandle {
            major: u16::MAX,
            minor: match self {
                Self::Ingress => TcHandle::MIN_INGRESS,
                Self::Egress => TcHandle::MIN_EGRESS,
            },
        }
    }
}

impl Requests {
    /// The filters of a side of an interface; none if it has no clsact qdisc, or is gone.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn filters(&mut self, index: u32, side: Side) -> Result<Vec<Filter>, NetlinkError> {
        let question = message(index, side.parent());
        let question = RouteNetlinkMessage::GetTrafficFilter(question);
        let all = self.list("list filters", &question)?;
        Ok(all.iter().filter_map(read).collect())
    }

    /// Adds a filter of a BPF program, or puts the program in the place of what the slot has.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_filter(
        &mut self,
        index: u32,
        side: Side,
        slot: Slot,
        name: &str,
        program: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let mut filter = filter(index, side, slot);
        let options = [
            TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
            TcFilterBpfOption::ProgName(name.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let options = options.into_iter().map(TcOption::Bpf).collect();
        filter.attributes.push(TcAttribute::Options(options));
        let change = RouteNetlinkMessage::NewTrafficFilter(filter);
        self.change("set a filter", change, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes what a slot has.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_filter(
        &mut self,
        index: u32,
        side: Side,
        slot: Slot,
    ) -> Result<(), NetlinkError> {
        let change = RouteNetlinkMessage::DelTrafficFilter(filter(index, side, slot));
        self.change("remove a filter", change, 0)
    }

    /// Gives an interface a clsact qdisc; false if it has one, or an ingress qdisc in its place.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_clsact(&mut self, index: u32) -> Result<bool, NetlinkError> {
        let change = RouteNetlinkMessage::NewQueueDiscipline(clsact(index));
        match self.change("add a clsact qdisc", change, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the clsact qdisc of an interface with all that hangs on it.
    ///
    /// # Errors
    /// When the kernel refuses: there is none.
    pub fn remove_clsact(&mut self, index: u32) -> Result<(), NetlinkError> {
        let change = RouteNetlinkMessage::DelQueueDiscipline(clsact(index));
        self.change("remove a clsact qdisc", change, 0)
    }
}

fn message(index: u32, parent: TcHandle) -> TcMessage {
    // Numbers of interfaces are positive.
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent;
    message
}

fn clsact(index: u32) -> TcMessage {
    let mut message = message(index, TcHandle::CLSACT);
    message.header.handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    message
        .attributes
        .push(TcAttribute::Kind(CLSACT.to_owned()));
    message
}

fn filter(index: u32, side: Side, slot: Slot) -> TcMessage {
    let mut message = message(index, side.parent());
    message.header.handle = TcHandle {
        major: 0,
        minor: slot.handle,
    };
    message.header.info = info(slot.priority);
    let kind = TcFilterBpf::KIND.to_owned();
    message.attributes.push(TcAttribute::Kind(kind));
    message
}

/// Priority and protocol, in the byte order of the network, as the header has them.
fn info(priority: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(ALL_PROTOCOLS.to_be())
}

fn priority(header: &TcHeader) -> u16 {
    (header.info >> 16) as u16
}

fn read(message: &RouteNetlinkMessage) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = message else {
        return None;
    };
    let (mut name, mut program) = (None, None);
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else {
            continue;
        };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(text)) => name = Some(text.clone()),
                TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => program = Some(*number),
                _ => {}
            }
        }
    }
    // A priority is announced by itself, without a filter.
    if message.header.handle == TcHandle::UNSPEC {
        return None;
    }
    Some(Filter {
        slot: Slot {
            priority: priority(&message.header),
            handle: message.header.handle.minor,
        },
        name,
        program,
    })
}
