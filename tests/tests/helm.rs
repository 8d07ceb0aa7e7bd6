//! The Helm chart, the manifests rendered from it and the kustomization, with the real programs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use truename::config::DEFAULT_METRICS;
use truename_tests::{
    helm::{MANIFESTS, chart, deploy, helm, kustomize, render, said, validate},
    scratch::Scratch,
    truename::binary,
};

/// Values that change as much as possible, without leader records in Kubernetes: those need another build of the agent.
const MUCH: &[&str] = &[
    "cluster={http://10.0.0.11:8081,zookeeper://10.0.0.1:2181/flink/default}",
    "frontend={*}",
    "interfaces={eth0,veth*}",
    "relay.enabled=true",
    "image.pullPolicy=Always",
    "imagePullSecrets={registry}",
    "metrics.address=0.0.0.0",
    "metrics.port=9500",
    "serviceMonitor.enabled=true",
    "serviceMonitor.labels.release=prometheus",
    "podAnnotations.a=b",
    "maxUnavailable=10%",
    "nodeFeatureDiscovery=true",
    "nodeExpressions[0].key=truename",
    "nodeExpressions[0].operator=Exists",
    "detach.nodes={node-1,node-2.example.org}",
    "config.agent.log=debug",
    "config.datapath.max_flows=16777216",
    "config.datapath.timeouts.udp=40s",
    "config.endpoint[0].name=jobmanager",
    "config.endpoint[0].protocol=pekko",
    "config.endpoint[0].listen=10.0.0.1:6123",
    "config.endpoint[0].aliases={localhost:6123,jm.example.org:6123}",
    "config.service[0].name=rest",
    "config.service[0].protocol=tcp",
    "config.service[0].listen=10.0.0.10:80",
    "config.service[0].target[0].address=10.0.0.1:8081",
    "config.service[0].target[0].weight=3",
    "config.relay.memory=512",
];
const RECORDS: &[&str] =
    &["cluster={kubernetes://flink/a,kubernetes://flink/b,kubernetes://other/c}"];

fn objects(text: &str) -> Result<Vec<Value>> {
    let mut objects: Vec<Value> =
        serde_saphyr::from_multiple(text).with_context(|| format!("read {text}"))?;
    objects.retain(|object| !object.is_null());
    objects.sort_by_key(|object| {
        let metadata = &object["metadata"];
        [&object["kind"], &metadata["namespace"], &metadata["name"]].map(ToString::to_string)
    });
    Ok(objects)
}

fn kinds<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects
        .iter()
        .filter(|object| object["kind"] == kind)
        .collect()
}

/// The only object of a kind that the chart makes of values.
fn object(values: &[&str], kind: &str) -> Result<Value> {
    let objects = objects(&render(values)?)?;
    let found = kinds(&objects, kind);
    ensure!(found.len() == 1, "{kind}: {found:?}");
    Ok(found[0].clone())
}

fn pod(values: &[&str]) -> Result<Value> {
    Ok(object(values, "DaemonSet")?["spec"]["template"]["spec"].clone())
}

/// The fields in which two values differ.
fn differences(place: &str, left: &Value, right: &Value) -> Vec<String> {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => a
            .keys()
            .chain(b.keys().filter(|key| !a.contains_key(*key)))
            .flat_map(|key| differences(&format!("{place}.{key}"), &left[key], &right[key]))
            .collect(),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .flat_map(|(at, (a, b))| differences(&format!("{place}[{at}]"), a, b))
            .collect(),
        _ if left == right => Vec::new(),
        _ => vec![format!("{place}: {left} and {right}")],
    }
}

#[test]
fn differences_are_found_in_every_depth() {
    let left = json!({"a": [{"b": 1, "c": 2}], "d": 1});
    let right = json!({"a": [{"b": 1, "c": 3}], "e": 1});
    let found = differences("", &left, &right);
    let expected = [".a[0].c: 2 and 3", ".d: 1 and null", ".e: null and 1"];
    assert_eq!(found, expected);
}

#[test]
fn helm_finds_nothing_to_complain_about() -> Result<()> {
    for values in [&[][..], MUCH, RECORDS, &["detach.enabled=true"]] {
        let mut lint = helm(&["lint", "--strict", "--quiet"])?;
        lint.arg(chart());
        for value in values {
            lint.args(["--set", value]);
        }
        said(lint)?;
    }
    Ok(())
}

#[test]
fn the_manifests_are_what_the_chart_renders() -> Result<()> {
    for manifest in MANIFESTS {
        let path = deploy().join("kubernetes").join(manifest.name);
        ensure!(
            fs::read_to_string(&path)? == manifest.text()?,
            "{} is not what the chart renders; run: cargo xtask manifests",
            manifest.name
        );
    }
    Ok(())
}

