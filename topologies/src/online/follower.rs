//! Keeps one view as new as its dataset.
//!
//! ```text
//! no store ─▶ build: all files of the newest snapshot ─▶ follow: the files that each later version adds
//!                ▲                                          │ what cannot be followed
//!                └──────────────────────────────────────────┘
//! ```
//!
//! **Following.** Each version names the hash of the one before it, so what is read next is what comes after what is in the store,
//! whichever cloud it is read from. Rows and version go into the store in one transaction. A compaction moves rows and a
//! vacuum lets go of files: neither changes a row. A table of isobar never loses rows; a version that takes some away all the
//! same, a change of the view's columns, another history, and a file that was let go before it was read are not followed: the view
//! is built again, while the old store goes on answering at its version.
//!
//! **Building** goes on where it was after a restart: rows that are there twice do no harm, because the newest counts. If files of
//! the snapshot are let go meanwhile, the newest snapshot is taken in its place.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isobar_connectors::clouds::Cloud;
use isobar_connectors::delta::schema::to_arrow;
use object_store::ObjectStoreExt;
use redb::WriteTransaction;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::View;
use super::layout::Layout;
use super::reading::read;
use super::store::{Applied, State, Store, Unopened, store_failed};
use crate::commit::format::published_path;
use crate::error::Error;
use crate::fetched::{Stated, Unfetched, fetch};
use crate::prove::log::{AddedFile, Bodies, DataFile, Entry, data_file, list_versions};
use crate::query::{Snapshot, newest_snapshots};
use crate::spec::OnlineSpec;

/// Most versions applied in one transaction, and about the most bytes of their files.
const VERSIONS_MAX: usize = 32;
const GROUP_BYTES: u64 = 256 << 20;
/// While a store is built: about the bytes of files between two commits.
const BUILD_BYTES: u64 = 64 << 20;
/// How often in a row the newest snapshot is taken because files of the one before were let go.
const SNAPSHOTS_MAX: usize = 8;

/// See the [module](self).
pub(super) struct Follower {
    view: Arc<View>,
    clouds: Vec<Cloud>,
    folder: PathBuf,
    cache_bytes: usize,
    open: Option<Open>,
    /// The store that readers have cannot be followed: another is being built.
    is_rebuilding: bool,
    /// Held by work that goes on when a step is dropped.
    at_work: Arc<Mutex<()>>,
}

/// The store that readers have, its columns, and the version that is in it.
struct Open {
    store: Store,
    layout: Arc<Layout>,
    state: State,
    applied: Applied,
}

/// The next versions of a dataset.
enum Next {
    /// There are none yet.
    Nothing,
    /// These, the first of which comes after the applied one.
    Versions(Vec<Version>),
    /// They cannot be followed.
    Rebuild(String),
}

/// A version to be applied.
struct Version {
    applied: Applied,
    entry: Arc<Entry>,
}

