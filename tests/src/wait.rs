//! Waiting for a condition, with a deadline that only a hang reaches.

use std::time::{Duration, Instant};

/// How long anything may take. Generous, for a machine that others use as well: no test asserts on time, this only turns
/// a hang into a failure.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(15);

/// What `look` finds within [`PATIENCE`].
pub async fn find<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look().await;
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Waits until `look` finds something.
///
/// # Panics
/// If it does not within [`PATIENCE`]; `what` says what was waited for.
pub async fn until_some<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    find(look).await.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain until {what}"))
}

/// Waits until `holds` does.
///
/// # Panics
/// As [`until_some`].
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    until_some(what, async || holds().await.then_some(())).await;
}

/// The outcome of `work`, which must come within [`PATIENCE`].
///
/// # Panics
/// If it does not.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what} took longer than {PATIENCE:?}"),
    }
}
