//! Whether a topic can be read, for how long it keeps what is not read yet, and where the datasets stand in it.

use std::collections::BTreeMap;
use std::time::Duration;

use isobar_connectors::kafka::{PartitionOverview, Watermarks};
use isobar_schemas::TopicPartition;
use isobar_schemas::decode::DecodeLimits;

use super::count;
use crate::doctor::kafka::{TopicFacts, millis};
use crate::doctor::report::{About, Finding};
use crate::doctor::settings::Settings;
use crate::doctor::trouble::{Kind, Look, Trouble};
use crate::spec::units::{ByteSize, HumanDuration};
use crate::start::{Gap, gap_at};

/// Gaps named one by one.
const GAPS_MAX: usize = 10;
/// Partitions named one by one.
const PARTITIONS_MAX: usize = 5;

/// Where each partition is read next.
type Positions = BTreeMap<TopicPartition, i64>;

/// The findings about one topic. `positions` are those of all topics, `None` if they are not known.
pub(super) fn judge(facts: &TopicFacts, positions: Option<&Positions>, outage: Duration) -> Vec<Finding> {
    let about = &About::Topic(facts.name.clone());
    if let Err(trouble) = &facts.described {
        return vec![described(about, trouble)];
    }
    let number = u64::try_from(facts.partitions.len()).unwrap_or(u64::MAX);
    let mut findings = vec![Finding::ok("topic.exists", about, count(number, "partition"))];
    findings.push(read(about, &facts.newest_ms));
    findings.push(leaders(about, &facts.partitions));
    findings.push(replication(about, &facts.partitions));
    let of_topic = positions.map(|positions| {
        let of_topic = positions.iter().filter(|(partition, _)| *partition.topic == *facts.name);
        of_topic.map(|(partition, position)| (partition.partition, *position)).collect()
    });
    match &facts.ends {
        Ok(ends) => findings.extend(standing(about, &facts.name, of_topic.as_ref(), ends)),
        Err(trouble) => findings.push(Finding::problem(
            "topic.position",
            about,
            &trouble.what,
            "see why its partitions do not tell where they begin and end: their leaders, and DESCRIBE on the topic",
        )),
    }
    match &facts.settings {
        Ok(settings) => findings.extend(of_settings(about, facts, settings, of_topic.as_ref(), outage)),
        Err(trouble) => findings.push(settings_unknown(about, trouble)),
    }
    findings
}

fn described(about: &About, trouble: &Trouble) -> Finding {
    let way_out = match trouble.kind {
        Kind::Absent => "create the topic, correct its name, or allow DESCRIBE on it",
        Kind::Denied => "allow DESCRIBE and READ on the topic",
        Kind::Unsupported | Kind::Misconfigured => "correct the specification",
        Kind::Silent | Kind::Failed => "look again; if it stays, see what the brokers' logs say",
    };
    Finding::problem("topic.exists", about, &trouble.what, way_out)
}

fn read(about: &About, newest_ms: &Look<Option<i64>>) -> Finding {
    match newest_ms {
        Ok(Some(_)) => Finding::ok("topic.read", about, "a record was read"),
        Ok(None) => Finding::ok("topic.read", about, "may be asked; there was no record to be read"),
        Err(trouble) => {
            let way_out = match trouble.kind {
                Kind::Denied => "allow READ on the topic",
                Kind::Silent => {
                    "check that every address that the brokers advertise can be reached from here"
                }
                _ => "see what the broker says about the partition",
            };
            Finding::problem("topic.read", about, &trouble.what, way_out)
        }
    }
}

