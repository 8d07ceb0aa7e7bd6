//! What is answered to one question. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, SOA},
    },
};

use truename_common::layout::NAMES_TTL;

use crate::{
    config::Transport,
    discovery::{Topology, locate},
    name::{Authority, literal},
};

/// The largest answer over UDP that a path is trusted with, in bytes.
const UDP_MAX: u16 = 1232;
/// What a client without EDNS can take, in bytes.
const PLAIN_MAX: u16 = 512;
/// Addresses that are told of one name, and names of one address.
const RECORDS_MAX: usize = 16;
/// Bytes of the header of a message.
const HEADER: usize = 12;
/// The bit of a response in its third byte.
const RESPONSE: u8 = 0x80;

/// The hosts of the cluster, and their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// By the name in small letters, without the dot at its end.
    hosts: HashMap<String, Vec<IpAddr>>,
    names: BTreeMap<IpAddr, BTreeSet<String>>,
    /// What stands behind the first labels of the hosts.
    domains: BTreeSet<String>,
}

/// What is done with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is about the cluster.
    Answer(Vec<u8>),
    /// It is about something else: others are asked.
    Forward,
    /// It is nothing that is served.
    Refuse(Vec<u8>),
    /// It is not a message of DNS, and told so.
    Malformed(Vec<u8>),
    /// It is not a question, and gets no answer: two servers would go on for ever.
    Drop,
}

impl Zone {
    /// The names that the topology knows addresses of without asking a name server: what only a name server knows, it
    /// tells better itself.
    pub fn of(topology: &Topology) -> Self {
        let leader = topology.leader_rpc.iter().map(|known| &known.value.address);
        let workers = topology.workers.values().map(|known| &known.value.rpc);
        let members = topology.members.keys();
        let rpc = leader.chain(workers).chain(members);
        let rest = topology.leader_rest.iter();
        let rest = rest.map(|known| known.value.address.authority());
        let all = rpc.map(|address| address.authority()).chain(rest);
        let mut zone = Self::default();
        for name in all.chain(topology.addresses.keys()) {
            zone.add(name, topology);
        }
        zone
    }

    fn add(&mut self, name: &Authority, topology: &Topology) {
        let host = name.host().to_ascii_lowercase();
        if literal(&host).is_some() || host == "localhost" || self.hosts.contains_key(&host) {
            return;
        }
        let Ok(location) = locate(name, topology, |_| Err(String::new())) else {
            return;
        };
        let mut addresses = location.addresses;
        addresses.truncate(RECORDS_MAX);
        for address in &addresses {
            self.names.entry(*address).or_default().insert(host.clone());
        }
        self.domains.insert(domain(&host).to_owned());
        self.hosts.insert(host, addresses);
    }

