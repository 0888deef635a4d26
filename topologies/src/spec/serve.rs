//! `serve`: who may ask `isobar serve` for what, and how much.

mod inference;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

pub use self::inference::{
    InferenceSpec, MissingEntities, ModelLimits, ServeInference, ServeModelLimits, ServeVectorLog,
    VectorLogSpec,
};
pub use self::workers::{ServeWorkers, WorkersSpec, worker_url};
use super::certificate::CertificateName;
use super::check::Place;
use super::raw::{Entries, OptionValue, TOPIC_PATTERN, TOPOLOGY_NAME_PATTERN};
use super::resolve::Resolver;
use super::suggest::did_you_mean;
use super::units::{ByteSize, HumanDuration};
use super::yaml::pointer_to;
use super::{DatasetSpec, Text};
use crate::commit::model::is_model_name;
use crate::commit::quarantine_of;

const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
const REFRESH_MAX: Duration = Duration::from_secs(3600);
const RUNNING_MAX: u64 = 1000;
const WAITING_MAX: u64 = 100_000;
const MEMORY_BYTES_MIN: u64 = 1 << 20;
const SQL_BYTES_MAX: u64 = 1 << 20;
const BYTES_MAX: u64 = 1 << 50;
const AUDIT_PATIENCE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
/// Fewest and most records on their way: a question may have two.
const AUDIT_BUFFER: RangeInclusive<u64> = 2..=100_000;

/// What `isobar serve` gives to whom. The rest of the topology is the same for all commands.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Serve {
    /// Programs and people that show a token or a certificate, by name. Names: lower-case letters, digits, `_` and `-`, at most
    /// 64. Without any, and without `jwt`, everybody who reaches the server reads everything, and it listens on loopback addresses only.
    /// Default: none.
    #[schemars(extend("propertyNames" = json!({ "pattern": TOPOLOGY_NAME_PATTERN })))]
    pub callers: Entries<ServeCaller>,

    /// Tokens that somebody else issues: signed claims (JWT), as OpenID Connect has them. Default: none.
    pub jwt: Option<ServeJwt>,

    /// What callers may read, by the name of the role. Names as those of callers. Default: none.
    #[schemars(extend("propertyNames" = json!({ "pattern": TOPOLOGY_NAME_PATTERN })))]
    pub roles: Entries<ServeRole>,

    /// What one query may use, and how many there may be, where a role says nothing else. Default: that of each limit.
    pub limits: ServeLimitsOfQueries,

    /// How old the last look for newer versions of a table may be when a query does not say, up to 1h. Shorter means fresher
    /// answers and more requests to the cloud. Default: 1s.
    pub refresh: Option<HumanDuration>,

    /// What hashed columns are keyed with, by reference: `"${env:NAME}"` or `"${file:path}"`; at least 16 characters. All
    /// servers with the same key show the same hashes. Default: another one at every start.
    #[schemars(extend("examples" = ["${env:ISOBAR_HASH_KEY}"]))]
    pub hash_key: Option<OptionValue>,

    /// TLS of every listener. Default: none, so that tokens and rows are on the wire as they are.
    pub tls: Option<ServeTls>,

    /// Where it is written who asks what. Default: nowhere.
    pub audit: Option<ServeAudit>,
    /// Processes that run parts of queries. Default: none.
    pub workers: Option<ServeWorkers>,

    /// What requests of the inference protocol may cost. Default: that of each limit.
    pub inference: ServeInference,
}

/// Where it is written who asks what.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeAudit {
    /// A topic of the cluster in `kafka`. The topology in `topologies/query_audit` makes a dataset of it. Required.
    #[schemars(regex(pattern = TOPIC_PATTERN), extend("examples" = ["query_audit"]))]
    pub topic: String,

    /// Whether a question is refused while it cannot be written who asks it: it is answered only after Kafka has stored that.
    /// Without, nobody waits, and what cannot be written is counted. Default: false.
    #[serde(default)]
    pub required: bool,

    /// How long a question waits for that, up to 1h. Default: 5s.
    #[serde(default)]
    pub patience: Option<HumanDuration>,

    /// Bytes of the text of a query that are written, up to 1MiB; the rest is left out. Default: 4KiB.
    #[serde(default)]
    pub sql: Option<ByteSize>,

    /// Whether values of parameters are written, no more bytes of them than of the text. Default: false.
    #[serde(default)]
    pub parameters: bool,

    /// Records on their way to Kafka, from 2 to 100,000; there are two for each question if they are `required`. Default: 1,000.
    #[serde(default)]
    #[schemars(range(min = 2, max = 100000))]
    pub buffer: Option<u64>,
}

