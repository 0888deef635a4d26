//! The parts of queries that a worker runs.
//!
//! A plan comes as bytes, from somebody who has shown the secret; what it reads and costs is bounded here all the same. It is held against
//! the list of nodes ([`stages`](super::stages)), so that none of it writes, or reads anything but Parquet files; and each of
//! these is a data file of a dataset of this worker's topology, read from this worker's clouds, the nearest first. What is not in
//! the bytes is added: how files are read, what older files lack, and the checks between operators.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{HeaderMap, HeaderValue};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{exec_err, internal_datafusion_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    DistributedExt, NetworkBoundaryExt, Worker, WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse,
    WorkerPlanRewriteHandler, WorkerQueryContext, WorkerSessionBuilder,
};
use isobar_connectors::clouds::Cloud;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::channels::Channels;
use super::metrics::TaskMetrics;
use super::stages::{is_for_workers, parquet_scan};
use super::{spec_of, version_of};
use crate::error::Error;
use crate::query::limits::{QueryLimits, Watch, runtime_of, unnamed_functions, watched};
use crate::query::names::Names;
use crate::query::provider::scan_of_a_plan;
use crate::query::replicas::{Reading, Replicas};
use crate::query::session;
use crate::spec::Topology;

/// Longest time of a part of a query that has no limit of its own: by then whoever asked is gone.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Bytes of the limits that come with a plan.
const LIMITS_BYTES_MAX: usize = 1 << 10;

/// What a part of a query may cost, as whoever asks says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskLimits {
    /// Milliseconds that are left; `None`: as long as it takes.
    time_ms: Option<u64>,
    memory_bytes: u64,
    spill_bytes: u64,
    copied_bytes: usize,
    /// What sorts keep back, to be able to spill.
    sort_reserve_bytes: usize,
}

impl TaskLimits {
    /// The header that has them.
    pub(super) const HEADER: &str = "isobar-task-limits";

    /// Those of a query, as far as there is time left.
    pub(super) fn of(limits: &QueryLimits, watch: &Watch, config: &SessionConfig) -> Self {
        Self {
            time_ms: watch.left().map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            memory_bytes: limits.memory_bytes_max,
            spill_bytes: limits.spill_bytes_max,
            copied_bytes: limits.copied_bytes_max,
            sort_reserve_bytes: config.options().execution.sort_spill_reservation_bytes,
        }
    }

    /// As a header.
    pub(super) fn written(&self) -> Result<HeaderValue> {
        let text = serde_json::to_string(self).map_err(|error| internal_datafusion_err!("{error}"))?;
        HeaderValue::try_from(text).map_err(|error| internal_datafusion_err!("{error}"))
    }

    /// From the headers of a request.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self> {
        let text = headers.get(Self::HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
        if text.len() > LIMITS_BYTES_MAX {
            return exec_err!("{} has more than {LIMITS_BYTES_MAX} bytes", Self::HEADER);
        }
        serde_json::from_slice(text)
            .map_err(|_| DataFusionError::Execution(format!("{} is missing or unreadable", Self::HEADER)))
    }

    /// The same for a query.
    fn of_query(&self) -> QueryLimits {
        let time = self.time_ms.map_or(TIME_MAX, |time_ms| Duration::from_millis(time_ms).min(TIME_MAX));
        QueryLimits {
            time: Some(time),
            memory_bytes_max: self.memory_bytes,
            spill_bytes_max: self.spill_bytes,
            copied_bytes_max: self.copied_bytes,
            ..QueryLimits::served()
        }
    }
}

/// The worker of `topology`, which reads from `clouds`. Nothing is read yet.
///
/// # Errors
/// [`Error::Configuration`] if the topology has no secret for workers, for secrets and certificates that cannot be read, and if
/// there is no place for temporary files.
pub(crate) fn worker_of(
    topology: &Topology,
    clouds: &[Cloud],
    metrics: TaskMetrics,
) -> std::result::Result<Worker, Error> {
    let spec = spec_of(&topology.serve)?;
    let channels = Channels::open(&topology.serve, spec, &spec.urls)?;
    let replicas = Arc::new(Replicas::new(clouds, &Reading::of(topology.query.clone()))?);
    let base = session(&replicas, topology.memory_bytes_max)?.state();
    let tables = Names::of(&topology.dataset_names()).tables().into_iter().map(str::to_owned).collect();
    let runtime = base.runtime_env().clone();
    let footers = runtime.cache_manager.get_file_metadata_cache();
    let plans = Plans { replicas, footers, tables: Arc::new(tables), metrics };
    Ok(Worker::from_session_builder(Tasks { base, channels, plans })
        .with_runtime_env(runtime)
        .with_version(version_of(topology)))
}

