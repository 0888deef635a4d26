//! `isobar accept-gap`: going on without offsets that Kafka lost, as an explicit and recorded decision.
//!
//! A topology whose next offsets are gone stops, because rows would be missing silently. Here a person says which ones, and
//! why: the chain's position moves over them by a decision like any other, and every table that goes on without them
//! says so for ever (`docs/format.md`). The process leads the topology for that moment; one that leads it
//! is superseded, as by any take-over.
//!
//! Nothing is guessed: the gap begins exactly where the chain is, ends where the broker still has records, and nothing of it
//! is read. Positions never go back, so a log that was truncated cannot be accepted: its offsets will be given to other
//! records.

use std::collections::BTreeMap;

use isobar_connectors::delta::OffsetRange;
use isobar_connectors::delta::gap::is_reason;
use isobar_connectors::kafka::{KafkaCluster, Watermarks};
use isobar_schemas::TopicPartition;
use serde::Serialize;
use tracing::info;

use crate::commit::{Chain, CommitOutcome, GapProposal, Group, Leader};
use crate::error::Error;
use crate::pipeline::{FINISH_PATIENCE, now_ms};
use crate::spec::Topology;
use crate::stage::DatasetPlan;
use crate::start::{self, Budget, KAFKA_PATIENCE};
use crate::topics::{self, Topics, app_id};

/// What a person wants to go on without.
#[derive(Debug, Clone)]
pub struct GapRequest {
    /// Where.
    pub partition: TopicPartition,
    /// The first offset that is missing: the chain's position.
    pub from: i64,
    /// The offset to go on at.
    pub to: i64,
    /// Why.
    pub reason: String,
}

/// A gap that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// The decision's place in the topology's history.
    pub sequence: u64,
    /// The datasets that go on without the offsets.
    pub datasets: Vec<String>,
}

/// Has `request` decided for every dataset of `topology` that stands at its beginning.
///
/// # Errors
/// [`Error::Configuration`] if the request does not fit what Kafka has or where the datasets stand: nothing was changed. Else
/// what kept it from being decided.
pub async fn accept(topology: &Topology, request: &GapRequest) -> Result<Accepted, Error> {
    if !is_reason(&request.reason) {
        return Err(refused("the reason is empty, longer than 1000 bytes, or not on one line"));
    }
    let budget = Budget::new(topology.memory_bytes_max);
    let plans = start::compile(topology)?;
    let cluster = KafkaCluster::new(&start::kafka_config(topology, &budget)?, KAFKA_PATIENCE)
        .map_err(|error| Error::connector("configure the Kafka client", error))?;
    let described = topics::describe(topology, &cluster, None).await;
    let described = described.map_err(|error| Error::connector("ask Kafka about the topics", error))?;
    let topics = Topics::resolve(topology, &described)?;
    check_broker(&cluster, &topics, request).await?;

    let clouds = start::open_clouds(topology)?;
    let uploads = start::start_uploads(&clouds, &budget);
    let mut leader = Leader::start(&Group::new(&topology.name, clouds), uploads).await?;
    let proposed = propose(topology, leader.chain(), &plans, &topics, request);
    let outcome = match &proposed {
        Ok(gap) => Some(leader.accept_gap(gap, now_ms()).await?),
        Err(_) => None,
    };
    leader.finish(FINISH_PATIENCE).await;
    let datasets: Vec<String> = proposed?.datasets.into_keys().collect();
    match outcome {
        Some(CommitOutcome::Committed { sequence }) => {
            info!(sequence, partition = %request.partition, from = request.from, to = request.to, "gap accepted");
            Ok(Accepted { sequence, datasets })
        }
        other => Err(Error::Bug(format!("a gap that was checked was not decided: {other:?}"))),
    }
}

fn refused(what: impl Into<String>) -> Error {
    Error::Configuration(format!("gap not accepted: {}", what.into()))
}

/// The broker must have the partition, and what comes next in it.
async fn check_broker(cluster: &KafkaCluster, topics: &Topics, request: &GapRequest) -> Result<(), Error> {
    let GapRequest { partition, from, to, .. } = request;
    if !topics.identities.contains_key(partition) {
        return Err(refused(format!("no source of the topology reads {partition}")));
    }
    if from >= to {
        return Err(refused(format!("[{from}, {to}) holds no offset")));
    }
    let ends = cluster.watermarks(std::slice::from_ref(partition)).await;
    let ends = ends.map_err(|error| Error::connector("ask Kafka for the ends of partitions", error))?;
    let Watermarks { low, high } = ends[partition];
    if !(low..=high).contains(to) {
        return Err(refused(format!(
            "{partition} holds offsets {low} to {high}, so it cannot go on at {to}"
        )));
    }
    Ok(())
}

/// What to decide: the gap, for every dataset that stands at its beginning. One that is past it needs nothing; one that is
/// elsewhere would lose other offsets than those that were named.
fn propose(
    topology: &Topology,
    chain: &Chain,
    plans: &[DatasetPlan],
    topics: &Topics,
    request: &GapRequest,
) -> Result<GapProposal, Error> {
    let GapRequest { partition, from, to, reason } = request;
    let identity = &topics.identities[partition];
    let app_id = app_id(topology, partition, identity);
    let mut datasets = BTreeMap::new();
    let readers = plans.iter().filter(|plan| topics.source_of(&partition.topic) == Some(plan.source));
    for plan in readers {
        match chain.position(&plan.name, &app_id) {
            Some(position) if position == *from => {
                datasets.insert(plan.name.clone(), plan.transform.fingerprint().to_owned());
            }
            Some(position) if position >= *to => {}
            Some(position) => {
                let dataset = &plan.name;
                return Err(refused(format!(
                    "dataset {dataset} stands at {position} in {partition}, not at {from}"
                )));
            }
            None => {
                return Err(refused(format!("dataset {} has read nothing of {partition} yet", plan.name)));
            }
        }
    }
    if datasets.is_empty() {
        return Err(refused(format!("every dataset is past offset {to} of {partition} already")));
    }
    let range = OffsetRange {
        cluster: identity.cluster.clone(),
        topic: partition.topic.to_string(),
        topic_id: identity.topic_id.clone(),
        partition: partition.partition,
        start: *from,
        end: *to,
        records: 0,
        last_fingerprint: None,
    };
    let commit_id = uuid::Uuid::new_v4().to_string();
    Ok(GapProposal { commit_id, range, reason: reason.clone(), datasets })
}
