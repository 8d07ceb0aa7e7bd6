//! An endpoint and its clients.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use truename_common::layout::Counter;

use super::{
    packet::{Link, Shape},
    program::Program,
    talk::{Side, Talk},
};
use crate::wire::{Envelope, Names, associate};

/// Text that looks like the canonical name and is something else.
pub const NEAR_MISSES: &str = "://flink@jobmanager:61234/ jobmanager_2 jobmanager.rpc.address \
     ://flink@jobmanager_2:6123/ ://flink_@jobmanager:6123/ @jobmanager:6123/ :://flink@jobmanager:6123 ";

/// What a scene begins with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// The host of the alias; the canonical one is `jobmanager`, all ports are 6123.
    pub alias: &'a str,
    /// Whether the canonical authority is configured, or has to be learned.
    pub configured: bool,
    /// The aliases that are answered to; else any.
    pub listed: Option<&'a [&'a str]>,
    /// Whether the addresses are IPv6.
    pub v6: bool,
    /// What packets look like.
    pub shape: Shape,
    /// Whether the endpoint is configured for any address.
    pub wildcard: bool,
}

/// How a recipient is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// At the alias, as the client writes it.
    Alias,
    /// At the canonical authority, padded to the alias.
    Padded,
    /// Without an authority, as long as with the alias.
    Local,
}

/// An endpoint with tables of its own.
pub struct Scene {
    /// The program.
    pub program: Program,
    /// Who talks to whom.
    pub names: Names,
    /// Where the endpoint is.
    pub endpoint: SocketAddr,
    shape: Shape,
    port: Cell<u16>,
}

impl Scene {
    /// Loads the program of the object.
    ///
    /// # Panics
    /// The kernel refuses it.
    pub fn new(object: &[u8], setup: &Setup<'_>) -> Self {
        let names = Names::flink("jobmanager", setup.alias);
        let endpoint: IpAddr = if setup.v6 {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into()
        } else {
            Ipv4Addr::new(10, 0, 0, 1).into()
        };
        let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let listen = if setup.wildcard { any } else { endpoint };
        let link = setup.shape.link;
        let mut program = Program::load(object, link).expect("the program loads");
        let canonical = setup.configured.then(|| names.canonical.to_string());
        program
            .endpoint(
                SocketAddr::new(listen, 6123),
                canonical.as_deref(),
                setup.listed,
            )
            .expect("the tables can be written");
        program.owns(endpoint).expect("the table can be written");
        Self {
            program,
            names,
            endpoint: SocketAddr::new(endpoint, 6123),
            shape: setup.shape,
            port: Cell::new(10_000),
        }
    }

    /// A scene with Ethernet and IPv4, whose canonical name has to be learned.
    pub fn with_alias(object: &[u8], alias: &str) -> Self {
        let setup = Setup {
            alias,
            ..Setup::default()
        };
        Self::new(object, &setup)
    }

    /// A scene whose canonical name is configured.
    pub fn configured(object: &[u8], alias: &str) -> Self {
        let setup = Setup {
            alias,
            configured: true,
            ..Setup::default()
        };
        Self::new(object, &setup)
    }

