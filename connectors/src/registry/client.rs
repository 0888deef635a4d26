//! The client: what callers ask for, and in which order it is looked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use isobar_schemas::{RegisteredSchema, SchemaKind};
use tokio::time::Instant;

use super::archive::{ARCHIVE_BYTES_MAX, SchemaArchive, filed_bytes};
use super::cache::Cache;
use super::config::{Patience, RegistryConfig};
use super::references;
use super::servers::{Question, Servers};
use super::wire::{
    ReferenceTo, Said, Thing, WireCandidate, WireCompatibility, WireSchema, WireVersion, kind_name,
};
use crate::Error;

/// Most memory for schemas, in bytes.
const CACHE_BYTES_MAX: usize = 32 << 20;
/// Most ids asked for at the same time.
const CONCURRENT_MAX: usize = 8;
/// The largest id there can be: they are Java's `int`. Some servers do not understand a question about a larger one, which
/// only garbage names.
const ID_MAX: u32 = i32::MAX.unsigned_abs();
/// How long a registry that gave no answer is not asked for what the archive has.
const SILENCE: Duration = Duration::from_secs(30);

/// What is known of an id: a definite answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaAnswer {
    /// Its schema.
    Known(Arc<RegisteredSchema>),
    /// The registry has no schema under this id. It may have one later.
    Unknown,
    /// The registry has one that cannot be used: why. It is too large, of a type that is none of the three, or refers
    /// to what is not there, to itself, or to too much.
    Unusable(String),
}

/// A schema under a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectVersion {
    /// Its id.
    pub id: u32,
    /// Its version under the subject.
    pub version: i64,
    /// The schema.
    pub schema: SchemaAnswer,
}

/// Whether a schema may follow those of a subject, by the registry's own rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compatibility {
    /// It may.
    Compatible,
    /// It may not: the registry's reasons.
    Incompatible(Vec<String>),
    /// The subject has no schema yet.
    NothingRegistered,
    /// It is no schema: the registry's reason.
    Invalid(String),
}

/// Asks one schema registry. Cheap to share by reference; every method may be called from several tasks at once.
#[derive(Debug)]
pub struct RegistryClient {
    servers: Servers,
    cache: Mutex<Cache>,
    /// What was known before this process began.
    archive: SchemaArchive,
    /// Until when the registry is not asked for what the archive has.
    silent_until: Mutex<Option<Instant>>,
    second_look: Duration,
}

impl RegistryClient {
    /// A client. Nothing is asked yet.
    ///
    /// # Errors
    /// If a setting is wrong.
    pub fn new(config: &RegistryConfig) -> Result<Self, Error> {
        Self::with_patience(config, Patience::default())
    }

    pub(super) fn with_patience(config: &RegistryConfig, patience: Patience) -> Result<Self, Error> {
        Ok(Self {
            servers: Servers::new(config, patience)?,
            cache: Mutex::new(Cache::new(CACHE_BYTES_MAX)),
            archive: SchemaArchive::default(),
            silent_until: Mutex::new(None),
            second_look: patience.second_look,
        })
    }

    /// This client, which falls back on what an archive of the same registry says when no server answers. `false`
    /// beside it if the archive is of another registry (it names none of the servers) and is not used: an id means
    /// something else there.
    #[must_use]
    pub fn with_archive(mut self, archive: SchemaArchive) -> (Self, bool) {
        let is_same = self.servers.names().any(|server| archive.servers.contains(server));
        if is_same {
            self.archive = archive;
        }
        (self, is_same)
    }

    /// Everything that this client knows, for the next process: what the archive had, and what the registry has said
    /// since. Beside it how many schemas it leaves out because it would be larger than [`ARCHIVE_BYTES_MAX`]; those
    /// that were used last stay.
    pub fn export(&self) -> (SchemaArchive, usize) {
        let mut servers = self.archive.servers.clone();
        servers.extend(self.servers.names().map(str::to_owned));
        // What the frame takes is little beside what an entry is rounded up to.
        let mut bytes = servers.iter().map(|server| server.len() + 16).sum::<usize>() + 256;
        let (mut schemas, mut omitted) = (BTreeMap::new(), 0);
        let archived = self.archive.schemas.iter().map(|(id, schema)| (*id, schema.clone()));
        for (id, schema) in self.cache().schemas().into_iter().chain(archived) {
            if schemas.contains_key(&id) {
                continue;
            }
            let more = filed_bytes(id, &schema);
            if bytes + more > ARCHIVE_BYTES_MAX {
                omitted += 1;
                continue;
            }
            bytes += more;
            schemas.insert(id, schema);
        }
        (SchemaArchive { servers, schemas }, omitted)
    }

