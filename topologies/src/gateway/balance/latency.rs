//! How long answers take: an average of each backend, and what most requests of a kind take.

use std::time::Duration;

/// The time in which all but a third of what was remembered is forgotten, seconds.
const FORGOTTEN_IN_S: f64 = 5.0;

/// Requests that are remembered of a kind.
const REMEMBERED: usize = 512;
/// Requests from which on it is known what most take.
const KNOWN_FROM: usize = 32;
/// What most take is found anew after so many requests: it needs a look at all that are remembered.
const FOUND_EVERY: usize = 16;

/// A moving average that follows peaks at once and forgets them slowly. Where nothing is heard, it sinks, so that whoever was slow is
/// tried again some time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PeakAverage {
    seconds: f64,
    at: Duration,
    is_known: bool,
}

impl PeakAverage {
    /// An answer took `latency`.
    pub(super) fn observe(&mut self, latency: Duration, now: Duration) {
        let latency = latency.as_secs_f64();
        let kept = self.kept(now);
        self.seconds = match self.is_known && latency <= self.seconds {
            true => self.seconds * kept + latency * (1.0 - kept),
            false => latency,
        };
        (self.at, self.is_known) = (now, true);
    }

    /// The average in seconds; `None` before anything was heard.
    pub(super) fn read(&self, now: Duration) -> Option<f64> {
        self.is_known.then(|| self.seconds * self.kept(now))
    }

    /// The share of what is remembered that is not forgotten yet.
    fn kept(&self, now: Duration) -> f64 {
        (-now.saturating_sub(self.at).as_secs_f64() / FORGOTTEN_IN_S).exp()
    }
}

/// In which time 95 % of the last requests were answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Usual {
    /// The last requests, in a ring.
    latencies: Vec<Duration>,
    next: usize,
    since_found: usize,
    found: Option<Duration>,
}

impl Usual {
    /// An answer took `latency`.
    pub(super) fn observe(&mut self, latency: Duration) {
        match self.latencies.len() < REMEMBERED {
            true => self.latencies.push(latency),
            false => self.latencies[self.next] = latency,
        }
        self.next = (self.next + 1) % REMEMBERED;
        self.since_found += 1;
        let is_due = self.found.is_none() || self.since_found >= FOUND_EVERY;
        if is_due && self.latencies.len() >= KNOWN_FROM {
            let mut sorted = self.latencies.clone();
            let place = sorted.len() * 95 / 100;
            let (_, found, _) = sorted.select_nth_unstable(place);
            self.found = Some(*found);
            self.since_found = 0;
        }
    }

    /// That time, once it is known.
    pub(super) fn read(&self) -> Option<Duration> {
        self.found
    }
}
