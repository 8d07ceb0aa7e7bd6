//! The kernel's switches under `/proc/sys`, of the network namespace of the calling process.

use std::{fs, io, net::SocketAddr, path::PathBuf};

use truename_common::layout::ConntrackState;

use crate::config::Timeouts;

const ROOT: &str = "/proc/sys";

/// The switches of the loopback interface that services need. Without the first two, packets that are turned around
/// there are dropped as martians: those of connections between two addresses of this host. Without the third, the kernel
/// tells no route for packets of this host's own, unless the host forwards for others, too.
pub const LOOPBACK: [&str; 3] = [
    "net/ipv4/conf/lo/accept_local",
    "net/ipv4/conf/lo/route_localnet",
    LOOPBACK_V4,
];
/// The switch that lets the kernel tell the routes of this host's own packets of IPv4.
pub const LOOPBACK_V4: &str = "net/ipv4/conf/lo/forwarding";
/// The same for IPv6.
pub const LOOPBACK_V6: &str = "net/ipv6/conf/lo/forwarding";
/// The switch that lets the host forward IPv4.
pub const FORWARD_V4: &str = "net/ipv4/ip_forward";
/// The switch that lets the host forward IPv6.
pub const FORWARD_V6: &str = "net/ipv6/conf/all/forwarding";

/// The value of a switch, e.g. `net/ipv4/ip_forward`.
///
/// # Errors
/// When it is not there, or cannot be read.
pub fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(name))?.trim().to_owned())
}

/// All switches that translation depends on.
pub fn all() -> impl Iterator<Item = &'static str> {
    let others = [LOOPBACK_V6, FORWARD_V4, FORWARD_V6];
    LOOPBACK.into_iter().chain(others)
}

/// Whether a switch is there and on.
pub fn is_on(name: &str) -> bool {
    read(name).is_ok_and(|value| value != "0")
}

/// Sets a switch, unless it has the value already; whether it was changed.
///
/// # Errors
/// When it is not there, or may not be written.
pub fn set(name: &str, value: &str) -> io::Result<bool> {
    if read(name)? == value {
        return Ok(false);
    }
    fs::write(path(name), value)?;
    Ok(true)
}

/// Sets the switches that services need on the loopback interface, which is harmless, and says which
/// others they need, which are the administrator's. `elsewhere` are targets on other hosts. `changing` is told of
/// each before it is set, with its value.
pub fn prepare(
    elsewhere: impl Iterator<Item = SocketAddr>,
    mut changing: impl FnMut(&'static str, &str),
) {
    for name in loopback() {
        if let Ok(before) = read(name)
            && before != "1"
        {
            changing(name, &before);
        }
        match set(name, "1") {
            Ok(true) => log::info!("Set {} to 1: services need it", dotted(name)),
            Ok(false) => {}
            Err(error) => log::warn!(
                "Cannot set {0} to 1: {error}; this host's own connections through services will not work; on the host, sysctl -w {0}=1",
                dotted(name)
            ),
        }
    }
    for name in missing_forwarding(elsewhere) {
        log::warn!(
            "{} is off: other hosts' connections through services to targets on other hosts will not work; sysctl -w {}=1",
            dotted(name),
            dotted(name)
        );
    }
}

/// The switches of the loopback interface that can be set here. When IPv6 forwarding is switched on anywhere, Linux
/// forgets the default routes that routers have advertised.
pub fn loopback() -> impl Iterator<Item = &'static str> {
    let v6 = (!has_advertised_route()).then_some(LOOPBACK_V6);
    let is_there = |name: &&str| path(name).exists();
    LOOPBACK.into_iter().chain(v6.filter(is_there))
}

/// Whether there is a default route of IPv6 by a router's advertisement.
fn has_advertised_route() -> bool {
    const RTF_DEFAULT: u32 = 0x0001_0000;
    let routes = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    routes.lines().any(|route| {
        let flags = route.split_whitespace().nth(8);
        let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok());
        flags.is_some_and(|flags| flags & RTF_DEFAULT != 0)
    })
}

/// The forwarding switches that targets on other hosts need and that are off.
pub fn missing_forwarding(elsewhere: impl Iterator<Item = SocketAddr>) -> Vec<&'static str> {
    let (v4, v6): (Vec<_>, Vec<_>) = elsewhere.partition(SocketAddr::is_ipv4);
    [(FORWARD_V4, v4.is_empty()), (FORWARD_V6, v6.is_empty())]
        .into_iter()
        .filter(|(name, unused)| !unused && !is_on(name))
        .map(|(name, _)| name)
        .collect()
}

/// The timeouts of the host's own connection tracking where it has any, else the built-in ones.
pub fn timeouts() -> Timeouts {
    Timeouts::seeded(|state| {
        let name = match state {
            ConntrackState::SynSent => "tcp_timeout_syn_sent",
            ConntrackState::SynReceived => "tcp_timeout_syn_recv",
            ConntrackState::Established => "tcp_timeout_established",
            ConntrackState::HalfClosed => "tcp_timeout_fin_wait",
            ConntrackState::TimeWait => "tcp_timeout_time_wait",
            ConntrackState::Closed => "tcp_timeout_close",
            ConntrackState::Unreplied => "udp_timeout",
            ConntrackState::Replied => "udp_timeout_stream",
        };
        let value = read(&format!("net/netfilter/nf_conntrack_{name}"));
        value.ok()?.parse().ok()
    })
}

/// A name as `sysctl` writes it: `net.ipv4.ip_forward`.
pub fn dotted(name: &str) -> String {
    name.replace('/', ".")
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(ROOT).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_every_kernel_has() {
        let range = read("net/ipv4/ip_local_port_range").unwrap();
        assert_eq!(range.split_whitespace().count(), 2);
        assert!(read("net/ipv4/no_such_switch").is_err());
        assert!(set("net/ipv4/no_such_switch", "1").is_err());
        assert_eq!(dotted(FORWARD_V4), "net.ipv4.ip_forward");
    }
}