/// Makes a session for each part of a query.
struct Tasks {
    /// Functions and settings.
    base: SessionState,
    channels: Channels,
    plans: Plans,
}

/// What one part of a query is held to.
struct Task {
    watch: Arc<Watch>,
    copied_bytes_max: usize,
}

#[async_trait]
impl WorkerSessionBuilder for Tasks {
    async fn build_session_state(&self, request: WorkerQueryContext) -> Result<SessionState> {
        let limits = TaskLimits::read(&request.headers).inspect_err(|_| self.plans.metrics.task(false))?;
        let of_query = limits.of_query();
        let runtime = runtime_of(self.base.runtime_env(), &of_query)?;
        let task = Task { watch: Watch::start(&of_query), copied_bytes_max: of_query.copied_bytes_max };
        let mut builder = request.builder;
        let config = builder.config().get_or_insert_default();
        config.set_extension(Arc::new(task));
        config.options_mut().execution.sort_spill_reservation_bytes = limits.sort_reserve_bytes;
        let functions = self.base.scalar_functions().values().cloned().chain(unnamed_functions());
        Ok(builder
            .with_runtime_env(runtime)
            .with_scalar_functions(functions.collect())
            .with_aggregate_functions(self.base.aggregate_functions().values().cloned().collect())
            .with_window_functions(self.base.window_functions().values().cloned().collect())
            .with_distributed_channel_resolver(self.channels.clone())
            .with_distributed_worker_plan_rewrite_handler(self.plans.clone())
            .build())
    }
}

/// What plans may read here.
#[derive(Clone)]
pub(super) struct Plans {
    pub(super) replicas: Arc<Replicas>,
    /// Footers that were read.
    pub(super) footers: Arc<FileMetadataCache>,
    pub(super) tables: Arc<BTreeSet<String>>,
    pub(super) metrics: TaskMetrics,
}

impl WorkerPlanRewriteHandler for Plans {
    fn rewrite_worker_plan(&self, event: WorkerPlanRewriteEvent) -> Result<WorkerPlanRewriteEventResponse> {
        let Some(task) = event.session_config.get_extension::<Task>() else {
            return exec_err!("a plan came without limits");
        };
        let own = self.own(event.plan).and_then(|plan| watched(plan, &task.watch, task.copied_bytes_max));
        self.metrics.task(own.is_ok());
        own.map(WorkerPlanRewriteEventResponse::new)
    }
}

impl Plans {
    /// `plan` over this worker's files.
    ///
    /// # Errors
    /// If it does anything else.
    pub(super) fn own(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        // Functions were found already.
        if !is_for_workers(&plan, &|_| true)? {
            return exec_err!("a plan holds what a worker does not run");
        }
        plan.apply(|node| {
            if node.is_network_boundary() && !node.children().is_empty() {
                return exec_err!("a plan holds the plan of another stage");
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let own = plan.transform_up(|node| {
            let Some((scan, source)) = parquet_scan(node.as_ref()) else {
                return Ok(Transformed::no(node));
            };
            for file in scan.file_groups.iter().flat_map(|group| group.files()) {
                if !self.is_data(&file.object_meta.location) {
                    return exec_err!("{} is no data file of this topology", file.object_meta.location);
                }
            }
            Ok(Transformed::yes(scan_of_a_plan(scan, source, &self.replicas, &self.footers)?))
        });
        own.data()
    }

    /// Whether `path` is that of a data file of one of the tables.
    fn is_data(&self, path: &Path) -> bool {
        let parts: Vec<_> = path.parts().collect();
        let [folder, table, rest @ ..] = &parts[..] else { return false };
        let is_log = rest.first().is_some_and(|part| part.as_ref() == "_delta_log");
        folder.as_ref() == "datasets"
            && self.tables.contains(table.as_ref())
            && !rest.is_empty()
            && !is_log
            && path.extension() == Some("parquet")
    }
}
