//! An HTTP client that can do nothing but GET, from servers that it does not trust: everything has
//! a limit. `DELETE /cluster` shuts a Flink cluster down; it cannot be said here.

mod connection;
mod document;
mod tls;

use std::{collections::VecDeque, io, net::IpAddr, time::Duration};

use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ETAG, HeaderMap, HeaderValue, LAST_MODIFIED, LOCATION},
};

use crate::name::{NameError, Url, shown};
use connection::Sender;
pub use document::{Document, Server};
pub use tls::Tls;

/// The time for one request with its redirects, from the first packet to the last byte.
pub const REQUEST: Duration = Duration::from_secs(5);
/// Redirects that are followed.
const REDIRECTS: usize = 3;
/// How much of an answer that tells of an error is read, in bytes.
const ERROR_BODY: usize = 4096;
/// The longest validator that is sent back, in bytes.
const VALIDATOR: usize = 256;

/// Why there is no answer. With the URL in front it is one line.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The name of the host.
    #[error("cannot resolve the host: {0}")]
    Resolve(String),
    /// No address of the host took the connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The certificate, or no TLS at all.
    #[error("no TLS: {0}")]
    Tls(io::Error),
    /// The host's name cannot be in a certificate.
    #[error("no TLS: the host is no name that a certificate can have")]
    TlsName,
    /// The certificates of this host.
    #[error(
        "no TLS: this host has no certificates of authorities; install ca-certificates or set SSL_CERT_FILE"
    )]
    NoRoots,
    /// No HTTP, or cut.
    #[error("the exchange broke off: {0}")]
    Exchange(#[from] hyper::Error),
    /// Too slow.
    #[error("no whole answer within {} s", REQUEST.as_secs())]
    Timeout,
    /// A body beyond its limit.
    #[error("the answer is longer than {0} bytes, or broke off")]
    Body(usize),
    /// Another status than 200; with the server's words.
    #[error("the answer is {0}{1}")]
    Status(StatusCode, String),
    /// A redirect that leads nowhere.
    #[error("redirected to \"{0}\": {1}")]
    Redirect(String, NameError),
    /// From TLS to none.
    #[error("redirected from https to http, which is not followed")]
    Downgrade,
    /// A redirect too many.
    #[error("more than {REDIRECTS} redirects")]
    Redirects,
    /// The body is not what it should be.
    #[error("the answer is not understood: {0}")]
    Content(String),
}

/// By which a server recognises that nothing has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validator {
    etag: Option<HeaderValue>,
    modified: Option<HeaderValue>,
}

/// What a server answered.
#[derive(Debug)]
pub enum Fetched {
    /// A body.
    New {
        /// The body.
        body: Bytes,
        /// For the next request.
        validator: Validator,
        /// Where it came from in the end.
        from: Url,
        /// The address of the server that it came from.
        address: IpAddr,
    },
    /// The body that the validator stands for.
    Same,
}

/// Keeps connections alive between polls: those that were used last, and no more than a few, however many servers
/// redirects lead to.
#[derive(Debug)]
pub struct Client {
    tls: Tls,
    /// By the origin; the one that was used last is the last.
    kept: VecDeque<(Url, Sender)>,
}

/// Connections that are kept.
const KEPT: usize = 8;

impl Client {
    /// A client with these certificates of authorities.
    pub fn new(tls: Tls) -> Self {
        Self {
            tls,
            kept: VecDeque::new(),
        }
    }

    /// `GET url`, at most `limit` bytes.
    ///
    /// # Errors
    /// There is no answer, or not one that can be used.
    pub async fn get(
        &mut self,
        url: &Url,
        validator: &Validator,
        limit: usize,
    ) -> Result<Fetched, HttpError> {
        tokio::time::timeout(REQUEST, self.follow(url, validator, limit))
            .await
            .unwrap_or(Err(HttpError::Timeout))
    }

