//! What the kernel program makes of single packets: names, policies, learning.

use truename::datapath::OBJECT;
use truename_common::layout::{Counter, EventKind};
use truename_tests::{
    prog_run::{Form, Scene, Setup, Side, flag},
    wire::{Envelope, control},
};

const LONG: &str = "jobmanager-alias";
const EQUAL: &str = "flink-host";
const SHORT: &str = "jm";

#[test]
fn a_recipient_becomes_the_padded_canonical_form_when_that_fits() {
    let scene = Scene::with_alias(OBJECT, EQUAL);
    scene.addressed(Form::Padded);
    scene.assert_count(Counter::RewrittenInbound, 1);
    scene.assert_count(Counter::RewrittenOutbound, 0);
    let aliases = scene.program.aliases().unwrap();
    let stat = aliases[&format!("{EQUAL}:6123")];
    assert_eq!((stat.inbound, stat.outbound), (1, 0));
}

#[test]
fn a_recipient_becomes_the_local_form_when_the_canonical_one_is_longer() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    scene.addressed(Form::Local);
    scene.assert_count(Counter::RewrittenInbound, 1);
}

#[test]
fn a_recipient_at_the_canonical_name_stays() {
    let scene = Scene::with_alias(OBJECT, LONG);
    let mut talk = scene.associated();
    let own = scene.names.path(&scene.names.canonical, "/user/a");
    let request = scene.request_to(&own, 20);
    assert_eq!(talk.says(Side::Client, &request), request);
    let reply = scene.reply();
    assert_eq!(talk.says(Side::Endpoint, &reply), reply);
    scene.assert_count(Counter::RewrittenInbound, 0);
    scene.assert_count(Counter::RewrittenOutbound, 0);
}

#[test]
fn nothing_but_the_recipient_changes_inbound() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let message = |form| Envelope {
        recipient: format!("{}user/a", scene.front(form)),
        sender: Some(scene.front(Form::Alias)),
        body: scene.front(Form::Alias).into_bytes(),
        serializer: 17,
        manifest: Some(scene.front(Form::Alias)),
        ack: Some(3),
        sequence: Some(4),
    };
    let out = talk.says(Side::Client, &message(Form::Alias).frame());
    assert_eq!(out, message(Form::Local).frame());
}

#[test]
fn the_canonical_name_becomes_the_alias_in_what_the_endpoint_sends() {
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let scene = Scene::with_alias(OBJECT, alias);
        let mut talk = scene.addressed(form);
        let out = talk.says(Side::Endpoint, &scene.reply());
        assert_eq!(out, scene.translated_reply());
        scene.assert_count(Counter::RewrittenOutbound, 2);
        let aliases = scene.program.aliases().unwrap();
        assert_eq!(aliases[&format!("{alias}:6123")].outbound, 2);
    }
}

#[test]
fn nothing_changes_outbound_before_an_alias_is_known() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let reply = scene.reply();
    assert_eq!(talk.says(Side::Endpoint, &reply), reply);
    scene.assert_count(Counter::RewrittenOutbound, 0);
}

#[test]
fn the_canonical_name_is_learned_from_the_endpoint() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    assert_eq!(scene.program.names(scene.endpoint).unwrap(), None);
    let talk = scene.addressed(Form::Local);
    let names = scene.program.names(scene.endpoint).unwrap();
    let expected = ("jobmanager:6123".to_owned(), "flink".to_owned());
    assert_eq!(names, Some(expected));
    let flow = scene.program.flow(talk.client, talk.endpoint);
    let flow = flow.unwrap().unwrap();
    assert_eq!(flow.names.alias.to_string(), "jm:6123");
    assert_eq!(flow.names.canonical.to_string(), "jobmanager:6123");
    assert_eq!(flow.names.origin.to_string(), "taskmanager:6122");
    assert_eq!((flow.inbound.frames, flow.inbound.edits), (2, 1));
    let events: Vec<_> = scene
        .program
        .events()
        .unwrap()
        .into_iter()
        .map(|event| (event.kind, event.text))
        .collect();
    let expected = [
        (EventKind::PeerSeen, "taskmanager:6122".to_owned()),
        (EventKind::CanonicalLearned, "jobmanager:6123".to_owned()),
        (EventKind::AliasSeen, "jm:6123".to_owned()),
    ];
    assert_eq!(events, expected);
    // It is known to the next connection from its first packet on.
    let mut next = scene.opened();
    next.says(Side::Client, &scene.client_associate());
    let out = next.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
    assert_eq!(scene.program.aliases().unwrap().len(), 1);
}

