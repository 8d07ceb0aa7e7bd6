//! Which interfaces the programs are attached to.

use std::collections::BTreeMap;

use super::{Interface, Inventory};
use crate::config::{self, ConfigError, Selector};

/// The selected interfaces, by number.
pub fn select<'a>(
    inventory: &'a Inventory,
    wanted: &[config::Interface],
) -> BTreeMap<u32, &'a Interface> {
    inventory
        .interfaces
        .iter()
        .filter(|(_, interface)| {
            wanted.iter().any(|wanted| match &wanted.selector {
                Selector::Auto => is_auto(inventory, interface),
                named => named.matches(&interface.name),
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
        if inventory
            .interfaces
            .values()
            .any(|interface| interface.name == *name)
        {
            continue;
        }
        let names: Vec<_> = inventory
            .interfaces
            .values()
            .map(|interface| interface.name.as_str())
            .collect();
        return Err(ConfigError::BadValue {
            origin: origin.clone(),
            what: "unknown interface".to_owned(),
            value: name.clone(),
            reason: format!(
                "here are {}; an interface that appears later is selected by a glob, e.g. \"{name}*\"",
                names.join(", ")
            ),
        });
    }
    Ok(())
}

/// Those with a default route, loopback, and veths whose other end is in another namespace.
fn is_auto(inventory: &Inventory, interface: &Interface) -> bool {
    interface.loopback
        || inventory.default_route.contains(&interface.index)
        || (interface.veth && is_host_side(inventory, interface))
}

/// A veth whose peer is not one of ours. Numbers are unique only within a namespace: a peer
/// number that is ours counts only if that interface names us as its peer in turn.
fn is_host_side(inventory: &Inventory, veth: &Interface) -> bool {
    if veth.peer_elsewhere {
        return true;
    }
    let peer = veth.peer.and_then(|peer| inventory.interfaces.get(&peer));
    peer.is_none_or(|peer| !peer.veth || peer.peer != Some(veth.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Origin, links::Framing};

    fn interface(index: u32, name: &str) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            framing: Framing::Ethernet,
            loopback: name == "lo",
            veth: name.starts_with("veth"),
            peer: None,
            peer_elsewhere: false,
            address: None,
            controller: None,
            vrf: false,
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
            peer_elsewhere: true,
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
        inventory.default_route.insert(2);
        inventory
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
        select(&inventory(), &wanted(selectors))
            .values()
            .map(|i| i.name.clone())
            .collect()
    }

    #[test]
    fn auto_takes_uplinks_loopback_and_host_sides() {
        assert_eq!(names(&["auto"]), ["lo", "eth0", "vetha", "vethd"]);
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
