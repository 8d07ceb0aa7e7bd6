//! The words of the command line. Only types.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use truename_common::layout::{ConntrackState, EventKind};

use crate::{
    api::FlowState,
    config::{Cluster, EndpointFlag, Selector, ServiceFlag, Transport},
    explain::{Host, Party},
    name::Authority,
};

/// Network address translator for clusters whose nodes have more than one name.
///
/// Whatever name or address a peer uses for a node, the node sees its own canonical name, and the
/// peer sees the name it used. Translation happens in the kernel, in place, without touching the
/// application.
#[derive(Debug, Parser)]
#[command(name = "truename", version, long_version = LONG_VERSION)]
#[command(max_term_width = 100, after_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str =
    "Exit codes: 0 success, 1 failure, 2 wrong usage or configuration, 3 degraded.";

const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nkernel program: built with the toolchain ",
    env!("TRUENAME_EBPF_TOOLCHAIN")
);

/// Flags of every verb.
#[derive(Debug, ClapArgs)]
pub struct Global {
    /// Read this file [default: /etc/truename/truename.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Unix socket of the agent [default: /run/truename/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
    /// Where programs, links and tables are pinned [default: /sys/fs/bpf/truename]
    #[arg(long, global = true, value_name = "PATH")]
    pub bpffs: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// Print without colours; so does the variable NO_COLOR
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Attach the programs and keep them attached
    Run(Run),
    /// Show the agent, its interfaces and counters
    Status(Status),
    /// Watch what happens: services, rates, drops, who leads; q ends it
    Top,
    /// Show the endpoints and the names they know themselves by
    Endpoints(Watch),
    /// Show every alias in use, by whom, and when
    Aliases(Watch),
    /// Show the services, their targets and connections, or take a target out
    Services(Services),
    /// Show or forget connections and flows, and what is done with them
    Flows(Flows),
    /// Show every step that a packet would take, and why
    Explain(Explain),
    /// Show the clients: the names they announced and the addresses they were seen at
    Peers(Watch),
    /// Show what is known of the cluster: who leads, who works, by whose word, how long ago
    Topology(Watch),
    /// Show the canonical names, whose they are, and what they resolve to from here
    Names(Names),
    /// Print events as they happen
    Monitor(Monitor),
    /// Show the frames of a recording, and what would be rewritten
    Decode(Decode),
    /// Check whether this host can run truename
    Doctor,
    /// Check or show the configuration
    #[command(subcommand)]
    Config(Config),
    /// Remove programs, links, filters and tables: every trace
    Detach,
    /// Write all that somebody who helps asks for into one JSON document
    SupportBundle(Bundle),
    /// Print the completions for a shell
    Completions(Completions),
    /// Print the manual page
    Man(Man),
}

/// Flags of `run`.
#[derive(Debug, ClapArgs)]
pub struct Run {
    /// Attach here: auto, a name, or a glob like 'veth*'; repeatable, replaces `interfaces`
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<Selector>,
    /// Follow this cluster: http(s)://HOST:PORT, zookeeper://HOST:PORT,.../PATH or kubernetes://NAMESPACE/ID; repeatable, adds
    /// to `cluster` of [topology]
    #[arg(long = "cluster", value_name = "URL")]
    pub clusters: Vec<Cluster>,
    /// Translate for what listens here; repeatable, adds to [[endpoint]]
    #[arg(long = "endpoint", value_name = "PROTOCOL=ADDRESS:PORT[=CANONICAL]")]
    pub endpoints: Vec<EndpointFlag>,
    /// Let this alias stand for these targets; repeatable, adds to [[service]]
    #[arg(
        long = "service",
        value_name = "tcp|udp=ADDRESS:PORT=TARGET[,TARGET...]"
    )]
    pub services: Vec<ServiceFlag>,
    /// Relay connections whose alias cannot be translated in place; sets `enabled` of [relay]
    #[arg(long)]
    pub relay: bool,
    /// How to attach
    #[arg(long, value_enum, default_value_t, hide = true)]
    pub attach: Attach,
}

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// The best that the kernel has
    #[default]
    Auto,
    /// tcx links
    Tcx,
    /// Filters on a clsact qdisc
    Clsact,
}

