/// Defines the counters: one enum for the kernel, the metric label and the CLI's text.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $label:literal),+ $(,)?) => {
        /// Index into [`super::map::COUNTERS`]. New ones are appended; numbers never change.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Counter { $($(#[$doc])* $name),+ }

        impl Counter {
            /// All counters, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The label in metrics and tables.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),+ }
            }
        }
    };
}

counters! {
    /// Packets looked at, every pass of a hook.
    Packets = "packets",
    /// Packets of an endpoint's flows.
    RpcPackets = "rpc_packets",
    /// Frames whose recipient was translated.
    RewrittenInbound = "rewritten_inbound",
    /// Occurrences of the canonical name that were translated.
    RewrittenOutbound = "rewritten_outbound",
    /// Frames that were walked.
    Frames = "frames",
    /// Retransmitted segments to which logged edits were applied again.
    Reapplied = "reapplied",
    /// An alias is longer than the canonical name: the flow is left alone, or its successor relayed.
    NoFit = "no_fit",
    /// A recipient that the endpoint's list of aliases does not admit.
    NotAdmitted = "not_admitted",
    /// A flow found in the middle and adopted at a plausible frame.
    Adopted = "adopted",
    /// Segments of flows that are not adopted yet, passed unchanged.
    Unsynchronised = "unsynchronised",
    /// A stream whose bytes passed unseen; walking began again at a plausible frame.
    Resynchronised = "resynchronised",
    /// A segment beyond a hole that could hide a header, dropped until TCP sends it in order.
    DroppedHole = "dropped_hole",
    /// A segment that ends inside a name, dropped until the bytes behind it are seen.
    DroppedHeld = "dropped_held",
    /// A segment dropped because there was no memory to remember its edits.
    DroppedMemory = "dropped_memory",
    /// A segment dropped because another CPU held the flow for too long.
    DroppedContended = "dropped_contended",
    /// A segment dropped because the packet could not be written (out of memory).
    DroppedStore = "dropped_store",
    /// A name cut by segments that was translated although its end could not be awaited.
    Guessed = "guessed",
    /// A guess that was wrong; the connection was reset before the frame was complete.
    ResetMisguess = "reset_misguess",
    /// Not remoting: the first bytes are no frame.
    NotFrame = "not_frame",
    /// TLS: nothing can be read.
    Tls = "tls",
    /// A frame length above any configured maximum.
    TooLong = "too_long",
    /// A frame whose inner lengths contradict each other, passed unchanged.
    Malformed = "malformed",
    /// A recipient that is no actor path with an authority, passed unchanged.
    NoAuthority = "no_authority",
    /// A recipient of another actor system than the endpoint's, passed unchanged.
    OtherSystem = "other_system",
    /// An IP fragment of a flow to an endpoint's port, passed unchanged.
    Fragment = "fragment",
    /// Headers that could not be read, passed unchanged.
    Unparsed = "unparsed",
    /// A new flow that found the flow table full, passed unchanged.
    TableFull = "table_full",
    /// A recipient cut by segments that was left as it is, because its end could not be awaited.
    Cut = "cut",
    /// An event that found the ring buffer full.
    EventLost = "event_lost",
    /// Packets of clients, translated.
    NatSent = "nat_sent",
    /// Packets to clients, translated.
    NatReceived = "nat_received",
    /// ICMP errors about translated packets, translated.
    NatIcmp = "nat_icmp",
    /// Connections begun.
    NatNew = "nat_new",
    /// Connections begun whose source port was replaced because the target had it in use.
    NatRemapped = "nat_remapped",
    /// Packets that would begin a connection, dropped because the connection table is full.
    NatTableFull = "nat_table_full",
    /// Packets that would begin a connection, dropped because no source port was free.
    NatPortsExhausted = "nat_ports_exhausted",
    /// Packets that would begin a connection to a service without a target, answered with an ICMP error.
    NatNoTarget = "nat_no_target",
    /// Packets to an alias that begin no connection and belong to none: passed unchanged, or dropped if no interface
    /// has the alias.
    NatNoConnection = "nat_no_connection",
    /// Fragments of a service's packets, translated.
    NatFragment = "nat_fragment",
    /// Translated packets that have no route, or whose next hop says no link address for two seconds: answered with an
    /// ICMP error.
    NatNoRoute = "nat_no_route",
    /// Translated packets dropped because the interface they came from does not forward.
    NatForwardingOff = "nat_forwarding_off",
    /// Packets whose hop limit is used up, answered with an ICMP error.
    NatHopLimit = "nat_hop_limit",
    /// Packets larger than the next link's MTU, answered with an ICMP error.
    NatTooBig = "nat_too_big",
    /// ICMP errors that were due and not sent: too many, or no memory.
    NatErrorUnsent = "nat_error_unsent",
    /// Packets that could not be written (out of memory), dropped.
    NatStore = "nat_store",
    /// ICMP errors about a service's packets that belong to no connection: passed unchanged, or dropped if no interface
    /// has the alias.
    NatIcmpUnknown = "nat_icmp_unknown",
    /// Packets forwarded in XDP.
    XdpForwarded = "xdp_forwarded",
    /// A segment beyond the window that the receiver advertises, dropped.
    OutOfWindow = "out_of_window",
    /// A segment, SYN, RST or acknowledgement that TCP itself would not accept: it changes nothing.
    NotAccepted = "not_accepted",
    /// A connection reset because there was no memory to remember its edits.
    ResetMemory = "reset_memory",
    /// Packets of services in frames for another host, from other hosts to or from a loopback address, or with a
    /// source that the stack refuses (an address of this host, strict `rp_filter`): passed unchanged.
    NatStrangers = "nat_strangers",
    /// Connections that the kernel program removed because a new one found the table full: those that had timed out,
    /// that never became connections, and with `when_full = "evict"` others that were over or not answered.
    NatCollected = "nat_collected",
    /// Packets of endpoints that passed without a look at their RPC headers, because somebody took the program for them
    /// out of its table.
    RpcUnavailable = "rpc_unavailable",
    /// Connections reset because their alias is longer than the canonical name, so that the client's next one is relayed.
    ResetRelay = "reset_relay",
    /// New connections that were given to the relay.
    RelaySteered = "relay_steered",
    /// New connections refused because no agent runs the relay, or because the endpoint does not listen.
    RelayRefused = "relay_refused",
    /// DNS questions of containers over UDP for names of the cluster, answered by the kernel program.
    NamesCaptured = "names_captured",
    /// DNS questions of containers for other names, and what is no plain question, passed unchanged.
    NamesPassed = "names_passed",
    /// DNS questions of containers passed unchanged because no agent runs.
    NamesAway = "names_away",
    /// Answers to DNS questions that could not be written (out of memory): the question passes or is dropped.
    NamesStore = "names_store",
    /// SYNs that were not refused although no agent runs the relay: TCP sends them again.
    RelayHeld = "relay_held",
    /// A new flow that could not be noted although the flow table has room (out of memory), passed unchanged.
    FlowStore = "flow_store",
}
