//! From names to addresses: name services of this host, and what the topology knows.

pub mod dns;
pub mod inquiry;
pub mod lookup;
pub mod resolve;
