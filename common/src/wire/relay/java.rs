//! Reads Java object streams and notes which strings in them are to be replaced.
//!
//! Streams describe their classes, so they can be read without them (Java Object Serialization
//! Specification, chapter 6). Handles count objects, not bytes, so a string may get another length. What
//! counts bytes is the length of the string and of each byte array that holds a stream of its own, as
//! Flink's `SerializedValue` does.

use core::ops::Range;

use super::{
    plan::{Form, Text},
    proto::Stop,
    walk::Walk,
};

/// Objects in objects, at the most.
const DEPTH_MAX: u32 = 200;
/// Classes above one another, at the most.
const SUPERCLASSES_MAX: usize = 64;
/// What a stream begins with: its magic number and version.
const HEADER: [u8; 4] = [0xac, 0xed, 0, 5];
/// The first handle of a stream.
const BASE_HANDLE: u32 = 0x7e_0000;

/// What an element of a stream begins with.
mod tag {
    pub(super) const NULL: u8 = 0x70;
    pub(super) const REFERENCE: u8 = 0x71;
    pub(super) const CLASS_DESC: u8 = 0x72;
    pub(super) const OBJECT: u8 = 0x73;
    pub(super) const STRING: u8 = 0x74;
    pub(super) const ARRAY: u8 = 0x75;
    pub(super) const CLASS: u8 = 0x76;
    pub(super) const BLOCK_DATA: u8 = 0x77;
    pub(super) const END_BLOCK_DATA: u8 = 0x78;
    pub(super) const RESET: u8 = 0x79;
    pub(super) const BLOCK_DATA_LONG: u8 = 0x7a;
    pub(super) const LONG_STRING: u8 = 0x7c;
    pub(super) const PROXY_CLASS_DESC: u8 = 0x7d;
    pub(super) const ENUM: u8 = 0x7e;
}

/// Flags of a class.
mod class_flag {
    pub(super) const WRITE_METHOD: u8 = 1;
    pub(super) const SERIALIZABLE: u8 = 2;
    pub(super) const EXTERNALIZABLE: u8 = 4;
    pub(super) const BLOCK_DATA: u8 = 8;
}

/// What a string is to the object that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nothing that is known.
    Plain,
    /// The path of a reference to an actor.
    ActorPath,
    /// The host of Flink's blob server.
    BlobHost,
}

#[derive(Debug)]
struct Class {
    name: Range<usize>,
    flags: u8,
    fields: Vec<ClassField>,
    parent: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct ClassField {
    /// Bytes of a primitive value; 0 for an object.
    size: u8,
    role: Role,
}

/// Walks the stream, or the streams one in another, at `range` of the frame.
pub(super) fn walk(walk: &mut Walk<'_>, range: Range<usize>) -> Result<(), Stop> {
    stream(walk, range, 0)
}

fn stream(walk: &mut Walk<'_>, range: Range<usize>, depth: u32) -> Result<(), Stop> {
    let mut stream = Stream {
        at: range.start,
        end: range.end,
        walk,
        handles: 0,
        classes: Vec::new(),
        class_handles: Vec::new(),
        replaced: Vec::new(),
        depth,
    };
    stream.contents()
}

/// A stream that is being read.
struct Stream<'w, 'a> {
    walk: &'w mut Walk<'a>,
    at: usize,
    end: usize,
    /// Handles that were given.
    handles: u32,
    classes: Vec<Class>,
    /// Handles of classes, ascending, and their places in `classes`.
    class_handles: Vec<(u32, usize)>,
    /// Handles of strings whose text is replaced, ascending, and as what.
    replaced: Vec<(u32, Role)>,
    depth: u32,
}

impl<'a> Stream<'_, 'a> {
    fn contents(&mut self) -> Result<(), Stop> {
        if self.take(HEADER.len())? != HEADER {
            return Err(Stop::Bad);
        }
        while self.at < self.end {
            match self.peek()? {
                tag::RESET => {
                    self.at += 1;
                    self.handles = 0;
                    self.class_handles.clear();
                    self.replaced.clear();
                }
                tag::BLOCK_DATA | tag::BLOCK_DATA_LONG => self.block()?,
                _ => self.value(Role::Plain)?,
            }
        }
        Ok(())
    }

