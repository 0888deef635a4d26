pub mod properties;
pub mod state;
mod steps;
mod values;
pub mod variant;

use stateright::{Model, Property};

use state::{CLOUDS, Observed, PROCESSES, Phase, Process, Staged, State};
use values::Values;
pub use variant::Variant;

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
    /// Writes that get no answer and land later or never.
    pub lates: u8,
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
    values: Values,
}

/// One step of one process, one worker, or the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A process starts: it identifies the clouds, lists epochs, and decides to claim this one.
    Start { process: u8, epoch: u8 },
    /// A process starts whose specification names another set of clouds.
    StartNamingOthers { process: u8 },
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
        Self { variant, bounds, symmetry: true, values: Values::new() }
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
                lates_left: self.bounds.lates,
                ..Observed::default()
            },
        };
        if !self.bounds.begins_empty {
            self.begin_with_a_leader(&mut state);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.offer(state, actions);
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
