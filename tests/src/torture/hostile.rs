//! Forged packets in the names of client and server, whose numbers are outside of every window.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::{
    prog_run::flag,
    random::Random,
    traffic::{Forged, Stranger},
    wire::{Authority, Envelope, Names, associate},
};

/// How far outside a number is: more than any window, and than what a scenario sends.
const OUTSIDE: u32 = 128 << 20;
/// Packets are sent in bursts of this many, with a rest between.
const BURST: usize = 8;
const REST: Duration = Duration::from_millis(10);

/// A connection as its enemy knows it.
#[derive(Clone, Copy, Debug)]
pub struct Victim {
    /// The client's socket.
    pub client: SocketAddr,
    /// The server's socket.
    pub server: SocketAddr,
    /// Sequence numbers of client and server, somewhere near those of the stream.
    pub sequences: (u32, u32),
}

/// Sends forged packets to all victims until it is told to stop; how many.
///
/// # Errors
/// The network is gone.
pub fn harass(
    stranger: &Stranger,
    victims: &[Victim],
    names: &Names,
    seed: u64,
    stop: &AtomicBool,
) -> Result<u64> {
    let mut random = Random::new(seed);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            let victim = random.pick(victims);
            stranger.send(&forge(&mut random, victim, names))?;
            sent += 1;
        }
        thread::sleep(REST);
    }
    Ok(sent)
}

/// A packet that TCP ignores.
fn forge(random: &mut Random, victim: &Victim, names: &Names) -> Forged {
    let inbound = random.chance(500);
    let (source, destination) = if inbound {
        (victim.client, victim.server)
    } else {
        (victim.server, victim.client)
    };
    let (own, other) = if inbound {
        victim.sequences
    } else {
        (victim.sequences.1, victim.sequences.0)
    };
    let flags = *random.pick(&[
        flag::RST,
        flag::RST | flag::ACK,
        flag::SYN,
        flag::SYN | flag::ACK,
        flag::ACK,
        flag::ACK,
        flag::ACK,
        flag::FIN | flag::ACK,
    ]);
    let payload = if flags == flag::ACK && random.chance(700) {
        payload(random, names)
    } else {
        Vec::new()
    };
    Forged {
        source,
        destination,
        sequence: outside(random, own),
        acknowledges: outside(random, other),
        flags,
        payload,
    }
}

/// A number that is far ahead, far behind, or anywhere but near.
fn outside(random: &mut Random, near: u32) -> u32 {
    let away = match random.below(3) {
        0 => OUTSIDE,
        1 => 0u32.wrapping_sub(OUTSIDE),
        _ => OUTSIDE + random.below((u32::MAX - 2 * OUTSIDE) as usize) as u32,
    };
    near.wrapping_add(away)
}

/// What an enemy would like to have read: frames, names, and nonsense.
fn payload(random: &mut Random, names: &Names) -> Vec<u8> {
    match random.below(3) {
        0 => {
            let frame = Envelope {
                recipient: names.path(&names.alias, "/user/evil"),
                sender: Some(names.path(&names.canonical, "/user/evil")),
                body: vec![b'!'; 40],
                serializer: 1,
                ..Envelope::default()
            }
            .frame();
            frame.repeat(1 + random.below(6))
        }
        1 => associate(&names.system, &Authority::new("evil", 6123), 666),
        _ => {
            let mut nonsense = vec![0; 1 + random.below(1200)];
            random.fill(&mut nonsense);
            nonsense
        }
    }
}
