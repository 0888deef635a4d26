//! Whether the registry answers, lets us in and speaks the API, and whether its newest schemas fit the contracts.

use crate::doctor::registry::{Judgement, Newest, RegistryFacts, SubjectFacts};
use crate::doctor::report::{About, Finding};
use crate::doctor::trouble::{Kind, Trouble};

const REACHABLE: &str = "registry.reachable";
const CREDENTIALS: &str = "registry.credentials";
const API: &str = "registry.api";
const SCHEMA: &str = "registry.schema";

/// Problems of a schema shown.
const PROBLEMS_MAX: usize = 5;

/// The findings about the registry.
pub(super) fn judge(facts: &RegistryFacts) -> Vec<Finding> {
    let about = &About::Registry;
    let asked = match &facts.opened {
        Ok(()) => facts.subjects.iter().map(|subject| subject.newest.as_ref().map(|_| ())),
        Err(trouble) => {
            let way_out = "correct `registry` in the specification, and what its options refer to";
            return vec![Finding::problem(REACHABLE, about, &trouble.what, way_out)];
        }
    };
    let answers: Vec<Result<(), &Trouble>> = asked.collect();
    let mut findings = connection(&facts.urls, &answers);
    findings.extend(facts.subjects.iter().map(of_subject));
    findings
}

/// How far a question gets: to a server, past its door, to a registry.
fn connection(urls: &str, answers: &[Result<(), &Trouble>]) -> Vec<Finding> {
    let about = &About::Registry;
    let ok = |id, found: &str| Finding::ok(id, about, found);
    let trouble = match answers.iter().find(|answer| answer.is_ok()) {
        Some(_) => None,
        None => answers.iter().find_map(|answer| answer.err()),
    };
    let Some(trouble) = trouble else {
        if answers.is_empty() {
            return vec![Finding::skipped(REACHABLE, about, "no topic's records name its schemas")];
        }
        return vec![
            ok(REACHABLE, &format!("{urls} answers")),
            ok(CREDENTIALS, "it lets us read"),
            ok(API, "it speaks Confluent's API"),
        ];
    };
    let skipped = |id| Finding::skipped(id, about, "no question got that far");
    match trouble.kind {
        Kind::Denied => vec![
            ok(REACHABLE, &format!("{urls} answers")),
            Finding::problem(
                CREDENTIALS,
                about,
                &trouble.what,
                "check `registry.options`, and that these credentials may read subjects and schemas",
            ),
            skipped(API),
        ],
        Kind::Unsupported => vec![
            ok(REACHABLE, &format!("{urls} answers")),
            skipped(CREDENTIALS),
            Finding::problem(
                API,
                about,
                &trouble.what,
                "correct `registry.url`: it must be the base of Confluent's API, such as …/apis/ccompat/v7 for Apicurio",
            ),
        ],
        _ => vec![
            Finding::problem(
                REACHABLE,
                about,
                &trouble.what,
                "check `registry.url`, the network from here, and the certificates: records whose schemas are not known \
                 yet wait until it answers",
            ),
            skipped(CREDENTIALS),
            skipped(API),
        ],
    }
}

