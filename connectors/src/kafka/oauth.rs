//! Tokens for SASL OAUTHBEARER: where they come from, and how long they are good for.
//!
//! librdkafka asks for a token when a client is made and again when four fifths of its time are over. It is looked up
//! anew each time: in a file that something else rotates, or at an OIDC token endpoint, by client credentials.
//!
//! ```yaml
//! options: { security.protocol: SASL_SSL, sasl.mechanism: OAUTHBEARER, sasl.oauthbearer.token: "${file:/run/token}" }
//! options: { …, sasl.oauthbearer.method: oidc, sasl.oauthbearer.token.endpoint.url: "https://idp/token",
//!            sasl.oauthbearer.client.id: isobar, sasl.oauthbearer.client.secret: "${env:CLIENT_SECRET}" }
//! ```
//!
//! librdkafka's own OIDC client needs libcurl, which is not built in; its properties mean the same here. A token that
//! cannot be had is asked for again every ten seconds, and what is connected stays connected as long as the broker
//! lets it. Neither tokens nor secrets are in any message.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, mpsc},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::client::OAuthToken;
use reqwest::{Certificate, Client, Response, redirect};
use serde::Deserialize;
use tokio::runtime::Handle;
use url::{Host, Url};

use super::config::OptionProblem;
use crate::Error;

const TOKEN: &str = "sasl.oauthbearer.token";
const METHOD: &str = "sasl.oauthbearer.method";
const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";
const CLIENT_ID: &str = "sasl.oauthbearer.client.id";
const CLIENT_SECRET: &str = "sasl.oauthbearer.client.secret";
const SCOPE: &str = "sasl.oauthbearer.scope";
const CA: &str = "https.ca.location";
/// The options that are dealt with here; librdkafka does not get them.
const OWN: [&str; 7] = [TOKEN, METHOD, ENDPOINT, CLIENT_ID, CLIENT_SECRET, SCOPE, CA];

/// How long an endpoint may take to answer, connecting included.
const ENDPOINT_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer at most; tokens are a few KiB.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Characters that are repeated of what an endpoint says is wrong.
const REASON_CHARACTERS_MAX: usize = 200;
/// When a token is looked up again that does not say how long it is good for.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(300);

/// Looks a value up; the error says what is missing, without the value.
pub type Lookup = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Where tokens come from. Clones share it.
#[derive(Clone)]
pub struct TokenSource(Arc<Origin>);

enum Origin {
    /// Whatever is found there.
    Found(Lookup),
    Endpoint(Endpoint),
}

struct Endpoint {
    url: Url,
    client_id: Lookup,
    client_secret: Lookup,
    scope: Option<Lookup>,
    http: Client,
    runtime: Handle,
}

/// A token as it was issued.
struct Issued {
    token: String,
    /// Milliseconds since the Unix epoch, where whoever issued it told it apart from the token.
    expires_ms: Option<i64>,
}

impl TokenSource {
    /// Whether `option` says where tokens come from, and is no property of librdkafka's.
    pub fn is_option(option: &str) -> bool {
        OWN.contains(&option)
    }

    /// The source that `options` describe; `None` if there are none. Call it where a Tokio runtime is at hand.
    pub fn from_options(options: &BTreeMap<String, Lookup>) -> Result<Option<Self>, Error> {
        if options.is_empty() {
            return Ok(None);
        }
        let required = |name: &str| {
            options.get(name).cloned().ok_or_else(|| wrong(name, "is missing: the token endpoint needs it"))
        };
        if let Some(token) = options.get(TOKEN) {
            return Ok(Some(Self(Arc::new(Origin::Found(token.clone())))));
        }
        let url = look_up(ENDPOINT, &required(ENDPOINT)?)?;
        let http = client(options.get(CA).map(|path| look_up(CA, path)).transpose()?)?;
        let endpoint = Endpoint {
            url: endpoint_url(&url).map_err(|problem| wrong(ENDPOINT, &problem))?,
            client_id: required(CLIENT_ID)?,
            client_secret: required(CLIENT_SECRET)?,
            scope: options.get(SCOPE).cloned(),
            http,
            runtime: Handle::try_current().map_err(|error| wrong(ENDPOINT, &error.to_string()))?,
        };
        Ok(Some(Self(Arc::new(Origin::Endpoint(endpoint)))))
    }

    /// A token that is good for some time. Blocks while it is looked up.
    pub(super) fn token(&self) -> Result<OAuthToken, String> {
        let now_ms = now_ms();
        let issued = match &*self.0 {
            Origin::Found(lookup) => Issued { token: lookup()?.trim().to_owned(), expires_ms: None },
            Origin::Endpoint(endpoint) => endpoint.ask(now_ms)?,
        };
        issued.judge(now_ms)
    }
}

