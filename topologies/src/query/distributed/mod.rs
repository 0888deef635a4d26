//! Queries on several machines: parts of a plan run on workers, which are this program too (`isobar serve --worker`).
//!
//! ```text
//! SQL ─▶ pin, guard, plan ─▶ stages ─▶ worker 1 ◀─▶ worker 2 ─▶ head stage, limits ─▶ rows
//!        this process        (datafusion-distributed)            this process
//! ```
//!
//! How a plan is divided, and how rows go from one stage to the next, is `datafusion-distributed`'s. What is ours:
//!
//! - **The same answer.** A plan names the files of the pinned versions, so that workers read these and no log. Only nodes that are
//!   known to mean the same elsewhere go to a worker ([`stages`]): what holds another one, a table behind a guard or a
//!   point-in-time join for example, stays in this process, or the whole query does.
//! - **Who may ask.** Workers answer those who show the secret of `serve.workers` ([`channels`]). They read data files
//!   of their own datasets from their own clouds, whatever a plan says ([`tasks`]), within the limits that come with it.
//! - **A worker may be lost** at any time ([`attempts`]): those that do not answer are left out, and a query that fails before any
//!   of its rows was handed on is run again without the worker that was lost, or else in this process. So an error is what
//!   this process says of the query, or it is said that the query can be asked again.

mod attempts;
mod channels;
mod metrics;
mod stages;
mod tasks;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use datafusion_distributed::{ChannelResolver, GetWorkerInfoRequest};
use futures::future::join_all;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tracing::{debug, info};
use url::Url;

pub(super) use self::attempts::Query;
use self::channels::Channels;
use self::metrics::Metrics;
pub(crate) use self::metrics::TaskMetrics;
pub(crate) use self::tasks::worker_of;
use crate::error::Error;
use crate::spec::serve::WorkersSpec;
use crate::spec::{ServeSpec, Text, Topology};

/// How long a worker may take to say that it is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long is believed what they said.
const BELIEVED_FOR: Duration = Duration::from_secs(5);
/// A shorter secret can be guessed.
const SECRET_CHARACTERS_MIN: usize = 32;

/// The workers that queries of this process are divided among.
pub struct Workers {
    urls: Vec<Url>,
    channels: Channels,
    share_bytes: u64,
    /// What a worker says that fits.
    version: String,
    /// Those that answered, and when they were asked.
    answered: Mutex<Option<(Instant, Vec<Url>)>>,
    metrics: Metrics,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("urls", &self.urls).finish_non_exhaustive()
    }
}

impl Workers {
    /// Those of `topology`; `None` if it names none.
    ///
    /// # Errors
    /// [`Error::Configuration`] for a secret that leads nowhere or is none, and for certificates that cannot be read.
    pub fn of(topology: &Topology) -> Result<Option<Arc<Self>>, Error> {
        match &topology.serve.workers {
            Some(spec) if !spec.urls.is_empty() => Self::at(topology, spec.urls.clone()).map(Some),
            _ => Ok(None),
        }
    }

    /// Those at `urls`, with the secret of `topology`.
    ///
    /// # Errors
    /// As [`of`](Self::of), and [`Error::Configuration`] if the topology has no secret for workers.
    pub fn at(topology: &Topology, urls: Vec<Url>) -> Result<Arc<Self>, Error> {
        let spec = spec_of(&topology.serve)?;
        Ok(Arc::new(Self {
            channels: Channels::open(&topology.serve, spec, &urls)?,
            urls,
            share_bytes: spec.share_bytes,
            version: version_of(topology),
            answered: Mutex::default(),
            metrics: Metrics::new(&topology.name),
        }))
    }

    /// The metrics as text.
    pub(crate) fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// Those that answer and fit. `is_anew`: ask them now.
    async fn answering(&self, is_anew: bool) -> Vec<Url> {
        if let Some((asked, urls)) = &*self.answered.lock().unwrap_or_else(PoisonError::into_inner)
            && !is_anew
            && asked.elapsed() < BELIEVED_FOR
        {
            return urls.clone();
        }
        let asked = Instant::now();
        let answers = join_all(self.urls.iter().map(|url| self.answers(url))).await;
        let urls: Vec<Url> = self
            .urls
            .iter()
            .zip(answers)
            .filter(|(_, answers)| *answers)
            .map(|(url, _)| url.clone())
            .collect();
        self.metrics.answering(urls.len());
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let before = answered.replace((asked, urls.clone()));
        if before.is_none_or(|(_, before)| before != urls) {
            let lost: Vec<&str> =
                self.urls.iter().filter(|url| !urls.contains(url)).map(Url::as_str).collect();
            info!(answering = urls.len(), left_out = lost.join(", "), "workers");
        }
        urls
    }

    async fn answers(&self, url: &Url) -> bool {
        let ask = async {
            let mut client = self.channels.get_worker_client_for_url(url).await?;
            client.get_worker_info(GetWorkerInfoRequest {}).await
        };
        match timeout(ANSWER_WITHIN, ask).await {
            Ok(Ok(answer)) if answer.version == self.version => return true,
            Ok(Ok(_)) => debug!(%url, "a worker of another program or of another topology is left out"),
            Ok(Err(error)) => debug!(%url, error = crate::chain_of(&error), "a worker is left out"),
            Err(_) => debug!(%url, "a worker that does not answer in time is left out"),
        }
        false
    }
}

/// What the topology says of workers.
fn spec_of(serve: &ServeSpec) -> Result<&WorkersSpec, Error> {
    serve.workers.as_ref().ok_or_else(|| {
        Error::Configuration(
            "workers need a secret: add `serve: { workers: { secret: \"${env:ISOBAR_WORKERS_SECRET}\" } }` to the specification"
                .to_owned(),
        )
    })
}

/// What `topology` shares with its workers.
///
/// # Errors
/// [`Error::Configuration`] if it has no secret for workers, or one that leads nowhere or is none.
pub(crate) fn secret_of_workers(topology: &Topology) -> Result<String, Error> {
    secret_of(&spec_of(&topology.serve)?.secret)
}

/// The secret that `text` refers to.
fn secret_of(text: &Text) -> Result<String, Error> {
    let secret = text.resolve();
    let secret = secret.map_err(|error| {
        Error::Configuration(format!("serve.workers.secret: {}", crate::chain_of(&error)))
    })?;
    let secret = secret.expose();
    if secret.len() < SECRET_CHARACTERS_MIN || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Configuration(format!(
            "serve.workers.secret leads to none that is safe: it has at least {SECRET_CHARACTERS_MIN} visible ASCII characters, such \
             as `openssl rand -hex 32` prints"
        )));
    }
    Ok(secret.to_owned())
}

/// What workers of this program with `topology` say of themselves: plans are understood by the same program, and their files are
/// found in the same clouds.
fn version_of(topology: &Topology) -> String {
    let mut digest = Sha256::new();
    let clouds = topology.clouds.iter().flat_map(|cloud| [cloud.name.as_str(), cloud.url.as_str()]);
    let datasets = topology.datasets.iter().map(|dataset| dataset.name.as_str());
    for part in [topology.name.as_str()].into_iter().chain(clouds).chain(datasets) {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    format!("isobar {} {}", env!("CARGO_PKG_VERSION"), hex::encode(digest.finalize()))
}
