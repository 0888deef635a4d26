//! From a specification to a running pipeline: open the clouds, ask Kafka, lead, declare, assign.
//!
//! The order matters. Everything that can be wrong with the configuration is found before an epoch is claimed; the
//! first position of a new partition is decided before anything of it is read; positions come from the chain and
//! from nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use isobar_connectors::clouds::{self, Cloud};
use isobar_connectors::dataset::{self, TableLayout};
use isobar_connectors::delta::{OffsetRange, TableDefinition};
use isobar_connectors::kafka::{KafkaConfig, Lookup, TokenSource, TopicFilter, Watermarks};
use isobar_connectors::upload::{FanOut, UploadLimits};
use isobar_schemas::{MetadataColumn, RowCounts, TopicPartition};
use isobar_transforms::{DatasetTransform, TransformSpec};
use tracing::{info, warn};

use crate::commit::{Chain, CommitOutcome, Group, Leader, Proposal, Staged, TableProposal, quarantine_of};
use crate::error::Error;
use crate::evolve;
use crate::inference::Predictors;
use crate::letters::{self, Letters};
use crate::maintain::Maintenance;
use crate::parts::Parts;
use crate::pipeline::{Pipeline, RunOptions, now_ms};
use crate::quarantine;
use crate::span;
use crate::spec::{
    CloudSpec, Compression, DatasetSpec, Kafka, SourceSpec, SourceTopics, StartPosition, Topology,
};
use crate::stage::{DatasetPlan, PartitionIdentity};
use crate::topics::{self, Sighting, Topics, app_id};
use crate::workers::{Committer, Own, Roster};

/// How long a question to Kafka may take at the start.
pub(crate) const KAFKA_PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before clouds that did not answer are asked again.
const CLOUDS_PAUSE: Duration = Duration::from_secs(2);

/// How the memory budget is divided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Records fetched by the Kafka client, and chunks on their way to the pipeline.
    pub(crate) source_bytes: usize,
    /// Rows waiting to be encoded.
    pub(crate) rows_bytes: usize,
    /// Encoded bytes on their way to one cloud.
    pub(crate) upload_bytes_per_cloud: usize,
}

impl Budget {
    /// Shares of `memory_bytes_max`; the rest is left to the program itself, a decoded chunk and its copies.
    pub(crate) fn new(memory_bytes_max: u64) -> Self {
        let memory = usize::try_from(memory_bytes_max).unwrap_or(usize::MAX);
        Self { source_bytes: memory * 3 / 16, rows_bytes: memory / 4, upload_bytes_per_cloud: memory / 8 }
    }
}

impl<'a> Pipeline<'a> {
    /// Brings `topology` up to the point where chunks flow.
    pub(crate) async fn start(topology: &'a Topology, options: RunOptions) -> Result<Self, Error> {
        let mut parts = Parts::prepare(topology, options).await?;
        parts.group.address = parts.options.address.clone();
        parts.group.fill_bytes_per_second = topology.fill_bytes_per_second;
        let topics = Topics::resolve(topology, &parts.cluster)?;
        let found = letters::find(topology, &parts.questions).await?;
        let outlets = letters::outlets(&parts, &found)?;
        let mut leader = lead(&parts.group, &parts.uploads, parts.options.clouds_patience).await?;
        refuse_recreated_topics(topology, leader.chain(), &parts.plans, &topics)?;
        topics::refuse_lost(topology, &parts.questions, leader.chain(), &topics).await?;
        let compared = evolve::compare(&parts.group, leader.chain(), &parts.plans).await?;
        let partitions: Vec<TopicPartition> = topics.identities.keys().cloned().collect();
        let watermarks = parts
            .questions
            .watermarks(&partitions)
            .await
            .map_err(|error| Error::connector("ask Kafka for the ends of partitions", error))?;
        let from = match &parts.options.from {
            None => None,
            Some(bound) => Some(span::beginnings(bound, &topics, &watermarks, &parts.questions).await?),
        };
        let ends = match &parts.options.to {
            None => None,
            Some(bound) => Some(span::ends(bound, &topics, &watermarks, &parts.questions).await?),
        };
        evolve::evolve(&mut leader, &mut parts.plans, compared).await?;
        declare(topology, &mut leader, &parts.plans, &topics, &watermarks, from).await?;
        let watch = leader.watch();
        // Until all is caught up, all is read here: how far a worker is cannot be told.
        let desk = parts.options.desk.as_ref().filter(|_| !parts.options.until_caught_up);
        let desk = desk
            .map(|desk| desk.open(roster(topology, &parts.plans, &topics), leader.epoch(), leader.chain()));
        let committer = Committer::Own(Box::new(Own { leader, clouds: parts.group.clouds.clone(), desk }));
        let reading = parts.reading(&committer, topics, partitions.into_iter().collect())?.until(ends);
        refuse_gaps(&reading.assignment(), &watermarks)?;
        let (guards, watch_of_topics) = parts.guards()?;
        let mut pipeline = parts.consume(committer, reading, guards, watch_of_topics)?;
        pipeline.letters = Letters::start(outlets);
        if !pipeline.options.until_caught_up {
            let Pipeline { plans, group, uploads, options, .. } = &pipeline;
            pipeline.maintenance =
                Maintenance::start(topology, plans, &group.clouds, uploads, &options.metrics);
        }
        pipeline.options.leader.send_replace(Some(watch.clone()));
        pipeline.watch = Some(watch);
        pipeline.options.ready.store(true, Ordering::Relaxed);
        info!(partitions = pipeline.topics.identities.len(), datasets = pipeline.plans.len(), "consuming");
        Ok(pipeline)
    }
}

