//! Raw requests and the answers that the public references promise: the same battery for the simulator and, when
//! `ISOBAR_LIVE=1`, for moto (S3) and Azurite (Azure), so that the simulator cannot agree with the clients on something
//! that no store does.
//!
//! ```sh
//! tests/services/services start s3 azure --dir DIR
//! set -a; . DIR/services.env; set +a
//! ISOBAR_LIVE=1 cargo test --release --workspace --test it -- wire_battery::
//! ```
//!
//! Where an emulator does not do what the reference says, the expectation is the reference's, and the emulator is
//! excused by name at that place.

use std::env;

use axum::http::{HeaderMap, HeaderValue, Method, header};
use bytes::Bytes;
use isobar_tests::wire::{BUCKET, Protocol, Simulator, texts};
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, ReqwestConnector};

/// Smallest part of an upload but for the last, in bytes.
const PART_BYTES_MIN: usize = 5 << 20;

enum Signer {
    Amazon { credential: AwsCredential, region: String },
    Azure { credential: AzureCredential, account: String },
    None,
}

/// A store under test, and a prefix in it that nobody else uses.
struct Target {
    name: &'static str,
    client: HttpClient,
    /// The address of the bucket, with the account where it is part of the path.
    bucket: String,
    prefix: String,
    signer: Signer,
}

/// An answer.
#[derive(Debug)]
struct Seen {
    about: String,
    status: u16,
    /// The error's code, or nothing.
    code: String,
    headers: HeaderMap,
    body: Bytes,
}

fn amazon(options: impl Fn(&str) -> String) -> Signer {
    let credential = AwsCredential {
        key_id: options("access_key_id"),
        secret_key: options("secret_access_key"),
        token: None,
    };
    Signer::Amazon { credential, region: options("region") }
}

fn azure(options: impl Fn(&str) -> String) -> Signer {
    let key = AzureAccessKey::try_new(&options("account_key")).unwrap();
    Signer::Azure { credential: AzureCredential::AccessKey(key), account: options("account_name") }
}

/// The simulated store, at its real address.
fn simulated(protocol: Protocol) -> Target {
    let options = protocol.options(None);
    let option = |name: &str| options[name].clone();
    let (host, signer) = match protocol {
        Protocol::S3 => ("s3.eu-central-1.amazonaws.com".to_owned(), amazon(option)),
        Protocol::Azure => (format!("{}.blob.core.windows.net", option("account_name")), azure(option)),
        Protocol::Gcs => ("storage.googleapis.com".to_owned(), Signer::None),
    };
    Target {
        name: "simulator",
        client: Simulator::new(1).connector(protocol).connect(&ClientOptions::new()).unwrap(),
        bucket: format!("https://{host}/{BUCKET}"),
        prefix: "battery".to_owned(),
        signer,
    }
}

/// The emulator that the environment names, or `None` with a notice when the live tests are switched off.
fn emulated(protocol: Protocol) -> Option<Target> {
    if env::var("ISOBAR_LIVE").as_deref() != Ok("1") {
        eprintln!("battery: skipped, because ISOBAR_LIVE is not 1");
        return None;
    }
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (name, bucket, signer) = match protocol {
        Protocol::S3 => (
            "moto",
            format!("{}/{}", variable("ISOBAR_S3_ENDPOINT"), variable("ISOBAR_S3_BUCKET")),
            amazon(|option| variable(&format!("ISOBAR_S3_{}", option.to_uppercase()))),
        ),
        Protocol::Azure => (
            "azurite",
            format!("{}/{}", variable("ISOBAR_AZURE_ENDPOINT"), variable("ISOBAR_AZURE_CONTAINER")),
            azure(|option| match option {
                "account_key" => variable("ISOBAR_AZURE_KEY"),
                _ => variable("ISOBAR_AZURE_ACCOUNT"),
            }),
        ),
        Protocol::Gcs => panic!("there is no emulator of Google's store that honours preconditions"),
    };
    let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
    let prefix = format!("battery-{}", uuid::Uuid::new_v4());
    Some(Target { name, client, bucket, prefix, signer })
}

