//! Plays an input against the relay's recoder: frames full of names, in any cut. What comes out is compared with what an
//! [`oracle`] makes of the frames, which decodes each with prost, and with what Java would write.

mod java;
mod oracle;
mod script;

use arbitrary::Unstructured;
use prost::Message;
use truename_common::{
    layout::Authority,
    wire::relay::{Counts, Direction, Names, Recoder},
};

use oracle::{Container, Envelope, Oracle, Outer};
use script::Script;

/// Plays an input; one that is too short is nothing.
///
/// # Panics
/// What comes out is wrong.
pub fn play(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok(script) = Script::read(&mut input) else {
        return;
    };
    let mut stream: Vec<u8> = script
        .frames
        .iter()
        .flat_map(|frame| frame.bytes.clone())
        .collect();
    stream.extend(&script.tail);
    let shows = std::env::var_os("TRUENAME_FUZZ_SHOW").is_some();
    if shows {
        eprintln!("{script:#?}");
    }

    let whole = recode(&script, &[&stream]);
    if shows {
        eprintln!("{}", whole.output.escape_ascii());
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    same(&whole, &recode(&script, &bytes), "byte by byte");
    let cuts: Vec<&[u8]> = cuts(&stream, &mut input);
    same(&whole, &recode(&script, &cuts), "cut");
    check(&script, &whole.output);
}

/// What came out.
#[derive(Debug, PartialEq)]
struct Outcome {
    output: Vec<u8>,
    counts: Counts,
    alias: Option<Authority>,
}

fn same(one: &Outcome, other: &Outcome, what: &str) {
    assert!(
        one == other,
        "the output depends on how the stream was cut ({what}): {:?} {:?}",
        one.counts,
        other.counts,
    );
}

/// The stream in pieces.
fn cuts<'s>(mut stream: &'s [u8], input: &mut Unstructured<'_>) -> Vec<&'s [u8]> {
    let mut pieces = Vec::new();
    while !stream.is_empty() {
        let len = match input.int_in_range(0..=3_u8).unwrap_or(3) {
            0 => input.int_in_range(1..=8).unwrap_or(1),
            1 => input.int_in_range(1..=200).unwrap_or(1),
            2 => input.int_in_range(1..=20_000).unwrap_or(1),
            _ => stream.len(),
        };
        let (piece, rest) = stream.split_at(len.min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

fn recode(script: &Script, pieces: &[&[u8]]) -> Outcome {
    let name = |text: &str| Authority::new(text.as_bytes()).unwrap();
    let names = Names {
        canonical: name(&script.canonical),
        alias: (!script.learns).then(|| name(&script.alias)),
    };
    let mut recoder = Recoder::new(script.direction, names, script.limits);
    let most = script.limits.frame.max(64) as usize + 4;
    let mut output = Vec::new();
    for piece in pieces {
        recoder.push(piece, &mut output);
        assert!(recoder.buffered() <= most, "too much is kept back");
    }
    recoder.finish(&mut output);
    assert_eq!(recoder.buffered(), 0);
    Outcome {
        output,
        counts: recoder.counts(),
        alias: recoder.alias().copied(),
    }
}

/// The oracle at the beginning of a script.
fn oracle(script: &Script) -> Oracle {
    Oracle {
        direction: script.direction,
        canonical: script.canonical.clone(),
        alias: (!script.learns).then(|| script.alias.clone()),
        learns: script.learns,
        java: script.java.clone(),
    }
}

/// Compares what came out with what has to come out.
fn check(script: &Script, output: &[u8]) {
    let mut oracle = oracle(script);
    let mut rest = output;
    for (index, frame) in script.frames.iter().enumerate() {
        let expected = expected(script, &mut oracle, &frame.bytes);
        assert!(rest.len() >= 4, "frame {index} is missing");
        let len = 4 + u32::from_be_bytes(*rest.first_chunk().unwrap()) as usize;
        assert!(rest.len() >= len, "frame {index} is not complete");
        let (got, behind) = rest.split_at(len);
        rest = behind;
        if frame.is_good {
            let same = got
                .iter()
                .zip(&expected)
                .take_while(|(a, b)| a == b)
                .count();
            assert!(
                got == expected,
                "frame {index} is wrong at {same} of {len}: has to become …{}, became …{}",
                excerpt(&expected, same),
                excerpt(got, same)
            );
        } else if got != frame.bytes {
            plausible(&oracle, &frame.bytes, got);
        }
    }
    if script.tail.len() < 4 || script.tail[0] > 0x10 {
        assert_eq!(rest, script.tail, "what is no frame has to pass");
    }
}

fn excerpt(bytes: &[u8], at: usize) -> String {
    bytes[at.saturating_sub(60).min(bytes.len())..(at + 60).min(bytes.len())]
        .escape_ascii()
        .to_string()
}

/// What a frame has to become that is written as peers write it.
fn expected(script: &Script, oracle: &mut Oracle, frame: &[u8]) -> Vec<u8> {
    let len = frame.len() - 4;
    let whole = (script.limits.whole as usize).max(10);
    let is_head = script.direction == Direction::Inbound && frame.len() > whole;
    if len > script.limits.frame as usize || is_head && recipient_end(frame) > whole {
        return frame.to_vec();
    }
    match oracle.body(&frame[4..], is_head) {
        Some(body) if body.len() <= script.limits.frame as usize => {
            truename_tests::wire::frame(&body)
        }
        _ => frame.to_vec(),
    }
}

/// Where the recipient of a message ends.
fn recipient_end(frame: &[u8]) -> usize {
    let Some(envelope) = envelope(frame) else {
        return 0;
    };
    // What is behind it is as long as the envelope without it.
    let recipient = envelope.recipient.encoded_len();
    let field = 1 + prost::length_delimiter_len(recipient) + recipient;
    frame.len() - (envelope.encoded_len() - field)
}

fn envelope(frame: &[u8]) -> Option<Envelope> {
    let outer = Outer::decode(&frame[4..]).ok()?;
    Container::decode(&outer.payload?[..]).ok()?.envelope
}

/// Checks a frame that no peer writes, which was changed: only names may differ.
fn plausible(oracle: &Oracle, before: &[u8], after: &[u8]) {
    let (Some(before), Some(after)) = (envelope(before), envelope(after)) else {
        return;
    };
    let serializer = before.message.serializer;
    assert_eq!(before.sequence, after.sequence);
    assert_eq!(serializer, after.message.serializer);
    assert_eq!(before.message.manifest, after.message.manifest);
    if !matches!(serializer, 1 | 3 | 6 | 16 | 20 | 22) {
        assert_eq!(before.message.bytes, after.message.bytes);
    }
    let is_inbound = oracle.direction == Direction::Inbound;
    if is_inbound {
        assert_eq!(before.sender, after.sender);
    } else {
        assert_eq!(before.recipient, after.recipient);
        let mut sender = before.sender.unwrap_or_default();
        oracle.path(&mut sender.path);
        assert_eq!(sender, after.sender.unwrap_or_default());
    }
}