#[test]
fn kustomize_makes_the_same_objects_field_by_field() -> Result<()> {
    let cluster = [
        "namespace.create=true",
        "image.repository=registry.example.org/truename",
        "image.tag=0.1.0",
        "cluster={http://10.0.0.11:8081}",
        "frontend={*}",
    ];
    for (directory, values) in [
        ("kubernetes", &["namespace.create=true"][..]),
        ("kustomize/cluster", &cluster),
    ] {
        let (by_helm, by_kustomize) =
            (objects(&render(values)?)?, objects(&kustomize(directory)?)?);
        ensure!(by_helm.len() == 4, "{by_helm:?}");
        let different = differences("", &json!(by_helm), &json!(by_kustomize));
        ensure!(different.is_empty(), "{directory}: {different:#?}");
    }
    Ok(())
}

#[test]
fn all_objects_fit_the_schemas_of_kubernetes() -> Result<()> {
    let scratch = Scratch::new("helm")?;
    let mut files = Vec::new();
    let mut number = 0;
    for (at, values) in [&[][..], MUCH, RECORDS, &["detach.enabled=true"]]
        .into_iter()
        .enumerate()
    {
        // The operator of Prometheus defines its own kind.
        let rendered: Vec<Value> = objects(&render(values)?)?
            .into_iter()
            .filter(|object| object["kind"] != "ServiceMonitor")
            .collect();
        for object in rendered {
            files.push(scratch.write(&format!("{at}-{number}.yaml"), &object.to_string())?);
            number += 1;
        }
    }
    files.push(scratch.write("kustomize.yaml", &kustomize("kustomize/cluster")?)?);
    files.extend(MANIFESTS.map(|manifest| deploy().join("kubernetes").join(manifest.name)));
    let passed = validate(&files)?.matches(" passed ").count();
    // Kustomize makes four, the three manifests 4, 6 and 2.
    ensure!(passed == number + 16, "{passed} of {number}");

    let broken = render(&[])?.replace("readOnlyRootFilesystem", "readOnlyRoot");
    let refused = validate(&[scratch.write("broken.yaml", &broken)?]);
    let refused = format!("{:#}", refused.err().context("it is accepted")?);
    ensure!(refused.contains("readOnlyRoot"), "{refused}");
    Ok(())
}

/// What the agent says of a configuration.
fn check(file: &Path) -> Result<String> {
    let mut check = Command::new(binary()?);
    check.args(["config", "check", "--file-only"]).arg(file);
    said(check)
}

