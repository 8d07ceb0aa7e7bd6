//! `truename man`

use anyhow::Context as _;
use clap::CommandFactory as _;

use super::{
    Exit,
    args::{Args, Man},
    output,
};

pub fn run(verb: &Man) -> anyhow::Result<Exit> {
    let command = Args::command();
    match &verb.out {
        Some(directory) => clap_mangen::generate_to(command, directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?,
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(command).render(&mut text)?;
            output::print(&String::from_utf8_lossy(&text))?;
        }
    }
    Ok(Exit::Success)
}
