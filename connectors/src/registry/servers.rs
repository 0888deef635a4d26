//! One question to the servers of a registry: the next one when one does not answer, again after a pause when none
//! does, and never more than a bounded number of bytes.
//!
//! What is an answer, is not decided by who sends it: an answer other than "later" ends the asking, whatever it says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng;
use reqwest::{Response, StatusCode, header};
use url::Url;

use super::config::{Credentials, Patience, RegistryConfig, chain_of};
use crate::Error;

/// Largest answer, in bytes: the text of a schema, escaped as JSON, and its references.
pub(super) const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Media type of Confluent's API.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Something to ask.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// What is asked for, for messages.
    pub(super) what: String,
    /// The path below the base URL, not escaped.
    pub(super) path: &'a [&'a str],
    /// How many servers after the preferred one to begin with.
    pub(super) offset: usize,
    /// The query.
    pub(super) query: Option<&'static str>,
    /// Sent with POST; without one it is a GET. Asking twice must be the same as asking once.
    pub(super) body: Option<Vec<u8>>,
}

/// An answer other than "later".
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    /// Who answered: the base URL, without credentials.
    pub(super) server: String,
}

/// What came of asking.
#[derive(Debug)]
pub(super) enum Asked {
    Answered(Answer),
    /// The answer is larger than [`ANSWER_BYTES_MAX`].
    TooLarge,
}

/// One attempt without an answer.
enum Failure {
    /// Asking again may help, after the pause that the server asks for, if any.
    Again { reason: String, pause: Option<Duration> },
    /// It will not.
    Never(Error),
}

/// The servers of one registry.
#[derive(Debug)]
pub(super) struct Servers {
    http: reqwest::Client,
    urls: Vec<Url>,
    credentials: Credentials,
    patience: Patience,
    /// Index of the server that answered when another did not.
    preferred: AtomicUsize,
}

impl Servers {
    pub(super) fn new(config: &RegistryConfig, patience: Patience) -> Result<Self, Error> {
        let (urls, credentials) = config.resolve()?;
        Ok(Self {
            http: config.client(patience)?,
            urls,
            credentials,
            patience,
            preferred: AtomicUsize::new(0),
        })
    }

    /// The base URLs, without credentials.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.urls.iter().map(Url::as_str)
    }

    /// Asks one server after the other, for a bounded number of rounds, until one answers.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Asked, Error> {
        let mut backoff = self.patience.backoff.0;
        let mut reasons = vec![String::new(); self.urls.len()];
        let first = self.preferred.load(Ordering::Relaxed) + question.offset;
        for round in 1..=self.patience.rounds_max {
            let mut pause = backoff;
            for index in (0..self.urls.len()).map(|step| (first + step) % self.urls.len()) {
                match self.attempt(&self.urls[index], question).await {
                    Ok(asked) => {
                        if reasons.iter().any(|reason| !reason.is_empty()) {
                            self.prefer(index);
                        }
                        return Ok(asked);
                    }
                    Err(Failure::Never(error)) => return Err(error),
                    Err(Failure::Again { reason, pause: wanted }) => {
                        tracing::debug!(server = %self.urls[index], what = question.what, reason, "no answer");
                        pause = pause.max(wanted.unwrap_or_default());
                        reasons[index] = reason;
                    }
                }
            }
            if round < self.patience.rounds_max {
                tokio::time::sleep(jittered(pause)).await;
                backoff = (backoff * 2).min(self.patience.backoff.1);
            }
        }
        let reasons = self.names().zip(reasons).map(|(server, reason)| format!("{server}: {reason}"));
        Err(Error::RegistryUnreachable {
            what: question.what.clone(),
            attempts: self.patience.rounds_max,
            reason: reasons.collect::<Vec<_>>().join("; "),
        })
    }

    fn prefer(&self, index: usize) {
        if self.preferred.swap(index, Ordering::Relaxed) != index {
            tracing::info!(server = %self.urls[index], "another server of the schema registry answers");
        }
    }

    async fn attempt(&self, server: &Url, question: &Question<'_>) -> Result<Asked, Failure> {
        let mut url = server.clone();
        url.path_segments_mut().expect("the URL begins with http").pop_if_empty().extend(question.path);
        url.set_query(question.query);
        let request = match &question.body {
            None => self.http.get(url),
            Some(body) => self.http.post(url).header(header::CONTENT_TYPE, MEDIA_TYPE).body(body.clone()),
        };
        let request = self.credentials.sign(request.header(header::ACCEPT, MEDIA_TYPE));
        let response = request.send().await.map_err(no_answer)?;
        let status = response.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(Failure::Never(Error::RegistryDenied {
                    server: server.to_string(),
                    what: question.what.clone(),
                    status: status.as_u16(),
                    has_credentials: self.credentials != Credentials::None,
                }));
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => return Err(later(&response)),
            _ if status.is_server_error() => return Err(later(&response)),
            _ => {}
        }
        match read(response).await? {
            Some(body) => Ok(Asked::Answered(Answer { status, body, server: server.to_string() })),
            None => Ok(Asked::TooLarge),
        }
    }

    /// `text` from a server, fit to be shown: one short line, without credentials.
    pub(super) fn shown(&self, text: &str) -> String {
        let line: String =
            text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(300).collect();
        self.credentials.redacted(&line)
    }
}

/// The body; `None` if it is too large.
async fn read(mut response: Response) -> Result<Option<Vec<u8>>, Failure> {
    if response.content_length().is_some_and(|length| length > ANSWER_BYTES_MAX as u64) {
        return Ok(None);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

fn no_answer(error: reqwest::Error) -> Failure {
    Failure::Again { reason: chain_of(error), pause: None }
}

/// The server asks to come back, perhaps after a number of seconds.
fn later(response: &Response) -> Failure {
    let seconds =
        response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    Failure::Again { reason: format!("answers {}", response.status()), pause }
}

/// Between half and all of `pause`, so that clients that were cut off together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}
