//! A client of HTTP/1.1 that keeps its connection, and whose errors are those of the socket.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{socket, sys};

/// After this silence a client asks whether its peer is still there, and again after as long.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A connection to a web server.
#[derive(Debug)]
pub struct Http {
    stream: BufReader<TcpStream>,
    to: SocketAddr,
}

impl Http {
    /// Connects from the namespace of the thread; an answer may take as long as `patience`.
    ///
    /// # Errors
    /// As `connect` says.
    pub fn connect(to: SocketAddr, patience: Duration) -> io::Result<Self> {
        let socket = socket::stream(to)?;
        sys::connect(&socket, to)?;
        let seconds = libc::c_int::try_from(KEEP_ALIVE.as_secs()).map_err(io::Error::other)?;
        sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
        for option in [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL] {
            sys::set_option(&socket, libc::IPPROTO_TCP, option, seconds)?;
        }
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(patience))?;
        let stream = BufReader::new(stream);
        Ok(Self { stream, to })
    }

    /// Another handle of its socket.
    ///
    /// # Errors
    /// There are too many.
    pub fn stream(&self) -> io::Result<TcpStream> {
        self.stream.get_ref().try_clone()
    }

    /// `GET path`: the status and the body.
    ///
    /// # Errors
    /// As the socket says; `UnexpectedEof` if the server hangs up before it has answered.
    pub fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.to);
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let mut length = None;
        loop {
            let line = self.line()?.to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
        }
        let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
        self.stream.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}
