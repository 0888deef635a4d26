//! When commits were decided, as seen from the drill.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The moments at which commits became known as decided, ascending. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Commits(Arc<watch::Sender<Vec<Instant>>>);

impl Default for Commits {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }
}

impl Commits {
    /// A commit has been decided just now.
    pub(super) fn note(&self) {
        self.0.send_modify(|moments| moments.push(Instant::now()));
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Waits until there are `count`.
    pub(super) async fn wait_for(&self, count: usize) {
        // The sender is alive as long as we are, so this ends only when there are enough.
        let _ = self.0.subscribe().wait_for(|moments| moments.len() >= count).await;
    }

    /// The first one after `moment`.
    pub(super) fn first_after(&self, moment: Instant) -> Option<Instant> {
        self.0.borrow().iter().find(|decided| **decided > moment).copied()
    }

    /// The longest time between two commits that touches `[from, to]`.
    pub(super) fn longest_pause(&self, from: Instant, to: Instant) -> Option<Duration> {
        longest_pause(&self.0.borrow(), from, to)
    }

    /// The median time between the commits before `moment`, as far as they are among the last `count`.
    pub(super) fn interval_before(&self, moment: Instant, count: usize) -> Option<Duration> {
        let moments = self.0.borrow();
        let before: Vec<Instant> = moments.iter().copied().filter(|decided| *decided < moment).collect();
        let last = &before[before.len().saturating_sub(count + 1)..];
        let mut gaps: Vec<Duration> = last.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).copied()
    }
}

/// `None` unless there is a commit on both sides of `from`: a pause has two ends.
fn longest_pause(moments: &[Instant], from: Instant, to: Instant) -> Option<Duration> {
    let touching = moments.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
    touching.map(|pair| pair[1] - pair[0]).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: &[u64]) -> Vec<Instant> {
        seconds.iter().map(|second| start + Duration::from_secs(*second)).collect()
    }

    #[test]
    fn the_pause_is_the_longest_gap_that_touches_the_fault() {
        let start = Instant::now();
        let moments = at(start, &[0, 7, 8, 12, 13, 22]);
        let pause = |from, to| {
            let (from, to) = (start + Duration::from_secs(from), start + Duration::from_secs(to));
            longest_pause(&moments, from, to).map(|pause| pause.as_secs())
        };
        assert_eq!(pause(9, 10), Some(4), "the gap that the fault lies in");
        assert_eq!(pause(9, 14), Some(9), "a gap that begins during the fault counts whole");
        assert_eq!(pause(8, 12), Some(9 - 5), "gaps before and after do not");
        assert_eq!(pause(23, 30), None, "no commit after the fault");
        assert_eq!(longest_pause(&moments[..1], start, start), None);
    }

    #[test]
    fn the_interval_is_the_median_of_the_last_gaps() {
        let commits = Commits::default();
        let start = Instant::now();
        commits.0.send_modify(|moments| moments.extend(at(start, &[0, 50, 51, 52, 54])));
        let interval = commits.interval_before(start + Duration::from_secs(60), 3);
        assert_eq!(interval, Some(Duration::from_secs(1)));
        assert_eq!(commits.interval_before(start, 3), None);
        assert_eq!(commits.first_after(start), Some(start + Duration::from_secs(50)));
    }

    #[tokio::test]
    async fn waiting_ends_when_there_are_enough() {
        let commits = Commits::default();
        let waiting = commits.wait_for(2);
        tokio::pin!(waiting);
        commits.note();
        assert!(futures::poll!(&mut waiting).is_pending());
        commits.note();
        waiting.await;
        assert_eq!(commits.count(), 2);
    }
}