/// Why rows could not be brought in.
enum Stopped {
    /// Files were let go.
    Gone(Vec<String>),
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Follower {
    /// Follows the dataset of `view` in `clouds`, in this order, with a store in `folder`.
    pub(super) fn new(view: Arc<View>, clouds: &[Cloud], folder: &Path, cache_bytes: usize) -> Self {
        Self {
            view,
            clouds: clouds.to_vec(),
            folder: folder.to_owned(),
            cache_bytes,
            open: None,
            is_rebuilding: false,
            at_work: Arc::default(),
        }
    }

    fn table(&self) -> &str {
        &self.view.spec.dataset
    }

    fn store_path(&self) -> PathBuf {
        self.folder.join(format!("{}.redb", self.table()))
    }

    fn building_path(&self) -> PathBuf {
        self.folder.join(format!("{}.building.redb", self.table()))
    }

    /// Does the next piece of work; whether there may be more of it right away.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if no cloud can serve the table, [`Error::Configuration`] if the view does not fit it or another
    /// process has the store, [`Error::Damaged`] if this machine's disk fails. It may be called again.
    pub(super) async fn step(&mut self) -> Result<bool, Error> {
        if self.is_rebuilding || (self.open.is_none() && !self.take_up().await?) {
            return self.build().await;
        }
        let Some(open) = &self.open else { return Ok(false) };
        match self.next(open).await? {
            Next::Nothing => Ok(false),
            Next::Rebuild(why) => self.rebuild(&why).await,
            Next::Versions(versions) => match self.apply(open, versions).await {
                Ok(applied) => self.applied(applied).map(|()| true),
                Err(Stopped::Failed(error)) => Err(error),
                Err(Stopped::Gone(_)) => self.rebuild("files were let go before they were read").await,
            },
        }
    }

    async fn rebuild(&mut self, why: &str) -> Result<bool, Error> {
        info!(dataset = self.table(), why, "building the online view again");
        self.view.metrics.rebuilds.with_label_values(&[self.table()]).inc();
        // What an earlier run has begun may have what this one must not.
        self.forget_building()?;
        self.is_rebuilding = true;
        self.build().await
    }

    /// Takes up the store that is there from an earlier run; whether there is one that can be followed.
    async fn take_up(&mut self) -> Result<bool, Error> {
        let path = self.store_path();
        if !path.exists() {
            return Ok(false);
        }
        let store = match Store::open(&path, self.cache_bytes) {
            Ok(store) => store,
            Err(Unopened::InUse) => return Err(in_use(&path)),
            Err(Unopened::Unreadable(why)) => {
                warn!(dataset = self.table(), why, "the online store is of no use, building it again");
                return Ok(false);
            }
        };
        let Some(state) = store.state()? else { return Ok(false) };
        let (Some(applied), Some(layout)) = (state.applied.clone(), self.layout_now().await?) else {
            return Ok(false);
        };
        if state.fingerprint != layout.fingerprint() {
            info!(dataset = self.table(), "the online view has other columns now, building it");
            return Ok(false);
        }
        if let Some(why) = self.is_of_another_history(&applied).await? {
            warn!(dataset = self.table(), why, "the online store is of another table, building it again");
            return Ok(false);
        }
        self.serve(Open { store, layout: Arc::new(layout), state, applied })?;
        Ok(true)
    }

    /// The columns of the view in the table as it is now, `None` if there is no table.
    async fn layout_now(&self) -> Result<Option<Layout>, Error> {
        let table = self.table().to_owned();
        let mut snapshots = newest_snapshots(&self.clouds, std::slice::from_ref(&table)).await?;
        snapshots.remove(&table).map(|snapshot| self.layout_of(&snapshot)).transpose()
    }

    fn layout_of(&self, snapshot: &Snapshot) -> Result<Layout, Error> {
        Layout::new(&self.view.spec, &snapshot.schema).map_err(Error::Configuration)
    }

    /// Why the clouds' table is not the one that the store was made from, if it is not. While a cloud is away it may have the
    /// version, and others may only be behind.
    async fn is_of_another_history(&self, applied: &Applied) -> Result<Option<String>, Error> {
        let mut other = None;
        for cloud in &self.clouds {
            match read_version(cloud, self.table(), applied.version).await {
                Ok(Some(version)) if version.applied.sha256 == applied.sha256 => return Ok(None),
                Ok(Some(_)) => {
                    other.get_or_insert(format!("{} has another version {}", cloud.name, applied.version));
                }
                Ok(None) => {
                    other.get_or_insert(format!("{} has no version {}", cloud.name, applied.version));
                }
                // It may have it.
                Err(_) => return Ok(None),
            }
        }
        Ok(other)
    }

    /// Readers get this store from here on.
    fn serve(&mut self, open: Open) -> Result<(), Error> {
        let reader = open.store.reader(open.layout.clone())?;
        self.view.publish(reader, open.store.bytes());
        self.open = Some(open);
        Ok(())
    }

    /// The store has a newer version.
    fn applied(&mut self, applied: Applied) -> Result<(), Error> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        open.state.applied = Some(applied.clone());
        open.applied = applied;
        self.serve(open)
    }

    /// What comes after the version in the store, from the first cloud that has something.
    async fn next(&self, open: &Open) -> Result<Next, Error> {
        let (mut reasons, mut strangers, mut has_answer) = (Vec::new(), 0, false);
        for cloud in &self.clouds {
            match self.next_in(cloud, open).await {
                Ok(Next::Nothing) => has_answer = true,
                Ok(Next::Rebuild(why)) => {
                    strangers += 1;
                    reasons.push(format!("{}: {why}", cloud.name));
                }
                Ok(Next::Versions(versions)) => {
                    return Ok(followed(versions, &self.view.spec, open.layout.fingerprint()));
                }
                Err(why) => reasons.push(format!("{}: {why}", cloud.name)),
            }
        }
        if strangers == self.clouds.len() {
            return Ok(Next::Rebuild(reasons.join("; ")));
        }
        if !has_answer {
            let action = format!("read what is new in {}", self.table());
            return Err(Error::no_majority(&action, 1, self.clouds.len(), reasons));
        }
        if !reasons.is_empty() {
            warn!(dataset = self.table(), ?reasons, "some clouds cannot say what is new");
        }
        self.view.looked(open.applied.version);
        Ok(Next::Nothing)
    }

