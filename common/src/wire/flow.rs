//! The names of a flow, and what becomes of a recipient.

use super::authority;
use crate::layout::{Authority, EditKind, FlowNames, Policy, RpcFlow, System};

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

    /// Whether both sides have finished, or one has reset.
    pub const fn is_closed(flags: u32) -> bool {
        flags & RESET != 0 || flags & (FIN_INBOUND | FIN_OUTBOUND) == FIN_INBOUND | FIN_OUTBOUND
    }
}

/// The names that a recipient is compared with.
pub struct Recipients<'a> {
    pub canonical: &'a Authority,
    pub alias: &'a Authority,
    pub system: &'a System,
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

    /// Whether everything that can be prepared from the known names is prepared.
    #[inline(always)]
    pub fn is_prepared(&self) -> bool {
        let named = !self.system.is_empty();
        let canonical = !self.canonical.is_empty();
        (!named || !self.text(EditKind::Local as u16).is_empty())
            && (!named || !canonical || !self.pattern.is_empty())
            && (!named
                || !canonical
                || self.alias.is_empty()
                || !self.text(EditKind::Canonical as u16).is_empty())
            && (!named
                || !canonical
                || !self.peer_fits()
                || !self.text(EditKind::PeerAlias as u16).is_empty())
    }

    /// Whether the alias fits into the canonical authority, so that it can stand in answers.
    #[inline(always)]
    pub fn fits(&self) -> bool {
        !self.alias.is_empty() && self.alias.len <= self.canonical.len
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
        authority::is_uri_host(&self.system)
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

/// Fills the prepared texts of a flow, one byte of each a step. See [`super::stream::Steps`].
pub struct Prepare<'a> {
    names: &'a mut FlowNames,
    progress: &'a mut Progress,
}

impl<'a> Prepare<'a> {
    /// Steps until everything is filled: the longest text.
    pub const STEPS: u32 = 334;

    #[inline(always)]
    pub fn new(names: &'a mut FlowNames, progress: &'a mut Progress) -> Self {
        progress.index = 0;
        progress.canonical_port = authority::port_len(&names.canonical) as u32;
        progress.alias_port = authority::port_len(&names.alias) as u32;
        progress.peer_port = authority::port_len(&names.peer_alias) as u32;
        Self { names, progress }
    }

    /// The lengths, after the last step.
    #[inline(always)]
    pub fn finish(self) {
        let names = self.names;
        if names.system.is_empty() {
            return;
        }
        names.text_mut(EditKind::Local).len = Self::STEPS as u16;
        if names.canonical.is_empty() {
            return;
        }
        names.pattern.len = names.system.len + names.canonical.len + 5;
        let (alias, canonical) = (names.alias.len, names.canonical.len);
        let (fits, peer_fits) = (names.fits(), names.peer_fits());
        names.text_mut(EditKind::PeerAlias).len = if peer_fits { canonical } else { 0 };
        names.text_mut(EditKind::Canonical).len = alias;
        names.text_mut(EditKind::Alias).len = if fits { canonical } else { 0 };
    }
}

impl super::stream::Steps for Prepare<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let index = self.progress.index as usize;
        self.progress.index += 1;
        let names = &mut *self.names;
        let (canonical, alias) = (
            usize::from(names.canonical.len),
            usize::from(names.alias.len),
        );
        let byte = authority::local(&names.system, index);
        names.text_mut(EditKind::Local).set(index, byte);
        let byte = authority::pattern(&names.system, &names.canonical, index);
        names.pattern.set(index, byte);
        let port = self.progress.canonical_port as usize;
        let byte = authority::padded(&names.canonical, port, alias, index);
        names.text_mut(EditKind::Canonical).set(index, byte);
        let port = self.progress.alias_port as usize;
        let byte = authority::padded(&names.alias, port, canonical, index);
        names.text_mut(EditKind::Alias).set(index, byte);
        let port = self.progress.peer_port as usize;
        let byte = authority::padded(&names.peer_alias, port, canonical, index);
        names.text_mut(EditKind::PeerAlias).set(index, byte);
        true
    }
}

/// Takes the address that the client announced.
pub fn learn_origin(flow: &mut RpcFlow) {
    flow.names.origin = flow.inbound.captured;
}

/// Takes the address that the endpoint announced, unless a canonical one is known.
pub fn learn_canonical(flow: &mut RpcFlow) {
    if flow.names.canonical.is_empty() {
        flow.names.canonical = flow.outbound.captured;
    }
    if flow.names.system.is_empty() {
        flow.names.system = flow.outbound.captured_system;
    }
}
