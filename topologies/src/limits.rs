//! Limits on rates: a roll-out that broke stops the topology instead of filling a quarantine.
//!
//! A rate is the share of the records read last that missed a rule. *Last* is the batch about to be committed and those
//! before it, as few as have [`RECORDS_MIN`] records together: of fewer, a share says nothing. It is judged before the batch is
//! proposed. So the batch that breaks a limit is not committed, and whoever starts next reads the same records and stops at
//! them again, until the records, the schema or the limit have changed.
//!
//! Pure, and of this process alone: a worker judges what it reads itself. Nothing is remembered over a restart, so after one
//! fewer than [`RECORDS_MIN`] records may pass that a limit would have stopped at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use isobar_schemas::{RejectReason, RowCounts};

use crate::spec::units::Percent;
use crate::spec::{LimitSpec, UNDECODABLE_LIMIT};

/// Records that a rate is taken of, at least.
pub(crate) const RECORDS_MIN: u64 = 100;

/// A rate that is above one of its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Above {
    /// The expectation, `sql_error`, or `undecodable`.
    pub(crate) rule: String,
    /// Records that missed it.
    pub(crate) missed: u64,
    /// Of so many.
    pub(crate) records: u64,
    /// The limit.
    pub(crate) limit: Percent,
}

/// What a batch means for the limits of its dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// The first rate that must stop the topology.
    pub(crate) fatal: Option<Above>,
    /// Rates that a person should hear of and has not heard of yet.
    pub(crate) warnings: Vec<Above>,
}

/// One batch as far as limits ask.
#[derive(Debug, Clone)]
struct Sample {
    records: u64,
    /// Records that missed each limit's rule, in the order of the limits.
    missed: Vec<u64>,
}

/// The limits of one dataset and the batches committed last.
#[derive(Debug)]
pub(crate) struct Rates {
    limits: Vec<LimitSpec>,
    last: VecDeque<Sample>,
    /// Rules that are above `warn_above` already: it is said once each time.
    warned: BTreeSet<String>,
}

impl Rates {
    pub(crate) fn new(limits: &[LimitSpec]) -> Self {
        Self { limits: limits.to_vec(), last: VecDeque::new(), warned: BTreeSet::new() }
    }

    /// Judges a batch that is about to be committed.
    pub(crate) fn judge(&mut self, batch: &RowCounts) -> Findings {
        let mut findings = Findings::default();
        let sample = self.sample(batch);
        let records = sample.records + self.last.iter().map(|sample| sample.records).sum::<u64>();
        if records < RECORDS_MIN {
            return findings;
        }
        for (index, limit) in self.limits.iter().enumerate() {
            let before: u64 = self.last.iter().map(|sample| sample.missed[index]).sum();
            let missed = sample.missed[index] + before;
            let above = |limit_at: Percent| {
                limit_at.is_exceeded_by(missed, records).then(|| Above {
                    rule: limit.rule.clone(),
                    missed,
                    records,
                    limit: limit_at,
                })
            };
            findings.fatal = findings.fatal.or_else(|| limit.fail_above.and_then(above));
            match limit.warn_above.and_then(above) {
                Some(warning) if self.warned.insert(limit.rule.clone()) => findings.warnings.push(warning),
                Some(_) => {}
                None => _ = self.warned.remove(&limit.rule),
            }
        }
        findings
    }

    /// Notes a batch that was committed.
    pub(crate) fn note(&mut self, batch: &RowCounts) {
        if self.limits.is_empty() || batch.input == 0 {
            return;
        }
        self.last.push_back(self.sample(batch));
        let mut records: u64 = self.last.iter().map(|sample| sample.records).sum();
        while let Some(oldest) = self.last.front().map(|sample| sample.records)
            && records - oldest >= RECORDS_MIN
        {
            records -= oldest;
            self.last.pop_front();
        }
    }

    fn sample(&self, batch: &RowCounts) -> Sample {
        let missed = self.limits.iter().map(|limit| missed(batch, &limit.rule)).collect();
        Sample { records: batch.input, missed }
    }
}