/// Says which kind it is, and nothing of it.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.0 {
            Origin::Found(_) => "TokenSource::Found",
            Origin::Endpoint(_) => "TokenSource::Endpoint",
        })
    }
}

/// What is wrong with the options about tokens, taken together. Values may be references.
pub(super) fn check_together(options: &BTreeMap<String, String>) -> Vec<OptionProblem> {
    let problem =
        |option: &str, problem: &str| OptionProblem { option: option.into(), problem: problem.into() };
    let has = |name: &str| options.contains_key(name);
    let mechanism = ["sasl.mechanism", "sasl.mechanisms"].into_iter().find(|name| has(name));
    // A reference may lead to it.
    let may_be = |value: &str| value.eq_ignore_ascii_case("OAUTHBEARER") || value.contains("${");
    let by_token = mechanism.filter(|name| may_be(&options[*name]));
    let mut problems = Vec::new();
    if let Some(mechanism) = by_token
        && !has(TOKEN)
        && !has(ENDPOINT)
    {
        let text = "is OAUTHBEARER, and nothing says where tokens come from; set `sasl.oauthbearer.token` to a file, or \
                    `sasl.oauthbearer.method: oidc` with endpoint and client";
        problems.push(problem(mechanism, text));
    }
    for own in OWN.into_iter().filter(|name| has(name)) {
        if by_token.is_none() {
            problems.push(problem(own, "is of no use without `sasl.mechanism: OAUTHBEARER`"));
        } else if own != TOKEN && has(TOKEN) {
            problems.push(problem(own, "is of no use beside `sasl.oauthbearer.token`; keep one of them"));
        }
    }
    if has(ENDPOINT) && by_token.is_some() {
        for missing in [METHOD, CLIENT_ID, CLIENT_SECRET].into_iter().filter(|name| !has(name)) {
            problems.push(problem(ENDPOINT, &format!("is not enough; set `{missing}` too")));
        }
    }
    problems
}

/// What is wrong with one of the options by itself.
pub(super) fn check_value(option: &str, value: &str) -> Option<String> {
    match option {
        METHOD if value != "oidc" => Some(format!("`{METHOD}` can only be `oidc`")),
        ENDPOINT => endpoint_url(value).err(),
        _ => None,
    }
}

/// A secret leaves for this address: nobody on the way may read it.
fn endpoint_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here => Ok(url),
        _ => Err("the client's secret is sent there; it must be an `https://` address".into()),
    }
}

fn client(authority: Option<String>) -> Result<Client, Error> {
    let mut client =
        Client::builder().timeout(ENDPOINT_PATIENCE).redirect(redirect::Policy::none()).referer(false);
    if let Some(path) = authority {
        let read = |error: std::io::Error| wrong(CA, &format!("{path} cannot be read: {error}"));
        let pem = std::fs::read(&path).map_err(read)?;
        let unfit = |error: reqwest::Error| wrong(CA, &format!("{path} holds no certificates: {error}"));
        for certificate in Certificate::from_pem_bundle(&pem).map_err(unfit)? {
            client = client.add_root_certificate(certificate);
        }
    }
    client.build().map_err(|error| wrong(ENDPOINT, &format!("no HTTP client can be made: {error}")))
}

fn wrong(option: &str, problem: &str) -> Error {
    Error::KafkaOption { option: option.into(), problem: problem.into() }
}

fn look_up(option: &str, lookup: &Lookup) -> Result<String, Error> {
    lookup().map_err(|problem| wrong(option, &problem))
}

impl Endpoint {
    /// Asks on the runtime's threads and waits for the answer: librdkafka calls back where nothing can be awaited.
    fn ask(&self, now_ms: i64) -> Result<Issued, String> {
        let id = (self.client_id)().map_err(|problem| format!("{CLIENT_ID}: {problem}"))?;
        let secret = (self.client_secret)().map_err(|problem| format!("{CLIENT_SECRET}: {problem}"))?;
        let scope = self.scope.as_ref().map(|scope| scope()).transpose()?;
        let mut form = vec![("grant_type", "client_credentials".to_owned())];
        form.extend(scope.map(|scope| ("scope", scope)));
        let request = self.http.post(self.url.clone()).basic_auth(id, Some(secret)).form(&form);
        let (answered, answer) = mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            let answer = async { read(request.send().await.map_err(|error| describe(&error))?).await };
            // Nobody waits any more when it took too long.
            let _ = answered.send(answer.await);
        });
        // The request ends by itself in that time; a little more only guards against waiting for ever.
        let answer = answer.recv_timeout(ENDPOINT_PATIENCE + Duration::from_secs(1));
        let answer = answer.unwrap_or_else(|_| Err("no answer".into()));
        let granted = answer.map_err(|problem| format!("the token endpoint {}: {problem}", self.url))?;
        let expires_ms = granted.expires_in.map(|seconds| now_ms.saturating_add(to_ms(seconds)));
        Ok(Issued { token: granted.access_token, expires_ms })
    }
}

