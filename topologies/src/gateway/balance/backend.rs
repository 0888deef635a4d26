//! What is known of one backend: whether it is up, how it fares, how fast it is.

use std::time::Duration;

use super::latency::PeakAverage;
use super::window::Window;
use super::{Kind, Notice, Probed};
use crate::spec::gateway::BackendSpec;

/// Good probes in a row that bring a backend back, and bad ones that take it away.
const PROBES_TO_CHANGE: u32 = 2;
/// How long an outlier is left alone, at first and at most.
const LEFT_ALONE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// What part of its share a backend has that came back this moment.
const FIRST_PART: f64 = 0.1;
/// What is taken for the time to an answer where nothing is known, and the least that counts, seconds.
const LATENCY_MIN_S: f64 = 0.000_1;

/// Whether requests are given to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It works.
    Up,
    /// It was not asked yet.
    Unknown,
    /// It does not work, or fails more than others.
    Down,
}

/// One backend.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) cloud: String,
    pub(super) weight: f64,
    pub(super) price: Option<f64>,
    pub(super) is_draining: bool,
    /// Requests that it has under way.
    pub(super) running: u32,
    /// Its requests, and those that failed.
    pub(super) outcomes: Window,
    /// What the probes and the connections say, apart from outliers.
    probed: Standing,
    good_probes: u32,
    bad_probes: u32,
    /// When it came back; `None` for one that was never away.
    back_at: Option<Duration>,
    left_alone_until: Option<Duration>,
    times_left_alone: u32,
    latencies: [PeakAverage; Kind::ALL.len()],
    probe_latency: PeakAverage,
}

impl Backend {
    pub(super) fn new(spec: &BackendSpec) -> Self {
        Self {
            cloud: spec.cloud.clone(),
            weight: f64::from(spec.weight),
            price: spec.price,
            is_draining: spec.is_draining,
            running: 0,
            outcomes: Window::default(),
            probed: Standing::Unknown,
            good_probes: 0,
            bad_probes: 0,
            back_at: None,
            left_alone_until: None,
            times_left_alone: 0,
            latencies: Default::default(),
            probe_latency: PeakAverage::default(),
        }
    }

    pub(super) fn standing(&self, now: Duration) -> Standing {
        match self.left_alone_until {
            Some(until) if now < until => Standing::Down,
            _ => self.probed,
        }
    }

    /// What a probe said.
    pub(super) fn probed(&mut self, probed: Probed, now: Duration) -> Option<Notice> {
        let before = self.probed;
        match probed {
            Probed::Ready(latency) => {
                (self.good_probes, self.bad_probes) = (self.good_probes + 1, 0);
                self.probe_latency.observe(latency, now);
                let is_enough = before == Standing::Unknown || self.good_probes >= PROBES_TO_CHANGE;
                if before != Standing::Up && is_enough {
                    self.probed = Standing::Up;
                    if before == Standing::Down {
                        self.back_at = Some(now);
                        self.outcomes = Window::default();
                    }
                    return Some(Notice::Up);
                }
                None
            }
            Probed::Unreachable => self.unreachable(),
            Probed::NotReady | Probed::Silent => {
                (self.good_probes, self.bad_probes) = (0, self.bad_probes + 1);
                let is_enough = self.bad_probes >= PROBES_TO_CHANGE;
                if before == Standing::Down || !is_enough {
                    return None;
                }
                self.probed = Standing::Down;
                Some(if probed == Probed::Silent { Notice::Lost } else { Notice::Down })
            }
        }
    }

    /// No connection can be made.
    pub(super) fn unreachable(&mut self) -> Option<Notice> {
        (self.good_probes, self.bad_probes) = (0, self.bad_probes + 1);
        let before = std::mem::replace(&mut self.probed, Standing::Down);
        (before != Standing::Down).then_some(Notice::Down)
    }

    /// It fails more than others: no requests for a while.
    pub(super) fn leave_alone(&mut self, now: Duration) {
        let (first, longest) = LEFT_ALONE;
        let was_well = self.left_alone_until.is_none_or(|until| now.saturating_sub(until) > longest);
        self.times_left_alone = if was_well { 0 } else { self.times_left_alone + 1 };
        // Beyond a few doublings it is the longest anyway.
        let pause = (first * (1 << self.times_left_alone.min(8))).min(longest);
        self.left_alone_until = Some(now + pause);
        self.back_at = Some(now + pause);
        self.outcomes = Window::default();
    }

    /// The beginning of an answer took `latency`.
    pub(super) fn observe(&mut self, kind: Kind, latency: Duration, now: Duration) {
        self.latencies[kind as usize].observe(latency, now);
    }

    /// An answer has not begun after `waited`: it takes longer than that.
    pub(super) fn observe_at_least(&mut self, kind: Kind, waited: Duration, now: Duration) {
        let known = self.latencies[kind as usize].read(now).unwrap_or_default();
        if waited.as_secs_f64() > known {
            self.observe(kind, waited, now);
        }
    }

    /// Its weight, less while it is new.
    pub(super) fn share(&self, slow_start: Duration, now: Duration) -> f64 {
        let since = match self.back_at {
            Some(back_at) if !slow_start.is_zero() => now.saturating_sub(back_at),
            _ => return self.weight,
        };
        let part = FIRST_PART + (1.0 - FIRST_PART) * since.as_secs_f64() / slow_start.as_secs_f64();
        self.weight * part.min(1.0)
    }

    /// How long one more request would wait here, compared with others: the longer an answer takes, and the more requests are under way,
    /// given that `share` of them would be right (1 is the mean of all).
    pub(super) fn load(&self, kind: Kind, share: f64, now: Duration) -> f64 {
        let known = self.latencies[kind as usize].read(now).or_else(|| self.probe_latency.read(now));
        let latency = known.unwrap_or_default().max(LATENCY_MIN_S);
        latency * (1.0 + f64::from(self.running) / share)
    }
}
