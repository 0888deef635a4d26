//! Looks at logs that grow, at clouds that are behind and at clouds that are away.

use isobar_connectors::clouds::{Cloud, Fault, FaultSwitch};
use isobar_connectors::delta::{MaintenanceWork, Remove};
use object_store::ObjectStoreExt;

use super::*;
use crate::commit::format::published_path;
use crate::prove::log::DataFile;
use crate::prove::testing::{DATASET, History, QUARANTINE};
use crate::query::Reading;
use crate::query::history::pinned_snapshot;

const HOUR: Duration = Duration::from_secs(3600);

fn cache(clouds: &[Cloud]) -> SnapshotCache {
    let replicas = Replicas::new(clouds, &Reading::default()).unwrap();
    SnapshotCache::new(Arc::new(replicas), [DATASET, QUARANTINE].map(str::to_owned).into_iter())
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
            let known = pinned_snapshot(&clouds, DATASET, version).await.unwrap();
            let followed = follow(&clouds[0], &known).await.unwrap().unwrap();
            assert_eq!((followed.version, &followed.schema), (whole.version, &whole.schema));
            assert_eq!(described(&followed.files), described(&whole.files), "from version {version}");
            // And from there nothing follows.
            assert!(follow(&clouds[0], &followed).await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn a_removed_file_is_gone_however_its_path_is_written() {
    for path in ["month=a%2520b/d.parquet", "month=a%2520b/%64.parquet"] {
        let mut history = History::good();
        let removed = Remove {
            path: path.into(),
            deletion_timestamp: Some(1),
            data_change: false,
            extended_file_metadata: None,
            partition_values: None,
            size: None,
        };
        history.maintain(0, MaintenanceWork::Optimize { rows: 2 }).removes.push(removed);
        let clouds = history.store(1).await;
        let known = pinned_snapshot(&clouds, DATASET, 3).await.unwrap();
        assert_eq!(known.files.len(), 4);
        let whole = newest_snapshots(&clouds, &[DATASET.to_owned()]).await.unwrap().remove(DATASET).unwrap();
        let followed = follow(&clouds[0], &known).await.unwrap().unwrap();
        for snapshot in [whole, followed] {
            let paths: Vec<&str> = snapshot.files.iter().map(|file| file.path.as_str()).collect();
            assert_eq!(paths, ["month=1/a.parquet", "month=2/b.parquet", "month=2/c.parquet"], "{path}");
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
    for reason in ["at version 3 or later", "a: its newest version is 1", "b: ", "injected fault"] {
        assert!(error.contains(reason), "{error}");
    }
    publish(&history, &clouds[0], 2..4).await;
    assert_eq!(version(&cache, Duration::ZERO).await.unwrap(), (3, "a".to_owned()));
}

/// Makes what `cloud` holds of version 3 one that is not understood, and says what it was.
async fn damage(cloud: &Cloud) -> bytes::Bytes {
    let path = published_path(DATASET, 3);
    let body = cloud.data.get(&path).await.unwrap().bytes().await.unwrap();
    cloud.data.put(&path, "damaged".into()).await.unwrap();
    body
}

#[tokio::test]
async fn a_table_returns_to_the_preferred_cloud_when_that_works_again() {
    let history = History::good();
    let clouds = history.store(2).await;
    let cache = cache(&clouds);
    let whole = damage(&clouds[0]).await;
    assert_eq!(version(&cache, HOUR).await.unwrap(), (3, "b".to_owned()));
    assert_eq!(version(&cache, Duration::ZERO).await.unwrap(), (3, "b".to_owned()));
    // A log that is another one is not believed, though it is as long.
    let mut other = History::good();
    other.version(3).info.isobar.commit_id = "another".into();
    publish(&other, &clouds[0], 3..4).await;
    assert_eq!(version(&cache, Duration::ZERO).await.unwrap(), (3, "b".to_owned()));
    clouds[0].data.put(&published_path(DATASET, 3), whole.into()).await.unwrap();
    assert_eq!(version(&cache, Duration::ZERO).await.unwrap(), (3, "a".to_owned()));
    // From then on nothing is new, and the table is the same.
    let table = cache.newest(DATASET, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(table.file_count(), 4);
    let again = cache.newest(DATASET, Duration::ZERO).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&table, &again));
}

#[tokio::test]
async fn what_cannot_be_asked_for_does_not_move_a_table_for_good() {
    let history = History::good();
    let mut clouds = history.store(2).await;
    let switch = FaultSwitch::default();
    clouds[0] = clouds[0].clone().with_faults(&switch);
    let cache = cache(&clouds);
    assert_eq!(version(&cache, HOUR).await.unwrap(), (3, "a".to_owned()));
    switch.set(Fault::RefuseAll);
    assert_eq!(version(&cache, Duration::ZERO).await.unwrap(), (3, "b".to_owned()));
    switch.set(Fault::Off);
    // It is left alone for a pause first.
    let returned = async {
        while version(&cache, Duration::ZERO).await.unwrap().1 != "a" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), returned).await.expect("the cloud is read again");
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
    assert_eq!(version(&cache, HOUR).await.unwrap().0, 3);
    let missing = cache.pinned(DATASET, Pin::Version(9)).await.unwrap_err();
    assert!(matches!(missing, Error::Configuration(_)), "{missing}");
    switch.set(Fault::RefuseAll);
    for version in [0, 1, 3] {
        let found = cache.pinned(DATASET, Pin::Version(version)).await.unwrap();
        assert_eq!(found.version().version, version);
    }
    assert!(cache.pinned(DATASET, Pin::Version(2)).await.is_err());
    // A time stands for a version, which is kept as well.
    switch.set(Fault::Off);
    let at_time = cache.pinned(DATASET, Pin::Time(3000)).await.unwrap();
    assert_eq!(at_time.version().version, 2);
    let again = cache.pinned(DATASET, Pin::Time(3000)).await.unwrap();
    assert!(Arc::ptr_eq(&at_time, &again));
    // Nobody waits for a look that has not ended.
    let looking = cache.newest[DATASET].lock().await;
    switch.set(Fault::RefuseAll);
    let kept = cache.pinned(DATASET, Pin::Version(2));
    let kept = tokio::time::timeout(Duration::from_secs(60), kept).await.expect("it does not wait").unwrap();
    assert!(Arc::ptr_eq(&at_time, &kept));
    drop(looking);
    assert!(cache.pinned(DATASET, Pin::Time(3000)).await.is_err(), "which version a time means is looked up");
}

#[tokio::test]
async fn a_time_does_not_go_back_while_a_cloud_is_away() {
    let mut clouds = History::good().store(2).await;
    forget(&clouds[0], 2..4).await;
    let switch = FaultSwitch::default();
    clouds[1] = clouds[1].clone().with_faults(&switch);
    let cache = cache(&clouds);
    cache.furthest(DATASET, 2).await.unwrap().unwrap();
    switch.set(Fault::RefuseAll);
    // Version 3 is of second 4, and the cloud that answers ends with version 1.
    let newest = cache.pinned(DATASET, Pin::Time(4000)).await.unwrap();
    assert_eq!((newest.version().version, newest.version().cloud.as_str()), (3, "b"));
    let error = cache.pinned(DATASET, Pin::Time(3000)).await.unwrap_err();
    assert!(matches!(error, Error::NoMajority { .. }), "{error}");
    assert!(error.to_string().contains("end with version 1, and 3 was seen"), "{error}");
    publish(&History::good(), &clouds[0], 2..3).await;
    assert_eq!(cache.pinned(DATASET, Pin::Time(3999)).await.unwrap().version().version, 2);
}
