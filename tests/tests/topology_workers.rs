//! Services follow a real standalone Flink by its REST interface: workers come and go, and the JobManager is
//! replaced and moves.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use truename_tests::{
    flink::{Addressing, Cluster, DEFAULT_VERSION, Flink},
    http::Http,
    hub::Hub,
    namespace::Namespace,
    pinned::ServiceTables,
    scratch::Scratch,
    timeline::Timeline,
    truename::{self, Truename},
    wait::wait_until,
};

/// A JVM starts, or a heartbeat is missed, within this time.
const LONG: Duration = Duration::from_secs(60);
/// What takes no more than some round trips is done by then, on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// The hub's second address, which stands for the leader and for the workers.
const ALIAS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 61, 23, 100));
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 61, 23, 50);
const WORKERS: usize = 3;
/// Connections from which it is seen how they are shared.
const MANY: usize = 24;

/// A cluster, an agent on the host between its nodes, and a client on another.
struct Place {
    // Dropped in this order.
    tables: ServiceTables,
    truename: Truename,
    cluster: Cluster,
    client: Namespace,
    timeline: Timeline,
}

impl Place {
    /// Nothing of the cluster runs yet.
    fn new(timeline: Timeline, scratch: &Scratch) -> Result<Self> {
        let flink = Flink::fetch(DEFAULT_VERSION, &timeline)?;
        let cluster = Cluster::new(&flink, Addressing::Canonical, WORKERS, scratch)?;
        let hub = cluster.hub();
        hub.add_address(Ipv4Addr::new(10, 61, 23, 100))?;
        hub.space().sysctl("net/ipv4/ip_forward", "1")?;
        let client = Namespace::new("client")?;
        hub.connect(&client, "c0", &[CLIENT])?;
        let file = scratch.write("truename.toml", &configuration())?;
        let arguments = vec!["--config".to_owned(), file.display().to_string()];
        let mut truename =
            Truename::prepared(truename::binary()?, hub.space(), scratch, arguments)?;
        for (private, public) in cluster.files() {
            truename.put_file(private, public);
        }
        truename.start_agent()?;
        Ok(Self {
            tables: ServiceTables::open(&truename)?,
            truename,
            cluster,
            client,
            timeline,
        })
    }

    /// Waits until these workers are registered and the kernel's tables name them.
    fn wait_workers(&self, numbers: &[usize], since: Instant) -> Result<()> {
        let wanted: BTreeSet<_> = numbers
            .iter()
            .map(|number| Cluster::data_address(*number))
            .collect();
        wait_until(LONG, "the workers in REST", || {
            let count = self.cluster.registered()?;
            ensure!(count == numbers.len(), "{count} are registered");
            Ok(())
        })?;
        let registered = since.elapsed();
        wait_until(LONG, "the workers in the tables", || {
            let now = self.tables.targets(data())?;
            ensure!(now == wanted, "the targets are {now:?}");
            Ok(())
        })?;
        self.timeline.say(&format!(
            "workers {numbers:?} in Flink's REST answer after {:.1} s, in the kernel's tables after {:.1} s",
            registered.as_secs_f64(),
            since.elapsed().as_secs_f64(),
        ));
        Ok(())
    }

