//! A line between two namespaces with delay, loss, duplication and reordering: the kernel need not have
//! netem, and the same seed treats the same packets in the same way.

use std::{
    collections::VecDeque,
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::frame::{self, Segments};
use crate::{namespace::Namespace, random::Random, sys};

/// A packet that is held back goes on after this time at the latest.
const HOLD: Duration = Duration::from_millis(4);
/// Frames read from one device before the other one gets its turn.
const BATCH: usize = 64;
/// Room for the largest frame with its `virtio_net_hdr`.
const FRAME: usize = sys::VIRTIO_HEADER + 18 + (1 << 16);
/// A shorter frame is copied, so that a queue of acknowledgements is not a queue of large buffers.
const SMALL: usize = 4096;
/// Frames that a device queues for the line, which may be busy for some milliseconds.
const DEVICE_QUEUE: usize = 65_536;

/// What a line does to packets. Probabilities (0 to 1) are those of a TCP segment; what is not TCP is only
/// delayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// Added each way.
    pub delay: Duration,
    /// Lost.
    pub loss: f64,
    /// Sent twice.
    pub duplication: f64,
    /// Held back until some later packets have passed.
    pub reordering: f64,
    /// What crosses the line.
    pub frames: Frames,
    /// Bytes under way in one direction; what does not fit is lost.
    pub queue: usize,
}

/// What crosses a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Segments with their checksums, as on a wire.
    Segments,
    /// Packets of up to 64 KiB whose segmentation and checksums are left to the device, as on a veth. Cut only
    /// where a segment is lost, doubled or held back.
    Gso,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            frames: Frames::Segments,
            queue: 256 << 20,
        }
    }
}

/// What was done to packets.
#[derive(Debug, Default)]
pub struct Impairments {
    forwarded: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    reordered: AtomicU64,
    overflowed: AtomicU64,
}

impl Impairments {
    /// Forwarded, lost, doubled, held back.
    pub fn counts(&self) -> [u64; 4] {
        [&self.forwarded, &self.lost, &self.doubled, &self.reordered]
            .map(|counter| counter.load(Ordering::Relaxed))
    }

    /// Lost because too much was under way, or a device took no more.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}

/// A running line; ended on drop.
#[derive(Debug)]
pub struct Line {
    stop: Arc<AtomicBool>,
    counts: Arc<Impairments>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    /// Makes an interface in each of two namespaces and joins them. `guests` are on the same network: what
    /// they send is neither delayed nor impaired.
    ///
    /// # Errors
    /// A name is taken.
    pub fn start(
        ends: [(&Namespace, &str); 2],
        guests: &[(&Namespace, &str)],
        impairment: Impairment,
        seed: u64,
    ) -> Result<Self> {
        let mut ports = Vec::new();
        for (number, (namespace, name)) in ends.iter().chain(guests).enumerate() {
            let segmentation = impairment.frames == Frames::Gso;
            let device = namespace
                .run(|| sys::tap(name, segmentation))?
                .with_context(|| format!("make the TAP device {name}"))?;
            let address = link_address(number);
            namespace.ip(&format!(
                "link set {name} address {} txqueuelen {DEVICE_QUEUE} up",
                address.map(|byte| format!("{byte:02x}")).join(":")
            ))?;
            ports.push(Port { device, address });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Impairments::default());
        let mut relay = Relay {
            lanes: [seed, seed ^ 0xffff]
                .map(|seed| Lane::new(impairment, seed, Arc::clone(&counts))),
            ports,
            spare: Vec::new(),
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("line".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    // A device that is gone ends the line; the test then stalls and says so.
                    if relay.turn().is_err() {
                        return;
                    }
                }
            })
            .context("start the line")?;
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

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(
                outcome.is_ok() || std::thread::panicking(),
                "the line has failed"
            );
        }
    }
}

/// The link address of an interface: the two ends first, then the guests.
pub(super) fn link_address(number: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0x99, number as u8]
}

/// A device.
struct Port {
    device: File,
    address: [u8; 6],
}

/// What the thread works on.
struct Relay {
    ports: Vec<Port>,
    /// From each end to the other one.
    lanes: [Lane; 2],
    /// Buffers to read into.
    spare: Vec<Vec<u8>>,
}

impl Relay {
    /// Reads what there is, sends what is due, and waits if there was nothing.
    fn turn(&mut self) -> std::io::Result<()> {
        let mut idle = true;
        for port in 0..self.ports.len() {
            for _ in 0..BATCH {
                let Some(frame) = self.read(port)? else {
                    break;
                };
                idle = false;
                self.take(port, frame);
            }
            for lane in 0..2 {
                self.send_due(lane);
            }
        }
        if idle {
            let now = Instant::now();
            let patience = self
                .lanes
                .iter()
                .filter_map(Lane::next)
                .map(|due| due.saturating_duration_since(now))
                .fold(Duration::from_millis(50), Duration::min);
            let devices: Vec<&File> = self.ports.iter().map(|port| &port.device).collect();
            sys::wait(&devices, libc::POLLIN, patience)?;
        }
        Ok(())
    }

