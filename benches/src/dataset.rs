//! Datasets in a directory as isobar lays them out: files of its own writer, entries of its own log, and a topology that names them,
//! so that `isobar query` and `isobar serve` can be asked about them as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::dataset::{Compression, DatasetWriter, StagedFile, TableLayout};
use isobar_connectors::delta::body::NO_PREVIOUS_SHA256;
use isobar_connectors::delta::{CommitBody, CommitInfo, IsobarInfo, TableDefinition, sha256_hex};
use isobar_connectors::upload::{FanOut, UploadLimits, UploadStatus};
use isobar_schemas::{RowCounts, TopicPartition};
use isobar_topologies::spec::{self, Topology};
use isobar_topologies::start::open_clouds;

/// When version 0 of every table was committed; later versions follow a millisecond apart.
pub(crate) const STARTED_MS: i64 = 1_700_000_000_000;

/// The one cloud.
const CLOUD: &str = "local";

/// The entry of `clouds` for it.
pub(crate) const LOCATION: &str = "local: { url: \"file:./local\" }";

/// A directory with a cloud in it.
pub(crate) struct Place {
    /// The spec.
    pub(crate) file: PathBuf,
    /// What it says.
    pub(crate) topology: Topology,
    cloud: Cloud,
    folder: PathBuf,
}

impl Place {
    /// Makes `directory` such a place; what its datasets hold stays. `memory` is that of the topology, if not its default.
    pub(crate) async fn open(directory: &Path, datasets: &[&str], memory: Option<&str>) -> Result<Self> {
        Self::open_as(directory, &topology(datasets, memory)).await
    }

    /// Makes `directory` a place of the topology with this text, whose one cloud is [`LOCATION`].
    pub(crate) async fn open_as(directory: &Path, topology: &str) -> Result<Self> {
        let folder = directory.join(CLOUD);
        fs::create_dir_all(&folder)?;
        let file = directory.join("topology.yaml");
        fs::write(&file, topology)?;
        let topology = spec::load(&file).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        let cloud = open_clouds(&topology)?.into_iter().next().context("there is a cloud")?;
        cloud.create_root().await?;
        Ok(Self { file, topology, cloud, folder })
    }

    /// Where a dataset lies.
    pub(crate) fn folder(&self, dataset: &str) -> PathBuf {
        self.folder.join("datasets").join(dataset)
    }

    /// Whether a version of a dataset is there; with it are all before it, and their files.
    pub(crate) fn has(&self, dataset: &str, version: u64) -> bool {
        body_path(&log_folder(&self.folder(dataset)), version).exists()
    }

    /// Makes a dataset anew, without rows.
    pub(crate) fn create(&self, dataset: &str, schema: SchemaRef) -> Result<Table> {
        let folder = self.folder(dataset);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let path = format!("datasets/{dataset}");
        let layout = TableLayout::new(&path, schema.clone(), &[], Compression::default())?;
        let clouds = vec![(CLOUD.to_owned(), self.cloud.data.clone())];
        let fan_out = FanOut::new(clouds, UploadLimits::default());
        let mut table = Table {
            dataset: dataset.to_owned(),
            log: log_folder(&folder),
            layout,
            fan_out,
            files: 0,
            next: 0,
            previous_sha256: NO_PREVIOUS_SHA256.to_owned(),
        };
        fs::create_dir_all(&table.log)?;
        let body = table.body()?.create(&definition(dataset, schema))?;
        table.publish(&body)?;
        Ok(table)
    }
}

/// A dataset that is being written.
pub(crate) struct Table {
    dataset: String,
    log: PathBuf,
    layout: Arc<TableLayout>,
    fan_out: Arc<FanOut>,
    files: u64,
    /// The version to be published next.
    next: u64,
    previous_sha256: String,
}

