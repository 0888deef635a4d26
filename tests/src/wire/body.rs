//! The body of an answer on its way: at once, slowly, or cut off.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind};
use tokio::time::{Instant, Sleep, sleep_until};

use super::message::Answer;

/// Longest piece of a body, in bytes.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// Pieces of a slow body in each second.
const PIECES_PER_SECOND: u64 = 4;

/// What is sent, and how.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) answer: Answer,
    /// The connection is closed after so many bytes of the body.
    pub(super) cut_after: Option<usize>,
    pub(super) bytes_per_second: Option<u64>,
}

impl Sent {
    pub(super) fn whole(answer: Answer) -> Self {
        Self { answer, cut_after: None, bytes_per_second: None }
    }

    /// The answer with a body that behaves as it should. Who reads it gives up at `deadline`.
    pub(super) fn into_response(self, deadline: Option<Instant>) -> axum::http::Response<WireBody> {
        let Answer { status, headers, body } = self.answer;
        let body = WireBody::new(&body, self.cut_after, self.bytes_per_second, deadline);
        let mut response = axum::http::Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// A body that comes in pieces, each not before its time.
pub(super) struct WireBody {
    pieces: VecDeque<Bytes>,
    piece_interval: Duration,
    next_piece: Pin<Box<Sleep>>,
    deadline: Option<Pin<Box<Sleep>>>,
    is_cut: bool,
}

impl WireBody {
    fn new(
        bytes: &Bytes,
        cut_after: Option<usize>,
        bytes_per_second: Option<u64>,
        deadline: Option<Instant>,
    ) -> Self {
        let kept = bytes.slice(..cut_after.map_or(bytes.len(), |cut| cut.min(bytes.len())));
        let of_rate = |rate: u64| (rate / PIECES_PER_SECOND) as usize;
        let piece_bytes = bytes_per_second.map_or(PIECE_BYTES_MAX, of_rate).max(1);
        let pieces = (0..kept.len()).step_by(piece_bytes);
        let pieces = pieces.map(|at| kept.slice(at..(at + piece_bytes).min(kept.len()))).collect();
        let piece_interval = match bytes_per_second {
            Some(_) => Duration::from_secs(1) / PIECES_PER_SECOND as u32,
            None => Duration::ZERO,
        };
        Self {
            pieces,
            piece_interval,
            next_piece: Box::pin(sleep_until(Instant::now() + piece_interval)),
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            is_cut: cut_after.is_some(),
        }
    }

    fn end(&mut self) -> Option<Result<Frame<Bytes>, HttpError>> {
        // Once only: after an error a body is over.
        std::mem::take(&mut self.is_cut)
            .then(|| Err(http_error(HttpErrorKind::Interrupted, io::ErrorKind::UnexpectedEof)))
    }
}

/// An error as the real HTTP client classifies it.
pub(super) fn http_error(kind: HttpErrorKind, cause: io::ErrorKind) -> HttpError {
    HttpError::new(kind, io::Error::from(cause))
}

impl Body for WireBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            self.pieces.clear();
            self.deadline = None;
            self.is_cut = false;
            return Poll::Ready(Some(Err(http_error(HttpErrorKind::Timeout, io::ErrorKind::TimedOut))));
        }
        if self.pieces.is_empty() {
            return Poll::Ready(self.end());
        }
        if !self.piece_interval.is_zero() {
            std::task::ready!(self.next_piece.as_mut().poll(context));
            let next = Instant::now() + self.piece_interval;
            self.next_piece.as_mut().reset(next);
        }
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && !self.is_cut
    }

    fn size_hint(&self) -> SizeHint {
        match self.is_cut {
            true => SizeHint::default(),
            false => SizeHint::with_exact(self.pieces.iter().map(|piece| piece.len() as u64).sum()),
        }
    }
}
