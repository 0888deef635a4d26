//! How to reach a registry: what the user says, checked once.

use std::fmt;
use std::time::Duration;

use reqwest::{Certificate, Identity, redirect};
use url::Url;

use crate::Error;

/// How long to wait, and how often to ask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How long connecting to a server may take.
    pub(super) connect: Duration,
    /// How long a request may take, with its answer.
    pub(super) request: Duration,
    /// How often each server is asked at most.
    pub(super) rounds_max: usize,
    /// First and longest pause between two rounds.
    pub(super) backoff: (Duration, Duration),
    /// How long to wait before an id that is unknown is asked for again.
    pub(super) second_look: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(10),
            rounds_max: 4,
            backoff: (Duration::from_millis(200), Duration::from_secs(2)),
            second_look: Duration::from_millis(250),
        }
    }
}

/// The servers of one registry, and who is asking. Secrets resolved; none is shown by `Debug`.
#[derive(Clone, Default)]
pub struct RegistryConfig {
    /// Base URLs of the servers of *one* registry, in the order of preference: whichever answers is asked first the
    /// next time. With the path of Confluent's API, if it is not at the root. A user and a password in a URL are
    /// credentials like those below.
    pub urls: Vec<String>,
    /// Who is asking. Sent to every server.
    pub credentials: Credentials,
    /// Certificates of the authorities that signed the servers' certificates, in PEM; then no others are trusted.
    /// `None`: those that the system trusts.
    pub authorities_pem: Option<Vec<u8>>,
    /// The client's certificate, with those between it and its authority, and its key, in PEM, in one text.
    pub identity_pem: Option<Vec<u8>>,
}

/// What proves who is asking.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// HTTP Basic: also the key and secret of a hosted registry.
    Basic {
        /// The user, or the key.
        user: String,
        /// The password, or the secret.
        password: String,
    },
    /// A token that stays valid as long as the client lives.
    Bearer {
        /// The token.
        token: String,
    },
}

impl RegistryConfig {
    /// The defaults: no credentials, the system's authorities.
    pub fn new(urls: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { urls: urls.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The servers without credentials in their URLs, and the credentials from wherever they are.
    pub(super) fn resolve(&self) -> Result<(Vec<Url>, Credentials), Error> {
        let mut credentials = self.credentials.clone();
        let mut servers = Vec::new();
        for (number, text) in self.urls.iter().enumerate() {
            // The text may hold a password, so it is not shown.
            let which = if self.urls.len() == 1 { "its URL".into() } else { format!("URL {}", number + 1) };
            let mut url = Url::parse(text).map_err(|error| wrong(format!("{which} is none: {error}")))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(wrong(format!(
                    "{which} begins with {}://, not with http:// or https://",
                    url.scheme()
                )));
            }
            if url.query().is_some() || url.fragment().is_some() {
                return Err(wrong(format!(
                    "{which} has a query or a fragment; give only the path of the API"
                )));
            }
            if let Some(own) = take_user(&mut url)? {
                if credentials != Credentials::None && credentials != own {
                    return Err(wrong(format!(
                        "{which} holds other credentials than are given elsewhere; give them once"
                    )));
                }
                credentials = own;
            }
            servers.push(url);
        }
        if servers.is_empty() {
            return Err(wrong("it has no URL".to_owned()));
        }
        if let Credentials::Bearer { token } = &credentials
            && (token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(wrong(
                "its token is empty or holds a blank, a line break or another character that no token has"
                    .to_owned(),
            ));
        }
        Ok((servers, credentials))
    }

    /// An HTTP client that trusts whom it should.
    pub(super) fn client(&self, patience: Patience) -> Result<reqwest::Client, Error> {
        let mut client = reqwest::Client::builder()
            .connect_timeout(patience.connect)
            .timeout(patience.request)
            // Credentials go to the servers that were named, and nowhere else.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("isobar/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &self.authorities_pem {
            let bad = |error| wrong(format!("the certificates of its authorities: {}", chain_of(error)));
            let authorities = Certificate::from_pem_bundle(pem).map_err(bad)?;
            if authorities.is_empty() {
                return Err(wrong("the file of its authorities holds no certificate in PEM".to_owned()));
            }
            client = client.tls_built_in_root_certs(false);
            for authority in authorities {
                client = client.add_root_certificate(authority);
            }
        }
        if let Some(pem) = &self.identity_pem {
            let bad = |error| {
                wrong(format!(
                    "the client's certificate: {}; it must be the certificate and its unencrypted key, both in PEM",
                    chain_of(error)
                ))
            };
            client = client.identity(Identity::from_pem(pem).map_err(bad)?);
        }
        client.build().map_err(|error| wrong(format!("its HTTP client: {}", chain_of(error))))
    }
}

/// Takes user and password out of a URL.
fn take_user(url: &mut Url) -> Result<Option<Credentials>, Error> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let plain = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded.map(String::from).map_err(|_| wrong("user or password in its URL is not UTF-8".to_owned()))
    };
    let credentials = Credentials::Basic {
        user: plain(url.username())?,
        password: plain(url.password().unwrap_or_default())?,
    };
    let taken = url.set_username("").and_then(|()| url.set_password(None));
    taken.map_err(|()| wrong("its URL has a user but no host".to_owned()))?;
    Ok(Some(credentials))
}

fn wrong(problem: String) -> Error {
    Error::RegistryConfig { problem }
}

/// The client's own account of an error, down to its cause, without the URL, which the caller names.
pub(super) fn chain_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Credentials {
    /// `text` from outside without what it may repeat of these.
    pub(super) fn redacted(&self, text: &str) -> String {
        let secret = match self {
            Self::None => return text.to_owned(),
            Self::Basic { password, .. } => password,
            Self::Bearer { token } => token,
        };
        if secret.is_empty() { text.to_owned() } else { text.replace(secret.as_str(), "***") }
    }

    /// `request` with these.
    pub(super) fn sign(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self {
            Self::None => request,
            Self::Basic { user, password } => request.basic_auth(user, Some(password)),
            Self::Bearer { token } => request.bearer_auth(token),
        }
    }
}

/// Shows no secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic(***)",
            Self::Bearer { .. } => "Bearer(***)",
        })
    }
}

/// Shows no secret, and a URL only as far as it is surely none.
impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers =
            self.resolve().map(|(servers, _)| servers.iter().map(Url::to_string).collect::<Vec<_>>());
        f.debug_struct("RegistryConfig")
            .field("urls", &servers.unwrap_or_default())
            .field("credentials", &self.credentials)
            .field("authorities_pem", &self.authorities_pem.is_some())
            .field("identity_pem", &self.identity_pem.is_some())
            .finish()
    }
}
