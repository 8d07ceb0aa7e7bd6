//! `deploy/compose/compose.yaml` with a real container engine: a JobManager behind published ports, TaskManagers beside it,
//! and a TaskManager on the host that knows the JobManager as localhost.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    cluster::JVM,
    config::{self, LOG4J2, REST_PORT, RPC_PORT},
    fetch::Flink,
    job, jvm,
    node::Node,
    rest::Rest,
};
use crate::{
    cleanup,
    container::{Engine, done},
    namespace::Namespace,
    pinned,
    process::Process,
    scratch::Scratch,
    timeline::Timeline,
    wait::wait_until,
};

/// What the JobManager says when it drops a message.
const DROPPED: [&str; 2] = ["dropping message", "flink@localhost:6123"];
/// The images, by the names that the file has for them.
const FLINK_IMAGE: &str = "flink:1.20";
const TRUENAME_IMAGE: &str = "truename:0.1.0";
/// Where the image has Flink.
const HOME: &str = "/opt/flink";

/// Brings it up without truename, then with it, and changes it in the ways of an operator.
///
/// # Errors
/// Something did not hold.
pub fn compose(flink: &Flink, binary: &Path, timeline: &Timeline) -> Result<()> {
    let mut scratch = Scratch::new("compose")?;
    let told = tell(flink, binary, &scratch, timeline);
    if told.is_err() {
        scratch.keep();
    }
    told
}

fn tell(flink: &Flink, binary: &Path, scratch: &Scratch, timeline: &Timeline) -> Result<()> {
    let host = Namespace::new("docker")?;
    let project = Project::new(flink, binary, &host, scratch)?;
    timeline.say("a container engine runs, with images of Flink and truename");

    timeline.heading(&format!("Without truename (Flink {})", flink.version()));
    project.up(&["jobmanager", "taskmanager"])?;
    let rest = Rest::new(
        &host,
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), REST_PORT),
    );
    rest.wait_task_managers(1, JVM)?;
    timeline.say("REST at localhost:8081 shows the TaskManager in a container");
    let log = project.follow("jobmanager", scratch)?;
    let mut outside = Project::outside(flink, &host, scratch)?;
    outside.start(flink, jvm::TASK_MANAGER, scratch.path())?;
    timeline.say("another TaskManager is started on the host; it dials localhost:6123");
    let line = log
        .wait_line(0, &DROPPED, JVM)
        .context("the JobManager was expected to refuse localhost")?;
    timeline.say("the JobManager refuses it:");
    timeline.quote(&line);
    ensure!(rest.task_managers()?.len() == 1, "it is registered");

    timeline.heading("With truename");
    project.up(&["truename"])?;
    rest.wait_task_managers(2, JVM)?;
    timeline.say("REST shows both TaskManagers");
    let aliases = project.truename(&["aliases"])?;
    timeline.quote(&aliases);
    ensure!(aliases.contains("localhost:6123"), "{aliases}");

    timeline.heading("docker-compose up --scale taskmanager=3");
    project.scale("taskmanager", 3)?;
    rest.wait_task_managers(4, JVM)?;
    timeline.say("REST shows four TaskManagers");

    timeline.heading("docker-compose restart");
    let mark = outside.running()?.mark();
    project.scale("taskmanager", 1)?;
    project.run(&["restart", "--timeout", "2"])?;
    // A JobManager that was started anew knows nobody: all of them are new registrations.
    outside
        .running()?
        .wait_line(mark, &["Successful registration at resource manager"], JVM)?;
    rest.wait_task_managers(2, JVM)?;
    timeline.say("REST shows both TaskManagers again");

    timeline.heading("Containers are removed, and made anew with other addresses");
    let before = project.address("jobmanager")?;
    let mark = outside.running()?.mark();
    project.run(&["rm", "--force", "--stop", "jobmanager", "taskmanager"])?;
    // The first one gets the first free address.
    project.run(&["up", "--detach", "--no-deps", "taskmanager"])?;
    project.up(&["jobmanager"])?;
    let after = project.address("jobmanager")?;
    ensure!(before != after, "the JobManager is at {after} again");
    timeline.say(&format!(
        "the JobManager was at {before}, and is at {after}"
    ));
    outside
        .running()?
        .wait_line(mark, &["Successful registration at resource manager"], JVM)?;
    rest.wait_task_managers(2, JVM)?;
    timeline.say("REST shows both TaskManagers again");

    timeline.heading("The TaskManager on the host works");
    project.scale("taskmanager", 0)?;
    rest.wait_task_managers(1, JVM)?;
    let jar = job::build(flink, scratch)?;
    let duration = rest.run_job(&jar, job::CLASS, JVM)?;
    timeline.say(&format!(
        "a job FINISHED in {:.1} s, on the host's TaskManager alone",
        duration.as_secs_f64()
    ));
    wait_until(JVM, "a good status", || {
        project.truename(&["status"]).map(drop)
    })?;

    project.run(&["stop", "truename"])?;
    let detached = project.run(&["run", "--rm", "truename", "detach"])?;
    ensure!(detached.contains("detached"), "{detached}");
    let pins = project.bpffs.path().join("truename");
    let left = fs::read_dir(&pins).into_iter().flatten().count();
    ensure!(left == 0, "{left} pin(s) are left in {}", pins.display());
    project.run(&["down", "--timeout", "1"])?;
    timeline.say("truename is detached, and all containers are removed");
    Ok(())
}

