//! A real schema registry, as `tests/services` started it, and what a producer does with it: registering schemas.

use isobar_connectors::registry::ReferenceTo;
use reqwest::{Client, Method, Url};
use serde_json::{Value as Json, json};

use crate::services::required;

/// The registry, and a prefix of subjects that nobody else uses.
#[derive(Debug)]
pub struct LiveRegistry {
    /// Its base URL.
    pub url: String,
    http: Client,
    prefix: String,
}

impl LiveRegistry {
    /// The registry, or `None` with a notice when the live tests are switched off or it was skipped.
    ///
    /// # Panics
    /// If they are switched on, but it is not there.
    pub fn connect(test: &str) -> Option<Self> {
        if std::env::var("ISOBAR_LIVE").as_deref() != Ok("1") {
            eprintln!("{test}: skipped, because ISOBAR_LIVE is not 1");
            return None;
        }
        let [url] = required(["ISOBAR_REGISTRY_URL"])?;
        let http = Client::builder().no_proxy().build().expect("an HTTP client can be made");
        Some(Self { url, http, prefix: format!("{test}-{}/", uuid::Uuid::new_v4()) })
    }

    /// A subject of this test. Its name holds a slash, as those of Protobuf's imports do.
    pub fn subject(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A reference to version 1 of a subject of this test.
    pub fn reference(&self, name: &str, subject: &str) -> ReferenceTo {
        ReferenceTo { name: name.to_owned(), subject: self.subject(subject), version: 1 }
    }

    /// Registers a schema under a subject of this test; its id.
    ///
    /// # Panics
    /// If the registry refuses it.
    pub async fn register(&self, subject: &str, kind: &str, schema: &str, references: &[ReferenceTo]) -> u32 {
        let body = json!({ "schema": schema, "schemaType": kind, "references": references });
        let answer =
            self.ask(Method::POST, &["subjects", &self.subject(subject), "versions"], Some(body)).await;
        let id = answer["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        id.unwrap_or_else(|| panic!("{subject} is not registered: {answer}"))
    }

    /// Asks for something, and gives the answer as it comes.
    ///
    /// # Panics
    /// If there is none.
    pub async fn ask(&self, method: Method, path: &[&str], body: Option<Json>) -> Json {
        let mut url: Url = self.url.parse().expect("the services give a URL");
        url.path_segments_mut().expect("it has a path").extend(path);
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            let media_type = "application/vnd.schemaregistry.v1+json";
            request = request.header("content-type", media_type).body(body.to_string());
        }
        let answer = request.send().await.expect("the registry answers");
        let bytes = answer.bytes().await.expect("the registry sends all of its answer");
        serde_json::from_slice(&bytes).expect("the registry answers in JSON")
    }
}
