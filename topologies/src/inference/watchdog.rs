//! Time limits of what runs in ONNX Runtime, which cannot look at a clock itself: one thread ends what is overdue.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

type Action = Box<dyn FnOnce() + Send>;

static WATCHDOG: OnceLock<&'static Watchdog> = OnceLock::new();

#[derive(Default)]
struct Watchdog {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    actions: BTreeMap<(Instant, u64), Action>,
    /// When the thread looks again by itself; `None`: only if it is told to.
    looks_at: Option<Instant>,
}

/// What is to be ended at its deadline, unless this is dropped before.
pub(super) struct Watch(Option<(Instant, u64)>);

/// Calls `end` on another thread at `deadline`. Where no thread can be had there is no watch, and what runs takes its time.
pub(super) fn watch(deadline: Instant, end: impl FnOnce() + Send + 'static) -> Watch {
    let watchdog = WATCHDOG.get_or_init(|| {
        let watchdog: &'static Watchdog = Box::leak(Box::default());
        let started = thread::Builder::new().name("isobar-watchdog".into()).spawn(move || watchdog.run());
        if let Err(error) = started {
            tracing::warn!(%error, "models run without a time limit");
        }
        watchdog
    });
    let mut waiting = watchdog.lock();
    let key = (deadline, waiting.next);
    waiting.next += 1;
    // Most runs end long before their deadline, and the next one has a later deadline: the thread is not woken for each.
    let is_late = waiting.looks_at.is_none_or(|looks_at| deadline < looks_at);
    waiting.actions.insert(key, Box::new(end));
    drop(waiting);
    if is_late {
        watchdog.changed.notify_one();
    }
    Watch(Some(key))
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let (Some(key), Some(watchdog)) = (self.0.take(), WATCHDOG.get()) {
            watchdog.lock().actions.remove(&key);
        }
    }
}

impl Watchdog {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            waiting.looks_at = waiting.actions.first_key_value().map(|((deadline, _), _)| *deadline);
            let Some(deadline) = waiting.looks_at else {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if deadline > now {
                let waited = self.changed.wait_timeout(waiting, deadline - now);
                waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if let Some((_, end)) = waiting.actions.pop_first() {
                // Not under the lock: whatever it is, it holds nobody up.
                drop(waiting);
                end();
                waiting = self.lock();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_overdue_is_ended_in_order_and_what_is_finished_is_not() {
        let (tell, told) = mpsc::channel();
        let end = |name: &'static str| {
            let tell = tell.clone();
            move || tell.send(name).unwrap()
        };
        let now = Instant::now();
        let finished = watch(now + Duration::from_secs(3600), end("finished"));
        drop(finished);
        let _second = watch(now + Duration::from_millis(20), end("second"));
        let _first = watch(now, end("first"));
        assert_eq!(told.recv().unwrap(), "first");
        assert_eq!(told.recv().unwrap(), "second");
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn what_comes_while_the_thread_sleeps_for_something_finished_is_ended_too() {
        let (tell, told) = mpsc::channel();
        let first = Instant::now() + Duration::from_millis(100);
        let finished = watch(first, || ());
        // Until the thread has seen it.
        while WATCHDOG.get().unwrap().lock().looks_at.is_none() && Instant::now() < first {
            thread::yield_now();
        }
        drop(finished);
        let _later = watch(first + Duration::from_millis(50), move || tell.send(()).unwrap());
        told.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
