//! The kernel program without a network: packets go in by `BPF_PROG_TEST_RUN`, bytes and verdicts come
//! out, and the tables are looked at.

mod packet;
mod program;
mod scene;
mod talk;

pub use packet::{Link, Received, Shape, flag};
pub use program::{Aliases, Program, Seen, Verdict};
pub use scene::{Form, NEAR_MISSES, Scene, Setup, shapes};
pub use talk::{Side, Talk};
