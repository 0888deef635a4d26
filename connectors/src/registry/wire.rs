//! What the servers say: the shapes of Confluent's API, and what an answer means.
//!
//! A 404 means that something is not there only with the error code that says so. Any other is an answer of something
//! that is not a registry, or not under this path, and must not be taken for "there is no such schema".

use isobar_schemas::SchemaKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::servers::{Answer, Asked, Question, Servers};
use crate::Error;

/// Error codes of a 404.
const SUBJECT_MISSING: i64 = 40401;
const VERSION_MISSING: i64 = 40402;
const SCHEMA_MISSING: i64 = 40403;

/// A schema that another refers to, by subject and version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReferenceTo {
    /// The name it is referred to by.
    pub name: String,
    /// The subject it is registered under.
    pub subject: String,
    /// Its version there.
    pub version: i64,
}

/// A schema as the servers give it. Some leave out what is empty, some write null.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireSchema {
    pub(super) schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<ReferenceTo>>,
}

impl WireSchema {
    /// Its language; the name itself if it is not one of the three.
    pub(super) fn kind(&self) -> Result<SchemaKind, &str> {
        match self.schema_type.as_deref() {
            None | Some("AVRO") => Ok(SchemaKind::Avro),
            Some("PROTOBUF") => Ok(SchemaKind::Protobuf),
            Some("JSON") => Ok(SchemaKind::Json),
            Some(other) => Err(other),
        }
    }

    pub(super) fn references(&self) -> &[ReferenceTo] {
        self.references.as_deref().unwrap_or_default()
    }
}

/// A schema under a subject.
#[derive(Debug, Deserialize)]
pub(super) struct WireVersion {
    pub(super) id: u32,
    pub(super) version: i64,
    #[serde(flatten)]
    pub(super) schema: WireSchema,
}

/// A schema to be compared with what is registered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireCandidate<'a> {
    pub(super) schema: &'a str,
    pub(super) schema_type: &'static str,
    pub(super) references: &'a [ReferenceTo],
}

/// The name of a language in the API.
pub(super) fn kind_name(kind: SchemaKind) -> &'static str {
    match kind {
        SchemaKind::Avro => "AVRO",
        SchemaKind::Protobuf => "PROTOBUF",
        SchemaKind::Json => "JSON",
    }
}

/// Whether a schema may be registered, and why not: Confluent's registry gives messages, Apicurio one reason.
#[derive(Debug, Deserialize)]
pub(super) struct WireCompatibility {
    pub(super) is_compatible: bool,
    #[serde(default)]
    pub(super) messages: Option<Vec<String>>,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    error_code: i64,
    message: String,
}

/// A definite answer to a question.
#[derive(Debug)]
pub(super) enum Said<T> {
    /// Here it is.
    Found(T),
    /// There is no such thing.
    Missing,
    /// It is there and cannot be used: why.
    Unusable(String),
}

/// What is missing when a server says so.
#[derive(Debug, Clone, Copy)]
pub(super) enum Thing {
    /// A schema, by its id.
    Schema,
    /// A subject, or a version of it.
    Version,
}

impl Servers {
    /// Asks, and says what the answer means.
    pub(super) async fn tell<T: DeserializeOwned>(
        &self,
        question: &Question<'_>,
        thing: Thing,
    ) -> Result<Said<T>, Error> {
        let answer = match self.ask(question).await? {
            Asked::Answered(answer) => answer,
            Asked::TooLarge => {
                let limit = super::servers::ANSWER_BYTES_MAX >> 20;
                return Ok(Said::Unusable(format!("it is larger than {limit} MiB as the registry sends it")));
            }
        };
        if answer.status.is_success() {
            let odd =
                |error| self.odd(question, &answer, &format!("which is not what it should be: {error}"));
            return serde_json::from_slice(&answer.body).map(Said::Found).map_err(odd);
        }
        if answer.status.is_redirection() {
            let why = "a redirect, which is not followed: credentials go to the servers that are named alone";
            return Err(self.odd(question, &answer, why));
        }
        let problem: Problem = serde_json::from_slice(&answer.body).unwrap_or_default();
        match (answer.status.as_u16(), thing, problem.error_code) {
            (404, Thing::Schema, SCHEMA_MISSING) => Ok(Said::Missing),
            (404, Thing::Version, SUBJECT_MISSING | VERSION_MISSING) => Ok(Said::Missing),
            (422, ..) => Ok(Said::Unusable(self.shown(&problem.message))),
            (_, _, code) => {
                Err(self.odd(question, &answer, &format!("error code {code}: {}", problem.message)))
            }
        }
    }

    fn odd(&self, question: &Question<'_>, answer: &Answer, what: &str) -> Error {
        Error::RegistryAnswer {
            server: answer.server.clone(),
            what: question.what.clone(),
            answer: format!("{}, {}", answer.status, self.shown(what)),
        }
    }
}
