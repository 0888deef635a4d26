//! What a table holds at its newest version, from the first cloud that can tell.
//!
//! The log is replayed from version 0. A log with a missing version, a broken hash chain or a body that is not
//! understood is not believed, and the next cloud is asked; `isobar prove` says what is wrong with it.

use std::collections::{BTreeMap, HashMap};

use arrow::datatypes::{Field, Schema, SchemaRef};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::Metadata;
use isobar_connectors::delta::schema::to_arrow;
use tracing::warn;

use crate::error::Error;
use crate::prove::checks;
use crate::prove::log::{Bodies, DataFile, TableLog, list_versions};

/// One table at one version.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// The dataset, or its quarantine.
    pub(super) table: String,
    /// The version.
    pub(super) version: u64,
    /// The cloud that this was read from.
    pub(super) cloud: String,
    /// Columns in the table's order.
    pub(super) schema: SchemaRef,
    /// What else the log says about the table.
    pub(super) metadata: Metadata,
    /// Files of this version.
    pub(super) files: Vec<DataFile>,
}

/// What a table is at its newest version.
#[derive(Debug, Clone)]
pub(crate) struct PublishedTable {
    /// The version.
    pub(crate) version: u64,
    /// The cloud that this was read from.
    pub(crate) cloud: String,
    /// Name, schema and partitioning.
    pub(crate) metadata: Metadata,
}

/// What each of `tables` that exists is, by table.
///
/// # Errors
/// As [`newest_snapshots`].
pub(crate) async fn newest_tables(
    clouds: &[Cloud],
    tables: &[String],
) -> Result<BTreeMap<String, PublishedTable>, Error> {
    let snapshots = newest_snapshots(clouds, tables).await?;
    let published = |snapshot: Snapshot| PublishedTable {
        version: snapshot.version,
        cloud: snapshot.cloud,
        metadata: snapshot.metadata,
    };
    Ok(snapshots.into_iter().map(|(table, snapshot)| (table, published(snapshot))).collect())
}

/// The newest snapshot of each of `tables` that has one, by table.
///
/// # Errors
/// [`Error::NoMajority`] if some table may exist but no cloud can serve it.
pub(super) async fn newest_snapshots(
    clouds: &[Cloud],
    tables: &[String],
) -> Result<BTreeMap<String, Snapshot>, Error> {
    let mut snapshots = BTreeMap::new();
    let mut reasons: BTreeMap<&str, String> = BTreeMap::new();
    for table in tables {
        let mut refused = false;
        for cloud in
            clouds.iter().filter(|cloud| !reasons.contains_key(cloud.name.as_str())).collect::<Vec<_>>()
        {
            match newest_snapshot(cloud, table).await {
                Ok(None) => {}
                Ok(Some(snapshot)) => {
                    snapshots.insert(table.clone(), snapshot);
                    break;
                }
                Err(why) => {
                    warn!(cloud = %cloud.name, %table, why, "cloud cannot serve the table, asking the next");
                    reasons.insert(&cloud.name, format!("{}: {why}", cloud.name));
                    refused = true;
                }
            }
        }
        let served = snapshots.contains_key(table);
        if !served && (refused || reasons.len() == clouds.len()) {
            let reasons = reasons.into_values().collect();
            return Err(Error::no_majority(&format!("read table {table}"), 1, clouds.len(), reasons));
        }
    }
    Ok(snapshots)
}

/// The newest snapshot of `table` in `cloud`, `None` if it has no version there.
async fn newest_snapshot(cloud: &Cloud, table: &str) -> Result<Option<Snapshot>, String> {
    let unanswered = |error: object_store::Error| crate::chain_of(&error);
    let versions = list_versions(cloud, table, None).await.map_err(unanswered)?;
    let log = Bodies::default().read_log(cloud, table, &versions).await.map_err(unanswered)?;
    replay(cloud, log)
}

fn replay(cloud: &Cloud, log: TableLog) -> Result<Option<Snapshot>, String> {
    let Some(version) = log.last() else { return Ok(None) };
    for found in
        [checks::entries(&log), checks::versions(&log), checks::hash_chain(&log), checks::paths(&log)]
    {
        if let Some(problem) = found.examples.first() {
            return Err(format!("{}: {problem}; see `isobar prove`", log.table));
        }
    }
    let metadata = log.steps().filter_map(|step| step.entry.metadata.as_ref()).last();
    let metadata = metadata.ok_or_else(|| format!("{}: no metaData", log.table))?;
    let schema = to_arrow(&metadata.schema_string).map_err(|error| format!("{}: {error}", log.table))?;
    Ok(Some(Snapshot {
        version,
        cloud: cloud.name.clone(),
        schema: undocumented(&schema),
        metadata: metadata.as_ref().clone(),
        files: log.files(),
        table: log.table,
    }))
}

/// `schema` without what is said about its columns: the engine compares that as well, and files have none.
fn undocumented(schema: &Schema) -> SchemaRef {
    let bare = schema.fields().iter().map(|field| field.as_ref().clone().with_metadata(HashMap::new()));
    Schema::new(bare.collect::<Vec<Field>>()).into()
}
