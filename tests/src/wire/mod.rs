//! S3, Azure Blob Storage and Google Cloud Storage in memory, at the wire.
//!
//! ```text
//!  clouds::open_with ─▶ object_store's client ─▶ Connector ─┐
//!  clouds::open      ─▶ object_store's client ─▶ TCP, Server ┴─▶ faults ─▶ s3 | azure | gcs ─▶ store
//! ```
//!
//! A [`Simulator`] holds one cloud of each kind. A request becomes an answer in a pure function of the request and the
//! store (`protocol.rs` and the front-ends under it), so that it is carried out as a whole or not at all; the faults of
//! [`Faults`] lie around that function: before, after, instead of it, or on the answer's way back. The real clients run
//! against it within the process ([`Simulator::connector`], [`Simulator::cloud`]), where delays and time-outs are in
//! tokio's time and may be paused, and the same store is served over TCP ([`Simulator::serve`]).
//!
//! What a client could ask for and is not simulated is refused with 501, never ignored. `tests/it/wire_battery.rs` holds
//! the expectations that the simulator shares with moto and Azurite.

mod azure;
mod batch;
mod body;
mod connector;
mod faults;
mod gcs;
mod listing;
mod message;
mod parts;
mod protocol;
mod s3;
mod server;
mod sign;
mod store;
mod xml;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{Method, request};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use isobar_connectors::clouds::{self, Cloud};
use tokio::time::{Instant, sleep};
use url::Url;

pub use connector::Connector;
pub use faults::{Fault, Faults, Rule};
pub use parts::content_md5;
pub use protocol::{Protocol, service_account_key};
pub use server::Server;
pub use xml::texts;

use crate::prng::Prng;
use body::Sent;
use message::{Answer, Request};
use protocol::{answer, refusal_answer};
use store::Store;

/// The bucket or container that every simulated cloud has.
pub const BUCKET: &str = "isobar";

/// Requests that are noted; a server that runs for long must not grow with each.
const EVENTS_MAX: usize = 200_000;

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The cloud it went to.
    pub protocol: Protocol,
    /// Its method.
    pub method: Method,
    /// The object's name, or a listing's prefix.
    pub key: String,
    /// The fault that it met.
    pub fault: Option<Fault>,
    /// The status that was sent; none if the connection was closed or nothing had been sent when the event was noted.
    pub status: Option<u16>,
}

/// Three clouds in memory, what goes wrong in them, and what happened.
#[derive(Debug)]
pub struct Simulator {
    stores: Mutex<BTreeMap<Protocol, Store>>,
    faults: Faults,
    events: Mutex<Vec<Event>>,
    /// Requests that met [`Fault::HoldBack`], in the order in which they came.
    held_back: Mutex<Vec<(Protocol, Request)>>,
    /// The simulated time at `started`.
    epoch: DateTime<Utc>,
    started: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Simulator {
    /// Three clouds that have the bucket [`BUCKET`] and nothing in it. `seed` decides chances, and nothing else is left
    /// to chance: the simulated time begins at the same moment always and goes as tokio's does.
    pub fn new(seed: u64) -> Arc<Self> {
        Self::starting_at(seed, DateTime::UNIX_EPOCH + TimeDelta::days(20_000), &[BUCKET])
    }

    /// As [`new`](Self::new), with this time and these buckets.
    pub fn starting_at(seed: u64, epoch: DateTime<Utc>, buckets: &[&str]) -> Arc<Self> {
        let mut empty = Store::default();
        for bucket in buckets {
            empty.add_bucket(bucket);
        }
        let stores = Protocol::ALL.map(|protocol| (protocol, empty.clone())).into();
        Arc::new(Self {
            stores: Mutex::new(stores),
            faults: Faults::new(Prng::new(seed)),
            events: Mutex::default(),
            held_back: Mutex::default(),
            epoch,
            started: Instant::now(),
        })
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The requests so far, in the order in which they came; only the first 200,000 are noted.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    /// For `with_http_connector`: requests go to this cloud, whatever their address is.
    pub fn connector(self: &Arc<Self>, protocol: Protocol) -> Connector {
        Connector { simulator: Arc::clone(self), protocol }
    }

    /// A cloud as isobar opens it, at `prefix` of [`BUCKET`], within the process.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn cloud(self: &Arc<Self>, protocol: Protocol, prefix: &str) -> Cloud {
        let connector = Arc::new(self.connector(protocol));
        clouds::open_with(&protocol.to_string(), &url(protocol, prefix), &protocol.options(None), connector)
            .expect("the options are valid")
    }

    /// Serves a cloud at `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn serve(self: &Arc<Self>, protocol: Protocol, address: &str) -> io::Result<Server> {
        Server::start(Arc::clone(self), protocol, address).await
    }

    /// The content of an object in [`BUCKET`], as it lies there: no request, no fault.
    pub fn object(&self, protocol: Protocol, key: &str) -> Option<Bytes> {
        Some(lock(&self.stores).get(&protocol)?.object(BUCKET, key)?.bytes.clone())
    }

    /// The names in [`BUCKET`].
    pub fn keys(&self, protocol: Protocol) -> Vec<String> {
        let stores = lock(&self.stores);
        let bucket = stores.get(&protocol).and_then(|store| store.buckets.get(BUCKET));
        bucket.into_iter().flat_map(|bucket| bucket.objects.keys().cloned()).collect()
    }

    /// Bit rot: one bit in the middle of a stored object becomes another. Nothing else about it changes.
    ///
    /// # Panics
    /// If there is no such object, or it is empty.
    pub fn rot(&self, protocol: Protocol, key: &str) {
        let mut stores = lock(&self.stores);
        let bucket = stores.get_mut(&protocol).and_then(|store| store.buckets.get_mut(BUCKET));
        let object = bucket.and_then(|bucket| bucket.objects.get_mut(key)).expect("the object is there");
        object.bytes = flipped(&object.bytes);
    }

