//! What the kernel program makes of the packets of a stream: cuts, holes, repetitions, strangers.

use truename::datapath::OBJECT;
use truename_common::{
    layout::{Counter, EventKind},
    wire::flow::state,
};
use truename_tests::prog_run::{Form, Scene, Setup, Side, Talk, flag};

const LONG: &str = "jobmanager-alias";
const EQUAL: &str = "flink-host";
const SHORT: &str = "jm";

/// Where `text` stands in `bytes`.
fn find(bytes: &[u8], text: &str) -> usize {
    bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes())
        .unwrap()
}

/// The whole of a stream comes out the same whatever part of it is sent again.
fn assert_repeats(talk: &Talk<'_>, side: Side, at: usize, sent: &[u8], expected: &[u8]) {
    for len in [1, 2, 7, 24, 60, 200, sent.len()] {
        for from in 0..sent.len() {
            let to = sent.len().min(from + len);
            let out = talk.passes(side, at + from, &sent[from..to]);
            assert_eq!(
                out,
                expected[from..to],
                "{side:?} {from}..{to}: \"{}\"",
                out.escape_ascii()
            );
        }
    }
}

#[test]
fn a_request_may_be_cut_anywhere() {
    for (alias, whole) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let scene = Scene::with_alias(OBJECT, alias);
        let request = scene.request(Form::Alias, 20);
        let scheme_end = find(&request, ".tcp");
        let authority_end = find(&request, ":6123/") + 5;
        for cut in 1..request.len() {
            let mut talk = scene.associated();
            let (first, second) = request.split_at(cut);
            // The local form needs no look-ahead: what is cut becomes that.
            let is_cut = cut > scheme_end && cut <= authority_end;
            let expected = scene.request(if is_cut { Form::Local } else { whole }, 20);
            let at = talk.next[0];
            let mut out = talk.says(Side::Client, first);
            out.extend(talk.says(Side::Client, second));
            assert_eq!(out, expected, "{alias} {cut}: \"{}\"", out.escape_ascii());
            assert_eq!(talk.passes(Side::Client, at, &request), expected);
            // The next one is whole.
            let out = talk.says(Side::Client, &request);
            assert_eq!(out, scene.request(whole, 20));
        }
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    for alias in [SHORT, EQUAL] {
        let scene = Scene::with_alias(OBJECT, alias);
        let mut talk = scene.associated();
        for _ in 0..3 {
            let mut out = Vec::new();
            for byte in scene.request(Form::Alias, 20) {
                out.extend(talk.says(Side::Client, &[byte]));
            }
            assert_eq!(out, scene.request(Form::Local, 20));
        }
        scene.assert_count(Counter::DroppedHeld, 0);
    }
}

#[test]
fn a_cut_request_at_the_canonical_name_stays_understandable() {
    let scene = Scene::with_alias(OBJECT, "jobmanager");
    let request = scene.request(Form::Alias, 20);
    let local = scene.request(Form::Local, 20);
    for cut in 1..request.len() {
        let mut talk = scene.associated();
        let (first, second) = request.split_at(cut);
        let mut out = talk.says(Side::Client, first);
        out.extend(talk.says(Side::Client, second));
        assert!(out == request || out == local, "{cut}");
    }
}

#[test]
fn a_cut_request_with_a_list_is_held() {
    let list = ["flink-host:6123"];
    for (alias, form) in [(EQUAL, Form::Padded), (SHORT, Form::Alias)] {
        let setup = Setup {
            alias,
            listed: Some(&list),
            ..Setup::default()
        };
        let scene = Scene::new(OBJECT, &setup);
        let request = scene.request(Form::Alias, 20);
        let expected = scene.request(form, 20);
        let scheme_end = find(&request, ".tcp");
        let authority_end = find(&request, ":6123/") + 5;
        let mut held = 0;
        for cut in 1..request.len() {
            let mut talk = scene.associated();
            let at = talk.next[0];
            let (first, second) = request.split_at(cut);
            if cut > scheme_end && cut <= authority_end {
                talk.is_dropped(Side::Client, at, first);
                held += 1;
                scene.assert_count(Counter::DroppedHeld, held);
                let out = talk.passes(Side::Client, at + cut, second);
                assert_eq!(out, expected[cut..], "{alias} {cut}");
            } else {
                assert_eq!(talk.passes(Side::Client, at, first), expected[..cut]);
                let out = talk.passes(Side::Client, at + cut, second);
                assert_eq!(out, expected[cut..], "{alias} {cut}");
            }
            assert_eq!(talk.passes(Side::Client, at, first), expected[..cut]);
            assert_eq!(talk.passes(Side::Client, at, &request), expected);
            talk.next[0] += request.len();
            assert_eq!(talk.says(Side::Client, &request), expected);
        }
    }
}

