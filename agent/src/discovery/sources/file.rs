//! A file in which an operator writes what the cluster looks like. It is watched; a bad new content
//! is told, and the good one before counts.
//!
//! ```toml
//! [leader]
//! rpc = "pekko.tcp://flink@jobmanager:6123"
//! rest = "http://jobmanager:8081"
//!
//! [[worker]]
//! id = "tm-1"
//! rpc = "pekko.tcp://flink@taskmanager:6122"
//! data_port = 41111
//!
//! [[address]]
//! name = "taskmanager:6122"
//! address = "10.0.0.3"
//! ```

use std::{io, path::PathBuf};

use tokio::task::spawn_blocking;

use crate::{
    config::{ConfigError, reader},
    discovery::{Claim, Component, Facts, Kind, Reporter, Source, SourceId, Worker},
    watch::FileWatch,
};

const SECTIONS: &[&str] = &["leader", "worker", "address"];
const LEADER: &[&str] = &["rpc", "rest"];
const WORKER: &[&str] = &["id", "rpc", "data_port"];
const ADDRESS: &[&str] = &["name", "address"];
/// The longest file, in bytes.
const FILE_MAX: u64 = 16 << 20;

/// A file.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
}

impl File {
    /// At this path, absolute.
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is not there, too long, or says something invalid: one line that names the line.
    pub fn read(&self) -> Result<Facts, ConfigError> {
        let unreadable = |source| ConfigError::Read {
            path: self.path.clone(),
            source,
        };
        let length = std::fs::metadata(&self.path).map_err(unreadable)?.len();
        if length > FILE_MAX {
            return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
        }
        let text = std::fs::read_to_string(&self.path).map_err(unreadable)?;
        self.parse(&text)
    }

    fn parse(&self, text: &str) -> Result<Facts, ConfigError> {
        let source = reader::Source::new(self.path.clone(), text);
        let document = source.parse()?;
        let root = reader::Section::new(
            &source,
            "the file",
            document.get_ref(),
            document.span(),
            SECTIONS,
        )?;
        let mut facts = Facts::new();
        if let Some(leader) = root.table("leader", LEADER)? {
            if let Some(entry) = leader.get("rpc") {
                facts.add(Claim::LeaderRpc {
                    component: Component::JobManager,
                    address: entry.parse()?,
                    session: None,
                });
            }
            if let Some(entry) = leader.get("rest") {
                facts.add(Claim::LeaderRest {
                    address: entry.parse()?,
                    session: None,
                });
            }
        }
        for worker in root.tables("worker", WORKER)? {
            let data_port = worker.get("data_port").map(|entry| entry.number(1, 65_535));
            facts.add(Claim::Worker(Worker {
                id: worker.need("id", "\"tm-1\"")?.parse()?,
                rpc: worker
                    .need("rpc", "\"pekko.tcp://flink@taskmanager:6122\"")?
                    .parse()?,
                data_port: data_port
                    .transpose()?
                    .and_then(|port| u16::try_from(port).ok()),
            }));
        }
        for address in root.tables("address", ADDRESS)? {
            facts.add(Claim::Address {
                name: address.need("name", "\"taskmanager:6122\"")?.parse()?,
                address: address.need("address", "\"10.0.0.3\"")?.parse()?,
            });
        }
        Ok(facts)
    }
}

impl Source for File {
    fn id(&self) -> SourceId {
        SourceId {
            kind: Kind::File,
            place: self.path.display().to_string(),
        }
    }

