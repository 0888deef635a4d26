//! The objects under `control/`: identity, epoch claims and the log records of an epoch.
//!
//! All of them are small JSON documents written create-only and never changed. Numbers in keys are padded to
//! twenty digits, so that keys sort as numbers do. `docs/format.md` fixes these shapes; golden files guard them.

use std::collections::BTreeMap;

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::chain::Chain;

/// Version of the shapes in this module; a reader refuses any other.
pub const FORMAT: u32 = 1;

/// Largest control object written and read back, in bytes.
pub const RECORD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Most decisions that may await publication in a majority; keeps headers small.
pub const UNPUBLISHED_MAX: u64 = 8;

/// Largest entry written, in bytes: a header carries on up to [`UNPUBLISHED_MAX`] of them, and the base besides.
pub const ENTRY_BYTES_MAX: u64 = RECORD_BYTES_MAX / (UNPUBLISHED_MAX + 1);

/// The number of a leadership. Rises; never used by two processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the control objects of one topology lie, relative to a cloud's prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// Keys of `topology`, whose name the spec has already checked to be a plain path segment.
    pub fn new(topology: &str) -> Self {
        Self { root: format!("control/{topology}") }
    }

    /// The identity of a cloud, written when the cloud is registered.
    pub fn identity(&self) -> Path {
        Path::from(format!("{}/identity", self.root))
    }

    /// What shows that a cloud was readmitted for the `generation`-th time; see `docs/protocol-readmission.md`.
    pub fn readmission(&self, generation: u64) -> Path {
        Path::from(format!("{}/readmitted/{generation:020}", self.root))
    }

    /// Where bytes found at version `version` of `table` are set aside. The same bytes have the same name in every
    /// cloud, other bytes have another.
    pub fn foreign(&self, table: &str, version: u64, sha256: &str) -> Path {
        Path::from(format!("{}/foreign/{table}/{version:020}-{sha256}.json", self.root))
    }

    /// What the schema registry has said.
    pub fn schema_archive(&self) -> Path {
        Path::from(format!("{}/schemas.json", self.root))
    }

    /// What shows that dead letters of `dataset` were sent, to the topic and under the name that `target` stands for.
    pub fn dead_letter(&self, dataset: &str, target: &str) -> Path {
        Path::from(format!("{}/dead_letter/{dataset}/{target}", self.root))
    }

    /// What shows that rows of `dataset` were published, to the topic and under the name that `target` stands for.
    pub fn publish(&self, dataset: &str, target: &str) -> Path {
        Path::from(format!("{}/publish/{dataset}/{target}", self.root))
    }

    /// The folder of all epoch claims.
    pub fn claims(&self) -> Path {
        Path::from(format!("{}/epoch", self.root))
    }

    /// The claim of one epoch.
    pub fn claim(&self, epoch: Epoch) -> Path {
        Path::from(format!("{}/epoch/{:020}", self.root, epoch.0))
    }

    /// The folder of all epochs' logs.
    pub fn logs(&self) -> Path {
        Path::from(format!("{}/log", self.root))
    }

    /// The folder of one epoch's log.
    pub fn log(&self, epoch: Epoch) -> Path {
        Path::from(format!("{}/log/{:020}", self.root, epoch.0))
    }

    /// One record of an epoch's log.
    pub fn record(&self, epoch: Epoch, index: u64) -> Path {
        Path::from(format!("{}/log/{:020}/{index:020}", self.root, epoch.0))
    }

    /// A folder for the start-up probe of one incarnation.
    pub fn probe(&self, incarnation: &str) -> Path {
        Path::from(format!("{}/probe/{incarnation}", self.root))
    }
}

/// The number at the end of a control key, `None` for a key that is not ours.
pub fn number_of(location: &Path) -> Option<u64> {
    number_before("", location)
}

/// The number of twenty digits that, before `suffix`, is the whole name of an object.
fn number_before(suffix: &str, location: &Path) -> Option<u64> {
    let name = location.filename()?.strip_suffix(suffix)?;
    (name.len() == 20).then(|| name.parse().ok())?
}

/// What stands before a model's name where its log is named among tables. No dataset's name has a slash.
pub const MODELS_PREFIX: &str = "models/";

