//! Sessions that wait for somebody to use them: one at a time for each.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Idle<T> {
    kept: Mutex<Kept<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Kept<T> {
    idle: Vec<T>,
    /// How many there are, with those in use.
    count: usize,
}

/// Why nobody gets one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Others had all of them, for too long.
    InUse,
    /// All are lost.
    Lost,
}

impl<T> Idle<T> {
    pub(super) fn new(all: Vec<T>) -> Self {
        let count = all.len();
        Self { kept: Mutex::new(Kept { idle: all, count }), changed: Condvar::new() }
    }

    /// One that nobody else uses, before `deadline`. Whoever takes it [gives it back](Self::give_back) or says that it
    /// [is lost](Self::lose).
    pub(super) fn take(&self, deadline: Instant) -> Result<T, Missing> {
        let mut kept = self.lock();
        loop {
            if kept.count == 0 {
                return Err(Missing::Lost);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missing::InUse);
            }
            match kept.idle.pop() {
                Some(one) => return Ok(one),
                None => {
                    let waited = self.changed.wait_timeout(kept, left);
                    kept = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    pub(super) fn give_back(&self, one: T) {
        self.lock().idle.push(one);
        self.changed.notify_one();
    }

    /// One that was taken is not given back.
    pub(super) fn lose(&self) {
        let mut kept = self.lock();
        kept.count = kept.count.saturating_sub(1);
        drop(kept);
        // If it was the last one, nobody has anything to wait for.
        self.changed.notify_all();
    }

    /// Whether all are lost.
    pub(super) fn are_lost(&self) -> bool {
        self.lock().count == 0
    }

    fn lock(&self) -> MutexGuard<'_, Kept<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Only a hang takes longer.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn soon() -> Instant {
        Instant::now() + PATIENCE
    }

    #[test]
    fn what_is_given_back_is_the_next_ones_and_what_is_lost_is_nobodys() {
        let idle = Idle::new(vec!['a', 'b']);
        assert_eq!((idle.take(soon()), idle.take(soon())), (Ok('b'), Ok('a')));
        assert_eq!(idle.take(Instant::now()), Err(Missing::InUse));
        idle.lose();
        idle.give_back('a');
        assert!(!idle.are_lost());
        assert_eq!(idle.take(soon()), Ok('a'));
        assert_eq!(idle.take(Instant::now()), Err(Missing::InUse));
        idle.lose();
        assert!(idle.are_lost());
        assert_eq!(idle.take(soon()), Err(Missing::Lost));
    }

    #[test]
    fn whoever_waits_is_told_that_all_are_lost() {
        let idle = Idle::new(vec![()]);
        idle.take(soon()).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| idle.take(soon()));
            idle.lose();
            assert_eq!(waiting.join().unwrap(), Err(Missing::Lost));
        });
    }
}
