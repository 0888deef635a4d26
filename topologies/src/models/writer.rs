//! Deciding about models: registering, and moving aliases.
//!
//! A command leads the control group of models for the moment, as `isobar accept-gap` leads its topology: it takes an epoch over,
//! plans on all entries that there are, decides one, waits until a majority has published it, and ends. Another command that
//! does so at the same time supersedes it, or is superseded: whoever that happens to takes over again and plans again, and by its
//! commit id knows whether its entry was decided in between.
//!
//! No leader is needed while files are uploaded: the version's number was given to this process alone, by a decided entry,
//! so nobody else ever writes in its folder.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use isobar_connectors::clouds::Cloud;
use isobar_connectors::upload::{FanOut, UploadHandle};
use object_store::ObjectStore;
use object_store::path::Path;
use tracing::{info, warn};

use super::candidate::{Candidate, File};
use super::history::History;
use super::manifest::{MANIFEST, Manifest};
use super::registry::Registry;
use super::{FOLDER, GROUP, Which};
use crate::commit::chain::NO_PREVIOUS;
use crate::commit::format::MODELS_PREFIX;
use crate::commit::model::{ModelAction, ModelFile, ModelProposal, is_alias};
use crate::commit::{CommitOutcome, Group, Leader, files_in_majority};
use crate::error::Error;
use crate::pipeline::{FINISH_PATIENCE, now_ms};
use crate::spec::Topology;
use crate::start::{Budget, open_clouds, start_uploads};

/// How often another command may come first before this one gives up.
const ATTEMPTS_MAX: u32 = 20;
/// First and longest pause after another command came first.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// How long a majority may take to publish what is decided.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a file that are handed to the uploads at once.
const PIECE_BYTES: usize = 8 << 20;

/// Uploads of a file: its path, and one to each cloud.
type Uploads = Vec<(String, Vec<UploadHandle>)>;

/// Decides about the models of some clouds.
#[derive(Debug, Clone)]
pub struct Writer {
    pub(super) group: Group,
    pub(super) registry: Registry,
    uploads: Arc<FanOut>,
}

/// An entry that is to be decided, however often that is attempted.
struct Wish<'a, Plan> {
    model: &'a str,
    commit_id: String,
    /// What is to be done after the entries that there are.
    plan: Plan,
    /// What brings its files.
    uploads: &'a [(String, Vec<UploadHandle>)],
    /// What was proposed last: it may be decided although nobody said so.
    proposed: Option<ModelAction>,
}

/// What became of an attempt to decide.
enum Attempt {
    /// It is decided; `None` if there was nothing to do.
    Done(Option<ModelAction>),
    /// Another command came first.
    Overtaken,
}

impl Writer {
    /// For the clouds of a topology.
    ///
    /// # Errors
    /// [`Error::Configuration`] if a client cannot be made.
    pub fn open(topology: &Topology) -> Result<Self, Error> {
        let clouds = open_clouds(topology)?;
        let uploads = start_uploads(&clouds, &Budget::new(topology.memory_bytes_max));
        Ok(Self::new(clouds, uploads))
    }

    /// For these clouds, in the order in which the topologies name them.
    pub fn new(clouds: Vec<Cloud>, uploads: Arc<FanOut>) -> Self {
        let (group, registry) = (Group::new(GROUP, clouds.clone()), Registry::new(clouds));
        Self { group, registry, uploads }
    }

    /// Registers a new version, and has `alias` mean it from then on. Its manifest, with the version's number.
    ///
    /// # Errors
    /// [`Error::NoMajority`] if too few clouds answer, all of them for the first entry about any model;
    /// [`Error::NotDecided`] if the files were not stored, or others came first again and again. Nothing is visible then.
    pub async fn register(&self, candidate: &Candidate, alias: Option<&str>) -> Result<Manifest, Error> {
        if let Some(alias) = alias {
            check_alias(alias)?;
        }
        let model = candidate.model();
        let reserve = |history: &History| Ok(Some(ModelAction::Reserve { version: history.next_version() }));
        let reserved = self.decide(model, reserve, &[]).await?;
        let version = reserved.map(|action| action.version());
        let version = version.ok_or_else(|| Error::Bug("no version was given".to_owned()))?;
        let manifest = candidate.manifest(version)?;
        let mut files = candidate.files().to_vec();
        files.push(File::new(MANIFEST, manifest.to_text()?.into()));
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let named = files.iter().map(|file| ModelFile {
            path: format!("{version}/{}", file.name),
            size: file.bytes.len() as u64,
            sha256: file.sha256.clone(),
        });
        let named: Vec<ModelFile> = named.collect();
        let folder = format!("{FOLDER}/{model}/{version}");
        self.refuse_occupied(&folder).await?;
        let uploads = self.upload(&folder, &files).await?;
        let register = |_: &History| {
            let (files, alias) = (named.clone(), alias.map(str::to_owned));
            Ok(Some(ModelAction::Register { version, files, alias }))
        };
        self.decide(model, register, &uploads).await?;
        info!(model, version, alias, "model registered");
        Ok(manifest)
    }

