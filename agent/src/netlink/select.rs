//! Which interfaces the programs are attached to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Interface, Inventory};
use crate::config::{self, Config, ConfigError, Selector};

/// What a configuration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What is named.
    pub interfaces: Vec<config::Interface>,
    /// The addresses that services and endpoints have.
    served: BTreeSet<IpAddr>,
    /// Whether one has all of this host's.
    serves_all: bool,
}

impl Wanted {
    /// By a configuration.
    pub fn of(config: &Config) -> Self {
        let services = config.services.iter().map(|service| service.listen);
        let endpoints = config.endpoints.iter().map(|endpoint| endpoint.listen);
        let listen: Vec<_> = services
            .chain(endpoints)
            .map(|listen| listen.address)
            .collect();
        Self {
            interfaces: config.datapath.interfaces.clone(),
            serves_all: listen.contains(&None),
            served: listen.into_iter().flatten().collect(),
        }
    }

    /// The names that no interface has.
    pub fn missing(&self, inventory: &Inventory) -> Vec<String> {
        let is_there = |name: &String| {
            let mut all = inventory.interfaces.values();
            all.any(|interface| interface.names().any(|known| known == name))
        };
        let names = self
            .interfaces
            .iter()
            .filter_map(|asked| match &asked.selector {
                Selector::Name(name) => Some(name),
                _ => None,
            });
        names.filter(|name| !is_there(name)).cloned().collect()
    }

    /// Whether an interface has an address that others use. With all addresses, those of a bridge are used by way of its
    /// ports, and those of a link only mean nothing without it.
    fn is_served(&self, inventory: &Inventory, interface: &Interface) -> bool {
        let is_link_local =
            |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let mut addresses = interface.addresses.iter();
        let serves_all = self.serves_all && !inventory.has_ports(interface);
        addresses
            .any(|address| self.served.contains(address) || serves_all && !is_link_local(address))
    }
}

/// The selected interfaces, by number.
pub fn select<'a>(inventory: &'a Inventory, wanted: &Wanted) -> BTreeMap<u32, &'a Interface> {
    inventory
        .interfaces
        .iter()
        .filter(|(_, interface)| {
            wanted.interfaces.iter().any(|asked| match &asked.selector {
                Selector::Auto => {
                    is_auto(inventory, interface) || wanted.is_served(inventory, interface)
                }
                named => interface.names().any(|name| named.matches(name)),
            })
        })
        .map(|(index, interface)| (*index, interface))
        .collect()
}

/// That every interface selected by its name exists.
///
/// # Errors
/// Names the first that does not, and those that do.
pub fn check_named(inventory: &Inventory, wanted: &[config::Interface]) -> Result<(), ConfigError> {
    for config::Interface { selector, origin } in wanted {
        let Selector::Name(name) = selector else {
            continue;
        };
        let mut interfaces = inventory.interfaces.values();
        if interfaces.any(|interface| interface.names().any(|known| known == name)) {
            continue;
        }
        let names: Vec<_> = inventory
            .interfaces
            .values()
            .map(|interface| interface.name.as_str())
            .collect();
        return Err(ConfigError::NoInterface {
            origin: origin.clone(),
            name: name.clone(),
            present: names.join(", "),
        });
    }
    Ok(())
}

impl Interface {
    /// All its names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let others = self.other_names.iter();
        std::iter::once(&self.name)
            .chain(others)
            .map(String::as_str)
    }
}

/// Those with a default route, loopback, and veths whose other end is in another namespace.
fn is_auto(inventory: &Inventory, interface: &Interface) -> bool {
    interface.loopback
        || inventory.routes.default.contains(&interface.index)
        || (interface.veth && is_host_side(inventory, interface))
}

