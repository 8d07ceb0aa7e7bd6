//! `truename explain`

use std::fmt::Write as _;

use super::{
    Exit,
    args::{Explain, Global},
    ask,
    output::Output,
};
use truename_common::layout::Counter;

use crate::{
    api::{ClientError, Request, Response},
    explain::{Asked, Explanation, Outcome},
};

pub fn run(global: &Global, verb: Explain) -> anyhow::Result<Exit> {
    let asked = Asked {
        protocol: verb.protocol.name().to_owned(),
        from: verb.from.host,
        from_port: verb.from.port,
        to: verb.to,
    };
    if let Some(why) = asked.impossible() {
        eprintln!("truename: {why}");
        return Ok(Exit::Usage);
    }
    let Response::Explanation(explanation) = ask(global, Request::Explain(asked))? else {
        return Err(ClientError::Unexpected.into());
    };
    Output::new(global).document(&explanation, || text(&explanation))?;
    Ok(Exit::Success)
}

fn text(explanation: &Explanation) -> String {
    let Explanation {
        protocol,
        from,
        example_port,
        to,
        steps,
        outcome,
        notes,
    } = explanation;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(text, "{protocol} from {from} to {to}");
    if *example_port {
        let _ = write!(text, " (port {} is an example)", from.port());
    }
    text.push('\n');
    for step in steps {
        let _ = writeln!(text, "  {:<12} {step}", step.heading());
    }
    let outcome = match outcome {
        Outcome::Translated {
            from,
            to,
            begins: true,
        } => format!("becomes {from} to {to}, and begins a connection"),
        Outcome::Translated { from, to, .. } => format!("becomes {from} to {to}"),
        Outcome::Refused { counter } if counter == Counter::NatNoTarget.label() => {
            format!("is answered with \"port unreachable\" (ICMP), counted as {counter}")
        }
        Outcome::Refused { counter } => format!("is dropped, counted as {counter}"),
        Outcome::Unchanged => "keeps its addresses".to_owned(),
    };
    let _ = writeln!(text, "  {:<12} {outcome}", "so it");
    for note in notes {
        let _ = writeln!(text, "  {:<12} {note}", "but");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Step;

    #[test]
    fn one_line_a_step() {
        let explanation = Explanation {
            protocol: "tcp".to_owned(),
            from: "10.0.0.5:40000".parse().unwrap(),
            example_port: true,
            to: "10.0.0.11:80".parse().unwrap(),
            steps: vec![
                Step::Port {
                    port: 80,
                    destination: true,
                    flags: vec!["service".to_owned()],
                },
                Step::NoService { nearest: None },
            ],
            outcome: Outcome::Unchanged,
            notes: vec!["nobody listens".to_owned()],
        };
        assert_eq!(
            text(&explanation),
            "tcp from 10.0.0.5:40000 to 10.0.0.11:80 (port 40000 is an example)\n\
             \x20 port         the destination port 80 is that of a service at some address\n\
             \x20 service      the destination is no alias of a service\n\
             \x20 so it        keeps its addresses\n\
             \x20 but          nobody listens\n"
        );
    }
}
