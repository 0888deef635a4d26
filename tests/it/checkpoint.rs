//! Tables read from a checkpoint by the independent reader, which finds no older body beside it. Needs Python.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use isobar_connectors::checkpoint::{last_checkpoint, write_checkpoint};
use isobar_connectors::delta::{CommitBody, CommitInfo, IsobarInfo, Remove, parse_body, sha256_hex};
use isobar_schemas::RowCounts;
use isobar_tests::delta::Log;
use isobar_tests::events::{FEATURES, Generator, TOPIC};
use isobar_tests::lab::Lab;
use isobar_tests::prng::Seed;
use isobar_tests::services::{counts, oracle};
use isobar_tests::trees::copy_folder;

/// A table of several versions, written by isobar, from which the last version removes a file.
struct Fixture {
    lab: Lab,
    table: PathBuf,
    bodies: Vec<Bytes>,
}

impl Fixture {
    async fn new() -> Self {
        let lab = Lab::in_directories();
        let mut records = Generator::mixed(Seed::of("checkpoint").prng());
        for _ in 0..3 {
            lab.produce(TOPIC, records.records(150));
            lab.run_until_caught_up(&lab.features()).await.unwrap();
        }
        let log = Log::read(&*lab.clouds[0].store(), FEATURES).await;
        let table = lab.clouds[0].folder.as_ref().unwrap().join("datasets").join(FEATURES);
        let mut bodies: Vec<Bytes> = log.versions.iter().map(|version| version.bytes.clone()).collect();
        let path = log.live_files().into_keys().next().unwrap();
        let removal = removal(bodies.last().unwrap(), path);
        fs::write(body_path(&table, bodies.len()), &removal).unwrap();
        bodies.push(removal);
        Self { lab, table, bodies }
    }

    /// A copy of the table with a checkpoint of `version` in place of all bodies up to it. The checkpoint is built on one
    /// of half the versions.
    fn with_checkpoint(&self, version: usize) -> PathBuf {
        let copy = self.lab.directory.path().join(format!("from_checkpoint_{version}"));
        copy_folder(&self.table, &copy);
        let up_to = |from: usize, to: usize| self.bodies[from..to].iter().cloned().map(Ok);
        let (middle, end) = (version.div_ceil(2), version + 1);
        let mut previous = Vec::new();
        write_checkpoint(None::<Bytes>, up_to(0, middle), &mut previous).unwrap();
        let mut file =
            fs::File::create(copy.join(format!("_delta_log/{version:020}.checkpoint.parquet"))).unwrap();
        let summary = write_checkpoint(Some(Bytes::from(previous)), up_to(middle, end), &mut file).unwrap();
        fs::write(copy.join("_delta_log/_last_checkpoint"), last_checkpoint(version as u64, &summary))
            .unwrap();
        (0..end).for_each(|older| fs::remove_file(body_path(&copy, older)).unwrap());
        copy
    }
}

/// The body after `previous` that removes a file, and says about it no more than it must.
fn removal(previous: &Bytes, path: String) -> Bytes {
    let last = parse_body(previous).unwrap();
    let isobar = IsobarInfo {
        sequence: last.info.isobar.sequence + 1,
        commit_id: "removal".into(),
        previous_sha256: sha256_hex(previous),
        offsets: vec![],
        rows: RowCounts::default(),
        files: vec![],
        ..last.info.isobar
    };
    let mut body = CommitBody::new(CommitInfo::new("DELETE", last.info.timestamp_ms + 1, isobar));
    body.removes.push(Remove {
        path,
        deletion_timestamp: None,
        data_change: true,
        extended_file_metadata: None,
        partition_values: None,
        size: None,
    });
    body.to_bytes().unwrap()
}

fn body_path(table: &Path, version: usize) -> PathBuf {
    table.join(format!("_delta_log/{version:020}.json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_read_from_a_checkpoint_is_the_table_read_from_its_bodies() {
    let fixture = Fixture::new().await;
    let due = counts(&fixture.table).await;
    let last = fixture.bodies.len() - 1;
    assert!(last >= 4, "version 0, three runs and the removal");
    assert_eq!(due["version"], last);
    assert!(due["rows"].as_u64() > Some(0));
    for version in [last / 2, last - 1, last] {
        let copy = fixture.with_checkpoint(version);
        assert_eq!(counts(&copy).await, due, "checkpoint of version {version}");
        oracle(&["compare", fixture.table.to_str().unwrap(), copy.to_str().unwrap()]).await.assert(0, &[]);
    }
}
