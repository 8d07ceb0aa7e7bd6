//! The configuration as a whole: files, flags, and the messages for mistakes.

use std::path::Path;

use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::new(File::parse(Path::new("t.toml"), text)?, Flags::default())
}

fn message(text: &str) -> String {
    let message = read(text).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

const ENDPOINT: &str = "[[endpoint]]\nname = \"jm\"\nprotocol = \"pekko\"\nlisten = \"*:6123\"\n";

#[test]
fn empty_is_the_default() {
    let config = read("").unwrap();
    assert_eq!(config.agent, Agent::default());
    assert_eq!(config.datapath, Datapath::default());
    assert!(matches!(config.check_runnable(), Err(ConfigError::Nothing)));
}

#[test]
fn reads_everything() {
    let config = read(
        r#"
        [agent]
        control_socket = "/tmp/c.sock"
        bpffs = "/sys/fs/bpf/t"
        log = "debug"
        [datapath]
        interfaces = ["auto", "eth0", "veth*"]
        max_rpc_flows = 1_024
        [[endpoint]]
        name = "jobmanager"
        protocol = "pekko"
        listen = "10.0.0.1:6123"
        canonical = "jobmanager:6123"
        aliases = ["jm.example.org:6123", "localhost:6123"]
        [[endpoint]]
        name = "taskmanager"
        protocol = "pekko"
        listen = "[::]:6122"
        "#,
    )
    .unwrap();
    assert_eq!(config.agent.control_socket, Path::new("/tmp/c.sock"));
    assert_eq!(config.agent.log, log::LevelFilter::Debug);
    assert_eq!(config.datapath.interfaces.len(), 3);
    assert_eq!(config.datapath.max_rpc_flows, 1024);
    let [jobmanager, taskmanager] = &config.endpoints[..] else {
        panic!("two endpoints")
    };
    assert_eq!(
        jobmanager.canonical.as_ref().unwrap().as_str(),
        "jobmanager:6123"
    );
    assert!(matches!(&jobmanager.aliases, Aliases::Listed(list) if list.len() == 2));
    assert_eq!(taskmanager.listen.to_string(), "*:6122");
    assert_eq!(taskmanager.aliases, Aliases::Any);
}

#[test]
fn names_the_key_the_line_and_the_nearest() {
    assert_eq!(
        message("[agent]\nbpfs = \"/x\""),
        "t.toml:2: unknown key \"bpfs\" in [agent]; did you mean \"bpffs\"?"
    );
    assert_eq!(
        message("[endpoints]"),
        "t.toml:1: unknown key \"endpoints\" in the file; did you mean \"endpoint\"?"
    );
    assert_eq!(
        message(&format!("{ENDPOINT}cannonical = \"a:1\"")),
        "t.toml:5: unknown key \"cannonical\" in [[endpoint]]; did you mean \"canonical\"?"
    );
    assert_eq!(
        message("[datapath]\nfoobar = 1"),
        "t.toml:2: unknown key \"foobar\" in [datapath]; valid are interfaces, xdp, max_flows, max_rpc_flows, snat_ports, netfilter, when_full, timeouts"
    );
}

#[test]
fn says_what_a_value_must_be() {
    assert_eq!(
        message(&ENDPOINT.replace("*:6123", "jobmanager:6123")),
        "t.toml:4: listen \"jobmanager:6123\": the host must be an IP address of this host, or * for all of them"
    );
    assert_eq!(
        message(&format!("{ENDPOINT}canonical = \"jm\"")),
        "t.toml:5: canonical \"jm\": a port is missing; write host:port, e.g. jobmanager:6123"
    );
    assert_eq!(
        message(&format!("{ENDPOINT}aliases = [\"a:1\",\n\"b\"]")),
        "t.toml:6: alias \"b\": a port is missing; write host:port, e.g. jobmanager:6123"
    );
    assert_eq!(
        message(&ENDPOINT.replace("pekko", "http")),
        "t.toml:3: protocol \"http\": this version translates pekko"
    );
    assert_eq!(
        message("[datapath]\nmax_rpc_flows = \"many\""),
        "t.toml:2: \"max_rpc_flows\" must be a whole number, not string"
    );
    assert_eq!(
        message("[datapath]\nmax_rpc_flows = 0"),
        "t.toml:2: max_rpc_flows \"0\": it must be from 16 to 1048576"
    );
    assert_eq!(
        message("[datapath]\ninterfaces = [\"a b\"]"),
        "t.toml:2: interface \"a b\": an interface name has 1 to 15 bytes and no slash or space; write auto, a name, or a glob like veth*"
    );
    assert!(message("[agent]\nlog = \"loud\"").starts_with("t.toml:2: log \"loud\""));
    assert!(message("[agent]\nbpffs = \"x\"").contains("must be absolute"));
    assert!(message("[agent\n").starts_with("t.toml:1: this is not TOML"));
    assert!(message("[endpoint]\nname = \"x\"").contains("double brackets"));
    assert!(message("[[endpoint]]\nname = \"x\"").contains("needs the key \"protocol\""));
}

#[test]
fn names_both_places() {
    let second = ENDPOINT.replace("*:6123", "*:6124");
    assert_eq!(
        message(&format!("{ENDPOINT}{second}")),
        "t.toml:5: the endpoint name \"jm\" is already used at t.toml:1"
    );
    let second = ENDPOINT
        .replace("\"jm\"", "\"jm2\"")
        .replace("*:6123", "10.0.0.1:6123");
    assert_eq!(
        message(&format!("{ENDPOINT}{second}")),
        "t.toml:5: the endpoint \"jm2\" listens on 10.0.0.1:6123, which overlaps *:6123 of the endpoint \"jm\" at t.toml:1; keep one of them"
    );
}

#[test]
fn flags_add_endpoints_and_replace_interfaces() {
    let flags = Flags {
        clusters: Vec::new(),
        interfaces: vec!["eth0".parse().unwrap()],
        relay: true,
        services: Vec::new(),
        endpoints: vec![
            "pekko=10.0.0.1:6123=jm:6123".parse().unwrap(),
            "pekko=10.0.0.2:6123".parse().unwrap(),
        ],
        control_socket: Some("/x.sock".into()),
        bpffs: None,
    };
    let config = Config::new(File::default(), flags).unwrap();
    assert!(config.relays());
    let names: Vec<_> = config.endpoints.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["pekko-6123", "pekko-6123-2"]);
    assert_eq!(
        config.endpoints[0].canonical.as_ref().unwrap().as_str(),
        "jm:6123"
    );
    assert_eq!(config.datapath.interfaces.len(), 1);
    assert_eq!(config.agent.control_socket, Path::new("/x.sock"));

    for (flag, reason) in [
        ("10.0.0.1:6123", "write PROTOCOL=ADDRESS:PORT"),
        (
            "http=10.0.0.1:6123",
            "\"http\": this version translates pekko",
        ),
        (
            "pekko=jm:6123",
            "\"jm:6123\": the host must be an IP address",
        ),
        ("pekko=*:6123=jm", "canonical \"jm\": a port is missing"),
    ] {
        let error = flag.parse::<EndpointFlag>().unwrap_err();
        assert!(error.starts_with(reason), "{error}");
    }
}

