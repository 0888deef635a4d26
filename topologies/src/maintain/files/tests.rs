use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::{CommitInfo, FileDigest, IsobarInfo, TableDefinition};
use isobar_schemas::RowCounts;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;

/// A log of one table, partitioned by `m`, and what maintenance knows of it.
struct Bench {
    bodies: Vec<Bytes>,
    files: TableFiles,
}

fn values(month: &str) -> BTreeMap<String, Option<String>> {
    BTreeMap::from([("m".to_owned(), Some(month.to_owned()))])
}

fn options(target_bytes: u64, files_min: usize) -> CompactSpec {
    CompactSpec { target_bytes, files_min }
}

impl Bench {
    /// Files below 50 bytes are small.
    fn new() -> Self {
        let mut bench = Self { bodies: Vec::new(), files: TableFiles::new("d", 50) };
        let schema =
            Schema::new(vec![Field::new("x", DataType::Int64, true), Field::new("m", DataType::Utf8, true)]);
        let table = TableDefinition {
            id: "id".into(),
            name: "d".into(),
            description: None,
            schema: Arc::new(schema),
            partition_by: vec!["m".into()],
            created_ms: 0,
        };
        bench.publish(CommitBody::new(bench.info(None)).create(&table).unwrap());
        bench
    }

    fn info(&self, maintenance: Option<Maintenance>) -> CommitInfo {
        let version = self.bodies.len() as u64;
        let isobar = IsobarInfo {
            format: 1,
            topology: "t".into(),
            dataset: "d".into(),
            epoch: 1,
            sequence: version + 1,
            commit_id: format!("c{version}"),
            members: Vec::new(),
            previous_sha256: self.files.sha256.clone(),
            plan: String::new(),
            models: Vec::new(),
            offsets: Vec::new(),
            rows: RowCounts::default(),
            files: Vec::new(),
        };
        let timestamp_ms = version as i64;
        match maintenance {
            Some(maintenance) => CommitInfo::maintaining(&maintenance, timestamp_ms, isobar),
            None => CommitInfo::new(CommitInfo::WRITE, timestamp_ms, isobar),
        }
    }

    fn publish(&mut self, body: CommitBody) {
        let bytes = body.to_bytes().unwrap();
        self.files.apply(&bytes).unwrap();
        self.bodies.push(bytes);
    }

    /// One commit with files of these names, directories and sizes; each has as many rows as bytes.
    fn commit(&mut self, files: &[(&str, &str, u64)]) {
        let mut info = self.info(None);
        info.isobar.rows.output = files.iter().map(|(_, _, size)| size).sum();
        info.isobar.rows.input = info.isobar.rows.output;
        let mut body = CommitBody::new(info);
        for (name, month, size) in files {
            add(&mut body, name, month, *size);
        }
        self.publish(body);
    }

    fn compact(&mut self, group: &[SmallFile], name: &str) {
        let rows = group.iter().map(|file| file.rows).sum();
        let work = MaintenanceWork::Optimize { rows };
        let mut body = CommitBody::new(self.info(Some(Maintenance { after: self.files.maintained(), work })));
        for file in group {
            body.remove_file(file.path.clone(), file.size, file.partition_values.clone());
        }
        let month = group[0].partition_values["m"].clone().unwrap();
        add(&mut body, name, &month, rows);
        self.publish(body);
    }

    fn vacuum(&mut self, through: u64) {
        let work = MaintenanceWork::Vacuum { through };
        let maintenance = Maintenance { after: self.files.maintained(), work };
        self.publish(CommitBody::new(self.info(Some(maintenance))));
    }

    fn planned(&self, options: CompactSpec) -> Vec<String> {
        let group = self.files.plan_compaction(&options).unwrap_or_default();
        group.iter().map(|file| file.path.clone()).collect()
    }

    fn group(&self, options: CompactSpec) -> Vec<SmallFile> {
        self.files.plan_compaction(&options).unwrap()
    }
}

fn add(body: &mut CommitBody, name: &str, month: &str, size: u64) {
    let digest = FileDigest { path: format!("m={month}/{name}"), size, sha256: "0".repeat(64), rows: size };
    body.add_file(digest, values(month), format!("{{\"numRecords\":{size}}}"));
}

#[test]
fn small_files_of_one_directory_are_combined_oldest_first_once_there_are_enough() {
    let mut bench = Bench::new();
    bench.commit(&[("a", "1", 10), ("a", "2", 10)]);
    bench.commit(&[("b", "1", 10)]);
    assert_eq!(bench.planned(options(100, 3)), [""; 0]);
    bench.commit(&[("c", "1", 10), ("c", "2", 10)]);
    assert_eq!(bench.planned(options(100, 3)), ["m=1/a", "m=1/b", "m=1/c"]);
    assert_eq!(bench.planned(options(100, 4)), [""; 0]);
    // As many as fit into the target, even if these are few.
    assert_eq!(bench.planned(options(25, 16)), ["m=1/a", "m=1/b"]);
    assert_eq!(bench.planned(options(15, 16)), [""; 0], "one file is no group");
}

