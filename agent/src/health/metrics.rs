//! The metrics. Names, units and labels are stable; no label has an address or a port, so that their number is
//! bounded by the configuration.

use std::{fmt, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Metric, Registry, Unit},
};
use truename_common::layout::{ConntrackState, Counter as Kernel};

use crate::api::{ServiceRow, Status, Timestamp};

/// Most services that have metrics of their own, in the order of the configuration.
const SERVICES_MAX: usize = 1000;

/// What the agent is like.
#[derive(Debug)]
pub struct Page {
    pub status: Status,
    pub services: Vec<ServiceRow>,
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;

/// Packets that the kernel program dropped, by why: counters and the label of the reason.
pub const DROPS: [(Kernel, &str); 14] = [
    (Kernel::DroppedHole, "hole"),
    (Kernel::DroppedHeld, "held"),
    (Kernel::DroppedMemory, "memory"),
    (Kernel::DroppedContended, "contended"),
    (Kernel::DroppedStore, "store"),
    (Kernel::OutOfWindow, "out_of_window"),
    (Kernel::NatTableFull, "table_full"),
    (Kernel::NatPortsExhausted, "ports_exhausted"),
    (Kernel::NatNoTarget, "no_target"),
    (Kernel::NatNoRoute, "no_route"),
    (Kernel::NatForwardingOff, "forwarding_off"),
    (Kernel::NatHopLimit, "hop_limit"),
    (Kernel::NatTooBig, "too_big"),
    (Kernel::NatStore, "nat_store"),
];

/// Packets whose addresses were translated, and names that were, by direction.
const TRANSLATIONS: [(Kernel, &str, &str); 6] = [
    (Kernel::RewrittenInbound, "rpc", "inbound"),
    (Kernel::RewrittenOutbound, "rpc", "outbound"),
    (Kernel::NatSent, "packet", "inbound"),
    (Kernel::NatReceived, "packet", "outbound"),
    (Kernel::NatIcmp, "icmp", "any"),
    (Kernel::XdpForwarded, "xdp", "any"),
];

/// Writes what an agent is like.
pub fn write(page: &Page, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("truename");
    let status = &page.status;
    agent(&mut registry, status);
    programs(&mut registry, status);
    tables(&mut registry, status);
    kernel(&mut registry, status);
    relay(&mut registry, status);
    cluster(&mut registry, status);
    services(&mut registry, page);
    let mut written = String::new();
    match format {
        Format::Prometheus => prometheus_text::encode(&mut written, &registry)?,
        Format::OpenMetrics => text::encode(&mut written, &registry)?,
    }
    Ok(written)
}

fn agent(registry: &mut Registry, status: &Status) {
    let build = vec![
        ("version", status.version.clone()),
        ("table_version", status.table_version.to_string()),
        ("attach_mode", status.attach_mode.clone()),
    ];
    registry.register("build", "The program", Info::new(build));
    let started = gauge(status.started.seconds());
    registry.register_with_unit(
        "start_time",
        "When the agent started",
        Unit::Seconds,
        started,
    );
    let help = "Things that are wanted and do not work; truename status names them";
    registry.register("problems", help, gauge(status.problems.len()));
    let help = "Tasks of the agent that have not come round for five seconds";
    registry.register("hanging_tasks", help, gauge(status.hanging.len()));
    let interfaces = Gauges::default();
    let attached = status.interfaces.iter().filter(|row| row.program.is_some());
    let attached = attached.count();
    for (state, count) in [
        ("attached", attached),
        ("failed", status.interfaces.len() - attached),
    ] {
        set(&interfaces, vec![("state", state.to_owned())], count);
    }
    registry.register("interfaces", "Interfaces that are wanted", interfaces);
    let help =
        "Programs and pins that somebody else removed or replaced and that were brought back";
    registry.register("reattached", help, counter(status.reattached));
    let help = "Entries of tables that somebody else changed and that were put back";
    registry.register("table_entries_repaired", help, counter(status.repaired));
}

fn programs(registry: &mut Registry, status: &Status) {
    let runs = Counters::default();
    let times = Family::<Labels, Counter<f64, AtomicU64>>::default();
    for program in &status.programs {
        let labels = vec![("program", program.name.clone())];
        add(&runs, labels.clone(), program.runs);
        let seconds = program.run_time_ns as f64 / 1e9;
        times.get_or_create(&labels).inc_by(seconds);
    }
    let help = "How often a program ran, while kernel.bpf_stats_enabled is 1";
    registry.register("program_runs", help, runs);
    let help = "How long a program ran, while kernel.bpf_stats_enabled is 1";
    registry.register_with_unit("program_run", help, Unit::Seconds, times);
}

fn tables(registry: &mut Registry, status: &Status) {
    let entries = Gauges::default();
    let capacity = Gauges::default();
    let table = |name: &str| vec![("table", name.to_owned())];
    set(&entries, table("connections"), status.connections);
    set(&entries, table("rpc_flows"), status.flows);
    set(&capacity, table("connections"), status.connection_capacity);
    set(&capacity, table("rpc_flows"), status.flow_capacity);
    registry.register("table_entries", "Entries of a table that are used", entries);
    registry.register("table_capacity", "Entries that a table has", capacity);
    let help = "Connections that were evicted to make room";
    registry.register("connections_evicted", help, counter(status.evicted));
    if let Some(sweep) = status.sweep {
        let took = Gauge::<f64, AtomicU64>::default();
        took.set(sweep.took_us as f64 / 1e6);
        let help = "How long the last sweep for connections that are over took";
        registry.register_with_unit("gc_duration", help, Unit::Seconds, took);
        let help = "Connections and flows that the last sweep forgot";
        registry.register("gc_removed", help, gauge(sweep.removed));
    }
    let help = "Tries that finding a source port took";
    registry.register("port_tries", help, Tries(status.port_tries.clone()));
}

fn relay(registry: &mut Registry, status: &Status) {
    let Some(relay) = &status.relay else { return };
    let help = "Connections that the relay has open";
    registry.register("relay_connections", help, gauge(relay.connections));
    let help = "Connections that the relay can have open";
    registry.register("relay_capacity", help, gauge(relay.capacity));
    let counts = Counters::default();
    for (result, count) in [
        ("relayed", relay.relayed),
        ("refused", relay.refused),
        ("failed", relay.failed),
        ("silent", relay.silent),
    ] {
        add(&counts, vec![("result", result.to_owned())], count);
    }
    registry.register(
        "relay_accepted",
        "Connections that came to the relay",
        counts,
    );
    let help = "Frames that the relay passed unchanged because they could not be translated with certainty";
    registry.register("relay_frames_unchanged", help, counter(relay.unchanged));
}

fn kernel(registry: &mut Registry, status: &Status) {
    let value = |counter: Kernel| status.counters.get(counter.label()).copied().unwrap_or(0);
    let drops = Counters::default();
    for (counter, reason) in DROPS {
        add(&drops, vec![("reason", reason.to_owned())], value(counter));
    }
    registry.register("drops", "Packets that were dropped", drops);
    let translations = Counters::default();
    for (counter, kind, direction) in TRANSLATIONS {
        let labels = vec![
            ("kind", kind.to_owned()),
            ("direction", direction.to_owned()),
        ];
        add(&translations, labels, value(counter));
    }
    let help = "Packets and names in RPC headers that were translated";
    registry.register("translations", help, translations);
    let all = Counters::default();
    for counter in Kernel::ALL {
        let labels = vec![("counter", counter.label().to_owned())];
        add(&all, labels, value(*counter));
    }
    let help = "Every counter of the kernel program; docs/operations.md says what they count";
    registry.register("kernel", help, all);
}

fn cluster(registry: &mut Registry, status: &Status) {
    let cluster = &status.topology;
    registry.register("workers", "Workers that are known", gauge(cluster.workers));
    let leaders = Gauges::default();
    for (role, leader) in [("rpc", &cluster.leader_rpc), ("rest", &cluster.leader_rest)] {
        let known = u64::from(leader.is_some());
        set(&leaders, vec![("role", role.to_owned())], known);
    }
    registry.register("leader_known", "Whether it is known who leads", leaders);
    let help = "Changes of what the topology sources say";
    registry.register("topology_changes", help, counter(cluster.generation));
    let questions = Counters::default();
    for (result, count) in &status.questions {
        add(&questions, vec![("result", result.clone())], *count);
    }
    let help = "Questions for names that [names] got, by what happened to them";
    registry.register("dns_questions", help, questions);
    let ages = Gauges::default();
    let failing = Gauges::default();
    for source in &cluster.sources {
        let labels = vec![("source", source.name.clone())];
        if let Some(seen) = source.last_seen {
            let age = Timestamp::now().seconds().saturating_sub(seen.seconds());
            set(&ages, labels.clone(), age);
        }
        let is_failing = !["good", "starting"].contains(&source.state.as_str());
        set(&failing, labels, u64::from(is_failing));
    }
    let help = "How long ago a topology source was confirmed last";
    registry.register_with_unit("topology_age", help, Unit::Seconds, ages);
    let help = "Whether a topology source fails";
    registry.register("topology_failing", help, failing);
}

fn services(registry: &mut Registry, page: &Page) {
    let (connections, unanswered) = (Gauges::default(), Gauges::default());
    let (targets, refused) = (Gauges::default(), Counters::default());
    let states = Gauges::default();
    for service in page.services.iter().take(SERVICES_MAX) {
        let labels = vec![("service", service.name.clone())];
        set(&connections, labels.clone(), service.connections);
        for state in ConntrackState::ALL {
            let count = service.states.get(state.label()).copied();
            let mut labels = labels.clone();
            labels.push(("state", state.label().to_owned()));
            set(&states, labels, count.unwrap_or_default());
        }
        set(&unanswered, labels.clone(), service.opening);
        let usable = service.targets.iter().filter(|target| target.weight > 0);
        let usable = usable.filter(|target| target.address.is_some()).count();
        set(&targets, labels.clone(), usable);
        add(&refused, labels, service.refused);
    }
    let help = "Connections through a service";
    registry.register("service_connections", help, connections);
    let help = "Connections through a service, by their state";
    registry.register("service_connections_by_state", help, states);
    let help = "Connections through a service whose target has not answered";
    registry.register("service_connections_unanswered", help, unanswered);
    let help = "Targets that take new connections";
    registry.register("service_targets", help, targets);
    let help = "Attempts to connect that were refused, as far as events tell";
    registry.register("service_refused", help, refused);
}

fn set(family: &Gauges, labels: Labels, value: impl TryInto<i64>) {
    let value = value.try_into().unwrap_or(i64::MAX);
    family.get_or_create(&labels).set(value);
}

fn add(family: &Counters, labels: Labels, value: u64) {
    family.get_or_create(&labels).inc_by(value);
}

fn gauge(value: impl TryInto<i64>) -> impl Metric {
    let gauge = Gauge::<i64>::default();
    gauge.set(value.try_into().unwrap_or(i64::MAX));
    gauge
}

fn counter(value: u64) -> impl Metric {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    counter
}

/// Connections by the tries that they took, from 1; the last are those that got no port.
#[derive(Debug)]
struct Tries(Vec<u64>);

impl EncodeMetric for Tries {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        const BOUNDS: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, f64::INFINITY];
        let mut buckets = BOUNDS.map(|bound| (bound, 0));
        let (mut sum, mut count) = (0.0, 0);
        for (tries, connections) in (1_u32..).zip(&self.0) {
            let tries = f64::from(tries);
            sum += tries * *connections as f64;
            count += connections;
            if let Some((_, bucket)) = buckets.iter_mut().find(|(bound, _)| tries <= *bound) {
                *bucket += connections;
            }
        }
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
