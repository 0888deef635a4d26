//! Which backend gets a request, and whether it may be sent once more. Nothing here waits, sends or knows the time: events and a clock
//! go in, choices come out.
//!
//! ```text
//! asked, begun, ended, probed ─▶ Balance ─▶ choose, may_retry, may_hedge, hedge_after
//! ```

mod backend;
mod latency;
#[cfg(test)]
mod tests;
mod window;

use std::time::Duration;

use self::backend::{Backend, Standing};
use self::latency::Usual;
use self::window::Budget;
use super::kind::Kind;
use crate::spec::gateway::{BackendSpec, GatewaySpec, Preference};

/// Retries and hedges in ten seconds, however few requests there are.
const RETRIES_LEAST: u64 = 100;
const HEDGES_LEAST: u64 = 10;
/// A backend fails if its share of failed requests is so much above that of the others together.
const OUTLIER_ABOVE: f64 = 0.3;
/// Fewer failures say nothing.
const OUTLIER_FAILURES_MIN: u64 = 5;

/// What a probe said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probed {
    /// Ready, after this time.
    Ready(Duration),
    /// It says that it is not.
    NotReady,
    /// Nothing in time.
    Silent,
    /// There is no connection.
    Unreachable,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// An answer began after this time.
    Answered(Duration),
    /// An answer that says that there is no room now. It comes fast, which says nothing of those that there is room for.
    Full,
    /// An answer that says that the server failed.
    Failed,
    /// The connection broke off.
    Broken,
    /// There was no connection.
    Unreachable,
    /// Nobody waits any longer: another was faster, the client went away, or it took too long.
    Abandoned(Duration),
}

/// What changed for a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// It gets requests.
    Up,
    /// It gets none. What it has under way may go on.
    Down,
    /// It gets none, and does not answer what it has either.
    Lost,
    /// It gets none for a while, because it fails more than the others.
    LeftAlone,
    /// It should be probed now.
    Suspected,
}

/// The state of a gateway. Backends are named by their places.
#[derive(Debug, Clone)]
pub(super) struct Balance {
    prefer: Preference,
    slow_start: Duration,
    backends: Vec<Backend>,
    /// By kind.
    usual: [Usual; Kind::ALL.len()],
    retries: Budget,
    hedges: Budget,
}

impl Balance {
    /// Nothing is known of the backends yet.
    pub(super) fn new(spec: &GatewaySpec) -> Self {
        Self {
            prefer: spec.prefer,
            slow_start: spec.slow_start,
            backends: spec.backends.iter().map(Backend::new).collect(),
            usual: Default::default(),
            retries: Budget::new(spec.retries, RETRIES_LEAST),
            hedges: Budget::new(spec.hedges, HEDGES_LEAST),
        }
    }

    /// Takes up weight, price and draining of the same backends.
    pub(super) fn adjust(&mut self, specs: &[BackendSpec]) {
        for (backend, spec) in self.backends.iter_mut().zip(specs) {
            backend.weight = f64::from(spec.weight);
            backend.price = spec.price;
            backend.is_draining = spec.is_draining;
        }
    }

    /// A request came.
    pub(super) fn asked(&mut self, now: Duration) {
        self.retries.asked(now);
        self.hedges.asked(now);
    }

    /// The backend for a request that was sent to those in `tried` before. `random` decides where chance does. `None`: there is none
    /// that it could be sent to.
    pub(super) fn choose(&self, kind: Kind, tried: &[usize], now: Duration, random: u64) -> Option<usize> {
        let backends = &self.backends;
        let open = (0..backends.len()).filter(|at| !tried.contains(at) && !backends[*at].is_draining);
        let best = least(open.collect(), |at| backends[at].standing(now));
        let is_tried = |cloud: &str| tried.iter().any(|tried| backends[*tried].cloud == cloud);
        let best = least(best, |at| is_tried(&backends[at].cloud));
        let best = least(best, |at| self.rank(at));
        let shares: Vec<f64> = best.iter().map(|at| backends[*at].share(self.slow_start, now)).collect();
        let part = |bits: u64| (bits & u64::from(u32::MAX)) as f64 / 2f64.powi(32);
        let first = drawn(&shares, None, part(random))?;
        let second = drawn(&shares, Some(first), part(random >> 32)).unwrap_or(first);
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        let load = |place: usize| backends[best[place]].load(kind, shares[place] / mean, now);
        // The first where they are equal, so that backends that have nothing to do are chosen by their weights.
        Some(best[if load(second) < load(first) { second } else { first }])
    }

    /// The lower, the sooner.
    fn rank(&self, at: usize) -> u64 {
        match self.prefer {
            Preference::Nearest => 0,
            Preference::Order => at as u64,
            // The bits of numbers that are not negative are in the order of the numbers.
            Preference::Cheapest => self.backends[at].price.unwrap_or(f64::MAX).abs().to_bits(),
        }
    }

