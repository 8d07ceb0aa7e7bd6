//! The binary's contract with scripts: exit codes, one line for a mistake, stable output; and what documents say of it.
//! Nothing here needs the kernel program.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use truename::discovery::sources::file::File;

fn truename(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_truename"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The first example of a configuration in a document.
fn example(document: &str) -> String {
    let text = fs::read_to_string(repository().join(document)).unwrap();
    let (_, rest) = text.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// The example in the manual.
fn documented() -> String {
    example("docs/configuration.md")
}

#[test]
fn the_example_for_newcomers_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("truename.toml");
    fs::write(&path, example("README.md")).unwrap();
    let checked = truename(&["config", "check", "--file-only", path.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    assert!(stdout(&checked).ends_with("is valid: 0 endpoint(s), 1 service(s)\n"));
}

#[test]
fn the_documented_example_is_valid_and_shown_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("truename.toml");
    fs::write(&path, documented()).unwrap();
    let path = path.to_str().unwrap();
    let checked = truename(&["config", "check", "--file-only", path]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    assert_eq!(stderr(&checked), "");
    assert!(stdout(&checked).ends_with("is valid: 2 endpoint(s), 3 service(s)\n"));
    let json = truename(&["config", "check", "--file-only", path, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&json["file"], &json["services"]),
        (&path.into(), &3.into())
    );

    let shown = truename(&["config", "show", "--config", path]);
    let without_comments = |text: &str| -> toml::Table { text.parse().unwrap() };
    let mut expected = without_comments(&documented());
    // The defaults are shown, too.
    for (kind, index, key, value) in [
        ("endpoint", 1, "aliases", "any"),
        ("service", 0, "snat", "auto"),
        ("service", 0, "on_change", "drain"),
        ("service", 2, "snat", "auto"),
        ("service", 2, "on_change", "reset"),
    ] {
        let table = expected[kind][index].as_table_mut().unwrap();
        table.insert(key.to_owned(), value.into());
    }
    assert_eq!(without_comments(&stdout(&shown)), expected);

    let json = truename(&["config", "show", "--config", path, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["endpoint"][0]["canonical"], "jobmanager:6123");
}

#[test]
fn every_key_is_documented() {
    let text = documented();
    for key in [
        "control_socket",
        "bpffs",
        "log",
        "interfaces",
        "max_rpc_flows",
        "max_flows",
        "snat_ports",
        "when_full",
        "xdp",
        "established",
        "target",
        "snat",
        "on_change",
    ] {
        assert!(text.contains(&format!("\n{key} = ")), "{key}");
    }
}

#[test]
fn mistakes_are_one_line_and_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    fs::write(&path, "[agent]\nbpfs = \"/x\"\n").unwrap();
    let path = path.to_str().unwrap();
    for arguments in [
        &["run", "--config", path][..],
        &["config", "check", path],
        &["config", "check", "/does/not/exist.toml"],
        &["config", "show", "--config", "/does/not/exist.toml"],
    ] {
        let output = truename(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let message = stderr(&output);
        assert!(message.starts_with("truename: "), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    // Whoever asks an agent needs its socket, and nothing else of the file.
    fs::write(path, "[agent]\ncontrol_socket = \"/nowhere/s\"\nbpfs = 1\n").unwrap();
    for verb in ["status", "flows", "services"] {
        let output = truename(&[verb, "--config", path]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
        let message = stderr(&output);
        assert!(
            message.contains("no agent is running at /nowhere/s"),
            "{message}"
        );
    }
    let akka = truename(&["run", "--endpoint", "akka=10.0.0.1:1"]);
    assert!(
        stderr(&akka).contains("write \"pekko\""),
        "{}",
        stderr(&akka)
    );
    for arguments in [
        &["run", "--endpoint", "pekko=host:1"][..],
        &["nonsense"],
        &["flows", "-o", "x"],
    ] {
        assert_eq!(truename(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

/// What is written where something else is wanted is told for what it is, and no password of it is shown.
#[test]
fn mistakes_are_told_for_what_they_are() {
    const SERVICE: &str =
        "[[service]]\nname = \"s\"\nprotocol = \"tcp\"\nlisten = \"127.0.0.1:80\"\n";
    const ENDPOINT: &str =
        "[[endpoint]]\nname = \"e\"\nprotocol = \"pekko\"\nlisten = \"127.0.0.1:6123\"\n";
    const ZOOKEEPER: &str = "[topology]\nha = \"zookeeper\"\n[topology.zookeeper]\n";
    const FLINK: &str = "[topology]\nsource = \"flink\"\n";
    const ALONE: &str = "only its host:port is wanted";
    const LIST: &str = "write a list of one each";
    const USER: &str = "user names are not used";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("truename.toml");
    let path = file.to_str().unwrap();
    for (section, line, said) in [
        (SERVICE, "target = \"db.example.org:5432\"", None),
        (SERVICE, "target = \"zk1:2181,zk2:2181\"", Some(LIST)),
        (SERVICE, "target = \"http://u:secret@h:80\"", Some(ALONE)),
        (SERVICE, "target = \"u:secret@h:80\"", Some(ALONE)),
        (
            ENDPOINT,
            "canonical = \"pekko.tcp://flink@jm:6123\"",
            Some(ALONE),
        ),
        (
            ENDPOINT,
            "canonical = \"jm1:6123,jm2:6123\"",
            Some("these are several"),
        ),
        (
            ENDPOINT,
            "aliases = [\"akka.tcp://flink@jm:6123/user\"]",
            Some(ALONE),
        ),
        (ZOOKEEPER, "quorum = [\"zk1:2181,zk2:2181\"]", Some(LIST)),
        (ZOOKEEPER, "quorum = [\"u:secret@zk1:2181\"]", Some(ALONE)),
        (FLINK, "urls = [\"http://u:secret@jm:8081\"]", Some(USER)),
        (
            FLINK,
            "urls = [\"ftp://u:secret@jm:21\"]",
            Some("must begin with http"),
        ),
        (
            FLINK,
            "urls = [\"http://u:secret@jm:8081\"",
            Some("this is not TOML"),
        ),
        (
            "[topology]\n",
            "cluster = [\"http://u:secret@jm:8081\"]",
            Some(USER),
        ),
        (
            "[topology]\n",
            "cluster = [\"zookeeper://u:secret@zk1:2181/flink\"]",
            Some(ALONE),
        ),
    ] {
        fs::write(&file, format!("{section}{line}\n")).unwrap();
        let output = truename(&["config", "check", path]);
        let message = stderr(&output);
        assert_eq!(
            output.status.code(),
            Some(said.map_or(0, |_| 2)),
            "{line}: {message}"
        );
        assert!(
            message.contains(said.unwrap_or_default()),
            "{line}: {message}"
        );
        assert!(!message.contains("secret"), "{line}: {message}");
    }
    for (flag, value, said) in [
        ("--service", "tcp=10.0.0.10:80=http://u:secret@h:80", ALONE),
        ("--service", "tcp=10.0.0.10:80=u:secret@h:80", ALONE),
        (
            "--endpoint",
            "pekko=10.0.0.1:6123=pekko.tcp://flink@jm:6123",
            ALONE,
        ),
        ("--cluster", "http://u:secret@jm:8081", USER),
        ("--cluster", "zookeeper://u:secret@zk1:2181/flink", ALONE),
    ] {
        let output = truename(&["run", flag, value]);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{value}: {message}");
        assert!(message.contains(said), "{value}: {message}");
        assert!(!message.contains("secret"), "{value}: {message}");
    }
}

#[test]
fn services_that_contradict_each_other_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("services.toml");
    let service = |name: &str, listen: &str, target: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"{listen}\"\ntarget = \"{target}\"\n"
        )
    };
    let first = service("a", "10.0.0.10:80", "10.0.0.1:80");
    for (second, words) in [
        (service("b", "*:80", "10.0.0.2:80"), "overlaps 10.0.0.10:80"),
        (
            service("b", "10.0.0.11:80", "10.0.0.10:80"),
            "is an alias of",
        ),
        (service("b", "10.0.0.11:80", "10.0.0.11:80"), "own alias"),
        (
            service("b", "10.0.0.11:80", "[fd00::1]:80"),
            "use one family",
        ),
        (
            service("b", "10.0.0.11:0", "10.0.0.1:80"),
            "from 1 to 65535",
        ),
        (
            service("b", "10.0.0.11:80", "worker:1:80"),
            "no source tells who has",
        ),
    ] {
        fs::write(&path, format!("{first}{second}")).unwrap();
        let path = path.to_str().unwrap();
        let output = truename(&["config", "check", path]);
        assert_eq!(output.status.code(), Some(2), "{second}");
        let message = stderr(&output);
        assert!(message.contains(words), "{message}");
        assert!(
            message.starts_with(&format!("truename: {path}:")),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    fs::write(&path, first).unwrap();
    let checked = truename(&["config", "check", "--file-only", path.to_str().unwrap()]);
    assert!(stdout(&checked).ends_with("is valid: 0 endpoint(s), 1 service(s)\n"));
    let output = truename(&["run", "--service", "tcp=*:81=127.0.0.1:81"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("own alias"), "{}", stderr(&output));
}

#[test]
fn without_an_agent_verbs_fail_with_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("c.sock");
    let socket = socket.to_str().unwrap();
    for verb in [
        "status",
        "endpoints",
        "aliases",
        "flows",
        "services",
        "peers",
        "topology",
        "names",
        "monitor",
    ] {
        let output = truename(&[verb, "--control-socket", socket]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
        let message = stderr(&output);
        assert!(message.contains("no agent is running at"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn top_needs_a_terminal() {
    let output = truename(&["top", "--control-socket", "/nowhere/s"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("status --watch"));
}

#[test]
fn completions_and_manual_pages_are_complete() {
    for shell in ["bash", "zsh", "fish"] {
        let output = truename(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("endpoints"), "{shell}");
    }
    assert!(stdout(&truename(&["man"])).contains("truename"));
    let directory = tempfile::tempdir().unwrap();
    let output = truename(&["man", "--out", directory.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(directory.path().join("truename-run.1").is_file());
}

#[test]
fn decode_prints_frames() {
    let path = repository().join("tests/fixtures/flink-2.3.0-alias-padded/c2s.before.bin");
    let path = path.to_str().unwrap();
    let output = truename(&[
        "decode",
        path,
        "--canonical",
        "jobmanager:6123",
        "-o",
        "jsonl",
    ]);
    let rows: Vec<serde_json::Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows[0]["kind"], "associate");
    assert!(
        rows.iter()
            .any(|row| row["rewrites"][0]["before"] == "pekko.tcp://flink@jm:6123")
    );
    let output = truename(&["decode", "/does/not/exist"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn doctor_reports_every_check() {
    let output = truename(&["doctor", "-o", "json"]);
    let checks: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = checks
        .iter()
        .filter_map(|check| check["check"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "kernel",
            "preemption",
            "btf",
            "capabilities",
            "tcx",
            "jit",
            "bpffs",
            "pins"
        ]
    );
    let worst = checks.iter().any(|check| check["verdict"] == "failure");
    assert_eq!(output.status.code() == Some(1), worst);
}

#[test]
fn every_counter_is_documented() {
    let text = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    for counter in truename_common::layout::Counter::ALL {
        let row = format!("| `{}` | ", counter.label());
        assert!(text.contains(&row), "docs/operations.md: {row}");
    }
}

#[test]
fn every_metric_and_path_of_health_is_documented() {
    let text = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let source = repository().join("agent/src/health/metrics.rs");
    let source = fs::read_to_string(source).unwrap();
    let registered = source.split("registry.register").skip(1);
    let mut count = 0;
    for call in registered {
        let name = call.split('"').nth(1).unwrap();
        assert!(
            text.contains(&format!("truename_{name}")),
            "docs/operations.md: truename_{name}"
        );
        count += 1;
    }
    assert!(count > 20, "{count}");
}

/// The documents: path in the repository, and text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for directory in ["", "docs", "docs/decisions"] {
        for entry in fs::read_dir(repository().join(directory)).unwrap() {
            let name = entry.unwrap().file_name();
            let path = Path::new(directory).join(name);
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(repository().join(&path)).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 20, "{}", found.len());
    found
}

/// The anchors of a document's headings, as forges make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let words = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let is_kept = |letter: &char| letter.is_alphanumeric() || "-_ ".contains(*letter);
    words
        .map(|words| words.chars().filter(is_kept).collect::<String>())
        .map(|words| words.replace(' ', "-"))
        .collect()
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut count = 0;
    for (path, text) in documents() {
        let links = text.split("](").skip(1);
        for link in links.filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = match file {
                "" => repository().join(&path),
                file => repository().join(&path).with_file_name(file),
            };
            assert!(file.exists(), "{}: {link}", path.display());
            let is_there = || anchors(&fs::read_to_string(&file).unwrap());
            assert!(
                anchor.is_empty() || is_there().iter().any(|known| known == anchor),
                "{}: {link}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

/// The pieces of configurations in a document: what is fenced as TOML, and indented code that begins with a section.
fn configurations(text: &str) -> Vec<String> {
    let fenced = text.split("```toml\n").skip(1);
    let mut found: Vec<_> = fenced
        .filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()))
        .collect();
    let mut block: Option<String> = None;
    for line in text.lines().chain([""]) {
        let code = line.trim_start_matches(' ');
        let is_code = line.starts_with("    ") || (block.is_some() && code.is_empty());
        let begins = is_code && block.is_none() && code.starts_with('[');
        // Those of systemd begin with a capital letter.
        if begins && code.trim_start_matches('[').starts_with(char::is_lowercase) {
            block = Some(String::new());
        }
        match (&mut block, is_code) {
            (Some(block), true) => *block += &format!("{code}\n"),
            (Some(_), false) => found.extend(block.take()),
            (None, _) => {}
        }
    }
    found
}

#[test]
fn every_configuration_in_the_documents_is_valid() {
    const SOMETHING: &str = "\n[[endpoint]]\nname = \"some-endpoint\"\nprotocol = \"pekko\"\nlisten = \"10.255.0.1:1\"\n";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("truename.toml");
    let mut count = 0;
    for (path, text) in documents() {
        for configuration in configurations(&text) {
            count += 1;
            // A file of the topology, not of the agent.
            if configuration.starts_with("[leader]") {
                fs::write(&file, &configuration).unwrap();
                let read = File::new(file.clone()).read();
                assert!(read.is_ok(), "{}: {read:?}", path.display());
                continue;
            }
            // A piece may have nothing to do of its own.
            let tries = [configuration.clone(), configuration.clone() + SOMETHING];
            let said = tries.map(|text| {
                fs::write(&file, text).unwrap();
                truename(&["config", "check", "--file-only", file.to_str().unwrap()])
            });
            let is_valid = |output: &Output| {
                // What this build leaves out is no mistake.
                output.status.success() || stderr(output).contains("build it with --features")
            };
            assert!(
                said.iter().any(is_valid),
                "{}:\n{configuration}\n{}",
                path.display(),
                stderr(&said[0])
            );
        }
    }
    assert!(count > 5, "{count}");
}

#[test]
fn files_and_commands_that_documents_name_exist() {
    let mut commands = BTreeSet::new();
    for (path, text) in documents() {
        for line in text.lines() {
            let typed = line
                .strip_prefix("    ")
                .map(|code| code.trim_start_matches("$ "));
            for span in line.split('`').skip(1).step_by(2).chain(typed) {
                if let Some(rest) = span.strip_prefix("truename ") {
                    let command =
                        rest.split(|letter: char| !letter.is_ascii_lowercase() && letter != '-');
                    commands.extend(command.take(1).map(str::to_owned));
                }
                // Of the files in code, those that are named from the root of the repository.
                let root = span.split_once('/').map_or("", |(root, _)| root);
                let is_ours =
                    !root.is_empty() && root != "target" && repository().join(root).is_dir();
                if is_ours && !span.contains([' ', '*', '<']) {
                    assert!(
                        repository().join(span).exists(),
                        "{}: {span}",
                        path.display()
                    );
                }
            }
        }
    }
    commands.remove("");
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let help = truename(&[&command, "--help"]);
        assert_eq!(help.status.code(), Some(0), "truename {command}");
    }
}

#[test]
fn lines_of_documents_are_short() {
    for (path, text) in documents() {
        let mut is_code = false;
        for (line, number) in text.lines().zip(1..) {
            is_code ^= line.starts_with("```");
            let is_free = is_code || line.starts_with("    ") || line.starts_with('|');
            let length = line.chars().count();
            assert!(is_free || length <= 180, "{}:{number}", path.display());
        }
    }
}
