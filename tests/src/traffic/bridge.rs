//! A bridge in user space between two interfaces, which treats TCP packets badly on purpose.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{namespace::Namespace, random::Random, sys};

/// A packet that is held back goes on after this time at the latest.
const HOLD: Duration = Duration::from_millis(4);
/// Largest frame that is forwarded.
const FRAME: usize = 1 << 16;

/// How TCP packets are treated, in cases per 1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Impairment {
    /// Lost.
    pub loss: u32,
    /// Sent twice.
    pub duplication: u32,
    /// Held back until some later packets have passed.
    pub reordering: u32,
}

/// What was done to packets.
#[derive(Debug, Default)]
pub struct Impairments {
    forwarded: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    reordered: AtomicU64,
}

impl Impairments {
    /// Forwarded, lost, doubled, held back.
    pub fn counts(&self) -> [u64; 4] {
        [&self.forwarded, &self.lost, &self.doubled, &self.reordered]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// A running bridge; ended on drop.
#[derive(Debug)]
pub struct Bridge {
    stop: Arc<AtomicBool>,
    counts: Arc<Impairments>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Joins two interfaces of a namespace. Their peers, and they, must not leave checksums or segmentation
    /// to the device: a packet socket sees packets as they are.
    ///
    /// # Errors
    /// An interface does not exist.
    pub fn start(
        namespace: &Namespace,
        interfaces: [&str; 2],
        impairment: Impairment,
        seed: u64,
    ) -> Result<Self> {
        let [left, right] = namespace
            .run(|| interfaces.map(sys::packet_socket))?
            .map(|socket| socket.context("open a packet socket"));
        let (left, right) = (left?, right?);
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Impairments::default());
        let thread = {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            std::thread::spawn(move || {
                let mut lanes = [
                    Lane::new(impairment, seed, Arc::clone(&counts)),
                    Lane::new(impairment, seed ^ 0xffff, counts),
                ];
                while !stop.load(Ordering::Relaxed) {
                    let idle = lanes.iter().all(|lane| lane.held.is_empty());
                    let patience = Duration::from_millis(if idle { 50 } else { 1 });
                    // An interface that is gone ends the bridge; the test then stalls and says so.
                    if sys::wait_readable(&[&left, &right], patience).is_err() {
                        return;
                    }
                    let [there, back] = &mut lanes;
                    if there.forward(&left, &right).is_err() || back.forward(&right, &left).is_err()
                    {
                        return;
                    }
                }
            })
        };
        Ok(Self {
            stop,
            counts,
            thread: Some(thread),
        })
    }

    /// What was done to packets so far.
    pub fn counts(&self) -> &Impairments {
        &self.counts
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Nobody to tell.
            let _ = thread.join();
        }
    }
}

/// One direction.
struct Lane {
    impairment: Impairment,
    random: Random,
    held: VecDeque<Held>,
    counts: Arc<Impairments>,
    buffer: Vec<u8>,
}

struct Held {
    frame: Vec<u8>,
    until: Instant,
    later_packets: usize,
}

impl Lane {
    fn new(impairment: Impairment, seed: u64, counts: Arc<Impairments>) -> Self {
        Self {
            impairment,
            random: Random::new(seed),
            held: VecDeque::new(),
            counts,
            buffer: vec![0; FRAME],
        }
    }

    fn forward(&mut self, from: &OwnedFd, to: &OwnedFd) -> std::io::Result<()> {
        while let Some(length) = sys::receive(from, &mut self.buffer)? {
            let frame = &self.buffer[..length];
            if !is_tcp(frame) {
                sys::send(to, frame)?;
            } else if self.random.chance(self.impairment.loss) {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
            } else if self.random.chance(self.impairment.reordering) {
                self.counts.reordered.fetch_add(1, Ordering::Relaxed);
                self.held.push_back(Held {
                    frame: frame.to_vec(),
                    until: Instant::now() + HOLD,
                    later_packets: 1 + self.random.below(5),
                });
                // It is not counted as its own successor.
                continue;
            } else {
                self.counts.forwarded.fetch_add(1, Ordering::Relaxed);
                sys::send(to, frame)?;
                if self.random.chance(self.impairment.duplication) {
                    self.counts.doubled.fetch_add(1, Ordering::Relaxed);
                    sys::send(to, frame)?;
                }
            }
            for held in &mut self.held {
                held.later_packets = held.later_packets.saturating_sub(1);
            }
            self.release(to)?;
        }
        self.release(to)
    }

    fn release(&mut self, to: &OwnedFd) -> std::io::Result<()> {
        let now = Instant::now();
        let mut kept = VecDeque::new();
        for held in self.held.drain(..) {
            if held.later_packets == 0 || held.until <= now {
                self.counts.forwarded.fetch_add(1, Ordering::Relaxed);
                sys::send(to, &held.frame)?;
            } else {
                kept.push_back(held);
            }
        }
        self.held = kept;
        Ok(())
    }
}

/// Address resolution must not suffer: it has timers of its own.
fn is_tcp(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&6),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&6),
        _ => false,
    }
}
