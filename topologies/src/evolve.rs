//! A table follows its topology: what a start makes of the tables that exist.
//!
//! Whoever leads reads what each table is, at the version that the chain names, and compares it with the rows to come.
//! Either they fit, or the table can become one that they fit, which is decided before anything is read, or the start is
//! refused with everything that differs. The rules are in [`delta::evolution`] and `commit/evolution.rs`, the argument is in
//! `docs/evolution.md`. [`preview`] says the same beforehand, from what is published, and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Fields;
use isobar_connectors::clouds::{Cloud, read_register};
use isobar_connectors::dataset::TableLayout;
use isobar_connectors::delta::evolution::{Difference, differences, evolved};
use isobar_connectors::delta::{self, Metadata};
use object_store::path::Path;
use serde::Serialize;
use tracing::info;

use crate::commit::format::{RECORD_BYTES_MAX, published_path};
use crate::commit::{Chain, CommitOutcome, Described, Evolution, Group, Leader, TableEvolution};
use crate::error::Error;
use crate::pipeline::now_ms;
use crate::query;
use crate::spec::Topology;
use crate::stage::DatasetPlan;
use crate::start;

/// How often all clouds are asked for the schema of a table that exists, and how long to wait in between.
const SCHEMA_ATTEMPTS_MAX: u32 = 10;
const SCHEMA_PAUSE: Duration = Duration::from_secs(1);

/// A table that exists, held against the rows to come.
#[derive(Debug)]
pub(crate) struct Comparison {
    dataset: String,
    /// The version that describes the table.
    described: u64,
    was: Metadata,
    wanted: Metadata,
    found: Vec<Difference>,
}

impl Comparison {
    /// Compares the table of `plan`, whose schema was last changed at `described`.
    pub(crate) async fn of(
        group: &Group,
        plan: &DatasetPlan,
        described: Option<&Described>,
    ) -> Result<Self, Error> {
        let was = described_table(group, &plan.name, described).await?;
        let wanted = plan.table.metadata().map_err(|error| Error::connector("describe the table", error))?;
        let found = differences(&was, &wanted)
            .map_err(|error| Error::damaged(&format!("the schema of {}", plan.name), error.to_string()))?;
        let described = described.map_or(0, |described| described.version);
        Ok(Self { dataset: plan.name.clone(), described, was, wanted, found })
    }

    /// What the table is to become.
    fn becomes(&self) -> Result<Metadata, Error> {
        let dataset = &self.dataset;
        evolved(&self.was, &self.wanted).map_err(|error| {
            Error::Configuration(format!("dataset {dataset} exists with another shape: {error}"))
        })
    }

    fn changes(&self) -> bool {
        self.found.iter().any(Difference::is_change)
    }

    /// Why no table holds both, if none does.
    fn refusal(&self) -> Option<String> {
        let reasons = self.found.iter().filter_map(|found| match found {
            Difference::Refused { what } => Some(what.as_str()),
            _ => None,
        });
        let reasons: Vec<&str> = reasons.collect();
        let dataset = &self.dataset;
        (!reasons.is_empty())
            .then(|| format!("dataset {dataset} exists with another shape: {}", reasons.join("; ")))
    }

    /// Fails unless the rows fit the table as it is.
    pub(crate) fn refuse_change(&self) -> Result<(), Error> {
        if let Some(refusal) = self.refusal() {
            return Err(Error::Configuration(refusal));
        }
        let mut changes = self.found.iter().filter(|found| found.keeps_rows_out());
        match changes.next() {
            None => Ok(()),
            Some(first) => Err(Error::Configuration(format!(
                "the table of dataset {} is not what this specification makes of it; a start of the topology {first}: start it first",
                self.dataset
            ))),
        }
    }
}

/// Compares every table of `chain` with its plan.
///
/// # Errors
/// [`Error::Configuration`] with everything that stands in the way, [`Error::NoMajority`] if no cloud says what a table is.
pub(crate) async fn compare(
    group: &Group,
    chain: &Chain,
    plans: &[DatasetPlan],
) -> Result<Vec<Comparison>, Error> {
    let mut compared = Vec::new();
    for plan in plans {
        if let Some(head) = chain.tables.get(&plan.name) {
            compared.push(Comparison::of(group, plan, head.described.as_ref()).await?);
        }
        if chain.tables.contains_key(&plan.quarantine_table.name) {
            refuse_changed_quarantine(group, plan).await?;
        }
    }
    let refusals: Vec<String> = compared.iter().filter_map(Comparison::refusal).collect();
    if refusals.is_empty() { Ok(compared) } else { Err(Error::Configuration(refusals.join("\n"))) }
}

