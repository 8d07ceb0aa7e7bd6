//! `truename detach`

use std::{fs, path::Path};

use anyhow::Context as _;

use super::{Exit, args::Global, output, paths};
use crate::{
    api::{Client, ClientError, Request, Response, Server},
    config::{DEFAULT_SOCKET, Derivation, Paths},
    daemon::{self, RunError},
    datapath::{DatapathError, Detached, Pins},
    doctor::Refusal,
};

/// Without an agent the pins can be locked and are removed here; an agent that holds the lock is
/// asked to remove them and to exit.
pub fn run(global: &Global) -> anyhow::Result<Exit> {
    let paths = paths(global);
    crate::doctor::require()?;
    let pins = Pins::new(&paths.bpffs);
    let detached = match daemon::detach(&pins, None) {
        Err(RunError::Refused(Refusal::Datapath(DatapathError::Busy(_)))) => Detached {
            links: through_agent(&paths)?,
            ..Detached::default()
        },
        other => other?,
    };
    remove_stale(&paths.control_socket);
    // There may be none.
    let _ = fs::remove_file(Derivation::path(&paths.control_socket));
    output::print(&match detached.links {
        0 => "nothing was attached\n".to_owned(),
        links => format!("detached {links} program(s)\n"),
    })?;
    for sentence in detached.restored {
        output::print(&format!("{sentence}\n"))?;
    }
    Ok(Exit::Success)
}

fn through_agent(paths: &Paths) -> anyhow::Result<usize> {
    let mut client = Client::connect(&paths.control_socket)
        .with_context(|| format!("an agent uses the pins in {}", paths.bpffs.display()))?;
    let Response::Status(status) = client.ask(Request::Status)? else {
        return Err(ClientError::Unexpected.into());
    };
    anyhow::ensure!(
        status.bpffs == paths.bpffs,
        "the agent at {} uses the pins in {}, not those in {}; name the right socket with --control-socket",
        paths.control_socket.display(),
        status.bpffs.display(),
        paths.bpffs.display(),
    );
    match client.ask(Request::Detach)? {
        Response::Detached(links) => Ok(links),
        _ => Err(ClientError::Unexpected.into()),
    }
}

/// Removes the socket of an agent that was killed, and its directory if that is the default one.
fn remove_stale(socket: &Path) {
    let is_socket = fs::symlink_metadata(socket).is_ok_and(|metadata| {
        use std::os::unix::fs::FileTypeExt as _;
        metadata.file_type().is_socket()
    });
    // Both may be in use or not be there, which is fine.
    if is_socket && Server::check_free(socket).is_ok() {
        let _ = fs::remove_file(socket);
    }
    if socket == Path::new(DEFAULT_SOCKET)
        && let Some(directory) = socket.parent()
    {
        let _ = fs::remove_dir(directory);
    }
}