/// The endpoint has said so much, without anything like its name, that the beginning of the name is believed.
fn is_old(talk: &mut Talk) {
    let mut frame = 2_996u32.to_be_bytes().to_vec();
    frame.resize(3_000, b'.');
    for _ in 0..6 {
        assert_eq!(talk.says(Side::Endpoint, &frame), frame);
    }
}

#[test]
fn a_cut_name_passes() {
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let scene = Scene::with_alias(OBJECT, alias);
        let (reply, expected) = (scene.plain_reply(), scene.translated_plain_reply());
        for cut in 1..reply.len() {
            let mut talk = scene.addressed(form);
            is_old(&mut talk);
            let at = talk.next[1];
            let (first, second) = reply.split_at(cut);
            assert_eq!(talk.says(Side::Endpoint, first), expected[..cut], "{cut}");
            assert_eq!(talk.says(Side::Endpoint, second), expected[cut..], "{cut}");
            assert_eq!(talk.passes(Side::Endpoint, at, &reply), expected);
            assert_eq!(talk.says(Side::Endpoint, &reply), expected);
        }
        scene.assert_count(Counter::DroppedHeld, 0);
        scene.assert_count(Counter::ResetMisguess, 0);
        assert!(scene.program.count(Counter::Guessed).unwrap() > 0);
    }
}

#[test]
fn a_reply_with_near_misses_may_be_cut_anywhere() {
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let scene = Scene::with_alias(OBJECT, alias);
        let reply = scene.reply();
        let expected = scene.translated_reply();
        let mut held = 0;
        for cut in 1..reply.len() {
            let mut talk = scene.addressed(form);
            // The near misses become known.
            assert_eq!(talk.says(Side::Endpoint, &reply), expected);
            let at = talk.next[1];
            let (first, second) = reply.split_at(cut);
            // What is ambiguous is held once; what follows tells what it is, or it passes when it comes again.
            match talk.send(Side::Endpoint, at, first) {
                Some(out) => assert_eq!(out, expected[..cut], "{cut}"),
                None => held += 1,
            }
            let out = talk.passes(Side::Endpoint, at + cut, second);
            assert_eq!(out, expected[cut..], "{cut}");
            assert_eq!(talk.passes(Side::Endpoint, at, first), expected[..cut]);
            assert_eq!(talk.passes(Side::Endpoint, at, &reply), expected);
            talk.next[1] += reply.len();
            assert_eq!(talk.says(Side::Endpoint, &reply), expected);
        }
        assert!(held > 0);
        scene.assert_count(Counter::DroppedHeld, held);
        scene.assert_count(Counter::ResetMisguess, 0);
    }
}

#[test]
fn what_is_held_may_come_again_with_more() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    let (reply, expected) = (scene.reply(), scene.translated_reply());
    // The near misses become known.
    talk.says(Side::Endpoint, &reply);
    let cut = find(&reply, "@jobmanager:6123/user") + 4;
    let at = talk.next[1];
    for _ in 0..3 {
        talk.is_dropped(Side::Endpoint, at, &reply[..cut]);
    }
    scene.assert_count(Counter::DroppedHeld, 3);
    // The segment that everything waits for is not held for ever.
    let out = talk.passes(Side::Endpoint, at, &reply[..cut]);
    assert_eq!(out, expected[..cut]);
    assert_eq!(talk.passes(Side::Endpoint, at, &reply), expected);
    talk.next[1] += reply.len();
    assert_repeats(&talk, Side::Endpoint, at, &reply, &expected);
}

#[test]
fn a_name_whose_end_does_not_come_is_guessed() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    is_old(&mut talk);
    let (reply, expected) = (scene.plain_reply(), scene.translated_plain_reply());
    let cut = find(&reply, "@jobmanager:6123/user") + 8;
    let at = talk.next[1];
    let out = talk.passes(Side::Endpoint, at, &reply[..cut]);
    assert_eq!(out, expected[..cut]);
    scene.assert_count(Counter::Guessed, 1);
    let out = talk.passes(Side::Endpoint, at + cut, &reply[cut..]);
    assert_eq!(out, expected[cut..]);
    scene.assert_count(Counter::ResetMisguess, 0);
    talk.next[1] += reply.len();
    assert_repeats(&talk, Side::Endpoint, at, &reply, &expected);
}