    /// Waits until the kernel's tables name this REST server, and a client reaches it there.
    fn wait_leader(&self, address: SocketAddr) -> Result<()> {
        let since = Instant::now();
        wait_until(LONG, "the leader", || {
            let now = self.tables.targets(rest())?;
            ensure!(now == [address].into(), "the targets are {now:?}");
            let mut http = self.client.run(|| Http::connect(rest(), SOON))??;
            let (status, body) = http.get("/overview")?;
            ensure!(status == 200, "{status} {body}");
            Ok(())
        })?;
        self.timeline.say(&format!(
            "leader:rest is {address} after {:.1} s, and answers clients of the alias",
            since.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Many new connections to the alias all come up, shared by these workers.
    fn check_shared(&self, numbers: &[usize]) -> Result<()> {
        let streams = (0..MANY)
            .map(|_| self.connect())
            .collect::<Result<Vec<_>>>()?;
        let ports: BTreeSet<u16> = streams
            .iter()
            .map(|stream| Ok(stream.local_addr()?.port()))
            .collect::<Result<_>>()?;
        let shares = wait_until(SOON, "all connections at the workers", || {
            let mut shares = Vec::new();
            for number in numbers {
                let peers = self.cluster.task_space(*number).peers(data().port())?;
                shares.push(
                    peers
                        .iter()
                        .filter(|peer| ports.contains(&peer.port()))
                        .count(),
                );
            }
            ensure!(shares.iter().sum::<usize>() == MANY, "shares {shares:?}");
            Ok(shares)
        })?;
        ensure!(!shares.contains(&0), "shares {shares:?}");
        self.timeline.say(&format!(
            "{MANY} connections, of which workers {numbers:?} have {shares:?}"
        ));
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = self
            .client
            .run(|| TcpStream::connect_timeout(&data(), SOON))?;
        stream.with_context(|| format!("connect to {}", data()))
    }

    /// The worker at which a connection arrived.
    fn worker_of(&self, stream: &TcpStream) -> Result<usize> {
        let port = stream.local_addr()?.port();
        wait_until(SOON, "the connection at a worker", || {
            for number in 0..WORKERS {
                let peers = self.cluster.task_space(number).peers(data().port())?;
                if peers.iter().any(|peer| peer.port() == port) {
                    return Ok(number);
                }
            }
            anyhow::bail!("it is at none")
        })
    }
}

fn rest() -> SocketAddr {
    SocketAddr::new(ALIAS, Cluster::rest_address().port())
}

fn data() -> SocketAddr {
    SocketAddr::new(ALIAS, Cluster::data_address(0).port())
}

fn configuration() -> String {
    format!(
        "[datapath]\ninterfaces = [\"{}\", \"lo\"]\n[topology]\nsource = \"flink\"\npoll = \"500ms\"\n\
         urls = [\"http://{}\", \"http://{}\"]\n\
         [[service]]\nname = \"rest\"\nprotocol = \"tcp\"\nlisten = \"{}\"\ntarget = \"leader:rest\"\n\
         [[service]]\nname = \"data\"\nprotocol = \"tcp\"\nlisten = \"{}\"\ntarget = \"workers:{}\"\n",
        Hub::INTERFACE,
        Cluster::rest_address(),
        Cluster::second_rest_address(),
        rest(),
        data(),
        data().port(),
    )
}

fn follow(place: &mut Place) -> Result<()> {
    place.cluster.start_job_manager()?;
    place.wait_leader(Cluster::rest_address())?;
    let start = Instant::now();
    place.cluster.start_task_manager(0)?;
    place.wait_workers(&[0], start)?;
    // It stays where it is, whoever comes and goes.
    let kept = place.connect()?;
    ensure!(place.worker_of(&kept)? == 0);
    let start = Instant::now();
    place.cluster.start_task_manager(1)?;
    place.wait_workers(&[0, 1], start)?;
    place.check_shared(&[0, 1])?;

    let start = Instant::now();
    place.cluster.kill_task_manager(1);
    place.timeline.say("worker 1 killed (SIGKILL)");
    place.wait_workers(&[0], start)?;
    place.check_shared(&[0])?;

    let start = Instant::now();
    for number in [1, 2] {
        place.cluster.start_task_manager(number)?;
    }
    place.wait_workers(&[0, 1, 2], start)?;
    place.check_shared(&[0, 1, 2])?;

    place.cluster.kill_job_manager();
    place.timeline.say("JobManager killed (SIGKILL)");
    let failing = [("kind", "source"), ("source", "flink"), ("name", "failing")];
    wait_until(SOON, "the source's failure", || {
        place.truename.rows("topology", &failing)
    })?;
    // The last that was known.
    ensure!(place.tables.targets(rest())? == [Cluster::rest_address()].into());
    place.check_shared(&[0, 1, 2])?;
    let start = Instant::now();
    place.cluster.restart_job_manager()?;
    place.wait_leader(Cluster::rest_address())?;
    place.wait_workers(&[0, 1, 2], start)?;
    place.check_shared(&[0, 1, 2])?;
    ensure!(place.worker_of(&kept)? == 0, "a connection did not stay");

    // Its host has another address now, at which another URL finds it.
    place.cluster.remove_first_address()?;
    place
        .timeline
        .say("the JobManager's host has lost its first address");
    place.wait_leader(Cluster::second_rest_address())
}

#[test]
fn services_follow_workers_and_leader_of_a_standalone_cluster() {
    let mut scratch = Scratch::new("workers").unwrap();
    let mut place = Place::new(Timeline::new(), &scratch).unwrap();
    if let Err(error) = follow(&mut place) {
        drop(place);
        scratch.keep();
        panic!("{error:#}");
    }
}