#[test]
fn of_two_directories_the_one_with_more_files_comes_first() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.commit(&[(name, "1", 10), (name, "2", 10)]);
    }
    assert_eq!(bench.planned(options(100, 2))[0], "m=1/a", "the first among equals");
    bench.commit(&[("d", "2", 10)]);
    assert_eq!(bench.planned(options(100, 2))[0], "m=2/a");
}

#[test]
fn rows_keep_their_order_around_large_files_and_what_was_combined_before() {
    let mut bench = Bench::new();
    bench.commit(&[("a", "1", 10)]);
    bench.commit(&[("b", "1", 90)]);
    bench.commit(&[("c", "1", 10)]);
    bench.commit(&[("d", "1", 10)]);
    assert_eq!(bench.planned(options(200, 2)), ["m=1/c", "m=1/d"], "never across a large file");
    let group = bench.group(options(200, 2));
    bench.commit(&[("e", "1", 10)]);
    bench.compact(&group, "cd");
    // What was combined stands where its rows stood, before what came meanwhile.
    bench.commit(&[("f", "1", 10)]);
    assert_eq!(bench.planned(options(200, 3)), ["m=1/cd", "m=1/e", "m=1/f"]);
    let group = bench.group(options(200, 3));
    assert_eq!(group[0].rows, 20);
    bench.compact(&group, "x");
    bench.commit(&[("g", "1", 20), ("h", "1", 20)]);
    assert_eq!(bench.planned(options(60, 2)), ["m=1/x", "m=1/g"]);
    let group = bench.group(options(60, 2));
    bench.compact(&group, "y");
    assert_eq!(bench.files.directories[&values("1")].len(), 3, "a, large ones, h");
}

#[test]
fn a_file_larger_than_all_after_it_waits_until_more_have_come() {
    let mut bench = Bench::new();
    bench.commit(&[("a", "1", 40)]);
    bench.commit(&[("b", "1", 10)]);
    bench.commit(&[("c", "1", 10)]);
    assert_eq!(bench.planned(options(1000, 2)), ["m=1/b", "m=1/c"]);
    bench.commit(&[("d", "1", 20)]);
    assert_eq!(bench.planned(options(1000, 2)), ["m=1/a", "m=1/b", "m=1/c", "m=1/d"]);
}

#[test]
fn each_byte_is_rewritten_a_few_times_on_its_way_to_the_target() {
    let mut bench = Bench { bodies: Vec::new(), files: TableFiles::new("d", 2048) };
    bench.bodies = Bench::new().bodies;
    let first = bench.bodies[0].clone();
    bench.files.apply(&first).unwrap();
    let (mut written, mut rewritten) = (0, 0);
    for number in 0..2048 {
        bench.commit(&[(&format!("s{number}"), "1", 1)]);
        written += 1;
        while let Some(group) = bench.files.plan_compaction(&options(4096, 8)) {
            rewritten += group.iter().map(|file| file.size).sum::<u64>();
            bench.compact(&group, &format!("l{}", bench.bodies.len()));
        }
    }
    assert!(rewritten < 12 * written, "{written} bytes were rewritten as {rewritten}");
    let places = bench.files.directories[&values("1")].len();
    assert!(places < 32, "{places} files are left");
}

#[test]
fn a_vacuum_waits_for_the_one_before_and_keeps_the_versions_asked_for() {
    let mut bench = Bench::new();
    bench.commit(&[("a", "1", 10), ("b", "1", 10)]);
    assert_eq!(bench.files.plan_vacuum(1, 1), None, "nothing was removed");
    bench.compact(&bench.group(options(100, 2)), "ab");
    bench.commit(&[("c", "1", 10)]);
    assert_eq!(bench.files.plan_vacuum(3, 2), None, "version 1 would be lost");
    assert_eq!(bench.files.plan_vacuum(3, 1), Some(2));
    assert_eq!(bench.files.plan_vacuum(3, 9), None);
    bench.vacuum(2);
    let vacuum = bench.files.vacuum().unwrap().clone();
    assert_eq!(vacuum.sequence, 5);
    let sha256 = delta::sha256_hex(&bench.bodies[2]);
    assert_eq!(vacuum.removals, [Removal { version: 2, sha256 }]);
    bench.commit(&[("d", "1", 30)]);
    bench.compact(&bench.group(options(100, 2)), "abcd");
    assert_eq!(bench.files.plan_vacuum(6, 0), None, "the files of the last one may still be there");
    bench.files.vacuum_finished();
    assert_eq!(bench.files.plan_vacuum(6, 0), Some(6));
    assert_eq!(bench.files.maintained(), 6);
}