impl Target {
    fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// A request to `path` below the bucket's address.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) -> Seen {
        let body: Bytes = body.into();
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]);
        let about = format!("{}: {method} {path} {headers:?} {shown}", self.name);
        let mut request = HttpRequest::new(body.clone().into());
        *request.method_mut() = method.parse::<Method>().unwrap();
        *request.uri_mut() = format!("{}{path}", self.bucket).parse().unwrap();
        if !matches!(method, "GET" | "HEAD") {
            request.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
        }
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        match &self.signer {
            Signer::Amazon { credential, region } => {
                AwsAuthorizer::new(credential, "s3", region).authorize(&mut request, None);
            }
            Signer::Azure { credential, account } => {
                AzureAuthorizer::new(credential, account).authorize(&mut request);
            }
            Signer::None => {}
        }
        let (parts, body) = self.client.execute(request).await.unwrap().into_parts();
        let body = body.bytes().await.unwrap();
        let in_header = parts.headers.get("x-ms-error-code").and_then(|code| code.to_str().ok());
        let in_body = texts(&String::from_utf8_lossy(&body), "Code").into_iter().next();
        let code = match parts.status.is_success() {
            true => String::new(),
            false => in_header.map(str::to_owned).or(in_body).unwrap_or_default(),
        };
        Seen { about, status: parts.status.as_u16(), code, headers: parts.headers, body }
    }

    /// A request about the object `key` below the prefix, both as they stand in a URL.
    async fn object(
        &self,
        method: &str,
        key: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) -> Seen {
        self.ask(method, &format!("/{}/{key}", self.prefix), headers, body).await
    }
}

impl Seen {
    fn due(self, status: u16, code: &str) -> Self {
        let found = (self.status, self.code.as_str());
        assert_eq!(found, (status, code), "{}: {}", self.about, String::from_utf8_lossy(&self.body));
        self
    }

    fn holds(self, body: &[u8]) -> Self {
        assert!(self.body == body, "{}: {:?}", self.about, self.body);
        self
    }

    fn has(self, name: &str, value: &str) -> Self {
        assert_eq!(self.header(name), value, "{}", self.about);
        self
    }

    fn header(&self, name: &str) -> String {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.about));
        value.to_str().unwrap().to_owned()
    }

    fn etag(&self) -> String {
        self.header("etag")
    }

    fn texts(&self, element: &str) -> Vec<String> {
        texts(std::str::from_utf8(&self.body).unwrap(), element)
    }
}

