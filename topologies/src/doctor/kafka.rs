//! Looking at Kafka: the cluster, then every topic by itself, so that one that is missing does not hide the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, future, stream};
use isobar_connectors::kafka::{
    ClusterOverview, KafkaCluster, KafkaConfig, KafkaSource, PartitionOverview, TopicInfo, TopicRights,
    Watermarks,
};
use isobar_connectors::source::{Source, SourceEvent};
use isobar_schemas::TopicPartition;

use super::settings::Settings;
use super::trouble::{Kind, Look, Trouble, within};
use crate::letters;
use crate::pipeline::now_ms;
use crate::spec::{PublishSpec, SourceTopics, TopicIdentity, Topology};
use crate::start::{self, Budget};

/// Topics looked at together.
const TOPICS_IN_FLIGHT: usize = 8;
/// Memory of a client that reads a record.
const READ_BYTES_MAX: usize = 4 << 20;

/// What was found in Kafka.
#[derive(Debug, Clone)]
pub(super) struct KafkaFacts {
    /// As configured.
    pub(super) brokers: String,
    /// What the cluster says about itself.
    pub(super) overview: Look<ClusterOverview>,
    /// Whether the brokers tell the ids of topics; `None` if no topic was described.
    pub(super) ids: Option<Look<()>>,
    /// Whether the progress of the group may be looked at; `None` if there is no topic to ask about.
    pub(super) group: Option<Look<()>>,
    /// Every topic that is named, or matches.
    pub(super) topics: Vec<TopicFacts>,
    /// Every topic that gets dead letters.
    pub(super) dead_letters: Vec<DeadLetterFacts>,
    /// Every topic that gets rows.
    pub(super) published: Vec<PublishedFacts>,
}

/// What was found of a topic that gets rows.
#[derive(Debug, Clone)]
pub(super) struct PublishedFacts {
    /// The topic, and the brokers of its cluster if that is not the one that is read.
    pub(super) name: String,
    /// Whether all messages are to have a key.
    pub(super) has_key: bool,
    pub(super) topic: Look<DeadLetterFacts>,
}

/// What was found of a topic that gets dead letters, or rows.
#[derive(Debug, Clone)]
pub(super) struct DeadLetterFacts {
    pub(super) name: String,
    /// Who has its partitions; there are none if it is not there, or may not be described.
    pub(super) partitions: Vec<PartitionOverview>,
    /// What is allowed there; `None` if the brokers do not tell.
    pub(super) rights: Look<Option<TopicRights>>,
    /// How it is set up.
    pub(super) settings: Look<Settings>,
}

/// What was found of one topic.
#[derive(Debug, Clone)]
pub(super) struct TopicFacts {
    pub(super) name: String,
    /// As a start would have it described.
    pub(super) described: Look<TopicInfo>,
    /// Who has its partitions.
    pub(super) partitions: Vec<PartitionOverview>,
    /// Where its partitions begin and end.
    pub(super) ends: Look<BTreeMap<i32, Watermarks>>,
    /// How it is set up.
    pub(super) settings: Look<Settings>,
    /// Per partition, the first offset that is younger than the expected outage; `None` where all is older.
    pub(super) recent: Look<BTreeMap<i32, Option<i64>>>,
    /// Per partition, the first offset that retention by time keeps until the outage is over; `None` where it keeps none of
    /// those there are. Not looked for where retention has no bound, or one that is shorter than the outage.
    pub(super) kept: Option<Look<BTreeMap<i32, Option<i64>>>>,
    /// Reading: the timestamp of one of its newest records, if it has one.
    pub(super) newest_ms: Look<Option<i64>>,
}

impl KafkaFacts {
    fn silent(topology: &Topology, why: Trouble) -> Self {
        Self {
            brokers: topology.kafka.brokers.clone(),
            overview: Err(why),
            ids: None,
            group: None,
            topics: Vec::new(),
            dead_letters: Vec::new(),
            published: Vec::new(),
        }
    }

