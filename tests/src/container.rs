//! A container engine of its own for a test: Docker's daemon and its containerd in namespaces, with all their files in a
//! scratch directory. Nothing of them outlives the test, also if it is killed.

use std::{
    error::Error,
    fmt, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{cleanup, namespace, namespace::Namespace, process::Process, scratch::Scratch};

/// How long the daemon may take to start.
const START: Duration = Duration::from_secs(60);
/// What is needed, and the package of Debian that has it.
const PROGRAMS: [(&str, &str); 4] = [
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("docker-compose", "docker-compose"),
    ("busybox", "busybox-static"),
];
/// Where Docker 20.10 writes a key, wherever its other files are.
const ETC: &str = "/etc/docker";

/// Why this machine has no container engine: a program is missing, or the daemon ended as soon as it was started.
#[derive(Debug)]
pub struct NoEngine(String);

impl fmt::Display for NoEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "there is no container engine: {}", self.0)
    }
}

impl Error for NoEngine {}

/// A daemon, in the network namespace that stands for its host. Containers end with it.
#[derive(Debug)]
pub struct Engine {
    // Ends before its files are removed.
    daemon: Option<Process>,
    host: Namespace,
    directory: PathBuf,
    name: String,
    made_etc: bool,
}

impl Engine {
    fn missing() -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_here = |program: &str| {
            std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
        };
        let missing = PROGRAMS.iter().find(|(program, _)| !is_here(program));
        missing.map(|(program, package)| {
            format!("{program} is not installed: run `cargo xtask setup`, or install {package}")
        })
    }

    /// Starts the daemon.
    ///
    /// # Errors
    /// [`NoEngine`], or the daemon does not come up.
    pub fn start(host: &Namespace, scratch: &Scratch) -> Result<Self> {
        if let Some(missing) = Self::missing() {
            return Err(NoEngine(missing).into());
        }
        let directory = scratch.path().join("engine");
        let private = |name: &str| -> Result<PathBuf> {
            let path = directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
            Ok(path)
        };
        let made_etc = fs::create_dir(ETC).is_ok();
        let files = [
            (private("run")?, PathBuf::from("/run")),
            (private("etc")?, PathBuf::from(ETC)),
        ];
        let name = cleanup::unique_name("engine");
        let (data, state) = (private("data")?, private("state")?);
        // All processes end with the first one of their namespace, and mounts go with theirs.
        let mut command = host.command(Path::new("unshare"), &files)?;
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg("dockerd")
            .arg("--host")
            .arg(format!("unix://{}", directory.join("socket").display()))
            .arg("--data-root")
            .arg(data)
            .arg("--exec-root")
            .arg(&state)
            .arg("--pidfile")
            .arg(directory.join("pid"))
            .arg("--cgroup-parent")
            .arg(format!("/{name}"))
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        let daemon = Process::spawn("dockerd", command, scratch.path())?;
        let mut engine = Self {
            daemon: Some(daemon),
            host: host.clone(),
            directory,
            name,
            made_etc,
        };
        let daemon = engine.daemon.as_mut().context("no daemon")?;
        match daemon.wait_line(0, &["API listen on"], START) {
            Ok(_) => Ok(engine),
            Err(error) if daemon.has_ended()? => Err(NoEngine(error.to_string()).into()),
            Err(error) => Err(error),
        }
    }

    /// The client of Docker.
    pub fn docker(&self) -> Command {
        // Debian's, which builds images without a plugin, also if there is another one on the path.
        let debian = Path::new("/usr/bin/docker");
        let program = if debian.is_file() {
            debian
        } else {
            Path::new("docker")
        };
        self.client(program)
    }

    /// Docker Compose. The files and the verb follow.
    pub fn compose(&self) -> Command {
        self.client(Path::new("docker-compose"))
    }

    /// The client of the engine's containerd, in the namespace of the host.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn ctr(&self) -> Result<Command> {
        // Both sides open pipes that it makes in /run.
        let run = (self.directory.join("run"), PathBuf::from("/run"));
        let mut ctr = self.host.command(Path::new("ctr"), &[run])?;
        ctr.arg("--address")
            .arg(self.directory.join("state/containerd/containerd.sock"))
            .args(["--namespace", &self.name]);
        Ok(ctr)
    }

    fn client(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.directory.join("socket").display()),
            )
            // Nothing in the user's home is read or written.
            .env("DOCKER_CONFIG", self.directory.join("client"))
            .env("DOCKER_BUILDKIT", "1")
            .env_remove("DOCKER_CONTEXT");
        command
    }

    /// Makes an image of a directory.
    ///
    /// # Errors
    /// The engine refuses it.
    pub fn import(&self, root: &Path, image: &str, changes: &[&str]) -> Result<()> {
        let archive = root.with_extension("tar");
        let (from, to) = (text(root)?, text(&archive)?);
        namespace::run("tar", &["--create", "--file", to, "--directory", from, "."])?;
        let mut import = self.docker();
        import.arg("import");
        for change in changes {
            import.args(["--change", change]);
        }
        import.arg(&archive).arg(image);
        done(import).map(drop)
    }

    /// Builds the image of truename as docs/install.md says, of a program that is there already.
    ///
    /// # Errors
    /// The build fails.
    pub fn build(&self, program: &Path, image: &str) -> Result<()> {
        let base = self.directory.join("base");
        minimal_root(&base, program)?;
        self.import(&base, "debian:12", &["ENV PATH=/usr/bin:/bin"])?;
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let context = self.directory.join("context");
        let release = context.join("target/release");
        fs::create_dir_all(&release).with_context(|| format!("make {}", release.display()))?;
        let stripped = release.join("truename");
        namespace::run("strip", &["-o", text(&stripped)?, text(program)?])?;
        for license in ["LICENSE-APACHE", "LICENSE-MIT"] {
            let from = repository.join(license);
            fs::copy(&from, context.join(license))
                .with_context(|| format!("copy {}", from.display()))?;
        }
        let mut build = self.docker();
        build
            .arg("build")
            .arg("--file")
            .arg(repository.join("deploy/docker/Dockerfile"))
            .args(["--build-arg", "BINARY=prebuilt", "--tag", image])
            .arg(&context);
        done(build).map(drop)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // What fails here is swept by the next run.
        self.daemon = None;
        cleanup::remove_cgroups(&self.name);
        if self.made_etc {
            let _ = fs::remove_dir(ETC);
        }
    }
}

