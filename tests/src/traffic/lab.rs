//! Namespaces with a client and a server, in the arrangements that truename has to work in.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    connection::Connection,
    line::{Impairment, Line, link_address},
    repair,
    stranger::Stranger,
};
use crate::{
    namespace::{Namespace, Offload, link},
    scratch::Scratch,
    socket, sys,
    truename::{Endpoint, Truename},
};

/// The port of the endpoint.
const PORT: u16 = 6123;
/// The number of the server's end of a line.
const SERVER_END: usize = 1;
/// How many addresses the client has.
const CLIENTS: u8 = 8;

/// A client and a server, and what is between them.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: what uses a namespace goes first.
    line: Option<Line>,
    /// A third host on the line.
    stranger: Option<Namespace>,
    listener: TcpListener,
    client: Namespace,
    server: Namespace,
    middle: Option<Namespace>,
    address: SocketAddr,
    interfaces: Vec<&'static str>,
    scratch: Scratch,
}

/// What TCP had to send again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repetitions {
    /// Segments.
    pub segments: u64,
    /// Times that the retransmission timer ran out.
    pub timeouts: u64,
}

impl std::ops::Sub for Repetitions {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            segments: self.segments - before.segments,
            timeouts: self.timeouts - before.timeouts,
        }
    }
}

/// How a client connects.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dial {
    /// Which of the client's addresses is used.
    pub from: u8,
    /// A fixed port.
    pub port: u16,
    /// Another address than the server's, by which it is reached too.
    pub to: Option<SocketAddr>,
    /// Largest segment, both ways.
    pub segment: Option<u16>,
    /// The first sequence number.
    pub sequence: Option<u32>,
    /// The size of the receive buffers.
    pub buffer: Option<usize>,
    /// The congestion control of both ends, if the kernel has it.
    pub congestion: Option<&'static str>,
}

impl Lab {
    /// Two namespaces and a cable; truename is on the server's interface.
    ///
    /// # Errors
    /// Not root.
    pub fn direct() -> Result<Self> {
        let (client, server) = (Namespace::new("c")?, Namespace::new("s")?);
        link((&client, "c0"), (&server, "s0"))?;
        address_v4(&client, &server)?;
        Self::finish(client, server, None, server_v4(), vec!["s0"])
    }

    /// The same with IPv6.
    ///
    /// # Errors
    /// Not root.
    pub fn direct_v6() -> Result<Self> {
        let (client, server) = (Namespace::new("c")?, Namespace::new("s")?);
        link((&client, "c0"), (&server, "s0"))?;
        for number in 0..CLIENTS {
            let address = client_v6(number);
            client.ip(&format!("address add {address}/64 dev c0 nodad"))?;
        }
        let address = server_v6();
        server.ip(&format!("address add {}/64 dev s0 nodad", address.ip()))?;
        Self::finish(client, server, None, address, vec!["s0"])
    }

    /// A router in the middle with truename on both of its interfaces: a packet passes the program twice.
    ///
    /// # Errors
    /// Not root.
    pub fn routed() -> Result<Self> {
        let (client, server, middle) = (
            Namespace::new("c")?,
            Namespace::new("s")?,
            Namespace::new("m")?,
        );
        link((&client, "c0"), (&middle, "m0"))?;
        link((&server, "s0"), (&middle, "m1"))?;
        // Two networks of their own; the server's address is the same as elsewhere.
        for number in 0..CLIENTS {
            client.ip(&format!("address add 10.98.0.{}/24 dev c0", number + 2))?;
        }
        middle.ip("address add 10.98.0.1/24 dev m0")?;
        middle.ip("address add 10.99.0.254/24 dev m1")?;
        server.ip(&format!("address add {}/24 dev s0", server_v4().ip()))?;
        client.ip("route add default via 10.98.0.1")?;
        server.ip("route add default via 10.99.0.254")?;
        middle.sysctl("net/ipv4/ip_forward", "1")?;
        Self::finish(client, server, Some(middle), server_v4(), vec!["m0", "m1"])
    }

    /// Client and server in one namespace, truename on its loopback.
    ///
    /// # Errors
    /// Not root.
    pub fn loopback() -> Result<Self> {
        let server = Namespace::new("l")?;
        for number in 0..CLIENTS {
            server.ip(&format!("address add {}/32 dev lo", client_v4(number)))?;
        }
        server.ip(&format!("address add {}/32 dev lo", server_v4().ip()))?;
        let client = server.clone();
        Self::finish(client, server, None, server_v4(), vec!["lo"])
    }

    /// A line between the two that delays packets and treats them badly; truename is on the server's
    /// interface. A third host is on the same network.
    ///
    /// # Errors
    /// Not root.
    pub fn impaired(impairment: Impairment, seed: u64) -> Result<Self> {
        let (client, server) = (Namespace::new("c")?, Namespace::new("s")?);
        let stranger = Namespace::new("x")?;
        let line = Line::start(
            [(&client, "c0"), (&server, "s0")],
            &[(&stranger, Stranger::INTERFACE)],
            impairment,
            seed,
        )?;
        for namespace in [&client, &server] {
            // A long delay needs as much under way as fits into it.
            for (key, largest) in [("tcp_rmem", 32), ("tcp_wmem", 32)] {
                let value = format!("4096 131072 {}", largest << 20);
                namespace.sysctl(&format!("net/ipv4/{key}"), &value)?;
            }
        }
        address_v4(&client, &server)?;
        let mut lab = Self::finish(client, server, None, server_v4(), vec!["s0"])?;
        lab.line = Some(line);
        lab.stranger = Some(stranger);
        Ok(lab)
    }

