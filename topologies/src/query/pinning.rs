//! A catalog for answers that must come out the same again: its tables at versions that are said beforehand, its rows in an
//! order that does not depend on threads, and a table beside those of the clouds.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, Volatility};
use isobar_connectors::clouds::Cloud;

use super::history::{Pin, version_at};
use super::{Catalog, SnapshotTable, TableVersion};
use crate::error::Error;
use crate::spec::training::At;

/// Times whose versions are remembered.
const TIMES_MAX: usize = 1024;

/// What the versions of tables are known to be, for as long as a catalog stays.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The versions that times mean, where that will not change.
    at_times: BTreeMap<(String, i64), u64>,
    /// Of every table the newest version that was read, and when it was committed, in milliseconds since the Unix epoch.
    seen: BTreeMap<String, (u64, i64)>,
}

impl Known {
    fn saw(&mut self, read: &TableVersion) {
        let seen = self.seen.entry(read.table.clone()).or_default();
        *seen = (*seen).max((read.version, read.committed_ms));
    }
}

impl Catalog {
    /// Plans and reads on one thread per table and query, so that rows come in an order that the query and the versions determine.
    pub(crate) fn in_order(self) -> Self {
        let state = self.context.state_ref();
        state.write().config_mut().options_mut().execution.target_partitions = 1;
        self
    }

    /// A table that is not named by a version is at the newest one that was committed by `at_ms`.
    pub(crate) fn at_time(mut self, at_ms: i64) -> Self {
        self.newest_at_ms = Some(at_ms);
        self
    }

    /// Which version a time means is for these clouds to say, though one of them alone may be read: a cloud that is behind would take
    /// another version for it.
    pub(crate) fn decided_by(mut self, clouds: &[Cloud]) -> Self {
        self.deciding = Some(clouds.to_vec());
        self
    }

    /// `table` at the version that `pin` means. Its log is read once for many queries.
    ///
    /// # Errors
    /// Those of [`version_at`] and [`KeptTables::at`](super::kept::KeptTables::at).
    pub(super) async fn pinned(&self, table: &str, pin: Pin) -> Result<Arc<SnapshotTable>, Error> {
        let version = match pin {
            Pin::Version(version) => version,
            Pin::Time(at_ms) => self.version_at(table, at_ms).await?,
        };
        let found = self.kept.at(&self.replicas, table, version).await?;
        self.note(found.version());
        Ok(found)
    }

    /// The version of `table` that a time means: always the same one, once there is a later one.
    async fn version_at(&self, table: &str, at_ms: i64) -> Result<u64, Error> {
        let key = (table.to_owned(), at_ms);
        let seen = {
            let known = self.known();
            if let Some(version) = known.at_times.get(&key) {
                return Ok(*version);
            }
            known.seen.get(table).copied()
        };
        let found = match &self.deciding {
            Some(clouds) => version_at(clouds, table, at_ms, seen).await?,
            None => version_at(&self.replicas.in_order(Some(table)).await, table, at_ms, seen).await?,
        };
        let mut known = self.known();
        if found.is_fixed && known.at_times.len() < TIMES_MAX {
            known.at_times.insert(key, found.version);
        }
        Ok(found.version)
    }

    /// Remembers that a version was read.
    pub(super) fn note(&self, read: &TableVersion) {
        self.known().saw(read);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a query does not say otherwise, `table` is at `at`.
    ///
    /// # Errors
    /// Those of [`Catalog::query`].
    pub(crate) async fn pin(&self, table: &str, at: At) -> Result<TableVersion, Error> {
        let pin = match at {
            At::Version(version) => Pin::Version(version),
            At::TimeMs(at_ms) => Pin::Time(at_ms),
        };
        let found = self.pinned(table, pin).await?;
        self.register(std::slice::from_ref(&found)).await?;
        Ok(found.version().clone())
    }

    /// The versions that tables are at where a query does not say otherwise, as far as they were named.
    pub(crate) async fn versions(&self) -> BTreeMap<String, u64> {
        let newest = self.newest.lock().await;
        newest.values().map(|version| (version.table.clone(), version.version)).collect()
    }

    /// A table that is in no cloud. Its name must not be one that a dataset can have.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is such a table.
    pub(crate) fn add_table(&self, name: &str, table: Arc<dyn TableProvider>) -> Result<(), Error> {
        let added = self.context.register_table(TableReference::bare(name), table);
        added.map(drop).map_err(|error| Error::Configuration(format!("table {name}: {error}")))
    }

    /// Forgets a table that was added.
    ///
    /// # Errors
    /// As [`Catalog::add_table`].
    pub(crate) fn remove_table(&self, name: &str) -> Result<(), Error> {
        let removed = self.context.deregister_table(TableReference::bare(name));
        removed.map(drop).map_err(|error| Error::Configuration(format!("table {name}: {error}")))
    }
}

/// Refuses a query whose rows may be others the next time, over the same rows.
pub(crate) fn refuse_unrepeatable(plan: &LogicalPlan) -> PlanResult<()> {
    let mut problem = None;
    plan.apply_with_subqueries(|node| {
        problem = problem.take().or(unrepeatable_node(node));
        node.apply_expressions(|expression| {
            expression.apply(|expression| {
                if let Expr::ScalarFunction(call) = expression
                    && call.func.signature().volatility != Volatility::Immutable
                {
                    let name = call.func.name();
                    problem.get_or_insert(format!("`{name}()` gives another value each time"));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match problem {
        Some(problem) => Err(DataFusionError::Plan(format!(
            "{problem}, and a training set must come out the same again: write what is meant into the query"
        ))),
        None => Ok(()),
    }
}

fn unrepeatable_node(node: &LogicalPlan) -> Option<String> {
    match node {
        LogicalPlan::Limit(limit) if !is_sorted(&limit.input) => {
            Some("LIMIT without ORDER BY takes any rows".to_owned())
        }
        LogicalPlan::Distinct(Distinct::On(distinct)) if distinct.sort_expr.is_none() => {
            Some("DISTINCT ON without ORDER BY takes any rows".to_owned())
        }
        _ => None,
    }
}

fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => is_sorted(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_sorted(&alias.input),
        LogicalPlan::Limit(limit) => is_sorted(&limit.input),
        _ => false,
    }
}