#[test]
fn a_wrong_guess_resets_the_connection() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    is_old(&mut talk);
    let reply = scene.reply();
    let cut = find(&reply, "://flink@jobmanager:61234/") + "://flink@jobmanager:6123".len();
    let at = talk.next[1];
    talk.passes(Side::Endpoint, at, &reply[..cut]);
    let packet = talk.packet(Side::Endpoint, at + cut, flag::ACK, &reply[cut..]);
    assert!(talk.run(&packet).unwrap().rst);
    scene.assert_count(Counter::ResetMisguess, 1);
    let flow = scene.program.flow(talk.client, talk.endpoint).unwrap();
    assert_ne!(flow.unwrap().flags & state::RESET, 0);
    let events = scene.program.events().unwrap();
    assert!(events.iter().any(|event| event.kind == EventKind::Reset));
}

#[test]
fn what_is_sent_again_comes_out_the_same_however_it_is_cut() {
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let scene = Scene::with_alias(OBJECT, alias);
        let mut talk = scene.addressed(form);
        let request = scene.request(Form::Alias, 20);
        let sent = request.repeat(3);
        // The second one is cut in its authority.
        let cut = request.len() + find(&request, ":6123/");
        let at = talk.next[0];
        let mut expected = talk.says(Side::Client, &sent[..cut]);
        expected.extend(talk.says(Side::Client, &sent[cut..]));
        let forms = [form, Form::Local, form].map(|form| scene.request(form, 20));
        assert_eq!(expected, forms.concat());
        assert_repeats(&talk, Side::Client, at, &sent, &expected);

        let (reply, expected) = (scene.reply().repeat(2), scene.translated_reply().repeat(2));
        let at = talk.next[1];
        talk.says(Side::Endpoint, &reply);
        assert_repeats(&talk, Side::Endpoint, at, &reply, &expected);
        assert!(scene.program.count(Counter::Reapplied).unwrap() > 0);
        scene.assert_count(Counter::DroppedHeld, 0);
    }
}

#[test]
fn a_repetition_may_go_on_with_new_bytes() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    let sent = scene.request(Form::Alias, 20).repeat(2);
    let expected = scene.request(Form::Local, 20).repeat(2);
    let at = talk.next[0];
    for len in 1..=sent.len() {
        let from = (len * 7) % len.min(90);
        let out = talk.passes(Side::Client, at + from, &sent[from..len]);
        assert_eq!(out, expected[from..len], "{from}..{len}");
    }
    talk.next[0] += sent.len();
    let (sent, expected) = (scene.plain_reply(), scene.translated_plain_reply());
    let at = talk.next[1];
    let mut passed = 0;
    for len in 1..=sent.len() {
        if let Some(out) = talk.send(Side::Endpoint, at, &sent[..len]) {
            assert_eq!(out, expected[..len], "{len}");
            passed = len;
        }
    }
    assert_eq!(passed, sent.len());
}

#[test]
fn acknowledged_edits_are_forgotten_and_others_are_not() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    let (sent, expected) = (scene.request(Form::Alias, 0), scene.request(Form::Local, 0));
    // More than the log holds at once.
    for _ in 0..1200 {
        let at = talk.next[0];
        assert_eq!(talk.says(Side::Client, &sent), expected);
        assert_eq!(talk.passes(Side::Client, at, &sent), expected);
        talk.acknowledges(Side::Endpoint, at);
        assert_eq!(talk.passes(Side::Client, at, &sent), expected);
    }
    scene.assert_count(Counter::DroppedMemory, 0);
}

#[test]
fn edits_that_nobody_acknowledges_do_not_stop_a_stream() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    let (sent, expected) = (scene.request(Form::Alias, 0), scene.request(Form::Local, 0));
    let begin = talk.next[0];
    for _ in 0..4000 {
        assert_eq!(talk.says(Side::Client, &sent), expected);
    }
    // The first of them is remembered still.
    assert_eq!(talk.passes(Side::Client, begin, &sent), expected);
    scene.assert_count(Counter::DroppedMemory, 0);
    scene.assert_count(Counter::OutOfWindow, 0);
}

#[test]
fn a_body_passes_beyond_a_hole() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let sent = scene.request(Form::Alias, 1000);
    let expected = scene.request(Form::Local, 1000);
    let at = talk.next[0];
    let part = |from: usize, to: usize| {
        let out = talk.passes(Side::Client, at + from, &sent[from..to]);
        assert_eq!(out, expected[from..to]);
    };
    part(0, 300);
    part(600, 900);
    part(400, 500);
    part(900, sent.len());
    part(300, 600);
    talk.next[0] += sent.len();
    assert_repeats(&talk, Side::Client, at, &sent, &expected);
    scene.assert_count(Counter::DroppedHole, 0);
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
}