    /// The same in one cloud; [`Next::Rebuild`] if its table is another one.
    async fn next_in(&self, cloud: &Cloud, open: &Open) -> Result<Next, String> {
        let (table, mut before) = (self.table(), open.applied.clone());
        let listed = list_versions(cloud, table, Some(before.version)).await;
        let mut listed = listed.map_err(|error| crate::chain_of(&error))?;
        listed.retain(|version| *version > before.version);
        if listed.is_empty() {
            return Ok(Next::Nothing);
        }
        // What does not follow upon what is there may be of nobody.
        let run = listed.iter().zip(before.version + 1..).take_while(|(found, next)| *found == next);
        self.view.looked(run.last().map_or(before.version, |(newest, _)| *newest));
        listed.truncate(VERSIONS_MAX);
        let log = Bodies::default().read_log(cloud, table, &listed).await;
        let log = log.map_err(|error| crate::chain_of(&error))?;
        let mut versions: Vec<Version> = Vec::with_capacity(listed.len());
        for (number, found) in log.versions {
            let follows = |entry: &Entry| entry.commit.isobar.previous_sha256 == before.sha256;
            let problem = match (&found.sha256, &found.entry) {
                _ if number != before.version + 1 => format!("version {} is missing", before.version + 1),
                (Some(_), Ok(entry)) if entry.commit.isobar.dataset != table => {
                    format!("version {number} is of {}", entry.commit.isobar.dataset)
                }
                (Some(_), Ok(entry)) if !follows(entry) && versions.is_empty() => {
                    return Ok(Next::Rebuild(format!(
                        "version {number} does not follow what is in the store"
                    )));
                }
                (Some(_), Ok(entry)) if !follows(entry) => {
                    format!("version {number} does not follow the one before")
                }
                (Some(sha256), Ok(entry)) => {
                    let committed_ms = entry.commit.in_commit_timestamp_ms;
                    let applied = Applied { version: number, sha256: sha256.clone(), committed_ms };
                    before = applied.clone();
                    versions.push(Version { applied, entry: entry.clone() });
                    continue;
                }
                (_, Err(why)) => format!("version {number}: {why}"),
                (None, Ok(_)) => format!("version {number} could not be read"),
            };
            // What comes before it can be applied.
            if versions.is_empty() {
                return Err(problem);
            }
            break;
        }
        Ok(Next::Versions(versions))
    }

    /// Brings versions into the store in one transaction; the last one that is in it.
    async fn apply(&self, open: &Open, versions: Vec<Version>) -> Result<Applied, Stopped> {
        let writing = begin(&open.store)?;
        let (mut bytes, mut last) = (0u64, open.applied.clone());
        for version in versions {
            for file in added_files(&version.entry)? {
                bytes = bytes.saturating_add(file.size);
                self.bring_in(&open.store, &open.layout, &writing, &file, false).await?;
            }
            last = version.applied;
            if bytes >= GROUP_BYTES {
                break;
            }
        }
        let state = State { applied: Some(last.clone()), ..open.state.clone() };
        self.commit(&open.store, writing, state).await?;
        Ok(last)
    }

    /// Waits for the work of a step that was dropped. After this nothing has the stores open but their readers.
    pub(super) async fn ended(mut self) {
        self.open = None;
        let _at_work = self.at_work.lock().await;
    }

