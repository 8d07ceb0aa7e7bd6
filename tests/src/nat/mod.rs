//! Translation of addresses, by truename and by nftables beside it: a lab, real servers and clients, and
//! what the clients see.

mod beside;
mod clients;
mod family;
mod filter;
mod lab;
mod nftables;
mod page;
mod place;
mod probe;
mod rules;
mod seen;
mod servers;
mod tag;
mod translator;
mod visit;

pub use beside::{By, alone, beside};
pub use clients::{Client, Measured};
pub use family::Family;
pub use filter::AcceptAll;
pub use lab::{Lab, Shape};
pub use nftables::firewall;
pub use page::{Download, last_page, page};
pub use place::{Servers, ask, services};
pub use probe::{Attempt, Probe, connect, reset, syn_repeats, talk};
pub use rules::{Alias, Protocol, Rules, Service, Snat, Target};
pub use seen::Seen;
pub use servers::{Dns, Echo, Iperf, Listener, Web};
pub use tag::tag;
pub use translator::Translator;
pub use visit::visit;

pub use crate::sys::NetworkError;
