//! A store without a dataset, filled by hand: what look-ups cost by themselves is measured with it.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;

use super::layout::Layout;
use super::metrics::Metrics;
use super::store::{Applied, State, Store, Unopened, store_failed};
use super::{OnlineViews, View};
use crate::error::Error;
use crate::spec::OnlineSpec;

fn open_store(path: &Path, cache_bytes: usize) -> Result<Store, Error> {
    Store::open(path, cache_bytes).map_err(|unopened| match unopened {
        Unopened::InUse => store_failed(path, "open", "another process has it open"),
        Unopened::Unreadable(why) => store_failed(path, "open", why),
    })
}

/// Fills a store at `path`, a transaction for each of `batches`, which have the columns of `schema` and stand for a version
/// each.
///
/// # Errors
/// [`Error::Configuration`] if the view does not fit `schema`, [`Error::Damaged`] if the disk fails.
pub fn fill(
    path: &Path,
    spec: &OnlineSpec,
    schema: &Schema,
    batches: impl Iterator<Item = RecordBatch>,
    cache_bytes: usize,
) -> Result<(), Error> {
    let layout = Layout::new(spec, schema).map_err(Error::Configuration)?;
    let store = open_store(path, cache_bytes)?;
    for (version, batch) in (0..).zip(batches) {
        let column = |name: &String| {
            let missing = || Error::Configuration(format!("the batch has no column {name}"));
            batch.column_by_name(name).cloned().ok_or_else(missing)
        };
        let names = layout.columns().iter().map(|field| field.name());
        let columns: Vec<ArrayRef> = names.map(column).collect::<Result<_, Error>>()?;
        let rows = layout.encode(&columns).map_err(Error::Configuration)?;
        let applied = Applied { version, sha256: String::new(), committed_ms: 0 };
        let state = State {
            fingerprint: layout.fingerprint().to_owned(),
            table_id: String::new(),
            building: None,
            applied: Some(applied),
        };
        let writing = store.begin()?;
        store.put(&writing, &rows)?;
        store.set_state(&writing, &state)?;
        store.commit(writing)?;
    }
    Ok(())
}

/// A store that is open until this is dropped: nothing can be read of one that is closed.
#[derive(Debug)]
pub struct Opened {
    /// Its view. Nothing follows it.
    pub views: OnlineViews,
    _store: Store,
}

/// Opens a store that was [filled](fill) with the same columns.
///
/// # Errors
/// As [`fill`].
pub fn open(path: &Path, spec: &OnlineSpec, schema: &Schema, cache_bytes: usize) -> Result<Opened, Error> {
    let layout = Layout::new(spec, schema).map_err(Error::Configuration)?;
    let store = open_store(path, cache_bytes)?;
    let metrics = Metrics::new("standalone");
    let view = View::new(spec, &metrics);
    view.publish(store.reader(Arc::new(layout))?, store.bytes());
    Ok(Opened { views: OnlineViews { views: [Arc::new(view)].into(), metrics }, _store: store })
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, TimestampMicrosecondArray};

    use super::*;
    use crate::online::{Found, Options};

    /// And the next one can be opened when it is gone.
    #[test]
    fn a_view_answers_without_a_follower() {
        let spec = OnlineSpec {
            dataset: "d".to_owned(),
            keys: vec!["entity".to_owned()],
            time: "at".to_owned(),
            known: None,
            sequence: Vec::new(),
            ttl: None,
            features: None,
        };
        let numbers = || Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef;
        let times = Arc::new(TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC")) as ArrayRef;
        let columns = [("entity", numbers()), ("at", times), ("amount", numbers())];
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)));
        let batch = batch.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.redb");
        fill(&path, &spec, &batch.schema(), [batch.clone()].into_iter(), 1 << 20).unwrap();
        for _ in 0..2 {
            let opened = open(&path, &spec, &batch.schema(), 1 << 20).unwrap();
            let view = opened.views.view("d").unwrap();
            let keys: ArrayRef = Arc::new(Int64Array::from(vec![8, 9]));
            let answer = view.look_up(&[keys], &Options::default(), 0).unwrap();
            assert!(matches!(answer.found[..], [Found::Row(_), Found::Nothing]), "{:?}", answer.found);
        }
    }
}
