//! Entries of a model's log: what is decided about the versions and aliases of one model.
//!
//! Pure. A model has a log as a table has one, in the same control group as those of all models: its entries are decided,
//! published and filled like the bodies of a table, under `models/<name>/_log/`. An entry names the one before it by its
//! SHA-256, and is accepted only behind the entries that it was planned on. So whoever plans knows exactly what it follows,
//! and of two that plan at the same time the second plans again.

use isobar_connectors::delta::{self, FileDigest, is_sha256};
use serde::{Deserialize, Serialize};

use super::Epoch;
use super::chain::{Chain, NO_PREVIOUS, Refusal, TableHead};
use super::format::{Decision, MODELS_PREFIX, TableBody};

/// Version of the shape of an entry; a reader refuses any other.
const ENTRY_FORMAT: u32 = 1;
/// Bytes that an entry may have: some hundreds of files.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Files that a version may have.
pub const FILES_MAX: usize = 1000;
/// Characters of a model's or alias' name.
pub const NAME_LENGTH_MAX: usize = 64;
/// Bytes of a file's path below the folder of its version.
const PATH_BYTES_MAX: usize = 300;

/// An entry of a model's log, as it lies at `models/<name>/_log/<index>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// 1.
    pub format: u32,
    /// The model's name.
    pub model: String,
    /// The entry's place in the log, from 0.
    pub index: u64,
    /// SHA-256 of the entry before it, zeros for the first one.
    pub previous_sha256: String,
    /// The epoch whose leader proposed the decision.
    pub epoch: u64,
    /// The decision's number among those of all models.
    pub sequence: u64,
    /// The id of the commit decided here.
    pub commit_id: String,
    /// When it was decided, milliseconds since the Unix epoch; above that of the decision before.
    pub timestamp_ms: i64,
    /// What it does.
    pub action: ModelAction,
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelAction {
    /// Gives the number of a version away, for good: nobody but the process that wrote this puts files there.
    Reserve {
        /// The version.
        version: u64,
    },
    /// A version is complete, and exists from here on.
    Register {
        /// The version.
        version: u64,
        /// All its files.
        files: Vec<ModelFile>,
        /// An alias that means it from here on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alias: Option<String>,
    },
    /// An alias means this version from here on.
    Alias {
        /// The alias.
        alias: String,
        /// The version.
        version: u64,
    },
    /// An alias means again what it meant before it came to mean what it does.
    Rollback {
        /// The alias.
        alias: String,
        /// The version that it means again.
        version: u64,
    },
}

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Its path below the model's folder: `<version>/<file>`.
    pub path: String,
    /// Its size, bytes.
    pub size: u64,
    /// SHA-256 of its bytes, lowercase hexadecimal.
    pub sha256: String,
}

impl ModelFile {
    /// As files of tables are described; it has no rows.
    pub fn digest(&self) -> FileDigest {
        FileDigest { path: self.path.clone(), size: self.size, sha256: self.sha256.clone(), rows: 0 }
    }
}

impl ModelAction {
    /// The version that it is about.
    pub fn version(&self) -> u64 {
        match self {
            Self::Reserve { version }
            | Self::Register { version, .. }
            | Self::Alias { version, .. }
            | Self::Rollback { version, .. } => *version,
        }
    }

    /// The files that it names.
    pub fn files(&self) -> &[ModelFile] {
        match self {
            Self::Register { files, .. } => files,
            _ => &[],
        }
    }

    fn alias(&self) -> Option<&str> {
        match self {
            Self::Reserve { .. } => None,
            Self::Register { alias, .. } => alias.as_deref(),
            Self::Alias { alias, .. } | Self::Rollback { alias, .. } => Some(alias),
        }
    }

    fn check(&self) -> Result<(), String> {
        let version = self.version();
        require(version > 0 && version <= i64::MAX as u64, || format!("version {version}"))?;
        if let Some(alias) = self.alias() {
            require(is_alias(alias), || format!("alias {alias:.100?}"))?;
        }
        let Self::Register { files, .. } = self else { return Ok(()) };
        require((1..=FILES_MAX).contains(&files.len()), || format!("{} files", files.len()))?;
        let folder = format!("{version}/");
        for file in files {
            let name = file.path.strip_prefix(&folder);
            require(name.is_some_and(is_file_name), || format!("file {:.100?}", file.path))?;
            require(is_sha256(&file.sha256), || format!("{}: the digest is no SHA-256", file.path))?;
        }
        let in_order = files.windows(2).all(|pair| pair[0].path < pair[1].path);
        require(in_order, || "the files are not in order, or occur twice".to_owned())
    }
}

