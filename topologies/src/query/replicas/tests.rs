//! Reads from clouds that fail in every way, and what they ask of whom.

use std::sync::atomic::{AtomicU64, Ordering};

use isobar_connectors::clouds::{Fault, FaultSwitch};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use super::*;
use crate::prove::testing::History;
use crate::spec::{CacheSpec, Prefer};

impl Replicas {
    /// A good history in two clouds, of which the first never answers and is not waited for long.
    pub(in crate::query) async fn with_a_silent_cloud() -> Self {
        let mut clouds = History::good().store(2).await;
        let switch = FaultSwitch::default();
        clouds[0] = clouds[0].clone().with_faults(&switch);
        switch.set(Fault::Delay(Duration::from_secs(3600)));
        let reading = Reading { answer_within: Duration::from_secs(1), ..Reading::default() };
        Self::new(&clouds, &reading).unwrap()
    }
}

const FILE: &str = "datasets/flights/a.parquet";

/// What a store does with requests to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Fails at once.
    Refuse,
    /// Never answers.
    Hang,
    /// Sends so many bytes, and then nothing more.
    Stop(usize),
    /// Sends so many bytes, and then an error.
    Break(usize),
    /// Sends so many bytes, and says that this is all.
    End(usize),
    /// Sends more than was asked for.
    Exceed,
}

/// A store whose reads meet their fate.
#[derive(Debug)]
struct Fated {
    inner: InMemory,
    fate: Mutex<Fate>,
    requests: AtomicU64,
}

impl fmt::Display for Fated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fated")
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "fated", source: "broken by the test".into() }
}

#[async_trait]
impl ObjectStore for Fated {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let fate = *self.fate.lock().unwrap();
        let answer = self.inner.get_opts(location, options).await?;
        let (range, meta) = (answer.range.clone(), answer.meta.clone());
        let bytes = answer.bytes().await?;
        let begun = |length: usize| stream::iter([Ok(bytes.slice(..length.min(bytes.len())))]);
        let body = match fate {
            Fate::Fine => stream::iter([Ok(bytes)]).boxed(),
            Fate::Refuse => return Err(broken()),
            Fate::Hang => std::future::pending().await,
            Fate::Stop(length) => begun(length).chain(stream::pending()).boxed(),
            Fate::Break(length) => begun(length).chain(stream::iter([Err(broken())])).boxed(),
            Fate::End(length) => begun(length).boxed(),
            Fate::Exceed => stream::iter([Ok(bytes.clone()), Ok(bytes)]).boxed(),
        };
        let payload = GetResultPayload::Stream(body);
        Ok(GetResult { payload, meta, range, attributes: Attributes::new() })
    }

    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Clouds `a`, `b`, … and the stores behind them.
struct Clouds {
    stores: Vec<Arc<Fated>>,
    replicas: Arc<Replicas>,
}

fn content() -> Bytes {
    (0..10_000u32).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into()
}

impl Clouds {
    /// So many clouds that hold the file.
    async fn new(count: usize, query: QuerySpec) -> Self {
        let store = |_| {
            let (inner, fate) = (InMemory::new(), Mutex::new(Fate::Fine));
            Arc::new(Fated { inner, fate, requests: AtomicU64::new(0) })
        };
        let stores: Vec<Arc<Fated>> = (0..count).map(store).collect();
        for store in &stores {
            store.put(&Path::from(FILE), content().into()).await.unwrap();
        }
        let cloud =
            |(name, store): (&str, &Arc<Fated>)| Cloud::new(name, store.clone() as _, store.clone() as _);
        let clouds: Vec<Cloud> = ["a", "b", "c"].into_iter().zip(&stores).map(cloud).collect();
        let reading = Reading { answer_within: Duration::from_millis(50), ..Reading::of(query) };
        let replicas = Arc::new(Replicas::new(&clouds, &reading).unwrap());
        Self { stores, replicas }
    }

    fn set(&self, at: usize, fate: Fate) {
        *self.stores[at].fate.lock().unwrap() = fate;
    }

    fn requests(&self) -> Vec<u64> {
        self.stores.iter().map(|store| store.requests.load(Ordering::Relaxed)).collect()
    }

    /// The file, and its counts.
    fn file(&self) -> (ReplicatedFile, Arc<Meter>) {
        self.file_of(content().len() as u64)
    }

    fn file_of(&self, size: u64) -> (ReplicatedFile, Arc<Meter>) {
        let meter = Arc::new(self.replicas.meter());
        let (replicas, table) = (self.replicas.clone(), Arc::from("id"));
        (ReplicatedFile::of_table(replicas, Some(0), table, size, meter.clone()), meter)
    }

