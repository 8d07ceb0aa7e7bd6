//! Whether the parts of a configuration go together.

use std::collections::BTreeMap;

use super::{
    Aliases, Config, ConfigError, Endpoint, File, Flags, Frontend, MAX_ALIASES, MAX_ENDPOINTS,
    Netfilter, Service, Snat, error::Overlap, reader::bad, services, topology::Topology,
};

impl Config {
    /// The file with the flags applied, validated. It may have no endpoint: `status` and
    /// `detach` read the same file.
    ///
    /// # Errors
    /// When two endpoints or services contradict each other or there are too many.
    pub fn new(file: File, flags: Flags) -> Result<Self, ConfigError> {
        let File {
            agent,
            datapath,
            endpoints,
            services,
            topology,
            relay,
            frontend,
            names,
            path,
        } = flags.apply(file);
        check_names(&endpoints)?;
        check_overlaps(&endpoints)?;
        check_counts(&endpoints)?;
        services::check(&services)?;
        services::check_roles(&services, &topology)?;
        check_netfilter(datapath.netfilter, &services)?;
        check_frontend(&frontend, &topology)?;
        Ok(Self {
            agent,
            datapath,
            endpoints,
            services,
            topology,
            relay,
            frontend,
            names,
            not_derived: Vec::new(),
            file: path,
        })
    }

    /// That there is something to translate.
    ///
    /// # Errors
    /// When there is neither an endpoint nor a service, and no cluster to learn of.
    pub fn check_runnable(&self) -> Result<(), ConfigError> {
        if self.endpoints.is_empty() && self.services.is_empty() && self.topology.is_default() {
            Err(ConfigError::Nothing)
        } else {
            Ok(())
        }
    }
}

fn check_names(endpoints: &[Endpoint]) -> Result<(), ConfigError> {
    let mut seen: BTreeMap<&str, &Endpoint> = BTreeMap::new();
    for endpoint in endpoints {
        if let Some(first) = seen.insert(&endpoint.name, endpoint) {
            return Err(ConfigError::DuplicateName {
                what: "endpoint",
                name: endpoint.name.clone(),
                first: first.origin.clone(),
                second: endpoint.origin.clone(),
            });
        }
    }
    Ok(())
}

fn check_overlaps(endpoints: &[Endpoint]) -> Result<(), ConfigError> {
    let mut by_port: BTreeMap<u16, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        let others = by_port.entry(endpoint.listen.port).or_default();
        if let Some(first) = others
            .iter()
            .find(|other| other.listen.overlaps(endpoint.listen))
        {
            return Err(ConfigError::Overlap(Box::new(Overlap {
                what: "endpoint",
                name: endpoint.name.clone(),
                listen: endpoint.listen,
                other: first.name.clone(),
                other_listen: first.listen,
                first: first.origin.clone(),
                second: endpoint.origin.clone(),
            })));
        }
        others.push(endpoint);
    }
    Ok(())
}

/// That netfilter can do what services want of it.
fn check_netfilter(netfilter: Netfilter, services: &[Service]) -> Result<(), ConfigError> {
    let mut always = services
        .iter()
        .filter(|service| service.snat == Snat::Always);
    match always.next() {
        Some(service) if netfilter == Netfilter::Honour => Err(ConfigError::BadValue {
            origin: service.origin.clone(),
            what: "\"snat\"".to_owned(),
            value: "always".to_owned(),
            reason: "with netfilter = \"honour\" source addresses are netfilter's: have a rule masquerade, and leave \"snat\" out".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// That there is a cluster that the default services are of.
fn check_frontend(frontend: &Frontend, topology: &Topology) -> Result<(), ConfigError> {
    match &frontend.origin {
        Some(origin) if topology.cluster.is_empty() && !frontend.addresses.is_empty() => Err(bad(
            origin.clone(),
            "addresses",
            &frontend.texts().join(", "),
            "there is no cluster whose services could listen there: set cluster in [topology], or --cluster",
        )),
        _ => Ok(()),
    }
}

fn check_counts(endpoints: &[Endpoint]) -> Result<(), ConfigError> {
    if let Some(endpoint) = endpoints.get(MAX_ENDPOINTS) {
        return Err(ConfigError::TooMany {
            origin: endpoint.origin.clone(),
            what: "endpoints",
            count: endpoints.len(),
            max: MAX_ENDPOINTS,
        });
    }
    let mut count = 0;
    for endpoint in endpoints {
        if let Aliases::Listed(aliases) = &endpoint.aliases {
            count += aliases.len();
            if count > MAX_ALIASES {
                return Err(ConfigError::TooMany {
                    origin: endpoint.origin.clone(),
                    what: "aliases",
                    count,
                    max: MAX_ALIASES,
                });
            }
        }
    }
    Ok(())
}