/// The records of `batch` that missed `rule`, whatever became of them.
fn missed(batch: &RowCounts, rule: &str) -> u64 {
    let by = |counts: &BTreeMap<String, u64>, rule: &str| counts.get(rule).copied().unwrap_or_default();
    if rule == UNDECODABLE_LIMIT {
        return RejectReason::ALL.iter().map(|reason| by(&batch.rejected, reason.as_str())).sum();
    }
    by(&batch.rejected, rule) + by(&batch.dropped, rule) + by(&batch.warned, rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(rule: &str, warn_above: Option<&str>, fail_above: Option<&str>) -> LimitSpec {
        let percent = |text: &str| text.parse().unwrap();
        LimitSpec {
            rule: rule.into(),
            warn_above: warn_above.map(percent),
            fail_above: fail_above.map(percent),
        }
    }

    fn batch(records: u64, rejected: &[(&str, u64)]) -> RowCounts {
        let rejected: BTreeMap<String, u64> =
            rejected.iter().map(|(rule, records)| ((*rule).to_owned(), *records)).collect();
        let output = records - rejected.values().sum::<u64>();
        RowCounts { input: records, output, rejected, ..RowCounts::default() }
    }

    #[test]
    fn a_rate_above_its_limit_is_fatal_and_one_at_its_limit_is_not() {
        let mut rates = Rates::new(&[limit("known", None, Some("20%"))]);
        assert_eq!(rates.judge(&batch(100, &[("known", 20)])), Findings::default());
        let above = rates.judge(&batch(100, &[("known", 21)])).fatal.unwrap();
        assert_eq!((above.missed, above.records, above.rule.as_str()), (21, 100, "known"));
        assert_eq!(rates.judge(&batch(100, &[("other", 100)])), Findings::default());
    }

    #[test]
    fn every_way_to_miss_a_rule_counts_and_reasons_of_the_decoder_count_together() {
        let mut rates =
            Rates::new(&[limit("known", None, Some("2%")), limit(UNDECODABLE_LIMIT, None, Some("2%"))]);
        let mut mixed = batch(100, &[("known", 1)]);
        mixed.output -= 1;
        mixed.dropped.insert("known".into(), 1);
        mixed.warned.insert("known".into(), 1);
        assert_eq!(rates.judge(&mixed).fatal.unwrap().missed, 3);
        let undecodable = batch(100, &[("tombstone", 1), ("wrong_type", 2)]);
        assert_eq!(rates.judge(&undecodable).fatal.unwrap().rule, UNDECODABLE_LIMIT);
    }

    #[test]
    fn of_few_records_a_share_says_nothing_and_small_batches_are_taken_together() {
        let mut rates = Rates::new(&[limit("known", None, Some("10%"))]);
        for _ in 0..3 {
            assert_eq!(rates.judge(&batch(30, &[("known", 30)])).fatal, None);
            rates.note(&batch(30, &[("known", 30)]));
        }
        let above = rates.judge(&batch(30, &[])).fatal.unwrap();
        assert_eq!((above.missed, above.records), (90, 120));
        // Large batches push the small ones out.
        rates.note(&batch(1000, &[]));
        assert_eq!(rates.judge(&batch(30, &[])).fatal, None);
        assert_eq!(rates.last.len(), 1);
    }

    #[test]
    fn a_warning_is_said_once_until_the_rate_has_fallen() {
        let mut rates = Rates::new(&[limit("known", Some("5%"), Some("50%"))]);
        let (good, bad) = (batch(100, &[]), batch(100, &[("known", 10)]));
        assert_eq!(rates.judge(&bad).warnings.len(), 1);
        assert_eq!(rates.judge(&bad), Findings::default());
        assert_eq!(rates.judge(&good), Findings::default());
        assert_eq!(rates.judge(&bad).warnings[0].limit, "5%".parse().unwrap());
    }
}