#[test]
fn a_configured_canonical_name_is_not_overwritten() {
    let scene = Scene::configured(OBJECT, SHORT);
    let mut talk = scene.opened();
    let mut other = Scene::with_alias(OBJECT, SHORT);
    other.names.canonical.host = "somebody".to_owned();
    let announced = other.endpoint_associate();
    assert_eq!(talk.says(Side::Endpoint, &announced), announced);
    let expected = ("jobmanager:6123".to_owned(), "flink".to_owned());
    assert_eq!(scene.program.names(scene.endpoint).unwrap(), Some(expected));
}

#[test]
fn an_endpoint_on_any_address_is_found() {
    for v6 in [false, true] {
        let setup = Setup {
            alias: SHORT,
            wildcard: true,
            v6,
            ..Setup::default()
        };
        let scene = Scene::new(OBJECT, &setup);
        let mut talk = scene.addressed(Form::Local);
        let out = talk.says(Side::Endpoint, &scene.reply());
        assert_eq!(out, scene.translated_reply());
        assert!(scene.program.names(scene.endpoint).unwrap().is_some());
    }
}

#[test]
fn every_frame_of_a_packet_is_translated() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let packet = |form| {
        [
            scene.request(form, 0),
            control(3),
            scene.request(form, 300),
            scene.request(form, 7),
        ]
        .concat()
    };
    assert_eq!(
        talk.says(Side::Client, &packet(Form::Alias)),
        packet(Form::Local)
    );
    scene.assert_count(Counter::RewrittenInbound, 3);
    // Both Associates, too.
    scene.assert_count(Counter::Frames, 6);
    let replies = [scene.reply(), control(3), scene.reply()].concat();
    let expected = [
        scene.translated_reply(),
        control(3),
        scene.translated_reply(),
    ]
    .concat();
    assert_eq!(talk.says(Side::Endpoint, &replies), expected);
    scene.assert_count(Counter::RewrittenOutbound, 4);
}

#[test]
fn a_listed_alias_is_admitted_and_another_is_not() {
    let list = ["jm:6123", "flink-host:6123"];
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let setup = Setup {
            alias,
            listed: Some(&list),
            ..Setup::default()
        };
        let scene = Scene::new(OBJECT, &setup);
        let mut talk = scene.addressed(form);
        if alias == SHORT {
            let out = talk.says(Side::Endpoint, &scene.reply());
            assert_eq!(out, scene.translated_reply());
        }
        scene.assert_count(Counter::NotAdmitted, 0);
        for other in ["jm:6124", "jn:6123", "jm1:6123", "j:6123"] {
            let request = scene.request_to(&scene.names.path(&other, "/user/a"), 20);
            assert_eq!(talk.says(Side::Client, &request), request);
        }
        scene.assert_count(Counter::NotAdmitted, 4);
        scene.assert_count(Counter::RewrittenInbound, 1);
    }
}

#[test]
fn a_connection_whose_alias_is_not_admitted_keeps_its_answers() {
    let setup = Setup {
        alias: SHORT,
        listed: Some(&["other:6123"]),
        ..Setup::default()
    };
    let scene = Scene::new(OBJECT, &setup);
    let mut talk = scene.addressed(Form::Alias);
    let reply = scene.reply();
    assert_eq!(talk.says(Side::Endpoint, &reply), reply);
    scene.assert_count(Counter::NotAdmitted, 1);
    assert!(scene.program.aliases().unwrap().is_empty());
}

#[test]
fn a_flow_whose_alias_does_not_fit_is_left_alone() {
    let scene = Scene::with_alias(OBJECT, LONG);
    let mut talk = scene.addressed(Form::Alias);
    let reply = scene.reply();
    assert_eq!(talk.says(Side::Endpoint, &reply), reply);
    let request = scene.request(Form::Alias, 20);
    assert_eq!(talk.says(Side::Client, &request), request);
    scene.assert_count(Counter::NoFit, 1);
    scene.assert_count(Counter::RewrittenInbound, 0);
    scene.assert_count(Counter::RewrittenOutbound, 0);
    let aliases = scene.program.aliases().unwrap();
    assert_eq!(aliases["jobmanager-alias:6123"].no_fit, 1);
    let events = scene.program.events().unwrap();
    let told = events
        .iter()
        .filter(|event| event.kind == EventKind::NoFit)
        .map(|event| event.text.as_str());
    assert!(told.eq(["jobmanager-alias:6123"]));
}

#[test]
fn several_aliases_on_one_connection_are_all_translated() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.addressed(Form::Local);
    let other = Scene::with_alias(OBJECT, "jobmanager.example.org");
    let out = talk.says(Side::Client, &other.request(Form::Alias, 20));
    assert_eq!(out, other.request(Form::Local, 20));
    // Answers keep the first one.
    let out = talk.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, scene.translated_reply());
}

