//! The program alone: `BPF_PROG_TEST_RUN` on one packet at a time, each beside the empty program.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::{TestRun as _, TestRunOptions};

use super::median;
use crate::prog_run::{Form, Program, Scene, Side, flag};

/// Packets of each kind. The median of as many single runs is what a packet costs with warm caches.
const PACKETS: usize = 4000;

const INSPECTED: &str = "inspected frame";

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

/// Measures every kind of packet.
///
/// # Errors
/// The kernel cannot run the programs.
pub fn packets(object: &[u8]) -> Result<Vec<PacketCost>> {
    let empty = Program::named(object, "tn_empty")?;
    let scene = Scene::configured(object, "jm:6123");
    let mut costs = Vec::new();

    let foreign = {
        let mut talk = scene.unseen();
        talk.endpoint.set_port(8081);
        talk.packet(Side::Client, 0, flag::ACK, &[b'.'; 190])
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..PACKETS {
        with.push(nanoseconds(&scene.program, &foreign)?);
        without.push(nanoseconds(&empty, &foreign)?);
    }
    costs.push(cost("not ours", with, without)?);

    let canonical = scene.names.path(&scene.names.canonical, "/user/rpc/a");
    for (kind, side, frame) in [
        (INSPECTED, Side::Client, scene.request_to(&canonical, 60)),
        (
            "rewritten frame, inbound",
            Side::Client,
            scene.request(Form::Alias, 60),
        ),
        ("rewritten frame, outbound", Side::Endpoint, scene.reply()),
    ] {
        let mut talk = if kind == INSPECTED {
            scene.associated()
        } else {
            scene.addressed(Form::Local)
        };
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..PACKETS {
            let at = talk.next[side as usize];
            let packet = talk.packet(side, at, flag::ACK, &frame);
            with.push(nanoseconds(&scene.program, &packet)?);
            without.push(nanoseconds(&empty, &packet)?);
            talk.next[side as usize] += frame.len();
            talk.acknowledges(side, at + frame.len());
        }
        costs.push(cost(kind, with, without)?);
    }
    Ok(costs)
}

fn cost(kind: &'static str, mut with: Vec<u64>, mut without: Vec<u64>) -> Result<PacketCost> {
    Ok(PacketCost {
        kind,
        empty: median(&mut without).context("nothing was measured")?,
        program: median(&mut with).context("nothing was measured")?,
    })
}

/// One run, as the kernel timed it.
fn nanoseconds(program: &Program, packet: &[u8]) -> Result<u64> {
    let mut out = vec![0; packet.len() + 64];
    let result = program.program()?.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ..TestRunOptions::default()
    })?;
    let duration: Duration = result.duration;
    Ok(duration.as_nanos() as u64)
}
