//! So many connections and no more: each has memory of its own, also before anybody has said who it is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// A connection with its place among those that may be there at a time.
pub(in crate::serve) struct Placed<C> {
    connection: C,
    _place: OwnedSemaphorePermit,
}

/// `connections`, of which at most `count` are there at a time. Further ones are hung up on.
pub(in crate::serve) fn placed<C>(
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