#[test]
fn an_overlap_of_flag_and_file_names_both() {
    let file = File::parse(Path::new("t.toml"), ENDPOINT).unwrap();
    let flags = Flags {
        endpoints: vec!["pekko=127.0.0.1:6123".parse().unwrap()],
        ..Flags::default()
    };
    let error = Config::new(file, flags).unwrap_err().to_string();
    assert!(
        error.starts_with("--endpoint pekko=127.0.0.1:6123: "),
        "{error}"
    );
    assert!(error.contains("at t.toml:1"), "{error}");
}

#[test]
fn shows_what_it_read() {
    let text = format!("{ENDPOINT}canonical = \"jm:6123\"\naliases = [\"a:1\"]\n");
    let config = read(&text).unwrap();
    let shown = to_toml(&config).unwrap();
    let again = read(&shown).unwrap();
    assert_eq!(to_toml(&again).unwrap(), shown);
    assert_eq!(again.endpoints[0].aliases, config.endpoints[0].aliases);
}

#[test]
fn metrics_are_at_an_address_or_nowhere() {
    let metrics = |text: &str| read(&format!("[agent]\n{text}")).map(|config| config.agent.metrics);
    assert_eq!(metrics("").unwrap(), Some(DEFAULT_METRICS));
    assert_eq!(metrics("metrics = \"\"").unwrap(), None);
    let at = metrics("metrics = \"[::1]:80\"").unwrap();
    assert_eq!(at, Some("[::1]:80".parse().unwrap()));
    for wrong in [
        "metrics = \"9464\"",
        "metrics = \"localhost:9464\"",
        "metrics = true",
    ] {
        assert!(metrics(wrong).is_err(), "{wrong}");
    }
}
