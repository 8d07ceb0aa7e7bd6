//! One round of a stream: some connections, each sending blocks in one direction for some time.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::block::{Block, Comparison};

/// A stream that has not moved for this long has stalled.
const STALL: Duration = Duration::from_secs(5);
/// How long what was sent may take to arrive when no more is sent.
const DRAIN: Duration = Duration::from_secs(20);
/// How often the progress of the streams is looked at.
const TICK: Duration = Duration::from_millis(5);

/// How long a round takes.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Until windows are open; not measured.
    pub warm: Duration,
    /// Measured.
    pub measured: Duration,
}

/// What a round showed.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    /// Frames a second that arrived.
    pub rate: f64,
    /// Frames that were sent.
    pub frames: u64,
    /// The longest time in which a connection did not move.
    pub gap: Duration,
    /// Whether something never arrived.
    pub stalled: bool,
}

/// What the main thread and the two ends of a connection share.
#[derive(Default)]
struct Shared {
    /// Bytes that arrived and were right.
    arrived: AtomicU64,
    /// The receiver has seen the end, or a mistake.
    done: AtomicBool,
}

/// Sends blocks over all connections `(sender, receiver)` and compares what arrives.
///
/// # Errors
/// A wrong byte, or a connection failed.
pub fn transfer(
    connections: &[(&TcpStream, &TcpStream)],
    block: &Block,
    time: Time,
) -> Result<Moved> {
    let stop = AtomicBool::new(false);
    let shared: Vec<Shared> = connections.iter().map(|_| Shared::default()).collect();
    thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for ((from, to), shared) in connections.iter().zip(&shared) {
            senders.push(scope.spawn(|| send(from, block, &stop)));
            receivers.push(scope.spawn(|| {
                let outcome = receive(to, block, shared);
                shared.done.store(true, Ordering::Relaxed);
                outcome
            }));
        }
        let mut moved = watch(&shared, &stop, time, block);
        if moved.stalled {
            for (from, to) in connections {
                // Wakes both ends; they may be closed already.
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            }
        }
        let mut failed = None;
        for receiver in receivers {
            let outcome = receiver
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            failed = failed.or(outcome.err());
        }
        if failed.is_some() {
            for (from, _) in connections {
                let _ = from.shutdown(Shutdown::Both);
            }
        }
        for sender in senders {
            let blocks = sender
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            moved.frames += blocks * block.frames as u64;
        }
        match failed {
            // That a connection failed which was ended because it stalled says nothing more.
            Some(error) if !moved.stalled || error.downcast_ref::<io::Error>().is_none() => {
                Err(error)
            }
            _ => Ok(moved),
        }
    })
}

/// Measures, ends the round, and waits until all has arrived or nothing moves.
fn watch(shared: &[Shared], stop: &AtomicBool, time: Time, block: &Block) -> Moved {
    let begun = Instant::now();
    let frame = block.len() as f64 / block.frames as f64;
    let mut seen: Vec<(u64, Instant)> = vec![(0, begun); shared.len()];
    let mut moved = Moved::default();
    let mut measured: Option<(u64, Instant)> = None;
    loop {
        thread::sleep(TICK);
        let now = Instant::now();
        let mut total = 0;
        let mut done = true;
        let mut quiet = Duration::ZERO;
        for (shared, (before, since)) in shared.iter().zip(&mut seen) {
            let arrived = shared.arrived.load(Ordering::Relaxed);
            total += arrived;
            if arrived != *before {
                (*before, *since) = (arrived, now);
            }
            if !shared.done.load(Ordering::Relaxed) {
                done = false;
                let gap = now - *since;
                quiet = quiet.max(gap);
                moved.gap = moved.gap.max(gap);
            }
        }
        let elapsed = now - begun;
        if measured.is_none() && elapsed >= time.warm {
            measured = Some((total, now));
        }
        if !stop.load(Ordering::Relaxed) && (done || elapsed >= time.warm + time.measured) {
            let (from, since) = measured.unwrap_or((0, begun));
            let bytes = (total - from) as f64;
            moved.rate = bytes / frame / (now - since).as_secs_f64().max(f64::MIN_POSITIVE);
            stop.store(true, Ordering::Relaxed);
        }
        if done {
            return moved;
        }
        if quiet >= STALL || elapsed >= time.warm + time.measured + DRAIN {
            stop.store(true, Ordering::Relaxed);
            moved.stalled = true;
            return moved;
        }
    }
}

/// Sends whole blocks until it is told to stop; how many.
fn send(mut to: &TcpStream, block: &Block, stop: &AtomicBool) -> u64 {
    let mut blocks = 0;
    while !stop.load(Ordering::Relaxed) {
        for piece in block.writes() {
            // The receiver says what went wrong.
            if to.write_all(piece).is_err() {
                return blocks;
            }
        }
        blocks += 1;
    }
    let _ = to.shutdown(Shutdown::Write);
    blocks
}

fn receive(mut from: &TcpStream, block: &Block, shared: &Shared) -> Result<()> {
    let mut buffer = vec![0; block.len().min(256 << 10)];
    let mut comparison = Comparison::new(block);
    // The main thread decides when to give up.
    from.set_read_timeout(None)?;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                comparison.feed(&buffer[..length])?;
                shared
                    .arrived
                    .store(comparison.position(), Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "the connection failed after {} bytes",
                        comparison.position()
                    )
                });
            }
        }
    }
}