/// The folder that the paths of a table's files are relative to: a dataset's, or a model's.
pub fn table_folder(table: &str) -> String {
    if table.starts_with(MODELS_PREFIX) { table.to_owned() } else { format!("datasets/{table}") }
}

/// The folder of a table's log.
pub fn log_folder(table: &str) -> Path {
    let log = if table.starts_with(MODELS_PREFIX) { "_log" } else { "_delta_log" };
    Path::from(format!("{}/{log}", table_folder(table)))
}

/// Where version `version` of `table` is published.
pub fn published_path(table: &str, version: u64) -> Path {
    Path::from(format!("{}/{version:020}.json", log_folder(table)))
}

/// The version whose body has this name, `None` for checkpoints and whatever else lies in a log.
pub fn published_version(location: &Path) -> Option<u64> {
    number_before(".json", location)
}

/// Where the checkpoint of version `version` of `dataset` lies.
pub fn checkpoint_path(dataset: &str, version: u64) -> Path {
    Path::from(format!("datasets/{dataset}/_delta_log/{version:020}.checkpoint.parquet"))
}

/// Where readers look for the newest checkpoint of `dataset`.
pub fn last_checkpoint_path(dataset: &str) -> Path {
    Path::from(format!("datasets/{dataset}/_delta_log/_last_checkpoint"))
}

/// The version whose checkpoint has this name, `None` for any other object.
pub fn checkpoint_version(location: &Path) -> Option<u64> {
    number_before(".checkpoint.parquet", location)
}

/// Who a cloud belongs to. A cloud without it, or with another's, counts in no majority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// [`FORMAT`].
    pub format: u32,
    /// The topology registered here.
    pub topology: String,
    /// Random id of this control group, the same in all its clouds.
    pub group: String,
    /// The cloud's own name in the topology.
    pub cloud: String,
    /// All clouds of the group, in claim order.
    pub clouds: Vec<String>,
}

/// The last thing written to a cloud that lost what it held and was readmitted: from then on it counts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readmission {
    /// [`FORMAT`].
    pub format: u32,
    /// The group, as in [`Identity`].
    pub group: String,
    /// The cloud's name.
    pub cloud: String,
    /// How often it was readmitted, this time included.
    pub generation: u64,
    /// The epoch whose header decided it.
    pub epoch: Epoch,
}

/// A process's claim to lead in an epoch. The epoch is owned by whoever reads its own claim in a majority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// [`FORMAT`].
    pub format: u32,
    /// The epoch claimed.
    pub epoch: Epoch,
    /// Random id of the claiming process's run.
    pub incarnation: String,
    /// Host and process id, for people.
    pub holder: String,
    /// Where the process answers `GET /v1/leader`, `host:port`, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// One version of one table, exactly as it will lie in `_delta_log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableBody {
    /// The dataset (or `<dataset>.quarantine`).
    pub dataset: String,
    /// The version this body becomes.
    pub version: u64,
    /// SHA-256 of `body`, hex.
    pub sha256: String,
    /// The bytes of `_delta_log/<version>.json`.
    pub body: String,
}

/// A checkpoint of a table: what has to be known to have the same bytes in every cloud, `_last_checkpoint` included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// The version whose state it is. Its place follows from that: [`checkpoint_path`].
    pub version: u64,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, hex.
    pub sha256: String,
    /// Actions of all kinds, which is rows of the file.
    pub actions: u64,
    /// `add` actions: files of the table.
    pub adds: u64,
}

/// One decision: what all tables become together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Place of this decision in the topology's history, from 1, without gaps.
    pub sequence: u64,
    /// The id of the commit decided here.
    pub commit_id: String,
    /// Commit timestamp, milliseconds since the Unix epoch; rises strictly with `sequence`.
    pub timestamp_ms: i64,
    /// The new versions, at most one per table.
    pub tables: Vec<TableBody>,
    /// New checkpoints, of versions decided before, by dataset; left out where there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checkpoints: BTreeMap<String, CheckpointRef>,
}

/// Record 0 of an epoch's log: everything a later leader needs to go on from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The registered clouds, in claim order.
    pub clouds: Vec<String>,
    /// The incarnation that owns the epoch.
    pub incarnation: String,
    /// The chain after the last decision seen published in a majority.
    pub base: Chain,
    /// Per cloud, the epoch up to which (inclusive) all logs there are sealed.
    pub sealed: BTreeMap<String, Epoch>,
    /// How often each cloud was readmitted after it had lost what it held; those that never were are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub readmitted: BTreeMap<String, u64>,
    /// Decisions after `base`, re-proposed with their bytes unchanged.
    pub tail: Vec<Decision>,
}