#[test]
fn a_header_beyond_a_hole_is_dropped_until_the_hole_is_filled() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let sent = scene.request(Form::Alias, 20).repeat(2);
    let expected = scene.request(Form::Local, 20).repeat(2);
    let at = talk.next[0];
    let half = sent.len() / 2;
    let out = talk.passes(Side::Client, at, &sent[..10]);
    assert_eq!(out, expected[..10]);
    talk.is_dropped(Side::Client, at + 20, &sent[20..half + 40]);
    talk.is_dropped(Side::Client, at + 20, &sent[20..half + 40]);
    talk.is_dropped(Side::Client, at + half + 40, &sent[half + 40..]);
    scene.assert_count(Counter::DroppedHole, 3);
    for (from, to) in [(10, 20), (20, half + 40), (half + 40, sent.len())] {
        talk.passes(Side::Client, at + from, &sent[from..to]);
    }
    // One of them was cut behind its authority.
    talk.next[0] += sent.len();
    let out = talk.passes(Side::Client, at, &sent);
    assert_eq!(out, expected);
    assert_repeats(&talk, Side::Client, at, &sent, &expected);
    scene.assert_count(Counter::Resynchronised, 0);
}

#[test]
fn an_island_is_translated_and_joined() {
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let scene = Scene::with_alias(OBJECT, alias);
        let mut talk = scene.associated();
        let one = scene.request(Form::Alias, 20).len();
        let sent = scene.request(Form::Alias, 20).repeat(5);
        let expected = scene.request(form, 20).repeat(5);
        let at = talk.next[0];
        let part = |from: usize, to: usize| {
            let out = talk.passes(Side::Client, at + from, &sent[from..to]);
            assert_eq!(out, expected[from..to], "{from}..{to}");
        };
        part(0, 10);
        // Two islands, the later one first; both come again, one goes on.
        part(3 * one, 4 * one);
        part(one, 2 * one);
        part(3 * one, 4 * one);
        part(4 * one, 4 * one + 5);
        part(one + 30, one + 50);
        // The first hole, then the one between.
        part(10, one);
        part(2 * one, 3 * one);
        part(4 * one + 5, 5 * one);
        talk.next[0] += sent.len();
        assert_repeats(&talk, Side::Client, at, &sent, &expected);
        scene.assert_count(Counter::DroppedHole, 0);
        scene.assert_count(Counter::RewrittenInbound, 5);
        let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
        assert_eq!(out, scene.request(form, 20));
    }
}

#[test]
fn an_island_of_replies_is_translated_and_joined() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    let one = scene.reply().len();
    let sent = scene.reply().repeat(3);
    let expected = scene.translated_reply().repeat(3);
    let at = talk.next[1];
    let part = |from: usize, to: usize| {
        let out = talk.passes(Side::Endpoint, at + from, &sent[from..to]);
        assert_eq!(out, expected[from..to], "{from}..{to}");
    };
    part(0, 10);
    part(2 * one, 3 * one);
    part(10, one);
    part(one, 2 * one);
    talk.next[1] += sent.len();
    assert_repeats(&talk, Side::Endpoint, at, &sent, &expected);
    scene.assert_count(Counter::RewrittenOutbound, 6);
    assert_eq!(
        talk.says(Side::Endpoint, &scene.reply()),
        scene.translated_reply()
    );
}

#[test]
fn the_tail_of_a_name_beyond_a_hole_waits() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    let (sent, expected) = (scene.plain_reply(), scene.translated_plain_reply());
    let at = talk.next[1];
    let name = find(&sent, "jobmanager:6123/user");
    let tail = name + 3;
    talk.is_dropped(Side::Endpoint, at + tail, &sent[tail..]);
    scene.assert_count(Counter::DroppedHole, 1);
    let out = talk.passes(Side::Endpoint, at, &sent[..name]);
    assert_eq!(out, expected[..name]);
    let out = talk.passes(Side::Endpoint, at + name, &sent[name..]);
    assert_eq!(out, expected[name..]);
    talk.next[1] += sent.len();
    assert_repeats(&talk, Side::Endpoint, at, &sent, &expected);
    scene.assert_count(Counter::ResetMisguess, 0);
}

#[test]
fn a_hole_that_is_never_filled_does_not_stall_the_connection() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let request = scene.request(Form::Alias, 20);
    talk.says(Side::Client, &request[..10]);
    // Ten bytes never come by here.
    talk.next[0] += 10;
    let rest = &request[20..];
    let mut drops = 0;
    while talk.send(Side::Client, talk.next[0], rest).is_none() {
        drops += 1;
        assert!(drops < 100, "dropped for ever");
    }
    scene.assert_count(Counter::DroppedHole, drops);
    scene.assert_count(Counter::Resynchronised, 1);
    talk.next[0] += rest.len();
    let out = talk.says(Side::Client, &request);
    assert_eq!(out, scene.request(Form::Local, 20));
    let events = scene.program.events().unwrap();
    let resynchronised = |kind| kind == EventKind::Resynchronised;
    assert!(events.iter().any(|event| resynchronised(event.kind)));
}