    /// A request is sent to a backend.
    pub(super) fn begun(&mut self, at: usize) {
        self.backends[at].running += 1;
    }

    /// It has nothing more to do with the request.
    pub(super) fn released(&mut self, at: usize) {
        self.backends[at].running = self.backends[at].running.saturating_sub(1);
    }

    /// How an attempt ended, or, if there is an answer, how it began.
    pub(super) fn ended(&mut self, at: usize, kind: Kind, ended: Ended, now: Duration) -> Option<Notice> {
        let backend = &mut self.backends[at];
        match ended {
            Ended::Answered(latency) => {
                backend.outcomes.add(now);
                backend.observe(kind, latency, now);
                self.usual[kind as usize].observe(latency);
                None
            }
            Ended::Abandoned(waited) => {
                backend.observe_at_least(kind, waited, now);
                None
            }
            Ended::Full => {
                backend.outcomes.add(now);
                None
            }
            Ended::Unreachable => backend.unreachable(),
            Ended::Failed | Ended::Broken => {
                if backend.standing(now) == Standing::Up {
                    backend.outcomes.add(now);
                }
                let notice = self.failed(at, now);
                (notice == Notice::LeftAlone || ended == Ended::Broken).then_some(notice)
            }
        }
    }

    /// An answer that had begun broke off.
    pub(super) fn broke_off(&mut self, at: usize, now: Duration) -> Notice {
        // It was counted as a request when it began.
        self.failed(at, now)
    }

    /// Counts a failure, and says what follows from it. One of a backend that is not up is no news: it gets no new requests, and what it
    /// had under way fails.
    fn failed(&mut self, at: usize, now: Duration) -> Notice {
        if self.backends[at].standing(now) != Standing::Up {
            return Notice::Suspected;
        }
        self.backends[at].outcomes.add_part(now);
        if !self.is_outlier(at, now) {
            return Notice::Suspected;
        }
        self.backends[at].leave_alone(now);
        Notice::LeftAlone
    }

    /// Whether a backend fails more than the others, and is not the last one that is up.
    fn is_outlier(&self, at: usize, now: Duration) -> bool {
        let (whole, failed) = self.backends[at].outcomes.sums(now);
        let others = || self.backends.iter().enumerate().filter(move |(other, _)| *other != at);
        let is_last = !others().any(|(_, it)| it.standing(now) == Standing::Up && !it.is_draining);
        let of_others = others().map(|(_, it)| it.outcomes.sums(now));
        let (others_whole, others_failed) =
            of_others.fold((0, 0), |(whole, part), sums| (whole + sums.0, part + sums.1));
        if is_last || others_whole == 0 || failed < OUTLIER_FAILURES_MIN {
            return false;
        }
        let share = |failed: u64, whole: u64| failed as f64 / whole.max(1) as f64;
        share(failed, whole) > share(others_failed, others_whole) + OUTLIER_ABOVE
    }

    /// What a probe said.
    pub(super) fn probed(&mut self, at: usize, probed: Probed, now: Duration) -> Option<Notice> {
        self.backends[at].probed(probed, now)
    }

    /// Whether a request may be sent again; counts it.
    pub(super) fn may_retry(&mut self, now: Duration) -> bool {
        self.retries.take(now)
    }

    /// Whether a request that no backend works on may be sent to another. That is not counted: the other one would have had it in the
    /// first place, had it been known.
    pub(super) fn may_move(&self) -> bool {
        !self.retries.is_none()
    }

    /// Whether a request may be sent to the backend at `at` as well; counts it.
    pub(super) fn may_hedge(&mut self, at: usize, now: Duration) -> bool {
        self.is_up(at, now) && self.hedges.take(now)
    }

    /// After which time without an answer a second backend is asked; `None` while it is not known what is usual.
    pub(super) fn hedge_after(&self, kind: Kind) -> Option<Duration> {
        self.usual[kind as usize].read()
    }

    /// Whether a backend gets requests.
    pub(super) fn is_up(&self, at: usize, now: Duration) -> bool {
        self.backends[at].standing(now) == Standing::Up && !self.backends[at].is_draining
    }
}

/// Those of `candidates` for which `rank` is the least.
fn least<R: Ord + Copy>(candidates: Vec<usize>, rank: impl Fn(usize) -> R) -> Vec<usize> {
    let Some(best) = candidates.iter().map(|at| rank(*at)).min() else { return candidates };
    candidates.into_iter().filter(|at| rank(*at) == best).collect()
}

/// The place in `shares` that `part`, from 0 to below 1, falls on, `without` one: larger ones more often.
fn drawn(shares: &[f64], without: Option<usize>, part: f64) -> Option<usize> {
    let open = || shares.iter().enumerate().filter(move |(at, _)| Some(*at) != without);
    let sum: f64 = open().map(|(_, share)| share).sum();
    let mut left = part * sum;
    let mut last = None;
    for (at, share) in open() {
        last = Some(at);
        left -= share;
        if left < 0.0 {
            break;
        }
    }
    last
}
