//! Write-once registers: keys that take one value and keep it.
//!
//! A conditional create decides which value a key holds, but its answer may be lost, and a client may report that the
//! key exists when it was our own write that made it so. So no answer but success is believed: the key is read and
//! its bytes compared. A key that is absent after a write without an answer may still appear, because the write may be
//! on its way; the caller repeats **the same bytes** until the key holds them or another's. Two different values must
//! never be offered for one key by the same writer.

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};

use super::store_error;
use crate::Error;

/// Bytes that a register may hold at most. Entries are far smaller; what is larger was not written by isobar.
pub const REGISTER_BYTES_MAX: u64 = 64 << 20;

/// What became of a value offered to a register.
#[derive(Debug)]
#[must_use]
pub enum PutOnce {
    /// The key holds exactly these bytes, for good: written now, or by an earlier attempt whose answer was lost.
    Stored,
    /// The key holds another value, for good.
    Occupied(Bytes),
    /// Not known. The bytes may be stored, may be stored later, or never: repeat the same bytes.
    Unknown(Error),
}

/// Offers `bytes` to the register at `path`, once: the caller repeats on [`PutOnce::Unknown`].
pub async fn put_once(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> PutOnce {
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let Err(refusal) = store.put_opts(path, bytes.clone().into(), create).await else {
        return PutOnce::Stored;
    };
    match read_register(store, path, REGISTER_BYTES_MAX).await {
        Ok(Some(held)) if held == bytes => PutOnce::Stored,
        Ok(Some(held)) => PutOnce::Occupied(held),
        Ok(None) => PutOnce::Unknown(store_error(store, format!("write {path}"), refusal)),
        Err(error) => PutOnce::Unknown(error),
    }
}

/// The value at `path`, `None` if there is none **yet**. More than `bytes_max` bytes are an error.
pub async fn read_register(
    store: &dyn ObjectStore,
    path: &Path,
    bytes_max: u64,
) -> Result<Option<Bytes>, Error> {
    let failed = |source| store_error(store, format!("read {path}"), source);
    let found = match store.get(path).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let bytes = found.meta.size;
    if bytes > bytes_max {
        let (cloud, path) = (store.to_string(), path.to_string());
        return Err(Error::ObjectTooLarge { cloud, path, bytes, bytes_max });
    }
    let value = found.bytes().await.map_err(failed)?;
    if value.len() as u64 != bytes {
        // A body cut short must never be compared as if it were the value.
        let source = object_store::Error::Generic {
            store: "register",
            source: format!("the answer ended after {} of {bytes} bytes", value.len()).into(),
        };
        return Err(failed(source));
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::clouds::{Fault, FaultStore, FaultSwitch};

    const VALUE: Bytes = Bytes::from_static(b"value");
    const OTHER: Bytes = Bytes::from_static(b"other");

    fn faulty() -> (FaultStore, FaultSwitch, Arc<InMemory>) {
        let (inner, switch) = (Arc::new(InMemory::new()), FaultSwitch::default());
        (FaultStore::new(inner.clone(), switch.clone()), switch, inner)
    }

    #[tokio::test]
    async fn a_lost_answer_to_our_own_write_is_seen_through() {
        let (store, switch, _) = faulty();
        let path = Path::from("a/b");
        switch.set(Fault::LoseWriteAnswers);
        assert!(matches!(put_once(&store, &path, VALUE).await, PutOnce::Stored));
        // The repetition meets "already exists" for its own bytes.
        switch.set(Fault::Off);
        assert!(matches!(put_once(&store, &path, VALUE).await, PutOnce::Stored));
        let PutOnce::Occupied(held) = put_once(&store, &path, OTHER).await else { panic!("it is occupied") };
        assert_eq!(held, VALUE);
    }

    #[tokio::test]
    async fn a_refused_write_is_unknown_even_if_nothing_is_there() {
        let (store, switch, inner) = faulty();
        let path = Path::from("a/b");
        switch.set(Fault::RefuseAll);
        assert!(matches!(put_once(&store, &path, VALUE).await, PutOnce::Unknown(_)));
        switch.set(Fault::RefuseWrites);
        let PutOnce::Unknown(error) = put_once(&store, &path, VALUE).await else {
            panic!("nothing is known")
        };
        assert!(error.to_string().contains("write a/b"), "{error}");
        // Someone else is faster than the repetition.
        inner.put(&path, OTHER.into()).await.unwrap();
        assert!(matches!(put_once(&store, &path, VALUE).await, PutOnce::Occupied(held) if held == OTHER));
    }

    #[tokio::test]
    async fn a_value_too_large_for_a_register_is_an_error() {
        let (store, ..) = faulty();
        let path = Path::from("a/b");
        assert!(read_register(&store, &path, 5).await.unwrap().is_none());
        store.put(&path, VALUE.into()).await.unwrap();
        assert_eq!(read_register(&store, &path, 5).await.unwrap(), Some(VALUE));
        let error = read_register(&store, &path, 4).await.unwrap_err();
        assert!(matches!(error, Error::ObjectTooLarge { bytes: 5, bytes_max: 4, .. }), "{error:?}");
    }
}
