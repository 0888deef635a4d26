//! `isobar doctor`: connects to everything that a topology names, and says what is well, what is not, and what to do.
//!
//! ```text
//! clouds ───┐
//! decided ──┼─▶ facts (plain data) ─▶ judge (pure) ─▶ Report
//! Kafka ────┤
//! registry ─┘
//! ```
//!
//! [`look`](clouds::look) and its siblings gather facts and judge nothing; everything in [`judge`] is a function of facts.
//! All looks run at once, each with a deadline, and what is wrong with one thing is a fact like any other: nothing that
//! hangs or fails hides the rest.
//!
//! Guarantee: nothing of the topology is written. What is written are objects of nobody's interest, under keys that
//! nobody else uses: the probe of conditional writes, as at every start, below `control/<topology>/probe`, and two files in
//! the folder of a dataset, which are removed again. A running topology does not notice.

mod clouds;
mod judge;
mod kafka;
mod registry;
mod report;
mod settings;
mod together;
mod trouble;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future;
use isobar_connectors::clouds::{Cloud, Fault, FaultSwitch};
use object_store::memory::InMemory;

pub use report::{About, Finding, REPORT_FORMAT, Report, Status};

use self::clouds::CloudFacts;
use self::kafka::KafkaFacts;
use self::registry::RegistryFacts;
use self::together::TogetherFacts;
use self::trouble::{Look, Trouble};
use crate::commit::Group;
use crate::pipeline::now_ms;
use crate::prove::ProveProgress;
use crate::spec::{Secret, Topology};
use crate::start::{compile, open_cloud};

/// Texts that are shorter are in many words.
const SECRET_BYTES_MIN: usize = 4;

/// What to look for, and how patiently.
#[derive(Debug, Clone)]
pub struct DoctorOptions {
    /// How long the topology may be down without losing records.
    pub outage: Duration,
    /// How long each look may take.
    pub patience: Duration,
    /// Opened clouds to use instead of those of the specification: for tests.
    pub clouds: Option<Vec<Cloud>>,
}

impl Default for DoctorOptions {
    fn default() -> Self {
        Self { outage: Duration::from_secs(24 * 3600), patience: Duration::from_secs(30), clouds: None }
    }
}

/// Everything that was found.
#[derive(Debug)]
struct Facts {
    clouds: Vec<CloudFacts>,
    kafka: KafkaFacts,
    registry: Option<RegistryFacts>,
    together: TogetherFacts,
    /// By this machine, when all had been looked at.
    now_ms: i64,
}

/// Looks at everything that `topology` names, and says how it is. `progress` hears what is still being waited for.
pub async fn examine(topology: &Topology, options: &DoctorOptions, progress: &dyn ProveProgress) -> Report {
    let facts = look(topology, options, progress).await;
    let names: Vec<String> = topology.clouds.iter().map(|cloud| cloud.name.clone()).collect();
    let mut findings = judge::judge(topology, &facts, options.outage);
    let secrets = secrets(topology);
    findings.iter_mut().for_each(|finding| redact(&mut finding.found, &secrets));
    Report::new(&topology.name, &names, findings)
}

/// Everything that the specification refers to and does not hold.
fn secrets(topology: &Topology) -> Vec<Secret> {
    let clouds = topology.clouds.iter().flat_map(|cloud| cloud.options.values());
    let registry = topology.registry.iter().flat_map(|registry| registry.options.values());
    let all = clouds.chain(registry).chain(topology.kafka.options.values()).chain(&topology.worker_token);
    all.filter(|text| text.has_reference()).filter_map(|text| text.resolve().ok()).collect()
}

/// Takes `secrets` out of `text`: no client tells them, but whoever is asked may repeat what it was sent.
fn redact(text: &mut String, secrets: &[Secret]) {
    for secret in secrets.iter().filter(|secret| secret.expose().len() >= SECRET_BYTES_MIN) {
        if text.contains(secret.expose()) {
            *text = text.replace(secret.expose(), "***");
        }
    }
}

async fn look(topology: &Topology, options: &DoctorOptions, progress: &dyn ProveProgress) -> Facts {
    let patience = options.patience;
    let opened = open(topology, options);
    let group = Group::new(&topology.name, opened.iter().map(|(cloud, _)| cloud.clone()).collect());
    let waiting = Waiting { progress, names: Mutex::default() };
    // A specification has a dataset at least.
    let dataset = topology.datasets.first().map(|dataset| dataset.name.as_str()).unwrap_or_default();
    let clouds = opened.iter().map(|(cloud, opened)| {
        waiting.for_end_of(&cloud.name, async {
            match opened {
                Ok(()) => clouds::look(cloud, &group, dataset, patience).await,
                Err(why) => CloudFacts::unopened(&cloud.name, &cloud.url, why.clone()),
            }
        })
    });
    let brokers_and_registry = async {
        let kafka = waiting.for_end_of("Kafka", kafka::look(topology, options.outage, patience)).await;
        let topics: Vec<String> = kafka.topics.iter().map(|topic| topic.name.clone()).collect();
        let registry = waiting.for_end_of("the registry", registry::look(topology, &topics, patience)).await;
        (kafka, registry)
    };
    let plans = compile(topology).map_err(Trouble::from);
    let decided = waiting.for_end_of("what is decided", together::look(&group, plans.as_deref(), patience));
    let (clouds, (kafka, registry), mut together) =
        future::join3(future::join_all(clouds), brokers_and_registry, decided).await;
    let is_first_start = together.chain().is_none() && clouds.iter().all(CloudFacts::is_blank);
    together.hold_against(topology, plans.as_deref(), &kafka, is_first_start, patience).await;
    Facts { clouds, kafka, registry, together, now_ms: now_ms() }
}

/// The clouds, and which could not be opened: in the place of those stands one that answers nothing.
fn open(topology: &Topology, options: &DoctorOptions) -> Vec<(Cloud, Look<()>)> {
    // A look takes several requests, and one that hangs must not take the time of all. With the default patience this is
    // the deadline that the clients of `control/` have anyway.
    let deadline = options.patience / 6;
    if let Some(clouds) = &options.clouds {
        return clouds.iter().map(|cloud| (cloud.clone().with_deadline(deadline), Ok(()))).collect();
    }
    let opened = topology.clouds.iter().map(|spec| match open_cloud(spec) {
        Ok(cloud) => (cloud.with_deadline(deadline), Ok(())),
        Err(error) => {
            let (store, switch) = (Arc::new(InMemory::new()), FaultSwitch::default());
            switch.set(Fault::RefuseAll);
            let cloud = Cloud::new(&spec.name, store.clone(), store).with_faults(&switch);
            (cloud, Err(error.into()))
        }
    });
    opened.collect()
}

/// Tells what is still being waited for.
struct Waiting<'a> {
    progress: &'a dyn ProveProgress,
    names: Mutex<BTreeSet<String>>,
}

impl Waiting<'_> {
    async fn for_end_of<T>(&self, name: &str, look: impl Future<Output = T>) -> T {
        self.say(|names| names.insert(name.to_owned()));
        let found = look.await;
        self.say(|names| names.remove(name));
        found
    }

    fn say(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        // Names are added and removed as a whole, so it is sound even if a holder of the lock has panicked.
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut names);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.progress.phase(&format!("asking {}", names.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_somebody_repeats_is_not_shown() {
        let secrets = [Secret::new("hunter2"), Secret::new("a")];
        let mut text = "401: Authorization: Basic hunter2 was not accepted".to_owned();
        redact(&mut text, &secrets);
        assert_eq!(text, "401: Authorization: Basic *** was not accepted");
    }
}
