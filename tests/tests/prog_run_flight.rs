//! Much in flight behind a lost segment, as single packets: everything behind it passes, and so does the
//! lost one, however much that was.

use truename::datapath::OBJECT;
use truename_tests::prog_run::{Form, Scene, Side};

/// Frames of a segment, each with a name to translate.
const FRAMES: usize = 7;

/// Sends `segments` behind a lost one, whose data does not arrive for long; then the lost one. The packets have no
/// window scale, so a window that is large enough must be one that is not known: that of an adopted flow.
fn lose_one(side: Side, segments: usize) {
    let scene = Scene::configured(OBJECT, "jm");
    let mut talk = scene.unseen();
    scene.associate(&mut talk);
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
    let (sent, expected) = match side {
        Side::Client => (
            scene.request(Form::Alias, 20).repeat(FRAMES),
            scene.request(Form::Local, 20).repeat(FRAMES),
        ),
        Side::Endpoint => (
            scene.reply().repeat(FRAMES),
            scene.translated_reply().repeat(FRAMES),
        ),
    };
    let other = match side {
        Side::Client => Side::Endpoint,
        Side::Endpoint => Side::Client,
    };
    let lost = talk.next[side as usize];
    talk.acknowledges(other, lost);
    for segment in 1..=segments {
        let out = talk.send(side, lost + segment * sent.len(), &sent);
        let out = out.unwrap_or_else(|| panic!("segment {segment} behind the lost one is dropped"));
        assert!(
            out == expected,
            "segment {segment} behind the lost one is wrong"
        );
        // Its receiver says again what it is waiting for.
        talk.acknowledges(other, lost);
    }
    let out = talk.send(side, lost, &sent);
    let out = out.unwrap_or_else(|| panic!("the lost segment is dropped, {segments} behind it"));
    assert!(out == expected, "the lost segment is wrong");
    // All of it, once more, and in other pieces.
    for segment in [1, segments / 2, segments] {
        let at = lost + segment * sent.len();
        let half = sent.len() / 2 + 5;
        assert!(talk.passes(side, at, &sent[..half]) == expected[..half]);
        assert!(talk.passes(side, at + half, &sent[half..]) == expected[half..]);
    }
    let end = lost + (segments + 1) * sent.len();
    talk.next[side as usize] = end;
    talk.acknowledges(other, end);
    assert!(talk.says(side, &sent) == expected);
}

#[test]
fn a_lost_segment_passes_when_little_has_passed_behind_it() {
    for side in [Side::Client, Side::Endpoint] {
        lose_one(side, 10);
    }
}

#[test]
fn a_lost_segment_passes_however_much_has_passed_behind_it() {
    for side in [Side::Client, Side::Endpoint] {
        lose_one(side, 120);
        lose_one(side, 2_000);
    }
}

#[test]
fn what_nobody_acknowledges_in_view_does_not_stop_a_stream() {
    let scene = Scene::configured(OBJECT, "jm");
    let mut talk = scene.addressed(Form::Local);
    for _ in 0..5_000 {
        let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
        assert_eq!(out, scene.request(Form::Local, 20));
    }
}
