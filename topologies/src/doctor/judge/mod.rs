//! From facts to findings. Everything here is a pure function: what is said of a fact is a matter of review and of tests.

mod clock;
mod clouds;
mod dead_letters;
mod kafka;
mod published;
mod registry;
mod together;
mod topics;

use std::time::Duration;

use super::Facts;
use super::report::{About, Finding};
use crate::spec::Topology;

/// What the facts about `topology` mean, if it may be down for `outage`.
pub(super) fn judge(topology: &Topology, facts: &Facts, outage: Duration) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("isobar.version", &About::Isobar, env!("CARGO_PKG_VERSION"))];
    findings.push(together::plans(&facts.together));
    findings.extend(kafka::judge(topology, &facts.kafka));
    for topic in &facts.kafka.topics {
        findings.extend(topics::judge(topic, facts.together.positions.as_ref(), outage));
    }
    for topic in &facts.kafka.dead_letters {
        findings.extend(dead_letters::judge(topic));
    }
    for topic in &facts.kafka.published {
        findings.extend(published::judge(topic));
    }
    findings.extend(facts.registry.iter().flat_map(registry::judge));
    for (index, cloud) in facts.clouds.iter().enumerate() {
        findings.extend(clouds::judge(cloud, facts.together.is_first_start));
        findings.extend(together::of_cloud(cloud, index, &facts.together));
    }
    findings.extend(clock::judge(facts));
    findings.extend(together::judge(topology, facts));
    findings
}

/// `1 record`, `2 records`.
fn count(number: impl Into<u64>, what: &str) -> String {
    let number = number.into();
    format!("{} {what}{}", indicatif::HumanCount(number), if number == 1 { "" } else { "s" })
}