/// Flags of `services`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, after_help = SERVICES_EXAMPLES)]
pub struct Services {
    #[command(flatten)]
    pub watch: Watch,
    #[command(subcommand)]
    pub verb: Option<ServicesVerb>,
}

const SERVICES_EXAMPLES: &str = "Examples:
  truename services --watch
  truename services drain files 10.0.0.1:8080          before the target is taken down
  truename services resume files 10.0.0.1:8080";

/// Verbs of `services`.
#[derive(Debug, Subcommand)]
pub enum ServicesVerb {
    /// Give a target no new connections; those that it has stay. The next agent does not know of it
    Drain(TargetName),
    /// Give a drained target new connections again
    Resume(TargetName),
}

/// A target of a service.
#[derive(Debug, ClapArgs)]
pub struct TargetName {
    /// The service
    #[arg(value_name = "NAME")]
    pub service: String,
    /// The target, as `services` shows it
    #[arg(value_name = "ADDRESS:PORT")]
    pub target: SocketAddr,
}

/// Flags of `flows`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, after_help = FLOWS_EXAMPLES)]
pub struct Flows {
    #[command(flatten)]
    pub selection: FlowSelection,
    /// Show numbers and bytes by service and state
    #[arg(long, conflicts_with = "rates")]
    pub totals: bool,
    /// Look twice, one second apart, and show how fast each flow is
    #[arg(long)]
    pub rates: bool,
    /// Show so many at the most, the latest
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["totals", "rates"])]
    pub limit: Option<usize>,
    #[command(subcommand)]
    pub verb: Option<FlowsVerb>,
}

const FLOWS_EXAMPLES: &str = "Examples:
  truename flows --service rest --state established
  truename flows --target 10.0.0.1 --port 6123 --limit 20
  truename flows --totals
  truename flows flush --client 10.0.0.5 --yes";

/// Which flows.
#[derive(Debug, ClapArgs)]
pub struct FlowSelection {
    /// Only those of this service or endpoint
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only those of this client
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<IpAddr>,
    /// Only those in this state, of the connection or of its translation
    #[arg(long, value_name = "STATE", value_parser = states())]
    pub state: Option<String>,
    /// Only those to this target or endpoint
    #[arg(long, value_name = "ADDRESS")]
    pub target: Option<IpAddr>,
    /// Only those to this port: the one that the client addresses, or the target's
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only those whose client names the endpoint so
    #[arg(long, value_name = "HOST:PORT")]
    pub alias: Option<String>,
}

fn states() -> clap::builder::PossibleValuesParser {
    let connection = ConntrackState::ALL.iter().map(|state| state.label());
    let rpc = FlowState::ALL.iter().map(|state| state.label());
    // Both have a `closed`.
    let labels: BTreeSet<_> = connection.chain(rpc).collect();
    labels.into_iter().collect::<Vec<_>>().into()
}

/// Verbs of `flows`.
#[derive(Debug, Subcommand)]
pub enum FlowsVerb {
    /// Forget flows: connections through services break, others begin anew
    Flush(Flush),
}

