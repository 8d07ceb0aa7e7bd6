//! Real TCP between namespaces: places to run it in, connections that check every byte, and a line
//! that delays, loses, doubles and reorders packets.

mod connection;
mod frame;
mod lab;
mod line;

pub use connection::{Connection, DEADLINE, Pace};
pub use lab::{Dial, Lab, Repetitions};
pub use line::{Frames, Impairment, Impairments, Line};