    /// A cloud that lost everything: its buckets are there, and empty.
    pub fn wipe(&self, protocol: Protocol) {
        if let Some(store) = lock(&self.stores).get_mut(&protocol) {
            store.buckets.values_mut().for_each(|bucket| *bucket = Default::default());
        }
    }

    /// Carries out the requests held back so far ([`Fault::HoldBack`]), with whatever result; how many there were.
    pub fn carry_out_late(&self) -> usize {
        let held_back = std::mem::take(&mut *lock(&self.held_back));
        for (protocol, request) in &held_back {
            self.apply(*protocol, request);
        }
        held_back.len()
    }

    fn now(&self) -> DateTime<Utc> {
        self.epoch + TimeDelta::from_std(self.started.elapsed()).unwrap_or_default()
    }

    fn apply(&self, protocol: Protocol, request: &Request) -> Answer {
        let mut stores = lock(&self.stores);
        answer(protocol, stores.entry(protocol).or_default(), request)
    }

    /// Takes a request in; `None` closes the connection without an answer.
    async fn handle(
        self: &Arc<Self>,
        protocol: Protocol,
        parts: request::Parts,
        body: Bytes,
    ) -> Option<Sent> {
        let (method, is_head) = (parts.method.clone(), parts.method == Method::HEAD);
        let request = match Request::parse(parts, body, self.now()) {
            Ok(request) => request,
            Err(refusal) => return Some(Sent::whole(refusal_answer(protocol, &refusal, is_head))),
        };
        let key = key_of(protocol, &request);
        let fault = self.faults.draw(protocol, &method, &key);
        let noted = self.note(Event { protocol, method, key, fault, status: None });
        let sent = match fault {
            Some(fault) => self.suffer(fault, protocol, request).await,
            None => Some(Sent::whole(self.apply(protocol, &request))),
        };
        if let Some(noted) = noted {
            lock(&self.events)[noted].status = sent.as_ref().map(|sent| sent.answer.status.as_u16());
        }
        sent
    }

    /// Where the event stands, if there was room.
    fn note(&self, event: Event) -> Option<usize> {
        let mut events = lock(&self.events);
        let at = events.len();
        (at < EVENTS_MAX).then(|| {
            events.push(event);
            at
        })
    }

    /// Carries a request out, or not, as its fault has it.
    async fn suffer(self: &Arc<Self>, fault: Fault, protocol: Protocol, request: Request) -> Option<Sent> {
        let is_head = request.is_head();
        let refused = |fault: Fault| {
            let refusal = fault.refusal(protocol)?;
            Some(Sent::whole(refusal_answer(protocol, &refusal, is_head)))
        };
        match fault {
            Fault::DropBefore => None,
            Fault::DropAfter => {
                self.apply(protocol, &request);
                None
            }
            Fault::HangBefore => std::future::pending().await,
            Fault::HangAfter => {
                self.apply(protocol, &request);
                std::future::pending().await
            }
            Fault::HoldBack => {
                lock(&self.held_back).push((protocol, request));
                std::future::pending().await
            }
            Fault::Delay(delay) => {
                sleep(delay).await;
                Some(Sent::whole(self.apply(protocol, &request)))
            }
            Fault::ErrorAfter => {
                self.apply(protocol, &request);
                refused(fault)
            }
            Fault::TruncateBody => {
                let answer = self.apply(protocol, &request);
                let cut_after = Some(answer.body.len() / 2);
                Some(Sent { cut_after, ..Sent::whole(answer) })
            }
            Fault::ShortenBody => {
                let answer = self.apply(protocol, &request);
                let half = answer.body.slice(..answer.body.len() / 2);
                Some(Sent::whole(if is_head { answer } else { answer.with_body(half) }))
            }
            Fault::FlipBit => {
                let mut answer = self.apply(protocol, &request);
                answer.body = flipped(&answer.body);
                Some(Sent::whole(answer))
            }
            Fault::Slow(bytes_per_second) => {
                let seconds = request.body.len() as f64 / bytes_per_second as f64;
                sleep(Duration::from_secs_f64(seconds)).await;
                let answer = self.apply(protocol, &request);
                Some(Sent { bytes_per_second: Some(bytes_per_second), ..Sent::whole(answer) })
            }
            Fault::IgnorePreconditions => {
                let request = Request { ignores_conditions: true, ..request };
                Some(Sent::whole(self.apply(protocol, &request)))
            }
            fault => refused(fault),
        }
    }
}

/// The URL of `prefix` in [`BUCKET`].
///
/// # Panics
/// If the prefix cannot stand in a URL.
pub fn url(protocol: Protocol, prefix: &str) -> Url {
    Url::parse(&format!("{}://{BUCKET}/{prefix}", protocol.scheme())).expect("a valid URL")
}

/// What rules and events call the object of a request.
fn key_of(protocol: Protocol, request: &Request) -> String {
    if let Some(prefix) = request.query("prefix") {
        return prefix.to_owned();
    }
    let path = match protocol {
        Protocol::S3 => s3::path_style(request),
        Protocol::Azure => azure::below_account(request).to_owned(),
        Protocol::Gcs => request.path.clone(),
    };
    request.split_path(&path).map(|(_, name)| name).unwrap_or_default()
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut changed = bytes.to_vec();
    if let Some(byte) = changed.get_mut(bytes.len() / 2) {
        *byte ^= 1;
    }
    changed.into()
}
