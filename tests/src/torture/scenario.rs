//! A scenario of the torture: everything that is at random in it, from a seed and a number.

use std::{fmt, time::Duration};

use crate::{
    random::Random,
    traffic::{Dial, Frames, Impairment, Pace},
    wire::{Authority, Names, Script, Spec},
};

/// The largest message of a frame that Flink accepts, less what is around it.
const LARGEST: usize = 10_485_756 - 400;
/// Payload of a segment if nothing says otherwise.
const SEGMENT: usize = 1448;

/// What happens.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed of the whole torture.
    pub seed: u64,
    /// Its number.
    pub number: u64,
    /// What is between client and server.
    pub place: Place,
    /// How many connections there are.
    pub connections: usize,
    /// How they are made.
    pub dial: Dial,
    /// How the ends treat their sockets.
    pub pace: Pace,
    /// Who talks to whom.
    pub names: Names,
    /// Whether the canonical name is configured, or has to be learned.
    pub configured: bool,
    /// Whether messages contain what begins like the server's name and is something else.
    near_misses: bool,
    /// Whether a third host sends forged packets.
    pub hostile: bool,
    /// Bytes of messages each way of each connection, more or less.
    volume: usize,
    sizes: Sizes,
}

/// What is between client and server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// A veth.
    Cable {
        /// Whether segmentation is left to the devices, and packets are joined where they arrive.
        segmentation: bool,
        /// Whether checksums are left to the devices.
        checksum: bool,
    },
    /// A line that delays and loses packets.
    Line(Impairment),
}

/// What messages are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sizes {
    /// A few bytes, many of them.
    Tiny,
    /// As RPC is.
    Small,
    /// Kilobytes.
    Medium,
    /// Up to 10 MiB.
    Large,
    /// All of it.
    Mixed,
}

impl Scenario {
    /// The scenario with this number. `volume` is how many bytes it may move each way in all.
    pub fn new(seed: u64, number: u64, volume: usize) -> Self {
        let mut random = Random::new(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9)));
        // The first numbers of neighbouring seeds are alike in nothing.
        random.number();
        let place = place(&mut random);
        let connections = *random.pick(&[1, 1, 2, 3, 5, 8, 16, 32, 64]);
        let segment = *random.pick(&[0, 0, 0, 0, 88, 200, 536, 1000, 1220]);
        let buffer = *random.pick(&[0, 0, 0, 4 << 10, 16 << 10, 64 << 10, 1 << 20]);
        let dial = Dial {
            segment: (segment > 0).then_some(segment),
            buffer: (buffer > 0).then_some(buffer),
            // Near the end of the numbers, every other time.
            sequence: random
                .chance(500)
                .then(|| 0u32.wrapping_sub(random.below(1 << 20) as u32)),
            congestion: Some(*random.pick(&["cubic", "bbr", "cubic"])),
            ..Dial::default()
        };
        let slow = random.chance(200);
        let pace = Pace {
            write: *random.pick(&[0, 0, 0, 100, 5_000]),
            read: if slow { 8 << 10 } else { 0 },
            rest: Duration::from_micros(if slow { 500 } else { 0 }),
            ..Pace::default()
        };
        let sizes = *random.pick(&[
            Sizes::Tiny,
            Sizes::Small,
            Sizes::Medium,
            Sizes::Large,
            Sizes::Mixed,
        ]);
        let names = names(&mut random);
        let configured = random.chance(500);
        let near_misses = random.chance(300);
        let hostile = matches!(place, Place::Line(_)) && random.chance(500);
        let rate = rate(&place, segment.into(), buffer, slow, pace.write);
        // Some seconds at the rate that TCP can reach, shared by all.
        let volume = (volume / connections)
            .min((rate * 1.5) as usize)
            .clamp(2_000, LARGEST + 1_000_000);
        Self {
            seed,
            number,
            place,
            connections,
            dial,
            pace,
            names,
            configured,
            near_misses,
            hostile,
            volume,
            sizes,
        }
    }

    /// What a connection has to carry.
    pub fn script(&self, connection: usize) -> Script {
        let seed = (self.seed << 20) ^ (self.number << 8) ^ connection as u64;
        let mut random = Random::new(seed);
        let (client, server) = (self.messages(&mut random), self.messages(&mut random));
        Spec {
            names: self.names.clone(),
            seed,
            greet: true,
            near_misses: self.near_misses,
            client,
            server,
        }
        .script()
    }

    /// Whether a name that was cut may be taken for the server's: then the connection may be reset, before
    /// anybody can read the wrong name.
    pub fn may_misguess(&self) -> bool {
        self.near_misses || self.names.client.host == self.names.canonical.host
    }

    fn messages(&self, random: &mut Random) -> Vec<usize> {
        let mut left = self.volume;
        let mut messages = Vec::new();
        while left > 0 {
            let kind = match self.sizes {
                Sizes::Mixed => *random.pick(&[
                    Sizes::Tiny,
                    Sizes::Tiny,
                    Sizes::Small,
                    Sizes::Small,
                    Sizes::Medium,
                ]),
                kind => kind,
            };
            let size = match kind {
                Sizes::Tiny => 1 + random.below(30),
                Sizes::Small => 30 + random.below(500),
                Sizes::Medium => 500 + random.below(30_000),
                Sizes::Large | Sizes::Mixed => {
                    *random.pick(&[50_000, 300_000, 1 << 20, 3 << 20, LARGEST])
                }
            };
            // Most of a small message is around it.
            let size = size.min(left.max(1));
            messages.push(size);
            left = left.saturating_sub(size + 150);
        }
        messages
    }
}

