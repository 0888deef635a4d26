//! Google Cloud Storage's XML API: the part that isobar's client speaks.
//!
//! Written after the reference, <https://cloud.google.com/storage/docs/xml-api/reference-methods>, its request headers,
//! <https://cloud.google.com/storage/docs/xml-api/reference-headers>, and its errors,
//! <https://cloud.google.com/storage/docs/xml-api/reference-status>.
//!
//! What matters to isobar: generations rise with every write; `x-goog-if-generation-match` compares with the present
//! generation, 0 standing for "no object", and is 412 otherwise, also when the object is gone; deleting what is not
//! there is 404. Requests without credentials are anonymous and the buckets are public, because a client that is
//! opened without a token sends none; any authorization but a bearer token is refused.

use axum::http::StatusCode;

use super::listing;
use super::message::{Answer, Refusal, Request, http_date, matches_etag, read_answer};
use super::parts::{self, Place, check_md5, failed_condition, no_such_key};
use super::store::{Object, Store};
use super::xml::element;

pub(super) fn answer(store: &mut Store, request: &Request) -> Result<Answer, Refusal> {
    if request.header("authorization").is_some_and(|value| !value.starts_with("Bearer")) {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "AuthenticationRequired", "not a bearer token"));
    }
    let (bucket, name) = request.split_path(&request.path)?;
    if !store.buckets.contains_key(&bucket) {
        let message = format!("The specified bucket {bucket} does not exist.");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "NoSuchBucket", message));
    }
    if request.headers.contains_key("x-goog-copy-source") {
        return Err(Refusal::not_simulated("a copy"));
    }
    let place = Place { bucket: &bucket, name: &name };
    let has = |parameter| request.query(parameter).is_some();
    match request.method.as_str() {
        "GET" if name.is_empty() => listing::list(store, request, &bucket, |object| {
            element("Generation", &object.generation.to_string())
        }),
        _ if name.is_empty() => Err(Refusal::not_simulated("this operation on a bucket")),
        "PUT" if has("uploadId") => parts::put_part(store, request, &place),
        "POST" if has("uploads") => Ok(parts::begin(store, request, &place)),
        "POST" if has("uploadId") => complete(store, request, &place),
        "DELETE" if has("uploadId") => parts::abort(store, request, &place),
        "GET" | "HEAD" => read(store, request, &place),
        _ if !request.query.is_empty() => Err(Refusal::not_simulated("this parameter")),
        "PUT" => put(store, request, &place),
        "DELETE" => delete(store, request, &place),
        _ => Err(Refusal::not_simulated("this operation")),
    }
}

/// Whether a write may replace `present`.
fn check_write(request: &Request, present: Option<&Object>) -> Result<(), Refusal> {
    let Some(wanted) = request.condition("x-goog-if-generation-match") else { return Ok(()) };
    let Ok(wanted) = wanted.parse::<u64>() else {
        let message = "a generation is a number";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "InvalidArgument", message));
    };
    if present.map_or(0, |object| object.generation) == wanted {
        return Ok(());
    }
    Err(failed_condition("x-goog-if-generation-match"))
}

fn describe(answer: Answer, object: &Object) -> Answer {
    answer
        .with("etag", &object.etag)
        .with("x-goog-generation", object.generation.to_string())
        .with("x-goog-metageneration", "1")
}

fn put(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    check_md5(request)?;
    check_write(request, store.object(place.bucket, place.name))?;
    let object = store.put(place.bucket, place.name, parts::whole_body(request));
    Ok(describe(Answer::new(StatusCode::OK), object))
}

fn complete(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    let object = parts::complete(store, request, place, |present| check_write(request, present))?;
    Ok(describe(parts::completed(place, &object.etag), object))
}

fn read(store: &Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    request.check_query(&["generation"])?;
    let object = store.object(place.bucket, place.name).ok_or_else(|| no_such_key(place.name))?;
    if request.query("generation").is_some_and(|wanted| wanted != object.generation.to_string()) {
        return Err(no_such_key(place.name));
    }
    if request.condition("if-match").is_some_and(|list| !matches_etag(list, &object.etag)) {
        return Err(failed_condition("If-Match"));
    }
    if request.condition("if-none-match").is_some_and(|list| matches_etag(list, &object.etag)) {
        return Ok(describe(Answer::new(StatusCode::NOT_MODIFIED), object));
    }
    let answer = read_answer(&object.bytes, request.header("range"))?
        .with_value("content-type", object.content_type.as_ref())
        .with("last-modified", http_date(object.modified));
    Ok(describe(answer, object))
}

fn delete(store: &mut Store, request: &Request, place: &Place<'_>) -> Result<Answer, Refusal> {
    check_write(request, store.object(place.bucket, place.name))?;
    if store.delete(place.bucket, place.name) {
        Ok(Answer::new(StatusCode::NO_CONTENT))
    } else {
        Err(no_such_key(place.name))
    }
}
