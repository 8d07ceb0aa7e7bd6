//! Asks the hosts file and DNS for addresses, as this host is configured: `/etc/hosts` first, then the servers of
//! `/etc/resolv.conf` with its search list and options.
//!
//! No thread waits for an answer. The C library's function, which blocks one, would fill the threads that read and write tables as
//! soon as a name server hangs.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::MetadataExt as _,
    sync::{Arc, LazyLock},
    time::Duration,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::read_system_conf,
};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

use super::lookup::Found;

const HOSTS: &str = "/etc/hosts";
const SERVERS: &str = "/etc/resolv.conf";

/// Which file it was: device, number, length, and time of the last change.
type Identity = Option<(u64, u64, u64, i64, i64)>;

/// What the two files said when they were read.
struct Known {
    identities: [Identity; 2],
    system: Arc<System>,
}

/// How this host looks names up.
struct System {
    hosts: Hosts,
    servers: Result<TokioResolver, String>,
}

/// What was read last, for all who ask. Whoever reads holds it, so that of a file system that hangs one thread waits.
static KNOWN: LazyLock<Arc<Mutex<Option<Known>>>> = LazyLock::new(Arc::default);

/// How long reading the two files is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The addresses of a name, in order. In a Tokio runtime.
pub async fn look_up(name: &str) -> Found {
    let failed = |why| Err(format!("it cannot be looked up: {why}"));
    // Not by `Name::from_utf8`, which refuses names with underscores.
    let Ok(host) = Name::from_ascii(name) else {
        return failed("it is not a name that DNS can have".to_owned());
    };
    let system = match System::current().await {
        Ok(system) => system,
        Err(why) => return failed(why),
    };
    let mut addresses = system.in_hosts(&host);
    if addresses.is_empty() {
        let servers = match &system.servers {
            Ok(servers) => servers,
            Err(why) => return failed(why.clone()),
        };
        match servers.lookup_ip(host).await {
            Ok(found) => addresses = found.iter().collect(),
            Err(error) => return failed(words(&error)),
        }
    }
    for address in &mut addresses {
        *address = address.to_canonical();
    }
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return Err("it resolves to no address".to_owned());
    }
    Ok(addresses)
}

impl System {
    /// As the files are now.
    async fn current() -> Result<Arc<Self>, String> {
        let reading = async {
            let mut known = Arc::clone(&KNOWN).lock_owned().await;
            spawn_blocking(move || Self::known(&mut known)).await
        };
        match timeout(PATIENCE, reading).await {
            Ok(Ok(system)) => Ok(system),
            Ok(Err(error)) => Err(format!("{HOSTS} and {SERVERS} cannot be read: {error}")),
            Err(_) => Err(format!(
                "{HOSTS} and {SERVERS} cannot be read within {} s",
                PATIENCE.as_secs()
            )),
        }
    }

    /// What is known, read again if the files are others.
    fn known(known: &mut Option<Known>) -> Arc<Self> {
        let identities = [HOSTS, SERVERS].map(identity);
        match known {
            Some(known) if known.identities == identities => Arc::clone(&known.system),
            _ => {
                let system = Arc::new(Self::read());
                *known = Some(Known {
                    identities,
                    system: Arc::clone(&system),
                });
                system
            }
        }
    }

    fn read() -> Self {
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            log::debug!("Cannot read {HOSTS}: {error}");
            Hosts::default()
        });
        let configured = match fs::metadata(SERVERS) {
            Ok(_) => read_system_conf(),
            // As the C library does it.
            Err(_) => Ok((
                ResolverConfig::from_parts(
                    None,
                    Vec::new(),
                    vec![NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into())],
                ),
                ResolverOpts::default(),
            )),
        };
        let servers = configured.and_then(|(config, mut options)| {
            // Who asks remembers the answers himself.
            options.cache_size = 0;
            options.use_hosts_file = ResolveHosts::Never;
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            let builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.with_options(options).build()
        });
        let servers = servers.map_err(|error| format!("{SERVERS} cannot be used: {error}"));
        Self { hosts, servers }
    }

    fn in_hosts(&self, name: &Name) -> Vec<IpAddr> {
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| {
                let query = Query::query(name.clone(), kind);
                self.hosts.lookup_static_host(&query)
            })
            .flat_map(|found| {
                let addresses = found.answers().iter().filter_map(|r| r.data.ip_addr());
                addresses.collect::<Vec<_>>()
            })
            .collect()
    }
}

fn identity(path: &str) -> Identity {
    let found = fs::metadata(path).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.len(),
        found.mtime(),
        found.mtime_nsec(),
    ))
}

fn words(error: &NetError) -> String {
    if error.is_nx_domain() {
        "there is no such name".to_owned()
    } else if error.is_no_records_found() {
        "it has no address".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finds_what_the_hosts_file_says() {
        let found = look_up("localhost").await.unwrap();
        assert!(found.contains(&Ipv4Addr::LOCALHOST.into()), "{found:?}");
        let missing = look_up("nowhere.invalid").await.unwrap_err();
        assert!(missing.starts_with("it cannot be looked up: "), "{missing}");
    }

    #[test]
    fn names_with_underscores_are_names() {
        let mut hosts = Hosts::default();
        let text = "10.0.0.7 flink_jobmanager_1 JM # comment\n::7 jm\n";
        hosts.read_hosts_conf(text.as_bytes()).unwrap();
        let system = System {
            hosts,
            servers: Err(String::new()),
        };
        let found = |name: &str| system.in_hosts(&Name::from_ascii(name).unwrap());
        let v4: IpAddr = [10, 0, 0, 7].into();
        assert_eq!(found("flink_jobmanager_1"), [v4]);
        assert_eq!(found("jm"), [v4, "::7".parse().unwrap()]);
        assert!(found("other").is_empty());
    }
}