fn place(random: &mut Random) -> Place {
    if random.chance(200) {
        return Place::Cable {
            segmentation: random.chance(500),
            checksum: random.chance(500),
        };
    }
    // Often a little, seldom much, sometimes nothing.
    let mut share = |most: f64| match random.below(4) {
        0 => 0.0,
        1 => most,
        _ => most * (random.below(1000) as f64 / 1000.0).powi(2),
    };
    let (loss, duplication, reordering) = (share(0.05), share(0.05), share(0.05));
    let delay = *random.pick(&[0, 0, 1, 2, 5, 10, 20, 50, 100]);
    Place::Line(Impairment {
        delay: Duration::from_millis(delay),
        loss,
        duplication,
        reordering,
        frames: *random.pick(&[Frames::Segments, Frames::Gso]),
        queue: *random.pick(&[64 << 20, 64 << 20, 1 << 20]),
    })
}

/// Bytes a second that one connection can be expected to reach.
fn rate(place: &Place, segment: usize, buffer: usize, slow: bool, write: usize) -> f64 {
    let segment = if segment == 0 { SEGMENT } else { segment } as f64;
    let mut rate: f64 = if write == 100 { 2e6 } else { 2e7 };
    if slow {
        rate = rate.min(8e6);
    }
    if let Place::Line(impairment) = place {
        let round_trip = 2.0 * impairment.delay.as_secs_f64() + 0.0005;
        if buffer > 0 {
            rate = rate.min(buffer as f64 / round_trip / 2.0);
        }
        // Mathis et al.: loss decides the window. What overtakes others looks like loss at first.
        let loss = impairment.loss + impairment.reordering / 5.0;
        if loss > 0.0 {
            rate = rate.min(segment / round_trip / loss.sqrt());
        }
    }
    rate
}

/// Names of every form, addresses, near misses. A connection with a long alias is left alone, or reset if it is cut there.
fn names(random: &mut Random) -> Names {
    let mut names = match random.below(6) {
        0 => Names::flink("jobmanager", "taskmaster"),
        1 => Names::flink("jobmanager.example.internal", "jobmanager"),
        2 => Names::flink("jobmanager", "10.99.0.1"),
        // The peer's name is nearly the endpoint's.
        3 => Names {
            client: Authority::new("localhost", 6122),
            ..Names::flink("localhost", "jm")
        },
        _ => Names::flink("jobmanager", "jm"),
    };
    if random.chance(300) {
        names.scheme = "akka";
    }
    names
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Cable {
                segmentation,
                checksum,
            } => write!(
                formatter,
                "cable (segmentation offload {segmentation}, checksum offload {checksum})"
            )?,
            Place::Line(impairment) => write!(
                formatter,
                "line ({:?}, {:?} each way, loss {:.1} %, doubled {:.1} %, reordered {:.1} %, queue {} MiB)",
                impairment.frames,
                impairment.delay,
                impairment.loss * 100.0,
                impairment.duplication * 100.0,
                impairment.reordering * 100.0,
                impairment.queue >> 20,
            )?,
        }
        write!(
            formatter,
            ", {} connections of {} kB each way ({:?}), {}",
            self.connections,
            self.volume / 1000,
            self.sizes,
            self.dial.congestion.unwrap_or_default(),
        )?;
        if let Some(segment) = self.dial.segment {
            write!(formatter, ", MSS {segment}")?;
        }
        if let Some(buffer) = self.dial.buffer {
            write!(formatter, ", receive buffer {buffer}")?;
        }
        if self.dial.sequence.is_some() {
            write!(formatter, ", numbers wrap")?;
        }
        if self.pace.write > 0 {
            write!(formatter, ", writes up to {}", self.pace.write)?;
        }
        if !self.pace.rest.is_zero() {
            write!(formatter, ", slow readers")?;
        }
        write!(
            formatter,
            ", {} is called {}{}",
            self.names.canonical,
            self.names.alias,
            if self.configured { "" } else { " (learned)" },
        )?;
        if self.near_misses {
            write!(formatter, ", near misses")?;
        }
        if self.hostile {
            write!(formatter, ", hostile packets")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_number_give_the_same_scenario() {
        for number in 0..50 {
            let [one, same] = [(); 2].map(|()| Scenario::new(3, number, 1 << 20));
            assert_eq!(one.to_string(), same.to_string());
            assert_eq!(one.script(1).client.rest, same.script(1).client.rest);
        }
        let different = (0..50).filter(|number| {
            Scenario::new(3, *number, 1 << 20).to_string()
                != Scenario::new(4, *number, 1 << 20).to_string()
        });
        assert!(different.count() > 45);
    }
}
