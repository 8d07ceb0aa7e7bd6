//! A step that fails, and entries that somebody else changed.

use truename_common::{
    layout::{Conntrack, FiveTuple, Service, Settings, Target, port_flags, service_flags},
    nat::{self, Choice},
};

use super::{
    service_tests::{Wanted, config, facts, original},
    *,
};
use crate::{
    config::Config,
    plan::{self, Facts},
};

/// The kernel refused a write.
#[derive(Debug, PartialEq)]
struct Refused;

/// The tables in memory, which take so many writes.
#[derive(Clone)]
struct Model {
    present: Present,
    slots: BTreeMap<u32, u32>,
    left: usize,
    /// The writes.
    steps: Vec<Change>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            present: Present::default(),
            slots: BTreeMap::new(),
            left: usize::MAX,
            steps: Vec::new(),
        }
    }
}

impl Kernel for Model {
    type Error = Refused;

    fn owned(&self) -> Result<Present, Refused> {
        let mut present = self.shown();
        present.held.connections.clear();
        present.held.moved.clear();
        Ok(present)
    }

    fn connected(&self, _: &Held, ports: Ports) -> Result<Connected, Refused> {
        Ok(self.shown().held.summed_up(ports).connected)
    }

    fn held(&self, aliases: &BTreeSet<Socket>) -> Result<Held, Refused> {
        let mut held = self.shown().held;
        let is_wanted =
            |key: &FiveTuple, entry: &mut Conntrack| aliases.contains(&entry.alias(key.protocol));
        held.connections.retain(is_wanted);
        Ok(held)
    }

    fn slots(&self, range: Slots) -> Result<Vec<u32>, Refused> {
        Ok(self.read_slots(range))
    }

    fn apply(&mut self, change: &Change) -> Result<(), Refused> {
        self.left = self.left.checked_sub(1).ok_or(Refused)?;
        self.steps.push(*change);
        let Present {
            ports,
            endpoints,
            names,
            listed,
            addresses,
            held,
        } = &mut self.present;
        match *change {
            Change::List(key) => drop(listed.insert((key.endpoint, key.alias))),
            Change::Address(address) => drop(addresses.insert(address)),
            Change::RemoveAddress(address) => drop(addresses.remove(&address)),
            Change::Unlist(key) => drop(listed.remove(&(key.endpoint, key.alias))),
            Change::Name(socket, value) => drop(names.insert(socket, value)),
            Change::RemoveName(socket) => drop(names.remove(&socket)),
            Change::Endpoint(socket, value) => drop(endpoints.insert(socket, value)),
            Change::RemoveEndpoint(socket) => drop(endpoints.remove(&socket)),
            Change::Port(port, 0) => drop(ports.remove(&port)),
            Change::Port(port, flags) => drop(ports.insert(port, flags)),
            Change::Target(number, Target { port: 0, .. }) => drop(held.targets.remove(&number)),
            Change::Target(number, target) => drop(held.targets.insert(number, target)),
            Change::Slot(position, number) => self.set_slot(position, number),
            Change::Settings(settings) => held.settings = settings,
            Change::Service(alias, service) => drop(held.services.insert(alias, service)),
            Change::RemoveService(alias) => drop(held.services.remove(&alias)),
            Change::Move(original, number) => drop(held.moved.insert(original, number)),
            Change::Forget(key) => drop(held.connections.remove(&key)),
        }
        Ok(())
    }

    fn barrier(&self) -> Result<(), Refused> {
        Ok(())
    }
}

impl Model {
    /// Only the slots that services refer to are read.
    fn shown(&self) -> Present {
        let mut present = self.present.clone();
        for service in self.present.held.services.values() {
            for range in [service.slots, service.previous] {
                if range.count > 0 {
                    present.held.slots.insert(range, self.read_slots(range));
                }
            }
        }
        present
    }

    fn read_slots(&self, range: Slots) -> Vec<u32> {
        let positions = range.first..range.first + range.count;
        positions.map(|position| self.slot(position)).collect()
    }

    /// An array holds 0 where nothing was written.
    fn set_slot(&mut self, position: u32, number: u32) {
        match number {
            0 => drop(self.slots.remove(&position)),
            _ => drop(self.slots.insert(position, number)),
        }
    }

    fn slot(&self, position: u32) -> u32 {
        self.slots.get(&position).copied().unwrap_or_default()
    }

