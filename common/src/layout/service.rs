use super::plain;

/// Slots of the table of a service with several targets. A prime, so that weights and hashes share
/// no factor with it.
pub const SLOTS_PER_SERVICE: u32 = 1021;
/// Entries of [`super::map::SLOTS`].
pub const SLOTS_MAX: u32 = 1 << 18;
/// Entries of [`super::map::TARGETS`].
pub const TARGETS_MAX: u32 = 1 << 14;
/// Entries of [`super::map::SERVICES`].
pub const SERVICES_MAX: u32 = 1 << 14;

/// Consecutive entries of [`super::map::SLOTS`], each of which names a target.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slots {
    pub first: u32,
    /// 0: none.
    pub count: u32,
}

/// An address that peers use, in place of which they reach one of its targets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Number of the service; connections remember it.
    pub id: u32,
    /// Bits of [`service_flags`].
    pub flags: u32,
    /// Where new connections go.
    pub slots: Slots,
    /// Where they went before the targets changed, while [`super::map::MOVED`] is being filled.
    pub previous: Slots,
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// Some connections are listed in [`super::super::map::MOVED`].
    pub const MOVED: u32 = 1;
    /// Connections to a former target end when the targets change: they are forgotten, and a TCP
    /// packet without a connection begins one with the present target, whatever its flags but RST,
    /// whose stack resets it.
    pub const RESET: u32 = 2;
    /// No interface of this host has the alias. A packet that is left alone would be routed, mostly back to where it
    /// came from: a TCP packet without a connection begins one, whatever its flags but RST; others end here.
    pub const UNASSIGNED: u32 = 4;
    /// The alias is a loopback address: packets that come in from other hosts are not to it.
    pub const LOOPBACK: u32 = 8;
}

/// A socket that a service stands for. A target keeps its number while a connection goes to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub address: [u8; 16],
    /// With [`target_flags::SNAT`], the address that the target sees instead of the client's.
    pub source: [u8; 16],
    /// 0: the entry is unused.
    pub port: u16,
    /// Bits of [`target_flags`].
    pub flags: u16,
    pub pad: [u8; 4],
}

/// Bits of [`Target::flags`].
pub mod target_flags {
    /// The address is this host's: the host's stack delivers.
    pub const LOCAL: u16 = 1;
    /// The source address is translated too, so that the answers come back through this host.
    pub const SNAT: u16 = 2;
}

/// What the kernel program needs to know beside the tables: the one entry of
/// [`super::map::SETTINGS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Seconds of silence after which an entry of [`super::map::CONNTRACK`] is no more than a
    /// leftover, by [`super::ConntrackState`].
    pub timeouts: [u32; super::ConntrackState::COUNT],
    /// The loopback interface.
    pub loopback: u32,
    /// First and last source port that may be allocated.
    pub first_port: u16,
    pub last_port: u16,
    /// Written to `tc_index` of a translated packet, so that the next hook knows it; not 0.
    pub tag: u16,
    /// Bits of [`settings_flags`].
    pub flags: u8,
    pub pad: u8,
}

/// Bits of [`Settings::flags`].
pub mod settings_flags {
    /// Connections that are over, or that were never answered, make room for new ones before they time out.
    pub const EVICT: u8 = 1;
    /// What goes from other hosts to other hosts passes the host's stack, with netfilter, and keeps the client's address.
    pub const HONOUR: u8 = 2;
}

plain!(
    Slots = 8,
    Service = 24,
    Target = 40,
    Settings = 4 * super::ConntrackState::COUNT + 12
);
