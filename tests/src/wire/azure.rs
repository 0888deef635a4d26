//! Azure Blob Storage's REST API: the part that isobar's client speaks.
//!
//! Written after the reference, <https://learn.microsoft.com/en-us/rest/api/storageservices/blob-service-rest-api>: Put
//! Blob, Put Block, Put Block List, Get Blob, Get Blob Properties, Delete Blob, Blob Batch (in `batch.rs`) and List
//! Blobs; conditions after its page "Specifying conditional headers", errors after "Blob service error codes" and
//! "Common REST API error codes".
//!
//! What matters to isobar: `If-None-Match: *` on a blob that exists is 409 `BlobAlreadyExists`; `If-Match` is 412 when
//! the tag is another or there is no blob; a tag belongs to a write, not to a content; blocks wait under the name of
//! their blob, not under an upload, and whoever commits or writes that blob throws the waiting blocks of all others
//! away; deleting what is not there is 404.

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::batch;
use super::message::{Answer, Refusal, Request, http_date, matches_etag, read_answer};
use super::parts::{Place, check_md5};
use super::sign;
use super::store::{Item, Listing, NewObject, Object, PAGE_ITEMS_MAX, Store, parse_token};
use super::xml::{PROLOGUE, children, element, escaped, inner};

/// Longest id of a block, in bytes, before it is encoded.
const BLOCK_ID_BYTES_MAX: usize = 64;

pub(super) fn answer(store: &mut Store, request: &Request) -> Result<Answer, Refusal> {
    sign::check_azure(request)?;
    let (container, name) = request.split_path(below_account(request))?;
    if !store.buckets.contains_key(&container) {
        let message = "The specified container does not exist.";
        return Err(Refusal::new(StatusCode::NOT_FOUND, "ContainerNotFound", message));
    }
    let place = Place { bucket: &container, name: &name };
    let is_container = name.is_empty() && request.query("restype") == Some("container");
    match (request.method.as_str(), request.query("comp")) {
        ("GET", Some("list")) if is_container => list(store, request, &container),
        ("POST", Some("batch")) if is_container => batch::delete_many(store, request),
        _ if name.is_empty() => Err(Refusal::not_simulated("this operation on a container")),
        ("PUT", Some("block")) => put_block(store, request, &place),
        ("PUT", Some("blocklist")) => put_block_list(store, request, &place),
        _ if !request.query.is_empty() => Err(Refusal::not_simulated("this parameter")),
        ("PUT", _) => put(store, request, &place),
        ("GET" | "HEAD", _) => read(store, request, &place),
        ("DELETE", _) => delete(store, request, &place),
        _ => Err(Refusal::not_simulated("this operation")),
    }
    .map(|answer| answer.with("x-ms-version", sign::AZURE_VERSION))
}

/// The path from the container on. The account is the first label of a real address, and the first segment of the path
/// everywhere else.
pub(super) fn below_account(request: &Request) -> &str {
    if request.host.ends_with(".blob.core.windows.net") {
        return &request.path;
    }
    let path = request.path.trim_start_matches('/');
    path.split_once('/').map_or("", |(_, rest)| rest)
}

fn condition_not_met() -> Refusal {
    let message = "The condition specified using HTTP conditional header(s) is not met.";
    Refusal::new(StatusCode::PRECONDITION_FAILED, "ConditionNotMet", message)
}

fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "BlobNotFound", "The specified blob does not exist.")
}

fn invalid(code: &'static str, message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, code, message)
}

/// Whether a write may replace `present`.
fn check_write(request: &Request, present: Option<&Object>) -> Result<(), Refusal> {
    match (request.condition("if-none-match"), present) {
        (Some("*"), Some(_)) => {
            let message = "The specified blob already exists.";
            return Err(Refusal::new(StatusCode::CONFLICT, "BlobAlreadyExists", message));
        }
        (Some("*") | None, _) => {}
        (Some(list), present) if present.is_some_and(|present| matches_etag(list, &present.etag)) => {
            return Err(condition_not_met());
        }
        _ => {}
    }
    let is_met = |list: &str| present.is_some_and(|present| matches_etag(list, &present.etag));
    match request.condition("if-match") {
        Some(list) if !is_met(list) => Err(condition_not_met()),
        _ => Ok(()),
    }
}

fn write(store: &mut Store, request: &Request, place: &Place<'_>, bytes: Bytes) -> Answer {
    let content_type = request.headers.get("x-ms-blob-content-type").or(request.headers.get("content-type"));
    let content_type = content_type.cloned();
    let new = NewObject { bytes, etag: None, content_type, modified: request.received };
    let object = store.put(place.bucket, place.name, new);
    Answer::new(StatusCode::CREATED)
        .with("etag", &object.etag)
        .with("last-modified", http_date(object.modified))
        .with("x-ms-request-server-encrypted", "true")
}

fn put(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    match request.header("x-ms-blob-type") {
        Some("BlockBlob") => {}
        Some(_) => return Err(Refusal::not_simulated("a blob of another type")),
        None => return Err(invalid("MissingRequiredHeader", "x-ms-blob-type")),
    }
    if request.headers.contains_key("x-ms-copy-source") {
        return Err(Refusal::not_simulated("a copy"));
    }
    check_md5(request).map_err(|_| invalid("Md5Mismatch", "the Content-MD5 is another"))?;
    check_write(request, store.object(place.bucket, place.name))?;
    Ok(write(store, request, place, request.body.clone()))
}

