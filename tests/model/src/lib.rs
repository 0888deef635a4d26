//! A model of the commit protocol, for the model checker `stateright`.
//!
//! ```text
//!   workers ──stage──▶ commits (start position) ──any time, any number of times──▶ leaders
//!   processes: claim ─▶ seal and read ─▶ choose ─▶ header ─▶ entries, one lane per cloud; stopped or woken at any step
//!   three clouds of write-once registers: identity, readmitted/<g>, epoch/<e>, log/<e>/<i>, _delta_log/<version>; and
//!   data files
//!   the world: answers lost, writes that land late, a cloud that forgets everything
//! ```
//!
//! **What is the product's own code.** Whether a commit is accepted, what it becomes and what the chain is afterwards
//! (`Chain::accept`, `decide`, `apply`), what is decided (`Quorum`), what may be published, who is a member, which
//! epoch is claimed and who owns it, which epochs are sealed and where, what a sealed log says, what is chosen from
//! all of them and how it splits into base and tail (`rules`, `choose`, `rebase`), on real records with real bytes:
//! see [`values`]. What is modelled is the order of I/O in `takeover.rs`, `lane.rs` and `leader.rs`: [`steps`], and in
//! `readmit.rs`: [`readmission`].
//!
//! **What is checked** is in [`properties`]; that it would be noticed, by the variants in [`variant`]: each is the
//! protocol with one thing wrong, and each must break an invariant.
//!
//! # Why one step may stand for several
//!
//! A step is one operation on one register, with these exceptions. Each leaves out no outcome.
//!
//! - *No step* is a pause, a crash or a partition: a process that is never scheduled again has crashed, one scheduled
//!   later was paused. A restart is another process. Hence there is no action for a zombie: everybody may be one.
//! - *Identify and list epochs* is one step. At most one cloud is lost at a time, so reading identities one after the
//!   other sees what some single moment shows. What listing says decides only which epoch is tried; a number that is
//!   too low meets claims and SEALs like any other, and listings that hear two clouds of three give those.
//! - *All SEALs of one cloud, and the reading after them* is one step. Sealing an older log earlier than the last one
//!   only keeps its leader from writing in between, which not scheduling that leader does as well; closed logs do not
//!   change, so they read the same later, unless the cloud is wiped, and then the identity that is asked for afterwards
//!   is gone, or the key of a later generation is there. Identity and keys are looked at in the step that chooses,
//!   after all clouds were read.
//! - *A PUT and the reading of identity and keys after it* is one step. A lane begins in a cloud that counts; if the cloud
//!   is lost before the PUT, then afterwards the identity is gone or, because a readmission writes it last, the key of a
//!   later generation is there, and the lane ends as it does in the single step.
//! - *Rebuilding a cloud* before its readmission is one step, with the start of the process that readmits it: what
//!   others publish there meanwhile might as well come before or after.
//! - *The answer to a PUT* is read with it. An answer that is lost while the write arrives is seen through by reading
//!   (`put_once`), which is the same step a little later. A write that arrives later, or never, is an action of its own.
//!   Of a lane it changes little, because a lane repeats the same bytes until it knows: a late write is the lane's own
//!   step, taken later. So only some runs let records be late ([`Bounds::records_late`]), and the others claims and SEALs.
//! - *A cloud that is away* is one that no step touches. Where a process goes on without it there is an action.
//! - *A file and its upload* is one bit, set when a commit is staged: in every cloud, or in all but one, because a leader
//!   proposes nothing whose files are not in a majority. Bringing a missing one is a step.
//! - *A process that loses an epoch* ends; its next attempt is the next process.
//! - *Clouds are alike*: claims may be offered in any order, of which the product's is one, so that states that differ in
//!   the names of clouds only are one state ([`Protocol::symmetry`]). Headers name clouds; the names in them are changed
//!   too. Processes that have not started are alike as well, and start in order.
//!
//! # Bounds
//!
//! A run is bounded by [`Bounds`], and a state by the constants in [`state`]. Within them every state is visited. A
//! cloud is wiped only while all others count, because with two of three lost there is no majority that remembers. One
//! table, one partition, one record per commit; a header has room for every tail, so the limit on decisions that wait
//! for publication is not met, and an epoch is never left because its log is long. Clouds are registered. Invariants
//! about published tables hold for clouds that carry their identity: those that were not wiped or are readmitted. Only
//! safety is checked: that everything is published in the end, and soon, is for the simulation.

