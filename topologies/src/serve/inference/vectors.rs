//! The log of served vectors: what models were given and what they answered becomes records of a Kafka topic, and from there, by an
//! ordinary topology (`topologies/served_vectors`), rows of a dataset in every cloud, which `isobar drift skew` holds against what the
//! datasets say.
//!
//! ```text
//! best effort  request ──────────▶ model ─▶ answer ─▶ records, if there is room ─▶ Kafka
//! required     request ─▶ room ─▶ model ─▶ records ─▶ Kafka ─▶ they are stored ─▶ answer
//! ```
//!
//! Rows of requests that are answered are written, and of nothing else. Which share of them follows from their ids alone. Values are
//! those that the model was given, after NULL was filled and numbers were rounded to its types; the value that it answered is that of
//! `predict(…)`. Who asked is not written.
//!
//! **Bounds.** Each record takes room for the most bytes that it can have, from before it is made until it is known what became
//! of it. Where there is none, it is lost, counted and logged; with `required`, its request is refused before the model is run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::take_record_batch;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::error::Error;
use crate::inference::{Bound, Output};
use crate::models::Manifest;
use crate::serve::Refusal;
use crate::serve::record_log::{LogMetrics, RecordLog};
use crate::spec::Topology;
use crate::spec::serve::VectorLogSpec;

/// Most bytes of a record: what Kafka's brokers take if they are not told otherwise, and some of it is theirs.
const RECORD_BYTES_MAX: usize = 900 << 10;
/// Bytes of a record without the model's name, keys and values: names of fields, id, version, digest, time, one number.
const FRAME_BYTES: usize = 512;
/// Most bytes of a number and what separates it from the next.
const NUMBER_BYTES: usize = 26;
/// Most bytes that a byte of a text becomes in JSON.
const ESCAPED: usize = 6;
/// Bytes around the name and the text of a column of a key.
const KEY_FRAME_BYTES: usize = 6;

/// Columns of keys as texts, by name, one text per row.
pub(super) type Keys = BTreeMap<String, Vec<String>>;

/// Where records go.
#[derive(Debug)]
pub(super) struct VectorLog {
    /// With room for each byte of the records on their way.
    log: RecordLog,
    spec: VectorLogSpec,
}

/// The rows of a request that are written when it is answered.
pub(super) struct Vectors {
    log: Arc<VectorLog>,
    request: Uuid,
    served_at: DateTime<Utc>,
    /// Their places in the request, ascending, and the most bytes that their records can have; `None`: too many.
    rows: Vec<(usize, Option<u32>)>,
    features: RecordBatch,
    keys: Keys,
    /// For all of them, if they are required.
    room: Option<OwnedSemaphorePermit>,
}

/// Rows that have room, on their way to become records.
struct Written {
    request: Uuid,
    served_at: DateTime<Utc>,
    /// Their places in the request, and the bytes of their records at most.
    rows: Vec<(usize, u32)>,
    /// Of these rows alone, as what follows.
    features: RecordBatch,
    keys: Keys,
    predictions: Vec<f64>,
    room: OwnedSemaphorePermit,
    /// Who is told that a row is stored; nobody if there are none.
    stored: Vec<oneshot::Sender<()>>,
}

/// A record as it is sent. Numbers that are not finite are null.
#[derive(Debug, Serialize)]
struct Record<'a> {
    id: &'a str,
    model: &'a str,
    model_version: u64,
    model_sha256: &'a str,
    served_at: &'a str,
    keys: BTreeMap<&'a str, &'a str>,
    feature_values: Vec<f64>,
    prediction: f64,
}

impl VectorLog {
    /// The log that `spec` of `topology` describes. Connects in the background.
    ///
    /// # Errors
    /// [`Error::Configuration`] for options of Kafka that are wrong or lead nowhere.
    pub(super) fn open(
        topology: &Topology,
        spec: &VectorLogSpec,
        metrics: LogMetrics,
    ) -> Result<Self, Error> {
        let room = usize::try_from(spec.buffer_bytes).unwrap_or(usize::MAX);
        let log = RecordLog::open(topology, "served vectors", &spec.topic, spec.required, room, metrics)?;
        Ok(Self { log, spec: spec.clone() })
    }

