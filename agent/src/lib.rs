//! truename: the agent and its command line.
//!
//! Imports go down the floors that `CONTRIBUTING.md` lists: from [`cli`] over [`daemon`] and [`api`] to [`plan`],
//! [`config`] and [`name`], which is what outsiders write.
//! [`plan`] and [`config`] do no I/O beyond reading one file; [`datapath`] is the only module that
//! speaks to BPF, [`netlink`] the only one that speaks netlink, `health` the only one that serves HTTP,
//! `dns` the only one that answers DNS, `relay` the only one that carries connections,
//! [`watch`] the only one that hears of files, and [`sysctl`] the only one that touches `/proc/sys`.
#![cfg_attr(not(test), warn(unused_crate_dependencies))]
#![deny(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a panic ends the agent, or a task of it; what fails has to say why"
)]

pub mod api;
mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod decode;
pub mod discovery;
mod dns;
pub mod doctor;
pub mod explain;
mod health;
mod logging;
pub mod name;
pub mod netlink;
pub mod plan;
pub mod reconcile;
mod relay;
pub mod sysctl;
mod watch;
