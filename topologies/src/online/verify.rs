//! `isobar verify-online`: whether look-ups say what a query says at the same version.
//!
//! What is right is said by SQL alone ([`newest_rows_sql`]), which DataFusion answers from the files of the dataset; nothing of the
//! follower or of the store has a part in it. A store in a folder is compared with it row by row, both ways: rows that are
//! missing, that differ, and that should not be there. A server that runs is asked for a sample of the keys, over HTTP, and each
//! answer is held against the query at the version that the answer states, however far the server has gone meanwhile.

use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use isobar_connectors::clouds::Cloud;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::http::{json_lines, time_text};
use super::layout::Layout;
use super::lookup::{KEYS_MAX, event_times};
use super::store::{Store, Unopened};
use crate::error::Error;
use crate::query::{catalog_in, failed, newest_snapshots, quoted};
use crate::spec::{OnlineSpec, Topology};

/// Differences shown in a report.
const SHOWN_MAX: usize = 20;
/// Cache of a store that is verified.
const CACHE_BYTES: usize = 64 << 20;
/// Most bytes of one answer of a server.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Keys asked of a server at a time.
const KEYS_AT_ONCE: usize = 500;
/// How long a server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Keys asked of a server where no number is said.
const SAMPLE: usize = 1000;

const _: () = assert!(KEYS_AT_ONCE <= KEYS_MAX);

/// What is compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// How many keys; all of a store, and a thousand of a server, if `None`.
    pub keys: Option<usize>,
    /// Which ones: the same seed means the same keys of the same rows.
    pub seed: u64,
}

/// What came out for one dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The dataset.
    pub dataset: String,
    /// The versions that answers were of, ascending.
    pub versions: Vec<u64>,
    /// Entities that the dataset has at the last of these versions, by the query.
    pub entities: u64,
    /// Keys that were compared.
    pub compared: u64,
    /// Keys that the query has a row for and the look-up has not.
    pub missing: u64,
    /// Keys whose rows differ.
    pub different: u64,
    /// Keys that the look-up has a row for and the query has not.
    pub unexpected: u64,
    /// Some of the keys that differ.
    pub examples: Vec<Example>,
}

/// A key for which the two say different things.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// The key, by column.
    pub key: Json,
    /// What is wrong.
    pub problem: &'static str,
    /// What the query says.
    pub expected: Json,
    /// What the look-up says.
    pub found: Json,
}

impl Report {
    /// Whether look-ups and query agree.
    pub fn holds(&self) -> bool {
        self.missing == 0 && self.different == 0 && self.unexpected == 0
    }

    fn new(dataset: &str) -> Self {
        Self {
            dataset: dataset.to_owned(),
            versions: Vec::new(),
            entities: 0,
            compared: 0,
            missing: 0,
            different: 0,
            unexpected: 0,
            examples: Vec::new(),
        }
    }

    fn note(&mut self, example: impl FnOnce() -> Result<Example, Error>) -> Result<(), Error> {
        if self.examples.len() < SHOWN_MAX {
            self.examples.push(example()?);
        }
        Ok(())
    }

    /// Reports as text for people.
    pub fn table_of(reports: &[Self]) -> String {
        let mut text = String::new();
        for report in reports {
            let versions: Vec<String> = report.versions.iter().map(u64::to_string).collect();
            let verdict = if report.holds() { "equal" } else { "DIFFERENT" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{}: {verdict} at version {}; {} of {} entities compared, {} missing, {} different, {} unexpected",
                report.dataset,
                versions.join(", "),
                report.compared,
                report.entities,
                report.missing,
                report.different,
                report.unexpected
            );
            for Example { key, problem, expected, found } in &report.examples {
                let _ = writeln!(text, "  {problem} {key}\n    query   {expected}\n    look-up {found}");
            }
        }
        text
    }
}

/// The newest row of each entity at a version, as SQL: what a look-up has to say. The columns are those of `layout`, in its order.
pub fn newest_rows_sql(layout: &Layout, version: u64) -> String {
    let names = |fields: &[arrow::datatypes::FieldRef]| -> Vec<String> {
        fields.iter().map(|field| quoted(field.name())).collect()
    };
    let (columns, keys) = (names(layout.columns()).join(", "), names(layout.keys()));
    let time = quoted(layout.order()[0].name());
    let by = layout.order().iter().chain(layout.features());
    let by: Vec<String> = by.map(|field| format!("{} DESC NULLS LAST", quoted(field.name()))).collect();
    let needed: Vec<String> =
        keys.iter().chain([&time]).map(|column| format!("{column} IS NOT NULL")).collect();
    let mut number = "n".to_owned();
    while layout.columns().iter().any(|field| *field.name() == number) {
        number.push('_');
    }
    let number = quoted(&number);
    format!(
        "SELECT {columns} FROM (\
         SELECT {columns}, row_number() OVER (PARTITION BY {} ORDER BY {}) AS {number} \
         FROM {} VERSION AS OF {version} WHERE {}) WHERE {number} = 1",
        keys.join(", "),
        by.join(", "),
        quoted(layout.dataset()),
        needed.join(" AND ")
    )
}

