//! A Google Cloud Storage in memory, over HTTP: the part of its XML API that `object_store`'s client speaks.
//!
//! No packaged emulator honours the preconditions that the client sends, so this one is written for them. Generations
//! rise with every write, `x-goog-if-generation-match` is judged and applied in one step, an upload in parts appears
//! when it is completed, listings are sorted and come in pages. Everything else that a client could ask for is an
//! error, so that a test never passes because something was ignored.
//!
//! Errors are as Google documents them: an XML body with a `Code`; 404 `NoSuchBucket`, `NoSuchKey` and `NoSuchUpload`, 412
//! `PreconditionFailed`, 416 `InvalidRange`, 401 for other credentials than a bearer token, 400 for what is malformed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::delta::sha256;

/// Objects in one page of a listing. Google sends 1,000; fewer make every test turn pages.
const PAGE_OBJECTS_MAX: usize = 100;
/// Longest name of an object, in bytes.
const NAME_BYTES_MAX: usize = 1024;
/// Smallest part of an upload but for the last, in bytes.
const PART_BYTES_MIN: usize = 5 << 20;

/// A running simulator; it ends when dropped.
#[derive(Debug)]
pub struct GcsSimulator {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl GcsSimulator {
    /// Serves empty `buckets` at `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(address: &str, buckets: &[&str]) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let store = Store::default();
        let empty = |name: &&str| ((*name).to_owned(), BTreeMap::new());
        store.lock().buckets = buckets.iter().map(empty).collect();
        let app = Router::new().fallback(serve).layer(DefaultBodyLimit::disable()).with_state(store);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("gcs simulator stopped: {error}");
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens, `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The options of a `gs://` cloud whose requests go to `address` (`host:port`).
    pub fn options(address: &str) -> BTreeMap<String, String> {
        let options =
            [("service_account_key", Self::service_account_key(address)), ("allow_http", "true".to_owned())];
        options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// A service account that needs no token and names `address` as Google's.
    pub fn service_account_key(address: &str) -> String {
        serde_json::json!({
            "client_email": "tests@example.com", "private_key": "", "private_key_id": "", "disable_oauth": true,
            "gcs_base_url": format!("http://{address}"),
        })
        .to_string()
    }

    /// Serves until the process ends.
    ///
    /// # Panics
    /// If the server does.
    pub async fn serve_for_ever(mut self) {
        (&mut self.task).await.expect("the server does not panic");
    }
}

impl Drop for GcsSimulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    generation: u64,
    etag: String,
    modified: DateTime<Utc>,
    content_type: Option<HeaderValue>,
}

#[derive(Debug)]
struct Upload {
    bucket: String,
    name: String,
    content_type: Option<HeaderValue>,
    parts: BTreeMap<u32, (String, Bytes)>,
}

#[derive(Debug, Default)]
struct Contents {
    buckets: BTreeMap<String, BTreeMap<String, Object>>,
    uploads: BTreeMap<String, Upload>,
    last_generation: u64,
    last_upload: u64,
}

#[derive(Debug, Clone, Default)]
struct Store(Arc<Mutex<Contents>>);

impl Store {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error as the client sees it.
#[derive(Debug)]
struct Refusal(StatusCode, &'static str, String);

type Answer = Result<Response<Body>, Refusal>;

fn refuse<T>(status: StatusCode, code: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(status, code, message.into()))
}

/// One request, taken apart.
struct Request {
    bucket: String,
    name: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

async fn serve(
    State(store): State<Store>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let is_head = method == Method::HEAD;
    match answer(&store, method, &uri, headers, body) {
        Ok(response) => response,
        Err(Refusal(status, code, message)) => {
            let xml =
                format!("{XML}<Error><Code>{code}</Code><Message>{}</Message></Error>", escaped(&message));
            let body = if is_head { Body::empty() } else { Body::from(xml) };
            respond(status, &[(header::CONTENT_TYPE.as_str(), "application/xml")], body)
        }
    }
}

fn answer(store: &Store, method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Answer {
    // Without a token a client is anonymous, and the buckets here are public.
    let is_authorized =
        headers.get(header::AUTHORIZATION).is_none_or(|value| value.as_bytes().starts_with(b"Bearer"));
    if !is_authorized {
        return refuse(StatusCode::UNAUTHORIZED, "AuthenticationRequired", "not a bearer token");
    }
    let request = Request::parse(uri, headers, body)?;
    let mut contents = store.lock();
    if !contents.buckets.contains_key(&request.bucket) {
        return refuse(
            StatusCode::NOT_FOUND,
            "NoSuchBucket",
            format!("bucket {:?} does not exist", request.bucket),
        );
    }
    let has = |name: &str| request.query.contains_key(name);
    match method.as_str() {
        "GET" if request.name.is_empty() => contents.list(&request),
        "GET" | "HEAD" => contents.read(&request, method == Method::HEAD),
        "PUT" if has("uploadId") => contents.put_part(&request),
        "PUT" if request.headers.contains_key("x-goog-copy-source") => contents.copy(&request),
        "PUT" => contents.put(&request),
        "POST" if has("uploads") => contents.begin_upload(&request),
        "POST" if has("uploadId") => contents.complete_upload(&request),
        "DELETE" if has("uploadId") => contents.abort_upload(&request),
        "DELETE" => contents.delete(&request),
        _ => refuse(StatusCode::NOT_IMPLEMENTED, "NotImplemented", format!("{method} {uri}")),
    }
}

const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

fn decoded(text: &str) -> Result<String, Refusal> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => refuse(StatusCode::BAD_REQUEST, "InvalidURI", format!("{text} is not UTF-8")),
    }
}

fn respond(status: StatusCode, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let response = headers
        .iter()
        .fold(Response::builder().status(status), |response, (name, value)| response.header(*name, *value));
    response.body(body).expect("names and values of headers are valid")
}

impl Request {
    fn parse(uri: &Uri, headers: HeaderMap, body: Bytes) -> Result<Self, Refusal> {
        let path = uri.path().trim_start_matches('/');
        let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
        let (bucket, name) = (decoded(bucket)?, decoded(name)?);
        if name.len() > NAME_BYTES_MAX {
            return refuse(StatusCode::BAD_REQUEST, "KeyTooLongError", "the name is too long");
        }
        let mut query = BTreeMap::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            query.insert(decoded(key)?, decoded(&value.replace('+', " "))?);
        }
        Ok(Self { bucket, name, query, headers, body })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn query(&self, name: &str) -> Result<&str, Refusal> {
        match self.query.get(name) {
            Some(value) => Ok(value),
            None => refuse(StatusCode::BAD_REQUEST, "InvalidArgument", format!("{name} is missing")),
        }
    }