    /// What is known of each id, in the order given.
    ///
    /// An id that is unknown is asked for a second time a moment later, if possible of another server: one that
    /// follows another may not have heard of a new schema yet. Either answer is definite then.
    ///
    /// # Errors
    /// If there is no answer for one of them. Those that were answered need not be asked for again.
    pub async fn schemas(&self, ids: &[u32]) -> Result<Vec<SchemaAnswer>, Error> {
        let mut answers = self.look_up_all(ids.iter().copied(), 0).await?;
        let again: Vec<usize> =
            (0..ids.len()).filter(|index| self.is_doubtful(ids[*index], &answers[*index])).collect();
        if !again.is_empty() {
            tokio::time::sleep(self.second_look).await;
            let second = self.look_up_all(again.iter().map(|index| ids[*index]), 1).await?;
            for (index, answer) in again.into_iter().zip(second) {
                self.cache().put(ids[index], &answer, Instant::now());
                answers[index] = answer;
            }
        }
        Ok(answers)
    }

    /// What is known of one id: see [`schemas`](Self::schemas).
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn schema(&self, id: u32) -> Result<SchemaAnswer, Error> {
        let mut answers = self.schemas(&[id]).await?;
        Ok(answers.pop().expect("there is an answer for each id"))
    }

    /// Looks ids up, beginning with the server that is `offset` after the preferred one.
    async fn look_up_all(
        &self,
        ids: impl Iterator<Item = u32>,
        offset: usize,
    ) -> Result<Vec<SchemaAnswer>, Error> {
        // Made before the stream begins: the compiler does not see that a stream which makes them is `Send`.
        let questions: Vec<_> = ids.map(|id| self.look_up(id, offset)).collect();
        stream::iter(questions).buffered(CONCURRENT_MAX).try_collect().await
    }

    /// Whether `answer` was given for the first time, by one server, and may be out of date.
    fn is_doubtful(&self, id: u32, answer: &SchemaAnswer) -> bool {
        id <= ID_MAX && *answer == SchemaAnswer::Unknown && self.cache().get(id, Instant::now()).is_none()
    }

    /// Memory, then the registry, then the archive.
    async fn look_up(&self, id: u32, offset: usize) -> Result<SchemaAnswer, Error> {
        if id > ID_MAX {
            return Ok(SchemaAnswer::Unknown);
        }
        if let Some(answer) = self.cache().get(id, Instant::now()) {
            return Ok(answer);
        }
        let archived = self.archive.schemas.get(&id).cloned().map(SchemaAnswer::Known);
        if let Some(archived) = &archived
            && self.is_silent()
        {
            return Ok(archived.clone());
        }
        let answer = match (self.fetch(id, offset).await, archived) {
            (Err(error @ Error::RegistryUnreachable { .. }), Some(archived)) => {
                self.note_silence(&error);
                return Ok(archived);
            }
            (Err(error), _) => return Err(error),
            (Ok(SchemaAnswer::Unknown | SchemaAnswer::Unusable(_)), Some(archived)) => {
                tracing::warn!(id, "the schema registry has lost a schema; the one recorded before is used");
                archived
            }
            (Ok(answer), Some(archived)) if !means_the_same(&answer, &archived) => {
                return Err(Error::RegistryChanged { id, servers: self.names() });
            }
            (Ok(answer), _) => answer,
        };
        if answer != SchemaAnswer::Unknown {
            self.cache().put(id, &answer, Instant::now());
        }
        Ok(answer)
    }

