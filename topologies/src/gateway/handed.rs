//! The body of an answer on its way through: its connection is kept when it has ended, and it breaks off when its backend or its time does.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::client::Attempt;
use super::pool::Connection;

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Handed {
    incoming: Incoming,
    /// `None` once it was given back, or the answer broke off.
    connection: Option<Connection>,
    attempt: Attempt,
    /// When it breaks off; `None` for one that is whole already.
    deadline: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Handed {
    /// What comes in as `incoming` over `connection`.
    pub(super) fn new(
        incoming: Incoming,
        connection: Connection,
        attempt: Attempt,
        deadline: Instant,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let deadline = (!incoming.is_end_stream()).then(|| Box::pin(tokio::time::sleep_until(deadline)));
        Self { incoming, connection: Some(connection), attempt, deadline, _place: place }
    }

    /// The answer is whole: its connection can be used again.
    fn finish(&mut self) {
        self.deadline = None;
        if let Some(connection) = self.connection.take() {
            self.attempt.inner.places[self.attempt.at].pool.give_back(connection);
        }
    }
}

impl Body for Handed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            this.connection = None;
            return Poll::Ready(Some(Err("the time of the request is over".into())));
        }
        let polled = Pin::new(&mut this.incoming).poll_frame(context);
        match &polled {
            Poll::Ready(None) => this.finish(),
            Poll::Ready(Some(Err(_))) => {
                this.connection = None;
                this.attempt.broke_off();
            }
            _ => {}
        }
        polled.map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        // Whoever sends a body of a known length does not look for its end.
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }
}
