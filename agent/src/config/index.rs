//! What a configuration has at an address.

use std::collections::BTreeMap;

use truename_common::layout::Socket;

use super::{Config, Endpoint, Service};

/// The endpoint that listens there: the one of that address, or the one of any address.
pub fn endpoint(config: &Config, at: Socket) -> Option<&Endpoint> {
    let listening = |socket: Socket| {
        config
            .endpoints
            .iter()
            .find(move |endpoint| endpoint.listen.to_socket() == socket)
    };
    listening(at).or_else(|| listening(at.any()))
}

/// The name of the endpoint there, or a dash if it was removed from the configuration.
pub fn endpoint_name(config: &Config, at: Socket) -> String {
    endpoint(config, at).map_or_else(|| "-".to_owned(), |endpoint| endpoint.name.clone())
}

/// The configured service that has an alias: the one of that address, or the one of any address. For
/// many questions, [`Services`] is faster.
pub fn service(config: &Config, alias: Socket) -> Option<&Service> {
    let has = |wanted: Socket| config.services.iter().find(move |s| s.alias() == wanted);
    has(alias).or_else(|| has(alias.any()))
}

/// The configured services, by alias.
pub struct Services<'a>(BTreeMap<Socket, &'a Service>);

impl<'a> Services<'a> {
    /// Those of a configuration.
    pub fn new(config: &'a Config) -> Self {
        let services = config.services.iter();
        Self(services.map(|service| (service.alias(), service)).collect())
    }

    /// As [`service`].
    pub fn find(&self, alias: Socket) -> Option<&'a Service> {
        let found = self.0.get(&alias).or_else(|| self.0.get(&alias.any()));
        found.copied()
    }
}

/// The name of the service that has an alias there, or a dash.
pub fn service_name(config: &Config, alias: Socket) -> String {
    service(config, alias).map_or_else(|| "-".to_owned(), |service| service.name.clone())
}
