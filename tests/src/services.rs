//! The real services of the live tests, as `tests/services` started them.
//!
//! The live tests run when `ISOBAR_LIVE=1`. Addresses come from the environment, in the variables that
//! `tests/services/services env` prints; Google's store is this crate's simulator, in the test process unless
//! `ISOBAR_GCS_ENDPOINT` names another.

use std::env;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use tokio::process::Command;

use crate::gcs::GcsSimulator;
use crate::program::{Output, run};
use crate::proxy::Proxy;

/// A bucket, container or the simulator's bucket.
const BUCKET: &str = "isobar";

/// Kafka and three stores, each store behind a proxy.
#[derive(Debug)]
pub struct Services {
    /// Kafka's address.
    pub brokers: String,
    /// S3.
    pub aws: Store,
    /// Azure.
    pub azure: Store,
    /// Google.
    pub gcp: Store,
    _simulator: Option<GcsSimulator>,
}

/// One real store.
#[derive(Debug)]
pub struct Store {
    /// Takes the store away from isobar, not from the tests.
    pub proxy: Proxy,
    /// Where the tests reach it, `host:port`.
    address: String,
    scheme: &'static str,
}

impl Store {
    async fn at(address: &str, scheme: &'static str) -> Self {
        Self { proxy: Proxy::start(address).await, address: address.to_owned(), scheme }
    }

    /// The URL of a prefix in this store.
    pub fn url(&self, prefix: &str) -> String {
        let bucket = match self.scheme {
            "s3" => variable("ISOBAR_S3_BUCKET"),
            "az" => variable("ISOBAR_AZURE_CONTAINER"),
            _ => BUCKET.to_owned(),
        };
        format!("{}://{bucket}/{prefix}", self.scheme)
    }

    /// The options of a cloud for isobar, as YAML in one line: through the proxy, secrets by reference.
    pub fn options_yaml(&self) -> String {
        let address = self.proxy.address();
        match self.scheme {
            "s3" => format!(
                "{{ endpoint: \"http://{address}\", allow_http: true, region: {}, access_key_id: \"${{env:ISOBAR_S3_ACCESS_KEY_ID}}\", \
                 secret_access_key: \"${{env:ISOBAR_S3_SECRET_ACCESS_KEY}}\" }}",
                variable("ISOBAR_S3_REGION")
            ),
            "az" => format!(
                "{{ endpoint: \"http://{address}/{0}\", allow_http: true, account_name: {0}, account_key: \"${{env:ISOBAR_AZURE_KEY}}\" }}",
                variable("ISOBAR_AZURE_ACCOUNT")
            ),
            _ => "{ service_account_key: \"${file:gcs.json}\", allow_http: true }".to_owned(),
        }
    }

    /// What Python's `deltalake` needs to reach the store, not through the proxy.
    pub fn python_options(&self) -> Json {
        let address = &self.address;
        match self.scheme {
            "s3" => json!({
                "AWS_ENDPOINT_URL": format!("http://{address}"), "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": variable("ISOBAR_S3_REGION"), "AWS_ACCESS_KEY_ID": variable("ISOBAR_S3_ACCESS_KEY_ID"),
                "AWS_SECRET_ACCESS_KEY": variable("ISOBAR_S3_SECRET_ACCESS_KEY"),
            }),
            "az" => json!({
                "azure_storage_account_name": variable("ISOBAR_AZURE_ACCOUNT"),
                "azure_storage_account_key": variable("ISOBAR_AZURE_KEY"),
                "azure_endpoint": format!("http://{address}/{}", variable("ISOBAR_AZURE_ACCOUNT")), "allow_http": "true",
            }),
            _ => {
                json!({ "google_service_account_key": GcsSimulator::service_account_key(address), "allow_http": "true" })
            }
        }
    }

