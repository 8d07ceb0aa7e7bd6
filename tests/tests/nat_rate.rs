//! Full speed: no segment is sent twice because of the translator.

use std::net::SocketAddr;

use anyhow::ensure;
use truename_tests::nat::{
    Client, Family, Iperf, Lab, Protocol, Rules, Seen, Service, Translator, beside,
};

/// Bytes of a measurement.
const BYTES: u64 = 256 << 20;
/// The port of iperf3, and of the aliases.
const PORT: u16 = 5201;

#[test]
fn nothing_is_sent_twice_at_full_speed() {
    beside(|by| {
        let lab = Lab::new()?;
        for namespace in [&lab.client, &lab.node, &lab.target] {
            // A busy machine answers late: no segment is repeated just to ask whether it was lost.
            namespace.sysctl("net/ipv4/tcp_early_retrans", "0")?;
        }
        let mut servers = Vec::new();
        let mut services = Vec::new();
        for family in Family::BOTH {
            for (number, namespace, address) in [
                (1, &lab.node, lab.node(family)),
                (2, &lab.target, lab.target(family, 0)),
            ] {
                let target = SocketAddr::new(address, PORT);
                let alias = SocketAddr::new(lab.foreign(family, number), PORT);
                servers.push(Iperf::start(namespace, &lab.scratch, target)?);
                services.push(Service::new(Protocol::Tcp, alias, target));
            }
        }
        let rules = Rules::new(services);
        let _translator = Translator::start(by, &lab, &rules)?;
        let mut seen = Seen::new();
        for service in &rules.services {
            for reverse in [false, true] {
                let client = Client::new(&lab.client, &lab.scratch);
                let measured = client.measure(service.listen, BYTES, reverse)?;
                ensure!(
                    measured.retransmits == 0,
                    "{}, reverse {reverse}: {measured:?}",
                    service.listen
                );
                // iperf3 ends in the middle of a segment.
                ensure!(measured.bytes > BYTES / 10 * 9, "{measured:?}");
                seen.note(service.listen, measured.retransmits);
            }
        }
        Ok(seen)
    });
}