/// Fails unless the quarantine of a dataset, which exists, is the one that its rejected records go to. A quarantine keeps the
/// headers of records from its beginning or not at all: rows without them could not be judged again by a dataset that uses
/// them.
pub(crate) async fn refuse_changed_quarantine(group: &Group, plan: &DatasetPlan) -> Result<(), Error> {
    let (name, quarantine) = (&plan.name, &plan.quarantine_table.name);
    let was = described_table(group, quarantine, None).await?;
    let was = delta::schema::to_arrow(&was.schema_string)
        .map_err(|error| Error::damaged(&format!("the schema of {quarantine}"), error.to_string()))?;
    let columns = |fields: &Fields| -> Vec<String> {
        fields.iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
    };
    let (was, is) = (columns(was.fields()), columns(plan.quarantine_table.schema.fields()));
    if was == is {
        return Ok(());
    }
    let only_in = |these: &[String], those: &[String]| {
        let only = these.iter().filter(|column| !those.contains(column));
        only.map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let way_out = if plan.keeps_headers() {
        format!(
            "Dataset {name} uses `_headers`, and a rejected record could not be judged again without them: give the dataset a new \
             name, or leave `_headers` out"
        )
    } else {
        format!(
            "If it keeps headers, go on using `_headers` in dataset {name}, were it in an expectation such as `{{ name: headers_kept, \
             check: \"_headers IS NOT NULL\", action: warn }}`, or give the dataset a new name"
        )
    };
    Err(Error::Configuration(format!(
        "{quarantine} exists with another shape: it has [{}], the specification has [{}]. {way_out}",
        only_in(&was, &is),
        only_in(&is, &was)
    )))
}

/// Decides what the tables become, if anything, in one decision. The plans know their tables from then on.
pub(crate) async fn evolve(
    leader: &mut Leader,
    plans: &mut [DatasetPlan],
    compared: Vec<Comparison>,
) -> Result<(), Error> {
    let mut tables = BTreeMap::new();
    for comparison in compared {
        let Some(plan) = plans.iter_mut().find(|plan| plan.name == comparison.dataset) else { continue };
        let becomes = comparison.becomes()?;
        plan.table_layout = layout(plan, &becomes)?;
        for found in &comparison.found {
            info!(dataset = plan.name, described = comparison.described, "the start {found}");
        }
        if comparison.changes() {
            let plan_of_rows = plan.transform.fingerprint().to_owned();
            let (after, was) = (comparison.described, comparison.was);
            tables.insert(plan.name.clone(), TableEvolution { plan: plan_of_rows, after, was, becomes });
        }
    }
    if tables.is_empty() {
        return Ok(());
    }
    let evolution = Evolution { commit_id: uuid::Uuid::new_v4().to_string(), tables };
    match leader.evolve(&evolution, now_ms()).await? {
        CommitOutcome::Committed { sequence } => {
            let datasets: Vec<&str> = evolution.tables.keys().map(String::as_str).collect();
            info!(sequence, datasets = datasets.join(", "), "schemas changed");
            Ok(())
        }
        CommitOutcome::Stale(refusal) => Err(Error::Bug(refusal.to_string())),
        CommitOutcome::NotStored(what) => Err(Error::Bug(what)),
    }
}

/// Where and how files with all columns of the table are written: those of a compaction.
fn layout(plan: &DatasetPlan, table: &Metadata) -> Result<Arc<TableLayout>, Error> {
    let damaged = |error: isobar_connectors::Error| {
        Error::damaged(&format!("the schema of {}", plan.name), error.to_string())
    };
    let schema = delta::schema::to_arrow(&table.schema_string).map_err(damaged)?;
    plan.layout.with_schema(schema.into()).map_err(damaged)
}

/// What the log says about the table, from the clouds that tell; they are asked again while none does, because it may be
/// decided and not published yet. Fails when none tells: rows of another shape must not get into the table.
async fn described_table(
    group: &Group,
    dataset: &str,
    described: Option<&Described>,
) -> Result<Metadata, Error> {
    let action = format!("read the schema of dataset {dataset}");
    let path = published_path(dataset, described.map_or(0, |described| described.version));
    let sha256 = described.map(|described| described.sha256.as_str());
    let clouds: Vec<usize> = (0..group.clouds.len()).collect();
    let mut reasons = Vec::new();
    for attempt in 0..SCHEMA_ATTEMPTS_MAX {
        if attempt > 0 {
            tokio::time::sleep(SCHEMA_PAUSE).await;
        }
        reasons.clear();
        let mut found = Vec::new();
        for (index, look) in group.ask(&clouds, &action, |cloud| metadata_at(cloud, &path, sha256)).await {
            match look {
                Ok(metadata) => found.push(metadata),
                Err(error) => {
                    reasons.push(format!("{}: {}", group.clouds[index].name, crate::chain_of(&error)));
                }
            }
        }
        if !found.is_empty() {
            return agreed(&found).ok_or_else(|| {
                Error::damaged(path.as_ref(), "the clouds contradict each other; see `isobar scrub`")
            });
        }
    }
    Err(Error::no_majority(&action, 1, clouds.len(), reasons))
}

/// What most of those say that say anything. Only of a table's first version is the hash unknown, so that they may differ:
/// damage, which is the scrubber's affair.
fn agreed(found: &[Metadata]) -> Option<Metadata> {
    let votes = |metadata: &&Metadata| found.iter().filter(|other| other == metadata).count();
    found.iter().find(|metadata| votes(metadata) * 2 > found.len()).cloned()
}

async fn metadata_at(cloud: &Cloud, path: &Path, sha256: Option<&str>) -> Result<Metadata, Error> {
    let body = read_register(&cloud.control, path, RECORD_BYTES_MAX).await;
    let bytes = body.map_err(|error| Error::connector("read the version that describes the table", error))?;
    let bytes = bytes.ok_or_else(|| Error::damaged(path.as_ref(), "it is not there"))?;
    if sha256.is_some_and(|sha256| delta::sha256_hex(&bytes) != sha256) {
        return Err(Error::damaged(path.as_ref(), "it is not the decided one; see `isobar scrub`"));
    }
    let body = delta::parse_body(&bytes).map_err(|error| Error::damaged(path.as_ref(), error.to_string()))?;
    body.metadata.ok_or_else(|| Error::damaged(path.as_ref(), "it describes no table"))
}

/// What a start would make of a dataset's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The dataset.
    pub dataset: String,
    /// The version looked at; `None` if there is no table, which a start creates.
    pub version: Option<u64>,
    /// The cloud that it was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// What would be changed, kept, or refused, a line each; empty if the rows fit as it is.
    pub changes: Vec<String>,
    /// Whether a start would be refused.
    pub refused: bool,
}

