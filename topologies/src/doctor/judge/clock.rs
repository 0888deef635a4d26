//! Whether clocks agree, and what follows where they do not.
//!
//! No decision of isobar depends on a clock, and commit timestamps rise whatever the clock says: each comes after the one
//! before it. A clock that is off shows in time travel by timestamp, in metrics of age, and, far off, in stores that refuse
//! requests because of the time in their signature.

use std::time::Duration;

use crate::doctor::Facts;
use crate::doctor::clouds::Written;
use crate::doctor::report::{About, Finding};
use crate::spec::units::HumanDuration;

/// A difference that means nothing, milliseconds.
const AGREEMENT_MS: i64 = 5_000;
/// Difference from which stores may refuse requests, milliseconds: S3, Azure and Google accept a quarter of an hour.
const REFUSED_MS: i64 = 10 * 60_000;
/// How far a record may be from the future, milliseconds.
const RECORD_AHEAD_MS: i64 = 60_000;
/// Stores tell the second in which something was written, not the millisecond.
const RESOLUTION_MS: i64 = 999;

const SYNCHRONISE: &str = "synchronise this machine's clock (NTP): isobar's commits stay in order, but their timestamps, by which people look \
     into the past of a table, are off by as much";

/// The findings about clocks.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for cloud in &facts.clouds {
        let written = cloud.writing().and_then(|writing| writing.file.as_ref().ok());
        findings.push(of_cloud(&cloud.name, written));
    }
    let chain = facts.together.chain().filter(|chain| chain.sequence > 0);
    findings.push(commits(chain.map(|chain| chain.timestamp_ms), facts.now_ms));
    let newest = facts.kafka.topics.iter().filter_map(|topic| {
        let newest_ms = topic.newest_ms.as_ref().ok().copied().flatten()?;
        Some((topic.name.as_str(), newest_ms))
    });
    findings.push(records(&newest.collect::<Vec<_>>(), facts.now_ms));
    findings
}

/// How far the store's clock is ahead of this machine's, at least; negative where it is behind. 0 where the two may agree.
fn skew_ms(written: &Written) -> i64 {
    let least = written.stored_ms - written.after_ms;
    let most = written.stored_ms + RESOLUTION_MS - written.before_ms;
    if least > 0 { least } else { most.min(0) }
}

fn off_by(skew_ms: i64) -> String {
    let duration = HumanDuration(Duration::from_millis(skew_ms.unsigned_abs()));
    let direction = if skew_ms > 0 { "behind" } else { "ahead of" };
    format!("{duration} {direction}")
}

fn of_cloud(name: &str, written: Option<&Written>) -> Finding {
    let (id, about) = ("clock.cloud", &About::Clock);
    let Some(written) = written else {
        return Finding::skipped(id, about, format!("{name}: nothing was written there to tell the time by"));
    };
    let skew_ms = skew_ms(written);
    match skew_ms.abs() {
        0..=AGREEMENT_MS => Finding::ok(id, about, format!("{name}: this machine's clock agrees")),
        off => {
            let found = format!("{name}: this machine's clock is {} the store's", off_by(skew_ms));
            if off < REFUSED_MS {
                return Finding::warning(id, about, found, SYNCHRONISE);
            }
            let way_out = "synchronise this machine's clock (NTP): stores refuse requests whose signature is a quarter of an hour off";
            Finding::problem(id, about, found, way_out)
        }
    }
}

fn commits(last_ms: Option<i64>, now_ms: i64) -> Finding {
    let (id, about) = ("clock.commits", &About::Clock);
    let Some(last_ms) = last_ms else { return Finding::skipped(id, about, "no commit is known") };
    if last_ms - now_ms <= AGREEMENT_MS {
        return Finding::ok(id, about, "the last commit is not ahead of this machine's clock");
    }
    let found = format!("this machine's clock is {} the last commit", off_by(last_ms - now_ms));
    let way_out = "synchronise the clocks of all machines that lead (NTP): until then every commit is dated a millisecond after the \
                   one before it";
    Finding::warning(id, about, found, way_out)
}

fn records(newest: &[(&str, i64)], now_ms: i64) -> Finding {
    let (id, about) = ("clock.records", &About::Clock);
    let Some((topic, newest_ms)) = newest.iter().max_by_key(|(_, newest_ms)| *newest_ms) else {
        return Finding::skipped(id, about, "no record was read");
    };
    if newest_ms - now_ms <= RECORD_AHEAD_MS {
        return Finding::ok(id, about, "the newest records are not ahead of this machine's clock");
    }
    let found = format!("this machine's clock is {} a record of topic {topic}", off_by(newest_ms - now_ms));
    let way_out = "synchronise the clocks of producers and brokers, or this one: retention by age goes by the timestamps of records";
    Finding::warning(id, about, found, way_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    const NOW_MS: i64 = 1_700_000_000_000;

    /// Written within 200 ms, by a store whose clock is ahead by this much and tells whole seconds.
    fn written(ahead_ms: i64) -> Written {
        let stored_ms = (NOW_MS + 100 + ahead_ms).div_euclid(1000) * 1000;
        Written { before_ms: NOW_MS, after_ms: NOW_MS + 200, stored_ms }
    }

    #[test]
    fn what_the_measurement_cannot_tell_is_no_skew() {
        for ahead_ms in [-100, -1, 0, 1, 199] {
            assert_eq!(skew_ms(&written(ahead_ms)), 0, "{ahead_ms}");
        }
        for ahead_ms in [10_000, -10_000] {
            let found = skew_ms(&written(ahead_ms));
            assert!((found - ahead_ms).abs() <= 1200 && found.abs() <= ahead_ms.abs(), "{ahead_ms}: {found}");
        }
    }

    #[test]
    fn a_skew_is_a_warning_until_stores_would_refuse() {
        let status = |ahead_ms| of_cloud("aws", Some(&written(ahead_ms))).status;
        assert_eq!(status(1_000), Status::Ok);
        assert_eq!([status(20_000), status(-20_000)], [Status::Warning; 2]);
        assert_eq!([status(3_600_000), status(-3_600_000)], [Status::Problem; 2]);
        assert_eq!(of_cloud("aws", None).status, Status::Skipped);
        let found = of_cloud("aws", Some(&written(60_000))).found;
        assert!(found.contains("behind"), "{found}");
    }

    #[test]
    fn commits_and_records_from_the_future_are_warnings() {
        assert_eq!(commits(None, NOW_MS).status, Status::Skipped);
        assert_eq!(commits(Some(NOW_MS - 1_000_000), NOW_MS).status, Status::Ok);
        assert_eq!(commits(Some(NOW_MS + 60_000), NOW_MS).status, Status::Warning);
        assert_eq!(records(&[], NOW_MS).status, Status::Skipped);
        assert_eq!(records(&[("a", NOW_MS - 5), ("b", NOW_MS)], NOW_MS).status, Status::Ok);
        let ahead = records(&[("a", NOW_MS), ("b", NOW_MS + 3_600_000)], NOW_MS);
        assert!(
            ahead.status == Status::Warning && ahead.found.contains("1h behind a record of topic b"),
            "{ahead:?}"
        );
    }
}
