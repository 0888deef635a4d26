//! When something that failed may be tried again: after pauses that double up to a bound.

use std::time::{Duration, Instant};

/// The first pause, the longest, and how long the present one is.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    pause: Option<Duration>,
    until: Option<Instant>,
}

impl Backoff {
    /// Nothing has failed yet.
    pub(crate) fn new((first, longest): (Duration, Duration)) -> Self {
        Self { first, longest, pause: None, until: None }
    }

    /// Whether it may be tried.
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    /// It has failed, once more; the pause from here on.
    pub(crate) fn failed(&mut self) -> Duration {
        let pause = self.pause.map_or(self.first, |pause| (pause * 2).min(self.longest));
        (self.pause, self.until) = (Some(pause), Some(Instant::now() + pause));
        pause
    }

    /// It has worked.
    pub(crate) fn worked(&mut self) {
        (self.pause, self.until) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::new((Duration::from_secs(1), Duration::from_secs(300)));
        assert!(backoff.is_over());
        let lengths = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300].map(Duration::from_secs);
        for length in lengths {
            backoff.failed();
            assert_eq!(backoff.pause, Some(length));
            assert!(!backoff.is_over());
        }
        backoff.worked();
        assert!(backoff.is_over());
    }
}
