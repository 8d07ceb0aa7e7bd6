//! Telling the agent.

use truename_common::layout::{Authority, Counter, Event, EventKind, FiveTuple};

use crate::{
    bpf::clock,
    maps::{EVENTS, count},
};

/// Writes an event to the ring buffer.
#[inline(never)]
pub fn raise(kind: EventKind, detail: u32, key: &FiveTuple, text: &Authority) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(Counter::EventLost, 1);
        return;
    };
    let to = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and as large as an event. Written field by
    // field, as an event does not fit on the stack beside the rest.
    unsafe {
        (&raw mut (*to).time_ns).write(clock::now());
        (&raw mut (*to).kind).write(kind as u32);
        (&raw mut (*to).detail).write(detail);
        (&raw mut (*to).flow).write(*key);
        (&raw mut (*to).text).write(*text);
        (&raw mut (*to).pad).write([0; 6]);
    }
    entry.submit(0);
}
