//! What a cloud let us do.

use crate::doctor::clouds::{CloudFacts, Writing};
use crate::doctor::report::{About, Finding};
use crate::doctor::trouble::{Kind, Look, Trouble};

/// The findings about one cloud.
pub(super) fn judge(facts: &CloudFacts, is_first_start: bool) -> Vec<Finding> {
    let about = About::Cloud(facts.name.clone());
    let Some(access) = facts.access.as_ref() else {
        let why = facts.opened.as_ref().err().map(|trouble| trouble.what.clone()).unwrap_or_default();
        let way_out = "correct the cloud's `url` and `options` in the specification, and what they refer to";
        let settings = Finding::problem("cloud.settings", &about, why, way_out);
        return std::iter::once(settings).chain(unknown(&about, "it could not be opened")).collect();
    };
    let mut findings = vec![Finding::ok("cloud.settings", &about, format!("{} can be opened", facts.url))];
    let Some(writing) = &access.writing else {
        findings.push(match is_first_start {
            true => Finding::ok(
                "cloud.reachable",
                &about,
                "its directory is not made ready yet; the first start does that",
            ),
            false => Finding::problem(
                "cloud.reachable",
                &about,
                format!("{} is missing, or is not the directory that was registered", facts.url),
                "mount it again; if what it held is lost, rebuild it with `isobar scrub TOPOLOGY --readmit CLOUD`",
            ),
        });
        let why = "nothing can be written before the directory is made ready";
        findings.extend(unknown(&about, why).into_iter().filter(|finding| finding.id != "cloud.reachable"));
        return findings;
    };
    let list = access.list.as_ref().map(|_| ());
    // Without a bucket nothing is found in it either, which reading alone does not tell from an object that is not there.
    let read = match list {
        Err(trouble) if trouble.kind == Kind::Absent => Err(trouble),
        _ => access.identity.as_ref().map(|_| ()),
    };
    let looks = looks(list, read, writing);
    if let Some(trouble) = silence(&looks) {
        findings.push(Finding::problem(
            "cloud.reachable",
            &about,
            trouble.what.clone(),
            "check `url`, `endpoint` and `region`, the network from here, and the provider's status",
        ));
        let why = "it does not answer";
        findings.extend(unknown(&about, why).into_iter().filter(|finding| finding.id != "cloud.reachable"));
        return findings;
    }
    findings.push(Finding::ok("cloud.reachable", &about, "it answers"));
    findings.extend(looks.map(|look| look.judge(&about)));
    findings
}

/// Everything that is asked of a cloud, when nothing of it is known.
fn unknown(about: &About, why: &str) -> Vec<Finding> {
    let ids = [
        "cloud.reachable",
        "cloud.list",
        "cloud.read",
        "cloud.conditional_writes",
        "cloud.write",
        "cloud.delete",
        "cloud.multipart",
    ];
    ids.map(|id| Finding::skipped(id, about, why)).into()
}

/// One thing that was tried.
struct Tried<'a> {
    id: &'static str,
    outcome: Result<(), &'a Trouble>,
    /// What is said where it worked.
    ok: &'static str,
    /// What the credentials must be allowed to do.
    needs: &'static str,
}

fn looks<'a>(
    list: Result<(), &'a Trouble>,
    read: Result<(), &'a Trouble>,
    writing: &'a Writing,
) -> [Tried<'a>; 6] {
    fn outcome<T>(look: &Look<T>) -> Result<(), &Trouble> {
        look.as_ref().map(|_| ())
    }
    [
        Tried { id: "cloud.list", outcome: list, ok: "may list", needs: "list below the prefix" },
        Tried { id: "cloud.read", outcome: read, ok: "may read", needs: "read objects below the prefix" },
        Tried {
            id: "cloud.conditional_writes",
            outcome: outcome(&writing.conditional),
            ok: "of several creates of one object one succeeds, and an outdated update fails",
            needs: "create objects below `control/`",
        },
        Tried {
            id: "cloud.write",
            outcome: outcome(&writing.file),
            ok: "a file was written and read back",
            needs: "create and overwrite objects below `datasets/`",
        },
        Tried {
            id: "cloud.delete",
            outcome: outcome(&writing.delete),
            ok: "may delete below `datasets/`",
            needs: "delete objects below `datasets/`",
        },
        Tried {
            id: "cloud.multipart",
            outcome: outcome(&writing.multipart),
            ok: "a file was written in parts",
            needs: "write objects in parts below `datasets/`",
        },
    ]
}

/// Why the cloud does not answer, if it answered to nothing.
fn silence<'a>(looks: &[Tried<'a>]) -> Option<&'a Trouble> {
    let silent = |look: &Tried<'a>| look.outcome.err().filter(|trouble| trouble.kind == Kind::Silent);
    looks.iter().all(|look| silent(look).is_some()).then(|| silent(&looks[0])).flatten()
}

