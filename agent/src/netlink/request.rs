//! Questions to rtnetlink, each on a socket that hears nothing else, and each with a deadline.
//!
//! The kernel drops an answer when its socket has no room. A socket that is also subscribed to changes can run out of room at any
//! time, and then waits for an answer that never comes. A socket of [`Requests`] has at most one question open, for whose answer
//! there is room; if the answer does not come all the same, the question fails and may be asked again.

use std::{
    io,
    time::{Duration, Instant},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// How long an answer may take. A dump that makes progress may take that long for each part.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// How often a list that changed while it was read is read again. It is told as a change, too.
const ROUNDS: u32 = 3;

/// Why the kernel was asked in vain.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(io::Error),
    /// The kernel said no, or the socket failed.
    #[error("cannot {action}: {source}")]
    Refused {
        /// What was asked for: `list interfaces`.
        action: &'static str,
        /// The answer.
        source: io::Error,
    },
    /// No answer.
    #[error("cannot {action}: the kernel did not answer within {} s; it is asked again", PATIENCE.as_secs())]
    Silent {
        /// What was asked for.
        action: &'static str,
    },
}

/// A socket for questions, of the network namespace of the calling thread.
pub struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(NetlinkError::Socket)?,
            sequence: 0,
        })
    }

    /// All objects of a kind.
    ///
    /// # Errors
    /// When the kernel refuses, or does not answer in time.
    pub(super) fn list(
        &mut self,
        action: &'static str,
        question: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for round in 1.. {
            self.send(action, question.clone(), NLM_F_DUMP)?;
            let (mut all, mut is_torn) = (Vec::new(), false);
            let ended = self.answers(action, |message| {
                is_torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::Done(done) => Some(done.code),
                    NetlinkPayload::Error(error) => Some(error.raw_code()),
                    NetlinkPayload::InnerMessage(inner) => {
                        all.push(inner);
                        None
                    }
                    _ => None,
                }
            })?;
            refused(action, ended)?;
            if !is_torn || round == ROUNDS {
                return Ok(all);
            }
        }
        Ok(Vec::new())
    }

    /// One object; none if the kernel says so.
    ///
    /// # Errors
    /// When the kernel does not answer in time.
    pub(super) fn get(
        &mut self,
        action: &'static str,
        question: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        self.send(action, question, 0)?;
        self.answers(action, |message| match message.payload {
            NetlinkPayload::InnerMessage(inner) => Some(Some(inner)),
            NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => Some(None),
            _ => None,
        })
    }

    /// Changes something.
    ///
    /// # Errors
    /// When the kernel refuses, or does not answer in time.
    pub(super) fn change(
        &mut self,
        action: &'static str,
        change: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.send(action, change, flags | NLM_F_ACK)?;
        let code = self.answers(action, |message| match message.payload {
            NetlinkPayload::Error(error) => Some(error.raw_code()),
            _ => None,
        })?;
        refused(action, code)
    }

    fn send(
        &mut self,
        action: &'static str,
        payload: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(payload);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let sent = self.socket.send(&bytes, 0);
        sent.map(drop)
            .map_err(|source| NetlinkError::Refused { action, source })
    }

    /// Reads the answers to the last question, until `take` has what it wants.
    fn answers<T>(
        &mut self,
        action: &'static str,
        mut take: impl FnMut(NetlinkMessage<RouteNetlinkMessage>) -> Option<T>,
    ) -> Result<T, NetlinkError> {
        loop {
            let bytes = self.receive(action)?;
            for message in messages(&bytes) {
                // What is left of a question that was given up.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if let Some(taken) = take(message) {
                    return Ok(taken);
                }
            }
        }
    }

    fn receive(&self, action: &'static str) -> Result<Vec<u8>, NetlinkError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let left = Timespec::try_from(left).unwrap_or_default();
                    let mut readable = [PollFd::new(&self.socket, PollFlags::IN)];
                    match poll(&mut readable, Some(&left)) {
                        Ok(0) => return Err(NetlinkError::Silent { action }),
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => {
                            let source = error.into();
                            return Err(NetlinkError::Refused { action, source });
                        }
                    }
                }
                Err(source) => return Err(NetlinkError::Refused { action, source }),
            }
        }
    }
}

impl NetlinkError {
    /// The number of the kernel's error.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn refused(action: &'static str, code: i32) -> Result<(), NetlinkError> {
    if code == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(-code);
    Err(NetlinkError::Refused { action, source })
}

/// The messages of a datagram. One that cannot be read is left out.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            let head = rest.first_chunk::<4>()?;
            let length = usize::try_from(u32::from_ne_bytes(*head)).ok()?;
            let message = rest.get(..length).filter(|message| message.len() >= 16)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match NetlinkMessage::deserialize(message) {
                Ok(message) => return Some(message),
                Err(error) => log::debug!("A netlink message cannot be read: {error}"),
            }
        }
    })
}