    /// Whether a write may go on, given the object it would replace.
    fn check_generation(&self, present: Option<&Object>) -> Result<(), Refusal> {
        let Some(wanted) = self.header("x-goog-if-generation-match") else { return Ok(()) };
        let Ok(wanted) = wanted.parse::<u64>() else {
            return refuse(StatusCode::BAD_REQUEST, "InvalidArgument", "a generation is a number");
        };
        if present.map_or(0, |object| object.generation) != wanted {
            let message = "At least one of the pre-conditions you specified did not hold.";
            return refuse(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", message);
        }
        Ok(())
    }

    /// Reading under a condition: none of the clients under test should, but a reader may.
    fn check_etag(&self, object: &Object) -> Result<(), Refusal> {
        let matches = |list: &str| list == "*" || list.split(',').any(|etag| etag.trim() == object.etag);
        if self.header("if-match").is_some_and(|list| !matches(list)) {
            return refuse(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", "if-match does not hold");
        }
        if self.header("if-none-match").is_some_and(matches) {
            return refuse(StatusCode::NOT_MODIFIED, "NotModified", "if-none-match does not hold");
        }
        Ok(())
    }
}

impl Object {
    fn headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("etag", self.etag.clone()),
            ("x-goog-generation", self.generation.to_string()),
            ("x-goog-metageneration", "1".to_owned()),
            ("last-modified", self.modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string()),
            ("accept-ranges", "bytes".to_owned()),
        ]
    }
}

fn respond_about(
    object: &Object,
    status: StatusCode,
    further: &[(&str, String)],
    body: Body,
) -> Response<Body> {
    let headers = object.headers();
    let headers: Vec<(&str, &str)> =
        headers.iter().chain(further).map(|(name, value)| (*name, value.as_str())).collect();
    let mut response = respond(status, &headers, body);
    if let Some(content_type) = &object.content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
    }
    response
}

impl Contents {
    fn objects(&mut self, bucket: &str) -> &mut BTreeMap<String, Object> {
        self.buckets.get_mut(bucket).expect("the bucket was looked for before")
    }

