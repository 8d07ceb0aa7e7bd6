//! A JSON document on a server, which is read again only if it has changed.

use std::net::IpAddr;

use hyper::StatusCode;
use serde::de::DeserializeOwned;

use super::{Client, Fetched, HttpError, Validator};
use crate::name::{Url, WebAddress, shown};

/// A document.
#[derive(Debug)]
pub struct Document<T> {
    url: Url,
    limit: usize,
    held: Option<Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    value: T,
    validator: Validator,
    server: Server,
}

/// Who gave a document, redirects followed.
#[derive(Clone, Debug)]
pub struct Server {
    /// As it is written in the URL.
    pub named: WebAddress,
    /// The address that took the connection.
    pub address: IpAddr,
}

impl<T: DeserializeOwned> Document<T> {
    /// A document of at most `limit` bytes; nothing is read yet.
    pub const fn new(url: Url, limit: usize) -> Self {
        Self {
            url,
            limit,
            held: None,
        }
    }

    /// The document as it is now, and which server gave it, redirects followed.
    ///
    /// # Errors
    /// It cannot be had, or is not what it should be. One line with the URL.
    pub async fn read(&mut self, client: &mut Client) -> Result<(&T, &Server), String> {
        self.refresh(client)
            .await
            .map_err(|error| format!("GET {}: {error}{}", self.url, doubt(&error)))?;
        let held = self.held.as_ref();
        held.map(|held| (&held.value, &held.server))
            .ok_or_else(|| format!("GET {}: nothing was read", self.url))
    }

    async fn refresh(&mut self, client: &mut Client) -> Result<(), HttpError> {
        let none = Validator::default();
        let validator = self.held.as_ref().map_or(&none, |held| &held.validator);
        if let Fetched::New {
            body,
            validator,
            from,
            address,
        } = client.get(&self.url, validator, self.limit).await?
        {
            let value = serde_json::from_slice(&body)
                .map_err(|error| HttpError::Content(what_it_is(&body, &error)))?;
            self.held = Some(Held {
                value,
                validator,
                server: Server {
                    named: from.address().clone(),
                    address,
                },
            });
        }
        Ok(())
    }
}

/// Whether something else was asked than was meant.
fn doubt(error: &HttpError) -> &'static str {
    match error {
        HttpError::Status(StatusCode::NOT_FOUND, _) => {
            "; is this the address of the REST interface?"
        }
        _ => "",
    }
}

/// What a body is that is no such document.
fn what_it_is(body: &[u8], error: &serde_json::Error) -> String {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    if body.starts_with(&GZIP) {
        "it is compressed, which was not asked for".to_owned()
    } else if body.trim_ascii_start().starts_with(b"<") {
        "it is HTML; is this the address of the REST interface, and not of something before it?"
            .to_owned()
    } else {
        shown(&error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::discovery::http::Tls;

    /// What is said of a server with this answer.
    async fn said(status: &str, body: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
        let answer = [head.as_bytes(), body].concat();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
            stream.write_all(&answer).await.unwrap();
        });
        let mut document = Document::<Vec<u8>>::new(url.parse().unwrap(), 1000);
        let read = document.read(&mut Client::new(Tls::of_host())).await;
        read.unwrap_err()
    }

    #[tokio::test]
    async fn a_server_that_wants_credentials() {
        for status in ["401 Unauthorized", "403 Forbidden"] {
            let said = said(status, b"<h1>Log in</h1>").await;
            assert!(said.contains("wants credentials"), "{said}");
            assert!(!said.contains("Log in"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_server_without_the_document() {
        let said = said("404 Not Found", b"").await;
        assert!(said.contains("address of the REST interface"), "{said}");
    }

    #[tokio::test]
    async fn a_page_for_people() {
        let said = said("200 OK", b"\n<!DOCTYPE html>").await;
        assert!(said.contains("it is HTML"), "{said}");
    }

    #[tokio::test]
    async fn a_compressed_document() {
        let said = said("200 OK", b"\x1f\x8b\x08").await;
        assert!(said.contains("it is compressed"), "{said}");
    }

    #[tokio::test]
    async fn another_document() {
        let said = said("200 OK", b"x").await;
        assert!(said.contains("expected value"), "{said}");
    }
}
