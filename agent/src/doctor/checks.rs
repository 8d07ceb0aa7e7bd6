//! The single checks. None of them changes anything.

use std::{fs, io, path::Path};

use aya::util::KernelVersion;
use rustix::thread::{CapabilitySet, capabilities};

use super::{Check, Refusal};
use crate::{
    api::ServerError,
    datapath::{DatapathError, Mode, Pins},
};

/// The oldest kernel that the program is tested on.
const OLDEST: (u8, u8) = (6, 1);
const BTF: &str = "/sys/kernel/btf/vmlinux";
const REALTIME: &str = "/sys/kernel/realtime";
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// What is needed, and why.
const CAPABILITIES: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
];

/// Those without which nothing works.
pub fn needed() -> Vec<Check> {
    vec![
        kernel(),
        preemption(fs::read_to_string(REALTIME).ok().as_deref()),
        btf(),
        capability(),
    ]
}

/// The kernel program has working memory for each processor, and relies on it that a packet is done before the next one
/// begins there.
fn preemption(realtime: Option<&str>) -> Check {
    if realtime.is_some_and(|value| value.trim() == "1") {
        return Check::failure(
            "preemption",
            "the kernel is a real-time one (PREEMPT_RT), on which packets interrupt one another"
                .to_owned(),
            "boot another kernel of the distribution",
        );
    }
    let found = "packets do not interrupt one another on a processor";
    Check::ok("preemption", found.to_owned())
}

fn kernel() -> Check {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let found = format!("the kernel is {release}");
    let (major, minor) = OLDEST;
    match KernelVersion::current() {
        Ok(version) if version >= KernelVersion::new(major, minor, 0) => Check::ok("kernel", found),
        Ok(_) => Check::failure(
            "kernel",
            found,
            format!("truename needs Linux {major}.{minor} or later: install a newer kernel"),
        ),
        Err(_) => Check::warning(
            "kernel",
            found,
            "its version cannot be compared; 6.1 is the oldest that is tested",
        ),
    }
}

fn btf() -> Check {
    match fs::metadata(BTF) {
        Ok(_) => Check::ok("btf", "the kernel describes its types (BTF)".to_owned()),
        Err(error) => Check::failure(
            "btf",
            format!("the kernel does not describe its types: {BTF}: {error}"),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of all distributions are",
        ),
    }
}

fn capability() -> Check {
    let effective = match capabilities(None) {
        Ok(sets) => sets.effective,
        Err(error) => {
            return Check::warning(
                "capabilities",
                format!(
                    "the capabilities cannot be read: {}",
                    io::Error::from(error)
                ),
                "run as root",
            );
        }
    };
    let missing = missing_capabilities(effective);
    if missing.is_empty() {
        return Check::ok(
            "capabilities",
            "the process may load programs and attach them".to_owned(),
        );
    }
    Check::failure(
        "capabilities",
        format!("the process lacks {}", missing.join(", ")),
        "run as root, or give the service these capabilities (AmbientCapabilities= in systemd, --cap-add in Docker)",
    )
}

fn missing_capabilities(effective: CapabilitySet) -> Vec<&'static str> {
    // CAP_SYS_ADMIN stands for the two that were split off from it.
    let admin = effective.contains(CapabilitySet::SYS_ADMIN);
    CAPABILITIES
        .iter()
        .filter(|(set, _)| {
            let implied = admin && *set != CapabilitySet::NET_ADMIN;
            !effective.contains(*set) && !implied
        })
        .map(|(_, name)| *name)
        .collect()
}

/// tcx links, which stay attached atomically.
pub fn tcx() -> Check {
    match Mode::detect() {
        Mode::Tcx => Check::ok("tcx", "the kernel has tcx links".to_owned()),
        Mode::Clsact => Check::warning(
            "tcx",
            "the kernel has no tcx links: filters on a clsact qdisc are used".to_owned(),
            "nothing needs to be done; Linux 6.6 or later has them",
        ),
    }
}

