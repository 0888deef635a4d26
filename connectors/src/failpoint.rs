//! Failpoints: named steps at which this process can be made to die, to freeze or to fail, for tests of what survives.
//!
//! ```text
//! ISOBAR_FAILPOINT=publish.before-put@azure=kill         SIGKILL to itself, the first time azure's lane gets there
//! ISOBAR_FAILPOINT=decide.after-put:3=pause              SIGSTOP to itself, the third time, in whatever cloud
//! ISOBAR_FAILPOINT=upload.before-put@gcp:1+=error,fill.after-file@gcp:2=kill
//! ```
//!
//! `name[@cloud][:hits]=action`, several separated by commas. `hits` is a number (default 1), `3+` for the third and
//! all later ones, or `2-5`. With `error` the step fails as if the cloud had not answered: at `…before-…` nothing was
//! done, at `…after-…` only the answer is lost. `isobar failpoints` lists the names: [`ALL`] is the only place where
//! there are any, and a name that is not in it is refused.
//!
//! They stand around what is written, because a process that dies while it reads is the same as one that died after
//! its last write.
//!
//! **Why they are always compiled in.** What is tested is then the program that is shipped, and not a second build.
//! It is safe because nothing but [`arm_from_environment`] arms them, which the `isobar` command calls once at its
//! start; only the process's own environment is read, nothing that comes over a network or lies in a cloud or a
//! specification; the only process acted upon is this one; and whoever sets the environment of a process can end it
//! anyway. No action can make the pipeline say or store anything: to die, to freeze and to miss an answer is what it
//! is built to survive. Armed failpoints are logged as a warning. Unarmed, a [`hit`] is one relaxed atomic load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::Error;
use crate::nearest::nearest;

/// The environment variable.
pub const VARIABLE: &str = "ISOBAR_FAILPOINT";

/// A step that can be made to fail.
#[derive(Debug, PartialEq, Eq)]
pub struct Failpoint {
    /// Its name: the part of the work, and the step in it.
    pub name: &'static str,
    /// Where it happens.
    pub scope: Scope,
    /// What has happened when it is reached, and what has not.
    pub about: &'static str,
}

/// Whether a step belongs to one cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// It happens once for the whole process.
    Process,
    /// It happens in every cloud by itself.
    Cloud,
}

macro_rules! failpoints {
    ($($constant:ident: $name:literal $scope:ident $about:literal,)*) => {
        $(
            #[doc = $about]
            pub static $constant: Failpoint = Failpoint { name: $name, scope: Scope::$scope, about: $about };
        )*

        /// Every failpoint there is, in the order of a batch's life; repair and readmission after it.
        pub static ALL: &[&Failpoint] = &[$(&$constant),*];
    };
}

