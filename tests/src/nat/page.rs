//! A web client of our own, for tests that want the connection: to keep it, to read half of an answer.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use anyhow::{Context as _, Result, ensure};

use crate::{sys, traffic::DEADLINE};

/// What is read of a large answer before it is left alone.
const BEGINNING: usize = 64 << 10;
/// The receive buffer of a large answer: most of it has to wait at the server.
const BUFFER: libc::c_int = 32 << 10;

/// Asks a web server for a page and leaves the connection open; answers the body.
///
/// # Errors
/// There is no answer, or not this one.
pub fn page(stream: &TcpStream, path: &str) -> Result<String> {
    ask(stream, path, "keep-alive")
}

/// The same, and the server ends the connection: `TIME_WAIT` is on its side, and nothing is left on this one.
///
/// # Errors
/// There is no answer, or not this one, or no end.
pub fn last_page(mut stream: TcpStream, path: &str) -> Result<String> {
    let body = ask(&stream, path, "close")?;
    let more = stream.read(&mut [0]).context("wait for the end")?;
    ensure!(more == 0, "more than was announced");
    // First: a process that is being started may hold the socket for a moment, and closing it would do nothing.
    stream.shutdown(Shutdown::Write).context("end")?;
    sys::wait_on_close(&stream, DEADLINE).context("close")?;
    Ok(body)
}

fn ask(mut stream: &TcpStream, path: &str, then: &str) -> Result<String> {
    let length = head(stream, path, then)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).context("read the body")?;
    Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
}

/// Sends the question and reads the head of the answer; answers the length of the body.
fn head(mut stream: &TcpStream, path: &str, then: &str) -> Result<usize> {
    let question = format!("GET {path} HTTP/1.1\r\nHost: alias\r\nConnection: {then}\r\n\r\n");
    stream.write_all(question.as_bytes()).context("ask")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).context("read the answer")?;
        answer.extend(byte);
    }
    let head = String::from_utf8_lossy(&answer);
    ensure!(head.starts_with("HTTP/1.1 200"), "the answer is {head}");
    head.lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .context("no length in the answer")?
        .parse()
        .context("read the length")
}

/// A large answer of which the beginning was read.
#[derive(Debug)]
pub struct Download {
    stream: TcpStream,
    body: Vec<u8>,
    length: usize,
}

impl Download {
    /// Asks, and reads as much as is needed to know that the answer has begun.
    ///
    /// # Errors
    /// It has not.
    pub fn begin(mut stream: TcpStream, path: &str) -> Result<Self> {
        sys::set_option(&stream, libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER)
            .context("shrink the receive buffer")?;
        let length = head(&stream, path, "keep-alive")?;
        let mut body = vec![0; BEGINNING.min(length)];
        stream.read_exact(&mut body).context("read the beginning")?;
        Ok(Self {
            stream,
            body,
            length,
        })
    }

    /// Reads the rest; the whole has to be `expected`. Gives the connection back.
    ///
    /// # Errors
    /// It is not, or does not come.
    pub fn finish(mut self, expected: &[u8]) -> Result<TcpStream> {
        let begun = self.body.len();
        self.body.resize(self.length, 0);
        self.stream
            .read_exact(&mut self.body[begun..])
            .context("read the rest")?;
        ensure!(self.body == expected, "other bytes than those served");
        Ok(self.stream)
    }
}
