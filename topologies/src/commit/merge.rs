//! Group commit: several proposals, of several workers, become one decision.
//!
//! Pure. Every member is checked by itself, against the chain and against what was taken before it: a partition
//! advances by one member of a decision at most, so of two workers that read the same records the second is stale, as it
//! would be one decision later. Members are taken in the order of their commit ids, and offsets, rows and files are
//! put in an order of their own, so that the bytes do not depend on who came first.
//!
//! ```text
//! worker 1: [p0 0..10)  ─┐
//! worker 2: [p1 0..25)  ─┼─▶ one decision, one version per table: [p0 0..10) [p1 0..25), members 1 and 2
//! worker 3: [p1 0..20)  ─┘   worker 3: stale
//! ```
//!
//! Conservation holds for every member, and so for the sum; it is checked for both. A single member gives the same bytes
//! as it would without this module.

use std::collections::{BTreeMap, BTreeSet};

use isobar_connectors::delta;

use super::Epoch;
use super::chain::{Chain, Proposal, Refusal, TableProposal};
use super::format::Decision;

/// Bytes of bodies up to which members are united; a member larger than that is decided by itself. Keeps a decision far
/// below the largest body, and headers small.
const UNITED_BYTES_MAX: usize = 4 << 20;

/// What becomes of one proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is part of the decision.
    Decided,
    /// It was decided before: the answer was lost.
    Known {
        /// The decision it is in.
        sequence: u64,
    },
    /// It cannot follow the chain.
    Refused(Refusal),
    /// It breaks a rule of the format. A bug of whoever made it.
    Malformed(String),
    /// It does not fit into this decision. Ask again when that is applied.
    Later,
}

/// One decision out of several proposals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The decision, unless nothing was accepted.
    pub decision: Option<Decision>,
    /// What becomes of each proposal, in the order given.
    pub verdicts: Vec<Verdict>,
}

/// Unites what can follow `chain` of `proposals`, of which at least one that can is always taken.
///
/// # Errors
/// What is wrong with the union of members that are right by themselves: a bug of this module.
pub fn merge(
    chain: &Chain,
    topology: &str,
    epoch: Epoch,
    now_ms: i64,
    proposals: &[&Proposal],
) -> Result<Merged, String> {
    let mut order: Vec<usize> = (0..proposals.len()).collect();
    order.sort_by_key(|index| &proposals[*index].commit_id);
    let mut verdicts = vec![Verdict::Later; proposals.len()];
    let mut union = Union::default();
    for index in order {
        verdicts[index] = union.take(chain, topology, epoch, now_ms, proposals[index]);
    }
    Ok(Merged { decision: union.decide(chain, topology, epoch, now_ms)?, verdicts })
}

/// The members taken so far.
#[derive(Default)]
struct Union<'a> {
    members: Vec<&'a Proposal>,
    /// The decision that the first member would be by itself.
    alone: Option<Decision>,
    /// Bytes of the bodies that the members would be by themselves: the bodies of the union are not larger, up to a
    /// little for the list of members.
    bytes: usize,
    /// Dataset and app transaction of every partition that advances, and where to.
    taken: BTreeMap<(&'a str, String), i64>,
    /// By dataset, the fingerprint of the plan and the models that scored its rows: a body has one of each.
    plans: BTreeMap<&'a str, (&'a str, &'a [delta::ScoredBy])>,
}