failpoints! {
    ELECT_AFTER_PROBE: "elect.after-probe" Process "enough clouds answer; nothing of this run is written but probes",
    ELECT_BEFORE_REGISTER: "elect.before-register" Cloud "first start: the cloud has no identity yet",
    ELECT_AFTER_REGISTER: "elect.after-register" Cloud "first start: the cloud has its identity",
    ELECT_BEFORE_CLAIM: "elect.before-claim" Cloud "the epoch is not claimed in the cloud",
    ELECT_AFTER_CLAIM: "elect.after-claim" Cloud "the epoch is claimed in the cloud",
    ELECT_BEFORE_SEAL: "elect.before-seal" Cloud "an older epoch's log is still open in the cloud",
    ELECT_AFTER_SEAL: "elect.after-seal" Cloud "an older epoch's log is sealed in the cloud",
    ELECT_BEFORE_HEADER: "elect.before-header" Process "the epoch is won and older logs are read; it has no header",
    ELECT_AFTER_HEADER: "elect.after-header" Process "the header is decided; nothing else is proposed",
    CONSUME_BEFORE_ABSORB: "consume.before-absorb" Process "records were read, and are in no batch",
    CONSUME_AFTER_ABSORB: "consume.after-absorb" Process "records are in the open batch",
    CONSUME_BEFORE_CLOSE: "consume.before-close" Process "a batch is due; its files are not ended",
    UPLOAD_BEFORE_PUT: "upload.before-put" Cloud "a small file is complete here and not in the cloud",
    UPLOAD_AFTER_PUT: "upload.after-put" Cloud "a small file is in the cloud, and nobody knows",
    UPLOAD_BEFORE_PART: "upload.before-part" Cloud "a large file's upload is begun; the part is not in the cloud",
    UPLOAD_AFTER_PART: "upload.after-part" Cloud "a part of a large file is in the cloud",
    UPLOAD_BEFORE_COMPLETE: "upload.before-complete" Cloud "all parts are in the cloud, and the file is not visible",
    UPLOAD_AFTER_COMPLETE: "upload.after-complete" Cloud "a large file is in the cloud, and nobody knows",
    WORKER_BEFORE_SEND: "worker.before-send" Process "a worker's files are in a majority; the leader does not know of them",
    WORKER_AFTER_SEND: "worker.after-send" Process "the leader has answered a worker's commit, and the worker has not read it",
    GROUP_AFTER_RECEIVE: "group.after-receive" Process "the leader has taken up commits of workers; nothing is proposed",
    DECIDE_BEFORE_ACCEPT: "decide.before-accept" Process "the files are in a majority; nothing is proposed",
    DECIDE_BEFORE_PUT: "decide.before-put" Cloud "the cloud has a record's files and not the record",
    DECIDE_AFTER_PUT: "decide.after-put" Cloud "the record is in the cloud, and is not counted",
    DECIDE_AFTER_MAJORITY: "decide.after-majority" Process "the record is decided; the pipeline has not been told",
    GROUP_BEFORE_ANSWER: "group.before-answer" Process "commits of workers are decided; no worker has been told",
    CONSUME_BEFORE_ACKNOWLEDGE: "consume.before-acknowledge" Process "decided; nothing is counted, no lag tool is told",
    CONSUME_AFTER_ACKNOWLEDGE: "consume.after-acknowledge" Process "decided, counted, and told to lag tools",
    PUBLISH_BEFORE_PUT: "publish.before-put" Cloud "a version is decided and not in the cloud's _delta_log",
    PUBLISH_AFTER_PUT: "publish.after-put" Cloud "a version is in the cloud's _delta_log, and is not counted",
    MAINTAIN_BEFORE_DECIDE: "maintain.before-decide" Process "compacted files are in a majority; nothing is proposed",
    MAINTAIN_AFTER_DECIDE: "maintain.after-decide" Process "maintenance is decided; nothing is counted or deleted",
    MAINTAIN_BEFORE_DELETE: "maintain.before-delete" Cloud "a file that a VACUUM lets go is still in the cloud",
    MAINTAIN_AFTER_DELETE: "maintain.after-delete" Cloud "a file that a VACUUM lets go is no longer in the cloud",
    REDRIVE_BEFORE_DECIDE: "redrive.before-decide" Process "files of redriven rows are in a majority; nothing is proposed",
    REDRIVE_AFTER_DECIDE: "redrive.after-decide" Process "a redrive is decided; whoever asked for it has not been told",
    CHECKPOINT_AFTER_BUILD: "checkpoint.after-build" Process "a checkpoint is built here, and is in no cloud",
    CHECKPOINT_BEFORE_DECIDE: "checkpoint.before-decide" Process "a checkpoint is in a majority; nothing is proposed",
    CHECKPOINT_AFTER_DECIDE: "checkpoint.after-decide" Process "a checkpoint is decided; nothing is counted",
    CHECKPOINT_BEFORE_HINT: "checkpoint.before-hint" Cloud "a decided checkpoint is in the cloud; _last_checkpoint does not name it",
    CHECKPOINT_AFTER_HINT: "checkpoint.after-hint" Cloud "_last_checkpoint names the checkpoint, and nobody knows",
    CHECKPOINT_BEFORE_CLEAN_UP: "checkpoint.before-clean-up" Cloud "a superseded checkpoint is still in the cloud",
    CHECKPOINT_AFTER_CLEAN_UP: "checkpoint.after-clean-up" Cloud "a superseded checkpoint is no longer in the cloud",
    FILL_BEFORE_FILE: "fill.before-file" Cloud "the cloud misses a file and it is about to be copied there",
    FILL_AFTER_FILE: "fill.after-file" Cloud "a file the cloud missed is there; what names it is not",
    FILL_BEFORE_VERSION: "fill.before-version" Cloud "a version that the cloud missed is read elsewhere and not stored",
    FILL_AFTER_VERSION: "fill.after-version" Cloud "a version that the cloud missed is in its _delta_log",
    REPAIR_BEFORE_FILE: "repair.before-file" Cloud "a data file is missing or rotten in the cloud, and is elsewhere",
    REPAIR_AFTER_FILE: "repair.after-file" Cloud "a data file's bytes are in the cloud again, and are not read back",
    REPAIR_BEFORE_SET_ASIDE: "repair.before-set-aside" Cloud "foreign bytes lie at a version of the cloud, and nowhere else",
    REPAIR_AFTER_SET_ASIDE: "repair.after-set-aside" Cloud "foreign bytes are set aside, and still lie at the version",
    REPAIR_BEFORE_ENTRY: "repair.before-entry" Cloud "a version's files are in the cloud; its decided bytes are not",
    REPAIR_AFTER_ENTRY: "repair.after-entry" Cloud "a version's decided bytes are in the cloud, and are not read back",
    REPAIR_BEFORE_TAKE_AWAY: "repair.before-take-away" Cloud "a version that nobody decided is set aside, and still there",
    REPAIR_AFTER_TAKE_AWAY: "repair.after-take-away" Cloud "a version that nobody decided is gone; whether it is decided by now is not known",
    REPAIR_BEFORE_CHECKPOINT: "repair.before-checkpoint" Cloud "the newest checkpoint is missing or rotten in the cloud, and is elsewhere",
    REPAIR_AFTER_CHECKPOINT: "repair.after-checkpoint" Cloud "the newest checkpoint is in the cloud again, and is not read back",
    REPAIR_BEFORE_HINT: "repair.before-hint" Cloud "the newest checkpoint is in the cloud; _last_checkpoint does not name it",
    REPAIR_AFTER_HINT: "repair.after-hint" Cloud "_last_checkpoint names the newest checkpoint, and is not read back",
    READMIT_AFTER_FILL: "readmit.after-fill" Cloud "the lost cloud's tables are rebuilt; the others know of no readmission",
    READMIT_BEFORE_HEADER: "readmit.before-header" Cloud "an epoch is won without the lost cloud; the header is not in this other cloud",
    READMIT_AFTER_HEADER: "readmit.after-header" Cloud "the header that readmits the lost cloud is in this other cloud, and is not counted",
    READMIT_AFTER_DECIDE: "readmit.after-decide" Cloud "the others have decided that the lost cloud counts; it does not know",
    READMIT_BEFORE_BODY: "readmit.before-body" Cloud "a body of the header's tail is not offered to the lost cloud's _delta_log",
    READMIT_AFTER_BODY: "readmit.after-body" Cloud "a body of the header's tail is in the lost cloud's _delta_log",
    READMIT_BEFORE_RECORD: "readmit.before-record" Cloud "the lost cloud has everything that the header names, and not the header",
    READMIT_AFTER_RECORD: "readmit.after-record" Cloud "the lost cloud has the header; it has no key",
    READMIT_BEFORE_KEY: "readmit.before-key" Cloud "the lost cloud misses the key of a generation",
    READMIT_AFTER_KEY: "readmit.after-key" Cloud "the lost cloud has the key of a generation; it has no identity",
    READMIT_BEFORE_IDENTITY: "readmit.before-identity" Cloud "the lost cloud has all its keys; without identity it does not count",
    READMIT_AFTER_IDENTITY: "readmit.after-identity" Cloud "the lost cloud counts, and nobody knows",
}