impl ModelEntry {
    /// Reads an entry.
    ///
    /// # Errors
    /// Which rule of the format is broken. Nothing of such an entry may be relied upon.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        require(bytes.len() <= ENTRY_BYTES_MAX, || {
            format!("{} bytes, more than {ENTRY_BYTES_MAX}", bytes.len())
        })?;
        let entry: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("no entry of a model: {error}"))?;
        entry.check()?;
        require(entry.to_text()?.as_bytes() == bytes, || "it is written in another way".to_owned())?;
        Ok(entry)
    }

    /// Its exact bytes: one line.
    ///
    /// # Errors
    /// Which rule of the format it breaks.
    pub fn to_text(&self) -> Result<String, String> {
        self.check()?;
        let text = serde_json::to_string(self).map_err(|error| format!("write an entry: {error}"))?;
        require(text.len() < ENTRY_BYTES_MAX, || format!("{} bytes, more than may be", text.len()))?;
        Ok(text + "\n")
    }

    fn check(&self) -> Result<(), String> {
        require(self.format == ENTRY_FORMAT, || format!("format {}", self.format))?;
        require(is_model_name(&self.model), || format!("model {:.100?}", self.model))?;
        require(is_sha256(&self.previous_sha256), || "previous_sha256 is no SHA-256".to_owned())?;
        let is_first = self.previous_sha256 == NO_PREVIOUS;
        require((self.index == 0) == is_first, || {
            "an entry is the first one or has one before it".to_owned()
        })?;
        let numbers = self.index.max(self.epoch).max(self.sequence);
        require(numbers <= i64::MAX as u64 && self.timestamp_ms >= 0, || "a number out of range".to_owned())?;
        let is_id = (1..=200).contains(&self.commit_id.len())
            && self.commit_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        require(is_id, || "commit id missing or odd".to_owned())?;
        self.action.check()
    }
}

/// An entry that somebody wants to be decided.
#[derive(Debug, Clone)]
pub struct ModelProposal {
    /// The model.
    pub model: String,
    /// Unique id; proposing it twice is answered once.
    pub commit_id: String,
    /// How many entries there were when it was planned.
    pub planned: u64,
    /// SHA-256 of the last of them, zeros where there was none.
    pub previous_sha256: String,
    /// What to do.
    pub action: ModelAction,
}

impl ModelProposal {
    fn log(&self) -> String {
        format!("{MODELS_PREFIX}{}", self.model)
    }
}

impl Chain {
    /// Checks `proposal` against the chain: it must have been planned on exactly the entries that there are. What an entry
    /// may do after those before it is for whoever plans it, who has read them.
    pub fn accept_model(&self, proposal: &ModelProposal) -> Result<(), Refusal> {
        let log = proposal.log();
        let head = self.tables.get(&log);
        let entries = head.map_or(0, |head| head.version + 1);
        let last = head.map_or(NO_PREVIOUS, |head| &head.sha256);
        if (entries, last) != (proposal.planned, proposal.previous_sha256.as_str()) {
            return Err(Refusal::Appended { dataset: log, planned: proposal.planned, entries });
        }
        Ok(())
    }

    /// Turns an accepted proposal into the decision that follows this chain.
    ///
    /// # Errors
    /// If the entry breaks a rule of the format.
    pub fn decide_model(
        &self,
        epoch: Epoch,
        now_ms: i64,
        proposal: &ModelProposal,
    ) -> Result<Decision, String> {
        let sequence = self.sequence + 1;
        let previous_ms = (self.sequence > 0).then_some(self.timestamp_ms);
        let timestamp_ms = delta::next_commit_timestamp_ms(now_ms, previous_ms);
        let entry = ModelEntry {
            format: ENTRY_FORMAT,
            model: proposal.model.clone(),
            index: proposal.planned,
            previous_sha256: proposal.previous_sha256.clone(),
            epoch: epoch.0,
            sequence,
            commit_id: proposal.commit_id.clone(),
            timestamp_ms,
            action: proposal.action.clone(),
        };
        let body = entry.to_text()?;
        let sha256 = delta::sha256_hex(body.as_bytes());
        let table = TableBody { dataset: proposal.log(), version: entry.index, sha256, body };
        Ok(Decision {
            sequence,
            commit_id: proposal.commit_id.clone(),
            timestamp_ms,
            tables: vec![table],
            checkpoints: Default::default(),
        })
    }

