//! Looking at the schema registry: the newest schema of every topic whose records name one.

use std::time::Duration;

use futures::{StreamExt, stream};
use isobar_connectors::registry::{RecordPart, RegistryClient, SchemaAnswer, SubjectNames};

use super::trouble::{Look, within};
use crate::decoding::{open_registry, registered_problems};
use crate::spec::{Encoding, SourceSpec, Topology, WriterSchemas};

/// Subjects asked for together.
const SUBJECTS_IN_FLIGHT: usize = 8;

/// What was found in the registry.
#[derive(Debug, Clone)]
pub(super) struct RegistryFacts {
    /// Its base URLs.
    pub(super) urls: String,
    /// Whether a client could be made, which asks nobody.
    pub(super) opened: Look<()>,
    /// One per topic.
    pub(super) subjects: Vec<SubjectFacts>,
}

/// What was found under one subject.
#[derive(Debug, Clone)]
pub(super) struct SubjectFacts {
    pub(super) source: String,
    pub(super) topic: String,
    pub(super) subject: String,
    /// The newest schema, if there is one.
    pub(super) newest: Look<Option<Newest>>,
}

/// A schema, and what the source makes of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) version: i64,
    pub(super) id: u32,
    pub(super) judgement: Judgement,
}

/// What a source makes of records of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// They become rows, unless something of this keeps them from it.
    Compared(Vec<String>),
    /// Its language is not read by the schema; records are held against the contract one by one.
    NotCompared,
    /// The registry has it and it cannot be used.
    Unusable(String),
}

/// Looks at the registry of `topology`, if it has one. `topics` are those that Kafka has.
pub(super) async fn look(
    topology: &Topology,
    topics: &[String],
    patience: Duration,
) -> Option<RegistryFacts> {
    let registry = topology.registry.as_ref()?;
    let urls = registry.urls.iter().map(|url| url.as_str()).collect::<Vec<_>>().join(", ");
    let client = match open_registry(registry) {
        Ok(client) => client,
        Err(error) => return Some(RegistryFacts { urls, opened: Err(error.into()), subjects: Vec::new() }),
    };
    let wanted = topology.sources.iter().filter(|source| names_schemas(source)).flat_map(|source| {
        let matching = topics.iter().filter(|topic| source.topics.contains(topic));
        let mut all: Vec<&String> = source.topics.named().iter().chain(matching).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(move |topic| (source, topic.as_str()))
    });
    let looks: Vec<_> = wanted.map(|(source, topic)| look_at(&client, source, topic, patience)).collect();
    let subjects = stream::iter(looks).buffered(SUBJECTS_IN_FLIGHT).collect().await;
    Some(RegistryFacts { urls, opened: Ok(()), subjects })
}

/// Whether the records of `source` name schemas of a registry.
fn names_schemas(source: &SourceSpec) -> bool {
    match &source.encoding {
        Encoding::Json { framed, .. } => *framed,
        Encoding::Avro { schemas, .. } | Encoding::Protobuf { schemas, .. } => {
            matches!(schemas, WriterSchemas::Registry)
        }
        Encoding::Csv { .. } | Encoding::Raw => false,
    }
}

async fn look_at(
    client: &RegistryClient,
    source: &SourceSpec,
    topic: &str,
    patience: Duration,
) -> SubjectFacts {
    let subject = SubjectNames::Topic.subject(topic, RecordPart::Value, None);
    let subject = subject.expect("this way of naming needs the topic alone");
    let newest = within(patience, async {
        let newest = client.subject_version(&subject, None).await?;
        Ok(newest.map(|newest| Newest {
            version: newest.version,
            id: newest.id,
            judgement: match newest.schema {
                SchemaAnswer::Known(schema) => match registered_problems(source, &schema) {
                    Some(problems) => Judgement::Compared(problems),
                    None => Judgement::NotCompared,
                },
                SchemaAnswer::Unknown => Judgement::Unusable("it refers to what is not there".to_owned()),
                SchemaAnswer::Unusable(why) => Judgement::Unusable(why),
            },
        }))
    })
    .await;
    SubjectFacts { source: source.name.clone(), topic: topic.to_owned(), subject, newest }
}
