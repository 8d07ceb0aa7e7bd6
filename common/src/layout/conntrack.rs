use super::{FiveTuple, Socket, plain};

/// Where a connection is in its life.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConntrackState {
    /// TCP: the client sent a SYN, or anything else of a connection that is picked up on its way.
    SynSent = 0,
    /// TCP: the target answered it.
    SynReceived = 1,
    /// TCP: the handshake is complete.
    Established = 2,
    /// TCP: one side sent a FIN.
    HalfClosed = 3,
    /// TCP: both sides sent a FIN.
    TimeWait = 4,
    /// TCP: a RST was sent.
    Closed = 5,
    /// UDP: the target has not answered.
    Unreplied = 6,
    /// UDP: it has.
    Replied = 7,
}

impl ConntrackState {
    /// How many there are.
    pub const COUNT: usize = 8;
    /// All states, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::HalfClosed,
        Self::TimeWait,
        Self::Closed,
        Self::Unreplied,
        Self::Replied,
    ];

    /// The state with this number, modulo [`Self::COUNT`].
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number & 7 {
            0 => Self::SynSent,
            1 => Self::SynReceived,
            2 => Self::Established,
            3 => Self::HalfClosed,
            4 => Self::TimeWait,
            5 => Self::Closed,
            6 => Self::Unreplied,
            _ => Self::Replied,
        }
    }

    /// The word in tables and filters.
    pub const fn label(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::HalfClosed => "half_closed",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
        }
    }
}

/// A translated connection, both directions.
///
/// Its key is the [`FiveTuple`] that the target sees, which no two connections share: so a reply
/// finds it at once, it reserves its source port by existing, and it is the key of the connection's
/// [`super::RpcFlow`] too. A packet of the client finds it by way of its service
/// (`crate::nat::lookup`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conntrack {
    /// The client, and the alias that it addresses.
    pub client: [u8; 16],
    pub alias: [u8; 16],
    pub client_port: u16,
    pub alias_port: u16,
    /// [`super::Service::id`].
    pub service: u32,
    /// `CLOCK_MONOTONIC` nanoseconds of the last packet, to a timer tick.
    pub seen_ns: u64,
    /// Bytes of the IP packets from the client, and to it.
    pub sent: u64,
    pub received: u64,
    /// `CLOCK_MONOTONIC` seconds.
    pub created_s: u32,
    /// A [`ConntrackState`].
    pub state: u8,
    /// Bits of [`conntrack_flags`].
    pub flags: u8,
    /// Which candidate of `crate::nat::source_port` the source port is.
    pub tries: u8,
    /// Bits of [`conntrack_marks`].
    pub marks: u8,
    /// TCP: the sequence number behind the last byte that the client was seen to send, and the target. 0: unknown.
    pub ends: [u32; 2],
    /// TCP: what the client acknowledged last, and the target. 0: unknown.
    pub acked: [u32; 2],
}

/// Bits of [`Conntrack::flags`].
pub mod conntrack_flags {
    /// The client sent a FIN.
    pub const FIN_CLIENT: u8 = 1;
    /// The target sent a FIN.
    pub const FIN_TARGET: u8 = 2;
    /// The target is this host.
    pub const LOCAL: u8 = 4;
    /// The client's own source port or address was replaced.
    pub const SNAT: u8 = 8;
    /// The client addressed the target itself, with a source port that another connection, through
    /// an alias, has there.
    pub const DIRECT: u8 = 16;
    /// The client is this host, and reached the alias by way of the loopback interface.
    pub const LOOPBACK: u8 = 32;
    /// The client's address was replaced, not only its port.
    pub const MASKED: u8 = 64;
    /// The client's FIN came first: the target keeps no TIME_WAIT of the connection.
    pub const CLIENT_FIRST: u8 = 128;

    /// Whether what the target sends leaves the host's stack towards the client by itself.
    #[inline(always)]
    pub const fn is_routed_by_stack(flags: u8) -> bool {
        flags & DIRECT != 0 || flags & (LOCAL | MASKED) == LOCAL
    }
}

/// Bits of [`Conntrack::marks`].
pub mod conntrack_marks {
    /// A direct connection of the client had the same source port, and gave it up. It is the only case in which a
    /// translated packet to the client looks like one that has to be translated.
    pub const TWIN: u8 = 1;
    /// The host's stack forwards its packets, and netfilter sees client and target: they are translated when they come
    /// in from the client, and when they leave to it.
    pub const BY_STACK: u8 = 2;
    /// The RST that closed it seemed to come from the client, or from the target. Whoever goes on did not send it.
    pub const RST_CLIENT: u8 = 4;
    pub const RST_TARGET: u8 = 8;
    /// Two bits each, of packets of the client and of the target: when XDP last left one to tc, in units of
    /// [`super::super::nat::TURN_SHIFT`].
    pub const TURN_CLIENT: u32 = 4;
    pub const TURN_TARGET: u32 = 6;
}

plain!(Conntrack = 88);

// With the table's overhead of 64 bytes an entry has 192.
const _: () =
    assert!(core::mem::size_of::<FiveTuple>() + core::mem::size_of::<Conntrack>() + 64 <= 192);

impl Conntrack {
    /// What the client sees: itself and the alias.
    pub const fn original(&self, protocol: u8) -> FiveTuple {
        FiveTuple {
            client: self.client,
            endpoint: self.alias,
            client_port: self.client_port,
            endpoint_port: self.alias_port,
            protocol,
            pad: [0; 3],
        }
    }

    /// The alias.
    pub const fn alias(&self, protocol: u8) -> Socket {
        Socket {
            address: self.alias,
            port: self.alias_port,
            protocol,
            pad: 0,
        }
    }
}