    /// What a class writes beside its fields, up to the end mark.
    fn annotation(&mut self) -> Result<(), Stop> {
        loop {
            match self.peek()? {
                tag::END_BLOCK_DATA => {
                    self.at += 1;
                    return Ok(());
                }
                tag::BLOCK_DATA | tag::BLOCK_DATA_LONG => self.block()?,
                _ => self.value(Role::Plain)?,
            }
        }
    }

    /// Primitive data.
    fn block(&mut self) -> Result<(), Stop> {
        let len = if self.byte()? == tag::BLOCK_DATA {
            usize::from(self.byte()?)
        } else {
            self.number(4)?
        };
        self.take(len).map(drop)
    }

    /// An object, a string, an array, a class or a reference to one of them.
    fn value(&mut self, role: Role) -> Result<(), Stop> {
        if self.depth >= DEPTH_MAX {
            return Err(Stop::Bad);
        }
        self.depth += 1;
        let read = match self.peek()? {
            tag::NULL => self.take(1).map(drop),
            tag::REFERENCE => self.reference(role),
            tag::CLASS_DESC | tag::PROXY_CLASS_DESC => self.class().map(drop),
            tag::OBJECT => self.object(),
            tag::STRING | tag::LONG_STRING => self.string(role),
            tag::ARRAY => self.array(),
            tag::CLASS => {
                self.at += 1;
                self.class()?;
                self.new_handle();
                Ok(())
            }
            tag::ENUM => {
                self.at += 1;
                self.class()?.ok_or(Stop::Bad)?;
                self.new_handle();
                self.type_string()
            }
            _ => Err(Stop::Bad),
        };
        self.depth -= 1;
        read
    }

    /// A reference to something that was written before. A string is the same text for all that refer to it, so it
    /// has to mean the same to all.
    fn reference(&mut self, role: Role) -> Result<(), Stop> {
        let handle = self.handle()?;
        let replaced = self
            .replaced
            .binary_search_by_key(&handle, |(handle, _)| *handle)
            .ok()
            .and_then(|index| self.replaced.get(index));
        let is_inbound = self.walk.names.is_inbound();
        let is_known = match (replaced, role) {
            (Some((_, as_role)), role) if *as_role == role => true,
            // From the endpoint every string that is a path was replaced.
            (Some((_, Role::Plain)), Role::ActorPath) => true,
            (None, Role::ActorPath) => !is_inbound,
            (None, Role::Plain) => true,
            // What the text is that was written before is not known.
            _ => false,
        };
        if is_known { Ok(()) } else { Err(Stop::Bad) }
    }

    /// Reads a reference to a handle that was given.
    fn handle(&mut self) -> Result<u32, Stop> {
        self.at += 1;
        let handle = (self.number(4)? as u32).wrapping_sub(BASE_HANDLE);
        if handle < self.handles {
            Ok(handle)
        } else {
            Err(Stop::Bad)
        }
    }

    fn new_handle(&mut self) -> u32 {
        let handle = self.handles;
        self.handles += 1;
        handle
    }

    fn string(&mut self, role: Role) -> Result<(), Stop> {
        let is_short = self.byte()? == tag::STRING;
        let length = self.at;
        let len = self.number(if is_short { 2 } else { 8 })?;
        let begin = self.at;
        let text = self.walk.text(begin..begin + self.checked(len)?)?;
        self.at += len;
        let handle = self.new_handle();
        let is_inbound = self.walk.names.is_inbound();
        let (at, size, by) = match role {
            Role::BlobHost if !is_inbound => match self.walk.names.from() {
                Some(from) if from.is_host(text) => (begin, len, Text::Host),
                _ => return Ok(()),
            },
            Role::BlobHost => return Ok(()),
            Role::Plain if is_inbound => return Ok(()),
            Role::Plain | Role::ActorPath => match self.walk.names.find_in_path(text) {
                Some(authority) => (begin + authority.start, authority.len(), Text::Authority),
                None => return Ok(()),
            },
        };
        // No path is as long as a long string.
        if !is_short {
            return Err(Stop::Bad);
        }
        let open = self.walk.plan.open(length, 2, Form::U16, len);
        self.walk.plan.replace(at, size, by);
        self.walk.plan.close(open);
        let role = if role == Role::ActorPath && !is_inbound {
            Role::Plain
        } else {
            role
        };
        self.replaced.push((handle, role));
        Ok(())
    }