impl Tried<'_> {
    fn judge(&self, about: &About) -> Finding {
        let Err(trouble) = self.outcome else { return Finding::ok(self.id, about, self.ok) };
        // Some stores answer a deletion with a list of what was refused, which their clients report as a failure of any kind.
        let is_deletion = self.id == "cloud.delete";
        let way_out = match trouble.kind {
            kind if kind == Kind::Denied || is_deletion => format!(
                "check the credentials, and let them {}: deploy/permissions/ has a policy of exactly what is needed",
                self.needs
            ),
            Kind::Absent => "create the bucket or container, or correct `url`".to_owned(),
            Kind::Silent => "look again; if it stays, check the network and the provider's status".to_owned(),
            Kind::Unsupported if self.id == "cloud.conditional_writes" => {
                "use a store, or a version or setting of it, that keeps its word: without it two writers could \
                 overwrite each other"
                    .to_owned()
            }
            Kind::Unsupported => "use a store that can do it".to_owned(),
            Kind::Misconfigured => "correct the cloud's options in the specification".to_owned(),
            _ => "see what the store says: credentials that expired, or something that stands in front of it".to_owned(),
        };
        // Files are deleted only by maintenance, which waits; a topology runs without.
        if is_deletion {
            return Finding::warning(self.id, about, &trouble.what, way_out);
        }
        Finding::problem(self.id, about, &trouble.what, way_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::clouds::{Access, Written};
    use crate::doctor::report::Status;

    fn trouble(kind: Kind) -> Trouble {
        Trouble::new(kind, "said so")
    }

    fn facts() -> CloudFacts {
        let written = Written { before_ms: 1, after_ms: 2, stored_ms: 1 };
        let writing = Writing { conditional: Ok(()), file: Ok(written), delete: Ok(()), multipart: Ok(()) };
        CloudFacts {
            name: "aws".into(),
            url: "s3://b/p".into(),
            opened: Ok(()),
            access: Some(Access { list: Ok(true), identity: Ok(None), writing: Some(writing) }),
        }
    }

    fn statuses(findings: &[Finding]) -> Vec<(&'static str, Status)> {
        findings.iter().map(|finding| (finding.id, finding.status)).collect()
    }

    fn of<'a>(findings: &'a [Finding], id: &str) -> &'a Finding {
        findings.iter().find(|finding| finding.id == id).unwrap()
    }

    #[test]
    fn a_cloud_that_lets_us_do_everything_is_well() {
        let findings = judge(&facts(), false);
        assert_eq!(findings.len(), 8);
        assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:?}");
    }

    #[test]
    fn a_cloud_that_never_answers_is_one_problem_and_the_rest_is_unknown() {
        let mut facts = facts();
        facts.access = Some(Access {
            list: Err(trouble(Kind::Silent)),
            identity: Err(trouble(Kind::Silent)),
            writing: Some(Writing {
                conditional: Err(trouble(Kind::Silent)),
                file: Err(trouble(Kind::Silent)),
                delete: Err(trouble(Kind::Silent)),
                multipart: Err(trouble(Kind::Silent)),
            }),
        });
        let findings = judge(&facts, false);
        let problems = findings.iter().filter(|finding| finding.status == Status::Problem).count();
        assert_eq!((problems, of(&findings, "cloud.reachable").status), (1, Status::Problem));
        assert_eq!(of(&findings, "cloud.list").status, Status::Skipped);
    }

    #[test]
    fn each_permission_is_judged_by_itself() {
        let mut facts = facts();
        let writing = facts.access.as_mut().and_then(|access| access.writing.as_mut()).unwrap();
        writing.delete = Err(trouble(Kind::Denied));
        writing.multipart = Err(trouble(Kind::Denied));
        writing.conditional = Err(trouble(Kind::Unsupported));
        let findings = judge(&facts, false);
        assert_eq!(of(&findings, "cloud.delete").status, Status::Warning);
        assert_eq!(of(&findings, "cloud.multipart").status, Status::Problem);
        let multipart = of(&findings, "cloud.multipart").way_out.as_deref().unwrap();
        assert!(multipart.contains("in parts") && multipart.contains("deploy/permissions"), "{multipart}");
        let conditional = of(&findings, "cloud.conditional_writes");
        assert_eq!(conditional.status, Status::Problem);
        assert!(conditional.way_out.as_ref().unwrap().contains("keeps its word"));
        assert_eq!(of(&findings, "cloud.write").status, Status::Ok);
    }

    #[test]
    fn a_bucket_that_is_not_there_is_not_read_either() {
        let mut facts = facts();
        facts.access.as_mut().unwrap().list = Err(trouble(Kind::Absent));
        let findings = judge(&facts, false);
        for id in ["cloud.list", "cloud.read"] {
            let finding = of(&findings, id);
            assert_eq!(finding.status, Status::Problem);
            assert!(finding.way_out.as_ref().unwrap().contains("bucket"), "{finding:?}");
        }
    }

    #[test]
    fn what_cannot_be_opened_names_the_specification() {
        let facts = CloudFacts::unopened("aws", "s3://b/p", trouble(Kind::Misconfigured));
        let findings = judge(&facts, false);
        assert_eq!(statuses(&findings)[0], ("cloud.settings", Status::Problem));
        assert!(findings[1..].iter().all(|finding| finding.status == Status::Skipped));
    }

    #[test]
    fn a_directory_that_is_not_made_is_well_before_the_first_start_only() {
        let mut facts = facts();
        facts.access = Some(Access {
            list: Err(trouble(Kind::Silent)),
            identity: Err(trouble(Kind::Silent)),
            writing: None,
        });
        assert_eq!(of(&judge(&facts, true), "cloud.reachable").status, Status::Ok);
        let later = judge(&facts, false);
        assert_eq!(of(&later, "cloud.reachable").status, Status::Problem);
        assert_eq!(later.iter().filter(|finding| finding.id == "cloud.reachable").count(), 1);
    }
}
