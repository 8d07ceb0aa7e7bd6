//! Answers DNS questions of containers for the names of the cluster, whatever server they were sent to.
//!
//! The question becomes the answer in place, and leaves by the interface that it came by. All other packets pass as they are.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_redirect, bpf_skb_change_tail},
    macros::map,
    maps::PerCpuArray,
};
use truename_common::{
    layout::{
        A_RECORD, AAAA_RECORD, ADDRESSES_TOLD, CapturedName, CapturedRecords, Counter, NAME_MAX,
        NO_DATA, NO_DATA_LEN, UDP, link_flags,
    },
    wire::steps::Steps,
};

use crate::{
    bpf::{
        clock,
        helper::{csum_diff, length, opaque, skb_load_bytes, skb_store_bytes},
        repeat::repeat,
    },
    maps::{CAPTURED, CAPTURED_UNTIL, LINKS, count},
    packet::{
        Buffer, DROP, NEXT, fragment,
        rewrite::{Packet as _, Sum},
    },
    scratch::{Headers, scratch},
};

/// Longest question and longest answer, in bytes. No answer is longer than what a client without EDNS can take.
const MESSAGE_MAX: usize = 512;
/// Bytes of the header of a message, and of what follows the name in a question.
const HEADER: usize = 12;
const TYPE_AND_CLASS: usize = 4;
/// Longest part of a name (RFC 1035 2.3.4).
const LABEL_MAX: u8 = 63;
/// Types of records, and the class of the Internet.
const A: u16 = 1;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const ANY: u16 = 255;
const IN: u16 = 1;
/// An OPT record without options (RFC 6891 6.1.2): a name, a type, the largest message, flags, a length.
const OPT_LEN: usize = 11;
const OWN_OPT: [u8; OPT_LEN] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
/// Bits of the third and fourth byte of the header.
const RECURSION_DESIRED: u8 = 0x01;
const RESPONSE: u8 = 0x84;
const AUTHENTIC: u8 = 0x20;
const CHECKING_DISABLED: u8 = 0x10;
const RECURSION_AVAILABLE: u8 = 0x80;
/// Bytes of the headers that are rewritten: Ethernet, IPv4 without options, IPv6 without extension headers, UDP.
const ETHERNET: u32 = 14;
const IPV4: u32 = 20;
const IPV6: u32 = 40;
const UDP_HEADER: u32 = 8;

/// Linux: the frame is for everybody on the link, or for a group.
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;
/// First bytes of the groups of IPv4, behind which broadcast comes, and of those of IPv6.
const GROUPS_V4: u8 = 224;
const GROUPS_V6: u8 = 0xff;

/// Programs of a CPU do not interrupt one another: tc runs with bottom halves disabled.
#[map]
static MESSAGE: PerCpuArray<Message> = PerCpuArray::with_max_entries(1, 0);

/// Working memory.
#[repr(C)]
struct Message {
    /// The question, later the answer; as much again for the verifier, which does not see where a name ends.
    bytes: [u8; 2 * MESSAGE_MAX],
    name: CapturedName,
}

impl Message {
    /// The bound is on the very register that is used: the compiler shall not find it needless.
    #[inline(always)]
    fn place(index: usize) -> usize {
        opaque(index as u64) as usize & (2 * MESSAGE_MAX - 1)
    }

    /// Copies `len` bytes at `at` of the packet: at most [`MESSAGE_MAX`], which the verifier sees.
    #[inline(always)]
    fn load(&mut self, skb: *mut __sk_buff, at: u32, len: u64) -> Option<()> {
        let to = (&raw mut self.bytes).cast();
        // SAFETY: the memory has more bytes than that.
        let loaded = unsafe { skb_load_bytes(skb.cast(), u64::from(at), to, len) };
        (loaded == 0).then_some(())
    }

    /// A byte; places outside of the memory wrap around.
    #[inline(always)]
    fn at(&self, index: usize) -> u8 {
        self.bytes[Self::place(index)]
    }

    #[inline(always)]
    fn number(&self, index: usize) -> u16 {
        u16::from_be_bytes([self.at(index), self.at(index + 1)])
    }

    /// Clears up to three bytes behind the message: checksums are made of whole words.
    #[inline(always)]
    fn pad(&mut self, len: usize) {
        for behind in 0..4 {
            self.bytes[Self::place(len + behind)] = 0;
        }
    }
}

