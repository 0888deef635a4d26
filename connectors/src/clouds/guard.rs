//! A directory as a cloud: durable, and never created behind our back.
//!
//! Two things are missing in `object_store`'s local file system for a cloud that holds decisions.
//!
//! **It creates what is not there.** When a disk is unmounted or a directory moved away, the next write would start an
//! empty tree in its place, and a majority could be counted from it. So the root is created in one place only,
//! [`Root::create`], together with a marker file, [`MARKER`]. Without the root, every request fails as unavailable.
//! Without the marker, which is what an unmounted directory looks like, every write fails, and once the marker has
//! been seen every read too. (A copy of a cloud that was made without the marker can be read, for audits.) Directories
//! below the root are made one by one, from the root downwards, so that a root that vanishes in between is not
//! recreated. "Not found" is only believed when the root is still there afterwards.
//!
//! **It does not wait for the disk.** Here a write is only answered when it would survive a power failure: bytes are
//! written to a file beside the target and synced, then linked (create) or renamed (overwrite) to its name, then
//! the directory is synced, and so are the directories above that had to be made. Uploads in parts are synced when
//! they are completed. Data is treated as carefully as the log, because a log entry must not outlive the files it names.
//! A create that meets an existing file syncs that one before it says so: it may be the work of a process that was
//! killed halfway, and the answer makes others rely on it. It costs a few milliseconds per write.
//!
//! A process killed in the middle may leave a file `name#number` behind; listings hide those.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    UploadPart, local::LocalFileSystem, path::Path,
};

/// The file, below the root, that tells a registered directory from an empty mount point.
pub(super) const MARKER: &str = "control/.isobar-root";

const MARKER_TEXT: &str = "This directory is a cloud of isobar. Without this file, isobar takes it for unmounted and\n\
                           writes nothing. Do not delete.\n";

/// The directory behind a cloud.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// Whether the marker has been seen, so that its absence means that the directory is another one.
    marked: AtomicBool,
}

