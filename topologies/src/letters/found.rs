//! Which topics get something of a topology, and whether they are there.
//!
//! Those of the cluster that is read are asked for at the start, which is refused without them: that cluster has to answer anyway.
//! Another one may be away while commits go on, so it is asked when something is to be sent, and again until it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isobar_connectors::kafka::{ClusterInfo, KafkaCluster, KafkaConfig};

use super::Kind;
use super::begun::Target;
use super::letter::Concessions;
use super::outlet::Outlet;
use super::row::RowLetters;
use crate::chain_of;
use crate::error::Error;
use crate::maintain::Failure;
use crate::parts::Parts;
use crate::redrive::source::Source;
use crate::spec::{DatasetSpec, DeadLetterSpec, Kafka, PublishSpec, Topology};
use crate::start;
use crate::topics::describe_named;

/// How long a question to another cluster may take. It is asked again later, and a process that is to end waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The topics that get dead letters.
pub(crate) fn dead_letter_topics(topology: &Topology) -> BTreeSet<String> {
    let specs = topology.datasets.iter().filter_map(|dataset| dataset.dead_letter.as_ref());
    specs.map(|spec| spec.topic.clone()).collect()
}

/// The topics of the cluster that is read that get rows, and whether all of their messages are to have a key.
pub(crate) fn published_topics(topology: &Topology) -> BTreeMap<String, bool> {
    let mut topics = BTreeMap::new();
    let specs = topology.datasets.iter().filter_map(|dataset| dataset.publish.as_ref());
    for spec in specs.filter(|spec| spec.kafka.is_none()) {
        *topics.entry(spec.topic.clone()).or_insert(true) &= !spec.key.is_empty();
    }
    topics
}

/// Where a topic is.
#[derive(Debug)]
pub(super) enum Place {
    /// In the cluster that is read, which was asked at the start.
    Found(Target),
    /// In another one, which is asked whenever sending begins.
    Elsewhere(Elsewhere),
}

/// A cluster that is not the one that is read.
#[derive(Debug)]
pub(super) struct Elsewhere {
    kafka: Kafka,
    /// Whether a source reads a topic of this name, and then what the cluster says of itself where it does.
    read_at: Option<Option<String>>,
}

impl Elsewhere {
    /// Asks about the topic `topic`.
    pub(super) async fn find(
        &self,
        config: &KafkaConfig,
        topic: &str,
        group: &str,
    ) -> Result<Target, Failure> {
        let cluster = KafkaCluster::new(config, PATIENCE).map_err(|error| chain_of(&error))?;
        let found = describe_named(self.kafka.topic_identity, &cluster, &[topic.to_owned()]).await;
        // A client takes its time to leave when the brokers are away, and nobody has to wait for it.
        tokio::task::spawn_blocking(move || drop(cluster));
        let found = found.map_err(|error| chain_of(&error))?;
        self.judge(&found, topic, group)
    }

    fn judge(&self, found: &ClusterInfo, topic: &str, group: &str) -> Result<Target, Failure> {
        if let Some(read_at) = &self.read_at
            && (read_at.is_none() || found.cluster_id.is_none() || *read_at == found.cluster_id)
        {
            return Err(format!(
                "the topology reads a topic {topic}, and this is the same cluster, or does not say that it is not: rows would come back \
                 as records. Name another topic in `publish`"
            ));
        }
        if self.kafka.cluster_id.is_none() && found.cluster_id.is_none() {
            return Err(
                "the brokers do not tell a cluster id: set `cluster_id` in `kafka` of `publish` to a name of your own".into()
            );
        }
        Ok(target(Kind::Rows, &self.kafka, topic, group, found))
    }
}

/// The topics of the cluster that is read, as they are there.
pub(crate) struct Found {
    /// Those that get dead letters.
    rejected: ClusterInfo,
    /// Those that get rows.
    published: ClusterInfo,
}

/// Asks `cluster`, which is the one that is read, about the topics that get something of `topology`.
///
/// # Errors
/// If one does not exist or may not be seen, or nobody answers.
pub(crate) async fn find(topology: &Topology, cluster: &KafkaCluster) -> Result<Found, Error> {
    let rejected: Vec<String> = dead_letter_topics(topology).into_iter().collect();
    let rejected =
        describe(topology, cluster, &rejected, "ask Kafka about the topics of dead letters").await?;
    let published: Vec<String> = published_topics(topology).into_keys().collect();
    let action = "ask Kafka about the topics that rows are published to";
    let published = describe(topology, cluster, &published, action).await?;
    Ok(Found { rejected, published })
}

async fn describe(
    topology: &Topology,
    cluster: &KafkaCluster,
    names: &[String],
    action: &str,
) -> Result<ClusterInfo, Error> {
    if names.is_empty() {
        return Ok(ClusterInfo { cluster_id: None, topics: Vec::new() });
    }
    let described = describe_named(topology.kafka.topic_identity, cluster, names).await;
    described.map_err(|error| Error::connector(action, error))
}

/// The ways to the topics that were `found`, and to those of other clusters.
///
/// # Errors
/// If a secret of another cluster's options is not there.
pub(crate) fn outlets(parts: &Parts<'_>, found: &Found) -> Result<Vec<Outlet>, Error> {
    let mut outlets = Vec::new();
    for dataset in &parts.topology.datasets {
        if let Some(spec) = &dataset.dead_letter {
            outlets.push(outlet_of_letters(parts, dataset, spec, &found.rejected));
        }
        if let Some(spec) = &dataset.publish {
            outlets.push(outlet_of_rows(parts, dataset, spec, &found.published)?);
        }
    }
    Ok(outlets)
}

