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
use crate::inference::ModelWatch;
use crate::letters::Letters;
use crate::limits::Rates;
use crate::maintain::Maintenance;
use crate::pipeline::{Batch, Pipeline, RunOptions};
use crate::span::Ends;
use crate::spec::Topology;
use crate::stage::DatasetPlan;
use crate::start::{self, Budget};
use crate::topics::{self, TopicWatch, Topics, Watcher};
use crate::workers::Committer;

/// See the [module](self).
pub(crate) struct Parts<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) options: RunOptions,
    budget: Budget,
    pub(crate) plans: Vec<DatasetPlan>,
    models: ModelWatch,
    decoding: Decoding,
    pub(crate) group: Group,
    pub(crate) uploads: Arc<FanOut>,
    pub(crate) kafka: KafkaConfig,
    /// Asked about the topics.
    pub(crate) questions: KafkaCluster,
    /// The topics as they were found.
    pub(crate) cluster: ClusterInfo,
}

/// What a process reads.
pub(crate) struct Reading {
    /// The topics of every source.
    topics: Topics,
    /// Those of their partitions that are read here.
    reads: BTreeSet<TopicPartition>,
    /// Per dataset, the next offset to take from each of these.
    positions: Vec<BTreeMap<TopicPartition, i64>>,
    /// Where the run ends, if it does.
    ends: Option<Ends>,
}

impl Reading {
    /// Where to read from.
    pub(crate) fn assignment(&self) -> Vec<(TopicPartition, i64)> {
        start::assignment(&self.positions)
    }

    /// The same, but only as far as `ends`.
    pub(crate) fn until(self, ends: Option<Ends>) -> Self {
        Self { ends, ..self }
    }
}

impl<'a> Parts<'a> {
    /// Compiles the datasets of `topology`, opens its clouds and asks Kafka about its topics.
    pub(crate) async fn prepare(topology: &'a Topology, options: RunOptions) -> Result<Self, Error> {
        let plans = start::compile(topology)?;
        let mut decoding = Decoding::start(topology)?;
        let clouds = match &options.clouds {
            Some(clouds) => clouds.clone(),
            None => start::open_clouds(topology)?,
        };
        decoding.recall(&clouds).await;
        let models = ModelWatch::start(topology, &plans, &clouds, options.clouds_patience).await?;
        let budget = Budget::new(topology.memory_bytes_max);
        let mut kafka = start::kafka_config(topology, &budget)?;
        kafka.keeps_headers = start::topics_with_headers(topology, &plans);
        let questions = KafkaCluster::new(&kafka, start::KAFKA_PATIENCE)
            .map_err(|error| Error::connector("configure the Kafka client", error))?;
        let cluster = topics::describe_at_start(topology, &questions).await;
        let cluster = cluster.map_err(|error| Error::connector("ask Kafka about the topics", error))?;
        let uploads = start::start_uploads(&clouds, &budget);
        let group = Group::new(&topology.name, clouds);
        Ok(Self {
            topology,
            options,
            budget,
            plans,
            models,
            decoding,
            group,
            uploads,
            kafka,
            questions,
            cluster,
        })
    }

    /// Begins to watch that the topics stay the ones that were found, which ends with an error when one does not, and
    /// what to hear of more partitions by.
    pub(crate) fn guards(&self) -> Result<(JoinSet<Error>, TopicWatch), Error> {
        let (cluster, interval) = (self.cluster.clone(), self.options.topics_interval);
        let (watcher, heard) = Watcher::new(self.topology, self.questions.clone(), cluster, interval)?;
        let mut guards = JoinSet::new();
        guards.spawn(watcher.run());
        Ok((guards, heard))
    }

    /// `reads` of the partitions of `topics`, from where the chain of `committer` ends.
    pub(crate) fn reading(
        &self,
        committer: &Committer,
        topics: Topics,
        reads: BTreeSet<TopicPartition>,
    ) -> Result<Reading, Error> {
        let positions = start::positions(self.topology, committer, &self.plans, &topics, &reads)?;
        Ok(Reading { topics, reads, positions, ends: None })
    }

    /// Begins to consume, as a worker does: whoever leads adds its watch and the maintenance. The pipeline ends with
    /// the first of `guards`.
    pub(crate) fn consume(
        self,
        committer: Committer,
        reading: Reading,
        guards: JoinSet<Error>,
        topic_watch: TopicWatch,
    ) -> Result<Pipeline<'a>, Error> {
        let assignment = match &reading.ends {
            None => reading.assignment(),
            Some(ends) => ends.before(reading.assignment()),
        };
        let behind = assignment.iter().map(|(partition, _)| partition.clone()).collect();
        let source = KafkaSource::start(&self.kafka, assignment)
            .map_err(|error| Error::connector("start consuming", error))?;
        Ok(Pipeline {
            topology: self.topology,
            options: self.options,
            budget: self.budget,
            decoding: self.decoding,
            batch: Batch::open(&self.plans, &self.uploads)?,
            rates: self
                .topology
                .datasets
                .iter()
                .map(|dataset| (dataset.name.clone(), Rates::new(&dataset.limits)))
                .collect(),
            group: self.group,
            uploads: self.uploads,
            source: Box::new(source),
            guards,
            plans: self.plans,
            models: self.models,
            topics: reading.topics,
            topic_watch,
            unseen_since: None,
            positions: reading.positions,
            behind,
            ends: reading.ends,
            reads: reading.reads,
            committer: Some(committer),
            watch: None,
            commit: None,
            maintenance: Maintenance::none(),
            letters: Letters::none(),
            maintained_last: false,
            stopping: false,
        })
    }
}