impl<'a> Union<'a> {
    fn take(
        &mut self,
        chain: &Chain,
        topology: &str,
        epoch: Epoch,
        now_ms: i64,
        proposal: &'a Proposal,
    ) -> Verdict {
        if let Some(sequence) = chain.sequence_of(&proposal.commit_id) {
            return Verdict::Known { sequence };
        }
        if self.members.last().is_some_and(|last| last.commit_id == proposal.commit_id) {
            return Verdict::Decided;
        }
        if let Err(refusal) = chain.accept(topology, proposal).and_then(|()| self.meet(topology, proposal)) {
            return Verdict::Refused(refusal);
        }
        let alone = match chain.decide(topology, epoch, now_ms, proposal) {
            Ok(alone) => alone,
            Err(error) => return Verdict::Malformed(error.to_string()),
        };
        let bytes: usize = alone.tables.iter().map(|table| table.body.len()).sum();
        if !self.members.is_empty() && (self.bytes + bytes > UNITED_BYTES_MAX || !self.unites_with(proposal))
        {
            return Verdict::Later;
        }
        self.alone.get_or_insert(alone);
        self.bytes += bytes;
        self.members.push(proposal);
        for table in &proposal.tables {
            self.plans.insert(&table.dataset, (&table.plan, &table.models));
            let ends =
                table.offsets.iter().map(|range| ((&*table.dataset, range.app_id(topology)), range.end));
            self.taken.extend(ends);
        }
        Verdict::Decided
    }

    /// Refuses a partition that another member advances.
    fn meet(&self, topology: &str, proposal: &'a Proposal) -> Result<(), Refusal> {
        for table in &proposal.tables {
            for range in &table.offsets {
                let key = (&*table.dataset, range.app_id(topology));
                if let Some(end) = self.taken.get(&key) {
                    let (dataset, start, chain) = (table.dataset.clone(), range.start, *end);
                    return Err(Refusal::Stale { dataset, partition: key.1, start, chain });
                }
            }
        }
        Ok(())
    }

    /// One version of a table is created once, has one plan, and its rows are scored by the same models.
    fn unites_with(&self, proposal: &Proposal) -> bool {
        let creates = |proposal: &Proposal| proposal.tables.iter().any(|table| table.create.is_some());
        let plan_fits = |table: &TableProposal| {
            let plan = (&*table.plan, &*table.models);
            self.plans.get(&*table.dataset).is_none_or(|other| *other == plan)
        };
        !creates(proposal)
            && !self.members.iter().any(|member| creates(member))
            && proposal.tables.iter().all(plan_fits)
    }

    fn decide(
        self,
        chain: &Chain,
        topology: &str,
        epoch: Epoch,
        now_ms: i64,
    ) -> Result<Option<Decision>, String> {
        if self.members.len() < 2 {
            return Ok(self.alone);
        }
        let members: BTreeSet<String> = self.members.iter().map(|member| member.commit_id.clone()).collect();
        let members: Vec<String> = members.into_iter().collect();
        let proposal = Proposal { commit_id: id_of(&members), tables: unite(&self.members) };
        chain.accept(topology, &proposal).map_err(|refusal| refusal.to_string())?;
        let decision = chain.decide_for(topology, epoch, now_ms, &proposal, &members);
        decision.map(Some).map_err(|error| error.to_string())
    }
}

/// The id of a decision that unites `members`: the same for the same members.
fn id_of(members: &[String]) -> String {
    format!("group-{}", &delta::sha256_hex(members.join("\n").as_bytes())[..32])
}

/// The tables of all members, by name, so that a dataset comes before its quarantine.
fn unite(members: &[&Proposal]) -> Vec<TableProposal> {
    let mut tables: BTreeMap<&str, TableProposal> = BTreeMap::new();
    for table in members.iter().flat_map(|member| &member.tables) {
        match tables.get_mut(&*table.dataset) {
            Some(united) => add(united, table),
            None => _ = tables.insert(&table.dataset, table.clone()),
        }
    }
    tables.into_values().collect()
}

fn add(united: &mut TableProposal, table: &TableProposal) {
    // Every field by name: one that is added has to say here what its union is.
    let TableProposal { dataset: _, create: _, plan: _, models: _, offsets, rows, files } = table;
    united.offsets.extend(offsets.iter().cloned());
    united.rows.add(rows);
    united.files.extend(files.iter().cloned());
}

#[cfg(test)]
mod tests;
