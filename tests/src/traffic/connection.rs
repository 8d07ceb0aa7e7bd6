//! A connection whose every byte is checked, in both directions.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    random::Random,
    socket::DEADLINE,
    sys,
    wait::wait_until,
    wire::{Checker, Half, Script},
};

/// How the two ends treat their sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Write in pieces of at most this size, at random; 0 writes all at once.
    pub write: usize,
    /// Read at most so much at a time; 0 reads as much as there is.
    pub read: usize,
    /// Rest so long before each read.
    pub rest: Duration,
    /// Read nothing until the sender has been probing a closed window.
    pub hold: bool,
    /// How long all may take; 0 is [`DEADLINE`].
    pub patience: Duration,
}

/// How an exchange went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The longest time in which a reader had nothing to read.
    pub longest_gap: Duration,
}

/// A name was translated that turned out to be another one, and the connection was reset before its frame
/// was complete.
#[derive(Debug)]
pub struct ResetInFrame;

impl std::fmt::Display for ResetInFrame {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "reset in the frame of a wrong byte")
    }
}

/// A wrong byte was read, and the failure of another thread ended the connection before its frame was complete.
#[derive(Debug)]
struct CutOff;

impl std::fmt::Display for CutOff {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "cut off in the frame of a wrong byte")
    }
}

/// Both ends of a connection.
#[derive(Debug)]
pub struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Pace {
    fn patience(&self) -> Duration {
        if self.patience.is_zero() {
            DEADLINE
        } else {
            self.patience
        }
    }
}

impl Connection {
    pub(crate) fn new(client: TcpStream, server: TcpStream) -> Result<Self> {
        for stream in [&client, &server] {
            stream.set_nodelay(true).context("set TCP_NODELAY")?;
        }
        Ok(Self { client, server })
    }

    /// The client's address.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn client_address(&self) -> Result<SocketAddr> {
        self.client
            .local_addr()
            .context("ask for the client's address")
    }

    /// The client's socket, for tests that do something odd with it.
    pub fn client(&self) -> &TcpStream {
        &self.client
    }

    /// The server's socket.
    pub fn server(&self) -> &TcpStream {
        &self.server
    }

    /// The next sequence number that each of client and server sends. Nothing may be under way.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn sequences(&self) -> Result<(u32, u32)> {
        let next =
            |stream| super::repair::next_sequence(stream).context("ask for a sequence number");
        Ok((next(&self.client)?, next(&self.server)?))
    }

    /// Sends both streams of a script, both at a time, and checks that they arrive as they have to.
    ///
    /// # Errors
    /// A wrong byte, a connection that ended, or a stall.
    pub fn exchange(&self, script: &Script, pace: Pace) -> Result<Progress> {
        transfer(
            (&self.client, &self.server),
            (&self.client, &self.server),
            script,
            pace,
        )
    }

    /// The same, with the client's stream on this connection and the server's on `other`.
    ///
    /// # Errors
    /// A wrong byte, a connection that ended, or a stall.
    pub fn exchange_over(&self, other: &Self, script: &Script, pace: Pace) -> Result<Progress> {
        transfer(
            (&self.client, &self.server),
            (&other.client, &other.server),
            script,
            pace,
        )
    }

    /// Sends `bytes` from the client; the server has to receive `expected`.
    ///
    /// # Errors
    /// A wrong byte, a connection that ended, or a stall.
    pub fn client_sends(&self, bytes: &[u8], expected: &[crate::wire::Piece]) -> Result<()> {
        one_way(&self.client, &self.server, bytes, expected).context("client to server")
    }

    /// Sends `bytes` from the server; the client has to receive `expected`.
    ///
    /// # Errors
    /// A wrong byte, a connection that ended, or a stall.
    pub fn server_sends(&self, bytes: &[u8], expected: &[crate::wire::Piece]) -> Result<()> {
        one_way(&self.server, &self.client, bytes, expected).context("server to client")
    }

    /// The client says that it will send no more; the server has to see that.
    ///
    /// # Errors
    /// It does not.
    pub fn close_client_half(&self) -> Result<()> {
        self.client
            .shutdown(Shutdown::Write)
            .context("shut down the client's half")?;
        expect_end(&self.server).context("server")
    }

    /// The server says that it will send no more; the client has to see that.
    ///
    /// # Errors
    /// It does not.
    pub fn close_server_half(&self) -> Result<()> {
        self.server
            .shutdown(Shutdown::Write)
            .context("shut down the server's half")?;
        expect_end(&self.client).context("client")
    }

    /// Waits until the server has sent something `times` times again, because no answer comes.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_server_repeats(&self, times: u8) -> Result<()> {
        wait_until(DEADLINE, "retransmissions of the server", || {
            let info = sys::tcp_info(&self.server)?;
            ensure!(
                info.tcpi_retransmits >= times || info.tcpi_unacked == 0,
                "{} so far",
                info.tcpi_retransmits
            );
            Ok(())
        })
    }

    /// The client ends the connection by a reset; the server has to see that.
    ///
    /// # Errors
    /// It does not.
    pub fn reset(self) -> Result<()> {
        reset(self.client)?;
        self.server.set_read_timeout(Some(DEADLINE))?;
        loop {
            match (&self.server).read(&mut [0; 4096]) {
                // What was under way before the reset.
                Ok(1..) => {}
                Ok(0) => bail!("the server saw an end instead of a reset"),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error).context("the server expected a reset"),
            }
        }
    }
}

