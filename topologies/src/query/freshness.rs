//! How new a table has to be for a query, where its caller says so.
//!
//! A cloud may be behind: it was away, or is being filled. A query that asks for a version, or for rows not older than some
//! time, is answered from a cloud that has them, and by none if no cloud that answers does. Age is told by the commit
//! timestamp of the newest version that was found; a table to which nothing was committed for long is old, too.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;

use super::history::shown;
use crate::spec::units::HumanDuration;

/// What the newest version of a table has to be. Versions that a query names itself are not held against it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freshness {
    /// The least version, by table: a dataset or its quarantine.
    pub min_versions: BTreeMap<String, u64>,
    /// The longest time since the version was committed. How long ago it was looked for a newer one is another matter: that is
    /// the `max_staleness` of `isobar serve`.
    pub max_age: Option<Duration>,
}

impl Freshness {
    /// Whether `table` has to have a version.
    pub(super) fn is_asked_of(&self, table: &str) -> bool {
        self.min_versions.contains_key(table)
    }

    /// Why a version is not new enough, if so.
    pub(super) fn lacking(&self, table: &str, version: u64, committed_ms: i64) -> Option<String> {
        self.lacking_at(table, version, committed_ms, Utc::now().timestamp_millis())
    }

    fn lacking_at(&self, table: &str, version: u64, committed_ms: i64, now_ms: i64) -> Option<String> {
        let is_early = self.min_versions.get(table).is_some_and(|least| version < *least);
        // Of a clock that is behind the writer's, the age is nothing.
        let age = Duration::from_millis(u64::try_from(now_ms.saturating_sub(committed_ms)).unwrap_or(0));
        let is_old = self.max_age.is_some_and(|most| age > most);
        (is_early || is_old).then(|| {
            let (committed, age) = (shown(committed_ms), HumanDuration(age));
            format!("its newest version is {version}, committed at {committed}, {age} ago")
        })
    }

    /// What is asked of `table`, after "read flights ".
    pub(super) fn in_words(&self, table: &str) -> String {
        let version = self.min_versions.get(table).map(|least| format!("at version {least} or later"));
        let age =
            self.max_age.map(|most| format!("at a version committed at most {} ago", HumanDuration(most)));
        version.into_iter().chain(age).collect::<Vec<_>>().join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_ages_are_judged() {
        let freshness = Freshness {
            min_versions: BTreeMap::from([("flights".to_owned(), 7)]),
            max_age: Some(Duration::from_secs(30)),
        };
        let lacking =
            |version, age_ms: i64| freshness.lacking_at("flights", version, 1_000_000 - age_ms, 1_000_000);
        assert_eq!(lacking(7, 30_000), None);
        assert_eq!(lacking(8, -5_000), None);
        let early = lacking(6, 0).unwrap();
        assert_eq!(early, "its newest version is 6, committed at 1970-01-01T00:16:40.000Z, 0s ago");
        assert!(lacking(7, 30_001).unwrap().ends_with("30s1ms ago"));
        assert_eq!(freshness.lacking_at("weather", 0, 1_000_000, 1_000_000), None);
        let words = "at version 7 or later and at a version committed at most 30s ago";
        assert_eq!(freshness.in_words("flights"), words);
        assert!(freshness.is_asked_of("flights") && !freshness.is_asked_of("weather"));
    }
}
