//! A request on its way to backends: what is kept of it, so that it can be sent again, and what is left out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use futures::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::client::Failure;
use super::kind::Kind;
use crate::spec::units::HumanDuration;

/// The header that says how long whoever asks waits; on its way to a backend, what is left of that.
pub(super) const TIMEOUT: &str = "isobar-timeout";
/// KiB of bodies that all requests together keep.
pub(super) const KEPT_KIB_MAX: usize = 256 << 10;

/// Headers for one connection only (RFC 9110, 7.6.1), an old one that never became a standard, and `Expect`, which is answered by
/// whoever reads the body.
const FOR_ONE_CONNECTION: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];
/// Headers that a client cannot have left out by naming them in `Connection`: servers decide by them.
const NEVER_LEFT_OUT: [&str; 5] = ["host", "content-length", "x-forwarded-for", "x-forwarded-proto", "via"];

/// A request as it is sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    payload: Payload,
    pub(super) kind: Kind,
    deadline: Instant,
    /// Whether it may be sent once more although it may have arrived.
    pub(super) is_repeatable: bool,
}

impl Outgoing {
    /// The request of `parts` and `body`, of which no more than `bytes_max` bytes are kept, in memory that `room` counts.
    ///
    /// # Errors
    /// [`Failure::Wrong`] for a body that does not arrive, and for methods that are not for a gateway.
    pub(super) async fn read(
        parts: Parts,
        body: Body,
        deadline: Instant,
        bytes_max: usize,
        room: &Arc<Semaphore>,
    ) -> Result<Self, Failure> {
        let Parts { method, uri, mut headers, .. } = parts;
        if method == Method::CONNECT {
            return Err(Failure::Wrong("CONNECT is not for a gateway".to_owned()));
        }
        let kind = Kind::of(uri.path());
        let payload = Payload::read(body, bytes_max, room).await?;
        leave_out(&mut headers);
        let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let is_repeatable = kind.is_repeatable(&method) && matches!(payload, Payload::Whole { .. });
        Ok(Self { method, uri: Uri::from(target), headers, payload, kind, deadline, is_repeatable })
    }

    /// The request for a backend with this name; `None` if its body is gone.
    pub(super) fn request(&self, authority: &HeaderValue) -> Option<Request<Body>> {
        let mut request = Request::new(self.payload.take()?);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.entry(header::HOST).or_insert_with(|| authority.clone());
        let left_ms = self.deadline.saturating_duration_since(Instant::now()).as_millis();
        if let Ok(left) = HeaderValue::try_from(format!("{left_ms}ms")) {
            headers.insert(TIMEOUT, left);
        }
        Some(request)
    }

    /// Takes back the body of a request of which nothing was written.
    pub(super) fn take_back(&self, unsent: Request<Body>) {
        if let Payload::Once(body) = &self.payload {
            *body.lock().unwrap_or_else(PoisonError::into_inner) = Some(unsent.into_body());
        }
    }
}

/// A body.
#[derive(Debug)]
enum Payload {
    /// All of it, as often as needed.
    Whole { bytes: Bytes, _room: OwnedSemaphorePermit },
    /// One that goes through as it comes.
    Once(Mutex<Option<Body>>),
}