fn outlet_of_letters(
    parts: &Parts<'_>,
    dataset: &DatasetSpec,
    spec: &DeadLetterSpec,
    found: &ClusterInfo,
) -> Outlet {
    let kind = Kind::DeadLetters;
    let DeadLetterSpec { topic, group, from_version } = spec;
    Outlet {
        kind,
        dataset: dataset.name.clone(),
        topic: topic.clone(),
        name: group.clone(),
        from_version: *from_version,
        place: Place::Found(target(kind, &parts.topology.kafka, topic, group, found)),
        rows: None,
        source: Source { clouds: parts.group.clouds.clone(), table: kind.table_of(&dataset.name) },
        group: parts.group.clone(),
        kafka: parts.kafka.clone(),
        meters: kind.meters(&parts.options.metrics),
        concessions: Concessions::default(),
        noted: None,
    }
}

fn outlet_of_rows(
    parts: &Parts<'_>,
    dataset: &DatasetSpec,
    spec: &PublishSpec,
    found: &ClusterInfo,
) -> Result<Outlet, Error> {
    let (kind, topology) = (Kind::Rows, parts.topology);
    let PublishSpec { topic, group, from_version, kafka, .. } = spec;
    let plan = parts.plans.iter().find(|plan| plan.name == dataset.name);
    let plan = plan.ok_or_else(|| Error::Bug(format!("dataset {} has no plan", dataset.name)))?;
    let (place, config) = match kafka {
        None => (Place::Found(target(kind, &topology.kafka, topic, group, found)), parts.kafka.clone()),
        Some(kafka) => {
            let is_read = topology.sources.iter().any(|source| source.topics.contains(topic));
            let read_at = is_read.then(|| parts.cluster.cluster_id.clone());
            let config = start::client_config(kafka, &topology.name)?;
            (Place::Elsewhere(Elsewhere { kafka: kafka.clone(), read_at }), config)
        }
    };
    Ok(Outlet {
        kind,
        dataset: dataset.name.clone(),
        topic: topic.clone(),
        name: group.clone(),
        from_version: *from_version,
        place,
        rows: Some(RowLetters::new(spec, &plan.table)),
        source: Source { clouds: parts.group.clouds.clone(), table: kind.table_of(&dataset.name) },
        group: parts.group.clone(),
        kafka: config,
        meters: kind.meters(&parts.options.metrics),
        concessions: Concessions::none(),
        noted: None,
    })
}

/// The topic of `kafka` that was found, and the group under which something is sent there.
fn target(kind: Kind, kafka: &Kafka, topic: &str, group: &str, found: &ClusterInfo) -> Target {
    let described = found.topics.iter().find(|described| described.name == topic);
    let id = described.and_then(|described| described.id.clone());
    let cluster = kafka.cluster_id.clone().or_else(|| found.cluster_id.clone());
    Target {
        kind,
        // A start without an id of the cluster is refused.
        cluster: cluster.unwrap_or_default(),
        topic: topic.to_owned(),
        topic_id: id.unwrap_or_else(|| topic.to_owned()),
        group: group.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use isobar_connectors::kafka::TopicInfo;

    use super::*;
    use crate::spec::{self, CheckOptions};

    fn topology(added: &str) -> Topology {
        let text = spec::schema::EXAMPLE
            .replace("    compression: zstd(1)\n", &format!("    compression: zstd(1)\n    {added}\n"));
        let topology = spec::check_text(&text, "t.yaml", Path::new("/specs"), CheckOptions::default());
        topology.unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn a_topic_of_the_same_name_and_another_id_is_another_target() {
        let topology = topology("dead_letter: { topic: rejected }");
        assert_eq!(dead_letter_topics(&topology), BTreeSet::from(["rejected".to_owned()]));
        let spec = topology.datasets[0].dead_letter.as_ref().unwrap();
        let found = |id: Option<&str>| {
            let topic = TopicInfo { name: "rejected".into(), id: id.map(str::to_owned), partitions: 1 };
            let found = ClusterInfo { cluster_id: Some("c".into()), topics: vec![topic] };
            target(Kind::DeadLetters, &topology.kafka, &spec.topic, &spec.group, &found)
        };
        let by_name = found(None);
        assert_eq!((by_name.cluster.as_str(), by_name.topic_id.as_str()), ("c", "rejected"));
        assert_ne!(found(Some("1")), found(Some("2")));
    }

    #[test]
    fn a_topic_of_another_cluster_is_taken_for_one_that_is_read_unless_the_clusters_say_otherwise() {
        let topology = topology("publish: { topic: flights, kafka: { brokers: \"far:9092\" } }");
        assert!(published_topics(&topology).is_empty(), "it is not of the cluster that is read");
        let judged = |read_at: Option<Option<&str>>, found: Option<&str>| {
            let kafka = topology.datasets[0].publish.as_ref().unwrap().kafka.clone().unwrap();
            let read_at = read_at.map(|id| id.map(str::to_owned));
            let topic = TopicInfo { name: "flights".into(), id: Some("7".into()), partitions: 1 };
            let found = ClusterInfo { cluster_id: found.map(str::to_owned), topics: vec![topic] };
            Elsewhere { kafka, read_at }.judge(&found, "flights", "g")
        };
        let target = judged(Some(Some("near")), Some("far")).unwrap();
        assert_eq!((target.cluster.as_str(), target.topic_id.as_str()), ("far", "7"));
        assert!(judged(None, Some("near")).is_ok());
        for (read_at, found) in [(Some("near"), Some("near")), (None, Some("far")), (Some("near"), None)] {
            let error = judged(Some(read_at), found).unwrap_err();
            assert!(error.contains("would come back"), "{error}");
        }
        assert!(judged(None, None).unwrap_err().contains("cluster_id"));
    }
}
