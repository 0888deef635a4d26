//! Data files, from whichever cloud has them.
//!
//! Every cloud holds the same bytes under the same paths, and a data file is never written again. So a range of a file is read
//! from the cloud that is to be asked first ([`Route`]), and when that fails, gives no answer in time, stops in the middle of
//! it, or does not have the file, from the next one, at the byte that was reached. A query notices nothing but the time.
//!
//! A file whose size is another than the log says is not read: it is not that file, or not all of it. When no cloud has what is
//! asked for, they are asked again after a short pause, and then the error says of each cloud why.
//!
//! A topology with one cloud has nowhere else to go: its client tries again by itself, as it does for everything else.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{StreamExt, TryStreamExt};
use isobar_connectors::clouds::Cloud;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tracing::{debug, warn};

use super::Workers;
use super::blocks::Blocks;
use super::route::{Route, Watched, only_reads};
use super::usage::Meter;
use crate::commit::format::published_path;
use crate::error::Error;
use crate::spec::QuerySpec;

/// How long a cloud may take to begin an answer, and to go on with it.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Pauses before all clouds are asked once more.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// After this time they are not asked once more.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
/// How long a measurement of all clouds is good for.
const MEASURED_FOR: Duration = Duration::from_secs(60);
/// How long the slower clouds are waited for once the first has answered.
const SLOWER_FOR: Duration = Duration::from_millis(100);

/// How queries read: what the topology says of it, and what the caller does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Reading {
    /// The `query` section of the topology.
    pub query: QuerySpec,
    /// The only cloud to be read; `None`: all of them.
    pub only: Option<String>,
    /// How long a cloud may take to begin an answer, and to go on with it, before another one is asked.
    pub answer_within: Duration,
    /// The workers that queries are divided among; `None`: this process reads all.
    pub workers: Option<Arc<Workers>>,
}

impl Default for Reading {
    fn default() -> Self {
        Self::of(QuerySpec::default())
    }
}

impl Reading {
    /// As the topology says.
    pub fn of(query: QuerySpec) -> Self {
        Self { query, only: None, answer_within: ANSWER_WITHIN, workers: None }
    }
}

/// The clouds, as places of the same files.
#[derive(Debug)]
pub(crate) struct Replicas {
    /// In the order of the topology. Their clients for data watch themselves, and do not wait for long where there are several.
    clouds: Vec<Cloud>,
    route: Arc<Route>,
    query: QuerySpec,
    /// When the clouds were last measured.
    measured: Mutex<Option<Instant>>,
    blocks: Option<Blocks>,
}

impl Replicas {
    /// No request is made yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] if the only cloud to be read is none of `clouds`, or there is no price to compare.
    pub(crate) fn new(clouds: &[Cloud], reading: &Reading) -> std::result::Result<Self, Error> {
        let mut clouds = clouds.to_vec();
        if let Some(only) = &reading.only {
            let names: Vec<String> = clouds.iter().map(|cloud| cloud.name.clone()).collect();
            clouds.retain(|cloud| cloud.name == *only);
            if clouds.is_empty() {
                let known = names.join(", ");
                return Err(Error::Configuration(format!(
                    "there is no cloud {only}; the clouds are {known}"
                )));
            }
        }
        let route = Arc::new(Route::new(&clouds, &reading.query)?);
        let is_alone = clouds.len() == 1;
        let watched = |(at, cloud): (usize, Cloud)| {
            let mut cloud = if is_alone { cloud } else { cloud.for_queries(reading.answer_within) };
            cloud.data = Arc::new(Watched::new(cloud.data, route.clone(), at));
            cloud
        };
        let clouds = clouds.into_iter().enumerate().map(watched).collect();
        let blocks = reading.query.cache.as_ref().map(Blocks::new);
        Ok(Self { clouds, route, query: reading.query.clone(), measured: Mutex::default(), blocks })
    }