/// What happens at an armed failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// SIGKILL to this process.
    Kill,
    /// SIGSTOP to this process; somebody sends SIGCONT.
    Pause,
    /// The step fails.
    Error,
}

/// One failpoint, armed.
#[derive(Debug)]
struct Order {
    point: &'static Failpoint,
    cloud: Option<String>,
    first: u64,
    last: u64,
    action: Action,
    seen: AtomicU64,
}

impl Order {
    /// What is to be done now that `point` is reached in `cloud`.
    fn due(&self, point: &Failpoint, cloud: &str) -> Option<Action> {
        if self.point != point || self.cloud.as_ref().is_some_and(|only| only != cloud) {
            return None;
        }
        let hits = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        // Between the hit that kills and death other threads may get here, and none may go on.
        let last = if self.action == Action::Kill { u64::MAX } else { self.last };
        (self.first..=last).contains(&hits).then_some(self.action)
    }
}

static ARMED: AtomicBool = AtomicBool::new(false);
static ORDERS: OnceLock<Vec<Order>> = OnceLock::new();

/// Arms what the environment variable [`VARIABLE`] names; nothing if it is not set or empty.
///
/// # Errors
/// What is wrong with its value, for the person who set it.
pub fn arm_from_environment() -> Result<(), String> {
    let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else { return Ok(()) };
    let value = value.to_str().ok_or_else(|| format!("{VARIABLE} is not UTF-8"))?;
    let orders = parse(value).map_err(|what| format!("{VARIABLE}: {what}"))?;
    tracing::warn!(failpoints = value, "failpoints are armed: this process is going to fail on purpose");
    if ORDERS.set(orders).is_ok() {
        ARMED.store(true, Ordering::Release);
    }
    Ok(())
}

