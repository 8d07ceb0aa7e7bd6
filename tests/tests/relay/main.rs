//! Aliases that are longer than the canonical name: left alone as a whole, or relayed.

mod bytes;
mod hosts;
mod life;
mod names;
