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
}

plain!(Link = 16);
