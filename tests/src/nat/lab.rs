//! Clients, a node that translates, and targets behind it.

use std::net::IpAddr;

use anyhow::Result;

use super::{family::Family, tag};
use crate::{
    namespace::{Namespace, Offload, link},
    scratch::Scratch,
};

/// How many addresses the target has.
const TARGETS: u8 = 5;
/// The MTU of a veth nobody changed.
const ETHERNET: u32 = 1500;

/// Networks of the address plan.
mod network {
    pub const CLIENT: u8 = 1;
    pub const SECOND: u8 = 2;
    pub const TARGET: u8 = 3;
    /// Between the client's router and the node.
    pub const FRONT: u8 = 4;
    /// Between the node and the target's router.
    pub const BACK: u8 = 5;
    /// Nobody has it: all routes to it lead to the node, and on from there.
    pub const FOREIGN: u8 = 100;
}

/// What is special about a lab.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// There are routers between client and node, and between node and target. Without them they are
    /// neighbours.
    pub routers: bool,
    /// The MTU of the client's link. The client does not tell TCP: its peers have to learn it.
    pub client_mtu: u32,
    /// The MTU of the target's link. The target does not tell TCP either.
    pub target_mtu: u32,
    /// Packets between client and node carry this 802.1Q tag.
    pub vlan: Option<u16>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            routers: false,
            client_mtu: ETHERNET,
            target_mtu: ETHERNET,
            vlan: None,
        }
    }
}

/// ```text
/// client ─ (router) ─ c0 ┐
///                        node ─ t0 ─ (router) ─ target
///             second ─ d0 ┘
/// ```
/// Everybody's default route leads to the node; the node's leads to the target, which does not forward.
#[derive(Debug)]
pub struct Lab {
    /// Who uses aliases.
    pub client: Namespace,
    /// Another client.
    pub second: Namespace,
    /// Where translation happens, and where local targets are.
    pub node: Namespace,
    /// Where remote targets are.
    pub target: Namespace,
    /// Files of the lab.
    pub scratch: Scratch,
    shape: Shape,
    routers: Vec<Namespace>,
}

/// One end of a cable.
struct End<'n> {
    namespace: &'n Namespace,
    interface: &'static str,
    host: u8,
}

fn end<'n>(namespace: &'n Namespace, interface: &'static str, host: u8) -> End<'n> {
    End {
        namespace,
        interface,
        host,
    }
}