    /// Work of the disk and the processor, away from the async threads.
    async fn off_thread(
        &self,
        work: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let at_work = self.at_work.clone().lock_owned().await;
        let ended = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(at_work);
            done
        });
        match ended.await {
            Ok(done) => done,
            Err(died) => Err(Error::damaged("an online store, or a file of its dataset,", died.to_string())),
        }
    }

    async fn commit(&self, store: &Store, writing: Arc<WriteTransaction>, state: State) -> Result<(), Error> {
        let store = store.clone();
        self.off_thread(move || {
            store.set_state(&writing, &state)?;
            let writing = Arc::into_inner(writing).expect("whoever wrote has finished");
            store.commit(writing)
        })
        .await
    }

    /// Puts the rows of `file` into the store, and while it is built also that they are there.
    async fn bring_in(
        &self,
        store: &Store,
        layout: &Arc<Layout>,
        writing: &Arc<WriteTransaction>,
        file: &DataFile,
        building: bool,
    ) -> Result<(), Stopped> {
        let stated = Stated { path: &file.path, size: file.size, sha256: file.sha256.as_deref() };
        let fetched = match fetch(&self.clouds, self.table(), stated).await {
            Ok(fetched) => fetched,
            Err(Unfetched { is_gone: true, reasons }) => return Err(Stopped::Gone(reasons)),
            Err(Unfetched { reasons, .. }) => {
                let action = format!("read {} of {}", file.path, self.table());
                return Err(Error::no_majority(&action, 1, self.clouds.len(), reasons).into());
            }
        };
        let (store, layout, writing, file) = (store.clone(), layout.clone(), writing.clone(), file.clone());
        let table = self.table().to_owned();
        let work = move || {
            read(fetched, &file, &layout, |rows| store.put(&writing, &rows).map_err(Refused::Store))
                .map_err(|refused| match refused {
                    Refused::Store(error) => error,
                    Refused::File(why) => Error::damaged(&format!("a file of {table}"), why),
                })?;
            if building {
                store.add_file(&writing, &file.path)?;
            }
            Ok(())
        };
        Ok(self.off_thread(work).await?)
    }

    /// Makes the store anew, from the newest snapshot, and lets readers have it; `false` if there is no table yet.
    async fn build(&mut self) -> Result<bool, Error> {
        for _ in 0..SNAPSHOTS_MAX {
            let table = self.table().to_owned();
            let mut snapshots = newest_snapshots(&self.clouds, std::slice::from_ref(&table)).await?;
            let Some(snapshot) = snapshots.remove(&table) else { return Ok(false) };
            self.view.looked(snapshot.version);
            match self.build_from(&snapshot).await {
                Ok(open) => {
                    info!(dataset = table, version = open.applied.version, "the online view is built");
                    self.is_rebuilding = false;
                    self.serve(open)?;
                    return Ok(true);
                }
                Err(Stopped::Gone(reasons)) => {
                    info!(
                        dataset = table,
                        version = snapshot.version,
                        ?reasons,
                        "files were let go meanwhile"
                    );
                }
                Err(Stopped::Failed(error)) => return Err(error),
            }
        }
        let reason = "files are let go faster than they can be read; raise `keep_versions`".to_owned();
        let action = format!("build the online view of {}", self.table());
        Err(Error::no_majority(&action, 1, self.clouds.len(), vec![reason]))
    }

    async fn build_from(&self, snapshot: &Snapshot) -> Result<Open, Stopped> {
        let layout = Arc::new(self.layout_of(snapshot)?);
        let Snapshot { version, sha256, committed_ms, .. } = snapshot;
        let applied = Applied { version: *version, sha256: sha256.clone(), committed_ms: *committed_ms };
        let (mut store, state) = self.store_to_build(&layout, snapshot).await?;
        let mut files: Vec<&DataFile> = snapshot.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut writing = begin(&store)?;
        let mut bytes = 0u64;
        for file in files {
            if store.has_file(&writing, &file.path)? {
                continue;
            }
            self.bring_in(&store, &layout, &writing, file, true).await?;
            bytes = bytes.saturating_add(file.size);
            if bytes >= BUILD_BYTES {
                self.commit(&store, writing, state.clone()).await?;
                (writing, bytes) = (begin(&store)?, 0);
            }
        }
        let state = State { building: None, applied: Some(applied.clone()), ..state };
        self.commit(&store, writing, state.clone()).await?;
        store.rename(&self.store_path())?;
        Ok(Open { store, layout, state, applied })
    }

    /// A store for the rows of `snapshot`: the one that was being built, if all that is in it is in the snapshot too, or else an
    /// empty one.
    async fn store_to_build(&self, layout: &Layout, snapshot: &Snapshot) -> Result<(Store, State), Error> {
        let wanted = State {
            fingerprint: layout.fingerprint().to_owned(),
            table_id: snapshot.metadata.id.clone(),
            building: Some(snapshot.version),
            applied: None,
        };
        let path = self.building_path();
        if path.exists() {
            let begun = match Store::open(&path, self.cache_bytes) {
                Ok(store) => Some(store),
                Err(Unopened::InUse) => return Err(in_use(&path)),
                Err(Unopened::Unreadable(_)) => None,
            };
            if let Some(store) = begun
                && let Some(state) = store.state()?
                && self.may_go_on(&state, &wanted).await?
            {
                return Ok((store, wanted));
            }
            self.forget_building()?;
        }
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| store_failed(&self.folder, "make its folder", error))?;
        let store = match Store::open(&path, self.cache_bytes) {
            Ok(store) => store,
            Err(Unopened::InUse) => return Err(in_use(&path)),
            Err(Unopened::Unreadable(why)) => return Err(store_failed(&path, "make", why)),
        };
        let writing = begin(&store)?;
        self.commit(&store, writing, wanted.clone()).await?;
        Ok((store, wanted))
    }

    /// Whether the rows in a store that was being built as `begun` are all among those of `wanted`.
    async fn may_go_on(&self, begun: &State, wanted: &State) -> Result<bool, Error> {
        let is_alike = begun.fingerprint == wanted.fingerprint && begun.table_id == wanted.table_id;
        let (Some(from), Some(to)) = (begun.building, wanted.building) else { return Ok(false) };
        if !is_alike || from > to {
            return Ok(false);
        }
        for cloud in &self.clouds {
            if let Ok(keeps) = self.keeps_rows(cloud, from + 1..=to).await {
                return Ok(keeps);
            }
        }
        Ok(false)
    }

    /// Whether none of `versions` takes rows away.
    async fn keeps_rows(&self, cloud: &Cloud, versions: RangeInclusive<u64>) -> Result<bool, String> {
        let versions: Vec<u64> = versions.collect();
        for some in versions.chunks(VERSIONS_MAX) {
            let log = Bodies::default().read_log(cloud, self.table(), some).await;
            let log = log.map_err(|error| crate::chain_of(&error))?;
            for version in log.versions.into_values() {
                if loses_rows(&*version.entry?) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn forget_building(&self) -> Result<(), Error> {
        let path = self.building_path();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(store_failed(&path, "delete", error))
            }
            _ => Ok(()),
        }
    }
}

