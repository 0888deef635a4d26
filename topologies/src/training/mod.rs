//! `isobar training-set` and `isobar leak-check`: rows with what was known of them at their time, in a file that comes out the same
//! wherever it is made.
//!
//! ```text
//! file that describes the set ─▶ versions pinned ─▶ SQL with point_in_time(…) ─▶ rows in order ─▶ Parquet, digest, manifest
//!       (spec::training)            (one of each dataset)      (plan)                (writer, digest)      (manifest, destination)
//! ```
//!
//! **The same request over the same versions gives the same bytes**, in every cloud and on every machine: the order of rows is a property of
//! the rows ([`plan`]), and neither batches nor threads can be seen in the file ([`writer`]). The digest of the rows does not depend on how a file
//! encodes them ([`digest`]).
//!
//! [`leaks`] finds rows that used the future, in a set of ours or anybody's, without the join that made ours.

mod columns;
mod destination;
mod digest;
mod file;
mod leaks;
mod manifest;
mod plan;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use isobar_connectors::clouds::Cloud;
use tokio::sync::mpsc;

pub use self::leaks::{Leak, LeakKind, LeakReport, ReadVersion, ViewLeaks};
pub use self::manifest::{Column, Input, Manifest, SetFile};

use self::columns::{stored_field, type_text};
use self::destination::Destination;
use self::file::{LocalFile, sha256_of};
use self::manifest::{FORMAT, request_sha256};
use self::writer::{CREATED_BY, SetWriter, WrittenFile};
use crate::error::Error;
use crate::query::{Answer, Catalog, Scanned, TableVersion, catalog_in, refuse_unrepeatable, time_ms};
use crate::spec::training::{At, TrainingSet};
use crate::start::open_clouds;

/// Batches that wait to be written.
const BATCHES_WAITING: usize = 2;

/// The versions that datasets are read at, where the request names none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SetVersions {
    /// The newest.
    #[default]
    Newest,
    /// The newest that were committed by then: milliseconds since the Unix epoch.
    TimeMs(i64),
    /// These; the newest of datasets that are not among them.
    Each(BTreeMap<String, u64>),
}

impl FromStr for SetVersions {
    type Err = String;

    /// `flights=42,weather=17`, or a time.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(at_ms) = time_ms(text) {
            return Ok(Self::TimeMs(at_ms));
        }
        let malformed = || {
            format!(
                "`{text}` is neither versions, such as `flights=42,weather=17`, nor a time, such as `2026-05-01T00:00:00Z`"
            )
        };
        let mut versions = BTreeMap::new();
        for pair in text.split(',') {
            let (dataset, version) = pair.split_once('=').ok_or_else(malformed)?;
            let version: u64 = version.trim().parse().map_err(|_| malformed())?;
            if versions.insert(dataset.trim().to_owned(), version).is_some() {
                return Err(format!("`{}` is named twice", dataset.trim()));
            }
        }
        Ok(Self::Each(versions))
    }
}

/// A training set that was made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MadeSet {
    /// What it is, as the file beside it says.
    pub manifest: Manifest,
    /// Where it lies.
    pub file: String,
    /// Where its manifest lies.
    pub manifest_file: String,
    /// The versions that were read, each with the cloud that they were read from.
    pub read: Vec<ReadVersion>,
}

/// Told about a query when it has started, so that its progress can be shown.
pub type Watch<'a> = &'a dyn Fn(Scanned);

/// The clouds of a topology.
#[derive(Debug, Clone)]
pub struct SetClouds {
    /// All of them. They say which version a time means, and can be written to.
    all: Vec<Cloud>,
    /// Those that are read.
    read: Vec<Cloud>,
}

impl SetClouds {
    /// Opens the clouds of the topology; only the one named `read` is read, if there is a name.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is none of this name, or a client cannot be made.
    pub fn open(set: &TrainingSet, read: Option<&str>) -> Result<Self, Error> {
        let all = open_clouds(&set.topology)?;
        let Some(name) = read else { return Ok(Self { read: all.clone(), all }) };
        match all.iter().find(|cloud| cloud.name == name) {
            Some(cloud) => Ok(Self { read: vec![cloud.clone()], all }),
            None => {
                let names: Vec<&str> = all.iter().map(|cloud| cloud.name.as_str()).collect();
                let (name, topology) = (name.escape_debug(), &set.topology.name);
                let problem =
                    format!("the topology {topology} has no cloud `{name}`: it has {}", names.join(", "));
                Err(Error::Configuration(problem))
            }
        }
    }
}

