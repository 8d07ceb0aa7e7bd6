//! A full connection table, and very many services.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename_tests::nat::{
    Attempt, By, Client, Family, Lab, Protocol, Rules, Seen, Service, Translator, Web, alone,
    beside, connect, page, reset,
};

/// The port that the web servers listen on.
const PORT: u16 = 8080;
/// Entries of a small connection table.
const FLOWS: u32 = 32;

/// A lab with one alias of a target, truename with a small table.
struct Small {
    lab: Lab,
    translator: Translator,
    alias: SocketAddr,
    _web: Web,
}

impl Small {
    fn new(by: By, family: Family, when_full: &'static str) -> Result<Self> {
        let lab = Lab::new()?;
        let target = SocketAddr::new(lab.target(family, 0), PORT);
        let alias = SocketAddr::new(lab.foreign(family, 1), 80);
        let web = Web::start(&lab.target, &lab.scratch, &[target])?;
        let rules = Rules {
            max_flows: Some(FLOWS),
            when_full: Some(when_full),
            timeouts: vec![("closed", 1), ("time_wait", 3_600)],
            ..Rules::new(vec![Service::new(Protocol::Tcp, alias, target)])
        };
        let translator = Translator::start(by, &lab, &rules)?;
        Ok(Self {
            lab,
            translator,
            alias,
            _web: web,
        })
    }

    fn from(&self) -> SocketAddr {
        SocketAddr::new(self.lab.client(Family::of(self.alias.ip())), 0)
    }

    fn connect(&self) -> Result<TcpStream> {
        connect(&self.lab.client, self.from(), self.alias)
    }

    fn attempt(&self) -> Result<Attempt> {
        Attempt::start(&self.lab.client, self.from(), self.alias)
    }

    fn status(&mut self) -> Result<Value> {
        self.translator
            .truename()
            .context("not truename")?
            .json("status")
    }

    fn counter(&mut self, label: &str) -> Result<u64> {
        self.translator
            .truename()
            .context("not truename")?
            .counter(label)
    }
}

/// Not beside nftables: the size of netfilter's table is that of the whole machine, so that a test must not change it.
#[test]
fn a_full_table_refuses_new_connections_and_harms_none() {
    alone(|| {
        for family in Family::BOTH {
            let mut small = Small::new(By::Truename, family, "refuse")?;
            let mut held = (0..FLOWS)
                .map(|_| small.connect())
                .collect::<Result<Vec<_>>>()?;
            let late = small.attempt()?;
            late.wait_repeated()?;
            ensure!(small.counter("nat_table_full")? > 0, "nothing was counted");
            let problems = small.status()?["problems"].to_string();
            ensure!(problems.contains("full"), "the problems are {problems}");
            for stream in &held {
                page(stream, "/who")?;
            }
            reset(held.swap_remove(0))?;
            page(&late.finish()?, "/who")?;
            for stream in &held {
                page(stream, "/who")?;
            }
        }
        Ok(())
    });
}

/// Nor this: netfilter drops new connections, and removes none that ended.
#[test]
fn a_full_table_makes_room_at_the_expense_of_those_that_ended() {
    alone(|| {
        for family in Family::BOTH {
            let mut small = Small::new(By::Truename, family, "evict")?;
            // Half of the table is ended connections that nobody would forget for an hour.
            for _ in 0..FLOWS / 2 {
                let stream = small.connect()?;
                truename_tests::nat::last_page(stream, "/who")?;
            }
            let held = (0..FLOWS / 2)
                .map(|_| small.connect())
                .collect::<Result<Vec<_>>>()?;
            // The table is full now; whoever comes waits for no longer than TCP takes to try again.
            let more = (0..FLOWS / 4)
                .map(|_| small.attempt())
                .collect::<Result<Vec<_>>>()?;
            for attempt in more {
                page(&attempt.finish()?, "/who")?;
            }
            for stream in &held {
                page(stream, "/who")?;
            }
            let removed = small.counter("nat_collected")?;
            ensure!(removed > 0, "the table was never full");
        }
        Ok(())
    });
}

/// nftables needs no process either. Its table is larger: here it is full many times.
#[test]
fn connections_are_made_for_ever_without_the_agent() {
    beside(|by| {
        let mut seen = Seen::new();
        for (when_full, count) in [("evict", 10 * FLOWS), ("refuse", 3 * FLOWS)] {
            let mut small = Small::new(by, Family::V4, when_full)?;
            if let Some(truename) = small.translator.truename() {
                truename.kill_agent();
            }
            for number in 0..count {
                // With "refuse" it may have to wait, at most until a SYN is repeated.
                let stream = small.attempt()?.finish();
                let stream = stream.with_context(|| format!("{when_full}, connection {number}"))?;
                seen.note(number, page(&stream, "/who")?);
                reset(stream)?;
            }
        }
        Ok(seen)
    });
}

#[test]
fn ten_thousand_services() {
    const SERVICES: u16 = 10_000;
    beside(|by| {
        let lab = Lab::new()?;
        let family = Family::V4;
        let target = SocketAddr::new(lab.target(family, 0), PORT);
        let _web = Web::start(&lab.target, &lab.scratch, &[target])?;
        // Some hundred ports of each address.
        let alias = |number: u16| {
            let address = lab.foreign(family, (number % 25) as u8);
            SocketAddr::new(address, 10_000 + number / 25)
        };
        let services =
            (0..SERVICES).map(|number| Service::new(Protocol::Tcp, alias(number), target));
        let mut translator = Translator::start(by, &lab, &Rules::new(services.collect()))?;
        let mut seen = Seen::new();
        for number in [0, 1, 4_999, SERVICES - 1] {
            let client = Client::new(&lab.client, &lab.scratch);
            let got = client.fetch(alias(number), "/who", None)?;
            ensure!(got.starts_with("exit 0, 200"), "{}: {got}", alias(number));
            seen.note(number, got);
        }
        if let Some(truename) = translator.truename() {
            let listed = truename.json("services")?;
            let listed = listed.as_array().context("services are no list")?.len();
            ensure!(
                listed == usize::from(SERVICES),
                "{listed} services are listed"
            );
        }
        Ok(seen)
    });
}
