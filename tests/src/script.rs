//! Lets single requests to clouds fail, as a test says.
//!
//! Every store of a [`Lab`](crate::lab::Lab) passes its requests through one [`Script`]. Without a rule it only counts.
//! A rule sees each request before it is carried out and gives a [`Verdict`]; so a test can refuse the 17th request,
//! everything under `_delta_log/` in two clouds, or the answer to one particular write.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use isobar_connectors::clouds::Cloud;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use tokio::sync::Notify;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads objects or their metadata.
    Read,
    /// Lists.
    List,
    /// Writes, copies, renames or deletes.
    Write,
}

/// A request about to be made.
#[derive(Debug)]
pub struct Request<'a> {
    /// The cloud asked.
    pub cloud: &'a str,
    /// What for.
    pub kind: Kind,
    /// The object or folder.
    pub path: &'a str,
    /// Its number among all requests of the script, from 0.
    pub number: u64,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is carried out.
    Pass,
    /// It fails, and nothing is done.
    Refuse,
    /// It is carried out, and then said to have failed.
    LoseAnswer,
    /// It waits until the gate is opened, and is then carried out.
    Wait(Arc<Gate>),
}

/// Holds requests back until it is opened, for good.
#[derive(Debug, Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Notify,
}

impl Gate {
    /// Lets everything through from now on.
    pub fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_waiters();
    }

    async fn pass(&self) {
        loop {
            let opened = self.opened.notified();
            if *self.open.lock().unwrap_or_else(PoisonError::into_inner) {
                return;
            }
            opened.await;
        }
    }
}

type Rule = Arc<dyn Fn(&Request<'_>) -> Verdict + Send + Sync>;

/// Decides about every request of several clouds. Clones are the same script.
#[derive(Clone, Default)]
pub struct Script {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rule: Option<Rule>,
    requests: u64,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script after {} requests", self.requests())
    }
}

impl Script {
    /// From now on, `rule` decides.
    pub fn set(&self, rule: impl Fn(&Request<'_>) -> Verdict + Send + Sync + 'static) {
        self.lock().rule = Some(Arc::new(rule));
    }

    /// From now on, everything passes.
    pub fn clear(&self) {
        self.lock().rule = None;
    }

    /// Requests seen so far.
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// `cloud` with its clients behind this script.
    pub fn around(&self, mut cloud: Cloud) -> Cloud {
        let store = |inner| ScriptedStore { cloud: cloud.name.as_str().into(), inner, script: self.clone() };
        let (control, data, reads) = (store(cloud.control), store(cloud.data), store(cloud.reads));
        cloud.control = Arc::new(control);
        cloud.data = Arc::new(data);
        cloud.reads = Arc::new(reads);
        cloud
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, cloud: &str, kind: Kind, path: &str) -> Verdict {
        let (rule, number) = {
            let mut state = self.lock();
            state.requests += 1;
            (state.rule.clone(), state.requests - 1)
        };
        rule.map_or(Verdict::Pass, |rule| rule(&Request { cloud, kind, path, number }))
    }
}

fn failed(what: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "script", source: format!("{what} (by the test)").into() }
}

#[derive(Debug, Clone)]
struct ScriptedStore {
    cloud: Arc<str>,
    inner: Arc<dyn ObjectStore>,
    script: Script,
}

impl ScriptedStore {
    async fn request<T>(&self, kind: Kind, path: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.script.judge(&self.cloud, kind, path.as_ref()) {
            Verdict::Pass => work.await,
            Verdict::Refuse => Err(failed("refused")),
            Verdict::LoseAnswer => {
                work.await?;
                Err(failed("answer lost"))
            }
            Verdict::Wait(gate) => {
                gate.pass().await;
                work.await
            }
        }
    }

    fn items<T: Send + 'static>(
        &self,
        kind: Kind,
        path: Option<&Path>,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let (store, path) = (self.clone(), path.cloned().unwrap_or_default());
        let begin = async move { store.request(kind, &path, async { Ok(items) }).await };
        stream::once(begin).try_flatten().boxed()
    }
}

impl fmt::Display for ScriptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for ScriptedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.request(Kind::Write, location, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner =
            self.request(Kind::Write, location, self.inner.put_multipart_opts(location, opts)).await?;
        Ok(Box::new(ScriptedUpload { store: self.clone(), location: location.clone(), inner }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.request(Kind::Read, location, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.request(Kind::Read, location, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.items(Kind::Write, None, self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.items(Kind::List, prefix, self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.items(Kind::List, prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        self.request(Kind::List, &path, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.request(Kind::Write, to, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.request(Kind::Write, to, self.inner.rename_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct ScriptedUpload {
    store: ScriptedStore,
    location: Path,
    inner: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for ScriptedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, location) = (self.store.clone(), self.location.clone());
        let part = self.inner.put_part(data);
        Box::pin(async move { store.request(Kind::Write, &location, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.request(Kind::Write, &self.location, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.request(Kind::Write, &self.location, self.inner.abort()).await
    }
}