    /// Reads a range, which must be right; bytes and requests by cloud.
    async fn read(&self, range: Range<u64>) -> Vec<(String, u64, u64)> {
        let (file, meter) = self.file();
        let bytes = file.get_range(&Path::from(FILE), range.clone()).await.unwrap();
        assert!(bytes == content().slice(range.start as usize..range.end as usize), "{range:?}");
        let usage = crate::query::Metered(meter).usage();
        usage.clouds.into_iter().map(|read| (read.cloud, read.bytes, read.requests)).collect()
    }
}

fn counted(cloud: &str, bytes: u64, requests: u64) -> (String, u64, u64) {
    (cloud.to_owned(), bytes, requests)
}

#[tokio::test]
async fn a_read_that_fails_goes_on_in_the_next_cloud_at_the_byte_it_had_reached() {
    for (fate, reached) in [
        (Fate::Fine, 5000),
        (Fate::Refuse, 0),
        (Fate::Hang, 0),
        (Fate::Stop(1), 1),
        (Fate::Stop(4999), 4999),
        (Fate::Break(0), 0),
        (Fate::Break(1234), 1234),
        (Fate::End(0), 0),
        (Fate::End(4321), 4321),
    ] {
        let clouds = Clouds::new(3, QuerySpec::default()).await;
        clouds.set(0, fate);
        let mut expected = vec![counted("a", reached, 1)];
        if fate != Fate::Fine {
            expected.push(counted("b", 5000 - reached, 1));
        }
        assert_eq!(clouds.read(1000..6000).await, expected, "{fate:?}");
    }
}

#[tokio::test]
async fn two_clouds_that_break_off_each_give_their_part() {
    let clouds = Clouds::new(3, QuerySpec::default()).await;
    clouds.set(0, Fate::Break(100));
    clouds.set(1, Fate::Stop(200));
    let expected = [counted("a", 100, 1), counted("b", 200, 1), counted("c", 4700, 1)];
    assert_eq!(clouds.read(0..5000).await, expected);
}

#[tokio::test]
async fn more_bytes_than_asked_for_are_not_believed() {
    let clouds = Clouds::new(2, QuerySpec::default()).await;
    clouds.set(0, Fate::Exceed);
    assert_eq!(clouds.read(5..10).await, [counted("a", 10, 1), counted("b", 5, 1)]);
}

#[tokio::test]
async fn a_cloud_that_failed_is_not_asked_by_every_read() {
    let clouds = Clouds::new(3, QuerySpec::default()).await;
    clouds.set(0, Fate::Refuse);
    for at in 0..200 {
        clouds.read(at..at + 1).await;
    }
    // It is tried now and then, after pauses of a second and more.
    let requests = clouds.requests();
    assert!(requests[0] < 50 && requests[1] == 200 && requests[2] == 0, "{requests:?}");
}

