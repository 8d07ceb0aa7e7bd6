//! `truename completions`

use clap::CommandFactory as _;

use super::{
    Exit,
    args::{Args, Completions},
    output,
};

pub fn run(verb: &Completions) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(verb.shell, &mut Args::command(), "truename", &mut text);
    output::print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Success)
}
