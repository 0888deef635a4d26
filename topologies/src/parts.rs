//! What a leader and a worker have in common: the parts of a pipeline that are there before anybody leads, and how
//! they become one once it is known what this process reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isobar_connectors::kafka::{ClusterInfo, KafkaCluster, KafkaConfig, KafkaSource};
use isobar_connectors::upload::FanOut;
use isobar_schemas::TopicPartition;
use tokio::task::JoinSet;

use crate::commit::Group;
use crate::decoding::Decoding;
use crate::error::Error;
use crate::maintain::Maintenance;
use crate::pipeline::{Batch, Pipeline, RunOptions};
use crate::spec::Topology;
use crate::stage::{DatasetPlan, PartitionIdentity};
use crate::start::{self, Budget};
use crate::workers::Committer;

/// See the [module](self).
pub(crate) struct Parts<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) options: RunOptions,
    budget: Budget,
    pub(crate) plans: Vec<DatasetPlan>,
    decoding: Decoding,
    pub(crate) group: Group,
    pub(crate) uploads: Arc<FanOut>,
    kafka: KafkaConfig,
    /// Asked about the topics.
    pub(crate) questions: KafkaCluster,
    /// The topics as they were found.
    pub(crate) cluster: ClusterInfo,
}

/// What a process reads.
pub(crate) struct Reading {
    /// Every partition of every source.
    identities: BTreeMap<TopicPartition, PartitionIdentity>,
    /// Those of them that are read here.
    reads: BTreeSet<TopicPartition>,
    /// Per dataset, the next offset to take from each of these.
    positions: Vec<BTreeMap<TopicPartition, i64>>,
}

impl Reading {
    /// Where to read from.
    pub(crate) fn assignment(&self) -> Vec<(TopicPartition, i64)> {
        start::assignment(&self.positions)
    }
}

impl<'a> Parts<'a> {
    /// Compiles the datasets of `topology`, opens its clouds and asks Kafka about its topics.
    pub(crate) async fn prepare(topology: &'a Topology, options: RunOptions) -> Result<Self, Error> {
        let plans = start::compile(topology)?;
        let decoding = Decoding::start(topology)?;
        let clouds = match &options.clouds {
            Some(clouds) => clouds.clone(),
            None => start::open_clouds(topology)?,
        };
        let budget = Budget::new(topology.memory_bytes_max);
        let kafka = start::kafka_config(topology, &budget)?;
        let questions = KafkaCluster::new(&kafka, start::KAFKA_PATIENCE)
            .map_err(|error| Error::connector("configure the Kafka client", error))?;
        let cluster = start::describe_topics(topology, &questions).await?;
        let uploads = start::start_uploads(&clouds, &budget);
        let group = Group::new(&topology.name, clouds);
        Ok(Self { topology, options, budget, plans, decoding, group, uploads, kafka, questions, cluster })
    }

    /// Begins to watch that the topics stay the ones that were found; ends with an error when one does not.
    pub(crate) fn guards(&self) -> JoinSet<Error> {
        let identity = self.topology.kafka.topic_identity;
        let mut guards = JoinSet::new();
        guards.spawn(start::watch_topics(identity, self.questions.clone(), self.cluster.clone()));
        guards
    }

    /// `reads` of the partitions `identities`, from where the chain of `committer` ends.
    pub(crate) fn reading(
        &self,
        committer: &Committer,
        identities: BTreeMap<TopicPartition, PartitionIdentity>,
        reads: BTreeSet<TopicPartition>,
    ) -> Result<Reading, Error> {
        let positions = start::positions(self.topology, committer, &self.plans, &identities, &reads)?;
        Ok(Reading { identities, reads, positions })
    }

    /// Begins to consume, as a worker does: whoever leads adds its watch and the maintenance. The pipeline ends with
    /// the first of `guards`.
    pub(crate) fn consume(
        self,
        committer: Committer,
        reading: Reading,
        guards: JoinSet<Error>,
    ) -> Result<Pipeline<'a>, Error> {
        let source = KafkaSource::start(&self.kafka, reading.assignment())
            .map_err(|error| Error::connector("start consuming", error))?;
        Ok(Pipeline {
            topology: self.topology,
            options: self.options,
            budget: self.budget,
            decoding: self.decoding,
            batch: Batch::open(&self.plans, &self.uploads)?,
            group: self.group,
            uploads: self.uploads,
            source: Box::new(source),
            guards,
            plans: self.plans,
            identities: reading.identities,
            positions: reading.positions,
            behind: reading.reads.clone(),
            reads: reading.reads,
            committer: Some(committer),
            watch: None,
            commit: None,
            maintenance: Maintenance::none(),
            maintained_last: false,
            stopping: false,
        })
    }
}