    /// Takes up the next entry of a model's log. Fails on one that does not follow this chain.
    pub(super) fn apply_model(&mut self, table: &TableBody) -> Result<(), String> {
        let wrong = |what: &str| format!("{} entry {}: {what}", table.dataset, table.version);
        let entry = ModelEntry::parse(table.body.as_bytes()).map_err(|what| wrong(&what))?;
        let head = self.tables.get(&table.dataset);
        let (index, previous) =
            head.map_or((0, NO_PREVIOUS), |head| (head.version + 1, head.sha256.as_str()));
        let is_its_own = table.dataset.strip_prefix(MODELS_PREFIX) == Some(entry.model.as_str());
        require(is_its_own, || wrong("it is of another model"))?;
        let follows = (table.version, entry.index) == (index, index) && entry.previous_sha256 == previous;
        require(follows, || wrong("it does not follow the chain"))?;
        require(table.sha256 == delta::sha256_hex(table.body.as_bytes()), || {
            wrong("SHA-256 differs from its bytes")
        })?;
        let head = TableHead { version: index, sha256: table.sha256.clone(), ..TableHead::default() };
        self.tables.insert(table.dataset.clone(), head);
        Ok(())
    }
}

/// What `otherwise` says, unless it `holds`.
pub(crate) fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Whether a model may have this name: as datasets have, since it is a part of objects' names and of SQL.
pub fn is_model_name(text: &str) -> bool {
    is_name(text, |byte| byte == b'_') && !text.starts_with(|first: char| first.is_ascii_digit())
}

/// Whether an alias may have this name: as a model, or with `-`. No number is one.
pub fn is_alias(text: &str) -> bool {
    is_name(text, |byte| matches!(byte, b'_' | b'-'))
        && text.starts_with(|first: char| first.is_ascii_lowercase())
}

fn is_name(text: &str, is_mark: impl Fn(u8) -> bool) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || is_mark(byte);
    (1..=NAME_LENGTH_MAX).contains(&text.len()) && text.bytes().all(fits)
}