    /// Has `alias` mean a version. That version's number, and whether anything changed.
    ///
    /// # Errors
    /// [`Error::Configuration`] if there is no such model or version; as [`register`](Self::register).
    pub async fn promote(&self, model: &str, which: &Which, alias: &str) -> Result<(u64, bool), Error> {
        check_alias(alias)?;
        self.refuse_unknown(model).await?;
        let mut meant = None;
        let promote = |history: &History| {
            let version = match which {
                Which::Version(version) => Some(*version),
                Which::Alias(other) => history.alias(other),
                Which::Newest => history.versions.keys().next_back().copied(),
            };
            let version = version.filter(|version| history.versions.contains_key(version));
            let version =
                version.ok_or_else(|| Error::Configuration(format!("the model {model} has no {which}")))?;
            meant = Some(version);
            let changes = history.alias(alias) != Some(version);
            Ok(changes.then(|| ModelAction::Alias { alias: alias.to_owned(), version }))
        };
        let decided = self.decide(model, promote, &[]).await?;
        let version = decided.as_ref().map(ModelAction::version).or(meant);
        let version = version.ok_or_else(|| Error::Bug("no version was promoted".to_owned()))?;
        info!(model, version, alias, changed = decided.is_some(), "model promoted");
        Ok((version, decided.is_some()))
    }

    /// Has `alias` mean again what it meant before. The version's number.
    ///
    /// # Errors
    /// [`Error::Configuration`] if it meant nothing before; as [`register`](Self::register).
    pub async fn rollback(&self, model: &str, alias: &str) -> Result<u64, Error> {
        check_alias(alias)?;
        self.refuse_unknown(model).await?;
        let rollback = |history: &History| {
            let version = history.before(alias).ok_or_else(|| {
                Error::Configuration(match history.alias(alias) {
                    Some(version) => {
                        format!("the alias {alias} of {model} meant nothing before version {version}")
                    }
                    None => format!("the model {model} has no alias {alias}"),
                })
            })?;
            Ok(Some(ModelAction::Rollback { alias: alias.to_owned(), version }))
        };
        let decided = self.decide(model, rollback, &[]).await?;
        let version = decided.map(|action| action.version());
        let version = version.ok_or_else(|| Error::Bug("no version was rolled back to".to_owned()))?;
        info!(model, version, alias, "model rolled back");
        Ok(version)
    }

    /// Brings everything that is decided to every cloud that answers, and decides nothing.
    pub(super) async fn fill(&self) -> Result<(), Error> {
        let leader = self.lead().await?;
        let published = leader.published(PUBLISH_PATIENCE).await;
        leader.finish(FINISH_PATIENCE).await;
        published
    }

    /// Fails unless the model has a version, before an epoch is claimed for it.
    async fn refuse_unknown(&self, model: &str) -> Result<(), Error> {
        self.registry.model(model).await.map(drop)
    }

    async fn lead(&self) -> Result<Leader, Error> {
        Leader::start(&self.group, self.uploads.clone()).await
    }

