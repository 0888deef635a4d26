//! What the entries of a model's log say together: which versions there are, and what each alias means.
//!
//! Pure. The log is the only truth: an alias is not a thing that lies anywhere, so it changes with one entry, at once, for every
//! reader of that entry, and whoever reads an older state reads all of that state.

use std::collections::BTreeMap;

use isobar_connectors::delta::sha256_hex;

use crate::commit::chain::NO_PREVIOUS;
use crate::commit::model::{ModelAction, ModelEntry, ModelFile};

/// A model as of one of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History {
    pub(super) name: String,
    /// How many entries there are.
    pub(super) entries: u64,
    /// SHA-256 of the last one, zeros where there is none.
    pub(super) last_sha256: String,
    /// The files of each version that exists; their paths are relative to the model's folder.
    pub(super) versions: BTreeMap<u64, Vec<ModelFile>>,
    /// The highest version that was given away, whether it was registered or not.
    reserved: u64,
    /// What each alias has meant, the present meaning last. A rollback takes that away.
    aliases: BTreeMap<String, Vec<u64>>,
}

impl History {
    /// A model without entries.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            entries: 0,
            last_sha256: NO_PREVIOUS.to_owned(),
            versions: BTreeMap::new(),
            reserved: 0,
            aliases: BTreeMap::new(),
        }
    }

    /// The number of a version that nobody has.
    pub(super) fn next_version(&self) -> u64 {
        self.reserved + 1
    }

    /// What an alias means.
    pub(super) fn alias(&self, alias: &str) -> Option<u64> {
        self.aliases.get(alias)?.last().copied()
    }

    /// What an alias meant before it came to mean what it does.
    pub(super) fn before(&self, alias: &str) -> Option<u64> {
        self.aliases.get(alias)?.iter().rev().nth(1).copied()
    }

    /// What all aliases mean.
    pub(super) fn aliases(&self) -> BTreeMap<String, u64> {
        let meanings = self.aliases.iter();
        meanings.filter_map(|(alias, meant)| Some((alias.clone(), *meant.last()?))).collect()
    }

    /// Takes up the next entry.
    ///
    /// # Errors
    /// Why these bytes are not the entry that follows.
    pub(super) fn apply(&mut self, bytes: &[u8]) -> Result<(), String> {
        let entry = ModelEntry::parse(bytes)?;
        if entry.model != self.name || entry.index != self.entries {
            return Err(format!("it is entry {} of {}", entry.index, entry.model));
        }
        if entry.previous_sha256 != self.last_sha256 {
            return Err("it names another entry before it than there is".to_owned());
        }
        self.check(&entry.action)?;
        match entry.action {
            ModelAction::Reserve { version } => self.reserved = version,
            ModelAction::Register { version, files, alias } => {
                self.versions.insert(version, files);
                if let Some(alias) = alias {
                    self.aliases.entry(alias).or_default().push(version);
                }
            }
            ModelAction::Alias { alias, version } => self.aliases.entry(alias).or_default().push(version),
            ModelAction::Rollback { alias, .. } => {
                if let Some(meant) = self.aliases.get_mut(&alias) {
                    meant.pop();
                }
            }
        }
        self.entries += 1;
        self.last_sha256 = sha256_hex(bytes);
        Ok(())
    }

    /// Whether `action` may be the next one.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, action: &ModelAction) -> Result<(), String> {
        let exists = |version: u64| match self.versions.contains_key(&version) {
            true => Ok(()),
            false => Err(format!("there is no version {version}")),
        };
        match action {
            ModelAction::Reserve { version } if *version == self.next_version() => Ok(()),
            ModelAction::Reserve { version } => Err(format!("version {version} is not the next one")),
            ModelAction::Register { version, .. } if *version > self.reserved => {
                Err(format!("version {version} was given to nobody"))
            }
            ModelAction::Register { version, .. } => match self.versions.contains_key(version) {
                true => Err(format!("version {version} exists")),
                false => Ok(()),
            },
            ModelAction::Alias { version, .. } => exists(*version),
            ModelAction::Rollback { alias, version } => match self.before(alias) == Some(*version) {
                true => Ok(()),
                false => Err(format!("{alias} did not mean version {version} before")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::Epoch;
    use crate::commit::chain::Chain;
    use crate::commit::model::ModelProposal;

    /// The bytes of the entry that does `action` after those of `history`, whatever it says.
    fn entry(history: &History, action: ModelAction) -> String {
        let proposal = ModelProposal {
            model: history.name.clone(),
            commit_id: format!("c{}", history.entries),
            planned: history.entries,
            previous_sha256: history.last_sha256.clone(),
            action,
        };
        let decision = Chain::default().decide_model(Epoch(1), 7, &proposal).unwrap();
        decision.tables[0].body.clone()
    }

    fn register(version: u64, alias: Option<&str>) -> ModelAction {
        let path = format!("{version}/manifest.json");
        let file = ModelFile { path, size: 1, sha256: "ab".repeat(32) };
        ModelAction::Register { version, files: vec![file], alias: alias.map(str::to_owned) }
    }

    fn of(actions: impl IntoIterator<Item = ModelAction>) -> History {
        let mut history = History::new("late");
        for action in actions {
            let entry = entry(&history, action);
            history.apply(entry.as_bytes()).unwrap();
        }
        history
    }

    fn alias(alias: &str, version: u64) -> ModelAction {
        ModelAction::Alias { alias: alias.into(), version }
    }

    fn rollback(version: u64) -> ModelAction {
        ModelAction::Rollback { alias: "champion".into(), version }
    }

    fn three_versions() -> Vec<ModelAction> {
        (1..=3).flat_map(|version| [ModelAction::Reserve { version }, register(version, None)]).collect()
    }

    #[test]
    fn a_version_that_was_given_away_and_not_registered_is_not_there_and_not_given_again() {
        let history = of([ModelAction::Reserve { version: 1 }]);
        assert!(history.versions.is_empty());
        assert_eq!(history.next_version(), 2);
        let history = of([
            ModelAction::Reserve { version: 1 },
            ModelAction::Reserve { version: 2 },
            register(2, Some("challenger")),
            register(1, None),
        ]);
        assert_eq!(history.versions.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(history.aliases(), [("challenger".to_owned(), 2)].into());
    }

    #[test]
    fn a_rollback_goes_back_step_by_step() {
        let mut actions = three_versions();
        actions.extend([alias("champion", 1), alias("champion", 2), alias("champion", 3)]);
        assert_eq!(
            (of(actions.clone()).alias("champion"), of(actions.clone()).before("champion")),
            (Some(3), Some(2))
        );
        actions.push(rollback(2));
        assert_eq!(of(actions.clone()).alias("champion"), Some(2));
        actions.push(rollback(1));
        let history = of(actions.clone());
        assert_eq!((history.alias("champion"), history.before("champion")), (Some(1), None));
        assert!(history.check(&rollback(3)).is_err());
        actions.push(alias("champion", 3));
        assert_eq!(of(actions).before("champion"), Some(1));
    }

    #[test]
    fn what_cannot_follow_is_refused_and_changes_nothing() {
        let mut history = of(three_versions());
        for action in [
            ModelAction::Reserve { version: 3 },
            ModelAction::Reserve { version: 5 },
            register(3, None),
            register(4, None),
            alias("champion", 4),
            rollback(3),
        ] {
            let before = history.clone();
            assert!(history.apply(entry(&before, action.clone()).as_bytes()).is_err(), "{action:?}");
            assert_eq!(history, before);
        }
        let next = entry(&history, alias("champion", 3));
        let mut other = History::new("early");
        assert!(other.apply(next.as_bytes()).is_err());
        history.apply(next.as_bytes()).unwrap();
        assert!(history.apply(next.as_bytes()).is_err(), "an entry follows once");
    }
}