    fn bring(&mut self, config: &Config, facts: &Facts) -> Result<Reconciled, Refused> {
        reconcile(self, config.datapath.snat_ports, |present| {
            let mut held = present.held.clone();
            held.settings.tag = 7;
            plan::plan(config, facts, &present.numbers(), &held)
        })
    }

    /// Begins a connection with a target.
    fn connect(&mut self, original: &FiveTuple, target: u32) {
        let held = &mut self.present.held;
        let hash = nat::hash(original);
        let key = nat::key(original, &held.targets[&target], &held.settings, hash, 0);
        let entry = Conntrack {
            client: original.client,
            alias: original.endpoint,
            client_port: original.client_port,
            alias_port: original.endpoint_port,
            service: held.services[&original.endpoint()].id,
            ..Conntrack::default()
        };
        held.connections.insert(key, entry);
    }

    /// Where new connections of some clients go, by alias and port.
    fn generation(&self) -> BTreeMap<(Socket, u16), Option<Target>> {
        let held = self.shown().held;
        let mut all = BTreeMap::new();
        for (alias, service) in &held.services {
            for client in 1..40 {
                let original = original(client, *alias);
                let hash = nat::hash(&original);
                let to = nat::choose(&held, service, Choice::Current, &original, hash);
                all.insert((*alias, client), to.map(|(_, target)| target));
            }
        }
        all
    }
}

fn two_generations() -> (Config, Config) {
    let old: Wanted = [
        (1, [(2, 1), (3, 1)].into()),
        (2, [(4, 1)].into()),
        (3, [(5, 1)].into()),
    ]
    .into();
    let new: Wanted = [
        (1, [(3, 1), (4, 2), (5, 1)].into()),
        (2, [(2, 1)].into()),
        (4, [(3, 1), (5, 1)].into()),
    ]
    .into();
    (config(&old, false), config(&new, false))
}

#[test]
fn a_failure_before_the_first_service_changes_none_and_the_next_call_completes_it() {
    let (old, new) = two_generations();
    let mut before = Model::default();
    before.bring(&old, &facts(1)).unwrap();
    before.steps.clear();
    let mut whole = before.clone();
    whole.bring(&new, &facts(1)).unwrap();
    let is_service = |step: &Change| matches!(step, Change::Service(..) | Change::RemoveService(_));
    let first = whole.steps.iter().position(is_service).unwrap();
    let is_slot = |step: &Change| matches!(step, Change::Slot(..));
    assert!(
        whole.steps[..first]
            .iter()
            .filter(|step| is_slot(step))
            .count()
            > 1000
    );

    for (writes, step) in whole.steps.iter().enumerate() {
        // They are many and alike.
        if is_slot(step) && writes % 32 != 0 {
            continue;
        }
        let mut model = before.clone();
        model.left = writes;
        assert_eq!(model.bring(&new, &facts(1)).unwrap_err(), Refused);
        if writes <= first {
            assert_eq!(model.present.held.services, before.present.held.services);
            assert_eq!(model.generation(), before.generation(), "{writes}");
        }
        model.left = usize::MAX;
        let done = model.bring(&new, &facts(1)).unwrap();
        assert_eq!(model.generation(), whole.generation(), "{writes}");
        let held = model.shown().held;
        assert_eq!(held.services, done.wanted.services.services);
        assert_eq!(held.targets, done.wanted.services.targets);
        assert_eq!(model.present.ports, whole.present.ports);
        // Nothing is left to do.
        let changed = model.bring(&new, &facts(1)).unwrap().changed;
        assert_eq!(changed, BTreeSet::new(), "{writes}");
    }
}

/// Changes tables behind the agent's back, and has them repaired; the entries that were.
fn repaired(change: impl FnOnce(&mut Model)) -> BTreeSet<Entry> {
    let (config, _) = two_generations();
    let mut model = Model::default();
    let done = model.bring(&config, &facts(1)).unwrap();
    let (present, slots) = (model.present.clone(), model.slots.clone());
    change(&mut model);
    let wanted = done.wanted;
    let done = repair(&mut model, wanted.clone()).unwrap();
    assert_eq!(done.wanted, wanted);
    assert_eq!(model.present, present);
    assert_eq!(model.slots, slots);
    done.changed
}

