//! Files sent to every cloud at once while they are written.
//!
//! A [`FanOut`] owns one pipe per cloud. A file opened with [`FanOut::start_file`] takes its bytes once and hands the
//! same memory to one task per cloud; nothing is encoded or copied twice. A task stores a small file with one put and
//! a large one in parts.
//!
//! ```text
//!                       ┌─▶ task ─▶ aws      Done
//! writer ─▶ FileUpload ─┼─▶ task ─▶ azure    Pending
//!                       └─▶ task ─▶ gcp      Failed("96 MiB behind")   filled later from another cloud
//! ```
//!
//! **Slow clouds.** [`FileUpload::send`] never blocks. Each cloud may have [`UploadLimits::in_flight_bytes_max`] bytes
//! in flight, over all files. A cloud beyond that is given up for the file at hand, as long as a majority of
//! clouds is left for it: what fewer than a majority hold could not be committed, so the last majority is
//! waited for instead. That waiting is [`FanOut::ready`], which the pipeline awaits before it takes more input; it
//! gives slower clouds a short patience and then goes at the speed of the majority.
//!
//! **Failure** is a value: [`UploadHandle::settled`] tells for each (file, cloud) whether the object is there. `Failed`
//! does not mean absent: a put may have landed although its answer was lost. Names are unique and bytes are fixed, so
//! storing the file there again is always right. Every request has a time limit, an upload that ends early aborts its
//! parts, and no path keeps bytes: memory in flight returns to zero.
//!
//! A [`FileUpload`] dropped without [`FileUpload::finish`] fails its uploads and stores nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::failpoint::{self, Failpoint};

/// Bounds of the uploads to each cloud.
#[derive(Debug, Clone)]
pub struct UploadLimits {
    /// Bytes that may wait for or be on their way to one cloud, over all files. Default 32 MiB.
    pub in_flight_bytes_max: usize,
    /// Size of a part; a file up to this size is stored by one put. At least 5 MiB for S3. Default 8 MiB.
    pub part_bytes: usize,
    /// Parts of one file on their way to one cloud at a time. Default 4.
    pub parts_in_flight_max: usize,
    /// Time limit of one request. Default 60 s.
    pub request_timeout: Duration,
    /// How long [`FanOut::ready`] waits for clouds beyond the majority. Default 500 ms.
    pub patience: Duration,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            in_flight_bytes_max: 32 << 20,
            part_bytes: 8 << 20,
            parts_in_flight_max: 4,
            request_timeout: Duration::from_secs(60),
            patience: Duration::from_millis(500),
        }
    }
}

/// How far one file's upload to one cloud is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadStatus {
    /// Not decided yet.
    Pending,
    /// The whole object is stored.
    Done,
    /// Not known to be stored, and nobody is trying any more; the text says why.
    Failed(Arc<str>),
}

/// One file's upload to one cloud, seen from outside. Clones share the state.
#[derive(Debug, Clone)]
pub struct UploadHandle {
    cloud: Arc<str>,
    status: Arc<watch::Sender<UploadStatus>>,
}

impl UploadHandle {
    /// An upload that somebody else than a [`FanOut`] does and settles.
    pub fn new(cloud: Arc<str>) -> Self {
        Self { cloud, status: Arc::new(watch::Sender::new(UploadStatus::Pending)) }
    }

    /// The cloud's name.
    pub fn cloud(&self) -> &str {
        &self.cloud
    }

    /// How far it is now.
    pub fn status(&self) -> UploadStatus {
        self.status.borrow().clone()
    }

    /// Waits until the upload is done or failed.
    pub async fn settled(&self) -> UploadStatus {
        let mut status = self.status.subscribe();
        let settled = status.wait_for(|status| *status != UploadStatus::Pending).await;
        settled
            .map(|status| status.clone())
            .unwrap_or_else(|_| UploadStatus::Failed("upload was dropped".into()))
    }

    /// Gives up: the upload fails for this reason unless it is settled already.
    pub fn give_up(&self, reason: &str) {
        self.settle(UploadStatus::Failed(reason.into()));
    }

    /// Settles the upload; the first one to settle it wins. Returns whether that was this call.
    pub fn settle(&self, settled: UploadStatus) -> bool {
        self.status.send_if_modified(|status| {
            let pending = *status == UploadStatus::Pending;
            if pending {
                *status = settled;
            }
            pending
        })
    }

    fn is_pending(&self) -> bool {
        *self.status.borrow() == UploadStatus::Pending
    }
}

