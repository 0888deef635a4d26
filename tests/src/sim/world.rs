//! One thread, virtual time, and a seeded choice of what runs next.
//!
//! A [`World`] is a small executor. Tasks that could go on form a set, and the seed chooses which of them is polled;
//! when none can, time jumps to the next timer. Nothing else decides the order of events: which waker was called first
//! does not matter, no thread runs beside this one, and no clock is read. So a seed is a whole run.
//!
//! Every task belongs to a [`Process`]. A process can be killed, which drops all its tasks between two polls, and paused,
//! which leaves them unpolled while time goes on for everybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use isobar_topologies::commit::{Environment, Task};
use tokio::sync::oneshot;

use crate::prng::Prng;

/// Polls after which a run counts as stuck in a loop.
const POLLS_MAX: u64 = 20_000_000;

/// One run of one process. Restarting gives a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(pub u32);

/// The process that everything belongs to that is not a process: networks, stores, the hand that breaks things.
pub const NATURE: Process = Process(0);

/// The executor; clones are the same one.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

struct State {
    now_us: u64,
    prng: Prng,
    tasks: BTreeMap<u64, Slot>,
    next_task: u64,
    timers: BTreeMap<(u64, u64), Waker>,
    next_timer: u64,
    paused: BTreeSet<Process>,
    events: Vec<String>,
    violation: Option<String>,
}

struct Slot {
    process: Process,
    waker: Waker,
    /// Away while it is polled.
    future: Option<BoxFuture<'static, ()>>,
}

