//! `truename top`: what happens, on one screen, a second at a time.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Text},
    widgets::{Paragraph, Row, Table},
};
use truename_common::layout::Counter;

use super::{Exit, args::Global, connect, output::ago, watch::look};
use crate::{
    api::{Request, Response, ServiceRow, State, Status},
    health::DROPS,
};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);
/// Lines for problems; `truename status` has all.
const PROBLEMS_SHOWN: usize = 6;

/// What is counted in a second: the words, and the counters.
const RATES: [(&str, &[Counter]); 5] = [
    ("packets", &[Counter::Packets]),
    (
        "translated",
        &[
            Counter::NatSent,
            Counter::NatReceived,
            Counter::XdpForwarded,
        ],
    ),
    ("connections", &[Counter::NatNew]),
    ("RPC frames", &[Counter::Frames]),
    (
        "names",
        &[Counter::RewrittenInbound, Counter::RewrittenOutbound],
    ),
];

/// What the agent answered.
struct Answer {
    at: Instant,
    status: Box<Status>,
    services: Vec<ServiceRow>,
}

/// What is shown.
#[derive(Default)]
struct Screen {
    answer: Option<Answer>,
    /// The answer before.
    before: Option<Answer>,
    /// Why there is no newer answer.
    error: Option<String>,
}

pub fn run(global: &Global) -> anyhow::Result<Exit> {
    if !io::stdout().is_terminal() {
        eprintln!("truename: top needs a terminal; `truename status --watch` does not");
        return Ok(Exit::Usage);
    }
    // A screen is of no use if the agent cannot be asked.
    let mut screen = Screen {
        answer: Some(ask(global)?),
        ..Screen::default()
    };
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &mut screen, || ask(global));
    ratatui::restore();
    shown.map(|()| Exit::Success)
}

fn ask(global: &Global) -> anyhow::Result<Answer> {
    let mut client = connect(global)?;
    let status = look(&mut client, &Request::Status, |response| match response {
        Response::Status(status) => Some(status),
        _ => None,
    })?;
    let services = look(&mut client, &Request::Services, |response| match response {
        Response::Services(services) => Some(services),
        _ => None,
    })?;
    Ok(Answer {
        at: Instant::now(),
        status,
        services,
    })
}

/// Shows until a key ends it. An agent that is replaced meanwhile is asked again.
fn show(
    terminal: &mut DefaultTerminal,
    screen: &mut Screen,
    mut ask: impl FnMut() -> anyhow::Result<Answer>,
) -> anyhow::Result<()> {
    loop {
        terminal.draw(|frame| draw(frame, screen))?;
        let due = Instant::now() + LOOK;
        while let Some(left) = due.checked_duration_since(Instant::now())
            && event::poll(left)?
        {
            match event::read()? {
                Event::Key(key) if ends(key) => return Ok(()),
                Event::Resize(..) => {
                    terminal.draw(|frame| draw(frame, screen))?;
                }
                _ => {}
            }
        }
        match ask() {
            Ok(answer) => {
                screen.error = None;
                screen.before = screen.answer.replace(answer);
            }
            Err(error) => screen.error = Some(error.to_string()),
        }
    }
}

/// A terminal in raw mode sends Ctrl-C as a key.
fn ends(key: KeyEvent) -> bool {
    let is_interrupt =
        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let head = screen.head();
    let height = u16::try_from(head.lines.len()).unwrap_or(u16::MAX);
    let parts = Layout::vertical([
        Constraint::Length(height),
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(1),
    ]);
    let [top, _, middle, bottom] = parts.areas(frame.area());
    frame.render_widget(Paragraph::new(head), top);
    frame.render_widget(services(screen), middle);
    let keys = Line::styled("q ends it", Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(keys, bottom);
}

impl Screen {
    fn head(&self) -> Text<'static> {
        let mut lines = Vec::new();
        let warning = Style::new().fg(Color::Yellow);
        if let Some(error) = &self.error {
            let failure = Style::new().fg(Color::Red);
            lines.push(Line::styled(error.clone(), failure));
        }
        let Some(answer) = &self.answer else {
            return Text::from(lines);
        };
        let status = &answer.status;
        let (word, style) = match status.state {
            State::Ok => ("ok", Style::new().fg(Color::Green)),
            State::Degraded => ("degraded", warning),
        };
        lines.push(Line::styled(
            format!(
                "{word}: truename {}, up {}, {} of {} connections, {} of {} RPC flows",
                status.version,
                status.started.ago(),
                status.connections,
                status.connection_capacity,
                status.flows,
                status.flow_capacity
            ),
            style.add_modifier(Modifier::BOLD),
        ));
        for problem in status.problems.iter().take(PROBLEMS_SHOWN) {
            lines.push(Line::styled(format!("  {problem}"), warning));
        }
        let more = status.problems.len().saturating_sub(PROBLEMS_SHOWN);
        if more > 0 {
            let more = format!("  and {more} more: truename status");
            lines.push(Line::styled(more, warning));
        }
        if let Some(leader) = &status.topology.leader_rpc {
            lines.push(Line::raw(format!(
                "leader {} ({}, {} ago), {} worker(s)",
                leader.address,
                leader.source,
                ago(leader.last_seen),
                status.topology.workers
            )));
        }
        let rates = self.rates();
        lines.push(Line::raw(format!("per second: {}", rates.join(", "))));
        let drops = self.drops();
        if !drops.is_empty() {
            let drops = format!("dropped per second: {}", drops.join(", "));
            lines.push(Line::styled(drops, warning));
        }
        Text::from(lines)
    }

    fn rates(&self) -> Vec<String> {
        let rate = |(words, counters): &(&str, &[Counter])| {
            let rate: f64 = counters.iter().map(|counter| self.rate(*counter)).sum();
            format!("{rate:.0} {words}")
        };
        RATES.iter().map(rate).collect()
    }

    fn drops(&self) -> Vec<String> {
        let rates = DROPS.iter();
        let rates = rates.map(|(counter, reason)| (reason, self.rate(*counter)));
        rates
            .filter(|(_, rate)| *rate > 0.0)
            .map(|(reason, rate)| format!("{rate:.0} {reason}"))
            .collect()
    }

    /// How much was counted in a second.
    fn rate(&self, counter: Counter) -> f64 {
        let (Some(before), Some(after)) = (&self.before, &self.answer) else {
            return 0.0;
        };
        let value = |answer: &Answer| {
            let value = answer.status.counters.get(counter.label());
            value.copied().unwrap_or_default()
        };
        let counted = value(after).saturating_sub(value(before));
        let time = after.at.saturating_duration_since(before.at).as_secs_f64();
        // Two answers at once tell no rate.
        if time > 0.0 {
            counted as f64 / time
        } else {
            0.0
        }
    }
}

