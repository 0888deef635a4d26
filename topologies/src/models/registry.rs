//! Reading models: from whichever clouds answer, checked by digests.
//!
//! A majority is asked how far a model's log goes, and the longest answer counts: whoever was told that something is decided
//! was told so when a majority had published it. The bytes come from any cloud. Each entry is vouched for by the next one, the last
//! one by the clouds that hold it; each file by the entry that names it. So a rotten copy is passed over, and what was read once
//! is never read again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use futures::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use isobar_connectors::clouds::{Cloud, read_register};
use isobar_connectors::delta::sha256_hex;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tracing::warn;

use super::history::History;
use super::manifest::{Artifact, MANIFEST, MANIFEST_BYTES_MAX, Manifest};
use super::{FOLDER, GROUP, Model, check_model_name};
use crate::chain_of;
use crate::commit::chain::NO_PREVIOUS;
use crate::commit::format::{Identity, Keys, MODELS_PREFIX, decode, published_path};
use crate::commit::model::{ENTRY_BYTES_MAX, ModelEntry, is_model_name};
use crate::commit::{majority, published_from};
use crate::error::Error;

/// How long a cloud may take to begin an answer before another one is asked for a file.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// Entries and manifests that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// The models of some clouds, for reading. What was read is kept, so that asking again costs one listing in each cloud while
/// nothing changes. Clones share it.
#[derive(Debug, Clone)]
pub struct Registry {
    clouds: Vec<Cloud>,
    known: Arc<Mutex<BTreeMap<String, Known>>>,
    /// The clouds that answered last, in the order of their answers: they are asked first.
    answered: Arc<Mutex<Vec<usize>>>,
}

/// What was read of a model.
#[derive(Debug, Clone)]
struct Known {
    history: History,
    manifests: BTreeMap<u64, Manifest>,
}

/// The bytes of an entry's object in one cloud, `None` if there is none.
type Copied = Result<Option<Bytes>, String>;

impl Registry {
    /// The models that lie in `clouds`: all those of a topology.
    pub fn new(clouds: Vec<Cloud>) -> Self {
        let clouds = clouds.into_iter().map(|cloud| cloud.for_queries(READ_DEADLINE)).collect();
        Self { clouds, known: Arc::default(), answered: Arc::default() }
    }

    /// The names of all models that have a version, in order.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if too few clouds answer; [`Error::Damaged`] as [`model`](Self::model).
    pub async fn names(&self) -> Result<Vec<String>, Error> {
        let names = stream::iter(self.folders().await?);
        let read = names.map(|name| async move {
            let history = self.history(&name).await?;
            Ok::<_, Error>((!history.versions.is_empty()).then_some(name))
        });
        let names: Vec<Option<String>> = read.buffered(READS_AT_ONCE).try_collect().await?;
        Ok(names.into_iter().flatten().collect())
    }

    /// A model as of its newest entry.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is none of this name; [`Error::NoMajority`] if too few clouds answer;
    /// [`Error::Damaged`] if no cloud has the decided bytes of an entry or manifest.
    pub async fn model(&self, name: &str) -> Result<Model, Error> {
        let history = self.history(name).await?;
        if history.versions.is_empty() {
            return Err(Error::Configuration(format!(
                "there is no model `{name}`: `isobar models ls` says which there are"
            )));
        }
        let kept = self.known().get(name).map(|known| known.manifests.clone()).unwrap_or_default();
        let missing = history.versions.keys().copied().filter(|version| !kept.contains_key(version));
        let (missing, history_read) = (missing.collect::<Vec<u64>>(), &history);
        let read = stream::iter(missing).map(|version| async move {
            let manifest = self.manifest(history_read, version).await?;
            Ok::<_, Error>((version, manifest))
        });
        let read: Vec<(u64, Manifest)> = read.buffered(READS_AT_ONCE).try_collect().await?;
        let versions: BTreeMap<u64, Manifest> = kept.into_iter().chain(read).collect();
        if let Some(known) = self.known().get_mut(name) {
            known.manifests.extend(versions.clone());
        }
        // Another reader may have read more meanwhile; what is said here is one state.
        let versions = versions.into_iter().filter(|(version, _)| history.versions.contains_key(version));
        Ok(Model {
            name: name.to_owned(),
            versions: versions.collect(),
            aliases: history.aliases(),
            entry: history.entries - 1,
        })
    }