/// What an object under `log/<epoch>/` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// Record 0.
    Header(Header),
    /// Any later record: one decision.
    Entry(Decision),
    /// Closes the log of this epoch in this cloud for good.
    Seal {
        /// The epoch whose leader sealed it.
        by: Epoch,
    },
}

/// An object under `log/<epoch>/<index>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The record's place in it, from 0.
    pub index: u64,
    /// What it says.
    #[serde(flatten)]
    pub content: Content,
}

impl Record {
    /// A record of `epoch` at `index`.
    pub fn new(epoch: Epoch, index: u64, content: Content) -> Self {
        Self { format: FORMAT, epoch, index, content }
    }

    /// The decisions this record stands for, in order.
    pub fn decisions(&self) -> &[Decision] {
        match &self.content {
            Content::Header(header) => &header.tail,
            Content::Entry(decision) => std::slice::from_ref(decision),
            Content::Seal { .. } => &[],
        }
    }

    /// Whether this record closes its log.
    pub fn is_seal(&self) -> bool {
        matches!(self.content, Content::Seal { .. })
    }
}

/// The bytes of a control object. The same value always gives the same bytes.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut bytes =
        serde_json::to_vec(value).expect("control objects have string keys and no failing serializer");
    bytes.push(b'\n');
    bytes.into()
}

