use isobar_connectors::delta::{FileDigest, OffsetRange, ScoredBy, TableDefinition, parse_body};
use isobar_schemas::RowCounts;

use super::super::chain::{NewFile, RECENT_MAX};
use super::super::quarantine_of;
use super::*;

const TOPOLOGY: &str = "t";
const DATASET: &str = "d";
const PARTITIONS: i32 = 4;
const NOW_MS: i64 = 1_700_000_000_000;

fn range(partition: i32, start: i64, end: i64) -> OffsetRange {
    OffsetRange {
        cluster: "k".into(),
        topic: "topic".into(),
        topic_id: "id".into(),
        partition,
        start,
        end,
        records: (end - start) as u64,
        last_fingerprint: (end > start).then(|| "22".repeat(32)),
    }
}

fn file(commit_id: &str, rows: u64) -> NewFile {
    NewFile {
        digest: FileDigest {
            path: format!("part-{commit_id}-00000.parquet"),
            size: 100,
            sha256: "ab".repeat(32),
            rows,
        },
        partition_values: BTreeMap::new(),
        stats: format!("{{\"numRecords\":{rows}}}"),
    }
}

fn table(dataset: &str, offsets: Vec<OffsetRange>, rows: RowCounts, files: Vec<NewFile>) -> TableProposal {
    TableProposal {
        dataset: dataset.into(),
        create: None,
        plan: "11".repeat(32),
        models: vec![],
        offsets,
        rows,
        files,
    }
}

/// Reads offsets of one partition; the last record is rejected.
fn member(commit_id: &str, partition: i32, start: i64, end: i64) -> Proposal {
    let records = (end - start) as u64;
    let rejected = [("rule".to_owned(), 1)].into();
    let rows = RowCounts { input: records, output: records - 1, rejected, ..RowCounts::default() };
    let kept = RowCounts { input: 1, output: 1, ..RowCounts::default() };
    Proposal {
        commit_id: commit_id.into(),
        tables: vec![
            table(DATASET, vec![range(partition, start, end)], rows, vec![file(commit_id, records - 1)]),
            table(&quarantine_of(DATASET), Vec::new(), kept, vec![file(commit_id, 1)]),
        ],
    }
}

fn definition(name: &str) -> TableDefinition {
    let field = arrow::datatypes::Field::new("id", arrow::datatypes::DataType::Int64, true);
    TableDefinition {
        id: "00000000-0000-4000-8000-000000000000".into(),
        name: name.into(),
        description: None,
        schema: std::sync::Arc::new(arrow::datatypes::Schema::new(vec![field])),
        partition_by: Vec::new(),
        created_ms: 1,
    }
}

/// A chain in which every partition is at 0.
fn begun() -> Chain {
    let firsts = (0..PARTITIONS).map(|partition| range(partition, 0, 0)).collect();
    let create = |dataset: &str, offsets| TableProposal {
        create: Some(definition(dataset)),
        ..table(dataset, offsets, RowCounts::default(), Vec::new())
    };
    let proposal = Proposal {
        commit_id: "create".into(),
        tables: vec![create(DATASET, firsts), create(&quarantine_of(DATASET), Vec::new())],
    };
    let mut chain = Chain::default();
    let decision = merge_all(&chain, &[&proposal]).decision.unwrap();
    chain.apply(&decision).unwrap();
    chain
}

fn merge_all(chain: &Chain, proposals: &[&Proposal]) -> Merged {
    merge(chain, TOPOLOGY, Epoch(3), NOW_MS, proposals).unwrap()
}

#[test]
fn a_single_member_gives_the_bytes_it_would_without_merging() {
    let (chain, alone) = (begun(), member("a", 0, 0, 10));
    let merged = merge_all(&chain, &[&alone]);
    assert_eq!(merged.decision, Some(chain.decide(TOPOLOGY, Epoch(3), NOW_MS, &alone).unwrap()));
    assert_eq!(merged.verdicts, [Verdict::Decided]);
    assert!(!merged.decision.unwrap().tables[0].body.contains("members"));
}

