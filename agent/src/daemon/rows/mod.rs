//! From the kernel's values to the rows of the control API.

pub mod alias;
pub mod attempts;
pub mod behind;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod name;
pub mod peer;
pub mod service;
pub mod text;
