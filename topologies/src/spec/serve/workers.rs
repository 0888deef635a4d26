//! `serve.workers`: processes that run parts of queries.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::spec::Text;
use crate::spec::check::Place;
use crate::spec::raw::OptionValue;
use crate::spec::resolve::Resolver;
use crate::spec::units::ByteSize;

const WORKERS_MAX: usize = 64;
const SHARE_BYTES_MIN: u64 = 1 << 10;
const SHARE_BYTES_MAX: u64 = 1 << 40;

/// Processes that run parts of queries: `isobar serve TOPOLOGY.yaml --worker`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeWorkers {
    /// Where they listen: `http://HOST:PORT`, or `https://HOST:PORT` with `ca`; at most 64. A server divides its queries among
    /// those that answer; a worker speaks to no other where there are any. Default: none.
    #[serde(default)]
    #[schemars(extend("examples" = [["http://10.0.0.1:8182", "http://10.0.0.2:8182"]]))]
    pub urls: Vec<String>,

    /// What all of them, and those who ask them, share, by reference: `"${env:NAME}"` or `"${file:path}"`; at least 32 visible
    /// ASCII characters. Required.
    #[schemars(extend("examples" = ["${env:ISOBAR_WORKERS_SECRET}"]))]
    pub secret: OptionValue,

    /// A file with the authorities of the workers' certificates, PEM, relative to the spec. Whoever asks a worker shows the
    /// certificate of `serve.tls`, if there is one. Default: none, so that plans and rows are on the wire as they are.
    #[serde(default)]
    #[schemars(extend("examples" = ["./workers-ca.pem"]))]
    pub ca: Option<String>,

    /// Bytes of files for which one more worker is asked, from 1KiB to 1TiB. What is less is read by one. Default: 64MiB.
    #[serde(default)]
    pub share: Option<ByteSize>,
}

/// Checked: processes that run parts of queries.
#[derive(Debug, Clone)]
pub struct WorkersSpec {
    /// Where they listen, each once.
    pub urls: Vec<Url>,
    /// What is shared with them.
    pub secret: Text,
    /// Authorities of their certificates; absolute.
    pub ca: Option<PathBuf>,
    /// Bytes of files for which one more worker is asked.
    pub share_bytes: u64,
}

impl WorkersSpec {
    /// Bytes of files for which one more worker is asked, where nothing is said.
    pub const SHARE_BYTES: u64 = 64 << 20;
}

/// The place that `url` names, if a worker can listen there.
///
/// # Errors
/// What is wrong with it. It may hold a password, so that it is not repeated.
pub fn worker_url(url: &str) -> Result<Url, &'static str> {
    let parsed = Url::parse(url).map_err(|_| "this is no URL: write `http://HOST:PORT`")?;
    let is_plain = parsed.username().is_empty()
        && parsed.password().is_none()
        && parsed.path() == "/"
        && parsed.query().is_none()
        && parsed.fragment().is_none();
    match parsed.scheme() {
        "http" | "https" if parsed.has_host() && is_plain => Ok(parsed),
        "http" | "https" => Err("a worker has a host and a port and nothing else: write `http://HOST:PORT`"),
        _ => Err("a worker is asked by `http` or `https`"),
    }
}

impl Resolver<'_> {
    /// `serve.workers`, checked.
    pub(super) fn workers(&mut self) -> Option<WorkersSpec> {
        let raw = self.typed::<Option<ServeWorkers>>("/serve/workers").flatten()?;
        let mut urls = Vec::with_capacity(raw.urls.len());
        for (at, url) in raw.urls.iter().enumerate() {
            let pointer = format!("/serve/workers/urls/{at}");
            match worker_url(url) {
                Ok(url) if urls.contains(&url) => {
                    self.report(pointer, Place::Value, "this worker is there twice", None);
                }
                Ok(url) if url.scheme() == "https" && raw.ca.is_none() => {
                    let message = "nothing says which certificates workers may have: `ca` is missing";
                    let suggestion = Some("add `ca: ./workers-ca.pem`".to_owned());
                    self.report(pointer, Place::Value, message, suggestion);
                }
                Ok(url) => urls.push(url),
                Err(why) => self.report(pointer, Place::Value, why, None),
            }
        }
        if raw.urls.len() > WORKERS_MAX {
            let message = format!("there are {} workers; there can be {WORKERS_MAX}", raw.urls.len());
            self.report("/serve/workers/urls", Place::Value, message, None);
        }
        if let Some(share) = raw.share {
            self.check_bytes("/serve/workers/share", "share", share, SHARE_BYTES_MIN, SHARE_BYTES_MAX);
        }
        let secret = self.option_text("/serve/workers/secret", "secret", &raw.secret.0)?;
        Some(WorkersSpec {
            urls,
            secret,
            ca: raw.ca.map(|file| self.folder.join(file)),
            share_bytes: raw.share.map_or(WorkersSpec::SHARE_BYTES, |share| share.0),
        })
    }
}