/// Makes `set` from what lies in `clouds`, and writes it to the folder that `out` names: a path, or `cloud://NAME/training/…`.
///
/// # Errors
/// [`Error::Configuration`] if the request does not fit the tables, or a version cannot be read; those of reading the clouds and writing the file.
pub async fn make(
    set: &TrainingSet,
    clouds: &SetClouds,
    versions: &SetVersions,
    out: &str,
    watch: Watch<'_>,
) -> Result<MadeSet, Error> {
    let destination = Destination::parse(out, &clouds.all)?;
    let output = destination.temporary()?;
    let (output, made) = run(set, clouds, versions, output, watch).await?;
    let Made { manifest, read } = made;
    let SetFile { name, bytes, sha256, .. } = &manifest.file;
    let file = destination.put_file(output, name, *bytes, sha256).await?;
    let (_, manifest_name) = manifest.names()?;
    let manifest_file = destination.put_text(&manifest_name, manifest.to_text()?).await?;
    Ok(MadeSet { manifest, file, manifest_file, read })
}

/// Makes `set` again as it was when `manifest` was written, keeps nothing of it, and says what differs: nothing, if it is the same.
///
/// # Errors
/// As [`make`].
pub async fn verify(
    set: &TrainingSet,
    clouds: &SetClouds,
    manifest: &Manifest,
    watch: Watch<'_>,
) -> Result<Vec<String>, Error> {
    let versions = SetVersions::Each(manifest.versions.clone());
    let (_, made) = run(set, clouds, &versions, std::io::sink(), watch).await?;
    Ok(manifest.differences(&made.manifest))
}

/// Finds rows that used the future, in the training set that lies in `file`, or if there is none, in that which [`make`] makes.
/// At most `limit` of them are in the report, all are counted.
///
/// # Errors
/// As [`make`]; [`Error::Configuration`] if the file lacks a column.
pub async fn check_leaks(
    set: &TrainingSet,
    clouds: &SetClouds,
    versions: &SetVersions,
    file: Option<&Path>,
    limit: usize,
    watch: Watch<'_>,
) -> Result<LeakReport, Error> {
    let made = match file {
        Some(_) => None,
        None => {
            let mut builder = tempfile::Builder::new();
            let temporary = builder.prefix("isobar-training-set-").suffix(".parquet").tempfile();
            let temporary = temporary
                .map_err(|source| Error::LocalFile { action: "write a temporary file".to_owned(), source })?;
            Some(run(set, clouds, versions, temporary, watch).await?)
        }
    };
    // The versions that the set was made of, not what is the newest meanwhile.
    let pinned = made.as_ref().map(|(_, made)| SetVersions::Each(made.manifest.versions.clone()));
    let path = match (&made, file) {
        (Some((temporary, _)), _) => temporary.path(),
        (None, Some(path)) => path,
        (None, None) => return Err(Error::Bug("there is no training set to check".to_owned())),
    };
    let views: Vec<&str> = set.request.views.iter().map(|view| view.dataset.as_str()).collect();
    let catalog = opened(set, clouds, pinned.as_ref().unwrap_or(versions), Some(&views)).await?;
    let planned = plan::views(set, &catalog).await?;
    let file = opened_file(path).await?;
    leaks::check(set, &catalog, &planned, &file, limit).await
}

/// The tables at their versions. With `only`, versions of other tables are passed over.
async fn opened(
    set: &TrainingSet,
    clouds: &SetClouds,
    versions: &SetVersions,
    only: Option<&[&str]>,
) -> Result<Catalog, Error> {
    let catalog = catalog_in(&set.topology, &clouds.read)?.decided_by(&clouds.all);
    match versions {
        SetVersions::Newest => Ok(catalog),
        SetVersions::TimeMs(at_ms) => Ok(catalog.at_time(*at_ms)),
        SetVersions::Each(versions) => {
            for (dataset, version) in versions {
                let is_wanted = only.is_none_or(|only| only.contains(&dataset.as_str()));
                if is_wanted {
                    let table = crate::query::known_table(&set.topology, dataset)?;
                    catalog.pin(&table, At::Version(*version)).await?;
                }
            }
            Ok(catalog)
        }
    }
}

/// The rows of `set` as SQL over the tables of `catalog`.
///
/// # Errors
/// As [`make`].
pub(crate) async fn rows_of(set: &TrainingSet, catalog: &Catalog) -> Result<String, Error> {
    Ok(plan::plan(set, catalog).await?.sql)
}

/// SHA-256 of a file, and its size.
async fn hashed(path: &Path) -> Result<(String, u64), Error> {
    let path = path.to_owned();
    blocking(move || sha256_of(&path)).await
}

/// A file to read. The types of a CSV file are found by reading all of it.
async fn opened_file(path: &Path) -> Result<LocalFile, Error> {
    let path = path.to_owned();
    blocking(move || LocalFile::open(&path)).await
}

/// Does what may wait for a disk where nothing else waits for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|died| Error::Bug(format!("read a file: {died}")))?
}

/// What came of a run.
struct Made {
    manifest: Manifest,
    read: Vec<ReadVersion>,
}