/// The file, with an override that gives the containers of Flink what is on this machine.
struct Project {
    // Ends before what it has pinned is removed.
    engine: Engine,
    files: [PathBuf; 2],
    bpffs: pinned::Directory,
}

impl Project {
    fn new(flink: &Flink, binary: &Path, host: &Namespace, scratch: &Scratch) -> Result<Self> {
        let bpffs = pinned::Directory::new("compose")?;
        let engine = Engine::start(host, scratch)?;
        engine.build(binary, TRUENAME_IMAGE)?;
        let java = JavaHome::find()?;
        let root = scratch.path().join("flink-image");
        flink_root(&root, &java)?;
        let entrypoint = "ENTRYPOINT [\"/docker-entrypoint.sh\"]";
        engine.import(&root, FLINK_IMAGE, &[entrypoint])?;

        let conf = scratch.path().join("conf");
        fs::create_dir_all(&conf).context("make a directory")?;
        fs::write(conf.join("log4j2.properties"), LOG4J2)?;
        let mut settings = config::small(Path::new("/tmp/flink/tmp"));
        settings.push(patience());
        fs::write(conf.join("flink-conf.yaml"), config::lines(&settings))?;
        // JSON is YAML, too.
        let read_only = |from: &Path, to: &str| format!("{}:{to}:ro", from.display());
        let mut volumes = vec![
            read_only(Path::new("/usr"), "/usr"),
            read_only(flink.libraries(), &format!("{HOME}/lib")),
            read_only(&conf, &format!("{HOME}/conf")),
        ];
        if let Some(settings) = &java.settings {
            volumes.push(read_only(settings, &settings.display().to_string()));
        }
        let more = serde_json::json!({"services": {
            "jobmanager": {"volumes": volumes},
            "taskmanager": {"volumes": volumes},
            "truename": {"volumes": [format!("{}:{}", bpffs.path().display(), cleanup::BPFFS)]},
        }});
        let more = scratch.write("compose.json", &more.to_string())?;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/compose/compose.yaml");
        Ok(Self {
            engine,
            files: [file, more],
            bpffs,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.engine.compose();
        command.args(["--project-name", "truename"]);
        for file in &self.files {
            command.arg("--file").arg(file);
        }
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        done(self.command(arguments))
    }

    fn up(&self, services: &[&str]) -> Result<()> {
        self.run(&[&["up", "--detach"], services].concat())
            .map(drop)
    }

    fn scale(&self, service: &str, count: usize) -> Result<()> {
        let scale = format!("{service}={count}");
        self.run(&["up", "--detach", "--no-recreate", "--scale", &scale])
            .map(drop)
    }

    /// Follows what the container of a service writes.
    fn follow(&self, service: &str, scratch: &Scratch) -> Result<Process> {
        let command = self.command(&["logs", "--follow", "--no-color", service]);
        Process::spawn(&format!("{service}-log"), command, scratch.path())
    }

    /// Runs truename in its container.
    fn truename(&self, arguments: &[&str]) -> Result<String> {
        self.run(&[&["exec", "-T", "truename", "truename"], arguments].concat())
    }

    /// The address of the container of a service.
    fn address(&self, service: &str) -> Result<Ipv4Addr> {
        let id = self.run(&["ps", "--quiet", service])?;
        let mut inspect = self.engine.docker();
        inspect.args(["inspect", id.trim()]);
        let answer: Value = serde_json::from_str(&done(inspect)?).context("read the container")?;
        let networks = answer[0]["NetworkSettings"]["Networks"].as_object();
        let network = networks.and_then(|networks| networks.values().next());
        let address = network.and_then(|network| network["IPAddress"].as_str());
        let address = address.context("the container has no address")?;
        address.parse().with_context(|| format!("{address:?}"))
    }

    /// A TaskManager on the host. It knows the JobManager as localhost.
    fn outside(flink: &Flink, host: &Namespace, scratch: &Scratch) -> Result<Node> {
        let machine =
            fs::read_to_string("/proc/sys/kernel/hostname").context("read the machine's name")?;
        // The blob server's host comes as a bare name, which has no room for an alias.
        let hosts = format!("127.0.0.1 localhost {} jobmanager\n", machine.trim());
        let files = vec![
            (scratch.write("hosts", &hosts)?, PathBuf::from("/etc/hosts")),
            (
                scratch.write("resolv.conf", "nameserver 127.0.0.1\n")?,
                PathBuf::from("/etc/resolv.conf"),
            ),
        ];
        let name = "outside";
        let home = scratch.path().join(name);
        let mut settings = config::small(&home.join("tmp"));
        settings.extend([
            patience(),
            ("jobmanager.rpc.address", "localhost".to_owned()),
            ("jobmanager.rpc.port", RPC_PORT.to_string()),
            ("taskmanager.bind-host", "0.0.0.0".to_owned()),
        ]);
        config::write_home(scratch, flink, name, &settings)?;
        Ok(Node::new(name.to_owned(), host.clone(), home, files))
    }
}

/// A component that gets no answer asks again after this time, instead of ten seconds.
fn patience() -> (&'static str, String) {
    const ASK: Duration = Duration::from_secs(4);
    ("pekko.ask.timeout", format!("{} s", ASK.as_secs()))
}

/// Where Java is on this machine.
struct JavaHome {
    home: PathBuf,
    /// Debian has its settings apart.
    settings: Option<PathBuf>,
}

impl JavaHome {
    fn find() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let java = std::env::split_paths(&path)
            .map(|directory| directory.join("java"))
            .find(|file| file.is_file())
            .context("java is missing: run `cargo xtask setup`")?;
        let java = java.canonicalize().context("find Java")?;
        let home = java.ancestors().nth(2).context("find the home of Java")?;
        ensure!(
            home.starts_with("/usr"),
            "{} is not below /usr",
            home.display()
        );
        let security = home.join("conf/security/java.security").canonicalize();
        let settings = security
            .ok()
            .filter(|file| !file.starts_with("/usr"))
            .and_then(|file| file.ancestors().nth(2).map(Path::to_owned));
        Ok(Self {
            home: home.to_owned(),
            settings,
        })
    }
}

/// A root file system with the entry point that Flink's own image has: a role, and settings in `FLINK_PROPERTIES`.
/// Programs are this machine's, mounted at /usr.
fn flink_root(root: &Path, java: &JavaHome) -> Result<()> {
    for directory in ["tmp", "etc", "proc", "sys", "dev", "usr"] {
        fs::create_dir_all(root.join(directory)).context("make a root file system")?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).context("make a link")?;
    }
    let work = "/tmp/flink";
    let options: Vec<_> = jvm::options(work, &format!("{HOME}/lib/*"))
        .into_iter()
        .map(|option| format!("'{option}'"))
        .collect();
    let script = format!(
        "#!/bin/sh\n\
         set -e\n\
         mkdir -p {work}/tmp\n\
         cp {HOME}/conf/* {work}\n\
         printf '%s\\n' \"$FLINK_PROPERTIES\" >>{work}/flink-conf.yaml\n\
         case $1 in\n\
         jobmanager) class={} ;;\n\
         taskmanager) class={} ;;\n\
         *) exec \"$@\" ;;\n\
         esac\n\
         cd {work}\n\
         exec {}/bin/java {} $class --configDir {work}\n",
        jvm::JOB_MANAGER,
        jvm::TASK_MANAGER,
        java.home.display(),
        options.join(" ")
    );
    let file = root.join("docker-entrypoint.sh");
    fs::write(&file, script).context("write the entry point")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).context("make it executable")
}