pub mod commit;
#[path = "../../../schemas/src/counts.rs"]
pub mod counts;
#[path = "../../../connectors/src/delta/mod.rs"]
pub mod delta;
mod observer;
pub mod properties;
mod quorums;
mod readmission;
pub mod state;
mod steps;
mod values;
pub mod variant;

use stateright::{Model, Property};

use quorums::Quorums;
use state::{CLOUDS, Observed, PROCESSES, Phase, Process, Staged, State};
use values::Values;
pub use variant::Variant;

// The names under which the product's files know each other.
extern crate self as arrow;
extern crate self as isobar_connectors;
extern crate self as isobar_schemas;
#[doc(hidden)]
pub use arrow_schema as datatypes;
#[doc(hidden)]
pub use counts::RowCounts;

/// As `isobar_connectors::Error`, of which the product's pure files use these two.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A `_delta_log` body breaks the format.
    #[error("log entry: {0}")]
    LogEntry(String),
    /// A column cannot be stored in a Delta table.
    #[error("schema: {0}")]
    Schema(String),
}

/// How large a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Processes that may lead, restarts included.
    pub processes: u8,
    /// Epochs, the first leader's included.
    pub epochs: u8,
    /// Commits that workers stage.
    pub commits: u8,
    /// Clouds that lose everything.
    pub wipes: u8,
    /// Processes that readmit a cloud, whether it lost anything or not.
    pub readmissions: u8,
    /// Writes that get no answer and land later or never.
    pub late_writes: u8,
    /// Whether they may be records of a leader as well, or only claims and SEALs of a take-over.
    pub records_late: bool,
    /// Whether files may be missing in one cloud.
    pub files_may_miss: bool,
    /// Whether anything is published: without, all that is decided stays in the logs.
    pub publishes: bool,
    /// Whether a process that names another set of clouds may start.
    pub other_sets: bool,
    /// Whether nobody leads at the beginning and no table exists; else the first process leads epoch 1 of a table
    /// that was created and published everywhere.
    pub begins_empty: bool,
}

/// The protocol under a checker.
#[derive(Debug)]
pub struct Protocol {
    /// As it is, or broken in one place.
    pub variant: Variant,
    /// How large.
    pub bounds: Bounds,
    /// Whether states that differ in the names of clouds only are taken for one.
    pub symmetry: bool,
    /// Whether only actions are offered that change something. Slower; random walks need it, because stateright cannot
    /// replay a walk in which it chose one that does not.
    pub filters: bool,
    /// Steps taken before the check begins, where what it is about lies too deep to be reached in every order.
    pub script: &'static [Action],
    quorums: Quorums,
    values: Values,
}

