//! The settings of a topic that matter to a reader.

use std::collections::BTreeMap;

/// The settings of a topic, by Kafka's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<String, String>);

impl From<BTreeMap<String, String>> for Settings {
    fn from(settings: BTreeMap<String, String>) -> Self {
        Self(settings)
    }
}

impl Settings {
    fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.parse().ok()
    }

    /// For how long records are kept at least, milliseconds; `None`: without a bound, or not told.
    pub(super) fn retention_ms(&self) -> Option<i64> {
        self.number("retention.ms").filter(|bound| *bound >= 0 && self.deletes())
    }

    /// How many bytes of a partition are kept at least; `None`: without a bound, or not told.
    pub(super) fn retention_bytes(&self) -> Option<i64> {
        self.number("retention.bytes").filter(|bound| *bound >= 0 && self.deletes())
    }

    /// Whether old records are deleted.
    fn deletes(&self) -> bool {
        self.has_policy("delete")
    }

    /// Whether a record goes when a younger one has the same key.
    pub(super) fn compacts(&self) -> bool {
        self.has_policy("compact")
    }

    fn has_policy(&self, policy: &str) -> bool {
        let policies = self.0.get("cleanup.policy").map_or("delete", String::as_str);
        policies.split(',').any(|it| it.trim() == policy)
    }

    /// How long a record stays at least before compaction may remove it, milliseconds.
    pub(super) fn compaction_lag_ms(&self) -> i64 {
        self.number("min.compaction.lag.ms").unwrap_or(0)
    }

    /// The largest batch of records that the topic takes, bytes.
    pub(super) fn message_bytes_max(&self) -> Option<i64> {
        self.number("max.message.bytes")
    }

    /// Whose clock a record's timestamp is of, in Kafka's words.
    pub(super) fn timestamp_type(&self) -> Option<&str> {
        self.0.get("message.timestamp.type").map(String::as_str)
    }

    /// How many copies must be up to date for a producer that waits for all of them.
    pub(super) fn in_sync_min(&self) -> Option<i64> {
        self.number("min.insync.replicas")
    }

    /// Whether a copy that is not up to date may become the leader.
    pub(super) fn elects_unclean(&self) -> bool {
        self.0.get("unclean.leader.election.enable").is_some_and(|value| value == "true")
    }

    #[cfg(test)]
    pub(super) fn of(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self(settings.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_of_minus_one_is_none_and_only_deletion_bounds() {
        let settings = Settings::of(&[("retention.ms", "-1"), ("retention.bytes", "1024")]);
        assert_eq!((settings.retention_ms(), settings.retention_bytes()), (None, Some(1024)));
        let settings = Settings::of(&[("retention.ms", "5"), ("cleanup.policy", "compact")]);
        assert_eq!((settings.retention_ms(), settings.compacts()), (None, true));
        let settings = Settings::of(&[("retention.ms", "5"), ("cleanup.policy", "compact, delete")]);
        assert_eq!((settings.retention_ms(), settings.compacts()), (Some(5), true));
        assert_eq!(Settings::of(&[("retention.ms", "soon")]).retention_ms(), None);
    }
}
