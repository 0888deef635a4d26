//! Gives a store its cloud's name, and its requests a deadline.
//!
//! Errors show the store they came from by its display form, which here is the cloud's name. The deadline covers what
//! the HTTP clients' own time-outs do not: fetching credentials, and a file system that hangs. In listings and deletions of
//! many objects it holds from one item to the next, so that a long listing may take its time and a hanging one ends. A
//! request given up may still be carried out; the callers of a `control` client reckon with that anyway.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};

/// A store that calls itself `name` and answers within `deadline`, if there is one; each piece of a body or of a listing
/// is within `deadline` after the one before it.
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
        tokio::time::timeout(deadline, request).await.unwrap_or_else(|_| Err(no_answer(deadline)))
    }

    /// The items, each within the deadline after it was asked for. One that is late ends them with an error.
    fn each_within<T: Send + 'static>(
        &self,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let Some(deadline) = self.deadline else { return items };
        let step = move |items: Option<BoxStream<'static, Result<T>>>| async move {
            let mut items = items?;
            match tokio::time::timeout(deadline, items.next()).await {
                Ok(item) => item.map(|item| (item, Some(items))),
                Err(_) => Some((Err(no_answer(deadline)), None)),
            }
        };
        // Whoever reads all of a body asks once more after its end.
        stream::unfold(Some(items), step).fuse().boxed()
    }
}

fn no_answer(deadline: Duration) -> object_store::Error {
    let source = format!("no answer within {} ms", deadline.as_millis()).into();
    object_store::Error::Generic { store: "isobar", source }
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
        let mut answer = self.within(self.inner.get_opts(location, options)).await?;
        // A body that stops is as bad as no answer.
        answer.payload = match answer.payload {
            GetResultPayload::Stream(body) => GetResultPayload::Stream(self.each_within(body)),
            file => file,
        };
        Ok(answer)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.within(self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.each_within(self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.each_within(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.each_within(self.inner.list_with_offset(prefix, offset))
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
    use futures::TryStreamExt;
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

    #[tokio::test]
    async fn a_body_that_stops_is_given_up_after_the_deadline() {
        #[derive(Debug)]
        struct Stalling(InMemory);
        impl fmt::Display for Stalling {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        #[async_trait]
        impl ObjectStore for Stalling {
            async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
                let mut answer = self.0.get_opts(location, options).await?;
                let begun = stream::iter([Ok(Bytes::from_static(b"ab"))]);
                answer.payload = GetResultPayload::Stream(begun.chain(stream::pending()).boxed());
                Ok(answer)
            }
            async fn put_opts(&self, at: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
                self.0.put_opts(at, payload, opts).await
            }
            async fn put_multipart_opts(
                &self,
                at: &Path,
                opts: PutMultipartOptions,
            ) -> Result<Box<dyn MultipartUpload>> {
                self.0.put_multipart_opts(at, opts).await
            }
            fn delete_stream(
                &self,
                locations: BoxStream<'static, Result<Path>>,
            ) -> BoxStream<'static, Result<Path>> {
                self.0.delete_stream(locations)
            }
            fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
                self.0.list(prefix)
            }
            async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
                self.0.list_with_delimiter(prefix).await
            }
            async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
                self.0.copy_opts(from, to, options).await
            }
        }
        let store =
            NamedStore::new("aws", Arc::new(Stalling(InMemory::new())), Some(Duration::from_millis(50)));
        let path = Path::from("a");
        store.put(&path, "abcd".into()).await.unwrap();
        let mut body = store.get(&path).await.unwrap().into_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "ab");
        let error = body.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("no answer within 50 ms"), "{error}");
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn an_empty_body_is_read_to_its_end() {
        let store = NamedStore::new("aws", Arc::new(InMemory::new()), Some(Duration::from_secs(60)));
        let path = Path::from("empty");
        store.put(&path, PutPayload::new()).await.unwrap();
        assert!(store.get(&path).await.unwrap().bytes().await.unwrap().is_empty());
        let mut body = store.get(&path).await.unwrap().into_stream();
        while body.next().await.is_some() {}
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn listings_and_deletions_that_hang_are_given_up_after_the_deadline() {
        let switch = FaultSwitch::default();
        let slow = Arc::new(FaultStore::new(Arc::new(InMemory::new()), switch.clone()));
        let store = NamedStore::new("aws", slow, Some(Duration::from_millis(50)));
        let path = Path::from("a");
        store.put(&path, "x".into()).await.unwrap();
        let listed: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
        assert_eq!(listed.len(), 1);
        switch.set(Fault::Delay(Duration::from_secs(3600)));
        let doomed = stream::iter([Ok(path.clone())]).boxed();
        let mut answers = Vec::new();
        answers.push(store.list(None).try_collect::<Vec<_>>().await.unwrap_err());
        answers.push(store.list_with_offset(None, &path).try_collect::<Vec<_>>().await.unwrap_err());
        answers.push(store.delete_stream(doomed).try_collect::<Vec<_>>().await.unwrap_err());
        for error in answers {
            assert!(error.to_string().contains("no answer within 50 ms"), "{error}");
        }
    }
}
