//! The client against a small HTTP server with the answers and failures of real ones (their texts were taken from
//! Apicurio 2.6 and from Confluent's documentation).

mod answers;
mod archived;
mod failures;
mod server;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use isobar_schemas::{RegisteredSchema, SchemaKind, SchemaReference};

use self::server::{Reply, Request, Server};
use super::config::Patience;
use super::{RegistryClient, RegistryConfig, SchemaAnswer};

/// Little patience, so that what fails fails soon; still long enough for a busy machine where an answer is expected.
const IMPATIENT: Patience = Patience {
    connect: Duration::from_secs(60),
    request: Duration::from_secs(60),
    rounds_max: 3,
    backoff: (Duration::from_millis(1), Duration::from_millis(2)),
    second_look: Duration::from_millis(1),
};

fn client(urls: &[&str]) -> RegistryClient {
    with(&RegistryConfig::new(urls.iter().copied()))
}

fn with(config: &RegistryConfig) -> RegistryClient {
    RegistryClient::with_patience(config, IMPATIENT).unwrap()
}

fn known(kind: SchemaKind, text: &str, references: &[(&str, &str)]) -> SchemaAnswer {
    let references = references
        .iter()
        .map(|(name, text)| SchemaReference { name: (*name).to_owned(), text: (*text).to_owned() })
        .collect();
    SchemaAnswer::Known(Arc::new(RegisteredSchema { kind, text: text.to_owned(), references }))
}

/// An Avro schema without references, as the server gives it.
fn avro(text: &str) -> Reply {
    Reply::json(200, serde_json::json!({ "schema": text }))
}

fn no_schema() -> Reply {
    Reply::json(
        404,
        serde_json::json!({ "error_code": 40403, "message": "No content with id/hash 'contentId-9' was found." }),
    )
}
