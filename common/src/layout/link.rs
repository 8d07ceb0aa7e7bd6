use super::plain;

/// The link addresses by which an attached interface receives frames that are meant for this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The interface's own address.
    pub address: [u8; 6],
    /// That of the bridge or bond that it is a port of; zero: none.
    pub controller: [u8; 6],
    /// Bits of [`link_flags`].
    pub flags: u32,
}

/// Bits of [`Link::flags`].
pub mod link_flags {
    /// A container's port of a bridge. Its frames to neighbours come in here, too, and their frames to it go out here.
    pub const CONTAINER: u32 = 1;
    /// A port of an attached bridge or bond, whose packets that leave here have left there before.
    pub const PORT: u32 = 2;
    /// A bridge or bond whose ports are all attached: what comes in here has come in there before.
    pub const CONTROLLER: u32 = 4;
    /// A port of a VRF: this host's own packets are routed by it, too.
    pub const VRF: u32 = 8;
    /// `rp_filter` is 1: what comes in has to have a source to which the route leaves here.
    pub const STRICT: u32 = 16;
    /// No route leaves by several interfaces, so that a source can be looked up as the kernel does.
    pub const ONE_WAY: u32 = 32;
    /// Containers are behind it, and nothing else: a port of a bridge or a link of its own, to another namespace.
    pub const BEHIND: u32 = 64;
}

plain!(Link = 16);
