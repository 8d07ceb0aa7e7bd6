//! The one that writes the kernel tables: what the configuration and the host want of them, and what
//! is over.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    config::{Config, Snat},
    datapath::{DatapathError, Pins, TablesMut},
    plan::{self, Facts, Roles, roles},
    reconcile::{self, Entry},
};

/// Keeps the tables as they are wanted.
pub struct MapWriter {
    config: Arc<Config>,
    tables: TablesMut,
    /// For the first start: marks packets that are translated.
    tag: u16,
    /// What the host was like the last time.
    facts: Option<Facts>,
    /// What the tables hold since then. None: bringing them to it failed.
    wanted: Option<plan::Tables>,
    left_out: Vec<String>,
    is_waiting: bool,
    /// Addresses and ports of the targets that are kept for connections only.
    kept: BTreeSet<([u8; 16], u16)>,
}

impl MapWriter {
    /// Opens the tables. Nothing is changed yet.
    ///
    /// # Errors
    /// When one is not pinned or looks different.
    pub fn open(config: Arc<Config>, pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            config,
            tables: TablesMut::open(pins)?,
            tag: random_tag(),
            facts: None,
            wanted: None,
            left_out: Vec::new(),
            is_waiting: false,
            kept: BTreeSet::new(),
        })
    }

    /// Brings the tables to what the configuration and the host want, if the host is not as it was
    /// the last time.
    ///
    /// # Errors
    /// When a table cannot be read or written; the next call tries again.
    pub fn follow(&mut self, facts: &Facts) -> Result<(), DatapathError> {
        if self.wanted.is_some() && self.facts.as_ref() == Some(facts) {
            return Ok(());
        }
        self.facts = Some(facts.clone());
        self.tidy()
    }

    /// Goes on with another configuration; if the tables cannot be brought to it, with the one before.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub fn change(&mut self, config: Arc<Config>, facts: &Facts) -> Result<(), DatapathError> {
        let before = std::mem::replace(&mut self.config, config);
        self.wanted = None;
        self.follow(facts).inspect_err(|_| {
            self.config = before;
            if let Err(error) = self.follow(facts) {
                log::error!("Cannot go back to the configuration before: {error}");
            }
        })
    }

    /// The same, although the host is as it was: connections ended that something was kept for, or it
    /// failed the last time.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub fn tidy(&mut self) -> Result<(), DatapathError> {
        self.wanted = None;
        match self.facts.clone() {
            Some(facts) => self.bring(&facts),
            None => Ok(()),
        }
    }

    /// Repairs what somebody else changed in the tables; how many entries of which table that were.
    ///
    /// # Errors
    /// When a table cannot be read or written; the next call tries again.
    pub fn repair(&mut self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        let mut repaired = BTreeMap::new();
        let Some(wanted) = self.wanted.clone() else {
            return self.tidy().map(|()| repaired);
        };
        let done = reconcile::repair(&mut self.tables, wanted)?;
        let names = &done.wanted.names;
        for entry in &done.changed {
            let is_foreign = match entry {
                // The kernel program may have learned it when its endpoint was just being removed.
                Entry::Name(socket) => names.contains_key(socket),
                // Follows from the repair of a service.
                Entry::Moved(_) | Entry::Connection(_) => false,
                _ => true,
            };
            if is_foreign {
                *repaired.entry(entry.table()).or_default() += 1;
            }
        }
        self.wanted = Some(done.wanted);
        Ok(repaired)
    }

    /// What of the configuration is left out, a sentence each.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Whether [`Self::tidy`] has something to do, now that connections go to the targets at `used`.
    pub fn is_untidy(&self, used: &BTreeSet<([u8; 16], u16)>) -> bool {
        self.wanted.is_none() || self.is_waiting || !self.kept.is_subset(used)
    }

    fn bring(&mut self, facts: &Facts) -> Result<(), DatapathError> {
        let (config, tag) = (&self.config, self.tag);
        let done = reconcile::reconcile(&mut self.tables, config.datapath.snat_ports, |present| {
            let mut held = Cow::Borrowed(&present.held);
            if held.settings.tag == 0 {
                held.to_mut().settings.tag = tag;
            }
            plan::plan(config, facts, &present.numbers(), &held)
        })?;
        let wanted = done.wanted;
        self.is_waiting = wanted.services.is_waiting;
        let listed: BTreeSet<_> = wanted.services.slots.values().flatten().collect();
        let targets = wanted.services.targets.iter();
        self.kept = targets
            .filter(|(number, _)| !listed.contains(number))
            .map(|(_, target)| (target.address, target.port))
            .collect();
        let left_out = wanted.services.left_out.clone();
        for sentence in left_out.iter().filter(|s| !self.left_out.contains(s)) {
            log::warn!("{sentence}");
        }
        self.left_out = left_out;
        self.wanted = Some(wanted);
        Ok(())
    }
}

/// The targets whose packets get another source address, so that it must be known.
pub fn translated_targets(config: &Config, known: &Roles) -> BTreeSet<IpAddr> {
    let services = config.services.iter();
    services
        .filter(|service| service.snat != Snat::Never)
        .flat_map(|service| roles::targets(service, known))
        .map(|wanted| wanted.socket.ip())
        .collect()
}

/// A value that hardly any other program writes to a packet's `tc_index`. Not 0.
fn random_tag() -> u16 {
    let mut bytes = [0; 2];
    let read: io::Result<()> =
        File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    match (read, u16::from_ne_bytes(bytes)) {
        (Ok(()), tag) if tag != 0 => tag,
        // "tn"
        _ => 0x746e,
    }
}
