//! Schema evolution on the chain: may these tables have these columns, and what are the bytes?
//!
//! Pure functions beside those of [`chain`](super::chain). A change of schema names the entry whose `metaData` it was compared
//! with ([`TableHead::described`](super::TableHead::described)); whoever is second finds another there, and is refused
//! ([`Refusal::Described`]). Files need no such fence: rows that fit a table fit all that it becomes. The argument:
//! `docs/evolution.md`.

use std::collections::BTreeMap;

use isobar_connectors::delta::evolution::{SchemaUpdate, differences, not_succeeding};
use isobar_connectors::delta::{self, CommitBody, CommitInfo, Metadata};
use isobar_schemas::RowCounts;

use super::Epoch;
use super::chain::{Chain, Described, Refusal, TableHead};
use super::format::{Decision, TableBody};

/// New schemas of tables that exist, to be decided together.
#[derive(Debug, Clone)]
pub struct Evolution {
    /// Unique id.
    pub commit_id: String,
    /// By dataset.
    pub tables: BTreeMap<String, TableEvolution>,
}

/// The new schema of one table.
#[derive(Debug, Clone)]
pub struct TableEvolution {
    /// Fingerprint of the plan that makes the rows to come.
    pub plan: String,
    /// The version that describes the table so far: [`TableHead::described_version`].
    pub after: u64,
    /// What that version says.
    pub was: Metadata,
    /// What the table becomes.
    pub becomes: Metadata,
}

impl TableHead {
    /// The version whose body says what columns the table has.
    pub fn described_version(&self) -> u64 {
        self.described.as_ref().map_or(0, |described| described.version)
    }
}

impl TableEvolution {
    fn update(&self) -> Result<SchemaUpdate, isobar_connectors::Error> {
        Ok(SchemaUpdate::new(self.after, &differences(&self.was, &self.becomes)?))
    }
}

impl Chain {
    /// Checks `evolution` against the chain, and that each table becomes a legal successor of itself.
    pub fn accept_evolution(&self, evolution: &Evolution) -> Result<(), Refusal> {
        let contradiction =
            |dataset: &str, what: String| Refusal::DoesNotAddUp { dataset: dataset.to_owned(), what };
        for (dataset, table) in &evolution.tables {
            let Some(head) = self.tables.get(dataset) else {
                return Err(contradiction(dataset, "does not exist and cannot change".into()));
            };
            let described = head.described_version();
            if described != table.after {
                let (dataset, after) = (dataset.clone(), table.after);
                return Err(Refusal::Described { dataset, after, chain: described });
            }
            let mut problems = not_succeeding(&table.was, &table.becomes);
            if table.was == table.becomes {
                problems.push("a change of schema that changes nothing".into());
            }
            if !problems.is_empty() {
                return Err(contradiction(dataset, problems.join("; ")));
            }
        }
        if evolution.tables.is_empty() {
            return Err(contradiction("", "a change of schema of no dataset".into()));
        }
        Ok(())
    }

    /// Turns an accepted evolution into the decision that follows this chain.
    ///
    /// # Errors
    /// If a table does not exist or a body breaks a rule of the format: it was not accepted, or is too large.
    pub fn decide_evolution(
        &self,
        topology: &str,
        epoch: Epoch,
        now_ms: i64,
        evolution: &Evolution,
    ) -> Result<Decision, isobar_connectors::Error> {
        let sequence = self.sequence + 1;
        let timestamp_ms = delta::next_commit_timestamp_ms(now_ms, Some(self.timestamp_ms));
        let mut tables = Vec::with_capacity(evolution.tables.len());
        for (dataset, table) in &evolution.tables {
            let missing = || isobar_connectors::Error::LogEntry(format!("no table {dataset}"));
            let head = self.tables.get(dataset).ok_or_else(missing)?;
            let info = delta::IsobarInfo {
                format: delta::body::INFO_FORMAT,
                topology: topology.to_owned(),
                dataset: dataset.clone(),
                epoch: epoch.0,
                sequence,
                commit_id: evolution.commit_id.clone(),
                members: Vec::new(),
                previous_sha256: head.sha256.clone(),
                plan: table.plan.clone(),
                models: Vec::new(),
                offsets: Vec::new(),
                rows: RowCounts::default(),
                files: Vec::new(),
            };
            let mut body = CommitBody::new(CommitInfo::evolving(&table.update()?, timestamp_ms, info));
            body.metadata = Some(table.becomes.clone());
            let bytes = body.to_bytes()?;
            tables.push(TableBody {
                dataset: dataset.clone(),
                version: head.version + 1,
                sha256: delta::sha256_hex(&bytes),
                body: String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8"),
            });
        }
        Ok(Decision {
            sequence,
            commit_id: evolution.commit_id.clone(),
            timestamp_ms,
            tables,
            checkpoints: BTreeMap::new(),
        })
    }
}

