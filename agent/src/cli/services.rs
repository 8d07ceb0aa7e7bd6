//! `truename services`

use super::{
    Exit,
    args::{Global, Services, ServicesVerb, TargetName},
    ask,
    output::{Output, Row},
    watch::show,
};
use crate::api::{ClientError, Request, Response, ServiceRow, ServiceTarget, TargetRow};

impl Row for ServiceRow {
    const HEADINGS: &'static [&'static str] = &[
        "name",
        "protocol",
        "alias",
        "targets",
        "connections",
        "unanswered",
        "refused attempts",
        "state",
    ];

    fn cells(&self) -> Vec<String> {
        let alias = match &self.aliases[..] {
            [] => self.listen.clone(),
            [only] => only.clone(),
            several => format!("{} ({})", self.listen, several.join(" ")),
        };
        let targets: Vec<_> = self.targets.iter().map(target).collect();
        vec![
            self.name.clone(),
            self.protocol.clone(),
            alias,
            targets.join("\n"),
            self.connections.to_string(),
            self.opening.to_string(),
            self.refused.to_string(),
            self.state.clone(),
        ]
    }
}

fn target(target: &TargetRow) -> String {
    let role = target.role.as_ref().map(|role| format!("{role} "));
    let role = role.unwrap_or_default();
    let Some(address) = &target.address else {
        return format!("{role}(not known)");
    };
    let mut notes = vec![if target.local { "local" } else { "remote" }.to_owned()];
    if let Some(source) = &target.source {
        notes.push(format!("sees {source}"));
    }
    if target.draining {
        notes.push("draining".to_owned());
    }
    if target.weight != 1 {
        notes.push(format!("weight {}", target.weight));
    }
    notes.push(format!("{} connection(s)", target.connections));
    let failed = target.unanswered + target.reset;
    if failed > 0 {
        let begun = failed + target.answered;
        notes.push(format!(
            "{failed} of {begun} of the last minute not answered"
        ));
    }
    format!("{role}{address} {}", notes.join(", "))
}

pub fn run(global: &Global, verb: Services) -> anyhow::Result<Exit> {
    match verb.verb {
        Some(ServicesVerb::Drain(name)) => {
            return change(global, name, Request::Drain, |asked, row| {
                format!(
                    "{} gets no new connections of the service \"{}\" until it is resumed or the agent ends; {} connection(s) stay\n",
                    asked.target, asked.service, row.connections
                )
            });
        }
        Some(ServicesVerb::Resume(name)) => {
            return change(global, name, Request::Resume, |asked, _| {
                format!(
                    "{} gets new connections of the service \"{}\"\n",
                    asked.target, asked.service
                )
            });
        }
        None => {}
    }
    let take = |response| match response {
        Response::Services(rows) => Some(rows),
        _ => None,
    };
    show(
        global,
        &verb.watch,
        &Request::Services,
        take,
        |output, rows| output.rows(rows, "no service is configured"),
    )?;
    Ok(Exit::Success)
}

/// Has the agent change a target, and says what it is like then.
fn change(
    global: &Global,
    name: TargetName,
    request: fn(ServiceTarget) -> Request,
    text: fn(&ServiceTarget, &TargetRow) -> String,
) -> anyhow::Result<Exit> {
    let asked = ServiceTarget {
        service: name.service,
        target: name.target,
    };
    let Response::Target(row) = ask(global, request(asked.clone()))? else {
        return Err(ClientError::Unexpected.into());
    };
    Output::new(global).document(&row, || text(&asked, &row))?;
    Ok(Exit::Success)
}
