//! A relay in user space that does the same translation: what truename is compared with. It is as
//! simple and as fast as a relay of two threads for a connection can be: no parsing, no allocation a frame.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use memchr::memmem::Finder;

use crate::{socket, traffic::Lab, wire::Names};

/// A running relay; it takes no more connections after drop.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    /// The listener, as what can be shut down.
    listener: TcpStream,
    thread: Option<JoinHandle<()>>,
}

/// What is written instead of what.
#[derive(Clone)]
struct Replacement {
    was: Vec<u8>,
    is: Vec<u8>,
}

impl Relay {
    /// Starts the relay in the server's namespace, in front of the server.
    ///
    /// # Errors
    /// A socket cannot be made, or the alias does not fit.
    pub fn start(lab: &Lab, names: &Names) -> Result<Self> {
        let alias = names.alias.to_string();
        let canonical = names.canonical.to_string();
        let padded = names
            .alias
            .padded(canonical.len())
            .context("the alias does not fit")?;
        // The recipient's name becomes the host-less form, the canonical name the padded alias.
        let slashes = "/".repeat(".tcp@/".len() + alias.len());
        let [inbound, outbound] = [
            (
                format!(".tcp://{}@{alias}/", names.system),
                format!("://{}{slashes}", names.system),
            ),
            (
                format!("://{}@{canonical}/", names.system),
                format!("://{}@{padded}/", names.system),
            ),
        ]
        .map(|(was, is)| Replacement {
            was: was.into_bytes(),
            is: is.into_bytes(),
        });
        let listener = lab
            .server()
            .run(|| socket::listen(SocketAddr::new(lab.address().ip(), 0)))?
            .context("listen as a relay")?;
        let address = listener.local_addr()?;
        let (space, server) = (lab.server().clone(), lab.address());
        let handle = TcpStream::from(OwnedFd::from(listener.try_clone()?));
        let thread = thread::spawn(move || {
            // It is run inside, so that its own connections are.
            let _ = space.run(|| {
                loop {
                    let front = match listener.accept() {
                        Ok((front, _)) => front,
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                        Err(_) => return,
                    };
                    // The client sees the end of its connection if there is no server.
                    let _ = join(front, server, &inbound, &outbound);
                }
            });
        });
        Ok(Self {
            address,
            listener: handle,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Ends its thread, which waits in accept.
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn join(
    front: TcpStream,
    server: SocketAddr,
    inbound: &Replacement,
    outbound: &Replacement,
) -> std::io::Result<()> {
    let back = TcpStream::connect(server)?;
    for stream in [&front, &back] {
        stream.set_nodelay(true)?;
    }
    for (from, to, replacement) in [
        (front.try_clone()?, back.try_clone()?, inbound.clone()),
        (back, front, outbound.clone()),
    ] {
        thread::spawn(move || {
            // Ends with its connection.
            let _ = forward(&from, &to, &replacement);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}

fn forward(
    mut from: &TcpStream,
    mut to: &TcpStream,
    Replacement { was, is }: &Replacement,
) -> std::io::Result<()> {
    let finder = Finder::new(was);
    let mut buffer = vec![0; 64 << 10];
    // Bytes at the front of the buffer that may be the beginning of a name.
    let mut kept = 0;
    loop {
        let read = from.read(&mut buffer[kept..])?;
        let len = kept + read;
        if read == 0 {
            return to.write_all(&buffer[..len]);
        }
        let mut at = 0;
        while let Some(found) = finder.find(&buffer[at..len]) {
            at += found + was.len();
            buffer[at - was.len()..at].copy_from_slice(is);
        }
        kept = (1..was.len().min(len - at + 1))
            .rev()
            .find(|kept| was.starts_with(&buffer[len - kept..len]))
            .unwrap_or(0);
        to.write_all(&buffer[..len - kept])?;
        buffer.copy_within(len - kept..len, 0);
    }
}
