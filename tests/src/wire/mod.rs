//! Classic remoting for tests: an encoder, seeded streams, and an oracle that says how each stream has to
//! arrive. None of it shares code with the program under test.

mod check;
mod encode;
mod generate;
mod names;
mod oracle;

pub use check::{Checker, Piece};
pub use encode::{Envelope, associate, control, frame};
pub use generate::{Half, NO_NEAR_MISSES, Script, Spec};
pub use names::{Authority, Names};
pub use oracle::{inbound, outbound};