    /// The bytes of a file, with the size and SHA-256 that the manifest names, from the first cloud that has them.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the clouds that answer do not have these bytes, [`Error::NoMajority`] if none answers.
    pub async fn artifact(&self, model: &str, version: u64, artifact: &Artifact) -> Result<Bytes, Error> {
        let path = format!("{FOLDER}/{model}/{version}/{}", artifact.file);
        self.file(&path, artifact.bytes, &artifact.sha256).await
    }

    /// The clouds.
    pub(super) fn clouds(&self) -> &[Cloud] {
        &self.clouds
    }

    /// All clouds, those that answered last first: one that hangs is only asked if no other has what is looked for.
    fn in_order(&self) -> Vec<&Cloud> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let others = (0..self.clouds.len()).filter(|index| !answered.contains(index));
        answered.iter().copied().chain(others).filter_map(|index| self.clouds.get(index)).collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn manifest(&self, history: &History, version: u64) -> Result<Manifest, Error> {
        let path = format!("{version}/{MANIFEST}");
        let object = format!("{FOLDER}/{}/{path}", history.name);
        let wrong = |what: &str| Error::damaged(&object, what);
        let files = history.versions.get(&version).map(Vec::as_slice).unwrap_or_default();
        let file = files.iter().find(|file| file.path == path);
        let file = file.ok_or_else(|| wrong("the version has no manifest"))?;
        if file.size > MANIFEST_BYTES_MAX {
            return Err(wrong("it is too large for a manifest"));
        }
        let bytes = self.file(&object, file.size, &file.sha256).await?;
        let manifest = Manifest::parse(&bytes).map_err(|what| wrong(&what))?;
        let is_of_the_version = manifest.model == history.name && manifest.version == version;
        let has = |artifact: &Artifact| {
            let path = format!("{version}/{}", artifact.file);
            let entry = files.iter().find(|file| file.path == path);
            entry.is_some_and(|file| file.size == artifact.bytes && file.sha256 == artifact.sha256)
        };
        if !is_of_the_version || !manifest.artifacts().all(has) {
            return Err(wrong("it is the manifest of another version, or names other files than the entry"));
        }
        Ok(manifest)
    }

