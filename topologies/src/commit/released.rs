//! Files that a decided VACUUM has let go: nobody needs them, and they may be in no cloud any more.
//!
//! A cloud is filled with files before the entries that name them. A file that was let go is the exception: where no
//! cloud has it, the entry goes without. It is known from the log alone, from the `remove` of the file and from a
//! VACUUM after it that reaches that far.

use std::collections::{BTreeMap, BTreeSet};

use isobar_connectors::delta::{self, CommitBody, Maintenance, MaintenanceWork};

use super::format::Decision;

/// What the versions of one table let go. Versions are noted in order; they may begin anywhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Released {
    /// Paths removed and not let go yet, as the log writes them, by version.
    removed: BTreeMap<u64, Vec<String>>,
    paths: BTreeSet<String>,
}

impl Released {
    /// Notes what `body`, which is `version` of the table, removes or lets go.
    pub(crate) fn note(&mut self, version: u64, body: &CommitBody) {
        let removed = body.removes.iter().map(|remove| remove.path.clone());
        let maintenance = Maintenance::of(&body.info).ok().flatten();
        self.note_actions(version, removed, maintenance);
    }

    /// As [`note`](Self::note), for a body that was read otherwise.
    pub(crate) fn note_actions(
        &mut self,
        version: u64,
        removed: impl IntoIterator<Item = String>,
        maintenance: Option<Maintenance>,
    ) {
        let removed: Vec<String> = removed.into_iter().collect();
        if !removed.is_empty() {
            self.removed.insert(version, removed);
        }
        if let Some(Maintenance { work: MaintenanceWork::Vacuum { through }, .. }) = maintenance {
            let kept = through.checked_add(1).map(|next| self.removed.split_off(&next)).unwrap_or_default();
            self.paths.extend(std::mem::replace(&mut self.removed, kept).into_values().flatten());
        }
    }

    /// Whether `path`, as the log writes it, was let go.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.paths.contains(path)
    }

    /// Every path that was let go, as the log writes it.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &String> {
        self.paths.iter()
    }
}

/// What `decisions`, in their order, let go of files that they removed, by table.
pub(super) fn released_by(decisions: &[Decision]) -> BTreeMap<&str, Released> {
    let mut released: BTreeMap<&str, Released> = BTreeMap::new();
    for table in decisions.iter().flat_map(|decision| &decision.tables) {
        if let Ok(body) = delta::parse_body(table.body.as_bytes()) {
            released.entry(&table.dataset).or_default().note(table.version, &body);
        }
    }
    released
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vacuum(through: u64) -> Option<Maintenance> {
        Some(Maintenance { after: 0, work: MaintenanceWork::Vacuum { through } })
    }

    #[test]
    fn only_what_was_removed_up_to_the_version_is_let_go() {
        let mut released = Released::default();
        released.note_actions(3, ["a".to_owned(), "b".to_owned()], None);
        released.note_actions(4, ["c".to_owned()], None);
        released.note_actions(5, [], vacuum(3));
        let found = |released: &Released| released.paths().cloned().collect::<Vec<_>>();
        assert_eq!(found(&released), ["a", "b"]);
        assert!(released.contains("a") && !released.contains("c"));
        released.note_actions(6, ["d".to_owned()], None);
        released.note_actions(7, [], vacuum(6));
        assert_eq!(found(&released), ["a", "b", "c", "d"]);
        released.note_actions(8, ["e".to_owned()], vacuum(u64::MAX));
        assert!(released.contains("e"));
    }
}
