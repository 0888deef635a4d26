//! Bounds how fast bytes are moved.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Bounds the bytes moved per second, over all who share it. A file is begun when what was granted before has been paid
/// for, and is then moved as fast as it goes.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    bytes_per_second: Option<u64>,
    /// When the bytes granted so far have been used up.
    paid_until: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, paid_until: Mutex::default() }
    }

    /// Waits until `bytes` may be moved. Whoever asks next waits for these as well.
    pub(crate) async fn pay(&self, bytes: u64) {
        let pause = self.grant(bytes, Instant::now());
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// How long `bytes` asked for at `now` have to wait: not at all without a bound.
    pub(crate) fn grant(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid_until.unwrap_or(now).max(now);
        *paid_until = Some(from + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        from - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_spreads_bytes_over_time_and_none_does_not() {
        let start = Instant::now();
        assert_eq!(Throttle::new(None).grant(u64::MAX, start), Duration::ZERO);
        let throttle = Throttle::new(Some(100));
        let granted = (0..5).map(|_| throttle.grant(50, start));
        let expected = [0, 500, 1000, 1500, 2000].map(Duration::from_millis);
        assert_eq!(granted.collect::<Vec<_>>(), expected);
        // What has been paid for meanwhile is not waited for again.
        assert_eq!(throttle.grant(50, start + Duration::from_secs(2)), Duration::from_millis(500));
        // What was not used is not saved up.
        let later = start + Duration::from_secs(60);
        assert_eq!(throttle.grant(50, later), Duration::ZERO);
        assert_eq!(throttle.grant(50, later), Duration::from_millis(500));
    }
}
