//! The names of a flow, and what becomes of a recipient.

use super::authority;
use crate::layout::{Authority, FlowNames, Policy, RpcFlow, System};

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
    /// The alias came from another connection of the same client.
    pub const ALIAS_OF_PEER: u32 = 64;
    /// Everything that ends the flow.
    pub const CLOSED: u32 = RESET;

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
        let aliased = !self.alias.is_empty();
        (!named || !self.local_text.is_empty())
            && (!named || !canonical || !self.pattern.is_empty())
            && (!canonical || !aliased || !self.inbound_text.is_empty())
    }

    /// Whether the alias fits into the canonical authority, so that it can stand in answers.
    #[inline(always)]
    pub fn fits(&self) -> bool {
        !self.alias.is_empty() && self.alias.len <= self.canonical.len
    }

    /// Whether anything that the endpoint sends can be translated.
    #[inline(always)]
    pub fn can_translate_outbound(&self) -> bool {
        !self.outbound_text.is_empty() && !self.pattern.is_empty()
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

/// Fills the prepared texts of a flow, one byte of each a step. See [`super::stream::Steps`].
pub struct Prepare<'a> {
    names: &'a mut FlowNames,
    progress: &'a mut u32,
}

impl<'a> Prepare<'a> {
    /// `progress` counts the steps and must be 0.
    #[inline(always)]
    pub fn new(names: &'a mut FlowNames, progress: &'a mut u32) -> Self {
        Self { names, progress }
    }

    /// Steps until everything is filled.
    pub const STEPS: u32 = 334;

    /// The lengths, after the last step.
    #[inline(always)]
    pub fn finish(self) {
        let names = self.names;
        if names.system.is_empty() {
            return;
        }
        names.local_text.len = 333;
        if names.canonical.is_empty() {
            return;
        }
        names.pattern.len = names.system.len + names.canonical.len + 5;
        if names.alias.is_empty() {
            return;
        }
        names.inbound_text.len = names.alias.len;
        names.outbound_text.len = if names.fits() { names.canonical.len } else { 0 };
    }
}

impl super::stream::Steps for Prepare<'_> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let index = *self.progress as usize;
        *self.progress += 1;
        if index >= 334 {
            return false;
        }
        let names = &mut *self.names;
        names
            .local_text
            .set(index, authority::local(&names.system, index));
        let byte = authority::pattern(&names.system, &names.canonical, index);
        names.pattern.set(index, byte);
        if index < 256 {
            let canonical_port = authority::port_len(&names.canonical);
            let alias_port = authority::port_len(&names.alias);
            let (canonical, alias) = (
                usize::from(names.canonical.len),
                usize::from(names.alias.len),
            );
            if canonical <= alias {
                let byte = authority::padded(&names.canonical, canonical_port, alias, index);
                names.inbound_text.set(index, byte);
            }
            if alias <= canonical {
                let byte = authority::padded(&names.alias, alias_port, canonical, index);
                names.outbound_text.set(index, byte);
            }
        }
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