/// What one cloud has received so far, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadCounters {
    /// The cloud's name.
    pub cloud: String,
    /// Bytes waiting or on their way.
    pub in_flight_bytes: usize,
    /// Bytes of files that are stored.
    pub stored_bytes: u64,
    /// Files that are stored.
    pub stored_files: u64,
    /// Files that failed.
    pub failed_files: u64,
}

#[derive(Debug)]
struct CloudPipe {
    name: Arc<str>,
    store: Arc<dyn ObjectStore>,
    away: watch::Sender<bool>,
    in_flight_bytes: AtomicUsize,
    stored_bytes: AtomicU64,
    stored_files: AtomicU64,
    failed_files: AtomicU64,
    /// Notified whenever bytes leave a pipe; shared by all clouds.
    freed: Arc<Notify>,
}

impl CloudPipe {
    fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes.load(Ordering::Acquire)
    }

    fn is_away(&self) -> bool {
        *self.away.borrow()
    }
}

/// Sends files to every cloud at once; see the [module](self).
#[derive(Debug)]
pub struct FanOut {
    clouds: Vec<Arc<CloudPipe>>,
    limits: UploadLimits,
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
    held_bytes: Arc<AtomicUsize>,
    freed: Arc<Notify>,
}

impl FanOut {
    /// A fan-out to `clouds`, in their order. Uploads run on the current Tokio runtime.
    ///
    /// # Panics
    /// If there is no current Tokio runtime, or no cloud.
    pub fn new(clouds: Vec<(String, Arc<dyn ObjectStore>)>, limits: UploadLimits) -> Arc<Self> {
        assert!(!clouds.is_empty(), "a topology has at least one cloud");
        let freed = Arc::new(Notify::new());
        let pipe = |(name, store): (String, Arc<dyn ObjectStore>)| {
            Arc::new(CloudPipe {
                name: name.into(),
                store,
                away: watch::Sender::new(false),
                in_flight_bytes: AtomicUsize::new(0),
                stored_bytes: AtomicU64::new(0),
                stored_files: AtomicU64::new(0),
                failed_files: AtomicU64::new(0),
                freed: freed.clone(),
            })
        };
        Arc::new(Self {
            clouds: clouds.into_iter().map(pipe).collect(),
            limits,
            runtime: Handle::current(),
            tasks: Mutex::new(JoinSet::new()),
            held_bytes: Arc::default(),
            freed: freed.clone(),
        })
    }

    /// Clouds that must hold a file before a commit can name it.
    fn majority(&self) -> usize {
        self.clouds.len() / 2 + 1
    }

    /// Marks a cloud as away: its uploads fail at once, also those to come, until it is marked as back. An unknown
    /// name has no effect.
    pub fn set_away(&self, cloud: &str, away: bool) {
        for pipe in self.clouds.iter().filter(|pipe| *pipe.name == *cloud) {
            pipe.away.send_replace(away);
        }
        self.freed.notify_waiters();
    }

    /// Opens the file `path`, whose name must be unique. Bytes sent to it go to all clouds that are not away.
    pub fn start_file(self: &Arc<Self>, path: Path) -> FileUpload {
        let pipes = self.clouds.iter().map(|cloud| self.start_upload(cloud, &path)).collect();
        FileUpload { fan_out: self.clone(), path, pipes }
    }