    /// The names of the clouds, in the order of the topology.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.clouds.iter().map(|cloud| cloud.name.as_str())
    }

    /// The place of a cloud among them.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.clouds.iter().position(|cloud| cloud.name == name)
    }

    /// Counts for one query.
    pub(super) fn meter(&self) -> Meter {
        Meter::new(self.names(), &self.query)
    }

    /// The clouds in the order in which their logs are to be asked. Where that depends on how soon they answer, and it was not
    /// measured lately, they are asked for a byte of the log of `table` first, all at once.
    pub(super) async fn in_order(&self, table: Option<&str>) -> Vec<Cloud> {
        if let Some(table) = table
            && self.route.is_by_latency()
            && self.clouds.len() > 1
            && self.is_measured_no_more()
        {
            self.measure(table).await;
        }
        self.route.order().into_iter().map(|at| self.clouds[at].clone()).collect()
    }

    /// Whether a measurement is due, which is then the caller's to do.
    fn is_measured_no_more(&self) -> bool {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = measured.is_none_or(|measured| measured.elapsed() >= MEASURED_FOR);
        if is_due {
            *measured = Some(Instant::now());
        }
        is_due
    }

    /// Asks every cloud for a byte. Their stores note how long it takes.
    async fn measure(&self, table: &str) {
        let path = published_path(table, 0);
        let ask = |cloud: &Cloud| {
            let (cloud, path) = (cloud.clone(), path.clone());
            async move {
                let options = GetOptions::new().with_range(Some(GetRange::Bounded(0..1)));
                match cloud.data.get_opts(&path, options).await {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => true,
                    Err(error) => {
                        let error = crate::chain_of(&error);
                        debug!(cloud = %cloud.name, error, "no answer to a measurement");
                        false
                    }
                }
            }
        };
        let mut answers: FuturesUnordered<_> = self.clouds.iter().map(ask).collect();
        while let Some(has_answered) = answers.next().await {
            if has_answered {
                break;
            }
        }
        // Those that are much slower keep their places: that they are slower is all that matters.
        let slower = async { while answers.next().await.is_some() {} };
        let _ = tokio::time::timeout(SLOWER_FOR, slower).await;
    }

    /// The bytes of `range` of `file`.
    async fn read(&self, file: &ReplicatedFile, path: &Path, range: Range<u64>) -> Result<Bytes> {
        match (&self.blocks, &file.table, file.size) {
            (Some(blocks), Some(table), Some(size)) => {
                let fetch = |range| self.fetch(file, path, range);
                let (bytes, found) = blocks.read(table, path, size, range, fetch).await?;
                file.meter.found(found);
                Ok(bytes)
            }
            _ => self.fetch(file, path, range).await,
        }
    }

    /// The same from the clouds.
    async fn fetch(&self, file: &ReplicatedFile, path: &Path, range: Range<u64>) -> Result<Bytes> {
        let begun = Instant::now();
        let mut pieces = Pieces::default();
        let mut pauses = PAUSES.into_iter();
        loop {
            let mut reasons = Vec::new();
            let mut is_nowhere = true;
            for at in self.route.order_from(file.first) {
                match self.fetch_from(at, file, path, &range, &mut pieces).await {
                    Ok(()) => return Ok(pieces.joined()),
                    Err(error) => {
                        let cloud = &self.clouds[at].name;
                        let why = crate::chain_of(&error);
                        debug!(%cloud, %path, why, reached = pieces.bytes, "a read failed");
                        is_nowhere &= matches!(error, object_store::Error::NotFound { .. });
                        reasons.push(format!("{cloud}: {why}"));
                    }
                }
            }
            let pause = pauses.next().filter(|_| self.clouds.len() > 1 && begun.elapsed() < GIVE_UP_AFTER);
            match pause {
                Some(pause) if !is_nowhere => tokio::time::sleep(pause).await,
                _ => return Err(in_no_cloud(path, &reasons, is_nowhere)),
            }
        }
    }

    /// Adds to `pieces` what is still missing of `range`, as far as the cloud at `at` has it.
    async fn fetch_from(
        &self,
        at: usize,
        file: &ReplicatedFile,
        path: &Path,
        range: &Range<u64>,
        pieces: &mut Pieces,
    ) -> Result<()> {
        let missing = range.start + pieces.bytes..range.end;
        if missing.is_empty() {
            return Ok(());
        }
        file.meter.asked(at);
        file.count(at, "requests_to", 1);
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(missing.clone())));
        let answer = self.clouds[at].data.get_opts(path, options).await?;
        if let Some(size) = file.size.filter(|size| *size != answer.meta.size) {
            let cloud = &self.clouds[at].name;
            warn!(%cloud, %path, "a file has {} bytes, the log says {size}", answer.meta.size);
            return Err(other_than_asked(format!(
                "it has {} bytes there, the log says {size}",
                answer.meta.size
            )));
        }
        if answer.range != missing {
            return Err(other_than_asked(format!("asked for bytes {missing:?}, got {:?}", answer.range)));
        }
        let mut body = match matches!(answer.payload, GetResultPayload::Stream(_)) {
            true => answer.into_stream(),
            // A file: all of it at once, off the threads that must not block.
            false => stream::once(answer.bytes()).boxed(),
        };
        let (before, most) = (pieces.clone(), range.end - range.start);
        while let Some(piece) = body.try_next().await? {
            file.meter.received(at, piece.len() as u64);
            file.count(at, "bytes_from", piece.len());
            pieces.push(piece);
            if pieces.bytes > most {
                // Nothing of such an answer is to be believed.
                *pieces = before;
                return Err(other_than_asked(format!("the answer goes on after byte {}", range.end)));
            }
        }
        match pieces.bytes == most {
            true => Ok(()),
            false => Err(other_than_asked(format!(
                "the answer ended at byte {} of {}",
                range.start + pieces.bytes,
                range.end
            ))),
        }
    }

    /// The size of an object, in the first cloud that has it.
    async fn size_of(&self, file: &ReplicatedFile, path: &Path) -> Result<u64> {
        let mut reasons = Vec::new();
        let mut is_nowhere = true;
        for at in self.route.order_from(file.first) {
            file.meter.asked(at);
            match self.clouds[at].data.get_opts(path, GetOptions::new().with_head(true)).await {
                Ok(answer) => return Ok(answer.meta.size),
                Err(error) => {
                    is_nowhere &= matches!(error, object_store::Error::NotFound { .. });
                    reasons.push(format!("{}: {}", self.clouds[at].name, crate::chain_of(&error)));
                }
            }
        }
        Err(in_no_cloud(path, &reasons, is_nowhere))
    }
}

