//! The state of a flow, to be compared.

use truename_common::{
    layout::{DirectionState, MAIN, Range},
    wire::stream::Direction,
};

use super::Connection;

/// What of a flow decides what its bytes are translated to.
#[derive(Debug, PartialEq)]
pub struct State {
    directions: [Half; 2],
    canonical: Vec<u8>,
    alias: Vec<u8>,
    peer_alias: Vec<u8>,
    system: Vec<u8>,
    origin: Vec<u8>,
    flags: u32,
}

#[derive(Debug, PartialEq)]
struct Half {
    flags: u32,
    acked: u64,
    claimed: u64,
    window: u32,
    high: u32,
    drops: [u32; 4],
    islands: u32,
    careful: u32,
    counts: [u64; 2],
    cursor: u32,
    position: u64,
    ranges: Vec<Range>,
}

/// Fails with what is not the same in two states.
pub fn same(one: &State, other: &State, what: impl Fn() -> String) {
    if one != other {
        let (one, other) = (format!("{one:#?}"), format!("{other:#?}"));
        let lines = one.lines().zip(other.lines());
        let different: Vec<_> = lines.filter(|(one, other)| one != other).collect();
        panic!("{}: {different:?}", what());
    }
}

impl State {
    pub fn of(connection: &Connection) -> Self {
        let flow = &connection.flow;
        let names = &flow.names;
        Self {
            directions: [
                Half::of(&flow.inbound, Direction::Inbound),
                Half::of(&flow.outbound, Direction::Outbound),
            ],
            canonical: names.canonical.as_bytes().to_vec(),
            alias: names.alias.as_bytes().to_vec(),
            peer_alias: names.peer_alias.as_bytes().to_vec(),
            system: names.system.as_bytes().to_vec(),
            origin: names.origin.as_bytes().to_vec(),
            flags: flow.flags,
        }
    }
}

impl Half {
    fn of(direction: &DirectionState, way: Direction) -> Self {
        let used = |(index, range): (usize, &Range)| {
            let mut range = *range;
            if way == Direction::Outbound && range.walker.flags == 0 {
                // Up to where the last name was written: nobody reads it before the next one.
                range.walker.authority = 0;
            }
            if way == Direction::Inbound && range.walker.at_boundary() {
                // Nothing of the next frame's length was read.
                range.walker.value = 0;
            }
            (index == MAIN || range.start != range.end).then_some(range)
        };
        Self {
            flags: direction.flags,
            acked: direction.acked,
            claimed: direction.claimed,
            window: direction.window,
            high: direction.high,
            drops: [
                direction.hole_seq,
                direction.hole_drops,
                direction.held_drops.into(),
                direction.short_since,
            ],
            islands: direction.islands,
            careful: direction.careful,
            counts: [direction.frames, direction.edits],
            cursor: direction.cursor(),
            position: direction.position,
            ranges: direction
                .ranges
                .iter()
                .enumerate()
                .filter_map(used)
                .collect(),
        }
    }
}
