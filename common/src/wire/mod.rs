//! Pure walkers of classic Akka/Pekko remoting (akka-remote 2.3 to Pekko 1.x, `netty.tcp`).
//!
//! From the bytes up:
//! * [`frame`] reads the frames of one direction, byte by byte, and stops at what matters: the
//!   recipient of a message and the address announced by an Associate;
//! * [`pattern`] finds the canonical name in what the endpoint sends;
//! * [`authority`] makes texts of equal length for one another;
//! * [`flow`] holds the names of a flow;
//! * [`stream`] is about TCP: retransmissions, holes, cuts. It drives the others;
//! * `relay` writes streams anew, with names of other lengths. It is for user space only.
//!
//! All are fed arbitrary pieces. Loops and packet access are the caller's ([`stream::Packet`]), so
//! that the kernel program can use `bpf_loop` and user space a plain loop.

pub mod authority;
pub mod chunk;
pub mod flow;
pub mod frame;
pub mod handshake;
pub mod pattern;
#[cfg(feature = "user")]
pub mod relay;
pub mod seq;
pub mod steps;
pub mod stream;
pub mod varint;
