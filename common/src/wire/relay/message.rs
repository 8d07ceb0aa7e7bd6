//! Walks a frame of classic remoting and notes which names in it are to be replaced.
//!
//! ```text
//! u32 length │ Message  1 payload → Container  2 envelope → Envelope  1 recipient, 2 message, 4 sender
//!            │          2 instruction → Control  2 handshake → Handshake  1 origin → Address
//! ```
//!
//! Towards the endpoint: the recipient, and references to actors of the endpoint in the messages of
//! remoting itself (watch, deployment, routers). From the endpoint: its Associate, the sender, references
//! to its actors, and strings of Java that are actor paths. Sources: `WireFormats.proto`,
//! `ContainerFormats.proto`, `SystemMessageFormats.proto`, `MiscMessageSerializer.scala` of akka-remote 2.5
//! and Pekko 1.x.

use core::ops::Range;

use super::{
    java,
    names::Recipient,
    plan::{Form, Text},
    proto::{Field, Reader, Stop},
    walk::Walk,
};

/// Messages in messages, at the most.
const NESTED_MAX: u32 = 16;

/// Fields that are looked into; all others stay as they are.
struct Schema(&'static [(u32, Kind)]);

/// What a field is.
enum Kind {
    /// The path of an actor.
    Path,
    Message(&'static Schema),
    /// An `AddressData`.
    Address,
    Payload(&'static Shape),
}

/// The fields of a serialized object.
struct Shape {
    bytes: u32,
    serializer: u32,
    manifest: u32,
}

const SERIALIZED_MESSAGE: Shape = Shape {
    bytes: 1,
    serializer: 2,
    manifest: 3,
};
const PAYLOAD: Shape = Shape {
    bytes: 1,
    serializer: 2,
    manifest: 4,
};
/// The scope in `DeployData`.
const SCOPE: Shape = Shape {
    bytes: 4,
    serializer: 6,
    manifest: 7,
};
const REF: Schema = Schema(&[(1, Kind::Path)]);
const PAYLOAD_AT_1: Schema = Schema(&[(1, Kind::Payload(&PAYLOAD))]);
const ACTOR_IDENTITY: Schema = Schema(&[(1, Kind::Payload(&PAYLOAD)), (2, Kind::Message(&REF))]);
const REMOTE_SCOPE: Schema = Schema(&[(1, Kind::Address)]);
const ROUTER_CONFIG: Schema = Schema(&[(1, Kind::Payload(&PAYLOAD)), (2, Kind::Address)]);
const INITIALIZATION_EXCEPTION: Schema =
    Schema(&[(1, Kind::Message(&REF)), (3, Kind::Payload(&PAYLOAD))]);
const DAEMON_MESSAGE_CREATE: Schema = Schema(&[
    (2, Kind::Payload(&SCOPE)),
    (3, Kind::Path),
    (4, Kind::Message(&REF)),
]);
const WATCH: Schema = Schema(&[(1, Kind::Message(&REF)), (2, Kind::Message(&REF))]);
const REF_AT_1: Schema = Schema(&[(1, Kind::Message(&REF))]);
/// 2 watch and unwatch, 3 create, 5 supervise, 6 failed, 7 death watch notification.
const SYSTEM_MESSAGE: Schema = Schema(&[
    (2, Kind::Message(&WATCH)),
    (3, Kind::Payload(&PAYLOAD)),
    (5, Kind::Message(&REF_AT_1)),
    (6, Kind::Message(&REF_AT_1)),
    (7, Kind::Message(&REF_AT_1)),
]);

impl Walk<'_> {
    /// Walks a frame whose body has `len` bytes.
    pub(super) fn frame(&mut self, len: usize) -> Result<(), Stop> {
        self.plan.clear();
        let frame = self.plan.open(0, 4, Form::U32, len);
        let walked = self.message(4..4 + len);
        self.plan.close(frame);
        match walked {
            Err(Stop::Enough) => Ok(()),
            other => other,
        }
    }

    fn message(&mut self, range: Range<usize>) -> Result<(), Stop> {
        let mut reader = Reader::new(self.bytes, range);
        while let Some(field) = reader.next()? {
            match field.number {
                1 if field.is_bytes => self.within(&field, Self::container)?,
                2 if field.is_bytes => self.within(&field, Self::control)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn container(&mut self, range: Range<usize>) -> Result<(), Stop> {
        let mut reader = Reader::new(self.bytes, range);
        while let Some(field) = reader.next()? {
            if field.number == 2 && field.is_bytes {
                self.within(&field, Self::envelope)?;
            }
        }
        Ok(())
    }

    fn envelope(&mut self, range: Range<usize>) -> Result<(), Stop> {
        let is_inbound = self.names.is_inbound();
        let mut reader = Reader::new(self.bytes, range);
        let mut has_message = false;
        while let Some(field) = reader.next()? {
            match field.number {
                1 if field.is_bytes && is_inbound => {
                    self.within(&field, Self::recipient)?;
                    if !self.is_whole {
                        return Err(Stop::Enough);
                    }
                }
                2 if field.is_bytes => {
                    // A second one would be merged with the first.
                    if has_message {
                        return Err(Stop::Bad);
                    }
                    has_message = true;
                    let message = field.value.clone();
                    if self.is_whole && self.occurs(message) {
                        self.within(&field, |walk, range| {
                            walk.payload(range, &SERIALIZED_MESSAGE, 0)
                        })?;
                    }
                }
                4 if field.is_bytes && !is_inbound => {
                    self.within(&field, |walk, range| walk.fields(range, &REF, 0))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The recipient of a message to the endpoint.
    fn recipient(&mut self, range: Range<usize>) -> Result<(), Stop> {
        let mut reader = Reader::new(self.bytes, range);
        while let Some(field) = reader.next()? {
            if field.number != 1 || !field.is_bytes {
                continue;
            }
            let path = self.text(field.value.clone())?;
            match self.names.find_recipient(path) {
                None | Some((_, Recipient::Canonical)) => {}
                Some((authority, Recipient::Alias)) => self.replace_authority(&field, authority)?,
                Some((_, Recipient::Foreign)) => self.seen.foreign = true,
            }
        }
        Ok(())
    }

    /// Control messages: of these, an Associate has the address of the node that sends it.
    ///
    /// A peer's own address is none of the endpoint's names. If it were, replies to it would reach the
    /// endpoint's own actors.
    fn control(&mut self, range: Range<usize>) -> Result<(), Stop> {
        const HANDSHAKE: Schema = Schema(&[(1, Kind::Address)]);
        const CONTROL: Schema = Schema(&[(2, Kind::Message(&HANDSHAKE))]);
        match (self.names.is_inbound(), self.is_whole) {
            (false, _) => self.fields(range, &CONTROL, 0),
            (true, true) => Ok(()),
            (true, false) => Err(Stop::Enough),
        }
    }

    fn fields(
        &mut self,
        range: Range<usize>,
        schema: &'static Schema,
        depth: u32,
    ) -> Result<(), Stop> {
        let mut reader = Reader::new(self.bytes, range);
        while let Some(field) = reader.next()? {
            let Some((_, kind)) = schema
                .0
                .iter()
                .find(|(number, _)| *number == field.number && field.is_bytes)
            else {
                continue;
            };
            match kind {
                Kind::Path => {
                    let path = self.text(field.value.clone())?;
                    if let Some(authority) = self.names.find_in_path(path) {
                        self.replace_authority(&field, authority)?;
                    }
                }
                Kind::Message(schema) => {
                    self.within(&field, |walk, range| walk.fields(range, schema, depth))?;
                }
                Kind::Address => self.within(&field, Self::address)?,
                Kind::Payload(shape) => {
                    self.within(&field, |walk, range| walk.payload(range, shape, depth))?;
                }
            }
        }
        Ok(())
    }

    /// An `AddressData`: 1 system, 2 host, 3 port, 4 protocol.
    fn address(&mut self, range: Range<usize>) -> Result<(), Stop> {
        let (mut host, mut port) = (None, None);
        let mut reader = Reader::new(self.bytes, range);
        while let Some(field) = reader.next()? {
            let known = match field.number {
                2 if field.is_bytes => &mut host,
                3 if !field.is_bytes => &mut port,
                _ => continue,
            };
            if known.replace(field).is_some() {
                return Err(Stop::Bad);
            }
        }
        let (Some(host), Some(port)) = (host, port) else {
            return Ok(());
        };
        let (Some(from), Some(to)) = (self.names.from(), self.names.to()) else {
            return Ok(());
        };
        let is_from =
            from.is_host(self.text(host.value.clone())?) && port.varint == u64::from(from.port());
        if !is_from {
            return Ok(());
        }
        let has_other_port = from.port() != to.port();
        let is_port_first = port.value.start < host.value.start;
        let replace_port = |walk: &mut Self| {
            if has_other_port {
                walk.plan
                    .replace(port.value.start, port.value.len(), Text::Port);
            }
        };
        if is_port_first {
            replace_port(self);
        }
        self.within(&host, |walk, range| {
            walk.plan.replace(range.start, range.len(), Text::Host);
            Ok(())
        })?;
        if !is_port_first {
            replace_port(self);
        }
        Ok(())
    }

    /// A serialized object. One that is not understood stays as it is: what is around it does not depend on it.
    fn payload(
        &mut self,
        range: Range<usize>,
        shape: &'static Shape,
        depth: u32,
    ) -> Result<(), Stop> {
        let (mut object, mut serializer, mut manifest) = (None, None, None);
        let mut reader = Reader::new(self.bytes, range);
        while let Some(field) = reader.next()? {
            let known = match field.number {
                number if number == shape.bytes && field.is_bytes => &mut object,
                number if number == shape.serializer && !field.is_bytes => &mut serializer,
                number if number == shape.manifest && field.is_bytes => &mut manifest,
                _ => continue,
            };
            if known.replace(field).is_some() {
                return Err(Stop::Bad);
            }
        }
        let Some(object) = object else {
            return Ok(());
        };
        if depth >= NESTED_MAX {
            return Err(Stop::Bad);
        }
        if !self.occurs(object.value.clone()) {
            return Ok(());
        }
        // Negative identifiers are sign-extended.
        let serializer = serializer.map(|field| field.varint as i32);
        let manifest = match manifest {
            Some(field) => self.text(field.value)?,
            None => &[],
        };
        let before = self.plan.len();
        let walked = self.within(&object, |walk, range| {
            walk.object(range, serializer, manifest, depth + 1)
        });
        if walked == Err(Stop::Bad) {
            self.plan.truncate(before);
            self.seen.uncertain = true;
            return Ok(());
        }
        walked
    }

    /// The bytes of an object, by the identifier of its serializer (`reference.conf` of actor and remote).
    fn object(
        &mut self,
        range: Range<usize>,
        serializer: Option<i32>,
        manifest: &[u8],
        depth: u32,
    ) -> Result<(), Stop> {
        match serializer {
            Some(1) => java::walk(self, range),
            Some(3) => self.fields(range, &DAEMON_MESSAGE_CREATE, depth),
            Some(6) => self.payload(range, &PAYLOAD, depth),
            Some(16) => self.miscellaneous(range, manifest, depth),
            Some(20) => self.string(range),
            Some(22) => self.fields(range, &SYSTEM_MESSAGE, depth),
            // Null, bytes, numbers.
            Some(0 | 4 | 17..=19 | 21) => Ok(()),
            _ if self.is_named(range) => Err(Stop::Bad),
            _ => Ok(()),
        }
    }

    /// Messages of `MiscMessageSerializer`.
    fn miscellaneous(
        &mut self,
        range: Range<usize>,
        manifest: &[u8],
        depth: u32,
    ) -> Result<(), Stop> {
        let schema = match manifest {
            b"A" | b"C" | b"H" => &PAYLOAD_AT_1,
            b"B" => &ACTOR_IDENTITY,
            b"D" | b"E" | b"S" | b"SE" => return self.payload(range, &PAYLOAD, depth),
            b"G" => &REF,
            b"AD" => return self.address(range),
            b"RS" => &REMOTE_SCOPE,
            b"RORRC" => &ROUTER_CONFIG,
            b"AIEX" => &INITIALIZATION_EXCEPTION,
            // Texts, numbers and what is empty.
            _ => return Ok(()),
        };
        self.fields(range, schema, depth)
    }

    /// A message that is a string: the path of an actor, if all of it is.
    fn string(&mut self, range: Range<usize>) -> Result<(), Stop> {
        let path = self.text(range.clone())?;
        if !self.names.is_inbound()
            && let Some(authority) = self.names.find_in_path(path)
        {
            let (at, len) = (range.start + authority.start, authority.len());
            self.plan.replace(at, len, Text::Authority);
        }
        Ok(())
    }

    /// Walks the value of a field with `inside`, with the field's length around what that replaces.
    fn within(
        &mut self,
        field: &Field,
        inside: impl FnOnce(&mut Self, Range<usize>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let open = self.plan.open(
            field.length.start,
            field.length.len(),
            Form::Varint,
            field.value.len(),
        );
        let walked = inside(self, field.value.clone());
        self.plan.close(open);
        walked
    }

    /// Replaces the authority in the path that a field holds.
    fn replace_authority(&mut self, field: &Field, authority: Range<usize>) -> Result<(), Stop> {
        self.within(field, |walk, range| {
            let at = range.start + authority.start;
            walk.plan.replace(at, authority.len(), Text::Authority);
            Ok(())
        })
    }
}
