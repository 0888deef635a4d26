//! What the protocol takes from its surroundings besides the clouds: pauses, chance, and tasks of its own.
//!
//! The binary takes them from Tokio and the operating system ([`System`]), and its configuration cannot say otherwise.
//! The simulator passes an environment of its own, in which one seed decides all three, so that a run can be replayed.
//! Nothing here decides who is right: the protocol is safe whatever an environment answers.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use rand::Rng;
use tokio::task::JoinSet;

/// Pauses, chance and tasks.
pub trait Environment: fmt::Debug + Send + Sync {
    /// Ends after `pause` at the earliest.
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()>;

    /// 64 random bits. Two processes must not draw the same sequence: incarnations are made of it.
    fn random(&self) -> u64;

    /// Runs `task` beside the caller until it ends or its [`Task`] is dropped.
    fn spawn(&self, task: BoxFuture<'static, ()>) -> Task;
}

/// A task that was spawned. Dropping it ends the task at its next await.
pub struct Task(Mutex<BoxFuture<'static, ()>>);

impl Task {
    /// A task that has ended when `ended` is ready, and is ended by dropping `ended`.
    pub fn new(ended: BoxFuture<'static, ()>) -> Self {
        Self(Mutex::new(ended))
    }

    /// Waits until the task has ended.
    pub async fn ended(self) {
        // The lock only makes the future shareable; a panic while it is held cannot happen.
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).await;
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

/// Tokio's timers and tasks, the operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Environment for System {
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(pause))
    }

    fn random(&self) -> u64 {
        rand::rng().random()
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> Task {
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        Task::new(Box::pin(async move { while tasks.join_next().await.is_some() {} }))
    }
}

/// A random id, in the form of a version 4 UUID.
pub(super) fn random_id(environment: &dyn Environment) -> String {
    let bits = (u128::from(environment.random()) << 64) | u128::from(environment.random());
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
}