    /// The topics that a start would find.
    pub(super) fn found(&self) -> Vec<TopicInfo> {
        self.topics.iter().filter_map(|topic| topic.described.clone().ok()).collect()
    }
}

/// Looks at the cluster of `topology` and at its topics.
pub(super) async fn look(topology: &Topology, outage: Duration, patience: Duration) -> KafkaFacts {
    let config = match start::kafka_config(topology, &Budget::new(topology.memory_bytes_max)) {
        Ok(config) => config,
        Err(error) => return KafkaFacts::silent(topology, error.into()),
    };
    // A question may ask twice, and goes on in the background when it is given up.
    let timeout = patience / 2;
    let cluster = match KafkaCluster::new(&config, timeout) {
        Ok(cluster) => cluster,
        Err(error) => return KafkaFacts::silent(topology, error.into()),
    };
    let overview = within(patience, async { Ok(cluster.overview().await?) }).await;
    let overview = match overview {
        Ok(overview) => overview,
        Err(why) => return KafkaFacts::silent(topology, why),
    };
    let names = topic_names(topology, &overview);
    let there: Vec<String> =
        names.iter().filter(|name| overview.topics.contains_key(*name)).cloned().collect();
    let first = there.first().map(|topic| TopicPartition::new(topic.as_str(), 0));
    let (described, settings, group, dead_letters, published) = future::join5(
        within(patience, async { Ok(cluster.describe_each(&names).await?) }),
        within(patience, async { Ok(cluster.settings(&there).await?) }),
        future::OptionFuture::from(first.map(|partition| check_group(&config, partition, timeout, patience))),
        look_at_outlets(letters::dead_letter_topics(topology), &cluster, &overview, patience),
        look_at_published(topology, &cluster, &overview, patience),
    )
    .await;
    let mut settings = settings.map(|settings| {
        let settings = settings.into_iter().map(|(name, found)| (name, found.map(Settings::from)));
        settings.collect::<BTreeMap<_, _>>()
    });
    let ids = match &described {
        Err(why) => Some(Err(why.clone())),
        Ok(topics) => {
            let mut found = topics.iter().flatten().peekable();
            let is_any = found.peek().is_some();
            is_any.then(|| match found.any(|topic| topic.id.is_some()) {
                true => Ok(()),
                false => Err(Trouble::new(Kind::Unsupported, "the brokers tell no topic ids")),
            })
        }
    };
    let mut by_id: BTreeMap<String, _> =
        described.map(|topics| names.iter().cloned().zip(topics).collect()).unwrap_or_default();
    let topics = names.into_iter().map(|name| {
        let found = by_id.remove(&name).map(|found| found.map_err(Trouble::from));
        let settings = match &mut settings {
            Err(trouble) => Err(trouble.clone()),
            Ok(settings) => match settings.remove(&name) {
                Some(settings) => settings.map_err(Trouble::from),
                None => Err(Trouble::new(Kind::Absent, "the broker tells none")),
            },
        };
        let partitions = overview.topics.get(&name).cloned().unwrap_or_default();
        let asking = Asking { cluster: &cluster, config: &config, outage, patience };
        asking.look_at(topology.kafka.topic_identity, name, found, partitions, settings)
    });
    // Made before the stream begins: the compiler does not see that a stream which makes them is `Send`.
    let topics: Vec<_> = topics.collect();
    let topics = stream::iter(topics).buffered(TOPICS_IN_FLIGHT).collect().await;
    let brokers = topology.kafka.brokers.clone();
    KafkaFacts { brokers, overview: Ok(overview), ids, group, topics, dead_letters, published }
}