    async fn observe(self, reporter: Reporter) {
        let mut watch = FileWatch::new(&self.path);
        loop {
            watch.changed().await;
            reporter.waits("the file to be read");
            // A file system that hangs must hang nothing else.
            let file = self.clone();
            let Ok(read) = spawn_blocking(move || file.read()).await else {
                continue;
            };
            if !watch.is_as_told() {
                // It was written while it was read.
                watch.ask();
                continue;
            }
            match read {
                Ok(facts) => reporter.facts(facts, None),
                Err(error) => reporter.failed(error, None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::{sync::watch, time::timeout};

    use super::*;
    use crate::discovery::{Follower, Snapshot};

    fn worker(number: u8) -> String {
        format!("[[worker]]\nid = \"tm-{number}\"\nrpc = \"pekko.tcp://flink@tm{number}:6122\"\n")
    }

    #[test]
    fn reads_what_the_documentation_shows() {
        let text: String = include_str!("file.rs")
            .lines()
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| format!("{}\n", line.trim_start_matches("//!")))
            .collect();
        let facts = File::new("/t.toml".into()).parse(&text).unwrap();
        assert_eq!(facts.claims().count(), 4);
    }

    #[test]
    fn a_mistake_has_a_line() {
        let file = File::new("/t.toml".into());
        for (text, message) in [
            (
                "[leadr]",
                "/t.toml:1: unknown key \"leadr\" in the file; did you mean \"leader\"?",
            ),
            (
                "[leader]\nrpc = \"jm:6123\"",
                "/t.toml:2: rpc \"jm:6123\": it must begin with akka or pekko, .tcp or .ssl.tcp, and ://",
            ),
            (
                "[[address]]\nname = \"tm:1\"\naddress = \"tm\"",
                "/t.toml:3: address \"tm\": invalid IP address syntax",
            ),
        ] {
            assert_eq!(file.parse(text).unwrap_err().to_string(), message);
        }
    }

    async fn wait(seen: &mut watch::Receiver<Snapshot>, what: impl FnMut(&Snapshot) -> bool) {
        let came = timeout(Duration::from_secs(10), seen.wait_for(what))
            .await
            .is_ok();
        assert!(came, "{:?}", seen.borrow());
    }

    #[tokio::test]
    async fn follows_the_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("topology.toml");
        let mut follower = Follower::new();
        let mut seen = follower.subscribe();
        let failed = |s: &Snapshot| {
            s.reports
                .values()
                .any(|report| report.health.failure.is_some())
        };
        follower.add(File::new(path.clone()));
        wait(&mut seen, failed).await;

        fs::write(&path, worker(1)).unwrap();
        wait(&mut seen, |s| s.topology.workers.len() == 1 && !failed(s)).await;

        // As editors do it.
        let new = home.path().join("new");
        fs::write(&new, worker(1) + &worker(2)).unwrap();
        fs::rename(&new, &path).unwrap();
        wait(&mut seen, |s| s.topology.workers.len() == 2).await;

        fs::write(&path, "[[worker]]\nid = 7").unwrap();
        wait(&mut seen, failed).await;
        assert_eq!(seen.borrow().topology.workers.len(), 2);

        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        wait(&mut seen, |s| s.topology.workers.is_empty() && !failed(s)).await;
    }

    #[tokio::test]
    async fn follows_a_mounted_config_map() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("topology.toml");
        for number in [1, 2] {
            let version = home.path().join(format!("..{number}"));
            fs::create_dir(&version).unwrap();
            fs::write(version.join("topology.toml"), worker(number)).unwrap();
        }
        let link = |to: &str, at: &std::path::Path| std::os::unix::fs::symlink(to, at).unwrap();
        link("..1", &home.path().join("..data"));
        link("..data/topology.toml", &path);
        let mut follower = Follower::new();
        let mut seen = follower.subscribe();
        follower.add(File::new(path));
        let has = |id: &'static str| {
            move |s: &Snapshot| {
                s.topology
                    .workers
                    .keys()
                    .any(|worker| worker.as_str() == id)
            }
        };
        wait(&mut seen, has("tm-1")).await;
        link("..2", &home.path().join("..data_tmp"));
        fs::rename(home.path().join("..data_tmp"), home.path().join("..data")).unwrap();
        wait(&mut seen, has("tm-2")).await;
    }
}