#[test]
fn members_are_united_into_one_version_whatever_the_order_of_their_arrival() {
    let chain = begun();
    let (a, b, c) = (member("a", 2, 0, 10), member("b", 0, 0, 7), member("c", 1, 0, 5));
    let expected = merge_all(&chain, &[&a, &b, &c]);
    assert_eq!(expected.verdicts, [Verdict::Decided, Verdict::Decided, Verdict::Decided]);
    for order in [[&a, &c, &b], [&b, &a, &c], [&b, &c, &a], [&c, &a, &b], [&c, &b, &a]] {
        assert_eq!(merge_all(&chain, &order).decision, expected.decision);
    }
    let decision = expected.decision.unwrap();
    let names: Vec<&str> = decision.tables.iter().map(|table| &*table.dataset).collect();
    assert_eq!(names, [DATASET, &quarantine_of(DATASET)]);
    let main = parse_body(decision.tables[0].body.as_bytes()).unwrap();
    let info = &main.info.isobar;
    assert_eq!(info.members, ["a", "b", "c"]);
    let partitions: Vec<(i32, i64)> = info.offsets.iter().map(|range| (range.partition, range.end)).collect();
    assert_eq!(partitions, [(0, 7), (1, 5), (2, 10)]);
    assert_eq!((info.rows.input, info.rows.output, info.rows.rejected_total()), (22, 19, 3));
    assert!(info.rows.adds_up());
    let quarantine = parse_body(decision.tables[1].body.as_bytes()).unwrap();
    assert_eq!(quarantine.info.isobar.rows.output, 3);
    assert_eq!((main.adds.len(), quarantine.adds.len()), (3, 3));
}

#[test]
fn of_two_members_with_the_same_partition_the_second_is_stale() {
    let chain = begun();
    let (first, second, third) = (member("a", 0, 0, 10), member("b", 0, 0, 12), member("c", 1, 0, 5));
    let merged = merge_all(&chain, &[&third, &second, &first]);
    assert_eq!((&merged.verdicts[0], &merged.verdicts[2]), (&Verdict::Decided, &Verdict::Decided));
    let Verdict::Refused(Refusal::Stale { start, chain: at, partition, .. }) = &merged.verdicts[1] else {
        panic!("{:?}", merged.verdicts);
    };
    assert_eq!((*start, *at, partition.as_str()), (0, 10, "t/k/id/0"));
    // Also one that would go on where the other ends: a body has one range per partition.
    let next = member("b", 0, 10, 12);
    let merged = merge_all(&chain, &[&first, &next]);
    assert!(matches!(merged.verdicts[1], Verdict::Refused(Refusal::Stale { .. })), "{:?}", merged.verdicts);
    assert!(!merged.decision.unwrap().tables[0].body.contains("members"));
}

#[test]
fn members_that_other_models_scored_wait_for_a_decision_of_their_own() {
    let mut chain = begun();
    let scored = |commit_id: &str, partition, version| {
        let mut member = member(commit_id, partition, 0, 10);
        member.tables[0].models = vec![ScoredBy {
            model: "delay".into(),
            version,
            sha256: "ab".repeat(32),
            features: None,
            shadow: false,
        }];
        member
    };
    let (a, b, c, plain) = (scored("a", 0, 1), scored("b", 1, 2), scored("c", 2, 1), member("d", 3, 0, 10));
    let merged = merge_all(&chain, &[&a, &b, &c, &plain]);
    assert_eq!(merged.verdicts, [Verdict::Decided, Verdict::Later, Verdict::Decided, Verdict::Later]);
    let decision = merged.decision.unwrap();
    let body = parse_body(decision.tables[0].body.as_bytes()).unwrap();
    assert_eq!(body.info.isobar.models, a.tables[0].models);
    assert_eq!(body.info.isobar.offsets.len(), 2);
    chain.apply(&decision).unwrap();
    let merged = merge_all(&chain, &[&b, &plain]);
    assert_eq!(merged.verdicts, [Verdict::Decided, Verdict::Later]);
}

