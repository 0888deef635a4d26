//! A state of the model: registers of the clouds, memories of the processes, and what an outside observer remembers.

use super::values::{ChainId, Logs, ReadId, RecordId, Values};

/// Clouds, all of them registered.
pub(super) const CLOUDS: usize = 3;
/// Epochs that have room in a state; a run may use fewer.
pub(super) const EPOCHS: usize = 4;
/// Slots of a log: header, entries, SEAL.
pub(super) const INDEXES: usize = 6;
/// Versions of the table, and decisions of its history.
pub(super) const VERSIONS: usize = 4;
/// Processes that may lead, each a run of its own: a restart is the next one.
pub(super) const PROCESSES: usize = 4;
/// Commits that workers may stage.
pub(super) const COMMITS: usize = 3;
/// How often a cloud may be readmitted.
pub(super) const GENERATIONS: usize = 2;
/// Writes on their way at once.
pub(super) const LATE: usize = 2;

/// Where each cloud goes when clouds are renamed.
pub(super) type Permutation = [u8; CLOUDS];

/// One cloud.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cloud {
    /// `control/<topology>/identity` is there.
    pub(super) identity: bool,
    /// `readmitted/<generation>`, from 1: the epoch whose header decided it, 0 where there is none.
    pub(super) readmitted: [u8; GENERATIONS],
    /// `epoch/<e>`: the process that claimed it plus 1, 0 for none.
    pub(super) claims: [u8; EPOCHS],
    /// `log/<e>/<i>`.
    pub(super) logs: Logs,
    /// `_delta_log/<version>.json`: the decision published there, 0 for none.
    pub(super) versions: [ChainId; VERSIONS],
    /// Data files, one bit per commit.
    pub(super) files: u8,
}

/// How far a process is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Phase {
    #[default]
    NotStarted,
    /// Offers its claim to the clouds in `pending`; those in `holders` took it.
    Claiming,
    /// Seals and reads the clouds in `pending`.
    Sealing,
    /// Leads, or believes it does.
    Leading,
    /// Readmits a cloud: its header goes to the others, and what makes the cloud count to the cloud.
    Readmitting,
    /// Stopped: refused, beaten, or sealed everywhere.
    Ended,
}

/// One run of one process that may lead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    pub(super) phase: Phase,
    pub(super) epoch: u8,
    /// It names one cloud only, the last; lives only in the variant that does not refuse it.
    pub(super) names_one: bool,
    /// The cloud that it readmits plus 1, 0 for a process that is to lead.
    pub(super) readmits: u8,
    /// Clouds that this phase still has to ask.
    pub(super) pending: u8,
    /// Clouds that hold the claim.
    pub(super) holders: u8,
    /// Someone else's claim was met.
    pub(super) contested: bool,
    /// What was read per cloud during the take-over.
    pub(super) reads: [ReadId; CLOUDS],
    /// Records of its epoch that it proposed.
    pub(super) records: [RecordId; INDEXES],
    pub(super) proposed: u8,
    /// Per cloud, records that it counts as stored, and decisions that it has published. Of a cloud that it readmits,
    /// how many of header, identity and key are there.
    pub(super) stored: [u8; CLOUDS],
    pub(super) published: [u8; CLOUDS],
    /// Clouds whose lane has ended.
    pub(super) ended: u8,
}

/// A commit that a worker staged and may send to any leader, any number of times, at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Staged {
    #[default]
    No,
    /// It creates the table.
    Create,
    /// It reads one record from this offset on.
    From(u8),
}

impl Staged {
    pub(super) fn start(self) -> Option<u8> {
        match self {
            Staged::From(start) => Some(start),
            Staged::No | Staged::Create => None,
        }
    }
}

/// A write that got no answer and may land at any later time, or never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Late {
    #[default]
    None,
    Claim {
        cloud: u8,
        epoch: u8,
        process: u8,
    },
    Record {
        cloud: u8,
        epoch: u8,
        index: u8,
        record: RecordId,
    },
    /// An identity, and with a generation above 0 the key of that generation.
    Admission {
        cloud: u8,
        generation: u8,
        epoch: u8,
    },
}