    /// The options with which the tests open the store themselves, not through the proxy.
    pub fn options(&self) -> std::collections::BTreeMap<String, String> {
        let address = &self.address;
        let pairs = match self.scheme {
            "s3" => vec![
                ("endpoint", format!("http://{address}")),
                ("region", variable("ISOBAR_S3_REGION")),
                ("access_key_id", variable("ISOBAR_S3_ACCESS_KEY_ID")),
                ("secret_access_key", variable("ISOBAR_S3_SECRET_ACCESS_KEY")),
            ],
            "az" => vec![
                ("endpoint", format!("http://{address}/{}", variable("ISOBAR_AZURE_ACCOUNT"))),
                ("account_name", variable("ISOBAR_AZURE_ACCOUNT")),
                ("account_key", variable("ISOBAR_AZURE_KEY")),
            ],
            _ => return GcsSimulator::options(address),
        };
        let allow = ("allow_http", "true".to_owned());
        pairs.into_iter().chain([allow]).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The values of variables that every start of the services sets; `None` with a notice if a part that they belong to was
/// skipped, so that they are empty.
///
/// # Panics
/// If one is not set.
pub fn required<const N: usize>(names: [&str; N]) -> Option<[String; N]> {
    let values = names.map(variable);
    if let Some(empty) = values.iter().position(String::is_empty) {
        eprintln!("skipped, because {} is empty: the services were started without it", names[empty]);
        return None;
    }
    Some(values)
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see tests/services/services env"))
}

/// `host:port` of an `http://host:port/…`.
fn host_of(url: &str) -> &str {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.split('/').next().unwrap_or(rest)
}

impl Services {
    /// The services, or `None` with a notice when the live tests are switched off.
    ///
    /// # Panics
    /// If they are switched on, but not there.
    pub async fn connect(test: &str) -> Option<Self> {
        if env::var("ISOBAR_LIVE").as_deref() != Ok("1") {
            eprintln!("{test}: skipped, because ISOBAR_LIVE is not 1");
            return None;
        }
        let named = env::var("ISOBAR_GCS_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
        let simulator = match named {
            Some(_) => None,
            None => Some(GcsSimulator::start("127.0.0.1:0", &[BUCKET]).await.expect("the simulator starts")),
        };
        let gcs = named.or_else(|| simulator.as_ref().map(GcsSimulator::address)).unwrap_or_default();
        Some(Self {
            brokers: variable("ISOBAR_KAFKA_BROKERS"),
            aws: Store::at(host_of(&variable("ISOBAR_S3_ENDPOINT")), "s3").await,
            azure: Store::at(host_of(&variable("ISOBAR_AZURE_ENDPOINT")), "az").await,
            gcp: Store::at(host_of(&gcs), "gs").await,
            _simulator: simulator,
        })
    }

    /// The stores with the names that the topologies of the tests give them.
    pub fn stores(&self) -> [(&'static str, &Store); 3] {
        [("aws", &self.aws), ("azure", &self.azure), ("gcp", &self.gcp)]
    }

    /// The `clouds` of a spec whose data lie under `prefix`, and in `folder` the file that the spec refers to.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn clouds_yaml(&self, prefix: &str, folder: &Path) -> String {
        let key = GcsSimulator::service_account_key(&self.gcp.proxy.address());
        std::fs::write(folder.join("gcs.json"), key).expect("the key's file can be written");
        let cloud = |(name, store): (&str, &Store)| {
            format!("  {name}: {{ url: \"{}\", options: {} }}\n", store.url(prefix), store.options_yaml())
        };
        self.stores().map(cloud).concat()
    }
}

/// Asks the independent reader (`ISOBAR_ORACLE`, or `tests/oracle`), which shares no code with isobar.
///
/// # Panics
/// If it cannot be started.
pub async fn oracle(arguments: &[&str]) -> Output {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("oracle/oracle");
    let oracle = env::var_os("ISOBAR_ORACLE").map_or_else(beside, PathBuf::from);
    run(Command::new(oracle).args(arguments)).await
}

/// Version, files and rows of a table in a folder, in all and by partition, as the independent reader counts them.
///
/// # Panics
/// If it does not read the table.
pub async fn counts(table: &Path) -> Json {
    let answer = oracle(&["counts", table.to_str().expect("paths of tests are UTF-8")]).await;
    answer.assert(0, &[]);
    let mut counts: Json = serde_json::from_str(&answer.stdout).expect("the oracle prints JSON");
    // Where it lies: copies of a table count the same.
    counts.as_object_mut().expect("the counts are an object").remove("table");
    counts
}
