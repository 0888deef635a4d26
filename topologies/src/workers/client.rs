//! The worker's side of the conversation, and that of a redrive: finds the leader, asks, and asks again until there is a
//! definite answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::http::{HeaderValue, StatusCode, header};
use isobar_connectors::failpoint::{self, Failpoint};
use rand::Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::HEARTBEAT_INTERVAL;
use super::token::Token;
use super::wire::{
    ANSWER_BYTES_MAX, Answer, AskHead, Join, Problem, QuarantineHead, REQUEST_BYTES_MAX, RedriveAnswer,
    Share, StagedCommit, StagedRedrive,
};
use crate::commit::{Group, Proposal, Redrive};
use crate::error::Error;
use crate::spec::Secret;

/// How long connecting may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// How long a heartbeat may take.
const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(3);
/// How long one question about a commit may take. Shorter than some commit intervals: it is then asked again.
const COMMIT_PATIENCE: Duration = Duration::from_secs(15);
/// How long a redrive looks for a leader that answers. A person waits for it, and nothing is lost when it gives up.
const REDRIVE_PATIENCE: Duration = Duration::from_secs(120);
/// First and longest pause before asking again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// One attempt that gave nothing.
enum Failure {
    /// Asking again may help.
    Again(String),
    /// It will not: a person must change something.
    Never(Error),
}

/// A worker's connection to whoever leads.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    authorization: HeaderValue,
    /// Tells who leads.
    group: Group,
    worker: String,
    plans: BTreeMap<String, String>,
    /// Where the leader was last; `None`: to be looked up.
    leader: watch::Sender<Option<String>>,
    share: watch::Sender<Option<Share>>,
}

