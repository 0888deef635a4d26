//! Gateways: files that say which servers a gateway stands before, and how it chooses among them.
//!
//! Such a file is YAML and goes the way of a spec: a tree with places, held against its JSON Schema, resolved. All that is wrong with it is
//! reported at once, in its own lines. See `docs/gateway.md`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::check::{Finding, Place};
use super::document::DocumentText;
use super::encoding::read_bounded;
use super::problem::SpecErrors;
use super::raw::CLOUD_NAME_PATTERN;
use super::schema;
use super::serve::{ServeTls, TlsSpec};
use super::units::{ByteSize, HumanDuration, Percent, beyond};
use super::yaml::{self, Document};

#[cfg(test)]
mod tests;

const BACKENDS_MAX: usize = 32;
const WEIGHT: RangeInclusive<i64> = 1..=1_000;
const ATTEMPTS: RangeInclusive<i64> = 1..=10;
/// What no price is above.
const PRICE_MAX: f64 = 1_000_000.0;
const TIME_MIN: Duration = Duration::from_millis(1);
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
const PROBE_MIN: Duration = Duration::from_millis(50);
const PROBE_MAX: Duration = Duration::from_secs(3600);
const BODY_BYTES_MAX: u64 = 64 << 20;

/// A file for `isobar gateway`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewayFile {
    /// The servers, and how requests are given to them. Required.
    pub gateway: Gateway,
}

/// The servers that a gateway stands before, and how it chooses among them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Servers: each an `isobar serve`, all of the same topology. One at least, and at most 32. Required.
    pub backends: Vec<GatewayBackend>,

    /// Which of those that work are asked first. Default: `nearest`.
    #[serde(default)]
    pub prefer: Preference,

    /// The longest that a request takes, from its beginning to the last byte of its answer, up to 24h. Default: 60s.
    #[serde(default)]
    pub time: Option<HumanDuration>,

    /// Bytes of a body that are kept, so that it can be sent again, up to 64MiB; a larger one is sent once. Default: 1MiB.
    #[serde(default)]
    pub body: Option<ByteSize>,

    /// Backends that one request is sent to, at most, from 1 to 10. Default: 3.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<i64>,

    /// Requests that are sent again, as a share of all in the last ten seconds; `0%` for none. Default: 20%.
    #[serde(default)]
    pub retries: Option<Percent>,

    /// Requests that are sent to a second backend because the first one is slow, as a share of all in the last ten seconds;
    /// `0%` for none. Default: 5%.
    #[serde(default)]
    pub hedges: Option<Percent>,

    /// How often each backend is asked whether it is ready, from 50ms to 1h. Default: 1s.
    #[serde(default)]
    pub probe: Option<HumanDuration>,

    /// How long a backend that came back gets less than its share, up to 1h. Default: 10s.
    #[serde(default)]
    pub slow_start: Option<HumanDuration>,

    /// TLS of the gateway's own listener. Default: none, so that tokens and rows are on the wire as they are.
    #[serde(default)]
    pub tls: Option<ServeTls>,

    /// A file with the authorities of the backends' certificates, PEM, relative to this file. Required for `https`.
    #[serde(default)]
    #[schemars(extend("examples" = ["./authorities.pem"]))]
    pub ca: Option<String>,

    /// What the gateway shows to backends that ask for a certificate. It must not be the certificate of a caller: whoever shows no
    /// token would be that caller. Default: nothing.
    #[serde(default)]
    pub identity: Option<GatewayIdentity>,
}

/// A certificate that is shown to backends.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewayIdentity {
    /// A file with the certificate and those between it and its authority, PEM, relative to this file. Required.
    #[schemars(extend("examples" = ["./gateway.pem"]))]
    pub certificate: String,

    /// A file with its private key, PEM, relative to this file. Required.
    #[schemars(extend("examples" = ["./gateway-key.pem"]))]
    pub private_key: String,
}

/// A server behind a gateway.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewayBackend {
    /// Where it listens: `http://HOST:PORT`, or `https://HOST:PORT` with `ca`. Required.
    #[schemars(extend("examples" = ["https://aws.example.com:8181"]))]
    pub url: String,

    /// The cloud that it is in. After a failure another cloud is asked first. Required.
    #[schemars(regex(pattern = CLOUD_NAME_PATTERN), extend("examples" = ["aws"]))]
    pub cloud: String,

    /// How much it can take compared with the others, from 1 to 1,000. Default: 1.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: Option<i64>,

    /// What a million requests cost there, from 0 to 1000000, in a currency that is the same for all. Required for
    /// `prefer: cheapest`.
    #[serde(default)]
    pub price: Option<f64>,

    /// Whether nothing new is sent to it; what runs there ends. Default: false.
    #[serde(default)]
    pub drain: bool,
}

