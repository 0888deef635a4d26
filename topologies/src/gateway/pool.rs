//! Connections to one backend, kept for the next request.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tracing::debug;
use url::Host;

use crate::error::Error;
use crate::spec::gateway::BackendSpec;

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long it may take to look up a name, of that: less than a probe waits.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(1);
/// Connections that are kept; each had a request under way.
const KEPT_MAX: usize = 256;
/// How long one is kept: less than what stands between here and the backend keeps it.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How long one is used in all: what a name means may have changed since.
const USED_FOR: Duration = Duration::from_secs(300);
/// How long one may take to be ready for the next request after an answer has ended.
const READY_WITHIN: Duration = Duration::from_millis(100);

/// The connections to a backend that nobody uses now.
#[derive(Debug)]
pub(super) struct Pool {
    host: String,
    port: u16,
    /// What `Host` says where a request says nothing.
    pub(super) authority: HeaderValue,
    tls: Option<Tls>,
    /// Where the name led to when it was looked up last.
    known: Mutex<Vec<SocketAddr>>,
    kept: Mutex<Vec<Kept>>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Kept {
    connection: Connection,
    since: Instant,
}

/// A connection that one request at a time is sent over.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Body>,
    made: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// No connection. Not a byte of the request was written; here it is again.
    Unreachable { request: Box<Request<Body>>, why: String },
    /// The connection broke off. The request may have arrived.
    Broken { why: String },
    /// The body of the request broke off, which says nothing of the backend. A part of it may have arrived.
    HalfSent,
}

impl Pool {
    /// To the backend of `spec`; nobody is connected to yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] for a host that no certificate can have.
    pub(super) fn open(spec: &BackendSpec, connector: Option<&TlsConnector>) -> Result<Self, Error> {
        let host = match spec.url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(Error::Bug(format!("backend {} has no host", spec.url))),
        };
        let wrong =
            |error: &dyn std::error::Error| Error::Configuration(format!("backend {}: {error}", spec.url));
        let tls = match connector {
            Some(connector) if spec.url.scheme() == "https" => {
                let name = ServerName::try_from(host.clone()).map_err(|error| wrong(&error))?;
                Some(Tls { connector: connector.clone(), name })
            }
            _ => None,
        };
        Ok(Self {
            host,
            port: spec.url.port_or_known_default().unwrap_or_default(),
            authority: HeaderValue::try_from(spec.address()).map_err(|error| wrong(&error))?,
            tls,
            known: Mutex::default(),
            kept: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `request`, over a connection that is kept if there is one, until its answer begins. Give the connection back once the
    /// answer has ended; dropping it closes it.
    pub(super) async fn send(
        &self,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, Connection), Unanswered> {
        loop {
            let kept = self.take().await;
            let was_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => match self.connect().await {
                    Ok(connection) => connection,
                    Err(error) => {
                        let request = Box::new(request);
                        return Err(Unanswered::Unreachable { request, why: error.to_string() });
                    }
                },
            };
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => match error.take_message() {
                    // It was closed meanwhile, and nothing was written.
                    Some(unsent) if was_kept => request = unsent,
                    Some(unsent) => {
                        let why = crate::chain_of(error.error());
                        return Err(Unanswered::Unreachable { request: Box::new(unsent), why });
                    }
                    None if error.error().is_user() => return Err(Unanswered::HalfSent),
                    None => return Err(Unanswered::Broken { why: crate::chain_of(error.error()) }),
                },
            }
        }
    }

    /// The connection that was used last.
    async fn take(&self) -> Option<Connection> {
        loop {
            let Kept { mut connection, since } = self.lock().pop()?;
            if since.elapsed() > KEPT_FOR || connection.sender.is_closed() {
                continue;
            }
            if let Ok(Ok(())) = tokio::time::timeout(READY_WITHIN, connection.sender.ready()).await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer has ended.
    pub(super) fn give_back(&self, connection: Connection) {
        if connection.sender.is_closed() || connection.made.elapsed() > USED_FOR {
            return;
        }
        let mut kept = self.lock();
        // The one that was used last is the next to be used, so that those at the beginning may never be looked at again.
        let old = kept.partition_point(|kept| kept.since.elapsed() > KEPT_FOR);
        kept.drain(..old);
        if kept.len() < KEPT_MAX {
            kept.push(Kept { connection, since: Instant::now() });
        }
    }

    /// Closes the connections that are kept. After a silence they may be open here and nowhere else.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let connecting = async {
            let stream = dial(&self.addresses().await?).await?;
            stream.set_nodelay(true)?;
            match &self.tls {
                None => begin(stream).await,
                Some(Tls { connector, name }) => begin(connector.connect(name.clone(), stream).await?).await,
            }
        };
        match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "a connection takes too long")),
        }
    }

    /// The addresses of the backend. Where nobody says them now, they are those that they were: a backend is not away because a name
    /// server is.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let looking = tokio::net::lookup_host((self.host.as_str(), self.port));
        let found = match tokio::time::timeout(LOOK_UP_WITHIN, looking).await {
            Ok(found) => found.map(|addresses| addresses.collect::<Vec<_>>()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name server does not answer")),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(addresses) if !addresses.is_empty() => *known = addresses,
            Ok(_) if known.is_empty() => {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            Err(error) if known.is_empty() => return Err(error),
            Ok(_) | Err(_) => debug!(host = self.host, "the name was not found, and keeps its addresses"),
        }
        Ok(known.clone())
    }
}

impl Connection {
    /// Sends `request` until its answer begins.
    pub(super) async fn ask(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        self.sender.send_request(request).await
    }
}

async fn begin(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<Connection> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends when the sender is dropped, or the backend closes it.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(error = crate::chain_of(&error), "a connection to a backend ended");
        }
    });
    Ok(Connection { sender, made: Instant::now() })
}

/// A connection to one of `addresses`. Each has its part of the time: one that swallows what is sent to it, as IPv6 does where it is announced
/// and not there, must not use up that of the others.
async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let within = CONNECT_WITHIN / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut why = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    for address in addresses {
        match tokio::time::timeout(within, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = error,
            Err(_) => why = io::Error::new(io::ErrorKind::TimedOut, "a connection takes too long"),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use url::Url;

    use super::*;

    fn pool(url: &str) -> Pool {
        let (url, cloud) = (Url::parse(url).unwrap(), "aws".to_owned());
        Pool::open(&BackendSpec { url, cloud, weight: 1, price: None, is_draining: false }, None).unwrap()
    }

    #[tokio::test]
    async fn each_address_of_a_name_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gone = TcpListener::bind("[::1]:0").await.and_then(|listener| listener.local_addr());
        // A machine without IPv6 has nobody there either.
        let gone = gone.unwrap_or_else(|_| "[::1]:9".parse().unwrap());
        assert_eq!(dial(&[gone, address]).await.unwrap().peer_addr().unwrap(), address);
        assert!(dial(&[gone]).await.is_err() && dial(&[]).await.is_err());
        let port = address.port();
        assert!(pool(&format!("http://localhost:{port}")).connect().await.is_ok());
    }

    #[tokio::test]
    async fn a_name_that_is_not_found_is_where_it_was() {
        // No name server knows it (RFC 6761, 6.4).
        let unknown = pool("http://backend.invalid:8181");
        assert!(unknown.addresses().await.is_err());
        let before: SocketAddr = "192.0.2.7:8181".parse().unwrap();
        unknown.known.lock().unwrap().push(before);
        assert_eq!(unknown.addresses().await.unwrap(), [before]);
    }
}
