//! The kernel side as the agent sees it: programs, tables, links and their pins.
//!
//! * [`Pins`]: where everything is pinned, and who may change it;
//! * [`Tables`], [`ServiceTables`]: the tables, opened from their pins, so that every task has its own
//!   handles;
//! * [`Programs`]: the loaded programs and what they are attached to;
//! * [`detach`]: removes every trace.

mod access;
mod attach;
mod batch;
mod bpffs;
mod capture;
mod clsact;
mod detach;
mod drift;
mod error;
mod load;
mod migrate;
mod pinned;
mod pins;
mod relay;
mod services;
mod sys;
mod tables;
mod xdp;
mod xdp_mode;

pub use attach::{Attached, Mode, Programs};
pub use capture::{Capture, Captured};
pub use detach::{Detached, detach, remove_old_versions, undo};
pub use drift::Drift;
pub use error::DatapathError;
pub use load::{OBJECT, Object};
pub use migrate::{copy_connections, copy_tables, migrate};
pub use pins::{Lock, PinnedLink, Pins};
pub use relay::Steering;
pub use services::ServiceTables;
pub use tables::{Tables, TablesMut, check_tables};
pub use xdp_mode::Mode as XdpMode;

/// The side of an interface that a program hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// What the interface receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Direction {
    /// Both sides, in the order in which they are attached.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The word in pins and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// The program for devices with an Ethernet header.
pub const PROGRAM_ETHER: &str = "tn_ether";
/// The program for devices without a link-layer header.
pub const PROGRAM_RAW: &str = "tn_raw";
/// What both go on with for an endpoint's packets, by way of [`CHAIN`].
const PROGRAM_RPC: &str = "tn_rpc";
/// What forwards in XDP.
const PROGRAM_XDP: &str = "tn_xdp";
/// What gives new connections to the relay.
const PROGRAM_STEER: &str = "tn_steer";
/// The table of programs that others go on with.
const CHAIN: &str = "CHAIN";
/// Those that are attached.
pub const PROGRAMS: [&str; 2] = [PROGRAM_ETHER, PROGRAM_RAW];
