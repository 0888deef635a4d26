//! The simulator of Google Cloud Storage, through the client that isobar uses.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use isobar_connectors::clouds::{self, Cloud, Probe, conformance, probe};
use isobar_tests::gcs::GcsSimulator;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion,
};
use url::Url;

async fn simulator() -> (GcsSimulator, Cloud) {
    let simulator = GcsSimulator::start("127.0.0.1:0", &["bucket"]).await.unwrap();
    let options = GcsSimulator::options(&simulator.address());
    let cloud = clouds::open("gcp", &Url::parse("gs://bucket/a prefix/ü").unwrap(), &options).unwrap();
    (simulator, cloud)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_and_passes_the_probe_through_the_real_client() {
    let (_simulator, cloud) = simulator().await;
    conformance::run(&cloud, &Path::from("suite")).await;
    let found = probe(&*cloud.control, &Path::from("probe")).await;
    assert!(matches!(found, Probe::Passed), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn preconditions_hold_for_creates_and_updates() {
    let (_simulator, cloud) = simulator().await;
    let (store, key, other) = (&cloud.control, Path::from("key"), Path::from("other"));
    let create = || PutOptions::from(PutMode::Create);
    let first = store.put_opts(&key, "1".into(), create()).await.unwrap();
    let again = store.put_opts(&key, "2".into(), create()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    let update = |version| PutOptions::from(PutMode::Update(version));
    let second = store.put_opts(&key, "2".into(), update(UpdateVersion::from(first.clone()))).await.unwrap();
    assert!(second.version > first.version);
    let stale = store.put_opts(&key, "3".into(), update(UpdateVersion::from(first.clone()))).await;
    assert!(matches!(stale, Err(Error::Precondition { .. })), "{stale:?}");
    let absent = store.put_opts(&other, "3".into(), update(UpdateVersion::from(second))).await;
    assert!(matches!(absent, Err(Error::Precondition { .. })), "{absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_heads_and_deletes_are_as_the_client_expects() {
    let (_simulator, cloud) = simulator().await;
    let (store, key) = (&cloud.data, Path::from("a=1/b c/%41+&?#.parquet"));
    store.put(&key, "0123456789".into()).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap().size, 10);
    for (range, due) in [
        (GetRange::Bounded(2..5), "234"),
        (GetRange::Offset(7), "789"),
        (GetRange::Suffix(4), "6789"),
        (GetRange::Bounded(8..99), "89"),
    ] {
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let found = store.get_opts(&key, options).await.unwrap();
        assert_eq!(found.meta.size, 10);
        assert_eq!(found.bytes().await.unwrap(), due);
    }
    store.delete(&key).await.unwrap();
    assert!(matches!(store.head(&key).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.get(&key).await, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_of_many_pages_are_complete_in_every_form() {
    let (_simulator, cloud) = simulator().await;
    let store = &cloud.data;
    let key = |number: usize| Path::from(format!("log/{:02}/{number:020}.json", number % 7));
    let mut keys: Vec<Path> = (0..530).map(key).collect();
    for key in &keys {
        store.put(key, "x".into()).await.unwrap();
    }
    store.put(&Path::from("logs/apart"), "x".into()).await.unwrap();
    keys.sort();
    let names = |listed: Vec<object_store::ObjectMeta>| {
        listed.into_iter().map(|object| object.location).collect::<Vec<_>>()
    };
    let prefix = Path::from("log");
    assert_eq!(names(store.list(Some(&prefix)).try_collect().await.unwrap()), keys);
    let after = names(store.list_with_offset(Some(&prefix), &keys[317]).try_collect().await.unwrap());
    assert_eq!(after, keys[318..]);
    let level = store.list_with_delimiter(Some(&prefix)).await.unwrap();
    assert_eq!((level.common_prefixes.len(), level.objects.len()), (7, 0));
    let level = store.list_with_delimiter(Some(&Path::from("log/03"))).await.unwrap();
    assert_eq!((level.common_prefixes.len(), level.objects.len()), (0, 76));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_exist_is_refused_by_the_probe() {
    let simulator = GcsSimulator::start("127.0.0.1:0", &["bucket"]).await.unwrap();
    let options = GcsSimulator::options(&simulator.address());
    let cloud = clouds::open("gcp", &Url::parse("gs://no-such-bucket/p").unwrap(), &options).unwrap();
    let found = probe(&*cloud.control, &Path::from("probe")).await;
    assert!(matches!(&found, Probe::Denied { what } if what.contains("bucket")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_has_to_be_asked_for() {
    let simulator = GcsSimulator::start("127.0.0.1:0", &["bucket"]).await.unwrap();
    let url = Url::parse("gs://bucket/p").unwrap();
    let base_url = format!("http://{}", simulator.address());
    let options = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let error = clouds::open("gcp", &url, &options(&[("base_url", &base_url), ("skip_signature", "true")]))
        .unwrap_err();
    assert!(error.to_string().contains("allow_http"), "{error}");
}