#[test]
fn a_hole_that_was_acknowledged_is_not_waited_for() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let request = scene.request(Form::Alias, 20);
    talk.says(Side::Client, &request[..10]);
    talk.next[0] += request.len() - 10;
    let to = talk.next[0];
    talk.acknowledges(Side::Endpoint, to);
    let out = talk.says(Side::Client, &request);
    assert_eq!(out, scene.request(Form::Local, 20));
    scene.assert_count(Counter::DroppedHole, 0);
    scene.assert_count(Counter::Resynchronised, 1);
}

#[test]
fn a_flow_without_a_syn_is_adopted_at_a_frame() {
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let scene = Scene::configured(OBJECT, alias);
        let mut talk = scene.unseen();
        let request = scene.request(Form::Alias, 20);
        let middle = &request[30..];
        assert_eq!(talk.says(Side::Client, middle), middle);
        assert_eq!(
            talk.says(Side::Client, b"GET / HTTP/1.1"),
            b"GET / HTTP/1.1"
        );
        scene.assert_count(Counter::Unsynchronised, 2);
        assert_eq!(scene.program.flows().unwrap(), 0);
        let at = talk.next[0];
        let expected = scene.request(form, 20);
        assert_eq!(talk.says(Side::Client, &request), expected);
        assert_eq!(talk.passes(Side::Client, at, &request), expected);
        scene.assert_count(Counter::Adopted, 1);
        if alias == SHORT {
            let out = talk.says(Side::Endpoint, &scene.reply());
            assert_eq!(out, scene.translated_reply());
        }
        let events = scene.program.events().unwrap();
        assert_eq!(events[0].kind, EventKind::Adopted);
        let flow = scene.program.flow(talk.client, talk.endpoint).unwrap();
        assert_ne!(flow.unwrap().flags & state::ADOPTED, 0);
    }
}

#[test]
fn a_flow_is_adopted_without_any_name() {
    let scene = Scene::with_alias(OBJECT, LONG);
    let mut talk = scene.unseen();
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
}

#[test]
fn a_flow_is_adopted_at_its_first_frames() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.unseen();
    scene.associate(&mut talk);
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
    let out = talk.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, scene.translated_reply());
    scene.assert_count(Counter::Adopted, 1);
}

#[test]
fn what_is_no_frame_is_left_alone() {
    let texts: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: jm:6123\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        &[0xff; 50],
        &[0x7f, 0xff, 0xff, 0xff, 0x0a],
    ];
    for (index, text) in texts.into_iter().enumerate() {
        let scene = Scene::configured(OBJECT, SHORT);
        let mut talk = scene.opened();
        assert_eq!(talk.says(Side::Client, text), text, "{index}");
        let request = scene.request(Form::Alias, 20);
        assert_eq!(talk.says(Side::Client, &request), request, "{index}");
        let reply = scene.reply();
        assert_eq!(talk.says(Side::Endpoint, &reply), reply, "{index}");
        scene.assert_count(Counter::TooLong, 1);
        scene.assert_count(Counter::RewrittenInbound, 0);
        assert_eq!(scene.program.flows().unwrap(), 0, "it takes no room");
        let events = scene.program.events().unwrap();
        let told = [(EventKind::LeftAlone, Counter::TooLong as u32)];
        let events = events.iter().map(|event| (event.kind, event.detail));
        assert!(events.eq(told));
    }
}

#[test]
fn tls_is_left_alone() {
    let mut hello = vec![0x16, 0x03, 0x01, 0x00, 0xc8, 0x01];
    hello.extend([0x5a; 199]);
    // Also when the first bytes come one by one.
    for first in [hello.len(), 1, 2, 3, 4] {
        let scene = Scene::configured(OBJECT, SHORT);
        let mut talk = scene.opened();
        assert_eq!(talk.says(Side::Client, &hello[..first]), hello[..first]);
        if first < hello.len() {
            assert_eq!(talk.says(Side::Client, &hello[first..]), hello[first..]);
        }
        let request = scene.request(Form::Alias, 20);
        assert_eq!(talk.says(Side::Client, &request), request);
        scene.assert_count(Counter::Tls, 1);
        scene.assert_count(Counter::TooLong, 0);
        let events = scene.program.events().unwrap();
        let told = [(EventKind::LeftAlone, Counter::Tls as u32)];
        let events = events.iter().map(|event| (event.kind, event.detail));
        assert!(events.eq(told));
    }
}

