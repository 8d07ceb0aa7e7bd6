//! Hearing from the kernel that interfaces, addresses, filters, or routes that matter are others.

use std::{io, time::Duration};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{
    Socket,
    protocols::{NETLINK_ROUTE, NETLINK_XFRM},
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use super::{
    inventory,
    request::{NetlinkError, messages},
};

/// `RTNLGRP_*` of links, filters, addresses and routes.
const GROUPS: [u32; 6] = [1, 4, 5, 7, 9, 11];
/// `XFRMNLGRP_POLICY`.
const POLICIES: u32 = 4;
/// How much the kernel keeps for us, in bytes: some thousand messages. Beyond it messages are lost, which is told.
const BUFFER: usize = 4 << 20;
/// Changes that come within this time of the last one that was told are told together.
const GATHER: Duration = Duration::from_millis(50);
/// How long after a failure a socket is opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// What may be another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Something that is selected, or that is attached.
    pub any: bool,
    /// What [`super::Routes`] tells of.
    pub routes: bool,
}

impl Changed {
    const ALL: Self = Self {
        any: true,
        routes: true,
    };

    /// Adds what a message tells.
    fn note(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) {
        let NetlinkPayload::InnerMessage(message) = payload else {
            *self = Self::ALL;
            return;
        };
        match message {
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_)
            | RouteNetlinkMessage::DelQueueDiscipline(_)
            | RouteNetlinkMessage::DelTrafficFilter(_) => self.any = true,
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)
                if inventory::concerns(route) =>
            {
                *self = Self::ALL;
            }
            _ => {}
        }
    }
}

/// A subscription, of the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Changes {
    socket: AsyncFd<Socket>,
    /// Hears of IPsec policies; none where the kernel has none.
    policies: Option<AsyncFd<Socket>>,
    /// When the next change may be told.
    earliest: Instant,
}

impl Changes {
    /// Hears from now on; in a Tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: open(NETLINK_ROUTE, &GROUPS).map_err(NetlinkError::Socket)?,
            policies: open(NETLINK_XFRM, &[POLICIES]).ok(),
            earliest: Instant::now(),
        })
    }

    /// Waits until something changed, or may have: messages that were lost count as a change. Several at once are one.
    /// Nothing is lost if the future is dropped.
    pub async fn changed(&mut self) -> Changed {
        loop {
            sleep_until(self.earliest).await;
            let heard = tokio::select! {
                heard = self.hear() => heard,
                heard = heard_any(self.policies.as_ref()) => heard,
            };
            if let Ok(Changed { any: false, .. }) = heard {
                continue;
            }
            self.earliest = Instant::now() + GATHER;
            return heard.unwrap_or_else(|error| {
                log::warn!("Cannot hear of changes from the kernel: {error}; it is tried again");
                self.policies = open(NETLINK_XFRM, &[POLICIES]).ok();
                match open(NETLINK_ROUTE, &GROUPS) {
                    Ok(socket) => self.socket = socket,
                    Err(_) => self.earliest = Instant::now() + AGAIN,
                }
                Changed::ALL
            });
        }
    }

    /// Reads all that is there.
    async fn hear(&self) -> io::Result<Changed> {
        let mut guard = self.socket.readable().await?;
        let mut changed = Changed::default();
        loop {
            match guard.get_inner().recv_from_full() {
                Ok((bytes, _)) => {
                    for message in messages(&bytes) {
                        changed.note(&message.payload);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    log::debug!("The kernel dropped messages: all is looked at again");
                    changed = Changed::ALL;
                }
                Err(error) => return Err(error),
            }
        }
        guard.clear_ready();
        Ok(changed)
    }
}

/// Reads all that a socket has, whatever it is.
async fn heard_any(socket: Option<&AsyncFd<Socket>>) -> io::Result<Changed> {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    let mut guard = socket.readable().await?;
    loop {
        match guard.get_inner().recv_from_full() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error),
        }
    }
    guard.clear_ready();
    Ok(Changed {
        any: true,
        routes: false,
    })
}

fn open(protocol: isize, groups: &[u32]) -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(protocol)?;
    // More than the host's limit needs CAP_NET_ADMIN, which the agent has.
    set_socket_recv_buffer_size_force(&socket, BUFFER)
        .or_else(|_| socket.set_rx_buf_sz(BUFFER as libc::c_int))?;
    socket.bind_auto()?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    // SAFETY: the socket owns its descriptor, keeps it open and always returns the same one.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}
