//! Running the program on a packet.

use aya::util::KernelVersion;

use anyhow::{Result, bail, ensure};

use super::Program;
use crate::sys::{self, SkBuff, TestRunHow};

/// Verdicts of the kernel program: `TCX_NEXT`, `TC_ACT_SHOT`, `TC_ACT_REDIRECT`.
const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;
const REDIRECT: u32 = 7;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, as these bytes.
    Next(Vec<u8>),
    /// It leaves by another interface, or turns round, as these bytes.
    Redirect(Vec<u8>),
    /// It is dropped.
    Drop,
}

/// Where a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The index of the interface that it came in by; 0 if the host itself sent it.
    pub came_by: u32,
    /// The index of the interface that it is on; 0 for loopback. It has to exist in the network
    /// namespace of the calling thread.
    pub interface: u32,
    /// Of a super-packet, the bytes of payload of its segments.
    pub segment: u32,
    /// How often it passes: 0 and 1 are once.
    pub passes: u32,
}

impl Place {
    /// It came in by this interface.
    pub fn arriving(interface: u32) -> Self {
        Self {
            came_by: interface,
            interface,
            ..Self::default()
        }
    }

    /// The host sends it by this interface.
    pub fn leaving(interface: u32) -> Self {
        Self {
            interface,
            ..Self::default()
        }
    }

    fn context(self) -> SkBuff {
        const INGRESS_IFINDEX: usize = 9;
        const IFINDEX: usize = 10;
        const GSO_SIZE: usize = 44;
        let mut words = [0; 48];
        words[INGRESS_IFINDEX] = self.came_by;
        words[IFINDEX] = self.interface;
        words[GSO_SIZE] = self.segment;
        words
    }
}

impl Program {
    /// Runs the program on a packet that the host sends by loopback.
    ///
    /// # Errors
    /// The kernel cannot run it, the length of a packet that goes on changed, or the verdict is unknown.
    pub fn run(&self, packet: &[u8]) -> Result<Verdict> {
        self.run_at(Place::default(), packet)
    }

    /// Runs the program on a packet that is somewhere.
    ///
    /// # Errors
    /// As above.
    pub fn run_at(&self, place: Place, packet: &[u8]) -> Result<Verdict> {
        self.test_run(place, packet, false)
    }

    /// Whether the kernel has what [`Self::run_summed`] needs: Linux 6.10.
    pub fn can_sum() -> bool {
        KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 10, 0))
    }

    /// Runs the program on a packet whose sum a device has computed (`CHECKSUM_COMPLETE`), and has the
    /// kernel check that the sum is right afterwards.
    ///
    /// # Errors
    /// As above, or the sum is wrong (`EBADMSG`).
    pub fn run_summed(&self, place: Place, packet: &[u8]) -> Result<Verdict> {
        self.test_run(place, packet, true)
    }

    fn test_run(&self, place: Place, packet: &[u8], summed: bool) -> Result<Verdict> {
        let mut out = vec![0; packet.len() + 256];
        let how = TestRunHow {
            repeat: place.passes.max(1),
            summed,
        };
        let program = self.program()?.fd()?;
        let (value, len) = sys::test_run(program, packet, &mut out, &place.context(), &how)?;
        out.truncate(len);
        match value {
            NEXT => {
                let (before, after) = (packet.len(), out.len());
                ensure!(before == after, "{before} bytes became {after}");
                Ok(Verdict::Next(out))
            }
            // A segment of this host is lost as the wire would lose it: it goes unchanged to an interface that does not
            // exist.
            REDIRECT if out == packet => Ok(Verdict::Drop),
            REDIRECT => Ok(Verdict::Redirect(out)),
            DROP => Ok(Verdict::Drop),
            other => bail!("unknown verdict {other}"),
        }
    }
}