/// Copies the name of a question in small letters.
struct Name<'a> {
    message: &'a mut Message,
    /// Bytes of the name so far, and bytes of the present label that are to come.
    len: u32,
    left: u32,
    is_complete: u32,
}

impl Steps for Name<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let index = self.len as usize;
        if index >= NAME_MAX {
            return false;
        }
        let byte = self.message.at(HEADER + index);
        self.len += 1;
        if self.left == 0 {
            if byte == 0 {
                self.is_complete = 1;
                return false;
            }
            // A pointer has no place in a question.
            if byte > LABEL_MAX {
                return false;
            }
            self.left = u32::from(byte);
            self.message.name[opaque(index as u64) as usize & NAME_MAX] = byte;
        } else {
            self.left -= 1;
            self.message.name[opaque(index as u64) as usize & NAME_MAX] = byte.to_ascii_lowercase();
        }
        true
    }
}

/// Answers the packet, if it is a question of a container for a name of the cluster.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tn_capture(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the caller has read the headers, and lends the working memory.
    let (Some(scratch), Some(message)) = (unsafe { scratch() }, MESSAGE.get_ptr_mut(0)) else {
        return NEXT;
    };
    // SAFETY: the pointer is to this CPU's value, which nothing else uses.
    let message = unsafe { &mut *message };
    let headers = &scratch.headers;
    if !is_plain(skb, headers) {
        return NEXT;
    }
    let until = CAPTURED_UNTIL.get(0).copied().unwrap_or(0);
    if clock::now() >= until {
        count(Counter::NamesAway, 1);
        return NEXT;
    }
    let Some((records, question)) = read(skb, headers, message) else {
        count(Counter::NamesPassed, 1);
        return NEXT;
    };
    let Some(len) = resize(skb, headers, &question, records) else {
        count(Counter::NamesStore, 1);
        return NEXT;
    };
    if write(skb, headers, message, &question, records, len).is_none() {
        count(Counter::NamesStore, 1);
        return DROP;
    }
    count(Counter::NamesCaptured, 1);
    // SAFETY: the context of the program; the helper checks the interface.
    unsafe { bpf_redirect((*skb).ifindex, 0) as i32 }
}

/// Whether the packet comes in from a container, and its headers are such that they can be turned round.
#[inline(always)]
fn is_plain(skb: *mut __sk_buff, headers: &Headers) -> bool {
    // SAFETY: the context of the program.
    let (came_by, interface) = unsafe { ((*skb).ingress_ifindex, (*skb).ifindex) };
    // SAFETY: as above.
    let (vlan, segments) = unsafe { ((*skb).vlan_present, (*skb).gso_size) };
    // SAFETY: the entry is replaced whole, by user space.
    let link = unsafe { LINKS.get(&interface) };
    // SAFETY: the context of the program.
    let to = unsafe { (*skb).pkt_type };
    // One that goes to several servers has one answer from each, or none.
    let [first, .., v4, _, _, _] = headers.destination;
    let (network, is_group) = if headers.version == 4 {
        (IPV4, v4 >= GROUPS_V4)
    } else {
        (IPV6, first == GROUPS_V6)
    };
    came_by == interface
        && link.is_some_and(|link| link.flags & link_flags::BEHIND != 0)
        && to != PACKET_BROADCAST
        && to != PACKET_MULTICAST
        && !is_group
        && vlan == 0
        && segments == 0
        && headers.protocol == UDP
        && headers.icmp == 0
        && headers.fragment == fragment::WHOLE
        && headers.network == ETHERNET
        && headers.transport == ETHERNET + network
}

/// What is asked.
struct Question {
    /// Bytes of the whole message, and of it up to the end of the question.
    len: u32,
    end: u32,
    kind: u32,
    /// 1: it has EDNS.
    has_edns: u32,
}

impl Question {
    /// The number of records of an answer, the length of each, and which of the two kinds it is.
    #[inline(always)]
    fn answers(&self, records: &CapturedRecords) -> (u32, u32, bool) {
        let [a, aaaa] = records.counts;
        match self.kind as u16 {
            A | ANY => (a, A_RECORD as u32, false),
            AAAA => (aaaa, AAAA_RECORD as u32, true),
            _ => (0, 0, false),
        }
    }