/// Somebody who shows a token or a certificate.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeCaller {
    /// The token, by reference: `"${env:NAME}"` or `"${file:path}"`; at least 16 visible ASCII characters. It is what stands
    /// behind `Authorization: Bearer`, and the password of protocols that have one. Required, unless there is `certificate`.
    #[serde(default)]
    #[schemars(extend("examples" = ["${env:DASHBOARDS_TOKEN}"]))]
    pub token: Option<OptionValue>,

    /// A name in its certificate, which one of the authorities in `client_ca` signed: `CN=…` of its subject, or an alternative
    /// name, `URI:…`, `DNS:…` or `email:…`. Whoever shows it needs no token. Required, unless there is `token`.
    #[serde(default)]
    #[schemars(extend("examples" = ["CN=dashboards", "URI:spiffe://example.com/dashboards"]))]
    pub certificate: Option<String>,

    /// What it may read. Default: everything.
    #[serde(default)]
    pub role: Option<String>,
}

/// Tokens that somebody else issues.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeJwt {
    /// Who issues them, as the claim `iss` has it. Required.
    #[schemars(extend("examples" = ["https://login.example.com/"]))]
    pub issuer: String,

    /// Whom they are for, as the claim `aud` has it. Required.
    #[schemars(extend("examples" = ["isobar"]))]
    pub audience: String,

    /// A file with the public keys of the issuer, relative to the spec: a JSON Web Key Set, for RS256 and ES256. It is read
    /// again when it has changed. Required, unless there is `secret`.
    #[serde(default)]
    #[schemars(extend("examples" = ["./jwks.json"]))]
    pub jwks: Option<String>,

    /// What issuer and server share, for HS256, by reference: `"${env:NAME}"` or `"${file:path}"`; at least 32 characters.
    /// Required, unless there is `jwks`.
    #[serde(default)]
    pub secret: Option<OptionValue>,

    /// The claim that names the role; a text, or a list with one role among others. Where the topology has no `roles`, it is not
    /// looked at. Default: `role`.
    #[serde(default)]
    pub role_claim: Option<String>,
}

/// What a caller may read.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeRole {
    /// Whether it reads every dataset and every quarantine, whole, but for those in `datasets`. Default: false.
    pub all: bool,

    /// What it may read of datasets, by name; a quarantine is `<dataset>.quarantine`, and holds rejected records as they came.
    /// What is not here does not exist for it, unless there is `all`. Default: none.
    pub datasets: Entries<ServeDataset>,

    /// Models that it may ask, by name, with the inference protocol and in queries with `predict(…)`. Default: every model if there
    /// is `all`, otherwise none.
    #[schemars(extend("examples" = [["flight_delay"]]))]
    pub models: Option<Vec<String>>,

    /// What one query of its callers may use, narrower or wider than `limits` of `serve`, which stand in for what is not said here.
    /// With `running` or `waiting`, its callers together have places of their own, beside those of everybody else. Default: the
    /// general limits and places.
    pub limits: Option<ServeLimitsOfQueries>,
}

/// What a role may read of a dataset.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeDataset {
    /// A condition, in SQL, on the rows that are seen; one that is null does not hold. Default: all.
    #[schemars(extend("examples" = ["carrier = 'UA'"]))]
    pub rows: Option<String>,

    /// Columns that are null. Default: none.
    pub hide: Vec<String>,

    /// Columns whose values are shown as hashes, keyed with `hash_key`: equal values stay equal, so that they can be joined and
    /// counted. Default: none.
    pub hash: Vec<String>,
}