    /// The hosts and what others reach of their addresses, for answers in the kernel.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = IpAddr>)> {
        self.hosts.iter().map(|(host, addresses)| {
            let addresses = addresses.iter().copied();
            (host.as_str(), addresses.filter(|it| !it.is_loopback()))
        })
    }

    /// Whether a question may be for a host of the cluster that is not known yet: such hosts have names beside those of the
    /// others.
    pub fn resembles(&self, message: &[u8]) -> bool {
        let Ok(asked) = Message::from_vec(message) else {
            return false;
        };
        let [query] = &asked.queries[..] else {
            return false;
        };
        let text = query.name().to_ascii().to_ascii_lowercase();
        let domain = domain(text.trim_end_matches('.'));
        let is_address = matches!(query.query_type(), RecordType::A | RecordType::AAAA);
        is_address && self.domains.contains(domain)
    }

    /// What is done with a message from this client.
    pub fn decide(&self, message: &[u8], client: IpAddr, transport: Transport) -> Decision {
        if message.len() < HEADER || message[2] & RESPONSE != 0 {
            return Decision::Drop;
        }
        let Ok(asked) = Message::from_vec(message) else {
            let id = u16::from_be_bytes([message[0], message[1]]);
            let error = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            return error.to_vec().map_or(Decision::Drop, Decision::Malformed);
        };
        let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
        answer.metadata.recursion_desired = asked.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_queries(asked.queries.iter().cloned());
        if let Some(edns) = &asked.edns {
            let mut own = Edns::new();
            own.set_max_payload(UDP_MAX);
            answer.set_edns(own);
            if edns.version() > 0 {
                return refuse(answer, ResponseCode::BADVERS);
            }
        }
        if asked.metadata.op_code != OpCode::Query {
            return refuse(answer, ResponseCode::NotImp);
        }
        let [query] = &asked.queries[..] else {
            return refuse(answer, ResponseCode::FormErr);
        };
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return refuse(answer, ResponseCode::Refused);
        }
        let Some(records) = self.records(query.name(), query.query_type(), client) else {
            return Decision::Forward;
        };
        answer.metadata.authoritative = true;
        if records.is_empty() {
            answer.add_authority(authority(query.name()));
        }
        answer.add_answers(records);
        let room = match (transport, &asked.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_MAX, UDP_MAX),
            (Transport::Udp, None) => PLAIN_MAX,
        };
        match answer.to_vec() {
            Ok(bytes) if bytes.len() <= usize::from(room) => Decision::Answer(bytes),
            Ok(_) => answer
                .truncate()
                .to_vec()
                .map_or(Decision::Drop, Decision::Answer),
            Err(_) => refuse(answer, ResponseCode::ServFail),
        }
    }

    /// The records of a name; none if it is there without such a one, `None` if others are to be asked.
    fn records(&self, name: &Name, kind: RecordType, client: IpAddr) -> Option<Vec<Record>> {
        if let Ok(network) = name.parse_arpa_name() {
            let names = self.names.get(&network.addr())?;
            let is_host = network.prefix_len() == network.max_prefix_len();
            if !is_host {
                return None;
            }
            let pointers = names.iter().take(RECORDS_MAX).filter_map(|host| {
                let host = Name::from_ascii(format!("{host}.")).ok()?;
                Some(record(name, RData::PTR(PTR(host))))
            });
            let is_asked = matches!(kind, RecordType::PTR | RecordType::ANY);
            return Some(pointers.filter(|_| is_asked).collect());
        }
        let text = name.to_ascii().to_ascii_lowercase();
        let addresses = self.hosts.get(text.trim_end_matches('.'))?;
        // What answers here at a loopback address, others do not reach there.
        let mut works = addresses
            .iter()
            .filter(|address| client.is_loopback() || !address.is_loopback())
            .peekable();
        works.peek()?;
        let records = works.filter_map(|address| match (address, kind) {
            (IpAddr::V4(v4), RecordType::A | RecordType::ANY) => {
                Some(record(name, RData::A(A(*v4))))
            }
            (IpAddr::V6(v6), RecordType::AAAA | RecordType::ANY) => {
                Some(record(name, RData::AAAA(AAAA(*v6))))
            }
            _ => None,
        });
        Some(records.collect())
    }
}

/// What stands behind the first label of a name.
fn domain(host: &str) -> &str {
    host.split_once('.').map_or("", |(_, domain)| domain)
}

/// Whether an answer says that there is no such name, or nothing.
pub fn is_negative(answer: &[u8]) -> bool {
    /// The bits of the code in the fourth byte.
    const CODE: u8 = 0x0f;
    answer.get(3).is_none_or(|flags| flags & CODE != 0)
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), NAMES_TTL, data)
}

/// What says for how long there is no such record.
fn authority(name: &Name) -> Record {
    let seconds = NAMES_TTL as i32;
    let data = SOA::new(
        name.clone(),
        Name::root(),
        1,
        seconds,
        seconds,
        seconds,
        NAMES_TTL,
    );
    record(name, RData::SOA(data))
}

fn refuse(mut answer: Message, code: ResponseCode) -> Decision {
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.response_code = code;
    match answer.to_vec() {
        Ok(bytes) => Decision::Refuse(bytes),
        Err(_) => Decision::Drop,
    }
}

