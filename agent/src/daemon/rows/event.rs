//! The rows of `truename monitor`, and their sentences for the log. Pure.

use truename_common::{
    layout::{Counter, Event, EventKind},
    wire::stream::reset,
};

use super::text::{socket, text};
use crate::{
    api::{Clock, EventRow},
    config::{
        Config,
        index::{endpoint_name, service_name},
    },
};

/// An event.
pub fn event(config: &Config, clock: &Clock, event: &Event) -> EventRow {
    let kind = EventKind::from_number(event.kind);
    let detail = match kind {
        Some(EventKind::LeftAlone | EventKind::Refused) => Counter::ALL
            .get(event.detail as usize)
            .map_or_else(
                || event.detail.to_string(),
                |counter| counter.label().to_owned(),
            )
            .into(),
        Some(EventKind::Resynchronised) => Some(
            if event.detail == 0 {
                "inbound"
            } else {
                "outbound"
            }
            .to_owned(),
        ),
        Some(EventKind::NoFit) => Some("longer than the canonical name".to_owned()),
        Some(EventKind::Reset) if event.detail == reset::RELAY => {
            Some("the next connection is relayed".to_owned())
        }
        Some(_) => None,
        None => Some(event.detail.to_string()),
    };
    EventRow {
        time: clock.at(event.time_ns),
        kind: kind.map_or_else(|| event.kind.to_string(), |kind| kind.label().to_owned()),
        client: socket(event.flow.client, event.flow.client_port),
        address: socket(event.flow.endpoint, event.flow.endpoint_port),
        endpoint: match kind {
            Some(EventKind::Refused) => service_name(config, event.flow.endpoint()),
            _ => endpoint_name(config, event.flow.endpoint()),
        },
        name: text(&event.text),
        detail,
    }
}

/// An event as a sentence for the log.
pub fn sentence(row: &EventRow) -> String {
    let mut sentence = format!(
        "{}: {} to {} ({})",
        row.kind, row.client, row.address, row.endpoint
    );
    for part in [&row.name, &row.detail].into_iter().flatten() {
        sentence.push_str(": ");
        sentence.push_str(part);
    }
    sentence
}

#[cfg(test)]
mod tests {
    use truename_common::layout::{Authority, FiveTuple, TCP, v4_mapped};

    use super::{
        super::endpoint::tests::{at, config},
        *,
    };
    use crate::config::{File, Flags};

    #[test]
    fn events_say_why() {
        let flow = FiveTuple {
            client: v4_mapped([10, 0, 0, 2]),
            endpoint: at(1, 6123).address,
            client_port: 40000,
            endpoint_port: 6123,
            protocol: TCP,
            pad: [0; 3],
        };
        let raw = Event {
            time_ns: 1,
            kind: EventKind::LeftAlone as u32,
            detail: Counter::Tls as u32,
            flow,
            text: Authority::EMPTY,
            pad: [0; 6],
        };
        let row = event(&config(), &Clock::read(), &raw);
        assert_eq!(
            sentence(&row),
            "left_alone: 10.0.0.2:40000 to 10.0.0.1:6123 (jm): tls"
        );
        let mut config = config();
        let flag = "tcp=10.0.0.1:6123=10.0.0.3:80".parse().unwrap();
        let flags = Flags {
            services: vec![flag],
            ..Flags::default()
        };
        config.services = Config::new(File::default(), flags).unwrap().services;
        let refused = Event {
            kind: EventKind::Refused as u32,
            detail: Counter::NatTableFull as u32,
            ..raw
        };
        assert_eq!(
            sentence(&event(&config, &Clock::read(), &refused)),
            "refused: 10.0.0.2:40000 to 10.0.0.1:6123 (tcp-6123): nat_table_full"
        );
        let row = event(
            &config,
            &Clock::read(),
            &Event {
                kind: 99,
                detail: 3,
                ..raw
            },
        );
        assert_eq!(
            (row.kind.as_str(), row.detail.as_deref()),
            ("99", Some("3"))
        );
    }
}
