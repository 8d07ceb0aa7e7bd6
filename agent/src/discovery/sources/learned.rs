//! Facts from handshakes that the kernel program saw: a client announced a name, and its packets
//! came from an address. A pure function.

use std::collections::BTreeSet;

use truename_common::{
    layout::{self, FiveTuple, Names, Peer, PeerKey, RpcFlow, Socket, ip},
    wire::flow::state,
};

use crate::{
    clock::Moment,
    discovery::{Claim, Facts, Kind, SourceId},
    name::Authority,
};

/// The source of these facts.
pub fn id() -> SourceId {
    SourceId {
        kind: Kind::Learned,
        place: String::new(),
    }
}

/// What the rows of `PEERS` and `NAMES` tell. Names that are configured are not learned.
pub fn facts(peers: &[(PeerKey, Peer)], names: &[(Socket, Names)]) -> Facts {
    let mut facts = Facts::new();
    for (key, peer) in peers {
        add(&mut facts, &peer.announced, key.client, peer.seen_ns);
    }
    for (socket, names) in names {
        if names.configured == 0 {
            add(
                &mut facts,
                &names.canonical,
                socket.address,
                names.learned_ns,
            );
        }
    }
    facts
}

/// The source of [`addressed`].
pub fn addressed_id() -> SourceId {
    SourceId {
        kind: Kind::Addressed,
        place: String::new(),
    }
}

/// Where the nodes with these names are, by the flows to their endpoints: a peer addresses a node by its canonical name,
/// or the node does so itself. Only flows in which both sides have taken part tell anything.
pub fn addressed<'a>(
    flows: impl Iterator<Item = &'a (FiveTuple, RpcFlow)>,
    canonical: &BTreeSet<Authority>,
) -> Facts {
    let mut facts = Facts::new();
    for (key, flow) in flows {
        if flow.flags & state::CONFIRMED == 0 {
            continue;
        }
        for name in [&flow.names.canonical, &flow.names.alias] {
            let text = String::from_utf8_lossy(name.as_bytes());
            let known = canonical.get(&*text);
            if known.is_some_and(|known| known.port() == key.endpoint_port) {
                add(&mut facts, name, key.endpoint, flow.seen_ns);
            }
        }
    }
    facts
}

fn add(facts: &mut Facts, name: &layout::Authority, address: [u8; 16], seen_ns: u64) {
    let address = ip(address);
    if name.is_empty() || address.is_unspecified() {
        return;
    }
    let text = String::from_utf8_lossy(name.as_bytes());
    match text.parse::<Authority>() {
        Ok(name) => facts.add_seen(Claim::Address { name, address }, Moment::from_ns(seen_ns)),
        Err(error) => facts.refuse("announced name", &text, error),
    }
}

#[cfg(test)]
mod tests {
    use truename_common::layout::{TCP, v4_mapped};

    use super::*;

    fn peer(announced: &[u8], last: u8, seen_ns: u64) -> (PeerKey, Peer) {
        let key = PeerKey {
            client: v4_mapped([10, 0, 0, last]),
            ..PeerKey::default()
        };
        let peer = Peer {
            announced: layout::Authority::new(announced).unwrap(),
            seen_ns,
            ..Peer::default()
        };
        (key, peer)
    }

    fn names(last: u8, canonical: &str) -> (Socket, Names) {
        let socket = Socket {
            address: if last == 0 {
                [0; 16]
            } else {
                v4_mapped([10, 0, 0, last])
            },
            port: 6123,
            protocol: TCP,
            pad: 0,
        };
        let names = Names {
            canonical: layout::Authority::new(canonical.as_bytes()).unwrap(),
            learned_ns: 5,
            ..Names::default()
        };
        (socket, names)
    }

    #[test]
    fn a_node_is_where_its_peers_address_it() {
        let flow = |last, alias: &str, canonical: &str, flags| {
            let key = FiveTuple {
                endpoint: v4_mapped([10, 0, 0, last]),
                endpoint_port: 6122,
                ..FiveTuple::default()
            };
            let mut flow = RpcFlow {
                flags,
                seen_ns: 7,
                ..RpcFlow::default()
            };
            flow.names.alias = layout::Authority::new(alias.as_bytes()).unwrap();
            flow.names.canonical = layout::Authority::new(canonical.as_bytes()).unwrap();
            (key, flow)
        };
        let flows = [
            flow(1, "tm-1:6122", "", state::CONFIRMED),
            flow(2, "", "tm-2:6122", state::CONFIRMED),
            // Made up, another name, another port.
            flow(66, "tm-1:6122", "", 0),
            flow(3, "alias:6122", "", state::CONFIRMED),
            flow(4, "tm-3:7", "", state::CONFIRMED),
        ];
        let names = ["tm-1:6122", "tm-2:6122", "tm-3:7"].map(|name| name.parse().unwrap());
        let facts = addressed(flows.iter(), &names.into());
        let found: Vec<_> = facts
            .claims()
            .map(|claim| match claim {
                Claim::Address { name, address } => format!("{name} {address}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(found, ["tm-1:6122 10.0.0.1", "tm-2:6122 10.0.0.2"]);
    }

    #[test]
    fn an_announced_name_has_the_address_it_was_seen_at() {
        let peers = [
            peer(b"taskmanager:6122", 3, 7),
            peer(b"taskmanager:6122", 3, 9),
            peer(b"", 4, 7),
            peer(b"tm\x1b[2J:6122", 5, 7),
            peer(b"tm\xff:6122", 6, 7),
        ];
        let mut configured = names(2, "other:1");
        configured.1.configured = 1;
        let facts = facts(
            &peers,
            &[names(1, "jobmanager:6123"), names(0, "any:1"), configured],
        );
        let claim = |name: &str, address: &str| Claim::Address {
            name: name.parse().unwrap(),
            address: address.parse().unwrap(),
        };
        let claims: Vec<_> = facts.claims.into_iter().collect();
        assert_eq!(
            claims,
            [
                (
                    claim("jobmanager:6123", "10.0.0.1"),
                    Some(Moment::from_ns(5))
                ),
                (
                    claim("taskmanager:6122", "10.0.0.3"),
                    Some(Moment::from_ns(9))
                ),
            ]
        );
    }
}
