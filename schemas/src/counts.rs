//! Row counts and the law they obey.
//!
//! Every Kafka record read has exactly one fate, decided before anything multiplies or aggregates rows:
//! `in + expanded = out + rejected + dropped + filtered + late`. A commit that does not add up is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What became of the records of one dataset in one commit. All numbers count Kafka records; where records hold several
/// rows, of which all are accepted or none, `out`, `dropped` and `filtered` count rows, and `expanded` evens that out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// Records read.
    #[serde(rename = "in")]
    pub input: u64,
    /// Rows beyond the first of records that hold several and were not rejected. Left out where there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expanded: u64,
    /// Records whose row is in the dataset.
    #[serde(rename = "out")]
    pub output: u64,
    /// Records in the quarantine, by the rule or reason that sent them there.
    pub rejected: BTreeMap<String, u64>,
    /// Records left out on purpose by an expectation with the action `drop`, by rule.
    pub dropped: BTreeMap<String, u64>,
    /// Records left out by the query's own `WHERE`, and those that hold no row by the rules of their format.
    pub filtered: u64,
    /// Records later than the watermark, in the `late` table.
    pub late: u64,
    /// Records that failed an expectation with the action `warn` and went on, by rule. Not a fate: these rows are
    /// counted in `out`, `filtered` or wherever else they ended.
    pub warned: BTreeMap<String, u64>,
}

impl RowCounts {
    /// Records in the quarantine, over all rules.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Records dropped on purpose, over all rules.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Whether every record read has exactly one fate.
    pub fn adds_up(&self) -> bool {
        self.input + self.expanded
            == self.output + self.rejected_total() + self.dropped_total() + self.filtered + self.late
    }

    /// Adds the counts of `other` to these.
    pub fn add(&mut self, other: &RowCounts) {
        self.input += other.input;
        self.expanded += other.expanded;
        self.output += other.output;
        self.filtered += other.filtered;
        self.late += other.late;
        for (sum, parts) in [
            (&mut self.rejected, &other.rejected),
            (&mut self.dropped, &other.dropped),
            (&mut self.warned, &other.warned),
        ] {
            for (rule, rows) in parts {
                *sum.entry(rule.clone()).or_default() += rows;
            }
        }
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_only_when_every_record_has_one_fate() {
        let mut counts = RowCounts { input: 10, output: 6, filtered: 1, ..RowCounts::default() };
        counts.rejected.insert("undecodable".into(), 2);
        assert!(!counts.adds_up());
        counts.dropped.insert("departed".into(), 1);
        assert!(counts.adds_up());
        let mut sum = counts.clone();
        sum.add(&counts);
        assert!(sum.adds_up());
        assert_eq!(sum.input, 20);
        assert_eq!(sum.rejected["undecodable"], 4);
    }

    #[test]
    fn records_of_several_rows_add_up_too_and_others_are_written_as_ever() {
        // Two records, of three rows and of one.
        let mut counts = RowCounts { input: 2, expanded: 2, output: 3, filtered: 1, ..RowCounts::default() };
        assert!(counts.adds_up());
        assert!(serde_json::to_string(&counts).unwrap().starts_with(r#"{"in":2,"expanded":2,"out":3,"#));
        counts.expanded = 0;
        assert!(!counts.adds_up());
        let written = serde_json::to_string(&counts).unwrap();
        assert!(written.starts_with(r#"{"in":2,"out":3,"#), "{written}");
        assert_eq!(serde_json::from_str::<RowCounts>(&written).unwrap(), counts);
    }
}