    /// A connection of which nothing was seen.
    pub fn unseen(&self) -> Talk<'_> {
        let port = self.port.get();
        self.port.set(port + 1);
        let client: IpAddr = if self.endpoint.is_ipv6() {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into()
        } else {
            Ipv4Addr::new(10, 0, 0, 2).into()
        };
        Talk {
            program: &self.program,
            shape: self.shape,
            client: SocketAddr::new(client, port),
            endpoint: self.endpoint,
            first: [1_000_000, 2_000_000],
            next: [0; 2],
            acked: [0; 2],
            summed: false,
        }
    }

    /// A connection that was opened.
    pub fn opened(&self) -> Talk<'_> {
        let talk = self.unseen();
        talk.handshake();
        talk
    }

    /// A connection on which both sides have announced themselves.
    pub fn associated(&self) -> Talk<'_> {
        let mut talk = self.opened();
        self.associate(&mut talk);
        talk
    }

    /// Both sides announce themselves, which must not change.
    ///
    /// # Panics
    /// It does.
    pub fn associate(&self, talk: &mut Talk<'_>) {
        let client = self.client_associate();
        assert_eq!(talk.says(Side::Client, &client), client);
        let endpoint = self.endpoint_associate();
        assert_eq!(talk.says(Side::Endpoint, &endpoint), endpoint);
    }

    /// A connection on which the client has addressed the endpoint by the alias, once.
    ///
    /// # Panics
    /// The first request is not translated to `form`.
    pub fn addressed(&self, form: Form) -> Talk<'_> {
        let mut talk = self.associated();
        let out = talk.says(Side::Client, &self.request(Form::Alias, 20));
        assert_eq!(out, self.request(form, 20));
        talk
    }

    /// The client's first frame.
    pub fn client_associate(&self) -> Vec<u8> {
        associate(&self.names.system, &self.names.client, 7)
    }

    /// The endpoint's first frame.
    pub fn endpoint_associate(&self) -> Vec<u8> {
        associate(&self.names.system, &self.names.canonical, -7)
    }

    /// The front of a recipient, up to its path.
    pub fn front(&self, form: Form) -> String {
        let alias = self.names.alias.to_string();
        match form {
            Form::Alias => self.names.path(&alias, "/"),
            Form::Padded => {
                let padded = self.names.canonical.padded(alias.len());
                self.names.path(&padded.expect("it fits"), "/")
            }
            Form::Local => {
                let slashes = "/".repeat(".tcp@/".len() + alias.len());
                format!("{}://{}{slashes}", self.names.scheme, self.names.system)
            }
        }
    }

    /// A frame of the client with a body of `len` bytes.
    pub fn request(&self, form: Form, len: usize) -> Vec<u8> {
        self.request_to(&format!("{}user/rpc/a", self.front(form)), len)
    }

    /// A frame of the client to any recipient.
    pub fn request_to(&self, recipient: &str, len: usize) -> Vec<u8> {
        Envelope {
            recipient: recipient.to_owned(),
            sender: Some(self.names.path(&self.names.client, "/temp/$a")),
            body: vec![b'.'; len],
            serializer: 1,
            ..Envelope::default()
        }
        .frame()
    }

    /// A frame of the endpoint, which calls itself by its canonical name.
    pub fn reply(&self) -> Vec<u8> {
        self.reply_as(&self.names.canonical.to_string())
    }

    /// The same as the client has to receive it.
    ///
    /// # Panics
    /// The alias does not fit.
    pub fn translated_reply(&self) -> Vec<u8> {
        let length = self.names.canonical.to_string().len();
        self.reply_as(&self.names.alias.padded(length).expect("it fits"))
    }

    /// As [`Self::reply`], without near misses.
    pub fn plain_reply(&self) -> Vec<u8> {
        self.plain_reply_as(&self.names.canonical.to_string())
    }

    /// As [`Self::translated_reply`], without near misses.
    ///
    /// # Panics
    /// The alias does not fit.
    pub fn translated_plain_reply(&self) -> Vec<u8> {
        let length = self.names.canonical.to_string().len();
        self.plain_reply_as(&self.names.alias.padded(length).expect("it fits"))
    }

    fn reply_as(&self, authority: &str) -> Vec<u8> {
        self.frame_as(authority, NEAR_MISSES)
    }

    fn plain_reply_as(&self, authority: &str) -> Vec<u8> {
        self.frame_as(authority, "")
    }

    fn frame_as(&self, authority: &str, misses: &str) -> Vec<u8> {
        let own = self.names.path(&authority, "/user/rpc/b");
        Envelope {
            recipient: self.names.path(&self.names.client, "/temp/$a"),
            sender: Some(own.clone()),
            body: format!("{misses}\x00{}{own}", own.len() as u8 as char).into_bytes(),
            serializer: 1,
            ..Envelope::default()
        }
        .frame()
    }

    /// Asserts the value of a counter.
    ///
    /// # Panics
    /// It has another one.
    pub fn assert_count(&self, counter: Counter, expected: u64) {
        let count = self.program.count(counter).expect("counters can be read");
        assert_eq!(count, expected, "{}", counter.label());
    }
}

/// Every kind of device, version and header that is understood.
pub fn shapes() -> Vec<(Shape, bool)> {
    let plain = Shape::default();
    let mut shapes = Vec::new();
    for link in [Link::Ethernet, Link::Vlan, Link::QinQ] {
        for v6 in [false, true] {
            shapes.push((Shape { link, ..plain }, v6));
        }
    }
    for ipv4_options in [4, 12, 40] {
        let tcp_options = 12;
        shapes.push((
            Shape {
                ipv4_options,
                tcp_options,
                ..plain
            },
            false,
        ));
    }
    for (hop_by_hop, destination) in [(Some(6), None), (None, Some(14)), (Some(22), Some(6))] {
        shapes.push((
            Shape {
                hop_by_hop,
                destination,
                tcp_options: 40,
                ..plain
            },
            true,
        ));
    }
    shapes
}
