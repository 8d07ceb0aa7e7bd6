//! What the agent does all the time, a task each.

pub mod derive;
pub mod drift;
pub mod events;
pub mod gc;
pub mod learn;
pub mod names;
pub mod recent;
pub mod resolve;
