//! The names of a flow, and the texts that are prepared from them.

use super::{authority, frame::Recipients};
use crate::layout::{Authority, EditKind, FlowNames, NEEDLE_WORDS, Needle, Policy, RpcFlow};

/// Bits of [`crate::layout::RpcFlow::flags`].
pub mod state {
    /// The client named the endpoint by its canonical authority.
    pub const CANONICAL_USED: u32 = 1;
    /// The flow was found in the middle.
    pub const ADOPTED: u32 = 2;
    /// Not remoting: nothing of the flow is looked at any more.
    pub const LEFT_ALONE: u32 = 4;
    /// A FIN of the client, of the endpoint.
    pub const FIN_INBOUND: u32 = 8;
    pub const FIN_OUTBOUND: u32 = 16;
    /// An RST, of either side.
    pub const RESET: u32 = 32;
    /// Both sides have taken part: the handshake was seen whole, or each has acknowledged the other.
    pub const CONFIRMED: u32 = 64;
    /// Another connection with the same addresses has been opened.
    pub const SUCCEEDED: u32 = 128;
    /// The receiver may have part of a wrong name: every segment with data becomes an RST, as one may be lost.
    pub const RUINED: u32 = 256;
    /// The alias is longer than the canonical name: the flow is left alone, and reset once there is a relay.
    pub const NO_FIT: u32 = 512;
    /// In place of a segment went an RST. Those after it pass for a second: the receiver's host, which has no connection
    /// any more, answers them with an RST for the sender.
    pub const RST_SENT: u32 = 1024;

    /// Whether both sides have finished, or one has reset.
    pub const fn is_closed(flags: u32) -> bool {
        flags & RESET != 0 || flags & (FIN_INBOUND | FIN_OUTBOUND) == FIN_INBOUND | FIN_OUTBOUND
    }
}

impl FlowNames {
    /// The names that a recipient is compared with.
    #[inline(always)]
    pub fn recipients(&self) -> Recipients<'_> {
        Recipients {
            canonical: &self.canonical,
            alias: &self.alias,
            system: &self.system,
        }
    }

    /// Whether the alias fits into the canonical authority, so that it can stand in answers.
    #[inline(always)]
    pub fn fits(&self) -> bool {
        !self.alias.is_empty() && self.alias.len <= self.canonical.len
    }

    /// Whether it is known that an alias cannot stand in for the canonical name in answers.
    #[inline(always)]
    pub fn is_too_long(&self, alias: &Authority) -> bool {
        !self.canonical.is_empty() && alias.len > self.canonical.len
    }

    #[inline(always)]
    fn peer_fits(&self) -> bool {
        !self.peer_alias.is_empty() && self.peer_alias.len <= self.canonical.len
    }

    /// What stands in for the canonical authority in what the endpoint sends, if anything does.
    #[inline(always)]
    pub fn outbound(&self) -> Option<EditKind> {
        if self.pattern.is_empty() {
            None
        } else if !self.alias.is_empty() {
            if self.text(EditKind::Alias as u16).is_empty() {
                None
            } else {
                Some(EditKind::Alias)
            }
        } else if self.text(EditKind::PeerAlias as u16).is_empty() {
            None
        } else {
            Some(EditKind::PeerAlias)
        }
    }

    /// Bytes of the pattern in front of the authority.
    #[inline(always)]
    pub fn pattern_prefix(&self) -> u16 {
        self.system.len + 4
    }

    /// Whether a recipient whose end is not in view may become the local form at once.
    #[inline(always)]
    pub fn allows_local(&self, policy: u32) -> bool {
        policy == Policy::Any as u32 && self.has_local()
    }

    /// Whether the local form can be written for the endpoint's system.
    #[inline(always)]
    pub fn has_local(&self) -> bool {
        self.is_local != 0
    }
}

/// Working values of [`Prepare`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    index: u32,
    canonical_port: u32,
    alias_port: u32,
    peer_port: u32,
}

/// Fills the prepared texts of a flow, one byte of each a step. See [`super::steps::Steps`].
pub struct Prepare<'a> {
    names: &'a mut FlowNames,
    progress: &'a mut Progress,
}

/// The transport between the scheme word and the system.
const TRANSPORT: [u8; 4] = *b".tcp";
const AKKA: [u8; 8] = *b"akka\0\0\0\0";
const PEKKO: [u8; 8] = *b"pekko\0\0\0";

impl<'a> Prepare<'a> {
    /// Steps until everything is filled: the longest text.
    pub const STEPS: u32 = 334;

    #[inline(always)]
    pub fn new(names: &'a mut FlowNames, progress: &'a mut Progress) -> Self {
        progress.index = 0;
        progress.canonical_port = authority::port_len(&names.canonical) as u32;
        progress.alias_port = authority::port_len(&names.alias) as u32;
        progress.peer_port = authority::port_len(&names.peer_alias) as u32;
        names.sums = [0; 4];
        Self { names, progress }
    }

    /// The lengths, after the last step.
    #[inline(always)]
    pub fn finish(self) {
        let names = self.names;
        names.prepared = 1;
        names.is_local = u32::from(authority::is_uri_host(&names.system));
        if names.system.is_empty() {
            return;
        }
        names.text_mut(EditKind::Local).len = Self::STEPS as u16;
        let (alias, canonical) = (names.alias.len, names.canonical.len);
        let front = names.scheme + TRANSPORT.len() as u32 + u32::from(names.system.len) + 5;
        let is_schemed = names.scheme != 0;
        names.front.len = needle_len(front + u32::from(alias), is_schemed && alias != 0);
        names.front_canonical.len =
            needle_len(front + u32::from(canonical), is_schemed && canonical != 0);
        if canonical == 0 {
            return;
        }
        names.pattern.len = names.system.len + canonical + 5;
        names.needle.len = needle_len(u32::from(names.pattern.len), true);
        let (fits, peer_fits) = (names.fits(), names.peer_fits());
        names.text_mut(EditKind::PeerAlias).len = if peer_fits { canonical } else { 0 };
        names.text_mut(EditKind::Canonical).len = alias;
        names.text_mut(EditKind::Alias).len = if fits { canonical } else { 0 };
    }