/// Which backends are asked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Preference {
    /// Those that answer soonest, which is measured.
    #[default]
    Nearest,
    /// The first one of the file.
    Order,
    /// Those with the lowest `price`.
    Cheapest,
}

/// A checked gateway.
#[derive(Debug, Clone)]
pub struct GatewaySpec {
    /// The servers; at least one, each once.
    pub backends: Vec<BackendSpec>,
    /// Which of those that work are asked first.
    pub prefer: Preference,
    /// The longest that a request takes.
    pub time: Duration,
    /// Bytes of a body that are kept.
    pub body_bytes: usize,
    /// Backends that one request is sent to, at most.
    pub attempts: usize,
    /// Requests sent again, as a share of all.
    pub retries: Percent,
    /// Requests sent to a second backend, as a share of all.
    pub hedges: Percent,
    /// How often backends are asked whether they are ready.
    pub probe: Duration,
    /// How long a backend that came back gets less than its share.
    pub slow_start: Duration,
    /// TLS of the listener.
    pub tls: Option<TlsSpec>,
    /// Authorities of the backends' certificates; absolute. There are some if a backend is asked by `https`.
    pub ca: Option<PathBuf>,
    /// What is shown to backends.
    pub identity: Option<IdentitySpec>,
}

/// A certificate that is shown to servers. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySpec {
    /// The certificate and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
}

/// A server behind a gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendSpec {
    /// Where: scheme, host and port, nothing else.
    pub url: Url,
    /// The cloud that it is in.
    pub cloud: String,
    /// How much it can take compared with the others; at least 1.
    pub weight: u32,
    /// What a million requests cost; not negative.
    pub price: Option<f64>,
    /// Whether nothing new is sent to it.
    pub is_draining: bool,
}

impl BackendSpec {
    /// Its address as text, `host:port`.
    pub fn address(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        format!("{host}:{}", self.url.port_or_known_default().unwrap_or_default())
    }
}

/// Reads and checks the gateway at `path`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<GatewaySpec, SpecErrors> {
    let file = path.display().to_string();
    let bytes = read_bounded(path, yaml::TEXT_BYTES_MAX as u64).map_err(|problem| {
        let help = "`isobar schema gateway` prints what a gateway may hold, with an example";
        SpecErrors::of_file(&file, format!("the gateway cannot be read: {problem}"), Some(help.into()))
    })?;
    let text =
        String::from_utf8(bytes).map_err(|_| SpecErrors::of_file(&file, "the gateway is not UTF-8", None))?;
    let path = std::path::absolute(path).map_err(|error| {
        SpecErrors::of_file(&file, format!("the folder of the gateway is not known: {error}"), None)
    })?;
    check_text(&text, &file, path.parent().unwrap_or(Path::new("/")))
}

/// Checks the text of a gateway. `file` is its name in messages; relative files start at `folder`, which must be absolute.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_text(text: &str, file: &str, folder: &Path) -> Result<GatewaySpec, SpecErrors> {
    let document = DocumentText { text, file, document: Document::Gateway, data: &[] };
    let GatewayFile { gateway } = document.parse(&schema::gateway_json_schema())?;
    let mut resolver = Resolver { folder, findings: Vec::new() };
    let spec = resolver.gateway(gateway);
    if resolver.findings.is_empty() { Ok(spec) } else { Err(document.refused(resolver.findings)) }
}

struct Resolver<'a> {
    folder: &'a Path,
    findings: Vec<Finding>,
}