#[test]
fn the_agent_takes_the_configuration() -> Result<()> {
    let scratch = Scratch::new("helm")?;
    let configuration = |values: &[&str]| -> Result<String> {
        let map = object(values, "ConfigMap")?;
        let text = map["data"]["truename.toml"].as_str();
        Ok(text.context("a file")?.to_owned())
    };
    for values in [&[][..], MUCH] {
        check(&scratch.write("truename.toml", &configuration(values)?)?)?;
    }
    let text = configuration(&[])?;
    for line in [
        "interfaces = [\"auto\"]".to_owned(),
        format!("metrics = \"{DEFAULT_METRICS}\""),
        "listen = \"*:6123\"".to_owned(),
        "listen = \"*:6122\"".to_owned(),
    ] {
        ensure!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    // Endpoints follow from the cluster.
    let text = configuration(&["cluster={http://10.0.0.11:8081}"])?;
    ensure!(!text.contains("[[endpoint]]"), "{text}");
    // Numbers are integers, in every depth.
    let text = configuration(MUCH)?;
    for line in ["max_flows = 16777216", "weight = 3", "memory = 512"] {
        ensure!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    // What the schema leaves to the agent.
    let wrong = configuration(&["config.datapath.max_flow=1"])?;
    let refused = check(&scratch.write("wrong.toml", &wrong)?);
    let refused = format!("{:#}", refused.err().context("it is accepted")?);
    ensure!(refused.contains("did you mean"), "{refused}");
    Ok(())
}

#[test]
fn rights_come_with_what_needs_them() -> Result<()> {
    let plain = objects(&render(&[])?)?;
    for kind in [
        "Role",
        "RoleBinding",
        "Service",
        "ServiceMonitor",
        "Job",
        "Namespace",
    ] {
        ensure!(kinds(&plain, kind).is_empty(), "{kind}");
    }
    ensure!(pod(&[])?["hostPID"].is_null());
    // Leader records: a role in each namespace, and a token.
    let records = objects(&render(RECORDS)?)?;
    let namespaces = |kind| -> Vec<&Value> {
        let found = kinds(&records, kind);
        found
            .iter()
            .map(|object| &object["metadata"]["namespace"])
            .collect()
    };
    for kind in ["Role", "RoleBinding"] {
        ensure!(namespaces(kind) == ["flink", "other"], "{kind}");
    }
    ensure!(pod(RECORDS)?["automountServiceAccountToken"] == true);
    ensure!(object(RECORDS, "ServiceAccount")?["automountServiceAccountToken"] == true);
    // The relay enters namespaces of containers.
    let much = pod(MUCH)?;
    ensure!(much["hostPID"] == true && much["automountServiceAccountToken"] == false);
    let capabilities = &much["containers"][0]["securityContext"]["capabilities"];
    let expected =
        json!({"drop": ["ALL"], "add": ["BPF", "PERFMON", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]});
    ensure!(*capabilities == expected, "{capabilities}");
    Ok(())
}

#[test]
fn the_kubelet_asks_where_the_agent_listens() -> Result<()> {
    for (address, host) in [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("[::]", "::1"),
        ("[fd00::1]", "fd00::1"),
        ("10.0.0.1", "10.0.0.1"),
    ] {
        let pod = pod(&[&format!("metrics.address={address}"), "metrics.port=9500"])?;
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let get = &pod["containers"][0][probe]["httpGet"];
            ensure!(
                get["host"] == host && get["port"] == 9500,
                "{address}: {get}"
            );
        }
    }
    Ok(())
}

#[test]
fn nodes_are_chosen_by_kernel_and_architecture() -> Result<()> {
    let affinity = |pod: &Value| {
        pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone()
    };
    let terms = affinity(&pod(MUCH)?);
    let of = |minor: &[Value]| {
        let mut all = vec![
            json!({"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}),
            json!({"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}),
        ];
        all.extend_from_slice(minor);
        all.push(json!({"key": "truename", "operator": "Exists"}));
        all.push(json!({"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node-1", "node-2.example.org"]}));
        json!({"matchExpressions": all})
    };
    let label = |part: &str, operator: &str, value: &str| {
        let key = format!("feature.node.kubernetes.io/kernel-version.{part}");
        json!({"key": key, "operator": operator, "values": [value]})
    };
    let expected = json!([
        of(&[label("major", "Gt", "6")]),
        of(&[label("major", "In", "6"), label("minor", "Gt", "0")]),
    ]);
    ensure!(terms == expected, "{terms}");
    Ok(())
}

#[test]
fn a_job_detaches_from_a_node_after_its_agent_has_ended() -> Result<()> {
    let objects = objects(&render(MUCH)?)?;
    let agent = pod(MUCH)?;
    let jobs = kinds(&objects, "Job");
    ensure!(jobs.len() == 2 && jobs[0]["metadata"]["name"] != jobs[1]["metadata"]["name"]);
    let mut nodes = Vec::new();
    for job in jobs {
        let pod = &job["spec"]["template"]["spec"];
        ensure!(pod["restartPolicy"] == "OnFailure" && pod["hostNetwork"] == true);
        ensure!(pod["tolerations"] == agent["tolerations"]);
        let affinity = &pod["affinity"];
        let node = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
            [0]["matchExpressions"][0];
        ensure!(node["key"] == "kubernetes.io/hostname" && node["operator"] == "In");
        nodes.push(node["values"][0].clone());
        let apart =
            &affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
        ensure!(
            *apart
                == json!({"topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "truename"}}}),
            "{apart}"
        );
        let container = &pod["containers"][0];
        ensure!(container["args"] == json!(["detach"]));
        let context = &container["securityContext"];
        ensure!(
            *context == self::pod(&[])?["containers"][0]["securityContext"],
            "{context}"
        );
    }
    nodes.sort_by_key(ToString::to_string);
    ensure!(nodes == ["node-1", "node-2.example.org"]);
    // Another image is another Job: a Job cannot be changed.
    let name = |tag: &str| -> Result<Value> {
        let job = object(
            &["detach.nodes={node-1}", &format!("image.tag={tag}")],
            "Job",
        )?;
        Ok(job["metadata"]["name"].clone())
    };
    ensure!(name("a")? != name("b")? && name("a")? == name("a")?);
    Ok(())
}

#[test]
fn bad_values_are_refused_with_their_place() -> Result<()> {
    for (value, place) in [
        ("clusters=x", "additional properties 'clusters' not allowed"),
        ("cluster={ftp://x}", "/cluster/0"),
        ("cluster={kubernetes://flink}", "/cluster/0"),
        ("interfaces=null", "missing property 'interfaces'"),
        ("interfaces=eth0", "/interfaces"),
        ("relay.enabled=perhaps", "/relay/enabled"),
        ("metrics.port=0", "/metrics/port"),
        ("metrics.address=localhost", "/metrics/address"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.tag=a b", "/image/tag"),
        ("resources.limits.memory=much", "/resources/limits/memory"),
        ("maxUnavailable=0", "/maxUnavailable"),
        ("architectures={sparc}", "/architectures/0"),
        ("detach.nodes={A_b}", "/detach/nodes/0"),
        ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
        (
            "config.agents.log=debug",
            "additional properties 'agents' not allowed",
        ),
        // They have another place, on which the pod depends.
        ("config.agent.metrics=x", "/config/agent/metrics"),
        ("config.agent.bpffs=/x", "/config/agent/bpffs"),
        ("config.relay.enabled=true", "/config/relay/enabled"),
        ("config.topology.ha=kubernetes", "/config/topology/ha"),
        // Prometheus is not on the node.
        ("serviceMonitor.enabled=true", "set it to 0.0.0.0"),
    ] {
        let refused = render(&[value]);
        let refused = format!(
            "{:#}",
            refused
                .err()
                .with_context(|| format!("{value} is accepted"))?
        );
        ensure!(refused.contains(place), "{value}: {refused}");
    }
    Ok(())
}