    /// Bytes behind the question in its answer, without EDNS.
    #[inline(always)]
    fn told(&self, records: &CapturedRecords) -> u32 {
        match self.answers(records) {
            (0, ..) => NO_DATA_LEN as u32,
            (number, each, _) => number * each,
        }
    }
}

/// Reads the question, and looks its name up.
#[inline(always)]
fn read(
    skb: *mut __sk_buff,
    headers: &Headers,
    message: &mut Message,
) -> Option<(&'static CapturedRecords, Question)> {
    let at = headers.transport + UDP_HEADER;
    let datagram = Buffer(skb).load(headers.transport + 4)?;
    let datagram = u32::from(u16::from_be(datagram));
    if headers.transport + datagram != headers.network + headers.network_len {
        return None;
    }
    let len = length(
        u64::from(datagram.wrapping_sub(UDP_HEADER)),
        MESSAGE_MAX as u64,
    )?;
    message.load(skb, at, len)?;
    let len = len as usize;
    if len < HEADER + 1 + TYPE_AND_CLASS {
        return None;
    }
    // A question, no code, nothing cut; one question, at most one record behind it, which is EDNS.
    let additional = message.number(10);
    if message.at(2) & !RECURSION_DESIRED != 0
        || message.at(3) & !(AUTHENTIC | CHECKING_DISABLED) != 0
        || message.number(4) != 1
        || message.number(6) != 0
        || message.number(8) != 0
        || additional > 1
    {
        return None;
    }
    clear(&mut message.name);
    let mut name = Name {
        message: &mut *message,
        len: 0,
        left: 0,
        is_complete: 0,
    };
    repeat(&mut name, NAME_MAX as u32);
    if name.is_complete == 0 {
        return None;
    }
    let end = HEADER + name.len as usize;
    let kind = message.number(end);
    let is_internet = message.number(end + 2) == IN;
    let end = end + TYPE_AND_CLASS;
    if !is_internet || end > len {
        return None;
    }
    if additional == 0 {
        if end != len {
            return None;
        }
    } else {
        // Its name is the root's, its version 0, and it is the last one.
        let options = usize::from(message.number(end + 9));
        if end + OPT_LEN + options != len
            || message.at(end) != 0
            || message.number(end + 1) != OPT
            || message.at(end + 6) != 0
        {
            return None;
        }
    }
    // SAFETY: the entry is replaced whole, by user space.
    let records = unsafe { CAPTURED.get(&message.name) }?;
    let question = Question {
        len: len as u32,
        end: end as u32,
        kind: u32::from(kind),
        has_edns: u32::from(additional),
    };
    Some((records, question))
}

