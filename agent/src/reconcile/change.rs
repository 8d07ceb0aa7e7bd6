//! The steps, and the entries of tables that they change.

use truename_common::layout::{
    Authority, Endpoint, FiveTuple, ListedAlias, Names, Service, Settings, Socket, Target, map,
};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "there are few steps and they live briefly"
)]
pub enum Change {
    /// Sets an entry of `LISTED`.
    List(ListedAlias),
    /// Sets an entry of `NAMES`.
    Name(Socket, Names),
    /// Sets an entry of `ENDPOINTS`.
    Endpoint(Socket, Endpoint),
    /// Sets an entry of `TARGETS`; port 0 frees it.
    Target(u32, Target),
    /// Sets an entry of `SLOTS`.
    Slot(u32, u32),
    /// Sets `SETTINGS`.
    Settings(Settings),
    /// Sets an entry of `SERVICES`.
    Service(Socket, Service),
    /// Sets an entry of `MOVED`.
    Move(FiveTuple, u32),
    /// Removes an entry of `CONNTRACK`, and those of `RPC_FLOWS` and `MOVED` of the connection.
    Forget(FiveTuple),
    /// Removes an entry of `SERVICES`.
    RemoveService(Socket),
    /// Sets the flags of a port, 0 to remove it.
    Port(u16, u8),
    /// Removes an entry of `ENDPOINTS`.
    RemoveEndpoint(Socket),
    /// Removes an entry of `NAMES`.
    RemoveName(Socket),
    /// Removes an entry of `LISTED`.
    Unlist(ListedAlias),
    /// Sets an entry of `ADDRESSES`.
    Address([u8; 16]),
    /// Removes an entry of `ADDRESSES`.
    RemoveAddress([u8; 16]),
}

/// An entry of a table, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(
    clippy::large_enum_variant,
    reason = "there are few and they live briefly"
)]
pub enum Entry {
    /// Of `PORTS`.
    Port(u16),
    /// Of `ENDPOINTS`.
    Endpoint(Socket),
    /// Of `NAMES`.
    Name(Socket),
    /// Of `LISTED`: the number of the endpoint, and the alias.
    Listed(u32, Authority),
    /// Of `TARGETS`.
    Target(u32),
    /// Of `SLOTS`.
    Slot(u32),
    /// The one of `SETTINGS`.
    Settings,
    /// Of `SERVICES`.
    Service(Socket),
    /// Of `MOVED`.
    Moved(FiveTuple),
    /// Of `CONNTRACK`.
    Connection(FiveTuple),
    /// Of `ADDRESSES`.
    Address([u8; 16]),
}

impl Change {
    /// What it changes.
    pub const fn entry(&self) -> Entry {
        match *self {
            Self::List(key) | Self::Unlist(key) => Entry::Listed(key.endpoint, key.alias),
            Self::Name(socket, _) | Self::RemoveName(socket) => Entry::Name(socket),
            Self::Endpoint(socket, _) | Self::RemoveEndpoint(socket) => Entry::Endpoint(socket),
            Self::Target(number, _) => Entry::Target(number),
            Self::Slot(position, _) => Entry::Slot(position),
            Self::Settings(_) => Entry::Settings,
            Self::Service(alias, _) | Self::RemoveService(alias) => Entry::Service(alias),
            Self::Move(original, _) => Entry::Moved(original),
            Self::Forget(key) => Entry::Connection(key),
            Self::Port(port, _) => Entry::Port(port),
            Self::Address(address) | Self::RemoveAddress(address) => Entry::Address(address),
        }
    }
}

impl Entry {
    /// The table that it is in.
    pub const fn table(&self) -> &'static str {
        match self {
            Self::Port(_) => map::PORTS,
            Self::Endpoint(_) => map::ENDPOINTS,
            Self::Name(_) => map::NAMES,
            Self::Listed(..) => map::LISTED,
            Self::Target(_) => map::TARGETS,
            Self::Slot(_) => map::SLOTS,
            Self::Settings => map::SETTINGS,
            Self::Service(_) => map::SERVICES,
            Self::Moved(_) => map::MOVED,
            Self::Connection(_) => map::CONNTRACK,
            Self::Address(_) => map::ADDRESSES,
        }
    }
}