/// What one query may use, and how many there may be.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeLimitsOfQueries {
    /// Longest time from the beginning of a query to its last row, the reader's pauses included; up to 24h. Default: 60s.
    pub time: Option<HumanDuration>,

    /// Most memory of one query, of the `memory` that all of them share; what does not fit is spilled or fails. At least 1MiB.
    /// Default: a quarter of `memory`.
    pub memory: Option<ByteSize>,

    /// Most bytes of temporary files of one query. Default: 4GiB.
    pub disk: Option<ByteSize>,

    /// Most rows of an answer. Default: 10,000,000.
    #[schemars(range(min = 1))]
    pub rows: Option<u64>,

    /// Most bytes of an answer, counted in memory before it is written in a format. Default: 1GiB.
    pub bytes: Option<ByteSize>,

    /// Most bytes of the text of a query, up to 1MiB. Default: 64KiB.
    pub sql: Option<ByteSize>,

    /// Queries that run at the same time, from 1 to 1,000. Default: 8.
    #[schemars(range(min = 1, max = 1000))]
    pub running: Option<u64>,

    /// Queries that wait for one of those to end; further ones are refused. Up to 100,000. Default: 64.
    #[schemars(range(max = 100000))]
    pub waiting: Option<u64>,
}

/// TLS of the listeners.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeTls {
    /// A file with the certificate and those between it and its authority, PEM, relative to the spec. Required.
    #[schemars(extend("examples" = ["./server.pem"]))]
    pub certificate: String,

    /// A file with its private key, PEM, relative to the spec. Required.
    #[schemars(extend("examples" = ["./server-key.pem"]))]
    pub private_key: String,

    /// A file with authorities, PEM, relative to the spec: then a client has to show a certificate of one of them, beside its
    /// token, or instead of it if the certificate names a caller. Default: clients need none.
    #[serde(default)]
    #[schemars(extend("examples" = ["./clients.pem"]))]
    pub client_ca: Option<String>,
}

/// Checked: who may ask for what, and how much.
#[derive(Debug, Clone)]
pub struct ServeSpec {
    /// Who shows a token.
    pub callers: Vec<CallerSpec>,
    /// Tokens that somebody else issues.
    pub jwt: Option<JwtSpec>,
    /// What callers may read, by the name of the role. Everything that is named by a caller is here.
    pub roles: BTreeMap<String, RoleSpec>,
    /// Bounds of queries.
    pub limits: LimitsOfQueries,
    /// How old the last look for newer versions may be.
    pub refresh: Duration,
    /// What hashes are keyed with; `None`: another key at every start.
    pub hash_key: Option<Text>,
    /// TLS of the listeners.
    pub tls: Option<TlsSpec>,
    /// Where it is written who asks what.
    pub audit: Option<AuditSpec>,
    /// Processes that run parts of queries.
    pub workers: Option<WorkersSpec>,
    /// What requests of the inference protocol may cost.
    pub inference: InferenceSpec,
}

/// Where it is written who asks what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSpec {
    /// A topic of Kafka.
    pub topic: String,
    /// Whether nothing is answered that cannot be written.
    pub required: bool,
    /// How long a question waits for that.
    pub patience: Duration,
    /// Bytes of a text that are written.
    pub sql_bytes: usize,
    /// Whether values of parameters are written.
    pub parameters: bool,
    /// Records on their way.
    pub buffer: usize,
}

/// Somebody who shows a token or a certificate. There is one of them, or both, of which either will do.
#[derive(Debug, Clone)]
pub struct CallerSpec {
    /// The name.
    pub name: String,
    /// The token.
    pub token: Option<Text>,
    /// A name in the certificate.
    pub certificate: Option<CertificateName>,
    /// The role; `None`: everything.
    pub role: Option<String>,
}

/// Tokens that somebody else issues. There is a file of keys or a secret, or both.
#[derive(Debug, Clone)]
pub struct JwtSpec {
    /// Who issues them.
    pub issuer: String,
    /// Whom they are for.
    pub audience: String,
    /// The keys of the issuer; absolute.
    pub jwks: Option<PathBuf>,
    /// What is shared with the issuer.
    pub secret: Option<Text>,
    /// The claim that names the role.
    pub role_claim: String,
}

/// What a caller may read.
#[derive(Debug, Clone, Default)]
pub struct RoleSpec {
    /// Every table but those of `tables`, whole.
    pub all: bool,
    /// What is seen of tables, by name. Each is one of the topology.
    pub tables: BTreeMap<String, TableRule>,
    /// The models that it may ask; `None`: every one with `all`, otherwise none.
    pub models: Option<BTreeSet<String>>,
    /// Bounds of its queries; `None`: the general ones.
    pub limits: Option<LimitsOfQueries>,
    /// Whether its queries run and wait in places of their own, as many as its limits say.
    pub has_places: bool,
}