/// Reads a control object back, refusing another format.
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Envelope {
        format: u32,
    }
    let envelope: Envelope =
        serde_json::from_slice(bytes).map_err(|error| format!("not a control object: {error}"))?;
    if envelope.format != FORMAT {
        return Err(format!("format {} is not the format {FORMAT} of this build", envelope.format));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("damaged control object: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_padded_and_sort_as_numbers() {
        let keys = Keys::new("flights");
        assert_eq!(
            keys.record(Epoch(7), 12).as_ref(),
            "control/flights/log/00000000000000000007/00000000000000000012"
        );
        assert_eq!(keys.claim(Epoch(7)).as_ref(), "control/flights/epoch/00000000000000000007");
        assert_eq!(
            published_path("d.quarantine", 3).as_ref(),
            "datasets/d.quarantine/_delta_log/00000000000000000003.json"
        );
        assert_eq!(published_path("models/late", 3).as_ref(), "models/late/_log/00000000000000000003.json");
        assert_eq!(number_of(&keys.record(Epoch(7), 12)), Some(12));
        assert_eq!(number_of(&keys.identity()), None);
        assert_eq!(keys.readmission(2).as_ref(), "control/flights/readmitted/00000000000000000002");
        assert_eq!(
            keys.foreign("d.quarantine", 3, "ab").as_ref(),
            "control/flights/foreign/d.quarantine/00000000000000000003-ab.json"
        );
    }

    #[test]
    fn a_header_without_readmissions_has_the_bytes_it_always_had() {
        let bytes = "{\"format\":1,\"epoch\":4,\"index\":0,\"kind\":\"header\",\"clouds\":[\"a\"],\
                     \"incarnation\":\"i\",\"base\":{\"sequence\":0,\"timestamp_ms\":0,\"tables\":{}},\
                     \"sealed\":{\"a\":3},\"tail\":[]}\n";
        let record: Record = decode(bytes.as_bytes()).unwrap();
        let Content::Header(header) = &record.content else { panic!("it is a header") };
        assert_eq!(header.readmitted, BTreeMap::new());
        assert_eq!(encode(&record), bytes);
        let mut readmitting = header.clone();
        readmitting.readmitted.insert("a".into(), 2);
        let bytes = bytes.replace("\"tail\"", "\"readmitted\":{\"a\":2},\"tail\"");
        assert_eq!(encode(&Record::new(Epoch(4), 0, Content::Header(readmitting))), bytes);
    }

    #[test]
    fn a_decision_without_checkpoints_has_the_bytes_it_always_had() {
        let bytes = "{\"format\":1,\"epoch\":4,\"index\":1,\"kind\":\"entry\",\"sequence\":7,\"commit_id\":\"c\",\
                     \"timestamp_ms\":5,\"tables\":[]}\n";
        let record: Record = decode(bytes.as_bytes()).unwrap();
        assert_eq!(encode(&record), bytes);
        let Content::Entry(mut decision) = record.content else { panic!("it is an entry") };
        let checkpoint = CheckpointRef { version: 3, size: 9, sha256: "ab".into(), actions: 5, adds: 2 };
        decision.checkpoints.insert("d".into(), checkpoint);
        let with = "\"tables\":[],\"checkpoints\":{\"d\":{\"version\":3,\"size\":9,\"sha256\":\"ab\",\
                    \"actions\":5,\"adds\":2}}";
        let bytes = bytes.replace("\"tables\":[]", with);
        let record = Record::new(Epoch(4), 1, Content::Entry(decision));
        assert_eq!(encode(&record), bytes);
        assert_eq!(decode::<Record>(bytes.as_bytes()), Ok(record));
    }

    #[test]
    fn only_the_name_of_a_checkpoint_stands_for_one() {
        let path = checkpoint_path("d.quarantine", 30);
        assert_eq!(path.as_ref(), "datasets/d.quarantine/_delta_log/00000000000000000030.checkpoint.parquet");
        assert_eq!(checkpoint_version(&path), Some(30));
        let log = "datasets/d/_delta_log";
        let number = "00000000000000000030";
        for other in [
            last_checkpoint_path("d").to_string(),
            format!("{log}/{number}.json"),
            format!("{log}/30.checkpoint.parquet"),
            format!("{log}/{number}.checkpoint.0000000001.0000000002.parquet"),
            format!("{log}/{number}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.parquet"),
        ] {
            assert_eq!(checkpoint_version(&Path::from(other.as_str())), None, "{other}");
        }
    }

    #[test]
    fn only_the_name_of_a_body_stands_for_a_version() {
        assert_eq!(published_version(&published_path("d.quarantine", 30)), Some(30));
        let log = "datasets/d/_delta_log";
        let number = "00000000000000000030";
        for other in [
            last_checkpoint_path("d").to_string(),
            checkpoint_path("d", 30).to_string(),
            format!("{log}/{number}"),
            format!("{log}/30.json"),
            format!("{log}/{number}.80a083e8-7026-4e79-81be-64bd76c43a11.json"),
        ] {
            assert_eq!(published_version(&Path::from(other.as_str())), None, "{other}");
        }
    }

    #[test]
    fn the_bytes_of_a_readmission_are_fixed() {
        let readmission = Readmission {
            format: FORMAT,
            group: "g".into(),
            cloud: "azure".into(),
            generation: 2,
            epoch: Epoch(7),
        };
        let bytes = "{\"format\":1,\"group\":\"g\",\"cloud\":\"azure\",\"generation\":2,\"epoch\":7}\n";
        assert_eq!(encode(&readmission), bytes);
        assert_eq!(decode::<Readmission>(bytes.as_bytes()), Ok(readmission));
    }

    #[test]
    fn records_survive_a_round_trip_and_other_formats_are_refused() {
        let decision = Decision {
            sequence: 1,
            commit_id: "c".into(),
            timestamp_ms: 5,
            tables: vec![TableBody {
                dataset: "d".into(),
                version: 0,
                sha256: "00".into(),
                body: "{\"x\":\"\\n\"}\n".into(),
            }],
            checkpoints: BTreeMap::new(),
        };
        for content in [
            Content::Header(Header {
                clouds: vec!["a".into()],
                incarnation: "i".into(),
                base: Chain::default(),
                sealed: BTreeMap::from([("a".to_owned(), Epoch(3))]),
                readmitted: BTreeMap::from([("a".to_owned(), 1)]),
                tail: vec![decision.clone()],
            }),
            Content::Entry(decision),
            Content::Seal { by: Epoch(9) },
        ] {
            let record = Record::new(Epoch(4), 2, content);
            let bytes = encode(&record);
            assert_eq!(decode::<Record>(&bytes), Ok(record));
        }
        assert!(decode::<Record>(b"{\"format\":2}").unwrap_err().contains("format 2"));
        assert!(decode::<Record>(b"garbage").is_err());
    }
}
