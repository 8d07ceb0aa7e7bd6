//! A relay in user space that does the same translation: what truename is compared with. It is as
//! simple and as fast as a relay of two threads can be: whole frames, no allocation a frame.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    traffic::{Connection, Lab},
    wire::Names,
};

/// Starts the relay in the server's namespace, and connects the client through it.
///
/// # Errors
/// A socket cannot be made.
pub fn connect(lab: &Lab, names: &Names) -> Result<Connection> {
    let near = SocketAddr::new(lab.address().ip(), 0);
    let listener = lab
        .server()
        .run(|| TcpListener::bind(near))?
        .context("listen as a relay")?;
    let to = listener.local_addr()?;
    let client = lab
        .client()
        .run(|| TcpStream::connect(to))?
        .context("connect to the relay")?;
    let (front, _) = listener.accept()?;
    // The relay's own connection with the server, within the server's namespace.
    let behind = lab
        .server()
        .run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?
        .context("listen as a server")?;
    let to = behind.local_addr()?;
    let back = lab
        .server()
        .run(|| TcpStream::connect(to))?
        .context("connect to the server")?;
    let (server, _) = behind.accept()?;
    for stream in [&front, &back] {
        stream.set_nodelay(true)?;
    }
    let alias = names.alias.to_string();
    let canonical = names.canonical.to_string();
    let padded = names
        .alias
        .padded(canonical.len())
        .context("the alias does not fit")?;
    // The recipient's name becomes the host-less form, the canonical name the padded alias.
    let inbound = (
        format!(".tcp://{}@{alias}/", names.system),
        format!(
            "://{}{}",
            names.system,
            "/".repeat(".tcp@/".len() + alias.len())
        ),
    );
    let outbound = (
        format!("://{}@{canonical}/", names.system),
        format!("://{}@{padded}/", names.system),
    );
    for (from, to, (was, is)) in [
        (front.try_clone()?, back.try_clone()?, inbound),
        (back, front, outbound),
    ] {
        thread::spawn(move || {
            // Ends with its connection.
            let _ = forward(from, to, was.as_bytes(), is.as_bytes());
        });
    }
    Connection::new(client, server)
}

fn forward(mut from: TcpStream, mut to: TcpStream, was: &[u8], is: &[u8]) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let mut at = 0;
        while let Some(found) = buffer[at..len]
            .windows(was.len())
            .position(|window| window == was)
        {
            let begin = at + found;
            buffer[begin..begin + is.len()].copy_from_slice(is);
            at = begin + is.len();
        }
        to.write_all(&buffer[..len])?;
    }
}