/// The views of `topology` that are meant: the one of `dataset`, or all.
///
/// # Errors
/// [`Error::Configuration`] if there is none.
pub fn views<'a>(topology: &'a Topology, dataset: Option<&str>) -> Result<Vec<&'a OnlineSpec>, Error> {
    let views = topology.online.iter();
    let views: Vec<_> = views.filter(|view| dataset.is_none_or(|dataset| view.dataset == dataset)).collect();
    match (views.is_empty(), dataset) {
        (false, _) => Ok(views),
        (true, Some(dataset)) => Err(Error::Configuration(format!(
            "there is no online view of {dataset}; add it to `online` of the topology"
        ))),
        (true, None) => {
            Err(Error::Configuration("the topology has no online views; add them with `online`".to_owned()))
        }
    }
}

/// Compares the store of a view in `folder` with the query at the version of the store.
///
/// # Errors
/// [`Error::Configuration`] if there is no store, it is in use, or its version can no longer be read; otherwise whatever stops the
/// query.
pub async fn verify_store(
    topology: &Topology,
    clouds: &[Cloud],
    view: &OnlineSpec,
    folder: &Path,
    sample: Sample,
) -> Result<Report, Error> {
    let path = folder.join(format!("{}.redb", view.dataset));
    let refuse = |why: &str| Error::Configuration(format!("{}: {why}", path.display()));
    if !path.exists() {
        return Err(refuse("there is no store"));
    }
    let store = Store::open(&path, CACHE_BYTES).map_err(|unopened| match unopened {
        Unopened::InUse => refuse("a process has this store open; ask it, with --url"),
        Unopened::Unreadable(why) => refuse(&why),
    })?;
    let (_, layout) = newest(clouds, view).await?;
    let is_same = store.state()?.is_some_and(|state| state.fingerprint == layout.fingerprint());
    let reader = match is_same {
        true => store.reader(layout.clone())?,
        false => return Err(refuse("it was made for other columns")),
    };
    let reader = reader.ok_or_else(|| refuse("it is still being built"))?;
    let version = reader.applied().version;
    let mut report = Report::new(&view.dataset);
    report.versions.push(version);
    let broken = |error: redb::StorageError| Error::damaged(&path.display().to_string(), error.to_string());
    let mut there = 0u64;
    let mut compare = |report: &mut Report, key: &[u8], value: &[u8]| -> Result<(), Error> {
        report.compared += 1;
        let found = reader.value(key).map_err(broken)?;
        there += u64::from(found.is_some());
        let problem = match &found {
            Some(found) if found == value => return Ok(()),
            Some(_) => {
                report.different += 1;
                "different"
            }
            None => {
                report.missing += 1;
                "missing"
            }
        };
        report.note(|| {
            Ok(Example {
                key: key_json(
                    &layout,
                    &layout.decode_key(key).map_err(|error| undecodable(&layout, error))?,
                )?,
                problem,
                expected: row_json(&layout, Some(value))?,
                found: row_json(&layout, found.as_deref())?,
            })
        })
    };
    let mut chosen = Chosen::new(sample.keys.unwrap_or(0), sample.seed);
    let entities = {
        let report = &mut report;
        newest_rows(topology, clouds, &layout, version, |key, value| match sample.keys {
            Some(_) => {
                chosen.offer(key, value);
                Ok(())
            }
            None => compare(report, key, value),
        })
        .await?
    };
    report.entities = entities;
    for (key, value) in chosen.into_rows() {
        compare(&mut report, &key, &value)?;
    }
    // Of all that are there, those that the query has were counted, if all were compared.
    let others = match sample.keys {
        None => reader.keys().saturating_sub(there),
        Some(_) => reader.keys().saturating_sub(entities),
    };
    report.unexpected = others;
    Ok(report)
}