    fn start_upload(&self, cloud: &Arc<CloudPipe>, path: &Path) -> Pipe {
        let handle = UploadHandle::new(cloud.name.clone());
        if cloud.is_away() {
            handle.give_up("cloud is away");
            cloud.failed_files.fetch_add(1, Ordering::Relaxed);
            return Pipe { cloud: cloud.clone(), handle, pieces: None };
        }
        let (sender, pieces) = mpsc::unbounded_channel();
        let upload = Upload {
            cloud: cloud.clone(),
            path: path.clone(),
            limits: self.limits.clone(),
            pieces,
            multipart: None,
            stored_bytes: 0,
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(upload.drive(handle.clone()), &self.runtime);
        Pipe { cloud: cloud.clone(), handle, pieces: Some(sender) }
    }

    /// Waits until there is room for more: every cloud that is not away has at most half of its bytes in flight, or,
    /// after a short patience, a majority of all clouds has.
    pub async fn ready(&self) {
        let all = self.room_in(self.clouds.len());
        if tokio::time::timeout(self.limits.patience, all).await.is_err() {
            self.room_in(self.majority()).await;
        }
    }

    /// Waits until `wanted` clouds have room. Clouds that are away count as having room: they take nothing.
    async fn room_in(&self, wanted: usize) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let has_room = |cloud: &&Arc<CloudPipe>| {
                cloud.is_away() || cloud.in_flight_bytes() <= self.limits.in_flight_bytes_max / 2
            };
            if self.clouds.iter().filter(has_room).count() >= wanted {
                return;
            }
            freed.await;
        }
    }

    /// Bytes of memory held by uploads; a piece on its way to several clouds counts once.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Acquire)
    }

    /// What each cloud has received so far.
    pub fn counters(&self) -> Vec<UploadCounters> {
        let counters = |cloud: &Arc<CloudPipe>| UploadCounters {
            cloud: cloud.name.to_string(),
            in_flight_bytes: cloud.in_flight_bytes(),
            stored_bytes: cloud.stored_bytes.load(Ordering::Relaxed),
            stored_files: cloud.stored_files.load(Ordering::Relaxed),
            failed_files: cloud.failed_files.load(Ordering::Relaxed),
        };
        self.clouds.iter().map(counters).collect()
    }

    /// Waits until every upload has ended, aborts of unfinished parts included. Files still open are not waited for:
    /// finish or drop them first.
    pub async fn drain(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }

    fn hold(&self, bytes: usize) -> Arc<Held> {
        self.held_bytes.fetch_add(bytes, Ordering::AcqRel);
        Arc::new(Held { bytes, held_bytes: self.held_bytes.clone() })
    }
}

/// A piece of a file, counted once until no cloud is charged for any of it.
#[derive(Debug)]
struct Held {
    bytes: usize,
    held_bytes: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Bytes charged to a cloud until this is dropped.
#[derive(Debug)]
struct Charge {
    cloud: Arc<CloudPipe>,
    bytes: usize,
    held: Arc<Held>,
}

impl Charge {
    fn new(cloud: &Arc<CloudPipe>, held: &Arc<Held>) -> Self {
        cloud.in_flight_bytes.fetch_add(held.bytes, Ordering::AcqRel);
        Self { cloud: cloud.clone(), bytes: held.bytes, held: held.clone() }
    }

    /// Splits off the charge for the first `bytes`.
    fn split_to(&mut self, bytes: usize) -> Charge {
        self.bytes -= bytes;
        Charge { cloud: self.cloud.clone(), bytes, held: self.held.clone() }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.cloud.in_flight_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.cloud.freed.notify_waiters();
    }
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes, Charge),
    /// The file is complete. A channel that closes without this means the file was abandoned.
    End,
}

#[derive(Debug)]
struct Pipe {
    cloud: Arc<CloudPipe>,
    handle: UploadHandle,
    /// `None` once nothing more goes to this cloud.
    pieces: Option<mpsc::UnboundedSender<Piece>>,
}

/// One file on its way to all clouds.
#[derive(Debug)]
pub struct FileUpload {
    fan_out: Arc<FanOut>,
    path: Path,
    pipes: Vec<Pipe>,
}

impl FileUpload {
    /// The file's path in every cloud.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The upload to each cloud, in the order of the clouds.
    pub fn handles(&self) -> Vec<UploadHandle> {
        self.pipes.iter().map(|pipe| pipe.handle.clone()).collect()
    }

    /// Appends `bytes` to the file in every cloud. Never blocks; may give up clouds that are too far behind.
    pub fn send(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let held = self.fan_out.hold(bytes.len());
        for pipe in &mut self.pipes {
            let Some(pieces) = &pipe.pieces else { continue };
            let piece = Piece::Bytes(bytes.clone(), Charge::new(&pipe.cloud, &held));
            if !pipe.handle.is_pending() || pieces.send(piece).is_err() {
                pipe.pieces = None;
            }
        }
        self.give_up_slow_clouds();
    }

    /// Fails the clouds over their limit, the furthest behind first, while a majority remains for this file.
    fn give_up_slow_clouds(&mut self) {
        let limit = self.fan_out.limits.in_flight_bytes_max;
        let majority = self.fan_out.majority();
        while self.pipes.iter().filter(|pipe| pipe.pieces.is_some()).count() > majority {
            let open = self.pipes.iter_mut().filter(|pipe| pipe.pieces.is_some());
            let Some(slowest) = open.max_by_key(|pipe| pipe.cloud.in_flight_bytes()) else { return };
            let behind = slowest.cloud.in_flight_bytes();
            if behind <= limit {
                return;
            }
            slowest.handle.give_up(&format!("{behind} bytes behind, more than {limit}"));
            slowest.pieces = None;
        }
    }

