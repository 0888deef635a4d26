//! Running as a worker: the pipeline without a leader of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::client::Client;
use super::committer::{Committer, Remote};
use super::wire::Share;
use crate::error::Error;
use crate::parts::Parts;
use crate::pipeline::{Pipeline, RunOptions, Summary};
use crate::spec::{Secret, Topology};
use crate::stage::DatasetPlan;
use crate::topics::Topics;

/// Reads and transforms for whoever leads `topology`, until `shutdown` or until an error stops it. Waits for a leader as
/// long as there is none.
///
/// # Errors
/// [`Error::Configuration`] if the leader does not take this worker: another token, another plan, another Kafka cluster.
/// Otherwise as [`pipeline::run`](crate::pipeline::run).
pub async fn run(
    topology: &Topology,
    options: RunOptions,
    token: &Secret,
    shutdown: CancellationToken,
) -> Result<Summary, Error> {
    if options.until_caught_up {
        let what = "a worker reads what the leader gives it and cannot tell when all is caught up: run the leader alone with \
                    --until-caught-up, or the worker without it";
        return Err(Error::Configuration(what.to_owned()));
    }
    let mut pipeline = tokio::select! {
        started = start(topology, options, token) => started?,
        () = shutdown.cancelled() => return Ok(Summary::nothing_done()),
    };
    let result = pipeline.drive(&shutdown).await;
    pipeline.stop(result).await
}

/// Brings a worker up to the point where chunks flow. Tables and first positions are the leader's to declare.
async fn start<'a>(
    topology: &'a Topology,
    options: RunOptions,
    token: &Secret,
) -> Result<Pipeline<'a>, Error> {
    let parts = Parts::prepare(topology, options).await?;
    let topics = Topics::resolve(topology, &parts.cluster)?;
    let fingerprint = |plan: &DatasetPlan| (plan.name.clone(), plan.transform.fingerprint().to_owned());
    let fingerprints: BTreeMap<String, String> = parts.plans.iter().map(fingerprint).collect();
    let client = Arc::new(Client::new(token, parts.group.clone(), fingerprints)?);
    let (mut guards, topic_watch) = parts.guards()?;
    let staying = client.clone();
    guards.spawn(async move { staying.stay().await });
    let share = first_share(&client, &mut guards).await?;
    info!(worker = client.worker(), epoch = %share.epoch, generation = share.generation, "working");
    let committer = Committer::Remote(Box::new(Remote::new(client, parts.group.clouds.len(), share)));
    // What is not seen yet is read as soon as it is.
    let reads = committer.reads(&topics)?.partitions;
    let reading = parts.reading(&committer, topics, reads)?;
    let pipeline = parts.consume(committer, reading, guards, topic_watch)?;
    pipeline.options.ready.store(true, Ordering::Relaxed);
    Ok(pipeline)
}

/// The first answer of a leader.
async fn first_share(client: &Client, guards: &mut JoinSet<Error>) -> Result<Share, Error> {
    let mut shares = client.shares();
    loop {
        if let Some(share) = shares.borrow_and_update().clone() {
            return Ok(share);
        }
        tokio::select! {
            _ = shares.changed() => {}
            Some(ended) = guards.join_next() => return Err(ended.unwrap_or_else(|died| Error::Bug(died.to_string()))),
        }
    }
}
