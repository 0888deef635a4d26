//! `POST /v1/query`.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use datafusion::common::{ParamValues, ScalarValue};
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::Value;

use super::{Problem, body_of, caller, columns};
use crate::query::{Answer, RowsFormat, TableVersion};
use crate::serve::{Caller, Engine, Protocol, Question, Refusal, versions_json};
use crate::spec::units::HumanDuration;

/// The header that says which versions an answer is of: `table=version@cloud`, several separated by commas.
const VERSIONS: &str = "isobar-versions";
/// Bytes of a body beside the text of the query.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Values for placeholders, at most.
const PARAMETERS_MAX: usize = 1000;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryRequest {
    sql: String,
    #[serde(default)]
    parameters: Vec<Value>,
    #[serde(default)]
    versions: BTreeMap<String, u64>,
    #[serde(default)]
    min_version: BTreeMap<String, u64>,
    #[serde(default)]
    max_staleness: Option<HumanDuration>,
    #[serde(default)]
    format: Option<Format>,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    Json,
    Csv,
    Arrow,
}

impl Format {
    pub(super) const ALL: [Self; 3] = [Self::Json, Self::Csv, Self::Arrow];

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    fn rows(self) -> RowsFormat {
        match self {
            Self::Json => RowsFormat::Json,
            Self::Csv => RowsFormat::Csv,
            Self::Arrow => RowsFormat::ArrowStream,
        }
    }

    /// The one that a client likes best, by its `Accept`; of several that it likes as much the first.
    pub(super) fn accepted(headers: &HeaderMap) -> Result<Self, Refusal> {
        let listed: Vec<&str> =
            headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let mut best: Option<(f32, Self)> = None;
        for choice in listed.iter().flat_map(|value| value.split(',')) {
            let mut parts = choice.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            let format = match media_type {
                "*/*" | "application/*" => Some(Self::Json),
                "text/*" => Some(Self::Csv),
                other => Self::ALL.into_iter().find(|format| format.media_type().eq_ignore_ascii_case(other)),
            };
            if let Some(format) = format
                && quality > best.map_or(0.0, |(quality, _)| quality)
            {
                best = Some((quality, format));
            }
        }
        match best {
            Some((_, format)) => Ok(format),
            None if listed.is_empty() => Ok(Self::Json),
            None => {
                let known = Self::ALL.map(Self::media_type).join(", ");
                Err(Refusal::Wrong(format!("none of the formats in `Accept` is known: there are {known}")))
            }
        }
    }
}

pub(super) async fn query(State(engine): State<Engine>, request: Request) -> Result<Response, Problem> {
    let caller = caller(&engine, &request)?;
    let accepted = Format::accepted(request.headers());
    let request = read(&caller, request).await?;
    let format = match request.format {
        Some(format) => format,
        None => accepted?,
    };
    let question = Question {
        parameters: parameters(&request.parameters)?,
        sql: request.sql,
        versions: request.versions,
        min_version: request.min_version,
        max_staleness: request.max_staleness.map(|age| age.0),
        protocol: Protocol::Http,
    };
    let prepared = engine.prepare(&caller, question).await?;
    let versions = prepared.versions().to_vec();
    let answer = prepared.run(None).await?;
    respond(answer, &versions, format).await
}

async fn read(caller: &Caller, request: Request) -> Result<QueryRequest, Refusal> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    // Forms of pages elsewhere cannot send it.
    if !media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json")) {
        return Err(Refusal::Wrong("the body is JSON: send `Content-Type: application/json`".to_owned()));
    }
    // A character of JSON may take six bytes.
    let bytes_max = BODY_BYTES_MAX + 6 * caller.limits().sql_bytes;
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let body = body_of(request, bytes_max).await?;
    serde_json::from_slice(&body).map_err(|error| Refusal::Wrong(format!("the body is no question: {error}")))
}

/// Values for `$1`, `$2`, …
fn parameters(values: &[Value]) -> Result<Option<ParamValues>, Refusal> {
    if values.len() > PARAMETERS_MAX {
        return Err(Refusal::Wrong(format!("there are more than {PARAMETERS_MAX} parameters")));
    }
    if values.is_empty() {
        return Ok(None);
    }
    let scalars = values.iter().enumerate().map(|(index, value)| match value {
        Value::Null => Ok(ScalarValue::Null),
        Value::Bool(value) => Ok(ScalarValue::from(*value)),
        Value::String(text) => Ok(ScalarValue::from(text.as_str())),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Ok(ScalarValue::from(number)),
            (None, Some(number), _) => Ok(ScalarValue::from(number)),
            (None, None, number) => Ok(ScalarValue::Float64(number)),
        },
        Value::Array(_) | Value::Object(_) => Err(Refusal::Wrong(format!(
            "parameter {}: a value is null, true, false, a number or a text",
            index + 1
        ))),
    });
    Ok(Some(ParamValues::from(scalars.collect::<Result<Vec<ScalarValue>, Refusal>>()?)))
}

