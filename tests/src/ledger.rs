//! What was produced, and whether the tables say the same.

use std::collections::BTreeMap;

use crate::delta::{Counts, Table};
use crate::events::{Fate, Judge, Record, Row, Value};

/// How many differences are worth printing.
const SHOWN_MAX: usize = 12;

/// Every record produced, by topic and partition; a record's place is its offset.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    partitions: BTreeMap<(String, i32), Vec<Record>>,
}

/// Positions of the partitions of one topic: always the next offset.
pub type Positions = BTreeMap<i32, i64>;

impl Ledger {
    /// Notes `record` as the next one of its partition; its offset.
    pub fn push(&mut self, topic: &str, partition: i32, record: Record) -> i64 {
        let records = self.partitions.entry((topic.to_owned(), partition)).or_default();
        records.push(record);
        records.len() as i64 - 1
    }

    /// The record at an offset.
    ///
    /// # Panics
    /// If there is none.
    pub fn record(&self, topic: &str, partition: i32, offset: i64) -> &Record {
        &self.partitions[&(topic.to_owned(), partition)][offset as usize]
    }

    /// The end of every partition of `topic` that has records.
    pub fn ends(&self, topic: &str) -> Positions {
        let of_topic = self.partitions.iter().filter(|((name, _), _)| name == topic);
        of_topic.map(|((_, partition), records)| (*partition, records.len() as i64)).collect()
    }

    /// Records produced to `topic`.
    pub fn len(&self, topic: &str) -> u64 {
        self.ends(topic).values().sum::<i64>() as u64
    }

    /// Everything that is wrong with `dataset` and `quarantine`, given that they are made of `topic` under the rules of
    /// `judge`, from where the log says that each partition starts up to where it says that it is.
    pub fn differences(&self, topic: &str, judge: Judge, dataset: &Table, quarantine: &Table) -> Vec<String> {
        let (starts, positions) = (dataset.log.starts(), dataset.log.positions());
        let mut differences = Vec::new();
        let mut rows = by_position(dataset, ["kafka_partition", "kafka_offset"], &mut differences);
        let mut rejected = by_position(quarantine, ["partition", "offset"], &mut differences);
        let mut counts = Counts::default();
        for (partition, position) in &positions {
            for offset in starts.get(partition).copied().unwrap_or(*position)..*position {
                let at = (*partition, offset);
                let Some(record) = self
                    .partitions
                    .get(&(topic.to_owned(), *partition))
                    .and_then(|records| records.get(offset as usize))
                else {
                    differences.push(format!("{topic}{at:?} was never produced"));
                    continue;
                };
                let fate = record.fate(judge);
                let (row, mut reject) = (rows.remove(&at), rejected.remove(&at));
                let message = reject.as_mut().and_then(|reject| reject.remove("message"));
                let is_explained = matches!(&message, Some(Value::Text(text)) if !text.is_empty());
                let due = due(&fate, record, topic);
                if (&row, &reject) != (&due.0, &due.1) || reject.is_some() != is_explained {
                    differences.push(format!(
                        "{topic}{at:?}: due {due:?}, found {row:?} and {reject:?}, {message:?}"
                    ));
                }
                count(&mut counts, &fate);
            }
        }
        differences
            .extend(rows.keys().map(|at| format!("{topic}{at:?} is in the dataset beyond its position")));
        differences.extend(
            rejected.keys().map(|at| format!("{topic}{at:?} is in the quarantine beyond the position")),
        );
        let counted = match dataset.log.counts() {
            counted if counted.redriven == 0 => counted,
            counted => {
                counts = counts.after_redrives();
                counted.after_redrives()
            }
        };
        if counted != counts {
            differences.push(format!("counted {counted:?}, due {counts:?}"));
        }
        differences
    }

    /// The dataset holds everything produced to `topic` and nothing else.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_complete(&self, topic: &str, judge: Judge, dataset: &Table, quarantine: &Table) {
        self.assert_right(topic, judge, dataset, quarantine);
        let positions = dataset.log.positions();
        for (partition, end) in self.ends(topic) {
            assert_eq!(
                positions.get(&partition),
                Some(&end),
                "position of {topic}[{partition}] in {}",
                dataset.log.dataset
            );
        }
    }

    /// The dataset is right as far as it goes.
    ///
    /// # Panics
    /// If it is not.
    pub fn assert_right(&self, topic: &str, judge: Judge, dataset: &Table, quarantine: &Table) {
        let differences = self.differences(topic, judge, dataset, quarantine);
        let shown = &differences[..differences.len().min(SHOWN_MAX)];
        assert!(differences.is_empty(), "{} differences, such as {shown:#?}", differences.len());
    }
}

/// The rows of a table by their position, which is taken out of them.
fn by_position(
    table: &Table,
    columns: [&str; 2],
    differences: &mut Vec<String>,
) -> BTreeMap<(i32, i64), Row> {
    let mut rows = BTreeMap::new();
    for row in table.rows() {
        let mut row = row.clone();
        let position = columns.map(|column| row.remove(column));
        let [Some(Value::Int(partition)), Some(Value::Int(offset))] = position else {
            differences.push(format!("{} has a row without a position: {row:?}", table.log.dataset));
            continue;
        };
        if rows.insert((partition as i32, offset), row).is_some() {
            differences.push(format!("{} has ({partition}, {offset}) twice", table.log.dataset));
        }
    }
    rows
}

/// The rows due in the dataset and in the quarantine, without their positions and messages.
fn due(fate: &Fate, record: &Record, topic: &str) -> (Option<Row>, Option<Row>) {
    match fate {
        Fate::Row { row, .. } => (Some(row.clone()), None),
        Fate::Rejected { reason, rule } => {
            let bytes = |bytes: &Option<Vec<u8>>| bytes.clone().map_or(Value::Null, Value::Bytes);
            let columns = [
                ("reason", Value::from(*reason)),
                ("rule", (*rule).into()),
                ("topic", topic.into()),
                ("timestamp", Value::Micros(record.timestamp_ms * 1000)),
                ("key", bytes(&record.key)),
                ("payload", bytes(&record.payload)),
            ];
            (None, Some(columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
        }
        Fate::Dropped(_) | Fate::Filtered { .. } => (None, None),
    }
}

fn count(counts: &mut Counts, fate: &Fate) {
    counts.input += 1;
    if let Fate::Row { warned: Some(rule), .. } | Fate::Filtered { warned: Some(rule) } = fate {
        *counts.warned.entry((*rule).to_owned()).or_default() += 1;
    }
    match fate {
        Fate::Row { .. } => counts.output += 1,
        Fate::Rejected { reason, rule } => {
            *counts.rejected.entry(rule.unwrap_or(reason).to_owned()).or_default() += 1;
        }
        Fate::Dropped(rule) => *counts.dropped.entry((*rule).to_owned()).or_default() += 1,
        Fate::Filtered { .. } => counts.filtered += 1,
    }
}