#[test]
fn a_vacuum_that_is_due_comes_before_a_compaction_and_never_twice_without_one() {
    let mut bench = Bench::new();
    let spec =
        MaintenanceSpec { compact: Some(options(100, 2)), keep_versions: Some(1), checkpoint_every: None };
    let mut plans = Vec::new();
    for round in 0..6 {
        // There are always two more files to combine.
        bench.commit(&[("a", &format!("{round}"), 10), ("b", &format!("{round}"), 10)]);
        match bench.files.plan(bench.bodies.len() as u64 - 1, &spec) {
            Some(Plan::Vacuum { through }) => {
                bench.vacuum(through);
                bench.files.vacuum_finished();
                plans.push("vacuum");
            }
            Some(Plan::Compact(group)) => {
                bench.compact(&group, &format!("ab{round}"));
                plans.push("compact");
            }
            None => plans.push("nothing"),
        }
    }
    assert_eq!(plans, ["compact", "vacuum", "compact", "vacuum", "compact", "vacuum"]);
}

#[tokio::test]
async fn the_log_is_followed_through_clouds_that_are_behind_or_wrong() {
    let mut bench = Bench::new();
    for number in 0..40 {
        bench.commit(&[(&format!("f{number}"), "1", 1)]);
    }
    let mut clouds = Vec::new();
    for versions in [0..7, 5..5, 0..30] {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for version in versions {
            let path = published_path("d", version);
            store.put(&path, bench.bodies[version as usize].clone().into()).await.unwrap();
        }
        clouds.push(Cloud::new("cloud", store.clone(), store));
    }
    // What does not follow is not believed, and the next cloud is asked.
    let path = published_path("d", 7);
    clouds[0].control.put(&path, bench.bodies[9].clone().into()).await.unwrap();
    let mut files = TableFiles::new("d", 50);
    assert_eq!(files.advance(&clouds, 40).await, Ok(()), "what nobody has published is left for later");
    assert_eq!(files.next_version, 30);
    clouds.truncate(1);
    clouds[0].control.put(&published_path("d", 30), bench.bodies[31].clone().into()).await.unwrap();
    assert!(files.advance(&clouds, 40).await.unwrap_err().contains("does not follow"));
    for version in 30..41 {
        let body = bench.bodies[version as usize].clone();
        clouds[0].control.put(&published_path("d", version), body.into()).await.unwrap();
    }
    files.advance(&clouds, 40).await.unwrap();
    assert_eq!((files.next_version, &files.directories), (41, &bench.files.directories));
}

/// Clouds with all versions of the bench.
async fn clouds_of(bench: &Bench) -> Vec<Cloud> {
    let mut clouds = Vec::new();
    for name in ["a", "b", "c"] {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for (version, body) in (0..).zip(&bench.bodies) {
            store.put(&published_path("d", version), body.clone().into()).await.unwrap();
        }
        clouds.push(Cloud::new(name, store.clone(), store));
    }
    clouds
}

/// As the version, but the file that it adds has another name: what rot might do.
async fn rot(cloud: &Cloud, bench: &Bench, version: u64) {
    let body = String::from_utf8(bench.bodies[version as usize].to_vec()).unwrap();
    let other = body.replace("m=1/f", "m=1/x");
    assert_ne!(other, body);
    cloud.control.put(&published_path("d", version), other.into()).await.unwrap();
}

#[tokio::test]
async fn what_the_head_does_not_vouch_for_is_forgotten_and_read_from_another_cloud() {
    let mut bench = Bench::new();
    for number in 0..4 {
        bench.commit(&[(&format!("f{number}"), "1", 1)]);
    }
    let head = TableHead {
        version: 4,
        sha256: bench.files.sha256.clone(),
        positions: BTreeMap::new(),
        maintained: 0,
        checkpoint: None,
        previous_checkpoint: None,
        described: None,
    };
    for version in [2, 4] {
        let clouds = clouds_of(&bench).await;
        rot(&clouds[0], &bench, version).await;
        let mut files = TableFiles::new("d", 50);
        assert_eq!(files.reach(&clouds, &head).await, Ok(true), "version {version}");
        assert_eq!(files.directories, bench.files.directories);
    }
    let clouds = clouds_of(&bench).await;
    for cloud in &clouds {
        rot(cloud, &bench, 4).await;
    }
    let mut files = TableFiles::new("d", 50);
    assert!(files.reach(&clouds, &head).await.unwrap_err().contains("is not the decided one"));
    assert!(files.directories.is_empty(), "nothing can be planned");
    // Where the head is not yet, nothing is wrong and nothing is planned.
    for cloud in &clouds {
        cloud.control.delete(&published_path("d", 4)).await.unwrap();
    }
    assert_eq!(files.reach(&clouds, &head).await, Ok(false));
}

#[test]
fn a_group_is_no_larger_than_an_entry_may_be() {
    let mut bench = Bench::new();
    let long = "x".repeat(800);
    let names: Vec<String> = (0..3000).map(|number| format!("{long}{number}")).collect();
    for names in names.chunks(500) {
        let files: Vec<(&str, &str, u64)> = names.iter().map(|name| (name.as_str(), "1", 1)).collect();
        bench.commit(&files);
    }
    let group = bench.group(options(1 << 20, 2));
    assert!((2..3000).contains(&group.len()), "{}", group.len());
    bench.compact(&group, "all");
    assert!(bench.bodies.last().unwrap().len() < 2 * GROUP_LOG_BYTES_MAX);
}
