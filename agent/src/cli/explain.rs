//! `truename explain`

use anyhow::bail;

use super::{
    Exit, args,
    args::Global,
    ask,
    output::{Output, Row, or_dash},
};
use crate::{
    api::{ClientError, Request, Response},
    explain::{EXAMPLE_PORT, Explanation, Question, Step, Verdict},
};

impl Row for Step {
    const HEADINGS: &'static [&'static str] = &["table", "key", "says"];

    fn cells(&self) -> Vec<String> {
        vec![
            or_dash(self.table.as_deref()),
            or_dash(self.key.as_deref()),
            self.says.clone(),
        ]
    }
}

pub fn run(global: &Global, verb: &args::Explain) -> anyhow::Result<Exit> {
    let question = Question {
        from: verb.from,
        to: verb.to,
        protocol: verb.protocol.number(),
    };
    if question.from.is_ipv4() != question.to.is_ipv4() {
        bail!(
            "no packet goes from {} to {}: one is IPv4, the other IPv6",
            question.from.ip(),
            question.to.ip()
        );
    }
    let Response::Explanation(explanation) = ask(global, Request::Explain(question))? else {
        return Err(ClientError::Unexpected.into());
    };
    let output = Output::new(global);
    output.document(&explanation, || text(output, &question, &explanation))?;
    Ok(Exit::Success)
}

fn text(output: Output, question: &Question, explanation: &Explanation) -> String {
    let example = if question.from.port() == EXAMPLE_PORT {
        " (a port as good as any)"
    } else {
        ""
    };
    let verdict = match &explanation.verdict {
        Verdict::Unchanged => "Addresses and ports stay.".to_owned(),
        Verdict::Refused { reason } => format!("Dropped, counted as {reason}."),
        Verdict::ToTarget { new, from, to } => format!(
            "Becomes {from} → {to}, {}.",
            if *new {
                "a new connection"
            } else {
                "its connection"
            }
        ),
        Verdict::ToClient { from, to } => format!("Becomes {from} → {to}, an answer."),
    };
    format!(
        "{} → {}{example}\n\n{}\n\n{verdict}\n",
        question.from,
        question.to,
        output.table(&explanation.steps)
    )
}