    /// Two cables: the client sends by one and the server by the other. truename is on the server's
    /// interface of the first only, so that it sees what the client sends and no answer.
    ///
    /// # Errors
    /// Not root.
    pub fn asymmetric() -> Result<Self> {
        let (client, server) = (Namespace::new("c")?, Namespace::new("s")?);
        link((&client, "c0"), (&server, "s0"))?;
        link((&client, "c1"), (&server, "s1"))?;
        address_v4(&client, &server)?;
        client.ip("address add 10.98.0.2/24 dev c1")?;
        server.ip("address add 10.98.0.1/24 dev s1")?;
        for (namespace, interfaces) in [(&client, ["c0", "c1"]), (&server, ["s0", "s1"])] {
            for interface in ["all"].into_iter().chain(interfaces) {
                namespace.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
            }
        }
        let own = server_v4().ip();
        for number in 0..CLIENTS {
            let back = client_v4(number);
            server.ip(&format!(
                "route add {back}/32 via 10.98.0.2 dev s1 src {own}"
            ))?;
        }
        Self::finish(client, server, None, server_v4(), vec!["s0"])
    }

    fn finish(
        client: Namespace,
        server: Namespace,
        middle: Option<Namespace>,
        address: SocketAddr,
        interfaces: Vec<&'static str>,
    ) -> Result<Self> {
        let listener = server
            .run(|| socket::listen(address))?
            .context("listen as the server")?;
        Ok(Self {
            line: None,
            stranger: None,
            listener,
            client,
            server,
            middle,
            address,
            interfaces,
            scratch: Scratch::new("lab")?,
        })
    }

