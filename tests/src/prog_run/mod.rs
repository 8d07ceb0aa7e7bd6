//! The kernel program without a network: packets go in by `BPF_PROG_TEST_RUN`, bytes and verdicts come
//! out, and the tables are looked at.

mod datagram;
mod host;
mod nat;
mod packet;
mod program;
mod run;
mod scene;
mod sockets;
mod talk;
mod xdp;

pub use datagram::{Datagram, IcmpError, Kind, THIS_HOST};
pub use host::Host;
pub use nat::{Nat, local, remote, routed};
pub use packet::{Link, Received, Shape, check_sums, flag};
pub(crate) use program::address_of;
pub use program::{Aliases, Program, Seen};
pub use run::{Place, Verdict};
pub use scene::{Form, NEAR_MISSES, Scene, Setup, shapes};
pub use sockets::{CASES, OUTSIDE, Sockets, tuple};
pub use talk::{Side, Talk};
