//! What every cloud must do, as one suite that all kinds run: in memory, directories, and live services.
//!
//! The functions panic at the first thing that is not as promised. They write under the prefix they are given, which
//! nobody else may use, and remove it. For tests only.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path};

use super::{Cloud, Fault, FaultSwitch, Probe, PutOnce, probe, put_once, read_register};

/// Runs everything. The cloud must be writable: [`Cloud::create_root`] has been called.
///
/// # Panics
/// If the cloud breaks a promise.
pub async fn run(cloud: &Cloud, prefix: &Path) {
    registers_take_one_value(cloud, &prefix.clone().join("register")).await;
    racing_writers_agree_on_one_value(cloud, &prefix.clone().join("race")).await;
    both_clients_see_the_same_place(cloud, &prefix.clone().join("clients")).await;
    uploads_appear_when_complete(cloud, &prefix.clone().join("upload")).await;
    listings_are_complete(cloud, &prefix.clone().join("list")).await;
    a_cloud_that_refuses_decides_nothing(cloud, &prefix.clone().join("refuse")).await;
    let found = probe(&*cloud.control, &prefix.clone().join("probe")).await;
    assert!(matches!(found, Probe::Passed), "{cloud:?}: {found:?}");
    nothing_is_left(cloud, &prefix.clone().join("probe")).await;
    remove(cloud, prefix).await;
    nothing_is_left(cloud, prefix).await;
}

/// A register keeps its first value, whoever repeats what.
async fn registers_take_one_value(cloud: &Cloud, prefix: &Path) {
    let key = prefix.clone().join("key");
    let (value, other) = (Bytes::from("value"), Bytes::from("other"));
    assert_eq!(read(cloud, &key).await, None);
    for _ in 0..2 {
        let answer = put_once(&*cloud.control, &key, value.clone()).await;
        assert!(matches!(answer, PutOnce::Stored), "{cloud:?}: {answer:?}");
        let answer = put_once(&*cloud.control, &key, other.clone()).await;
        assert!(matches!(&answer, PutOnce::Occupied(held) if *held == value), "{cloud:?}: {answer:?}");
        assert_eq!(read(cloud, &key).await, Some(value.clone()));
    }
    let empty = prefix.clone().join("empty");
    let answer = put_once(&*cloud.control, &empty, Bytes::new()).await;
    assert!(matches!(answer, PutOnce::Stored), "{cloud:?}: {answer:?}");
    assert_eq!(read(cloud, &empty).await, Some(Bytes::new()));
}

/// Many writers, many keys: each key goes to one writer, and all learn the same.
async fn racing_writers_agree_on_one_value(cloud: &Cloud, prefix: &Path) {
    for round in 0..8 {
        let key = prefix.clone().join(format!("{round}"));
        let offers = (0..12).map(|writer| {
            let key = key.clone();
            async move {
                let mine = Bytes::from(format!("writer {writer}"));
                loop {
                    match put_once(&*cloud.control, &key, mine.clone()).await {
                        PutOnce::Stored => return (true, mine),
                        PutOnce::Occupied(held) => return (false, held),
                        // S3 answers some racers with a conflict before anything is stored.
                        PutOnce::Unknown(_) => {}
                    }
                }
            }
        });
        let outcomes = future::join_all(offers).await;
        let held = read(cloud, &key).await.expect("someone has won");
        assert_eq!(outcomes.iter().filter(|(won, _)| *won).count(), 1, "{cloud:?}: {outcomes:?}");
        assert!(outcomes.iter().all(|(_, value)| *value == held), "{cloud:?}: {outcomes:?}");
    }
}

async fn both_clients_see_the_same_place(cloud: &Cloud, prefix: &Path) {
    let key = below(prefix, "a b/ü=1%2F/key");
    put(&*cloud.data, &key, "one").await;
    assert_eq!(read(cloud, &key).await, Some(Bytes::from("one")));
    put(&*cloud.data, &key, "two").await;
    assert_eq!(read(cloud, &key).await, Some(Bytes::from("two")));
    let ranges = cloud.data.get_ranges(&key, &[0..1, 1..3]).await.expect("read ranges");
    assert_eq!(ranges, ["t", "wo"]);
    let missing = cloud.data.get(&prefix.clone().join("missing")).await;
    assert!(matches!(missing, Err(object_store::Error::NotFound { .. })), "{cloud:?}: {missing:?}");
}

