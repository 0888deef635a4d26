//! What the cluster says about itself.

use super::count;
use crate::doctor::kafka::KafkaFacts;
use crate::doctor::report::{About, Finding};
use crate::doctor::trouble::{Kind, Trouble};
use crate::spec::{SourceTopics, TopicIdentity, Topology};

/// The findings about the cluster.
pub(super) fn judge(topology: &Topology, facts: &KafkaFacts) -> Vec<Finding> {
    let about = &About::Kafka;
    let overview = match &facts.overview {
        Ok(overview) => overview,
        Err(trouble) => {
            let rest = ["kafka.cluster_id", "kafka.topic_ids", "kafka.group"];
            let rest = rest.map(|id| Finding::skipped(id, about, "the cluster does not answer"));
            return std::iter::once(reachable(trouble)).chain(rest).collect();
        }
    };
    let brokers = u64::try_from(overview.brokers).unwrap_or(u64::MAX);
    let answers = format!("{} at {}", count(brokers, "broker"), facts.brokers);
    let mut findings = vec![Finding::ok("kafka.reachable", about, answers)];
    let told = overview.cluster_id.as_deref();
    findings.push(cluster_id(topology.kafka.cluster_id.as_deref(), told));
    let ids = facts.ids.as_ref().map(|ids| ids.as_ref().map(|_| ()));
    findings.push(topic_ids(topology.kafka.topic_identity, ids));
    findings.push(match &facts.group {
        None => Finding::skipped("kafka.group", about, "there is no topic to ask about"),
        Some(Ok(())) => {
            let found = format!("progress is shown to lag tools under group {}", topology.name);
            Finding::ok("kafka.group", about, found)
        }
        Some(Err(trouble)) => Finding::warning(
            "kafka.group",
            about,
            &trouble.what,
            format!(
                "allow READ on group {}, for lag tools only: isobar itself needs no group",
                topology.name
            ),
        ),
    });
    let patterns = topology.sources.iter().filter_map(|source| match &source.topics {
        SourceTopics::Matching(pattern) => Some((&source.name, pattern)),
        SourceTopics::Named(_) => None,
    });
    for (source, pattern) in patterns {
        let matching = overview.topics.keys().filter(|topic| pattern.matches(topic)).count() as u64;
        findings.push(if matching == 0 {
            let found = format!("no topic matches the pattern /{pattern}/ of source {source}");
            let way_out = "correct the pattern, or let the credentials describe the topics; one that appears later is read";
            Finding::warning("kafka.pattern", about, found, way_out)
        } else {
            let found = format!("{} of source {source} match /{pattern}/", count(matching, "topic"));
            Finding::ok("kafka.pattern", about, found)
        });
    }
    findings
}

fn reachable(trouble: &Trouble) -> Finding {
    let way_out = match trouble.kind {
        Kind::Denied => "check `kafka.options`: user, password or token, and `sasl.mechanism`",
        Kind::Misconfigured => "correct `kafka.options` in the specification, and what they refer to",
        _ => {
            "check `kafka.brokers`, the network from here, and that `security.protocol` is what the listener expects"
        }
    };
    Finding::problem("kafka.reachable", &About::Kafka, &trouble.what, way_out)
}

fn cluster_id(configured: Option<&str>, told: Option<&str>) -> Finding {
    let (id, about) = ("kafka.cluster_id", &About::Kafka);
    match (configured, told) {
        (Some(configured), Some(told)) if configured != told => Finding::ok(
            id,
            about,
            format!(
                "positions are kept under {configured}, as `kafka.cluster_id` says; the brokers say {told}"
            ),
        ),
        (Some(configured), _) => Finding::ok(id, about, configured),
        (None, Some(told)) => Finding::ok(id, about, told),
        (None, None) => Finding::problem(
            id,
            about,
            "the brokers do not tell a cluster id",
            "set `kafka.cluster_id` to a name of your own",
        ),
    }
}

fn topic_ids(identity: TopicIdentity, ids: Option<Result<(), &Trouble>>) -> Finding {
    let (id, about) = ("kafka.topic_ids", &About::Kafka);
    let Some(ids) = ids else {
        return Finding::skipped(id, about, "no topic was described");
    };
    match (identity, ids) {
        (TopicIdentity::Id, Ok(())) => {
            Finding::ok(id, about, "the brokers tell topic ids: a topic that is created anew is noticed")
        }
        (TopicIdentity::Id, Err(trouble)) => Finding::problem(
            id,
            about,
            &trouble.what,
            "use brokers of version 2.8 or newer, or set `kafka.topic_identity: name` before the first start",
        ),
        (TopicIdentity::Name, Ok(())) => Finding::ok(
            id,
            about,
            "topics are told apart by name, and the brokers would tell ids: a new topology is better off with \
             `topic_identity: id`, since a topic that is created anew is then noticed",
        ),
        (TopicIdentity::Name, Err(_)) => {
            Finding::ok(id, about, "topics are told apart by name; the brokers tell no ids")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn a_cluster_needs_an_id_from_somewhere() {
        assert_eq!(cluster_id(None, None).status, Status::Problem);
        assert_eq!(cluster_id(None, Some("a")).found, "a");
        assert_eq!(cluster_id(Some("b"), None).found, "b");
        let both = cluster_id(Some("b"), Some("a"));
        assert!(both.status == Status::Ok && both.found.contains('a') && both.found.contains('b'));
    }

    #[test]
    fn topic_ids_are_missed_only_where_they_are_asked_for() {
        let none = Trouble::new(Kind::Unsupported, "none");
        assert_eq!(topic_ids(TopicIdentity::Id, Some(Err(&none))).status, Status::Problem);
        for (identity, ids) in
            [(TopicIdentity::Id, Ok(())), (TopicIdentity::Name, Ok(())), (TopicIdentity::Name, Err(&none))]
        {
            assert_eq!(topic_ids(identity, Some(ids)).status, Status::Ok, "{identity:?} {ids:?}");
        }
        assert_eq!(topic_ids(TopicIdentity::Id, None).status, Status::Skipped);
    }

    #[test]
    fn refused_credentials_unreachable_brokers_and_wrong_options_have_different_ways_out() {
        let ways: Vec<String> = [Kind::Denied, Kind::Silent, Kind::Misconfigured]
            .iter()
            .map(|kind| reachable(&Trouble::new(*kind, "x")).way_out.unwrap())
            .collect();
        assert!(ways[0].contains("sasl.mechanism") && ways[1].contains("kafka.brokers"));
        assert!(ways[2].contains("specification"));
    }
}