    fn read(&mut self, port: usize) -> std::io::Result<Option<Vec<u8>>> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(FRAME, 0);
        match (&self.ports[port].device).read(&mut buffer) {
            Ok(length) if length < SMALL => {
                let frame = buffer[..length].to_vec();
                self.spare.push(buffer);
                Ok(Some(frame))
            }
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error) => {
                self.spare.push(buffer);
                match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(None),
                    _ => Err(error),
                }
            }
        }
    }

    /// Sends a frame on its way.
    fn take(&mut self, from: usize, frame: Vec<u8>) {
        let Some(destination) = frame::destination(&frame) else {
            return;
        };
        let to_all = destination[0] & 1 != 0;
        let known = self
            .ports
            .iter()
            .position(|port| port.address == destination);
        for to in 0..self.ports.len() {
            let wanted = to != from && (to_all || known == Some(to));
            if wanted && (from > 1 || to > 1) {
                // What a device does not take is lost, as everywhere.
                let _ = (&self.ports[to].device).write(&frame);
            }
        }
        if from < 2 && (to_all || known == Some(1 - from)) {
            self.lanes[from].take(frame);
        } else {
            self.recycle(frame);
        }
    }

    fn send_due(&mut self, lane: usize) {
        let now = Instant::now();
        while let Some(frame) = self.lanes[lane].due(now) {
            if let Err(error) = (&self.ports[1 - lane].device).write(&frame) {
                // A loss that nobody asked for.
                assert!(
                    error.kind() != ErrorKind::InvalidInput,
                    "the line has made a frame that the device refuses"
                );
                self.lanes[lane]
                    .counts
                    .overflowed
                    .fetch_add(1, Ordering::Relaxed);
            }
            self.recycle(frame);
        }
    }

    fn recycle(&mut self, frame: Vec<u8>) {
        if frame.capacity() >= FRAME && self.spare.len() < 2 * BATCH {
            self.spare.push(frame);
        }
    }
}

/// One direction.
struct Lane {
    impairment: Impairment,
    random: Random,
    /// Frames under way and when they arrive, the next one first.
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// Their bytes.
    length: usize,
    held: Vec<Held>,
    counts: Arc<Impairments>,
}

struct Held {
    frame: Vec<u8>,
    until: Instant,
    later_packets: usize,
}

/// What is done to a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Forwarded,
    Lost,
    Doubled,
    HeldBack,
}

impl Lane {
    fn new(impairment: Impairment, seed: u64, counts: Arc<Impairments>) -> Self {
        Self {
            impairment,
            random: Random::new(seed),
            queue: VecDeque::new(),
            length: 0,
            held: Vec::new(),
            counts,
        }
    }

    fn take(&mut self, frame: Vec<u8>) {
        let Some(segments) = Segments::of(&frame) else {
            self.push(frame);
            return;
        };
        let fates: Vec<Fate> = (0..segments.count()).map(|_| self.fate()).collect();
        if fates.iter().all(|fate| *fate == Fate::Forwarded) {
            count(&self.counts.forwarded, fates.len());
            self.push(frame);
            self.passed();
            return;
        }
        let mut first = 0;
        while let Some(fate) = fates.get(first) {
            let alike = match fate {
                Fate::Forwarded => fates[first..]
                    .iter()
                    .take_while(|next| *next == fate)
                    .count(),
                _ => 1,
            };
            let segment = segments.piece(first..first + alike);
            first += alike;
            match fate {
                Fate::Lost => {
                    count(&self.counts.lost, 1);
                    continue;
                }
                Fate::HeldBack => {
                    count(&self.counts.reordered, 1);
                    self.held.push(Held {
                        frame: segment,
                        until: Instant::now() + HOLD,
                        later_packets: 1 + self.random.below(5),
                    });
                    // It is not counted as its own successor.
                    continue;
                }
                Fate::Doubled => {
                    count(&self.counts.doubled, 1);
                    count(&self.counts.forwarded, 1);
                    self.push(segment.clone());
                    self.push(segment);
                }
                Fate::Forwarded => {
                    count(&self.counts.forwarded, alike);
                    self.push(segment);
                }
            }
            self.passed();
        }
    }

    fn fate(&mut self) -> Fate {
        let Impairment {
            loss,
            duplication,
            reordering,
            ..
        } = self.impairment;
        if self.random.happens(loss) {
            Fate::Lost
        } else if self.random.happens(reordering) {
            Fate::HeldBack
        } else if self.random.happens(duplication) {
            Fate::Doubled
        } else {
            Fate::Forwarded
        }
    }

    /// A packet has passed those that are held back.
    fn passed(&mut self) {
        for held in &mut self.held {
            held.later_packets = held.later_packets.saturating_sub(1);
        }
        self.release(Instant::now());
    }

    fn release(&mut self, now: Instant) {
        while let Some(at) = self
            .held
            .iter()
            .position(|held| held.later_packets == 0 || held.until <= now)
        {
            let held = self.held.remove(at);
            count(&self.counts.forwarded, 1);
            self.push(held.frame);
        }
    }

    fn push(&mut self, frame: Vec<u8>) {
        if self.length + frame.len() > self.impairment.queue {
            count(&self.counts.overflowed, 1);
            return;
        }
        self.length += frame.len();
        self.queue
            .push_back((Instant::now() + self.impairment.delay, frame));
    }

    /// A frame that has arrived.
    fn due(&mut self, now: Instant) -> Option<Vec<u8>> {
        if !self.held.is_empty() {
            self.release(now);
        }
        let (_, frame) = self.queue.pop_front_if(|(due, _)| *due <= now)?;
        self.length -= frame.len();
        Some(frame)
    }

    /// When there is something to do.
    fn next(&self) -> Option<Instant> {
        let held = self.held.iter().map(|held| held.until);
        held.chain(self.queue.front().map(|(due, _)| *due)).min()
    }
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}
