//! From a URL and options to a [`Cloud`].
//!
//! | URL | store | options |
//! |---|---|---|
//! | `s3://bucket/prefix` | Amazon S3 and what speaks its protocol | as named by `object_store`: `region`, `endpoint`, `access_key_id`, … |
//! | `az://container/prefix` | Azure Blob Storage | `account_name`, `account_key`, `endpoint`, … |
//! | `gs://bucket/prefix` | Google Cloud Storage | `service_account_path`, `service_account_key`, … |
//! | `file:///directory` | a local directory | none |
//! | `memory://name/prefix` | this process's memory, for tests | none |
//!
//! Options are given resolved; this module prints none of their values. Nothing is read from the environment, except
//! what platforms put there to tell a workload who it is ([`IDENTITY`]). An option that does not exist is an error
//! with a suggestion, never ignored. What isobar's promises depend on (time-outs, retries, how conditional writes are
//! made) is not the user's to set, and plain HTTP must be asked for.

use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use object_store::{
    ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::{HttpClient, HttpConnector},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    memory::InMemory,
    path::Path,
    prefix::PrefixStore,
};
use url::Url;

use super::{
    Cloud,
    guard::{GuardedDirectory, Root},
    named::NamedStore,
};
use crate::{Error, nearest::nearest};

/// Opens the cloud `name` at `url`. Makes no request; [`probe`](super::probe) does.
pub fn open(name: &str, url: &Url, options: &BTreeMap<String, String>) -> Result<Cloud, Error> {
    open_through(name, url, options, None)
}

/// Like [`open`], but the requests of `s3://`, `az://` and `gs://` clouds go through `connector` instead of the network:
/// for tests, which so run the real clients, with their signing and parsing, against a simulated store. The time-outs
/// reach the connector as [`ClientOptions`]; it has to keep them.
pub fn open_with(
    name: &str,
    url: &Url,
    options: &BTreeMap<String, String>,
    connector: Arc<dyn HttpConnector>,
) -> Result<Cloud, Error> {
    open_through(name, url, options, Some(SharedConnector(connector)))
}

/// The builders take a connector by value, and each cloud has three clients.
#[derive(Debug, Clone)]
struct SharedConnector(Arc<dyn HttpConnector>);

impl HttpConnector for SharedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        self.0.connect(options)
    }
}

fn open_through(
    name: &str,
    url: &Url,
    options: &BTreeMap<String, String>,
    connector: Option<SharedConnector>,
) -> Result<Cloud, Error> {
    let wrong = |problem| Error::CloudConfig { cloud: name.to_string(), problem };
    if let Some(OptionProblem { option, problem }) = check_options(url, options).into_iter().next() {
        return Err(wrong(format!("{option}: {problem}")));
    }
    let prefix = Path::from_url_path(url.path()).map_err(|error| wrong(format!("url: {error}")))?;
    let opened = Opened { options, prefix, connector };
    let Stores { control, data, reads, root } = match Kind::of(url).map_err(wrong)? {
        Kind::Amazon => opened.clients(|client| opened.amazon(url, client)),
        Kind::Azure => opened.clients(|client| opened.azure(url, client)),
        Kind::Google => opened.clients(|client| opened.google(url, client)),
        Kind::Directory => opened.directory(url),
        Kind::Memory => Ok(opened.memory(url)),
    }
    .map_err(wrong)?;
    Ok(Cloud {
        name: name.to_string(),
        url: displayed(url),
        control: Arc::new(NamedStore::new(name, control, Some(CONTROL_DEADLINE))),
        data: Arc::new(NamedStore::new(name, data, None)),
        reads: Arc::new(NamedStore::new(name, reads, None)),
        root,
    })
}

/// An option, or the URL itself, that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionProblem {
    /// The option's name, or `url`.
    pub option: String,
    /// What is wrong with it and what would be right. Holds no value that may be a secret.
    pub problem: String,
}

/// Every problem with a cloud's URL and option names. Values are looked at only where they are addresses.
pub fn check_options(url: &Url, options: &BTreeMap<String, String>) -> Vec<OptionProblem> {
    let problem = |option: &str, problem: String| OptionProblem { option: option.to_string(), problem };
    let kind = match Kind::of(url) {
        Ok(kind) => kind,
        Err(wrong) => return vec![problem("url", wrong)],
    };
    let mut problems = Vec::new();
    if let Some(wrong) = kind.url_problem(url) {
        problems.push(problem("url", wrong));
    }
    for (option, value) in options {
        if let Some(wrong) = kind.option_problem(option) {
            problems.push(problem(option, wrong));
        } else if value.starts_with("http://") && !allows_http(options) {
            let wrong = "is plain http, which anyone on the way can read; if that is intended, add allow_http: \"true\"";
            problems.push(problem(option, wrong.to_string()));
        }
    }
    problems
}