fn put_block(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    request.check_query(&["comp", "blockid"])?;
    let id = request.query("blockid").unwrap_or_default();
    let bytes = BASE64_STANDARD.decode(id).unwrap_or_default();
    if bytes.is_empty() || bytes.len() > BLOCK_ID_BYTES_MAX {
        return Err(invalid("InvalidQueryParameterValue", "blockid"));
    }
    if request.body.is_empty() {
        return Err(invalid("InvalidHeaderValue", "Content-Length is 0"));
    }
    let bucket = store.buckets.get_mut(place.bucket).ok_or_else(not_found)?;
    let blocks = bucket.blocks.entry(place.name.to_owned()).or_default();
    if blocks.keys().any(|other| other.len() != id.len()) {
        return Err(invalid("InvalidBlobOrBlock", "all ids of a blob's blocks have the same length"));
    }
    blocks.insert(id.to_owned(), request.body.clone());
    Ok(Answer::new(StatusCode::CREATED).with("x-ms-request-server-encrypted", "true"))
}

fn put_block_list(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    request.check_query(&["comp"])?;
    let xml = String::from_utf8_lossy(&request.body);
    let malformed = || invalid("InvalidXmlDocument", "not a list of blocks");
    let list = inner(&xml, "BlockList").into_iter().next().ok_or_else(malformed)?;
    let waiting = store.buckets.get(place.bucket).and_then(|bucket| bucket.blocks.get(place.name));
    let mut bytes = Vec::new();
    for (kind, id) in children(list).ok_or_else(malformed)? {
        if kind != "Uncommitted" && kind != "Latest" {
            return Err(Refusal::not_simulated("a block that is committed already"));
        }
        let block = waiting.and_then(|waiting| waiting.get(&id));
        let block = block.ok_or_else(|| invalid("InvalidBlockList", "a block of the list is not there"))?;
        bytes.extend_from_slice(block);
    }
    check_write(request, store.object(place.bucket, place.name))?;
    Ok(write(store, request, place, bytes.into()))
}

fn read(store: &Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    let object = store.object(place.bucket, place.name).ok_or_else(not_found)?;
    if request.condition("if-match").is_some_and(|list| !matches_etag(list, &object.etag)) {
        return Err(condition_not_met());
    }
    if request.condition("if-none-match").is_some_and(|list| matches_etag(list, &object.etag)) {
        let message = "The condition specified using HTTP conditional header(s) is not met.";
        return Err(Refusal::new(StatusCode::NOT_MODIFIED, "ConditionNotMet", message));
    }
    let range = request.header("x-ms-range").or(request.header("range"));
    Ok(read_answer(&object.bytes, range)?
        .with("content-type", "application/octet-stream")
        .with_value("content-type", object.content_type.as_ref())
        .with("etag", &object.etag)
        .with("last-modified", http_date(object.modified))
        .with("x-ms-blob-type", "BlockBlob"))
}

fn delete(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    let present = store.object(place.bucket, place.name).ok_or_else(not_found)?;
    check_write(request, Some(present))?;
    store.delete(place.bucket, place.name);
    Ok(Answer::new(StatusCode::ACCEPTED).with("x-ms-delete-type-permanent", "true"))
}

fn list(store: &Store, request: &Request, container: &str) -> Result<Answer, Refusal> {
    request.check_query(&["restype", "comp", "prefix", "delimiter", "marker", "startFrom", "maxresults"])?;
    let wrong = |what| invalid("InvalidQueryParameterValue", what);
    let marker = match request.query("marker").filter(|marker| !marker.is_empty()) {
        Some(marker) => Some(parse_token(marker).ok_or_else(|| wrong("marker"))?),
        None => None,
    };
    let items_max = match request.query("maxresults") {
        Some(items) => items.parse().ok().filter(|items| *items > 0).ok_or_else(|| wrong("maxresults"))?,
        None => PAGE_ITEMS_MAX,
    };
    let listing = Listing {
        prefix: request.query("prefix").unwrap_or_default(),
        delimiter: request.query("delimiter"),
        start_after: None,
        start_at: request.query("startFrom"),
        token: marker.as_deref(),
        items_max: items_max.min(PAGE_ITEMS_MAX),
    };
    let page = store.list(container, &listing);
    let blobs: String = page.items.iter().map(describe).collect();
    let text = format!(
        "{PROLOGUE}<EnumerationResults ServiceEndpoint=\"https://{}/\" ContainerName=\"{}\">{}{}<Blobs>{blobs}</Blobs>{}</EnumerationResults>",
        escaped(&request.host),
        escaped(container),
        element("Prefix", listing.prefix),
        element("MaxResults", &listing.items_max.to_string()),
        page.next.map_or("<NextMarker />".to_owned(), |next| element("NextMarker", &next)),
    );
    Ok(Answer::xml(StatusCode::OK, text))
}

/// A blob or a prefix in a listing, where tags have no quotation marks.
fn describe(item: &Item<'_>) -> String {
    let (name, object) = match item {
        Item::Prefix(prefix) => return format!("<BlobPrefix>{}</BlobPrefix>", element("Name", prefix)),
        Item::Object(name, object) => (name, object),
    };
    let content_type = object.content_type.as_ref().and_then(|value| value.to_str().ok());
    let properties = [
        element("Last-Modified", &http_date(object.modified)),
        element("Etag", object.etag.trim_matches('"')),
        element("Content-Length", &object.bytes.len().to_string()),
        element("Content-Type", content_type.unwrap_or("application/octet-stream")),
        element("BlobType", "BlockBlob"),
    ];
    format!("<Blob>{}<Properties>{}</Properties></Blob>", element("Name", name), properties.concat())
}
