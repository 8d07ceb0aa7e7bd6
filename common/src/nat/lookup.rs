use super::source_port;
use crate::layout::{FiveTuple, Service, Settings, Slots, Target, service_flags, target_flags};

/// The tables, in the kernel or as the agent reads them.
pub trait Tables {
    /// An entry of [`crate::layout::map::SLOTS`].
    fn slot(&self, position: u32) -> Option<u32>;
    /// An entry of [`crate::layout::map::MOVED`].
    fn moved(&self, original: &FiveTuple) -> Option<u32>;
    /// An entry of [`crate::layout::map::TARGETS`].
    fn target(&self, number: u32) -> Option<Target>;
}

/// Which of a service's choices a connection may have been made by, in the order in which they are
/// tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is listed as one that stays with its target.
    Moved,
    /// Where new connections go.
    Current,
    /// Where they went before.
    Previous,
}

impl Choice {
    /// All, in their order.
    pub const ALL: [Self; 3] = [Self::Moved, Self::Current, Self::Previous];
}

/// The target that `choice` gives a connection: its number, and the target.
pub fn choose<T: Tables>(
    tables: &T,
    service: &Service,
    choice: Choice,
    original: &FiveTuple,
    hash: u64,
) -> Option<(u32, Target)> {
    let number = choose_number(tables, service, choice, original, hash)?;
    let target = tables.target(number)?;
    (target.port != 0).then_some((number, target))
}

/// The number of the target that `choice` gives a connection.
#[inline(always)]
pub fn choose_number<T: Tables>(
    tables: &T,
    service: &Service,
    choice: Choice,
    original: &FiveTuple,
    hash: u64,
) -> Option<u32> {
    match choice {
        Choice::Moved if service.flags & service_flags::MOVED == 0 => None,
        Choice::Moved => tables.moved(original),
        Choice::Current => slot(tables, service.slots, hash),
        Choice::Previous => slot(tables, service.previous, hash),
    }
}

#[inline(always)]
fn slot<T: Tables>(tables: &T, slots: Slots, hash: u64) -> Option<u32> {
    let index = match slots.count {
        0 => return None,
        1 => 0,
        count => (hash as u32) % count,
    };
    tables.slot(slots.first.wrapping_add(index))
}

/// Makes `key` the key that a connection has with its `index`-th candidate source port. (An
/// out-parameter, because the kernel's stack has 512 bytes.)
#[inline(always)]
pub fn set_key(
    key: &mut FiveTuple,
    original: &FiveTuple,
    target: &Target,
    settings: &Settings,
    hash: u64,
    index: u32,
) {
    let (first, last) = (settings.first_port, settings.last_port);
    let is_snat = target.flags & target_flags::SNAT != 0;
    let is_kept = !is_snat || (first..=last).contains(&original.client_port);
    let kept = if is_kept { original.client_port } else { 0 };
    key.client = if is_snat {
        target.source
    } else {
        original.client
    };
    key.endpoint = target.address;
    key.client_port = source_port(index, hash, kept, first, last);
    key.endpoint_port = target.port;
    key.protocol = original.protocol;
}

/// As [`set_key`].
pub fn key(
    original: &FiveTuple,
    target: &Target,
    settings: &Settings,
    hash: u64,
    index: u32,
) -> FiveTuple {
    let mut key = FiveTuple::default();
    set_key(&mut key, original, target, settings, hash, index);
    key
}