/// What has come of a range so far, from its beginning.
#[derive(Debug, Clone, Default)]
struct Pieces {
    pieces: Vec<Bytes>,
    bytes: u64,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len() as u64;
        self.pieces.push(piece);
    }

    fn joined(mut self) -> Bytes {
        if self.pieces.len() == 1 {
            return self.pieces.remove(0);
        }
        let mut joined = BytesMut::with_capacity(self.bytes as usize);
        self.pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        joined.freeze()
    }
}

fn other_than_asked(what: String) -> object_store::Error {
    object_store::Error::Generic { store: "isobar", source: what.into() }
}

fn in_no_cloud(path: &Path, reasons: &[String], is_nowhere: bool) -> object_store::Error {
    let each: String = reasons.iter().map(|reason| format!("\n  {reason}")).collect();
    if is_nowhere {
        return object_store::Error::NotFound {
            path: path.to_string(),
            source: format!("in no cloud{each}").into(),
        };
    }
    other_than_asked(format!("no cloud can serve {path}{each}"))
}

/// A store of one data file, which it reads from any cloud. It cannot list, and it cannot write.
#[derive(Debug)]
pub(super) struct ReplicatedFile {
    replicas: Arc<Replicas>,
    /// The place of the cloud that is asked first, if it works.
    first: Option<usize>,
    /// The id of the table, and the size by the log; `None` if they are not known, and then nothing is kept on disk either.
    table: Option<Arc<str>>,
    size: Option<u64>,
    meter: Arc<Meter>,
    /// What `EXPLAIN ANALYZE` shows.
    metrics: Option<ShownCounts>,
}