    /// Starts truename with the server as its only endpoint.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn truename(&self, canonical: Option<&str>) -> Result<Truename> {
        self.truename_services(canonical, &[])
    }

    /// The same with a given binary.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn truename_of(&self, binary: PathBuf, canonical: Option<&str>) -> Result<Truename> {
        let endpoint = self.endpoint(canonical);
        let namespace = self.host();
        Truename::start_binary(
            binary,
            namespace,
            &self.scratch,
            &self.interfaces,
            &[endpoint],
        )
    }

    /// The same with the relay.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn truename_relay(&self, binary: PathBuf, canonical: Option<&str>) -> Result<Truename> {
        let endpoint = self.endpoint(canonical);
        let namespace = self.host();
        Truename::start_relay(
            binary,
            namespace,
            &self.scratch,
            &self.interfaces,
            &[endpoint],
        )
    }

    fn endpoint(&self, canonical: Option<&str>) -> Endpoint {
        Endpoint {
            listen: self.address,
            canonical: canonical.map(str::to_owned),
        }
    }

    /// The same, and the server has other addresses too.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn truename_services(
        &self,
        canonical: Option<&str>,
        aliases: &[SocketAddr],
    ) -> Result<Truename> {
        let endpoint = self.endpoint(canonical);
        let namespace = self.host();
        let services: Vec<_> = aliases.iter().map(|alias| (*alias, self.address)).collect();
        Truename::start_services(
            namespace,
            &self.scratch,
            &self.interfaces,
            &[endpoint],
            &services,
        )
    }

    /// The client's namespace.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The server's namespace.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// The namespace that truename is in.
    pub fn host(&self) -> &Namespace {
        self.middle.as_ref().unwrap_or(&self.server)
    }

    /// The interfaces that truename is on.
    pub fn interfaces(&self) -> &[&'static str] {
        &self.interfaces
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The line of an impaired lab.
    pub fn line(&self) -> Option<&Line> {
        self.line.as_ref()
    }

    /// The third host of an impaired lab.
    ///
    /// # Errors
    /// The lab has none.
    pub fn stranger(&self) -> Result<Stranger> {
        let namespace = self.stranger.as_ref().context("no third host")?;
        Stranger::new(namespace, Stranger::INTERFACE, link_address(SERVER_END))
    }

    /// What both ends have sent again so far.
    ///
    /// # Errors
    /// The kernel does not count it.
    pub fn repetitions(&self) -> Result<Repetitions> {
        let mut sum = Repetitions::default();
        for namespace in [&self.client, &self.server] {
            sum.segments += namespace.tcp_count("snmp", "Tcp", "RetransSegs")?;
            sum.timeouts += namespace.tcp_count("netstat", "TcpExt", "TCPTimeouts")?;
        }
        Ok(sum)
    }

    /// Switches segmentation offloads of the two ends on or off.
    ///
    /// # Errors
    /// The lab has no such interfaces.
    pub fn segmentation_offload(&self, on: bool) -> Result<()> {
        for offload in Offload::SEGMENTATION {
            self.client.offload("c0", offload, on)?;
            self.server.offload("s0", offload, on)?;
        }
        Ok(())
    }

    /// Switches the checksum offload of the two ends on or off.
    ///
    /// # Errors
    /// The lab has no such interfaces.
    pub fn checksum_offload(&self, on: bool) -> Result<()> {
        self.client.offload("c0", Offload::TransmitChecksum, on)?;
        self.server.offload("s0", Offload::TransmitChecksum, on)
    }

    /// Connects the client with the server.
    ///
    /// # Errors
    /// No connection within the deadline.
    pub fn connect(&self, dial: Dial) -> Result<Connection> {
        if let Some(buffer) = dial.buffer {
            // Inherited by the connection that is accepted.
            set_receive_buffer(&self.listener, buffer)?;
        }
        if let Some(segment) = dial.segment {
            set_segment(&self.listener, segment)?;
        }
        if let Some(congestion) = dial.congestion {
            set_congestion(&self.listener, congestion)?;
        }
        let client = self.dial(dial)?;
        let own = client
            .local_addr()
            .context("ask for the client's address")?;
        let (server, peer) = self.listener.accept().context("accept the client")?;
        ensure!(
            peer == own || dial.to.is_some(),
            "{peer} was accepted instead of {own}"
        );
        Connection::new(client, server)
    }

    /// The client's end alone: somebody else accepts.
    ///
    /// # Errors
    /// No connection within the deadline.
    pub fn dial(&self, dial: Dial) -> Result<TcpStream> {
        let from = self.client_address(&dial);
        let to = dial.to.unwrap_or(self.address);
        self.client
            .run(|| open(from, to, &dial))?
            .with_context(|| format!("connect {from} to {to}"))
    }

    /// A connection that exists without a handshake on the wire, with the given next sequence numbers of
    /// client and server, as if it had been there before anybody looked.
    ///
    /// # Errors
    /// The kernel does not allow it.
    pub fn established(&self, dial: Dial, sequences: (u32, u32)) -> Result<Connection> {
        ensure!(dial.port != 0, "an established connection needs a port");
        let from = self.client_address(&dial);
        let to = self.address;
        let client = self
            .client
            .run(|| repair::restore(from, to, sequences))?
            .context("restore the client's socket")?;
        let server = self
            .server
            .run(|| repair::restore(to, from, (sequences.1, sequences.0)))?
            .context("restore the server's socket")?;
        // Both exist: now they may speak.
        for socket in [&client, &server] {
            repair::speak(socket).context("end the repair of the socket")?;
        }
        Connection::new(TcpStream::from(client), TcpStream::from(server))
    }

    fn client_address(&self, dial: &Dial) -> SocketAddr {
        let number = dial.from % CLIENTS;
        let address = match self.address.ip() {
            IpAddr::V6(_) => IpAddr::V6(client_v6(number)),
            IpAddr::V4(_) if self.middle.is_some() => {
                IpAddr::V4(Ipv4Addr::new(10, 98, 0, number + 2))
            }
            IpAddr::V4(_) => IpAddr::V4(client_v4(number)),
        };
        SocketAddr::new(address, dial.port)
    }
}

fn server_v4() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), PORT)
}

fn client_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number + 2)
}

fn server_v6() -> SocketAddr {
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0xfd00, 99, 0, 0, 0, 0, 0, 1)),
        PORT,
    )
}

fn client_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 99, 0, 0, 0, 0, 0, u16::from(number) + 2)
}

fn address_v4(client: &Namespace, server: &Namespace) -> Result<()> {
    for number in 0..CLIENTS {
        client.ip(&format!("address add {}/24 dev c0", client_v4(number)))?;
    }
    server.ip(&format!("address add {}/24 dev s0", server_v4().ip()))?;
    Ok(())
}

fn open(from: SocketAddr, to: SocketAddr, dial: &Dial) -> std::io::Result<TcpStream> {
    let socket = socket::stream(to)?;
    if let Some(buffer) = dial.buffer {
        set_receive_buffer(&socket, buffer)?;
    }
    if let Some(segment) = dial.segment {
        set_segment(&socket, segment)?;
    }
    if let Some(congestion) = dial.congestion {
        set_congestion(&socket, congestion)?;
    }
    if let Some(sequence) = dial.sequence {
        repair::begin_at(&socket, sequence)?;
    }
    sys::bind(&socket, from)?;
    sys::connect(&socket, to)?;
    Ok(TcpStream::from(socket))
}

/// A kernel that has no such congestion control goes on with its own.
fn set_congestion(socket: &impl std::os::fd::AsFd, name: &str) -> std::io::Result<()> {
    match sys::set_congestion(socket, name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        set => set,
    }
}

fn set_segment(socket: &impl std::os::fd::AsFd, segment: u16) -> std::io::Result<()> {
    let segment = libc::c_int::from(segment);
    sys::set_option(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, segment)
}

fn set_receive_buffer(socket: &impl std::os::fd::AsFd, size: usize) -> std::io::Result<()> {
    let size = libc::c_int::try_from(size).map_err(std::io::Error::other)?;
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, size)
}
