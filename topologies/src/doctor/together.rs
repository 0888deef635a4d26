//! Looking at what the clouds have decided together, and whether a start could go on from it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::kafka::{ClusterInfo, KafkaCluster};
use isobar_schemas::TopicPartition;

use super::kafka::KafkaFacts;
use super::trouble::{Look, Trouble, within};
use crate::commit::format::Claim;
use crate::commit::{Chain, Group};
use crate::evolve;
use crate::prove::log::list_versions;
use crate::scrub::{Standing, standing};
use crate::spec::Topology;
use crate::stage::DatasetPlan;
use crate::start::{self, Budget};
use crate::topics::{self, Topics, app_id};

/// Versions that a cloud may be behind before they are no longer counted.
pub(super) const BEHIND_MAX: u64 = 1000;

/// What was found of the clouds together.
#[derive(Debug)]
pub(super) struct TogetherFacts {
    /// Whether the datasets could be compiled.
    pub(super) plans: Look<()>,
    /// What is decided, and which clouds count.
    pub(super) standing: Look<Standing>,
    /// Who claimed the newest epoch.
    pub(super) claim: Option<Claim>,
    /// By index of the cloud, how many versions it is behind; `None` for one that was not asked.
    pub(super) behind: Vec<Option<Look<u64>>>,
    /// By dataset that exists, whether it has the shape that the specification gives it.
    pub(super) shapes: Vec<(String, Look<()>)>,
    /// Whether the topics are those that the datasets have read; `None` if that is not known.
    pub(super) topics: Option<Look<()>>,
    /// Whether nothing was ever decided.
    pub(super) is_first_start: bool,
    /// Where each partition is read next; `None` if that is not known. A partition without a position has not begun.
    pub(super) positions: Option<BTreeMap<TopicPartition, i64>>,
}

impl TogetherFacts {
    /// What is decided, if anything is and enough clouds tell.
    pub(super) fn chain(&self) -> Option<&Chain> {
        self.standing.as_ref().ok()?.chain.as_ref()
    }
}

/// Looks at the clouds of `group`.
pub(super) async fn look(
    group: &Group,
    plans: Result<&[DatasetPlan], &Trouble>,
    patience: Duration,
) -> TogetherFacts {
    let (standing, claim) = future::join(
        within(patience, async { Ok(standing(group).await?) }),
        within(patience, async { Ok(group.newest_claim().await) }),
    )
    .await;
    let chain = standing.as_ref().ok().and_then(|standing| standing.chain.as_ref());
    let behind = group.clouds.iter().map(|cloud| async move {
        match chain {
            Some(chain) => Some(within(patience, versions_behind(cloud, chain)).await),
            None => None,
        }
    });
    let existing = plans
        .unwrap_or_default()
        .iter()
        .filter(|plan| chain.is_some_and(|chain| chain.tables.contains_key(&plan.name)));
    let shapes = existing.map(|plan| async {
        let shape = within(patience, async {
            let Some(chain) = chain else { return Ok(()) };
            Ok(evolve::compare(group, chain, std::slice::from_ref(plan)).await.map(|_| ())?)
        })
        .await;
        (plan.name.clone(), shape)
    });
    let (behind, shapes) = future::join(future::join_all(behind), future::join_all(shapes)).await;
    TogetherFacts {
        plans: plans.map(|_| ()).map_err(Clone::clone),
        standing,
        claim: claim.ok().flatten(),
        behind,
        shapes,
        topics: None,
        is_first_start: false,
        positions: None,
    }
}

/// How many versions `cloud` still has to receive, over all tables; at least that many above [`BEHIND_MAX`].
async fn versions_behind(cloud: &Cloud, chain: &Chain) -> Look<u64> {
    let tables = chain.tables.iter().map(|(table, head)| async move {
        let before = head.version.checked_sub(BEHIND_MAX);
        let newest = list_versions(cloud, table, before).await?.last().copied();
        Ok::<u64, object_store::Error>(match newest {
            Some(newest) => head.version.saturating_sub(newest),
            None => head.version.min(BEHIND_MAX) + 1,
        })
    });
    Ok(future::try_join_all(tables).await?.into_iter().sum())
}

impl TogetherFacts {
    /// Holds what is decided against the topics that there are, as a start does. Only where nothing was ever decided
    /// (`is_first_start`) does no chain mean that nothing was read.
    pub(super) async fn hold_against(
        &mut self,
        topology: &Topology,
        plans: Result<&[DatasetPlan], &Trouble>,
        kafka: &KafkaFacts,
        is_first_start: bool,
        patience: Duration,
    ) {
        self.is_first_start = is_first_start;
        let (Ok(overview), Ok(plans)) = (&kafka.overview, plans) else { return };
        if self.chain().is_none() && !is_first_start {
            return;
        }
        let cluster = ClusterInfo { cluster_id: overview.cluster_id.clone(), topics: kafka.found() };
        let topics = match Topics::resolve(topology, &cluster) {
            Ok(topics) => topics,
            Err(error) => {
                self.topics = Some(Err(error.into()));
                return;
            }
        };
        let nothing = Chain::default();
        let chain = self.chain().unwrap_or(&nothing);
        let positions = positions(topology, chain, plans, &topics);
        // What is missing is said of each topic, and would be said again of the datasets that have read it.
        let all_found = kafka.topics.iter().all(|topic| topic.described.is_ok());
        let refused = match all_found {
            true => Some(within(patience, refuse(topology, chain, plans, &topics, patience)).await),
            false => None,
        };
        self.topics = refused;
        self.positions = Some(positions);
    }
}

async fn refuse(
    topology: &Topology,
    chain: &Chain,
    plans: &[DatasetPlan],
    topics: &Topics,
    patience: Duration,
) -> Look<()> {
    start::refuse_recreated_topics(topology, chain, plans, topics)?;
    let config = start::kafka_config(topology, &Budget::new(topology.memory_bytes_max))?;
    let cluster = KafkaCluster::new(&config, patience / 2)?;
    topics::refuse_lost(topology, &cluster, chain, topics).await?;
    Ok(())
}

/// Per partition, the position of the dataset that is furthest behind.
fn positions(
    topology: &Topology,
    chain: &Chain,
    plans: &[DatasetPlan],
    topics: &Topics,
) -> BTreeMap<TopicPartition, i64> {
    let per_dataset = plans.iter().map(|plan| {
        let of_source = topics.of_source(plan.source);
        let known = of_source.filter_map(|(partition, identity)| {
            let position = chain.position(&plan.name, &app_id(topology, partition, identity))?;
            Some((partition.clone(), position))
        });
        known.collect::<BTreeMap<_, _>>()
    });
    start::assignment(&per_dataset.collect::<Vec<_>>()).into_iter().collect()
}
