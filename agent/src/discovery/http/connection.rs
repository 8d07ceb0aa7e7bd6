//! One connection to a server.

use std::{io, net::IpAddr};

use http_body_util::Empty;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, HOST, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{HttpError, Tls, Validator};
use crate::{
    discovery::names::dns::look_up,
    name::{Url, literal},
};

/// The most that is buffered of an answer before its body, in bytes: headers may not be longer.
const HEAD: usize = 64 * 1024;
const AGENT: &str = concat!("truename/", env!("CARGO_PKG_VERSION"));

/// Sends requests over one connection, which ends when this is dropped.
#[derive(Debug)]
pub struct Sender {
    requests: http1::SendRequest<Empty<Bytes>>,
    /// The server's.
    address: IpAddr,
}

impl Sender {
    /// Connects to the server of a URL, to the first of its addresses that answers.
    ///
    /// # Errors
    /// None does, or TLS cannot be agreed upon.
    pub async fn connect(url: &Url, tls: &Tls) -> Result<Self, HttpError> {
        let authority = url.address().authority();
        let host = authority.host();
        let bare = host.trim_matches(['[', ']']);
        let addresses = match literal(host) {
            Some(address) => vec![address],
            None => look_up(bare).await.map_err(HttpError::Resolve)?,
        };
        let mut last = io::Error::other("the host has no address");
        for address in addresses {
            match TcpStream::connect((address, authority.port())).await {
                Ok(stream) if url.address().tls() => {
                    return Self::start(tls.connect(bare, stream).await?, address).await;
                }
                Ok(stream) => return Self::start(stream, address).await,
                Err(error) => last = error,
            }
        }
        Err(HttpError::Connect(last))
    }

    async fn start(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: IpAddr,
    ) -> Result<Self, HttpError> {
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        // It ends with the sender; its errors reach whoever waits for an answer.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { requests, address })
    }

    /// The server's address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Sends a request; answers when the headers are there.
    ///
    /// # Errors
    /// The connection is closed, or the answer is no HTTP.
    pub async fn send(
        &mut self,
        url: &Url,
        validator: &Validator,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.requests.ready().await?;
        let mut request = Request::new(Empty::new());
        // A `Url` has a path that is valid in a request line, and an authority in a header.
        *request.uri_mut() = url.path().parse().unwrap_or_default();
        let headers = request.headers_mut();
        if let Ok(host) = url.address().authority().as_str().parse() {
            headers.insert(HOST, host);
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(etag) = &validator.etag {
            headers.insert(IF_NONE_MATCH, etag.clone());
        }
        if let Some(modified) = &validator.modified {
            headers.insert(IF_MODIFIED_SINCE, modified.clone());
        }
        self.requests.send_request(request).await
    }
}
