//! Whether rows can be published to a topic.

use super::count;
use super::dead_letters::write;
use super::topics::leaders;
use crate::doctor::kafka::{DeadLetterFacts, PublishedFacts};
use crate::doctor::report::{About, Finding};
use crate::doctor::trouble::Trouble;

/// The findings about one topic that gets rows.
pub(super) fn judge(facts: &PublishedFacts) -> Vec<Finding> {
    let about = &About::Topic(facts.name.clone());
    match &facts.topic {
        Ok(topic) => judge_topic(about, facts.has_key, topic),
        Err(trouble) => vec![unreachable(about, trouble)],
    }
}

/// Only another cluster than the one that is read can be out of reach when this is asked: commits do not wait for it.
fn unreachable(about: &About, trouble: &Trouble) -> Finding {
    Finding::problem(
        "publish.exists",
        about,
        format!("its cluster cannot be asked: {}. Rows are published once it can", trouble.what),
        "look at `brokers` and `options` in `kafka` of `publish`, and at the network between the clouds",
    )
}

fn judge_topic(about: &About, has_key: bool, topic: &DeadLetterFacts) -> Vec<Finding> {
    let id = "publish.exists";
    if topic.partitions.is_empty() {
        return vec![Finding::problem(
            id,
            about,
            "the topic that rows are published to does not exist, or these credentials may not see it",
            "create the topic, correct `publish`, or allow READ and WRITE on it",
        )];
    }
    let number = u64::try_from(topic.partitions.len()).unwrap_or(u64::MAX);
    vec![
        Finding::ok(id, about, count(number, "partition")),
        write("publish.write", about, topic, "rows stay in the dataset alone"),
        Finding { id: "publish.leaders", ..leaders(about, &topic.partitions) },
        cleanup(about, has_key, topic),
    ]
}

fn cleanup(about: &About, has_key: bool, topic: &DeadLetterFacts) -> Finding {
    let id = "publish.cleanup";
    match &topic.settings {
        Ok(settings) if settings.compacts() && !has_key => Finding::problem(
            id,
            about,
            "the topic is compacted, and takes no record without a key",
            "give `publish` a `key` that is never null, or set `cleanup.policy: delete`",
        ),
        Ok(settings) if settings.compacts() => Finding::ok(id, about, "the newest row of each key is kept"),
        Ok(_) => Finding::ok(id, about, "records are not compacted"),
        Err(trouble) => Finding::skipped(id, about, &trouble.what),
    }
}

#[cfg(test)]
mod tests {
    use isobar_connectors::kafka::{PartitionOverview, TopicRights};

    use super::*;
    use crate::doctor::report::Status;
    use crate::doctor::settings::Settings;
    use crate::doctor::trouble::Kind;

    fn facts(has_key: bool, change: impl Fn(&mut DeadLetterFacts)) -> PublishedFacts {
        let mut topic = DeadLetterFacts {
            name: "scored".into(),
            partitions: vec![PartitionOverview { partition: 0, has_leader: true, replicas: 3, in_sync: 3 }],
            rights: Ok(Some(TopicRights { read: true, write: true })),
            settings: Ok(Settings::default()),
        };
        change(&mut topic);
        PublishedFacts { name: "scored".into(), has_key, topic: Ok(topic) }
    }

    fn status(findings: &[Finding], id: &str) -> Status {
        findings
            .iter()
            .find(|finding| finding.id == id)
            .unwrap_or_else(|| panic!("{id}: {findings:?}"))
            .status
    }

    #[test]
    fn a_topic_that_can_be_written_has_nothing_but_good_findings() {
        let findings = judge(&facts(false, |_| {}));
        assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:#?}");
        assert_eq!(findings.len(), 4);
    }

    #[test]
    fn only_a_compacted_topic_wants_a_key() {
        let compacted = |topic: &mut DeadLetterFacts| {
            topic.settings = Ok(Settings::of(&[("cleanup.policy", "compact")]));
        };
        assert_eq!(status(&judge(&facts(false, compacted)), "publish.cleanup"), Status::Problem);
        assert_eq!(status(&judge(&facts(true, compacted)), "publish.cleanup"), Status::Ok);
    }

    #[test]
    fn a_topic_that_is_not_there_or_not_reached_is_one_problem() {
        let absent = judge(&facts(true, |topic| topic.partitions.clear()));
        let silent = Err(Trouble::new(Kind::Silent, "no answer within 5s"));
        let away = judge(&PublishedFacts { topic: silent, ..facts(true, |_| {}) });
        for findings in [absent, away] {
            assert_eq!((findings.len(), status(&findings, "publish.exists")), (1, Status::Problem));
        }
        let unwritable =
            facts(true, |topic| topic.rights = Ok(Some(TopicRights { read: true, write: false })));
        assert_eq!(status(&judge(&unwritable), "publish.write"), Status::Problem);
    }
}