/// Clears a name, a word a step.
#[inline(always)]
fn clear(name: &mut CapturedName) {
    let words = name.as_mut_ptr().cast::<u64>();
    for word in 0..(NAME_MAX + 1) / 8 {
        // SAFETY: the words are those of the name, which is aligned as the memory around it.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// Gives the packet the length of its answer, which is returned.
#[inline(always)]
fn resize(
    skb: *mut __sk_buff,
    headers: &Headers,
    question: &Question,
    records: &CapturedRecords,
) -> Option<u32> {
    let (number, ..) = question.answers(records);
    if number > ADDRESSES_TOLD as u32 {
        return None;
    }
    let len = question.end + question.told(records) + question.has_edns * OPT_LEN as u32;
    // SAFETY: the context of the program.
    let done = unsafe { bpf_skb_change_tail(skb, headers.transport + UDP_HEADER + len, 0) };
    (done == 0).then_some(len)
}

/// Makes the answer of the question.
#[inline(always)]
fn write(
    skb: *mut __sk_buff,
    headers: &Headers,
    message: &mut Message,
    question: &Question,
    records: &CapturedRecords,
    len: u32,
) -> Option<()> {
    let packet = Buffer(skb);
    let done = |done: bool| done.then_some(());
    let at = headers.transport + UDP_HEADER;
    let before = sum(message, question.len)?;

    // The message.
    let (number, each, is_aaaa) = question.answers(records);
    let has_edns = question.has_edns as u8;
    let first = RESPONSE | message.at(2) & RECURSION_DESIRED;
    let second = RECURSION_AVAILABLE | message.at(3) & CHECKING_DISABLED;
    let is_empty = u8::from(number == 0);
    let header = [
        first,
        second,
        0,
        1,
        0,
        number as u8,
        0,
        is_empty,
        0,
        has_edns,
    ];
    done(packet.store(at + 2, &header, false))?;
    let from = if is_aaaa {
        records.aaaa.as_ptr()
    } else {
        records.a.as_ptr()
    };
    let room = if is_aaaa {
        AAAA_RECORD * ADDRESSES_TOLD
    } else {
        A_RECORD * ADDRESSES_TOLD
    };
    if number == 0 {
        done(packet.store(at + question.end, &NO_DATA, false))?;
    } else {
        let to = u64::from(at + question.end);
        let bytes = length(u64::from(number * each), room as u64)?;
        // SAFETY: there are so many records.
        let stored = unsafe { skb_store_bytes(skb.cast(), to, from.cast(), bytes, 0) };
        done(stored == 0)?;
    }
    if question.has_edns != 0 {
        let options = at + question.end + question.told(records);
        done(packet.store(options, &OWN_OPT, false))?;
    }
    let whole = length(u64::from(len), MESSAGE_MAX as u64)?;
    message.load(skb, at, whole)?;
    let after = sum(message, len)?;

    // UDP: the length is summed twice, and the sum of ports and addresses stays as they change places.
    let check = headers.transport + 6;
    let udp = |is_pseudo| Sum {
        is_pseudo,
        is_udp: true,
    };
    let old = (question.len + UDP_HEADER) as u16;
    let new = (len + UDP_HEADER) as u16;
    let longer = difference(old, new);
    let changed = u64::from(after) + u64::from(!before);
    let changed = (changed & 0xffff_ffff) + (changed >> 32);
    let changed = ((changed & 0xffff_ffff) + (changed >> 32)) as u32;
    done(packet.store(headers.transport + 4, &new.to_be_bytes(), false))?;
    done(packet.add_to_transport(check, changed, udp(false)))?;
    done(packet.add_to_transport(check, longer, udp(false)))?;
    done(packet.add_to_transport(check, longer, udp(true)))?;
    let [a, b] = headers.source_port.to_be_bytes();
    let [c, d] = headers.destination_port.to_be_bytes();
    done(packet.store(headers.transport, &[c, d, a, b], false))?;

    // IP.
    if headers.version == 4 {
        let total = |datagram: u16| datagram + IPV4 as u16;
        done(packet.store(headers.network + 2, &total(new).to_be_bytes(), false))?;
        done(packet.add_to_header(headers.network + 10, difference(total(old), total(new))))?;
        let [.., a, b, c, d] = headers.destination;
        done(packet.store(headers.network + 12, &[a, b, c, d], false))?;
        let [.., a, b, c, d] = headers.source;
        done(packet.store(headers.network + 16, &[a, b, c, d], false))?;
    } else {
        done(packet.store(headers.network + 4, &new.to_be_bytes(), false))?;
        done(packet.store(headers.network + 8, &headers.destination, false))?;
        done(packet.store(headers.network + 24, &headers.source, false))?;
    }

    // Ethernet.
    let [a, b, c]: [u16; 3] = [packet.load(0)?, packet.load(2)?, packet.load(4)?];
    let [d, e, f]: [u16; 3] = [packet.load(6)?, packet.load(8)?, packet.load(10)?];
    done(packet.store(0, &[d, e, f, a, b, c], false))
}

/// The sum of a message, as checksums need it.
#[inline(always)]
fn sum(message: &mut Message, len: u32) -> Option<u32> {
    message.pad(len as usize);
    let whole = u64::from((len + 3) & !3);
    let whole = length(whole, MESSAGE_MAX as u64)?;
    let words = (whole >> 2) << 2;
    // SAFETY: the memory has more bytes than that.
    let sum = unsafe {
        csum_diff(
            core::ptr::null(),
            0,
            (&raw const message.bytes).cast(),
            words,
            0,
        )
    };
    (sum >= 0).then_some(sum as u32)
}

/// What changes a checksum as a number of 16 bits changes in what it covers.
#[inline(always)]
fn difference(before: u16, after: u16) -> u32 {
    u32::from(!before.to_be()) + u32::from(after.to_be())
}
