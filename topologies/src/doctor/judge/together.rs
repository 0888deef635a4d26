//! Which clouds count, what is decided, and whether a start would be refused.

use super::count;
use crate::commit::UNPUBLISHED_MAX;
use crate::commit::format::{Claim, Identity};
use crate::commit::rules::are_same_clouds;
use crate::doctor::Facts;
use crate::doctor::clouds::CloudFacts;
use crate::doctor::report::{About, Finding};
use crate::doctor::together::{BEHIND_MAX, TogetherFacts};
use crate::doctor::trouble::{Kind, Look};
use crate::scrub::{Standing, State};
use crate::spec::Topology;

const TOGETHER: About = About::Together;

/// Whether the datasets can be compiled.
pub(super) fn plans(facts: &TogetherFacts) -> Finding {
    match &facts.plans {
        Ok(()) => {
            Finding::ok("isobar.plan", &About::Isobar, "the specification is right, and its queries compile")
        }
        Err(trouble) => {
            let way_out = "correct the specification; `isobar plan` shows what it would do";
            Finding::problem("isobar.plan", &About::Isobar, &trouble.what, way_out)
        }
    }
}

/// Whether a cloud counts, and how far it is.
pub(super) fn of_cloud(cloud: &CloudFacts, index: usize, facts: &TogetherFacts) -> Vec<Finding> {
    let about = &About::Cloud(cloud.name.clone());
    let identity = cloud.access.as_ref().and_then(|access| access.identity.as_ref().ok());
    let state = facts.standing.as_ref().ok().and_then(|standing| standing.states.get(index));
    let has_identity = matches!(identity, Some(Some(_)));
    let mut findings = vec![membership(about, &cloud.name, state, has_identity, facts.is_first_start)];
    if let (Some(State::Member), Some(Some(behind))) = (state, facts.behind.get(index)) {
        findings.push(published(about, behind));
    }
    findings
}

fn membership(
    about: &About,
    name: &str,
    state: Option<&State>,
    has_identity: bool,
    is_first_start: bool,
) -> Finding {
    let id = "cloud.membership";
    match state {
        Some(State::Member) => Finding::ok(id, about, "it counts"),
        _ if is_first_start && !has_identity => {
            Finding::ok(id, about, "it is not registered yet; the first start does that")
        }
        Some(State::Lost(why)) => Finding::problem(
            id,
            about,
            format!("it does not count: {why}"),
            format!("rebuild it, and have the others count it again: isobar scrub TOPOLOGY --readmit {name}"),
        ),
        Some(State::Foreign(why)) => Finding::problem(
            id,
            about,
            format!("it does not count: {why}"),
            "correct the cloud's `url` or its name, or use a prefix of its own for this topology",
        ),
        Some(State::Silent(_)) | None => Finding::skipped(id, about, "it does not tell whose it is"),
    }
}

/// Versions on their way are usual: they are published after they are decided.
fn published(about: &About, behind: &Look<u64>) -> Finding {
    let id = "cloud.published";
    // Each decision may have a version in a dataset and in its quarantine.
    let usual = 2 * UNPUBLISHED_MAX;
    match behind {
        Err(trouble) => Finding::skipped(id, about, &trouble.what),
        Ok(0) => Finding::ok(id, about, "it has every version that is decided"),
        Ok(behind) if *behind <= usual => {
            Finding::ok(id, about, format!("{} on the way to it", count(*behind, "version")))
        }
        Ok(behind) => {
            let least = if *behind > BEHIND_MAX { "at least " } else { "" };
            let found = format!("it is {least}{} behind", count(*behind, "version"));
            let way_out =
                "let the topology run, which fills it; if nothing changes, see its logs and `isobar scrub`";
            Finding::warning(id, about, found, way_out)
        }
    }
}

/// The findings about all clouds together.
pub(super) fn judge(topology: &Topology, facts: &Facts) -> Vec<Finding> {
    let together = &facts.together;
    let ours: Vec<String> = topology.clouds.iter().map(|cloud| cloud.name.clone()).collect();
    let identities =
        facts.clouds.iter().filter_map(|cloud| cloud.access.as_ref()?.identity.as_ref().ok()?.as_ref());
    let mut findings = vec![registered(identities, &ours)];
    match &together.standing {
        Ok(standing) => {
            findings.push(majority(standing, together.is_first_start, &facts.clouds));
            findings.extend(damaged(standing));
            findings.push(decided(standing, together.is_first_start));
        }
        Err(trouble) => {
            let way_out = match trouble.kind {
                Kind::Failed => "look at what the clouds hold: `isobar scrub TOPOLOGY`",
                _ => "bring enough clouds back, and look again",
            };
            findings.push(Finding::problem("together.decided", &TOGETHER, &trouble.what, way_out));
        }
    }
    findings.push(leader(together.claim.as_ref(), together.is_first_start));
    findings.push(topics(together.topics.as_ref()));
    findings.extend(together.shapes.iter().map(|(dataset, shape)| self::shape(dataset, shape)));
    findings
}