/// The answer, from its first piece on.
async fn respond(answer: Answer, versions: &[TableVersion], format: Format) -> Result<Response, Problem> {
    let header_value = versions
        .iter()
        .map(|read| format!("{}={}@{}", read.table, read.version, read.cloud))
        .collect::<Vec<_>>()
        .join(", ");
    let mut pieces = Pieces::new(answer, versions, format);
    // Most of what can go wrong has gone wrong by then.
    let first = pieces.next().await?;
    let rest = stream::try_unfold(pieces, |mut pieces| async move {
        match pieces.next().await {
            Ok(piece) => Ok(piece.map(|piece| (piece, pieces))),
            Err(refusal) => {
                tracing::warn!(%refusal, "an answer is cut off");
                // Lets what was written so far leave, so that the client has the beginning of the answer.
                tokio::task::yield_now().await;
                Err(refusal)
            }
        }
    });
    let body = stream::iter(first.map(Ok::<Bytes, Refusal>)).chain(rest);
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    // Names of tables and clouds are ASCII.
    if let Ok(value) = HeaderValue::from_str(&header_value) {
        headers.insert(VERSIONS, value);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The pieces of an answer as they are sent.
struct Pieces {
    answer: Answer,
    format: Format,
    /// What stands before the rows.
    head: Option<String>,
    /// What stands behind them.
    tail: Option<&'static str>,
}

impl Pieces {
    fn new(answer: Answer, versions: &[TableVersion], format: Format) -> Self {
        let (head, tail) = match format {
            Format::Json => {
                let columns = columns(&answer.schema());
                let versions = versions_json(versions);
                let head = format!("{{\"columns\":{columns},\n\"versions\":{versions},\n\"rows\":");
                (Some(head), Some("}\n"))
            }
            Format::Csv | Format::Arrow => (None, None),
        };
        Self { answer, format, head, tail }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let piece = self.answer.next_bytes(self.format.rows()).await?;
        Ok(match piece {
            Some(piece) => Some(match self.head.take() {
                Some(head) => [head.as_bytes(), &piece].concat().into(),
                None => piece.into(),
            }),
            None => self.tail.take().map(|tail| Bytes::from_static(tail.as_bytes())),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn accepted(values: &[&str]) -> Option<Format> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        Format::accepted(&headers).ok()
    }

    #[test]
    fn the_format_is_the_one_that_is_liked_best() {
        assert_eq!(accepted(&[]), Some(Format::Json));
        assert_eq!(accepted(&["*/*"]), Some(Format::Json));
        assert_eq!(accepted(&["text/csv"]), Some(Format::Csv));
        assert_eq!(accepted(&["Application/Vnd.Apache.Arrow.Stream"]), Some(Format::Arrow));
        assert_eq!(accepted(&["text/html, application/json;q=0.5, text/csv; q=0.9"]), Some(Format::Csv));
        assert_eq!(accepted(&["application/json;q=0.5", "text/csv;q=0.4"]), Some(Format::Json));
        assert_eq!(accepted(&["application/json;q=0", "text/csv;q=0.1"]), Some(Format::Csv));
        assert_eq!(accepted(&["text/html"]), None);
        assert_eq!(accepted(&["application/json;q=0"]), None);
    }

    #[test]
    fn parameters_are_scalars() {
        let given = |values: Value| parameters(values.as_array().unwrap());
        assert!(given(json!([])).unwrap().is_none());
        let Ok(Some(ParamValues::List(values))) = given(json!([null, true, 7, u64::MAX, 1.5, "x"])) else {
            panic!("these are scalars");
        };
        let values: Vec<ScalarValue> = values.into_iter().map(|value| value.value).collect();
        let expected = [
            ScalarValue::Null,
            ScalarValue::Boolean(Some(true)),
            ScalarValue::Int64(Some(7)),
            ScalarValue::UInt64(Some(u64::MAX)),
            ScalarValue::Float64(Some(1.5)),
            ScalarValue::Utf8(Some("x".into())),
        ];
        assert_eq!(values, expected);
        assert!(given(json!([[1]])).is_err());
        assert!(parameters(&vec![Value::Null; PARAMETERS_MAX + 1]).is_err());
    }
}
