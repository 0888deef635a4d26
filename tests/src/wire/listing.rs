//! `ListObjectsV2`, which Google's XML API speaks as S3 does.
//!
//! - <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>
//! - <https://cloud.google.com/storage/docs/xml-api/get-bucket-list>

use axum::http::StatusCode;
use chrono::SecondsFormat;

use super::message::{Answer, Refusal, Request};
use super::store::{Item, Listing, Object, PAGE_ITEMS_MAX, Store, parse_token};
use super::xml::{PROLOGUE, element};

const PARAMETERS: [&str; 6] =
    ["list-type", "delimiter", "prefix", "continuation-token", "start-after", "max-keys"];

/// Answers a listing; `further` is what a protocol says about an object beyond the common elements.
pub(super) fn list(
    store: &Store,
    request: &Request,
    bucket: &str,
    further: fn(&Object) -> String,
) -> Result<Answer, Refusal> {
    if request.query("list-type") != Some("2") {
        return Err(Refusal::not_simulated("a listing of version 1"));
    }
    request.check_query(&PARAMETERS)?;
    let invalid = |what: &str| Refusal::new(StatusCode::BAD_REQUEST, "InvalidArgument", what);
    let token = match request.query("continuation-token") {
        Some(token) => Some(parse_token(token).ok_or_else(|| invalid("continuation-token"))?),
        None => None,
    };
    let items_max = match request.query("max-keys") {
        Some(keys) => keys.parse().map_err(|_| invalid("max-keys"))?,
        None => PAGE_ITEMS_MAX,
    };
    let listing = Listing {
        prefix: request.query("prefix").unwrap_or_default(),
        delimiter: request.query("delimiter"),
        start_after: request.query("start-after"),
        start_at: None,
        token: token.as_deref(),
        items_max: items_max.min(PAGE_ITEMS_MAX),
    };
    let page = store.list(bucket, &listing);
    let (mut contents, mut prefixes) = (String::new(), String::new());
    for item in &page.items {
        match item {
            Item::Object(name, object) => contents.push_str(&describe(name, object, further)),
            Item::Prefix(prefix) => {
                prefixes.push_str(&format!("<CommonPrefixes>{}</CommonPrefixes>", element("Prefix", prefix)));
            }
        }
    }
    let head = [
        element("Name", bucket),
        element("Prefix", listing.prefix),
        element("KeyCount", &page.items.len().to_string()),
        element("MaxKeys", &listing.items_max.to_string()),
        element("IsTruncated", &page.next.is_some().to_string()),
        page.next.as_deref().map(|next| element("NextContinuationToken", next)).unwrap_or_default(),
    ]
    .concat();
    let text = format!("{PROLOGUE}<ListBucketResult>{head}{contents}{prefixes}</ListBucketResult>");
    Ok(Answer::xml(StatusCode::OK, text))
}

fn describe(name: &str, object: &Object, further: fn(&Object) -> String) -> String {
    let modified = object.modified.to_rfc3339_opts(SecondsFormat::Millis, true);
    let common = [
        element("Key", name),
        element("LastModified", &modified),
        element("ETag", &object.etag),
        element("Size", &object.bytes.len().to_string()),
    ];
    format!("<Contents>{}{}</Contents>", common.concat(), further(object))
}
