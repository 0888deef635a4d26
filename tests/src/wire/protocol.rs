//! The three protocols: who answers a request, what an error looks like, and how a client is told where to go.

use std::collections::BTreeMap;
use std::fmt;

use axum::http::StatusCode;

use super::message::{Answer, Refusal, Request};
use super::store::Store;
use super::xml::{PROLOGUE, element};
use super::{azure, gcs, s3, sign};

/// A protocol, and the simulated cloud that speaks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Amazon S3.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
}

/// The one function of the simulator that is no plumbing: a request, and what the store and the client see of it.
pub(super) fn answer(protocol: Protocol, store: &mut Store, request: &Request) -> Answer {
    let answer = match protocol {
        Protocol::S3 => s3::answer(store, request),
        Protocol::Azure => azure::answer(store, request),
        Protocol::Gcs => gcs::answer(store, request),
    };
    match answer {
        Ok(answer) if request.is_head() => answer.without_body(),
        Ok(answer) => answer,
        Err(refusal) => refusal_answer(protocol, &refusal, request.is_head()),
    }
}

/// An error as the protocol writes it.
pub(super) fn refusal_answer(protocol: Protocol, refusal: &Refusal, is_head: bool) -> Answer {
    let text = [element("Code", refusal.code), element("Message", &refusal.message)].concat();
    let mut answer = Answer::xml(refusal.status, format!("{PROLOGUE}<Error>{text}</Error>"));
    if protocol == Protocol::Azure {
        answer = answer.with("x-ms-error-code", refusal.code);
    }
    if let Some(seconds) = refusal.retry_after {
        answer = answer.with("retry-after", seconds.to_string());
    }
    if is_head || refusal.status == StatusCode::NOT_MODIFIED {
        return answer.without_body();
    }
    answer
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::S3 => "aws",
            Protocol::Azure => "azure",
            Protocol::Gcs => "gcp",
        })
    }
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::S3, Protocol::Azure, Protocol::Gcs];

    /// The scheme of this kind of cloud's URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Protocol::S3 => "s3",
            Protocol::Azure => "az",
            Protocol::Gcs => "gs",
        }
    }

    /// The options of a cloud whose requests go to `address` (`host:port`), or to the real address, where a connector
    /// stands in the way, if it is `None`.
    pub fn options(self, address: Option<&str>) -> BTreeMap<String, String> {
        let mut options = match self {
            Protocol::S3 => vec![
                ("region", sign::AMAZON_REGION.to_owned()),
                ("access_key_id", sign::AMAZON_KEY_ID.to_owned()),
                ("secret_access_key", sign::AMAZON_SECRET.to_owned()),
            ],
            Protocol::Azure => vec![
                ("account_name", sign::AZURE_ACCOUNT.to_owned()),
                ("account_key", sign::AZURE_KEY.to_owned()),
            ],
            Protocol::Gcs => vec![("service_account_key", service_account_key(address))],
        };
        if let Some(address) = address {
            options.push(("allow_http", "true".to_owned()));
            match self {
                Protocol::S3 => options.push(("endpoint", format!("http://{address}"))),
                Protocol::Azure => {
                    options.push(("endpoint", format!("http://{address}/{}", sign::AZURE_ACCOUNT)));
                }
                Protocol::Gcs => {}
            }
        }
        options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A service account that needs no token and, if there is an `address`, names it as Google's.
pub fn service_account_key(address: Option<&str>) -> String {
    let mut key = serde_json::json!({
        "client_email": "tests@example.com", "private_key": "", "private_key_id": "", "disable_oauth": true,
    });
    if let Some(address) = address {
        key["gcs_base_url"] = format!("http://{address}").into();
    }
    key.to_string()
}