/// Flags of `flows flush`.
#[derive(Debug, ClapArgs)]
pub struct Flush {
    #[command(flatten)]
    pub selection: FlowSelection,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Arguments of `explain`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub struct Explain {
    /// Who sends: an address or a name, with :port or without; without a port an example is taken
    #[arg(value_name = "FROM[:PORT]")]
    pub from: Party,
    /// To whom: address:port or name:port
    #[arg(value_name = "TO:PORT", value_parser = with_port)]
    pub to: Party,
    /// The transport protocol
    #[arg(long, value_name = "tcp|udp", default_value = "tcp")]
    pub protocol: Transport,
}

const EXPLAIN_EXAMPLES: &str = "Examples:
  truename explain 10.0.0.5 10.0.0.10:8081             a client, to an alias
  truename explain 10.0.0.1:8081 10.0.0.5:40000        the answer of a target
  truename explain 10.0.0.5 10.0.0.10:53 --protocol udp
  truename explain 10.0.0.9 jobmanager:6123            by the name that a peer uses

A name is what the agent knows of it (see truename names), else what this host's hosts file or DNS says.
A peer on another host may resolve it to another address: then write the address.";

/// What a packet is sent to has a port.
fn with_port(text: &str) -> Result<Party, String> {
    let party: Party = text.parse()?;
    match party.port {
        Some(_) => Ok(party),
        None => Err("the port is missing; write e.g. 10.0.0.10:8081 or jobmanager:6123".to_owned()),
    }
}

/// `address` or `address:port`; IPv6 addresses with a port in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl Sender {
    /// Whether a socket, as text, is meant.
    pub fn is_at(&self, text: &str) -> bool {
        text.parse::<SocketAddr>().is_ok_and(|at| {
            at.ip() == self.address.to_canonical() && self.port.is_none_or(|port| port == at.port())
        })
    }
}

impl FromStr for Sender {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(Party {
                host: Host::Address(address),
                port,
            }) => Ok(Self { address, port }),
            _ => Err("write an address, or address:port, e.g. 10.0.0.5 or [fd00::5]:40000"),
        }
    }
}

/// Flags of `monitor`.
#[derive(Debug, ClapArgs)]
pub struct Monitor {
    /// Only events of this kind; repeatable
    #[arg(long = "kind", value_name = "KIND", value_parser = kinds())]
    pub kinds: Vec<String>,
    /// Only events about this client: an address, or address:port
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub from: Option<Sender>,
    /// Only events about packets to this endpoint or alias: an address, or address:port
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub to: Option<Sender>,
}

fn kinds() -> clap::builder::PossibleValuesParser {
    EventKind::ALL
        .iter()
        .map(|kind| kind.label())
        .collect::<Vec<_>>()
        .into()
}

/// Arguments of `status`.
#[derive(Debug, ClapArgs)]
pub struct Status {
    /// Only whether it works, and what does not
    #[arg(long)]
    pub brief: bool,
    #[command(flatten)]
    pub watch: Watch,
}

/// Arguments of verbs that show what changes.
#[derive(Debug, ClapArgs)]
pub struct Watch {
    /// Go on, and show every change
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `names`.
#[derive(Debug, ClapArgs)]
#[command(after_help = NAMES_HELP)]
pub struct Names {
    /// Print in this format, whatever --output says
    #[arg(long, value_enum)]
    pub format: Option<NameFormat>,
}

/// How to print names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NameFormat {
    /// Lines for /etc/hosts; names without an address are comments
    Hosts,
    /// A hosts block for a Corefile
    Coredns,
    /// One JSON document
    Json,
}

const NAMES_HELP: &str = "How an address was found, the first that tells one:
  address  it is the name
  file     the operator says so: the topology file, or an endpoint's canonical name
  said     a server answers there and says that this is its name
  lookup   this host's hosts file or DNS says so
  seen     a handshake came from there

Names are looked up when they are asked for, which takes 5 s at the most. The verb only reports:
that a name has no address is no failure. It exits with 1 if the agent cannot be asked.

Examples:
  truename names
  truename names --format hosts                        10.0.0.3 taskmanager  # worker tm-1
  truename names --format coredns
  truename names -o jsonl | jq -r 'select(.how == null) | .name'";