/// Counts in the metrics of a scan. They appear there when they are first needed.
#[derive(Debug)]
struct ShownCounts {
    metrics: ExecutionPlanMetricsSet,
    partition: usize,
    /// By cloud, requests and bytes.
    clouds: Vec<[OnceLock<Count>; 2]>,
}

impl ReplicatedFile {
    /// Any file, of unknown size.
    pub(super) fn any(replicas: Arc<Replicas>, first: Option<usize>) -> Self {
        let meter = Arc::new(replicas.meter());
        Self { replicas, first, table: None, size: None, meter, metrics: None }
    }

    /// A file of `size` bytes, of the table with the id `table`; if that is not known, nothing of it is kept on disk.
    pub(super) fn of_table(
        replicas: Arc<Replicas>,
        first: Option<usize>,
        table: impl Into<Option<Arc<str>>>,
        size: u64,
        meter: Arc<Meter>,
    ) -> Self {
        Self { replicas, first, table: table.into(), size: Some(size), meter, metrics: None }
    }

    /// The same, with its counts also in `metrics`.
    pub(super) fn shown_in(mut self, metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let clouds = self.replicas.clouds.iter().map(|_| Default::default()).collect();
        self.metrics = Some(ShownCounts { metrics: metrics.clone(), partition, clouds });
        self
    }

    /// Counts something of the cloud at `at`.
    fn count(&self, at: usize, what: &'static str, more: usize) {
        let Some(shown) = &self.metrics else { return };
        let [requests, bytes] = &shown.clouds[at];
        let count = if what == "bytes_from" { bytes } else { requests };
        let name = || format!("{what}_{}", self.replicas.clouds[at].name);
        count.get_or_init(|| MetricBuilder::new(&shown.metrics).counter(name(), shown.partition)).add(more);
    }

    /// Size and place of the object at `path`.
    async fn meta(&self, path: &Path) -> Result<ObjectMeta> {
        let size = match self.size {
            Some(size) => size,
            None => self.replicas.size_of(self, path).await?,
        };
        let last_modified = DateTime::UNIX_EPOCH;
        Ok(ObjectMeta { location: path.clone(), last_modified, size, e_tag: None, version: None })
    }
}

impl fmt::Display for ReplicatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.replicas.names().collect();
        f.write_str(&names.join(" or "))
    }
}

#[async_trait]
impl ObjectStore for ReplicatedFile {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let range = match (options.range, options.head) {
            // Whoever knows a range knows the size.
            (Some(GetRange::Bounded(range)), false) if self.size.is_none_or(|size| range.end <= size) => {
                range
            }
            (range, is_head) => {
                let meta = self.meta(location).await?;
                let whole = range.map_or(Ok(0..meta.size), |range| range.as_range(meta.size));
                let whole = whole.map_err(|error| other_than_asked(error.to_string()))?;
                if is_head {
                    let payload = GetResultPayload::Stream(stream::empty().boxed());
                    return Ok(GetResult { payload, meta, range: 0..0, attributes: Attributes::new() });
                }
                whole
            }
        };
        let bytes = self.replicas.read(self, location, range.clone()).await?;
        let size = self.size.unwrap_or(range.end);
        let last_modified = DateTime::UNIX_EPOCH;
        let meta = ObjectMeta { location: location.clone(), last_modified, size, e_tag: None, version: None };
        let payload = GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::new() })
    }

    fn list(&self, _prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter([Err(only_reads())]).boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        Err(only_reads())
    }

    async fn put_opts(&self, _at: &Path, _payload: PutPayload, _options: PutOptions) -> Result<PutResult> {
        Err(only_reads())
    }

    async fn put_multipart_opts(
        &self,
        _at: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(only_reads())
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|_| Err(only_reads())).boxed()
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(only_reads())
    }
}

#[cfg(test)]
mod tests;
