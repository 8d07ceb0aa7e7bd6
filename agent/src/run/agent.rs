//! The agent at work: it follows the host and the configuration.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, watch};

use super::{
    RunError,
    attachment::Attachment,
    detach,
    keeper::{Keeper, translated_targets},
    notify,
    retry::Retry,
    roles::Standing,
    service::{AgentService, Live},
};
use crate::{
    config::{self, Config, Sources},
    datapath::{DatapathError, Lock, Pins},
    links::{self, netlink::Links},
    logging,
    plan::Facts,
    sysctl,
    topology::{Follower, Reporter, configured},
};

/// Why the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Somebody asked for it.
    Signal,
    /// A file of its directory is another one.
    File,
}

/// All that changes while the agent runs.
pub struct Agent {
    pub sources: Sources,
    /// The configuration in force.
    pub config: watch::Sender<Arc<Config>>,
    pub links: Links,
    pub pins: Pins,
    pub lock: Lock,
    pub attachment: Attachment,
    pub keeper: Arc<Mutex<Keeper>>,
    pub service: Arc<AgentService>,
    /// The sources of the topology; they end when it is dropped.
    pub follower: Follower,
    /// Tells what the configuration says of the cluster.
    pub configured: Reporter,
    /// What is known of the roles that targets have.
    pub standing: watch::Receiver<Standing>,
    /// The targets whose packets get another source address.
    pub targets: BTreeSet<IpAddr>,
    /// Why the configuration that was read last is not in force.
    pub refused: Option<String>,
    /// When [`Self::follow`] is tried again.
    pub retry: Retry,
    /// Is told when the tables shall be checked.
    pub check: Arc<Notify>,
}

impl Agent {
    /// Brings attachments and tables to what the host is like now. What fails is told, and tried again.
    pub async fn follow(&mut self) {
        let brought = self.bring().await;
        self.note(brought);
    }

    /// Has what failed tried again.
    pub fn note(&mut self, brought: Result<(), RunError>) {
        match brought {
            Err(error) => self.retry.failed(Some(error.to_string())),
            // They tell themselves why.
            Ok(()) if self.attachment.is_incomplete() => self.retry.failed(None),
            Ok(()) => self.retry.succeeded(),
        }
    }

    async fn bring(&mut self) -> Result<(), RunError> {
        let inventory = self.links.inventory().await?;
        self.attachment.follow(&inventory);
        let standing = self.standing.borrow_and_update().clone();
        self.targets = translated_targets(&self.config.borrow(), &standing.roles);
        let facts = self
            .links
            .facts(&inventory, &self.targets, standing.roles)
            .await?;
        let wanted = facts.clone();
        let left_out = self.keep(move |keeper| keeper.follow(&wanted)).await?;
        self.show(&facts, standing.generation, &left_out);
        Ok(())
    }

    /// Reads the configuration again. A bad one is told, and leaves the one before in force.
    pub async fn reload(&mut self, occasion: Occasion) {
        if occasion == Occasion::Signal {
            self.check.notify_one();
        }
        let read = self.sources.read(sysctl::timeouts());
        let current = Arc::clone(&self.config.borrow());
        if read.as_ref().is_ok_and(|config| *config == *current) && self.refused.is_none() {
            if occasion == Occasion::Signal {
                log::info!("The configuration is as it was");
                notify::reloading();
                notify::ready(&self.sentence());
            }
            return;
        }
        notify::reloading();
        let changed = match read {
            Ok(config) => self.change(&current, config).await,
            Err(error) => Err(error.into()),
        };
        match changed {
            Ok(()) => {
                self.refused = None;
                log::info!("Reloaded: {}", self.sentence());
            }
            Err(error) => {
                let error = error.to_string();
                let known = self.refused.as_ref() == Some(&error);
                if !known || occasion == Occasion::Signal {
                    log::error!("The new configuration is not used: {error}");
                }
                self.refused = Some(error);
            }
        }
        self.service.refuse(self.refused.clone());
        notify::ready(&self.sentence());
    }

    /// Takes on a configuration: attaches first, then changes the tables, then leaves interfaces. What can
    /// fail does so before anything is taken away.
    async fn change(&mut self, current: &Config, next: Config) -> Result<(), RunError> {
        current.check_followed_by(&next)?;
        let inventory = self.links.inventory().await?;
        let known = &current.datapath.interfaces;
        let interfaces = next.datapath.interfaces.iter();
        let new: Vec<_> = interfaces
            .filter(|wanted| !known.iter().any(|known| known.selector == wanted.selector))
            .cloned()
            .collect();
        links::check_named(&inventory, &new)?;
        let standing = self.standing.borrow().clone();
        let targets = translated_targets(&next, &standing.roles);
        let facts = self
            .links
            .facts(&inventory, &targets, standing.roles)
            .await?;
        let next = Arc::new(next);
        self.attachment
            .prepare(&next.datapath.interfaces, &inventory)?;
        if !next.services.is_empty() {
            sysctl::prepare(facts.elsewhere(&next));
        }
        let (config, wanted) = (Arc::clone(&next), facts.clone());
        let kept = self
            .keep(move |keeper| keeper.change(config, &wanted))
            .await;
        let left_out = match kept {
            Ok(left_out) => left_out,
            Err(error) => {
                // Leaves what was just attached.
                self.attachment.follow(&inventory);
                return Err(error);
            }
        };
        self.attachment
            .select(next.datapath.interfaces.clone(), xdp(&next));
        self.attachment.follow(&inventory);
        logging::follow(next.agent.log);
        if next.notes != current.notes {
            for note in &next.notes {
                log::warn!("{note}");
            }
        }
        self.targets = targets;
        self.follower.follow(&next.topology).await;
        self.configured.facts(configured::facts(&next), None);
        self.config.send_replace(next);
        self.show(&facts, standing.generation, &left_out);
        self.note(Ok(()));
        Ok(())
    }

    /// Removes every trace; the number of links that were removed.
    pub async fn detach(&self) -> Result<usize, RunError> {
        detach(&self.pins, &self.links, Some(&self.lock)).await
    }

    /// What it does, for people.
    pub fn sentence(&self) -> String {
        if let Some(error) = &self.refused {
            return format!("An earlier configuration is in force: {error}");
        }
        let config = self.config.borrow();
        format!(
            "Translating for {} endpoint(s) and {} service(s)",
            config.endpoints.len(),
            config.services.len()
        )
    }

    /// Has the tables changed, and returns what of the configuration is left out.
    async fn keep(
        &self,
        change: impl FnOnce(&mut Keeper) -> Result<(), DatapathError> + Send + 'static,
    ) -> Result<Vec<String>, RunError> {
        let keeper = Arc::clone(&self.keeper);
        let left_out = tokio::task::spawn_blocking(move || {
            let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut keeper).map(|()| keeper.left_out().to_vec())
        });
        Ok(left_out.await??)
    }

    fn show(&self, facts: &Facts, generation: u64, left_out: &[String]) {
        self.service
            .update(Live::new(&self.attachment, facts, generation, left_out));
    }
}

/// Where XDP forwards: without a service there is nothing to forward.
pub fn xdp(config: &Config) -> config::Xdp {
    if config.services.is_empty() {
        config::Xdp::Off
    } else {
        config.datapath.xdp
    }
}
