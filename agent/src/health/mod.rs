//! Health and metrics over HTTP: `/livez`, `/startupz`, `/readyz` and `/metrics`.
//!
//! [`accept`] serves a listener, [`Subject`] is what it asks, [`metrics`] writes the answers as metrics. Requests change
//! nothing, and none of them can keep the agent from its work: connections, their time and the rate of
//! looks into the tables are bounded.

mod answer;
mod metrics;
mod server;

pub use answer::Subject;
pub use metrics::{DROPS, Page};
pub use server::accept;
