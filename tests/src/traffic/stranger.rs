//! A third host on the network of client and server, which sends packets in their names.

use std::{net::SocketAddr, os::fd::OwnedFd};

use anyhow::{Context as _, Result};

use crate::{
    namespace::Namespace,
    prog_run::{Datagram, Kind, Shape},
    sys,
};

/// The third host. It sees nothing of what the others send.
#[derive(Debug)]
pub struct Stranger {
    socket: OwnedFd,
    /// The link address that everything is sent to: truename is there.
    server: [u8; 6],
}

/// A TCP segment that somebody else seems to have sent.
#[derive(Clone, Debug)]
pub struct Forged {
    /// Who seems to have sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Its sequence number.
    pub sequence: u32,
    /// What it acknowledges, if it has the flag for that.
    pub acknowledges: u32,
    /// Bits of [`crate::prog_run::flag`].
    pub flags: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Stranger {
    /// Its interface.
    pub(super) const INTERFACE: &str = "x0";

    /// One in a namespace, which sends by this interface.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn new(namespace: &Namespace, interface: &str, server: [u8; 6]) -> Result<Self> {
        let socket = namespace
            .run(|| sys::packet_socket(interface))?
            .context("open a packet socket")?;
        Ok(Self { socket, server })
    }

    /// Sends a forged segment to the server's host, whoever it is addressed to.
    ///
    /// # Errors
    /// The network is gone.
    pub fn send(&self, forged: &Forged) -> Result<()> {
        let mut frame = Datagram {
            shape: Shape::default(),
            source: forged.source,
            destination: forged.destination,
            hop_limit: 64,
            kind: Kind::Tcp {
                seq: forged.sequence,
                ack: forged.acknowledges,
                flags: forged.flags,
            },
            payload: forged.payload.clone(),
        }
        .bytes();
        frame[..6].copy_from_slice(&self.server);
        sys::send(&self.socket, &frame).context("send a forged segment")
    }
}
