//! A TCP connection made of single packets.

use std::net::SocketAddr;

use super::{
    datagram::{Datagram, Kind},
    packet::{Received, Shape, flag},
    program::Program,
    run::{Place, Verdict},
};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who asked for the connection.
    Client,
    /// Who is asked.
    Endpoint,
}

/// A connection. Positions are offsets in the stream of a side. Every packet that comes out is checked:
/// the checksums, and that nothing changed but the payload.
#[derive(Clone, Copy)]
pub struct Talk<'a> {
    /// The program that sees the packets.
    pub program: &'a Program,
    /// What they look like.
    pub shape: Shape,
    /// Where the client is.
    pub client: SocketAddr,
    /// Where the endpoint is.
    pub endpoint: SocketAddr,
    /// Sequence numbers of the first bytes, by side.
    pub first: [u32; 2],
    /// Where the streams go on, by side.
    pub next: [usize; 2],
    /// Up to where the other side has acknowledged, by side.
    pub acked: [usize; 2],
    /// Whether the device has computed the sum of every packet.
    pub summed: bool,
}

impl Talk<'_> {
    /// The packet with `payload` at `at`.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn packet(&self, side: Side, at: usize, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (source, destination, other) = match side {
            Side::Client => (self.client, self.endpoint, 1),
            Side::Endpoint => (self.endpoint, self.client, 0),
        };
        // A SYN stands in front of the first byte.
        let syn = u32::from(flags & flag::SYN != 0);
        let seq = self.first[side as usize]
            .wrapping_add(at as u32)
            .wrapping_sub(syn);
        let ack = if flags & flag::ACK != 0 {
            self.first[other].wrapping_add(self.acked[other] as u32)
        } else {
            0
        };
        let kind = Kind::Tcp { seq, ack, flags };
        Datagram {
            shape: self.shape,
            source,
            destination,
            hop_limit: 64,
            kind,
            payload: payload.to_vec(),
        }
        .bytes()
    }

    /// Runs the program on a packet of this connection; `None` if it was dropped.
    ///
    /// # Panics
    /// A checksum is wrong, or a header changed.
    pub fn run(&self, packet: &[u8]) -> Option<Received> {
        let verdict = if self.summed {
            self.program.run_summed(Place::default(), packet)
        } else {
            self.program.run(packet)
        };
        match verdict.expect("the program runs") {
            Verdict::Drop => None,
            Verdict::Redirect(_) => panic!("the packet turned round"),
            Verdict::Next(out) => {
                let sent = self.shape.receive(packet).expect("what is sent is right");
                let received = self.shape.receive(&out).expect("what came out is right");
                self.assert_same_headers(packet, &out, sent.payload.len(), received.rst);
                Some(received)
            }
        }
    }

    fn assert_same_headers(&self, sent: &[u8], out: &[u8], payload: usize, reset: bool) {
        let trailer = self.trailer(sent);
        let tcp = sent.len() - trailer - payload - 20 - self.shape.tcp_options;
        let blank = |packet: &[u8]| {
            let mut packet = packet.to_vec();
            packet[tcp + 16..tcp + 18].fill(0);
            if reset {
                packet[tcp + 13] = 0;
            }
            let end = packet.len() - trailer;
            packet[end - payload..end].fill(0);
            packet
        };
        assert_eq!(blank(sent), blank(out), "a header or the padding changed");
    }

    /// Bytes behind the IP packet.
    fn trailer(&self, packet: &[u8]) -> usize {
        let ip = match self.shape.link {
            super::Link::Ethernet => 14,
            super::Link::Vlan => 18,
            super::Link::QinQ => 22,
            super::Link::Raw => 0,
        };
        let field = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let len = if self.client.is_ipv4() {
            field(ip + 2)
        } else {
            40 + field(ip + 4)
        };
        packet.len() - ip - len
    }

    /// Sends `payload` at `at`; `None` if it was dropped.
    pub fn send(&self, side: Side, at: usize, payload: &[u8]) -> Option<Vec<u8>> {
        let packet = self.packet(side, at, flag::ACK, payload);
        self.run(&packet).map(|received| received.payload)
    }

    /// Sends `payload` at `at`, which has to pass.
    ///
    /// # Panics
    /// It was dropped.
    pub fn passes(&self, side: Side, at: usize, payload: &[u8]) -> Vec<u8> {
        self.send(side, at, payload)
            .unwrap_or_else(|| panic!("{side:?} {at}: dropped"))
    }

    /// Sends `payload` at `at`, which has to be dropped.
    ///
    /// # Panics
    /// It passed.
    pub fn is_dropped(&self, side: Side, at: usize, payload: &[u8]) {
        if let Some(out) = self.send(side, at, payload) {
            panic!("{side:?} {at}: passed as \"{}\"", out.escape_ascii());
        }
    }

    /// Sends what comes next, which has to pass.
    pub fn says(&mut self, side: Side, payload: &[u8]) -> Vec<u8> {
        let out = self.passes(side, self.next[side as usize], payload);
        self.next[side as usize] += payload.len();
        out
    }

    /// Sends a packet without data.
    ///
    /// # Panics
    /// It does not pass unchanged.
    pub fn control(&self, side: Side, at: usize, flags: u8) {
        let packet = self.packet(side, at, flags, &[]);
        assert!(self.run(&packet).is_some());
    }

    /// Acknowledges the bytes of the other side up to `to`.
    pub fn acknowledges(&mut self, side: Side, to: usize) {
        let other = 1 - side as usize;
        self.acked[other] = to;
        self.control(side, self.next[side as usize], flag::ACK);
    }

    /// The three packets that open a connection.
    pub fn handshake(&self) {
        self.control(Side::Client, 0, flag::SYN);
        self.control(Side::Endpoint, 0, flag::SYN | flag::ACK);
        self.control(Side::Client, 0, flag::ACK);
    }
}
