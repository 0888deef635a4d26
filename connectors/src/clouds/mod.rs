//! Clouds: named places in an object store, opened from a URL, with what the commit protocol needs on top.
//!
//! A [`Cloud`] has three clients on the same place. `control` is for keys whose fate matters (`control/`, `_delta_log/`):
//! it does not retry and gives up soon, because the protocol itself repeats, and a retry hidden in a client makes
//! answers ambiguous. `data` is for files under unique names: it retries for a while. The third is for queries
//! ([`Cloud::for_queries`]), which rather ask another cloud than wait.
//!
//! What protects the promises: [`put_once`] makes a key a write-once register whatever answers get lost;
//! [`probe`](probe::probe) refuses a store that ignores preconditions; the directory behind a `file://` cloud is never
//! created anew behind our back (`guard`); and [`FaultStore`] takes a cloud away on purpose, in demonstrations and
//! tests. [`conformance`] is the suite that every kind of cloud passes.

pub mod conformance;
mod faults;
mod guard;
mod named;
mod open;
mod probe;
mod register;
#[cfg(test)]
mod temporary;

use std::{fmt, sync::Arc, time::Duration};

use object_store::ObjectStore;

pub use faults::{Fault, FaultStore, FaultSwitch};
pub use open::{OptionProblem, check_options, open, open_with};
pub use probe::{Probe, probe};
pub use register::{PutOnce, REGISTER_BYTES_MAX, put_once, read_register};

use crate::Error;

/// A named place in an object store. Paths given to its stores are relative to that place.
#[derive(Clone)]
#[non_exhaustive]
pub struct Cloud {
    /// Its name in the topology.
    pub name: String,
    /// Its URL, for people: without credentials.
    pub url: String,
    /// The client for keys whose fate matters: no retries, an answer or an error within seconds.
    pub control: Arc<dyn ObjectStore>,
    /// The client for data: retries, patient.
    pub data: Arc<dyn ObjectStore>,
    /// The client for queries: no retries, a body may take as long as it needs. See [`for_queries`](Self::for_queries).
    pub reads: Arc<dyn ObjectStore>,
    /// The directory of a `file://` cloud.
    root: Option<Arc<guard::Root>>,
}

impl Cloud {
    /// A cloud of given stores, for tests; [`open`] makes real ones. The stores should call themselves `name` when
    /// displayed: messages show that.
    pub fn new(name: impl Into<String>, control: Arc<dyn ObjectStore>, data: Arc<dyn ObjectStore>) -> Self {
        let name = name.into();
        Self { url: format!("test://{name}"), name, control, reads: data.clone(), data, root: None }
    }

    /// Makes the place ready to be registered: the directory of a `file://` cloud is created, and marked so that its
    /// absence is noticed later. Other stores need nothing. To be called when a cloud is registered or readmitted,
    /// never on the way.
    pub async fn create_root(&self) -> Result<(), Error> {
        let Some(root) = self.root.clone() else { return Ok(()) };
        let created = tokio::task::spawn_blocking(move || root.create()).await;
        let created = created.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        created.map_err(|error| Error::CloudConfig {
            cloud: self.name.clone(),
            problem: format!("cannot create its directory {}: {error}", self.url),
        })
    }

    /// Whether [`create_root`](Self::create_root) has been called, ever; always true for other stores than directories.
    pub fn has_root(&self) -> bool {
        self.root.as_ref().is_none_or(|root| root.exists())
    }

    /// Whether something can be written: false for a directory that was never made ready by
    /// [`create_root`](Self::create_root), or that cannot be looked at; always true for other stores.
    pub fn takes_writes(&self) -> bool {
        self.root.as_ref().is_none_or(|root| root.is_marked().unwrap_or(false))
    }

    /// This cloud, whose requests are given up after `deadline` where they are not earlier: for looking at a cloud
    /// that may hang. A request given up may still be carried out.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.control = Arc::new(named::NamedStore::new(&self.name, self.control, Some(deadline)));
        self.data = Arc::new(named::NamedStore::new(&self.name, self.data, Some(deadline)));
        self.reads = Arc::new(named::NamedStore::new(&self.name, self.reads, Some(deadline)));
        self
    }

    /// This cloud for queries, which can ask another one: `data` gives up at the first error. An answer has to begin within
    /// `deadline`, and each piece of it to follow within that time.
    pub fn for_queries(mut self, deadline: Duration) -> Self {
        self.data = Arc::new(named::NamedStore::new(&self.name, self.reads.clone(), Some(deadline)));
        self
    }

    /// This cloud with its clients behind `switch`.
    pub fn with_faults(mut self, switch: &FaultSwitch) -> Self {
        self.control = Arc::new(FaultStore::new(self.control, switch.clone()));
        self.data = Arc::new(FaultStore::new(self.data, switch.clone()));
        self.reads = Arc::new(FaultStore::new(self.reads, switch.clone()));
        self
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

/// An error of a request to `store`, which calls itself as its cloud is named.
fn store_error(store: &dyn ObjectStore, action: String, source: object_store::Error) -> Error {
    Error::Store { cloud: store.to_string(), action, source }
}