#[test]
fn connections_with_different_aliases_do_not_mix() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let other = Scene::with_alias(OBJECT, EQUAL);
    let mut first = scene.addressed(Form::Local);
    let mut second = scene.associated();
    let out = second.says(Side::Client, &other.request(Form::Alias, 20));
    assert_eq!(out, other.request(Form::Padded, 20));
    let out = first.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, scene.translated_reply());
    let out = second.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, other.translated_reply());
    assert_eq!(scene.program.aliases().unwrap().len(), 2);
}

#[test]
fn replies_on_another_connection_of_the_client_are_translated() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    scene.addressed(Form::Local);
    let mut other = scene.associated();
    let out = other.says(Side::Endpoint, &scene.reply());
    assert_eq!(out, scene.translated_reply());
    let aliases = scene.program.aliases().unwrap();
    assert_eq!(aliases["jm:6123"].outbound, 2);
}

#[test]
fn another_actor_system_is_left_alone() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    for system in ["other", "flin", "flink2", "flinK"] {
        let path = format!("pekko.tcp://{system}@jm:6123/user/a");
        let request = scene.request_to(&path, 20);
        assert_eq!(talk.says(Side::Client, &request), request, "{system}");
    }
    scene.assert_count(Counter::OtherSystem, 4);
    scene.assert_count(Counter::RewrittenInbound, 0);
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
}

#[test]
fn a_recipient_without_an_authority_is_left_alone() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut talk = scene.associated();
    let paths = [
        "pekko://flink/user/a",
        "pekko.tcp://flink/user/a",
        "pekko.tcp://flink@jm:6123",
        "pekko.tcp://flink@/user",
        "pekko.tcp://flink@jm/user",
        "pekko.tcp://flink@jm:x/user",
        "x",
        "",
    ];
    for path in paths {
        let request = scene.request_to(path, 20);
        assert_eq!(talk.says(Side::Client, &request), request, "{path}");
    }
    scene.assert_count(Counter::NoAuthority, paths.len() as u64);
    let out = talk.says(Side::Client, &scene.request(Form::Alias, 20));
    assert_eq!(out, scene.request(Form::Local, 20));
}

#[test]
fn a_packet_that_passes_twice_comes_out_the_same() {
    for (alias, form) in [(SHORT, Form::Local), (EQUAL, Form::Padded)] {
        let scene = Scene::configured(OBJECT, alias);
        let talk = scene.unseen();
        let twice = |packet: Vec<u8>, expected: &[u8]| {
            assert_eq!(talk.run(&packet).unwrap().payload, expected);
            let once = scene.program.run(&packet).unwrap();
            let truename_tests::prog_run::Verdict::Next(out) = once else {
                panic!("dropped");
            };
            assert_eq!(talk.run(&out).unwrap().payload, expected);
        };
        twice(talk.packet(Side::Client, 0, flag::SYN, &[]), &[]);
        let answer = flag::SYN | flag::ACK;
        twice(talk.packet(Side::Endpoint, 0, answer, &[]), &[]);
        let hello = scene.client_associate();
        twice(talk.packet(Side::Client, 0, flag::ACK, &hello), &hello);
        let hello_back = scene.endpoint_associate();
        let packet = talk.packet(Side::Endpoint, 0, flag::ACK, &hello_back);
        twice(packet, &hello_back);
        let request = scene.request(Form::Alias, 20);
        let packet = talk.packet(Side::Client, hello.len(), flag::ACK, &request);
        twice(packet, &scene.request(form, 20));
        let packet = talk.packet(Side::Endpoint, hello_back.len(), flag::ACK, &scene.reply());
        twice(packet, &scene.translated_reply());
        scene.assert_count(Counter::RewrittenInbound, 1);
        scene.assert_count(Counter::RewrittenOutbound, 2);
    }
}

#[test]
fn other_ports_and_addresses_are_not_ours() {
    let scene = Scene::with_alias(OBJECT, SHORT);
    let mut port = scene.unseen();
    port.endpoint.set_port(6124);
    let mut address = scene.unseen();
    address.endpoint = "10.0.0.3:6123".parse().unwrap();
    for talk in [&mut port, &mut address] {
        talk.handshake();
        scene.associate(talk);
        let request = scene.request(Form::Alias, 20);
        assert_eq!(talk.says(Side::Client, &request), request);
    }
    scene.assert_count(Counter::Packets, 12);
    scene.assert_count(Counter::RpcPackets, 0);
    assert_eq!(scene.program.flows().unwrap(), 0);
}
