//! Taking a cloud away on purpose: a store that misbehaves at the flip of a switch.
//!
//! [`FaultStore`] passes every request on to the store it wraps, unless its [`FaultSwitch`] says otherwise. The switch
//! may be flipped at any time from anywhere; requests under way see it before they start and, where it matters, before
//! they answer. Used by demonstrations and tests.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, path::Path,
};

/// How a [`FaultStore`] misbehaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Not at all.
    #[default]
    Off,
    /// Every request fails at once, and nothing is done.
    RefuseAll,
    /// Every request that would change something fails at once; reading works.
    RefuseWrites,
    /// What changes something is done, and then reported as failed; reading works.
    LoseWriteAnswers,
    /// Every request is done, after this delay.
    Delay(Duration),
}

/// Says how the stores that share it misbehave. Clones flip the same switch.
#[derive(Debug, Clone, Default)]
pub struct FaultSwitch {
    fault: Arc<Mutex<Fault>>,
}

impl FaultSwitch {
    /// From now on, misbehave like this.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// How the stores misbehave at the moment.
    pub fn fault(&self) -> Fault {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may begin.
    async fn before(&self, kind: Kind) -> Result<()> {
        match (self.fault(), kind) {
            (Fault::RefuseAll, _) | (Fault::RefuseWrites, Kind::Write) => Err(injected("request refused")),
            (Fault::Delay(delay), _) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether a request that was carried out may say so.
    fn after(&self, kind: Kind) -> Result<()> {
        match (self.fault(), kind) {
            (Fault::LoseWriteAnswers, Kind::Write) => Err(injected("answer lost")),
            // The cloud went away meanwhile.
            (Fault::RefuseAll, _) => Err(injected("request refused")),
            _ => Ok(()),
        }
    }

    async fn around<T>(&self, kind: Kind, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.before(kind).await?;
        let answer = request.await?;
        self.after(kind)?;
        Ok(answer)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

fn injected(what: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "FaultStore", source: format!("{what} (injected fault)").into() }
}

/// A store that misbehaves as its switch says. Displays itself as the store it wraps.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    switch: FaultSwitch,
}

impl FaultStore {
    /// Puts `switch` before `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, switch: FaultSwitch) -> Self {
        Self { inner, switch }
    }

    /// Items that stop with an error when the switch says so.
    fn gated<T: Send + 'static>(
        &self,
        kind: Kind,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let switch = self.switch.clone();
        let begin = async move {
            switch.before(kind).await?;
            Ok::<_, object_store::Error>(items.map(move |item| {
                let item = item?;
                switch.after(kind)?;
                Ok(item)
            }))
        };
        stream::once(begin).try_flatten().boxed()
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.switch.around(Kind::Write, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.switch.around(Kind::Write, self.inner.put_multipart_opts(location, opts)).await?;
        Ok(Box::new(FaultUpload { inner, switch: self.switch.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.switch.around(Kind::Read, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.switch.around(Kind::Read, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.gated(Kind::Write, self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.gated(Kind::Read, self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.gated(Kind::Read, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.switch.around(Kind::Read, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.switch.around(Kind::Write, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.switch.around(Kind::Write, self.inner.rename_opts(from, to, options)).await
    }
}

/// An upload that misbehaves like its store.
#[derive(Debug)]
struct FaultUpload {
    inner: Box<dyn MultipartUpload>,
    switch: FaultSwitch,
}

#[async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let switch = self.switch.clone();
        // Made now, because the order of these calls is the order of the parts; carried out when awaited.
        let part = self.inner.put_part(data);
        Box::pin(async move { switch.around(Kind::Write, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.switch.around(Kind::Write, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.switch.around(Kind::Write, self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, memory::InMemory};

    use super::*;

    fn stores() -> (FaultStore, FaultSwitch, Arc<InMemory>) {
        let (inner, switch) = (Arc::new(InMemory::new()), FaultSwitch::default());
        (FaultStore::new(inner.clone(), switch.clone()), switch, inner)
    }

    #[tokio::test]
    async fn a_refusing_store_does_nothing_and_is_itself_again_afterwards() {
        let (store, switch, inner) = stores();
        let (path, other) = (Path::from("a"), Path::from("b"));
        store.put(&path, "x".into()).await.unwrap();
        let mut begun = store.put_multipart(&other).await.unwrap();
        switch.set(Fault::RefuseAll);
        assert!(store.put(&path, "y".into()).await.is_err());
        assert!(store.get(&path).await.is_err());
        assert!(store.head(&path).await.is_err());
        assert!(store.get_ranges(&path, std::slice::from_ref(&(0..1))).await.is_err());
        assert!(store.delete(&path).await.is_err());
        assert!(store.copy(&path, &other).await.is_err());
        assert!(store.rename(&path, &other).await.is_err());
        assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());
        assert!(store.list_with_offset(None, &path).try_collect::<Vec<_>>().await.is_err());
        assert!(store.list_with_delimiter(None).await.is_err());
        assert!(store.put_multipart(&other).await.is_err());
        assert!(begun.put_part("z".into()).await.is_err());
        assert!(begun.complete().await.is_err());
        let names: Vec<ObjectMeta> = inner.list(None).try_collect().await.unwrap();
        assert_eq!(names.len(), 1);
        switch.set(Fault::Off);
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "x");
    }

    #[tokio::test]
    async fn lost_answers_hide_writes_that_happened() {
        let (store, switch, inner) = stores();
        switch.set(Fault::LoseWriteAnswers);
        assert!(store.put(&Path::from("a"), "x".into()).await.is_err());
        assert_eq!(inner.get(&Path::from("a")).await.unwrap().bytes().await.unwrap(), "x");
        assert_eq!(store.get(&Path::from("a")).await.unwrap().bytes().await.unwrap(), "x");
        assert!(store.delete(&Path::from("a")).await.is_err());
        assert!(inner.get(&Path::from("a")).await.is_err());
    }
}