/// What the observer remembers, because no state of clouds and processes shows it for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Observed {
    /// The longest chain ever decided or acknowledged.
    pub(super) decided: ChainId,
    /// Per decision of it, the lowest epoch in which it was decided, 0 for none.
    pub(super) decided_in: [u8; VERSIONS],
    /// Per epoch, whether its header was ever decided, and the chain it ends with.
    pub(super) headers: [(bool, ChainId); EPOCHS],
    /// Clouds that may still be wiped, and writes that may still go astray.
    pub(super) wipes_left: u8,
    pub(super) late_writes_left: u8,
    /// How many processes may still readmit a cloud.
    pub(super) readmissions_left: u8,
    /// [`Broken`], one bit each.
    pub(super) broken: u8,
}

/// Invariants about history, noted at the step that breaks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Broken {
    TwoValues = 1,
    Lost = 2,
    Tiles = 4,
    EpochWentBack = 8,
    Damaged = 16,
    TwoReadmissions = 32,
}

/// A state of the whole system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub(super) clouds: [Cloud; CLOUDS],
    pub(super) processes: [Process; PROCESSES],
    pub(super) commits: [Staged; COMMITS],
    pub(super) late: [Late; LATE],
    pub(super) observed: Observed,
}

impl Cloud {
    /// The record at `index` of epoch `epoch`.
    pub(super) fn record(&self, epoch: u8, index: u8) -> RecordId {
        self.logs[usize::from(epoch) - 1][usize::from(index)]
    }

    pub(super) fn record_mut(&mut self, epoch: u8, index: u8) -> &mut RecordId {
        &mut self.logs[usize::from(epoch) - 1][usize::from(index)]
    }

    /// The versions that are there, one bit each.
    pub(super) fn published(&self) -> u8 {
        (0..).zip(self.versions).fold(0, |mask, (version, body)| mask | u8::from(body != 0) << version)
    }

    /// Versions `0..n` that are there without a gap.
    pub(super) fn dense(&self) -> u8 {
        self.versions.iter().take_while(|version| **version != 0).count() as u8
    }

    /// It holds the key of `generation`, or needs none.
    pub(super) fn holds_key(&self, generation: u8) -> bool {
        generation == 0 || self.readmitted.get(usize::from(generation) - 1).is_some_and(|key| *key != 0)
    }

    pub(super) fn holds_file(&self, commit: u8) -> bool {
        self.files & 1 << commit != 0
    }
}

impl Process {
    /// The same process after it stopped: nothing it remembered matters any more.
    pub(super) fn ended(&self) -> Self {
        Self { phase: Phase::Ended, ..Self::default() }
    }

    pub(super) fn clouds_read(&self) -> usize {
        self.reads.iter().filter(|read| **read != 0).count()
    }

    /// The cloud that it readmits, if that is what it does.
    pub(super) fn lost(&self) -> Option<usize> {
        usize::from(self.readmits).checked_sub(1)
    }

    pub(super) fn lane_has_ended(&self, cloud: usize) -> bool {
        self.ended & 1 << cloud != 0
    }
}

impl Observed {
    pub(super) fn note(&mut self, broken: Broken) {
        self.broken |= broken as u8;
    }

    pub(super) fn is_broken(&self, broken: Broken) -> bool {
        self.broken & broken as u8 != 0
    }
}

/// FNV-1a: quick, and the same in every run. Clouds with equal marks are tried in every order, so a collision costs
/// time and nothing else.
#[derive(Debug, Default)]
struct Mark(u64);

impl std::hash::Hasher for Mark {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }

    fn write_u16(&mut self, word: u16) {
        self.0 = (self.0 ^ u64::from(word)).wrapping_mul(0x100_0000_01b3);
    }
}