    /// What is to be written of a request with these features, which are looked up as of `served_at`; `None` if nothing is.
    ///
    /// # Errors
    /// Where records are required: [`Refusal::TooMuch`] if they can never be written, [`Refusal::Unavailable`] if there is no
    /// room for them in time.
    pub(super) async fn begin(
        self: &Arc<Self>,
        manifest: &Manifest,
        served_at: DateTime<Utc>,
        features: RecordBatch,
        keys: Keys,
    ) -> Result<Option<Vectors>, Refusal> {
        let request = Uuid::new_v4();
        let rows = 0..features.num_rows();
        let is_all = self.spec.share >= 1.0;
        let rows = rows.filter(|row| is_all || is_chosen(&id_of(request, *row), self.spec.share));
        let frame = FRAME_BYTES + ESCAPED * manifest.model.len() + NUMBER_BYTES * features.num_columns();
        let rows: Vec<(usize, Option<u32>)> =
            rows.map(|row| (row, record_bytes(frame, &keys, row))).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let room = match self.spec.required {
            true => Some(self.room_for(&rows).await?),
            false => None,
        };
        Ok(Some(Vectors { log: self.clone(), request, served_at, rows, features, keys, room }))
    }

    /// Room for the records of all `rows`.
    async fn room_for(&self, rows: &[(usize, Option<u32>)]) -> Result<OwnedSemaphorePermit, Refusal> {
        let too_much = |message: String| Refusal::TooMuch { limit: "log", message };
        let mut all = 0_u64;
        for (row, bytes) in rows {
            let bytes = bytes.ok_or_else(|| {
                too_much(format!(
                    "row {row}, with its key and all features, may be too long to be written, and rows are answered that are"
                ))
            })?;
            all += u64::from(bytes);
        }
        let buffer = self.spec.buffer_bytes;
        let all = u32::try_from(all).ok().filter(|all| *all <= buffer).ok_or_else(|| {
            too_much(format!(
                "{} rows may need {all} bytes in the log of served vectors, which takes {buffer} at a time: send fewer",
                rows.len()
            ))
        })?;
        let room = self.log.room().clone().acquire_many_owned(all);
        let room = timeout_at(Instant::now() + self.spec.patience, room).await;
        room.map_err(|_| unwritten())?.map_err(|_| unwritten())
    }

    /// Room for as many of `rows` as there is now.
    fn room_now(&self, rows: &[(usize, Option<u32>)]) -> Option<(Vec<(usize, u32)>, OwnedSemaphorePermit)> {
        let mut left = u32::try_from(self.log.room().available_permits()).unwrap_or(u32::MAX);
        let mut all = 0;
        let fitting = rows.iter().filter_map(|(row, bytes)| {
            let bytes = *bytes;
            left = left.checked_sub(bytes?)?;
            all += bytes?;
            Some((*row, bytes?))
        });
        let fitting: Vec<(usize, u32)> = fitting.collect();
        // Somebody else may have taken it since.
        let room = self.log.room().clone().try_acquire_many_owned(all).ok()?;
        (!fitting.is_empty()).then_some((fitting, room))
    }

    /// Waits until what is on its way is stored, no longer than `patience`.
    pub(super) async fn close(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        // Rows that are still made into records have their room already.
        _ = timeout_at(deadline, self.log.room().acquire_many(self.spec.buffer_bytes)).await;
        self.log.close(deadline.saturating_duration_since(Instant::now())).await;
    }

