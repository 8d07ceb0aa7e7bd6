//! The XDP program over the same tables as that of tc.

use anyhow::{Result, bail, ensure};
use truename_common::layout::{Link as Addresses, map};

use super::{
    datagram::{Datagram, THIS_HOST},
    nat::Nat,
    packet::{Link, check_sums},
    program::Program,
    run::Verdict,
};
use crate::sys::{self, TestRunHow, XdpMd};

const NAME: &str = "tn_xdp";

/// Verdicts: `XDP_DROP`, `XDP_PASS`, `XDP_REDIRECT`.
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

impl Nat {
    /// Loads the XDP program too, and lets it send to these devices.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn with_xdp(mut self, devices: &[u32]) -> Self {
        self.program.load_another(NAME).expect("the program loads");
        for device in devices {
            self.insert(map::XDP_DEVICES, *device, 1u8);
        }
        for device in devices {
            let link = Addresses {
                address: THIS_HOST,
                ..Addresses::default()
            };
            self.insert(map::LINKS, *device, link);
        }
        self
    }

    /// XDP leaves the packet as it is to tc.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn xdp_leaves(&self, device: u32, packet: &[u8]) {
        assert_eq!(self.run_xdp(device, packet), Verdict::Next(packet.to_vec()));
    }

    /// XDP sends the packet on as another, byte for byte but for the link addresses: `to` and `from`.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn xdp_forwards(
        &self,
        device: u32,
        packet: &Datagram,
        expected: &Datagram,
        (to, from): ([u8; 6], [u8; 6]),
    ) {
        let mut expected = expected.bytes();
        expected[..6].copy_from_slice(&to);
        expected[6..12].copy_from_slice(&from);
        let verdict = self.run_xdp_twice(device, &packet.bytes());
        assert_eq!(verdict, Verdict::Redirect(expected.clone()));
        check_sums(Link::Ethernet, &expected).expect("the oracle is right");
    }

    /// As [`Self::run_xdp`], once more if the packet is left to tc: that is so once in four seconds for each direction.
    ///
    /// # Panics
    /// As [`Self::run_xdp`].
    #[track_caller]
    pub fn run_xdp_twice(&self, device: u32, packet: &[u8]) -> Verdict {
        match self.run_xdp(device, packet) {
            Verdict::Next(_) => self.run_xdp(device, packet),
            verdict => verdict,
        }
    }

    /// Runs the XDP program on a frame that came in by a device of the calling thread's network namespace.
    ///
    /// # Panics
    /// It cannot be run, or changed a length.
    #[track_caller]
    pub fn run_xdp(&self, device: u32, packet: &[u8]) -> Verdict {
        let verdict = self.program.run_xdp(device, packet);
        verdict.expect("the program runs")
    }
}

impl Program {
    fn run_xdp(&self, device: u32, packet: &[u8]) -> Result<Verdict> {
        const DATA_END: usize = 1;
        const INGRESS_IFINDEX: usize = 3;
        let mut context: XdpMd = [0; 6];
        context[DATA_END] = packet.len() as u32;
        context[INGRESS_IFINDEX] = device;
        let how = TestRunHow {
            repeat: 1,
            ..TestRunHow::default()
        };
        let mut out = vec![0; packet.len() + 256];
        let program = self.loaded(NAME)?.fd()?;
        let (value, len) = sys::test_run(program, packet, &mut out, &context, &how)?;
        let before = packet.len();
        ensure!(before == len, "{before} bytes became {len}");
        out.truncate(len);
        match value {
            PASS => Ok(Verdict::Next(out)),
            REDIRECT => Ok(Verdict::Redirect(out)),
            DROP => Ok(Verdict::Drop),
            other => bail!("unknown verdict {other}"),
        }
    }
}
