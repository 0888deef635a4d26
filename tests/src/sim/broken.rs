//! The protocol with one of its rules taken away, to see that the monitor would notice.
//!
//! The product has no switch for any of this. A rule is broken from outside, in the client between the protocol and a
//! cloud (what the protocol believes it did is not what is done), or in the process that calls the leader. A check that
//! has never failed proves nothing; every variant here must be caught within a thousand seeds.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, PutMode, PutResult, Result};
use serde_json::Value as Json;

use super::cloud::SimStore;

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A new leader does not seal older logs.
    NoSeal,
    /// A header does not carry the decisions that are not published yet.
    HeaderWithoutTail,
    /// A record goes to a cloud whether or not its files are there.
    RecordBeforeFiles,
    /// A cloud without an identity is taken for a member.
    WipedCloudCounted,
    /// A record counts as stored in every cloud as soon as one has it.
    DecidedInOneCloud,
    /// A batch is moved to where the chain is, instead of being refused.
    PositionsRebased,
    /// "Already exists" is taken for the success of one's own write.
    AlreadyExistsTrusted,
    /// A write without an answer is taken for a success.
    SilenceTrusted,
    /// What was absent when a log was first listed is taken to be absent for good.
    AbsenceTrusted,
    /// The stores ignore preconditions, and hide that from the probe.
    PreconditionsIgnored,
    /// The stores ignore preconditions, as the probe finds out: nobody may ever lead. Not one of [`Self::ALL`].
    PreconditionsIgnoredOpenly,
    /// A clean-up rule removes records of the control log.
    RecordsRemoved,
    /// A decision is published without being stored in a majority first: records count as stored at once.
    PublishedUndecided,
}

impl Broken {
    /// Those that the monitor must catch.
    pub const ALL: [Self; 12] = [
        Self::NoSeal,
        Self::HeaderWithoutTail,
        Self::RecordBeforeFiles,
        Self::WipedCloudCounted,
        Self::DecidedInOneCloud,
        Self::PositionsRebased,
        Self::AlreadyExistsTrusted,
        Self::SilenceTrusted,
        Self::AbsenceTrusted,
        Self::PreconditionsIgnored,
        Self::RecordsRemoved,
        Self::PublishedUndecided,
    ];
}

/// The bad habits of one process, shared by its clients.
#[derive(Debug, Default)]
pub struct Habits {
    broken: Option<Broken>,
    /// First listings, by cloud and folder.
    listings: Mutex<BTreeMap<(usize, String), Vec<ObjectMeta>>>,
    /// Identities seen, by cloud.
    identities: Mutex<BTreeMap<usize, (ObjectMeta, Bytes)>>,
}

impl Habits {
    /// A process that breaks this rule.
    pub fn new(broken: Option<Broken>) -> Self {
        Self { broken, ..Self::default() }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }
}

fn is_record(path: &Path) -> bool {
    path.as_ref().starts_with("control/") && path.as_ref().contains("/log/")
}

fn is_kind(bytes: &Bytes, kind: &str) -> bool {
    serde_json::from_slice::<Json>(bytes).is_ok_and(|record| record["kind"] == kind)
}

fn stored() -> Result<PutResult> {
    Ok(PutResult { e_tag: None, version: None })
}

fn without_tail(bytes: &Bytes) -> Bytes {
    let mut record: Json = serde_json::from_slice(bytes).expect("a header is JSON");
    record["tail"] = Json::Array(Vec::new());
    let mut text = serde_json::to_vec(&record).expect("JSON can be written");
    text.push(b'\n');
    text.into()
}

impl SimStore {
    /// A write, as honest as this process is.
    pub(super) async fn put(&self, path: &Path, mut bytes: Bytes, mode: PutMode) -> Result<PutResult> {
        let habits = &self.habits;
        let creates = matches!(mode, PutMode::Create) && !path.as_ref().contains("/probe/");
        if is_record(path) {
            if habits.is(Broken::NoSeal) && is_kind(&bytes, "seal") {
                return stored();
            }
            if habits.is(Broken::HeaderWithoutTail) && is_kind(&bytes, "header") {
                bytes = without_tail(&bytes);
            }
            let holds_entry = is_kind(&bytes, "entry");
            if habits.is(Broken::PublishedUndecided) && holds_entry {
                let (store, path) = (self.clone(), path.clone());
                self.world().spawn(self.process, async move {
                    let pause = store.world().draw_ms(0, 2000);
                    store.world().sleep(pause).await;
                    // Nobody waits for the outcome: that is the mistake.
                    let _ = store.put_honestly(&path, bytes, mode).await;
                });
                return stored();
            }
            if habits.is(Broken::DecidedInOneCloud) && holds_entry && self.cloud.index > 0 {
                let _ = self.put_honestly(path, bytes, mode).await;
                return stored();
            }
        }
        let outcome = self.put_honestly(path, bytes, mode).await;
        match outcome {
            Err(Error::AlreadyExists { .. }) if creates && habits.is(Broken::AlreadyExistsTrusted) => {
                stored()
            }
            Err(Error::Generic { .. }) if creates && habits.is(Broken::SilenceTrusted) => stored(),
            outcome => outcome,
        }
    }

    /// A read, as honest as this process is.
    pub(super) async fn get(&self, path: &Path, head: bool) -> Result<(ObjectMeta, Bytes)> {
        let habits = &self.habits;
        if head
            && habits.is(Broken::RecordBeforeFiles)
            && let Some(meta) = habits.pretend(self, path)
        {
            return Ok((meta, Bytes::new()));
        }
        let outcome = self.get_honestly(path).await;
        if habits.is(Broken::WipedCloudCounted) && path.as_ref().ends_with("/identity") {
            let mut seen = habits.identities.lock().unwrap_or_else(PoisonError::into_inner);
            return match outcome {
                Ok(found) => Ok(seen.entry(self.cloud.index).or_insert(found).clone()),
                Err(Error::NotFound { .. }) if seen.contains_key(&self.cloud.index) => {
                    Ok(seen[&self.cloud.index].clone())
                }
                outcome => outcome,
            };
        }
        outcome
    }

    /// A listing, as honest as this process is.
    pub(super) async fn list_all(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let Some(folder) = prefix.filter(|folder| self.habits.is(Broken::AbsenceTrusted) && is_log(folder))
        else {
            return self.list_honestly(prefix).await;
        };
        let key = (self.cloud.index, folder.to_string());
        let known = self.habits.listings.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        match known {
            Some(known) => Ok(known),
            None => {
                let listed = self.list_honestly(prefix).await?;
                let mut listings = self.habits.listings.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(listings.entry(key).or_insert(listed).clone())
            }
        }
    }
}

/// Whether `folder` is the log of one epoch.
fn is_log(folder: &Path) -> bool {
    is_record(folder)
}

impl Habits {
    /// What a cloud would say of a file if it had it.
    fn pretend(&self, store: &SimStore, path: &Path) -> Option<ObjectMeta> {
        store.cloud.monitor().file_size(path.as_ref()).map(|size| ObjectMeta {
            location: path.clone(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size,
            e_tag: None,
            version: None,
        })
    }
}
