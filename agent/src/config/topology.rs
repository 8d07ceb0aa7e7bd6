//! `[topology]`: where the agent learns what the cluster looks like.

use std::{path::PathBuf, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{
    Cluster, ConfigError, Role,
    ha::{self, Ha},
    reader::{Entry, Section, bad, read_list, read_path},
};
use crate::name::Url;

/// The keys of the section.
pub(super) const KEYS: &[&str] = &[
    "source",
    "urls",
    "poll",
    "path",
    "ha",
    "cluster",
    "zookeeper",
    "kubernetes",
];
/// How often is asked without configuration.
pub const POLL: Duration = Duration::from_secs(2);
/// Bounds of `poll`: more often is no use, as an election takes seconds; less often is not following.
const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(3600);

/// `[topology]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Where facts come from.
    pub source: Source,
    /// Where leaders write who they are.
    pub ha: Ha,
    /// Where a cluster is asked for everything.
    pub cluster: Vec<Cluster>,
}

/// `source` and what it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nowhere but the handshakes that are seen.
    #[default]
    None,
    /// A file, which is watched.
    File {
        /// Where it is.
        path: PathBuf,
    },
    /// Flink's REST interface.
    Flink(Servers),
    /// The management interface of an Akka or Pekko cluster.
    Management(Servers),
}

/// Servers that are asked for facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// Any may answer.
    pub urls: Vec<Url>,
    /// The longest time between two questions.
    pub poll: Duration,
}

impl Source {
    /// The words in the configuration.
    const NAMES: [&str; 4] = ["none", "file", "flink", "pekko-management"];

    /// The word in the configuration.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => Self::NAMES[0],
            Self::File { .. } => Self::NAMES[1],
            Self::Flink(_) => Self::NAMES[2],
            Self::Management(_) => Self::NAMES[3],
        }
    }
}

impl Topology {
    /// Whether a source is configured that may say who has a role.
    pub(super) fn tells(&self, role: &Role) -> bool {
        if !self.cluster.is_empty() {
            return true;
        }
        match (&self.source, role) {
            (Source::File { .. } | Source::Flink(_), _)
            | (_, Role::Host(_))
            | (Source::Management(_), Role::LeaderRpc) => true,
            // Leader records say nothing of workers.
            (_, Role::LeaderRest | Role::LeaderRpc) => self.ha != Ha::None,
            (_, Role::LeaderBlob | Role::Workers(_) | Role::Worker(..)) => false,
        }
    }

    /// The servers with a REST interface of the cluster, and the stores of its leader records.
    pub fn cluster_sources(&self) -> (Vec<Url>, Vec<Ha>) {
        let (mut urls, mut stores) = (Vec::new(), Vec::new());
        for cluster in &self.cluster {
            match cluster {
                Cluster::Rest(url) => urls.push(url.clone()),
                Cluster::Zookeeper(place) => stores.push(Ha::Zookeeper(place.clone())),
                Cluster::Kubernetes(place) => stores.push(Ha::Kubernetes(place.clone())),
            }
        }
        (urls, stores)
    }

    /// The places of the cluster as they are written.
    pub fn cluster_texts(&self) -> Vec<String> {
        self.cluster.iter().map(ToString::to_string).collect()
    }

    /// Whether it says nothing that an empty section does not.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Serialize for Topology {
    /// The same fields as the file.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = serializer.serialize_struct("topology", KEYS.len())?;
        shown.serialize_field("source", self.source.name())?;
        match &self.source {
            Source::None => {}
            Source::File { path } => shown.serialize_field("path", path)?,
            Source::Flink(servers) | Source::Management(servers) => {
                let urls: Vec<_> = servers.urls.iter().map(ToString::to_string).collect();
                let poll = jiff::SignedDuration::try_from(servers.poll).unwrap_or_default();
                shown.serialize_field("urls", &urls)?;
                shown.serialize_field("poll", &format!("{poll:#}"))?;
            }
        }
        shown.serialize_field("ha", self.ha.name())?;
        if !self.cluster.is_empty() {
            shown.serialize_field("cluster", &self.cluster_texts())?;
        }
        // Sections come behind keys.
        match &self.ha {
            Ha::None => {}
            Ha::Zookeeper(place) => shown.serialize_field(self.ha.name(), place)?,
            Ha::Kubernetes(place) => shown.serialize_field(self.ha.name(), place)?,
        }
        shown.end()
    }
}

/// Reads the section.
///
/// # Errors
/// When it says something invalid, or a key that its source has no use for.
pub(super) fn read(section: &Section<'_>) -> Result<Topology, ConfigError> {
    Ok(Topology {
        source: read_source(section)?,
        ha: ha::read(section)?,
        cluster: section.get("cluster").map_or(Ok(Vec::new()), |entry| {
            read_list(
                &entry,
                ["cluster", "places"],
                "[\"http://jobmanager:8081\"]",
            )
        })?,
    })
}

fn read_source(section: &Section<'_>) -> Result<Source, ConfigError> {
    let Some(entry) = section.get("source") else {
        return refuse_others(section, "none", &[]).map(|()| Source::None);
    };
    let name = entry.string()?;
    let (source, used): (_, &[&str]) = match name {
        "none" => (Source::None, &[]),
        "file" => {
            let path = section.need("path", "\"/etc/truename/topology.toml\"")?;
            let path = read_path(&path)?;
            (Source::File { path }, &["path"])
        }
        "flink" => (
            Source::Flink(read_servers(section, "[\"http://jobmanager:8081\"]")?),
            &["urls", "poll"],
        ),
        "pekko-management" => (
            Source::Management(read_servers(section, "[\"http://node:7626\"]")?),
            &["urls", "poll"],
        ),
        other => {
            let reason = format!("write one of {}", Source::NAMES.join(", "));
            return Err(entry.bad(other, &reason));
        }
    };
    refuse_others(section, name, used)?;
    Ok(source)
}