/// The value of [`TableHead::described`](super::TableHead::described) after `body` became the version of `table`, where it was
/// `described` before.
///
/// # Errors
/// If the body changes the schema, and was planned on another.
pub(super) fn described_after(
    body: &CommitBody,
    table: &TableBody,
    described: Option<&Described>,
) -> Result<Option<Described>, String> {
    let Some(update) = SchemaUpdate::of(&body.info).map_err(|error| error.to_string())? else {
        return Ok(described.cloned());
    };
    let before = described.map_or(0, |described| described.version);
    if update.after != before {
        let operation = &body.info.operation;
        return Err(format!("{operation} planned on the schema of version {}, not {before}", update.after));
    }
    Ok(Some(Described { version: table.version, sha256: table.sha256.clone() }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use isobar_connectors::delta::evolution::evolved;

    use super::*;
    use crate::commit::{Proposal, TableProposal};

    fn definition(columns: &[&str]) -> delta::TableDefinition {
        let fields = columns.iter().map(|name| Field::new(*name, DataType::Int64, true));
        delta::TableDefinition {
            id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
            name: "d".into(),
            description: None,
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            partition_by: Vec::new(),
            created_ms: 0,
        }
    }

    fn described(columns: &[&str]) -> Metadata {
        definition(columns).metadata().unwrap()
    }

    /// A chain with two datasets, both at version 0 with the column `a`.
    fn chain() -> Chain {
        let create = |dataset: &str| TableProposal {
            dataset: dataset.into(),
            create: Some(definition(&["a"])),
            plan: String::new(),
            models: Vec::new(),
            offsets: Vec::new(),
            rows: RowCounts::default(),
            files: Vec::new(),
        };
        let proposal = Proposal { commit_id: "c0".into(), tables: vec![create("d"), create("e")] };
        let mut chain = Chain::default();
        chain.apply(&chain.clone().decide("t", Epoch(1), 10, &proposal).unwrap()).unwrap();
        chain
    }

    fn evolution(after: u64, was: &[&str], rows: &[&str]) -> Evolution {
        let was = described(was);
        let becomes = evolved(&was, &described(rows)).unwrap();
        let table = TableEvolution { plan: "p".into(), after, was, becomes };
        Evolution { commit_id: format!("s{after}"), tables: [("d".to_owned(), table)].into() }
    }

    fn applied(chain: &Chain, evolution: &Evolution) -> Chain {
        chain.accept_evolution(evolution).unwrap();
        let mut next = chain.clone();
        next.apply(&chain.decide_evolution("t", Epoch(1), 0, evolution).unwrap()).unwrap();
        next
    }

    #[test]
    fn a_change_is_one_version_and_the_next_one_starts_from_it() {
        let chain = chain();
        let first = applied(&chain, &evolution(0, &["a"], &["a", "b"]));
        let head = &first.tables["d"];
        assert_eq!((head.version, head.described_version(), head.maintained), (1, 1, 0));
        assert_eq!(head.described.as_ref().map(|described| &described.sha256), Some(&head.sha256));
        assert_eq!(first.tables["e"], chain.tables["e"]);
        let second = applied(&first, &evolution(1, &["a", "b"], &["b", "c"]));
        assert_eq!((second.tables["d"].version, second.tables["d"].described_version()), (2, 2));
    }

    #[test]
    fn whoever_compared_with_an_older_schema_is_refused_and_its_body_does_not_follow() {
        let first = applied(&chain(), &evolution(0, &["a"], &["a", "b"]));
        let late = evolution(0, &["a"], &["a", "c"]);
        let refusal = Refusal::Described { dataset: "d".into(), after: 0, chain: 1 };
        assert_eq!(first.accept_evolution(&late), Err(refusal));
        let decision = first.decide_evolution("t", Epoch(1), 0, &late).unwrap();
        assert!(
            first.clone().apply(&decision).unwrap_err().contains("planned on the schema of version 0, not 1")
        );
    }

    #[test]
    fn what_is_no_change_or_takes_something_back_is_refused() {
        let chain = chain();
        let with = |was: &[&str], becomes: &[&str]| {
            let table = TableEvolution {
                plan: "p".into(),
                after: 0,
                was: described(was),
                becomes: described(becomes),
            };
            Evolution { commit_id: "s".into(), tables: [("d".to_owned(), table)].into() }
        };
        let none = Evolution { commit_id: "s".into(), tables: BTreeMap::new() };
        let mut elsewhere = with(&["a"], &["a", "b"]);
        elsewhere.tables = [("f".to_owned(), elsewhere.tables["d"].clone())].into();
        for (evolution, what) in [
            (with(&["a"], &["a"]), "changes nothing"),
            (with(&["a", "b"], &["a"]), "b is gone"),
            (with(&["a"], &["b", "a"]), "in the place of a"),
            (none, "no dataset"),
            (elsewhere, "does not exist"),
        ] {
            let refusal = chain.accept_evolution(&evolution).unwrap_err();
            assert!(
                matches!(refusal, Refusal::DoesNotAddUp { .. }) && refusal.to_string().contains(what),
                "{refusal}"
            );
        }
    }

    #[test]
    fn a_head_whose_schema_never_changed_has_the_bytes_it_always_had() {
        let chain = chain();
        let bytes = serde_json::to_string(&chain.tables["d"]).unwrap();
        assert!(bytes.ends_with("\"positions\":{}}"), "{bytes}");
        assert_eq!(serde_json::from_str::<TableHead>(&bytes).unwrap(), chain.tables["d"]);
        let evolved = applied(&chain, &evolution(0, &["a"], &["a", "b"]));
        let bytes = serde_json::to_string(&evolved.tables["d"]).unwrap();
        let sha256 = &evolved.tables["d"].sha256;
        let expected =
            format!("\"positions\":{{}},\"described\":{{\"version\":1,\"sha256\":\"{sha256}\"}}}}");
        assert!(bytes.ends_with(&expected), "{bytes}");
    }
}
