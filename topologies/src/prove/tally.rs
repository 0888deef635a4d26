//! What a check found: how much it looked at, how much of it is wrong, and the first few counter-examples.

/// Counter-examples kept per check and cloud; the count says how many there are.
const EXAMPLES_MAX: usize = 5;

/// The running result of one check in one cloud.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Things looked at, in the check's own unit.
    pub(crate) checked: u64,
    /// How many of them are wrong, or are missing.
    pub(crate) failed: u64,
    /// The first few counter-examples.
    pub(crate) examples: Vec<String>,
}

impl Tally {
    /// Counts `failed` wrong things with one example for all of them.
    pub(crate) fn fail_many(&mut self, failed: u64, example: impl Into<String>) {
        self.failed = self.failed.saturating_add(failed);
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example.into());
        }
    }

    /// Counts one wrong thing.
    pub(crate) fn fail(&mut self, example: impl Into<String>) {
        self.fail_many(1, example);
    }

    /// Counts one thing looked at; `problems` are all that is wrong with it.
    pub(crate) fn look(&mut self, thing: impl std::fmt::Display, problems: &[String]) {
        self.checked += 1;
        if !problems.is_empty() {
            self.fail(format!("{thing}: {}", problems.join("; ")));
        }
    }
}