/// Becomes the leader. While too few clouds answer it asks again, for `patience` at most.
pub(crate) async fn lead(group: &Group, uploads: &Arc<FanOut>, patience: Duration) -> Result<Leader, Error> {
    let begun = Instant::now();
    loop {
        match Leader::start(group, uploads.clone()).await {
            Err(error @ Error::NoMajority { .. }) if begun.elapsed() < patience => {
                let left_s = (patience - begun.elapsed().min(patience)).as_secs();
                warn!(%error, left_s, "too few clouds answer, asking again");
                tokio::time::sleep(CLOUDS_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Compiles every dataset's SQL and expectations.
pub(crate) fn compile(topology: &Topology) -> Result<Vec<DatasetPlan>, Error> {
    topology
        .datasets
        .iter()
        .map(|dataset| {
            let (transform, models) = transform_of(topology, dataset)
                .map_err(|error| Error::Configuration(format!("dataset {}: {error}", dataset.name)))?;
            let quarantine = quarantine_of(&dataset.name);
            let layout = |name: &str, schema: &SchemaRef, partition_by: &[String], compression| {
                TableLayout::new(&format!("datasets/{name}"), schema.clone(), partition_by, compression)
                    .map_err(|error| Error::Configuration(format!("dataset {name}: {error}")))
            };
            let table = |name: &str,
                         schema: &SchemaRef,
                         partition_by: &[String],
                         description: Option<String>| TableDefinition {
                id: uuid::Uuid::new_v4().to_string(),
                name: name.to_owned(),
                description,
                schema: schema.clone(),
                partition_by: partition_by.to_vec(),
                created_ms: now_ms(),
            };
            let schema = transform.output_schema().clone();
            // What is said about columns belongs to the table: files and writers know nothing of it.
            let documented = match &dataset.contract {
                Some(contract) => contract.documented(&schema),
                None => schema.clone(),
            };
            let rejected = quarantine::schema(transform.uses(MetadataColumn::Headers));
            let about_quarantine = format!("records rejected by dataset {}", dataset.name);
            let of_rows =
                layout(&dataset.name, &schema, &dataset.partition_by, compression(dataset.compression))?;
            Ok(DatasetPlan {
                name: dataset.name.clone(),
                source: dataset.source,
                table_layout: of_rows.clone(),
                layout: of_rows,
                quarantine_layout: layout(&quarantine, &rejected, &[], compression(Compression::Zstd(1)))?,
                table: table(&dataset.name, &documented, &dataset.partition_by, dataset.description.clone()),
                quarantine_table: table(&quarantine, &rejected, &[], Some(about_quarantine)),
                transform,
                models,
            })
        })
        .collect()
}

/// Compiles one dataset's SQL and expectations, and says which models they call.
pub(crate) fn transform_of(
    topology: &Topology,
    dataset: &DatasetSpec,
) -> Result<(DatasetTransform, Arc<Predictors>), isobar_transforms::Error> {
    let source = &topology.sources[dataset.source];
    let models = Predictors::of_stream(&topology.models.limits);
    let spec = TransformSpec {
        source_name: source.name.clone(),
        input_schema: source.schema.clone(),
        sql: dataset.sql.clone(),
        expectations: dataset.expectations.clone(),
    };
    let transform = DatasetTransform::compile_with(spec, &[models.function()])?;
    Ok((transform, models))
}

fn compression(compression: Compression) -> dataset::Compression {
    match compression {
        Compression::Zstd(level) => dataset::Compression::Zstd(level),
        Compression::Snappy => dataset::Compression::Snappy,
        Compression::None => dataset::Compression::None,
    }
}

/// Opens every cloud of the specification. Secrets are resolved here and live only inside the clients.
pub fn open_clouds(topology: &Topology) -> Result<Vec<Cloud>, Error> {
    topology.clouds.iter().map(open_cloud).collect()
}

/// Opens one of them.
pub(crate) fn open_cloud(cloud: &CloudSpec) -> Result<Cloud, Error> {
    let options = cloud.options.iter().map(|(name, text)| {
        let value =
            text.resolve().map_err(|error| Error::Configuration(format!("cloud {}: {error}", cloud.name)))?;
        Ok((name.clone(), value.expose().to_owned()))
    });
    let options: BTreeMap<String, String> = options.collect::<Result<_, Error>>()?;
    clouds::open(&cloud.name, &cloud.url, &options)
        .map_err(|error| Error::Configuration(format!("cloud {}: {}", cloud.name, crate::chain_of(&error))))
}

pub(crate) fn start_uploads(clouds: &[Cloud], budget: &Budget) -> Arc<FanOut> {
    let stores = clouds.iter().map(|cloud| (cloud.name.clone(), cloud.data.clone())).collect();
    let limits =
        UploadLimits { in_flight_bytes_max: budget.upload_bytes_per_cloud, ..UploadLimits::default() };
    FanOut::new(stores, limits)
}

pub(crate) fn kafka_config(topology: &Topology, budget: &Budget) -> Result<KafkaConfig, Error> {
    let mut config = client_config(&topology.kafka, &topology.name)?;
    config.memory_bytes_max = budget.source_bytes;
    Ok(config)
}

/// How to reach `kafka`, under the name `name`. Secrets are resolved here.
pub(crate) fn client_config(kafka: &Kafka, name: &str) -> Result<KafkaConfig, Error> {
    let (about_tokens, others): (Vec<_>, Vec<_>) =
        kafka.options.iter().partition(|(name, _)| TokenSource::is_option(name));
    let options = others.into_iter().map(|(name, text)| {
        let value =
            text.resolve().map_err(|error| Error::Configuration(format!("kafka option {name}: {error}")))?;
        Ok((name.clone(), value.expose().to_owned()))
    });
    // Looked up for every token anew: they are rotated while the topology runs.
    let lookups = about_tokens.into_iter().map(|(name, text)| {
        let text = text.clone();
        let lookup: Lookup = Arc::new(move || {
            let found = text.resolve().map_err(|error| crate::chain_of(&error))?;
            Ok(found.expose().to_owned())
        });
        (name.clone(), lookup)
    });
    let mut config = KafkaConfig::new(kafka.brokers.split(','), name);
    config.options = options.collect::<Result<_, Error>>()?;
    config.tokens = TokenSource::from_options(&lookups.collect())
        .map_err(|error| Error::connector("configure the Kafka client", error))?;
    Ok(config)
}

/// Of which topics the headers of records are kept: those of sources with a dataset that uses them.
pub(crate) fn topics_with_headers(topology: &Topology, plans: &[DatasetPlan]) -> Option<TopicFilter> {
    let uses = |source: usize| plans.iter().any(|plan| plan.source == source && plan.keeps_headers());
    let sources = topology.sources.iter().enumerate().filter(|(index, _)| uses(*index));
    let topics: Vec<SourceTopics> = sources.map(|(_, source)| source.topics.clone()).collect();
    let keeps = move |topic: &str| topics.iter().any(|topics| topics.contains(topic));
    plans.iter().any(DatasetPlan::keeps_headers).then(|| Arc::new(keeps) as TopicFilter)
}

fn source_of<'t>(topology: &'t Topology, plan: &DatasetPlan) -> &'t SourceSpec {
    &topology.sources[plan.source]
}

/// A dataset that has positions, but none under the topic's present id, belongs to a topic that is gone.
pub(crate) fn refuse_recreated_topics(
    topology: &Topology,
    chain: &Chain,
    plans: &[DatasetPlan],
    topics: &Topics,
) -> Result<(), Error> {
    for plan in plans {
        let Some(head) = chain.tables.get(&plan.name).filter(|head| !head.positions.is_empty()) else {
            continue;
        };
        let names = &source_of(topology, plan).topics;
        let known = topics
            .of_source(plan.source)
            .any(|(partition, identity)| head.positions.contains_key(&app_id(topology, partition, identity)));
        if !known {
            return Err(Error::Gap(format!(
                "dataset {} has positions, but none in topic {names} as it is now: the topic was deleted and created again, \
                 or this is another cluster. Point the topology at the original topic, or start a new topology name for the new one",
                plan.name
            )));
        }
    }
    Ok(())
}

/// Decides what does not exist yet: new tables, and the first position of every new partition.
async fn declare(
    topology: &Topology,
    leader: &mut Leader,
    plans: &[DatasetPlan],
    topics: &Topics,
    watermarks: &BTreeMap<TopicPartition, Watermarks>,
    from: Option<BTreeMap<TopicPartition, i64>>,
) -> Result<(), Error> {
    let chain = leader.chain();
    let mut tables = Vec::new();
    for plan in plans {
        let begun = topics_begun(topology, chain, plan, topics);
        let start = source_of(topology, plan).start;
        let offsets = first_positions(topology, chain, plan, topics, |partition| {
            let Watermarks { low, high } = watermarks[partition];
            if begun.contains(&partition.topic) {
                return Ok(low);
            }
            Ok(match (&from, start) {
                (Some(from), _) => from[partition],
                (None, StartPosition::Latest) => high,
                (None, StartPosition::Earliest) => low,
            })
        })?;
        let is_new = !chain.tables.contains_key(&plan.name);
        if is_new || !offsets.is_empty() {
            tables.push(nothing_read(&plan.name, plan, is_new.then(|| plan.table.clone()), offsets));
        }
        let quarantine = quarantine_of(&plan.name);
        if !chain.tables.contains_key(&quarantine) {
            tables.push(nothing_read(&quarantine, plan, Some(plan.quarantine_table.clone()), Vec::new()));
        }
    }
    if from.is_some() && tables.iter().all(|table| table.offsets.is_empty()) {
        info!("every partition has begun already: what --from says has no effect");
    }
    if tables.is_empty() {
        return Ok(());
    }
    let proposal = Proposal { commit_id: uuid::Uuid::new_v4().to_string(), tables };
    match leader.commit(Staged { proposal, uploads: Vec::new() }, now_ms()).await? {
        CommitOutcome::Committed { sequence } => info!(sequence, "tables and first positions declared"),
        CommitOutcome::Stale(refusal) => return Err(Error::Bug(refusal.to_string())),
        CommitOutcome::NotStored(what) => return Err(Error::Bug(what)),
    }
    Ok(())
}

/// The topics that the dataset has begun with: those of which it has a position and, once its table exists, those that
/// match its pattern. A partition of such a topic without a position appeared since: it is read from its first record, as
/// it would have been had the topology run (see [`topics`](crate::topics)).
fn topics_begun(
    topology: &Topology,
    chain: &Chain,
    plan: &DatasetPlan,
    topics: &Topics,
) -> BTreeSet<Arc<str>> {
    let by_pattern = matches!(source_of(topology, plan).topics, SourceTopics::Matching(_));
    let all = by_pattern && chain.tables.contains_key(&plan.name);
    let begun = topics.of_source(plan.source).filter(|(partition, identity)| {
        all || chain.position(&plan.name, &app_id(topology, partition, identity)).is_some()
    });
    begun.map(|(partition, _)| partition.topic.clone()).collect()
}

/// The first positions of those partitions of the dataset that have none in `chain`; `first` says where each begins.
fn first_positions(
    topology: &Topology,
    chain: &Chain,
    plan: &DatasetPlan,
    topics: &Topics,
    first: impl Fn(&TopicPartition) -> Result<i64, Error>,
) -> Result<Vec<OffsetRange>, Error> {
    let new = topics.of_source(plan.source).filter(|(partition, identity)| {
        chain.position(&plan.name, &app_id(topology, partition, identity)).is_none()
    });
    new.map(|(partition, identity)| Ok(first_position(partition, identity, first(partition)?))).collect()
}

/// What has to be decided before the partitions of `sighting` are read; `None` if every one has its position.
pub(crate) fn growth(
    topology: &Topology,
    chain: &Chain,
    plans: &[DatasetPlan],
    sighting: &Sighting,
) -> Result<Option<Proposal>, Error> {
    let mut tables = Vec::new();
    for plan in plans {
        let offsets = first_positions(topology, chain, plan, &sighting.topics, |partition| {
            let first = sighting.first_offsets.get(partition).copied();
            first.ok_or_else(|| Error::Bug(format!("{partition} was there at the start and not declared")))
        })?;
        if !offsets.is_empty() {
            tables.push(nothing_read(&plan.name, plan, None, offsets));
        }
    }
    let commit_id = uuid::Uuid::new_v4().to_string();
    Ok((!tables.is_empty()).then_some(Proposal { commit_id, tables }))
}

fn first_position(partition: &TopicPartition, identity: &PartitionIdentity, start: i64) -> OffsetRange {
    OffsetRange {
        cluster: identity.cluster.clone(),
        topic: partition.topic.to_string(),
        topic_id: identity.topic_id.clone(),
        partition: partition.partition,
        start,
        end: start,
        records: 0,
        last_fingerprint: None,
    }
}

fn nothing_read(
    dataset: &str,
    plan: &DatasetPlan,
    create: Option<TableDefinition>,
    offsets: Vec<OffsetRange>,
) -> TableProposal {
    TableProposal {
        dataset: dataset.to_owned(),
        create,
        plan: plan.transform.fingerprint().to_owned(),
        models: Vec::new(),
        offsets,
        rows: RowCounts::default(),
        files: Vec::new(),
    }
}

/// Per dataset, the next offset to read in every partition of its source that is read here, from the chain.
pub(crate) fn positions(
    topology: &Topology,
    committer: &Committer,
    plans: &[DatasetPlan],
    topics: &Topics,
    reads: &BTreeSet<TopicPartition>,
) -> Result<Vec<BTreeMap<TopicPartition, i64>>, Error> {
    plans
        .iter()
        .map(|plan| {
            let partitions =
                reads.iter().filter(|partition| topics.source_of(&partition.topic) == Some(plan.source));
            partitions
                .map(|partition| {
                    let app_id = app_id(topology, partition, &topics.identities[partition]);
                    let position = committer.position(&plan.name, partition, &app_id);
                    let position = position.ok_or_else(|| {
                        Error::Bug(format!("{partition} was not declared for {}", plan.name))
                    })?;
                    Ok((partition.clone(), position))
                })
                .collect()
        })
        .collect()
}

/// What workers are told and asked about.
fn roster(topology: &Topology, plans: &[DatasetPlan], topics: &Topics) -> Roster {
    let describe =
        |plan: &DatasetPlan| (plan.name.clone(), (plan.source, plan.transform.fingerprint().to_owned()));
    Roster {
        topology: topology.name.clone(),
        datasets: plans.iter().map(describe).collect(),
        topics: topics.clone(),
    }
}

/// Where to read from: the dataset furthest behind decides; the others skip what they have.
pub(crate) fn assignment(positions: &[BTreeMap<TopicPartition, i64>]) -> Vec<(TopicPartition, i64)> {
    let mut lowest: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    for (partition, position) in positions.iter().flatten() {
        let known = lowest.entry(partition.clone()).or_insert(*position);
        *known = (*known).min(*position);
    }
    lowest.into_iter().collect()
}

/// How a position and the log of its partition do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    /// The log begins behind the position: what is between them was deleted.
    Deleted,
    /// The log ends before the position.
    Truncated,
}

/// Whether the log of a partition still holds what comes at `position`.
pub(crate) fn gap_at(position: i64, ends: Watermarks) -> Option<Gap> {
    if position < ends.low {
        Some(Gap::Deleted)
    } else if position > ends.high {
        Some(Gap::Truncated)
    } else {
        None
    }
}

/// Records that the chain still wants must exist: anything else is loss, and a person's decision.
fn refuse_gaps(
    assignment: &[(TopicPartition, i64)],
    watermarks: &BTreeMap<TopicPartition, Watermarks>,
) -> Result<(), Error> {
    let mut gaps = BTreeSet::new();
    for (partition, position) in assignment {
        let ends @ Watermarks { low, high } = watermarks[partition];
        match gap_at(*position, ends) {
            Some(Gap::Deleted) => {
                let lost = low - position;
                gaps.insert(format!(
                    "{partition}: offsets {position} to {low} are gone ({lost}, deleted by retention)"
                ));
            }
            Some(Gap::Truncated) => {
                gaps.insert(format!(
                    "{partition}: the chain is at {position}, the log ends at {high} (truncated or restored)"
                ));
            }
            None => {}
        }
    }
    if gaps.is_empty() {
        return Ok(());
    }
    let gaps: Vec<String> = gaps.into_iter().collect();
    Err(Error::Gap(format!(
        "Kafka no longer holds what comes next, so rows would be missing silently; stopped instead:\n  {}\n\
         what is gone can be restored, or gone without: isobar accept-gap",
        gaps.join("\n  ")
    )))
}