impl Table {
    /// Writes one file.
    pub(crate) async fn write_file(
        &mut self,
        batches: impl Iterator<Item = Result<RecordBatch>>,
    ) -> Result<StagedFile> {
        self.files += 1;
        let mut writer =
            DatasetWriter::new(self.layout.clone(), self.fan_out.clone(), &commit_id(self.files))?;
        let from = TopicPartition::new(self.dataset.as_str(), 0);
        for batch in batches {
            writer.write(&from, batch?)?;
            self.fan_out.ready().await;
        }
        let staged = writer.close()?.pop().context("a file has rows")?;
        for upload in &staged.uploads {
            let status = upload.settled().await;
            ensure!(status == UploadStatus::Done, "{} is not stored: {status:?}", staged.object_path);
        }
        Ok(staged)
    }

    /// Publishes a version that adds `files`.
    pub(crate) fn commit(&mut self, files: Vec<StagedFile>) -> Result<()> {
        let mut body = self.body()?;
        body.set_position("bench/cluster/topic/0".to_owned(), i64::try_from(self.next)?);
        for file in files {
            body.add_file(file.digest(), file.partition_values, file.stats);
        }
        self.publish(&body)
    }

    fn body(&self) -> Result<CommitBody> {
        body(&self.dataset, self.next, self.previous_sha256.clone())
    }

    fn publish(&mut self, body: &CommitBody) -> Result<()> {
        let bytes = body.to_bytes()?;
        fs::write(body_path(&self.log, self.next), &bytes)?;
        self.previous_sha256 = sha256_hex(&bytes);
        self.next += 1;
        Ok(())
    }
}

/// The log of the dataset in `folder`.
pub(crate) fn log_folder(folder: &Path) -> PathBuf {
    folder.join("_delta_log")
}

/// Where the body of a version lies in a log.
pub(crate) fn body_path(log: &Path, version: u64) -> PathBuf {
    log.join(format!("{version:020}.json"))
}

/// A body that does nothing yet: the first creates the table, the others write.
pub(crate) fn body(dataset: &str, version: u64, previous_sha256: String) -> Result<CommitBody> {
    let isobar = IsobarInfo {
        format: 1,
        topology: "bench".into(),
        dataset: dataset.into(),
        epoch: 1,
        sequence: version + 1,
        commit_id: commit_id(version),
        members: Vec::new(),
        previous_sha256,
        plan: sha256_hex(b"plan"),
        models: Vec::new(),
        offsets: vec![],
        rows: RowCounts::default(),
        files: vec![],
    };
    let operation = if version == 0 { CommitInfo::CREATE } else { CommitInfo::WRITE };
    let timestamp_ms = STARTED_MS + i64::try_from(version)?;
    Ok(CommitBody::new(CommitInfo::new(operation, timestamp_ms, isobar)))
}

/// The name of a commit.
pub(crate) fn commit_id(version: u64) -> String {
    format!("0000000000000001-{version:016}")
}

/// A table without partitions.
fn definition(dataset: &str, schema: SchemaRef) -> TableDefinition {
    TableDefinition {
        id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
        name: dataset.into(),
        description: None,
        schema,
        partition_by: vec![],
        created_ms: STARTED_MS,
    }
}

/// Columns as tables store them: nullable, and text in the one type that there is for it.
pub(crate) fn stored_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let stored = match field.data_type() {
            DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
            other => other.clone(),
        };
        Field::new(field.name(), stored, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A topology that nobody runs: its datasets are written by a benchmark, and only asked.
fn topology(datasets: &[&str], memory: Option<&str>) -> String {
    let mut text = format!(
        "topology: bench\n\
         kafka: {{ brokers: \"localhost:9092\" }}\n\
         clouds:\n  {LOCATION}\n\
         sources:\n  records: {{ topic: records, format: json, fields: {{ id: int64 }} }}\n\
         datasets:\n"
    );
    for dataset in datasets {
        text.push_str(&format!("  {dataset}: {{ from: records, sql: SELECT id FROM records }}\n"));
    }
    if let Some(memory) = memory {
        text.push_str(&format!("memory: {memory}\n"));
    }
    text
}