    /// Sends what `bound` was given and has answered.
    fn send(&self, bound: &Bound, written: Written) {
        let Written { request, served_at, rows, features, keys, predictions, mut room, stored } = written;
        let prepared = match bound.session.prepare(&features) {
            Ok(prepared) => prepared,
            Err(error) => return self.log.lost(rows.len() as u64, &error.to_string()),
        };
        let Manifest { model, version, onnx, .. } = &bound.manifest;
        let served_at = served_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut stored = stored.into_iter();
        for (at, ((row, bytes), prediction)) in rows.into_iter().zip(predictions).enumerate() {
            let place = usize::try_from(bytes).ok().and_then(|bytes| room.split(bytes));
            let Some(place) = place else {
                self.log.lost(1, "its room was taken");
                continue;
            };
            let id = id_of(request, row);
            let keys = keys.iter().filter_map(|(name, texts)| Some((name.as_str(), texts.get(at)?.as_str())));
            let record = Record {
                id: &id,
                model,
                model_version: *version,
                model_sha256: &onnx.sha256,
                served_at: &served_at,
                keys: keys.collect(),
                feature_values: prepared.vector(at),
                prediction,
            };
            self.log.send(&id, &record, place, stored.next());
        }
    }
}

impl Vectors {
    /// Writes what `bound` answered, as far as there is room; returns when all of it is stored, where that is required.
    ///
    /// # Errors
    /// Where records are required: [`Refusal::Unavailable`] if they are not stored in time, and [`Refusal::Internal`] if there are
    /// none.
    pub(super) async fn written(mut self, bound: &Arc<Bound>, outputs: &[Output]) -> Result<(), Refusal> {
        let log = self.log.clone();
        let (required, patience, rows) = (log.spec.required, log.spec.patience, self.rows.len());
        let mut written = match self.with_room(bound, outputs) {
            Ok(Some(written)) => written,
            Ok(None) => return Ok(()),
            Err(why) => {
                log.log.lost(rows as u64, &why);
                return if required { Err(Refusal::Internal(why)) } else { Ok(()) };
            }
        };
        let told = written.rows.iter().filter(|_| required).map(|_| oneshot::channel());
        let (stores, waits): (Vec<oneshot::Sender<()>>, Vec<oneshot::Receiver<()>>) = told.unzip();
        written.stored = stores;
        let bound = bound.clone();
        let sending = tokio::task::spawn_blocking(move || log.send(&bound, written));
        if !required {
            return Ok(());
        }
        let all = async {
            sending.await.map_err(|_| unwritten())?;
            futures::future::try_join_all(waits).await.map_err(|_| unwritten())
        };
        timeout_at(Instant::now() + patience, all).await.map_err(|_| unwritten())?.map(drop)
    }

    /// The rows for which there is room, with what was given and answered; `None` if there is none. The others are lost.
    fn with_room(&mut self, bound: &Bound, outputs: &[Output]) -> Result<Option<Written>, String> {
        let predictions = bound.session.values(outputs).map_err(|error| error.to_string())?;
        if predictions.len() != self.features.num_rows() {
            return Err("the model has no value for each row".to_owned());
        }
        let whole = self.room.take().map(|room| {
            let rows = self.rows.iter().filter_map(|(row, bytes)| Some((*row, (*bytes)?)));
            (rows.collect::<Vec<(usize, u32)>>(), room)
        });
        let fitting = whole.or_else(|| self.log.room_now(&self.rows));
        let lost = self.rows.len() - fitting.as_ref().map_or(0, |(rows, _)| rows.len());
        if lost > 0 {
            self.log.log.lost(lost as u64, "too many bytes are on their way");
        }
        let Some((rows, room)) = fitting else { return Ok(None) };
        let mut keys = std::mem::take(&mut self.keys);
        let (features, predictions) = match rows.len() == predictions.len() {
            true => (self.features.clone(), predictions),
            // Nothing of the others is kept.
            false => {
                for texts in keys.values_mut() {
                    *texts =
                        rows.iter().map(|(row, _)| texts.get(*row).cloned().unwrap_or_default()).collect();
                }
                let places: Vec<u64> = rows.iter().map(|(row, _)| *row as u64).collect();
                let taken = take_record_batch(&self.features, &UInt64Array::from(places));
                let predictions = rows.iter().map(|(row, _)| predictions[*row]).collect();
                (taken.map_err(|error| error.to_string())?, predictions)
            }
        };
        let (request, served_at, stored) = (self.request, self.served_at, Vec::new());
        Ok(Some(Written { request, served_at, rows, features, keys, predictions, room, stored }))
    }
}