/// `0, 1, 2, 3, 4 and 7 more`.
fn listed(partitions: &[i32]) -> String {
    let named: Vec<String> = partitions.iter().take(PARTITIONS_MAX).map(i32::to_string).collect();
    match partitions.len().saturating_sub(PARTITIONS_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn numbers(partitions: &[PartitionOverview], is_so: impl Fn(&PartitionOverview) -> bool) -> Vec<i32> {
    partitions.iter().filter(|partition| is_so(partition)).map(|partition| partition.partition).collect()
}

pub(super) fn leaders(about: &About, partitions: &[PartitionOverview]) -> Finding {
    let leaderless = numbers(partitions, |partition| !partition.has_leader);
    match leaderless[..] {
        [] => Finding::ok("topic.leaders", about, "every partition has a leader"),
        _ => Finding::problem(
            "topic.leaders",
            about,
            format!("partitions without a leader: {}", listed(&leaderless)),
            "bring the brokers back that have copies of them: until then they can be neither read nor written",
        ),
    }
}

fn replication(about: &About, partitions: &[PartitionOverview]) -> Finding {
    let id = "topic.replication";
    let single = numbers(partitions, |partition| partition.replicas <= 1);
    if !single.is_empty() {
        return Finding::warning(
            id,
            about,
            format!("partitions with a single copy: {}", listed(&single)),
            "raise the replication factor to 3: what is lost with a broker before it is read is lost for good",
        );
    }
    let behind = numbers(partitions, |partition| partition.in_sync < partition.replicas);
    if !behind.is_empty() {
        return Finding::warning(
            id,
            about,
            format!("partitions with copies that are not up to date: {}", listed(&behind)),
            "bring the brokers back that have the other copies",
        );
    }
    let least = partitions.iter().map(|partition| partition.replicas).min().unwrap_or(0) as u64;
    Finding::ok(id, about, format!("{} of each partition, all up to date", count(least, "replica")))
}

/// Where the datasets stand, against the beginning and the end of the log.
fn standing(
    about: &About,
    topic: &str,
    positions: Option<&BTreeMap<i32, i64>>,
    ends: &BTreeMap<i32, Watermarks>,
) -> Vec<Finding> {
    let id = "topic.position";
    let Some(positions) = positions else {
        return vec![Finding::skipped(id, about, "it is not known what was read")];
    };
    let mut findings = Vec::new();
    let (mut unread, mut begun) = (0u64, 0u64);
    let mut gaps = 0;
    for (partition, ends @ Watermarks { low, high }) in ends {
        let Some(position) = positions.get(partition) else { continue };
        begun += 1;
        let Some(gap) = gap_at(*position, *ends) else {
            unread += u64::try_from(high - position).unwrap_or(0);
            continue;
        };
        gaps += 1;
        if gaps > GAPS_MAX {
            continue;
        }
        let (found, way_out) = match gap {
            Gap::Deleted => (
                format!(
                    "the datasets stand at offset {position} of partition {partition}, and its log begins at {low}: {} gone",
                    match low - position {
                        1 => "1 offset is".to_owned(),
                        lost => format!("{lost} offsets are"),
                    }
                ),
                format!(
                    "restore the records, or go on without them: isobar accept-gap TOPOLOGY --partition {topic}:{partition} \
                     --from {position} --to {low} --reason \"…\""
                ),
            ),
            Gap::Truncated => (
                format!(
                    "the datasets stand at offset {position} of partition {partition}, and its log ends at {high}: it was \
                     truncated, or created anew"
                ),
                "restore the topic, or start a new topology name: positions never go back".to_owned(),
            ),
        };
        findings.push(Finding::problem(id, about, found, way_out));
    }
    if gaps > GAPS_MAX {
        let found = format!("the same of {} more partitions", gaps - GAPS_MAX);
        findings.push(Finding::problem(id, about, found, "see those above, and look again"));
    }
    if gaps == 0 {
        let new = ends.len() as u64 - begun;
        let found = match (begun, new) {
            (0, _) => "nothing was read yet".to_owned(),
            (_, 0) => format!("{} not read yet", count(unread, "offset")),
            _ => format!("{} not read yet, {} not begun", count(unread, "offset"), count(new, "partition")),
        };
        findings.push(Finding::ok(id, about, found));
    }
    findings
}

fn settings_unknown(about: &About, trouble: &Trouble) -> Finding {
    match trouble.kind {
        Kind::Denied => Finding::warning(
            "topic.settings",
            about,
            &trouble.what,
            "allow DESCRIBE_CONFIGS on the topic, for this command only: retention is not known without it",
        ),
        _ => {
            Finding::skipped("topic.settings", about, format!("the settings are not known: {}", trouble.what))
        }
    }
}

fn of_settings(
    about: &About,
    facts: &TopicFacts,
    settings: &Settings,
    positions: Option<&BTreeMap<i32, i64>>,
    outage: Duration,
) -> Vec<Finding> {
    let mut findings = vec![
        retention(about, settings, outage),
        retention_bytes(about, settings, &facts.ends, &facts.recent, outage),
    ];
    if let (Some(kept), Some(positions), Ok(ends)) = (&facts.kept, positions, &facts.ends) {
        findings.push(unread(about, kept, positions, ends, outage));
    }
    findings.push(cleanup(about, settings, outage));
    findings.push(message_size(about, settings));
    findings.push(timestamps(about, settings));
    findings.push(in_sync(about, settings, &facts.partitions));
    findings
}

fn duration(ms: i64) -> HumanDuration {
    HumanDuration(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

fn bytes(number: i64) -> ByteSize {
    ByteSize(u64::try_from(number).unwrap_or(0))
}

fn retention(about: &About, settings: &Settings, outage: Duration) -> Finding {
    let id = "topic.retention";
    match settings.retention_ms() {
        None => Finding::ok(id, about, "records are not deleted by age"),
        Some(kept_ms) if kept_ms < millis(outage) => Finding::warning(
            id,
            about,
            format!(
                "records are kept for {}, shorter than an outage of {}",
                duration(kept_ms),
                HumanDuration(outage)
            ),
            format!(
                "set `retention.ms` to {} at least: after a longer outage records would be gone before they are read",
                millis(outage)
            ),
        ),
        Some(kept_ms) => Finding::ok(id, about, format!("records are kept for {}", duration(kept_ms))),
    }
}

/// Bytes cannot be compared with time, but the log shows how far back they reach: once something was deleted, and all that
/// is left is younger than an outage, an outage is too long.
fn retention_bytes(
    about: &About,
    settings: &Settings,
    ends: &Look<BTreeMap<i32, Watermarks>>,
    recent: &Look<BTreeMap<i32, Option<i64>>>,
    outage: Duration,
) -> Finding {
    let id = "topic.retention_bytes";
    let Some(kept) = settings.retention_bytes() else {
        return Finding::ok(id, about, "records are not deleted by size");
    };
    let kept = bytes(kept);
    let (Ok(ends), Ok(recent)) = (ends, recent) else {
        return Finding::skipped(
            id,
            about,
            format!("{kept} of each partition are kept; how long that is, is not known"),
        );
    };
    let short: Vec<i32> = ends
        .iter()
        .filter(|(partition, ends)| ends.low > 0 && recent.get(partition) == Some(&Some(ends.low)))
        .map(|(partition, _)| *partition)
        .collect();
    match short[..] {
        [] => Finding::ok(id, about, format!("{kept} of each partition are kept")),
        _ => Finding::warning(
            id,
            about,
            format!(
                "{kept} of each partition are kept, which reach back less than an outage of {} in partitions {}",
                HumanDuration(outage),
                listed(&short)
            ),
            "raise `retention.bytes`, or let `retention.ms` alone decide: after an outage records would be gone",
        ),
    }
}

/// Whether retention takes records that are not read yet within the outage.
fn unread(
    about: &About,
    kept: &Look<BTreeMap<i32, Option<i64>>>,
    positions: &BTreeMap<i32, i64>,
    ends: &BTreeMap<i32, Watermarks>,
    outage: Duration,
) -> Finding {
    let id = "topic.unread";
    let kept = match kept {
        Ok(kept) => kept,
        Err(trouble) => return Finding::skipped(id, about, &trouble.what),
    };
    let threatened: Vec<i32> = ends
        .iter()
        .filter(|(partition, ends)| {
            let Some(position) = positions.get(partition) else { return false };
            // Where nothing is kept, all that there is goes.
            let first_kept = kept.get(partition).copied().flatten().unwrap_or(ends.high);
            *position < first_kept
        })
        .map(|(partition, _)| *partition)
        .collect();
    let outage = HumanDuration(outage);
    match threatened[..] {
        [] => Finding::ok(id, about, format!("nothing that is not read yet is deleted within {outage}")),
        _ => Finding::warning(
            id,
            about,
            format!(
                "records that are not read yet are deleted within {outage}, in partitions {}",
                listed(&threatened)
            ),
            "let the topology catch up now, or lengthen `retention.ms` until it has",
        ),
    }
}

fn cleanup(about: &About, settings: &Settings, outage: Duration) -> Finding {
    let id = "topic.cleanup";
    if !settings.compacts() {
        return Finding::ok(id, about, "records are not compacted");
    }
    let lag_ms = settings.compaction_lag_ms();
    let means = "the topic is compacted: offsets have gaps, which is no loss, and of each key only the newest record is \
                 sure to be read";
    if lag_ms >= millis(outage) {
        return Finding::ok(
            id,
            about,
            format!("{means}, others while they are younger than {}", duration(lag_ms)),
        );
    }
    Finding::warning(
        id,
        about,
        means,
        format!(
            "if every record counts, set `cleanup.policy: delete`, or `min.compaction.lag.ms` to {} at least",
            millis(outage)
        ),
    )
}

fn message_size(about: &About, settings: &Settings) -> Finding {
    let id = "topic.message_size";
    let limit = i64::try_from(DecodeLimits::default().payload_bytes_max).unwrap_or(i64::MAX);
    match settings.message_bytes_max() {
        None => Finding::skipped(id, about, "the broker does not tell `max.message.bytes`"),
        Some(largest) if largest > limit => Finding::warning(
            id,
            about,
            format!(
                "batches of up to {} are taken, and payloads above {} are rejected",
                bytes(largest),
                bytes(limit)
            ),
            format!("set `max.message.bytes` to {limit} at most, or expect larger ones in the quarantine"),
        ),
        Some(largest) => Finding::ok(id, about, format!("batches of up to {} are taken", bytes(largest))),
    }
}

fn timestamps(about: &About, settings: &Settings) -> Finding {
    let id = "topic.timestamps";
    match settings.timestamp_type() {
        Some("LogAppendTime") => Finding::ok(id, about, "timestamps are by the brokers' clocks"),
        Some(other) => Finding::ok(
            id,
            about,
            format!("timestamps are by the producers' clocks ({other}), and so is retention by age"),
        ),
        None => Finding::skipped(id, about, "the broker does not tell `message.timestamp.type`"),
    }
}

fn in_sync(about: &About, settings: &Settings, partitions: &[PartitionOverview]) -> Finding {
    let id = "topic.min_in_sync";
    if settings.elects_unclean() {
        return Finding::warning(
            id,
            about,
            "a copy that is not up to date may become the leader: records that were read already may vanish, and the log \
             end before the position",
            "set `unclean.leader.election.enable: false`",
        );
    }
    let Some(least) = settings.in_sync_min() else {
        return Finding::skipped(id, about, "the broker does not tell `min.insync.replicas`");
    };
    let copies = partitions.iter().map(|partition| partition.replicas).min().unwrap_or(0);
    let copies = i64::try_from(copies).unwrap_or(i64::MAX);
    if copies > 1 && least <= 1 {
        return Finding::warning(
            id,
            about,
            format!(
                "a record counts as written when one of {copies} copies has it, and may be lost with that broker"
            ),
            "set `min.insync.replicas` to 2, and `acks=all` at the producers",
        );
    }
    if copies > 1 && least >= copies {
        return Finding::warning(
            id,
            about,
            format!(
                "all {copies} copies must be up to date: with one broker away, producers that wait for all are refused"
            ),
            format!("set `min.insync.replicas` to {}", copies - 1),
        );
    }
    Finding::ok(id, about, format!("a record counts as written when {least} of {copies} copies have it"))
}

#[cfg(test)]
mod tests {
    use isobar_connectors::kafka::TopicInfo;

    use super::*;
    use crate::doctor::report::Status;

    const OUTAGE: Duration = Duration::from_secs(24 * 3600);
    const DAY_MS: i64 = 24 * 3_600_000;

    fn about() -> About {
        About::Topic("orders".into())
    }

    fn partition(partition: i32, replicas: usize, in_sync: usize) -> PartitionOverview {
        PartitionOverview { partition, has_leader: true, replicas, in_sync }
    }

    fn ends(low: i64, high: i64) -> BTreeMap<i32, Watermarks> {
        [(0, Watermarks { low, high })].into()
    }

    fn facts(settings: &[(&str, &str)]) -> TopicFacts {
        TopicFacts {
            name: "orders".into(),
            described: Ok(TopicInfo { name: "orders".into(), id: None, partitions: 1 }),
            partitions: vec![partition(0, 3, 3)],
            ends: Ok(ends(0, 100)),
            settings: Ok(Settings::of(settings)),
            recent: Ok([(0, Some(0))].into()),
            kept: None,
            newest_ms: Ok(Some(1)),
        }
    }

    fn at(position: i64) -> Positions {
        [(TopicPartition::new("orders", 0), position), (TopicPartition::new("other", 0), 7)].into()
    }

    fn of<'a>(findings: &'a [Finding], id: &str) -> &'a Finding {
        findings.iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("{id}: {findings:?}"))
    }

    #[test]
    fn a_topic_that_is_set_up_well_has_nothing_but_good_findings() {
        let mut facts = facts(&[
            ("retention.ms", "604800000"),
            ("max.message.bytes", "1048588"),
            ("message.timestamp.type", "CreateTime"),
            ("min.insync.replicas", "2"),
            ("cleanup.policy", "delete"),
        ]);
        facts.kept = Some(Ok([(0, Some(0))].into()));
        let findings = judge(&facts, Some(&at(40)), OUTAGE);
        assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:#?}");
        assert_eq!(of(&findings, "topic.position").found, "60 offsets not read yet");
    }

    #[test]
    fn a_position_before_the_log_is_a_problem_with_the_command_that_helps() {
        let mut facts = facts(&[]);
        facts.ends = Ok(ends(50, 100));
        let findings = judge(&facts, Some(&at(40)), OUTAGE);
        let position = of(&findings, "topic.position");
        assert_eq!(position.status, Status::Problem);
        assert!(position.found.contains("10 offsets are gone"), "{position:?}");
        let way_out = position.way_out.as_deref().unwrap();
        assert!(
            way_out.contains("isobar accept-gap TOPOLOGY --partition orders:0 --from 40 --to 50"),
            "{way_out}"
        );
        // At the beginning of the log nothing is missing yet.
        assert_eq!(of(&judge(&facts, Some(&at(50)), OUTAGE), "topic.position").status, Status::Ok);
    }

    #[test]
    fn a_position_behind_the_log_is_a_truncated_topic() {
        let findings = judge(&facts(&[]), Some(&at(101)), OUTAGE);
        let position = of(&findings, "topic.position");
        assert!(position.status == Status::Problem && position.found.contains("truncated"), "{position:?}");
        assert!(!position.way_out.as_ref().unwrap().contains("accept-gap"));
        assert_eq!(of(&judge(&facts(&[]), Some(&at(100)), OUTAGE), "topic.position").status, Status::Ok);
    }

    #[test]
    fn what_was_never_read_and_what_is_not_known_are_told_apart() {
        let nothing = judge(&facts(&[]), Some(&Positions::new()), OUTAGE);
        assert_eq!(of(&nothing, "topic.position").found, "nothing was read yet");
        assert_eq!(of(&judge(&facts(&[]), None, OUTAGE), "topic.position").status, Status::Skipped);
    }

    #[test]
    fn many_gaps_are_summed_up() {
        let mut facts = facts(&[]);
        let partitions = 0..30;
        facts.ends = Ok(partitions.clone().map(|it| (it, Watermarks { low: 5, high: 9 })).collect());
        let positions = partitions.map(|it| (TopicPartition::new("orders", it), 1)).collect();
        let findings = judge(&facts, Some(&positions), OUTAGE);
        let gaps: Vec<_> = findings.iter().filter(|finding| finding.id == "topic.position").collect();
        assert_eq!(gaps.len(), GAPS_MAX + 1);
        assert_eq!(gaps[GAPS_MAX].found, "the same of 20 more partitions");
    }

    #[test]
    fn retention_is_held_against_the_outage() {
        let status = |ms: &str| retention(&about(), &Settings::of(&[("retention.ms", ms)]), OUTAGE).status;
        assert_eq!(status("-1"), Status::Ok);
        assert_eq!(status(&DAY_MS.to_string()), Status::Ok);
        assert_eq!(status(&(DAY_MS - 1).to_string()), Status::Warning);
        let found = retention(&about(), &Settings::of(&[("retention.ms", "3600000")]), OUTAGE);
        assert!(found.found.contains("1h") && found.found.contains("24h"), "{found:?}");
        assert!(found.way_out.unwrap().contains("86400000"));
    }

    #[test]
    fn retention_by_size_is_judged_by_how_far_back_it_reaches() {
        let bounded = Settings::of(&[("retention.bytes", "1048576")]);
        let judged = |low, first_recent| {
            let recent = Ok([(0, first_recent)].into());
            retention_bytes(&about(), &bounded, &Ok(ends(low, 100)), &recent, OUTAGE).status
        };
        // Nothing was deleted yet; the oldest record is young; the oldest is older than the outage.
        assert_eq!(judged(0, Some(0)), Status::Ok);
        assert_eq!(judged(10, Some(10)), Status::Warning);
        assert_eq!(judged(10, Some(30)), Status::Ok);
        assert_eq!(judged(10, None), Status::Ok);
        let trouble = Trouble::new(Kind::Silent, "x");
        let unknown = retention_bytes(&about(), &bounded, &Ok(ends(0, 1)), &Err(trouble), OUTAGE);
        assert_eq!(unknown.status, Status::Skipped);
    }

    #[test]
    fn what_is_not_read_and_about_to_be_deleted_is_a_warning() {
        let judged = |kept, position| {
            let kept = Ok([(0, kept)].into());
            unread(&about(), &kept, &[(0, position)].into(), &ends(0, 100), OUTAGE).status
        };
        assert_eq!(judged(Some(50), 50), Status::Ok);
        assert_eq!(judged(Some(50), 49), Status::Warning);
        assert_eq!(judged(None, 99), Status::Warning);
        assert_eq!(judged(None, 100), Status::Ok);
    }

    #[test]
    fn compaction_says_what_gaps_mean_and_is_well_while_it_waits() {
        let judged = |settings: &[(&str, &str)]| cleanup(&about(), &Settings::of(settings), OUTAGE);
        let compacted = judged(&[("cleanup.policy", "compact")]);
        assert!(compacted.status == Status::Warning && compacted.found.contains("no loss"), "{compacted:?}");
        let lag = DAY_MS.to_string();
        let patient = judged(&[("cleanup.policy", "compact"), ("min.compaction.lag.ms", &lag)]);
        assert_eq!(patient.status, Status::Ok);
        assert_eq!(judged(&[("cleanup.policy", "delete")]).status, Status::Ok);
    }

    #[test]
    fn records_that_would_be_rejected_for_their_size_are_a_warning() {
        let judged =
            |size: &str| message_size(&about(), &Settings::of(&[("max.message.bytes", size)])).status;
        assert_eq!(judged("16777216"), Status::Ok);
        assert_eq!(judged("16777217"), Status::Warning);
        assert_eq!(message_size(&about(), &Settings::default()).status, Status::Skipped);
    }

    #[test]
    fn copies_and_leaders_are_judged_by_partition() {
        let judged = |partitions: &[PartitionOverview]| replication(&about(), partitions).status;
        assert_eq!(judged(&[partition(0, 3, 3)]), Status::Ok);
        assert_eq!(judged(&[partition(0, 3, 3), partition(1, 3, 2)]), Status::Warning);
        assert_eq!(judged(&[partition(0, 1, 1)]), Status::Warning);
        let leaderless = PartitionOverview { has_leader: false, ..partition(4, 3, 0) };
        let found = leaders(&about(), &[partition(0, 3, 3), leaderless]);
        assert!(found.status == Status::Problem && found.found.ends_with(": 4"), "{found:?}");
    }

    #[test]
    fn the_number_of_copies_that_must_be_there_is_neither_one_nor_all() {
        let judged = |least: &str, copies| {
            let settings = Settings::of(&[("min.insync.replicas", least)]);
            in_sync(&about(), &settings, &[partition(0, copies, copies)]).status
        };
        assert_eq!(
            [judged("1", 3), judged("2", 3), judged("3", 3)],
            [Status::Warning, Status::Ok, Status::Warning]
        );
        // Of a single copy something else is said.
        assert_eq!(judged("1", 1), Status::Ok);
        let unclean =
            Settings::of(&[("unclean.leader.election.enable", "true"), ("min.insync.replicas", "2")]);
        assert_eq!(in_sync(&about(), &unclean, &[partition(0, 3, 3)]).status, Status::Warning);
    }

    #[test]
    fn a_missing_topic_is_one_problem_and_settings_that_may_not_be_seen_a_warning() {
        let mut missing = facts(&[]);
        missing.described =
            Err(Trouble::new(Kind::Absent, "topic orders does not exist; did you mean order?"));
        let findings = judge(&missing, None, OUTAGE);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].status == Status::Problem && findings[0].found.contains("did you mean"));
        let mut denied = facts(&[]);
        denied.settings = Err(Trouble::new(Kind::Denied, "no"));
        assert_eq!(of(&judge(&denied, None, OUTAGE), "topic.settings").status, Status::Warning);
        denied.settings = Err(Trouble::new(Kind::Failed, "unsupported"));
        assert_eq!(of(&judge(&denied, None, OUTAGE), "topic.settings").status, Status::Skipped);
    }

    #[test]
    fn reading_that_is_denied_or_does_not_answer_has_its_own_way_out() {
        let denied = read(&about(), &Err(Trouble::new(Kind::Denied, "no")));
        assert!(denied.status == Status::Problem && denied.way_out.unwrap().contains("READ"));
        let silent = read(&about(), &Err(Trouble::new(Kind::Silent, "no answer")));
        assert!(silent.way_out.unwrap().contains("advertise"));
        assert_eq!(read(&about(), &Ok(None)).status, Status::Ok);
    }
}
