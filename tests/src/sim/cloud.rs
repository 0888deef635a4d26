//! A cloud in memory that answers when, how and whether the seed says.
//!
//! A [`SimCloud`] holds objects. A [`SimStore`] is one process's client to it and speaks `object_store`'s trait, so that
//! it can be replaced by a real client against a simulated server. A request travels on its own: it reaches the cloud
//! and is carried out even if the process that sent it is dead by then, or has given it up long ago.
//!
//! What a request may meet, by the [`Weather`] over the cloud and over the way there: an error before or after it is
//! carried out, a lost answer, no answer at all, being carried out half a minute after the client gave up,
//! "already exists" for one's own write or for nothing, a body cut short, a flipped bit in a data file. Listings come in pages, each as the cloud is
//! when the page is made.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;

use super::broken::Broken;
use super::monitor::Monitor;
use super::world::{NATURE, Process, World};

/// How long after a client's time-out a late request is carried out.
const LATE: Duration = Duration::from_secs(30);

/// How requests fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// They are answered within 80 ms.
    Clear,
    /// They are answered, after up to 4 s each way.
    Slow,
    /// They are refused at once and not carried out.
    Refusing,
    /// They vanish.
    Silent,
    /// They are carried out, and the answers vanish.
    Deaf,
    /// Reading works, changes are refused.
    ReadOnly,
    /// This many of a hundred meet one of the faults, at random.
    Rough(u64),
}

/// Which of a cloud's two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Gives up soon, repeats nothing.
    Control,
    /// Patient.
    Data,
}

