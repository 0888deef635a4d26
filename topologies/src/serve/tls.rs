//! TLS of the listeners: a certificate and its key, and the certificates of clients where they have to show one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::error::Error;
use crate::spec::Topology;
use crate::spec::gateway::IdentitySpec;
use crate::spec::serve::TlsSpec;

/// How long a handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes at the same time.
const HANDSHAKES_MAX: usize = 256;
/// How long to wait after a connection could not be accepted, because there are too many, for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The configuration of the listeners of `topology`, its files read now; `None` if they are to be without TLS.
///
/// # Errors
/// [`Error::Configuration`] names the file and what is wrong with it.
pub(super) fn of(topology: &Topology) -> Result<Option<Arc<ServerConfig>>, Error> {
    topology.serve.tls.as_ref().map(|spec| open(spec, "serve.tls")).transpose()
}

/// That of a `section`, its files read now.
///
/// # Errors
/// [`Error::Configuration`] names the file and what is wrong with it.
pub(crate) fn open(spec: &TlsSpec, section: &str) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let field = |name: &str| format!("{section}.{name}");
    let certificates = certificates(&spec.certificate, &field("certificate"))?;
    let key = PrivateKeyDer::from_pem_file(&spec.private_key)
        .map_err(|error| wrong(&field("private_key"), &spec.private_key, &error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Configuration(format!("{section}: {error}")))?;
    let builder = match &spec.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let name = field("client_ca");
            let roots = Arc::new(authorities(file, &name)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder
                .with_client_cert_verifier(verifier.map_err(|error| wrong(&name, file, &error.to_string()))?)
        }
    };
    let config = builder.with_single_cert(certificates, key);
    config.map(Arc::new).map_err(|error| wrong(&field("certificate"), &spec.certificate, &error.to_string()))
}

/// What connects to servers whose certificates one of the authorities in `ca` signed, and shows `identity` to them. `section` names the
/// files in the configuration.
///
/// # Errors
/// As [`open`].
pub(crate) fn connector(
    ca: &Path,
    identity: Option<&IdentitySpec>,
    section: &str,
) -> Result<TlsConnector, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Configuration(format!("{section}: {error}")))?
        .with_root_certificates(authorities(ca, &format!("{section}.ca"))?);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(IdentitySpec { certificate, private_key }) => {
            let field = |name: &str| format!("{section}.identity.{name}");
            let shown = certificates(certificate, &field("certificate"))?;
            let key = PrivateKeyDer::from_pem_file(private_key)
                .map_err(|error| wrong(&field("private_key"), private_key, &error.to_string()))?;
            let config = builder.with_client_auth_cert(shown, key);
            config.map_err(|error| wrong(&field("certificate"), certificate, &error.to_string()))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn authorities(file: &Path, field: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(file, field)? {
        roots.add(authority).map_err(|error| wrong(field, file, &error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(file: &Path, field: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(file).and_then(|found| found.collect::<Result<Vec<_>, _>>());
    let read = read.map_err(|error| wrong(field, file, &error.to_string()))?;
    if read.is_empty() {
        return Err(wrong(field, file, "there is no certificate in it"));
    }
    Ok(read)
}

fn wrong(field: &str, file: &Path, why: &str) -> Error {
    Error::Configuration(format!("{field}: {}: {why}", file.display()))
}

/// Connections whose handshake is done. One that is slow holds up no other.
#[derive(Debug)]
pub(crate) struct TlsListener {
    connections: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    /// Accepts from `listener`, which is bound to `address`, until `shutdown`.
    pub(crate) fn start(
        listener: TcpListener,
        address: SocketAddr,
        config: Arc<ServerConfig>,
        shutdown: CancellationToken,
    ) -> Self {
        let (done, connections) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = accept(listener, TlsAcceptor::from(config), done) => {}
            }
        });
        Self { connections, address }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    done: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(place) = handshakes.clone().acquire_owned().await else { return };
        let (connection, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        super::send_at_once(&connection);
        let (acceptor, done) = (acceptor.clone(), done.clone());
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(connection)).await {
                // Nobody takes it once the server stops.
                Ok(Ok(connection)) => _ = done.send((connection, peer)).await,
                Ok(Err(error)) => debug!(%peer, %error, "no TLS connection"),
                Err(_) => debug!(%peer, "the handshake took too long"),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The server is stopping.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

#[cfg(test)]
mod tests;
