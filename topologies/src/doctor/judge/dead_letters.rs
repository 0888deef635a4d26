//! Whether dead letters can be sent to a topic.

use isobar_connectors::kafka::TopicRights;

use super::count;
use super::topics::leaders;
use crate::doctor::kafka::DeadLetterFacts;
use crate::doctor::report::{About, Finding};

/// The findings about one topic that gets dead letters.
pub(super) fn judge(facts: &DeadLetterFacts) -> Vec<Finding> {
    let about = &About::Topic(facts.name.clone());
    let id = "dead_letter.exists";
    if facts.partitions.is_empty() {
        return vec![Finding::problem(
            id,
            about,
            "the topic of dead letters does not exist, or these credentials may not see it: a start is refused",
            "create the topic, correct `dead_letter`, or allow READ and WRITE on it",
        )];
    }
    let number = u64::try_from(facts.partitions.len()).unwrap_or(u64::MAX);
    let alone = "rejected records stay in the quarantine alone";
    let write = write("dead_letter.write", about, facts, alone);
    let mut findings = vec![Finding::ok(id, about, count(number, "partition")), write];
    findings.push(Finding { id: "dead_letter.leaders", ..leaders(about, &facts.partitions) });
    findings.push(cleanup(about, facts));
    findings
}

/// Whether the topic may be written; `otherwise` is what follows if not.
pub(super) fn write(id: &'static str, about: &About, facts: &DeadLetterFacts, otherwise: &str) -> Finding {
    let missing = match &facts.rights {
        Ok(Some(TopicRights { read: true, write: true })) => {
            return Finding::ok(id, about, "may be written, and progress noted");
        }
        Ok(Some(TopicRights { write: false, .. })) => "WRITE",
        Ok(Some(TopicRights { .. })) => "READ, which noting the progress takes",
        Ok(None) => return Finding::skipped(id, about, "the brokers do not tell what is allowed"),
        Err(trouble) => return Finding::skipped(id, about, &trouble.what),
    };
    Finding::problem(
        id,
        about,
        format!("these credentials lack {missing}: {otherwise}"),
        "allow READ and WRITE on the topic, DESCRIBE and WRITE on the transactional id, and READ on the group",
    )
}

fn cleanup(about: &About, facts: &DeadLetterFacts) -> Finding {
    let id = "dead_letter.cleanup";
    match &facts.settings {
        Ok(settings) if settings.compacts() => Finding::warning(
            id,
            about,
            "the topic is compacted: it takes no record without a key, and keeps the newest of each key only",
            "set `cleanup.policy: delete`",
        ),
        Ok(_) => Finding::ok(id, about, "records are not compacted"),
        Err(trouble) => Finding::skipped(id, about, &trouble.what),
    }
}

#[cfg(test)]
mod tests {
    use isobar_connectors::kafka::PartitionOverview;

    use super::*;
    use crate::doctor::report::Status;
    use crate::doctor::settings::Settings;
    use crate::doctor::trouble::{Kind, Trouble};

    fn facts() -> DeadLetterFacts {
        DeadLetterFacts {
            name: "rejected".into(),
            partitions: vec![PartitionOverview { partition: 0, has_leader: true, replicas: 3, in_sync: 3 }],
            rights: Ok(Some(TopicRights { read: true, write: true })),
            settings: Ok(Settings::default()),
        }
    }

    fn of<'a>(findings: &'a [Finding], id: &str) -> &'a Finding {
        findings.iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("{id}: {findings:?}"))
    }

    #[test]
    fn a_topic_that_can_be_written_has_nothing_but_good_findings() {
        let findings = judge(&facts());
        assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:#?}");
        assert_eq!(findings.len(), 4);
    }

    #[test]
    fn a_topic_that_is_missing_is_one_problem() {
        let findings = judge(&DeadLetterFacts { partitions: Vec::new(), ..facts() });
        assert_eq!(findings.len(), 1);
        assert_eq!(of(&findings, "dead_letter.exists").status, Status::Problem);
    }

    #[test]
    fn what_is_not_allowed_is_a_problem_and_what_is_not_told_is_not() {
        let status = |rights| of(&judge(&DeadLetterFacts { rights, ..facts() }), "dead_letter.write").status;
        for (read, write) in [(true, false), (false, true), (false, false)] {
            assert_eq!(status(Ok(Some(TopicRights { read, write }))), Status::Problem);
        }
        assert_eq!(status(Ok(None)), Status::Skipped);
        assert_eq!(status(Err(Trouble::new(Kind::Silent, "no answer"))), Status::Skipped);
    }

    #[test]
    fn a_compacted_topic_and_one_without_a_leader_do_not_do() {
        let compacted = Settings::of(&[("cleanup.policy", "compact")]);
        let findings = judge(&DeadLetterFacts { settings: Ok(compacted), ..facts() });
        assert_eq!(of(&findings, "dead_letter.cleanup").status, Status::Warning);
        let leaderless = PartitionOverview { partition: 0, has_leader: false, replicas: 1, in_sync: 0 };
        let findings = judge(&DeadLetterFacts { partitions: vec![leaderless], ..facts() });
        assert_eq!(of(&findings, "dead_letter.leaders").status, Status::Problem);
    }
}