    /// The string that names a type or a constant, or a reference to one.
    fn type_string(&mut self) -> Result<(), Stop> {
        match self.peek()? {
            tag::REFERENCE => self.handle().map(drop),
            tag::STRING => {
                self.at += 1;
                let len = self.number(2)?;
                self.take(len)?;
                self.new_handle();
                Ok(())
            }
            _ => Err(Stop::Bad),
        }
    }

    /// The description of a class, or a reference to one; `None` if there is none.
    fn class(&mut self) -> Result<Option<usize>, Stop> {
        match self.peek()? {
            tag::NULL => {
                self.at += 1;
                Ok(None)
            }
            tag::REFERENCE => {
                let handle = self.handle()?;
                let known = self
                    .class_handles
                    .binary_search_by_key(&handle, |(handle, _)| *handle)
                    .map_err(|_| Stop::Bad)?;
                Ok(self.class_handles.get(known).map(|(_, class)| *class))
            }
            tag::CLASS_DESC => self.new_class().map(Some),
            tag::PROXY_CLASS_DESC => self.new_proxy_class().map(Some),
            _ => Err(Stop::Bad),
        }
    }

    fn new_class(&mut self) -> Result<usize, Stop> {
        self.at += 1;
        let name = self.utf()?;
        self.take(8)?;
        let class = self.add_class(name.clone());
        let flags = self.byte()?;
        let count = self.number(2)?;
        let mut fields = Vec::new();
        for _ in 0..count {
            let size = match self.byte()? {
                b'B' | b'Z' => 1,
                b'C' | b'S' => 2,
                b'I' | b'F' => 4,
                b'J' | b'D' => 8,
                b'L' | b'[' => 0,
                _ => return Err(Stop::Bad),
            };
            let field = self.utf()?;
            let role = self.role(name.clone(), field)?;
            if size == 0 {
                self.type_string()?;
            }
            fields.push(ClassField { size, role });
        }
        if let Some(class) = self.classes.get_mut(class) {
            class.flags = flags;
            class.fields = fields;
        }
        self.end_class(class)
    }

    fn new_proxy_class(&mut self) -> Result<usize, Stop> {
        self.at += 1;
        let class = self.add_class(self.at..self.at);
        let count = self.number(4)?;
        for _ in 0..count {
            self.utf()?;
        }
        if let Some(class) = self.classes.get_mut(class) {
            class.flags = class_flag::SERIALIZABLE;
        }
        self.end_class(class)
    }

    fn add_class(&mut self, name: Range<usize>) -> usize {
        let handle = self.new_handle();
        let class = self.classes.len();
        self.class_handles.push((handle, class));
        self.classes.push(Class {
            name,
            flags: 0,
            fields: Vec::new(),
            parent: None,
        });
        class
    }

    /// The annotation of a class and its superclass.
    fn end_class(&mut self, class: usize) -> Result<usize, Stop> {
        if self.depth >= DEPTH_MAX {
            return Err(Stop::Bad);
        }
        self.depth += 1;
        self.annotation()?;
        let parent = self.class()?;
        self.depth -= 1;
        if let Some(class) = self.classes.get_mut(class) {
            class.parent = parent;
        }
        Ok(class)
    }

    fn role(&self, class: Range<usize>, field: Range<usize>) -> Result<Role, Stop> {
        let (class, field) = (self.walk.text(class)?, self.walk.text(field)?);
        Ok(match (class, field) {
            (b"org.apache.flink.runtime.entrypoint.ClusterInformation", b"blobServerHostname") => {
                Role::BlobHost
            }
            (
                b"akka.actor.SerializedActorRef" | b"org.apache.pekko.actor.SerializedActorRef",
                b"path",
            ) => Role::ActorPath,
            _ => Role::Plain,
        })
    }

    fn object(&mut self) -> Result<(), Stop> {
        self.at += 1;
        let class = self.class()?.ok_or(Stop::Bad)?;
        self.new_handle();
        // Values of the uppermost class come first.
        let mut chain = [0; SUPERCLASSES_MAX];
        let mut len = 0;
        let mut next = Some(class);
        while let Some(class) = next {
            *chain.get_mut(len).ok_or(Stop::Bad)? = class;
            len += 1;
            next = self.classes.get(class).ok_or(Stop::Bad)?.parent;
        }
        for class in chain.iter().take(len).rev() {
            self.values_of(*class)?;
        }
        Ok(())
    }

