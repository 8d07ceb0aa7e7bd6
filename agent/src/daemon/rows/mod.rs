//! From the kernel's values to the rows of the control API.

pub mod attempts;
pub mod flow;
pub mod name;
pub mod view;