fn of_subject(facts: &SubjectFacts) -> Finding {
    let about = &About::Registry;
    let SubjectFacts { source, topic, subject, newest } = facts;
    let Newest { version, id, judgement } = match newest {
        Ok(Some(newest)) => newest,
        Ok(None) => {
            let found = format!(
                "there is no subject {subject}: producers of {topic} name theirs in another way, or wrote none yet"
            );
            return Finding::skipped(SCHEMA, about, found);
        }
        Err(trouble) => return Finding::skipped(SCHEMA, about, format!("{subject}: {}", trouble.what)),
    };
    let what = format!("version {version} of {subject} (id {id})");
    match judgement {
        Judgement::Compared(problems) if problems.is_empty() => {
            Finding::ok(SCHEMA, about, format!("records of {what} become rows of {source}"))
        }
        Judgement::Compared(problems) => {
            let mut shown = problems.iter().take(PROBLEMS_MAX).cloned().collect::<Vec<_>>().join("; ");
            if problems.len() > PROBLEMS_MAX {
                shown.push_str(&format!("; and {} more", problems.len() - PROBLEMS_MAX));
            }
            let found = format!("records of {what} do not all become rows of {source}: {shown}");
            let way_out = format!(
                "change `fields` of source {source}, or the schema; `isobar schema diff` shows both side by side"
            );
            Finding::warning(SCHEMA, about, found, way_out)
        }
        Judgement::NotCompared => {
            let found =
                format!("{what} is a JSON Schema; records are held against `fields` of {source} one by one");
            Finding::ok(SCHEMA, about, found)
        }
        Judgement::Unusable(why) => {
            let way_out = "register a schema that can be used: records with this one land in the quarantine";
            Finding::warning(SCHEMA, about, format!("{what} cannot be used: {why}"), way_out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;
    use crate::doctor::trouble::Look;

    fn subject(newest: Look<Option<Newest>>) -> SubjectFacts {
        let (source, topic) = ("orders".to_owned(), "orders".to_owned());
        SubjectFacts { source, topic, subject: "orders-value".into(), newest }
    }

    fn facts(newest: Vec<Look<Option<Newest>>>) -> RegistryFacts {
        let subjects = newest.into_iter().map(subject).collect();
        RegistryFacts { urls: "http://registry/".into(), opened: Ok(()), subjects }
    }

    fn newest(judgement: Judgement) -> Look<Option<Newest>> {
        Ok(Some(Newest { version: 3, id: 7, judgement }))
    }

    fn statuses(findings: &[Finding]) -> Vec<(&'static str, Status)> {
        findings.iter().map(|finding| (finding.id, finding.status)).collect()
    }

    #[test]
    fn a_registry_that_is_away_refuses_or_is_none_is_told_apart() {
        use Status::{Ok as Well, Problem, Skipped};
        for (kind, expected) in [
            (Kind::Silent, [Problem, Skipped, Skipped]),
            (Kind::Denied, [Well, Problem, Skipped]),
            (Kind::Unsupported, [Well, Skipped, Problem]),
        ] {
            let findings = judge(&facts(vec![Err(Trouble::new(kind, "said so"))]));
            let ids = [REACHABLE, CREDENTIALS, API].into_iter().zip(expected);
            let expected: Vec<_> = ids.chain([(SCHEMA, Skipped)]).collect();
            assert_eq!(statuses(&findings), expected, "{kind:?}");
        }
    }

    #[test]
    fn one_answer_shows_that_the_registry_is_there_whatever_became_of_the_others() {
        let findings = judge(&facts(vec![Err(Trouble::new(Kind::Silent, "late")), Ok(None)]));
        let expected = [
            (REACHABLE, Status::Ok),
            (CREDENTIALS, Status::Ok),
            (API, Status::Ok),
            (SCHEMA, Status::Skipped),
            (SCHEMA, Status::Skipped),
        ];
        assert_eq!(statuses(&findings), expected);
        assert_eq!(judge(&facts(Vec::new()))[0].status, Status::Skipped);
    }

    #[test]
    fn a_schema_that_does_not_fit_the_contract_is_a_warning_that_says_why() {
        let findings = judge(&facts(vec![newest(Judgement::Compared(vec!["field a is required".into()]))]));
        let schema = &findings[3];
        assert_eq!(schema.status, Status::Warning);
        assert!(
            schema.found.contains("version 3 of orders-value (id 7)") && schema.found.contains("field a")
        );
        for judgement in [Judgement::Compared(Vec::new()), Judgement::NotCompared] {
            assert_eq!(judge(&facts(vec![newest(judgement)]))[3].status, Status::Ok);
        }
        let unusable = judge(&facts(vec![newest(Judgement::Unusable("too large".into()))]));
        assert_eq!(unusable[3].status, Status::Warning);
    }

    #[test]
    fn a_client_that_cannot_be_made_names_the_specification() {
        let opened = Err(Trouble::new(Kind::Misconfigured, "registry: token: not set"));
        let findings = judge(&RegistryFacts { opened, ..facts(Vec::new()) });
        assert_eq!(statuses(&findings), [(REACHABLE, Status::Problem)]);
    }
}
