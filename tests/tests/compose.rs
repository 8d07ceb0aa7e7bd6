//! What deploy/ promises for containers, with a real container engine: Docker and the containerd that it starts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename::config::DEFAULT_METRICS;
use truename_tests::{
    container::{Engine, NoEngine, done, minimal_root},
    flink::{self, DEFAULT_VERSION, Flink},
    http::Http,
    namespace::Namespace,
    pinned,
    process::Process,
    scratch::Scratch,
    timeline::Timeline,
    truename::binary,
};

const SOON: Duration = Duration::from_secs(30);

/// What came of a test; on a machine without a container engine it is skipped, and says so.
fn unless_skipped(tested: Result<()>) {
    match tested {
        Err(error) if error.is::<NoEngine>() => {
            Timeline::new().measured(&format!("skipped: {error}"));
        }
        tested => tested.unwrap_or_else(|error| panic!("{error:#}")),
    }
}

#[test]
fn compose_shows_flink_before_and_with_truename() {
    let timeline = Timeline::new();
    let flink = Flink::fetch(DEFAULT_VERSION, &timeline).unwrap();
    unless_skipped(flink::compose(&flink, &binary().unwrap(), &timeline));
}

/// What the chart's DaemonSet gives the agent.
struct Pod {
    security: Value,
    arguments: Vec<String>,
    configuration: String,
}

impl Pod {
    fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/truename.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&text).context("read the manifest")?;
        let of_kind = |kind: &str| {
            let mut objects = objects.iter().filter(|object| object["kind"] == kind);
            objects
                .next()
                .with_context(|| format!("there is no {kind}"))
        };
        let container = &of_kind("DaemonSet")?["spec"]["template"]["spec"]["containers"][0];
        let configuration = of_kind("ConfigMap")?["data"]["truename.toml"].as_str();
        Ok(Self {
            security: container["securityContext"].clone(),
            arguments: serde_json::from_value(container["args"].clone())?,
            configuration: configuration.context("no configuration")?.to_owned(),
        })
    }

    /// The flags of `ctr run` that say the same.
    fn flags(&self) -> Result<Vec<String>> {
        /// What containerd gives a container by default.
        const DEFAULT: [&str; 14] = [
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "NET_RAW",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ];
        let security = &self.security;
        ensure!(security["privileged"] == false && security["runAsUser"] == 0);
        // containerd sets no_new_privs, and RuntimeDefault is its own profile.
        ensure!(security["allowPrivilegeEscalation"] == false);
        ensure!(security["seccompProfile"]["type"] == "RuntimeDefault");
        ensure!(security["readOnlyRootFilesystem"] == true);
        ensure!(security["capabilities"]["drop"] == serde_json::json!(["ALL"]));
        let added: Vec<String> = serde_json::from_value(security["capabilities"]["add"].clone())?;
        let mut flags = ["--read-only", "--seccomp", "--net-host"]
            .map(str::to_owned)
            .to_vec();
        flags.extend(DEFAULT.map(|name| format!("--cap-drop=CAP_{name}")));
        flags.extend(added.iter().map(|name| format!("--cap-add=CAP_{name}")));
        Ok(flags)
    }
}

/// `ctr run` of a root file system.
fn container(
    engine: &Engine,
    flags: &[String],
    mounts: &[(PathBuf, &str)],
    root: &Path,
    name: &str,
) -> Result<Command> {
    let mut ctr = engine.ctr()?;
    ctr.args(["run", "--rm", "--rootfs"]).args(flags);
    for (from, to) in mounts {
        let from = from.display();
        ctr.arg(format!(
            "--mount=type=bind,src={from},dst={to},options=rbind"
        ));
    }
    ctr.arg(root).arg(name).arg("/usr/bin/truename");
    Ok(ctr)
}

/// What the chart gives is enough for containerd, which most clusters run: three capabilities, its own seccomp profile, a
/// root file system that is read-only, and the BPF file system of the node.
#[test]
fn the_security_context_of_the_chart_is_enough() {
    unless_skipped(run_as_the_chart_says());
}

fn run_as_the_chart_says() -> Result<()> {
    let (host, scratch) = (Namespace::new("node")?, Scratch::new("node")?);
    let engine = Engine::start(&host, &scratch)?;
    let pod = Pod::read()?;
    let flags = pod.flags()?;
    let root = scratch.path().join("root");
    let program = binary()?;
    minimal_root(&root, &program)?;
    for directory in ["usr/bin", "sys/fs/bpf", "run/truename", "etc/truename"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(&program, root.join("usr/bin/truename")).context("copy truename")?;
    let (run, etc, bpffs) = (
        scratch.path().join("run"),
        scratch.path().join("etc"),
        pinned::Directory::new("node")?,
    );
    for directory in [&run, &etc] {
        fs::create_dir_all(directory)?;
    }
    fs::write(etc.join("truename.toml"), &pod.configuration)?;
    let mounts = [
        (bpffs.path().to_owned(), "/sys/fs/bpf"),
        (run, "/run/truename"),
        (etc, "/etc/truename"),
    ];

    let mut agent = container(&engine, &flags, &mounts, &root, "agent")?;
    agent.args(&pod.arguments);
    let agent = Process::spawn("agent", agent, scratch.path())?;
    agent.wait_whole_line(0, "ready", SOON)?;
    for word in ["WARN", "ERROR"] {
        ensure!(
            agent.count_lines(0, &[word]) == 0,
            "it complains: {:?}",
            agent.lines(0)
        );
    }
    let inside = |arguments: &[&str]| -> Result<String> {
        let mut exec = engine.ctr()?;
        exec.args(["tasks", "exec", "--exec-id", "look", "agent"])
            .args(arguments);
        done(exec)
    };
    let status = inside(&["/bin/cat", "/proc/1/status"])?;
    // BPF is 39, PERFMON 38, NET_ADMIN 12; a filter is 2.
    for line in ["CapBnd:\t000000c000001000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure!(
            status.lines().any(|present| present == line),
            "no {line} in {status}"
        );
    }
    let files = inside(&["/bin/cat", "/proc/1/mounts"])?;
    let is_root = |line: &&str| line.split(' ').nth(1) == Some("/");
    let root_line = files.lines().find(is_root).context("no root")?;
    ensure!(root_line.contains(" ro,"), "{root_line}");
    let said = inside(&["/usr/bin/truename", "status", "--brief"])?;
    ensure!(said.starts_with("ok"), "{said}");
    for path in ["/startupz", "/livez", "/readyz"] {
        let (code, body) = host.run(|| Http::connect(DEFAULT_METRICS, SOON)?.get(path))??;
        ensure!(code == 200, "{path}: {code} {body}");
    }

    // Its pins outlive the pod. What detaches has the same rights.
    let mut end = engine.ctr()?;
    end.args(["tasks", "kill", "--signal", "SIGTERM", "agent"]);
    done(end)?;
    agent.wait_line(0, &["Ending"], SOON)?;
    ensure!(bpffs.path().join("truename").is_dir(), "the pins are gone");
    let mut detach = container(&engine, &flags, &mounts[..1], &root, "detach")?;
    detach.arg("detach");
    let said = done(detach)?;
    ensure!(said.contains("detached"), "{said}");
    let left: Vec<_> = fs::read_dir(bpffs.path().join("truename"))
        .into_iter()
        .flatten()
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
