//! Real TCP between namespaces: places to run it in, connections that check every byte, and a bridge
//! that loses, doubles and reorders packets.

mod bridge;
mod connection;
mod lab;

pub use bridge::{Bridge, Impairment, Impairments};
pub use connection::{Connection, DEADLINE, Pace};
pub use lab::{Dial, Lab};
