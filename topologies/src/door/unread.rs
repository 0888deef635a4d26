//! A connection that ends when its client takes nothing of what it is sent.
//!
//! Only the connection sees that: whoever makes an answer is not asked for more of it meanwhile.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Unread<C> {
    connection: C,
    /// How long nothing may be taken.
    patience: Duration,
    /// Until when something has to be, while nothing is.
    until: Option<Pin<Box<Sleep>>>,
}

impl<C> Unread<C> {
    pub(super) fn new(connection: C, patience: Duration) -> Self {
        Self { connection, patience, until: None }
    }

    /// What came of a write, and [`ErrorKind::TimedOut`] if nothing has for too long.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.until = None;
            return written;
        }
        let patience = self.patience;
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(patience)));
        until
            .as_mut()
            .poll(cx)
            .map(|()| Err(Error::new(ErrorKind::TimedOut, "nothing of an answer is taken")))
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Unread<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_read(cx, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Unread<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.connection).poll_write(cx, bytes);
        this.in_time(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.connection).poll_write_vectored(cx, pieces);
        this.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.connection).poll_flush(cx);
        this.in_time(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let ended = Pin::new(&mut this.connection).poll_shutdown(cx);
        this.in_time(cx, ended)
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn whoever_takes_something_has_time_again_and_whoever_takes_nothing_has_not() {
        let (server, mut client) = duplex(4);
        let mut server = Unread::new(server, Duration::from_secs(3600));
        for _ in 0..2 {
            server.write_all(b"1234").await.unwrap();
            assert!(poll!(Box::pin(server.write(b"5"))).is_pending());
            assert!(server.until.is_some());
            client.read_exact(&mut [0; 4]).await.unwrap();
            assert_eq!(server.write(b"").await.unwrap(), 0);
            assert!(server.until.is_none());
        }
        let (server, _client) = duplex(4);
        let mut server = Unread::new(server, Duration::from_millis(1));
        let refused = server.write_all(b"12345678").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
    }
}
