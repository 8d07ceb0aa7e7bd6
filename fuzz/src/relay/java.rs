//! Object graphs, and the streams that Java would write of them.

use std::collections::HashMap;

use arbitrary::{Result, Unstructured};

/// A text, and what it has to become.
#[derive(Clone, Debug)]
pub struct Text {
    pub before: String,
    pub after: String,
}

/// Something in a stream.
#[derive(Debug)]
enum Node {
    Null,
    Text(Text),
    /// One of the texts that were written before.
    Again(usize),
    Object(Vec<Node>),
    /// With a superclass and a number.
    Lower(u32, Vec<Node>),
    /// Declares a field, and writes only what it likes.
    Custom(Vec<u8>, Vec<Node>),
    /// Writes its fields, and more.
    More(Text, Vec<u8>, Vec<Node>),
    External(Vec<u8>, Vec<Node>),
    Array(Vec<Node>),
    Numbers(u16),
    Bytes(Vec<u8>),
    Stream(Vec<Node>),
    Constant,
    Class,
    Blob(Text),
    Reference(Text),
    Block(Vec<u8>),
    Reset,
}

/// Makes texts: of a plain string, of a reference's path, of the blob server's host.
pub trait Texts {
    fn plain(&mut self, input: &mut Unstructured<'_>) -> Result<Text>;
    fn reference(&mut self, input: &mut Unstructured<'_>) -> Result<Text>;
    fn host(&mut self, input: &mut Unstructured<'_>) -> Result<Text>;
}

/// A stream, and what it has to become.
pub fn stream(input: &mut Unstructured<'_>, texts: &mut impl Texts) -> Result<[Vec<u8>; 2]> {
    let nodes = contents(input, texts, 0)?;
    Ok([false, true].map(|is_after| write(&nodes, is_after)))
}

fn contents(input: &mut Unstructured<'_>, texts: &mut impl Texts, depth: u32) -> Result<Vec<Node>> {
    let mut nodes = list(input, texts, depth)?;
    if depth == 0 || input.ratio(1, 4)? {
        match input.int_in_range(0..=5)? {
            0 => nodes.insert(0, Node::Reset),
            1 => nodes.push(Node::Block(bytes(input)?)),
            _ => {}
        }
    }
    Ok(nodes)
}

fn list(input: &mut Unstructured<'_>, texts: &mut impl Texts, depth: u32) -> Result<Vec<Node>> {
    let count = input.int_in_range(0..=4)?;
    (0..count).map(|_| node(input, texts, depth + 1)).collect()
}

fn bytes(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = *input.choose(&[0, 1, 5, 130, 255, 256, 700])?;
    let byte = input.arbitrary()?;
    // Not the beginning of a stream.
    Ok(vec![if byte == 0xac { 0 } else { byte }; len])
}

fn node(input: &mut Unstructured<'_>, texts: &mut impl Texts, depth: u32) -> Result<Node> {
    let most = if depth > 6 { 8 } else { 16 };
    Ok(match input.int_in_range(0..=most)? {
        0 => Node::Null,
        1 | 2 => Node::Text(texts.plain(input)?),
        3 => Node::Again(input.int_in_range(0..=9)?),
        4 => Node::Numbers(input.int_in_range(0..=300)?),
        5 => Node::Bytes(bytes(input)?),
        6 if *input.choose(&[true, false])? => Node::Constant,
        6 => Node::Class,
        7 => Node::Blob(texts.host(input)?),
        8 => Node::Reference(texts.reference(input)?),
        9 => Node::Object(vec![node(input, texts, depth + 1)?]),
        10 => Node::Lower(
            input.arbitrary()?,
            vec![
                node(input, texts, depth + 1)?,
                node(input, texts, depth + 1)?,
            ],
        ),
        11 => Node::Custom(bytes(input)?, list(input, texts, depth)?),
        12 => Node::More(
            texts.plain(input)?,
            bytes(input)?,
            list(input, texts, depth)?,
        ),
        13 => Node::External(bytes(input)?, list(input, texts, depth)?),
        14 => Node::Array(list(input, texts, depth)?),
        _ => Node::Stream(contents(input, texts, depth + 1)?),
    })
}

fn write(nodes: &[Node], is_after: bool) -> Vec<u8> {
    let mut writer = Writer {
        out: vec![0xac, 0xed, 0, 5],
        is_after,
        handles: 0,
        known: HashMap::new(),
        texts: Vec::new(),
    };
    for node in nodes {
        writer.node(node);
    }
    writer.out
}

struct Writer {
    out: Vec<u8>,
    is_after: bool,
    handles: u32,
    /// Handles of classes and of the names of types.
    known: HashMap<&'static str, u32>,
    /// Handles of plain texts.
    texts: Vec<u32>,
}

const OBJECT: &str = "Ljava/lang/Object;";
const STRING: &str = "Ljava/lang/String;";

impl Writer {
    fn handle(&mut self) -> u32 {
        self.handles += 1;
        self.handles - 1
    }

    fn reference(&mut self, handle: u32) {
        self.out.push(0x71);
        self.out.extend((0x7e_0000 + handle).to_be_bytes());
    }

    fn utf(&mut self, text: &str) {
        self.out.extend((text.len() as u16).to_be_bytes());
        self.out.extend(text.as_bytes());
    }

    fn text(&mut self, text: &Text) -> u32 {
        self.out.push(0x74);
        let text = if self.is_after {
            &text.after
        } else {
            &text.before
        };
        self.utf(&text.clone());
        self.handle()
    }

    fn block(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match u8::try_from(bytes.len()) {
            Ok(len) => self.out.extend([0x77, len]),
            Err(_) => {
                self.out.push(0x7a);
                self.out.extend((bytes.len() as u32).to_be_bytes());
            }
        }
        self.out.extend(bytes);
    }

    fn annotation(&mut self, bytes: &[u8], nodes: &[Node]) {
        self.block(bytes);
        for node in nodes {
            self.node(node);
        }
        self.out.push(0x78);
    }

    /// The description of a class: flags, fields, superclass.
    fn class(
        &mut self,
        name: &'static str,
        flags: u8,
        fields: &[(u8, &str, &'static str)],
        parent: impl FnOnce(&mut Self),
    ) {
        if let Some(handle) = self.known.get(name) {
            self.reference(*handle);
            return;
        }
        self.out.push(0x72);
        self.utf(name);
        self.out.extend(5_u64.to_be_bytes());
        let handle = self.handle();
        self.known.insert(name, handle);
        self.out.push(flags);
        self.out.extend((fields.len() as u16).to_be_bytes());
        for (kind, field, class) in fields {
            self.out.push(*kind);
            self.utf(field);
            if class.is_empty() {
                continue;
            }
            if let Some(handle) = self.known.get(class) {
                self.reference(*handle);
            } else {
                self.out.push(0x74);
                self.utf(class);
                let handle = self.handle();
                self.known.insert(class, handle);
            }
        }
        self.out.push(0x78);
        parent(self);
    }

    fn no_parent(&mut self) {
        self.out.push(0x70);
    }

    fn node_class(&mut self) {
        self.class("a.Node", 2, &[(b'L', "next", OBJECT)], Self::no_parent);
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Null => self.out.push(0x70),
            Node::Text(text) => {
                let handle = self.text(text);
                self.texts.push(handle);
            }
            Node::Again(index) => match self.texts.len() {
                0 => self.out.push(0x70),
                len => self.reference(self.texts[index % len]),
            },
            Node::Object(values) => {
                self.out.push(0x73);
                self.node_class();
                self.handle();
                self.nodes(values);
            }
            Node::Lower(number, values) => {
                self.out.push(0x73);
                let fields = [(b'I', "number", ""), (b'L', "text", OBJECT)];
                self.class("a.Lower", 2, &fields, Self::node_class);
                self.handle();
                self.node(&values[0]);
                self.out.extend(number.to_be_bytes());
                self.node(&values[1]);
            }
            Node::Custom(bytes, nodes) => {
                self.out.push(0x73);
                let fields = [(b'L', "name", STRING)];
                self.class("a.Custom", 3, &fields, Self::no_parent);
                self.handle();
                // Data comes first: without it nothing tells that the field is not written.
                self.block(&[7; 3]);
                self.annotation(bytes, nodes);
            }
            Node::More(text, bytes, nodes) => {
                self.out.push(0x73);
                let fields = [(b'J', "number", ""), (b'L', "path", STRING)];
                self.class("a.More", 3, &fields, Self::no_parent);
                self.handle();
                self.out.extend(0x7473_7274_7374_7371_u64.to_be_bytes());
                let handle = self.text(text);
                self.texts.push(handle);
                self.annotation(bytes, nodes);
            }
            Node::External(bytes, nodes) => {
                self.out.push(0x73);
                self.class("a.External", 12, &[], Self::no_parent);
                self.handle();
                self.annotation(bytes, nodes);
            }
            Node::Array(nodes) => {
                self.array("[Ljava.lang.Object;", nodes.len());
                self.nodes(nodes);
            }
            Node::Numbers(count) => {
                self.array("[I", usize::from(*count));
                self.out.extend(vec![0x74; 4 * usize::from(*count)]);
            }
            Node::Bytes(bytes) => {
                self.array("[B", bytes.len());
                self.out.extend(bytes);
            }
            Node::Stream(nodes) => {
                let stream = write(nodes, self.is_after);
                self.array("[B", stream.len());
                self.out.extend(stream);
            }
            Node::Constant => {
                self.out.push(0x7e);
                self.class("a.Constant", 0x12, &[], |writer| {
                    writer.class("java.lang.Enum", 0x12, &[], Self::no_parent);
                });
                self.handle();
                self.out.push(0x74);
                self.utf("ONE");
                self.handle();
            }
            Node::Class => {
                self.out.push(0x76);
                self.node_class();
                self.handle();
            }
            Node::Blob(host) => {
                self.out.push(0x73);
                let fields = [
                    (b'I', "blobServerPort", ""),
                    (b'L', "blobServerHostname", STRING),
                ];
                self.class(
                    "org.apache.flink.runtime.entrypoint.ClusterInformation",
                    2,
                    &fields,
                    Self::no_parent,
                );
                self.handle();
                self.out.extend(6124_u32.to_be_bytes());
                self.text(host);
            }
            Node::Reference(path) => {
                self.out.push(0x73);
                let fields = [(b'L', "path", STRING)];
                self.class("akka.actor.SerializedActorRef", 2, &fields, Self::no_parent);
                self.handle();
                self.text(path);
            }
            Node::Block(bytes) => self.block(bytes),
            Node::Reset => {
                self.out.push(0x79);
                self.handles = 0;
                self.known.clear();
                self.texts.clear();
            }
        }
    }

    fn nodes(&mut self, nodes: &[Node]) {
        for node in nodes {
            self.node(node);
        }
    }

    fn array(&mut self, class: &'static str, len: usize) {
        self.out.push(0x75);
        self.class(class, 2, &[], Self::no_parent);
        self.handle();
        self.out.extend((len as u32).to_be_bytes());
    }
}