/// A veth whose peer is not one of ours. Numbers are unique only within a namespace: a peer
/// number that is ours counts only if that interface names us as its peer in turn.
fn is_host_side(inventory: &Inventory, veth: &Interface) -> bool {
    if veth.peer_namespace.is_some() {
        return true;
    }
    let peer = veth.peer.and_then(|peer| inventory.interfaces.get(&peer));
    peer.is_none_or(|peer| !peer.veth || peer.peer != Some(veth.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Origin, netlink::Framing};

    fn interface(index: u32, name: &str) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            framing: Framing::Ethernet,
            loopback: name == "lo",
            veth: name.starts_with("veth"),
            peer: None,
            peer_namespace: None,
            address: None,
            controller: None,
            vrf: false,
            vlan: false,
            carries_vlans: false,
            other_names: Vec::new(),
            addresses: BTreeSet::new(),
            strict: false,
        }
    }

    fn inventory() -> Inventory {
        let mut inventory = Inventory::default();
        inventory.insert(interface(1, "lo"));
        inventory.insert(interface(2, "eth0"));
        inventory.insert(interface(3, "eth1"));
        inventory.insert(interface(4, "docker0"));
        inventory.insert(Interface {
            peer_namespace: Some(1),
            peer: Some(2),
            ..interface(5, "vetha")
        });
        inventory.insert(Interface {
            peer: Some(7),
            ..interface(6, "vethb")
        });
        inventory.insert(Interface {
            peer: Some(6),
            ..interface(7, "vethc")
        });
        inventory.insert(Interface {
            peer: Some(99),
            ..interface(8, "vethd")
        });
        inventory.routes.default.insert(2);
        inventory
    }

    #[test]
    fn cards_that_carry_vlans_are_known() {
        let mut inventory = inventory();
        let vlan = |index, parent| Interface {
            vlan: true,
            peer: Some(parent),
            ..interface(index, "vlan")
        };
        inventory.insert(vlan(20, 2));
        inventory.insert(Interface {
            peer_namespace: Some(1),
            ..vlan(21, 3)
        });
        inventory.mark_carriers();
        let carriers = inventory.interfaces.values();
        let carriers = carriers.filter(|interface| interface.carries_vlans);
        assert_eq!(carriers.map(|i| i.index).collect::<Vec<_>>(), [2]);
    }

    fn wanted(selectors: &[&str]) -> Vec<config::Interface> {
        selectors
            .iter()
            .map(|text| config::Interface {
                selector: text.parse().unwrap(),
                origin: Origin::Flag(format!("--interface {text}")),
            })
            .collect()
    }

    fn names(selectors: &[&str]) -> Vec<String> {
        let wanted = Wanted {
            interfaces: wanted(selectors),
            ..Wanted::default()
        };
        select(&inventory(), &wanted)
            .values()
            .map(|i| i.name.clone())
            .collect()
    }

    #[test]
    fn auto_takes_uplinks_loopback_and_host_sides() {
        assert_eq!(names(&["auto"]), ["lo", "eth0", "vetha", "vethd"]);
    }

    #[test]
    fn auto_takes_those_with_an_address_that_is_served() {
        let mut inventory = inventory();
        let mut add = |index: u32, address: &str| {
            let interface = inventory.interfaces.get_mut(&index).unwrap();
            interface.addresses.insert(address.parse().unwrap());
        };
        add(3, "10.1.0.1");
        add(4, "172.17.0.1");
        add(4, "fe80::1");
        add(7, "fe80::2");
        for (listen, expected) in [
            ("10.1.0.1:80", &["lo", "eth0", "eth1", "vetha", "vethd"][..]),
            ("10.1.0.9:80", &["lo", "eth0", "vetha", "vethd"]),
            ("*:80", &["lo", "eth0", "eth1", "docker0", "vetha", "vethd"]),
        ] {
            let text = format!(
                "[[service]]\nname = \"a\"\nprotocol = \"tcp\"\nlisten = \"{listen}\"\ntarget = \"10.2.0.1:80\"\n"
            );
            let file = config::File::parse("t.toml".as_ref(), &text).unwrap();
            let config = Config::new(file, config::Flags::default()).unwrap();
            let selected = select(&inventory, &Wanted::of(&config));
            let names: Vec<_> = selected.values().map(|i| i.name.as_str()).collect();
            assert_eq!(names, expected, "{listen}");
        }
        // Its ports are attached in its place.
        inventory.interfaces.get_mut(&5).unwrap().controller = Some(4);
        let all = Wanted {
            interfaces: wanted(&["auto"]),
            serves_all: true,
            ..Wanted::default()
        };
        assert!(!select(&inventory, &all).contains_key(&4));
    }

    #[test]
    fn an_interface_may_have_several_names() {
        let mut inventory = inventory();
        let eth1 = inventory.interfaces.get_mut(&3).unwrap();
        eth1.other_names = vec!["enp0s8".to_owned()];
        let asked = Wanted {
            interfaces: wanted(&["enp0s8"]),
            ..Wanted::default()
        };
        assert!(select(&inventory, &asked).contains_key(&3));
        assert!(check_named(&inventory, &asked.interfaces).is_ok());
    }

    #[test]
    fn names_and_globs() {
        assert_eq!(names(&["eth1"]), ["eth1"]);
        assert_eq!(
            names(&["veth*", "lo"]),
            ["lo", "vetha", "vethb", "vethc", "vethd"]
        );
        assert_eq!(names(&["tun*"]), [""; 0]);
    }

    #[test]
    fn a_name_must_exist_and_a_glob_need_not() {
        let inventory = inventory();
        assert!(check_named(&inventory, &wanted(&["auto", "tun*", "eth0"])).is_ok());
        let error = check_named(&inventory, &wanted(&["eth9"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("--interface eth9: unknown interface \"eth9\": here are lo, eth0"),
            "{error}"
        );
    }
}