struct Ready {
    task: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        lock(&self.ready).insert(self.task);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    /// A world at time zero in which `prng` decides.
    pub fn new(prng: Prng) -> Self {
        let state = State {
            now_us: 0,
            prng,
            tasks: BTreeMap::new(),
            next_task: 0,
            timers: BTreeMap::new(),
            next_timer: 0,
            paused: BTreeSet::new(),
            events: Vec::new(),
            violation: None,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), ready: Arc::default() }))
    }

    /// Microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        lock(&self.0.state).now_us
    }

    /// Draws from the run's randomness.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Prng) -> T) -> T {
        draw(&mut lock(&self.0.state).prng)
    }

    /// A pause between two bounds in milliseconds, to the microsecond.
    pub fn draw_ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1000 + self.draw(|prng| prng.below((to - from) * 1000 + 1)))
    }

    /// Adds a line to the run's log.
    pub fn note(&self, event: impl fmt::Display) {
        let mut state = lock(&self.0.state);
        let line = format!("{:>12.6} {event}", state.now_us as f64 / 1e6);
        state.events.push(line);
    }

    /// Ends the run: a promise was broken. The first one counts.
    pub fn violated(&self, what: impl fmt::Display) {
        self.note(format_args!("VIOLATION {what}"));
        lock(&self.0.state).violation.get_or_insert_with(|| what.to_string());
    }

    /// The promise that was broken, if one was.
    pub fn violation(&self) -> Option<String> {
        lock(&self.0.state).violation.clone()
    }

    /// What happened, a line per event.
    pub fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0.state).events)
    }

    /// Starts a task of `process`; its number.
    pub fn spawn(&self, process: Process, future: impl Future<Output = ()> + Send + 'static) -> u64 {
        let mut state = lock(&self.0.state);
        let task = state.next_task;
        state.next_task += 1;
        let waker = Waker::from(Arc::new(Ready { task, ready: self.0.ready.clone() }));
        state.tasks.insert(task, Slot { process, waker, future: Some(Box::pin(future)) });
        drop(state);
        lock(&self.0.ready).insert(task);
        task
    }

    /// Drops one task.
    pub fn end_task(&self, task: u64) {
        let slot = lock(&self.0.state).tasks.remove(&task);
        // Dropped without the lock: what it owns may call back.
        drop(slot);
    }

    /// Drops every task of `process`, wherever each one waits. What is on its way to a cloud stays on its way.
    pub fn kill(&self, process: Process) {
        let mut state = lock(&self.0.state);
        state.paused.remove(&process);
        let doomed: Vec<u64> =
            state.tasks.iter().filter(|(_, slot)| slot.process == process).map(|(task, _)| *task).collect();
        let slots: Vec<Slot> = doomed.iter().filter_map(|task| state.tasks.remove(task)).collect();
        drop(state);
        drop(slots);
    }

    /// Stops polling the tasks of `process`.
    pub fn pause(&self, process: Process) {
        lock(&self.0.state).paused.insert(process);
    }

    /// Goes on polling them.
    pub fn resume(&self, process: Process) {
        lock(&self.0.state).paused.remove(&process);
    }

    /// Ends after `pause`.
    pub fn sleep(&self, pause: Duration) -> Sleep {
        let pause_us = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        let until_us = self.now_us().saturating_add(pause_us);
        Sleep { world: self.clone(), until_us, timer: None }
    }

    /// `work`, or `None` when it takes longer than `limit`.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.sleep(limit) => None,
        }
    }

    /// Runs until `main` ends, a promise is broken, or nothing can happen any more.
    pub fn run(&self, main: impl Future<Output = ()> + Send + 'static) {
        let main = self.spawn(NATURE, main);
        for _ in 0..POLLS_MAX {
            let over = {
                let state = lock(&self.0.state);
                state.violation.is_some() || !state.tasks.contains_key(&main)
            };
            if over {
                return;
            }
            match self.choose() {
                Some(task) => self.poll(task),
                None if self.advance() => {}
                None => return self.violated("nothing can happen any more, and the run is not over"),
            }
        }
        self.violated("the run does not end");
    }

    /// One of the tasks that could go on.
    fn choose(&self) -> Option<u64> {
        let mut state = lock(&self.0.state);
        let mut ready = lock(&self.0.ready);
        ready.retain(|task| state.tasks.contains_key(task));
        let state = &mut *state;
        let is_running = |task: &&u64| !state.paused.contains(&state.tasks[*task].process);
        let count = ready.iter().filter(is_running).count();
        if count == 0 {
            return None;
        }
        let chosen = state.prng.index(count);
        let task =
            *ready.iter().filter(|task| !state.paused.contains(&state.tasks[*task].process)).nth(chosen)?;
        ready.remove(&task);
        Some(task)
    }

    fn poll(&self, task: u64) {
        let polled = {
            let mut state = lock(&self.0.state);
            let slot = state.tasks.get_mut(&task).expect("a chosen task is there");
            slot.future.take().map(|future| (future, slot.waker.clone()))
        };
        let Some((mut future, waker)) = polled else { return };
        let outcome =
            catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker))));
        match outcome {
            Ok(Poll::Pending) => {
                let mut state = lock(&self.0.state);
                match state.tasks.get_mut(&task) {
                    Some(slot) => slot.future = Some(future),
                    // It ended its own process.
                    None => {
                        drop(state);
                        drop(future);
                    }
                }
            }
            Ok(Poll::Ready(())) => {
                self.end_task(task);
                drop(future);
            }
            Err(panic) => {
                let what = panic.downcast_ref::<String>().cloned();
                let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                self.violated(format_args!("panic: {}", what.unwrap_or_default()));
            }
        }
    }

    /// Jumps to the next timer and wakes whoever waits for that instant; false if there is none.
    fn advance(&self) -> bool {
        let mut state = lock(&self.0.state);
        let Some((&(at_us, _), _)) = state.timers.first_key_value() else { return false };
        state.now_us = state.now_us.max(at_us);
        let later = state.timers.split_off(&(at_us + 1, 0));
        let due = std::mem::replace(&mut state.timers, later);
        drop(state);
        due.into_values().for_each(Waker::wake);
        true
    }

    /// Drops whatever is left, so that nothing keeps the world alive.
    pub fn end(&self) {
        loop {
            let tasks = std::mem::take(&mut lock(&self.0.state).tasks);
            if tasks.is_empty() {
                return;
            }
        }
    }
}

/// See [`World::sleep`].
#[derive(Debug)]
pub struct Sleep {
    world: World,
    until_us: u64,
    timer: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let world = self.world.clone();
        let mut state = lock(&world.0.state);
        if state.now_us >= self.until_us {
            return Poll::Ready(());
        }
        let timer = match self.timer {
            Some(timer) => timer,
            None => {
                state.next_timer += 1;
                let timer = (self.until_us, state.next_timer);
                *self.timer.insert(timer)
            }
        };
        state.timers.insert(timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            lock(&self.world.0.state).timers.remove(&timer);
        }
    }
}

/// What the protocol gets from its surroundings in one process of a simulation.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The world around it.
    pub world: World,
    /// The process that its tasks belong to.
    pub process: Process,
}

/// Ends its task when it is dropped.
struct TaskGuard {
    world: World,
    task: u64,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.world.end_task(self.task);
    }
}

impl Environment for Surroundings {
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.world.sleep(pause))
    }

    fn random(&self) -> u64 {
        self.world.draw(Prng::next_u64)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> Task {
        let (ended, wait) = oneshot::channel::<()>();
        let task = self.world.spawn(self.process, async move {
            task.await;
            drop(ended);
        });
        let guard = TaskGuard { world: self.world.clone(), task };
        Task::new(Box::pin(async move {
            let _guard = guard;
            // It is never sent: the channel closes when the task is gone.
            let _ = wait.await;
        }))
    }
}