    fn object(&self, bucket: &str, name: &str) -> Result<&Object, Refusal> {
        match self.buckets[bucket].get(name) {
            Some(object) => Ok(object),
            None => refuse(StatusCode::NOT_FOUND, "NoSuchKey", format!("{name} does not exist")),
        }
    }

    fn store(&mut self, request: &Request, bytes: Bytes, content_type: Option<HeaderValue>) -> Object {
        self.last_generation += 1;
        let object = Object {
            etag: format!("\"{}\"", &sha256(&bytes)[..32]),
            bytes,
            // As Google's: microseconds, here only rising.
            generation: 1_700_000_000_000_000 + self.last_generation,
            modified: Utc::now(),
            content_type,
        };
        self.objects(&request.bucket).insert(request.name.clone(), object.clone());
        object
    }

    fn put(&mut self, request: &Request) -> Answer {
        request.check_generation(self.buckets[&request.bucket].get(&request.name))?;
        let content_type = request.headers.get(header::CONTENT_TYPE).cloned();
        let object = self.store(request, request.body.clone(), content_type);
        Ok(respond_about(&object, StatusCode::OK, &[], Body::empty()))
    }

    fn copy(&mut self, request: &Request) -> Answer {
        let source = decoded(request.header("x-goog-copy-source").unwrap_or_default())?;
        let (bucket, name) = source.trim_start_matches('/').split_once('/').unwrap_or((&source, ""));
        if !self.buckets.contains_key(bucket) {
            return refuse(
                StatusCode::NOT_FOUND,
                "NoSuchBucket",
                format!("bucket {bucket:?} does not exist"),
            );
        }
        let from = self.object(bucket, name)?.clone();
        request.check_generation(self.buckets[&request.bucket].get(&request.name))?;
        let object = self.store(request, from.bytes, from.content_type);
        let modified = object.modified.to_rfc3339_opts(SecondsFormat::Millis, true);
        let xml = format!(
            "{XML}<CopyObjectResult><LastModified>{modified}</LastModified><ETag>{}</ETag></CopyObjectResult>",
            escaped(&object.etag)
        );
        Ok(respond_about(&object, StatusCode::OK, &[], Body::from(xml)))
    }

    fn read(&self, request: &Request, is_head: bool) -> Answer {
        let object = self.object(&request.bucket, &request.name)?;
        if request.query.get("generation").is_some_and(|wanted| *wanted != object.generation.to_string()) {
            return refuse(StatusCode::NOT_FOUND, "NoSuchKey", "no such generation");
        }
        request.check_etag(object)?;
        let size = object.bytes.len() as u64;
        let Some(range) = request.header("range").filter(|_| !is_head) else {
            let body = if is_head { Body::empty() } else { Body::from(object.bytes.clone()) };
            return Ok(respond_about(object, StatusCode::OK, &[("content-length", size.to_string())], body));
        };
        let Some(Range { start, end }) = parse_range(range, size) else {
            return refuse(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "InvalidRange",
                format!("{range} of {size} bytes"),
            );
        };
        let further = [
            ("content-range", format!("bytes {start}-{}/{size}", end - 1)),
            ("content-length", (end - start).to_string()),
        ];
        let body = Body::from(object.bytes.slice(start as usize..end as usize));
        Ok(respond_about(object, StatusCode::PARTIAL_CONTENT, &further, body))
    }

