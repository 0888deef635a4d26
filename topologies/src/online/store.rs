//! The rows of one view on this machine's disk: an embedded key-value store with one table of rows.
//!
//! What the rows are stands beside them and changes in the same transaction: the columns, the version of the dataset that was
//! applied, and the hash of that version. So a process that is killed anywhere goes on from a version, never from a part of
//! one. Until a store has all rows of its first version it has none for readers; the files read so far are in it, so
//! that building goes on after a restart.
//!
//! Memory is bounded by the cache of the store, also in a transaction of any size: pages that do not fit are written early and
//! count only once the transaction is committed. Readers see the last commit; they wait for nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use redb::{
    Builder, Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::layout::{EncodedRows, Layout};
use super::lookup::LookupError;
use crate::error::Error;

/// The newest row of each entity: keys and values as [`Layout`] writes them.
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
/// One entry, [`State`] as JSON.
const STATE: TableDefinition<&str, &str> = TableDefinition::new("state");
const STATE_KEY: &str = "state";
/// While the store is built: the files whose rows are in it.
const FILES: TableDefinition<&str, &str> = TableDefinition::new("files");

/// Most bytes of rows in one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A version that is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The version.
    pub version: u64,
    /// SHA-256 of its body.
    pub sha256: String,
    /// Its commit timestamp, milliseconds since the Unix epoch.
    pub committed_ms: i64,
}

/// What a store says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// [`Layout::fingerprint`].
    pub(super) fingerprint: String,
    /// The Delta table's id.
    pub(super) table_id: String,
    /// The version whose rows are being brought in, until all of them are.
    pub(super) building: Option<u64>,
    /// The version that the rows are those of; `None` while the store is built.
    pub(super) applied: Option<Applied>,
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub(super) struct Store {
    database: Arc<Database>,
    path: PathBuf,
}

/// Why a store cannot be opened.
pub(super) enum Unopened {
    /// Another process has it.
    InUse,
    /// It is damaged, or of another version of the store's library: it has to be built again.
    Unreadable(String),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// The store at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// [`Unopened`].
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, Unopened> {
        let opened = Builder::new().set_cache_size(cache_bytes).create(path);
        match opened {
            Ok(database) => Ok(Self { database: Arc::new(database), path: path.to_owned() }),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(Unopened::InUse),
            Err(error) => Err(Unopened::Unreadable(error.to_string())),
        }
    }

    /// What it says about itself; `None` if it is new, or what it says is not understood.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn state(&self) -> Result<Option<State>, Error> {
        let transaction = self.database.begin_read().map_err(|error| self.failed("read", error))?;
        let table = match transaction.open_table(STATE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        let text = table.get(STATE_KEY).map_err(|error| self.failed("read", error))?;
        Ok(text.and_then(|text| serde_json::from_str(text.value()).ok()))
    }

