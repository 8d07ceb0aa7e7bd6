//! The kernel's interfaces, addresses and routes, through rtnetlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, Prop},
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    nsid::{NsidAttribute, NsidMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    rule::{RuleAttribute, RuleMessage},
};

use super::{Framing, Interface, Inventory, NetlinkError, Requests, Routes, Side, Unanswered};
use crate::{
    plan::{Facts, Roles},
    sysctl,
};

impl Requests {
    /// The interfaces and addresses that there are now; nothing is said of routes.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn inventory(&mut self) -> Result<Inventory, NetlinkError> {
        let mut inventory = Inventory::default();
        let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
        for message in self.list("list interfaces", &question)? {
            if let RouteNetlinkMessage::NewLink(link) = message
                && let Some(interface) = read_interface(&link)
            {
                inventory.insert(interface);
            }
        }
        inventory.mark_carriers();
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for message in self.list("list addresses", &question)? {
            if let RouteNetlinkMessage::NewAddress(address) = message
                && let Some(interface) = inventory.interfaces.get_mut(&address.header.index)
            {
                interface.addresses.extend(own_address(&address));
            }
        }
        Ok(inventory)
    }

    /// What is to be known of the routes that there are now. All of them are read, which may be many.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn routes(&mut self) -> Result<Routes, NetlinkError> {
        let mut known = Routes::default();
        let mut count = 0;
        for (family, action) in [
            (AddressFamily::Inet, "list IPv4 routes"),
            (AddressFamily::Inet6, "list IPv6 routes"),
        ] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            match self.list(action, &RouteNetlinkMessage::GetRoute(question)) {
                Ok(routes) => {
                    count += routes.len();
                    for message in routes {
                        if let RouteNetlinkMessage::NewRoute(route) = message {
                            known.default.extend(default_route(&route));
                            known.multipath |=
                                family == AddressFamily::Inet && is_multipath(&route);
                        }
                    }
                }
                // A kernel without this family has no routes of it.
                Err(error) if is_unsupported(&error) => {}
                Err(error) => return Err(error),
            }
        }
        log::debug!("Read {count} route(s)");
        Ok(known)
    }

    /// The host's addresses, and the addresses that its packets to `targets` come from.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn facts(
        &mut self,
        inventory: &Inventory,
        targets: &BTreeSet<IpAddr>,
        roles: Arc<Roles>,
    ) -> Result<Facts, NetlinkError> {
        let interfaces = inventory.interfaces.values();
        let addresses = interfaces.flat_map(|interface| interface.addresses.iter().copied());
        let addresses = addresses.collect();
        let mut sources = BTreeMap::new();
        for target in targets {
            if let Some(source) = self.source(*target)? {
                sources.insert(*target, source);
            }
        }
        let mut interfaces = inventory.interfaces.values();
        Ok(Facts {
            addresses,
            loopback: interfaces
                .find(|interface| interface.loopback)
                .map_or(0, |interface| interface.index),
            roles,
            names: Arc::default(),
            sources,
            policies: super::ipsec::policies()?,
            drained: BTreeSet::new(),
        })
    }

    /// The address that this host's packets to `target` come from; none if there is no route.
    fn source(&mut self, target: IpAddr) -> Result<Option<IpAddr>, NetlinkError> {
        Ok(self.route(target)?.as_ref().and_then(preferred_source))
    }

    /// The number of the interface by which this host sends to an address; none if there is no route.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn interface_to(&mut self, address: IpAddr) -> Result<Option<u32>, NetlinkError> {
        let route = self.route(address)?;
        let attributes = route.map(|route| route.attributes).unwrap_or_default();
        let mut interfaces = attributes.iter().filter_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        Ok(interfaces.next())
    }

    /// Whether an address is one of a network that this host is in, and not its own: others in it ask who has it.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn is_on_link(&mut self, address: IpAddr) -> Result<bool, NetlinkError> {
        let is_gateway = |attribute: &RouteAttribute| {
            matches!(
                attribute,
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
            )
        };
        let route = self.route(address)?;
        Ok(route.is_some_and(|route| {
            route.header.kind == RouteType::Unicast && !route.attributes.iter().any(is_gateway)
        }))
    }

    /// The aliases that neighbours look for and nobody has: those on a network that this host is in.
    ///
    /// # Errors
    /// As above.
    pub fn unanswered(
        &mut self,
        aliases: impl Iterator<Item = IpAddr>,
    ) -> Result<Vec<Unanswered>, NetlinkError> {
        let mut all = Vec::new();
        for alias in aliases.collect::<BTreeSet<_>>() {
            all.extend(self.unanswered_alias(alias)?);
        }
        Ok(all)
    }

    /// The same for one alias: none if neighbours do not look for it, or find it.
    ///
    /// # Errors
    /// As above.
    pub fn unanswered_alias(
        &mut self,
        address: IpAddr,
    ) -> Result<Option<Unanswered>, NetlinkError> {
        if !self.is_on_link(address)? {
            return Ok(None);
        }
        let interface = match self.interface_to(address)? {
            Some(index) => self.name_of(index)?,
            None => None,
        };
        Ok(interface.map(|interface| Unanswered { address, interface }))
    }

    /// What of this host's routing rules is not followed for packets of services, or in part: `fwmark` of marks that are
    /// given behind truename, `uidrange`, and `iif`, by which a packet is routed, but its source address is not chosen.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn unfollowed_rules(&mut self) -> Result<BTreeSet<&'static str>, NetlinkError> {
        let mut words = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RuleMessage::default();
            question.header.family = family;
            let rules = match self.list(
                "list routing rules",
                &RouteNetlinkMessage::GetRule(question),
            ) {
                Err(error) if is_unsupported(&error) => continue,
                rules => rules?,
            };
            for message in rules {
                let RouteNetlinkMessage::NewRule(rule) = message else {
                    continue;
                };
                words.extend(
                    rule.attributes
                        .iter()
                        .filter_map(|attribute| match attribute {
                            RuleAttribute::FwMark(mark) if *mark != 0 => Some("fwmark"),
                            RuleAttribute::UidRange(_) => Some("uidrange"),
                            RuleAttribute::Iifname(_) => Some("iif"),
                            _ => None,
                        }),
                );
            }
        }
        Ok(words)
    }

    /// The name of an interface; none if it is gone.
    fn name_of(&mut self, index: u32) -> Result<Option<String>, NetlinkError> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        let question = RouteNetlinkMessage::GetLink(question);
        let answer = self.get("find the name of an interface", question)?;
        Ok(match answer {
            Some(RouteNetlinkMessage::NewLink(link)) => read_interface(&link).map(|i| i.name),
            _ => None,
        })
    }

    /// Whether this host has asked its network in vain who has an address.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn is_unreachable(&mut self, address: IpAddr) -> Result<bool, NetlinkError> {
        if !self.is_on_link(address)? {
            return Ok(false);
        }
        let Some(ifindex) = self.interface_to(address)? else {
            return Ok(false);
        };
        let mut question = NeighbourMessage::default();
        (question.header.family, question.header.ifindex) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, ifindex),
            IpAddr::V6(_) => (AddressFamily::Inet6, ifindex),
        };
        let destination = NeighbourAttribute::Destination(address.into());
        question.attributes.push(destination);
        let question = RouteNetlinkMessage::GetNeighbour(question);
        Ok(match self.get("find a neighbour", question)? {
            Some(RouteNetlinkMessage::NewNeighbour(found)) => matches!(
                found.header.state,
                NeighbourState::Failed | NeighbourState::Incomplete
            ),
            // Nobody has asked, or nobody knows any more.
            _ => false,
        })
    }

    /// The route by which this host sends to an address; none if there is none.
    /// The number by which this namespace knows another one; none if no interface of this one has its peer there.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn namespace_id(
        &mut self,
        namespace: std::os::fd::BorrowedFd<'_>,
    ) -> Result<Option<i32>, NetlinkError> {
        let mut question = NsidMessage::default();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&namespace).cast_unsigned();
        question.attributes.push(NsidAttribute::Fd(fd));
        let question = RouteNetlinkMessage::GetNsId(question);
        let Some(RouteNetlinkMessage::NewNsId(answer)) =
            self.get("find the number of a network namespace", question)?
        else {
            return Ok(None);
        };
        let mut ids = answer
            .attributes
            .iter()
            .filter_map(|attribute| match attribute {
                // -1: it has none.
                NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                _ => None,
            });
        Ok(ids.next())
    }

    fn route(&mut self, target: IpAddr) -> Result<Option<RouteMessage>, NetlinkError> {
        let (family, length, address) = match target {
            IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
        };
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        question.header.destination_prefix_length = length;
        question
            .attributes
            .push(RouteAttribute::Destination(address));
        let question = RouteNetlinkMessage::GetRoute(question);
        match self.get("find the route to a target", question)? {
            Some(RouteNetlinkMessage::NewRoute(route)) => Ok(Some(route)),
            // The kernel's answer to "by which route?" is an error where there is none.
            _ => Ok(None),
        }
    }

    /// Removes the clsact qdiscs of these interfaces, except those with filters of others.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn remove_empty_clsact(&mut self, interfaces: &[u32]) -> Result<(), NetlinkError> {
        for index in interfaces {
            let mut filters = 0;
            for side in [Side::Ingress, Side::Egress] {
                // The interface may be gone, and its qdisc with it.
                filters += self.filters(*index, side)?.len();
            }
            if filters == 0
                && let Err(error) = self.remove_clsact(*index)
            {
                log::debug!("The clsact qdisc of interface {index} is not removed: {error}");
            }
        }
        Ok(())
    }
}