/// One step of one process, one worker, or the world.
#[allow(missing_docs, reason = "the fields say what they hold")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A process starts: it identifies the clouds, lists epochs, and decides to claim this one.
    Start { process: u8, epoch: u8 },
    /// A process starts whose specification names another set of clouds.
    StartNamingOthers { process: u8 },
    /// A process starts that readmits a cloud: it rebuilds its table, and decides to claim the epoch after the highest
    /// that the others show.
    StartReadmission { process: u8, lost: u8 },
    /// Its next write to that cloud: a file, the header, the identity, the key of the generation.
    Admit { process: u8 },
    /// The same, but the answer is lost and the write is on its way.
    AdmitLost { process: u8 },
    /// It offers its claim to a cloud.
    Claim { process: u8, cloud: u8 },
    /// The cloud does not answer, and the claim never arrives.
    ClaimRefused { process: u8, cloud: u8 },
    /// The cloud does not answer, and the claim is on its way.
    ClaimLost { process: u8, cloud: u8 },
    /// It seals the older logs of a cloud and reads them.
    SealAndRead { process: u8, cloud: u8 },
    /// The cloud drops out of the take-over; nothing arrives.
    SealRefused { process: u8, cloud: u8 },
    /// The cloud drops out of the take-over; the last SEAL is on its way.
    SealLost { process: u8, cloud: u8 },
    /// Variant: seals what was read before.
    SealAfterwards { process: u8, cloud: u8 },
    /// It chooses what to go on from and proposes its header.
    Choose { process: u8 },
    /// A worker stages the next commit at this position; its files are everywhere but in `missing`.
    Stage { start: Option<u8>, missing: Option<u8> },
    /// A staged commit reaches a leader, which proposes it.
    Accept { process: u8, commit: u8 },
    /// The next storing step of a lane: fill one version, bring one file, or store one record.
    Store { process: u8, cloud: u8 },
    /// The same, but the answer is lost and the record is on its way.
    StoreLost { process: u8, cloud: u8 },
    /// Variant: the record after the next is stored first.
    StoreAhead { process: u8, cloud: u8 },
    /// The next publishing step of a lane: one body.
    Publish { process: u8, cloud: u8 },
    /// Variant: the record that did not answer is given up, and another commit proposed in its place.
    Replace { process: u8, commit: u8 },
    /// Variant: a leader removes older logs.
    DeleteLogs { process: u8, cloud: u8 },
    /// A write that was on its way lands.
    Land { late: u8 },
    /// A cloud loses everything.
    Wipe { cloud: u8 },
}

impl Protocol {
    /// A model of `variant` within `bounds`.
    pub fn new(variant: Variant, bounds: Bounds) -> Self {
        Self {
            variant,
            bounds,
            symmetry: true,
            filters: false,
            script: &[],
            quorums: Quorums::new(),
            values: Values::new(),
        }
    }

    /// Distinct records, decisions and readings met so far: for people.
    pub fn values_met(&self) -> String {
        self.values.count()
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            clouds: [state::Cloud { identity: true, ..state::Cloud::default() }; CLOUDS],
            processes: [Process::default(); PROCESSES],
            commits: [Staged::default(); state::COMMITS],
            late: [state::Late::default(); state::LATE],
            observed: Observed {
                wipes_left: self.bounds.wipes,
                late_writes_left: self.bounds.late_writes,
                readmissions_left: self.bounds.readmissions,
                ..Observed::default()
            },
        };
        if !self.bounds.begins_empty {
            self.begin_with_a_leader(&mut state);
        }
        for action in self.script {
            self.take(&mut state, *action).expect("each step of the script is possible");
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.offer(state, actions);
        if self.filters {
            actions.retain(|action| self.next_state(state, *action).is_some());
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.take(&mut next, action)?;
        if next == *state {
            return None;
        }
        Some(if self.symmetry { next.canonical(&self.values) } else { next })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(self.bounds)
    }
}

impl Protocol {
    /// A table exists, is published everywhere, and process 0 leads epoch 1.
    fn begin_with_a_leader(&self, state: &mut State) {
        let chain = self.values.decide(Variant::AsBuilt, 0, 0, u8::MAX, None);
        let chain = chain.expect("a table can be created after nothing");
        let header = self.values.first_header(1, chain);
        for cloud in &mut state.clouds {
            cloud.claims[0] = 1;
            cloud.versions[0] = chain;
            *cloud.record_mut(1, 0) = header;
        }
        let leader = &mut state.processes[0];
        *leader = Process {
            phase: Phase::Leading,
            epoch: 1,
            proposed: 1,
            stored: [1; CLOUDS],
            ..Process::default()
        };
        leader.records[0] = header;
        state.observed.decided = chain;
        state.observed.decided_in[0] = 1;
        state.observed.headers[0] = (true, chain);
    }
}
