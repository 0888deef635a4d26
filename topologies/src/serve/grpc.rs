//! gRPC of `isobar serve`: how clients of Flight SQL and of the inference protocol come in.
//!
//! So many connections and no more: each has memory of its own, also before anybody has said who it is.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use futures::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, Router, TcpIncoming};

use super::tls::TlsListener;

/// Connections at the same time, of each protocol.
const CONNECTIONS_MAX: usize = 500;
/// Requests at the same time in one connection; further ones wait.
const STREAMS_PER_CONNECTION_MAX: u32 = 100;
/// Bytes of the headers of a request: tokens are a few KiB.
const HEADER_BYTES_MAX: u32 = 32 << 10;
/// How long a connection may say nothing before it is asked whether it is still there.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A server without services, and what its connections may take.
pub(super) fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(SILENCE_MAX))
}

/// Serves `services` to who comes to `listener`, which is at `address`, until `stop`, and then until the last request has ended.
pub(super) async fn serve(
    services: Router,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let stopped = stop.clone().cancelled_owned();
    match tls {
        None => {
            let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
            services.serve_with_incoming_shutdown(placed(connections, CONNECTIONS_MAX), stopped).await
        }
        Some(tls) => {
            let connections = secured(listener, address, &tls, stop);
            services.serve_with_incoming_shutdown(placed(connections, CONNECTIONS_MAX), stopped).await
        }
    }
}

/// Connections whose handshake is done, of clients that speak HTTP/2.
pub(super) fn secured(
    listener: TcpListener,
    address: SocketAddr,
    tls: &ServerConfig,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> + use<> {
    let mut tls = tls.clone();
    // gRPC's clients hang up on a server that does not say so.
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TlsListener::start(listener, address, Arc::new(tls), stop);
    stream::unfold(listener, |mut listener| async move {
        let (connection, _) = listener.accept().await;
        Some((Ok(connection), listener))
    })
}

/// A connection with its place among those that may be there at a time.
struct Placed<C> {
    connection: C,
    _place: OwnedSemaphorePermit,
}

/// `connections`, of which at most `count` are there at a time. Further ones are hung up on.
fn placed<C>(
    connections: impl Stream<Item = io::Result<C>>,
    count: usize,
) -> impl Stream<Item = io::Result<Placed<C>>> {
    let places = Arc::new(Semaphore::new(count));
    connections.filter_map(move |connection| {
        let placed = match connection {
            Ok(connection) => match places.clone().try_acquire_owned() {
                Ok(place) => Some(Ok(Placed { connection, _place: place })),
                Err(_) => {
                    tracing::debug!("there are too many connections for one more");
                    None
                }
            },
            Err(error) => Some(Err(error)),
        };
        std::future::ready(placed)
    })
}

impl<C: AsyncRead + Unpin> AsyncRead for Placed<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Placed<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

impl<C: Connected> Connected for Placed<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn one_too_many_is_hung_up_on_and_a_place_comes_back() {
        let (arrive, arriving) = mpsc::unbounded();
        let mut connections = std::pin::pin!(placed(arriving, 1));
        let connect = || {
            let (client, server) = duplex(16);
            arrive.unbounded_send(Ok(server)).unwrap();
            client
        };
        let (mut first, mut second, mut third) = (connect(), connect(), connect());
        let mut served = connections.next().await.unwrap().unwrap();
        served.write_all(b"a").await.unwrap();
        assert_eq!(first.read_u8().await.unwrap(), b'a');
        // Looks for the next one, and there is no place for the two that are there.
        assert!(futures::poll!(connections.next()).is_pending());
        assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(third.read(&mut [0]).await.unwrap(), 0);
        drop(served);
        let mut fourth = connect();
        fourth.write_all(b"b").await.unwrap();
        let mut served = connections.next().await.unwrap().unwrap();
        assert_eq!(served.read_u8().await.unwrap(), b'b');
    }
}