/// The topics that get rows, those of other clusters too.
async fn look_at_published(
    topology: &Topology,
    cluster: &KafkaCluster,
    overview: &ClusterOverview,
    patience: Duration,
) -> Vec<PublishedFacts> {
    let here = letters::published_topics(topology);
    let found = look_at_outlets(here.keys().cloned().collect(), cluster, overview, patience).await;
    let mut facts: Vec<PublishedFacts> = found
        .into_iter()
        .zip(here)
        .map(|(topic, (name, has_key))| PublishedFacts { name, has_key, topic: Ok(topic) })
        .collect();
    for spec in topology.datasets.iter().filter_map(|dataset| dataset.publish.as_ref()) {
        let Some(kafka) = &spec.kafka else { continue };
        facts.push(PublishedFacts {
            name: format!("{} at {}", spec.topic, kafka.brokers),
            has_key: !spec.key.is_empty(),
            topic: look_elsewhere(topology, spec, patience).await,
        });
    }
    facts
}

/// A topic of another cluster than the one that is read.
async fn look_elsewhere(
    topology: &Topology,
    spec: &PublishSpec,
    patience: Duration,
) -> Look<DeadLetterFacts> {
    let nowhere = || Trouble::new(Kind::Misconfigured, "no other cluster is named");
    let config = start::client_config(spec.kafka.as_ref().ok_or_else(nowhere)?, &topology.name)?;
    let cluster = KafkaCluster::new(&config, patience / 2)?;
    let overview = within(patience, async { Ok(cluster.overview().await?) }).await?;
    let found = look_at_outlets([spec.topic.clone()].into(), &cluster, &overview, patience).await;
    found.into_iter().next().ok_or_else(|| Trouble::new(Kind::Absent, "the topic was not looked for"))
}

/// Topics that something is sent to. Nothing is written to them.
async fn look_at_outlets(
    names: BTreeSet<String>,
    cluster: &KafkaCluster,
    overview: &ClusterOverview,
    patience: Duration,
) -> Vec<DeadLetterFacts> {
    let there: Vec<String> =
        names.iter().filter(|name| overview.topics.contains_key(*name)).cloned().collect();
    let (rights, mut settings) = future::join(
        within(patience, async { Ok(cluster.rights(&there).await?) }),
        within(patience, async { Ok(cluster.settings(&there).await?) }),
    )
    .await;
    let facts = names.into_iter().map(|name| {
        let settings = match &mut settings {
            Err(trouble) => Err(trouble.clone()),
            Ok(settings) => match settings.remove(&name) {
                Some(settings) => settings.map(Settings::from).map_err(Trouble::from),
                None => Err(Trouble::new(Kind::Absent, "the broker tells none")),
            },
        };
        DeadLetterFacts {
            partitions: overview.topics.get(&name).cloned().unwrap_or_default(),
            rights: rights.as_ref().map(|rights| rights.get(&name).copied()).map_err(Clone::clone),
            settings,
            name,
        }
    });
    facts.collect()
}

