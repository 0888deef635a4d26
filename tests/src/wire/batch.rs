//! Azure's Blob Batch, for deletes: requests within a request, each signed for itself.
//!
//! <https://learn.microsoft.com/en-us/rest/api/storageservices/blob-batch>

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use bytes::Bytes;

use super::azure;
use super::message::{Answer, Refusal, Request};
use super::protocol::{Protocol, refusal_answer};
use super::store::Store;

/// Requests in one batch.
const REQUESTS_MAX: usize = 256;

/// Deletes what the parts of the body ask for, each on its own.
pub(super) fn delete_many(store: &mut Store, request: &Request) -> Result<Answer, Refusal> {
    let malformed = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, "InvalidInput", message);
    let content_type = request.header("content-type").unwrap_or_default();
    let boundary =
        content_type.strip_prefix("multipart/mixed; boundary=").ok_or_else(|| malformed("no boundary"))?;
    let body = std::str::from_utf8(&request.body).map_err(|_| malformed("not UTF-8"))?;
    let parts = split(body, boundary).ok_or_else(|| malformed("not a multipart body"))?;
    if parts.is_empty() || parts.len() > REQUESTS_MAX {
        return Err(malformed("1 to 256 requests"));
    }
    let mut answers = String::new();
    for part in parts {
        let (id, inner) = parse(part, request).ok_or_else(|| malformed("a part is no request"))?;
        if inner.method != Method::DELETE {
            return Err(Refusal::not_simulated("a batch of something else than deletes"));
        }
        let answer = azure::answer(store, &inner)
            .unwrap_or_else(|refusal| refusal_answer(Protocol::Azure, &refusal, false));
        answers.push_str(&format!("--{BOUNDARY}\r\n{}", written(&id, &answer)));
    }
    let body = Bytes::from(format!("{answers}--{BOUNDARY}--\r\n"));
    let content_type = format!("multipart/mixed; boundary={BOUNDARY}");
    Ok(Answer::new(StatusCode::ACCEPTED).with("content-type", content_type).with_body(body))
}

/// Set apart from any content by the client's not knowing it.
const BOUNDARY: &str = "batchresponse_6f1c2c1e-simulated";

/// What stands between the boundaries.
fn split<'a>(body: &'a str, boundary: &str) -> Option<Vec<&'a str>> {
    let (parts, _) = body.split_once(&format!("--{boundary}--"))?;
    let mark = format!("--{boundary}\r\n");
    Some(parts.split(mark.as_str()).skip(1).collect())
}

/// The id of a part, and the request in it, addressed to the host that the batch came to.
fn parse(part: &str, outer: &Request) -> Option<(String, Request)> {
    let (head, request) = part.split_once("\r\n\r\n")?;
    let id = header_lines(head)?.get("content-id")?.to_str().ok()?.to_owned();
    let (line, rest) = request.split_once("\r\n")?;
    let mut words = line.split(' ');
    let method = words.next()?.parse().ok()?;
    let (path, query) = words.next()?.split_once('?').map_or((line.split(' ').nth(1)?, ""), |both| both);
    if !query.is_empty() {
        return None;
    }
    let headers = header_lines(rest.split("\r\n\r\n").next()?)?;
    let inner = Request {
        method,
        host: outer.host.clone(),
        path: path.to_owned(),
        query: Vec::new(),
        headers,
        body: Bytes::new(),
        received: outer.received,
        ignores_conditions: outer.ignores_conditions,
    };
    Some((id, inner))
}

fn header_lines(lines: &str) -> Option<HeaderMap> {
    let lines = lines.split("\r\n").filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        })
        .collect()
}

/// An answer as it stands in the body.
fn written(id: &str, answer: &Answer) -> String {
    let reason = answer.status.canonical_reason().unwrap_or_default();
    let mut text = format!(
        "Content-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {} {reason}\r\n",
        answer.status.as_u16()
    );
    for (name, value) in &answer.headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    format!("{text}\r\n{}\r\n", String::from_utf8_lossy(&answer.body))
}