/// Whether a file of a version may have this path below the version's folder: some plain names, so that it is the same
/// text in a path of this machine, in a URL and as an object's name.
pub fn is_file_name(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_plain);
    path.len() <= PATH_BYTES_MAX && path.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> ModelFile {
        ModelFile { path: path.to_owned(), size: 5, sha256: "ab".repeat(32) }
    }

    fn register(version: u64) -> ModelAction {
        let files = ["manifest.json", "model.onnx", "plots/roc.png"];
        let files = files.iter().map(|name| file(&format!("{version}/{name}"))).collect();
        ModelAction::Register { version, files, alias: Some("challenger".into()) }
    }

    /// As planned on all that `chain` says.
    fn after(chain: &Chain, action: ModelAction) -> ModelProposal {
        let head = chain.tables.get("models/late");
        ModelProposal {
            model: "late".into(),
            commit_id: format!("commit-{}", chain.sequence),
            planned: head.map_or(0, |head| head.version + 1),
            previous_sha256: head.map_or(NO_PREVIOUS, |head| &head.sha256).to_owned(),
            action,
        }
    }

    fn decided(chain: &mut Chain, action: ModelAction) -> Decision {
        let proposal = after(chain, action);
        chain.accept_model(&proposal).unwrap();
        let decision = chain.decide_model(Epoch(3), 1000, &proposal).unwrap();
        chain.apply(&decision).unwrap();
        decision
    }

    #[test]
    fn entries_follow_each_other_and_say_so() {
        let mut chain = Chain::default();
        let first = decided(&mut chain, ModelAction::Reserve { version: 1 });
        let second = decided(&mut chain, register(1));
        let third = decided(&mut chain, ModelAction::Alias { alias: "champion".into(), version: 1 });
        let entries: Vec<ModelEntry> = [&first, &second, &third]
            .map(|decision| ModelEntry::parse(decision.tables[0].body.as_bytes()).unwrap())
            .into();
        assert_eq!(entries[0].previous_sha256, NO_PREVIOUS);
        for (before, after) in [(&first, &entries[1]), (&second, &entries[2])] {
            assert_eq!(after.previous_sha256, delta::sha256_hex(before.tables[0].body.as_bytes()));
        }
        assert!(entries.windows(2).all(|pair| pair[0].timestamp_ms < pair[1].timestamp_ms));
        assert_eq!(chain.tables["models/late"].version, 2);
        assert_eq!(chain.sequence_of("commit-1"), Some(2));
    }

    #[test]
    fn the_bytes_of_an_entry_are_fixed() {
        let mut chain = Chain::default();
        let decision = decided(&mut chain, ModelAction::Alias { alias: "champion".into(), version: 3 });
        let text = format!(
            "{{\"format\":1,\"model\":\"late\",\"index\":0,\"previous_sha256\":\"{NO_PREVIOUS}\",\"epoch\":3,\"sequence\":1,\
             \"commit_id\":\"commit-0\",\"timestamp_ms\":1000,\"action\":{{\"kind\":\"alias\",\"alias\":\"champion\",\
             \"version\":3}}}}\n"
        );
        assert_eq!(decision.tables[0].body, text);
        // The same in other bytes would be another entry to the chain.
        for other in [
            text.replace(":1,", ": 1,"),
            text.trim_end().to_owned(),
            text.replace("\"kind\"", "\"x\":1,\"kind\""),
        ] {
            assert!(ModelEntry::parse(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn what_was_planned_on_other_entries_is_refused() {
        let mut chain = Chain::default();
        let early = after(&chain, register(2));
        decided(&mut chain, ModelAction::Reserve { version: 1 });
        let refusal = chain.accept_model(&early).unwrap_err();
        assert_eq!(refusal, Refusal::Appended { dataset: "models/late".into(), planned: 0, entries: 1 });
        let elsewhere = ModelProposal { previous_sha256: "cd".repeat(32), ..after(&chain, register(1)) };
        assert!(matches!(
            chain.accept_model(&elsewhere),
            Err(Refusal::Appended { planned: 1, entries: 1, .. })
        ));
        // Other models have logs of their own.
        let other = ModelProposal { model: "early".into(), ..early };
        assert_eq!(chain.accept_model(&other), Ok(()));
    }

    #[test]
    fn an_entry_that_does_not_follow_is_not_applied() {
        let mut chain = Chain::default();
        decided(&mut chain, ModelAction::Reserve { version: 1 });
        let next = chain.decide_model(Epoch(3), 1000, &after(&chain, register(1))).unwrap();
        let breaks: [fn(&mut TableBody); 5] = [
            |table| table.version = 2,
            |table| table.dataset = "models/other".into(),
            |table| table.sha256 = "ab".repeat(32),
            |table| table.body = table.body.replace("1/model.onnx", "2/model.onnx"),
            |table| table.body.truncate(20),
        ];
        for break_one in breaks {
            let mut broken = next.clone();
            break_one(&mut broken.tables[0]);
            let before = chain.clone();
            assert!(chain.apply(&broken).is_err(), "{broken:?}");
            assert_eq!(chain, before);
        }
        chain.apply(&next).unwrap();
    }

    #[test]
    fn actions_that_break_a_rule_are_not_written() {
        let with = |change: fn(&mut Vec<ModelFile>)| {
            let ModelAction::Register { mut files, .. } = register(2) else { unreachable!() };
            change(&mut files);
            ModelAction::Register { version: 2, files, alias: None }
        };
        let chain = Chain::default();
        for action in [
            ModelAction::Reserve { version: 0 },
            ModelAction::Reserve { version: u64::MAX },
            ModelAction::Alias { alias: "3".into(), version: 3 },
            ModelAction::Rollback { alias: "Champion".into(), version: 3 },
            with(Vec::clear),
            with(|files| files.reverse()),
            with(|files| files[1] = files[0].clone()),
            with(|files| files[0].path = "1/manifest.json".into()),
            with(|files| files[0].path = "2/../manifest.json".into()),
            with(|files| files[0].path = "2//manifest.json".into()),
            with(|files| files[0].sha256 = "AB".repeat(32)),
        ] {
            assert!(chain.decide_model(Epoch(3), 0, &after(&chain, action.clone())).is_err(), "{action:?}");
        }
    }

    #[test]
    fn names_are_those_that_paths_and_sql_can_have() {
        for name in ["late", "late_arrivals", "_x", "a1"] {
            assert!(is_model_name(name), "{name}");
        }
        for name in ["", "1a", "Late", "a-b", "a.b", "a/b", "..", "é", &"a".repeat(65)] {
            assert!(!is_model_name(name), "{name}");
        }
        assert!(is_alias("champion") && is_alias("blue-2") && !is_alias("2") && !is_alias("-a"));
        for path in ["model.onnx", "plots/roc.png", "a/b/c_1-2.json"] {
            assert!(is_file_name(path), "{path}");
        }
        for path in ["", "/a", "a/", "a//b", ".hidden", "a/../b", "a b", "a%2fb", "a\\b", &"a".repeat(301)] {
            assert!(!is_file_name(path), "{path}");
        }
    }
}
