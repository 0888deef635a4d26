//! `isobar run --from … --to …`: where a topology begins and where it ends, so that a backfill runs beside the live one.
//!
//! ```text
//! offsets   0 ──────────────────────▶ S ──────────────────────────▶
//! backfill  --from earliest           --to start-of:live.yaml
//! live                                start: latest, which was S
//! ```
//!
//! Both are decided positions or positions that Kafka tells, and ends are exclusive, so what the two read has no gap and no
//! overlap, however often either is killed. `--from` is about partitions that have no position yet; afterwards the chain says
//! where to go on. `--to` ends the run when everything before it is committed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use isobar_connectors::kafka::{KafkaCluster, Watermarks};
use isobar_schemas::TopicPartition;

use crate::chain_of;
use crate::error::Error;
use crate::prove::log::{Bodies, TableLog, list_versions};
use crate::spec::{self, Topology};
use crate::stage::PartitionIdentity;
use crate::start;
use crate::topics::Topics;

/// A place in every partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// The first record that Kafka still holds.
    Earliest,
    /// The end of the log, as it is at the start.
    Latest,
    /// The first record of this time or later, in milliseconds since the Unix epoch; the end if there is none.
    Timestamp(i64),
    /// This offset in every partition.
    Offset(i64),
    /// Where another topology has begun to read.
    StartOf {
        /// Its specification.
        spec: PathBuf,
        /// Which of its datasets; `None`: all have begun at the same place.
        dataset: Option<String>,
    },
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, value) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "earliest" if text == kind => Ok(Bound::Earliest),
            "latest" if text == kind => Ok(Bound::Latest),
            "timestamp" => chrono::DateTime::parse_from_rfc3339(value)
                .map(|time| Bound::Timestamp(time.timestamp_millis()))
                .map_err(|_| format!("`{value}` is no time such as 2026-05-01T00:00:00Z")),
            "offset" => match value.parse() {
                Ok(offset @ 0..) => Ok(Bound::Offset(offset)),
                _ => Err(format!("`{value}` is no offset")),
            },
            "start-of" => {
                let (path, dataset) = match value.split_once('#') {
                    Some((path, dataset)) => (path, Some(dataset.to_owned())),
                    None => (value, None),
                };
                match path.is_empty() {
                    true => Err("the specification of the other topology is missing".to_owned()),
                    false => Ok(Bound::StartOf { spec: path.into(), dataset }),
                }
            }
            _ => {
                Err("expected earliest, latest, timestamp:TIME, offset:N or start-of:TOPOLOGY.yaml[#DATASET]"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Earliest => write!(f, "earliest"),
            Bound::Latest => write!(f, "latest"),
            Bound::Timestamp(ms) => match chrono::DateTime::from_timestamp_millis(*ms) {
                Some(time) => write!(f, "timestamp:{}", time.to_rfc3339()),
                None => write!(f, "timestamp:{ms} ms"),
            },
            Bound::Offset(offset) => write!(f, "offset:{offset}"),
            Bound::StartOf { spec, dataset: None } => write!(f, "start-of:{}", spec.display()),
            Bound::StartOf { spec, dataset: Some(dataset) } => {
                write!(f, "start-of:{}#{dataset}", spec.display())
            }
        }
    }
}

/// Where a run ends: per partition, the first offset that is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ends(BTreeMap<TopicPartition, i64>);

impl Ends {
    /// Of an assignment, what has not reached its end.
    pub(crate) fn before(&self, assignment: Vec<(TopicPartition, i64)>) -> Vec<(TopicPartition, i64)> {
        assignment
            .into_iter()
            .filter(|(partition, position)| !self.is_reached(partition, *position))
            .collect()
    }

    /// Whether a partition is read as far as it is to be, if all before `position` is.
    pub(crate) fn is_reached(&self, partition: &TopicPartition, position: i64) -> bool {
        self.0.get(partition).is_none_or(|end| position >= *end)
    }

    /// How many records at these offsets, which rise, are to be read.
    pub(crate) fn count(&self, partition: &TopicPartition, offsets: &[i64]) -> usize {
        self.0.get(partition).map_or(0, |end| offsets.partition_point(|offset| offset < end))
    }
}

