//! `[datapath]`: what to attach to, and the sizes and timeouts of the tables.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use jiff::{SignedDuration, Span, SpanRelativeTo};
use truename_common::layout::ConntrackState;

use super::{ConfigError, Interface, Origin, Selector, reader::*};

/// Keys of `[datapath.timeouts]`, in the order of [`ConntrackState`].
pub const TIMEOUT_KEYS: [&str; ConntrackState::COUNT] = [
    "syn_sent",
    "syn_received",
    "established",
    "half_closed",
    "time_wait",
    "closed",
    "udp",
    "udp_replied",
];
/// The longest timeout, in seconds: a year.
const TIMEOUT_MAX: i64 = 366 * 86_400;

/// `[datapath]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datapath {
    /// What to attach to.
    pub interfaces: Vec<Interface>,
    /// Whether XDP forwards what goes to services elsewhere.
    pub xdp: Xdp,
    /// Capacity of the table of RPC flows.
    pub max_rpc_flows: u32,
    /// Capacity of the table of connections.
    pub max_flows: u32,
    /// Source ports that may be given to connections whose own is taken or whose address is
    /// replaced.
    pub snat_ports: Ports,
    /// Whether netfilter sees what is forwarded.
    pub netfilter: Netfilter,
    /// What happens to a new connection that finds the table full.
    pub when_full: WhenFull,
    /// How long silent connections are kept.
    pub timeouts: Timeouts,
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// From 1.
    pub first: u16,
    /// Not less than the first.
    pub last: u16,
}

/// Where the XDP program is attached, if there is a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xdp {
    /// Where the driver runs it and it helps.
    #[default]
    Auto,
    /// On every interface: by the driver, else by the stack.
    Native,
    /// On every interface: by the stack.
    Generic,
    /// Nowhere.
    Off,
}

/// What happens when the table of connections is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// New connections are refused and counted.
    #[default]
    Refuse,
    /// The oldest idle ones are forgotten.
    Evict,
}

/// Whether netfilter sees what goes from other hosts to targets on other hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Netfilter {
    /// No: it goes from interface to interface.
    #[default]
    Bypass,
    /// Yes: it passes the host's stack.
    Honour,
}

/// Seconds of silence after which a connection is forgotten, by [`ConntrackState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts(pub [u32; ConntrackState::COUNT]);

impl Default for Datapath {
    fn default() -> Self {
        Self {
            interfaces: vec![Interface {
                selector: Selector::Auto,
                origin: Origin::Default,
            }],
            xdp: Xdp::Auto,
            max_rpc_flows: 4096,
            max_flows: 65_536,
            snat_ports: Ports {
                first: 1024,
                last: 65_535,
            },
            netfilter: Netfilter::Bypass,
            when_full: WhenFull::Refuse,
            timeouts: Timeouts::default(),
        }
    }
}

impl Default for Timeouts {
    /// Those of Linux' conntrack.
    fn default() -> Self {
        Self([120, 60, 5 * 86_400, 120, 120, 10, 30, 120])
    }
}

impl Timeouts {
    /// The defaults, those replaced that `seconds` knows: the host's, by key.
    pub fn seeded(seconds: impl Fn(ConntrackState) -> Option<u32>) -> Self {
        let mut timeouts = Self::default();
        for (state, timeout) in ConntrackState::ALL.into_iter().zip(&mut timeouts.0) {
            *timeout = seconds(state)
                .filter(|seconds| (1..=TIMEOUT_MAX).contains(&i64::from(*seconds)))
                .unwrap_or(*timeout);
        }
        timeouts
    }

    /// Reads `[datapath.timeouts]`.
    pub(super) fn read(&mut self, section: &Section<'_>) -> Result<(), ConfigError> {
        for (key, timeout) in TIMEOUT_KEYS.into_iter().zip(&mut self.0) {
            if let Some(entry) = section.get(key) {
                let text = entry.string()?;
                let beyond = "a timeout is a whole number of seconds, from 1s to 366d";
                *timeout = parse_seconds(text, 1..=TIMEOUT_MAX, beyond)
                    .map_err(|reason| entry.bad(text, reason))?;
            }
        }
        Ok(())
    }
}

/// Reads `120s` or `5d`, within bounds.
pub(super) fn parse_seconds(
    text: &str,
    bounds: RangeInclusive<i64>,
    beyond: &'static str,
) -> Result<u32, &'static str> {
    let syntax = "write a number and a unit, e.g. 120s, 2m, 5h or 5d";
    let span: Span = text.parse().map_err(|_| syntax)?;
    let duration: SignedDuration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| syntax)?;
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 || !bounds.contains(&seconds) {
        return Err(beyond);
    }
    u32::try_from(seconds).map_err(|_| syntax)
}

/// Seconds as they are written in the configuration.
pub fn seconds(seconds: u32) -> String {
    match seconds {
        0 => "0s".to_owned(),
        days if days % 86_400 == 0 => format!("{}d", days / 86_400),
        seconds => format!("{seconds}s"),
    }
}

impl FromStr for Ports {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let reason = "write two ports, the smaller one first, e.g. 61000-65535";
        let (first, last) = text.split_once('-').ok_or(reason)?;
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(reason),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Xdp {
    const ALL: [Self; 4] = [Self::Auto, Self::Native, Self::Generic, Self::Off];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }
}

impl FromStr for Xdp {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or("write one of auto, native, generic, off")
    }
}

impl Netfilter {
    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Honour => "honour",
        }
    }
}

impl FromStr for Netfilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Bypass, Self::Honour]
            .into_iter()
            .find(|known| known.name() == text)
            .ok_or("write bypass or honour")
    }
}

impl WhenFull {
    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Evict => "evict",
        }
    }
}

impl FromStr for WhenFull {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Refuse, Self::Evict]
            .into_iter()
            .find(|known| known.name() == text)
            .ok_or("write refuse or evict")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        let parse = |text| parse_seconds(text, 1..=TIMEOUT_MAX, "beyond");
        for (text, seconds) in [
            ("120s", 120),
            ("2m", 120),
            ("5d", 432_000),
            ("1h 30m", 5400),
        ] {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
        for text in ["", "5", "0s", "-3s", "1.5s", "400d", "soon", "1mo", "1ms"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(seconds(432_000), "5d");
        assert_eq!(seconds(90), "90s");
    }

    #[test]
    fn reads_port_ranges() {
        assert_eq!(
            "61000-65535".parse(),
            Ok(Ports {
                first: 61_000,
                last: 65_535
            })
        );
        for text in ["", "5", "0-5", "9-5", "1-65536", "a-b"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }

    #[test]
    fn takes_what_the_host_says() {
        let timeouts = Timeouts::seeded(|state| match state {
            ConntrackState::Established => Some(7200),
            ConntrackState::Closed => Some(0),
            _ => None,
        });
        assert_eq!(timeouts.0, [120, 60, 7200, 120, 120, 10, 30, 120]);
    }
}