/// Compares what a server at `url` answers for a sample of keys with the query, each at the version of the answer.
///
/// # Errors
/// [`Error::Configuration`] if the server cannot be asked or answers no look-ups, otherwise whatever stops the query.
pub async fn verify_server(
    topology: &Topology,
    clouds: &[Cloud],
    view: &OnlineSpec,
    url: &str,
    token: Option<&str>,
    sample: Sample,
) -> Result<Report, Error> {
    let (newest, layout) = newest(clouds, view).await?;
    let mut chosen = Chosen::new(sample.keys.unwrap_or(SAMPLE), sample.seed);
    newest_rows(topology, clouds, &layout, newest, |key, value| {
        chosen.offer(key, value);
        Ok(())
    })
    .await?;
    let server = Server::new(url, token)?;
    let mut by_version: BTreeMap<u64, Vec<Asked>> = BTreeMap::new();
    let keys: Vec<Vec<u8>> = chosen.into_rows().into_iter().map(|(key, _)| key).collect();
    for keys in keys.chunks(KEYS_AT_ONCE) {
        let texts = keys.iter().map(|key| {
            key_json(&layout, &layout.decode_key(key).map_err(|error| undecodable(&layout, error))?)
        });
        let texts: Vec<Json> = texts.collect::<Result<_, Error>>()?;
        let answer = server.ask(&view.dataset, &texts).await?;
        let asked = keys.iter().zip(texts).zip(answer.results);
        let asked = asked.map(|((key, text), result)| Asked { key: key.clone(), text, result });
        by_version.entry(answer.version).or_default().extend(asked);
    }
    let mut report = Report::new(&view.dataset);
    for (version, asked) in by_version {
        report.versions.push(version);
        let mut expected: HashMap<Vec<u8>, Option<Vec<u8>>> =
            asked.iter().map(|asked| (asked.key.clone(), None)).collect();
        report.entities = newest_rows(topology, clouds, &layout, version, |key, value| {
            if let Some(expected) = expected.get_mut(key) {
                *expected = Some(value.to_vec());
            }
            Ok(())
        })
        .await?;
        for asked in asked {
            let value = expected.get(&asked.key).and_then(Option::as_deref);
            judge(&mut report, &layout, view.ttl, asked, value)?;
        }
    }
    Ok(report)
}

/// Holds what a server said of a key against the row that the query has at that version.
fn judge(
    report: &mut Report,
    layout: &Layout,
    ttl: Option<Duration>,
    asked: Asked,
    value: Option<&[u8]>,
) -> Result<(), Error> {
    report.compared += 1;
    let expected = row_json(layout, value)?;
    let Asked { text, result, .. } = asked;
    let found = json!({ "event_time": result.event_time, "row": result.row });
    let problem = match (result.status.as_str(), value) {
        ("not_found", None) => return Ok(()),
        ("found", Some(_)) if found == expected => return Ok(()),
        // A row that is held back is not shown. By now it is older than it was then.
        ("expired", Some(value)) if is_older(layout, value, ttl)? => return Ok(()),
        ("not_found" | "expired", Some(_)) => {
            report.missing += 1;
            "missing"
        }
        (_, None) => {
            report.unexpected += 1;
            "unexpected"
        }
        _ => {
            report.different += 1;
            "different"
        }
    };
    report.note(|| Ok(Example { key: text, problem, expected, found }))
}

/// Whether a row is older than `ttl`.
fn is_older(layout: &Layout, value: &[u8], ttl: Option<Duration>) -> Result<bool, Error> {
    let Some(ttl) = ttl else { return Ok(false) };
    let values = layout.decode([value].into_iter()).map_err(|error| undecodable(layout, error))?;
    let times = event_times(&values).map_err(|error| undecodable(layout, error))?;
    let now = chrono::Utc::now().timestamp_micros();
    let age = times.first().map_or(0, |time| now.saturating_sub(*time));
    Ok(u128::try_from(age).is_ok_and(|age| age > ttl.as_micros()))
}

/// The newest version of a view's dataset, and the columns of the view in it.
async fn newest(clouds: &[Cloud], view: &OnlineSpec) -> Result<(u64, Arc<Layout>), Error> {
    let table = std::slice::from_ref(&view.dataset);
    let mut snapshots = newest_snapshots(clouds, table).await?;
    let snapshot = snapshots.remove(&view.dataset);
    let snapshot = snapshot
        .ok_or_else(|| Error::Configuration(format!("nothing was committed to {} yet", view.dataset)))?;
    let layout = Layout::new(view, &snapshot.schema).map_err(Error::Configuration)?;
    Ok((snapshot.version, Arc::new(layout)))
}