    /// Byte `index` of `<scheme>.tcp://<system>@<authority>/`.
    #[inline(always)]
    fn front(&self, authority: &Authority, index: usize) -> u8 {
        let scheme = self.names.scheme as usize;
        if index < scheme {
            let word = if scheme == 4 { &AKKA } else { &PEKKO };
            word[index & 7]
        } else {
            self.behind_scheme(authority, index - scheme)
        }
    }

    /// Byte `index` of `.tcp://<system>@<authority>/`.
    #[inline(always)]
    fn behind_scheme(&self, authority: &Authority, index: usize) -> u8 {
        if index < TRANSPORT.len() {
            TRANSPORT[index & 3]
        } else {
            authority::pattern(&self.names.system, authority, index - TRANSPORT.len())
        }
    }
}

/// The length of a needle of `len` bytes, if it can be one.
#[inline(always)]
const fn needle_len(len: u32, is_known: bool) -> u32 {
    if is_known && len as usize <= Needle::MAX {
        len
    } else {
        0
    }
}

/// What `after` in place of `before` adds to the sum of 16-bit words of which it is byte `index`.
#[inline(always)]
const fn change(index: usize, before: u8, after: u8) -> u32 {
    let is_low = (index & 1 == 0) == cfg!(target_endian = "little");
    let shift = if is_low { 0 } else { 8 };
    // In ones-complement arithmetic the complement is the negative (RFC 1071).
    ((after as u32) << shift) + (0xffff - ((before as u32) << shift))
}

impl super::steps::Steps for Prepare<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let index = self.progress.index as usize;
        self.progress.index += 1;
        let names = &*self.names;
        let (canonical, alias) = (
            usize::from(names.canonical.len),
            usize::from(names.alias.len),
        );
        let local = authority::local(&names.system, index);
        let local_before = self.behind_scheme(&names.alias, index);
        let pattern = authority::pattern(&names.system, &names.canonical, index);
        let port = self.progress.canonical_port as usize;
        let to_canonical = authority::padded(&names.canonical, port, alias, index);
        let port = self.progress.alias_port as usize;
        let to_alias = authority::padded(&names.alias, port, canonical, index);
        let port = self.progress.peer_port as usize;
        let to_peer = authority::padded(&names.peer_alias, port, canonical, index);
        let front = self.front(&names.alias, index);
        let front_canonical = self.front(&names.canonical, index);

        let names = &mut *self.names;
        names.text_mut(EditKind::Local).set(index, local);
        names.pattern.set(index, pattern);
        names.needle.set(index, pattern);
        names.text_mut(EditKind::Canonical).set(index, to_canonical);
        names.text_mut(EditKind::Alias).set(index, to_alias);
        names.text_mut(EditKind::PeerAlias).set(index, to_peer);
        names.front.set(index, front);
        names.front_canonical.set(index, front_canonical);
        // `.tcp://<system>@<alias>` has 8 bytes beside the names.
        if index < 8 + usize::from(names.system.len) + alias {
            names.sums[EditKind::Local as usize] += change(index, local_before, local);
        }
        if index < alias {
            let before = names.alias.at(index);
            names.sums[EditKind::Canonical as usize] += change(index, before, to_canonical);
        }
        if index < canonical {
            let before = names.canonical.at(index);
            names.sums[EditKind::Alias as usize] += change(index, before, to_alias);
            names.sums[EditKind::PeerAlias as usize] += change(index, before, to_peer);
        }
        true
    }
}

/// Fills [`FlowNames::filter`], a word of the pattern a step.
pub struct Filter<'a> {
    names: &'a mut FlowNames,
    progress: &'a mut Progress,
}

impl<'a> Filter<'a> {
    /// Steps until everything is filled.
    pub const STEPS: u32 = Needle::MAX as u32;

    #[inline(always)]
    pub fn new(names: &'a mut FlowNames, progress: &'a mut Progress) -> Self {
        progress.index = 0;
        names.filter = [0; NEEDLE_WORDS];
        Self { names, progress }
    }
}

impl super::steps::Steps for Filter<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let index = self.progress.index;
        if index + 8 > self.names.needle.len {
            return false;
        }
        let bit = filter_bit(self.names.needle.word(index as usize));
        self.names.filter[(bit / 64) as usize & (NEEDLE_WORDS - 1)] |= 1 << (bit & 63);
        self.progress.index += 1;
        true
    }
}

/// The bit of [`FlowNames::filter`] for a word: the top bits of a multiplicative hash.
#[inline(always)]
pub const fn filter_bit(word: u64) -> u32 {
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as u32
}

/// Takes the address that the client announced.
pub fn learn_origin(flow: &mut RpcFlow) {
    flow.names.origin = flow.inbound.captured;
}

/// Takes the address that the endpoint announced, unless a canonical one is known. True if the connection must be reset:
/// recipients were translated whose alias proves too long.
pub fn learn_canonical(flow: &mut RpcFlow) -> bool {
    if flow.names.canonical.is_empty() {
        flow.names.canonical = flow.outbound.captured;
        flow.names.prepared = 0;
    }
    if flow.names.system.is_empty() {
        flow.names.system = flow.outbound.captured_system;
        flow.names.prepared = 0;
    }
    flow.flags & state::NO_FIT == 0 && flow.names.is_too_long(&flow.names.alias)
}