/// Both streams of a script, at the same time, over the given pairs of client and server.
fn transfer(
    there: (&TcpStream, &TcpStream),
    back: (&TcpStream, &TcpStream),
    script: &Script,
    pace: Pace,
) -> Result<Progress> {
    let deadline = Instant::now() + pace.patience();
    // Each reader tells the writer of its own side when it has received enough.
    let (server_may, server_waits) = channel();
    let (client_may, client_waits) = channel();
    let is_cut_off = AtomicBool::new(false);
    let is_cut_off = &is_cut_off;
    let abort = || {
        is_cut_off.store(true, Ordering::SeqCst);
        for stream in [there.0, there.1, back.0, back.1] {
            // Wakes whoever waits on it; it may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    };
    std::thread::scope(|scope| {
        let guard = |what: &'static str, outcome: Result<Progress>| {
            if outcome.is_err() {
                abort();
            }
            outcome.context(what)
        };
        let workers = [
            scope.spawn(move || {
                let outcome = write(there.0, &script.client, &client_waits, pace, deadline);
                guard("client writes", outcome.map(|()| Progress::default()))
            }),
            scope.spawn(move || {
                let outcome = write(back.1, &script.server, &server_waits, pace, deadline);
                guard("server writes", outcome.map(|()| Progress::default()))
            }),
            scope.spawn(move || {
                let sockets = (there.1, there.0);
                let outcome = read(
                    sockets,
                    &script.client,
                    &server_may,
                    pace,
                    deadline,
                    is_cut_off,
                );
                guard("server reads", outcome)
            }),
            scope.spawn(move || {
                let outcome = read(
                    back,
                    &script.server,
                    &client_may,
                    pace,
                    deadline,
                    is_cut_off,
                );
                guard("client reads", outcome)
            }),
        ];
        let mut progress = Progress::default();
        let mut errors = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(Ok(Progress { longest_gap })) => {
                    progress.longest_gap = progress.longest_gap.max(longest_gap);
                }
                Ok(Err(error)) => errors.push(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        // The first to fail cuts the others off: a wrong byte says more than what follows from it, and who was cut
        // off says least.
        errors.sort_by_key(|error: &anyhow::Error| {
            let is_cut_off = error.downcast_ref::<CutOff>().is_some();
            (is_cut_off, !format!("{error:#}").contains("wrong"))
        });
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(progress),
        }
    })
}

fn write(
    stream: &TcpStream,
    half: &Half,
    may: &Receiver<()>,
    pace: Pace,
    deadline: Instant,
) -> Result<()> {
    write_pieces(stream, &half.greeting, pace, deadline)?;
    may.recv_timeout(left(deadline)?)
        .context("the other direction did not get as far as needed")?;
    write_pieces(stream, &half.rest, pace, deadline)
}

fn write_pieces(
    mut stream: &TcpStream,
    mut bytes: &[u8],
    pace: Pace,
    deadline: Instant,
) -> Result<()> {
    let mut random = Random::new(bytes.len() as u64);
    while !bytes.is_empty() {
        let size = match pace.write {
            0 => bytes.len(),
            most => 1 + random.below(most),
        };
        let (now, later) = bytes.split_at(size.min(bytes.len()));
        stream.set_write_timeout(Some(left(deadline)?))?;
        let written = stream.write(now).map_err(stalled)?;
        bytes = if written == now.len() {
            later
        } else {
            &bytes[written..]
        };
    }
    Ok(())
}

fn read(
    (stream, sender): (&TcpStream, &TcpStream),
    half: &Half,
    may: &Sender<()>,
    pace: Pace,
    deadline: Instant,
    is_cut_off: &AtomicBool,
) -> Result<Progress> {
    let mut progress = Progress::default();
    let mut checker = Checker::new(&half.expected);
    let mut buffer = vec![0; if pace.read == 0 { 1 << 18 } else { pace.read }];
    let mut told = false;
    // Completes a stream without bytes.
    checker.feed(&[])?;
    loop {
        if !told && checker.position() >= half.trigger {
            told = true;
            // Nobody waits if the writer has failed.
            let _ = may.send(());
            if pace.hold {
                wait_until(left(deadline)?, "probe of the closed window", || {
                    let info = sys::tcp_info(sender)?;
                    // The number of probes starts again with each answer, the back-off does not.
                    ensure!(info.tcpi_backoff > 0, "none yet");
                    Ok(())
                })?;
            }
        }
        if checker.is_complete() {
            return Ok(progress);
        }
        if !pace.rest.is_zero() {
            std::thread::sleep(pace.rest);
        }
        let begun = Instant::now();
        if let Err(error) = read_once(stream, &mut buffer, &mut checker, deadline) {
            let Some(wrong) = checker.wrong() else {
                return Err(error);
            };
            let left = half.frame_end(wrong).saturating_sub(checker.arrived());
            return Err(match end_before(stream, left, deadline) {
                Some(ErrorKind::ConnectionReset) => error.context(ResetInFrame),
                // Shut down by this process, after the reset of the other direction for instance.
                Some(_) if is_cut_off.load(Ordering::SeqCst) => error.context(CutOff),
                _ => error,
            });
        }
        progress.longest_gap = progress.longest_gap.max(begun.elapsed());
    }
}

/// How the connection ends before `bytes` more have arrived, if it does.
fn end_before(mut stream: &TcpStream, mut bytes: usize, deadline: Instant) -> Option<ErrorKind> {
    let mut buffer = [0; 4096];
    while bytes > 0 {
        let left = left(deadline).ok()?;
        stream.set_read_timeout(Some(left)).ok()?;
        let length = bytes.min(buffer.len());
        match stream.read(&mut buffer[..length]) {
            Ok(0) => return Some(ErrorKind::UnexpectedEof),
            Ok(length) => bytes -= length,
            Err(error) => return Some(error.kind()),
        }
    }
    None
}

fn read_once(
    mut stream: &TcpStream,
    buffer: &mut [u8],
    checker: &mut Checker<'_>,
    deadline: Instant,
) -> Result<()> {
    let timeout = left(deadline).with_context(|| {
        format!(
            "{} bytes right, {} missing",
            checker.position(),
            checker.missing()
        )
    })?;
    stream.set_read_timeout(Some(timeout))?;
    // Not beyond the end: what follows belongs to the next exchange.
    let length = buffer.len().min(checker.missing());
    match stream.read(&mut buffer[..length]) {
        Ok(0) => bail!(
            "the connection ended after {} bytes, {} before the end",
            checker.position(),
            checker.missing()
        ),
        Ok(length) => checker.feed(&buffer[..length]),
        Err(error) => Err(stalled(error)).with_context(|| {
            format!(
                "{} bytes right, {} missing",
                checker.position(),
                checker.missing()
            )
        }),
    }
}

fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    bytes: &[u8],
    expected: &[crate::wire::Piece],
) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_pieces(from, bytes, Pace::default(), deadline));
        let read = read_all(to, expected, deadline);
        if read.is_err() {
            // Wakes the writer; it may be closed already.
            let _ = from.shutdown(Shutdown::Both);
        }
        let written = writer.join();
        read?;
        written.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn read_all(stream: &TcpStream, expected: &[crate::wire::Piece], deadline: Instant) -> Result<()> {
    let mut checker = Checker::new(expected);
    let mut buffer = vec![0; 1 << 16];
    checker.feed(&[])?;
    while !checker.is_complete() {
        read_once(stream, &mut buffer, &mut checker, deadline)?;
    }
    Ok(())
}

fn expect_end(mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    match stream.read(&mut [0; 16]).map_err(stalled)? {
        0 => Ok(()),
        _ => bail!("received more instead of the end"),
    }
}

fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), "stalled: not done in time");
    Ok(left)
}

fn stalled(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow::Error::new(error).context("stalled: nothing more in time")
        }
        _ => error.into(),
    }
}

/// Closes a socket with an RST.
///
/// # Errors
/// The kernel does not allow it.
pub fn reset(stream: TcpStream) -> Result<()> {
    sys::reset_on_close(&stream).context("prepare the reset")
}
