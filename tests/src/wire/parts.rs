//! What S3 and Google's XML API have in common about objects: the digests and errors of a write, and uploads in parts,
//! which are begun, sent, completed or aborted.
//!
//! - <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html>
//! - <https://cloud.google.com/storage/docs/xml-api/post-object-complete>
//!
//! An upload that was completed is gone: completing it again is `NoSuchUpload`, which is what a client meets that
//! repeats itself after a lost answer.

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use md5::{Digest, Md5};

use super::message::{Answer, Refusal, Request};
use super::store::{NewObject, Object, Store, Upload};
use super::xml::{PROLOGUE, element, escaped, inner, texts};

/// Smallest part but for the last, in bytes.
const PART_BYTES_MIN: usize = 5 << 20;
/// Highest number of a part.
const PART_NUMBER_MAX: u32 = 10_000;

/// An object that requests name.
pub(super) struct Place<'a> {
    pub(super) bucket: &'a str,
    pub(super) name: &'a str,
}

/// The parts of an upload in one piece.
struct Whole {
    bytes: Bytes,
    etag: String,
}

pub(super) fn failed_condition(header: &str) -> Refusal {
    let message = format!("At least one of the pre-conditions you specified did not hold: {header}");
    Refusal::new(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", message)
}

pub(super) fn no_such_key(name: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "NoSuchKey", format!("The specified key {name} does not exist."))
}

/// What a request that brings an object in one piece stores.
pub(super) fn whole_body(request: &Request) -> NewObject {
    NewObject {
        bytes: request.body.clone(),
        etag: Some(content_etag(&request.body)),
        content_type: request.headers.get("content-type").cloned(),
        modified: request.received,
    }
}

/// The tag of plain content: its MD5.
fn content_etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex::encode(Md5::digest(bytes)))
}

/// What stands in `Content-MD5` for this content.
pub fn content_md5(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(Md5::digest(bytes))
}

/// Refuses a body that is not what its `Content-MD5` says.
pub(super) fn check_md5(request: &Request) -> Result<(), Refusal> {
    match request.header("content-md5") {
        Some(sent) if sent != content_md5(&request.body) => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, "BadDigest", "the Content-MD5 is another"))
        }
        _ => Ok(()),
    }
}

pub(super) fn begin(store: &mut Store, request: &Request, place: &Place<'_>) -> Answer {
    let upload = Upload {
        bucket: place.bucket.to_owned(),
        name: place.name.to_owned(),
        content_type: request.headers.get("content-type").cloned(),
        parts: Default::default(),
    };
    let id = store.begin_upload(upload);
    let (bucket, key) = (element("Bucket", place.bucket), element("Key", place.name));
    Answer::xml(
        StatusCode::OK,
        format!(
            "{PROLOGUE}<InitiateMultipartUploadResult>{bucket}{key}<UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        ),
    )
}

pub(super) fn put_part(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    let number = request.query("partNumber").and_then(|number| number.parse().ok());
    let Some(number @ 1..=PART_NUMBER_MAX) = number else {
        let message = format!("a part's number is 1 to {PART_NUMBER_MAX}");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "InvalidArgument", message));
    };
    check_md5(request)?;
    let etag = content_etag(&request.body);
    find(store, request, place)?.parts.insert(number, (etag.clone(), request.body.clone()));
    Ok(Answer::new(StatusCode::OK).with("etag", etag))
}

pub(super) fn abort(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    find(store, request, place)?;
    store.end_upload(request.query("uploadId").unwrap_or_default());
    Ok(Answer::new(StatusCode::NO_CONTENT))
}

/// Stores the parts that the request lists as an object, and ends the upload; nothing changes if `judge` refuses the
/// write over the object that is there.
pub(super) fn complete<'a>(
    store: &'a mut Store,
    request: &Request,
    place: &Place<'_>,
    judge: impl FnOnce(Option<&Object>) -> Result<(), Refusal>,
) -> Result<&'a Object, Refusal> {
    let whole = assemble(store, request, place)?;
    judge(store.object(place.bucket, place.name))?;
    let upload = store.end_upload(request.query("uploadId").unwrap_or_default());
    let new = NewObject {
        bytes: whole.bytes,
        etag: Some(whole.etag),
        content_type: upload.and_then(|upload| upload.content_type),
        modified: request.received,
    };
    Ok(store.put(place.bucket, place.name, new))
}

/// Puts the parts together that the request lists. Changes nothing.
fn assemble(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Whole, Refusal> {
    let bad = |code, message: String| Refusal::new(StatusCode::BAD_REQUEST, code, message);
    let upload = find(store, request, place)?;
    let asked = parse(&request.body)?;
    if !asked.is_sorted_by(|left, right| left.0 < right.0) {
        return Err(bad("InvalidPartOrder", "the parts are not in order".to_owned()));
    }
    let (mut bytes, mut digests) = (Vec::new(), Vec::new());
    for (at, (number, etag)) in asked.iter().enumerate() {
        let Some((_, part)) = upload.parts.get(number).filter(|(stored, _)| same_etag(stored, etag)) else {
            return Err(bad("InvalidPart", format!("there is no part {number} with this tag")));
        };
        if part.len() < PART_BYTES_MIN && at + 1 < asked.len() {
            return Err(bad("EntityTooSmall", format!("part {number} is too small")));
        }
        bytes.extend_from_slice(part);
        digests.extend_from_slice(&Md5::digest(part));
    }
    let etag = format!("\"{}-{}\"", hex::encode(Md5::digest(&digests)), asked.len());
    Ok(Whole { bytes: bytes.into(), etag })
}

pub(super) fn completed(place: &Place<'_>, etag: &str) -> Answer {
    let (bucket, key) = (element("Bucket", place.bucket), element("Key", place.name));
    let location = format!("https://storage/{}/{}", escaped(place.bucket), escaped(place.name));
    Answer::xml(
        StatusCode::OK,
        format!(
            "{PROLOGUE}<CompleteMultipartUploadResult><Location>{location}</Location>{bucket}{key}{}</CompleteMultipartUploadResult>",
            element("ETag", etag)
        ),
    )
}

fn find<'a>(store: &'a mut Store, request: &Request, place: &Place<'_>) -> Result<&'a mut Upload, Refusal> {
    let id = request.query("uploadId").unwrap_or_default();
    let missing = || {
        let message = format!("there is no upload {id} of {}", place.name);
        Refusal::new(StatusCode::NOT_FOUND, "NoSuchUpload", message)
    };
    store.upload(id, place.bucket, place.name).ok_or_else(missing)
}

/// Some clients leave the quotation marks out.
fn same_etag(left: &str, right: &str) -> bool {
    left.trim_matches('"') == right.trim_matches('"')
}

/// Numbers and tags of a `CompleteMultipartUpload`.
fn parse(body: &[u8]) -> Result<Vec<(u32, String)>, Refusal> {
    let xml = String::from_utf8_lossy(body);
    let parts: Option<Vec<(u32, String)>> = inner(&xml, "Part")
        .into_iter()
        .map(|part| {
            let number = texts(part, "PartNumber").first()?.parse().ok()?;
            Some((number, texts(part, "ETag").into_iter().next()?))
        })
        .collect();
    parts.filter(|parts| !parts.is_empty()).ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, "MalformedXML", "not a list of parts with number and ETag")
    })
}
