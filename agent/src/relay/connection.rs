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
    time::Duration,
};

use parking_lot::Mutex;
use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::{
    io::Interest,
    net::{TcpSocket, TcpStream},
    time::sleep,
};
use truename_common::{
    layout::{self, Authority, FiveTuple, Peer, Socket, TCP, bytes},
    wire::relay::{Direction, Limits, Names, Recoder},
};

use super::shared::{Connection, Context, Open, Served, Way, socket};
use crate::{clock::Moment, decode};

/// Bytes that are read at once.
const READ: usize = 256 << 10;

/// When an idle connection is asked whether its peer is there, how often again, and how many times.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 6;

thread_local! {
    /// What was read, and what it is translated to: all connections of a thread share it between two waits.
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::new((vec![0; READ], Vec::new()));
}

/// Relays an accepted connection until it ends.
pub(super) async fn relay(client: TcpStream, from: SocketAddr, context: Arc<Context>) {
    context.connections.fetch_add(1, Relaxed);
    match serve(&client, from, &context).await {
        Ok(()) => {}
        Err(error) => {
            log::debug!("The relayed connection of {from} ended: {error}");
            reset(&client);
        }
    }
    context.connections.fetch_sub(1, Relaxed);
}

/// Has the other side see that the connection broke.
fn reset(stream: &TcpStream) {
    // Otherwise it sees an end; that is all that is lost.
    let _ = stream.set_zero_linger();
}

/// An IPv4 address in the form of an IPv6 one becomes IPv4. A link-local address keeps its interface.
fn unmapped(at: SocketAddr) -> SocketAddr {
    match at.ip().to_canonical() {
        IpAddr::V6(_) => at,
        v4 => SocketAddr::new(v4, at.port()),
    }
}

/// Has the kernel notice that a peer is gone although nothing is sent.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_TRIES)?;
    Ok(())
}

async fn serve(client: &TcpStream, from: SocketAddr, context: &Context) -> io::Result<()> {
    let (from, to) = (unmapped(from), unmapped(client.local_addr()?));
    let endpoint = socket(to);
    let Some(served) = context.relays.of(endpoint) else {
        return Err(io::Error::other("it was not steered here"));
    };
    let accepted = Marked::accepted(tuple(from, to), context)?;
    let names = context
        .steering
        .lock()
        .names(endpoint)
        .map_err(io::Error::other)?
        .unwrap_or_default();
    let now = Moment::now().ns();
    let open = context.relays.enter(Connection {
        client: from,
        endpoint: to,
        canonical: Mutex::new(names.canonical),
        created_ns: now,
        seen_ns: AtomicU64::new(now),
        alias: Mutex::new(None),
        inbound: Way::default(),
        outbound: Way::default(),
        stop: context.stop.child_token(),
    });
    let Some(open) = open else {
        return Err(io::Error::other(
            "there are too many (max_connections of [relay])",
        ));
    };
    let connected = tokio::select! {
        connected = connect(to, context) => connected,
        // Nobody waits for it any more.
        error = broken(client) => return Err(error),
        error = stopped(&open) => return Err(error),
    };
    let (server, _own) = match connected {
        Ok(server) => server,
        Err(error) => {
            context.relays.counts().failed.fetch_add(1, Relaxed);
            context.suspects.add(endpoint);
            return Err(error);
        }
    };
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
        keep_alive(stream)?;
    }
    let new = |direction| RefCell::new(recoder(direction, names.canonical, &served));
    let (inbound, outbound) = (new(Direction::Inbound), new(Direction::Outbound));
    let head = RefCell::new(Some(Head {
        first: First::default(),
        names,
        endpoint,
        inbound: &inbound,
    }));
    let inwards = Pump {
        from: client,
        to: &server,
        recoder: &inbound,
        other: Some(&outbound),
        head: &RefCell::new(None),
        guest: RefCell::new(Some(Guest {
            first: Some(First::default()),
            peer: Peer::default(),
        })),
        accepted: &accepted,
        kept: Cell::new(0),
        is_noted: Cell::new(false),
        way: &open.connection.inbound,
        open: &open,
        context,
    };
    let outwards = Pump {
        from: &server,
        to: client,
        recoder: &outbound,
        other: None,
        head: &head,
        guest: RefCell::new(None),
        accepted: &accepted,
        kept: Cell::new(0),
        is_noted: Cell::new(false),
        way: &open.connection.outbound,
        open: &open,
        context,
    };
    let both = async { tokio::try_join!(inwards.run(), outwards.run()).map(drop) };
    let ended = tokio::select! {
        // What arrived before a reset is passed on if that needs no waiting.
        biased;
        ended = both => ended,
        error = broken(client) => Err(error),
        error = broken(&server) => Err(error),
        error = stopped(&open) => Err(error),
        error = silent(&inbound, context) => Err(error),
    };
    if ended.is_err() {
        reset(&server);
    }
    context.suspects.add(endpoint);
    ended
}