/// The step `point` is reached, in `cloud` or, for a step of the whole process, in none (`""`).
///
/// # Errors
/// [`Error::Store`] if it is armed to fail; the caller treats it like an answer that did not come.
#[inline]
pub fn hit(point: &'static Failpoint, cloud: &str) -> Result<(), Error> {
    if ARMED.load(Ordering::Relaxed) { act(point, cloud) } else { Ok(()) }
}

#[cold]
fn act(point: &'static Failpoint, cloud: &str) -> Result<(), Error> {
    let orders = ORDERS.get().into_iter().flatten();
    for action in orders.filter_map(|order| order.due(point, cloud)) {
        tracing::warn!(failpoint = point.name, cloud, ?action, "failpoint reached");
        match action {
            Action::Kill => raise(signal_hook::consts::SIGKILL),
            Action::Pause => raise(signal_hook::consts::SIGSTOP),
            Action::Error => return Err(injected(point, cloud)),
        }
    }
    Ok(())
}

/// Sends a signal to this process, and to no other.
fn raise(signal: i32) {
    if let Err(error) = signal_hook::low_level::raise(signal) {
        tracing::error!(%error, signal, "this process cannot send itself a signal");
    }
}

fn injected(point: &Failpoint, cloud: &str) -> Error {
    let source =
        object_store::Error::Generic { store: "failpoint", source: "no answer (injected fault)".into() };
    Error::Store { cloud: cloud.to_owned(), action: format!("failpoint {}", point.name), source }
}

fn parse(value: &str) -> Result<Vec<Order>, String> {
    value.split(',').map(|order| parse_order(order.trim())).collect()
}