/// A token endpoint's answer (RFC 6749, sections 5.1 and 5.2).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: Option<f64>,
}

#[derive(Deserialize, Default)]
struct Refused {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

async fn read(mut response: Response) -> Result<Granted, String> {
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("answers more than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        // The error's own text could repeat a part of the token.
        return serde_json::from_slice(&body).map_err(|_| "answers something else than a token".into());
    }
    let Refused { error, error_description } = serde_json::from_slice(&body).unwrap_or_default();
    let reason: String = format!("{error} {error_description}")
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(REASON_CHARACTERS_MAX)
        .collect();
    Err(format!("answers {}: {}", status.as_u16(), reason.trim()))
}

/// The whole chain: reqwest's own text ends at "error sending request".
fn describe(error: &reqwest::Error) -> String {
    let mut text = "does not answer".to_owned();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// The claims that matter here.
#[derive(Deserialize, Default)]
struct Claims {
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    sub: Option<String>,
}

/// The claims of a JSON Web Token, unverified: it is the broker that trusts them. `None` for a token of another kind.
fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (_header, payload) = (parts.next()?, parts.next()?);
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&payload).ok()
}

impl Issued {
    /// The token as librdkafka takes it, unless its time is over.
    fn judge(self, now_ms: i64) -> Result<OAuthToken, String> {
        // librdkafka refuses other characters too, and would repeat them.
        if self.token.is_empty() || !self.token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token is empty, or holds something else than visible ASCII characters".into());
        }
        let claims = claims(&self.token).unwrap_or_default();
        let by_claim = claims.exp.map(to_ms);
        let lifetime_ms = match (by_claim, self.expires_ms) {
            (Some(claim), Some(told)) => claim.min(told),
            (Some(expires_ms), None) | (None, Some(expires_ms)) => expires_ms,
            (None, None) => now_ms.saturating_add(UNKNOWN_LIFETIME.as_millis() as i64),
        };
        if lifetime_ms <= now_ms {
            let ago_s = now_ms.saturating_sub(lifetime_ms) / 1000;
            return Err(format!("the token expired {ago_s} s ago, and there is no newer one"));
        }
        let principal_name = claims.sub.filter(|name| !name.contains('\0'));
        let principal_name = principal_name.unwrap_or_else(|| "isobar".to_owned());
        Ok(OAuthToken { token: self.token, principal_name, lifetime_ms })
    }
}

/// Saturates, as casts of floats do.
fn to_ms(seconds: f64) -> i64 {
    (seconds * 1000.0) as i64
}