    /// Ends the file: it appears in each cloud once its upload is done.
    pub fn finish(mut self) -> Vec<UploadHandle> {
        for pipe in &mut self.pipes {
            if let Some(pieces) = pipe.pieces.take() {
                // A task that has ended has settled its handle; there is nobody left to tell.
                let _ = pieces.send(Piece::End);
            }
        }
        self.handles()
    }
}

/// The task that stores one file in one cloud.
#[derive(Debug)]
struct Upload {
    cloud: Arc<CloudPipe>,
    path: Path,
    limits: UploadLimits,
    pieces: mpsc::UnboundedReceiver<Piece>,
    multipart: Option<Box<dyn MultipartUpload>>,
    stored_bytes: u64,
}

/// Settles a handle when its task ends in any way, a panic or the end of the runtime included.
struct SettleOnDrop(UploadHandle);

impl Drop for SettleOnDrop {
    fn drop(&mut self) {
        self.0.give_up("upload task ended early");
    }
}

impl Upload {
    /// Runs until the file is stored, fails, or is given up from outside; then settles `handle` and cleans up.
    async fn drive(mut self, handle: UploadHandle) {
        let guard = SettleOnDrop(handle);
        let handle = &guard.0;
        let cloud = self.cloud.clone();
        let mut away = cloud.away.subscribe();
        let result = tokio::select! {
            biased;
            UploadStatus::Failed(reason) = handle.settled() => Err(reason),
            _ = away.wait_for(|away| *away) => Err("cloud is away".into()),
            result = self.store() => result.map_err(Arc::from),
        };
        match result {
            Ok(()) => {
                handle.settle(UploadStatus::Done);
                cloud.stored_files.fetch_add(1, Ordering::Relaxed);
                cloud.stored_bytes.fetch_add(self.stored_bytes, Ordering::Relaxed);
            }
            Err(reason) => {
                tracing::debug!(cloud = %cloud.name, path = %self.path, %reason, "upload failed");
                handle.settle(UploadStatus::Failed(reason));
                cloud.failed_files.fetch_add(1, Ordering::Relaxed);
                self.abort().await;
            }
        }
    }

    async fn store(&mut self) -> Result<(), String> {
        let mut waiting = Waiting::default();
        let mut parts = FuturesUnordered::new();
        let mut ended = false;
        loop {
            while parts.len() < self.limits.parts_in_flight_max
                && let Some(part) = self.next_part(&mut waiting, ended).await?
            {
                parts.push(self.put_part(part)?);
            }
            if ended && waiting.bytes == 0 && parts.is_empty() {
                break;
            }
            tokio::select! {
                Some(stored) = parts.next() => stored?,
                piece = self.pieces.recv(), if !ended => match piece {
                    Some(Piece::Bytes(bytes, charge)) => waiting.push(bytes, charge),
                    Some(Piece::End) => ended = true,
                    None => return Err("file was abandoned".into()),
                },
            }
            if ended && self.multipart.is_none() && waiting.bytes <= self.limits.part_bytes {
                return self.put(waiting.split_to(usize::MAX)).await;
            }
        }
        self.complete().await
    }

    /// The next part that may be sent. The first one of a file waits until there is more than a part, because a
    /// file of one part is stored by a single put.
    async fn next_part(&mut self, waiting: &mut Waiting, ended: bool) -> Result<Option<Part>, String> {
        let part_bytes = self.limits.part_bytes;
        if self.multipart.is_none() {
            if waiting.bytes <= part_bytes {
                return Ok(None);
            }
            let start = self.cloud.store.put_multipart(&self.path);
            self.multipart =
                Some(limited(self.limits.request_timeout, "start multipart upload", start).await?);
        }
        let sendable = waiting.bytes >= part_bytes || (ended && waiting.bytes > 0);
        Ok(sendable.then(|| waiting.split_to(part_bytes)))
    }

    /// Starts sending a part; its charge is released when it is stored or has failed.
    fn put_part(&mut self, part: Part) -> Result<impl Future<Output = Result<(), String>> + use<>, String> {
        let multipart = self.multipart.as_mut().ok_or("no multipart upload")?;
        self.stored_bytes += part.charge_bytes();
        let Part { pieces, charges } = part;
        let sending = multipart.put_part(pieces.into_iter().collect());
        let timeout = self.limits.request_timeout;
        let cloud = self.cloud.name.clone();
        Ok(async move {
            reach(&failpoint::UPLOAD_BEFORE_PART, &cloud)?;
            let sent = limited(timeout, "put part", sending).await;
            drop(charges);
            sent?;
            reach(&failpoint::UPLOAD_AFTER_PART, &cloud)
        })
    }