/// The busiest first: a screen is short.
fn services(screen: &Screen) -> Table<'static> {
    let rows = screen.answer.iter().flat_map(|answer| &answer.services);
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|row| (row.state == "ok", std::cmp::Reverse(row.connections)));
    let rows = rows.into_iter().map(|row| {
        let usable = row.targets.iter().filter(|target| target.weight > 0);
        let usable = usable.filter(|target| target.address.is_some()).count();
        let style = match row.state.as_str() {
            "ok" | "changing" => Style::new(),
            _ => Style::new().fg(Color::Yellow),
        };
        let cells = [
            row.name.clone(),
            row.state.clone(),
            row.listen.clone(),
            usable.to_string(),
            row.connections.to_string(),
            row.opening.to_string(),
            row.refused.to_string(),
        ];
        Row::new(cells).style(style)
    });
    let header = [
        "SERVICE",
        "STATE",
        "ALIAS",
        "TARGETS",
        "CONNECTIONS",
        "UNANSWERED",
        "REFUSED",
    ];
    let widths = [
        Constraint::Min(12),
        Constraint::Length(10),
        Constraint::Min(16),
        Constraint::Length(8),
        Constraint::Length(12),
        Constraint::Length(11),
        Constraint::Length(8),
    ];
    let header = Row::new(header).style(Style::new().add_modifier(Modifier::BOLD));
    Table::new(rows, widths).header(header)
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn answer(frames: u64, at: Instant) -> Answer {
        let status = serde_json::json!({
            "state": "degraded", "problems": ["nothing works"], "problem_details": [], "past_problems": [],
            "notes": [], "hanging": [], "version": "1.2.3", "table_version": 3, "pid": 1,
            "started": "2026-01-01T00:00:00Z", "config": null, "control_socket": "/s", "bpffs": "/b",
            "attach_mode": "tcx", "interfaces": [], "programs": [], "endpoints": 1, "services": 1, "connections": 2,
            "connection_capacity": 10, "evicted": 0, "repaired": 0, "reattached": 0, "port_tries": [],
            "sweep": null, "flows": 1, "flow_capacity": 4,
            "topology": {"generation": 0, "applied": 0, "leader_rpc": null, "leader_rest": null,
                "workers": 0, "members": 0, "sources": []},
            "counters": {"frames": frames, "nat_no_route": frames / 2},
        });
        let service = |name: &str, state: &str, connections: usize| ServiceRow {
            name: name.to_owned(),
            protocol: "tcp".to_owned(),
            listen: "10.0.0.10:80".to_owned(),
            aliases: Vec::new(),
            targets: Vec::new(),
            connections,
            states: std::collections::BTreeMap::new(),
            opening: 0,
            refused: 0,
            state: state.to_owned(),
        };
        Answer {
            at,
            status: serde_json::from_value(status).unwrap(),
            services: vec![
                service("idle", "ok", 0),
                service("busy", "ok", 7),
                service("bad", "no answer", 1),
            ],
        }
    }

    #[test]
    fn one_screen_tells_what_happens() {
        let begin = Instant::now();
        let screen = Screen {
            before: Some(answer(10, begin)),
            answer: Some(answer(30, begin + Duration::from_secs(2))),
            error: Some("no agent".to_owned()),
        };
        let mut terminal = Terminal::new(TestBackend::new(90, 12)).unwrap();
        terminal.draw(|frame| draw(frame, &screen)).unwrap();
        let text = terminal.backend().to_string();
        let mut rest = text.as_str();
        for words in [
            "no agent",
            "degraded: truename 1.2.3, up ",
            "2 of 10 connections, 1 of 4 RPC flows",
            "nothing works",
            "10 RPC frames",
            "dropped per second: 5 no_route",
            "SERVICE",
            "bad",
            "busy",
            "idle",
            "q ends it",
        ] {
            let (_, behind) = rest
                .split_once(words)
                .unwrap_or_else(|| panic!("{words}:\n{text}"));
            rest = behind;
        }
        // A small terminal is no failure.
        for (width, height) in [(1, 1), (20, 3), (0, 0)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &screen)).unwrap();
        }
    }
}
