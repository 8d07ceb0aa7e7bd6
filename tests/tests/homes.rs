//! The places that truename runs in: what their files promise, and that the agent works with no more.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use truename::config::DEFAULT_METRICS;
use truename_tests::{
    scratch::Scratch,
    traffic::{Dial, Lab, Pace},
    truename::{Truename, binary},
    wire::{Names, Spec},
};

/// The capabilities that every home gives, as `setpriv` writes them.
const CAPABILITIES: [&str; 3] = ["bpf", "net_admin", "perfmon"];
const SOON: Duration = Duration::from_secs(10);

fn deploy(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// A bounding set of these capabilities and no others, from which a process cannot gain any.
fn with_only(capabilities: &[&str]) -> Vec<String> {
    let added: String = capabilities
        .iter()
        .map(|name| format!(",+{name}"))
        .collect();
    [
        "setpriv",
        "--no-new-privs",
        "--inh-caps=-all",
        "--ambient-caps=-all",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("--bounding-set=-all{added}")])
    .collect()
}

/// An agent that is not started yet, for the lab's endpoint.
fn prepared(lab: &Lab, scratch: &Scratch, launcher: &[String]) -> Result<Truename> {
    let endpoint = format!("pekko={}=jobmanager:6123", lab.address());
    let service = "tcp=10.99.0.1:81=10.99.0.1:8080";
    let arguments = [
        "--interface",
        "s0",
        "--endpoint",
        &endpoint,
        "--service",
        service,
    ];
    let arguments = arguments.map(str::to_owned).to_vec();
    let mut truename = Truename::prepared(binary()?, lab.server(), scratch, arguments)?;
    let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
    truename.launch_by(&launcher);
    Ok(truename)
}

