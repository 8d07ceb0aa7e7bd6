//! truename: the agent and its command line.
//!
//! Imports point one way: [`cli`] → [`api`] → [`explain`], [`reconcile`] → [`plan`] →
//! `truename_common`, and `dns` → [`topology`] → [`config`] → [`name`], which is what outsiders write.
//! [`plan`] and [`config`] do no I/O beyond reading one file; [`datapath`] is the only module that
//! speaks to BPF, [`links`] the only one that speaks netlink, `health` the only one that serves HTTP, [`watch`] the only one that hears of files, and
//! [`sysctl`] the only one that touches `/proc/sys`.

pub mod api;
mod backoff;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod decode;
mod dns;
pub mod doctor;
pub mod explain;
mod health;
pub mod links;
mod logging;
pub mod name;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod sysctl;
pub mod topology;
mod watch;