impl Payload {
    async fn read(body: Body, bytes_max: usize, room: &Arc<Semaphore>) -> Result<Self, Failure> {
        let once = |body: Body| Ok(Self::Once(Mutex::new(Some(body))));
        if body.size_hint().lower() > bytes_max as u64 {
            return once(body);
        }
        let mut taken = room
            .clone()
            .try_acquire_many_owned(0)
            .map_err(|error| Failure::Unavailable(format!("no body can be kept: {error}")))?;
        let mut pieces = body.into_data_stream();
        let mut head: Vec<u8> = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece
                .map_err(|_| Failure::Wrong("the body of the request did not arrive whole".to_owned()))?;
            head.extend_from_slice(&piece);
            let needed = head.len().div_ceil(1024).saturating_sub(taken.num_permits());
            let more = u32::try_from(needed).ok();
            let more = more.and_then(|needed| room.clone().try_acquire_many_owned(needed).ok());
            match more {
                Some(more) if head.len() <= bytes_max => taken.merge(more),
                // What has come already is on its way while the rest is read.
                _ => {
                    let head = stream::once(std::future::ready(Ok(Bytes::from(head))));
                    return once(Body::from_stream(head.chain(pieces)));
                }
            }
        }
        Ok(Self::Whole { bytes: head.into(), _room: taken })
    }

    fn take(&self) -> Option<Body> {
        match self {
            Self::Whole { bytes, .. } if bytes.is_empty() => Some(Body::empty()),
            Self::Whole { bytes, .. } => Some(Body::from(bytes.clone())),
            Self::Once(body) => body.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

/// Removes from `headers` what is for one connection only.
pub(super) fn leave_out(headers: &mut HeaderMap) {
    // Beside `Transfer-Encoding` a length says nothing, and must not go on without it (RFC 9112, 6.3).
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| !NEVER_LEFT_OUT.contains(&name.as_str()))
        .collect();
    for name in FOR_ONE_CONNECTION.into_iter().chain(named.iter().map(HeaderName::as_str)) {
        headers.remove(name);
    }
}

/// How long whoever sends these headers waits, if that is said.
///
/// # Errors
/// [`Failure::Wrong`] for what is no duration.
pub(super) fn timeout_in(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let duration = value.to_str().ok().and_then(|text| text.parse::<HumanDuration>().ok());
    match duration {
        Some(HumanDuration(duration)) => Ok(Some(duration)),
        None => Err(Failure::Wrong(format!("`{TIMEOUT}` is no duration such as `2s` or `500ms`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(kib: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(kib))
    }

    async fn read(method: &str, body: Body, bytes_max: usize, room: &Arc<Semaphore>) -> Outgoing {
        let request =
            Request::builder().method(method).uri("http://elsewhere/v1/query?a=b").body(body).unwrap();
        let (parts, body) = request.into_parts();
        Outgoing::read(parts, body, Instant::now(), bytes_max, room).await.unwrap()
    }

    fn pieces(lengths: &[usize]) -> Body {
        let pieces: Vec<Vec<u8>> = lengths.iter().map(|length| vec![7; *length]).collect();
        Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
    }

    async fn bytes(outgoing: &Outgoing) -> Option<usize> {
        let request = outgoing.request(&HeaderValue::from_static("a:1"))?;
        Some(axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap().len())
    }

    #[tokio::test]
    async fn a_body_that_is_kept_is_sent_as_often_as_needed() {
        let room = room(4);
        let outgoing = read("POST", pieces(&[1000, 1000]), 2000, &room).await;
        assert!(outgoing.is_repeatable);
        assert_eq!((bytes(&outgoing).await, bytes(&outgoing).await), (Some(2000), Some(2000)));
        assert_eq!(room.available_permits(), 2);
        drop(outgoing);
        assert_eq!(room.available_permits(), 4);
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_goes_through_once_and_whole() {
        for (lengths, bytes_max, kib) in [(&[1000, 1001][..], 2000, 100), (&[2000, 3000][..], 10_000, 4)] {
            let room = room(kib);
            let outgoing = read("POST", pieces(lengths), bytes_max, &room).await;
            assert!(!outgoing.is_repeatable);
            assert_eq!(bytes(&outgoing).await, Some(lengths.iter().sum::<usize>()));
            assert_eq!(bytes(&outgoing).await, None, "it is gone");
            assert_eq!(room.available_permits(), kib);
            // One that was never written can be sent after all.
            outgoing.take_back(Request::new(pieces(&[5])));
            assert_eq!(bytes(&outgoing).await, Some(5));
        }
    }

    #[tokio::test]
    async fn a_request_is_asked_of_a_backend_in_its_own_words() {
        let mut outgoing = read("GET", Body::empty(), 10, &room(1)).await;
        let request = outgoing.request(&HeaderValue::from_static("a:1")).unwrap();
        assert_eq!(request.uri(), "/v1/query?a=b");
        assert_eq!(request.headers()[header::HOST], "a:1");
        assert_eq!(request.headers()[TIMEOUT], "0ms");
        outgoing.headers.insert(header::HOST, HeaderValue::from_static("b.example"));
        let request = outgoing.request(&HeaderValue::from_static("a:1")).unwrap();
        assert_eq!(request.headers()[header::HOST], "b.example");
    }

    #[test]
    fn headers_for_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine , host"),
            ("connection", "x-forwarded-for, X-Forwarded-Proto"),
            ("x-mine", "1"),
            ("host", "b.example"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-connection", "close"),
            ("expect", "100-continue"),
            ("authorization", "Bearer x"),
        ] {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value));
        }
        leave_out(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "host", "x-forwarded-for", "x-forwarded-proto"]);
    }

    #[test]
    fn a_length_goes_on_only_where_it_is_the_only_end_of_a_body() {
        let length = || (header::CONTENT_LENGTH, HeaderValue::from_static("9"));
        let mut headers = HeaderMap::from_iter([length()]);
        leave_out(&mut headers);
        assert_eq!(headers[header::CONTENT_LENGTH], "9");
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        leave_out(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn a_timeout_is_a_duration() {
        let of = |value| {
            timeout_in(&HeaderMap::from_iter([(
                HeaderName::from_static(TIMEOUT),
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(of("1500ms").unwrap(), Some(Duration::from_millis(1500)));
        assert!(matches!(of("soon"), Err(Failure::Wrong(_))));
        assert_eq!(timeout_in(&HeaderMap::new()).unwrap(), None);
    }
}
