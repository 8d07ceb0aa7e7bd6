//! Packets that come in fragments: only the first one has ports, which the others are looked up with.

use crate::{
    maps::{FRAGMENTS, FragmentKey},
    ports::wanted,
    scratch::Headers,
};

/// Values of [`super::Headers::fragment`].
///
/// The packet is whole.
pub const WHOLE: u8 = 0;
/// The first of several.
pub const FIRST: u8 = 1;
/// Another one.
pub const LATER: u8 = 2;

impl FragmentKey {
    #[inline(always)]
    fn of(headers: &Headers) -> Self {
        Self {
            source: headers.source,
            destination: headers.destination,
            id: headers.id,
            protocol: u32::from(headers.protocol),
        }
    }
}

/// Notes the ports of a first fragment.
#[inline(always)]
pub fn note(headers: &Headers) {
    let ports = [headers.source_port, headers.destination_port];
    // One that could not be noted is as one whose first fragment was not seen.
    let _ = FRAGMENTS.insert(&FragmentKey::of(headers), &ports, 0);
}

/// Gives a later fragment the ports of its packet, if the first one was seen. Returns bits of [`wanted`].
#[inline(always)]
pub fn look_up(headers: &mut Headers) -> u32 {
    // SAFETY: the value is four bytes; one that is used again meanwhile is another packet's, with the same addresses and number.
    let Some([source, destination]) = unsafe { FRAGMENTS.get(&FragmentKey::of(headers)) }.copied()
    else {
        return 0;
    };
    headers.source_port = source;
    headers.destination_port = destination;
    wanted(headers.protocol, false, source, destination)
}