/// What is seen of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableRule {
    /// A condition on rows.
    pub rows: Option<String>,
    /// Columns that are null.
    pub hide: BTreeSet<String>,
    /// Columns that are hashed.
    pub hash: BTreeSet<String>,
}

/// What one query may use, and how many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsOfQueries {
    /// From its beginning to its last row.
    pub time: Duration,
    /// Memory of one query.
    pub memory_bytes: u64,
    /// Temporary files of one query.
    pub disk_bytes: u64,
    /// Rows of an answer.
    pub rows: u64,
    /// Bytes of an answer.
    pub bytes: u64,
    /// Bytes of the text of a query.
    pub sql_bytes: u64,
    /// Queries that run at the same time.
    pub running: usize,
    /// Queries that wait.
    pub waiting: usize,
}

/// TLS of the listeners. Paths are absolute.
#[derive(Debug, Clone)]
pub struct TlsSpec {
    /// The certificate and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
    /// Authorities of the clients' certificates; `None`: clients need none.
    pub client_ca: Option<PathBuf>,
}

impl LimitsOfQueries {
    /// The defaults where all queries share `memory_bytes`.
    pub fn within(memory_bytes: u64) -> Self {
        Self {
            time: Duration::from_secs(60),
            memory_bytes: memory_bytes / 4,
            disk_bytes: 4 << 30,
            rows: 10_000_000,
            bytes: 1 << 30,
            sql_bytes: 64 << 10,
            running: 8,
            waiting: 64,
        }
    }
}

impl ServeSpec {
    /// What holds where a topology says nothing.
    pub fn within(memory_bytes: u64) -> Self {
        Self {
            callers: Vec::new(),
            jwt: None,
            roles: BTreeMap::new(),
            limits: LimitsOfQueries::within(memory_bytes),
            refresh: Duration::from_secs(1),
            hash_key: None,
            tls: None,
            audit: None,
            workers: None,
            inference: InferenceSpec::default(),
        }
    }
}

