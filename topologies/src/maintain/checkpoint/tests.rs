use arrow::datatypes::{DataType, Field, Schema};
use isobar_connectors::delta::body::NO_PREVIOUS_SHA256;
use isobar_connectors::delta::{CommitBody, CommitInfo, FileDigest, IsobarInfo, TableDefinition, sha256_hex};
use isobar_schemas::RowCounts;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use super::*;
use crate::commit::format::published_path;

const TABLE: &str = "d";

fn body(version: u64, previous_sha256: String) -> Bytes {
    let isobar = IsobarInfo {
        format: 1,
        topology: "t".into(),
        dataset: TABLE.into(),
        epoch: 1,
        sequence: version + 1,
        commit_id: format!("c{version}"),
        members: Vec::new(),
        previous_sha256,
        plan: String::new(),
        models: Vec::new(),
        offsets: Vec::new(),
        rows: RowCounts::default(),
        files: Vec::new(),
    };
    let operation = if version == 0 { CommitInfo::CREATE } else { CommitInfo::WRITE };
    let mut body = CommitBody::new(CommitInfo::new(operation, version as i64, isobar));
    if version == 0 {
        let table = TableDefinition {
            id: "id".into(),
            name: TABLE.into(),
            description: None,
            schema: Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)])),
            partition_by: Vec::new(),
            created_ms: 0,
        };
        return body.create(&table).unwrap().to_bytes().unwrap();
    }
    let digest =
        FileDigest { path: format!("f{version}.parquet"), size: 10, sha256: "ab".repeat(32), rows: 5 };
    body.info.isobar.rows = RowCounts { input: 5, output: 5, ..RowCounts::default() };
    body.add_file(digest, Default::default(), "{\"numRecords\":5}".into());
    body.to_bytes().unwrap()
}

/// Three clouds with versions 0 to 6, and the head.
async fn table() -> (Vec<Cloud>, TableHead) {
    let clouds: Vec<Cloud> = ["a", "b", "c"]
        .map(|name| {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            Cloud::new(name, store.clone(), store)
        })
        .into();
    let mut sha256 = NO_PREVIOUS_SHA256.to_owned();
    for version in 0..=6 {
        let bytes = body(version, sha256);
        sha256 = sha256_hex(&bytes);
        for cloud in &clouds {
            cloud.data.put(&published_path(TABLE, version), bytes.clone().into()).await.unwrap();
        }
    }
    let head = TableHead {
        version: 6,
        sha256,
        positions: Default::default(),
        maintained: 0,
        checkpoint: None,
        previous_checkpoint: None,
        described: None,
    };
    (clouds, head)
}

fn checkpoint(version: u64) -> CheckpointRef {
    CheckpointRef { version, size: 1, sha256: "cd".repeat(32), actions: 2, adds: 0 }
}

#[tokio::test]
async fn every_multiple_of_the_interval_is_due_once_and_only_the_newest() {
    let (_, head) = table().await;
    let due_at = |version: u64, last: Option<u64>, every: u64| {
        due(&TableHead { version, checkpoint: last.map(checkpoint), ..head.clone() }, every)
    };
    assert_eq!(due_at(0, None, 1), None, "a table without rows needs none");
    assert_eq!((due_at(9, None, 10), due_at(10, None, 10), due_at(39, None, 10)), (None, Some(10), Some(30)));
    assert_eq!((due_at(39, Some(30), 10), due_at(40, Some(30), 10)), (None, Some(40)));
    // Another interval, and none.
    assert_eq!((due_at(45, Some(40), 30), due_at(61, Some(40), 30)), (None, Some(60)));
    assert_eq!(due_at(40, None, 0), None);
}

#[tokio::test]
async fn however_it_is_built_a_checkpoint_of_a_version_is_the_same() {
    let (clouds, head) = table().await;
    let whole = build(&clouds, TABLE, &head, 6).await.unwrap();
    assert_eq!((whole.checkpoint.version, whole.checkpoint.adds), (6, 6));
    let in_steps = build_in_steps(&clouds, TABLE, &head, 6, 1).await.unwrap();
    assert_eq!(in_steps.checkpoint, whole.checkpoint);

    let older = build(&clouds, TABLE, &head, 3).await.unwrap();
    assert_eq!(older.checkpoint.adds, 3, "versions after it do not count");
    older.upload(&clouds, &[true; 3]).await.unwrap();
    let head = TableHead { checkpoint: Some(older.checkpoint), ..head };
    let on_it = build(&clouds, TABLE, &head, 6).await.unwrap();
    assert_eq!(on_it.checkpoint, whole.checkpoint);
}

#[tokio::test]
async fn only_what_the_head_vouches_for_gets_into_a_checkpoint() {
    let (clouds, head) = table().await;
    let due = build(&clouds, TABLE, &head, 6).await.unwrap().checkpoint;
    let path = published_path(TABLE, 4);
    let other = body(4, "ef".repeat(32));
    clouds[0].data.put(&path, other.clone().into()).await.unwrap();
    assert_eq!(build(&clouds, TABLE, &head, 6).await.unwrap().checkpoint, due);
    for cloud in &clouds {
        cloud.data.put(&path, other.clone().into()).await.unwrap();
    }
    let failure = build(&clouds, TABLE, &head, 6).await.err().unwrap();
    assert!(failure.contains("missing or differs"), "{failure}");
}

#[tokio::test]
async fn a_checkpoint_goes_only_where_its_version_is_and_needs_a_majority_there() {
    let (clouds, head) = table().await;
    let built = build(&clouds, TABLE, &head, 6).await.unwrap();
    // What an earlier leader left there, of the same size.
    let path = checkpoint_path(TABLE, 6);
    let left = vec![0; usize::try_from(built.checkpoint.size).unwrap()];
    clouds[0].data.put(&path, left.into()).await.unwrap();
    let failure = built.upload(&clouds, &[true, false, false]).await.unwrap_err();
    assert!(failure.contains("b: it has not published this version yet"), "{failure}");

    let (object, uploads) = built.upload(&clouds, &[true, true, false]).await.unwrap();
    assert_eq!(object, path.as_ref());
    let done: Vec<bool> = uploads.iter().map(|upload| upload.status() == UploadStatus::Done).collect();
    assert_eq!(done, [true, true, false]);
    for (cloud, done) in clouds.iter().zip(done) {
        let held = cloud.data.get(&path).await;
        let is_it = match held {
            Ok(held) => sha256_hex(&held.bytes().await.unwrap()) == built.checkpoint.sha256,
            Err(_) => false,
        };
        assert_eq!(is_it, done, "{}", cloud.name);
    }
}