/// A bound as the offset that it means in every partition of `topics`.
///
/// # Errors
/// [`Error::Configuration`] if the other topology has not begun with one of them, or with another offset in each dataset.
pub(crate) async fn resolve(
    bound: &Bound,
    topics: &Topics,
    watermarks: &BTreeMap<TopicPartition, Watermarks>,
    questions: &KafkaCluster,
) -> Result<BTreeMap<TopicPartition, i64>, Error> {
    let of_watermarks = |pick: fn(&Watermarks) -> i64| {
        watermarks.iter().map(|(partition, ends)| (partition.clone(), pick(ends))).collect()
    };
    match bound {
        Bound::Earliest => Ok(of_watermarks(|ends| ends.low)),
        Bound::Latest => Ok(of_watermarks(|ends| ends.high)),
        Bound::Offset(offset) => {
            Ok(watermarks.keys().map(|partition| (partition.clone(), *offset)).collect())
        }
        Bound::Timestamp(ms) => {
            let partitions: Vec<TopicPartition> = watermarks.keys().cloned().collect();
            let found = questions.offsets_at(&partitions, *ms).await;
            let found = found.map_err(|error| Error::connector("ask Kafka for offsets of a time", error))?;
            let of = |partition: TopicPartition| {
                let offset = found.get(&partition).copied().flatten();
                let offset = offset.unwrap_or(watermarks[&partition].high);
                (partition, offset)
            };
            Ok(partitions.into_iter().map(of).collect())
        }
        Bound::StartOf { spec, dataset } => {
            let other = spec::load(spec).map_err(|problems| Error::Configuration(problems.to_string()))?;
            let begun = begun_at(&other, dataset.as_deref()).await?;
            let of = |(partition, identity): (&TopicPartition, &PartitionIdentity)| {
                Ok((partition.clone(), agreed(&other.name, partition, identity, &begun)?))
            };
            topics.identities.iter().map(of).collect()
        }
    }
}

/// Where a topology begins that begins at `bound`.
///
/// # Errors
/// [`Error::Configuration`] if Kafka does not hold that place.
pub(crate) async fn beginnings(
    bound: &Bound,
    topics: &Topics,
    watermarks: &BTreeMap<TopicPartition, Watermarks>,
    questions: &KafkaCluster,
) -> Result<BTreeMap<TopicPartition, i64>, Error> {
    let begins = resolve(bound, topics, watermarks, questions).await?;
    for (partition, offset) in &begins {
        let Watermarks { low, high } = watermarks[partition];
        if !(low..=high).contains(offset) {
            return Err(Error::Configuration(format!(
                "--from {bound} is offset {offset} of {partition}, which holds {low} to {high}"
            )));
        }
    }
    Ok(begins)
}

/// The ends of a run that goes as far as `bound`.
pub(crate) async fn ends(
    bound: &Bound,
    topics: &Topics,
    watermarks: &BTreeMap<TopicPartition, Watermarks>,
    questions: &KafkaCluster,
) -> Result<Ends, Error> {
    resolve(bound, topics, watermarks, questions).await.map(Ends)
}

/// The first positions of a dataset, by cluster, topic id and partition.
type Beginnings = BTreeMap<(String, String, i32), i64>;

/// By dataset, where `topology` has begun to read.
async fn begun_at(topology: &Topology, only: Option<&str>) -> Result<BTreeMap<String, Beginnings>, Error> {
    let wanted = topology.datasets.iter().filter(|dataset| only.is_none_or(|only| dataset.name == only));
    let names: Vec<&String> = wanted.map(|dataset| &dataset.name).collect();
    if names.is_empty() {
        let only = only.unwrap_or_default();
        return Err(Error::Configuration(format!("topology {} has no dataset {only}", topology.name)));
    }
    let clouds = start::open_clouds(topology)?;
    let bodies = Bodies::default();
    let mut found = BTreeMap::new();
    for name in names {
        // What is published anywhere is decided; the longest log knows most.
        let mut longest: Option<TableLog> = None;
        let mut reasons = Vec::new();
        for cloud in &clouds {
            let log = async { bodies.read_log(cloud, name, &list_versions(cloud, name, None).await?).await };
            match log.await {
                Ok(log) if longest.as_ref().is_none_or(|other| log.last() > other.last()) => {
                    longest = Some(log)
                }
                Ok(_) => {}
                Err(error) => reasons.push(format!("{}: {}", cloud.name, chain_of(&error))),
            }
        }
        let log = longest.ok_or_else(|| {
            Error::no_majority(&format!("read the history of {name}"), 1, clouds.len(), reasons)
        })?;
        let mut begun = Beginnings::new();
        for range in log.steps().flat_map(|step| &step.entry.commit.isobar.offsets) {
            let key = (range.cluster.clone(), range.topic_id.clone(), range.partition);
            begun.entry(key).or_insert(range.start);
        }
        found.insert(name.clone(), begun);
    }
    Ok(found)
}