impl Resolver<'_> {
    /// `serve`, checked against the datasets of the topology.
    pub(super) fn serve(&mut self, memory_bytes: u64, datasets: &[Option<DatasetSpec>]) -> Option<ServeSpec> {
        let mut serve = ServeSpec::within(memory_bytes);
        self.limits_of_queries("/serve/limits", memory_bytes, &mut serve.limits);
        serve.roles = self.roles(memory_bytes, &serve.limits, datasets);
        serve.callers = self.callers(&serve.roles);
        let jwt = self.is_given("/serve/jwt").then(|| self.jwt());
        // As they are written: one that is wrong is somebody too.
        let is_for_nobody = jwt.is_none() && self.names("/serve/callers").is_empty();
        if !serve.roles.is_empty() && is_for_nobody {
            let message = "nobody has these roles: there is neither a caller nor `jwt`";
            let suggestion = "add `callers: { dashboards: { token: \"${env:DASHBOARDS_TOKEN}\", role: … } }`";
            self.report("/serve/roles", Place::Key, message, Some(suggestion.to_owned()));
        }
        if let Some(refresh) = self.typed::<Option<HumanDuration>>("/serve/refresh").flatten() {
            self.check_time("/serve/refresh", "refresh", refresh, Duration::ZERO..=REFRESH_MAX);
            serve.refresh = refresh.0;
        }
        if let Some(OptionValue(key)) = self.typed::<Option<OptionValue>>("/serve/hash_key").flatten() {
            serve.hash_key = self.option_text("/serve/hash_key", "hash_key", &key);
        }
        serve.tls = self.tls();
        serve.audit = self.audit();
        serve.workers = self.workers();
        serve.inference = self.inference();
        let vectors = serve.inference.log.as_ref().map(|log| &log.topic);
        if let Some(topic) =
            vectors.filter(|topic| serve.audit.as_ref().is_some_and(|audit| audit.topic == **topic))
        {
            let message =
                format!("`{topic}` is the topic of `serve.audit` as well, whose records are others");
            let suggestion = "name another topic: each becomes a dataset of its own";
            self.report("/serve/inference/log/topic", Place::Value, message, Some(suggestion.to_owned()));
        }
        serve.jwt = match jwt {
            Some(jwt) => Some(jwt?),
            None => None,
        };
        Some(serve)
    }

    fn callers(&mut self, roles: &BTreeMap<String, RoleSpec>) -> Vec<CallerSpec> {
        let mut callers = Vec::new();
        for name in self.names("/serve/callers") {
            let pointer = pointer_to("/serve/callers", &name);
            let at_token = format!("{pointer}/token");
            let token = self.typed::<Option<OptionValue>>(&at_token).flatten();
            let token = token.and_then(|OptionValue(token)| self.option_text(&at_token, "token", &token));
            let certificate = self.certificate_name(&format!("{pointer}/certificate"));
            if !self.is_given(&at_token) && !self.is_given(&format!("{pointer}/certificate")) {
                let message = format!("nobody can be `{name}`: there is neither `token` nor `certificate`");
                let suggestion = "add `token: \"${env:…}\"`, or `certificate: \"CN=…\"` and `tls.client_ca`";
                self.report(pointer.clone(), Place::Key, message, Some(suggestion.to_owned()));
            }
            let role = self.typed::<Option<String>>(&format!("{pointer}/role")).flatten();
            if let Some(role) = role.as_ref().filter(|role| !roles.contains_key(*role)) {
                let message = format!("there is no role `{role}`");
                let suggestion = did_you_mean(role, roles.keys().map(String::as_str));
                self.report(format!("{pointer}/role"), Place::Value, message, suggestion);
            }
            if token.is_some() || certificate.is_some() {
                callers.push(CallerSpec { name, token, certificate, role });
            }
        }
        callers
    }

    fn certificate_name(&mut self, pointer: &str) -> Option<CertificateName> {
        let written = self.typed::<Option<String>>(pointer).flatten()?;
        if !self.is_given("/serve/tls/client_ca") {
            let message = "nobody can show a certificate: clients are not asked for one";
            let suggestion = "add `client_ca`, a file with the authorities of the clients, to `serve.tls`";
            self.report(pointer, Place::Key, message, Some(suggestion.to_owned()));
        }
        match written.parse() {
            Ok(name) => Some(name),
            Err(problem) => {
                self.report(pointer, Place::Value, problem, None);
                None
            }
        }
    }

    fn jwt(&mut self) -> Option<JwtSpec> {
        let raw: ServeJwt = self.typed("/serve/jwt")?;
        let secret = match &raw.secret {
            Some(OptionValue(secret)) => Some(self.option_text("/serve/jwt/secret", "secret", secret)?),
            None => None,
        };
        if raw.jwks.is_none() && secret.is_none() {
            let message = "`jwt` has neither `jwks` nor `secret`, so that no token can be checked";
            self.report("/serve/jwt", Place::Key, message, Some("add one of them".to_owned()));
        }
        Some(JwtSpec {
            issuer: raw.issuer,
            audience: raw.audience,
            jwks: raw.jwks.map(|file| self.folder.join(file)),
            secret,
            role_claim: raw.role_claim.unwrap_or_else(|| "role".to_owned()),
        })
    }

    fn roles(
        &mut self,
        memory_bytes: u64,
        general: &LimitsOfQueries,
        datasets: &[Option<DatasetSpec>],
    ) -> BTreeMap<String, RoleSpec> {
        let mut tables: Vec<String> = self.names("/datasets");
        tables.extend(self.names("/datasets").iter().map(|dataset| quarantine_of(dataset)));
        let are_known = datasets.iter().all(Option::is_some);
        let mut roles = BTreeMap::new();
        for name in self.names("/serve/roles") {
            let pointer = pointer_to("/serve/roles", &name);
            let mut role = RoleSpec {
                all: self.typed(&format!("{pointer}/all")).unwrap_or_default(),
                ..RoleSpec::default()
            };
            let at_limits = format!("{pointer}/limits");
            if self.is_given(&at_limits) {
                let limits = role.limits.insert(*general);
                role.has_places = self.limits_of_queries(&at_limits, memory_bytes, limits);
            }
            role.models = self.models_of_role(&pointer);
            let at_datasets = format!("{pointer}/datasets");
            for table in self.names(&at_datasets) {
                let at_table = pointer_to(&at_datasets, &table);
                let raw: ServeDataset = self.typed::<Option<_>>(&at_table).flatten().unwrap_or_default();
                if !tables.contains(&table) && are_known {
                    let message = format!("there is no dataset `{table}`");
                    let suggestion = did_you_mean(&table, tables.iter().map(String::as_str));
                    self.report(at_table, Place::Key, message, suggestion);
                    continue;
                }
                if raw.rows.as_ref().is_some_and(|rows| rows.trim().is_empty()) {
                    let suggestion = "leave it out where all rows are seen";
                    self.report(
                        format!("{at_table}/rows"),
                        Place::Value,
                        "`rows` is empty",
                        Some(suggestion.to_owned()),
                    );
                }
                let rule = TableRule {
                    rows: raw.rows,
                    hide: raw.hide.into_iter().collect(),
                    hash: raw.hash.into_iter().collect(),
                };
                role.tables.insert(table, rule);
            }
            roles.insert(name, role);
        }
        roles
    }

    fn models_of_role(&mut self, pointer: &str) -> Option<BTreeSet<String>> {
        let pointer = format!("{pointer}/models");
        let models = self.typed::<Option<Vec<String>>>(&pointer).flatten()?;
        for (at, model) in models.iter().enumerate().filter(|(_, model)| !is_model_name(model)) {
            let message = format!("`{model}` is no name of a model");
            self.report(format!("{pointer}/{at}"), Place::Value, message, None);
        }
        Some(models.into_iter().collect())
    }

    /// Puts what stands at `pointer` into `limits`; whether places are among it.
    fn limits_of_queries(&mut self, pointer: &str, memory_bytes: u64, limits: &mut LimitsOfQueries) -> bool {
        let Some(raw) = self.typed::<Option<ServeLimitsOfQueries>>(pointer).flatten() else { return false };
        if let Some(time) = raw.time {
            self.check_time(&format!("{pointer}/time"), "time", time, Duration::from_millis(1)..=TIME_MAX);
            limits.time = time.0;
        }
        let sizes = [
            ("memory", raw.memory, MEMORY_BYTES_MIN, memory_bytes, &mut limits.memory_bytes),
            ("disk", raw.disk, 0, BYTES_MAX, &mut limits.disk_bytes),
            ("bytes", raw.bytes, 1, BYTES_MAX, &mut limits.bytes),
            ("sql", raw.sql, 1, SQL_BYTES_MAX, &mut limits.sql_bytes),
        ];
        for (name, size, least, most, limit) in sizes {
            if let Some(size) = size {
                self.check_bytes(&format!("{pointer}/{name}"), name, size, least, most);
                *limit = size.0;
            }
        }
        if raw.rows == Some(0) {
            let message = "`rows` is 0, so that no answer could have a row";
            self.report(format!("{pointer}/rows"), Place::Value, message, None);
        }
        limits.rows = raw.rows.unwrap_or(limits.rows);
        let counts = [
            ("running", raw.running, 1..=RUNNING_MAX, &mut limits.running),
            ("waiting", raw.waiting, 0..=WAITING_MAX, &mut limits.waiting),
        ];
        for (name, count, bounds, limit) in counts {
            if let Some(count) = count {
                self.check_count(&format!("{pointer}/{name}"), name, count, bounds);
                *limit = usize::try_from(count).unwrap_or(usize::MAX);
            }
        }
        raw.running.is_some() || raw.waiting.is_some()
    }

    fn audit(&mut self) -> Option<AuditSpec> {
        let raw: ServeAudit = self.typed::<Option<_>>("/serve/audit").flatten()?;
        let patience = raw.patience.unwrap_or(HumanDuration(Duration::from_secs(5)));
        self.check_time("/serve/audit/patience", "patience", patience, AUDIT_PATIENCE);
        let sql = raw.sql.unwrap_or(ByteSize(4 << 10));
        self.check_bytes("/serve/audit/sql", "sql", sql, 0, SQL_BYTES_MAX);
        let buffer = raw.buffer.unwrap_or(1_000);
        self.check_count("/serve/audit/buffer", "buffer", buffer, AUDIT_BUFFER);
        Some(AuditSpec {
            topic: raw.topic,
            required: raw.required,
            patience: patience.0,
            sql_bytes: usize::try_from(sql.0).unwrap_or(usize::MAX),
            parameters: raw.parameters,
            buffer: usize::try_from(buffer).unwrap_or(usize::MAX),
        })
    }

    fn tls(&mut self) -> Option<TlsSpec> {
        let ServeTls { certificate, private_key, client_ca } =
            self.typed::<Option<_>>("/serve/tls").flatten()?;
        Some(TlsSpec {
            certificate: self.folder.join(certificate),
            private_key: self.folder.join(private_key),
            client_ca: client_ca.map(|file| self.folder.join(file)),
        })
    }
}

#[cfg(test)]
mod tests;
