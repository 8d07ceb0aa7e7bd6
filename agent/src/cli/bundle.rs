//! `truename support-bundle`: all that somebody who helps asks for, as one JSON document.

mod redact;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Exit,
    args::{Bundle, Global},
    ask, doctor,
    output::print,
};
use crate::{
    api::{FlowFilter, Request, Response, Timestamp},
    config::DEFAULT_FILE,
    sysctl,
};

/// Flows that are in it; there may be ten thousands.
const FLOWS: usize = 1000;

pub fn run(global: &Global, verb: &Bundle) -> anyhow::Result<Exit> {
    let mut bundle = collect(global);
    if verb.redact {
        redact::redact(&mut bundle);
    }
    let text = serde_json::to_string_pretty(&bundle)? + "\n";
    let Some(path) = verb.file.clone() else {
        print(&text)?;
        return Ok(Exit::Success);
    };
    write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    let kind = if verb.redact {
        "names and addresses are replaced"
    } else {
        "it has names and addresses; --redact replaces them"
    };
    print(&format!(
        "{}: {} bytes; {kind}\n",
        path.display(),
        text.len()
    ))?;
    Ok(Exit::Success)
}

/// Whole, or not at all: half a document helps nobody.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = fs::File::create(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        // It may not be there.
        let _ = fs::remove_file(&new);
    }
    done
}

/// What cannot be had has the reason in its place.
fn collect(global: &Global) -> Value {
    let mut all = Map::new();
    let mut add = |name: &str, found: anyhow::Result<Value>| {
        let found = found.unwrap_or_else(|error| {
            let error = super::describe(&error);
            serde_json::json!({ "error": error })
        });
        all.insert(name.to_owned(), found);
    };
    add("time", value(Timestamp::now()));
    add("version", value(env!("CARGO_PKG_VERSION")));
    let kernel = rustix::system::uname();
    let kernel = [kernel.release(), kernel.version(), kernel.machine()];
    add("kernel", value(kernel.map(|text| text.to_string_lossy())));
    add("doctor", doctor::checks(global).and_then(value));
    let file = global.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    add("file", read(file));
    for name in sysctl::all() {
        let value = sysctl::read(name).map(Value::from);
        add(&sysctl::dotted(name), value.context("read the switch"));
    }
    let flows = FlowFilter {
        limit: Some(FLOWS),
        ..FlowFilter::default()
    };
    for (name, request) in [
        ("configuration", Request::Configuration),
        ("status", Request::Status),
        ("services", Request::Services),
        ("endpoints", Request::Endpoints),
        ("aliases", Request::Aliases),
        ("peers", Request::Peers),
        ("topology", Request::Topology),
        ("names", Request::Names),
        ("flows", Request::Flows(flows)),
    ] {
        add(name, ask(global, request).and_then(answer));
    }
    Value::Object(all)
}

fn value(found: impl Serialize) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(found)?)
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(Value::from(text.trim_end()))
}

/// The rows of a response, without its name.
fn answer(response: Response) -> anyhow::Result<Value> {
    let response = serde_json::to_value(response)?;
    Ok(response.get("data").cloned().unwrap_or_default())
}