fn allows_http(options: &BTreeMap<String, String>) -> bool {
    let names = ["allow_http", "aws_allow_http", "azure_allow_http", "google_allow_http"];
    names.iter().any(|name| options.get(*name).is_some_and(|value| value.eq_ignore_ascii_case("true")))
}

/// The URL as people may see it.
fn displayed(url: &Url) -> String {
    let mut url = url.clone();
    // Fails for URLs that can hold neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Amazon,
    Azure,
    Google,
    Directory,
    Memory,
}

impl Kind {
    fn of(url: &Url) -> Result<Self, String> {
        match url.scheme() {
            "s3" => Ok(Kind::Amazon),
            "az" => Ok(Kind::Azure),
            "gs" => Ok(Kind::Google),
            "file" => Ok(Kind::Directory),
            "memory" => Ok(Kind::Memory),
            other => Err(format!(
                "url: {other}:// is not a cloud; use s3://bucket/prefix, az://container/prefix, gs://bucket/prefix, \
                 file:///directory or memory://name"
            )),
        }
    }

    fn url_problem(self, url: &Url) -> Option<String> {
        let host = url.host_str().unwrap_or_default();
        if url.password().is_some() || !url.username().is_empty() {
            return Some("holds credentials; give them as options".to_string());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Some("has a query or fragment, which means nothing here".to_string());
        }
        match self {
            Kind::Directory if !host.is_empty() => {
                Some(format!("names the host {host}; an absolute directory is written file:///directory"))
            }
            Kind::Directory if url.path() == "/" => {
                Some("names the root directory; add a directory".to_string())
            }
            Kind::Amazon | Kind::Azure | Kind::Google | Kind::Memory if host.is_empty() => {
                Some(format!("names no bucket or container: {}://NAME/prefix", url.scheme()))
            }
            _ => None,
        }
    }

    fn option_problem(self, option: &str) -> Option<String> {
        let option = option.to_ascii_lowercase();
        let (known, owned, names) = match self {
            Kind::Amazon => {
                let key = AmazonS3ConfigKey::from_str(&option).ok();
                let owned = match key {
                    Some(AmazonS3ConfigKey::Bucket) => Some("the bucket is in the url"),
                    Some(AmazonS3ConfigKey::ConditionalPut) => Some("isobar needs conditional writes"),
                    Some(AmazonS3ConfigKey::Client(key)) => owned_by_isobar(key),
                    _ => None,
                };
                (key.is_some(), owned, &AMAZON_OPTIONS[..])
            }
            Kind::Azure => {
                let key = AzureConfigKey::from_str(&option).ok();
                let owned = match key {
                    Some(AzureConfigKey::ContainerName) => Some("the container is in the url"),
                    Some(AzureConfigKey::Client(key)) => owned_by_isobar(key),
                    _ => None,
                };
                (key.is_some(), owned, &AZURE_OPTIONS[..])
            }
            Kind::Google => {
                let key = GoogleConfigKey::from_str(&option).ok();
                let owned = match key {
                    Some(GoogleConfigKey::Bucket) => Some("the bucket is in the url"),
                    Some(GoogleConfigKey::Client(key)) => owned_by_isobar(key),
                    _ => None,
                };
                (key.is_some(), owned, &GOOGLE_OPTIONS[..])
            }
            Kind::Directory | Kind::Memory => {
                return Some("this kind of cloud has no options".to_string());
            }
        };
        if !known {
            let similar = nearest(&option, names.iter().copied());
            let suggestion = if similar.is_empty() { names.to_vec() } else { similar };
            let verb = if suggestion.len() <= 3 { "did you mean" } else { "known are" };
            return Some(format!("is no option of {}://; {verb} {}", self.scheme(), suggestion.join(", ")));
        }
        owned.map(|reason| format!("is not yours to set: {reason}"))
    }

    fn scheme(self) -> &'static str {
        match self {
            Kind::Amazon => "s3",
            Kind::Azure => "az",
            Kind::Google => "gs",
            Kind::Directory => "file",
            Kind::Memory => "memory",
        }
    }
}

fn owned_by_isobar(key: ClientConfigKey) -> Option<&'static str> {
    matches!(key, ClientConfigKey::Timeout | ClientConfigKey::ConnectTimeout)
        .then_some("the commit protocol has time-outs of its own")
}

