//! The two halves of a connection.
//!
//! Both may be left at any point and gone on with later, so that a query can be cancelled while its rows are being written:
//! what was read or not yet written stays in the buffers.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pgwire::messages::PgWireBackendMessage;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::failure::{Failure, Trouble, code};

/// Most bytes of a message before the client has said who it is, as in PostgreSQL.
pub(super) const OPENING_BYTES_MAX: usize = 10_000;
/// Most bytes of a message afterwards: a query with its parameters.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Bytes that are read at once, at least.
const READ_BYTES: usize = 8 << 10;
/// Bytes that are written at once.
pub(super) const WRITE_BYTES: usize = 64 << 10;
/// Bytes that are read of what comes next while a query runs.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// How long a client may take to read some of what it asked for. Its query has ended long before.
const WRITE_TIME_MAX: Duration = Duration::from_secs(600);
/// How long a client may take to read the last words.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(10);

/// What the first message of a connection holds, which has no tag; `None` if there is none. Not a byte behind it is read, so that
/// nothing that came before TLS is taken for what came through it.
pub(super) async fn opening(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>, Trouble> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => (),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut message = vec![0; checked(length, OPENING_BYTES_MAX)? - 4];
    stream.read_exact(&mut message).await?;
    Ok(Some(message.into()))
}

/// The length that a message begins with, which counts itself.
fn checked(length: [u8; 4], bytes_max: usize) -> Result<usize, Failure> {
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
    if length < 4 {
        return Err(Failure::malformed("no such length"));
    }
    if length > bytes_max {
        let message = format!("a message of {length} bytes: at most {bytes_max} are read here");
        return Err(Failure::fatal(code::PROGRAM_LIMIT, message));
    }
    Ok(length)
}

/// What the client says.
pub(super) struct Input {
    from: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    /// Of one message.
    pub(super) bytes_max: usize,
}

impl Input {
    pub(super) fn new(from: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        Self { from, buffer: BytesMut::new(), bytes_max: OPENING_BYTES_MAX }
    }

    /// Tag and body of the next message; `None` when the client has hung up.
    pub(super) async fn next(&mut self) -> Result<Option<(u8, Bytes)>, Trouble> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// A message out of the buffer, if all of it is there.
    fn whole(&mut self) -> Result<Option<(u8, Bytes)>, Failure> {
        let Some((tag, rest)) = self.buffer.split_first() else { return Ok(None) };
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let (tag, length) = (*tag, checked(*length, self.bytes_max)?);
        if self.buffer.len() <= length {
            return Ok(None);
        }
        self.buffer.advance(1);
        let mut message = self.buffer.split_to(length).freeze();
        message.advance(4);
        if self.buffer.is_empty() {
            // The memory of a large message goes with it.
            self.buffer = BytesMut::new();
        }
        Ok(Some((tag, message)))
    }

    async fn more(&mut self) -> Result<bool, Trouble> {
        self.buffer.reserve(READ_BYTES);
        Ok(self.from.read_buf(&mut self.buffer).await? > 0)
    }

    /// Ends when the client has hung up; never while it may still be there.
    pub(super) async fn gone(&mut self) {
        while self.buffer.len() < AHEAD_BYTES_MAX {
            if !matches!(self.more().await, Ok(true)) {
                return;
            }
        }
        std::future::pending().await
    }
}

/// What the client is told.
pub(super) struct Output {
    to: Box<dyn AsyncWrite + Send + Unpin>,
    /// Whole messages.
    pub(super) buffer: BytesMut,
}

impl Output {
    pub(super) fn new(to: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self { to, buffer: BytesMut::new() }
    }

    /// Puts a message behind the others.
    pub(super) fn put(&mut self, message: &PgWireBackendMessage) {
        let before = self.buffer.len();
        if let Err(error) = message.encode(&mut self.buffer) {
            // Longer than clients take.
            self.buffer.truncate(before);
            tracing::debug!(%error, "message not sent");
        }
    }

    /// Writes everything.
    pub(super) async fn flush(&mut self) -> Result<(), Trouble> {
        while !self.buffer.is_empty() {
            let written = tokio::time::timeout(WRITE_TIME_MAX, self.to.write_buf(&mut self.buffer)).await;
            let written = written.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            if written == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
            }
        }
        Ok(self.to.flush().await?)
    }

    /// Writes if there is enough to be worth it.
    pub(super) async fn relieve(&mut self) -> Result<(), Trouble> {
        if self.buffer.len() >= WRITE_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Says goodbye to whoever still listens.
    pub(super) async fn close(&mut self) {
        let closed = async {
            let _ = self.flush().await;
            let _ = self.to.shutdown().await;
        };
        let _ = tokio::time::timeout(CLOSING_TIME_MAX, closed).await;
    }
}