fn parse_order(text: &str) -> Result<Order, String> {
    let shape = || format!("`{text}` is not of the form name[@cloud][:hits]=kill|pause|error");
    let (place, action) = text.split_once('=').ok_or_else(shape)?;
    let action = match action {
        "kill" => Action::Kill,
        "pause" => Action::Pause,
        "error" => Action::Error,
        _ => return Err(shape()),
    };
    let (place, hits) = place.split_once(':').unwrap_or((place, "1"));
    let (first, last) = parse_hits(hits).ok_or_else(shape)?;
    let (name, cloud) = match place.split_once('@') {
        Some((name, cloud)) => (name, Some(cloud.to_owned())),
        None => (place, None),
    };
    let point = ALL.iter().find(|point| point.name == name).ok_or_else(|| unknown(name))?;
    if cloud.is_some() && point.scope == Scope::Process {
        return Err(format!("{name} belongs to no cloud: leave out the `@`"));
    }
    Ok(Order { point, cloud, first, last, action, seen: AtomicU64::new(0) })
}

/// `3`, `3+` or `3-5`, counted from 1.
fn parse_hits(hits: &str) -> Option<(u64, u64)> {
    let (first, last) = match (hits.strip_suffix('+'), hits.split_once('-')) {
        (Some(first), _) => (first.parse().ok()?, u64::MAX),
        (None, Some((first, last))) => (first.parse().ok()?, last.parse().ok()?),
        (None, None) => (hits.parse().ok()?, hits.parse().ok()?),
    };
    (1 <= first && first <= last).then_some((first, last))
}

fn unknown(name: &str) -> String {
    let names = ALL.iter().map(|point| point.name);
    match nearest(name, names).first() {
        Some(near) => format!("there is no failpoint {name}: did you mean {near}?"),
        None => format!("there is no failpoint {name}; `isobar failpoints` lists them"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn actions(order: &str, point: &'static Failpoint, clouds: &[&str]) -> Vec<Option<Action>> {
        let order = parse_order(order).unwrap();
        clouds.iter().map(|cloud| order.due(point, cloud)).collect()
    }

    #[test]
    fn an_order_counts_its_own_cloud_and_its_own_point_only() {
        let due = actions(
            "publish.before-put@azure:2=kill",
            &PUBLISH_BEFORE_PUT,
            &["azure", "aws", "aws", "azure", "azure"],
        );
        assert_eq!(due, [None, None, None, Some(Action::Kill), Some(Action::Kill)]);
        assert_eq!(actions("publish.before-put=kill", &PUBLISH_AFTER_PUT, &["aws"]), [None]);
        let due = actions("publish.before-put=pause", &PUBLISH_BEFORE_PUT, &["gcp", "aws"]);
        assert_eq!(due, [Some(Action::Pause), None]);
        let due = actions("publish.before-put:2+=error", &PUBLISH_BEFORE_PUT, &["a", "b", "c"]);
        assert_eq!(due, [None, Some(Action::Error), Some(Action::Error)]);
        let due = actions("publish.before-put:2-3=error", &PUBLISH_BEFORE_PUT, &["a", "b", "c", "d"]);
        assert_eq!(due, [None, Some(Action::Error), Some(Action::Error), None]);
    }

    #[test]
    fn several_orders_are_read_and_mistakes_are_named() {
        assert_eq!(parse("upload.before-put@gcp:1+=error, fill.after-file@gcp:2=kill").unwrap().len(), 2);
        let mistakes = [
            ("publish.before-putt=kill", "did you mean publish.before-put?"),
            ("publish.before-put", "is not of the form"),
            ("publish.before-put=explode", "is not of the form"),
            ("publish.before-put:0=kill", "is not of the form"),
            ("publish.before-put:3-2=kill", "is not of the form"),
            ("decide.after-majority@aws=kill", "belongs to no cloud"),
        ];
        for (value, what) in mistakes {
            let error = parse(value).unwrap_err();
            assert!(error.contains(what), "{value}: {error}");
        }
    }

    #[test]
    fn names_are_unique_and_nothing_is_armed_by_itself() {
        let names: BTreeSet<&str> = ALL.iter().map(|point| point.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(hit(&CONSUME_AFTER_ABSORB, "").is_ok());
    }
}
