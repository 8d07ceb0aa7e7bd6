//! Gives new connections to the relay, in the network namespace of the endpoint: those of clients whose aliases do not fit,
//! and of clients of which nothing is known yet.

use aya_ebpf::programs::SkLookupContext;
use truename_common::layout::{Counter, FiveTuple, TCP, relay, relay_listener, steered, v4_mapped};

use crate::{
    bpf::clock::now,
    maps::{RELAY_LISTENERS, RELAYS, STEERED, count},
};

/// Linux: the lookup goes on, or ends with the socket that was assigned; there is no socket.
const SK_PASS: u32 = 1;
const SK_DROP: u32 = 0;
/// Linux: the family of IPv4.
const AF_INET: u32 = 2;
/// Linux: a socket that an earlier agent's program has assigned is replaced.
const REPLACE: u64 = 1;

/// Looks for the socket of a new connection.
#[inline(always)]
pub fn steer(ctx: &SkLookupContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    let lookup = unsafe { &*ctx.lookup };
    if lookup.protocol != u32::from(TCP) {
        return SK_PASS;
    }
    let mut key = FiveTuple {
        client_port: u16::from_be(lookup.remote_port),
        endpoint_port: lookup.local_port as u16,
        protocol: TCP,
        ..FiveTuple::default()
    };
    let is_v4 = lookup.family == AF_INET;
    if is_v4 {
        key.client = v4_mapped(lookup.remote_ip4.to_ne_bytes());
        key.endpoint = v4_mapped(lookup.local_ip4.to_ne_bytes());
    } else {
        key.client = address(&lookup.remote_ip6);
        key.endpoint = address(&lookup.local_ip6);
    }
    let endpoint = key.endpoint();
    // SAFETY: the value is one number, which is read at once.
    let Some(of_endpoint) = (unsafe { RELAYS.get(&endpoint) }).copied() else {
        return SK_PASS;
    };
    let of_connection = value(&key);
    let now = now();
    if steered::kind(of_connection) == steered::OWN
        && steered::age_ns(of_connection, now) < steered::OWN_NS
    {
        return SK_PASS;
    }
    let port = core::mem::take(&mut key.client_port);
    let of_client = value(&key);
    key.client_port = port;
    if of_client != steered::IN_PLACE {
        let listener = relay_listener(relay::number(of_endpoint), !is_v4);
        if RELAY_LISTENERS
            .redirect_sk_lookup(ctx, listener, REPLACE)
            .is_ok()
        {
            if of_endpoint & relay::DOWN != 0 {
                // The relay would accept what the endpoint refuses.
                count(Counter::RelayRefused, 1);
                return SK_DROP;
            }
            // A least-recently-used table takes every entry, unless memory is short.
            let _ = STEERED.insert(&key, &steered::at(steered::CONNECTION, now), 0);
            count(Counter::RelaySteered, 1);
            return SK_PASS;
        }
        if is_away(&key, now, relay::hold_ns(of_endpoint)) {
            // The kernel answers with an RST, which `rpc::translate` keeps from the client.
            let _ = STEERED.insert(&key, &steered::at(steered::HELD, now), 0);
            count(Counter::RelayHeld, 1);
            return SK_DROP;
        }
        if of_client == steered::RELAYED {
            count(Counter::RelayRefused, 1);
            return SK_DROP;
        }
        // Its aliases may fit.
    }
    if of_connection != 0 {
        // An earlier connection had the port.
        let _ = STEERED.remove(&key);
    }
    SK_PASS
}

/// Whether nobody relays for the endpoint, for less than this time.
#[inline(always)]
fn is_away(key: &FiveTuple, now: u64, hold_ns: u64) -> bool {
    if hold_ns == 0 {
        return false;
    }
    let mut of_endpoint = *key;
    of_endpoint.client = [0; 16];
    of_endpoint.client_port = 0;
    let since = value(&of_endpoint);
    if since == 0 {
        let _ = STEERED.insert(&of_endpoint, &steered::at(steered::AWAY, now), 0);
        return true;
    }
    steered::age_ns(since, now) < hold_ns
}

/// What is known of a client or a connection.
#[inline(always)]
fn value(key: &FiveTuple) -> u64 {
    // SAFETY: the value is one number, which is read at once.
    unsafe { STEERED.get(key) }.copied().unwrap_or(0)
}

/// The bytes of an IPv6 address.
#[inline(always)]
fn address(words: &[u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    bytes
}
