//! Everything that a web server offers, asked for through an alias.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use super::{clients::Client, seen::Seen, servers::Web};

/// Asks a web server who it is, fetches a file and sends one. It has to be the one at `target`, to be asked by
/// `source`, and to seem to be at `alias`.
///
/// # Errors
/// Something is not as it has to be.
pub fn visit(
    seen: &mut Seen,
    place: &str,
    client: Client<'_>,
    web: &Web,
    (alias, target, source): (SocketAddr, SocketAddr, IpAddr),
) -> Result<()> {
    let good = format!("exit 0, 200 from {alias}");
    let sent = format!("exit 0, 201 from {alias}");
    let (address, port) = (target.ip(), target.port());
    for (path, expected, line) in [
        (
            "/who",
            None,
            format!("{good}: \"{address} {port} {source}\""),
        ),
        (
            "/big",
            Some(web.big()),
            format!("{good}: the bytes that are served"),
        ),
    ] {
        let got = client.fetch(alias, path, expected)?;
        ensure!(got == line, "{place}: {path} gave {got} instead of {line}");
        seen.note(place, got);
    }
    let path = format!("/up/{}", seen.count());
    let got = client.upload(alias, &path, web.big())?;
    ensure!(got == sent, "{place}: {path} gave {got} instead of {sent}");
    ensure!(
        web.received(&path)? == web.big(),
        "{place}: other bytes arrived"
    );
    seen.note(place, got);
    Ok(())
}