    fn delete(&mut self, request: &Request) -> Answer {
        self.object(&request.bucket, &request.name)?;
        self.objects(&request.bucket).remove(&request.name);
        Ok(respond(StatusCode::NO_CONTENT, &[], Body::empty()))
    }

    fn begin_upload(&mut self, request: &Request) -> Answer {
        self.last_upload += 1;
        let id = format!("upload-{:08}", self.last_upload);
        let upload = Upload {
            bucket: request.bucket.clone(),
            name: request.name.clone(),
            content_type: request.headers.get(header::CONTENT_TYPE).cloned(),
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        let xml = format!(
            "{XML}<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
            escaped(&request.bucket),
            escaped(&request.name)
        );
        Ok(respond(StatusCode::OK, &[("content-type", "application/xml")], Body::from(xml)))
    }

    fn upload(&mut self, request: &Request) -> Result<&mut Upload, Refusal> {
        let id = request.query("uploadId")?;
        match self.uploads.get_mut(id) {
            Some(upload) if upload.bucket == request.bucket && upload.name == request.name => Ok(upload),
            _ => refuse(StatusCode::NOT_FOUND, "NoSuchUpload", format!("no upload {id} of {}", request.name)),
        }
    }

    fn put_part(&mut self, request: &Request) -> Answer {
        let number = match request.query("partNumber")?.parse() {
            Ok(number @ 1..=10_000) => number,
            _ => return refuse(StatusCode::BAD_REQUEST, "InvalidArgument", "a part's number is 1 to 10000"),
        };
        let upload = self.upload(request)?;
        let etag = format!("\"{}\"", &sha256(&request.body)[..32]);
        upload.parts.insert(number, (etag.clone(), request.body.clone()));
        Ok(respond(StatusCode::OK, &[("etag", &etag)], Body::empty()))
    }

    fn complete_upload(&mut self, request: &Request) -> Answer {
        let asked = parse_parts(&String::from_utf8_lossy(&request.body))?;
        let upload = self.upload(request)?;
        let mut bytes = Vec::new();
        let last = asked.last().map(|(number, _)| *number);
        for (number, etag) in &asked {
            match upload.parts.get(number) {
                Some((stored, _)) if stored != etag => {
                    return refuse(
                        StatusCode::BAD_REQUEST,
                        "InvalidPart",
                        format!("part {number} has another ETag"),
                    );
                }
                Some((_, part)) if part.len() < PART_BYTES_MIN && Some(*number) != last => {
                    return refuse(
                        StatusCode::BAD_REQUEST,
                        "EntityTooSmall",
                        format!("part {number} is too small"),
                    );
                }
                Some((_, part)) => bytes.extend_from_slice(part),
                None => {
                    return refuse(
                        StatusCode::BAD_REQUEST,
                        "InvalidPart",
                        format!("there is no part {number}"),
                    );
                }
            }
        }
        request.check_generation(self.buckets[&request.bucket].get(&request.name))?;
        let upload = self.uploads.remove(request.query("uploadId")?).expect("it was found above");
        let object = self.store(request, bytes.into(), upload.content_type);
        let xml = format!(
            "{XML}<CompleteMultipartUploadResult><Location>http://storage/{0}/{1}</Location><Bucket>{0}</Bucket><Key>{1}</Key><ETag>{2}</ETag></CompleteMultipartUploadResult>",
            escaped(&request.bucket),
            escaped(&request.name),
            escaped(&object.etag)
        );
        Ok(respond_about(&object, StatusCode::OK, &[], Body::from(xml)))
    }

    fn abort_upload(&mut self, request: &Request) -> Answer {
        self.upload(request)?;
        self.uploads.remove(request.query("uploadId")?);
        Ok(respond(StatusCode::NO_CONTENT, &[], Body::empty()))
    }

    /// Names after the page token or the offset, rolled up at the delimiter, a page at a time.
    fn list(&self, request: &Request) -> Answer {
        let text = |name: &str| request.query.get(name).map(String::as_str);
        if text("list-type") != Some("2") {
            return refuse(StatusCode::NOT_IMPLEMENTED, "NotImplemented", "only list-type=2");
        }
        let known = ["list-type", "delimiter", "prefix", "continuation-token", "start-after", "max-keys"];
        if let Some(unknown) = request.query.keys().find(|name| !known.contains(&name.as_str())) {
            return refuse(StatusCode::NOT_IMPLEMENTED, "NotImplemented", format!("the parameter {unknown}"));
        }
        let (prefix, delimiter) =
            (text("prefix").unwrap_or_default(), text("delimiter").filter(|text| !text.is_empty()));
        let after =
            text("continuation-token").into_iter().chain(text("start-after")).max().unwrap_or_default();
        let page = text("max-keys")
            .and_then(|keys| keys.parse().ok())
            .unwrap_or(PAGE_OBJECTS_MAX)
            .min(PAGE_OBJECTS_MAX);
        let mut contents = String::new();
        let mut prefixes = BTreeSet::new();
        let (mut listed, mut last, mut is_truncated) = (0, "", false);
        for (name, object) in
            self.buckets[&request.bucket].iter().filter(|(name, _)| name.starts_with(prefix))
        {
            let rolled = delimiter.and_then(|delimiter| {
                let end = name[prefix.len()..].find(delimiter)?;
                Some(&name[..prefix.len() + end + delimiter.len()])
            });
            let item = rolled.unwrap_or(name);
            if item <= after || prefixes.contains(item) {
                continue;
            }
            if listed == page {
                is_truncated = true;
                break;
            }
            (listed, last) = (listed + 1, item);
            match rolled {
                Some(prefix) => _ = prefixes.insert(prefix),
                None => contents.push_str(&describe(name, object)),
            }
        }
        let prefixes: String = prefixes
            .iter()
            .map(|prefix| format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(prefix)))
            .collect();
        let token = if is_truncated {
            format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(last))
        } else {
            String::new()
        };
        let xml = format!(
            "{XML}<ListBucketResult><Name>{}</Name><IsTruncated>{is_truncated}</IsTruncated>{token}{contents}{prefixes}</ListBucketResult>",
            escaped(&request.bucket)
        );
        Ok(respond(StatusCode::OK, &[("content-type", "application/xml")], Body::from(xml)))
    }
}