/// The time, in milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn jwt(claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(claims))
    }

    fn fixed(value: &str) -> Lookup {
        let value = value.to_owned();
        Arc::new(move || Ok(value.clone()))
    }

    fn found(token: &str) -> Result<OAuthToken, String> {
        let options = BTreeMap::from([(TOKEN.to_owned(), fixed(token))]);
        TokenSource::from_options(&options).unwrap().unwrap().token()
    }

    #[test]
    fn a_token_says_until_when_and_whose_it_is() {
        let expires_s = now_ms() / 1000 + 3600;
        let token =
            found(&format!("{}\n", jwt(&format!(r#"{{"sub":"isobar-eu","exp":{expires_s}}}"#)))).unwrap();
        assert_eq!((token.lifetime_ms, &*token.principal_name), (expires_s * 1000, "isobar-eu"));
        assert!(!token.token.ends_with('\n'));

        let before = now_ms();
        let opaque = found("an-opaque-token").unwrap();
        assert!((before + 300_000..=now_ms() + 300_000).contains(&opaque.lifetime_ms));
        assert_eq!(opaque.principal_name, "isobar");
    }

    #[test]
    fn a_token_that_is_over_or_none_is_an_error_that_does_not_show_it() {
        let over = jwt(&format!(r#"{{"sub":"x","exp":{}}}"#, now_ms() / 1000 - 60));
        for (token, problem) in
            [(over.as_str(), "expired 6"), ("", "empty"), ("two words", "visible"), ("é", "visible")]
        {
            let error = found(token).err().unwrap();
            assert!(error.contains(problem), "{error}");
            assert!(token.is_empty() || !error.contains(token), "{error}");
        }
    }

    #[test]
    fn a_rotated_token_is_seen() {
        let current = Arc::new(Mutex::new("first".to_owned()));
        let shared = current.clone();
        let lookup: Lookup = Arc::new(move || Ok(shared.lock().unwrap().clone()));
        let options = BTreeMap::from([(TOKEN.to_owned(), lookup)]);
        let source = TokenSource::from_options(&options).unwrap().unwrap();
        assert_eq!(source.token().unwrap().token, "first");
        *current.lock().unwrap() = "second".into();
        assert_eq!(source.token().unwrap().token, "second");
        assert!(!format!("{source:?}").contains("second"));
    }

    /// Answers every request with `answer`; the address, and what was asked.
    async fn endpoint(answer: String) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/token", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"&scope=kafka") {
                    if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                heard.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
                let _ = connection.write_all(answer.as_bytes()).await;
            }
        });
        (address, asked)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    async fn ask(url: &str) -> Result<OAuthToken, String> {
        let options = [(ENDPOINT, url), (CLIENT_ID, "me"), (CLIENT_SECRET, "hunter2"), (SCOPE, "kafka")];
        let options = options.into_iter().map(|(name, value)| (name.to_owned(), fixed(value))).collect();
        let source = TokenSource::from_options(&options).unwrap().unwrap();
        tokio::task::spawn_blocking(move || source.token()).await.unwrap()
    }

    #[tokio::test]
    async fn an_endpoint_is_asked_by_client_credentials() {
        let token = jwt(r#"{"sub":"service"}"#);
        let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":600}}"#);
        let (url, asked) = endpoint(answer("200 OK", &body)).await;
        let before = now_ms();
        let given = ask(&url).await.unwrap();
        assert_eq!((given.token, given.principal_name), (token, "service".to_owned()));
        assert!((before + 600_000..=now_ms() + 600_000).contains(&given.lifetime_ms));
        let asked = asked.lock().unwrap();
        let request = asked[0].to_ascii_lowercase();
        // base64 of me:hunter2
        assert!(
            request.starts_with("post /token ") && request.contains("authorization: basic bwu6ahvudgvymg==")
        );
        assert!(request.ends_with("grant_type=client_credentials&scope=kafka"), "{request}");
    }

    #[tokio::test]
    async fn what_an_endpoint_refuses_or_makes_up_is_said_without_the_secret() {
        let refused = r#"{"error":"invalid_client","error_description":"unknown\nclient"}"#;
        let endless = format!(r#"{{"access_token":"{}"}}"#, "x".repeat(ANSWER_BYTES_MAX));
        let cases = [
            (answer("401 Unauthorized", refused), "answers 401: invalid_client unknown client"),
            (answer("200 OK", r#"{"token":"abc-secret"}"#), "something else than a token"),
            (answer("302 Found", ""), "answers 302"),
            (answer("200 OK", &endless), "more than 65536 bytes"),
            (String::new(), "does not answer"),
        ];
        for (given, problem) in cases {
            let (url, _) = endpoint(given).await;
            let error = ask(&url).await.err().unwrap();
            assert!(error.contains(problem) && error.contains(&url), "{problem}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("secret"), "{error}");
        }
        let error = ask("http://127.0.0.1:1/token").await.err().unwrap();
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn a_secret_is_not_sent_where_others_can_read_it() {
        for url in
            ["https://idp.example/token", "http://localhost:8080/t", "http://127.0.0.1/t", "http://[::1]/t"]
        {
            assert_eq!(check_value(ENDPOINT, url), None, "{url}");
        }
        for url in ["http://idp.example/token", "http://10.0.0.1/", "ftp://idp.example", "idp.example/token"]
        {
            assert!(check_value(ENDPOINT, url).is_some(), "{url}");
        }
    }

    #[test]
    fn options_that_do_not_go_together_are_found() {
        let check = |options: &[(&str, &str)]| {
            let options = options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let problems = check_together(&options).into_iter();
            problems.map(|found| format!("{} {}", found.option, found.problem)).collect::<Vec<_>>().join("\n")
        };
        let mechanism = ("sasl.mechanism", "OAUTHBEARER");
        let complete =
            [mechanism, (METHOD, "oidc"), (ENDPOINT, "https://i"), (CLIENT_ID, "i"), (CLIENT_SECRET, "s")];
        assert_eq!(check(&[]), "");
        assert_eq!(check(&[("sasl.mechanism", "PLAIN")]), "");
        assert_eq!(check(&[mechanism, (TOKEN, "${file:t}")]), "");
        assert_eq!(check(&complete), "");
        assert!(check(&[mechanism]).contains("nothing says where tokens come from"));
        assert!(check(&[(TOKEN, "${file:t}")]).contains("of no use without"));
        assert!(check(&[mechanism, (TOKEN, "t"), (SCOPE, "s")]).contains("of no use beside"));
        for missing in 1..complete.len() {
            let mut some = complete.to_vec();
            let (name, _) = some.remove(missing);
            assert!(!check(&some).is_empty(), "without {name}");
        }
    }
}