    /// Begins to write. Waits for whoever writes already.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn begin(&self) -> Result<WriteTransaction, Error> {
        self.database.begin_write().map_err(|error| self.failed("write", error))
    }

    /// Puts in those of `rows` that are newer than what is there.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn put(&self, transaction: &WriteTransaction, rows: &EncodedRows) -> Result<(), Error> {
        let put = || -> Result<(), redb::Error> {
            let mut table = transaction.open_table(ROWS)?;
            for (key, value) in rows.iter() {
                let is_newer = table.get(key)?.is_none_or(|held| held.value() < value);
                if is_newer {
                    table.insert(key, value)?;
                }
            }
            Ok(())
        };
        put().map_err(|error| self.failed("write", error))
    }

    /// Says what the store is. The table of rows is there from then on.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn set_state(&self, transaction: &WriteTransaction, state: &State) -> Result<(), Error> {
        let set = || -> Result<(), redb::Error> {
            let text = serde_json::to_string(state).expect("the state has nothing that JSON lacks");
            transaction.open_table(STATE)?.insert(STATE_KEY, text.as_str())?;
            transaction.open_table(ROWS)?;
            if state.building.is_none() {
                transaction.delete_table(FILES)?;
            }
            Ok(())
        };
        set().map_err(|error| self.failed("write", error))
    }

    /// Whether the rows of a file were brought in while the store is built.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn has_file(&self, transaction: &WriteTransaction, path: &str) -> Result<bool, Error> {
        let look = || -> Result<bool, redb::Error> {
            let table = transaction.open_table(FILES)?;
            let found = table.get(path)?;
            Ok(found.is_some())
        };
        look().map_err(|error| self.failed("read", error))
    }

    /// The rows of a file are in.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn add_file(&self, transaction: &WriteTransaction, path: &str) -> Result<(), Error> {
        let add = || -> Result<(), redb::Error> {
            transaction.open_table(FILES)?.insert(path, "")?;
            Ok(())
        };
        add().map_err(|error| self.failed("write", error))
    }

    /// Makes what was written last.
    ///
    /// # Errors
    /// If the disk fails; nothing of it is there then.
    pub(super) fn commit(&self, transaction: WriteTransaction) -> Result<(), Error> {
        transaction.commit().map_err(|error| self.failed("write", error))
    }

    /// Renames the store, which stays open.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn rename(&mut self, path: &Path) -> Result<(), Error> {
        std::fs::rename(&self.path, path).map_err(|error| self.failed("rename", error))?;
        path.clone_into(&mut self.path);
        Ok(())
    }

    /// What readers get from the last commit on, `None` while the store is built.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn reader(&self, layout: Arc<Layout>) -> Result<Option<Reader>, Error> {
        let Some(applied) = self.state()?.and_then(|state| state.applied) else { return Ok(None) };
        let read = || -> Result<Reader, redb::Error> {
            let transaction = self.database.begin_read()?;
            let rows = transaction.open_table(ROWS)?;
            let keys = rows.len()?;
            Ok(Reader { rows, applied, keys, layout, _database: self.database.clone() })
        };
        read().map(Some).map_err(|error| self.failed("read", error))
    }

    /// Bytes of its file.
    pub(super) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    fn failed(&self, action: &str, error: impl std::fmt::Display) -> Error {
        store_failed(&self.path, action, error)
    }
}

/// A store that could not be read or written: a full disk, most often.
pub(super) fn store_failed(path: &Path, action: &str, error: impl std::fmt::Display) -> Error {
    let detail = format!("{action}: {error}; free its disk, or delete it to have it built again");
    Error::damaged(&format!("the online store {}", path.display()), detail)
}

/// The rows as they were at a version.
pub struct Reader {
    rows: ReadOnlyTable<&'static [u8], &'static [u8]>,
    applied: Applied,
    keys: u64,
    layout: Arc<Layout>,
    /// Nothing of a database can be read any more once it is closed, which its last owner does.
    _database: Arc<Database>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("applied", &self.applied)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// The version whose rows these are.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// How many entities have a row.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The columns.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The value of a key, both as the layout writes them.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, redb::StorageError> {
        Ok(self.rows.get(key)?.map(|value| value.value().to_vec()))
    }

    /// For each key the place of its value among the values found, and these values: the columns of
    /// [`order`](Layout::order) and then the features. `keys` are the columns of the key, without nulls.
    ///
    /// # Errors
    /// [`LookupError::TooMuch`] if the values are very large, [`LookupError::Internal`] if the columns are others, the disk
    /// fails or the store is damaged.
    pub fn get(&self, keys: &[ArrayRef]) -> Result<(Vec<Option<usize>>, RecordBatch), LookupError> {
        let wrong = |error: &dyn std::fmt::Display| {
            LookupError::Internal(format!("{}: {error}", self.layout.dataset()))
        };
        let keys = self.layout.encode_keys(keys).map_err(|error| wrong(&error))?;
        let mut places = Vec::with_capacity(keys.num_rows());
        let (mut found, mut bytes) = (Vec::new(), 0);
        for key in keys.iter() {
            let value = self.rows.get(key.data()).map_err(|error| wrong(&error))?;
            places.push(value.is_some().then_some(found.len()));
            bytes += value.as_ref().map_or(0, |value| value.value().len());
            if bytes > ANSWER_BYTES_MAX {
                return Err(LookupError::TooMuch(format!(
                    "the rows have more than {ANSWER_BYTES_MAX} bytes; ask for fewer keys at a time"
                )));
            }
            found.extend(value);
        }
        let values = self.layout.decode(found.iter().map(|value| value.value()));
        Ok((places, values.map_err(|error| wrong(&error))?))
    }
}