#[test]
fn frames_of_no_sense_pass_unchanged() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let request = scene.request(Form::Alias, 20);
    // Every byte in front of the path gets every one of some values; the length is left alone.
    let path = find(&request, "pekko");
    for at in 4..path {
        for value in [0, 1, 7, 0x0a, 0x12, 0x7f, 0x80, 0xff] {
            let mut wrong = request.clone();
            wrong[at] = value;
            if wrong == request {
                continue;
            }
            let out = talk.says(Side::Client, &wrong);
            let mut translated = scene.request(Form::Local, 20);
            translated[at] = value;
            assert!(out == wrong || out == translated, "{at} {value}");
            // It never costs the next one.
            let out = talk.says(Side::Client, &request);
            assert_eq!(out, scene.request(Form::Local, 20), "{at} {value}");
            let to = talk.next[0];
            talk.acknowledges(Side::Endpoint, to);
        }
    }
    assert!(scene.program.count(Counter::Malformed).unwrap() > 0);
}

#[test]
fn frames_of_length_zero_are_frames() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let zero = [0; 4];
    let frames = |frame: Vec<u8>| [&zero[..], &zero, &frame, &zero].concat();
    assert_eq!(talk.says(Side::Client, &zero), zero);
    assert_eq!(talk.says(Side::Client, &zero[..1]), zero[..1]);
    assert_eq!(talk.says(Side::Client, &zero[1..]), zero[1..]);
    let out = talk.says(Side::Client, &frames(scene.request(Form::Alias, 20)));
    assert_eq!(out, frames(scene.request(Form::Local, 20)));
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
    assert_eq!(talk.says(Side::Endpoint, &zero), zero);
    let out = talk.says(Side::Endpoint, &frames(scene.reply()));
    assert_eq!(out, frames(scene.translated_reply()));
}

#[test]
fn a_syn_may_have_data() {
    let scene = Scene::configured(OBJECT, SHORT);
    let hello = scene.client_associate();
    let sent = [hello.clone(), scene.request(Form::Alias, 20)].concat();
    let expected = [hello, scene.request(Form::Local, 20)].concat();
    let mut talk = scene.unseen();
    let packet = talk.packet(Side::Client, 0, flag::SYN, &sent);
    for _ in 0..2 {
        assert_eq!(talk.run(&packet).unwrap().payload, expected);
    }
    let back = [scene.endpoint_associate(), scene.reply()].concat();
    let packet = talk.packet(Side::Endpoint, 0, flag::SYN | flag::ACK, &back);
    let expected = [scene.endpoint_associate(), scene.translated_reply()].concat();
    for _ in 0..2 {
        assert_eq!(talk.run(&packet).unwrap().payload, expected);
    }
    talk.next = [sent.len(), back.len()];
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
    let out = talk.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, scene.translated_reply());
}

#[test]
fn a_fin_may_have_data() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let talk = scene.addressed(Form::Local);
    let fin = flag::FIN | flag::ACK;
    let packet = talk.packet(
        Side::Client,
        talk.next[0],
        fin,
        &scene.request(Form::Alias, 20),
    );
    let expected = scene.request(Form::Local, 20);
    for _ in 0..2 {
        assert_eq!(talk.run(&packet).unwrap().payload, expected);
    }
    let packet = talk.packet(Side::Endpoint, talk.next[1], fin, &scene.reply());
    for _ in 0..2 {
        assert_eq!(talk.run(&packet).unwrap().payload, scene.translated_reply());
    }
    let flow = scene.program.flow(talk.client, talk.endpoint).unwrap();
    assert!(state::is_closed(flow.unwrap().flags));
}

#[test]
fn a_rst_may_have_data() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let talk = scene.addressed(Form::Local);
    let packet = talk.packet(
        Side::Endpoint,
        talk.next[1],
        flag::RST | flag::ACK,
        b"reason",
    );
    let out = talk.run(&packet).unwrap();
    assert!(out.rst && out.payload == b"reason");
    let flow = scene.program.flow(talk.client, talk.endpoint).unwrap();
    assert!(state::is_closed(flow.unwrap().flags));
    // Of no flow at all, too.
    let talk = scene.unseen();
    let packet = talk.packet(Side::Client, 0, flag::RST, &scene.request(Form::Alias, 20));
    let out = talk.run(&packet).unwrap();
    assert_eq!(out.payload, scene.request(Form::Alias, 20));
}

