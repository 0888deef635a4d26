//! Who decides a redrive: the process that leads, if one does and can be asked, else this one.

use std::sync::Arc;
use std::time::Duration;

use futures::future;
use isobar_connectors::upload::{FanOut, UploadHandle};
use tracing::info;

use super::RedriveOptions;
use crate::commit::{
    CommitOutcome, Described, Group, Leader, Redrive, Refusal, TableHead, files_in_majority, quarantine_of,
};
use crate::drill::rival;
use crate::error::Error;
use crate::pipeline::now_ms;
use crate::spec::Topology;
use crate::stage::DatasetPlan;
use crate::workers::wire::RedriveAnswer;
use crate::workers::{self, Client};
use crate::{standby, start};

/// How long a redrive that led itself waits for clouds that answer to publish everything.
const FINISH_PATIENCE: Duration = Duration::from_secs(60);
/// How long clouds beyond the majority are waited for before a leader is asked: what they have by then, it need not copy.
const LAST_CLOUDS_PATIENCE: Duration = Duration::from_millis(500);

/// See the [module](self).
pub(super) enum Decider {
    /// Another process leads, and is asked.
    Remote { client: Box<Client>, clouds: usize },
    /// This process leads for the moment. `None` while an epoch is renewed, and after that has failed.
    Own { leader: Option<Box<Leader>>, group: Box<Group> },
}

/// What became of a round.
pub(super) enum Decided {
    /// Decided.
    Committed { sequence: u64 },
    /// Nothing was proposed, for this reason: plan again.
    Not(String),
}

impl Decider {
    /// Asks the process that leads, or leads itself if none does. `options.take_over` leads in any case.
    ///
    /// # Errors
    /// [`Error::Configuration`] if nothing was committed yet, or a process leads that cannot be asked.
    pub(super) async fn find(
        topology: &Topology,
        group: &Group,
        uploads: &Arc<FanOut>,
        plan: &DatasetPlan,
        options: &RedriveOptions,
    ) -> Result<Self, Error> {
        if group.newest_claim().await.is_none() {
            return Err(never_led(group).await);
        }
        if !options.take_over {
            if let Some(address) = leader_of(topology, group).await? {
                return Self::ask(topology, group, &address, plan);
            }
            refuse_rival(topology, group).await?;
            // One that was only starting answers by now.
            if let Some(address) = leader_of(topology, group).await? {
                return Self::ask(topology, group, &address, plan);
            }
        }
        info!("nobody leads, leading for the redrive");
        let leader = start::lead(group, uploads, Duration::ZERO).await?;
        Ok(Self::Own { leader: Some(Box::new(leader)), group: Box::new(group.clone()) })
    }

    fn ask(topology: &Topology, group: &Group, address: &str, plan: &DatasetPlan) -> Result<Self, Error> {
        let Some(token) = workers::token::resolve(topology)? else {
            return Err(Error::Configuration(format!(
                "the process at {address} leads {}, and takes redrives only with a token: add `workers: {{ token: … }}` to the \
                 specification and start it again, or stop it, or let the redrive take over with --take-over: that process ends \
                 by itself then, and must be started again",
                topology.name
            )));
        };
        let plans = [(plan.name.clone(), plan.transform.fingerprint().to_owned())].into();
        let client = Client::new(&token, group.clone(), plans)?;
        info!(address, "the leader is asked to decide");
        Ok(Self::Remote { client: Box::new(client), clouds: group.clouds.len() })
    }

    /// What is decided about the quarantine.
    ///
    /// # Errors
    /// [`Error::Configuration`] if nothing was committed to it, or the leader makes its rows by another plan.
    pub(super) async fn head(&mut self, plan: &DatasetPlan) -> Result<TableHead, Error> {
        match self {
            Self::Remote { client, .. } => {
                let head = client.quarantine_head(&plan.name, plan.transform.fingerprint()).await?;
                Ok(head.head)
            }
            Self::Own { leader, .. } => {
                let table = quarantine_of(&plan.name);
                let head = leader.as_ref().and_then(|leader| leader.chain().tables.get(&table).cloned());
                head.ok_or_else(|| Error::Configuration(format!("nothing was committed to {table} yet")))
            }
        }
    }

