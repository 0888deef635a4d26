//! Where clients of HTTP come in: so many connections at a time, none of which can be held up for ever.
//!
//! ```text
//! accept ─▶ head of a request (`Bounds::head`) ─▶ answer (time of the request, and `Bounds::head`) ─┐
//!                         ▲                                                                        │
//!                         └────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A body is only asked for its next piece while the client reads, so that the body of an answer cannot end a connection whose client does
//! not read: the connection has a time of its own for that, or, where that of a request is not known, for taking nothing (`Bounds::unread`).
//!
//! HTTP/1 only, whatever other crates switch on in axum.

mod unread;

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::Response;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::unread::Unread;
use crate::serve::{PeerNames, TlsListener, send_at_once};

/// Bytes of what has come of a request and was not looked at yet, its head included.
const BUFFER_BYTES_MAX: usize = 128 << 10;

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections at the same time; others wait until one of them ends.
    pub(crate) connections: usize,
    /// How long a connection may be without a request, or with a part of its head; and how long an answer may take to be read once the
    /// time of its request is over. Clients keep connections for up to 90 s, and should be those that close them.
    pub(crate) head: Duration,
    /// How long nothing of an answer may be taken whose request has no time that is known here.
    pub(crate) unread: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: 20_000, head: Duration::from_secs(120), unread: Duration::from_secs(120) }
    }
}

type Connection = Either<TcpStream, TlsStream<TcpStream>>;

/// Where clients come in.
#[derive(Debug)]
pub(crate) enum Door {
    /// Without TLS.
    Plain(TcpListener),
    /// With it.
    Tls(TlsListener),
}

impl Door {
    async fn accept(&mut self) -> (Connection, Peer) {
        let (connection, address) = match self {
            Self::Plain(listener) => {
                let (connection, address) = Listener::accept(listener).await;
                send_at_once(&connection);
                (Either::Left(connection), address)
            }
            Self::Tls(listener) => {
                let (connection, address) = listener.accept().await;
                (Either::Right(connection), address)
            }
        };
        let names = match &connection {
            Either::Left(_) => PeerNames::default(),
            Either::Right(connection) => PeerNames::of(connection.get_ref().1.peer_certificates()),
        };
        let has_tls = matches!(connection, Either::Right(_));
        let peer = Peer { address: address.ip().to_canonical(), has_tls, names };
        (connection, peer)
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) has_tls: bool,
    /// What the certificate that it has shown says of it.
    pub(crate) names: PeerNames,
}

/// What answers requests.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// The longest that a request takes, its answer read in time; `None` if it sees to that itself, and its answer may be read slowly.
    fn time(&self) -> Option<Duration>;

    /// The answer to a request of `peer`.
    fn answer(&self, peer: Peer, request: Request<Body>) -> impl Future<Output = Response> + Send;
}

/// Handlers find the [`PeerNames`] of who asks as [`ConnectInfo`].
impl Answers for Router {
    fn time(&self) -> Option<Duration> {
        None
    }

    async fn answer(&self, peer: Peer, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(ConnectInfo(peer.names));
        match TowerToHyperService::new(self.clone()).call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}

/// Answers whoever comes in through `door`, until `shutdown`, and then until what was asked before is answered.
pub(crate) async fn serve(mut door: Door, app: impl Answers, bounds: Bounds, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepting = async {
            let place = places.clone().acquire_owned().await;
            (place, door.accept().await)
        };
        let (place, (connection, peer)) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accepting => accepted,
        };
        let (app, shutdown) = (app.clone(), shutdown.clone());
        connections.spawn(async move {
            let _place = place;
            answer(connection, peer, app, bounds, shutdown).await;
        });
    }
    // Nobody is let in any more.
    drop(door);
    while connections.join_next().await.is_some() {}
}