#[test]
fn three_capabilities_are_enough_and_none_is_too_many() -> Result<()> {
    let lab = Lab::direct()?;
    let scratch = Scratch::new("homes")?;
    for missing in CAPABILITIES {
        let others: Vec<_> = CAPABILITIES
            .into_iter()
            .filter(|name| *name != missing)
            .collect();
        let mut truename = prepared(&lab, &scratch, &with_only(&others))?;
        let lacks = format!("the process lacks CAP_{}", missing.to_uppercase());
        truename.spawn_agent()?.wait_line(0, &[&lacks], SOON)?;
    }
    let mut truename = prepared(&lab, &scratch, &with_only(&CAPABILITIES))?;
    truename.start_agent()?;
    let agent = truename.agent()?;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    // BPF is 39, PERFMON 38, NET_ADMIN 12.
    ensure!(status.contains("CapEff:\t000000c000001000"), "{status}");
    for word in ["WARN", "ERROR"] {
        ensure!(agent.count_lines(0, &[word]) == 0, "it complains");
    }
    let connection = lab.connect(Dial::default())?;
    let spec = Spec::mixed(&Names::flink("jobmanager", "jm"), 1, 20);
    connection.exchange(&spec.script(), Pace::default())?;
    let mark = agent.mark();
    agent.hang_up()?;
    agent.wait_line(mark, &["The configuration is as it was"], SOON)?;
    let (status, code) = truename.status()?;
    ensure!(code == 0, "{status}");
    // Another agent takes over, and everything can be removed, with no more.
    truename.stop_agent()?;
    truename.start_agent()?;
    truename.agent()?.wait_line(0, &["Took over"], SOON)?;
    let before = fs::read_dir(truename.bpffs())?.count();
    truename.detach()?;
    let left: Vec<_> = fs::read_dir(truename.bpffs())
        .into_iter()
        .flatten()
        .collect();
    ensure!(before > 0 && left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn the_service_manager_is_told() -> Result<()> {
    let lab = Lab::direct()?;
    let scratch = Scratch::new("homes")?;
    let path = scratch.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(Duration::from_secs(30)))?;
    let next = || -> Result<String> {
        let mut message = [0; 4096];
        let length = manager.recv(&mut message).context("hear from the agent")?;
        Ok(String::from_utf8_lossy(&message[..length]).into_owned())
    };
    // What was said before the next one that contains this.
    let until = |word: &str| -> Result<Vec<String>> {
        let mut before = Vec::new();
        loop {
            let message = next()?;
            if message.lines().any(|line| line.starts_with(word)) {
                before.push(message);
                return Ok(before);
            }
            before.push(message);
        }
    };
    let mut truename = prepared(&lab, &scratch, &[])?;
    truename.set_variable("NOTIFY_SOCKET", &path);
    truename.set_variable("WATCHDOG_USEC", "400000");
    let begin = Instant::now();
    truename.start_agent()?;
    println!("start to ready: {:?}", begin.elapsed());
    let first = next()?;
    ensure!(
        first.contains("READY=1\n") && first.contains("STATUS=Translating for 1 endpoint(s)"),
        "{first}"
    );
    // Every 200 ms: six within two seconds is slow enough for a busy machine.
    let begin = Instant::now();
    for _ in 0..6 {
        until("WATCHDOG=1")?;
    }
    ensure!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    truename.agent()?.hang_up()?;
    let reloading = until("RELOADING=1")?;
    let reloading = reloading.last().context("a message")?;
    ensure!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    until("READY=1")?;
    let ended = truename.stop_agent()?;
    ensure!(ended.success(), "{ended}");
    until("STOPPING=1").map(drop)
}

#[test]
fn the_unit_is_valid() -> Result<()> {
    let unit = deploy("systemd/truename.service")?;
    let scratch = Scratch::new("homes")?;
    // It names an installed binary; the one under test stands for it.
    let here = unit.replace("/usr/bin/truename", &binary()?.display().to_string());
    let file = scratch.write("truename.service", &here)?;
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&file)
        .output()
        .context("run systemd-analyze")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{said}");
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&file)
        .output()
        .context("run systemd-analyze")?;
    let security = String::from_utf8_lossy(&security.stdout);
    println!("{}", security.lines().last().unwrap_or_default());
    for line in [
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "ExecStartPre=/usr/bin/truename config check /etc/truename/truename.toml",
        "CapabilityBoundingSet=CAP_BPF CAP_PERFMON CAP_NET_ADMIN",
        "NoNewPrivileges=yes",
        "RestartPreventExitStatus=2",
        // An interface that comes late is no reason to give up.
        "StartLimitIntervalSec=0",
    ] {
        ensure!(
            unit.lines().any(|present| present == line),
            "{line} is missing"
        );
    }
    // They would make the BPF file system or the loopback switches read-only, or hide the interfaces.
    for key in [
        "ProtectKernelTunables",
        "PrivateNetwork",
        "PrivateUsers",
        "PrivateMounts",
    ] {
        ensure!(
            !unit.contains(&format!("\n{key}=")),
            "{key} does not go with truename"
        );
    }
    Ok(())
}

/// The objects of the manifest.
fn objects() -> Result<Vec<Value>> {
    manifest("truename.yaml")
}

fn manifest(name: &str) -> Result<Vec<Value>> {
    let text = deploy(&format!("kubernetes/{name}"))?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).context("read the manifest")?;
    Ok(objects)
}

fn object<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    found.next().with_context(|| format!("there is no {kind}"))
}