#[tokio::test]
async fn a_file_that_is_missing_in_a_cloud_is_no_failure_of_the_cloud() {
    let clouds = Clouds::new(2, QuerySpec::default()).await;
    clouds.stores[0].inner.delete(&Path::from(FILE)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(clouds.read(0..10).await, [counted("a", 0, 1), counted("b", 10, 1)]);
    }
    clouds.stores[1].inner.delete(&Path::from(FILE)).await.unwrap();
    let (file, _) = clouds.file();
    let error = file.get_range(&Path::from(FILE), 0..10).await.unwrap_err();
    assert!(matches!(error, object_store::Error::NotFound { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("in no cloud\n  a: ") && text.contains("\n  b: "), "{text}");
}

#[tokio::test]
async fn a_file_of_another_size_is_not_the_file() {
    let clouds = Clouds::new(2, QuerySpec::default()).await;
    let longer = [&content()[..], b"x"].concat();
    clouds.stores[0].put(&Path::from(FILE), longer.into()).await.unwrap();
    assert_eq!(clouds.read(0..10).await, [counted("a", 0, 1), counted("b", 10, 1)]);
    let (file, _) = clouds.file_of(9);
    let error = file.get_range(&Path::from(FILE), 0..9).await.unwrap_err().to_string();
    assert!(error.contains("a: ") && error.contains("10001 bytes there, the log says 9"), "{error}");
    assert!(error.contains("b: ") && error.contains("10000 bytes there, the log says 9"), "{error}");
}

#[tokio::test]
async fn when_no_cloud_can_serve_the_error_says_of_each_why() {
    let clouds = Clouds::new(3, QuerySpec::default()).await;
    clouds.set(0, Fate::Refuse);
    clouds.set(1, Fate::Hang);
    clouds.set(2, Fate::End(2));
    let (file, _) = clouds.file_of(content().len() as u64);
    // The third cloud gives two bytes each time it is asked: it gets somewhere, but not far enough.
    let error = file.get_range(&Path::from(FILE), 0..100).await.unwrap_err().to_string();
    for reason in ["no cloud can serve", FILE, "a: ", "broken by the test", "b: ", "no answer within 50 ms"] {
        assert!(error.contains(reason), "{reason}: {error}");
    }
    assert!(error.contains("c: ") && error.contains("the answer ended at byte 6 of 100"), "{error}");
}

#[tokio::test]
async fn a_cloud_alone_is_patient() {
    let clouds = Clouds::new(1, QuerySpec::default()).await;
    assert_eq!(clouds.read(0..10).await, [counted("a", 10, 1)]);
    clouds.set(0, Fate::Refuse);
    let (file, _) = clouds.file();
    assert!(file.get_range(&Path::from(FILE), 0..10).await.is_err());
    // Trying again is its client's business.
    assert_eq!(clouds.requests(), [2]);
}

#[tokio::test]
async fn whole_files_ends_and_sizes_can_be_asked_for_and_nothing_can_be_done() {
    let clouds = Clouds::new(2, QuerySpec::default()).await;
    clouds.set(0, Fate::Refuse);
    let path = Path::from(FILE);
    let (known, _) = clouds.file();
    for file in [known, ReplicatedFile::any(clouds.replicas.clone(), Some(0))] {
        assert_eq!(file.head(&path).await.unwrap().size, 10_000);
        assert_eq!(file.get(&path).await.unwrap().bytes().await.unwrap(), content());
        let suffix = GetOptions::new().with_range(Some(GetRange::Suffix(3)));
        let suffix = file.get_opts(&path, suffix).await.unwrap().bytes().await.unwrap();
        assert_eq!(suffix, content().slice(9997..));
        let ranges = file.get_ranges(&path, &[0..1, 9999..10_000, 5..9]).await.unwrap();
        assert_eq!(ranges, [0..1, 9999..10_000, 5..9].map(|range: Range<usize>| content().slice(range)));
        assert!(file.put(&path, "x".into()).await.is_err());
        assert!(file.delete(&path).await.is_err());
        assert!(file.copy(&path, &Path::from("b")).await.is_err());
        assert!(file.list(None).try_collect::<Vec<_>>().await.is_err());
    }
    assert_eq!(clouds.stores[1].inner.head(&path).await.unwrap().size, 10_000);
}

#[tokio::test]
async fn blocks_on_disk_are_read_without_any_cloud() {
    let directory = tempfile::tempdir().unwrap();
    let cache = CacheSpec { directory: directory.path().join("cache"), bytes_max: 1 << 30 };
    let clouds = Clouds::new(2, QuerySpec { cache: Some(cache), ..QuerySpec::default() }).await;
    assert_eq!(clouds.read(10..20).await, [counted("a", 10_000, 1)]);
    clouds.set(0, Fate::Refuse);
    clouds.set(1, Fate::Refuse);
    assert!(clouds.read(0..10_000).await.is_empty());
    let (file, meter) = clouds.file();
    file.get_range(&Path::from(FILE), 5..25).await.unwrap();
    assert_eq!(crate::query::Metered(meter).usage().cached_bytes, 20);
}

#[tokio::test]
async fn the_nearest_cloud_is_found_by_asking_all() {
    let query = QuerySpec { prefer: Prefer::Nearest, ..QuerySpec::default() };
    let clouds = Clouds::new(3, query).await;
    let log = published_path("flights", 0);
    for store in &clouds.stores {
        store.put(&log, "{}".into()).await.unwrap();
    }
    clouds.set(0, Fate::Hang);
    clouds.set(1, Fate::Refuse);
    let order = clouds.replicas.in_order(Some("flights")).await;
    assert_eq!(order[0].name, "c");
    assert_eq!(clouds.requests(), [1, 1, 1]);
    // They are not measured for every table.
    clouds.replicas.in_order(Some("weather")).await;
    assert_eq!(clouds.requests(), [1, 1, 1]);
}

#[test]
fn a_cloud_that_there_is_not_is_an_error_with_those_that_there_are() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clouds = ["aws", "azure"].map(|name| Cloud::new(name, store.clone(), store.clone()));
    let only = |name: &str| Reading { only: Some(name.to_owned()), ..Reading::default() };
    let error = Replicas::new(&clouds, &only("asw")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert_eq!(error.to_string(), "there is no cloud asw; the clouds are aws, azure");
    let replicas = Replicas::new(&clouds, &only("azure")).unwrap();
    assert_eq!(replicas.names().collect::<Vec<_>>(), ["azure"]);
    let query = QuerySpec { prefer: Prefer::Cheapest, ..QuerySpec::default() };
    assert!(Replicas::new(&clouds, &Reading::of(query)).is_err());
}
