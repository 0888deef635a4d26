//! Requests and answers as the protocols see them: plain values, no sockets.

use std::ops::Range;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;

/// Longest name of an object, in bytes; all three stores agree.
const NAME_BYTES_MAX: usize = 1024;

/// One request, taken apart.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Whom the request is for: `host` or `host:port`.
    pub(super) host: String,
    /// As sent, percent-encoded.
    pub(super) path: String,
    /// Decoded, in the order sent.
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The simulated time at which it arrived.
    pub(super) received: DateTime<Utc>,
    /// Whether its conditions count for nothing: see `Fault::IgnorePreconditions`.
    pub(super) ignores_conditions: bool,
}

/// What goes back: an error is an answer like any other.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A request turned down: the status and what the error document says.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// Seconds, for `Retry-After`.
    pub(super) retry_after: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// Something that exists in the real store and not here. Never ignored, so that no test passes by accident.
    pub(super) fn not_simulated(what: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", format!("{what} is not simulated"))
    }
}

impl Request {
    pub(super) fn parse(
        parts: request::Parts,
        body: Bytes,
        received: DateTime<Utc>,
    ) -> Result<Self, Refusal> {
        let request::Parts { method, uri, headers, .. } = parts;
        let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host =
            named.or(uri.authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned();
        let query = parse_query(&uri)?;
        Ok(Self {
            method,
            host,
            path: uri.path().to_owned(),
            query,
            headers,
            body,
            received,
            ignores_conditions: false,
        })
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header that sets a condition.
    pub(super) fn condition(&self, name: &str) -> Option<&str> {
        self.header(name).filter(|_| !self.ignores_conditions)
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Refuses parameters that nobody here looks at.
    pub(super) fn check_query(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.query.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Refusal::not_simulated(&format!("the parameter {name}"))),
            None => Ok(()),
        }
    }

    /// The bucket and the name that a path of the form `/bucket/name` stands for.
    pub(super) fn split_path(&self, path: &str) -> Result<(String, String), Refusal> {
        let path = path.trim_start_matches('/');
        let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
        let (bucket, name) = (decoded(bucket)?, decoded(name)?);
        if name.len() > NAME_BYTES_MAX {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "KeyTooLongError", "the name is too long"));
        }
        Ok((bucket, name))
    }
}

fn parse_query(uri: &Uri) -> Result<Vec<(String, String)>, Refusal> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(key)?, decoded(&value.replace('+', " "))?))
        })
        .collect()
}

pub(super) fn decoded(text: &str) -> Result<String, Refusal> {
    let invalid = |_| Refusal::new(StatusCode::BAD_REQUEST, "InvalidURI", format!("{text} is not UTF-8"));
    Ok(percent_decode_str(text).decode_utf8().map_err(invalid)?.into_owned())
}

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }.with_body(Bytes::new())
    }

    pub(super) fn xml(status: StatusCode, text: String) -> Self {
        Self::new(status).with("content-type", "application/xml").with_body(text.into())
    }

    /// # Panics
    /// If the value cannot stand in a header: they are made here, not by a client.
    pub(super) fn with(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        let value = HeaderValue::from_str(value.as_ref()).expect("the value of a header");
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    pub(super) fn with_value(mut self, name: &'static str, value: Option<&HeaderValue>) -> Self {
        if let Some(value) = value {
            self.headers.insert(HeaderName::from_static(name), value.clone());
        }
        self
    }

    /// Sets the length too, which 204 and 304 do not have.
    pub(super) fn with_body(mut self, body: Bytes) -> Self {
        if self.status != StatusCode::NO_CONTENT && self.status != StatusCode::NOT_MODIFIED {
            self.headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        self.body = body;
        self
    }

    /// The answer to a HEAD: everything but the body.
    pub(super) fn without_body(mut self) -> Self {
        self.body = Bytes::new();
        self
    }
}

/// Whether `etag` is in the list of an `If-Match` or `If-None-Match`.
pub(super) fn matches_etag(list: &str, etag: &str) -> bool {
    list == "*" || list.split(',').any(|listed| listed.trim() == etag)
}

/// The part of `bytes` that a reader asked for, judged like RFC 9110 does: `Ok(None)` if no range is asked for.
pub(super) fn requested_range(asked: Option<&str>, size: usize) -> Result<Option<Range<usize>>, Refusal> {
    let Some(asked) = asked else { return Ok(None) };
    let unsatisfiable = || {
        let message = format!("{asked} of {size} bytes");
        Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", message)
    };
    let (first, last) =
        asked.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(unsatisfiable)?;
    let range = match (first.parse::<usize>().ok(), last.parse::<usize>().ok()) {
        (Some(first), Some(last)) => first..last.saturating_add(1).min(size),
        (Some(first), None) => first..size,
        (None, Some(length)) => size.saturating_sub(length)..size,
        (None, None) => return Err(unsatisfiable()),
    };
    if range.start < range.end { Ok(Some(range)) } else { Err(unsatisfiable()) }
}

/// The body of a read, whole or in part, with the headers that say so.
pub(super) fn read_answer(bytes: &Bytes, asked: Option<&str>) -> Result<Answer, Refusal> {
    let size = bytes.len();
    Ok(match requested_range(asked, size)? {
        None => Answer::new(StatusCode::OK).with_body(bytes.clone()),
        Some(range) => Answer::new(StatusCode::PARTIAL_CONTENT)
            .with("content-range", format!("bytes {}-{}/{size}", range.start, range.end - 1))
            .with_body(bytes.slice(range)),
    }
    .with("accept-ranges", "bytes"))
}

/// A date in a header.
pub(super) fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
