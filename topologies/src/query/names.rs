//! The names that queries have for tables, and what a statement needs of them.
//!
//! Whoever runs a query parses it first ([`Asked::parse`]), gets the tables that it needs at versions of its own choice, and has
//! it planned then: `isobar query` with the newest versions there are, `isobar serve` with those that it keeps, as far as
//! the caller may see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;

use super::history::Pin;
use super::limits::{QueryLimits, Watch, aside, check_plan};
use super::sql::{self, Parsed, Pins};
use super::{CATALOG, TableVersion};
use crate::commit::quarantine_of;

/// The tables that may exist, by the names that queries use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    /// Those of `datasets` and of their quarantines.
    pub(crate) fn of(datasets: &[String]) -> Self {
        let mut names = BTreeMap::new();
        for table in datasets.iter().map(|dataset| quarantine_of(dataset)) {
            names.insert(table.replace('.', "_"), table.clone());
            names.insert(table.clone(), table);
        }
        // A dataset that has the name of another's quarantine keeps it.
        names.extend(datasets.iter().map(|dataset| (dataset.clone(), dataset.clone())));
        Self(names)
    }

    /// Only the names of tables for which `is_seen`.
    pub(crate) fn only(&self, is_seen: impl Fn(&str) -> bool) -> Self {
        let seen = self.0.iter().filter(|(_, table)| is_seen(table));
        Self(seen.map(|(name, table)| (name.clone(), table.clone())).collect())
    }

    /// The table of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The table that a query means.
    pub(crate) fn table_of(&self, reference: &TableReference) -> Option<&str> {
        let is_ours = reference.catalog().is_none_or(|catalog| catalog == CATALOG.0)
            && reference.schema().is_none_or(|schema| schema == CATALOG.1);
        self.get(reference.table()).filter(|_| is_ours)
    }

    /// Every table once.
    pub(crate) fn tables(&self) -> BTreeSet<&str> {
        self.0.values().map(String::as_str).collect()
    }

    /// The names of one table.
    pub(crate) fn of_table<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(_, other)| *other == table).map(|(name, _)| name.as_str())
    }

    /// The names that need no quotes, of tables for which `exists`.
    pub(crate) fn unquoted(&self, exists: impl Fn(&str) -> bool) -> Vec<&str> {
        let known = self.0.iter().filter(|(name, table)| !name.contains('.') && exists(table));
        known.map(|(name, _)| name.as_str()).collect()
    }

    /// `text` says what is wrong with a query; if a table is not found, also which there are. `exists` says so of a table.
    pub(crate) fn explain(&self, text: String, exists: impl Fn(&str) -> bool) -> String {
        if !text.contains("not found") {
            return text;
        }
        let mut explained = format!("{text}\nthe tables are: {}", self.unquoted(&exists).join(", "));
        let absent = self.0.iter().filter(|(name, table)| name == table && !exists(table));
        for (dataset, _) in absent.filter(|(dataset, _)| text.contains(dataset.as_str())) {
            explained.push_str(&format!("\nnothing was committed to {dataset} yet"));
        }
        explained
    }
}

/// A name as SQL has to write it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table at a version, for one query.
#[derive(Debug, Clone)]
pub(crate) struct PinnedTable {
    /// Which version.
    pub(crate) version: TableVersion,
    /// Its rows.
    pub(crate) provider: Arc<dyn TableProvider>,
}

/// A statement that was parsed, and the tables that it needs.
pub(crate) struct Asked {
    parsed: Parsed,
    /// Tables that it names without a version; all that there are if it asks for those.
    pub(crate) newest: BTreeSet<String>,
    /// Tables that it names with a version, by the reference in the statement.
    pub(crate) pinned: Vec<(TableReference, Pin, String)>,
}

impl Asked {
    /// Parses `sql`, which must be one statement and may name versions of tables in `names` only.
    pub(crate) async fn parse(
        state: &SessionState,
        names: &Names,
        sql: &str,
        limits: &QueryLimits,
        watch: &Watch,
    ) -> Result<Self, DataFusionError> {
        limits.check_text(sql)?;
        let (of_query, text, allowed) = (state.clone(), sql.to_owned(), limits.clone());
        let parsed = aside(watch, async move { sql::parse(&of_query, &text, &allowed) }).await?;
        let newest = match &parsed.newest {
            Some(references) => references.iter().filter_map(|reference| names.table_of(reference)).collect(),
            None => names.tables(),
        };
        let newest = newest.into_iter().map(str::to_owned).collect();
        let mut pinned = Vec::with_capacity(parsed.pinned.len());
        for (reference, pin) in &parsed.pinned {
            let table = names.table_of(reference);
            let table =
                table.ok_or_else(|| DataFusionError::Plan(format!("table '{reference}' not found")))?;
            pinned.push((reference.clone(), *pin, table.to_owned()));
        }
        Ok(Self { parsed, newest, pinned })
    }

    /// The plan, and the session that it was made in. `state` knows the tables of [`newest`](Self::newest) that exist; `tables`
    /// are those of [`pinned`](Self::pinned), in that order.
    pub(crate) async fn plan(
        self,
        mut state: SessionState,
        tables: Vec<PinnedTable>,
        limits: &QueryLimits,
        watch: &Watch,
    ) -> Result<(SessionState, LogicalPlan), DataFusionError> {
        let mut pins = Pins::default();
        for ((reference, pin, _), table) in self.pinned.into_iter().zip(tables) {
            pins.insert(reference, pin, table);
        }
        let (parsed, allowed) = (self.parsed, limits.clone());
        let planned = async move {
            let plan = sql::plan(&mut state, parsed, pins).await?;
            check_plan(&plan, &allowed)?;
            Ok((state, plan))
        };
        aside(watch, planned).await
    }
}
