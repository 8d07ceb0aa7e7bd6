//! A candidate: the key that a connection would have, and whether its entry is there.

use truename_common::{
    layout::{Conntrack, Counter, Settings},
    nat,
};

use crate::{maps::CONNTRACK, scratch::Nat};

/// How the search for a connection ended without one.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The packet begins none.
    NotBeginning = 0,
    /// The service has no target.
    NoTarget = 1,
    /// The table is full.
    TableFull = 2,
    /// No candidate source port is free.
    Exhausted = 3,
    /// Another hook has to translate this packet.
    Elsewhere = 4,
    /// There is one.
    Found = 5,
    /// The table could not be written: another CPU has it.
    Busy = 6,
}

impl Outcome {
    #[inline(always)]
    pub fn from_number(number: u32) -> Self {
        match number {
            1 => Self::NoTarget,
            2 => Self::TableFull,
            3 => Self::Exhausted,
            4 => Self::Elsewhere,
            5 => Self::Found,
            6 => Self::Busy,
            _ => Self::NotBeginning,
        }
    }

    /// What counts connections refused for this.
    #[inline(always)]
    pub fn counter(self) -> Counter {
        match self {
            Self::NoTarget => Counter::NatNoTarget,
            Self::TableFull => Counter::NatTableFull,
            Self::Busy => Counter::NatStore,
            _ => Counter::NatPortsExhausted,
        }
    }
}

/// Makes `nat.key` that of the `index`-th candidate.
#[inline(always)]
pub fn set_key(nat: &mut Nat, settings: &Settings, index: u32) {
    let Nat {
        key,
        original,
        target,
        ..
    } = nat;
    nat::set_key(key, original, target, settings, nat.hash, index);
}

/// The entry at `nat.key`, if it is the client's.
#[inline(always)]
pub fn of_original(nat: &Nat) -> Option<*mut Conntrack> {
    let entry = CONNTRACK.get_ptr_mut(&nat.key)?;
    // SAFETY: the pointer is to a map value, valid until the program ends; these fields never change
    // while it is in use, and a reused entry has others.
    let entry_ref = unsafe { &*entry };
    let original = &nat.original;
    let same = entry_ref.client == original.client
        && entry_ref.alias == original.endpoint
        && entry_ref.client_port == original.client_port
        && entry_ref.alias_port == original.endpoint_port;
    same.then_some(entry)
}