    async fn put(&mut self, whole: Part) -> Result<(), String> {
        self.stored_bytes = whole.charge_bytes();
        let Part { pieces, charges } = whole;
        let payload: PutPayload = pieces.into_iter().collect();
        reach(&failpoint::UPLOAD_BEFORE_PUT, &self.cloud.name)?;
        let put = self.cloud.store.put(&self.path, payload);
        limited(self.limits.request_timeout, "put", put).await?;
        drop(charges);
        reach(&failpoint::UPLOAD_AFTER_PUT, &self.cloud.name)
    }

    async fn complete(&mut self) -> Result<(), String> {
        reach(&failpoint::UPLOAD_BEFORE_COMPLETE, &self.cloud.name)?;
        let mut multipart = self.multipart.take().ok_or("no multipart upload")?;
        let completed =
            limited(self.limits.request_timeout, "complete multipart upload", multipart.complete()).await;
        if completed.is_err() {
            self.multipart = Some(multipart);
        }
        completed.map(drop)?;
        reach(&failpoint::UPLOAD_AFTER_COMPLETE, &self.cloud.name)
    }

    /// Releases everything still queued and removes parts already stored, as far as the cloud answers.
    async fn abort(mut self) {
        self.pieces.close();
        while self.pieces.try_recv().is_ok() {}
        if let Some(mut multipart) = self.multipart.take() {
            let aborted =
                limited(self.limits.request_timeout, "abort multipart upload", multipart.abort()).await;
            if let Err(reason) = aborted {
                tracing::debug!(cloud = %self.cloud.name, path = %self.path, reason, "parts may be left behind");
            }
        }
    }
}

fn reach(point: &'static Failpoint, cloud: &str) -> Result<(), String> {
    failpoint::hit(point, cloud).map_err(|error| error.to_string())
}