/// The options worth suggesting, by their short names.
const AMAZON_OPTIONS: [&str; 16] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "endpoint",
    "virtual_hosted_style_request",
    "role_arn",
    "role_session_name",
    "web_identity_token_file",
    "skip_signature",
    "server_side_encryption",
    "sse_kms_key_id",
    "sse_bucket_key_enabled",
    "checksum_algorithm",
    "allow_http",
    "proxy_url",
];
const AZURE_OPTIONS: [&str; 14] = [
    "account_name",
    "account_key",
    "client_id",
    "client_secret",
    "tenant_id",
    "authority_host",
    "sas_token",
    "bearer_token",
    "endpoint",
    "federated_token_file",
    "use_emulator",
    "use_azure_cli",
    "allow_http",
    "proxy_url",
];
const GOOGLE_OPTIONS: [&str; 7] = [
    "service_account_path",
    "service_account_key",
    "application_credentials",
    "base_url",
    "skip_signature",
    "allow_http",
    "proxy_url",
];

/// Environment variables in which platforms tell a workload who it is (no secrets, but where to get some), and the
/// option each stands for. An option given explicitly wins.
const IDENTITY: [(&str, Kind, &str); 14] = [
    ("AWS_WEB_IDENTITY_TOKEN_FILE", Kind::Amazon, "web_identity_token_file"),
    ("AWS_ROLE_ARN", Kind::Amazon, "role_arn"),
    ("AWS_ROLE_SESSION_NAME", Kind::Amazon, "role_session_name"),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Kind::Amazon, "container_credentials_relative_uri"),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Kind::Amazon, "container_credentials_full_uri"),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", Kind::Amazon, "container_authorization_token_file"),
    ("AWS_REGION", Kind::Amazon, "region"),
    ("AWS_DEFAULT_REGION", Kind::Amazon, "default_region"),
    ("AZURE_FEDERATED_TOKEN_FILE", Kind::Azure, "federated_token_file"),
    ("AZURE_CLIENT_ID", Kind::Azure, "client_id"),
    ("AZURE_TENANT_ID", Kind::Azure, "tenant_id"),
    ("AZURE_AUTHORITY_HOST", Kind::Azure, "authority_host"),
    ("IDENTITY_ENDPOINT", Kind::Azure, "identity_endpoint"),
    ("GOOGLE_APPLICATION_CREDENTIALS", Kind::Google, "application_credentials"),
];

/// How long a request of the control client may take, all in all.
const CONTROL_DEADLINE: Duration = Duration::from_secs(5);

/// How one of the clients of a cloud behaves.
#[derive(Debug, Clone, Copy)]
struct Client {
    /// For a request and all of its answer.
    timeout: &'static str,
    connect_timeout: &'static str,
    retries_max: usize,
    retry_timeout: Duration,
}

/// A lost answer is the protocol's business: no retries.
const CONTROL: Client =
    Client { timeout: "3s", connect_timeout: "2s", retries_max: 0, retry_timeout: Duration::from_secs(3) };

const DATA: Client =
    Client { timeout: "30s", connect_timeout: "5s", retries_max: 10, retry_timeout: Duration::from_secs(20) };

/// Who reads for a query looks for progress and asks another cloud. A body may take as long as it needs: the time-out is there
/// because options cannot say that there is none.
const READS: Client =
    Client { timeout: "24h", connect_timeout: "2s", retries_max: 0, retry_timeout: Duration::from_secs(3) };

impl Client {
    fn retries(self) -> RetryConfig {
        RetryConfig {
            max_retries: self.retries_max,
            retry_timeout: self.retry_timeout,
            ..RetryConfig::default()
        }
    }

    fn options(self) -> [(ClientConfigKey, &'static str); 2] {
        [(ClientConfigKey::Timeout, self.timeout), (ClientConfigKey::ConnectTimeout, self.connect_timeout)]
    }
}

/// The clients of a cloud, and its directory if it is one.
struct Stores {
    control: Arc<dyn ObjectStore>,
    data: Arc<dyn ObjectStore>,
    reads: Arc<dyn ObjectStore>,
    root: Option<Arc<Root>>,
}

struct Opened<'a> {
    options: &'a BTreeMap<String, String>,
    prefix: Path,
    connector: Option<SharedConnector>,
}

