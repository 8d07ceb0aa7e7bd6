//! The command line's side of the control API.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{API_VERSION, Line, Request, Response};

/// How long the agent may take to answer. Listing a full flow table takes some seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to an agent.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent is running at {}; start one with `truename run`, or name its socket with --control-socket", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not ours.
    #[error("not allowed to use {}; run as root or as a member of its group", .0.display())]
    NotAllowed(PathBuf),
    /// The socket cannot be used.
    #[error("cannot talk to the agent at {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the agent did not answer: {0}")]
    Broken(#[from] io::Error),
    /// The answer cannot be read.
    #[error("the agent's answer cannot be read ({0}); is it another version of truename?")]
    Garbled(#[from] serde_json::Error),
    /// The agent speaks another version.
    #[error(
        "the agent speaks version {0} of the control API and this program {API_VERSION}; use the same version of truename"
    )]
    Version(u32),
    /// The agent refused.
    #[error("{0}")]
    Refused(String),
    /// The answer belongs to another question.
    #[error("the agent answered another question")]
    Unexpected,
}

impl Client {
    /// Connects to the agent that listens at `path`.
    ///
    /// # Errors
    /// When there is none, or it may not be used.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path.to_owned()),
            _ => ClientError::Connect {
                path: path.to_owned(),
                source,
            },
        })?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Asks one question.
    ///
    /// # Errors
    /// When there is no usable answer.
    pub fn ask(&mut self, request: Request) -> Result<Response, ClientError> {
        let mut line = serde_json::to_string(&Line::new(request))?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        match self.read()? {
            Some(Response::Error(message)) => Err(ClientError::Refused(message)),
            Some(response) => Ok(response),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Subscribes to events.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn monitor(mut self) -> Result<Events, ClientError> {
        let mut line = serde_json::to_string(&Line::new(Request::Monitor))?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        self.stream.get_ref().set_read_timeout(None)?;
        Ok(Events(self))
    }

    fn read(&mut self) -> Result<Option<Response>, ClientError> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        #[derive(serde::Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(&line)?;
        if version != API_VERSION {
            return Err(ClientError::Version(version));
        }
        let line: Line<Response> = serde_json::from_str(&line)?;
        Ok(Some(line.body))
    }
}

/// Events as they happen; ends when the agent does.
#[derive(Debug)]
pub struct Events(Client);

impl Iterator for Events {
    type Item = Result<Response, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.read().transpose()
    }
}
