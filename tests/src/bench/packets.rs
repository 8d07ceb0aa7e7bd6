//! The program alone: `BPF_PROG_TEST_RUN` on one packet at a time, each beside the empty program. What a row
//! claims is checked: the bytes that come out of every run, and the counters.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::{TestRun as _, TestRunOptions};
use truename_common::layout::Counter;

use super::{Cpus, in_thread, median};
use crate::{
    prog_run::{Form, Program, Scene, Side, Talk, flag},
    wire::Envelope,
};

/// Packets of each kind. The median of as many single runs is what a packet costs with warm caches.
const PACKETS: usize = 4000;
/// Payload of a full segment.
const SEGMENT: usize = 1448;

/// What one kind of packet costs.
#[derive(Clone, Debug)]
pub struct PacketCost {
    /// What the packet is.
    pub kind: &'static str,
    /// Nanoseconds of the empty program on the same packets.
    pub empty: u64,
    /// Nanoseconds of `tn_ether`.
    pub program: u64,
}

/// What the counters have to say about the packets of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// None is of an endpoint's flow.
    NotOurs,
    /// No name is translated.
    Unchanged,
    /// One name in each is translated, in this direction.
    Rewritten(Counter),
}

/// Measures every kind of packet.
///
/// # Errors
/// The kernel cannot run the programs, or a run did not do what its row says.
pub fn packets(object: &[u8]) -> Result<Vec<PacketCost>> {
    in_thread(|| {
        Cpus::One.pin(0)?;
        let empty = Program::named(object, "tn_empty")?;
        let scene = Scene::configured(object, "jm:6123");
        let mut bench = Bench {
            scene: &scene,
            empty: &empty,
            costs: Vec::new(),
        };
        bench.not_ours()?;
        bench.acknowledgements()?;
        for (kind, side) in [
            ("body segment, inbound", Side::Client),
            ("body segment, outbound", Side::Endpoint),
        ] {
            bench.bodies(kind, side)?;
        }
        let names = &scene.names;
        let canonical = names.path(&names.canonical, "/user/rpc/a");
        let inspected = scene.request_to(&canonical, 60);
        let padded = names
            .alias
            .padded(names.canonical.to_string().len())
            .context("the alias does not fit")?;
        for (kind, side, sent, arrives, claim) in [
            (
                "inspected frame",
                Side::Client,
                inspected.clone(),
                inspected,
                Claim::Unchanged,
            ),
            (
                "rewritten frame, inbound",
                Side::Client,
                scene.request(Form::Alias, 60),
                scene.request(Form::Local, 60),
                Claim::Rewritten(Counter::RewrittenInbound),
            ),
            (
                "rewritten frame, outbound",
                Side::Endpoint,
                reply(&scene, &names.canonical.to_string()),
                reply(&scene, &padded),
                Claim::Rewritten(Counter::RewrittenOutbound),
            ),
        ] {
            let mut talk = scene.addressed(Form::Local);
            bench.row(kind, claim, |run| {
                run.data(&mut talk, side, &sent, &arrives)
            })?;
        }
        Ok(bench.costs)
    })
}

/// A frame of the endpoint with its name once.
fn reply(scene: &Scene, authority: &str) -> Vec<u8> {
    let names = &scene.names;
    Envelope {
        recipient: names.path(&names.client, "/temp/$a"),
        sender: Some(names.path(&authority, "/user/rpc/a")),
        body: vec![b'.'; 60],
        serializer: 1,
        ..Envelope::default()
    }
    .frame()
}

struct Bench<'a> {
    scene: &'a Scene,
    empty: &'a Program,
    costs: Vec<PacketCost>,
}

/// One measured packet.
struct Run<'a> {
    scene: &'a Scene,
    empty: &'a Program,
    with: Vec<u64>,
    without: Vec<u64>,
}