fn is_unsupported(error: &NetlinkError) -> bool {
    matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

fn read_interface(link: &LinkMessage) -> Option<Interface> {
    // Bridges report their ports a second time under their own family.
    if link.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let layer = link.header.link_layer_type;
    let mut name = None;
    let (mut veth, mut vrf, mut vlan) = (false, false, false);
    let mut peer = None;
    let mut peer_namespace = None;
    let mut address = None;
    let mut controller = None;
    let mut other_names = Vec::new();
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(id) => peer_namespace = Some(*id),
            LinkAttribute::Address(bytes) => address = bytes.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) => controller = Some(*index),
            LinkAttribute::PropList(properties) => {
                other_names.extend(properties.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                }));
            }
            LinkAttribute::LinkInfo(infos) => {
                let is = |kind: InfoKind| infos.contains(&LinkInfo::Kind(kind));
                veth |= is(InfoKind::Veth);
                vrf |= is(InfoKind::Vrf);
                vlan |= is(InfoKind::Vlan);
            }
            _ => {}
        }
    }
    let name = name?;
    let strict = ["all", &name].into_iter().map(rp_filter).max() == Some(1);
    Some(Interface {
        index: link.header.index,
        name,
        other_names,
        addresses: BTreeSet::new(),
        framing: framing(layer),
        loopback: layer == LinkLayerType::Loopback,
        veth,
        peer,
        peer_namespace,
        address,
        controller,
        vrf,
        vlan,
        carries_vlans: false,
        strict,
    })
}