/// Hands the rows of [`newest_rows_sql`] to `take`, as key and value in bytes; how many there were.
async fn newest_rows(
    topology: &Topology,
    clouds: &[Cloud],
    layout: &Layout,
    version: u64,
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<u64, Error> {
    let answer = catalog_in(topology, clouds)?.query(&newest_rows_sql(layout, version)).await?;
    let (mut batches, from) = answer.into_parts();
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await.map_err(|error| failed(&from, error))? {
        let column = |(index, field): (usize, &arrow::datatypes::FieldRef)| -> Result<ArrayRef, Error> {
            let array = batch.column(index);
            if array.data_type() == field.data_type() {
                return Ok(array.clone());
            }
            cast(array, field.data_type()).map_err(|error| undecodable(layout, error))
        };
        let columns = layout.columns().iter().enumerate().map(column).collect::<Result<Vec<_>, Error>>()?;
        let encoded = layout.encode(&columns).map_err(|why| undecodable(layout, why))?;
        for (key, value) in encoded.iter() {
            take(key, value)?;
            rows += 1;
        }
    }
    Ok(rows)
}

fn undecodable(layout: &Layout, error: impl std::fmt::Display) -> Error {
    Error::damaged(&format!("a row of {}", layout.dataset()), error.to_string())
}

/// A key as JSON: the text of each of its columns.
fn key_json(layout: &Layout, columns: &[ArrayRef]) -> Result<Json, Error> {
    let wrong = |error: arrow::error::ArrowError| undecodable(layout, error);
    let options = FormatOptions::default();
    let mut key = serde_json::Map::new();
    for (field, column) in layout.keys().iter().zip(columns) {
        let formatter = ArrayFormatter::try_new(column, &options).map_err(wrong)?;
        let text = formatter.value(0).try_to_string().map_err(wrong)?;
        key.insert(field.name().clone(), text.into());
    }
    Ok(Json::Object(key))
}

/// A row as a look-up shows it: its time, and its features.
fn row_json(layout: &Layout, value: Option<&[u8]>) -> Result<Json, Error> {
    let Some(value) = value else { return Ok(json!({ "event_time": null, "row": null })) };
    let values = layout.decode([value].into_iter()).map_err(|error| undecodable(layout, error))?;
    let time = event_times(&values).map_err(|error| undecodable(layout, error))?;
    let places: Vec<usize> = (layout.order().len()..values.num_columns()).collect();
    let features: RecordBatch = values.project(&places).map_err(|error| undecodable(layout, error))?;
    let text = json_lines(&features).map_err(|error| undecodable(layout, error))?;
    let row: Json = serde_json::from_str(&text).map_err(|error| undecodable(layout, error))?;
    Ok(json!({ "event_time": time_text(time[0]), "row": row }))
}

/// The keys with the lowest hashes, so many of them: a choice that does not depend on the order in which they come.
struct Chosen {
    count: usize,
    seed: u64,
    rows: BinaryHeap<(u64, Vec<u8>, Vec<u8>)>,
}

impl Chosen {
    fn new(count: usize, seed: u64) -> Self {
        Self { count, seed, rows: BinaryHeap::new() }
    }

    fn offer(&mut self, key: &[u8], value: &[u8]) {
        let mut hasher = DefaultHasher::new();
        (self.seed, key).hash(&mut hasher);
        let hash = hasher.finish();
        let has_room = self.rows.len() < self.count;
        if has_room || self.rows.peek().is_some_and(|(highest, ..)| hash < *highest) {
            self.rows.push((hash, key.to_vec(), value.to_vec()));
        }
        if self.rows.len() > self.count {
            self.rows.pop();
        }
    }

    fn into_rows(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.rows.into_sorted_vec().into_iter().map(|(_, key, value)| (key, value)).collect()
    }
}

/// A key and what a server said.
struct Asked {
    key: Vec<u8>,
    text: Json,
    result: Looked,
}

/// A server's answer, as far as it is needed.
#[derive(Deserialize)]
struct ServerAnswer {
    version: u64,
    results: Vec<Looked>,
}

#[derive(Deserialize)]
struct Looked {
    status: String,
    #[serde(default)]
    event_time: Json,
    #[serde(default)]
    row: Json,
}

/// A server that answers look-ups.
struct Server {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Server {
    fn new(url: &str, token: Option<&str>) -> Result<Self, Error> {
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build();
        let http = http.map_err(|error| Error::Configuration(format!("an HTTP client: {error}")))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token: token.map(str::to_owned) })
    }

    /// Asks for some keys, each of which gets a result.
    async fn ask(&self, dataset: &str, keys: &[Json]) -> Result<ServerAnswer, Error> {
        let url = format!("{}/v1/datasets/{dataset}/features", self.url);
        let refuse = |why: String| Error::Configuration(format!("{url}: {why}"));
        let mut request = self.http.post(&url).header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let sent = request.body(json!({ "keys": keys }).to_string()).send().await;
        let mut response = sent.map_err(|error| refuse(crate::chain_of(&error)))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| refuse(crate::chain_of(&error)))? {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(refuse("the answer does not end".to_owned()));
            }
        }
        if !status.is_success() {
            let said: String = String::from_utf8_lossy(&body).chars().take(500).collect();
            return Err(refuse(format!("{status}: {said}")));
        }
        let answer: ServerAnswer = serde_json::from_slice(&body)
            .map_err(|error| refuse(format!("no answer to a look-up: {error}")))?;
        if answer.results.len() != keys.len() {
            return Err(refuse(format!("{} results for {} keys", answer.results.len(), keys.len())));
        }
        Ok(answer)
    }
}