fn describe(name: &str, object: &Object) -> String {
    format!(
        "<Contents><Key>{}</Key><Generation>{}</Generation><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
        escaped(name),
        object.generation,
        object.modified.to_rfc3339_opts(SecondsFormat::Millis, true),
        escaped(&object.etag),
        object.bytes.len()
    )
}

/// `bytes=a-b`, `bytes=a-` or `bytes=-n` of an object of `size` bytes; `None` if it lies outside.
fn parse_range(range: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>().ok(), last.parse::<u64>().ok()) {
        (Some(first), Some(last)) => first..(last + 1).min(size),
        (Some(first), None) => first..size,
        (None, Some(length)) => size.saturating_sub(length)..size,
        (None, None) => return None,
    };
    (range.start < range.end).then_some(range)
}

/// The parts of a `CompleteMultipartUpload`, whose numbers must rise.
fn parse_parts(xml: &str) -> Result<Vec<(u32, String)>, Refusal> {
    let malformed =
        || Refusal(StatusCode::BAD_REQUEST, "MalformedCompleteMultipartUploadRequest", xml.to_owned());
    let inside = |text: &str, tag: &str| -> Option<String> {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(unescaped(rest.split_once(&format!("</{tag}>"))?.0))
    };
    let mut parts = Vec::new();
    for part in xml.split("<Part>").skip(1) {
        let number =
            inside(part, "PartNumber").and_then(|number| number.parse().ok()).ok_or_else(malformed)?;
        parts.push((number, inside(part, "ETag").ok_or_else(malformed)?));
    }
    if parts.is_empty() || !parts.is_sorted_by(|left, right| left.0 < right.0) {
        return Err(malformed());
    }
    Ok(parts)
}
