//! How a stream has to arrive: a second, simple implementation of the translation on complete frames.

use super::{check::Piece, names::Names};

/// What the server has to receive when the client sends `stream`, which holds complete frames.
///
/// A recipient at another authority than the canonical one arrives in the padded canonical form, if that
/// fits, or in the local form; which of the two depends on how the stream was cut, so both are right.
/// For the same reason a recipient at the canonical authority arrives as it is or in the local form: when a
/// segment ends before the authority does, nobody can know yet which one it is going to be, and the node
/// understands both.
pub fn inbound(stream: &[u8], names: &Names) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut exact = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let (header, body, next) = split_frame(rest);
        exact.extend_from_slice(header);
        match recipient(body).and_then(|path| {
            let forms = forms(&body[path.clone()], names)?;
            Some((path, forms))
        }) {
            Some((path, forms)) => {
                exact.extend_from_slice(&body[..path.start]);
                pieces.push(Piece::Exact(std::mem::take(&mut exact)));
                let length = forms[0].len();
                pieces.push(Piece::OneOf(forms));
                exact.extend_from_slice(&body[path.start + length..]);
            }
            None => exact.extend_from_slice(body),
        }
        rest = next;
    }
    pieces.push(Piece::Exact(exact));
    pieces
}

/// What the client has to receive when the server sends `stream`, which holds complete frames.
pub fn outbound(stream: &[u8], names: &Names) -> Vec<u8> {
    let canonical = names.canonical.to_string();
    let Some(alias) = names.alias.padded(canonical.len()) else {
        return stream.to_vec();
    };
    let pattern = format!("://{}@{canonical}/", names.system).into_bytes();
    let replacement = format!("://{}@{alias}/", names.system).into_bytes();
    let mut result = Vec::with_capacity(stream.len());
    let mut rest = stream;
    while !rest.is_empty() {
        let (header, body, next) = split_frame(rest);
        result.extend_from_slice(header);
        let mut body = body;
        while !body.is_empty() {
            if body.starts_with(&pattern) {
                result.extend_from_slice(&replacement);
                body = &body[pattern.len()..];
            } else {
                result.push(body[0]);
                body = &body[1..];
            }
        }
        rest = next;
    }
    result
}

/// Length field, body, and what follows.
fn split_frame(stream: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (header, rest) = stream.split_at(4);
    let length = header
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (body, next) = rest.split_at(length);
    (header, body, next)
}

/// Where the recipient's path stands in a frame's body, if it is an envelope.
fn recipient(body: &[u8]) -> Option<std::ops::Range<usize>> {
    let whole = 0..body.len();
    let container = find(body, whole, 0x0a)?;
    let envelope = find(body, container, 0x12)?;
    let actor = find(body, envelope, 0x0a)?;
    find(body, actor, 0x0a)
}

