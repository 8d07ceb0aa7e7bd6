//! Sockets of our own, for what real clients do not show: errors, repeated SYNs, hop limits, connections that are
//! not there yet.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    namespace::Namespace,
    socket,
    sys::{self, NetworkError},
    traffic::DEADLINE,
    wait::wait_until,
};

/// Connects from a given address and port (0: any) in a namespace.
///
/// # Errors
/// As `connect` says.
pub fn connect(namespace: &Namespace, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let stream = namespace
        .run(|| socket::connect(from, to))?
        .with_context(|| format!("connect {from} to {to}"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// How often the handshake of a connection had to be repeated. To be asked before data is sent.
///
/// # Errors
/// The kernel does not tell.
pub fn syn_repeats(stream: &TcpStream) -> Result<u32> {
    let info = sys::tcp_info(stream).context("ask for the repetitions")?;
    Ok(info.tcpi_total_retrans)
}

/// A connection that is being made.
#[derive(Debug)]
pub struct Attempt {
    stream: TcpStream,
}

impl Attempt {
    /// Sends the first SYN.
    ///
    /// # Errors
    /// The kernel refuses at once.
    pub fn start(namespace: &Namespace, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let stream = namespace.run(|| {
            let socket = socket::stream(to)?;
            sys::bind(&socket, from)?;
            let stream = TcpStream::from(socket);
            stream.set_nonblocking(true)?;
            match sys::connect(&stream, to) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                _ => Ok(stream),
            }
        })?;
        let stream = stream.with_context(|| format!("connect {from} to {to}"))?;
        Ok(Self { stream })
    }

    /// Waits until the SYN was repeated, because nobody answers.
    ///
    /// # Errors
    /// It is not.
    pub fn wait_repeated(&self) -> Result<()> {
        wait_until(DEADLINE, "a repeated SYN", || {
            let info = sys::tcp_info(&self.stream)?;
            ensure!(info.tcpi_retransmits > 0, "none yet");
            Ok(())
        })
    }

    /// Waits for the connection.
    ///
    /// # Errors
    /// It fails, or takes too long.
    pub fn finish(self) -> Result<TcpStream> {
        sys::wait(&[&self.stream], libc::POLLOUT, DEADLINE).context("wait for the connection")?;
        let stream = self.stream;
        if let Some(error) = stream.take_error().context("ask how it ended")? {
            return Err(error).context("connect");
        }
        stream.peer_addr().context("there is no connection")?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(stream)
    }
}

/// A datagram socket that never fragments and hears what the network says about its datagrams.
#[derive(Debug)]
pub struct Probe {
    socket: UdpSocket,
    to: IpAddr,
}

impl Probe {
    /// Connects from a given address and port (0: any).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn start(namespace: &Namespace, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let socket = namespace.run(|| {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(DEADLINE))?;
            Ok::<_, io::Error>(socket)
        })?;
        let socket = socket.with_context(|| format!("connect {from} to {to}"))?;
        let probe = Self {
            socket,
            to: to.ip(),
        };
        probe.set(libc::IP_RECVERR, libc::IPV6_RECVERR, 1)?;
        probe.set(
            libc::IP_MTU_DISCOVER,
            libc::IPV6_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        )?;
        Ok(probe)
    }

    /// Lets datagrams pass so many routers less one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_hops(&self, hops: u8) -> Result<()> {
        self.set(libc::IP_TTL, libc::IPV6_UNICAST_HOPS, hops.into())
    }

    /// Gives what is sent this class of service.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_class(&self, class: u8) -> Result<()> {
        self.set(libc::IP_TOS, libc::IPV6_TCLASS, class.into())
    }

    /// Gives what is sent this mark.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_mark(&self, mark: libc::c_int) -> Result<()> {
        let set = sys::set_option(&self.socket, libc::SOL_SOCKET, libc::SO_MARK, mark);
        set.context("set the mark")
    }

    /// Lets datagrams be sent in fragments.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn fragment(&self) -> Result<()> {
        self.set(
            libc::IP_MTU_DISCOVER,
            libc::IPV6_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        )
    }

    /// Waits no longer than this for a datagram.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        let set = self.socket.set_read_timeout(Some(patience));
        set.context("set the time to wait")
    }

    /// Sends a datagram with so many bytes.
    ///
    /// # Errors
    /// As `send` says.
    pub fn send(&self, length: usize) -> io::Result<()> {
        self.socket.send(&vec![0x55; length]).map(drop)
    }

    /// Receives a datagram; answers its length.
    ///
    /// # Errors
    /// As `recv` says.
    pub fn receive(&self) -> io::Result<usize> {
        let mut bytes = vec![0; 1 << 16];
        loop {
            match self.socket.recv(&mut bytes) {
                // A socket with a timeout is not read again after a signal (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => return received,
            }
        }
    }

    /// The next thing that the network says.
    ///
    /// # Errors
    /// It says nothing, or a datagram comes instead.
    pub fn network_error(&self) -> Result<NetworkError> {
        sys::wait(&[&self.socket], libc::POLLIN, DEADLINE).context("wait for an error")?;
        match sys::take_error(&self.socket) {
            Ok(error) => Ok(error),
            Err(error) => match self.receive() {
                Ok(length) => bail!("{length} bytes came instead of an error"),
                Err(_) => Err(error).context("take the error"),
            },
        }
    }

    /// The MTU that the kernel believes in.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn mtu(&self) -> Result<i32> {
        let (level, name) = self.option(libc::IP_MTU, libc::IPV6_MTU);
        sys::option(&self.socket, level, name).context("ask for the MTU")
    }

    fn option(&self, v4: libc::c_int, v6: libc::c_int) -> (libc::c_int, libc::c_int) {
        match self.to {
            IpAddr::V4(_) => (libc::IPPROTO_IP, v4),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, v6),
        }
    }

    fn set(&self, v4: libc::c_int, v6: libc::c_int, value: libc::c_int) -> Result<()> {
        let (level, name) = self.option(v4, v6);
        sys::set_option(&self.socket, level, name, value).context("set an option")
    }
}

/// Some bytes pass in both directions.
///
/// # Errors
/// They do not arrive.
pub fn talk(one: &mut TcpStream, other: &mut TcpStream) -> Result<()> {
    let say = |from: &mut TcpStream, to: &mut TcpStream| {
        let mut got = [0; 5];
        from.write_all(b"hello").context("send")?;
        to.read_exact(&mut got).context("receive")?;
        ensure!(&got == b"hello", "{got:?} arrived");
        Ok(())
    };
    say(one, other)?;
    say(other, one)
}

/// Ends a connection by a reset.
///
/// # Errors
/// The kernel refuses.
pub fn reset(stream: TcpStream) -> Result<()> {
    sys::reset_on_close(&stream).context("prepare the reset")
}