impl Client {
    fn deadline(self) -> Duration {
        match self {
            Self::Control => Duration::from_secs(3),
            Self::Data => Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    version: u64,
}

/// One cloud.
#[derive(Debug)]
pub struct SimCloud {
    /// Its name.
    pub name: String,
    /// Its place among the topology's clouds.
    pub index: usize,
    world: World,
    monitor: Arc<Monitor>,
    broken: Option<Broken>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<String, Object>,
    writes: u64,
    weather: Weather,
    /// The way from one machine to this cloud, where it differs from the weather over the cloud.
    ways: BTreeMap<usize, Weather>,
    /// Everything is lost soon after the next claim of an epoch arrives.
    wiped_after_claim: bool,
}

impl SimCloud {
    /// An empty cloud under a clear sky.
    pub fn new(
        name: String,
        index: usize,
        world: World,
        monitor: Arc<Monitor>,
        broken: Option<Broken>,
    ) -> Arc<Self> {
        let state = State {
            objects: BTreeMap::new(),
            writes: 0,
            weather: Weather::Clear,
            ways: BTreeMap::new(),
            wiped_after_claim: false,
        };
        Arc::new(Self { name, index, world, monitor, broken, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the weather over the cloud.
    pub fn set_weather(&self, weather: Weather) {
        self.world.note(format_args!("{}: weather {weather:?}", self.name));
        self.lock().weather = weather;
    }

    /// Changes the way from one machine.
    pub fn set_way(&self, machine: usize, weather: Weather) {
        self.world.note(format_args!("{}: way from machine {machine} {weather:?}", self.name));
        self.lock().ways.insert(machine, weather);
    }

    /// Clear weather everywhere.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.weather = Weather::Clear;
        state.ways.clear();
        state.wiped_after_claim = false;
    }

    /// Loses every object.
    pub fn wipe(&self) {
        self.world.note(format_args!("{}: wiped", self.name));
        self.monitor.wiped(self.index);
        self.lock().objects.clear();
    }

    /// Loses every object in the middle of the next take-over.
    pub fn wipe_after_claim(&self) {
        self.lock().wiped_after_claim = true;
    }

    /// Loses one object, as a clean-up rule would. Only for a broken variant.
    pub fn remove(&self, path: &str) {
        self.world.note(format_args!("{}: removed {path}", self.name));
        self.lock().objects.remove(path);
    }

    /// Paths that begin with `prefix`.
    pub fn paths(&self, prefix: &str) -> Vec<String> {
        self.lock().objects.keys().filter(|path| path.starts_with(prefix)).cloned().collect()
    }

    /// The bytes at `path` right now.
    pub fn bytes(&self, path: &str) -> Option<Bytes> {
        self.lock().objects.get(path).map(|object| object.bytes.clone())
    }

    pub(super) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn weather_for(&self, machine: usize) -> Weather {
        let state = self.lock();
        match state.weather {
            Weather::Clear => state.ways.get(&machine).copied().unwrap_or(Weather::Clear),
            over_the_cloud => over_the_cloud,
        }
    }

    fn put(self: &Arc<Self>, path: &Path, bytes: Bytes, mode: &PutMode) -> Result<PutResult> {
        let is_probe = path.as_ref().contains("/probe/");
        let ignores_preconditions = match self.broken {
            Some(Broken::PreconditionsIgnored) => !is_probe,
            Some(Broken::PreconditionsIgnoredOpenly) => true,
            _ => false,
        };
        let version = {
            let mut state = self.lock();
            let held = state.objects.get(path.as_ref());
            match mode {
                PutMode::Create if held.is_some() && !ignores_preconditions => {
                    return Err(already_exists(path));
                }
                PutMode::Update(wanted) => {
                    let current = held.map(|object| object.version.to_string());
                    if current.is_none() || current != wanted.e_tag {
                        return Err(Error::Precondition {
                            path: path.to_string(),
                            source: "another version is there".into(),
                        });
                    }
                }
                _ => {}
            }
            state.writes += 1;
            let version = state.writes;
            state.objects.insert(path.to_string(), Object { bytes: bytes.clone(), version });
            version
        };
        self.world.note(format_args!("{}: stored {path}, {} bytes", self.name, bytes.len()));
        self.monitor.stored(self.index, path.as_ref(), &bytes);
        if path.as_ref().contains("/epoch/") && std::mem::take(&mut self.lock().wiped_after_claim) {
            let (cloud, pause) = (self.clone(), self.world.draw_ms(0, 400));
            self.world.spawn(NATURE, async move {
                cloud.world.sleep(pause).await;
                cloud.wipe();
            });
        }
        Ok(PutResult { e_tag: Some(version.to_string()), version: None })
    }

    fn get(&self, path: &Path) -> Result<(ObjectMeta, Bytes)> {
        let state = self.lock();
        match state.objects.get(path.as_ref()) {
            Some(object) => Ok((describe(path.as_ref(), object), object.bytes.clone())),
            None => Err(Error::NotFound { path: path.to_string(), source: "no such object".into() }),
        }
    }

    fn delete(&self, path: &Path) {
        if self.lock().objects.remove(path.as_ref()).is_some() {
            self.monitor.deleted(self.index, path.as_ref());
        }
    }

    /// Up to `keys_max` objects below `folder` and after `after`, and whether there are more.
    fn page(&self, folder: &str, after: &str, keys_max: usize) -> (Vec<ObjectMeta>, bool) {
        let state = self.lock();
        let from = if after < folder { Bound::Included(folder) } else { Bound::Excluded(after) };
        let mut below = state
            .objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(folder));
        let page = below.by_ref().take(keys_max).map(|(path, object)| describe(path, object)).collect();
        (page, below.next().is_some())
    }
}

fn describe(path: &str, object: &Object) -> ObjectMeta {
    ObjectMeta {
        location: Path::from(path),
        last_modified: DateTime::<Utc>::UNIX_EPOCH,
        size: object.bytes.len() as u64,
        e_tag: Some(object.version.to_string()),
        version: None,
    }
}

pub(super) fn already_exists(path: &Path) -> Error {
    Error::AlreadyExists { path: path.to_string(), source: "409 Conflict".into() }
}

fn failed(what: &'static str) -> Error {
    Error::Generic { store: "simulation", source: what.into() }
}

/// What a request does, as far as faults care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Create,
    Write,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Refused,
    FailedAfter,
    AnswerLost,
    Vanished,
    CarriedOutLate,
    /// "Already exists", with nothing stored.
    FalseConflict,
    /// A client that retried by itself meets its own write.
    OwnWriteConflicts,
    CutShort,
}

/// One process's client to one cloud.
#[derive(Debug, Clone)]
pub struct SimStore {
    pub(super) cloud: Arc<SimCloud>,
    pub(super) process: Process,
    pub(super) machine: usize,
    pub(super) client: Client,
    pub(super) habits: Arc<super::broken::Habits>,
}

impl SimStore {
    pub(super) fn world(&self) -> &World {
        &self.cloud.world
    }

    fn draw_fate(&self, kind: Kind) -> Fate {
        use Fate::{
            AnswerLost, Answered, CarriedOutLate, CutShort, FailedAfter, FalseConflict, OwnWriteConflicts,
            Refused, Vanished,
        };
        match self.cloud.weather_for(self.machine) {
            Weather::Clear | Weather::Slow => Answered,
            Weather::Refusing => Refused,
            Weather::Silent => Vanished,
            Weather::Deaf => AnswerLost,
            Weather::ReadOnly if kind == Kind::Read => Answered,
            Weather::ReadOnly => Refused,
            Weather::Rough(percent) => self.world().draw(|prng| {
                if !prng.chance(percent) {
                    return Answered;
                }
                let faults: &[Fate] = match kind {
                    Kind::Read => &[Refused, Vanished, CutShort, FailedAfter],
                    Kind::Write => &[Refused, FailedAfter, AnswerLost, Vanished, CarriedOutLate],
                    Kind::Create => &[
                        Refused,
                        FailedAfter,
                        AnswerLost,
                        Vanished,
                        CarriedOutLate,
                        CarriedOutLate,
                        FalseConflict,
                        OwnWriteConflicts,
                    ],
                };
                *prng.pick(faults)
            }),
        }
    }

    fn draw_way(&self) -> Duration {
        match self.cloud.weather_for(self.machine) {
            Weather::Slow => self.world().draw_ms(200, 4000),
            _ => self.world().draw_ms(1, 40),
        }
    }

    /// Sends `work` to the cloud and waits for what comes back.
    async fn request<T: Send + 'static>(
        &self,
        kind: Kind,
        path: &Path,
        work: impl FnOnce(&Arc<SimCloud>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fate = self.draw_fate(kind);
        let (there, back) = (self.draw_way(), self.draw_way());
        let deadline = self.client.deadline();
        if fate != Fate::Answered {
            self.world().note(format_args!(
                "process {} to {}: {kind:?} {path} will be {fate:?}",
                self.process.0, self.cloud.name
            ));
        }
        let arrives = match fate {
            Fate::Refused | Fate::Vanished | Fate::FalseConflict => None,
            Fate::CarriedOutLate => Some(deadline + LATE),
            _ => Some(there),
        };
        let (send, answer) = oneshot::channel();
        if let Some(after) = arrives {
            let cloud = self.cloud.clone();
            self.world().spawn(NATURE, async move {
                cloud.world.sleep(after).await;
                let outcome = work(&cloud);
                if fate != Fate::AnswerLost {
                    cloud.world.sleep(back).await;
                    // The client may be gone.
                    let _ = send.send(outcome);
                }
            });
        }
        match fate {
            Fate::Refused => {
                self.world().sleep(there).await;
                Err(failed("503 before anything was done"))
            }
            Fate::FalseConflict => {
                self.world().sleep(there).await;
                Err(already_exists(path))
            }
            _ => {
                let outcome = self.world().within(deadline, async {
                    match answer.await {
                        Ok(outcome) => outcome,
                        // Nobody will answer: the deadline decides.
                        Err(_) => std::future::pending().await,
                    }
                });
                match outcome.await {
                    None => Err(failed("no answer in time")),
                    Some(Ok(_)) if fate == Fate::FailedAfter => Err(failed("500 after it was done")),
                    Some(Ok(_)) if fate == Fate::OwnWriteConflicts => Err(already_exists(path)),
                    Some(Ok(_)) if fate == Fate::CutShort => Err(failed("connection closed in the body")),
                    Some(outcome) => outcome,
                }
            }
        }
    }

    /// All objects below `prefix` and after `offset`, page by page.
    fn pages(
        &self,
        prefix: Option<&Path>,
        offset: Option<&Path>,
    ) -> BoxStream<'static, Result<Vec<ObjectMeta>>> {
        let folder = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let after = offset.map(ToString::to_string).unwrap_or_default();
        let store = self.clone();
        stream::try_unfold(Some(after), move |after| {
            let (store, folder) = (store.clone(), folder.clone());
            async move {
                let Some(after) = after else { return Ok(None) };
                let keys_max = store.world().draw(|prng| if prng.chance(20) { 2 } else { 1000 });
                let path = Path::from(folder.as_str());
                let (page, more) = store
                    .request(Kind::Read, &path, move |cloud| Ok(cloud.page(&folder, &after, keys_max)))
                    .await?;
                let last = page.last().map(|object| object.location.to_string());
                Ok(Some((page, last.filter(|_| more))))
            }
        })
        .boxed()
    }

    fn listed(&self, prefix: Option<&Path>, offset: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, offset).map_ok(|page| stream::iter(page).map(Ok)).try_flatten().boxed()
    }