/// Arguments of `decode`.
#[derive(Debug, ClapArgs)]
pub struct Decode {
    /// A pcap, a pcapng, or one raw direction of a connection
    pub file: PathBuf,
    /// Only connections to this port; repeatable
    #[arg(long = "port", value_name = "PORT")]
    pub ports: Vec<u16>,
    /// The authority by which the endpoint knows itself, if the file does not tell
    #[arg(long, value_name = "HOST:PORT")]
    pub canonical: Option<Authority>,
    /// The alias that the client uses, if the file does not tell
    #[arg(long, value_name = "HOST:PORT")]
    pub alias: Option<Authority>,
    /// The actor system, if the file does not tell
    #[arg(long, value_name = "NAME")]
    pub system: Option<String>,
    /// The direction of a raw stream, seen from the endpoint [default: in]
    #[arg(long, value_enum)]
    pub way: Option<StreamWay>,
}

/// The direction of a raw stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StreamWay {
    /// Towards the endpoint
    In,
    /// Away from it
    Out,
}

/// Verbs of `config`.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Say whether a file is valid, and whether `run` would start with it
    Check {
        /// The file, instead of --config or the default one
        file: Option<PathBuf>,
        /// Look at the file only, not at whether this host can run it
        #[arg(long)]
        file_only: bool,
    },
    /// Print the configuration that the file gives, with the defaults
    Show {
        /// Ask the agent which one is in force
        #[arg(long)]
        effective: bool,
    },
}

/// Arguments of `support-bundle`.
#[derive(Debug, ClapArgs)]
pub struct Bundle {
    /// Where to; the standard output if absent
    pub file: Option<PathBuf>,
    /// Replace names and addresses, the same one by the same one
    #[arg(long)]
    pub redact: bool,
}

/// Arguments of `completions`.
#[derive(Debug, ClapArgs)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, ClapArgs)]
pub struct Man {
    /// Write a page for every verb into this directory instead
    #[arg(long, value_name = "DIRECTORY")]
    pub out: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn globals_go_anywhere() {
        let args = Args::parse_from(["truename", "flows", "-o", "jsonl", "--bpffs", "/x"]);
        assert_eq!(args.global.output, Format::Jsonl);
        let args = Args::parse_from(["truename", "-o", "json", "config", "show"]);
        assert_eq!(args.global.output, Format::Json);
    }

    #[test]
    fn flags_are_checked() {
        let parse = |rest: &[&str]| {
            Args::try_parse_from(["truename"].iter().chain(rest).copied()).map(|_| ())
        };
        assert!(
            parse(&[
                "run",
                "--interface",
                "lo",
                "--endpoint",
                "pekko=*:6123=jm:6123"
            ])
            .is_ok()
        );
        let error = parse(&["run", "--endpoint", "pekko=jm:6123"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("must be an IP address"), "{error}");
        assert!(parse(&["monitor", "--kind", "alias_seen", "--kind", "no_fit"]).is_ok());
        assert!(parse(&["monitor", "--kind", "alias"]).is_err());
        assert!(parse(&["run", "--service", "tcp=*:80=10.0.0.1:80,10.0.0.2:80"]).is_ok());
        assert!(parse(&["flows", "--state", "established", "--totals"]).is_ok());
        assert!(parse(&["flows", "--state", "nonsense"]).is_err());
        assert!(parse(&["flows", "--totals", "--rates"]).is_err());
        assert!(parse(&["flows", "flush", "--client", "10.0.0.1", "-y"]).is_ok());
        assert!(parse(&["names", "--format", "hosts"]).is_ok());
        assert!(parse(&["names", "--format", "bind"]).is_err());
        assert!(parse(&["explain", "fd00::1", "[fd00::2]:80"]).is_ok());
        assert!(parse(&["explain", "[fd00::1]:5", "[fd00::2]:80"]).is_ok());
        assert!(parse(&["explain", "taskmanager", "jobmanager:6123"]).is_ok());
        assert!(parse(&["explain", "10.0.0.1", "10.0.0.2"]).is_err());
        assert!(parse(&["explain", "10.0.0.1", "jobmanager"]).is_err());
        assert!(parse(&["monitor", "--from", "jobmanager"]).is_err());
    }
}