async fn uploads_appear_when_complete(cloud: &Cloud, prefix: &Path) {
    /// Stores want parts of at least this, but for the last one.
    const PART_BYTES: usize = 5 << 20;

    let (key, abandoned) = (below(prefix, "deep/er/key"), below(prefix, "abandoned"));
    let mut upload = cloud.data.put_multipart(&key).await.expect("begin an upload");
    let parts = [vec![1_u8; PART_BYTES], vec![2_u8; 1000]];
    // Parts may arrive in any order; the order of the calls counts.
    let sent: Vec<_> = parts.iter().map(|part| upload.put_part(PutPayload::from(part.clone()))).collect();
    future::try_join_all(sent).await.expect("upload the parts");
    let early = cloud.data.head(&key).await;
    assert!(matches!(early, Err(object_store::Error::NotFound { .. })), "{cloud:?}: {early:?}");
    upload.complete().await.expect("complete the upload");
    let found = cloud.data.get(&key).await.expect("read the upload").bytes().await.expect("read the upload");
    assert!(found == parts.concat(), "{cloud:?}: the upload reads differently");

    let mut upload = cloud.data.put_multipart(&abandoned).await.expect("begin an upload");
    upload.put_part(PutPayload::from(vec![1_u8; PART_BYTES])).await.expect("upload a part");
    upload.abort().await.expect("abort the upload");
    let gone = cloud.data.head(&abandoned).await;
    assert!(matches!(gone, Err(object_store::Error::NotFound { .. })), "{cloud:?}: {gone:?}");
}

async fn listings_are_complete(cloud: &Cloud, prefix: &Path) {
    assert!(paths(cloud, prefix).await.is_empty());
    let keys: Vec<Path> = (0..20).map(|i| below(prefix, &format!("{:02}/{i:020}.json", i % 3))).collect();
    for key in &keys {
        put(&*cloud.data, key, "x").await;
    }
    let mut expected = keys.clone();
    expected.sort();
    assert_eq!(paths(cloud, prefix).await, expected);
    let level = cloud.data.list_with_delimiter(Some(prefix)).await.expect("list a level");
    assert_eq!((level.common_prefixes.len(), level.objects.len()), (3, 0));
}

/// What a refusing cloud is told leaves no trace, and the same bytes go through when it is back.
async fn a_cloud_that_refuses_decides_nothing(cloud: &Cloud, prefix: &Path) {
    let key = prefix.clone().join("key");
    let value = Bytes::from("value");
    let switch = FaultSwitch::default();
    let faulty = cloud.clone().with_faults(&switch);
    switch.set(Fault::RefuseAll);
    let answer = put_once(&*faulty.control, &key, value.clone()).await;
    assert!(matches!(answer, PutOnce::Unknown(_)), "{cloud:?}: {answer:?}");
    assert_eq!(read(cloud, &key).await, None);
    assert!(matches!(probe(&*faulty.control, prefix).await, Probe::Unavailable(_)));
    switch.set(Fault::LoseWriteAnswers);
    let answer = put_once(&*faulty.control, &key, value.clone()).await;
    assert!(matches!(answer, PutOnce::Stored), "{cloud:?}: {answer:?}");
    switch.set(Fault::Off);
    let answer = put_once(&*faulty.control, &key, value.clone()).await;
    assert!(matches!(answer, PutOnce::Stored), "{cloud:?}: {answer:?}");
}

/// The key `relative` below `prefix`; `join` would take its slashes for letters of one segment.
fn below(prefix: &Path, relative: &str) -> Path {
    Path::parse(format!("{prefix}/{relative}")).expect("a valid path")
}

async fn nothing_is_left(cloud: &Cloud, prefix: &Path) {
    assert_eq!(paths(cloud, prefix).await, [], "{cloud:?}");
}

async fn read(cloud: &Cloud, key: &Path) -> Option<Bytes> {
    read_register(&*cloud.control, key, 1 << 20).await.expect("read a key")
}

async fn put(store: &dyn ObjectStore, key: &Path, value: &'static str) {
    store.put_opts(key, value.into(), PutOptions::from(PutMode::Overwrite)).await.expect("write a key");
}

async fn paths(cloud: &Cloud, prefix: &Path) -> Vec<Path> {
    let listed: Vec<ObjectMeta> = cloud.data.list(Some(prefix)).try_collect().await.expect("list");
    let mut paths: Vec<Path> = listed.into_iter().map(|object| object.location).collect();
    paths.sort();
    paths
}

async fn remove(cloud: &Cloud, prefix: &Path) {
    let locations = cloud.data.list(Some(prefix)).map_ok(|object| object.location).boxed();
    let removed: Vec<Path> = cloud.data.delete_stream(locations).try_collect().await.expect("remove");
    assert!(!removed.is_empty());
}