    /// What an object has of one class.
    fn values_of(&mut self, class: usize) -> Result<(), Stop> {
        let flags = self.classes.get(class).ok_or(Stop::Bad)?.flags;
        let kind = flags & (class_flag::SERIALIZABLE | class_flag::EXTERNALIZABLE);
        match kind {
            class_flag::SERIALIZABLE => {
                let has_method = flags & class_flag::WRITE_METHOD != 0;
                if !has_method || self.has_fields(class)? {
                    let mut index = 0;
                    while let Some(field) = self
                        .classes
                        .get(class)
                        .and_then(|class| class.fields.get(index))
                        .copied()
                    {
                        if field.size == 0 {
                            self.value(field.role)?;
                        } else {
                            self.take(usize::from(field.size))?;
                        }
                        index += 1;
                    }
                }
                if has_method {
                    self.annotation()
                } else {
                    Ok(())
                }
            }
            class_flag::EXTERNALIZABLE if flags & class_flag::BLOCK_DATA != 0 => self.annotation(),
            0 => Ok(()),
            _ => Err(Stop::Bad),
        }
    }

    /// Whether a class with a write method has written its fields. Flink's `MethodInvocation` does not, though it
    /// declares some: a block of data, or the end mark, is no value of a field.
    fn has_fields(&self, class: usize) -> Result<bool, Stop> {
        let first = self
            .classes
            .get(class)
            .and_then(|class| class.fields.first());
        let is_object = first.is_some_and(|field| field.size == 0);
        let is_annotation = matches!(
            self.peek()?,
            tag::BLOCK_DATA | tag::BLOCK_DATA_LONG | tag::END_BLOCK_DATA
        );
        Ok(!(is_object && is_annotation))
    }

    fn array(&mut self) -> Result<(), Stop> {
        self.at += 1;
        let class = self.class()?.ok_or(Stop::Bad)?;
        self.new_handle();
        let name = self.classes.get(class).ok_or(Stop::Bad)?.name.clone();
        let component = match self.walk.text(name)? {
            [b'[', component, ..] => *component,
            _ => return Err(Stop::Bad),
        };
        let length = self.at;
        let count = self.number(4)?;
        let size = match component {
            b'B' => return self.bytes(length, count),
            b'Z' => 1,
            b'C' | b'S' => 2,
            b'I' | b'F' => 4,
            b'J' | b'D' => 8,
            b'L' | b'[' => {
                for _ in 0..count {
                    self.value(Role::Plain)?;
                }
                return Ok(());
            }
            _ => return Err(Stop::Bad),
        };
        self.take(count.checked_mul(size).ok_or(Stop::Bad)?)
            .map(drop)
    }

    /// A byte array, which may hold a stream.
    fn bytes(&mut self, length: usize, count: usize) -> Result<(), Stop> {
        let begin = self.at;
        let bytes = self.take(count)?;
        let range = begin..self.at;
        if !bytes.starts_with(&HEADER) {
            // The bytes of something else stay as they are.
            self.walk.seen.uncertain |= self.walk.is_named(range);
            return Ok(());
        }
        if !self.walk.occurs(range.clone()) {
            return Ok(());
        }
        let before = self.walk.plan.len();
        let open = self.walk.plan.open(length, 4, Form::U32, count);
        let walked = stream(self.walk, range, self.depth);
        self.walk.plan.close(open);
        if walked == Err(Stop::Bad) {
            // What is around it does not depend on it.
            self.walk.plan.truncate(before);
            self.walk.seen.uncertain = true;
            return Ok(());
        }
        walked
    }

    /// The place of a text with its length in front.
    fn utf(&mut self) -> Result<Range<usize>, Stop> {
        let len = self.number(2)?;
        let begin = self.at;
        self.take(len)?;
        Ok(begin..self.at)
    }

    /// A number of `len` bytes.
    fn number(&mut self, len: usize) -> Result<usize, Stop> {
        let bytes = self.take(len)?;
        let number = bytes
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).map_err(|_| Stop::Bad)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Result<u8, Stop> {
        if self.at < self.end {
            self.walk.bytes.get(self.at).copied().ok_or(Stop::Bad)
        } else {
            Err(Stop::Bad)
        }
    }

    /// `len`, if so many bytes are left.
    fn checked(&self, len: usize) -> Result<usize, Stop> {
        if len <= self.end.saturating_sub(self.at) {
            Ok(len)
        } else {
            Err(Stop::Bad)
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let begin = self.at;
        self.at += self.checked(len)?;
        self.walk.bytes.get(begin..self.at).ok_or(Stop::Bad)
    }
}