#[test]
fn a_port_is_used_again() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    for alias in ["jobmanage2", "j"] {
        let other = Scene::with_alias(OBJECT, alias);
        // With both ways of ending, and sequence numbers from anywhere.
        if alias == "j" {
            talk.control(Side::Client, talk.next[0], flag::FIN | flag::ACK);
            talk.control(Side::Endpoint, talk.next[1], flag::FIN | flag::ACK);
        } else {
            talk.control(Side::Client, talk.next[0], flag::RST);
        }
        talk.first = talk.first.map(|first| first.wrapping_mul(77_777_777));
        talk.next = [0; 2];
        talk.handshake();
        scene.associate(&mut talk);
        let out = talk.says(Side::Client, &other.request(Form::Alias, 20));
        let form = if alias == "j" {
            Form::Local
        } else {
            Form::Padded
        };
        assert_eq!(out, other.request(form, 20));
        let out = talk.says(Side::Endpoint, &scene.reply());
        assert_eq!(out, other.translated_reply());
    }
}

#[test]
fn keep_alives_and_window_probes_are_nothing_special() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    for (side, sent, expected) in [
        (
            Side::Client,
            scene.request(Form::Alias, 20),
            scene.request(Form::Local, 20),
        ),
        (Side::Endpoint, scene.reply(), scene.translated_reply()),
    ] {
        let at = talk.next[side as usize];
        // One old byte, or none.
        talk.passes(side, at - 1, &[0]);
        talk.control(side, at - 1, flag::ACK);
        // The next byte alone, again and again.
        for _ in 0..20 {
            assert_eq!(talk.passes(side, at, &sent[..1]), expected[..1]);
        }
        assert_eq!(talk.says(side, &sent), expected);
    }
}

#[test]
fn sequence_numbers_wrap_in_the_middle_of_a_frame() {
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let scene = Scene::with_alias(OBJECT, alias);
        let sent = [
            scene.client_associate(),
            scene.request(Form::Alias, 20).repeat(2),
        ]
        .concat();
        let expected = [scene.client_associate(), scene.request(form, 20).repeat(2)].concat();
        let reply = [scene.endpoint_associate(), scene.reply()].concat();
        let translated = [scene.endpoint_associate(), scene.translated_reply()].concat();
        for wrap in 0..=reply.len().max(sent.len()) {
            let mut talk = scene.unseen();
            talk.first = [0u32.wrapping_sub(wrap as u32); 2];
            talk.handshake();
            scene.associate(&mut talk);
            let requests = scene.request(Form::Alias, 20).repeat(2);
            let out = talk.says(Side::Client, &requests);
            assert_eq!(out, scene.request(form, 20).repeat(2), "{wrap}");
            let out = talk.says(Side::Endpoint, &scene.reply());
            assert_eq!(out, scene.translated_reply(), "{wrap}");
            for from in (0..sent.len()).step_by(11) {
                let out = talk.passes(Side::Client, from, &sent[from..]);
                assert_eq!(out, expected[from..], "{wrap} {from}");
            }
            for from in (0..reply.len()).step_by(11) {
                let out = talk.passes(Side::Endpoint, from, &reply[from..]);
                assert_eq!(out, translated[from..], "{wrap} {from}");
            }
        }
    }
}

#[test]
fn connections_without_data_are_no_flows() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let talk = scene.opened();
    talk.control(Side::Client, 0, flag::FIN | flag::ACK);
    talk.control(Side::Endpoint, 0, flag::FIN | flag::ACK);
    assert_eq!(scene.program.flows().unwrap(), 0);
}

/// Sends a stream in pieces of `size` bytes, what is dropped again; answers what came out.
fn stream(talk: &mut Talk<'_>, side: Side, bytes: &[u8], size: usize) -> Vec<u8> {
    let at = talk.next[side as usize];
    let mut out = vec![0; bytes.len()];
    let mut waiting: Vec<usize> = Vec::new();
    for from in (0..bytes.len()).step_by(size) {
        waiting.push(from);
        let mut left = Vec::new();
        // The new bytes may be what the others wait for.
        for from in waiting.into_iter().rev() {
            let to = bytes.len().min(from + size);
            match talk.send(side, at + from, &bytes[from..to]) {
                Some(piece) => out[from..to].copy_from_slice(&piece),
                None => left.insert(0, from),
            }
        }
        let acked = left.first().copied().unwrap_or(from);
        waiting = left;
        talk.acked[side as usize] = at + acked;
        let other = [Side::Endpoint, Side::Client][side as usize];
        talk.control(other, talk.next[other as usize], flag::ACK);
    }
    assert_eq!(waiting, [0; 0], "never passed");
    talk.next[side as usize] += bytes.len();
    out
}