#[test]
fn the_daemon_set_asks_for_no_more_than_it_needs() -> Result<()> {
    let objects = objects()?;
    let set = object(&objects, "DaemonSet")?;
    ensure!(set["apiVersion"] == "apps/v1", "{set}");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    ensure!(
        *labels == set["spec"]["selector"]["matchLabels"],
        "{labels}"
    );
    let pod = &set["spec"]["template"]["spec"];
    ensure!(pod["hostNetwork"] == true);
    for other in ["hostPID", "hostIPC", "initContainers"] {
        ensure!(pod[other].is_null(), "{other}");
    }
    ensure!(pod["automountServiceAccountToken"] == false);
    let account = object(&objects, "ServiceAccount")?;
    ensure!(account["automountServiceAccountToken"] == false);
    ensure!(pod["serviceAccountName"] == account["metadata"]["name"]);
    let containers = pod["containers"].as_array().context("containers")?;
    ensure!(containers.len() == 1);
    let container = &containers[0];
    let context = &container["securityContext"];
    ensure!(context["privileged"] == false && context["allowPrivilegeEscalation"] == false);
    ensure!(context["readOnlyRootFilesystem"] == true);
    ensure!(context["capabilities"]["drop"] == serde_json::json!(["ALL"]));
    let mut added: Vec<String> = serde_json::from_value(context["capabilities"]["add"].clone())?;
    added.sort();
    ensure!(added == CAPABILITIES.map(str::to_uppercase), "{added:?}");
    let mounts = container["volumeMounts"].as_array().context("mounts")?;
    let volumes = pod["volumes"].as_array().context("volumes")?;
    for (path, host) in [
        ("/sys/fs/bpf", Some("/sys/fs/bpf")),
        ("/run/truename", Some("/run/truename")),
        ("/etc/truename", None),
    ] {
        let mount = mounts.iter().find(|mount| mount["mountPath"] == path);
        let mount = mount.with_context(|| format!("{path} is not mounted"))?;
        // Changes do not reach a subPath.
        ensure!(mount["subPath"].is_null());
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"]);
        let volume = volume.context("a volume is missing")?;
        match host {
            Some(host) => ensure!(volume["hostPath"]["path"] == host, "{volume}"),
            None => ensure!(
                volume["configMap"]["name"] == object(&objects, "ConfigMap")?["metadata"]["name"]
            ),
        }
    }
    ensure!(mounts.len() == 3 && volumes.len() == 3);
    Ok(())
}

#[test]
fn what_detaches_has_the_rights_of_the_agent() -> Result<()> {
    let agent = objects()?;
    let agent = &object(&agent, "DaemonSet")?["spec"]["template"]["spec"];
    let objects = manifest("detach.yaml")?;
    let pod = &object(&objects, "DaemonSet")?["spec"]["template"]["spec"];
    ensure!(pod["hostNetwork"] == true && pod["tolerations"] == agent["tolerations"]);
    ensure!(
        pod["affinity"]["nodeAffinity"] == agent["affinity"]["nodeAffinity"],
        "it goes to other nodes"
    );
    let (detach, run) = (&pod["initContainers"][0], &agent["containers"][0]);
    ensure!(detach["args"] == serde_json::json!(["detach"]));
    ensure!(detach["image"] == run["image"]);
    ensure!(detach["securityContext"] == run["securityContext"]);
    let mounts = detach["volumeMounts"].as_array().context("mounts")?;
    ensure!(mounts.len() == 1 && mounts[0]["mountPath"] == "/sys/fs/bpf");
    Ok(())
}

#[test]
fn leader_records_may_be_listed_and_no_more() -> Result<()> {
    let objects = manifest("leader-records.yaml")?;
    // Beside them the objects of truename.yaml.
    ensure!(objects.len() == 6, "{objects:?}");
    let (role, binding) = (object(&objects, "Role")?, object(&objects, "RoleBinding")?);
    ensure!(
        role["rules"]
            == serde_json::json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}])
    );
    ensure!(binding["roleRef"]["kind"] == "Role");
    ensure!(binding["roleRef"]["name"] == role["metadata"]["name"]);
    ensure!(binding["metadata"]["namespace"] == role["metadata"]["namespace"]);
    let agent = self::objects()?;
    let account = &object(&agent, "ServiceAccount")?["metadata"];
    let (name, namespace) = (&account["name"], &account["namespace"]);
    ensure!(
        binding["subjects"]
            == serde_json::json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}])
    );
    Ok(())
}

