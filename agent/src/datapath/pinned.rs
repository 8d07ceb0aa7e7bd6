//! The tables that are pinned.

use truename_common::layout::map;

/// Every pinned table, in the order of the catalogue.
pub const PINNED: [&str; 31] = [
    map::PORTS,
    map::ENDPOINTS,
    map::NAMES,
    map::LISTED,
    map::RPC_FLOWS,
    map::ONE_SIDED_FLOWS,
    map::HANDSHAKES,
    map::READY_PAGES,
    map::PAGES,
    map::HEADS,
    map::PEERS,
    map::ALIASES,
    map::SERVICES,
    map::SLOTS,
    map::TARGETS,
    map::CONNTRACK,
    map::MOVED,
    map::PORT_BITMAP,
    map::SETTINGS,
    map::PORT_TRY_HISTOGRAM,
    map::XDP_DEVICES,
    map::LINKS,
    map::ADDRESSES,
    map::ASKED,
    map::RELAYS,
    map::RELAY_LISTENERS,
    map::STEERED,
    map::CAPTURED,
    map::CAPTURED_UNTIL,
    map::COUNTERS,
    map::EVENTS,
];