    /// Decides what `plan` makes of all entries that there are; `None` if that is nothing. Files come first: `uploads` brings
    /// them.
    async fn decide(
        &self,
        model: &str,
        plan: impl FnMut(&History) -> Result<Option<ModelAction>, Error>,
        uploads: &[(String, Vec<UploadHandle>)],
    ) -> Result<Option<ModelAction>, Error> {
        let commit_id = uuid::Uuid::new_v4().to_string();
        let mut wish = Wish { model, commit_id, plan, uploads, proposed: None };
        let mut pause = PAUSE.0;
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(&mut wish).await {
                Ok(Attempt::Done(action)) => return Ok(action),
                Ok(Attempt::Overtaken) | Err(Error::Superseded { .. }) => {}
                Err(error) => return Err(error),
            }
            // Two commands that go on at the same pace would supersede each other for ever.
            let share = self.group.environment.random() % 1000;
            warn!(model, "another command decides about models, trying again");
            self.group.environment.sleep(pause.mul_f64(share as f64 / 1000.0)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        Err(Error::NotDecided(format!(
            "another command decided about models each of {ATTEMPTS_MAX} times; try again"
        )))
    }

    async fn attempt<Plan>(&self, wish: &mut Wish<'_, Plan>) -> Result<Attempt, Error>
    where
        Plan: FnMut(&History) -> Result<Option<ModelAction>, Error>,
    {
        let mut leader = self.lead().await?;
        let outcome = self.propose(&mut leader, wish).await;
        // Whatever became of it: what is decided goes to every cloud that answers.
        leader.finish(FINISH_PATIENCE).await;
        outcome
    }

    async fn propose<Plan>(&self, leader: &mut Leader, wish: &mut Wish<'_, Plan>) -> Result<Attempt, Error>
    where
        Plan: FnMut(&History) -> Result<Option<ModelAction>, Error>,
    {
        let model = wish.model;
        leader.published(PUBLISH_PATIENCE).await?;
        if leader.chain().sequence_of(&wish.commit_id).is_some() {
            return Ok(Attempt::Done(wish.proposed.take()));
        }
        let history = self.registry.history(model).await?;
        let head = leader.chain().tables.get(&format!("{MODELS_PREFIX}{model}"));
        let decided = head.map_or((0, NO_PREVIOUS), |head| (head.version + 1, head.sha256.as_str()));
        if decided != (history.entries, history.last_sha256.as_str()) {
            // A majority has published it, and yet a majority says something else: unless another command is further by now.
            return match self.group.is_claimed_by_another(leader.epoch()).await {
                true => Ok(Attempt::Overtaken),
                false => Err(Error::damaged(
                    &format!("{FOLDER}/{model}/_log"),
                    "its last entry is not the decided one: see `isobar models verify`",
                )),
            };
        }
        let Some(action) = (wish.plan)(&history)? else { return Ok(Attempt::Done(None)) };
        history.check(&action).map_err(Error::Bug)?;
        let proposal = ModelProposal {
            model: model.to_owned(),
            commit_id: wish.commit_id.clone(),
            planned: history.entries,
            previous_sha256: history.last_sha256,
            action: action.clone(),
        };
        wish.proposed = Some(action.clone());
        match leader.record_model(&proposal, wish.uploads.to_vec(), now_ms()).await? {
            CommitOutcome::Committed { .. } => {
                leader.published(PUBLISH_PATIENCE).await?;
                Ok(Attempt::Done(Some(action)))
            }
            CommitOutcome::Stale(refusal) => Err(Error::Bug(refusal.to_string())),
            CommitOutcome::NotStored(why) => Err(Error::NotDecided(why)),
        }
    }

    /// Fails if anything lies in `folder`, whose number was given to this process just now, in a cloud that answers.
    async fn refuse_occupied(&self, folder: &str) -> Result<(), Error> {
        let path = Path::from(folder);
        for cloud in &self.group.clouds {
            match cloud.control.list(Some(&path)).try_next().await {
                Ok(None) => {}
                Ok(Some(found)) => {
                    let what = "isobar did not write it, and nothing is overwritten: move it away, and register again";
                    return Err(Error::damaged(&format!("{}: {}", cloud.name, found.location), what));
                }
                Err(error) => warn!(cloud = %cloud.name, %error, "cloud does not say what it holds"),
            }
        }
        Ok(())
    }

    /// Brings `files` to every cloud that takes them, and to a majority at least.
    async fn upload(&self, folder: &str, files: &[File]) -> Result<Uploads, Error> {
        let mut uploads = Vec::with_capacity(files.len());
        for File { name, bytes, .. } in files {
            let path = format!("{folder}/{name}");
            let mut upload = self.uploads.start_file(Path::from(path.as_str()));
            for start in (0..bytes.len()).step_by(PIECE_BYTES) {
                self.uploads.ready().await;
                upload.send(bytes.slice(start..bytes.len().min(start + PIECE_BYTES)));
            }
            uploads.push((path, upload.finish()));
        }
        let stored = files_in_majority(&uploads, self.group.clouds.len()).await;
        stored.map_err(|why| Error::NotDecided(format!("the files of the model were not stored: {why}")))?;
        Ok(uploads)
    }
}

fn check_alias(alias: &str) -> Result<(), Error> {
    if is_alias(alias) {
        return Ok(());
    }
    let alias = alias.escape_debug();
    let rule = "lower-case letters, digits, `_` and `-`, a letter first, at most 64 characters";
    Err(Error::Configuration(format!("`{alias}` is no alias: {rule}")))
}