impl Opened<'_> {
    fn clients<S: ObjectStore>(
        &self,
        build: impl Fn(Client) -> Result<S, object_store::Error>,
    ) -> Result<Stores, String> {
        let client = |client| -> Result<Arc<dyn ObjectStore>, String> {
            let store = build(client).map_err(|error| self.without_secrets(&error.to_string()))?;
            Ok(Arc::new(PrefixStore::new(store, self.prefix.clone())))
        };
        Ok(Stores { control: client(CONTROL)?, data: client(DATA)?, reads: client(READS)?, root: None })
    }

    fn amazon(&self, url: &Url, client: Client) -> Result<impl ObjectStore, object_store::Error> {
        let mut builder = AmazonS3Builder::new()
            .with_url(url.as_str())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(client.retries());
        for (option, value) in self.settings(Kind::Amazon) {
            builder = builder.with_config(option.parse()?, value);
        }
        for (option, value) in client.options() {
            builder = builder.with_config(AmazonS3ConfigKey::Client(option), value);
        }
        if let Some(connector) = self.connector.clone() {
            builder = builder.with_http_connector(connector);
        }
        builder.build()
    }

    fn azure(&self, url: &Url, client: Client) -> Result<impl ObjectStore, object_store::Error> {
        let mut builder = MicrosoftAzureBuilder::new().with_url(url.as_str()).with_retry(client.retries());
        for (option, value) in self.settings(Kind::Azure) {
            builder = builder.with_config(option.parse()?, value);
        }
        for (option, value) in client.options() {
            builder = builder.with_config(AzureConfigKey::Client(option), value);
        }
        if let Some(connector) = self.connector.clone() {
            builder = builder.with_http_connector(connector);
        }
        builder.build()
    }

    fn google(&self, url: &Url, client: Client) -> Result<impl ObjectStore, object_store::Error> {
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_url(url.as_str())
            .with_retry(client.retries())
            // The builder's default allows it.
            .with_config(GoogleConfigKey::Client(ClientConfigKey::AllowHttp), "false");
        for (option, value) in self.settings(Kind::Google) {
            builder = builder.with_config(option.parse()?, value);
        }
        for (option, value) in client.options() {
            builder = builder.with_config(GoogleConfigKey::Client(option), value);
        }
        if let Some(connector) = self.connector.clone() {
            builder = builder.with_http_connector(connector);
        }
        builder.build()
    }

    fn directory(&self, url: &Url) -> Result<Stores, String> {
        let path = url.to_file_path().map_err(|()| "url: not the path of a directory".to_string())?;
        let root = Arc::new(Root::new(path));
        let store = || -> Arc<dyn ObjectStore> {
            let directory = GuardedDirectory::new(Arc::clone(&root));
            Arc::new(PrefixStore::new(directory, self.prefix.clone()))
        };
        let (control, data) = (store(), store());
        Ok(Stores { control, reads: data.clone(), data, root: Some(root) })
    }

    fn memory(&self, url: &Url) -> Stores {
        /// Every store in memory, by URL, for as long as the process lives: opening a URL again finds the same data.
        static STORES: LazyLock<Mutex<BTreeMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        let host = url.host_str().unwrap_or_default().to_string();
        let store = Arc::clone(stores.entry(host).or_default());
        let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(store, self.prefix.clone()));
        Stores { control: Arc::clone(&store), data: Arc::clone(&store), reads: store, root: None }
    }

    /// The user's options, and what the platform says where the user says nothing.
    fn settings(&self, kind: Kind) -> Vec<(String, String)> {
        let mut settings: Vec<(String, String)> = IDENTITY
            .iter()
            .filter(|(_, of, _)| *of == kind)
            .filter_map(|(variable, _, option)| Some((option.to_string(), std::env::var(variable).ok()?)))
            .collect();
        // Later ones win.
        settings
            .extend(self.options.iter().map(|(option, value)| (option.to_ascii_lowercase(), value.clone())));
        settings
    }

    /// A builder's complaint without the values it may quote.
    fn without_secrets(&self, complaint: &str) -> String {
        let harmless = |option: &str| {
            ["region", "endpoint", "allow_http", "account_name"].iter().any(|name| option.ends_with(name))
        };
        let secrets = self.options.iter().filter(|(option, value)| !harmless(option) && value.len() > 3);
        secrets.fold(complaint.to_string(), |text, (_, value)| text.replace(value.as_str(), "***"))
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::clouds::{conformance, temporary::TemporaryDirectory};

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(option, value)| (option.to_string(), value.to_string())).collect()
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[tokio::test]
    async fn memory_conforms_and_is_the_same_for_everyone_who_opens_it() {
        let cloud = open("mem", &url("memory://conformance/a/b"), &options(&[])).unwrap();
        conformance::run(&cloud, &Path::from("suite")).await;
        cloud.data.put(&Path::from("x"), "y".into()).await.unwrap();
        let again = open("other", &url("memory://conformance/a"), &options(&[])).unwrap();
        assert_eq!(again.control.get(&Path::from("b/x")).await.unwrap().bytes().await.unwrap(), "y");
        let elsewhere = open("other", &url("memory://elsewhere/a"), &options(&[])).unwrap();
        assert!(elsewhere.control.get(&Path::from("b/x")).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_directory_conforms_once_it_is_created() {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("with space/cloud");
        let cloud = open("dir", &Url::from_directory_path(&path).unwrap(), &options(&[])).unwrap();
        assert!(cloud.data.put(&Path::from("x"), "y".into()).await.is_err());
        assert!(!path.exists());
        cloud.create_root().await.unwrap();
        cloud.create_root().await.unwrap();
        conformance::run(&cloud, &Path::from("suite")).await;
        assert_eq!(cloud.control.to_string(), "dir");
    }

    #[test]
    fn suggested_options_exist() {
        for (kind, names) in [
            (Kind::Amazon, &AMAZON_OPTIONS[..]),
            (Kind::Azure, &AZURE_OPTIONS[..]),
            (Kind::Google, &GOOGLE_OPTIONS[..]),
        ] {
            for name in names {
                assert_eq!(kind.option_problem(name), None, "{kind:?} {name}");
            }
        }
        for (variable, kind, option) in IDENTITY {
            assert_eq!(kind.option_problem(option), None, "{variable}");
        }
    }

    #[test]
    fn real_clouds_open_with_their_usual_options() {
        let s3 = options(&[("region", "eu-west-1"), ("access_key_id", "k"), ("secret_access_key", "s")]);
        let cloud = open("aws", &url("s3://bucket/some/prefix"), &s3).unwrap();
        assert_eq!(
            (cloud.url.as_str(), cloud.control.to_string().as_str()),
            ("s3://bucket/some/prefix", "aws")
        );
        let az = options(&[("account_name", "acc"), ("account_key", "c2VjcmV0")]);
        open("azure", &url("az://container/prefix"), &az).unwrap();
        open("gcp", &url("gs://bucket/prefix"), &options(&[("skip_signature", "true")])).unwrap();
    }

    #[test]
    fn every_problem_is_named_with_a_way_out() {
        let found = check_options(
            &url("s3://bucket/p"),
            &options(&[
                ("acces_key_id", "k"),
                ("timeout", "1s"),
                ("bucket", "b"),
                ("endpoint", "http://localhost:9000"),
                ("colour", "red"),
            ]),
        );
        let texts: BTreeMap<&str, &str> =
            found.iter().map(|found| (found.option.as_str(), found.problem.as_str())).collect();
        assert_eq!(texts.len(), 5);
        assert!(texts["acces_key_id"].contains("did you mean access_key_id"), "{texts:?}");
        assert!(texts["timeout"].contains("not yours to set"), "{texts:?}");
        assert!(texts["bucket"].contains("in the url"), "{texts:?}");
        assert!(texts["endpoint"].contains("allow_http"), "{texts:?}");
        assert!(texts["colour"].contains("known are access_key_id"), "{texts:?}");
        let account = check_options(&url("az://c/p"), &options(&[("account", "x")]));
        assert!(account[0].problem.contains("did you mean account_key, account_name"), "{account:?}");
    }

    #[test]
    fn urls_that_mean_nothing_are_refused() {
        for (text, part) in [
            ("https://bucket.s3.amazonaws.com/p", "use s3://"),
            ("s3:///p", "names no bucket"),
            ("file://host/p", "file:///directory"),
            ("file:///", "root directory"),
            ("s3://key:secret@bucket/p", "credentials"),
            ("gs://bucket/p?x=y", "query"),
        ] {
            let error = open("c", &url(text), &options(&[])).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_bad_value_is_not_repeated() {
        let key = r#"{"hunter2": "#;
        let error = open("gcp", &url("gs://b/p"), &options(&[("service_account_key", key)])).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        let error =
            open("az", &url("az://c/p"), &options(&[("account_name", "a"), ("account_key", "hunter2!")]));
        if let Err(error) = error {
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_cloud_out_of_reach_is_given_up_within_seconds() {
        let unreachable = options(&[
            ("endpoint", "http://127.0.0.1:1"),
            ("allow_http", "true"),
            ("access_key_id", "k"),
            ("secret_access_key", "s"),
        ]);
        let cloud = open("aws", &url("s3://bucket/p"), &unreachable).unwrap();
        let started = std::time::Instant::now();
        let found = crate::clouds::probe(&*cloud.control, &Path::from("p")).await;
        assert!(matches!(found, crate::clouds::Probe::Unavailable(_)), "{found:?}");
        assert!(started.elapsed() < CONTROL_DEADLINE);
    }
}