/// The compiler for BPF programs.
pub fn jit() -> Check {
    match fs::read_to_string(JIT)
        .map(|text| text.trim().to_owned())
        .as_deref()
    {
        Ok("0") => Check::warning(
            "jit",
            "BPF programs are interpreted, which is several times slower".to_owned(),
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Ok(_) => Check::ok("jit", "BPF programs are compiled".to_owned()),
        // The file is there only if the compiler can be switched off, or outside of containers.
        Err(_) => Check::ok(
            "jit",
            "whether BPF programs are compiled is up to the kernel".to_owned(),
        ),
    }
}

/// Where the pins go.
pub fn bpffs(path: &Path, refusals: &[Refusal]) -> Check {
    let refused = refusals.iter().find_map(|refusal| match refusal {
        Refusal::Datapath(
            error @ (DatapathError::NotBpffs { .. }
            | DatapathError::ReadOnly { .. }
            | DatapathError::Pins { .. }),
        ) => Some(error),
        _ => None,
    });
    if let Some(error) = refused {
        return Check::failure("bpffs", error.to_string(), "see above");
    }
    if Pins::new(path).is_mounted() {
        return Check::ok(
            "bpffs",
            format!("{} is on a BPF file system", path.display()),
        );
    }
    Check::warning(
        "bpffs",
        "no BPF file system is mounted at /sys/fs/bpf".to_owned(),
        "`truename run` mounts it; or: mount -t bpf bpf /sys/fs/bpf",
    )
}

/// Whether the pins that are there can be taken over.
pub fn pins(path: &Path, refusals: &[Refusal]) -> Check {
    for refusal in refusals {
        match refusal {
            Refusal::Datapath(error @ DatapathError::Busy(_)) => {
                let remedy = "nothing, if that agent is the one that shall run; another one needs another place (--bpffs)";
                return Check::warning("pins", error.to_string(), remedy);
            }
            // About the place.
            Refusal::Datapath(
                DatapathError::NotBpffs { .. }
                | DatapathError::ReadOnly { .. }
                | DatapathError::Pins { .. },
            ) => {}
            Refusal::Datapath(error) => {
                return Check::failure("pins", error.to_string(), "see above");
            }
            _ => {}
        }
    }
    Check::ok(
        "pins",
        if Pins::new(path).exist() {
            "tables of this version are pinned: `truename run` takes them over".to_owned()
        } else {
            "nothing is pinned".to_owned()
        },
    )
}

/// Whether `run` takes the configuration.
pub fn configuration(file: &Path, refusals: &[Refusal]) -> Check {
    let refused = refusals.iter().find_map(|refusal| match refusal {
        Refusal::Config(error) => Some(error.to_string()),
        Refusal::Netlink(error) => Some(error.to_string()),
        _ => None,
    });
    match refused {
        Some(found) => Check::failure("configuration", found, "see above"),
        None => Check::ok("configuration", format!("{} is valid", file.display())),
    }
}

/// A control socket that cannot be used.
pub fn control_socket(refusals: &[Refusal]) -> Option<Check> {
    refusals.iter().find_map(|refusal| match refusal {
        Refusal::Server(error @ ServerError::InUse(_)) => Some(Check::warning(
            "control_socket",
            error.to_string(),
            "nothing, if that agent is the one that shall run",
        )),
        Refusal::Server(error) => Some(Check::failure(
            "control_socket",
            error.to_string(),
            "see above",
        )),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn a_real_time_kernel_is_refused() {
        for (realtime, expected) in [
            (None, Verdict::Ok),
            (Some("0\n"), Verdict::Ok),
            (Some("1\n"), Verdict::Failure),
        ] {
            assert_eq!(preemption(realtime).verdict, expected, "{realtime:?}");
        }
    }

    #[test]
    fn names_what_is_missing() {
        assert_eq!(
            missing_capabilities(CapabilitySet::NET_RAW),
            ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]
        );
        assert_eq!(
            missing_capabilities(CapabilitySet::SYS_ADMIN),
            ["CAP_NET_ADMIN"]
        );
        let all = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON;
        assert_eq!(missing_capabilities(all), [""; 0]);
    }
}
