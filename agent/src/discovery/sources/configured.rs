//! Facts from the agent's own configuration: an endpoint with a canonical name is where it listens. A pure
//! function.

use crate::{
    config::Config,
    discovery::{Claim, Facts, Kind, SourceId},
};

/// The source of these facts.
pub fn id() -> SourceId {
    SourceId {
        kind: Kind::Configured,
        place: String::new(),
    }
}

/// What the endpoints tell.
pub fn facts(config: &Config) -> Facts {
    let mut facts = Facts::new();
    for endpoint in &config.endpoints {
        if let (Some(name), Some(address)) = (&endpoint.canonical, endpoint.listen.address) {
            let name = name.clone();
            facts.add(Claim::Address { name, address });
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{File, Flags};

    #[test]
    fn an_endpoint_is_where_it_listens() {
        let endpoints = [
            "pekko=10.0.0.1:6123=jobmanager:6123",
            "pekko=10.0.0.2:6123",
            "pekko=*:6122=taskmanager:6122",
        ];
        let flags = Flags {
            endpoints: endpoints.map(|flag| flag.parse().unwrap()).into(),
            ..Flags::default()
        };
        let config = Config::new(File::default(), flags).unwrap();
        let claims: Vec<_> = facts(&config).claims().cloned().collect();
        let name = "jobmanager:6123".parse().unwrap();
        let address = [10, 0, 0, 1].into();
        assert_eq!(claims, [Claim::Address { name, address }]);
    }
}