/// Keys that a source has no use for are mistakes.
fn refuse_others(section: &Section<'_>, source: &str, used: &[&str]) -> Result<(), ConfigError> {
    for key in ["urls", "poll", "path"] {
        if let Some(entry) = section.get(key).filter(|_| !used.contains(&key)) {
            let reason = format!("it has no use for the key \"{key}\"; leave it out");
            return Err(bad(entry.origin, "source", source, &reason));
        }
    }
    Ok(())
}

fn read_servers(section: &Section<'_>, example: &'static str) -> Result<Servers, ConfigError> {
    let urls = read_list(&section.need("urls", example)?, ["url", "URLs"], example)?;
    let poll = section
        .get("poll")
        .map_or(Ok(POLL), |entry| read_poll(&entry))?;
    Ok(Servers { urls, poll })
}

fn read_poll(entry: &Entry<'_>) -> Result<Duration, ConfigError> {
    let text = entry.string()?;
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|poll| (POLL_MIN..=POLL_MAX).contains(poll))
        .ok_or_else(|| entry.bad(text, "write a time from 100ms to 1h, e.g. \"2s\""))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::config::reader::Source as Text;

    fn parse(text: &str) -> Result<Topology, String> {
        let text = format!("[topology]\n{text}");
        let source = Text::new(Path::new("t.toml").to_owned(), &text);
        let document = source.parse().unwrap();
        let root = Section::new(&source, "the file", document.get_ref(), 0..0, &["topology"]);
        let section = root.unwrap().table("topology", KEYS);
        section
            .and_then(|section| read(&section.unwrap()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn reads_every_source() {
        assert_eq!(parse("").unwrap(), Topology::default());
        assert_eq!(parse("source = \"none\"").unwrap().source, Source::None);
        let file = parse("source = \"file\"\npath = \"/etc/t.toml\"").unwrap();
        assert_eq!(
            file.source,
            Source::File {
                path: "/etc/t.toml".into()
            }
        );
        let urls = "urls = [\"http://a:8081\", \"https://b/flink\"]";
        let Source::Flink(servers) = parse(&format!("source = \"flink\"\n{urls}"))
            .unwrap()
            .source
        else {
            panic!("flink")
        };
        assert_eq!(servers.urls.len(), 2);
        assert_eq!(servers.poll, Duration::from_secs(2));
        let text = "source = \"pekko-management\"\nurls = [\"http://a:7626\"]\npoll = \"500ms\"";
        let Source::Management(servers) = parse(text).unwrap().source else {
            panic!("pekko-management")
        };
        assert_eq!(servers.poll, Duration::from_millis(500));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message) in [
            (
                "source = \"flnk\"",
                "t.toml:2: source \"flnk\": write one of none, file, flink, pekko-management",
            ),
            (
                "source = \"flink\"",
                "t.toml:1: [topology] needs the key \"urls\", e.g. [\"http://jobmanager:8081\"]",
            ),
            (
                "source = \"flink\"\nurls = []",
                "t.toml:3: urls \"0 URLs\": name 1 to 16 URLs, e.g. [\"http://jobmanager:8081\"]",
            ),
            (
                "source = \"flink\"\nurls = [\"http://a:1\",\n\"a:1\"]",
                "t.toml:4: url \"a:1\": it must begin with http:// or https://",
            ),
            (
                "source = \"flink\"\nurls = [\"http://a:1\", \"http://a:1/\"]",
                "t.toml:3: url \"http://a:1/\": it is there already; leave one out",
            ),
            (
                "source = \"flink\"\nurls = [\"http://a:1\"]\npoll = \"0s\"",
                "t.toml:4: poll \"0s\": write a time from 100ms to 1h, e.g. \"2s\"",
            ),
            (
                "source = \"file\"\npath = \"t.toml\"",
                "t.toml:3: path \"t.toml\": the path must be absolute",
            ),
            (
                "source = \"none\"\npoll = \"2s\"",
                "t.toml:3: source \"none\": it has no use for the key \"poll\"; leave it out",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), message);
        }
    }

    #[test]
    fn is_shown_as_it_is_read() {
        for text in [
            "source = \"flink\"\nurls = [\"http://a:8081/x\"]\npoll = \"1s 500ms\"\nha = \"none\"\n",
            "source = \"file\"\npath = \"/etc/t.toml\"\nha = \"none\"\n",
            "source = \"none\"\nha = \"none\"\n",
            "source = \"flink\"\nurls = [\"http://a:8081\"]\npoll = \"2s\"\nha = \"zookeeper\"\n\n\
             [topology.zookeeper]\nquorum = [\"zk1:2181\", \"[fd00::1]:2181\"]\nroot = \"/flink\"\ncluster_id = \"/default\"\n",
            #[cfg(feature = "kubernetes")]
            "source = \"none\"\nha = \"kubernetes\"\n\n\
             [topology.kubernetes]\ncluster_id = \"a\"\nnamespace = \"jobs\"\nkubeconfig = \"/etc/k\"\n",
            #[cfg(feature = "kubernetes")]
            "source = \"none\"\nha = \"kubernetes\"\n\n[topology.kubernetes]\ncluster_id = \"a\"\n",
        ] {
            let topology = BTreeMap::from([("topology", parse(text).unwrap())]);
            let text = format!("[topology]\n{text}");
            assert_eq!(toml::to_string(&topology).unwrap(), text);
        }
    }
}