    async fn file(&self, path: &str, size: u64, sha256: &str) -> Result<Bytes, Error> {
        let location = Path::parse(path).map_err(|error| Error::damaged(path, error.to_string()))?;
        let (mut reasons, mut answered) = (Vec::new(), false);
        for cloud in self.in_order() {
            match read_file(cloud, &location, size, sha256).await {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(what)) => {
                    answered = true;
                    warn!(cloud = %cloud.name, path, what, "not the decided bytes, another cloud is asked");
                    reasons.push(format!("{}: {what}", cloud.name));
                }
                Err(error) => reasons.push(format!("{}: {}", cloud.name, chain_of(&error))),
            }
        }
        match answered {
            true => {
                Err(Error::damaged(path, format!("no cloud has its decided bytes: {}", reasons.join("; "))))
            }
            false => Err(Error::no_majority(&format!("read {path}"), 1, self.clouds.len(), reasons)),
        }
    }

    /// The names of the folders that models may lie in.
    pub(super) async fn folders(&self) -> Result<Vec<String>, Error> {
        let folder = &Path::from(FOLDER);
        let looks = self.of_majority("list the models", |cloud| async move {
            let listed = cloud.control.list_with_delimiter(Some(folder)).await;
            let listed = listed.map_err(|error| Error::store(cloud, "list the models", error))?;
            Ok(listed.common_prefixes)
        });
        let folders = looks.await?.into_iter().flat_map(|(_, folders)| folders);
        let names = folders.filter_map(|folder| folder.filename().map(str::to_owned));
        let mut names: Vec<String> = names.filter(|name| is_model_name(name)).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// What is decided about a model, as far as a majority has published it.
    ///
    /// # Errors
    /// As [`model`](Self::model), but a model without entries is none.
    pub(super) async fn history(&self, name: &str) -> Result<History, Error> {
        check_model_name(name)?;
        let known = self.known().get(name).map(|known| known.history.clone());
        let mut history = known.unwrap_or_else(|| History::new(name));
        let (log, from) = (&format!("{MODELS_PREFIX}{name}"), history.entries);
        let entries = self.lengths(log, from).await?;
        if entries <= from {
            return Ok(history);
        }
        for bytes in self.entries(log, from..entries, &history.last_sha256).await? {
            let path = published_path(log, history.entries);
            history.apply(&bytes).map_err(|what| Error::damaged(path.as_ref(), what))?;
        }
        let mut known = self.known();
        let kept = known.entry(name.to_owned());
        let kept = kept.or_insert_with(|| Known { history: history.clone(), manifests: BTreeMap::new() });
        // Two readers at once: the longer history counts.
        if kept.history.entries < history.entries {
            kept.history = history.clone();
        }
        Ok(history)
    }

    /// The decided bytes of these entries, in their order. `before` is the SHA-256 of the one before them.
    async fn entries(
        &self,
        log: &str,
        places: std::ops::Range<u64>,
        before: &str,
    ) -> Result<Vec<Bytes>, Error> {
        let Some(last) = places.end.checked_sub(1) else { return Ok(Vec::new()) };
        let read = stream::iter(places.start..last).map(|index| self.any_copy(log, index));
        let mut found: Vec<Option<Bytes>> = read.buffered(READS_AT_ONCE).collect().await;
        let mut entry = self.agreed(log, last).await?;
        let mut entries = Vec::with_capacity(found.len() + 1);
        for index in places.rev() {
            let path = published_path(log, index);
            let parsed = ModelEntry::parse(&entry).map_err(|what| Error::damaged(path.as_ref(), what))?;
            entries.push(entry);
            let expected = parsed.previous_sha256;
            match (found.pop(), index.checked_sub(1)) {
                (Some(copy), Some(previous)) => {
                    let copy = copy.filter(|bytes| sha256_hex(bytes) == expected);
                    entry = match copy {
                        Some(bytes) => bytes,
                        None => self.copy_with(log, previous, &expected).await?,
                    };
                }
                _ if expected == before => break,
                _ => {
                    return Err(Error::damaged(
                        path.as_ref(),
                        "it follows other entries than were read before",
                    ));
                }
            }
        }
        entries.reverse();
        Ok(entries)
    }

    /// What the first cloud that has the entry holds, whatever that is.
    async fn any_copy(&self, log: &str, index: u64) -> Option<Bytes> {
        for cloud in self.in_order() {
            if let Ok(Some(bytes)) = copy(cloud, log, index).await {
                return Some(bytes);
            }
        }
        None
    }

    /// The entry with this SHA-256.
    async fn copy_with(&self, log: &str, index: u64, sha256: &str) -> Result<Bytes, Error> {
        let path = published_path(log, index);
        let mut reasons = Vec::new();
        for cloud in self.in_order() {
            match copy(cloud, log, index).await {
                Ok(Some(bytes)) if sha256_hex(&bytes) == sha256 => return Ok(bytes),
                Ok(Some(_)) => {
                    warn!(cloud = %cloud.name, %path, "differs from the decided bytes, another cloud is asked");
                    reasons.push(format!("{}: it differs", cloud.name));
                }
                Ok(None) => reasons.push(format!("{}: it is not there", cloud.name)),
                Err(why) => reasons.push(format!("{}: {why}", cloud.name)),
            }
        }
        let what = format!("no cloud gives its decided bytes, SHA-256 {sha256}: {}", reasons.join("; "));
        Err(Error::damaged(path.as_ref(), what))
    }

    /// The last entry, for which no later one vouches: what most of the clouds that hold it say. Where that is a majority of all, the
    /// others are not waited for.
    async fn agreed(&self, log: &str, index: u64) -> Result<Bytes, Error> {
        let path = published_path(log, index);
        let needed = majority(self.clouds.len());
        let asked = self.clouds.iter().map(|cloud| copy(cloud, log, index));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut votes: Vec<(Bytes, usize)> = Vec::new();
        while let Some(answer) = asked.next().await {
            let Some(bytes) = answer.ok().flatten().filter(|bytes| ModelEntry::parse(bytes).is_ok()) else {
                continue;
            };
            let count = match votes.iter_mut().find(|(voted, _)| *voted == bytes) {
                Some((_, count)) => count,
                None => &mut votes.push_mut((bytes, 0)).1,
            };
            *count += 1;
            if *count >= needed {
                break;
            }
        }
        votes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        match votes.as_slice() {
            [] => Err(Error::damaged(path.as_ref(), "no cloud gives bytes that are an entry")),
            [(_, most), (_, second), ..] if most == second => {
                let what = "the clouds contradict each other: see `isobar models verify`";
                Err(Error::damaged(path.as_ref(), what))
            }
            [(bytes, _), ..] => Ok(bytes.clone()),
        }
    }

    /// Asks all clouds at once, until a majority has answered. Which cloud said what. A cloud that lost what it held does not count:
    /// it has no identity. Where none has one, nothing was ever decided about any model.
    async fn of_majority<'a, T, F>(
        &'a self,
        action: &str,
        question: impl Fn(&'a Cloud) -> F,
    ) -> Result<Vec<(usize, T)>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        if !self.clouds.iter().any(Cloud::has_root) {
            return Ok(Vec::new());
        }
        let needed = majority(self.clouds.len());
        let questions = self.clouds.iter().map(|cloud| (cloud, question(cloud))).enumerate();
        let asked = questions.map(|(index, (cloud, question))| async move {
            let answer = async {
                let answer = question.await?;
                // After the answer: a cloud that was lost in between has forgotten what it would have said.
                Ok::<_, Error>((answer, has_identity(cloud).await?))
            };
            (index, answer.await)
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let (mut answers, mut strangers, mut reasons) = (Vec::new(), 0, Vec::new());
        while answers.len() < needed {
            match asked.next().await {
                Some((index, Ok((answer, true)))) => answers.push((index, answer)),
                Some((index, Ok((_, false)))) => {
                    strangers += 1;
                    reasons.push(format!(
                        "{}: it has no identity, and was lost or never used",
                        self.clouds[index].name
                    ));
                }
                Some((index, Err(error))) => {
                    reasons.push(format!("{}: {}", self.clouds[index].name, chain_of(&error)));
                }
                None if answers.is_empty() && strangers >= needed => return Ok(Vec::new()),
                None => return Err(Error::no_majority(action, needed, self.clouds.len(), reasons)),
            }
        }
        let order = answers.iter().map(|(index, _)| *index).collect();
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = order;
        Ok(answers)
    }

    /// The decided bytes of all entries of a model, read anew.
    ///
    /// # Errors
    /// As [`history`](Self::history).
    pub(super) async fn all_entries(&self, name: &str) -> Result<Vec<Bytes>, Error> {
        let log = &format!("{MODELS_PREFIX}{name}");
        let lengths = self.lengths(log, 0).await?;
        self.entries(log, 0..lengths, NO_PREVIOUS).await
    }

    /// How many entries a majority has published, given that there are `from`.
    async fn lengths(&self, log: &str, from: u64) -> Result<u64, Error> {
        let action = format!("list the entries of {log}");
        let lengths = self.of_majority(&action, |cloud| async move {
            let listed = published_from(&cloud.control, log, from).await;
            listed.map_err(|error| Error::store(cloud, "list entries", error))
        });
        Ok(lengths.await?.into_iter().map(|(_, entries)| entries).max().unwrap_or(from))
    }
}

/// Whether a cloud belongs to the group that decides about models.
async fn has_identity(cloud: &Cloud) -> Result<bool, Error> {
    let path = Keys::new(GROUP).identity();
    let found = read_register(&cloud.control, &path, ENTRY_BYTES_MAX as u64).await;
    let found = found.map_err(|error| Error::connector("read the identity", error))?;
    Ok(found.is_some_and(|bytes| decode::<Identity>(&bytes).is_ok()))
}

/// What a cloud holds as an entry.
pub(super) async fn copy(cloud: &Cloud, log: &str, index: u64) -> Copied {
    let path = published_path(log, index);
    let read = read_register(&cloud.control, &path, ENTRY_BYTES_MAX as u64).await;
    read.map_err(|error| chain_of(&error))
}

/// The bytes of a file in one cloud, or what it has instead.
async fn read_file(
    cloud: &Cloud,
    path: &Path,
    size: u64,
    sha256: &str,
) -> object_store::Result<Result<Bytes, String>> {
    let found = match cloud.data.get(path).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(Err("it is not there".to_owned())),
        Err(error) => return Err(error),
    };
    if found.meta.size != size {
        return Ok(Err(format!("it has {} bytes, not {size}", found.meta.size)));
    }
    let bytes = found.bytes().await?;
    let digest = bytes.clone();
    let found = match tokio::task::spawn_blocking(move || sha256_hex(&digest)).await {
        Ok(found) => found,
        Err(error) => return Ok(Err(format!("it was not hashed: {error}"))),
    };
    Ok(if found == sha256 { Ok(bytes) } else { Err(format!("its SHA-256 is {found}")) })
}