/// Runs a command to its end and gives back what it printed.
///
/// # Errors
/// It cannot be started or fails.
pub fn done(mut command: Command) -> Result<String> {
    let program = command.get_program().to_owned();
    let program = program.display();
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().with_context(|| format!("run {program}"))?;
    let (said, wrong) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    let arguments: Vec<_> = command
        .get_args()
        .map(|argument| argument.to_string_lossy())
        .collect();
    ensure!(
        status.success(),
        "{program} {}: {status}: {said}{wrong}",
        arguments.join(" ")
    );
    Ok(said.into_owned())
}

/// Makes a root file system of this host's files: a shell, and the libraries of a program.
///
/// # Errors
/// Something is missing.
pub fn minimal_root(root: &Path, program: &Path) -> Result<()> {
    for directory in ["bin", "tmp", "etc", "run", "proc", "sys"] {
        let path = root.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let busybox = std::env::split_paths(&path)
        .map(|directory| directory.join("busybox"))
        .find(|file| file.is_file())
        .context("busybox is missing: run `cargo xtask setup`")?;
    fs::copy(&busybox, root.join("bin/busybox")).context("copy busybox")?;
    for name in ["sh", "cat"] {
        symlink("busybox", root.join("bin").join(name)).context("make a shell")?;
    }
    let libraries = namespace::run("ldd", &[text(program)?])?;
    for library in libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let to = root.join(library.trim_start_matches('/'));
        let directory = to.parent().context("a directory")?;
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        fs::copy(library, &to).with_context(|| format!("copy {library}"))?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