/// The topics that are named, and those that match.
fn topic_names(topology: &Topology, overview: &ClusterOverview) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for source in &topology.sources {
        match &source.topics {
            SourceTopics::Named(named) => names.extend(named.iter().cloned()),
            SourceTopics::Matching(pattern) => {
                names.extend(overview.topics.keys().filter(|name| pattern.matches(name)).cloned());
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

async fn check_group(
    config: &KafkaConfig,
    partition: TopicPartition,
    timeout: Duration,
    patience: Duration,
) -> Look<()> {
    let cluster = KafkaCluster::of_group(config, timeout)?;
    let outcome = within(patience, async { Ok(cluster.check_group(&[partition]).await?) }).await;
    // A client with a group takes its time to leave, and nobody has to wait for it.
    tokio::task::spawn_blocking(move || drop(cluster));
    outcome
}

/// Whom to ask about a topic, and for how long.
struct Asking<'a> {
    cluster: &'a KafkaCluster,
    config: &'a KafkaConfig,
    outage: Duration,
    patience: Duration,
}

impl Asking<'_> {
    async fn look_at(
        self,
        identity: TopicIdentity,
        name: String,
        by_id: Option<Look<TopicInfo>>,
        partitions: Vec<PartitionOverview>,
        settings: Look<Settings>,
    ) -> TopicFacts {
        let described = match (identity, by_id) {
            (TopicIdentity::Id, Some(found)) => found,
            _ if !partitions.is_empty() => Ok(TopicInfo {
                name: name.clone(),
                id: None,
                partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
            }),
            // Says which topics have similar names.
            _ => within(self.patience, self.describe_by_name(&name)).await,
        };
        let all: Vec<TopicPartition> = partitions
            .iter()
            .map(|partition| TopicPartition::new(name.as_str(), partition.partition))
            .collect();
        let ends = match all.is_empty() {
            true => Err(Trouble::new(Kind::Absent, "the topic is not there")),
            false => within(self.patience, self.ends(&all)).await,
        };
        let outage_ms = millis(self.outage);
        // Records older than this are deleted before the outage is over.
        let kept_since = settings
            .as_ref()
            .ok()
            .and_then(|settings| settings.retention_ms())
            .filter(|retention_ms| *retention_ms > outage_ms)
            .map(|retention_ms| now_ms() - (retention_ms - outage_ms));
        let unreadable = ends.as_ref().err().cloned();
        let (recent, kept, newest_ms) = match unreadable {
            Some(trouble) => (Err(trouble.clone()), None, Err(trouble)),
            None => {
                future::join3(
                    within(self.patience, self.offsets_at(&all, now_ms() - outage_ms)),
                    future::OptionFuture::from(
                        kept_since.map(|since| within(self.patience, self.offsets_at(&all, since))),
                    ),
                    within(self.patience, self.newest(&name, &ends)),
                )
                .await
            }
        };
        TopicFacts { name, described, partitions, ends, settings, recent, kept, newest_ms }
    }

    async fn describe_by_name(&self, name: &str) -> Look<TopicInfo> {
        let described = self.cluster.describe_by_name(&[name.to_owned()]).await?;
        let topic = described.topics.into_iter().next();
        topic.ok_or_else(|| Trouble::new(Kind::Absent, format!("topic {name} is not described")))
    }

    async fn ends(&self, partitions: &[TopicPartition]) -> Look<BTreeMap<i32, Watermarks>> {
        let ends = self.cluster.watermarks(partitions).await?;
        Ok(ends.into_iter().map(|(partition, ends)| (partition.partition, ends)).collect())
    }

    async fn offsets_at(
        &self,
        partitions: &[TopicPartition],
        time_ms: i64,
    ) -> Look<BTreeMap<i32, Option<i64>>> {
        let offsets = self.cluster.offsets_at(partitions, time_ms.max(0)).await?;
        Ok(offsets.into_iter().map(|(partition, offset)| (partition.partition, offset)).collect())
    }

    /// Reads at the end of one partition that holds something.
    async fn newest(&self, topic: &str, ends: &Look<BTreeMap<i32, Watermarks>>) -> Look<Option<i64>> {
        let ends = ends.as_ref().map_err(Clone::clone)?;
        let Some((partition, ends)) = ends.iter().find(|(_, ends)| ends.high > ends.low) else {
            return Ok(None);
        };
        let mut config = self.config.clone();
        config.memory_bytes_max = READ_BYTES_MAX;
        let position = (TopicPartition::new(topic, *partition), ends.high - 1);
        let mut source = KafkaSource::start(&config, vec![position])?;
        let newest = match source.next().await {
            Some(SourceEvent::Chunk(chunk)) => Ok(chunk.timestamps_ms().iter().flatten().max().copied()),
            // The last offset is that of a mark which a transaction left.
            Some(SourceEvent::EndOfPartition { .. }) => Ok(None),
            Some(SourceEvent::Failed(error)) => Err(error.into()),
            _ => Err(Trouble::new(Kind::Failed, "reading ended without an answer")),
        };
        Box::new(source).close().await;
        newest
    }
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