impl Client {
    /// A worker of `group`'s topology, whose id is the group's incarnation.
    pub(crate) fn new(token: &Secret, group: Group, plans: BTreeMap<String, String>) -> Result<Self, Error> {
        Token::new(token)?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| Error::Bug(format!("an HTTP client: {error}")))?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| Error::Bug("a token that was checked does not fit into a header".to_owned()))?;
        authorization.set_sensitive(true);
        let worker = group.incarnation.clone();
        let (leader, share) = (watch::Sender::new(None), watch::Sender::new(None));
        Ok(Self { http, authorization, group, worker, plans, leader, share })
    }

    pub(super) fn worker(&self) -> &str {
        &self.worker
    }

    /// Follows what this worker is to read; `None` before the first answer.
    pub(super) fn shares(&self) -> watch::Receiver<Option<Share>> {
        self.share.subscribe()
    }

    /// Shows the leader that this worker is there, again and again. Returns when that is of no use any more.
    pub(super) async fn stay(&self) -> Error {
        let mut is_heard = true;
        loop {
            match self.join(false).await {
                Ok(share) => {
                    if !is_heard {
                        info!(epoch = %share.epoch, "the leader answers");
                    }
                    is_heard = true;
                    self.share.send_replace(Some(share));
                    tokio::time::sleep(HEARTBEAT_INTERVAL).await;
                }
                Err(Failure::Never(error)) => return error,
                Err(Failure::Again(why)) => {
                    if std::mem::replace(&mut is_heard, false) {
                        warn!(why, "the leader does not answer, looking for another one");
                    }
                    tokio::time::sleep(jittered(HEARTBEAT_INTERVAL / 4)).await;
                }
            }
        }
    }

    /// Tells the leader that this worker stops. Nothing depends on it.
    pub(super) async fn leave(&self) {
        if let Err(Failure::Again(why)) = self.join(true).await {
            debug!(why, "left without a word");
        }
    }

    async fn join(&self, leaving: bool) -> Result<Share, Failure> {
        let (topology, worker) = (self.group.topology.clone(), self.worker.clone());
        let join = Join { topology, worker, plans: self.plans.clone(), leaving };
        self.ask("workers", encode(&join), HEARTBEAT_PATIENCE).await
    }

    /// Sends a commit until there is an answer: the same bytes each time, to whoever leads then.
    pub(super) async fn commit(&self, proposal: &Proposal) -> Result<Answer, Error> {
        let body = encode(&StagedCommit::new(&self.group.topology, &self.worker, proposal));
        if body.len() > REQUEST_BYTES_MAX {
            let size = body.len();
            return Err(Error::Configuration(format!(
                "a commit is a request of {size} bytes, more than the {REQUEST_BYTES_MAX} that a leader takes: make commit.size smaller, or \
                 partition_by columns with fewer values"
            )));
        }
        let mut pause = BACKOFF.0;
        loop {
            let why = match self.send(body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Never(error)) => return Err(error),
                Err(Failure::Again(why)) => why,
            };
            debug!(commit_id = proposal.commit_id, why, "no answer to a commit, asking again");
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// What is decided about the quarantine of `dataset`, whose plan is `plan`.
    pub(crate) async fn quarantine_head(&self, dataset: &str, plan: &str) -> Result<QuarantineHead, Error> {
        let topology = self.group.topology.clone();
        let ask = AskHead { topology, dataset: dataset.to_owned(), plan: plan.to_owned() };
        self.ask_patiently("redrives/head", encode(&ask)).await
    }

    /// Sends a redrive until there is an answer: the same bytes each time, to whoever leads then.
    pub(crate) async fn redrive(&self, redrive: &Redrive) -> Result<RedriveAnswer, Error> {
        let body = encode(&StagedRedrive::new(&self.group.topology, redrive));
        if body.len() > REQUEST_BYTES_MAX {
            let size = body.len();
            return Err(Error::Configuration(format!(
                "a redrive is a request of {size} bytes, more than the {REQUEST_BYTES_MAX} that a leader takes: its rows go to too many \
                 partitions of the dataset, select fewer of them with --where"
            )));
        }
        self.ask_patiently("redrives", body).await
    }

    /// One question of a redrive, asked again until there is a definite answer or [`REDRIVE_PATIENCE`] is over.
    async fn ask_patiently<T: DeserializeOwned>(&self, what: &str, body: bytes::Bytes) -> Result<T, Error> {
        let begun = Instant::now();
        let mut pause = BACKOFF.0;
        loop {
            let why = match self.ask(what, body.clone(), COMMIT_PATIENCE).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Never(error)) => return Err(error),
                Err(Failure::Again(why)) => why,
            };
            if begun.elapsed() >= REDRIVE_PATIENCE {
                return Err(Error::LeaderSilent(format!(
                    "no leader answers: {why}. Whether the last step of the redrive was decided is not known here; nothing is lost or \
                     doubled, run it again"
                )));
            }
            debug!(what, why, "no answer to a redrive, asking again");
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    async fn send(&self, body: bytes::Bytes) -> Result<Answer, Failure> {
        reach(&failpoint::WORKER_BEFORE_SEND)?;
        let answer = self.ask("commits", body, COMMIT_PATIENCE).await?;
        reach(&failpoint::WORKER_AFTER_SEND)?;
        Ok(answer)
    }

    /// One question to the leader. Whoever does not answer is no leader the next time, unless its claim is still the newest.
    async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        body: bytes::Bytes,
        patience: Duration,
    ) -> Result<T, Failure> {
        let leader = self.find_leader().await?;
        let mut leaders = self.leader.subscribe();
        let answered = tokio::select! {
            answered = tokio::time::timeout(patience, self.post(&leader, what, body)) => answered,
            // The other conversation has found that somebody else leads.
            _ = leaders.wait_for(|known| known.as_ref() != Some(&leader)) => {
                return Err(Failure::Again(format!("{leader} leads no longer")));
            }
        };
        let answered = answered.unwrap_or_else(|_| Err(Failure::Again(format!("{leader} does not answer"))));
        if matches!(answered, Err(Failure::Again(_))) {
            self.leader.send_if_modified(|known| known.as_ref() == Some(&leader) && known.take().is_some());
        }
        answered
    }

    async fn find_leader(&self) -> Result<String, Failure> {
        if let Some(leader) = self.leader.borrow().clone() {
            return Ok(leader);
        }
        let nobody =
            || Failure::Again("nobody has ever led this topology: start it without --worker".to_owned());
        let claim = self.group.newest_claim().await.ok_or_else(nobody)?;
        let silent =
            format!("the leader of epoch {} gives no address: start it with --metrics-addr", claim.epoch);
        let leader = claim.address.ok_or(Failure::Again(silent))?;
        self.leader.send_if_modified(|known| known.replace(leader.clone()).as_ref() != Some(&leader));
        Ok(leader)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        leader: &str,
        what: &str,
        body: bytes::Bytes,
    ) -> Result<T, Failure> {
        let again = |error: reqwest::Error| Failure::Again(crate::chain_of(&error));
        let request = self
            .http
            .post(format!("http://{leader}/v1/{what}"))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(body);
        let mut answer = request.send().await.map_err(again)?;
        let status = answer.status();
        let mut read = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(again)? {
            read.extend_from_slice(&chunk);
            if read.len() > ANSWER_BYTES_MAX {
                return Err(Failure::Again(format!("{leader} answers more than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        if status == StatusCode::OK {
            let odd = |error| Failure::Again(format!("{leader} answers what is no answer: {error}"));
            return serde_json::from_slice(&read).map_err(odd);
        }
        Err(judge(leader, status, &read))
    }
}

/// What an answer other than 200 means.
fn judge(leader: &str, status: StatusCode, body: &[u8]) -> Failure {
    let why = serde_json::from_slice::<Problem>(body).map(|problem| problem.error).unwrap_or_default();
    let why = format!("the leader at {leader} answers {}: {why}", status.as_u16());
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::CONFLICT | StatusCode::PAYLOAD_TOO_LARGE => {
            Failure::Never(Error::Configuration(why))
        }
        StatusCode::NOT_FOUND => Failure::Never(Error::Configuration(format!(
            "the leader at {leader} takes no workers: give it `workers: {{ token: … }}` too and start it again"
        ))),
        StatusCode::UNPROCESSABLE_ENTITY => Failure::Never(Error::Bug(why)),
        _ => Failure::Again(why),
    }
}

/// An armed failpoint is an answer that did not come.
fn reach(point: &'static Failpoint) -> Result<(), Failure> {
    failpoint::hit(point, "").map_err(|error| Failure::Again(error.to_string()))
}

fn encode<T: Serialize>(value: &T) -> bytes::Bytes {
    serde_json::to_vec(value).expect("requests have string keys and no failing serializer").into()
}

/// Between half and all of `pause`, so that workers which were cut off together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}