impl Bench<'_> {
    /// Measures a row, and checks what the counters say.
    fn row(
        &mut self,
        kind: &'static str,
        claim: Claim,
        mut packet: impl FnMut(&mut Run<'_>) -> Result<()>,
    ) -> Result<()> {
        let before = counts(&self.scene.program)?;
        let mut run = Run {
            scene: self.scene,
            empty: self.empty,
            with: Vec::new(),
            without: Vec::new(),
        };
        for _ in 0..PACKETS {
            packet(&mut run).with_context(|| format!("packet {kind}"))?;
        }
        let after = counts(&self.scene.program)?;
        for ((counter, before), (_, after)) in before.into_iter().zip(after) {
            let grown = after - before;
            let runs = PACKETS as u64;
            let right = match counter {
                Counter::RpcPackets => (grown >= runs) != (claim == Claim::NotOurs),
                Counter::RewrittenInbound | Counter::RewrittenOutbound => {
                    grown == u64::from(claim == Claim::Rewritten(counter)) * runs
                }
                _ => grown == 0 || !counter.label().starts_with("dropped"),
            };
            ensure!(
                right,
                "{kind}: {runs} runs, but {} grew by {grown}: they are not what the row says",
                counter.label()
            );
        }
        self.costs.push(PacketCost {
            kind,
            empty: median(&mut run.without).context("nothing was measured")?,
            program: median(&mut run.with).context("nothing was measured")?,
        });
        Ok(())
    }

    fn not_ours(&mut self) -> Result<()> {
        let mut talk = self.scene.unseen();
        talk.endpoint.set_port(8081);
        let payload = [b'.'; 190];
        self.row("not ours", Claim::NotOurs, |run| {
            run.data(&mut talk, Side::Client, &payload, &payload)
        })
    }

    fn acknowledgements(&mut self) -> Result<()> {
        let mut talk = self.scene.addressed(Form::Local);
        let reply = reply(self.scene, "localhost:6123");
        self.row("pure ACK", Claim::Unchanged, |run| {
            talk.says(Side::Endpoint, &reply);
            let side = Side::Endpoint as usize;
            talk.acked[side] = talk.next[side];
            let ack = talk.packet(
                Side::Client,
                talk.next[Side::Client as usize],
                flag::ACK,
                &[],
            );
            run.measure(&ack, &[])
        })
    }

    /// Full segments inside one large frame.
    fn bodies(&mut self, kind: &'static str, side: Side) -> Result<()> {
        let mut talk = self.scene.addressed(Form::Local);
        let names = &self.scene.names;
        let recipient = match side {
            Side::Client => names.path(&names.canonical, "/user/rpc/a"),
            Side::Endpoint => names.path(&names.client, "/temp/$a"),
        };
        let frame = self.scene.request_to(&recipient, (PACKETS + 1) * SEGMENT);
        let mut pieces = frame.chunks(SEGMENT);
        let first = pieces.next().context("a large frame")?;
        talk.says(side, first);
        acknowledge(&mut talk, side);
        self.row(kind, Claim::Unchanged, |run| {
            let piece = pieces.next().context("the frame is too short")?;
            run.data(&mut talk, side, piece, piece)
        })
    }
}

impl Run<'_> {
    /// The next segment of a side, which the other one acknowledges.
    fn data(&mut self, talk: &mut Talk<'_>, side: Side, sent: &[u8], arrives: &[u8]) -> Result<()> {
        let packet = talk.packet(side, talk.next[side as usize], flag::ACK, sent);
        self.measure(&packet, arrives)?;
        talk.next[side as usize] += sent.len();
        acknowledge(talk, side);
        Ok(())
    }

    /// Runs both programs on a packet, whose payload has to come out as `arrives`.
    fn measure(&mut self, packet: &[u8], arrives: &[u8]) -> Result<()> {
        let (without, _) = nanoseconds(self.empty, packet)?;
        let (with, out) = nanoseconds(&self.scene.program, packet)?;
        ensure!(
            out.ends_with(arrives),
            "\"{}\" arrives instead of \"{}\"",
            out.escape_ascii(),
            arrives.escape_ascii()
        );
        self.without.push(without);
        self.with.push(with);
        Ok(())
    }
}

/// The other side acknowledges all that `side` has sent.
fn acknowledge(talk: &mut Talk<'_>, side: Side) {
    let other = match side {
        Side::Client => Side::Endpoint,
        Side::Endpoint => Side::Client,
    };
    talk.acknowledges(other, talk.next[side as usize]);
}

fn counts(program: &Program) -> Result<Vec<(Counter, u64)>> {
    Counter::ALL
        .iter()
        .map(|counter| Ok((*counter, program.count(*counter)?)))
        .collect()
}

/// One run, as the kernel timed it, and the packet that came out.
fn nanoseconds(program: &Program, packet: &[u8]) -> Result<(u64, Vec<u8>)> {
    let mut out = vec![0; packet.len()];
    let result = program.program()?.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    })?;
    let duration: Duration = result.duration;
    Ok((duration.as_nanos() as u64, out))
}