async fn limited<T>(
    timeout: Duration,
    action: &str,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, String> {
    match tokio::time::timeout(timeout, request).await {
        Ok(answer) => answer.map_err(|error| format!("{action}: {error}")),
        Err(_) => Err(format!("{action}: no answer in {} s", timeout.as_secs_f32())),
    }
}

/// Bytes that are not on their way yet, in order.
#[derive(Debug, Default)]
struct Waiting {
    pieces: VecDeque<(Bytes, Charge)>,
    bytes: usize,
}

/// Bytes for one request, with what they are charged.
#[derive(Debug, Default)]
struct Part {
    pieces: Vec<Bytes>,
    charges: Vec<Charge>,
}

impl Part {
    fn charge_bytes(&self) -> u64 {
        self.charges.iter().map(|charge| charge.bytes as u64).sum()
    }
}

impl Waiting {
    fn push(&mut self, bytes: Bytes, charge: Charge) {
        self.bytes += bytes.len();
        self.pieces.push_back((bytes, charge));
    }

    /// Takes the first `bytes`, or all if there are fewer. Nothing is copied.
    fn split_to(&mut self, bytes: usize) -> Part {
        let mut part = Part::default();
        let mut missing = bytes.min(self.bytes);
        self.bytes -= missing;
        while missing > 0
            && let Some((mut piece, mut charge)) = self.pieces.pop_front()
        {
            if piece.len() > missing {
                part.pieces.push(piece.split_to(missing));
                part.charges.push(charge.split_to(missing));
                self.pieces.push_front((piece, charge));
                break;
            }
            missing -= piece.len();
            part.pieces.push(piece);
            part.charges.push(charge);
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, ObjectMeta, PutMultipartOptions, PutOptions,
        PutResult, UploadPart,
    };

    use super::*;

    /// What a faulty store does with the requests that carry bytes.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        None,
        /// Requests beyond the first `n` never answer.
        HangAfter(usize),
        /// Requests beyond the first `n` fail.
        FailAfter(usize),
    }

    #[derive(Debug)]
    struct Faulty {
        inner: InMemory,
        fault: Fault,
        requests: Arc<AtomicUsize>,
        aborted: Arc<AtomicUsize>,
        part_sizes: Arc<Mutex<Vec<usize>>>,
    }

    impl Faulty {
        fn new(fault: Fault) -> Arc<Self> {
            Arc::new(Self {
                inner: InMemory::new(),
                fault,
                requests: Arc::default(),
                aborted: Arc::default(),
                part_sizes: Arc::default(),
            })
        }

        async fn contents(&self, path: &str) -> Option<Vec<u8>> {
            let object = self.inner.get(&Path::from(path)).await.ok()?;
            Some(object.bytes().await.unwrap().to_vec())
        }
    }

    async fn trouble(fault: Fault, request: usize) -> object_store::Result<()> {
        match fault {
            Fault::HangAfter(n) if request >= n => std::future::pending().await,
            Fault::FailAfter(n) if request >= n => {
                Err(object_store::Error::Generic { store: "faulty", source: "out of order".into() })
            }
            _ => Ok(()),
        }
    }

    impl fmt::Display for Faulty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("faulty")
        }
    }

    #[derive(Debug)]
    struct FaultyMultipart {
        inner: Box<dyn MultipartUpload>,
        fault: Fault,
        requests: Arc<AtomicUsize>,
        aborted: Arc<AtomicUsize>,
        part_sizes: Arc<Mutex<Vec<usize>>>,
    }

    #[async_trait::async_trait]
    impl MultipartUpload for FaultyMultipart {
        fn put_part(&mut self, data: PutPayload) -> UploadPart {
            let (fault, request) = (self.fault, self.requests.fetch_add(1, Ordering::SeqCst));
            self.part_sizes.lock().unwrap().push(data.content_length());
            let part = self.inner.put_part(data);
            Box::pin(async move {
                trouble(fault, request).await?;
                part.await
            })
        }

        async fn complete(&mut self) -> object_store::Result<PutResult> {
            trouble(self.fault, self.requests.fetch_add(1, Ordering::SeqCst)).await?;
            self.inner.complete().await
        }

        async fn abort(&mut self) -> object_store::Result<()> {
            self.aborted.fetch_add(1, Ordering::SeqCst);
            self.inner.abort().await
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Faulty {
        async fn put_opts(
            &self,
            path: &Path,
            payload: PutPayload,
            opts: PutOptions,
        ) -> object_store::Result<PutResult> {
            trouble(self.fault, self.requests.fetch_add(1, Ordering::SeqCst)).await?;
            self.inner.put_opts(path, payload, opts).await
        }

        async fn put_multipart_opts(
            &self,
            path: &Path,
            opts: PutMultipartOptions,
        ) -> object_store::Result<Box<dyn MultipartUpload>> {
            trouble(self.fault, self.requests.fetch_add(1, Ordering::SeqCst)).await?;
            Ok(Box::new(FaultyMultipart {
                inner: self.inner.put_multipart_opts(path, opts).await?,
                fault: self.fault,
                requests: self.requests.clone(),
                aborted: self.aborted.clone(),
                part_sizes: self.part_sizes.clone(),
            }))
        }

        async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
            self.inner.get_opts(path, options).await
        }

        fn delete_stream(
            &self,
            paths: BoxStream<'static, object_store::Result<Path>>,
        ) -> BoxStream<'static, object_store::Result<Path>> {
            self.inner.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    fn limits() -> UploadLimits {
        UploadLimits {
            in_flight_bytes_max: 1000,
            part_bytes: 100,
            parts_in_flight_max: 2,
            request_timeout: Duration::from_secs(20),
            patience: Duration::from_millis(20),
        }
    }

    fn fan_out(stores: &[Arc<Faulty>], limits: UploadLimits) -> Arc<FanOut> {
        let cloud =
            |(i, store): (usize, &Arc<Faulty>)| (format!("cloud{i}"), store.clone() as Arc<dyn ObjectStore>);
        FanOut::new(stores.iter().enumerate().map(cloud).collect(), limits)
    }

    fn pieces(total: usize, piece: usize) -> Vec<Bytes> {
        let bytes = Bytes::from((0..total).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>());
        (0..total).step_by(piece).map(|start| bytes.slice(start..total.min(start + piece))).collect()
    }

    async fn send_file(fan_out: &Arc<FanOut>, path: &str, total: usize, piece: usize) -> Vec<UploadStatus> {
        let mut file = fan_out.start_file(Path::from(path));
        for piece in pieces(total, piece) {
            file.send(piece);
            tokio::task::yield_now().await;
        }
        let mut settled = Vec::new();
        for handle in file.finish() {
            settled.push(handle.settled().await);
        }
        settled
    }

    async fn assert_nothing_is_held(fan_out: &FanOut) {
        fan_out.drain().await;
        assert_eq!(fan_out.held_bytes(), 0);
        assert!(fan_out.counters().iter().all(|cloud| cloud.in_flight_bytes == 0));
    }

    fn failed(status: &UploadStatus) -> bool {
        matches!(status, UploadStatus::Failed(_))
    }

    #[tokio::test]
    async fn files_of_every_size_arrive_whole_in_every_cloud() {
        let stores = [Faulty::new(Fault::None), Faulty::new(Fault::None), Faulty::new(Fault::None)];
        let fan_out = fan_out(&stores, UploadLimits { in_flight_bytes_max: 1 << 20, ..limits() });
        for total in [0, 1, 99, 100, 101, 199, 200, 201, 1000, 12_345] {
            for piece in [1, 7, 100, 250, 20_000] {
                let path = format!("t/{total}-{piece}");
                let settled = send_file(&fan_out, &path, total, piece).await;
                assert_eq!(settled, vec![UploadStatus::Done; 3], "{path}");
                for store in &stores {
                    assert_eq!(
                        store.contents(&path).await.unwrap(),
                        pieces(total, total.max(1)).concat(),
                        "{path}"
                    );
                }
            }
        }
        assert_nothing_is_held(&fan_out).await;
        let counters = fan_out.counters();
        assert_eq!(counters[0].stored_files, 50);
        assert_eq!(counters[0].stored_bytes, 5 * (1 + 99 + 100 + 101 + 199 + 200 + 201 + 1000 + 12_345));
        assert_eq!(counters[0].failed_files, 0);
    }

    #[tokio::test]
    async fn a_file_of_one_part_is_one_put_and_parts_have_the_exact_size() {
        let store = Faulty::new(Fault::None);
        let fan_out = fan_out(std::slice::from_ref(&store), limits());
        send_file(&fan_out, "small", 100, 30).await;
        assert_eq!(store.requests.load(Ordering::SeqCst), 1);
        assert!(store.part_sizes.lock().unwrap().is_empty());
        send_file(&fan_out, "large", 250, 30).await;
        assert_eq!(*store.part_sizes.lock().unwrap(), [100, 100, 50]);
    }

    #[tokio::test]
    async fn a_cloud_that_hangs_is_given_up_and_the_others_are_not_held_up() {
        for hang_after in [0, 1, 2, 4] {
            let stores = [
                Faulty::new(Fault::None),
                Faulty::new(Fault::HangAfter(hang_after)),
                Faulty::new(Fault::None),
            ];
            let fan_out = fan_out(&stores, limits());
            let settled = send_file(&fan_out, "f", 5000, 50).await;
            assert_eq!((&settled[0], &settled[2]), (&UploadStatus::Done, &UploadStatus::Done));
            let UploadStatus::Failed(reason) = &settled[1] else { panic!("{settled:?}") };
            assert!(reason.contains("behind"), "{reason}");
            assert_eq!(stores[1].contents("f").await, None);
            assert_nothing_is_held(&fan_out).await;
            assert_eq!(stores[1].aborted.load(Ordering::SeqCst), usize::from(hang_after > 0));
        }
    }

    #[tokio::test]
    async fn a_request_without_answer_fails_after_its_time() {
        let stores = [Faulty::new(Fault::HangAfter(0))];
        let limits = UploadLimits { request_timeout: Duration::from_millis(30), ..limits() };
        let fan_out = fan_out(&stores, limits);
        let settled = send_file(&fan_out, "f", 50, 50).await;
        assert!(
            matches!(&settled[0], UploadStatus::Failed(reason) if reason.contains("no answer")),
            "{settled:?}"
        );
        assert_nothing_is_held(&fan_out).await;
    }

    #[tokio::test]
    async fn a_cloud_that_fails_at_any_request_fails_alone_and_is_cleaned() {
        // 250 bytes take five requests: start, three parts, complete.
        for fail_after in 0..6 {
            let stores = [Faulty::new(Fault::FailAfter(fail_after)), Faulty::new(Fault::None)];
            let fan_out = fan_out(&stores, limits());
            let settled = send_file(&fan_out, "f", 250, 50).await;
            assert_eq!(failed(&settled[0]), fail_after < 5, "{fail_after}");
            assert_eq!(settled[1], UploadStatus::Done);
            assert_eq!(stores[0].contents("f").await.is_some(), fail_after == 5);
            assert_nothing_is_held(&fan_out).await;
            assert_eq!(stores[0].aborted.load(Ordering::SeqCst), usize::from((1..5).contains(&fail_after)));
            assert_eq!(fan_out.counters()[0].failed_files, u64::from(fail_after < 5));
        }
    }

    #[tokio::test]
    async fn the_last_majority_is_never_given_up_but_waited_for() {
        let stores =
            [Faulty::new(Fault::HangAfter(0)), Faulty::new(Fault::HangAfter(0)), Faulty::new(Fault::None)];
        let fan_out = fan_out(&stores, limits());
        let mut file = fan_out.start_file(Path::from("f"));
        for piece in pieces(3000, 500) {
            file.send(piece);
        }
        let pending = file.handles().iter().filter(|handle| handle.status() == UploadStatus::Pending).count();
        assert_eq!(pending, 2);
        let waited = tokio::time::timeout(Duration::from_millis(200), fan_out.ready()).await;
        assert!(waited.is_err(), "a majority has no room");
        fan_out.set_away("cloud0", true);
        fan_out.set_away("cloud1", true);
        fan_out.ready().await;
        drop(file);
        assert_nothing_is_held(&fan_out).await;
    }

    #[tokio::test]
    async fn ready_waits_for_a_slow_minority_only_briefly() {
        let stores = [Faulty::new(Fault::HangAfter(0)), Faulty::new(Fault::None), Faulty::new(Fault::None)];
        let fan_out = fan_out(&stores, limits());
        let mut file = fan_out.start_file(Path::from("f"));
        file.send(Bytes::from(vec![1; 900]));
        let handles = file.finish();
        assert_eq!(handles[1].settled().await, UploadStatus::Done);
        assert_eq!(handles[2].settled().await, UploadStatus::Done);
        tokio::time::timeout(Duration::from_secs(10), fan_out.ready()).await.unwrap();
        assert_eq!(handles[0].status(), UploadStatus::Pending);
        handles[0].give_up("test is over");
        assert_nothing_is_held(&fan_out).await;
    }

    #[tokio::test]
    async fn a_cloud_marked_away_fails_at_once_and_works_again_when_it_is_back() {
        let stores = [Faulty::new(Fault::HangAfter(0)), Faulty::new(Fault::None)];
        let fan_out = fan_out(&stores, limits());
        let mut file = fan_out.start_file(Path::from("before"));
        file.send(Bytes::from_static(b"abc"));
        let handles = file.finish();
        while stores[0].requests.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        fan_out.set_away("cloud0", true);
        assert!(failed(&handles[0].settled().await));
        assert_eq!(handles[1].settled().await, UploadStatus::Done);
        let settled = send_file(&fan_out, "during", 10, 10).await;
        assert!(failed(&settled[0]));
        assert_eq!(stores[0].requests.load(Ordering::SeqCst), 1, "nothing is sent to a cloud that is away");
        fan_out.set_away("cloud1", true);
        fan_out.set_away("cloud1", false);
        assert_eq!(send_file(&fan_out, "after", 10, 10).await[1], UploadStatus::Done);
        assert_nothing_is_held(&fan_out).await;
    }

    #[tokio::test]
    async fn a_dropped_file_is_stored_nowhere_and_leaves_nothing() {
        for total in [50, 950] {
            let stores = [Faulty::new(Fault::None), Faulty::new(Fault::None)];
            let fan_out = fan_out(&stores, limits());
            let mut file = fan_out.start_file(Path::from("f"));
            pieces(total, 50).into_iter().for_each(|piece| file.send(piece));
            let handles = file.handles();
            drop(file);
            for handle in &handles {
                assert!(failed(&handle.settled().await));
            }
            assert_nothing_is_held(&fan_out).await;
            assert_eq!(stores[0].contents("f").await, None);
        }
    }

    #[test]
    fn handles_settle_when_the_runtime_goes_away() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stores = [Faulty::new(Fault::HangAfter(0))];
        let (fan_out, handle) = runtime.block_on(async {
            let fan_out = fan_out(&stores, limits());
            let mut file = fan_out.start_file(Path::from("f"));
            file.send(Bytes::from_static(b"abc"));
            let handle = file.finish().remove(0);
            tokio::task::yield_now().await;
            (fan_out, handle)
        });
        drop(runtime);
        assert!(failed(&handle.status()));
        assert_eq!(fan_out.held_bytes(), 0);
    }
}