impl Root {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, marked: AtomicBool::new(false) }
    }

    /// Creates the directory, and those above it, and marks it. Does nothing if that has been done.
    pub(super) fn create(&self) -> io::Result<()> {
        let marker = self.path.join(MARKER);
        if !marker.try_exists()? {
            let directory = marker.parent().unwrap_or(&self.path);
            fs::create_dir_all(directory)?;
            write_aside(&marker, &MARKER_TEXT.into(), |aside| fs::rename(aside, &marker))?;
            // From the marker up to the directory that holds the root.
            for made in directory.ancestors().take_while(|made| made.starts_with(&self.path)) {
                sync_directory(made)?;
            }
            sync_parent(&self.path)?;
        }
        self.marked.store(true, Relaxed);
        Ok(())
    }

    /// Whether the directory is there, marked or not. One that cannot be looked at is; what lies below a file is not.
    pub(super) fn exists(&self) -> bool {
        match self.path.try_exists() {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => false,
            looked => looked.unwrap_or(true),
        }
    }

    /// Whether the directory has been made ready by [`create`](Self::create).
    pub(super) fn is_marked(&self) -> io::Result<bool> {
        let marked = self.path.join(MARKER).try_exists()?;
        if marked {
            self.marked.store(true, Relaxed);
        }
        Ok(marked)
    }

    fn check_readable(&self) -> Result<()> {
        if self.is_marked().map_err(unavailable)? {
            return Ok(());
        }
        if self.marked.load(Relaxed) || !self.path.is_dir() {
            return Err(self.missing());
        }
        Ok(())
    }

    fn check_writable(&self) -> Result<()> {
        if self.is_marked().map_err(unavailable)? { Ok(()) } else { Err(self.missing()) }
    }

    fn missing(&self) -> Error {
        let path = self.path.display();
        unavailable(io::Error::other(if self.path.is_dir() {
            format!("directory {path} holds no {MARKER}: not registered, or something is not mounted")
        } else {
            format!("directory {path} is missing: unmounted, or moved away?")
        }))
    }

    /// "Not found" means something only in a directory that is still there.
    fn confirm<T>(&self, answer: Result<T>) -> Result<T> {
        if matches!(answer, Err(Error::NotFound { .. })) {
            self.check_readable()?;
        }
        answer
    }

    /// Makes the directories between the root and `file`, never the root itself.
    fn make_directories(&self, file: &FilePath) -> io::Result<()> {
        let Some(parent) = file.parent() else { return Ok(()) };
        if parent.is_dir() {
            return Ok(());
        }
        let below = parent.strip_prefix(&self.path).map_err(io::Error::other)?;
        let mut directory = self.path.clone();
        for part in below {
            let above = directory.clone();
            directory.push(part);
            match fs::create_dir(&directory) {
                Ok(()) => sync_directory(&above)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes an object so that it lasts.
    fn put(
        &self,
        location: &Path,
        file: &FilePath,
        payload: &PutPayload,
        mode: &PutMode,
    ) -> Result<PutResult> {
        self.check_writable()?;
        self.make_directories(file).map_err(unavailable)?;
        let written = write_aside(file, payload, |aside| match mode {
            PutMode::Create => fs::hard_link(aside, file),
            _ => fs::rename(aside, file),
        });
        match written {
            Ok(()) => {
                sync_parent(file).map_err(unavailable)?;
                Ok(PutResult { e_tag: None, version: None })
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                sync_file(file).and_then(|()| sync_parent(file)).map_err(unavailable)?;
                Err(Error::AlreadyExists { path: location.to_string(), source: error.into() })
            }
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn unavailable(error: io::Error) -> Error {
    Error::Generic { store: "file", source: error.into() }
}

/// Writes `payload` to a new file beside `target`, syncs it, has `place` give it its name, and removes what is left
/// of it under its first name.
fn write_aside(
    target: &FilePath,
    payload: &PutPayload,
    place: impl FnOnce(&FilePath) -> io::Result<()>,
) -> io::Result<()> {
    /// Tells the writes of one process apart, its id those of several. Readers hide `#` followed by digits.
    static WRITES: AtomicU64 = AtomicU64::new(0);

    let (mut file, aside) = loop {
        let mut aside = target.as_os_str().to_owned();
        aside.push(format!("#{}{:010}", std::process::id(), WRITES.fetch_add(1, Relaxed)));
        let aside = PathBuf::from(aside);
        match OpenOptions::new().write(true).create_new(true).open(&aside) {
            // Left by a killed process that had the same id: the next name will do.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            opened => break (opened?, aside),
        }
    };
    let written = (|| {
        for bytes in payload {
            file.write_all(bytes)?;
        }
        file.sync_all()?;
        place(&aside)
    })();
    match fs::remove_file(&aside) {
        // A rename has taken the name away.
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::debug!(%error, "left-over file not removed")
        }
        _ => {}
    }
    written
}

fn sync_file(file: &FilePath) -> io::Result<()> {
    File::open(file)?.sync_all()
}

fn sync_directory(directory: &FilePath) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn sync_parent(file: &FilePath) -> io::Result<()> {
    file.parent().map_or(Ok(()), sync_directory)
}

/// The local file system as seen through a [`Root`]. Locations are absolute paths of the file system.
#[derive(Debug)]
pub(super) struct GuardedDirectory {
    root: Arc<Root>,
    inner: LocalFileSystem,
}

impl GuardedDirectory {
    pub(super) fn new(root: Arc<Root>) -> Self {
        Self { root, inner: LocalFileSystem::new() }
    }

    /// Runs blocking work with the root where blocking is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = Arc::clone(&self.root);
        tokio::task::spawn_blocking(move || work(&root)).await?
    }

    async fn readable(&self) -> Result<()> {
        self.blocking(Root::check_readable).await
    }

    async fn confirm<T>(&self, answer: Result<T>) -> Result<T> {
        if matches!(answer, Err(Error::NotFound { .. })) {
            self.readable().await?;
        }
        answer
    }

    /// Ready for a file at `location` to appear; its path in the file system.
    async fn writable(&self, location: &Path) -> Result<PathBuf> {
        let file = self.inner.path_to_filesystem(location)?;
        self.blocking(move |root| {
            root.check_writable()?;
            root.make_directories(&file).map_err(unavailable)?;
            Ok(file)
        })
        .await
    }

    /// An empty listing means something only in a directory that is there, before and after.
    fn listing(
        &self,
        items: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let check = |root: Arc<Root>| async move {
            tokio::task::spawn_blocking(move || root.check_readable()).await?
        };
        let (before, after) = (check(Arc::clone(&self.root)), check(Arc::clone(&self.root)));
        let begin = async move {
            before.await?;
            Ok::<_, Error>(items)
        };
        let end = stream::once(after).try_filter_map(|()| async { Ok(None) });
        stream::once(begin).try_flatten().chain(end).boxed()
    }
}

impl fmt::Display for GuardedDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root.path.display())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for GuardedDirectory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) || !opts.attributes.is_empty() {
            // Says what the file system cannot do.
            return self.inner.put_opts(location, payload, opts).await;
        }
        let file = self.inner.path_to_filesystem(location)?;
        let location = location.clone();
        self.blocking(move |root| root.put(&location, &file, &payload, &opts.mode)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let file = self.writable(location).await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { inner, root: Arc::clone(&self.root), file }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.readable().await?;
        let answer = self.inner.get_opts(location, options).await;
        self.confirm(answer).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.readable().await?;
        let answer = self.inner.get_ranges(location, ranges).await;
        self.confirm(answer).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (root, inner) = (Arc::clone(&self.root), self.inner.clone());
        locations
            .map(move |location| {
                let (root, inner) = (Arc::clone(&root), inner.clone());
                async move {
                    let location = location?;
                    let checked = Arc::clone(&root);
                    tokio::task::spawn_blocking(move || checked.check_writable()).await??;
                    let deleted = inner.delete(&location).await;
                    tokio::task::spawn_blocking(move || root.confirm(deleted)).await??;
                    Ok(location)
                }
            })
            .buffered(10)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.readable().await?;
        let answer = self.inner.list_with_delimiter(prefix).await;
        self.readable().await?;
        answer
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let file = self.writable(to).await?;
        let copied = self.inner.copy_opts(from, to, options).await;
        self.confirm(copied).await?;
        self.blocking(move |_| sync_parent(&file).map_err(unavailable)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let file = self.writable(to).await?;
        let renamed = self.inner.rename_opts(from, to, options).await;
        self.confirm(renamed).await?;
        self.blocking(move |_| sync_parent(&file).map_err(unavailable)).await
    }
}

/// An upload in parts that lasts once it is complete.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    root: Arc<Root>,
    file: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let root = Arc::clone(&self.root);
        tokio::task::spawn_blocking(move || root.check_writable()).await??;
        let completed = self.inner.complete().await?;
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || sync_file(&file).and_then(|()| sync_parent(&file)))
            .await?
            .map_err(unavailable)?;
        Ok(completed)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clouds::temporary::TemporaryDirectory;

    fn guarded(directory: &TemporaryDirectory) -> (GuardedDirectory, Arc<Root>) {
        let root = Arc::new(Root::new(directory.path().join("cloud")));
        (GuardedDirectory::new(Arc::clone(&root)), root)
    }

    fn at(root: &Root, name: &str) -> Path {
        Path::from_absolute_path(root.path.join(name)).unwrap()
    }

    fn is_unavailable<T>(answer: Result<T>) -> bool {
        matches!(answer, Err(Error::Generic { .. }))
    }

    async fn assert_nothing_works(store: &GuardedDirectory, root: &Root) {
        let (a, b) = (at(root, "a/b/object"), at(root, "c"));
        for mode in [PutMode::Create, PutMode::Overwrite] {
            assert!(is_unavailable(store.put_opts(&a, "x".into(), PutOptions::from(mode)).await));
        }
        assert!(is_unavailable(store.put_multipart(&a).await));
        assert!(is_unavailable(store.get(&a).await));
        assert!(is_unavailable(store.head(&a).await));
        assert!(is_unavailable(store.get_ranges(&a, std::slice::from_ref(&(0..1))).await));
        assert!(is_unavailable(store.delete(&a).await));
        assert!(is_unavailable(store.copy(&a, &b).await));
        assert!(is_unavailable(store.rename(&a, &b).await));
        assert!(is_unavailable(store.list(Some(&at(root, "a"))).try_collect::<Vec<_>>().await));
        assert!(is_unavailable(store.list_with_delimiter(Some(&at(root, "a"))).await));
    }

    #[tokio::test]
    async fn a_directory_that_is_not_registered_or_gone_is_unavailable_and_not_created() {
        let directory = TemporaryDirectory::new();
        let (store, root) = guarded(&directory);
        assert_nothing_works(&store, &root).await;
        assert!(!root.path.exists());

        root.create().unwrap();
        let object = at(&root, "a/b/object");
        store.put(&object, "x".into()).await.unwrap();
        let mut upload = store.put_multipart(&at(&root, "a/upload")).await.unwrap();

        // Moved away.
        let away = directory.path().join("away");
        fs::rename(&root.path, &away).unwrap();
        assert_nothing_works(&store, &root).await;
        assert!(upload.complete().await.is_err());
        assert!(!root.path.exists());

        // Unmounted: another directory is in its place.
        fs::create_dir(&root.path).unwrap();
        assert_nothing_works(&store, &root).await;
        assert_eq!(fs::read_dir(&root.path).unwrap().count(), 0);
        fs::remove_dir(&root.path).unwrap();

        // Back.
        fs::rename(&away, &root.path).unwrap();
        assert_eq!(store.get(&object).await.unwrap().bytes().await.unwrap(), "x");
        assert!(matches!(store.get(&at(&root, "z")).await, Err(Error::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_copy_without_the_marker_can_be_read_and_not_written() {
        let directory = TemporaryDirectory::new();
        let (store, root) = guarded(&directory);
        fs::create_dir_all(root.path.join("a")).unwrap();
        fs::write(root.path.join("a/object"), "x").unwrap();
        assert_eq!(store.get(&at(&root, "a/object")).await.unwrap().bytes().await.unwrap(), "x");
        let listed: Vec<_> = store.list(Some(&at(&root, "a"))).try_collect().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert!(is_unavailable(store.put(&at(&root, "a/object"), "y".into()).await));
        assert!(is_unavailable(store.delete(&at(&root, "a/object")).await));
    }

    #[tokio::test]
    async fn nothing_is_left_beside_the_objects() {
        let directory = TemporaryDirectory::new();
        let (store, root) = guarded(&directory);
        root.create().unwrap();
        let object = at(&root, "a/object");
        let create = || PutOptions::from(PutMode::Create);
        store.put_opts(&object, "x".into(), create()).await.unwrap();
        let again = store.put_opts(&object, "y".into(), create()).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        store.put(&object, "z".into()).await.unwrap();
        let names: Vec<_> =
            fs::read_dir(root.path.join("a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["object"]);
        assert_eq!(fs::read(root.path.join("a/object")).unwrap(), b"z");
    }
}
