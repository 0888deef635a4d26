//! Look-ups by HTTP.
//!
//! | request | asks |
//! |---|---|
//! | `GET /v1/datasets/{dataset}/features?carrier=AA` | one key: a parameter for each of its columns |
//! | `POST /v1/datasets/{dataset}/features` | up to [`KEYS_MAX`] keys: `{"keys": [{"carrier": "AA"}, …]}` |
//! | `POST /v1/features` | several datasets: `{"datasets": {"flights": {"keys": […]}, …}}`, as many keys altogether |
//! | `GET /v1/online` | which views there are, at which versions |
//!
//! Each may say `min_version`, `ttl` and `features`; see [`Options`]. Errors are the problem documents of `isobar serve` (RFC 9457).
//! Who may ask is for [`Access`] to say, which whoever puts the router up brings along: once for each request, and before anything
//! of its body is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::lookup::{Answer, Found, KEYS_MAX, LookupError, Options, key_column};
use super::store::Reader;
use super::{OnlineViews, View};
pub(super) use crate::query::json_lines;
use crate::serve::{NamedPath, Problem, Refusal, body_of, name_in};
use crate::spec::units::HumanDuration;

/// Most bytes of a request.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Most keys that are looked up on the thread that has the request; more go to a thread that may wait for the disk.
const KEYS_INLINE_MAX: usize = 32;

/// Who may look up what.
pub trait Access: Send + Sync + 'static {
    /// Whoever asks, by the headers of a request and what is known of its connection. Its body was not read yet.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] and [`Refusal::Forbidden`] for somebody who may ask for nothing at all.
    fn reader(&self, request: &Request) -> Result<Box<dyn Reads>, Refusal>;
}

/// Somebody who asks.
pub trait Reads: Send + Sync {
    /// Whether all rows and columns of `dataset` may be read as they are. A caller whose role filters rows or masks columns may
    /// not: look-ups do neither.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`] if not; [`Refusal::NotFound`] if the caller may not know whether there is such a dataset.
    fn may_read(&self, dataset: &str) -> Result<(), Refusal>;
}

/// Everybody may look up everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anyone;

impl Access for Anyone {
    fn reader(&self, _request: &Request) -> Result<Box<dyn Reads>, Refusal> {
        Ok(Box::new(Self))
    }
}

impl Reads for Anyone {
    fn may_read(&self, _dataset: &str) -> Result<(), Refusal> {
        Ok(())
    }
}

#[derive(Clone)]
struct Shared {
    views: OnlineViews,
    access: Arc<dyn Access>,
}

/// The endpoints over `views`, for those whom `access` lets in.
pub fn router(views: OnlineViews, access: Arc<dyn Access>) -> Router {
    Router::new()
        // The parameter is called as in the other routes below `/v1/datasets`.
        .route("/v1/datasets/{name}/features", get(one_key).post(many_keys))
        .route("/v1/features", post(several))
        .route("/v1/online", get(listed))
        .with_state(Shared { views, access })
}

/// Refuses more keys than one request takes.
fn check_count(keys: usize) -> Result<(), LookupError> {
    match keys > KEYS_MAX {
        true => Err(LookupError::TooMuch(format!("{keys} keys; one request takes {KEYS_MAX}"))),
        false => Ok(()),
    }
}

impl From<LookupError> for Problem {
    fn from(error: LookupError) -> Self {
        let message = error.to_string();
        match error {
            LookupError::Wrong(_) => Refusal::Wrong(message).into(),
            LookupError::TooMuch(_) => Refusal::TooMuch { limit: "keys", message }.into(),
            LookupError::NotFound(_) => Refusal::NotFound(message).into(),
            LookupError::NotReady(_) => Refusal::Unavailable(message).into(),
            LookupError::Behind { version, .. } => {
                Self { version: Some(version), ..Refusal::Unavailable(message).into() }
            }
            // Paths and the like are for the logs.
            LookupError::Internal(why) => {
                tracing::error!(why, "a look-up failed");
                Refusal::Internal("the store cannot be read".to_owned()).into()
            }
        }
    }
}

/// What is asked of one dataset.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysRequest {
    keys: Vec<Json>,
    #[serde(default)]
    min_version: Option<u64>,
    #[serde(default)]
    ttl: Option<HumanDuration>,
    #[serde(default)]
    features: Option<Vec<String>>,
}