/// How the source of what comes in by an interface is checked; 0 is not at all. The larger of an interface's own value
/// and that of all counts.
fn rp_filter(interface: &str) -> u8 {
    let value = sysctl::read(&format!("net/ipv4/conf/{interface}/rp_filter"));
    value.ok().and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Whether a route is one of those that [`Routes`] tells of.
pub(super) fn concerns(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 || is_multipath(route)
}

/// Whether a route has several next hops.
fn is_multipath(route: &RouteMessage) -> bool {
    route
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::MultiPath(hops) if hops.len() > 1))
}

fn framing(layer: LinkLayerType) -> Framing {
    match layer {
        LinkLayerType::Ether | LinkLayerType::Loopback => Framing::Ethernet,
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Ppp
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre => Framing::Raw,
        other => Framing::Unsupported(other.into()),
    }
}

/// The address of an interface; of a point-to-point link, this host's end.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(address) => own = Some(*address),
            _ => {}
        }
    }
    own
}

/// The source address of a route that leads somewhere.
fn preferred_source(route: &RouteMessage) -> Option<IpAddr> {
    if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })
}

/// The interfaces that a route leaves through, if it is a default route.
fn default_route(route: &RouteMessage) -> Vec<u32> {
    let mut indexes = Vec::new();
    if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
        return indexes;
    }
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => indexes.push(*index),
            RouteAttribute::MultiPath(hops) => {
                indexes.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    indexes
}
