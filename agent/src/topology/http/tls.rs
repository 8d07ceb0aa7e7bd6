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