fn registered<'a>(identities: impl Iterator<Item = &'a Identity>, ours: &[String]) -> Finding {
    let id = "together.clouds";
    let names = ours.join(", ");
    let mut known = false;
    for identity in identities {
        known = true;
        if !are_same_clouds(&identity.clouds, ours) {
            let found = format!(
                "the topology is registered in [{}], and the specification names [{names}]",
                identity.clouds.join(", ")
            );
            let way_out = "use the registered names in the registered order, or a topology name of its own";
            return Finding::problem(id, &TOGETHER, found, way_out);
        }
    }
    match known {
        true => Finding::ok(id, &TOGETHER, format!("registered in [{names}], as the specification says")),
        false => Finding::ok(id, &TOGETHER, "no cloud is registered yet"),
    }
}

/// Whether enough clouds count: more than half, and at a first start all.
fn majority(standing: &Standing, is_first_start: bool, clouds: &[CloudFacts]) -> Finding {
    let id = "together.majority";
    let all = standing.states.len();
    if is_first_start {
        return Finding::ok(
            id,
            &TOGETHER,
            format!(
                "{} answered and hold nothing yet; a first start needs all of them",
                count(clouds.len() as u64, "cloud")
            ),
        );
    }
    let needed = all / 2 + 1;
    let members = standing.states.iter().filter(|state| **state == State::Member).count();
    let found = format!("{members} of {all} clouds count and answer; {needed} are needed");
    if members < needed {
        let way_out = "bring clouds back: until then nothing is decided, and nothing is lost";
        return Finding::problem(id, &TOGETHER, found, way_out);
    }
    if members == needed && all > needed {
        let way_out = "bring the missing cloud back: with one less nothing can be decided";
        return Finding::warning(id, &TOGETHER, found, way_out);
    }
    Finding::ok(id, &TOGETHER, found)
}

fn damaged(standing: &Standing) -> Option<Finding> {
    let first = standing.damaged.first()?;
    let more = standing.damaged.len() - 1;
    let found = match more {
        0 => format!("a record of the control log is damaged: {first}"),
        _ => format!("records of the control log are damaged: {first}, and {more} more"),
    };
    let way_out = "look at it with `isobar scrub TOPOLOGY`; a cloud whose log is damaged can be readmitted";
    Some(Finding::problem("together.control_log", &TOGETHER, found, way_out))
}

fn decided(standing: &Standing, is_first_start: bool) -> Finding {
    let id = "together.decided";
    match &standing.chain {
        Some(chain) => {
            let tables = count(chain.tables.len() as u64, "table");
            let epoch = standing.epoch.unwrap_or_default();
            let found =
                format!("decision {} in {tables}; the newest log is that of epoch {epoch}", chain.sequence);
            Finding::ok(id, &TOGETHER, found)
        }
        None if is_first_start => Finding::ok(id, &TOGETHER, "nothing yet: this would be the first start"),
        None => Finding::skipped(id, &TOGETHER, "too few clouds tell what is decided"),
    }
}

/// Who led last, for whoever is about to start: a claim does not say whether that process still runs.
fn leader(claim: Option<&Claim>, is_first_start: bool) -> Finding {
    let id = "together.leader";
    match claim {
        Some(claim) => {
            let address = claim.address.as_ref().map(|it| format!(", reached at {it}")).unwrap_or_default();
            let found = format!("epoch {} was claimed by {}{address}", claim.epoch, claim.holder);
            Finding::ok(id, &TOGETHER, found)
        }
        None if is_first_start => Finding::ok(id, &TOGETHER, "nobody led yet"),
        None => Finding::skipped(id, &TOGETHER, "no cloud tells who led last"),
    }
}

/// Whether a start finds the topics that the datasets have read.
fn topics(outcome: Option<&Look<()>>) -> Finding {
    let id = "together.topics";
    match outcome {
        None => Finding::skipped(id, &TOGETHER, "the topics, or what was read of them, are not known"),
        Some(Ok(())) => Finding::ok(id, &TOGETHER, "the topics are those that the datasets have read"),
        Some(Err(trouble)) => match trouble.kind {
            Kind::Silent => Finding::skipped(id, &TOGETHER, &trouble.what),
            Kind::Misconfigured => Finding::problem(
                id,
                &TOGETHER,
                &trouble.what,
                "correct `kafka` or the sources in the specification",
            ),
            _ => Finding::problem(
                id,
                &TOGETHER,
                &trouble.what,
                "point the topology at the original topics, or start a new topology name",
            ),
        },
    }
}