#[test]
fn what_is_stale_or_does_not_add_up_does_not_hold_up_the_others() {
    let chain = begun();
    let (good, stale, mut wrong) = (member("b", 0, 0, 10), member("a", 1, 5, 10), member("c", 2, 0, 10));
    wrong.tables[0].rows.output += 1;
    let mut odd = member("d", 3, 0, 10);
    odd.tables[0].files[0].digest.path = "../x.parquet".into();
    let merged = merge_all(&chain, &[&good, &stale, &wrong, &odd]);
    assert_eq!(merged.verdicts[0], Verdict::Decided);
    assert!(matches!(merged.verdicts[1], Verdict::Refused(Refusal::Stale { .. })));
    assert!(matches!(merged.verdicts[2], Verdict::Refused(Refusal::DoesNotAddUp { .. })));
    assert!(matches!(merged.verdicts[3], Verdict::Malformed(_)));
    assert_eq!(merged.decision, merge_all(&chain, &[&good]).decision);
    let nothing = merge_all(&chain, &[&stale, &wrong]);
    assert_eq!(nothing.decision, None);
}

#[test]
fn a_repeated_commit_is_answered_with_its_decision_also_by_a_later_leader() {
    let mut chain = begun();
    let (a, b) = (member("a", 0, 0, 10), member("b", 1, 0, 5));
    let decision = merge_all(&chain, &[&a, &b]).decision.unwrap();
    let before = chain.clone();
    chain.apply(&decision).unwrap();
    let c = member("c", 0, 10, 12);
    let again = merge_all(&chain, &[&b, &c, &a]);
    let known = Verdict::Known { sequence: decision.sequence };
    assert_eq!(again.verdicts, [known.clone(), Verdict::Decided, known.clone()]);
    // A take-over hands the chain on as the base of a header, or as the decisions after it.
    let base: Chain = serde_json::from_slice(&serde_json::to_vec(&chain).unwrap()).unwrap();
    assert_eq!(merge_all(&base, &[&a]).verdicts, std::slice::from_ref(&known));
    let mut from_tail = before;
    from_tail.apply(&decision).unwrap();
    assert_eq!(from_tail, chain);
    // The same commit twice at once is one commit.
    let d = member("d", 2, 0, 3);
    let twice = merge_all(&chain, &[&d, &d]);
    assert_eq!(twice.verdicts, [Verdict::Decided, Verdict::Decided]);
    assert_eq!(twice.decision, merge_all(&chain, &[&d]).decision);
}

#[test]
fn a_chain_remembers_so_many_commits_and_a_forgotten_one_is_stale() {
    let mut chain = begun();
    let commits = RECENT_MAX as i64 + 5;
    for start in 0..commits {
        let next = member(&format!("c{start:04}"), 0, start * 2, start * 2 + 2);
        let decision = merge_all(&chain, &[&next]).decision.unwrap();
        chain.apply(&decision).unwrap();
    }
    assert_eq!(chain.recent.len(), RECENT_MAX);
    let last = chain.recent.last().unwrap();
    assert_eq!((last.sequence, &*last.commit_id), (chain.sequence, &*format!("c{:04}", commits - 1)));
    let forgotten = merge_all(&chain, &[&member("c0000", 0, 0, 2)]);
    assert!(matches!(forgotten.verdicts[0], Verdict::Refused(Refusal::Stale { .. })));
}

#[test]
fn what_does_not_fit_into_one_version_waits_for_the_next() {
    let chain = begun();
    let first = member("a", 0, 0, 10);
    let mut other_plan = member("b", 1, 0, 10);
    other_plan.tables[0].plan = "33".repeat(32);
    let mut large = member("c", 2, 0, 10);
    large.tables[0].files[0].stats =
        format!("{{\"numRecords\":9,\"minValues\":{{\"text\":\"{}\"}}}}", "x".repeat(UNITED_BYTES_MAX));
    let fits = member("d", 3, 0, 10);
    let merged = merge_all(&chain, &[&first, &other_plan, &large, &fits]);
    assert_eq!(merged.verdicts, [Verdict::Decided, Verdict::Later, Verdict::Later, Verdict::Decided]);
    assert_eq!(merged.decision, merge_all(&chain, &[&first, &fits]).decision);
    // By itself each of them is taken.
    assert_eq!(merge_all(&chain, &[&large]).verdicts, [Verdict::Decided]);
    assert_eq!(merge_all(&chain, &[&other_plan]).verdicts, [Verdict::Decided]);
}
