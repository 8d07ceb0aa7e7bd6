//! One connection through the relay: what one side sends is translated and sent to the other.
//!
//! A direction is read only when all that was read before is written, so a connection needs no more memory than what the
//! translation holds back, and a slow reader slows the sender down.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustix::{
    net::{Shutdown, shutdown, sockopt},
    time::{ClockId, clock_gettime},
};
use tokio::net::{TcpSocket, TcpStream};
use truename_common::{
    layout::{FiveTuple, Socket, TCP},
    wire::relay::{Direction, Limits, Names, Recoder},
};

use super::{
    lock,
    shared::{Connection, Open, Way},
    worker::Context,
};
use crate::plan::bytes;

/// Bytes that are read at once.
const READ: usize = 256 << 10;

thread_local! {
    /// What was read, and what it is translated to: all connections of a thread share it between two waits.
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::new((vec![0; READ], Vec::new()));
}

/// `CLOCK_MONOTONIC` nanoseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000;
    whole + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Relays an accepted connection until it ends.
pub(super) async fn relay(client: TcpStream, from: SocketAddr, context: Arc<Context>) {
    match serve(&client, from, &context).await {
        Ok(()) => {}
        Err(error) => {
            log::debug!("The relayed connection of {from} ended: {error}");
            reset(&client);
        }
    }
}

/// Has the other side see that the connection broke.
fn reset(stream: &TcpStream) {
    // Otherwise it sees an end; that is all that is lost.
    let _ = stream.set_zero_linger();
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

async fn serve(client: &TcpStream, from: SocketAddr, context: &Context) -> io::Result<()> {
    let (from, to) = (canonical(from), canonical(client.local_addr()?));
    let endpoint = Socket {
        address: bytes(to.ip()),
        port: to.port(),
        protocol: TCP,
        pad: 0,
    };
    let Some(served) = context.relays.of(endpoint) else {
        return Err(io::Error::other("it was not steered here"));
    };
    let names = lock(&context.steering)
        .names(endpoint)
        .map_err(io::Error::other)?
        .unwrap_or_default();
    let now = now_ns();
    let open = context.relays.enter(Connection {
        client: from,
        endpoint: to,
        canonical: names.canonical.to_string(),
        created_ns: now,
        seen_ns: AtomicU64::new(now),
        alias: std::sync::Mutex::new(None),
        inbound: Way::default(),
        outbound: Way::default(),
    });
    let Some(open) = open else {
        return Err(io::Error::other(
            "there are too many (max_connections of [relay])",
        ));
    };
    let server = match Onward::connect(to, context).await {
        Ok(server) => server,
        Err(error) => {
            context.relays.counts().failed.fetch_add(1, Relaxed);
            return Err(error);
        }
    };
    for stream in [client, &server.stream] {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
    }
    let new = |direction| {
        let names = Names {
            canonical: names.canonical,
            alias: None,
        };
        let mut recoder = Recoder::new(direction, names, Limits::default());
        recoder.admit(served.admitted.clone());
        RefCell::new(recoder)
    };
    let (inbound, outbound) = (new(Direction::Inbound), new(Direction::Outbound));
    let inwards = Pump {
        from: client,
        to: &server.stream,
        recoder: &inbound,
        other: Some(&outbound),
        kept: Cell::new(0),
        way: &open.connection.inbound,
        open: &open,
        context,
    };
    let outwards = Pump {
        from: &server.stream,
        to: client,
        recoder: &outbound,
        other: None,
        kept: Cell::new(0),
        way: &open.connection.outbound,
        open: &open,
        context,
    };
    let ended = tokio::try_join!(inwards.run(), outwards.run());
    if ended.is_err() {
        reset(&server.stream);
    }
    ended.map(|_| ())
}

/// The connection to the endpoint.
struct Onward<'a> {
    stream: TcpStream,
    key: FiveTuple,
    context: &'a Context,
}