impl KeysRequest {
    fn options(&self) -> Options {
        Options {
            min_version: self.min_version,
            ttl: self.ttl.map(|ttl| ttl.0),
            features: self.features.clone(),
        }
    }
}

/// What is asked of several.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeveralRequest {
    datasets: BTreeMap<String, KeysRequest>,
}

/// An answer as text.
fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

impl Shared {
    /// The view of `dataset`, if `reader` may read it.
    fn view(&self, reader: &dyn Reads, dataset: &str) -> Result<Arc<View>, Problem> {
        // First, so that who may not read learns nothing, not even whether there is a view.
        reader.may_read(dataset)?;
        self.views.view(dataset).ok_or_else(|| LookupError::NotFound(dataset.to_owned()).into())
    }
}

async fn one_key(
    State(shared): State<Shared>,
    path: NamedPath,
    request: Request,
) -> Result<Response, Problem> {
    let reader = shared.access.reader(&request)?;
    let view = shared.view(&*reader, &name_in(path)?)?;
    let parameters = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let Query(parameters) = parameters.map_err(|rejection| Refusal::Wrong(rejection.body_text()))?;
    let (mut options, mut key) = (Options::default(), serde_json::Map::new());
    for (name, value) in parameters {
        let wrong = |what: &str| Refusal::Wrong(format!("{name}: {what}"));
        match name.as_str() {
            "min_version" => {
                options.min_version = Some(value.parse().map_err(|_| wrong("not a whole number"))?);
            }
            "ttl" => {
                let ttl: HumanDuration = value.parse().map_err(|error| wrong(&format!("{error}")))?;
                options.ttl = Some(ttl.0);
            }
            "features" => options.features = Some(value.split(',').map(str::to_owned).collect()),
            _ if key.contains_key(&name) => return Err(wrong("given twice").into()),
            _ => _ = key.insert(name.clone(), Json::String(value)),
        }
    }
    Ok(json_text(look_up(view, vec![Json::Object(key)], options).await?))
}

async fn many_keys(
    State(shared): State<Shared>,
    path: NamedPath,
    request: Request,
) -> Result<Response, Problem> {
    let reader = shared.access.reader(&request)?;
    let view = shared.view(&*reader, &name_in(path)?)?;
    let asked: KeysRequest = parsed(request).await?;
    let options = asked.options();
    Ok(json_text(look_up(view, asked.keys, options).await?))
}

async fn several(State(shared): State<Shared>, request: Request) -> Result<Response, Problem> {
    let reader = shared.access.reader(&request)?;
    let requests: SeveralRequest = parsed(request).await?;
    let keys: usize = requests.datasets.values().map(|request| request.keys.len()).sum();
    check_count(keys)?;
    let mut text = String::from("{\"answers\":{");
    let mut comma = "";
    for (dataset, request) in requests.datasets {
        let view = shared.view(&*reader, &dataset)?;
        let options = request.options();
        let answer = look_up(view, request.keys, options).await?;
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{}:{answer}", Json::String(dataset));
        comma = ",";
    }
    text.push_str("}}\n");
    Ok(json_text(text))
}