/// Begins to write. Nobody else does.
fn begin(store: &Store) -> Result<Arc<WriteTransaction>, Error> {
    store.begin().map(Arc::new)
}

/// What stopped the reading of a file.
enum Refused {
    File(String),
    Store(Error),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::File(why)
    }
}

fn in_use(path: &Path) -> Error {
    Error::Configuration(format!(
        "{}: another process has this store open; give each process a folder of its own",
        path.display()
    ))
}

/// Whether rows that were in the table are not any more.
fn loses_rows(entry: &Entry) -> bool {
    !entry.removes.is_empty() && entry.maintenance().is_none()
}

/// As many of `versions` as can be followed with a store of the columns that `fingerprint` stands for; [`Next::Rebuild`] if the
/// first cannot.
fn followed(mut versions: Vec<Version>, spec: &OnlineSpec, fingerprint: &str) -> Next {
    let problem = |entry: &Entry| -> Option<String> {
        if loses_rows(entry) {
            return Some("rows were taken out of the dataset".to_owned());
        }
        let metadata = entry.metadata.as_ref()?;
        let schema = to_arrow(&metadata.schema_string).map_err(|error| error.to_string());
        match schema.and_then(|schema| Layout::new(spec, &schema)) {
            Ok(layout) if layout.fingerprint() == fingerprint => None,
            Ok(_) => Some("the dataset has other columns now".to_owned()),
            Err(why) => Some(why),
        }
    };
    let mut numbered = versions.iter().enumerate();
    let first = numbered
        .find_map(|(index, version)| Some((index, version.applied.version, problem(&version.entry)?)));
    match first {
        None => Next::Versions(versions),
        Some((0, version, why)) => Next::Rebuild(format!("version {version}: {why}")),
        Some((index, ..)) => {
            versions.truncate(index);
            Next::Versions(versions)
        }
    }
}

/// The files with rows that were not in the table before.
fn added_files(entry: &Entry) -> Result<Vec<DataFile>, Error> {
    if entry.maintenance().is_some() {
        return Ok(Vec::new());
    }
    let file = |add: &AddedFile| {
        let not_a_file = || format!("{}, of {} bytes: not a file of a table", add.path, add.size);
        data_file(add, Some(entry), None).ok_or_else(|| Error::damaged("an entry of the log", not_a_file()))
    };
    entry.adds.iter().map(file).collect()
}

/// One version in one cloud, `None` if it has none of that number.
async fn read_version(cloud: &Cloud, table: &str, version: u64) -> Result<Option<Version>, String> {
    match cloud.data.head(&published_path(table, version)).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(crate::chain_of(&error)),
        Ok(_) => {}
    }
    let log = Bodies::default().read_log(cloud, table, &[version]).await;
    let mut log = log.map_err(|error| crate::chain_of(&error))?;
    let found = log.versions.remove(&version).ok_or("it is gone")?;
    let entry = found.entry?;
    let sha256 = found.sha256.ok_or("it could not be read")?;
    let applied = Applied { version, sha256, committed_ms: entry.commit.in_commit_timestamp_ms };
    Ok(Some(Version { applied, entry }))
}

#[cfg(test)]
mod tests;
