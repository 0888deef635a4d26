//! Looks at logs that grow, at clouds that are behind and at clouds that are away.

use isobar_connectors::clouds::{Fault, FaultSwitch};
use object_store::ObjectStoreExt;

use super::*;
use crate::commit::format::published_path;
use crate::prove::log::DataFile;
use crate::prove::testing::{DATASET, History, QUARANTINE};
use crate::query::history::pinned_snapshot;

const HOUR: Duration = Duration::from_secs(3600);

fn cache(clouds: &[Cloud]) -> SnapshotCache {
    SnapshotCache::new(clouds, [DATASET, QUARANTINE].map(str::to_owned).into_iter())
}

async fn forget(cloud: &Cloud, versions: std::ops::Range<u64>) {
    for version in versions {
        cloud.data.delete(&published_path(DATASET, version)).await.unwrap();
    }
}

async fn publish(history: &History, cloud: &Cloud, versions: std::ops::Range<u64>) {
    let objects = history.objects();
    for version in versions {
        let path = published_path(DATASET, version);
        cloud.data.put(&path, objects[&path].clone().into()).await.unwrap();
    }
}

async fn version(cache: &SnapshotCache, age_max: Duration) -> Result<(u64, String), Error> {
    let found = cache.newest(DATASET, age_max).await?.expect("something was committed");
    Ok((found.version().version, found.version().cloud.clone()))
}

#[tokio::test]
async fn a_newer_version_is_found_when_the_last_look_is_too_old() {
    let history = History::good();
    let clouds = history.store(1).await;
    forget(&clouds[0], 2..4).await;
    let cache = cache(&clouds);
    assert_eq!(version(&cache, HOUR).await.unwrap(), (1, "a".to_owned()));
    publish(&history, &clouds[0], 2..4).await;
    assert_eq!(version(&cache, HOUR).await.unwrap().0, 1);
    assert_eq!(version(&cache, Duration::ZERO).await.unwrap().0, 3);
    assert_eq!(version(&cache, HOUR).await.unwrap().0, 3);
    assert!(cache.newest("weather", HOUR).await.unwrap().is_none());
}

/// What matters of files, whichever way they were found.
fn described(files: &[DataFile]) -> Vec<String> {
    files
        .iter()
        .map(|file| format!("{} {} {:?} {:?}", file.path, file.size, file.rows, file.partition_values))
        .collect()
}

