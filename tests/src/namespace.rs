//! Network namespaces, the links between them, and code and processes that run inside.

use std::{
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cleanup, sys};

/// A network namespace, removed when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Namespace {
    owned: Arc<Owned>,
}

/// The namespace itself.
#[derive(Debug)]
struct Owned {
    name: String,
}

impl Namespace {
    /// Makes a namespace with a unique name and its loopback up.
    ///
    /// # Errors
    /// Not root, or `ip` is missing.
    pub fn new(label: &str) -> Result<Self> {
        cleanup::sweep();
        if !sys::is_root() {
            bail!("network namespaces need root: run this as root");
        }
        let name = cleanup::unique_name(label);
        run("ip", &["netns", "add", &name])?;
        let namespace = Self {
            owned: Arc::new(Owned { name }),
        };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.owned.name
    }

    /// Makes a device of a kind that truename cannot attach to, for as long as the file is open.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn unreadable(&self, name: &str) -> Result<File> {
        /// Headers of wireless cards.
        const ARPHRD_IEEE80211: u16 = 801;
        self.run(|| -> Result<_> {
            let device = sys::tap(name, false)?;
            sys::set_link_type(&device, ARPHRD_IEEE80211)?;
            Ok(device)
        })?
    }

    /// Runs `ip` inside, with arguments separated by blanks.
    ///
    /// # Errors
    /// `ip` failed; the error carries what it said.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut all = vec!["-n", self.name()];
        all.extend(arguments.split_whitespace());
        run("ip", &all)
    }

    /// Runs `ip` inside with many commands, one a line, in one process.
    ///
    /// # Errors
    /// `ip` cannot be started, or does not end well.
    pub fn ip_batch(&self, commands: &str) -> Result<()> {
        let mut ip = Command::new("ip")
            .args(["-n", self.name(), "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("run ip")?;
        let mut input = ip.stdin.take().context("the input of ip")?;
        input.write_all(commands.as_bytes())?;
        drop(input);
        let status = ip.wait()?;
        ensure!(status.success(), "ip -batch ended with {status}");
        Ok(())
    }

    /// Writes a sysctl of the namespace, for example `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// The kernel does not have it or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value).with_context(|| format!("sysctl {key}={value}")))?
    }

    /// Runs a closure in a thread inside the namespace; sockets it makes stay inside.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    sys::enter_network(&file)
                        .with_context(|| format!("enter namespace {}", self.name()))?;
                    Ok(inside())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs inside and dies with the thread that starts it. Unlike `ip netns exec` it keeps
    /// the mounts, so BPF and cgroup file systems stay visible. `files` are put in place of others, for this
    /// command only: `(private file, path it stands for)`.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn command(&self, program: &Path, files: &[(PathBuf, PathBuf)]) -> Result<Command> {
        let mut command = Command::new(program);
        sys::confine(&mut command, Some(self.open()?), files).context("prepare the command")?;
        Ok(command)
    }

    /// Who has an established connection to a TCP port of the namespace, as `ss` shows them.
    ///
    /// # Errors
    /// `ss` is missing.
    pub fn peers(&self, port: u16) -> Result<Vec<SocketAddr>> {
        let mut command = self.command(Path::new("ss"), &[])?;
        command.args([
            "-Htn",
            "state",
            "established",
            "sport",
            "=",
            &port.to_string(),
        ]);
        let output = command.output().context("run ss")?;
        ensure!(output.status.success(), "ss ended with {}", output.status);
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| {
                let peer = line.split_whitespace().last().unwrap_or_default();
                let peer: SocketAddr = peer.parse().with_context(|| format!("ss said {line:?}"))?;
                Ok(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
            })
            .collect()
    }

    /// A number that the kernel counts for TCP in the namespace: `name` of `group` in /proc/net/`file`.
    ///
    /// # Errors
    /// There is none.
    pub fn tcp_count(&self, file: &str, group: &str, name: &str) -> Result<u64> {
        // Not /proc/net, which is that of the process.
        let path = format!("/proc/thread-self/net/{file}");
        let text = self
            .run(|| fs::read_to_string(&path))?
            .with_context(|| format!("read {path}"))?;
        let prefix = format!("{group}: ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        let (labels, values) = (lines.next(), lines.next());
        let (_, value) = labels
            .unwrap_or_default()
            .split(' ')
            .zip(values.unwrap_or_default().split(' '))
            .find(|(label, _)| *label == name)
            .with_context(|| format!("{path} has no {group} {name}"))?;
        value
            .parse()
            .with_context(|| format!("{name} in {path}: {value}"))
    }

    /// The link address of an interface.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn link_address(&self, interface: &str) -> Result<String> {
        let line = self.ip(&format!("-br link show dev {interface}"))?;
        let address = line.split_whitespace().nth(2);
        Ok(address.context("no link address")?.to_owned())
    }

    /// Bytes and packets that have arrived at an interface.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn arrived(&self, interface: &str) -> Result<(u64, u64)> {
        let path = "/proc/thread-self/net/dev";
        let text = self
            .run(|| fs::read_to_string(path))?
            .with_context(|| format!("read {path}"))?;
        let prefix = format!("{interface}:");
        let line = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(&prefix))
            .with_context(|| format!("{} has no interface {interface}", self.name()))?;
        let mut numbers = line.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(bytes)), Some(Ok(packets))) => Ok((bytes, packets)),
            _ => bail!("{path} says {line:?} of {interface}"),
        }
    }

    /// Sets an offload of an interface.
    ///
    /// # Errors
    /// The interface does not exist or has no such switch.
    pub fn offload(&self, interface: &str, offload: Offload, on: bool) -> Result<()> {
        self.run(|| sys::ethtool_switch(interface, offload as u32, on))?
            .with_context(|| format!("set {offload:?} of {interface} to {on}"))
    }

    fn open(&self) -> Result<File> {
        let path = Path::new(cleanup::NETNS_DIR).join(self.name());
        File::open(&path).with_context(|| format!("open {}", path.display()))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // A left-over is swept by the next run.
        let _ = run("ip", &["netns", "delete", &self.name]);
    }
}

/// Offloads that can be switched, with their numbers in linux/ethtool.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Offload {
    /// Checksums of outgoing packets are left to the device (on veth: never computed).
    TransmitChecksum = 0x17,
    /// TCP segments are cut by the device.
    Tso = 0x1f,
    /// Packets are cut just before the device.
    Gso = 0x24,
    /// Received packets are joined.
    Gro = 0x2c,
}

impl Offload {
    /// All that make a packet on the wire differ from what the stack handles.
    pub const SEGMENTATION: [Self; 3] = [Self::Tso, Self::Gso, Self::Gro];
}

/// Joins two namespaces (or one with itself) by a veth pair and brings both ends up.
///
/// # Errors
/// A name is taken.
pub fn link(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<()> {
    a.0.ip(&format!(
        "link add {} type veth peer name {} netns {}",
        a.1,
        b.1,
        b.0.name()
    ))?;
    for (namespace, interface) in [a, b] {
        namespace.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

/// Runs a tool and gives back what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
