//! What can be said about training sets without a table: the rest is in `tests/it/training.rs`.

use isobar_connectors::clouds::Cloud;
use object_store::memory::InMemory;

use super::*;

fn clouds() -> Vec<Cloud> {
    let cloud = |name: &str| {
        let store = Arc::new(InMemory::new());
        Cloud::new(name, store.clone(), store)
    };
    vec![cloud("aws"), cloud("gcp")]
}

#[test]
fn versions_are_numbers_per_dataset_or_a_time() {
    let each = |pairs: &[(&str, u64)]| {
        SetVersions::Each(pairs.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect())
    };
    assert_eq!("flights=42".parse(), Ok(each(&[("flights", 42)])));
    assert_eq!("flights=42, weather=0".parse(), Ok(each(&[("flights", 42), ("weather", 0)])));
    assert_eq!("1970-01-01T00:00:02Z".parse(), Ok(SetVersions::TimeMs(2000)));
    assert_eq!("1970-01-02".parse(), Ok(SetVersions::TimeMs(86_400_000)));
    for text in ["", "42", "flights", "flights=", "flights=-1", "flights=1,", "flights=1,flights=2", "=x"] {
        assert!(text.parse::<SetVersions>().is_err(), "{text}");
    }
}

#[test]
fn sets_go_to_folders_and_below_training_in_clouds() {
    let clouds = clouds();
    let parsed = |text: &str| Destination::parse(text, &clouds);
    for (text, path) in [("./sets", "./sets"), ("/a/b", "/a/b"), ("file:///a/b", "/a/b"), ("a b", "a b")] {
        match parsed(text).unwrap() {
            Destination::Local(found) => assert_eq!(found, Path::new(path)),
            other => panic!("{text}: {other:?}"),
        }
    }
    for (text, folder) in [
        ("cloud://gcp/training", "training"),
        ("cloud://gcp/training/late/", "training/late"),
        ("test://gcp/training/late", "training/late"),
    ] {
        match parsed(text).unwrap() {
            Destination::Cloud(cloud, found) => {
                assert_eq!((cloud.name.as_str(), found.as_ref()), ("gcp", folder), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    for (text, problem) in [
        ("cloud://azure/training", "there is no cloud `azure`: there are aws, gcp"),
        ("cloud://gcp/datasets/flights", "training sets lie in `training`"),
        ("cloud://gcp/control/training", "training sets lie in `training`"),
        ("cloud://gcp", "training sets lie in `training`"),
        ("cloud://gcp/training/../datasets", "cloud://gcp/training/../datasets"),
        ("cloud://gcp/trainings", "training sets lie in `training`"),
        ("s3://bucket/training", "lies in no cloud of the topology"),
        ("test://gcpx/training", "lies in no cloud of the topology"),
        ("file://a/b", "file:///absolute/path"),
    ] {
        let error = parsed(text).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{text}");
        assert!(error.to_string().contains(problem), "{text}: {error}");
    }
}

/// What lies in a store.
async fn listed(cloud: &Cloud) -> Vec<(String, Vec<u8>)> {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;
    let objects: Vec<_> = cloud.data.list(None).try_collect().await.unwrap();
    let mut listed = Vec::new();
    for object in objects {
        let bytes = cloud.data.get(&object.location).await.unwrap().bytes().await.unwrap();
        listed.push((object.location.to_string(), bytes.to_vec()));
    }
    listed.sort();
    listed
}

fn file_of(destination: &Destination, bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = destination.temporary().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[tokio::test]
async fn a_set_is_written_once_and_never_over_another() {
    let clouds = clouds();
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("sets/late");
    for out in ["cloud://aws/training/late", local.to_str().unwrap()] {
        let destination = Destination::parse(out, &clouds).unwrap();
        for _ in 0..2 {
            let file = file_of(&destination, b"rows");
            let (sha256, _) = sha256_of(file.path()).unwrap();
            let put = destination.put_file(file, "a.parquet", 4, &sha256).await.unwrap();
            assert!(put.ends_with("late/a.parquet"), "{put}");
            destination.put_text("a.json", "{}".to_owned()).await.unwrap();
        }
        let error = destination.put_text("a.json", "{ }".to_owned()).await.unwrap_err();
        assert!(error.to_string().contains("other bytes"), "{error}");
        let other = file_of(&destination, b"other rows");
        let (sha256, _) = sha256_of(other.path()).unwrap();
        let error = destination.put_file(other, "a.parquet", 10, &sha256).await.unwrap_err();
        assert!(error.to_string().contains("other bytes"), "{error}");
    }
    let [json, parquet] = listed(&clouds[0]).await.try_into().unwrap();
    assert_eq!(json, ("training/late/a.json".to_owned(), b"{}".to_vec()));
    assert_eq!(parquet, ("training/late/a.parquet".to_owned(), b"rows".to_vec()));
    // Nothing is left beside them.
    assert_eq!(std::fs::read_dir(&local).unwrap().count(), 2);
}

#[tokio::test]
async fn a_large_file_goes_up_in_parts() {
    let clouds = clouds();
    let destination = Destination::parse("cloud://gcp/training", &clouds).unwrap();
    let bytes: Vec<u8> = (0..20_u32 << 20).map(|place| (place % 251) as u8).collect();
    let file = file_of(&destination, &bytes);
    let (sha256, size) = sha256_of(file.path()).unwrap();
    destination.put_file(file, "a.parquet", size, &sha256).await.unwrap();
    assert!(listed(&clouds[1]).await == [("training/a.parquet".to_owned(), bytes)]);
}

fn manifest() -> Manifest {
    let column = |name: &str| Column {
        name: name.to_owned(),
        type_text: "int64".to_owned(),
        role: "label".to_owned(),
        sha256: format!("of {name}"),
    };
    let table = |table: &str, version| Input::Table {
        table: table.to_owned(),
        version,
        sha256: format!("of {table} {version}"),
    };
    Manifest {
        format: FORMAT.to_owned(),
        training_set: "late".to_owned(),
        topology: "flights".to_owned(),
        request: serde_json::json!({}),
        request_sha256: "of the request".to_owned(),
        versions: [("flights".to_owned(), 3)].into(),
        inputs: vec![
            table("flights", 3),
            Input::File { file: "a.csv".to_owned(), bytes: 1, sha256: "of the file".to_owned() },
        ],
        digest: "of the rows".to_owned(),
        rows: 7,
        columns: vec![column("a"), column("b")],
        file: SetFile {
            name: "late.parquet".to_owned(),
            bytes: 10,
            sha256: "of the bytes".to_owned(),
            row_groups: 1,
            encoding: CREATED_BY.to_owned(),
        },
    }
}

#[test]
fn a_manifest_reads_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late.json");
    std::fs::write(&path, manifest().to_text().unwrap()).unwrap();
    assert_eq!(Manifest::read(&path).unwrap(), manifest());
    for text in ["", "{}", &manifest().to_text().unwrap().replace("set 1", "set 2")] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(Manifest::read(&path).unwrap_err().exit_code(), 2, "{text}");
    }
}

#[test]
fn what_differs_is_named() {
    let differences = |change: &dyn Fn(&mut Manifest)| {
        let mut now = manifest();
        change(&mut now);
        manifest().differences(&now).join("; ")
    };
    assert_eq!(differences(&|_| ()), "");
    type Change = fn(&mut Manifest);
    let changes: [(Change, &str); 7] = [
        (|now| now.columns[1].sha256 = "x".into(), "values of the column b differ"),
        (|now| now.columns.truncate(1), "the column b is gone"),
        (|now| now.columns.swap(0, 1), ""),
        (|now| now.rows = 8, "there were 7 rows, and are 8"),
        (|now| now.request_sha256 = "x".into(), "the request is another one"),
        (|now| now.file.sha256 = "x".into(), "the bytes of the file are not"),
        (|now| now.inputs.truncate(1), "the file a.csv is not what it was"),
    ];
    for (change, expected) in changes {
        assert!(differences(&change).contains(expected), "{expected}: {}", differences(&change));
    }
    let other_input = differences(&|now| now.inputs.swap(0, 1));
    assert_eq!(other_input, "");
    let order = differences(&|now| {
        now.columns.swap(0, 1);
        now.digest = "x".into();
    });
    assert!(order.contains("the columns differ in their order"), "{order}");
    // Another version of the encoding gives other bytes, and the same rows.
    let encoding = differences(&|now| {
        now.file.sha256 = "x".into();
        now.file.encoding = "isobar training set version 2".into();
    });
    assert_eq!(encoding, "");
}