#[tokio::test]
async fn following_a_log_is_the_same_as_reading_it() {
    let mut compacted = History::good();
    compacted.compact();
    let mut evolved = History::good();
    evolved.evolve();
    for history in [History::good(), compacted, evolved] {
        let clouds = history.store(1).await;
        let tables = [DATASET.to_owned()];
        let whole = newest_snapshots(&clouds, &tables).await.unwrap().remove(DATASET).unwrap();
        assert!(follow(&clouds[0], &whole).await.unwrap().is_none());
        for version in 0..whole.version {
            let known = pinned_snapshot(&clouds, DATASET, Pin::Version(version)).await.unwrap();
            let followed = follow(&clouds[0], &known).await.unwrap().unwrap();
            assert_eq!((followed.version, &followed.schema), (whole.version, &whole.schema));
            assert_eq!(described(&followed.files), described(&whole.files), "from version {version}");
            // And from there nothing follows.
            assert!(follow(&clouds[0], &followed).await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn a_log_that_is_another_one_is_not_followed() {
    let history = History::good();
    let clouds = history.store(1).await;
    forget(&clouds[0], 2..4).await;
    let known = newest_snapshots(&clouds, &[DATASET.to_owned()]).await.unwrap().remove(DATASET).unwrap();
    let mut other = History::good();
    other.version(1).info.isobar.commit_id = "another".into();
    publish(&other, &clouds[0], 1..4).await;
    let why = follow(&clouds[0], &known).await.unwrap_err();
    assert!(why.contains("version 1 is another one than before"), "{why}");
    forget(&clouds[0], 0..4).await;
    assert!(follow(&clouds[0], &known).await.unwrap_err().contains("version 1 is gone"));
}

#[tokio::test]
async fn what_was_seen_once_does_not_go_back() {
    let history = History::good();
    let mut clouds = history.store(2).await;
    let switches = [FaultSwitch::default(), FaultSwitch::default()];
    forget(&clouds[0], 2..4).await;
    for (cloud, switch) in clouds.iter_mut().zip(&switches) {
        *cloud = cloud.clone().with_faults(switch);
    }
    switches[0].set(Fault::RefuseAll);
    let cache = cache(&clouds);
    assert_eq!(version(&cache, HOUR).await.unwrap(), (3, "b".to_owned()));
    switches[0].set(Fault::Off);
    switches[1].set(Fault::RefuseAll);
    // What is kept needs no cloud.
    assert_eq!(version(&cache, HOUR).await.unwrap(), (3, "b".to_owned()));
    let error = version(&cache, Duration::ZERO).await.unwrap_err().to_string();
    for reason in ["a: it is at version 1", "b: ", "injected fault"] {
        assert!(error.contains(reason), "{error}");
    }
    publish(&history, &clouds[0], 2..4).await;
    assert_eq!(version(&cache, Duration::ZERO).await.unwrap(), (3, "a".to_owned()));
}

#[tokio::test]
async fn a_cloud_that_is_behind_does_not_hide_what_others_have() {
    let history = History::good();
    let clouds = history.store(2).await;
    forget(&clouds[0], 2..4).await;
    let cache = cache(&clouds);
    assert_eq!(version(&cache, HOUR).await.unwrap(), (1, "a".to_owned()));
    assert!(cache.furthest(DATASET, 4).await.unwrap().is_none());
    let further = cache.furthest(DATASET, 2).await.unwrap().unwrap();
    assert_eq!((further.version().version, further.version().cloud.as_str()), (3, "b"));
    assert_eq!(version(&cache, HOUR).await.unwrap(), (3, "b".to_owned()));
}

#[tokio::test]
async fn versions_that_queries_name_are_kept() {
    let mut clouds = History::good().store(1).await;
    let switch = FaultSwitch::default();
    clouds[0] = clouds[0].clone().with_faults(&switch);
    let cache = cache(&clouds);
    for version in [0, 1] {
        let found = cache.pinned(DATASET, Pin::Version(version)).await.unwrap();
        assert_eq!(found.version().version, version);
    }
    assert_eq!(cache.pinned(DATASET, Pin::Time(3000)).await.unwrap().version().version, 2);
    assert_eq!(version(&cache, HOUR).await.unwrap().0, 3);
    let missing = cache.pinned(DATASET, Pin::Version(9)).await.unwrap_err();
    assert!(matches!(missing, Error::Configuration(_)), "{missing}");
    switch.set(Fault::RefuseAll);
    for version in [0, 1, 3] {
        let found = cache.pinned(DATASET, Pin::Version(version)).await.unwrap();
        assert_eq!(found.version().version, version);
    }
    assert!(cache.pinned(DATASET, Pin::Version(2)).await.is_err());
}

#[tokio::test]
async fn what_is_kept_is_bounded() {
    let clouds = History::good().store(1).await;
    let table = cache(&clouds).newest(DATASET, HOUR).await.unwrap().unwrap();
    let (mut pinned, now) = (Pinned::default(), Instant::now());
    let key = |version: u64| (DATASET.to_owned(), version);
    pinned.put(key(0), table.clone(), now);
    for version in 1..2 * PINNED_MAX as u64 {
        pinned.put(key(version), table.clone(), now);
        assert!(pinned.get(&key(0), now).is_some(), "what is used stays");
    }
    assert_eq!(pinned.tables.len(), PINNED_MAX);
    assert!(pinned.get(&key(1), now).is_none(), "what was used longest ago is gone");
    assert!(pinned.get(&key(0), now + PINNED_FOR).is_none(), "what is old is looked for again");
    assert_eq!(pinned.files(), PINNED_MAX * table.file_count());
}