#[test]
fn a_recorded_connection_comes_out_as_it_should() {
    let fixture = |name: &str| {
        let directory = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/fixtures/flink-2.3.0-alias-padded"
        );
        std::fs::read(format!("{directory}/{name}.bin")).unwrap()
    };
    let client = (fixture("c2s.before"), fixture("c2s.after"));
    let endpoint = (fixture("s2c.before"), fixture("s2c.after"));
    // The first frames: the client addresses nobody before it knows who answers.
    let first = |bytes: &[u8]| 4 + usize::from(bytes[3]);
    let scene = Scene::with_alias(OBJECT, SHORT);
    for size in [7, 88, 127, 536, 1460, 2500] {
        let mut talk = scene.opened();
        let (hello, requests) = client.0.split_at(first(&client.0));
        let (hello_back, replies) = endpoint.0.split_at(first(&endpoint.0));
        let mut to_endpoint = talk.says(Side::Client, hello);
        let mut to_client = talk.says(Side::Endpoint, hello_back);
        to_endpoint.extend(stream(&mut talk, Side::Client, requests, size));
        to_client.extend(stream(&mut talk, Side::Endpoint, replies, size));
        assert!(to_endpoint == client.1, "to the endpoint, {size} bytes");
        assert!(to_client == endpoint.1, "to the client, {size} bytes");
    }
    scene.assert_count(Counter::ResetMisguess, 0);
    scene.assert_count(Counter::Malformed, 0);
}

#[test]
fn a_stray_syn_does_not_disturb_a_connection() {
    for far in [1, 100_000, 1 << 30, 3 << 30] {
        let scene = Scene::with_alias(OBJECT, SHORT);
        let mut talk = scene.addressed(Form::Local);
        // Of an earlier connection, or forged: the endpoint does not accept it.
        let mut stray = talk;
        stray.first[0] = talk.first[0].wrapping_add(far);
        stray.control(Side::Client, 0, flag::SYN);
        let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
        assert_eq!(out, scene.request(Form::Local, 20), "{far}");
        let out = talk.says(Side::Endpoint, &scene.reply());
        assert_eq!(out, scene.translated_reply(), "{far}");
    }
}

#[test]
fn a_connection_that_finds_the_table_full_passes_unchanged() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    for _ in 0..4096 {
        scene.associated();
    }
    scene.assert_count(Counter::TableFull, 0);
    let mut talk = scene.associated();
    let request = scene.request(Form::Alias, 20);
    assert_eq!(talk.says(Side::Client, &request), request);
    let reply = scene.reply();
    assert_eq!(talk.says(Side::Endpoint, &reply), reply);
    assert!(scene.program.count(Counter::TableFull).unwrap() > 0);
}

#[test]
fn a_handshake_may_come_again_at_any_time() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    talk.handshake();
    let sent = [scene.client_associate(), scene.request(Form::Alias, 20)].concat();
    let expected = [scene.client_associate(), scene.request(Form::Local, 20)].concat();
    assert_eq!(talk.passes(Side::Client, 0, &sent), expected);
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
    let packet = talk.packet(Side::Client, 0, flag::SYN, &sent);
    assert_eq!(talk.run(&packet).unwrap().payload, expected);
    let out = talk.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, scene.translated_reply());
    talk.handshake();
    let out = talk.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, scene.translated_reply());
    scene.assert_count(Counter::Adopted, 0);
}

#[test]
fn a_connection_whose_syn_was_not_seen_is_adopted() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.unseen();
    talk.control(Side::Endpoint, 0, flag::SYN | flag::ACK);
    scene.associate(&mut talk);
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
    let out = talk.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, scene.translated_reply());
    scene.assert_count(Counter::Adopted, 1);
}

#[test]
fn another_attempt_to_connect_begins_anew() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.unseen();
    talk.control(Side::Client, 0, flag::SYN);
    talk.first[0] = 3_000_000;
    talk.handshake();
    scene.associate(&mut talk);
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
    scene.assert_count(Counter::Resynchronised, 0);
}

#[test]
fn a_name_of_an_adopted_flow_may_be_cut() {
    let scene = Scene::configured(OBJECT, SHORT);
    let (reply, expected) = (scene.reply(), scene.translated_reply());
    for wrap in [0u32, 100] {
        for cut in 1..reply.len() {
            let mut talk = scene.unseen();
            talk.first[1] = 0u32.wrapping_sub(wrap);
            let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
            assert_eq!(out, scene.request(Form::Local, 20));
            // The middle of a frame, so that nothing is known of its framing; the near misses become known.
            let middle = 10;
            let out = talk.says(Side::Endpoint, &reply[middle..]);
            assert_eq!(out, expected[middle..]);
            let at = talk.next[1];
            let (first, second) = reply.split_at(cut);
            if let Some(out) = talk.send(Side::Endpoint, at, first) {
                assert_eq!(out, expected[..cut], "{cut}");
            }
            let out = talk.passes(Side::Endpoint, at + cut, second);
            assert_eq!(out, expected[cut..], "{wrap} {cut}");
            assert_eq!(talk.passes(Side::Endpoint, at, &reply), expected);
        }
    }
}