/// The views that the caller may read.
async fn listed(State(shared): State<Shared>, request: Request) -> Result<Response, Problem> {
    let reader = shared.access.reader(&request)?;
    let mut listed = Vec::new();
    for view in shared.views.all() {
        match reader.may_read(&view.spec.dataset) {
            Ok(()) => listed.push(view.status(now_ms())),
            Err(Refusal::Forbidden(_) | Refusal::NotFound(_)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(axum::Json(json!({ "views": listed })).into_response())
}

/// The body of `request`, whatever its type is said to be.
async fn parsed<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let body = body_of(request, BODY_BYTES_MAX).await?;
    serde_json::from_slice(&body).map_err(|error| Refusal::Wrong(format!("the body: {error}")))
}

fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

/// The answer for `keys` as JSON.
async fn look_up(view: Arc<View>, keys: Vec<Json>, options: Options) -> Result<String, Problem> {
    check_count(keys.len())?;
    let is_small = keys.len() <= KEYS_INLINE_MAX;
    let answer = move || -> Result<String, LookupError> {
        let reader = view.reader()?;
        let columns = key_columns(&reader, &keys)?;
        let answer = view.answer(&reader, &columns, &options, now_ms())?;
        written(&answer)
    };
    if is_small {
        return Ok(answer()?);
    }
    match tokio::task::spawn_blocking(answer).await {
        Ok(answer) => Ok(answer?),
        Err(died) => Err(LookupError::Internal(died.to_string()).into()),
    }
}

/// The columns of keys, each given as an object with one member for each column; where the key has one column, also as its value.
fn key_columns(reader: &Reader, keys: &[Json]) -> Result<Vec<ArrayRef>, LookupError> {
    let fields = reader.layout().keys();
    let names: BTreeSet<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let expected = || {
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        format!("a key has the columns {}", names.join(", "))
    };
    let columns = fields.iter().map(|field| {
        let texts = keys.iter().map(|key| match key {
            Json::Object(members) => {
                if let Some(other) = members.keys().find(|name| !names.contains(name.as_str())) {
                    return Err(LookupError::Wrong(format!(
                        "there is no key column {other}; {}",
                        expected()
                    )));
                }
                let value = members.get(field.name()).ok_or_else(|| {
                    LookupError::Wrong(format!("the key column {} is missing; {}", field.name(), expected()))
                })?;
                text_of(field, value)
            }
            value if fields.len() == 1 => text_of(field, value),
            _ => Err(LookupError::Wrong(format!("a key is an object here; {}", expected()))),
        });
        let texts: Vec<String> = texts.collect::<Result<_, LookupError>>()?;
        key_column(field, &texts.iter().map(String::as_str).collect::<Vec<&str>>())
    });
    columns.collect()
}

/// A value of a key as the text that [`key_column`] reads. Numbers of JSON are used where nothing of them can get lost.
fn text_of(field: &Field, value: &Json) -> Result<String, LookupError> {
    let takes_numbers = matches!(
        field.data_type(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Decimal128(..)
    );
    match value {
        Json::String(text) => Ok(text.clone()),
        Json::Number(number) if takes_numbers && (number.is_i64() || number.is_u64()) => {
            Ok(number.to_string())
        }
        Json::Bool(value) if *field.data_type() == DataType::Boolean => Ok(value.to_string()),
        Json::Null => Err(LookupError::Wrong(format!(
            "key {}: null is no key, rows without one are left out",
            field.name()
        ))),
        other => Err(LookupError::Wrong(format!(
            "key {}: {other} is no {} here; give it as text",
            field.name(),
            field.data_type()
        ))),
    }
}

/// The answer as JSON.
fn written(answer: &Answer) -> Result<String, LookupError> {
    let rows = json_lines(&answer.rows).map_err(|error| LookupError::Internal(error.to_string()))?;
    let lines: Vec<&str> = rows.lines().collect();
    if lines.len() != answer.rows.num_rows() {
        return Err(LookupError::Internal("the rows are not one a line".to_owned()));
    }
    let schema = answer.rows.schema();
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let committed_at = DateTime::from_timestamp_millis(answer.applied.committed_ms);
    let committed_at = committed_at.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
    let head = json!({
        "dataset": answer.dataset,
        "version": answer.applied.version,
        "newest_version": answer.newest_version,
        "committed_at": committed_at,
        "age_seconds": answer.age_ms as f64 / 1000.0,
        "columns": columns,
    });
    let mut text = head.to_string();
    text.pop();
    text.reserve(rows.len() + 64 * answer.found.len());
    text.push_str(",\"results\":[");
    for (index, found) in answer.found.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        match found {
            Found::Row(place) => {
                let time = time_text(answer.event_times[*place]);
                // Writing to a String cannot fail.
                let _ =
                    write!(text, "{{\"status\":\"found\",\"event_time\":{time},\"row\":{}}}", lines[*place]);
            }
            Found::Expired => text.push_str("{\"status\":\"expired\",\"row\":null}"),
            Found::Nothing => text.push_str("{\"status\":\"not_found\",\"row\":null}"),
        }
    }
    text.push_str("]}");
    Ok(text)
}

/// A time in microseconds as JSON; null for one outside of all calendars.
pub(super) fn time_text(micros: i64) -> Json {
    let time = DateTime::from_timestamp_micros(micros);
    time.map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true)).into()
}
