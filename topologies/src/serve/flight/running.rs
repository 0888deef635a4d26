//! Queries whose rows are being fetched, so that they can be cancelled.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Cancelled tickets that are remembered, of all callers. One that is forgotten can be fetched again.
const CANCELLED_MAX: usize = 1_000;

/// The queries of one server.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<Queries>>);

#[derive(Default)]
struct Queries {
    /// By ticket. The same one may be fetched several times at once.
    active: HashMap<String, Active>,
    /// Tickets that must not be fetched any more, oldest first.
    cancelled: VecDeque<String>,
}

#[derive(Default)]
struct Active {
    cancelled: CancellationToken,
    fetches: usize,
}

/// One fetch. Dropping it says that it has ended.
pub(super) struct Fetch {
    running: Running,
    ticket: String,
    cancelled: CancellationToken,
}

impl Running {
    /// Begins to fetch a ticket, unless it was cancelled.
    pub(super) fn begin(&self, ticket: &str) -> Result<Fetch, Status> {
        let mut queries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if queries.cancelled.iter().any(|cancelled| cancelled == ticket) {
            return Err(was_cancelled());
        }
        let active = queries.active.entry(ticket.to_owned()).or_default();
        active.fetches += 1;
        Ok(Fetch { running: self.clone(), ticket: ticket.to_owned(), cancelled: active.cancelled.clone() })
    }

    /// Ends the fetches of a ticket, and allows no further one.
    pub(super) fn cancel(&self, ticket: &str) {
        let mut queries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(active) = queries.active.get(ticket) {
            active.cancelled.cancel();
        }
        if queries.cancelled.iter().any(|cancelled| cancelled == ticket) {
            return;
        }
        if queries.cancelled.len() == CANCELLED_MAX {
            queries.cancelled.pop_front();
        }
        queries.cancelled.push_back(ticket.to_owned());
    }
}

impl Fetch {
    /// Is cancelled with the query.
    pub(super) fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// What `step` comes to, unless the query is cancelled before.
    pub(super) async fn unless_cancelled<T>(
        &self,
        step: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(was_cancelled()),
            done = step => done,
        }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut queries = self.running.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(active) = queries.active.get_mut(&self.ticket) else { return };
        active.fetches -= 1;
        if active.fetches == 0 {
            queries.active.remove(&self.ticket);
        }
    }
}

fn was_cancelled() -> Status {
    Status::cancelled("the query was cancelled")
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tonic::Code;

    use super::*;

    fn active(running: &Running) -> usize {
        running.0.lock().unwrap().active.len()
    }

    #[tokio::test]
    async fn a_cancelled_ticket_ends_and_is_not_fetched_again() {
        let running = Running::default();
        let (first, second) = (running.begin("a").unwrap(), running.begin("a").unwrap());
        let other = running.begin("b").unwrap();
        assert_eq!(first.unless_cancelled(ready(Ok(1))).await.unwrap(), 1);
        running.cancel("a");
        for fetch in [&first, &second] {
            let error = fetch.unless_cancelled(pending::<Result<(), Status>>()).await.unwrap_err();
            assert_eq!(error.code(), Code::Cancelled);
        }
        assert_eq!(running.begin("a").map(|_| ()).unwrap_err().code(), Code::Cancelled);
        assert_eq!(other.unless_cancelled(ready(Ok(2))).await.unwrap(), 2);
        assert_eq!(active(&running), 2);
        drop((first, second, other));
        assert_eq!(active(&running), 0);
    }

    #[test]
    fn the_oldest_of_many_cancelled_tickets_is_forgotten() {
        let running = Running::default();
        for ticket in 0..=CANCELLED_MAX {
            running.cancel(&ticket.to_string());
        }
        assert!(running.begin("0").is_ok());
        assert!(running.begin("1").is_err());
    }
}