    pub(super) async fn put_honestly(&self, path: &Path, bytes: Bytes, mode: PutMode) -> Result<PutResult> {
        let kind = if matches!(mode, PutMode::Create) { Kind::Create } else { Kind::Write };
        let to = path.clone();
        self.request(kind, path, move |cloud| cloud.put(&to, bytes, &mode)).await
    }

    pub(super) async fn get_honestly(&self, path: &Path) -> Result<(ObjectMeta, Bytes)> {
        let from = path.clone();
        let (meta, bytes) = self.request(Kind::Read, path, move |cloud| cloud.get(&from)).await?;
        let is_rough = matches!(self.cloud.weather_for(self.machine), Weather::Rough(_));
        if self.client == Client::Data && is_rough && self.world().draw(|prng| prng.chance(5)) {
            self.world().note(format_args!("{}: {path} is read with a flipped bit", self.cloud.name));
            let flipped: Vec<u8> =
                bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 0)).collect();
            return Ok((meta, flipped.into()));
        }
        Ok((meta, bytes))
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cloud.name)
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.put(location, payload.into(), opts.mode).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "simulation".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (meta, bytes) = self.get(location, options.head).await?;
        let range = 0..meta.size;
        let payload = GetResultPayload::Stream(stream::once(async move { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |path| {
                let store = store.clone();
                async move {
                    let path = path?;
                    let gone = path.clone();
                    let delete = move |cloud: &Arc<SimCloud>| {
                        cloud.delete(&gone);
                        Ok(())
                    };
                    store.request(Kind::Write, &path, delete).await.map(|()| path)
                }
            })
            .buffered(10)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        stream::once(async move { store.list_all(prefix.as_ref()).await })
            .map_ok(|objects| stream::iter(objects).map(Ok))
            .try_flatten()
            .boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let folder = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let mut result = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
        for object in self.list_all(prefix).await? {
            let below =
                object.location.as_ref()[folder.len()..].split_once('/').map(|(name, _)| name.to_owned());
            match below {
                None => result.objects.push(object),
                Some(name) => {
                    let common = Path::from(format!("{folder}{name}"));
                    if result.common_prefixes.last() != Some(&common) {
                        result.common_prefixes.push(common);
                    }
                }
            }
        }
        Ok(result)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "simulation".into() })
    }
}

impl SimStore {
    pub(super) async fn list_honestly(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        self.listed(prefix, None).try_collect().await
    }
}
