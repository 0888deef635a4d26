//! What happened in the last ten seconds, and budgets that are shares of it.

use std::time::Duration;

use crate::spec::units::Percent;

/// Seconds that are looked back on.
const SECONDS: u64 = 10;

/// Two counts of the last ten seconds: of everything, and of a part of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    slots: [Slot; SECONDS as usize],
}

/// One second.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    second: u64,
    whole: u64,
    part: u64,
}

impl Window {
    /// Counts one of everything.
    pub(super) fn add(&mut self, now: Duration) {
        self.slot(now).whole += 1;
    }

    /// Counts one of the part.
    pub(super) fn add_part(&mut self, now: Duration) {
        self.slot(now).part += 1;
    }

    /// Everything, and the part.
    pub(super) fn sums(&self, now: Duration) -> (u64, u64) {
        let second = now.as_secs();
        let recent = self.slots.iter().filter(|slot| slot.second <= second && slot.second + SECONDS > second);
        recent.fold((0, 0), |(whole, part), slot| (whole + slot.whole, part + slot.part))
    }

    fn slot(&mut self, now: Duration) -> &mut Slot {
        let second = now.as_secs();
        let slot = &mut self.slots[(second % SECONDS) as usize];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot
    }
}

/// How many requests may be sent once more.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    share: Percent,
    /// So many in ten seconds in any case.
    least: u64,
    window: Window,
}

impl Budget {
    /// `share` of all, and `least` in any case; a share of nothing is none.
    pub(super) fn new(share: Percent, least: u64) -> Self {
        let is_none = share.is_exceeded_by(1, u64::MAX);
        Self { share, least: if is_none { 0 } else { least }, window: Window::default() }
    }

    /// Whether there is nothing in it, ever.
    pub(super) fn is_none(&self) -> bool {
        self.least == 0
    }

    /// A request came.
    pub(super) fn asked(&mut self, now: Duration) {
        self.window.add(now);
    }

    /// Takes one, if there is one left.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let (asked, taken) = self.window.sums(now);
        let is_left = taken < self.least || !self.share.is_exceeded_by(taken + 1, asked);
        if is_left {
            self.window.add_part(now);
        }
        is_left
    }
}
