//! Real TCP between namespaces: places to run it in, connections that check every byte, and a line
//! that delays, loses, doubles and reorders packets.

mod connection;
mod frame;
mod lab;
mod line;
mod repair;
mod stranger;

pub use crate::socket::DEADLINE;
pub use connection::{Connection, Pace, Progress, ResetInFrame, reset};
pub use lab::{Dial, Lab, Repetitions};
pub use line::{Frames, Impairment, Impairments, Line};
pub use stranger::{Forged, Stranger};
