//! Amazon S3's REST API: the part that isobar's client speaks.
//!
//! Written after the API reference, <https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html>:
//! GetObject, HeadObject, PutObject, DeleteObject, DeleteObjects, ListObjectsV2 and the multipart uploads; conditional
//! writes after <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>, errors after
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
//!
//! What matters to isobar: `If-None-Match: *` on an object that exists is 412; `If-Match` is 412 when the tag is
//! another and 404 when there is no object; a tag is the MD5 of the content, so equal content has equal tags; deleting
//! what is not there succeeds; bulk deletes report each key.

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::listing;
use super::message::{Answer, Refusal, Request, http_date, matches_etag, read_answer};
use super::parts::{self, Place, check_md5, failed_condition, no_such_key};
use super::sign;
use super::store::{Object, Store};
use super::xml::{PROLOGUE, element, inner, texts};

/// Keys in one bulk delete.
const DELETE_KEYS_MAX: usize = 1000;

pub(super) fn answer(store: &mut Store, request: &Request) -> Result<Answer, Refusal> {
    sign::check_amazon(request)?;
    let (bucket, name) = request.split_path(&path_style(request))?;
    if !store.buckets.contains_key(&bucket) {
        let message = format!("The specified bucket {bucket} does not exist");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "NoSuchBucket", message));
    }
    for unknown in ["x-amz-copy-source", "x-amz-server-side-encryption", "x-amz-tagging"] {
        if request.headers.contains_key(unknown) {
            return Err(Refusal::not_simulated(unknown));
        }
    }
    let place = Place { bucket: &bucket, name: &name };
    let has = |parameter| request.query(parameter).is_some();
    match request.method.as_str() {
        "GET" if name.is_empty() => {
            listing::list(store, request, &bucket, |_| element("StorageClass", "STANDARD"))
        }
        "POST" if name.is_empty() && has("delete") => delete_many(store, request, &bucket),
        _ if name.is_empty() => Err(Refusal::not_simulated("this operation on a bucket")),
        "PUT" if has("uploadId") => parts::put_part(store, request, &place),
        "POST" if has("uploads") => Ok(parts::begin(store, request, &place)),
        "POST" if has("uploadId") => complete(store, request, &place),
        "DELETE" if has("uploadId") => parts::abort(store, request, &place),
        _ if !request.query.is_empty() => Err(Refusal::not_simulated("this parameter")),
        "GET" | "HEAD" => read(store, request, &place),
        "PUT" => put(store, request, &place),
        "DELETE" => {
            store.delete(&bucket, &name);
            Ok(Answer::new(StatusCode::NO_CONTENT))
        }
        _ => Err(Refusal::not_simulated("this operation")),
    }
}

/// The path with the bucket in front, wherever the client put it.
pub(super) fn path_style(request: &Request) -> String {
    match request.host.split_once(".s3.") {
        Some((bucket, _)) => format!("/{bucket}{}", request.path),
        None => request.path.clone(),
    }
}

/// Whether a write may replace `present`.
fn check_write(request: &Request, present: Option<&Object>, name: &str) -> Result<(), Refusal> {
    match request.condition("if-none-match") {
        Some("*") if present.is_some() => return Err(failed_condition("If-None-Match")),
        Some("*") | None => {}
        Some(_) => return Err(Refusal::not_simulated("an If-None-Match other than *")),
    }
    match (request.condition("if-match"), present) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(no_such_key(name)),
        (Some(list), Some(present)) if matches_etag(list, &present.etag) => Ok(()),
        (Some(_), Some(_)) => Err(failed_condition("If-Match")),
    }
}

fn check_digests(request: &Request) -> Result<(), Refusal> {
    check_md5(request)?;
    match request.header("x-amz-checksum-sha256") {
        Some(sent) if sent != BASE64_STANDARD.encode(Sha256::digest(&request.body)) => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, "BadDigest", "the SHA-256 is another"))
        }
        _ => Ok(()),
    }
}

fn put(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    check_digests(request)?;
    check_write(request, store.object(place.bucket, place.name), place.name)?;
    let object = store.put(place.bucket, place.name, parts::whole_body(request));
    Ok(Answer::new(StatusCode::OK).with("etag", &object.etag))
}

fn complete(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    let object = parts::complete(store, request, place, |present| check_write(request, present, place.name))?;
    Ok(parts::completed(place, &object.etag))
}

fn read(store: &Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    let object = store.object(place.bucket, place.name).ok_or_else(|| no_such_key(place.name))?;
    if request.condition("if-match").is_some_and(|list| !matches_etag(list, &object.etag)) {
        return Err(failed_condition("If-Match"));
    }
    if request.condition("if-none-match").is_some_and(|list| matches_etag(list, &object.etag)) {
        return Ok(Answer::new(StatusCode::NOT_MODIFIED).with("etag", &object.etag));
    }
    Ok(read_answer(&object.bytes, request.header("range"))?
        .with("content-type", "binary/octet-stream")
        .with_value("content-type", object.content_type.as_ref())
        .with("etag", &object.etag)
        .with("last-modified", http_date(object.modified)))
}

fn delete_many(store: &mut Store, request: &Request, bucket: &str) -> Result<Answer, Refusal> {
    check_digests(request)?;
    let malformed = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, "MalformedXML", message);
    if ["content-md5", "x-amz-checksum-sha256"].iter().all(|digest| request.header(digest).is_none()) {
        let message = "Missing required header for this request: Content-MD5";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "InvalidRequest", message));
    }
    let xml = String::from_utf8_lossy(&request.body);
    let keys: Option<Vec<String>> =
        inner(&xml, "Object").into_iter().map(|object| texts(object, "Key").into_iter().next()).collect();
    let keys = keys.ok_or_else(|| malformed("an object without a key"))?;
    if keys.is_empty() || keys.len() > DELETE_KEYS_MAX {
        return Err(malformed("1 to 1000 keys"));
    }
    if texts(&xml, "Quiet").iter().any(|quiet| quiet == "true") {
        return Err(Refusal::not_simulated("a quiet delete"));
    }
    let mut deleted = String::new();
    for key in keys {
        store.delete(bucket, &key);
        deleted.push_str(&format!("<Deleted>{}</Deleted>", element("Key", &key)));
    }
    Ok(Answer::xml(StatusCode::OK, format!("{PROLOGUE}<DeleteResult>{deleted}</DeleteResult>")))
}