/// Answers the requests of one connection, one after the other.
async fn answer(
    connection: Connection,
    peer: Peer,
    app: impl Answers,
    Bounds { head, unread, .. }: Bounds,
    shutdown: CancellationToken,
) {
    let (time, client) = (app.time(), peer.address);
    // With a time, that is over first.
    let connection = Unread::new(connection, time.map_or(unread, |time| time + head));
    let latest = move || time.map(|time| Instant::now() + time + head);
    let (asked, until) = watch::channel(latest());
    let service = service_fn(move |request: Request<Incoming>| {
        asked.send_replace(latest());
        let (app, peer) = (app.clone(), peer.clone());
        async move { Ok::<_, Infallible>(app.answer(peer, request.map(Body::new)).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(BUFFER_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(connection), service));
    let mut is_stopping = false;
    loop {
        let due = *until.borrow();
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%client, error = crate::chain_of(&error), "a connection of a client ended");
                }
                return;
            }
            () = shutdown.cancelled(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if *until.borrow() == due {
                    debug!(%client, "a client reads its answer too slowly");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use bytes::Bytes;
    use futures::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::gateway::{Client, Proxy};
    use crate::spec::gateway::check_text;

    /// Only a hang takes longer.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// A backend that is not asked.
    const NOBODY: &str = "127.0.0.1:9";

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A gateway before `backend`.
    fn gateway(
        listener: TcpListener,
        backend: SocketAddr,
        time: &str,
        bounds: Bounds,
    ) -> (JoinHandle<()>, CancellationToken) {
        let text =
            format!("gateway: {{ time: {time}, backends: [{{ url: 'http://{backend}', cloud: aws }}] }}\n");
        let spec = check_text(&text, "gateway.yaml", Path::new("/")).unwrap();
        let stop = CancellationToken::new();
        let proxy = Proxy::new(Client::open(&spec).unwrap(), stop.clone());
        let task = tokio::spawn(serve(Door::Plain(listener), proxy, bounds, stop.clone()));
        (task, stop)
    }

    async fn in_time<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, what).await.expect("this ends")
    }

    /// All that comes back for `request`.
    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        in_time(client.read_to_string(&mut answer)).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn an_answer_does_not_wait_for_its_beginning_to_be_acknowledged() {
        let (listener, address) = listen().await;
        let mut door = Door::Plain(listener);
        let (client, (accepted, peer)) = tokio::join!(TcpStream::connect(address), door.accept());
        let Either::Left(accepted) = accepted else { panic!("there is no TLS") };
        assert!(accepted.nodelay().unwrap() && !client.unwrap().nodelay().unwrap());
        assert!(peer.address.is_loopback() && !peer.has_tls);
    }

    #[tokio::test]
    async fn half_a_head_does_not_keep_a_connection_of_a_server() {
        let (listener, address) = listen().await;
        let bounds = Bounds { connections: 1, head: Duration::from_millis(500), ..Bounds::default() };
        let app = Router::new().route("/healthz", axum::routing::get(|| async { "ok\n" }));
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(Door::Plain(listener), app, bounds, stop.clone()));
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n").await.unwrap();
        let answer = ask(address, "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        stop.cancel();
        in_time(task).await.unwrap();
    }

    #[tokio::test]
    async fn half_a_head_does_not_keep_a_connection() {
        let bounds = Bounds { connections: 1, head: Duration::from_millis(500), ..Bounds::default() };
        let (listener, address) = listen().await;
        let (task, stop) = gateway(listener, NOBODY.parse().unwrap(), "1h", bounds);
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /healthz HT").await.unwrap();
        // There is one place, which the next one has as soon as the slow one has lost it.
        let answer = ask(address, "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        stop.cancel();
        in_time(task).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_its_connection() {
        let ((backend, backend_address), (listener, address)) = (listen().await, listen().await);
        let bounds = Bounds { connections: 10, head: Duration::from_millis(500), ..Bounds::default() };
        let (task, stop) = gateway(listener, backend_address, "500ms", bounds);
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /v1/datasets HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        // Writes without an end, until nobody takes it.
        let answering = async {
            let (mut connection, _) = backend.accept().await.unwrap();
            assert!(connection.read(&mut [0; 4096]).await.unwrap() > 0);
            connection.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
            while connection.write_all(&chunk).await.is_ok() {}
        };
        in_time(answering).await;
        drop(client);
        stop.cancel();
        in_time(task).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_loses_its_connection_to_a_server() {
        let (listener, address) = listen().await;
        let bounds = Bounds { unread: Duration::from_millis(500), ..Bounds::default() };
        let asked = CancellationToken::new();
        let endless = {
            let asked = asked.clone();
            move || {
                asked.cancel();
                let pieces =
                    stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 0x10000])));
                std::future::ready(Body::from_stream(pieces))
            }
        };
        let app = Router::new().route("/endless", axum::routing::get(endless));
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(Door::Plain(listener), app, bounds, stop.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        in_time(asked.cancelled()).await;
        stop.cancel();
        // What was asked is answered, unless nobody wants it.
        in_time(task).await.unwrap();
        drop(client);
    }

    #[tokio::test]
    async fn what_goes_in_a_circle_or_has_two_hosts_is_refused() {
        let (listener, address) = listen().await;
        let (task, stop) = gateway(listener, address, "1h", Bounds::default());
        let request = "GET /v1/datasets HTTP/1.1\r\nhost: a\r\nconnection: via, close\r\n\r\n";
        let answer = ask(address, request).await;
        assert!(answer.starts_with("HTTP/1.1 508 ") && answer.contains("leads back"), "{answer}");
        let request = request.replace("host: a", "host: a\r\nhost: localhost");
        let answer = ask(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("more than one `Host`"), "{answer}");
        stop.cancel();
        in_time(task).await.unwrap();
    }

    #[tokio::test]
    async fn another_protocol_is_not_spoken() {
        let (listener, address) = listen().await;
        let (task, stop) = gateway(listener, NOBODY.parse().unwrap(), "1h", Bounds::default());
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // Whether the end is a reset does not matter.
        let _ = in_time(client.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
        stop.cancel();
        in_time(task).await.unwrap();
    }
}
