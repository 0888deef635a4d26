//! Checks the signatures of requests, so that the clients' signing is under test as well.
//!
//! - Signature Version 4: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>
//! - Shared Key: <https://learn.microsoft.com/en-us/rest/api/storageservices/authorize-with-shared-key>
//!
//! Dates are not compared with a clock: the simulated one has nothing to do with the one that clients sign with.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::message::{Refusal, Request, decoded};

/// The credentials that the simulated S3 accepts. No secret.
pub(super) const AMAZON_KEY_ID: &str = "SIMULATEDKEYID";
pub(super) const AMAZON_SECRET: &str = "simulated-secret";
pub(super) const AMAZON_REGION: &str = "eu-central-1";

/// The account of the simulated Azure, and its key in base64. No secret.
pub(super) const AZURE_ACCOUNT: &str = "simulated";
pub(super) const AZURE_KEY: &str = "c2ltdWxhdGVkLWtleQ==";
/// The version of the protocol that answers name.
pub(super) const AZURE_VERSION: &str = "2023-11-03";

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const UNRESERVED_AND_SLASH: &AsciiSet = &UNRESERVED.remove(b'/');

fn forbidden(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, code, message)
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK_BYTES: usize = 64;
    let mut block = [0; BLOCK_BYTES];
    match key.len() <= BLOCK_BYTES {
        true => block[..key.len()].copy_from_slice(key),
        false => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

/// Refuses a request that the owner of the simulated keys has not signed.
pub(super) fn check_amazon(request: &Request) -> Result<(), Refusal> {
    let Some(authorization) = request.header("authorization") else {
        return Err(forbidden("AccessDenied", "anonymous access is forbidden"));
    };
    let malformed = || {
        let message = "The authorization header is malformed";
        Refusal::new(StatusCode::BAD_REQUEST, "AuthorizationHeaderMalformed", message)
    };
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(malformed)?;
    let fields: BTreeMap<&str, &str> =
        fields.split(',').filter_map(|field| field.trim().split_once('=')).collect();
    let field = |name: &str| fields.get(name).copied().ok_or_else(malformed);
    let (key_id, scope) = field("Credential")?.split_once('/').ok_or_else(malformed)?;
    if key_id != AMAZON_KEY_ID {
        return Err(forbidden("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist."));
    }
    let date = scope.split('/').next().unwrap_or_default();
    let time = request.header("x-amz-date").unwrap_or_default();
    if scope != format!("{date}/{AMAZON_REGION}/s3/aws4_request") || !time.starts_with(date) {
        return Err(malformed());
    }
    check_payload(request)?;
    let signed = field("SignedHeaders")?;
    let canonical = canonical_amazon(request, signed)?;
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let steps = [date, AMAZON_REGION, "s3", "aws4_request"];
    let secret = format!("AWS4{AMAZON_SECRET}").into_bytes();
    let key = steps.iter().fold(secret, |key, step| hmac_sha256(&key, step.as_bytes()).to_vec());
    if field("Signature")? != hex::encode(hmac_sha256(&key, text.as_bytes())) {
        let message = "The request signature we calculated does not match the signature you provided.";
        return Err(forbidden("SignatureDoesNotMatch", message));
    }
    Ok(())
}

fn check_payload(request: &Request) -> Result<(), Refusal> {
    match request.header("x-amz-content-sha256") {
        None => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, "InvalidRequest", "x-amz-content-sha256 is missing"))
        }
        Some("UNSIGNED-PAYLOAD") => Ok(()),
        Some(streaming) if streaming.starts_with("STREAMING-") => {
            Err(Refusal::not_simulated("a streaming signature"))
        }
        Some(digest) if digest == hex::encode(Sha256::digest(&request.body)) => Ok(()),
        Some(_) => {
            let message = "The provided x-amz-content-sha256 header does not match what was computed.";
            Err(Refusal::new(StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch", message))
        }
    }
}

fn canonical_amazon(request: &Request, signed: &str) -> Result<String, Refusal> {
    let names: Vec<&str> = signed.split(';').collect();
    let is_unsigned = |name: &str| name.starts_with("x-amz-") && !names.contains(&name);
    if let Some(name) = request.headers.keys().find(|name| is_unsigned(name.as_str())) {
        return Err(forbidden("AccessDenied", format!("the header {name} is not signed")));
    }
    let encoded = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    let mut query: Vec<String> =
        request.query.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
    query.sort();
    let headers: String = names
        .iter()
        .map(|name| format!("{name}:{}\n", request.header(name).unwrap_or_default().trim()))
        .collect();
    let path = decoded(&request.path)?;
    Ok(format!(
        "{}\n{}\n{}\n{headers}\n{signed}\n{}",
        request.method,
        utf8_percent_encode(&path, UNRESERVED_AND_SLASH),
        query.join("&"),
        request.header("x-amz-content-sha256").unwrap_or_default(),
    ))
}

/// Refuses a request that the owner of the simulated account has not signed.
pub(super) fn check_azure(request: &Request) -> Result<(), Refusal> {
    let Some(authorization) = request.header("authorization") else {
        let message = "Server failed to authenticate the request.";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "NoAuthenticationInformation", message));
    };
    let key = BASE64_STANDARD.decode(AZURE_KEY).unwrap_or_default();
    let signature = BASE64_STANDARD.encode(hmac_sha256(&key, canonical_azure(request).as_bytes()));
    if authorization != format!("SharedKey {AZURE_ACCOUNT}:{signature}") {
        let message = "Server failed to authenticate the request. Make sure the value of Authorization header is \
                       formed correctly including the signature.";
        return Err(forbidden("AuthenticationFailed", message));
    }
    Ok(())
}

fn canonical_azure(request: &Request) -> String {
    let header = |name: &str| request.header(name).unwrap_or_default();
    let length = Some(header("content-length")).filter(|length| *length != "0").unwrap_or_default();
    // The date counts only where there is no x-ms-date.
    let date = if request.header("x-ms-date").is_some() { "" } else { header("date") };
    let standard = [
        request.method.as_str(),
        header("content-encoding"),
        header("content-language"),
        length,
        header("content-md5"),
        header("content-type"),
        date,
        header("if-modified-since"),
        header("if-match"),
        header("if-none-match"),
        header("if-unmodified-since"),
        header("range"),
    ];
    let own: BTreeMap<&str, &str> = request
        .headers
        .keys()
        .map(|name| name.as_str())
        .filter(|name| name.starts_with("x-ms-"))
        .map(|name| (name, header(name)))
        .collect();
    let own: String = own.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let mut query: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in &request.query {
        query.entry(name.to_lowercase()).or_default().push(value);
    }
    let query: String = query
        .iter_mut()
        .map(|(name, values)| {
            values.sort_unstable();
            format!("\n{name}:{}", values.join(","))
        })
        .collect();
    format!("{}\n{own}/{AZURE_ACCOUNT}{}{query}", standard.join("\n"), request.path)
}