impl Resolver<'_> {
    fn report(&mut self, pointer: &str, place: Place, message: impl Into<String>, help: Option<&str>) {
        self.findings.push(Finding {
            pointer: pointer.to_owned(),
            place,
            message: message.into(),
            suggestion: help.map(str::to_owned),
        });
    }

    fn gateway(&mut self, raw: Gateway) -> GatewaySpec {
        let percent = |text: &str| text.parse::<Percent>().expect("the defaults are shares");
        let body = raw.body.unwrap_or(ByteSize(1 << 20));
        if body.0 > BODY_BYTES_MAX {
            let message = format!("`body` is {body}; it can be at most {}", ByteSize(BODY_BYTES_MAX));
            self.report("/gateway/body", Place::Value, message, None);
        }
        let attempts = raw.attempts.unwrap_or(3);
        self.check_count("/gateway/attempts", "attempts", attempts, ATTEMPTS);
        if raw.identity.is_some() && raw.ca.is_none() {
            let message =
                "the certificate is shown to nobody: `ca` is missing, so that no backend is asked by `https`";
            self.report("/gateway/identity", Place::Key, message, Some("add `ca: ./authorities.pem`"));
        }
        GatewaySpec {
            backends: self.backends(&raw),
            prefer: raw.prefer,
            time: self.time("time", raw.time, Duration::from_secs(60), TIME_MIN, TIME_MAX),
            body_bytes: usize::try_from(body.0).unwrap_or(usize::MAX),
            attempts: usize::try_from(attempts).unwrap_or(1),
            retries: raw.retries.unwrap_or_else(|| percent("20%")),
            hedges: raw.hedges.unwrap_or_else(|| percent("5%")),
            probe: self.time("probe", raw.probe, Duration::from_secs(1), PROBE_MIN, PROBE_MAX),
            slow_start: self.time(
                "slow_start",
                raw.slow_start,
                Duration::from_secs(10),
                Duration::ZERO,
                PROBE_MAX,
            ),
            tls: raw.tls.map(|tls| self.tls(tls)),
            ca: raw.ca.map(|file| self.folder.join(file)),
            identity: raw.identity.map(|identity| IdentitySpec {
                certificate: self.folder.join(identity.certificate),
                private_key: self.folder.join(identity.private_key),
            }),
        }
    }

    fn tls(&self, ServeTls { certificate, private_key, client_ca }: ServeTls) -> TlsSpec {
        TlsSpec {
            certificate: self.folder.join(certificate),
            private_key: self.folder.join(private_key),
            client_ca: client_ca.map(|file| self.folder.join(file)),
        }
    }

    fn backends(&mut self, raw: &Gateway) -> Vec<BackendSpec> {
        let count = raw.backends.len();
        if count == 0 {
            let help = Some("add one: `- { url: \"http://HOST:PORT\", cloud: aws }`");
            self.report("/gateway/backends", Place::Key, "there is no backend", help);
        }
        if count > BACKENDS_MAX {
            let message = format!("there are {count} backends; there can be {BACKENDS_MAX}");
            self.report("/gateway/backends", Place::Key, message, None);
        }
        let mut backends: Vec<BackendSpec> = Vec::with_capacity(count);
        for (at, backend) in raw.backends.iter().enumerate() {
            let pointer = format!("/gateway/backends/{at}");
            self.check_backend(&pointer, backend, raw.prefer);
            let Some(url) = self.url(&format!("{pointer}/url"), &backend.url, raw.ca.is_some()) else {
                continue;
            };
            if backends.iter().any(|other| other.url == url) {
                self.report(
                    &format!("{pointer}/url"),
                    Place::Value,
                    "this backend is there twice",
                    Some("give one of them more `weight`"),
                );
                continue;
            }
            backends.push(BackendSpec {
                url,
                cloud: backend.cloud.clone(),
                weight: backend.weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or(1),
                price: backend.price,
                is_draining: backend.drain,
            });
        }
        backends
    }

    fn check_backend(&mut self, pointer: &str, backend: &GatewayBackend, prefer: Preference) {
        if let Some(weight) = backend.weight {
            self.check_count(&format!("{pointer}/weight"), "weight", weight, WEIGHT);
        }
        match backend.price {
            Some(price) if !(0.0..=PRICE_MAX).contains(&price) => {
                let message = format!("`price` is {price}; it can be from 0 to {PRICE_MAX}");
                self.report(&format!("{pointer}/price"), Place::Value, message, None);
            }
            None if prefer == Preference::Cheapest => {
                let message = "`prefer` is `cheapest`, and this backend has no price";
                let help = Some("add `price`, that of a million requests, or prefer `nearest` or `order`");
                self.report(pointer, Place::Value, message, help);
            }
            _ => {}
        }
    }

    fn url(&mut self, pointer: &str, written: &str, has_ca: bool) -> Option<Url> {
        match backend_url(written) {
            Ok(url) if url.scheme() == "https" && !has_ca => {
                let message = "nothing says which certificates backends may have: `ca` is missing";
                self.report(pointer, Place::Value, message, Some("add `ca: ./authorities.pem`"));
                None
            }
            Ok(url) => Some(url),
            Err(why) => {
                self.report(pointer, Place::Value, why, None);
                None
            }
        }
    }

    fn check_count(&mut self, pointer: &str, name: &str, count: i64, allowed: RangeInclusive<i64>) {
        if let Some(message) = beyond(name, count, allowed) {
            self.report(pointer, Place::Value, message, None);
        }
    }

    fn time(
        &mut self,
        name: &str,
        written: Option<HumanDuration>,
        default: Duration,
        least: Duration,
        most: Duration,
    ) -> Duration {
        let time = written.map_or(default, |time| time.0);
        let allowed = HumanDuration(least)..=HumanDuration(most);
        if let Some(message) = beyond(name, HumanDuration(time), allowed) {
            self.report(&format!("/gateway/{name}"), Place::Value, message, None);
        }
        time
    }
}

/// The place that `url` names, if a server can listen there.
///
/// # Errors
/// What is wrong with it. It may hold a password, so that it is not repeated.
fn backend_url(url: &str) -> Result<Url, &'static str> {
    super::serve::worker_url(url).map_err(|_| {
        "a backend is named by scheme, host and port and nothing else: write `http://HOST:PORT` or `https://HOST:PORT`"
    })
}