/// The id of a row: no other has it.
fn id_of(request: Uuid, row: usize) -> String {
    format!("{request}-{row}")
}

/// Whether a row is among a share of all: the first eight bytes of SHA-256 of its id, as a fraction, say so.
fn is_chosen(id: &str, share: f64) -> bool {
    let digest: [u8; 32] = Sha256::digest(id).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    let fraction = u64::from_be_bytes([a, b, c, d, e, f, g, h]) as f64 / 2_f64.powi(64);
    fraction < share
}

/// The most bytes that the record of a row can have, of which `frame` are not of its key; `None` if that is too much.
fn record_bytes(frame: usize, keys: &Keys, row: usize) -> Option<u32> {
    let of_key = keys.iter().map(|(name, texts)| {
        let text = texts.get(row).map_or(0, String::len);
        ESCAPED * (name.len() + text) + KEY_FRAME_BYTES
    });
    let bytes = frame + of_key.sum::<usize>();
    u32::try_from(bytes).ok().filter(|_| bytes <= RECORD_BYTES_MAX)
}

fn unwritten() -> Refusal {
    let why =
        "the log of served vectors cannot be written now, and no request is answered without: try again";
    Refusal::Unavailable(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_rows_is_chosen_by_their_ids_alone() {
        let ids: Vec<String> = (0..10_000).map(|row| id_of(Uuid::nil(), row)).collect();
        let chosen = |share: f64| ids.iter().filter(|id| is_chosen(id, share)).count();
        assert_eq!(chosen(1.0), ids.len());
        let quarter = chosen(0.25);
        assert!((2_300..2_700).contains(&quarter), "{quarter}");
        assert_eq!(chosen(1e-12), 0);
        // A larger share has all rows of a smaller one.
        assert!(ids.iter().all(|id| !is_chosen(id, 0.25) || is_chosen(id, 0.5)));
        // SHA-256 of the id begins with these bytes, so that anybody can say which rows are there.
        let digest: [u8; 32] = Sha256::digest("a").into();
        assert_eq!(hex::encode(&digest[..8]), "ca978112ca1bbdca");
        let fraction = 0xca97_8112_ca1b_bdca_u64 as f64 / 2_f64.powi(64);
        assert!(is_chosen("a", fraction + 1e-9) && !is_chosen("a", fraction));
    }

    #[test]
    fn a_record_has_no_more_bytes_than_the_room_that_it_takes() {
        let control = "\u{1}".repeat(50);
        let keys = Keys::from([
            ("city".to_owned(), vec!["Oslo".to_owned(), control.clone()]),
            (control.clone(), vec![String::new(), "x".to_owned()]),
        ]);
        let values = vec![f64::from(0.1_f32), -f64::MAX, f64::MIN_POSITIVE, f64::NAN, f64::NEG_INFINITY];
        let id = id_of(Uuid::max(), 1 << 20);
        let model = "m".repeat(100);
        for row in 0..2 {
            let record = Record {
                id: &id,
                model: &model,
                model_version: u64::MAX,
                model_sha256: &"f".repeat(64),
                served_at: &DateTime::<Utc>::MAX_UTC.to_rfc3339_opts(SecondsFormat::Micros, true),
                keys: keys.iter().map(|(name, texts)| (name.as_str(), texts[row].as_str())).collect(),
                feature_values: values.clone(),
                prediction: -f64::MAX,
            };
            let frame = FRAME_BYTES + ESCAPED * model.len() + NUMBER_BYTES * values.len();
            let most = record_bytes(frame, &keys, row).unwrap() as usize;
            let bytes = serde_json::to_vec(&record).unwrap();
            assert!(bytes.len() <= most, "{} of {most}", bytes.len());
            let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert!(said["feature_values"][3].is_null() && said["feature_values"][4].is_null(), "{said}");
            assert_eq!(said["feature_values"][0], f64::from(0.1_f32));
        }
        let long = Keys::from([("city".to_owned(), vec!["x".repeat(RECORD_BYTES_MAX)])]);
        assert_eq!(record_bytes(FRAME_BYTES, &long, 0), None);
    }
}