/// Where every dataset has begun with `partition`, if it is the same place.
fn agreed(
    topology: &str,
    partition: &TopicPartition,
    identity: &PartitionIdentity,
    begun: &BTreeMap<String, Beginnings>,
) -> Result<i64, Error> {
    let key = (identity.cluster.to_string(), identity.topic_id.to_string(), partition.partition);
    let mut starts = begun.iter().filter_map(|(dataset, begun)| Some((dataset, *begun.get(&key)?)));
    let Some((first, start)) = starts.next() else {
        return Err(Error::Configuration(format!(
            "topology {topology} has not begun to read {partition}: run it first, with `start: latest` in its sources"
        )));
    };
    match starts.find(|(_, other)| *other != start) {
        None => Ok(start),
        Some((second, other)) => Err(Error::Configuration(format!(
            "the datasets of topology {topology} have begun {partition} at different offsets ({first} at {start}, {second} at {other}): \
             name the one that is meant, as in start-of:SPEC#{first}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_as_they_are_written() {
        let written = ["earliest", "latest", "offset:0", "offset:17", "timestamp:2026-05-01T00:00:00+00:00"];
        for text in written.into_iter().chain(["start-of:live.yaml", "start-of:a/live.yaml#orders"]) {
            assert_eq!(text.parse::<Bound>().unwrap().to_string(), text);
        }
        let time: Bound = "timestamp:1970-01-01T01:00:00.5+01:00".parse().unwrap();
        assert_eq!(time, Bound::Timestamp(500));
        for (text, said) in [
            ("", "expected earliest"),
            ("earliest:", "expected earliest"),
            ("offset:-1", "no offset"),
            ("offset:", "no offset"),
            ("timestamp:yesterday", "no time"),
            ("start-of:", "is missing"),
            ("start-of:#orders", "is missing"),
        ] {
            let problem = text.parse::<Bound>().unwrap_err();
            assert!(problem.contains(said), "{text}: {problem}");
        }
    }

    #[test]
    fn ends_are_exclusive_and_gaps_before_them_do_no_harm() {
        let partition = TopicPartition::new("t", 0);
        let ends = Ends([(partition.clone(), 10)].into());
        assert_eq!(ends.count(&partition, &[5, 8, 9, 10, 11]), 3);
        assert_eq!(ends.count(&partition, &[10]), 0);
        assert!(ends.is_reached(&partition, 10) && !ends.is_reached(&partition, 9));
        // Nothing is read of a partition that was not there.
        let other = TopicPartition::new("t", 1);
        assert!(ends.is_reached(&other, 0) && ends.count(&other, &[0]) == 0);
        assert_eq!(ends.before(vec![(partition.clone(), 3), (other, 0)]), [(partition, 3)]);
    }

    #[test]
    fn datasets_must_agree_on_where_a_partition_begins() {
        let partition = TopicPartition::new("t", 0);
        let identity = PartitionIdentity { cluster: "c".into(), topic_id: "id".into() };
        let at = |start: i64| Beginnings::from([(("c".to_owned(), "id".to_owned(), 0), start)]);
        let of = |begun: &[(&str, Beginnings)]| {
            let begun = begun.iter().map(|(name, begun)| ((*name).to_owned(), begun.clone())).collect();
            agreed("live", &partition, &identity, &begun).map_err(|error| error.to_string())
        };
        assert_eq!(of(&[("a", at(7)), ("b", at(7))]), Ok(7));
        // A dataset of another topic has no say.
        assert_eq!(of(&[("a", at(7)), ("b", Beginnings::new())]), Ok(7));
        assert!(of(&[("a", at(7)), ("b", at(8))]).unwrap_err().contains("start-of:SPEC#a"));
        assert!(of(&[("a", Beginnings::new())]).unwrap_err().contains("has not begun"));
    }
}