    /// The last entry that changed the schema of the dataset, `None` where none did.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub(super) async fn described(&mut self, plan: &DatasetPlan) -> Result<Option<Described>, Error> {
        match self {
            Self::Remote { client, .. } => {
                let head = client.quarantine_head(&plan.name, plan.transform.fingerprint()).await?;
                Ok(head.described)
            }
            Self::Own { leader, .. } => {
                let table = leader.as_ref().and_then(|leader| leader.chain().tables.get(&plan.name));
                Ok(table.and_then(|table| table.described.clone()))
            }
        }
    }

    /// Has `redrive` decided, whose files `uploads` brings.
    ///
    /// # Errors
    /// [`Error::Bug`] for a redrive that contradicts itself; else what made the outcome unknown.
    pub(super) async fn decide(
        &mut self,
        redrive: &Redrive,
        uploads: Vec<(String, Vec<UploadHandle>)>,
    ) -> Result<Decided, Error> {
        match self {
            Self::Remote { client, clouds } => {
                if let Err(why) = files_in_majority(&uploads, *clouds).await {
                    return Ok(Decided::Not(why));
                }
                let others = future::join_all(
                    uploads.iter().flat_map(|(_, handles)| handles).map(UploadHandle::settled),
                );
                // A slow cloud is filled by the leader.
                let _ = tokio::time::timeout(LAST_CLOUDS_PATIENCE, others).await;
                match client.redrive(redrive).await? {
                    RedriveAnswer::Committed { sequence } => Ok(Decided::Committed { sequence }),
                    RedriveAnswer::Refused { refusal } => refused(refusal),
                    RedriveAnswer::NotStored { reason } => Ok(Decided::Not(reason)),
                }
            }
            Self::Own { leader, group } => {
                let mut leading = leader.take().ok_or_else(|| Error::Bug("leads no longer".to_owned()))?;
                if leading.is_full() || leading.renewal_due() {
                    leading = Box::new(leading.renew(group).await?);
                }
                let outcome = leading.redrive(redrive, uploads, now_ms()).await;
                *leader = Some(leading);
                match outcome? {
                    CommitOutcome::Committed { sequence } => Ok(Decided::Committed { sequence }),
                    CommitOutcome::Stale(refusal) => refused(refusal),
                    CommitOutcome::NotStored(why) => Ok(Decided::Not(why)),
                }
            }
        }
    }

    /// Waits until the clouds that answer have everything, if this process led.
    pub(super) async fn finish(self) {
        if let Self::Own { leader: Some(leader), .. } = self {
            leader.finish(FINISH_PATIENCE).await;
        }
    }
}

fn refused(refusal: Refusal) -> Result<Decided, Error> {
    match refusal {
        Refusal::DoesNotAddUp { .. } => Err(Error::Bug(refusal.to_string())),
        Refusal::Overtaken { .. }
        | Refusal::Stale { .. }
        | Refusal::Described { .. }
        | Refusal::Appended { .. } => Ok(Decided::Not(refusal.to_string())),
    }
}

/// Where the process answers that leads by its own word, if one does.
async fn leader_of(topology: &Topology, group: &Group) -> Result<Option<String>, Error> {
    let address = group.newest_claim().await.and_then(|claim| claim.address);
    let Some(address) = address else { return Ok(None) };
    Ok(standby::leads(topology, &address).await?.then_some(address))
}

/// Why no cloud knows of anybody who led.
async fn never_led(group: &Group) -> Error {
    let looks = group.clouds.iter().map(|cloud| async move {
        let looked = group.read_identity(cloud).await;
        looked.err().map(|error| format!("{}: {}", cloud.name, crate::chain_of(&error)))
    });
    let reasons: Vec<String> = future::join_all(looks).await.into_iter().flatten().collect();
    if reasons.len() == group.clouds.len() {
        return Error::no_majority("look for the leader", 1, reasons.len(), reasons);
    }
    Error::Configuration(format!("nothing was committed to topology {} yet", group.topology))
}

/// A leader that cannot be asked shows itself by what it writes.
async fn refuse_rival(topology: &Topology, group: &Group) -> Result<(), Error> {
    let patience = rival::patience(topology.commit_interval);
    info!(patience_ms = patience.as_millis(), "nobody answers, looking whether a process leads all the same");
    match rival::activity(&group.clouds, &topology.name, patience).await {
        None => Ok(()),
        Some(what) => Err(Error::Configuration(format!(
            "another process leads {}, and cannot be asked: {what}. Start it with --metrics-addr and `workers: {{ token: … }}` in its \
             specification, or stop it, or let the redrive take over with --take-over: that process ends by itself then, and \
             must be started again",
            topology.name
        ))),
    }
}
