//! Who translates in a lab.

use std::{collections::HashMap, fs, net::IpAddr, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    beside::By,
    family::Family,
    lab::Lab,
    nftables,
    rules::{Rules, Snat},
};
use crate::{sys, traffic::DEADLINE, truename::Truename};

/// A translator at work on a lab's node.
#[derive(Debug)]
pub enum Translator {
    /// nftables, which needs no process.
    Nftables,
    /// truename, and nothing of netfilter.
    Truename(Box<Truename>),
}

impl Translator {
    /// Begins to translate.
    ///
    /// # Errors
    /// The rules are refused.
    pub fn start(by: By, lab: &Lab, rules: &Rules) -> Result<Self> {
        match by {
            By::Nftables => {
                load(lab, rules)?;
                Ok(Self::Nftables)
            }
            By::Truename => {
                let file = configure(lab, rules)?;
                let truename = Truename::start_file(&lab.node, &lab.scratch, &file)?;
                Ok(Self::Truename(Box::new(truename)))
            }
        }
    }

    /// Goes on with other rules. truename's agent is killed and another takes over.
    ///
    /// # Errors
    /// The rules are refused.
    pub fn change(&mut self, lab: &Lab, rules: &Rules) -> Result<()> {
        match self {
            Self::Nftables => load(lab, rules),
            Self::Truename(truename) => {
                configure(lab, rules)?;
                truename.kill_agent();
                truename.start_agent()
            }
        }
    }

    /// Goes on with other rules. truename's agent goes on, too, and reads its configuration again.
    ///
    /// # Errors
    /// The rules are refused.
    pub fn reload(&self, lab: &Lab, rules: &Rules) -> Result<()> {
        match self {
            Self::Nftables => load(lab, rules),
            Self::Truename(truename) => {
                let agent = truename.agent()?;
                let mark = agent.mark();
                configure(lab, rules)?;
                agent.wait_line(mark, &["Reloaded"], DEADLINE).map(drop)
            }
        }
    }

    /// Has it forget all connections; their packets come without them.
    ///
    /// # Errors
    /// It refuses.
    pub fn forget(&self, lab: &Lab) -> Result<()> {
        match self {
            Self::Nftables => {
                let flushed = lab.node.run(sys::flush_conntrack)?;
                flushed.context("have netfilter forget its connections")
            }
            Self::Truename(truename) => truename.flush().map(drop),
        }
    }

    /// truename, if it is that.
    pub fn truename(&mut self) -> Option<&mut Truename> {
        match self {
            Self::Nftables => None,
            Self::Truename(truename) => Some(truename),
        }
    }
}

/// Puts a file in the place of the present one, as editors do.
fn configure(lab: &Lab, rules: &Rules) -> Result<PathBuf> {
    let text = match rules.interfaces_are_automatic {
        true => rules.configuration(&["auto"]),
        false => rules.configuration(&lab.interfaces()),
    };
    let new = lab.scratch.write("truename.toml.new", &text)?;
    let file = new.with_extension("");
    fs::rename(new, &file).context("replace the configuration")?;
    Ok(file)
}

fn load(lab: &Lab, rules: &Rules) -> Result<()> {
    let mut sources = HashMap::new();
    let masked = rules.services.iter();
    let masked = masked.filter(|service| service.snat == Snat::Auto);
    for target in masked.flat_map(|service| &service.targets) {
        let address = target.address.ip();
        if let std::collections::hash_map::Entry::Vacant(entry) = sources.entry(address) {
            entry.insert(source(lab, address)?);
        }
    }
    nftables::load(&lab.node, &lab.scratch, rules, |address| {
        sources.get(&address).copied().flatten()
    })
}

/// The node's address on the way to a target; none if the target is the node.
fn source(lab: &Lab, target: IpAddr) -> Result<Option<IpAddr>> {
    let flag = Family::of(target).flag();
    let route = lab.node.ip(&format!("{flag} route get {target}"))?;
    if route.starts_with("local ") {
        return Ok(None);
    }
    let mut words = route.split_whitespace();
    let source = words
        .find(|word| *word == "src")
        .and_then(|_| words.next()?.parse().ok())
        .with_context(|| format!("no source address in {route:?}"))?;
    Ok(Some(source))
}
