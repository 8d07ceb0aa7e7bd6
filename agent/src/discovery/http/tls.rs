//! Certificates.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use super::HttpError;

/// The certificates of authorities that servers must be vouched for by.
#[derive(Clone, Debug)]
pub struct Tls {
    // Reading the host's certificates takes a while, and most clusters do without TLS.
    config: Arc<OnceLock<Option<Arc<ClientConfig>>>>,
}

impl Tls {
    /// Those of this host, or of the file that the variable `SSL_CERT_FILE` names. They are read
    /// when they are needed first.
    pub fn of_host() -> Self {
        Self {
            config: Arc::default(),
        }
    }

    /// These and no others.
    pub fn with_roots(roots: RootCertStore) -> Self {
        Self {
            config: Arc::new(OnceLock::from(configure(roots))),
        }
    }

    /// Agrees with a server on TLS.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, HttpError> {
        let config = self
            .config
            .get_or_init(|| configure(host_roots()))
            .clone()
            .ok_or(HttpError::NoRoots)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| HttpError::TlsName)?;
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(HttpError::Tls)
    }
}

fn host_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        log::warn!("Cannot read a certificate of this host: {error}");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

/// `None` without certificates: nobody could be believed.
fn configure(roots: RootCertStore) -> Option<Arc<ClientConfig>> {
    if roots.is_empty() {
        return None;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)
        .ok()?;
    Some(Arc::new(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer},
    };

    use super::*;
    use crate::{
        discovery::http::{Client, Fetched, Validator},
        name::Url,
    };

    /// A server that answers every connection once; its URL, and the roots that vouch for it.
    async fn server(name: &str, answer: &'static [u8]) -> (Url, RootCertStore) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust us hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        });
        (
            format!("https://127.0.0.1:{port}/x").parse().unwrap(),
            roots,
        )
    }

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    const DOWN: &[u8] =
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";

    async fn get(url: &Url, roots: RootCertStore) -> Result<Fetched, HttpError> {
        Client::new(Tls::with_roots(roots))
            .get(url, &Validator::default(), 100)
            .await
    }

    #[tokio::test]
    async fn believes_whom_it_knows_and_nobody_else() {
        let (url, roots) = server("127.0.0.1", WHOLE).await;
        let (_, others) = server("127.0.0.1", WHOLE).await;
        let (elsewhere, its_roots) = server("jobmanager", WHOLE).await;
        assert!(matches!(get(&url, roots).await, Ok(Fetched::New { body, .. }) if body == "{}"));
        for (url, roots) in [(url, others), (elsewhere, its_roots)] {
            let error = get(&url, roots).await.unwrap_err();
            assert!(matches!(error, HttpError::Tls(_)), "{error}");
        }
        let (url, roots) = server("127.0.0.1", DOWN).await;
        let error = get(&url, roots).await.unwrap_err();
        assert!(matches!(error, HttpError::Downgrade), "{error}");
        let error = get(&url, RootCertStore::empty()).await.unwrap_err();
        assert!(matches!(error, HttpError::NoRoots), "{error}");
    }
}