impl Lab {
    /// Neighbours with nothing special.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        Self::shaped(Shape::default())
    }

    /// A lab that is not like the others.
    ///
    /// # Errors
    /// Not root.
    pub fn shaped(shape: Shape) -> Result<Self> {
        let mut lab = Self {
            client: host("c", false)?,
            second: host("d", false)?,
            node: host("n", true)?,
            target: host("t", false)?,
            scratch: Scratch::new("nat")?,
            shape,
            routers: Vec::new(),
        };
        lab.connect_client()?;
        cable(
            &end(&lab.second, "s0", 2),
            &end(&lab.node, "d0", 1),
            network::SECOND,
            ETHERNET,
        )?;
        lab.connect_target()?;
        for family in Family::BOTH {
            lab.add_routes(family)?;
        }
        if let Some(vlan) = shape.vlan {
            tag::tag(&lab.client, "s0", vlan)?;
            tag::tag(&lab.node, "c0", vlan)?;
        }
        Ok(lab)
    }

    fn connect_client(&mut self) -> Result<()> {
        let mtu = self.shape.client_mtu;
        let client = end(&self.client, "s0", 2);
        if !self.shape.routers {
            return cable(&client, &end(&self.node, "c0", 1), network::CLIENT, mtu);
        }
        let router = host("p", true)?;
        cable(&client, &end(&router, "r0", 1), network::CLIENT, mtu)?;
        cable(
            &end(&router, "r1", 1),
            &end(&self.node, "c0", 2),
            network::FRONT,
            ETHERNET,
        )?;
        self.routers.push(router);
        Ok(())
    }

    fn connect_target(&mut self) -> Result<()> {
        let mtu = self.shape.target_mtu;
        let target = end(&self.target, "s0", 2);
        if self.shape.routers {
            let router = host("q", true)?;
            cable(&target, &end(&router, "r0", 1), network::TARGET, mtu)?;
            cable(
                &end(&router, "r1", 2),
                &end(&self.node, "t0", 1),
                network::BACK,
                ETHERNET,
            )?;
            self.routers.push(router);
        } else {
            cable(&target, &end(&self.node, "t0", 1), network::TARGET, mtu)?;
        }
        for family in Family::BOTH {
            for number in 1..TARGETS {
                let address = self.target(family, number);
                let prefix = family.prefix();
                address_add(&self.target, "s0", address, prefix)?;
            }
        }
        Ok(())
    }

    fn add_routes(&self, family: Family) -> Result<()> {
        let route = |namespace: &Namespace, what: &str| {
            namespace
                .ip(&format!("{} route {what}", family.flag()))
                .map(drop)
        };
        let gateway = |network| family.address(network, 1);
        let advmss = family.full_segment();
        for (namespace, network) in [
            (&self.client, network::CLIENT),
            (&self.second, network::SECOND),
            (&self.target, network::TARGET),
        ] {
            let via = gateway(network);
            route(namespace, &format!("add default via {via} advmss {advmss}"))?;
            // The neighbours too.
            let (near, prefix) = (family.address(network, 0), family.prefix());
            let own = family.address(network, 2);
            let change = match family {
                Family::V4 => format!("scope link src {own}"),
                Family::V6 => "metric 256".to_owned(),
            };
            route(
                namespace,
                &format!("replace {near}/{prefix} dev s0 proto kernel {change} advmss {advmss}"),
            )?;
        }
        match &self.routers[..] {
            [front, back] => {
                let (front_node, back_node) = (
                    family.address(network::FRONT, 2),
                    family.address(network::BACK, 1),
                );
                route(front, &format!("add default via {front_node}"))?;
                route(back, &format!("add default via {back_node}"))?;
                let prefix = family.prefix();
                let clients = family.address(network::CLIENT, 0);
                let via = family.address(network::FRONT, 1);
                route(&self.node, &format!("add {clients}/{prefix} via {via}"))?;
                let via = family.address(network::BACK, 2);
                route(&self.node, &format!("add default via {via}"))
            }
            _ => {
                let via = family.address(network::TARGET, 2);
                route(&self.node, &format!("add default via {via}"))
            }
        }
    }

    /// Are clients and target behind routers?
    pub fn has_routers(&self) -> bool {
        self.shape.routers
    }

    /// The client's address.
    pub fn client(&self, family: Family) -> IpAddr {
        family.address(network::CLIENT, 2)
    }

    /// Another address of the client's network, which nobody has.
    pub fn other_client(&self, family: Family) -> IpAddr {
        family.address(network::CLIENT, 9)
    }

    /// The second client's address.
    pub fn second(&self, family: Family) -> IpAddr {
        family.address(network::SECOND, 2)
    }

    /// The node's address on the client's side.
    pub fn node(&self, family: Family) -> IpAddr {
        if self.shape.routers {
            family.address(network::FRONT, 2)
        } else {
            family.address(network::CLIENT, 1)
        }
    }

    /// The node's address on the target's side: by which the target knows it.
    pub fn near(&self, family: Family) -> IpAddr {
        if self.shape.routers {
            family.address(network::BACK, 1)
        } else {
            family.address(network::TARGET, 1)
        }
    }

    /// One of the target's addresses.
    pub fn target(&self, family: Family, number: u8) -> IpAddr {
        family.address(network::TARGET, 2 + number % TARGETS)
    }

    /// An address of the target's network that nobody has.
    pub fn absent(&self, family: Family) -> IpAddr {
        family.address(network::TARGET, 77)
    }

    /// An address that nobody has.
    pub fn foreign(&self, family: Family, number: u8) -> IpAddr {
        family.address(network::FOREIGN, number)
    }

    /// The node's interfaces.
    pub fn interfaces(&self) -> [&'static str; 4] {
        ["c0", "d0", "t0", "lo"]
    }

    /// Switches the segmentation offloads of clients and target on or off.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn segmentation_offload(&self, on: bool) -> Result<()> {
        let ends = [
            (&self.client, "s0"),
            (&self.target, "s0"),
            (&self.node, "c0"),
            (&self.node, "t0"),
        ];
        for (namespace, interface) in ends {
            for offload in Offload::SEGMENTATION {
                namespace.offload(interface, offload, on)?;
            }
        }
        Ok(())
    }

    /// The MTU of the way to `to`, as a namespace has learned it.
    ///
    /// # Errors
    /// There is no route.
    pub fn learned_mtu(&self, namespace: &Namespace, to: IpAddr) -> Result<Option<u32>> {
        let route = namespace.ip(&format!("{} route get {to}", Family::of(to).flag()))?;
        let mut words = route.split_whitespace();
        Ok(words
            .find(|word| *word == "mtu")
            .and_then(|_| words.next()?.parse().ok()))
    }
}

fn host(label: &str, forwards: bool) -> Result<Namespace> {
    let namespace = Namespace::new(label)?;
    let forwards = if forwards { "1" } else { "0" };
    for (key, value) in [
        ("net/ipv4/ip_forward", forwards),
        ("net/ipv6/conf/all/forwarding", forwards),
        // Addresses are usable at once.
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        // Every error that is due is sent.
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv6/icmp/ratelimit", "0"),
    ] {
        namespace.sysctl(key, value)?;
    }
    Ok(namespace)
}

fn cable(a: &End<'_>, b: &End<'_>, network: u8, mtu: u32) -> Result<()> {
    link((a.namespace, a.interface), (b.namespace, b.interface))?;
    for end in [a, b] {
        end.namespace
            .ip(&format!("link set {} mtu {mtu}", end.interface))?;
        for family in Family::BOTH {
            let address = family.address(network, end.host);
            address_add(end.namespace, end.interface, address, family.prefix())?;
        }
    }
    Ok(())
}

fn address_add(namespace: &Namespace, interface: &str, address: IpAddr, prefix: u8) -> Result<()> {
    namespace
        .ip(&format!("address add {address}/{prefix} dev {interface}"))
        .map(drop)
}