    async fn follow(
        &mut self,
        url: &Url,
        validator: &Validator,
        limit: usize,
    ) -> Result<Fetched, HttpError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let (sender, response) = self.exchange(&url, validator).await?;
            let status = response.status();
            if status == StatusCode::NOT_MODIFIED && *validator != Validator::default() {
                self.keep(&url, sender);
                return Ok(Fetched::Same);
            }
            if status.is_redirection() {
                url = redirected(&url, response.headers())
                    .unwrap_or_else(|| Err(HttpError::Status(status, String::new())))?;
                continue;
            }
            if status != StatusCode::OK {
                let words = read(response, ERROR_BODY).await.unwrap_or_default();
                let words = String::from_utf8_lossy(&words);
                let words = match (status, words.trim()) {
                    (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                        "; it wants credentials, and truename has none: let it answer this host without".to_owned()
                    }
                    (_, "") => String::new(),
                    (_, words) => format!(": {}", shown(words)),
                };
                return Err(HttpError::Status(status, words));
            }
            let validator = Validator::of(response.headers());
            let body = read(response, limit).await?;
            let address = sender.address();
            self.keep(&url, sender);
            return Ok(Fetched::New {
                body,
                validator,
                from: url,
                address,
            });
        }
        Err(HttpError::Redirects)
    }

    /// Asks on the connection that was kept, else on a new one. A server may close a kept connection
    /// at any time, which says nothing: then a new one is asked.
    async fn exchange(
        &mut self,
        url: &Url,
        validator: &Validator,
    ) -> Result<(Sender, Response<Incoming>), HttpError> {
        if let Some(mut sender) = self.take(url)
            && let Ok(response) = sender.send(url, validator).await
        {
            return Ok((sender, response));
        }
        let mut sender = Sender::connect(url, &self.tls).await?;
        let response = sender.send(url, validator).await?;
        Ok((sender, response))
    }

    fn take(&mut self, url: &Url) -> Option<Sender> {
        let origin = url.origin();
        let place = self.kept.iter().position(|(kept, _)| *kept == origin)?;
        self.kept.remove(place).map(|(_, sender)| sender)
    }

    fn keep(&mut self, url: &Url, sender: Sender) {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((url.origin(), sender));
    }
}

impl Validator {
    fn of(headers: &HeaderMap) -> Self {
        let short = |name| {
            let value: Option<&HeaderValue> = headers.get(name);
            value.filter(|value| value.len() <= VALIDATOR).cloned()
        };
        Self {
            etag: short(ETAG),
            modified: short(LAST_MODIFIED),
        }
    }
}

/// Where a redirect leads; `None` if it does not say.
fn redirected(from: &Url, headers: &HeaderMap) -> Option<Result<Url, HttpError>> {
    let location = String::from_utf8_lossy(headers.get(LOCATION)?.as_bytes()).into_owned();
    Some(match from.join(&location) {
        Ok(to) if from.address().tls() && !to.address().tls() => Err(HttpError::Downgrade),
        Ok(to) => Ok(to),
        Err(error) => Err(HttpError::Redirect(shown(&location), error)),
    })
}

async fn read(response: Response<Incoming>, limit: usize) -> Result<Bytes, HttpError> {
    let body = Limited::new(response.into_body(), limit).collect().await;
    // Either its limit or the connection's end.
    Ok(body.map_err(|_| HttpError::Body(limit))?.to_bytes())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Redirects each question to another address of this host, where it is answered.
    async fn answer(mut stream: TcpStream, number: u8, port: u16) {
        let mut request = Vec::new();
        let mut piece = [0; 512];
        while let Ok(1..) = stream.read(&mut piece).await {
            request.extend(piece);
            let answer = if request.starts_with(b"GET /x") {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned()
            } else {
                format!(
                    "HTTP/1.1 302 Found\r\nLocation: http://127.0.1.{number}:{port}/x\r\nContent-Length: 0\r\n\r\n"
                )
            };
            request.clear();
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn redirects_to_ever_other_servers_keep_few_connections() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for number in 0_u8.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, number, port));
            }
        });
        let mut client = Client::new(Tls::of_host());
        let url: Url = format!("http://127.0.0.1:{port}/").parse().unwrap();
        for _ in 0..60 {
            let fetched = client.get(&url, &Validator::default(), 100).await;
            assert!(matches!(fetched, Ok(Fetched::New { .. })), "{fetched:?}");
        }
        assert_eq!(client.kept.len(), KEPT);
    }
}