/// Waits until a connection breaks. A direction that waits for the other side does not see it.
async fn broken(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await {
        Ok(_) => stream
            .take_error()
            .ok()
            .flatten()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        Err(error) => error,
    }
}

/// Waits until the connection is to be reset.
async fn stopped(open: &Open) -> io::Error {
    open.connection.stop.cancelled().await;
    io::Error::other("the endpoint has no relay any more")
}

/// Waits until the client has had its time and has not sent a frame. One that sends something else does not count.
async fn silent(inbound: &RefCell<Recoder>, context: &Context) -> io::Error {
    sleep(context.relays.handshake_timeout()).await;
    let has_begun = {
        let inbound = inbound.borrow();
        inbound.counts().frames > 0 || inbound.is_opaque()
    };
    if has_begun {
        return std::future::pending().await;
    }
    context.relays.counts().silent.fetch_add(1, Relaxed);
    io::Error::other("the client sent no message in time (handshake_timeout of [relay])")
}

/// A recoder of a direction.
fn recoder(direction: Direction, canonical: Authority, served: &Served) -> Recoder {
    let names = Names {
        canonical,
        alias: None,
    };
    let mut recoder = Recoder::new(direction, names, Limits::default());
    recoder.admit(served.admitted.clone());
    recoder
}

fn tuple(client: SocketAddr, endpoint: SocketAddr) -> FiveTuple {
    FiveTuple {
        client: bytes(client.ip()),
        endpoint: bytes(endpoint.ip()),
        client_port: client.port(),
        endpoint_port: endpoint.port(),
        protocol: TCP,
        ..FiveTuple::default()
    }
}

/// A connection that the kernel program knows as relayed, or as the relay's own.
struct Marked<'a> {
    key: FiveTuple,
    mark: u64,
    context: &'a Context,
}

impl<'a> Marked<'a> {
    /// One that was accepted.
    fn accepted(key: FiveTuple, context: &'a Context) -> io::Result<Self> {
        let mark = context.steering.lock().mark(&key);
        Ok(Self::new(key, mark.map_err(io::Error::other)?, context))
    }

    /// One that the relay is going to make.
    fn own(key: FiveTuple, context: &'a Context) -> io::Result<Self> {
        let mark = context.steering.lock().own(&key, Moment::now().ns());
        Ok(Self::new(key, mark.map_err(io::Error::other)?, context))
    }

    fn new(key: FiveTuple, mark: u64, context: &'a Context) -> Self {
        context.relays.mark(key, mark);
        Self { key, mark, context }
    }
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        self.context.relays.unmark(&self.key, self.mark);
        // If it stays, the agent finds it later.
        if let Err(error) = self.context.steering.lock().forget(&self.key, self.mark) {
            log::debug!("{error}");
        }
    }
}