const PERMUTATIONS: [Permutation; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

impl State {
    /// The smallest of the states that differ from this one only in the names of clouds.
    pub(super) fn canonical(self, values: &Values) -> Self {
        let marks = [0, 1, 2].map(|cloud| self.mark(cloud, values));
        let in_order = |names: &Permutation| {
            (0..CLOUDS)
                .all(|one| (0..CLOUDS).all(|other| names[one] >= names[other] || marks[one] <= marks[other]))
        };
        let orders: Vec<&Permutation> = PERMUTATIONS.iter().filter(|names| in_order(names)).collect();
        match orders.as_slice() {
            [only] => self.renamed(**only, values),
            several => several
                .iter()
                .map(|names| self.renamed(**names, values))
                .min()
                .expect("some order puts three clouds in order"),
        }
    }

    /// What is known about a cloud apart from its name and those of others; equal for clouds that may be exchanged.
    fn mark(&self, cloud: usize, values: &Values) -> u64 {
        use std::hash::{Hash, Hasher};

        let mut mark = Mark::default();
        let it = &self.clouds[cloud];
        (it.identity, it.readmitted, it.claims, it.versions, it.files).hash(&mut mark);
        for record in it.logs.iter().flatten() {
            let nameless = if *record == 0 { 0 } else { values.shape(*record).nameless };
            nameless.hash(&mut mark);
        }
        for process in &self.processes {
            let bit = |mask: u8| mask & 1 << cloud != 0;
            (bit(process.pending), bit(process.holders), bit(process.ended)).hash(&mut mark);
            (process.lost() == Some(cloud)).hash(&mut mark);
            (process.reads[cloud] != 0, process.stored[cloud], process.published[cloud]).hash(&mut mark);
        }
        for late in &self.late {
            let here = match late {
                Late::Claim { cloud: at, epoch, process } => {
                    usize::from(*at) == cloud && {
                        (epoch, process).hash(&mut mark);
                        true
                    }
                }
                Late::Record { cloud: at, epoch, index, .. } => {
                    usize::from(*at) == cloud && {
                        (epoch, index).hash(&mut mark);
                        true
                    }
                }
                Late::Admission { cloud: at, generation, epoch } => {
                    usize::from(*at) == cloud && {
                        (generation, epoch, 0_u8).hash(&mut mark);
                        true
                    }
                }
                Late::None => false,
            };
            here.hash(&mut mark);
        }
        mark.finish()
    }

    /// The same state with cloud `c` called `names[c]`.
    fn renamed(&self, names: Permutation, values: &Values) -> Self {
        if names == PERMUTATIONS[0] {
            return self.clone();
        }
        let mut renamed = self.clone();
        for (from, to) in names.iter().enumerate() {
            let cloud = &mut renamed.clouds[usize::from(*to)];
            *cloud = self.clouds[from];
            for record in cloud.logs.iter_mut().flatten() {
                *record = values.rename_record(*record, names);
            }
        }
        for (process, before) in renamed.processes.iter_mut().zip(&self.processes) {
            for mask in [&mut process.pending, &mut process.holders, &mut process.ended] {
                *mask = names
                    .iter()
                    .enumerate()
                    .fold(0, |renamed, (from, to)| renamed | (*mask >> from & 1) << to);
            }
            if let Some(lost) = before.lost() {
                process.readmits = names[lost] + 1;
            }
            for (from, to) in names.iter().enumerate() {
                let to = usize::from(*to);
                process.reads[to] = values.rename_read(before.reads[from], names);
                process.stored[to] = before.stored[from];
                process.published[to] = before.published[from];
            }
            for record in &mut process.records {
                *record = values.rename_record(*record, names);
            }
        }
        for late in &mut renamed.late {
            match late {
                Late::None => {}
                Late::Claim { cloud, .. } | Late::Admission { cloud, .. } => {
                    *cloud = names[usize::from(*cloud)];
                }
                Late::Record { cloud, record, .. } => {
                    *cloud = names[usize::from(*cloud)];
                    *record = values.rename_record(*record, names);
                }
            }
        }
        renamed.late.sort_unstable();
        renamed
    }
}