    async fn fetch(&self, id: u32, offset: usize) -> Result<SchemaAnswer, Error> {
        let (what, number) = (format!("schema {id}"), id.to_string());
        let question = Question { what, path: &["schemas", "ids", &number], offset, query: None, body: None };
        match self.servers.tell::<WireSchema>(&question, Thing::Schema).await? {
            Said::Found(schema) => self.resolve(schema).await,
            Said::Missing => Ok(SchemaAnswer::Unknown),
            Said::Unusable(why) => Ok(SchemaAnswer::Unusable(why)),
        }
    }

    async fn resolve(&self, schema: WireSchema) -> Result<SchemaAnswer, Error> {
        Ok(match references::resolve(&self.servers, schema).await? {
            Said::Found(schema) => SchemaAnswer::Known(Arc::new(schema)),
            Said::Missing => SchemaAnswer::Unknown,
            Said::Unusable(why) => SchemaAnswer::Unusable(why),
        })
    }

    /// A version of a subject, `None` for the newest; `None` if there is no such subject or version.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn subject_version(
        &self,
        subject: &str,
        version: Option<i64>,
    ) -> Result<Option<SubjectVersion>, Error> {
        let version = version.map_or_else(|| "latest".to_owned(), |version| version.to_string());
        let what = format!("version {version} of subject {subject}");
        let question = Question {
            what,
            path: &["subjects", subject, "versions", &version],
            offset: 0,
            query: None,
            body: None,
        };
        match self.servers.tell::<WireVersion>(&question, Thing::Version).await? {
            Said::Found(WireVersion { id, version, schema }) => {
                Ok(Some(SubjectVersion { id, version, schema: self.resolve(schema).await? }))
            }
            Said::Missing => Ok(None),
            Said::Unusable(why) => {
                let answer = format!("something that cannot be used: {why}");
                Err(Error::RegistryAnswer { server: self.names(), what: question.what, answer })
            }
        }
    }

    /// Whether the registry would let `text` follow the newest schema of `subject`. Nothing is registered.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn compatibility(
        &self,
        subject: &str,
        kind: SchemaKind,
        text: &str,
        references: &[ReferenceTo],
    ) -> Result<Compatibility, Error> {
        let candidate = WireCandidate { schema: text, schema_type: kind_name(kind), references };
        let body = serde_json::to_vec(&candidate).expect("strings and numbers are always JSON");
        let question = Question {
            what: format!("the compatibility of a schema with subject {subject}"),
            path: &["compatibility", "subjects", subject, "versions", "latest"],
            offset: 0,
            query: Some("verbose=true"),
            body: Some(body),
        };
        Ok(match self.servers.tell::<WireCompatibility>(&question, Thing::Version).await? {
            Said::Found(answer) if answer.is_compatible => Compatibility::Compatible,
            Said::Found(answer) => {
                let reasons = answer.messages.into_iter().flatten().chain(answer.reason);
                Compatibility::Incompatible(reasons.map(|reason| self.servers.shown(&reason)).collect())
            }
            Said::Missing => Compatibility::NothingRegistered,
            Said::Unusable(why) => Compatibility::Invalid(why),
        })
    }

    fn names(&self) -> String {
        self.servers.names().collect::<Vec<_>>().join(", ")
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_silent(&self) -> bool {
        let until = self.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn note_silence(&self, error: &Error) {
        let mut until = self.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_none_or(|until| until <= Instant::now()) {
            tracing::warn!(%error, "the schema registry gives no answer; schemas recorded before are used");
        }
        *until = Some(Instant::now() + SILENCE);
    }
}

/// Whether two known schemas say the same. A registry may lay out the same JSON in another way after an upgrade.
fn means_the_same(a: &SchemaAnswer, b: &SchemaAnswer) -> bool {
    let (SchemaAnswer::Known(a), SchemaAnswer::Known(b)) = (a, b) else { return a == b };
    let same = |a: &str, b: &str| a == b || json(a).is_some_and(|a| json(b) == Some(a));
    let references = a.references.iter().zip(&b.references);
    a.kind == b.kind
        && same(&a.text, &b.text)
        && a.references.len() == b.references.len()
        && references.into_iter().all(|(a, b)| a.name == b.name && same(&a.text, &b.text))
}

fn json(text: &str) -> Option<serde_json::Value> {
    serde_json::from_str(text).ok()
}
