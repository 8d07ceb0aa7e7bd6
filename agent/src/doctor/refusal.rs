//! Why `truename run` would not start: one answer for `run`, `config check` and `doctor`.

use crate::{
    api::{Server, ServerError},
    config::{Config, ConfigError},
    datapath::{DatapathError, Pins},
    netlink::{self, NetlinkError, Requests},
};

use super::{Unmet, require};

/// A reason not to start.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The configuration contradicts itself or the host.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host lacks something.
    #[error(transparent)]
    Unmet(#[from] Unmet),
    /// The control socket.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The kernel side.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The interfaces cannot be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Refusal {
    /// Whether it is a mistake in the configuration, which does not go by itself: an interface may still come.
    pub const fn is_mistake(&self) -> bool {
        matches!(self, Self::Config(error) if !matches!(error, ConfigError::NoInterface { .. }))
    }

    /// Whether it only says that an agent runs already.
    pub const fn is_running_agent(&self) -> bool {
        matches!(
            self,
            Self::Server(ServerError::InUse(_)) | Self::Datapath(DatapathError::Busy(_))
        )
    }
}

/// All reasons that can be seen without changing anything, in the order in which `run` tells them.
pub fn refusals(config: &Config) -> Vec<Refusal> {
    let pins = Pins::new(&config.agent.bpffs);
    let required = require();
    // Who may not look is told so already.
    let tables = required.as_ref().map_or(Ok(()), |()| pins.check_tables());
    let looks: [Result<(), Refusal>; 7] = [
        config.check_runnable().map_err(Refusal::from),
        interfaces(config),
        Server::check_free(&config.agent.control_socket).map_err(Refusal::from),
        required.map_err(Refusal::from),
        pins.check().map_err(Refusal::from),
        pins.check_free().map_err(Refusal::from),
        tables.map_err(Refusal::from),
    ];
    looks.into_iter().filter_map(Result::err).collect()
}

/// That the interfaces that are selected by name are there.
fn interfaces(config: &Config) -> Result<(), Refusal> {
    let inventory = Requests::open()?.inventory()?;
    Ok(netlink::check_named(
        &inventory,
        &config.datapath.interfaces,
    )?)
}