/// Connects to the endpoint, from the endpoint's own address: the route back to the client's would not lead here.
async fn connect(to: SocketAddr, context: &Context) -> io::Result<(TcpStream, Marked<'_>)> {
    let socket = match to.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let mut from = to;
    from.set_port(0);
    socket.bind(from)?;
    let own = Marked::own(tuple(socket.local_addr()?, to), context)?;
    Ok((socket.connect(to).await?, own))
}

/// The first frame of a side, with which it announces its name.
#[derive(Default)]
struct First {
    bytes: Vec<u8>,
}

/// Bytes that an Associate has at most.
const FIRST: usize = 1024;

impl First {
    /// Whether the frame is complete, or none: then what follows is translated.
    fn is_complete(&self) -> bool {
        // Of a length whose end is missing, the least that it can be: other protocols wait for an answer to fewer bytes.
        let mut length = [0; 4];
        for (to, from) in length.iter_mut().zip(&self.bytes) {
            *to = *from;
        }
        let end = (u32::from_be_bytes(length) as usize).saturating_add(4);
        end > FIRST || self.bytes.len() >= end
    }

    /// The names that it announces.
    fn announced(&self) -> Option<(layout::System, Authority)> {
        let length = u32::from_be_bytes(*self.bytes.first_chunk()?) as usize;
        let (system, authority) = decode::announced(self.bytes.get(4..length.checked_add(4)?)?)?;
        Some((
            layout::System::new(system.as_bytes())?,
            Authority::new(authority.as_bytes())?,
        ))
    }
}

/// The first frame of the endpoint, which is kept back.
struct Head<'a> {
    first: First,
    /// What was known before.
    names: layout::Names,
    endpoint: Socket,
    inbound: &'a RefCell<Recoder>,
}

impl Head<'_> {
    /// The names that it announces.
    fn announced(&self) -> Option<layout::Names> {
        let (system, canonical) = self.first.announced()?;
        Some(layout::Names {
            learned_ns: Moment::now().ns(),
            canonical,
            system,
            ..layout::Names::default()
        })
    }
}