/// The alias of a service by its number in the configuration, and what it is.
fn service(model: &Model, number: u8) -> (Socket, Service) {
    let mut services = model.present.held.services.iter();
    let (alias, service) = services
        .find(|(alias, _)| alias.address[15] == number)
        .unwrap();
    (*alias, *service)
}

#[test]
fn what_somebody_else_changed_is_repaired_and_nothing_besides() {
    assert_eq!(repaired(|_| {}), BTreeSet::new());
    let mut entries = BTreeSet::new();
    // A service that is gone gets the number and the slots that it had.
    let changed = repaired(|model| {
        let (alias, _) = service(model, 1);
        model.present.held.services.remove(&alias);
        entries.insert(Entry::Service(alias));
    });
    assert_eq!(changed, entries);
    let changed = repaired(|model| {
        let (alias, _) = service(model, 1);
        let other = Service {
            id: 77,
            flags: 1,
            slots: Slots {
                first: 9,
                count: 4000,
            },
            previous: Slots { first: 0, count: 2 },
        };
        model.present.held.services.insert(alias, other);
    });
    assert_eq!(changed, entries);
    // Slots that are in use.
    let mut position = 0;
    let changed = repaired(|model| {
        position = service(model, 1).1.slots.first + 5;
        model.set_slot(position, model.slot(position) ^ 1);
    });
    assert_eq!(changed, [Entry::Slot(position)].into());
    let changed = repaired(|model| {
        let held = &mut model.present.held;
        held.settings = Settings::default();
        held.targets.remove(&0);
        held.targets.get_mut(&1).unwrap().port = 99;
        held.targets.insert(
            1000,
            Target {
                port: 1,
                ..Target::default()
            },
        );
        model.present.ports.insert(80, port_flags::ENDPOINT);
        model.present.ports.insert(4, port_flags::SERVICE);
    });
    let expected = [
        Entry::Port(4),
        Entry::Port(80),
        Entry::Target(0),
        Entry::Target(1),
        Entry::Target(1000),
        Entry::Settings,
    ];
    assert_eq!(changed, expected.into());
    let changed = repaired(|model| {
        let socket = Socket::default();
        model.present.endpoints.insert(socket, Endpoint::default());
        model.present.listed.insert((3, Authority::default()));
    });
    let expected = [
        Entry::Endpoint(Socket::default()),
        Entry::Listed(3, Authority::default()),
    ];
    assert_eq!(changed, expected.into());
}

#[test]
fn connections_that_began_by_wrong_slots_stay_where_they_are() {
    let (config, _) = two_generations();
    let mut model = Model::default();
    let wanted = model.bring(&config, &facts(1)).unwrap().wanted;
    let (alias, service) = service(&model, 1);
    let original = original(7, alias);
    let position = service.slots.first + (nat::hash(&original) as u32) % service.slots.count;
    let other = model.slot(position) ^ 1;
    model.set_slot(position, other);
    model.connect(&original, other);
    let done = repair(&mut model, wanted).unwrap();
    assert_eq!(model.present.held.moved, [(original, other)].into());
    let expected = [
        Entry::Slot(position),
        Entry::Service(alias),
        Entry::Moved(original),
    ];
    assert_eq!(done.changed, expected.into());
    // What is returned is what the tables hold.
    let again = repair(&mut model, done.wanted).unwrap();
    assert_eq!(again.changed, BTreeSet::new());
}

#[test]
fn a_service_that_resets_its_connections_does_not_for_what_somebody_else_wrote() {
    let (config, _) = two_generations();
    let mut model = Model::default();
    let plan = |present: &Present| {
        let mut tables = plan::plan(&config, &facts(1), &present.numbers(), &present.held);
        for service in tables.services.services.values_mut() {
            service.flags |= service_flags::RESET;
        }
        tables
    };
    let wanted = reconcile(&mut model, config.datapath.snat_ports, plan)
        .unwrap()
        .wanted;
    let (alias, right) = service(&model, 1);
    for client in 1..20 {
        let original = original(client, alias);
        let index = (nat::hash(&original) as u32) % right.slots.count;
        model.connect(&original, model.slot(right.slots.first + index));
    }
    let before = model.present.clone();
    let wrong = Service {
        slots: Slots::default(),
        previous: Slots { first: 0, count: 1 },
        ..right
    };
    model.present.held.services.insert(alias, wrong);
    repair(&mut model, wanted).unwrap();
    assert_eq!(model.present, before);
}