/// What a probe, run with a `truename` that exits with a code, makes of it.
fn probed(command: &[String], exit: i32) -> Result<bool> {
    let scratch = Scratch::new("homes")?;
    let stub = scratch.write("truename", &format!("#!/bin/sh\nexit {exit}\n"))?;
    fs::set_permissions(&stub, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let (program, arguments) = command.split_first().context("a command")?;
    let status = Command::new(program)
        .args(arguments)
        .env("PATH", scratch.path())
        .status()?;
    Ok(status.success())
}

#[test]
fn the_image_asks_for_no_more_than_it_needs() -> Result<()> {
    let file = deploy("docker/Dockerfile")?;
    let words: Vec<&str> = file.split_whitespace().collect();
    let mut added: Vec<String> = words
        .windows(2)
        .filter(|pair| pair[0] == "--cap-add")
        .map(|pair| pair[1].to_lowercase())
        .collect();
    added.sort();
    ensure!(added == CAPABILITIES, "{added:?}");
    let (_, check) = file
        .split_once("\nHEALTHCHECK ")
        .context("no HEALTHCHECK")?;
    let command = check
        .lines()
        .next()
        .and_then(|line| line.split_once("CMD "));
    let command: Vec<String> = serde_json::from_str(command.context("a command")?.1)?;
    for (exit, good) in [(0, true), (3, true), (1, false), (127, false)] {
        ensure!(probed(&command, exit)? == good, "{exit} is taken wrongly");
    }
    Ok(())
}

#[test]
fn the_probes_ask_where_the_agent_answers() -> Result<()> {
    let objects = objects()?;
    let container = &object(&objects, "DaemonSet")?["spec"]["template"]["spec"]["containers"][0];
    let text = &object(&objects, "ConfigMap")?["data"]["truename.toml"];
    let metrics = format!("metrics = \"{DEFAULT_METRICS}\"");
    ensure!(
        text.as_str().is_some_and(|text| text.contains(&metrics)),
        "another address: {text}"
    );
    let (host, port) = (DEFAULT_METRICS.ip().to_string(), DEFAULT_METRICS.port());
    // Its answers are tested where health is.
    for (probe, path) in [
        ("startupProbe", "/startupz"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ] {
        let asked = &container[probe]["httpGet"];
        ensure!(
            *asked == serde_json::json!({"host": host, "port": port, "path": path}),
            "{probe}: {asked}"
        );
        ensure!(container[probe]["exec"].is_null(), "{probe}");
    }
    Ok(())
}

#[test]
fn the_configuration_in_the_manifest_is_valid() -> Result<()> {
    let objects = objects()?;
    let text = &object(&objects, "ConfigMap")?["data"]["truename.toml"];
    let scratch = Scratch::new("homes")?;
    let file = scratch.write("truename.toml", text.as_str().context("a text")?)?;
    let output = Command::new(binary()?)
        .args(["config", "check", "--file-only"])
        .arg(file)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("2 endpoint(s)"),
        "{output:?}"
    );
    Ok(())
}

#[test]
fn the_package_stops_nothing_on_an_upgrade_and_leaves_nothing_on_removal() -> Result<()> {
    let scratch = Scratch::new("homes")?;
    // In the place of the programs that the scripts call.
    for name in ["truename", "systemctl"] {
        let stub = scratch.write(name, &format!("#!/bin/sh\necho {name} \"$@\"\n"))?;
        fs::set_permissions(&stub, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let says = |script: &str, arguments: &[&str]| -> Result<String> {
        let file = scratch.write(script, &deploy(&format!("deb/{script}"))?)?;
        let output = Command::new("/bin/sh")
            .arg(file)
            .args(arguments)
            .env("PATH", scratch.path())
            .output()?;
        ensure!(
            output.status.success(),
            "{script} {arguments:?}: {output:?}"
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    ensure!(says("prerm", &["upgrade", "0.2"])?.is_empty());
    ensure!(
        says("postrm", &["upgrade", "0.2"])?
            .lines()
            .all(|line| line == "systemctl daemon-reload")
    );
    let removal = says("prerm", &["remove"])?;
    ensure!(removal.ends_with("truename detach\n"), "{removal}");
    let configured = says("postinst", &["configure", "0.1"])?;
    let restarts = |line: &str| line == "systemctl try-restart truename.service";
    let reloads = |line: &str| line == "systemctl daemon-reload";
    ensure!(
        configured
            .lines()
            .all(|line| restarts(line) || reloads(line)),
        "{configured}"
    );

    // With one of its examples it can start.
    let example = deploy("deb/truename.toml")?;
    let uncommented: Vec<&str> = example
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .collect();
    let file = scratch.write("truename.toml", &uncommented.join("\n"))?;
    let output = Command::new(binary()?)
        .args(["config", "check", "--file-only"])
        .arg(file)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
