//! The kernel's interfaces, addresses and routes, through rtnetlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    pin::pin,
    sync::Arc,
};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    tc::TcHandle,
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::{Framing, Interface, Inventory};
use crate::plan::{Facts, Roles};

/// Why the interfaces are not known.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel said no.
    #[error("cannot list {what}: {source}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        source: rtnetlink::Error,
    },
    /// The subscription ended.
    #[error("the kernel closed the netlink subscription")]
    Closed,
}

/// A netlink connection that lists interfaces and hears of changes.
pub struct Links {
    handle: Handle,
    changes: std::pin::Pin<Box<dyn Stream<Item = ()> + Send>>,
    connection: JoinHandle<()>,
}

impl Links {
    /// Connects in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ])?;
        let changes = messages
            .filter(|(message, _)| {
                let relevant = match &message.payload {
                    NetlinkPayload::InnerMessage(message) => concerns_selection(message),
                    // Messages were lost: what changed is unknown.
                    _ => true,
                };
                std::future::ready(relevant)
            })
            .map(|_| ());
        Ok(Self {
            handle,
            changes: Box::pin(changes),
            connection: tokio::spawn(connection),
        })
    }

    /// What there is now.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn inventory(&self) -> Result<Inventory, NetlinkError> {
        let mut inventory = Inventory::default();
        let mut links = pin!(self.handle.link().get().execute());
        let failed = |what| move |source| NetlinkError::List { what, source };
        while let Some(link) = links.try_next().await.map_err(failed("interfaces"))? {
            if let Some(interface) = read_interface(&link) {
                inventory.insert(interface);
            }
        }
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        for (family, request) in [("IPv4 routes", v4), ("IPv6 routes", v6)] {
            let mut routes = pin!(self.handle.route().get(request).execute());
            loop {
                match routes.try_next().await {
                    Ok(Some(route)) => inventory.default_route.extend(default_route(&route)),
                    Ok(None) => break,
                    // A kernel without this family has no routes of it.
                    Err(error) if is_unsupported(&error) => break,
                    Err(error) => return Err(failed(family)(error)),
                }
            }
        }
        Ok(inventory)
    }

    /// The host's addresses, and the addresses that its packets to `targets` come from.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn facts(
        &self,
        inventory: &Inventory,
        targets: &BTreeSet<IpAddr>,
        roles: Arc<Roles>,
    ) -> Result<Facts, NetlinkError> {
        let mut addresses = BTreeSet::new();
        let mut found = pin!(self.handle.address().get().execute());
        let failed = |source| NetlinkError::List {
            what: "addresses",
            source,
        };
        while let Some(address) = found.try_next().await.map_err(failed)? {
            addresses.extend(own_address(&address));
        }
        let mut sources = BTreeMap::new();
        for target in targets {
            if let Some(source) = self.source(*target).await? {
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
            sources,
        })
    }

    /// The address that this host's packets to `target` come from; none if there is no route.
    async fn source(&self, target: IpAddr) -> Result<Option<IpAddr>, NetlinkError> {
        let request = match target {
            IpAddr::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(v4, 32)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(v6, 128)
                .build(),
        };
        let mut routes = pin!(self.handle.route().get(request).execute());
        match routes.try_next().await {
            Ok(route) => Ok(route.as_ref().and_then(preferred_source)),
            // The kernel's answer to "by which route?" is an error where there is none.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(source) => Err(NetlinkError::List {
                what: "the route to a target",
                source,
            }),
        }
    }

    /// Removes the clsact qdiscs of these interfaces, except those with filters of others.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn remove_empty_clsact(&self, interfaces: &[u32]) -> Result<(), NetlinkError> {
        for index in interfaces {
            let Ok(index) = i32::try_from(*index) else {
                continue;
            };
            let list = self.handle.traffic_filter(index);
            let mut filters = 0;
            for request in [list.clone().get().ingress(), list.clone().get().egress()] {
                let mut found = pin!(request.execute());
                // The interface may be gone, and its qdisc with it.
                while let Ok(Some(_)) = found.try_next().await {
                    filters += 1;
                }
            }
            if filters == 0 {
                let mut request = self.handle.qdisc().del(index);
                request.message_mut().header.parent = TcHandle::CLSACT;
                if let Err(error) = request.execute().await {
                    log::debug!("The clsact qdisc of interface {index} is not removed: {error}");
                }
            }
        }
        Ok(())
    }

    /// Waits until something changed; several changes at once count as one.
    ///
    /// # Errors
    /// When the subscription ended.
    pub async fn changed(&mut self) -> Result<(), NetlinkError> {
        self.changes.next().await.ok_or(NetlinkError::Closed)?;
        let mut more = pin!(stream::poll_fn(|context| {
            match self.changes.poll_next_unpin(context) {
                std::task::Poll::Pending => std::task::Poll::Ready(None),
                ready => ready,
            }
        }));
        while more.next().await.is_some() {}
        Ok(())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn is_unsupported(error: &rtnetlink::Error) -> bool {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            matches!(-message.raw_code(), libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
        }
        _ => false,
    }
}

fn concerns_selection(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(_)
        | RouteNetlinkMessage::DelLink(_)
        | RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_) => true,
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            route.header.destination_prefix_length == 0
        }
        _ => false,
    }
}

fn read_interface(link: &LinkMessage) -> Option<Interface> {
    // Bridges report their ports a second time under their own family.
    if link.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let layer = link.header.link_layer_type;
    let mut name = None;
    let mut veth = false;
    let mut peer = None;
    let mut peer_elsewhere = false;
    let mut address = None;
    let mut controller = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(_) => peer_elsewhere = true,
            LinkAttribute::Address(bytes) => address = bytes.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) => controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                veth |= infos
                    .iter()
                    .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    Some(Interface {
        index: link.header.index,
        name: name?,
        framing: framing(layer),
        loopback: layer == LinkLayerType::Loopback,
        veth,
        peer,
        peer_elsewhere,
        address,
        controller,
    })
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
