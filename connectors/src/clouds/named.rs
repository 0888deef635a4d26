//! Gives a store its cloud's name, and its requests a deadline.
//!
//! Errors show the store they came from by its display form, which here is the cloud's name. The deadline covers what
//! the HTTP clients' own time-outs do not: fetching credentials, and a file system that hangs. A request given up may
//! still be carried out; the callers of a `control` client reckon with that anyway.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};

/// A store that calls itself `name` and answers within `deadline`, if there is one.
#[derive(Debug)]
pub(super) struct NamedStore {
    name: Arc<str>,
    inner: Arc<dyn ObjectStore>,
    deadline: Option<Duration>,
}

impl NamedStore {
    pub(super) fn new(name: &str, inner: Arc<dyn ObjectStore>, deadline: Option<Duration>) -> Self {
        Self { name: name.into(), inner, deadline }
    }

    async fn within<T>(&self, request: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let Some(deadline) = self.deadline else { return request.await };
        tokio::time::timeout(deadline, request).await.unwrap_or_else(|_| {
            Err(object_store::Error::Generic {
                store: "isobar",
                source: format!("no answer within {} ms", deadline.as_millis()).into(),
            })
        })
    }
}

impl fmt::Display for NamedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for NamedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.within(self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.within(self.inner.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.within(self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.within(self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.within(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.within(self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.within(self.inner.rename_opts(from, to, options)).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, memory::InMemory};

    use super::*;
    use crate::clouds::{Fault, FaultStore, FaultSwitch};

    #[tokio::test]
    async fn a_hanging_store_is_given_up_after_the_deadline() {
        let switch = FaultSwitch::default();
        let slow = Arc::new(FaultStore::new(Arc::new(InMemory::new()), switch.clone()));
        switch.set(Fault::Delay(Duration::from_secs(3600)));
        let store = NamedStore::new("aws", slow, Some(Duration::from_millis(50)));
        let error = store.put(&Path::from("a"), "x".into()).await.unwrap_err();
        assert!(error.to_string().contains("no answer within 50 ms"), "{error}");
        assert_eq!(store.to_string(), "aws");
    }
}
