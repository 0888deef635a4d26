//! A topic whose partitions grow, and a consumer group that is not always of one mind.
//!
//! Which records there are, and what must become of each, follows from the seed, partition and offset alone, so nothing
//! is stored. Some offsets hold no record, as after aborted transactions. After a rebalance the machine that lost a
//! partition may go on believing in it for a while: two workers then read the same records.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What must become of the record at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// There is no record.
    Absent,
    /// It belongs into the dataset.
    Accepted,
    /// It belongs into the quarantine.
    Rejected,
    /// The query leaves it out.
    Filtered,
}

/// The topic and its consumer group.
#[derive(Debug)]
pub struct Kafka {
    seed: u64,
    state: Mutex<Vec<Partition>>,
}

#[derive(Debug, Clone, Default)]
struct Partition {
    end: i64,
    owner: Option<usize>,
    /// Who owned it before and does not know yet, and until when.
    lingering: Option<(usize, u64)>,
    /// Counts the changes of owner.
    generation: u64,
}

impl Kafka {
    /// A topic with empty partitions that nobody reads.
    pub fn new(seed: u64, partitions: usize) -> Self {
        Self { seed, state: Mutex::new(vec![Partition::default(); partitions]) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Partition>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.lock().len()
    }

    /// What must become of what is at `offset`.
    pub fn fate(&self, partition: usize, offset: i64) -> Fate {
        let at = (partition as u64) << 48 | offset as u64;
        match crate::prng::Prng::new(self.seed ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).below(10) {
            0 => Fate::Absent,
            1 => Fate::Rejected,
            2 => Fate::Filtered,
            _ => Fate::Accepted,
        }
    }

    /// Appends `records` offsets to a partition.
    pub fn produce(&self, partition: usize, records: i64) {
        self.lock()[partition].end += records;
    }

    /// The next offset that will be written.
    pub fn end(&self, partition: usize) -> i64 {
        self.lock()[partition].end
    }

    /// Gives a partition to `machine`; its owner so far notices at `noticed_us`.
    pub fn assign(&self, partition: usize, machine: usize, noticed_us: u64) {
        let mut state = self.lock();
        let partition = &mut state[partition];
        partition.lingering =
            partition.owner.filter(|owner| *owner != machine).map(|owner| (owner, noticed_us));
        partition.owner = Some(machine);
        partition.generation += 1;
    }

    /// The partitions that `machine` believes are its own, and a number that changes when that changes.
    pub fn assigned(&self, machine: usize, now_us: u64) -> (Vec<usize>, u64) {
        let state = self.lock();
        let is_ours = |partition: &Partition| {
            partition.owner == Some(machine)
                || partition.lingering.is_some_and(|(owner, until_us)| owner == machine && now_us < until_us)
        };
        let ours = state.iter().enumerate().filter(|(_, partition)| is_ours(partition));
        let ours: Vec<usize> = ours.map(|(index, _)| index).collect();
        let generation = ours.iter().map(|index| state[*index].generation << (8 * (index % 8))).sum();
        (ours, generation)
    }
}