/// Whether a dataset has the shape that its table has.
fn shape(dataset: &str, outcome: &Look<()>) -> Finding {
    let id = "together.schema";
    match outcome {
        Ok(()) => Finding::ok(id, &TOGETHER, format!("{dataset} has the columns of its table")),
        Err(trouble) if trouble.kind == Kind::Misconfigured => {
            let way_out = "give the changed dataset a new name, or change its query back";
            Finding::problem(id, &TOGETHER, &trouble.what, way_out)
        }
        Err(trouble) => Finding::skipped(id, &TOGETHER, format!("{dataset}: {}", trouble.what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::Epoch;
    use crate::doctor::report::Status;
    use crate::doctor::trouble::Trouble;

    fn cloud() -> About {
        About::Cloud("azure".into())
    }

    fn standing(states: Vec<State>) -> Standing {
        Standing { states, chain: None, epoch: Some(Epoch(1)), damaged: Vec::new() }
    }

    fn silent() -> State {
        State::Silent("late".into())
    }

    #[test]
    fn two_of_three_are_enough_and_a_reason_to_worry() {
        use State::Member;
        let status = |states| majority(&standing(states), false, &[]).status;
        assert_eq!(status(vec![Member, Member, Member]), Status::Ok);
        assert_eq!(status(vec![Member, silent(), Member]), Status::Warning);
        assert_eq!(status(vec![Member, silent(), silent()]), Status::Problem);
        assert_eq!(status(vec![Member, Member]), Status::Ok);
        assert_eq!(status(vec![Member, silent()]), Status::Problem);
        assert_eq!(status(vec![Member]), Status::Ok);
        let lost = State::Lost("no identity".into());
        assert_eq!(majority(&standing(vec![lost]), true, &[]).status, Status::Ok);
    }

    #[test]
    fn a_cloud_without_identity_is_new_before_the_first_start_and_lost_after_it() {
        let lost = State::Lost("it has no identity".into());
        assert_eq!(membership(&cloud(), "azure", Some(&lost), false, true).status, Status::Ok);
        let after = membership(&cloud(), "azure", Some(&lost), false, false);
        assert_eq!(after.status, Status::Problem);
        assert!(after.way_out.unwrap().contains("--readmit azure"));
        let foreign = State::Foreign("it belongs to group x".into());
        assert_eq!(membership(&cloud(), "azure", Some(&foreign), true, true).status, Status::Problem);
        assert_eq!(membership(&cloud(), "azure", Some(&State::Member), true, false).status, Status::Ok);
        assert_eq!(membership(&cloud(), "azure", Some(&silent()), false, false).status, Status::Skipped);
    }

    #[test]
    fn versions_on_their_way_are_usual_and_many_are_not() {
        let status = |behind| published(&cloud(), &Ok(behind)).status;
        let usual = 2 * UNPUBLISHED_MAX;
        assert_eq!([status(0), status(usual)], [Status::Ok; 2]);
        assert_eq!(status(usual + 1), Status::Warning);
        assert!(published(&cloud(), &Ok(BEHIND_MAX + 1)).found.contains("at least"));
    }

    #[test]
    fn other_clouds_than_registered_are_a_problem() {
        let identity = |clouds: &[&str]| Identity {
            format: crate::commit::format::FORMAT,
            topology: "t".into(),
            group: "g".into(),
            cloud: "aws".into(),
            clouds: clouds.iter().map(|name| (*name).to_owned()).collect(),
        };
        let ours = ["aws".to_owned(), "azure".to_owned()];
        let (same, other) = (identity(&["aws", "azure"]), identity(&["aws", "gcp"]));
        assert_eq!(registered(std::iter::once(&same), &ours).status, Status::Ok);
        let problem = registered([&same, &other].into_iter(), &ours);
        assert!(problem.status == Status::Problem && problem.found.contains("gcp"), "{problem:?}");
        assert_eq!(registered(std::iter::empty(), &ours).found, "no cloud is registered yet");
    }

    #[test]
    fn what_a_start_would_refuse_is_a_problem_and_what_is_not_known_is_not() {
        let refused = |kind| Err(Trouble::new(kind, "x"));
        assert_eq!(shape("d", &refused(Kind::Misconfigured)).status, Status::Problem);
        assert_eq!(shape("d", &refused(Kind::Silent)).status, Status::Skipped);
        assert_eq!(shape("d", &Ok(())).status, Status::Ok);
        assert_eq!(topics(Some(&refused(Kind::Failed))).status, Status::Problem);
        assert_eq!(topics(Some(&refused(Kind::Misconfigured))).status, Status::Problem);
        assert_eq!(topics(Some(&refused(Kind::Silent))).status, Status::Skipped);
        assert_eq!(topics(None).status, Status::Skipped);
    }

    #[test]
    fn damage_in_the_control_log_is_named_once() {
        let mut standing = standing(vec![State::Member]);
        assert!(damaged(&standing).is_none());
        standing.damaged = vec!["aws: a".into(), "aws: b".into()];
        let found = damaged(&standing).unwrap();
        assert!(found.status == Status::Problem && found.found.ends_with("aws: a, and 1 more"), "{found:?}");
    }
}