impl<'a> Onward<'a> {
    /// Connects from the endpoint's own address: the route back to the client's would not lead here.
    async fn connect(to: SocketAddr, context: &'a Context) -> io::Result<Self> {
        let socket = match to.ip() {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.bind(SocketAddr::new(to.ip(), 0))?;
        let own = socket.local_addr()?;
        let key = FiveTuple {
            client: bytes(own.ip()),
            endpoint: bytes(to.ip()),
            client_port: own.port(),
            endpoint_port: to.port(),
            protocol: TCP,
            ..FiveTuple::default()
        };
        lock(&context.steering)
            .own(&key, now_ns())
            .map_err(io::Error::other)?;
        match socket.connect(to).await {
            Ok(stream) => Ok(Self {
                stream,
                key,
                context,
            }),
            Err(error) => {
                forget(&key, context);
                Err(error)
            }
        }
    }
}

impl Drop for Onward<'_> {
    fn drop(&mut self) {
        forget(&self.key, self.context);
    }
}

fn forget(key: &FiveTuple, context: &Context) {
    // The entry makes room for others if it stays.
    if let Err(error) = lock(&context.steering).disown(key) {
        log::debug!("{error}");
    }
}

/// One direction.
struct Pump<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    recoder: &'a RefCell<Recoder>,
    /// The other direction, which has to know the alias.
    other: Option<&'a RefCell<Recoder>>,
    /// Bytes that are kept back.
    kept: Cell<usize>,
    way: &'a Way,
    open: &'a Open,
    context: &'a Context,
}

impl Pump<'_> {
    /// Passes everything on, and then the end.
    async fn run(&self) -> io::Result<()> {
        loop {
            self.from.readable().await?;
            let (rest, is_end) = match BUFFERS.with_borrow_mut(|buffers| self.pass(buffers)) {
                Ok(passed) => passed,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            self.write(&rest).await?;
            if is_end {
                shutdown(self.to, Shutdown::Write)?;
                return Ok(());
            }
        }
    }

    /// Reads, translates and writes as much as goes at once. What could not be written, and whether this is the end.
    fn pass(&self, (input, output): &mut (Vec<u8>, Vec<u8>)) -> io::Result<(Vec<u8>, bool)> {
        output.clear();
        let read = self.from.try_read(input)?;
        {
            let mut recoder = self.recoder.borrow_mut();
            match input.get(..read) {
                Some(bytes) if read > 0 => recoder.push(bytes, output),
                _ => recoder.finish(output),
            }
            self.count(&recoder);
            let kept = recoder.buffered();
            if !self.context.relays.keep(self.kept.replace(kept), kept) {
                self.context.relays.counts().refused.fetch_add(1, Relaxed);
                let error = "frames need too much memory (memory of [relay])";
                return Err(io::Error::other(error));
            }
        }
        let mut written = 0;
        while let Some(rest) = output.get(written..)
            && !rest.is_empty()
        {
            match self.to.try_write(rest) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok((output.split_off(written), read == 0))
    }

    async fn write(&self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            self.to.writable().await?;
            match self.to.try_write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells what has happened, and the other direction the alias.
    fn count(&self, recoder: &Recoder) {
        let counts = recoder.counts();
        self.open.connection.seen_ns.store(now_ns(), Relaxed);
        self.way.frames.store(counts.frames, Relaxed);
        self.way.edits.store(counts.names, Relaxed);
        let unchanged = counts.uncertain + counts.too_long;
        let before = self.way.unchanged.swap(unchanged, Relaxed);
        let more = unchanged.saturating_sub(before);
        self.context
            .relays
            .counts()
            .unchanged
            .fetch_add(more, Relaxed);
        let Some(other) = self.other else { return };
        let mut other = other.borrow_mut();
        if other.alias().is_none()
            && let Some(alias) = recoder.alias()
        {
            other.set_alias(*alias);
            *lock(&self.open.connection.alias) = Some(alias.to_string());
        }
    }
}

impl Drop for Pump<'_> {
    fn drop(&mut self) {
        self.context.relays.keep(self.kept.get(), 0);
    }
}