/// Makes a set, and writes its file to `output`.
async fn run<W: Write + Send + 'static>(
    set: &TrainingSet,
    clouds: &SetClouds,
    versions: &SetVersions,
    output: W,
    watch: Watch<'_>,
) -> Result<(W, Made), Error> {
    let spine_file = match &set.spine_file {
        Some(path) => Some((path, hashed(path).await?)),
        None => None,
    };
    let catalog = opened(set, clouds, versions, None).await?.in_order();
    let plan = plan::plan(set, &catalog).await?;
    let mut answer = catalog.query_checked(&plan.sql, refuse_unrepeatable).await?;
    watch(answer.scanned());
    let schema = stored_schema(&answer)?;
    let from = answer.from().to_vec();
    let (output, written) = write(&mut answer, schema.clone(), output).await?;
    if let Some((path, before)) = &spine_file
        && hashed(path).await? != *before
    {
        return Err(Error::Configuration(format!("{} was changed while it was read", path.display())));
    }
    let mut inputs = inputs(&from);
    if let Some((path, (sha256, bytes))) = spine_file {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        inputs.push(Input::File { file, bytes, sha256 });
    }
    let defaults =
        catalog.versions().await.into_iter().filter(|(table, version)| {
            from.iter().any(|read| read.table == *table && read.version == *version)
        });
    let manifest = manifest_of(set, defaults.collect(), inputs, &schema, &plan.roles, written)?;
    Ok((output, Made { manifest, read: from.iter().map(ReadVersion::from).collect() }))
}

fn manifest_of(
    set: &TrainingSet,
    versions: BTreeMap<String, u64>,
    inputs: Vec<Input>,
    schema: &Schema,
    roles: &[&'static str],
    written: WrittenFile,
) -> Result<Manifest, Error> {
    let (request, request_sha256) = request_sha256(&set.request)?;
    let WrittenFile { digested, bytes, sha256, row_groups } = written;
    let columns =
        schema.fields().iter().zip(roles).zip(digested.columns).map(|((field, role), digest)| Column {
            name: field.name().clone(),
            type_text: type_text(field.data_type()),
            role: (*role).to_owned(),
            sha256: digest,
        });
    let mut manifest = Manifest {
        format: FORMAT.to_owned(),
        training_set: set.request.training_set.clone(),
        topology: set.request.topology.clone(),
        request,
        request_sha256,
        versions,
        inputs,
        digest: digested.set,
        rows: digested.rows,
        columns: columns.collect(),
        file: SetFile { name: String::new(), bytes, sha256, row_groups, encoding: CREATED_BY.to_owned() },
    };
    manifest.file.name = manifest.names()?.0;
    Ok(manifest)
}

/// The tables that were read, with the hashes of their versions.
fn inputs(from: &[TableVersion]) -> Vec<Input> {
    let input = |read: &TableVersion| Input::Table {
        table: read.table.clone(),
        version: read.version,
        sha256: read.sha256.clone(),
    };
    from.iter().map(input).collect()
}

/// The columns of the file: those of the answer but for the number of the row. All can be null, so that the file does not depend on what a
/// plan knows about that.
fn stored_schema(answer: &Answer) -> Result<SchemaRef, Error> {
    let schema = answer.schema();
    let Some((_, columns)) = schema.fields().split_last() else {
        return Err(Error::Bug("a training set without columns".to_owned()));
    };
    let fields = columns.iter().map(|field| {
        let stored = stored_field(field).ok_or_else(|| {
            let (name, data_type) = (field.name(), field.data_type());
            Error::Configuration(format!(
                "the column {name} is of type {data_type}, which a training set cannot hold"
            ))
        })?;
        Ok(Arc::new(Field::new(stored.name(), stored.data_type().clone(), true)))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<FieldRef>, Error>>()?)))
}

/// Writes the rows of an answer on a thread of its own.
async fn write<W: Write + Send + 'static>(
    answer: &mut Answer,
    schema: SchemaRef,
    output: W,
) -> Result<(W, WrittenFile), Error> {
    let (sender, mut receiver) = mpsc::channel::<RecordBatch>(BATCHES_WAITING);
    let writer = tokio::task::spawn_blocking(move || {
        let mut writer = SetWriter::new(schema, output)?;
        while let Some(batch) = receiver.blocking_recv() {
            writer.write(&batch)?;
        }
        writer.finish()
    });
    let mut failed = None;
    loop {
        match answer.next_batch().await {
            Ok(Some(batch)) => {
                // Nobody receives any more if the writer has failed, which says why below.
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let written = writer.await.map_err(|died| Error::Bug(format!("write a training set: {died}")))?;
    match failed {
        Some(error) => Err(error),
        None => written.map_err(unwritten),
    }
}

fn unwritten(error: ArrowError) -> Error {
    match error {
        ArrowError::CastError(_) | ArrowError::ParseError(_) | ArrowError::InvalidArgumentError(_) => {
            Error::Configuration(format!("a value cannot be held by a training set: {error}"))
        }
        ArrowError::ComputeError(_) | ArrowError::SchemaError(_) => Error::Bug(error.to_string()),
        error => Error::LocalFile {
            action: "write the training set".to_owned(),
            source: std::io::Error::other(error),
        },
    }
}