/// Reading, which all three stores do alike but for the names of errors.
async fn reads(target: &Target, write: &[(&'static str, &str)], created: u16, not_found: &str) {
    let key = "a%20b/%C3%BC%3D1%252F%2B%26.json";
    let written = target.object("PUT", key, write, "0123456789").await.due(created, "");
    let read = target.object("GET", key, &[], "").await.due(200, "").holds(b"0123456789");
    assert_eq!(read.etag(), written.etag());
    assert!(read.header("last-modified").ends_with(" GMT"));
    for (range, due, content_range) in [
        ("bytes=2-4", &b"234"[..], "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
    ] {
        let part = target.object("GET", key, &[("range", range)], "").await;
        part.due(206, "")
            .holds(due)
            .has("content-range", content_range)
            .has("content-length", &due.len().to_string());
    }
    // Azurite answers with an empty part.
    if !target.is("azurite") {
        target.object("GET", key, &[("range", "bytes=10-12")], "").await.due(416, "InvalidRange");
    }
    let head = target.object("HEAD", key, &[], "").await.due(200, "").holds(b"");
    assert_eq!((head.header("content-length").as_str(), head.etag()), ("10", written.etag()));
    target.object("GET", "absent", &[], "").await.due(404, not_found);
    target.object("HEAD", "absent", &[], "").await.holds(b"");
    let current = written.etag();
    target.object("GET", key, &[("if-match", &current)], "").await.due(200, "");
    assert_eq!(target.object("GET", key, &[("if-none-match", &current)], "").await.status, 304);
    assert_eq!(target.object("GET", key, &[("if-match", "\"0x1234\"")], "").await.status, 412);
}

/// Names and prefixes of all pages of a listing, and how many pages there were.
async fn pages(
    target: &Target,
    base: &str,
    token: (&str, &str),
    name: &str,
    prefix: &str,
) -> (Vec<String>, Vec<String>, usize) {
    let (mut names, mut prefixes, mut path) = (Vec::new(), Vec::new(), base.to_owned());
    for page in 1.. {
        let seen = target.ask("GET", &path, &[], "").await.due(200, "");
        // In Azure both names are called the same, so the inner text is looked at in what is named around it.
        let outer = |outer: &str, inner: &str| -> Vec<String> {
            let text = String::from_utf8_lossy(&seen.body).into_owned();
            text.split(&format!("<{outer}>"))
                .skip(1)
                .filter_map(|part| texts(part, inner).into_iter().next())
                .collect()
        };
        let (inner, inner_prefix) = if name == "Contents" { ("Key", "Prefix") } else { ("Name", "Name") };
        names.extend(outer(name, inner));
        prefixes.extend(outer(prefix, inner_prefix));
        match seen.texts(token.1).into_iter().find(|token| !token.is_empty()) {
            Some(next) => {
                let next = percent_encoding::utf8_percent_encode(&next, percent_encoding::NON_ALPHANUMERIC);
                path = format!("{base}&{}={next}", token.0);
            }
            None => return (names, prefixes, page),
        }
    }
    unreachable!("there is a last page")
}

async fn listings(
    target: &Target,
    write: &[(&'static str, &str)],
    query: &str,
    token: (&str, &str),
    elements: (&str, &str),
) {
    let below = |key: &str| format!("{}/list/{key}", target.prefix);
    for key in ["b/2", "a", "b/1", "b", "c/x", "d%26%3C"] {
        target.object("PUT", &format!("list/{key}"), write, "x").await;
    }
    let base = format!("{query}&prefix={}%2Flist%2F", target.prefix);
    let (name, prefix) = elements;
    let (names, prefixes, _) = pages(target, &base, token, name, prefix).await;
    assert_eq!(names, ["a", "b", "b/1", "b/2", "c/x", "d&<"].map(below), "{}", target.name);
    assert!(prefixes.is_empty());
    let (names, prefixes, count) = pages(target, &format!("{base}&delimiter=%2F"), token, name, prefix).await;
    assert_eq!((names, prefixes), (["a", "b", "d&<"].map(below).into(), ["b/", "c/"].map(below).into()));
    assert_eq!(count, 1);
    let size = if name == "Contents" { "max-keys" } else { "maxresults" };
    let (names, _, count) = pages(target, &format!("{base}&{size}=2"), token, name, prefix).await;
    assert_eq!((names.len(), count), (6, 3), "{}", target.name);
    let (names, prefixes, _) =
        pages(target, &format!("{base}&{size}=2&delimiter=%2F"), token, name, prefix).await;
    assert_eq!((names, prefixes), (["a", "b", "d&<"].map(below).into(), ["b/", "c/"].map(below).into()));
    let nothing =
        pages(target, &format!("{query}&prefix={}%2Fnothing", target.prefix), token, name, prefix).await;
    assert_eq!(nothing, (vec![], vec![], 1));
}

/// `ListObjectsV2`, of S3 and Google.
async fn listings_of_objects(target: &Target) {
    let token = ("continuation-token", "NextContinuationToken");
    listings(target, &[], "?list-type=2", token, ("Contents", "CommonPrefixes")).await;
}

/// Uploads in parts, of S3 and Google.
async fn parts(target: &Target) {
    let begin = async || {
        let begun = target.object("POST", "upload?uploads=", &[], "").await.due(200, "");
        begun.texts("UploadId").remove(0)
    };
    let send = async |id: &str, number: u32, part: Vec<u8>| {
        target.object("PUT", &format!("upload?partNumber={number}&uploadId={id}"), &[], part).await
    };
    let complete = async |id: &str, parts: &[(u32, &str)], headers: &[(&'static str, &str)]| {
        let part = |(number, etag): &(u32, &str)| {
            format!("<Part><ETag>{etag}</ETag><PartNumber>{number}</PartNumber></Part>")
        };
        let parts: String = parts.iter().map(part).collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        target.object("POST", &format!("upload?uploadId={id}"), headers, body).await
    };
    let id = begin().await;
    let first = send(&id, 1, vec![1; PART_BYTES_MIN]).await.due(200, "").etag();
    let second = send(&id, 2, vec![2; PART_BYTES_MIN]).await.due(200, "").etag();
    target.object("GET", "upload", &[], "").await.due(404, "NoSuchKey");
    complete(&id, &[(1, &second), (2, &second)], &[]).await.due(400, "InvalidPart");
    // moto takes parts in any order.
    if !target.is("moto") {
        complete(&id, &[(2, &second), (1, &first)], &[]).await.due(400, "InvalidPartOrder");
    }
    let completed = complete(&id, &[(1, &first), (2, &second)], &[]).await.due(200, "");
    assert!(completed.texts("ETag")[0].ends_with("-2\""), "{:?}", completed.body);
    let whole = [vec![1; PART_BYTES_MIN], vec![2; PART_BYTES_MIN]].concat();
    target.object("GET", "upload", &[], "").await.due(200, "").holds(&whole);
    // moto takes it for a repetition and says yes again.
    if !target.is("moto") {
        complete(&id, &[(1, &first), (2, &second)], &[]).await.due(404, "NoSuchUpload");
    }
    let small = begin().await;
    let one = send(&small, 1, vec![1; 10]).await.etag();
    let two = send(&small, 2, vec![2; 10]).await.etag();
    complete(&small, &[(1, &one), (2, &two)], &[]).await.due(400, "EntityTooSmall");
    target.object("DELETE", &format!("upload?uploadId={small}"), &[], "").await.due(204, "");
    // moto stumbles over it.
    if !target.is("moto") {
        send(&small, 3, vec![3; 10]).await.due(404, "NoSuchUpload");
    }
}

async fn s3(target: &Target) {
    reads(target, &[], 200, "NoSuchKey").await;
    listings_of_objects(target).await;
    parts(target).await;
    let create = [("if-none-match", "*")];
    let first = target.object("PUT", "key", &create, "1").await.due(200, "");
    assert_eq!(first.etag(), "\"c4ca4238a0b923820dcc509a6f75849b\"", "a tag is the MD5");
    target.object("PUT", "key", &create, "2").await.due(412, "PreconditionFailed");
    target.object("GET", "key", &[], "").await.due(200, "").holds(b"1");
    target.object("PUT", "key", &[("if-match", &first.etag())], "2").await.due(200, "");
    target.object("PUT", "key", &[("if-match", &first.etag())], "3").await.due(412, "PreconditionFailed");
    target.object("PUT", "absent", &[("if-match", &first.etag())], "3").await.due(404, "NoSuchKey");
    for _ in 0..2 {
        target.object("DELETE", "key", &[], "").await.due(204, "");
    }
    target.object("PUT", "key", &create, "4").await.due(200, "");
    let named = |key: &str| format!("<Object><Key>{}/{key}</Key></Object>", target.prefix);
    let body = format!("<Delete>{}{}</Delete>", named("key"), named("never"));
    let digest = isobar_tests::wire::content_md5(body.as_bytes());
    let deleted = target.ask("POST", "?delete=", &[("content-md5", &digest)], body).await.due(200, "");
    assert_eq!(deleted.texts("Deleted").len(), 2, "{:?}", deleted.body);
    target.object("GET", "key", &[], "").await.due(404, "NoSuchKey");
}

async fn azure_blob(target: &Target) {
    let blob = [("x-ms-blob-type", "BlockBlob")];
    let with = |name, value| [blob[0], (name, value)];
    reads(target, &blob, 201, "BlobNotFound").await;
    listings(target, &blob, "?restype=container&comp=list", ("marker", "NextMarker"), ("Blob", "BlobPrefix"))
        .await;
    let first = target.object("PUT", "key", &with("if-none-match", "*"), "1").await.due(201, "").etag();
    target.object("PUT", "key", &with("if-none-match", "*"), "2").await.due(409, "BlobAlreadyExists");
    target.object("GET", "key", &[], "").await.due(200, "").holds(b"1");
    let second = target.object("PUT", "key", &with("if-match", &first), "1").await.due(201, "").etag();
    assert_ne!(first, second, "a tag belongs to a write");
    target.object("PUT", "key", &with("if-match", &first), "3").await.due(412, "ConditionNotMet");
    target.object("PUT", "absent", &with("if-match", &first), "3").await.due(412, "ConditionNotMet");
    target.object("DELETE", "key", &[], "").await.due(202, "");
    target.object("DELETE", "key", &[], "").await.due(404, "BlobNotFound");
    blocks(target).await;
}

/// Uploads in blocks, which wait under the name of the blob.
async fn blocks(target: &Target) {
    let block = async |id: &str, content: &'static str| {
        target.object("PUT", &format!("blob?comp=block&blockid={id}%3D%3D"), &[], content).await
    };
    let commit = async |ids: &[&str]| {
        let ids: String = ids.iter().map(|id| format!("<Uncommitted>{id}==</Uncommitted>")).collect();
        let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList>{ids}</BlockList>");
        target.object("PUT", "blob?comp=blocklist", &[], body).await
    };
    block("MQ", "one").await.due(201, "");
    block("Mg", "two").await.due(201, "");
    block("Mw", "three").await.due(201, "");
    target.object("GET", "blob", &[], "").await.due(404, "BlobNotFound");
    commit(&["NQ"]).await.due(400, "InvalidBlockList");
    // The order of the list counts, and what it does not name is gone.
    commit(&["Mg", "MQ"]).await.due(201, "");
    target.object("GET", "blob", &[], "").await.due(200, "").holds(b"twoone");
    commit(&["Mw"]).await.due(400, "InvalidBlockList");
    // A write throws away what waits.
    block("NA", "four").await.due(201, "");
    target.object("PUT", "blob", &[("x-ms-blob-type", "BlockBlob")], "whole").await.due(201, "");
    // Azurite keeps it.
    if target.is("azurite") {
        return;
    }
    commit(&["NA"]).await.due(400, "InvalidBlockList");
    target.object("GET", "blob", &[], "").await.due(200, "").holds(b"whole");
}

async fn google(target: &Target) {
    reads(target, &[], 200, "NoSuchKey").await;
    listings_of_objects(target).await;
    parts(target).await;
    const MATCH: &str = "x-goog-if-generation-match";
    let first =
        target.object("PUT", "key", &[(MATCH, "0")], "1").await.due(200, "").header("x-goog-generation");
    target.object("PUT", "key", &[(MATCH, "0")], "2").await.due(412, "PreconditionFailed");
    let second = target.object("PUT", "key", &[(MATCH, &first)], "1").await.due(200, "");
    let second = second.header("x-goog-generation");
    assert!(second.parse::<u64>().unwrap() > first.parse::<u64>().unwrap());
    target.object("PUT", "key", &[(MATCH, &first)], "3").await.due(412, "PreconditionFailed");
    target.object("PUT", "absent", &[(MATCH, &first)], "3").await.due(412, "PreconditionFailed");
    target.object("GET", "key", &[], "").await.due(200, "").has("x-goog-generation", &second);
    target.object("DELETE", "key", &[], "").await.due(204, "");
    target.object("DELETE", "key", &[], "").await.due(404, "NoSuchKey");
    target.object("PUT", "key", &[(MATCH, &second)], "4").await.due(412, "PreconditionFailed");
    let basic = [("authorization", "Basic dXNlcjpwYXNz")];
    target.object("GET", "key", &basic, "").await.due(401, "AuthenticationRequired");
    let bearer = [("authorization", "Bearer token")];
    target.object("GET", "key", &bearer, "").await.due(404, "NoSuchKey");
}

#[tokio::test]
async fn the_simulated_s3_does_what_the_reference_says() {
    s3(&simulated(Protocol::S3)).await;
}

#[tokio::test]
async fn the_simulated_azure_does_what_the_reference_says() {
    azure_blob(&simulated(Protocol::Azure)).await;
}

#[tokio::test]
async fn the_simulated_google_does_what_the_reference_says() {
    google(&simulated(Protocol::Gcs)).await;
}

#[tokio::test]
async fn moto_does_what_the_simulated_s3_does() {
    if let Some(moto) = emulated(Protocol::S3) {
        s3(&moto).await;
    }
}

#[tokio::test]
async fn azurite_does_what_the_simulated_azure_does() {
    if let Some(azurite) = emulated(Protocol::Azure) {
        azure_blob(&azurite).await;
    }
}