/// The answer that says that nobody could be asked; `None` if the question cannot be read.
pub fn failure(message: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(message).ok()?;
    let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
    answer.metadata.recursion_desired = asked.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = ResponseCode::ServFail;
    answer.add_queries(asked.queries);
    answer.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::Query;
    use truename_common::layout::NO_DATA;

    use super::*;
    use crate::{
        clock::Moment,
        discovery::{Claim, Facts, Kind, SourceId, merge},
    };

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    fn zone() -> Zone {
        let mut facts = Facts::new();
        for (name, address) in [
            ("jm-1:6123", "10.0.0.1"),
            ("tm_2:6122", "fd00::2"),
            ("here:1", "127.0.0.1"),
            ("10.0.0.7:1", "10.0.0.7"),
            ("localhost:1", "10.0.0.8"),
            ("both.example.org:1", "10.0.0.1"),
        ] {
            facts.add(Claim::Address {
                name: name.parse().unwrap(),
                address: address.parse().unwrap(),
            });
        }
        let source = SourceId {
            kind: Kind::Flink,
            place: String::new(),
        };
        Zone::of(&merge([(&source, Moment::from_ns(1), &facts)]))
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn decide(message: &Message) -> Decision {
        zone().decide(&message.to_vec().unwrap(), CLIENT, Transport::Udp)
    }

    fn answer(name: &str, kind: RecordType) -> Message {
        match decide(&question(name, kind)) {
            Decision::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{name} {kind}: {other:?}"),
        }
    }

    fn data(message: &Message) -> Vec<String> {
        let answers = message.answers.iter();
        answers.map(|record| record.data.to_string()).collect()
    }

    #[test]
    fn names_of_the_cluster_are_answered() {
        let found = answer("jm-1.", RecordType::A);
        assert_eq!(data(&found), ["10.0.0.1"]);
        assert_eq!(found.answers[0].ttl, NAMES_TTL);
        let meta = &found.metadata;
        assert_eq!((meta.id, meta.response_code), (7, ResponseCode::NoError));
        assert!(meta.authoritative && meta.recursion_available && meta.recursion_desired);
        assert_eq!(data(&answer("tm_2.", RecordType::AAAA)), ["fd00::2"]);
        assert_eq!(
            data(&answer("Both.eXample.ORG.", RecordType::ANY)),
            ["10.0.0.1"]
        );
        // The letters are those of the question.
        let mixed = answer("Jm-1.", RecordType::A);
        assert_eq!(mixed.queries[0].name().to_ascii(), "Jm-1.");
        assert_eq!(mixed.answers[0].name.to_ascii(), "Jm-1.");
        let pointer = answer("1.0.0.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(data(&pointer), ["both.example.org.", "jm-1."]);
        let v6 = Name::from("fd00::2".parse::<IpAddr>().unwrap());
        let pointer = answer(&v6.to_ascii(), RecordType::PTR);
        assert_eq!(data(&pointer), ["tm_2."]);
    }

    #[test]
    fn a_name_without_such_a_record_is_told_apart_from_none() {
        for kind in [RecordType::AAAA, RecordType::MX, RecordType::TXT] {
            let none = answer("jm-1.", kind);
            assert_eq!(none.metadata.response_code, ResponseCode::NoError);
            assert_eq!(none.answers.len(), 0, "{kind}");
            assert_eq!(none.authorities[0].record_type(), RecordType::SOA);
            // The kernel program says the same.
            let asked = question("jm-1.", kind).to_vec().unwrap();
            let mut captured = [&asked[..], &NO_DATA].concat();
            captured[9] = 1;
            let captured = Message::from_vec(&captured).unwrap();
            assert_eq!(captured.authorities, none.authorities);
            assert_eq!(none.authorities[0].ttl, NAMES_TTL);
        }
        for other in [
            "jm-2.",
            "x.jm-1.",
            "localhost.",
            "10.0.0.7.",
            "here.",
            "9.0.0.10.in-addr.arpa.",
            "0.10.in-addr.arpa.",
            ".",
        ] {
            let asked = question(other, RecordType::A);
            assert_eq!(decide(&asked), Decision::Forward, "{other}");
        }
        let here = question("here.", RecordType::A).to_vec().unwrap();
        let local = zone().decide(&here, [127, 0, 0, 1].into(), Transport::Udp);
        assert!(matches!(local, Decision::Answer(_)), "{local:?}");
    }

    fn code(decision: Decision) -> ResponseCode {
        match decision {
            Decision::Refuse(bytes) | Decision::Malformed(bytes) => {
                Message::from_vec(&bytes).unwrap().metadata.response_code
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_question_is_refused_or_dropped() {
        let mut update = question("jm-1.", RecordType::A);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(code(decide(&update)), ResponseCode::NotImp);
        let mut chaos = question("version.bind.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(decide(&chaos)), ResponseCode::Refused);
        let mut two = question("jm-1.", RecordType::A);
        two.add_query(two.queries[0].clone());
        assert_eq!(code(decide(&two)), ResponseCode::FormErr);
        let mut none = question("jm-1.", RecordType::A);
        none.queries.clear();
        assert_eq!(code(decide(&none)), ResponseCode::FormErr);
        let mut later = question("jm-1.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        later.set_edns(edns);
        // The number stands for two things.
        assert_eq!(u16::from(code(decide(&later))), 16);

        let response = question("jm-1.", RecordType::A).into_response();
        assert_eq!(decide(&response), Decision::Drop);
        let zone = zone();
        for short in [&b""[..], b"\0\x07\x01\0\0\x01"] {
            assert_eq!(zone.decide(short, CLIENT, Transport::Udp), Decision::Drop);
        }
        // A label of 64 bytes, a name without an end, a name that points to itself.
        let header = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0".to_vec();
        let long = [&header[..], b"\x40", &[b'a'; 64], b"\0\0\x01\0\x01"].concat();
        let open = [&header[..], b"\x03abc"].concat();
        let loops = [&header[..], b"\xc0\x0c\0\x01\0\x01"].concat();
        for bad in [long, open, loops] {
            let decided = zone.decide(&bad, CLIENT, Transport::Udp);
            assert_eq!(code(decided), ResponseCode::FormErr, "{bad:?}");
        }
        // As long as names may be.
        let longest = format!(
            "{}.",
            [
                "a".repeat(63),
                "b".repeat(63),
                "c".repeat(63),
                "d".repeat(61)
            ]
            .join(".")
        );
        assert_eq!(
            decide(&question(&longest, RecordType::A)),
            Decision::Forward
        );
        let resembles = |name| zone.resembles(&question(name, RecordType::A).to_vec().unwrap());
        assert!(resembles("tm-9.") && resembles("x.Example.org."));
        assert!(!resembles("www.debian.org.") && !zone.resembles(b"x"));
        assert_eq!(failure(b"x"), None);
        let asked = question("other.", RecordType::A).to_vec().unwrap();
        let failed = Message::from_vec(&failure(&asked).unwrap()).unwrap();
        assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
        assert!(is_negative(&failure(&asked).unwrap()) && !is_negative(&asked));
    }

    #[test]
    fn an_answer_that_does_not_fit_is_cut_over_udp_only() {
        let mut zone = zone();
        let many: Vec<IpAddr> = (1..=99).map(|last| [10, 0, 1, last].into()).collect();
        zone.hosts.insert("many".to_owned(), many);
        let mut asked = question("many.", RecordType::A);
        let read = |asked: &Message, transport| {
            let bytes = asked.to_vec().unwrap();
            match zone.decide(&bytes, CLIENT, transport) {
                Decision::Answer(bytes) => (bytes.len(), Message::from_vec(&bytes).unwrap()),
                other => panic!("{other:?}"),
            }
        };
        let (len, cut) = read(&asked, Transport::Udp);
        assert!(cut.metadata.truncation && len <= 512, "{len}");
        let (_, whole) = read(&asked, Transport::Tcp);
        assert_eq!(
            (whole.metadata.truncation, whole.answers.len()),
            (false, 99)
        );
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        asked.set_edns(edns);
        let (len, cut) = read(&asked, Transport::Udp);
        assert!(cut.metadata.truncation && len <= 1232, "{len}");
        assert_eq!(cut.edns.unwrap().max_payload(), UDP_MAX);
    }

    #[test]
    fn nothing_that_comes_in_ends_it() {
        let zone = zone();
        let mut random = fastrand::Rng::with_seed(7);
        let good = question("jm-1.", RecordType::A).to_vec().unwrap();
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(0..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(0..=bytes.len()));
            bytes.extend((0..random.usize(0..40)).map(|_| random.u8(..)));
            zone.decide(&bytes, CLIENT, Transport::Tcp);
        }
    }
}