/// Where the value of the first field with `tag` stands inside `range`; all fields there have to be
/// length-delimited until it is found.
fn find(body: &[u8], range: std::ops::Range<usize>, tag: u8) -> Option<std::ops::Range<usize>> {
    let mut at = range.start;
    while at < range.end {
        let found = body[at];
        if found & 7 != 2 {
            return None;
        }
        at += 1;
        let mut length = 0;
        let mut shift = 0;
        loop {
            let byte = *body.get(at)?;
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        if found == tag {
            return Some(at..at + length);
        }
        at += length;
    }
    None
}

/// What may stand at the front of a path instead of scheme and authority; `None` if it has none, or is another system's.
fn forms(path: &[u8], names: &Names) -> Option<Vec<Vec<u8>>> {
    let path = std::str::from_utf8(path).ok()?;
    let (scheme, rest) = path.split_once(".tcp://")?;
    let (front, _) = rest.split_once('/')?;
    let (system, authority) = front.split_once('@')?;
    if system != names.system {
        return None;
    }
    let canonical = names.canonical.to_string();
    if authority != canonical && names.alias.to_string().len() > canonical.len() {
        // The connection is left alone.
        return None;
    }
    let length = scheme.len() + ".tcp://".len() + front.len();
    let local = format!("{scheme}://{system}");
    let slashes = "/".repeat(length - local.len());
    let mut forms = vec![format!("{local}{slashes}").into_bytes()];
    if let Some(padded) = names.canonical.padded(authority.len()) {
        forms.push(format!("{scheme}.tcp://{system}@{padded}").into_bytes());
    }
    Some(forms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Envelope, associate, frame};

    fn tell(recipient: &str, body: &str) -> Vec<u8> {
        Envelope {
            recipient: recipient.to_owned(),
            body: body.as_bytes().to_vec(),
            serializer: 20,
            ..Envelope::default()
        }
        .frame()
    }

    /// All ways in which a stream may arrive.
    fn ways(pieces: &[Piece]) -> Vec<Vec<u8>> {
        let mut ways = vec![Vec::new()];
        for piece in pieces {
            let forms = match piece {
                Piece::Exact(bytes) => std::slice::from_ref(bytes),
                Piece::OneOf(forms) => forms,
            };
            ways = ways
                .iter()
                .flat_map(|way| forms.iter().map(|form| [way.as_slice(), form].concat()))
                .collect();
        }
        ways
    }

    #[test]
    fn a_recipient_arrives_in_the_local_or_the_padded_form() {
        let names = Names::flink("jobmanager", "flink-host");
        let sent = tell("pekko.tcp://flink@flink-host:6123/user/a", "hi");
        let ways = ways(&inbound(&sent, &names));
        let slashes = "/".repeat(".tcp@flink-host:6123/".len());
        assert_eq!(
            ways,
            [
                tell(&format!("pekko://flink{slashes}user/a"), "hi"),
                tell("pekko.tcp://flink@jobmanager:6123/user/a", "hi"),
            ]
        );
        assert!(ways.iter().all(|way| way.len() == sent.len()));
    }

    #[test]
    fn a_short_alias_leaves_only_the_local_form() {
        let names = Names::flink("jobmanager", "jm");
        let sent = tell("akka.tcp://flink@jm:6123/", "hi");
        let ways = ways(&inbound(&sent, &names));
        assert_eq!(ways.len(), 1);
        assert_eq!(ways[0], tell("akka://flink/////////////", "hi"));
    }

    #[test]
    fn nothing_but_the_recipient_changes_inbound() {
        let names = Names::flink("jobmanager", "jm");
        let mut stream = associate("flink", &names.client, 7);
        stream.extend(frame(&[]));
        stream.extend(tell(
            "pekko.tcp://flink@jobmanager:6123/user/a",
            "pekko.tcp://flink@jm:6123/user/b",
        ));
        let ways = ways(&inbound(&stream, &names));
        assert_eq!(ways.len(), 2);
        assert_eq!(ways[1], stream);
        // The other way has a local recipient, and what follows is the same.
        let body = b"pekko.tcp://flink@jm:6123/user/b\x10\x14";
        assert!(ways[0].ends_with(body));
    }

    #[test]
    fn outbound_only_whole_patterns_change() {
        let names = Names::flink("jobmanager", "jm");
        let client = "pekko.tcp://flink@taskmanager:6122/user/x";
        for (sent, received) in [
            (
                "tcp://flink@jobmanager:6123/user",
                "tcp://flink@jm:000000006123/user",
            ),
            (
                "://flink@jobmanager:612://flink@jobmanager:6123/",
                "://flink@jobmanager:612://flink@jm:000000006123/",
            ),
            (
                "jobmanager_2 @jobmanager:6123/",
                "jobmanager_2 @jobmanager:6123/",
            ),
            ("://flink@jobmanager:61234/", "://flink@jobmanager:61234/"),
            ("://flink@jobmanager2:6123/", "://flink@jobmanager2:6123/"),
            ("://flink@jobmanager:6123", "://flink@jobmanager:6123"),
        ] {
            assert_eq!(
                outbound(&tell(client, sent), &names),
                tell(client, received)
            );
        }
    }

    #[test]
    fn an_alias_that_does_not_fit_changes_nothing_outbound() {
        let names = Names::flink("jobmanager", "jobmanager.example.org");
        let sent = tell("pekko.tcp://flink@jobmanager:6123/", "hi");
        assert_eq!(outbound(&sent, &names), sent);
    }
}