/// What is known of the client.
struct Guest {
    /// Its first frame, until it is read.
    first: Option<First>,
    peer: Peer,
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
    /// Whether it is noted that there is nothing to translate.
    is_noted: Cell<bool>,
    /// From the endpoint, until its first frame is read.
    head: &'a RefCell<Option<Head<'a>>>,
    /// To the endpoint.
    guest: RefCell<Option<Guest>>,
    accepted: &'a Marked<'a>,
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
            drop(rest);
            let kept = self.recoder.borrow().buffered();
            self.keep(kept)?;
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
        let read_bytes = input.get(..read).unwrap_or_default();
        if self.head.borrow().is_some() {
            self.read_head(read_bytes, output);
        } else {
            self.read_first(read_bytes);
            self.recoder.borrow_mut().push(read_bytes, output);
        }
        let kept = {
            let mut recoder = self.recoder.borrow_mut();
            if read == 0 {
                recoder.finish(output);
            }
            self.count(&recoder);
            recoder.buffered()
        };
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
        let rest = output.split_off(written);
        // A frame that was complete waits for a slow reader.
        self.keep(kept + rest.len().saturating_sub(READ))?;
        Ok((rest, read == 0))
    }

    /// Counts the bytes that this direction keeps, besides what is read at once.
    fn keep(&self, bytes: usize) -> io::Result<()> {
        if self.context.relays.keep(self.kept.replace(bytes), bytes) {
            return Ok(());
        }
        self.context.relays.counts().refused.fetch_add(1, Relaxed);
        let error = "frames need too much memory (memory of [relay])";
        Err(io::Error::other(error))
    }

    /// Takes the first bytes of the endpoint. Its name, which its first frame announces, counts before the client can
    /// have used it.
    fn read_head(&self, bytes: &[u8], output: &mut Vec<u8>) {
        let mut waiting = self.head.borrow_mut();
        let Some(head) = waiting.as_mut() else { return };
        head.first.bytes.extend_from_slice(bytes);
        if !head.first.is_complete() && !bytes.is_empty() {
            return;
        }
        if let Some(announced) = head.announced() {
            if let Err(error) = self.context.steering.lock().learn(head.endpoint, announced) {
                log::debug!("{error}");
            }
            let canonical = match head.names.configured {
                1 => head.names.canonical,
                _ => announced.canonical,
            };
            *self.open.connection.canonical.lock() = canonical;
            if canonical != head.names.canonical {
                // The client may be within a frame.
                head.inbound.borrow_mut().set_canonical(canonical);
                self.recoder.borrow_mut().set_canonical(canonical);
            }
        }
        let bytes = std::mem::take(&mut head.first.bytes);
        *waiting = None;
        self.recoder.borrow_mut().push(&bytes, output);
    }

    /// Reads what the client announces.
    fn read_first(&self, bytes: &[u8]) {
        let mut guest = self.guest.borrow_mut();
        let Some(Guest {
            first: waiting,
            peer,
        }) = guest.as_mut()
        else {
            return;
        };
        let Some(first) = waiting else { return };
        first
            .bytes
            .extend_from_slice(bytes.get(..FIRST.min(bytes.len())).unwrap_or_default());
        if !first.is_complete() {
            return;
        }
        if let Some((system, announced)) = first.announced() {
            (peer.system, peer.announced) = (system, announced);
            self.meet(peer);
        }
        *waiting = None;
    }

    /// Notes what is known of the client, for `truename peers` and the topology.
    fn meet(&self, peer: &mut Peer) {
        peer.seen_ns = Moment::now().ns();
        if let Err(error) = self.context.steering.lock().meet(&self.accepted.key, peer) {
            log::debug!("{error}");
        }
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
        self.open
            .connection
            .seen_ns
            .store(Moment::now().ns(), Relaxed);
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
        if recoder.is_opaque() && self.other.is_none() && !self.is_noted.replace(true) {
            // An endpoint that speaks another protocol, for example TLS: there is nothing to translate.
            self.note(true);
        }
        let Some(other) = self.other else { return };
        let mut other = other.borrow_mut();
        if other.alias().is_none()
            && let Some(alias) = recoder.alias()
        {
            other.set_alias(*alias);
            *self.open.connection.alias.lock() = Some(*alias);
            let fits = alias.len <= self.open.connection.canonical.lock().len;
            self.note(fits);
            if let Some(Guest { peer, .. }) = self.guest.borrow_mut().as_mut() {
                peer.alias = *alias;
                self.meet(peer);
            }
        }
    }

    /// Notes whether the client needs the relay. If it is not noted, its next connection is relayed as this one.
    fn note(&self, fits: bool) {
        if let Err(error) = self.context.steering.lock().note(&self.accepted.key, fits) {
            log::debug!("{error}");
        }
    }
}

impl Drop for Pump<'_> {
    fn drop(&mut self) {
        self.context.relays.keep(self.kept.get(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_frame_is_waited_for_as_long_as_it_can_be_one() {
        let is_complete = |bytes: &[u8]| {
            let bytes = bytes.to_vec();
            First { bytes }.is_complete()
        };
        for bytes in [&b""[..], &[0], &[0, 0, 3], &[0, 0, 0, 2], &[0, 0, 0, 2, 1]] {
            assert!(!is_complete(bytes), "{bytes:?}");
        }
        for bytes in [
            &b"h"[..],
            b"hi\n",
            &[0, 1],
            &[0, 0, 4],
            &[0, 0, 0, 0],
            &[0, 0, 0, 1, 1],
        ] {
            assert!(is_complete(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn an_address_loses_only_the_form_of_ipv6() {
        for (at, expected) in [
            ("[::ffff:10.0.0.1]:7", "10.0.0.1:7"),
            ("10.0.0.1:7", "10.0.0.1:7"),
            ("[fe80::1%3]:7", "[fe80::1%3]:7"),
        ] {
            assert_eq!(unmapped(at.parse().unwrap()).to_string(), expected);
        }
    }
}
