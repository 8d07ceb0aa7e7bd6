//! Texts of equal length for one another.
//!
//! Receivers parse the port as an integer, so zeros in front of it are filler that can stand in any
//! actor path (`Address.scala`, `AddressFromURIString`, of Akka 2.3–2.6 and Pekko 1.x).

use crate::layout::{Authority, System};

/// Appends `:` and the decimal port.
#[inline(always)]
pub fn push_port(to: &mut Authority, port: u16) {
    to.push(b':');
    let mut unit = 10_000;
    let mut begun = false;
    while unit > 0 {
        let digit = (port / unit % 10) as u8;
        begun |= digit != 0 || unit == 1;
        if begun {
            to.push(b'0' + digit);
        }
        unit /= 10;
    }
}

/// Digits behind the last colon; 0 if the text is not `host:port`.
#[inline(always)]
pub fn port_len(text: &Authority) -> usize {
    let len = usize::from(text.len);
    let mut digits = 0;
    while digits < 6 {
        if digits >= len {
            return 0;
        }
        let byte = text.at(len - 1 - digits);
        if byte == b':' {
            return if digits + 1 < len { digits } else { 0 };
        }
        if !byte.is_ascii_digit() {
            return 0;
        }
        digits += 1;
    }
    0
}

/// Byte `index` of `text` padded by zeros in front of its port to `len` bytes. Without meaning if the
/// text is longer than that.
#[inline(always)]
pub fn padded(text: &Authority, port_len: usize, len: usize, index: usize) -> u8 {
    let own = usize::from(text.len);
    let head = own.wrapping_sub(port_len);
    let tail = len.wrapping_sub(port_len);
    if index < head {
        text.at(index)
    } else if index < tail {
        b'0'
    } else {
        text.at(index.wrapping_sub(tail).wrapping_add(head))
    }
}

/// Byte `index` of the host-less local form behind the scheme word: `://<system>` and slashes.
#[inline(always)]
pub fn local(system: &System, index: usize) -> u8 {
    match index {
        0 => b':',
        1 | 2 => b'/',
        _ if index - 3 < usize::from(system.len) => system.at(index - 3),
        _ => b'/',
    }
}

/// Whether the name can stand in the host position of a URI (RFC 2396 3.2.2, `java.net.URI`), as
/// the local form requires: letters, digits and inner hyphens, and no digit first.
#[inline(always)]
pub fn is_uri_host(system: &System) -> bool {
    let len = usize::from(system.len);
    if len == 0 || !system.at(0).is_ascii_alphabetic() || system.at(len - 1) == b'-' {
        return false;
    }
    let mut index = 0;
    while index < 64 {
        let byte = system.at(index);
        if index < len && !byte.is_ascii_alphanumeric() && byte != b'-' {
            return false;
        }
        index += 1;
    }
    true
}

/// Byte `index` of `://<system>@<canonical>/`.
#[inline(always)]
pub fn pattern(system: &System, canonical: &Authority, index: usize) -> u8 {
    let at = 3 + usize::from(system.len);
    let end = at + 1 + usize::from(canonical.len);
    if index < at {
        local(system, index)
    } else if index == at {
        b'@'
    } else if index < end {
        canonical.at(index - at - 1)
    } else {
        b'/'
    }
}

/// Takes a byte into a 64-bit hash (FNV-1a).
#[inline(always)]
pub fn hash_step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

/// The hash of a text in keys of maps. The kernel program takes a byte a step.
pub fn hash(text: &[u8]) -> u64 {
    text.iter()
        .fold(HASH_SEED, |hash, byte| hash_step(hash, *byte))
        | 1
}

/// Where [`hash_step`] begins.
pub const HASH_SEED: u64 = 0xcbf2_9ce4_8422_2325;