/// What a start of `topology` would make of each of its tables, as they are published now.
///
/// # Errors
/// [`Error::NoMajority`] if a table may exist and no cloud can tell.
pub async fn preview(topology: &Topology) -> Result<Vec<Preview>, Error> {
    let clouds = start::open_clouds(topology)?;
    preview_in(topology, &clouds).await
}

/// The same in clouds that are open already.
///
/// # Errors
/// As [`preview`].
pub async fn preview_in(topology: &Topology, clouds: &[Cloud]) -> Result<Vec<Preview>, Error> {
    let plans = start::compile(topology)?;
    let names: Vec<String> = plans.iter().map(|plan| plan.name.clone()).collect();
    let tables = query::newest_tables(clouds, &names).await?;
    plans.iter().map(|plan| previewed(plan, tables.get(&plan.name))).collect()
}

fn previewed(plan: &DatasetPlan, table: Option<&query::PublishedTable>) -> Result<Preview, Error> {
    let dataset = plan.name.clone();
    let Some(table) = table else {
        return Ok(Preview { dataset, version: None, cloud: None, changes: Vec::new(), refused: false });
    };
    let wanted = plan.table.metadata().map_err(|error| Error::connector("describe the table", error))?;
    let found = differences(&table.metadata, &wanted)
        .map_err(|error| Error::damaged(&format!("the schema of {dataset}"), error.to_string()))?;
    Ok(Preview {
        dataset,
        version: Some(table.version),
        cloud: Some(table.cloud.clone()),
        changes: found.iter().map(ToString::to_string).collect(),
        refused: found.iter().any(Difference::is_refused),
    })
}

impl Preview {
    /// The list for people, ended by a newline.
    pub fn render(&self) -> String {
        let dataset = &self.dataset;
        let Some(version) = self.version else {
            return format!("table {dataset} does not exist: a start creates it\n");
        };
        let cloud = self.cloud.as_deref().unwrap_or_default();
        if self.changes.is_empty() {
            return format!("table {dataset} at version {version} in {cloud}: stays as it is\n");
        }
        let lines: String = self.changes.iter().map(|change| format!("  {change}\n")).collect();
        format!("table {dataset} at version {version} in {cloud}: a start\n{lines}")
    }
}
