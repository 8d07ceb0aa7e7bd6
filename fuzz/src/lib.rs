//! Plays an input against the stream engine: what it stands for is a connection of two streams full of names, and what
//! a hostile network does to their segments. Every byte is compared with what a plain translation of the complete
//! streams yields; nothing may stand still, and nothing that TCP ignores may change the engine's state.
//!
//! `cargo xtask fuzz` searches for inputs that fail, guided by the coverage of the engine; tests play those that failed
//! once, and a few hundred that cover it.

mod play;
pub mod relay;
mod script;
#[path = "../../common/tests/support/mod.rs"]
pub mod support;

use arbitrary::Unstructured;

pub use script::Script;

/// Plays an input; one that is too short is nothing.
///
/// # Panics
/// A property of the engine does not hold.
pub fn play(input: &[u8]) {
    let mut input = Unstructured::new(input);
    if let Ok(script) = Script::read(&mut input) {
        play::Play::new(&script).run(&mut input);
    }
}