#[cfg(test)]
mod tests {
    use isobar_connectors::clouds::{Fault, FaultSwitch};
    use object_store::memory::InMemory;
    use tokio::time::timeout;

    use super::*;
    use crate::commit::Epoch;
    use crate::commit::chain::Chain;
    use crate::commit::format::{FORMAT, encode};
    use crate::commit::model::{ModelAction, ModelProposal};

    /// A cloud with an entry that gives `version` away.
    async fn cloud(name: &str, version: u64) -> Cloud {
        let proposal = ModelProposal {
            model: "late".into(),
            commit_id: "c".into(),
            planned: 0,
            previous_sha256: NO_PREVIOUS.into(),
            action: ModelAction::Reserve { version },
        };
        let entry = Chain::default().decide_model(Epoch(1), 7, &proposal).unwrap().tables.remove(0);
        let identity = Identity {
            format: FORMAT,
            topology: GROUP.into(),
            group: "g".into(),
            cloud: name.into(),
            clouds: ["a", "b", "c"].map(str::to_owned).into(),
        };
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store.put(&Keys::new(GROUP).identity(), encode(&identity).into()).await.unwrap();
        store.put(&published_path("models/late", 0), entry.body.into()).await.unwrap();
        Cloud::new(name, store.clone(), store)
    }

    #[tokio::test]
    async fn a_cloud_that_hangs_is_not_waited_for_where_the_others_agree() {
        let switch = FaultSwitch::default();
        switch.set(Fault::Delay(Duration::from_secs(3600)));
        let hanging = cloud("c", 1).await.with_faults(&switch);
        let registry = Registry::new(vec![cloud("a", 1).await, hanging, cloud("b", 1).await]);
        let history = timeout(Duration::from_secs(60), registry.history("late")).await;
        assert_eq!(history.expect("an answer").unwrap().next_version(), 2);
    }

    #[tokio::test]
    async fn of_last_entries_that_differ_the_one_of_most_clouds_counts() {
        let history = |versions: [u64; 3]| async move {
            let [a, b, c] = versions;
            let clouds = vec![cloud("a", a).await, cloud("b", b).await, cloud("c", c).await];
            Registry::new(clouds).agreed("models/late", 0).await
        };
        let right = history([1, 1, 1]).await.unwrap();
        assert_eq!(history([2, 1, 1]).await.unwrap(), right);
        let error = history([1, 2, 3]).await.unwrap_err();
        assert!(error.to_string().contains("contradict"), "{error}");
    }
}
