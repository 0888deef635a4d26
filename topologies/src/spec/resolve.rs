//! The raw spec → a [`Topology`]: types made, references resolved, rules checked that only the whole spec can tell.
//!
//! It works on the parts that have the right shape and goes on past every problem, so a finding in one source does
//! not hide one in a dataset. What depends on a part that is wrong is left unchecked rather than reported twice.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use isobar_schemas::decode::debezium::schema_in_envelope;
use isobar_schemas::{Error as SchemaError, FieldSpec, Fields, RejectReason, to_arrow_schema};
use isobar_transforms::{Expectation, RULES_OF_SQL};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use url::Url;

use crate::decoding::decoder;

use super::check::{CheckOptions, Finding, Place};
use super::contract::WrongContract;
use super::encoding::Encoding;
use super::location::{Overlap, has_credentials, overlap, parse_location};
use super::options::OptionsOf;
use super::raw::{self, Envelope};
use super::secret::is_secret_name;
use super::sql;
use super::suggest::did_you_mean;
use super::units::{ByteSize, HumanDuration, beyond};
use super::yaml::{Location, pointer_to};
use super::{
    CloudSpec, CompactSpec, Compression, DatasetSpec, DeadLetterSpec, Kafka, LimitSpec, MaintenanceSpec,
    Registry, SourceSpec, SourceTopics, Text, TopicPattern, Topology, UNDECODABLE_LIMIT,
};

const COMMIT_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const COMMIT_BYTES_MIN: u64 = 1 << 10;
const COMMIT_BYTES_MAX: u64 = 1 << 40;
/// Least and most.
const FILL_BYTES_PER_SECOND: (u64, u64) = (64 << 10, 1 << 40);
const MEMORY_BYTES_MIN: u64 = 128 << 20;
const MEMORY_BYTES_MAX: u64 = 1 << 50;
const TARGET_FILE_BYTES_MIN: u64 = 1 << 20;
const TARGET_FILE_BYTES_MAX: u64 = 1 << 30;
const COMPACT_FILES: RangeInclusive<u64> = 2..=4096;

/// Resolves the parts of one spec.
pub(super) struct Resolver<'a> {
    /// The parts that have the right shape.
    pub(super) value: &'a Json,
    /// The spec as written.
    pub(super) text: &'a str,
    /// The spec, as named by the user.
    pub(super) file: &'a str,
    /// Where everything lies in it.
    pub(super) locations: &'a BTreeMap<String, Location>,
    /// Pointers to mappings and values of which the YAML itself is wrong, so that parts of them are missing.
    pub(super) unreadable: &'a [String],
    /// Where relative paths start.
    pub(super) folder: &'a Path,
    pub(super) options: CheckOptions,
    pub(super) findings: &'a mut Vec<Finding>,
    /// Pointers to values that hold a secret where none belongs.
    pub(super) secret_places: Vec<String>,
    /// The contracts that have problems.
    pub(super) wrong_contracts: Vec<WrongContract>,
}

/// What became of a spec.
pub(super) struct Resolved {
    /// The topology, if enough of the spec is right.
    pub(super) topology: Option<Topology>,
    /// The places of secrets that stand inline.
    pub(super) secret_places: Vec<String>,
    /// The contracts that have problems.
    pub(super) wrong_contracts: Vec<WrongContract>,
}

impl Resolver<'_> {
    /// The topology, and what is wrong beside the findings.
    pub(super) fn resolve(mut self) -> Resolved {
        let topology = self.topology();
        Resolved { topology, secret_places: self.secret_places, wrong_contracts: self.wrong_contracts }
    }

    fn topology(&mut self) -> Option<Topology> {
        let name = self.required::<String>("/topology");
        let kafka = self.kafka("/kafka");
        let registry = self.registry();
        let clouds = self.clouds();
        let (commit_interval, commit_bytes_max) = self.commit();
        let fill_bytes_per_second = self.fill();
        let worker_token = self.worker_token();
        let memory_bytes_max = self.memory();
        let query = self.query();
        let sources = self.sources();
        let datasets = self.datasets(&sources);
        let serve = self.serve(memory_bytes_max, &datasets);
        self.check_every_source_is_read(&sources);
        let online = self.online(&sources, &datasets);
        let models = self.models();
        Some(Topology {
            name: name?,
            kafka: kafka?,
            registry: registry?,
            clouds: clouds.into_iter().collect::<Option<_>>()?,
            commit_interval,
            commit_bytes_max,
            fill_bytes_per_second,
            worker_token,
            serve: serve?,
            memory_bytes_max,
            query,
            sources: sources.into_iter().map(|(_, source)| source).collect::<Option<_>>()?,
            datasets: datasets.into_iter().collect::<Option<_>>()?,
            online: online?,
            models,
            spec_dir: self.folder.to_owned(),
        })
    }

    pub(super) fn report(
        &mut self,
        pointer: impl Into<String>,
        place: Place,
        message: impl Into<String>,
        suggestion: Option<String>,
    ) {
        self.findings.push(Finding { pointer: pointer.into(), place, message: message.into(), suggestion });
    }

    /// How much was reported so far.
    pub(super) fn found(&self) -> usize {
        self.findings.len()
    }

    /// The value at `pointer` as a `T`; `None` where it is absent or wrong. What is wrong and not yet reported is.
    pub(super) fn typed<T: DeserializeOwned>(&mut self, pointer: &str) -> Option<T> {
        let value = self.value.pointer(pointer)?;
        match serde_json::from_value(value.clone()) {
            Ok(typed) => Some(typed),
            Err(error) => {
                let below = format!("{pointer}/");
                let is_reported = self
                    .findings
                    .iter()
                    .any(|found| found.pointer == pointer || found.pointer.starts_with(&below));
                if !is_reported {
                    self.report(pointer, Place::Value, error.to_string(), None);
                }
                None
            }
        }
    }

    /// Like [`typed`](Self::typed), for fields whose absence is reported already.
    pub(super) fn required<T: DeserializeOwned>(&mut self, pointer: &str) -> Option<T> {
        self.typed(pointer)
    }

    fn or_default<T: DeserializeOwned + Default>(&mut self, pointer: &str) -> T {
        self.typed(pointer).unwrap_or_default()
    }

    /// The names of the entries of the mapping at `pointer`, in the order of the text.
    pub(super) fn names(&self, pointer: &str) -> Vec<String> {
        let map = self.value.pointer(pointer).and_then(Json::as_object);
        map.into_iter().flat_map(|map| map.keys().cloned()).collect()
    }

    pub(super) fn kafka(&mut self, pointer: &str) -> Option<Kafka> {
        let brokers = self.brokers(&format!("{pointer}/brokers"));
        let at_cluster_id = format!("{pointer}/cluster_id");
        let cluster_id = self.typed::<Option<String>>(&at_cluster_id).flatten();
        self.check_cluster_id(&at_cluster_id, cluster_id.as_deref());
        let topic_identity = self.or_default(&format!("{pointer}/topic_identity"));
        let options = self.client_options(&format!("{pointer}/options"), &OptionsOf::Kafka);
        Some(Kafka { brokers: brokers?, cluster_id, topic_identity, options: options? })
    }

    fn brokers(&mut self, pointer: &str) -> Option<String> {
        let written = self.required::<raw::Brokers>(pointer)?;
        let found_before = self.findings.len();
        let brokers: Vec<(String, String)> = match written {
            raw::Brokers::One(text) => {
                text.split(',').map(|broker| (pointer.to_owned(), broker.trim().to_owned())).collect()
            }
            raw::Brokers::Many(texts) => texts
                .into_iter()
                .enumerate()
                .map(|(index, broker)| (format!("{pointer}/{index}"), broker.trim().to_owned()))
                .collect(),
        };
        if brokers.is_empty() {
            self.report(
                pointer,
                Place::Key,
                "`brokers` is empty",
                Some("add `localhost:9092`, for example".into()),
            );
        }
        for (at, broker) in &brokers {
            if let Err(problem) = check_broker(broker) {
                self.report(at, Place::Value, problem, Some("`host:port`, such as `localhost:9092`".into()));
            }
        }
        let is_sound = self.findings.len() == found_before;
        let joined: Vec<String> = brokers.into_iter().map(|(_, broker)| broker).collect();
        is_sound.then(|| joined.join(","))
    }

    /// The registry if there is one; `None` if something is wrong with it.
    fn registry(&mut self) -> Option<Option<Registry>> {
        if self.value.pointer("/registry").is_none_or(Json::is_null) {
            return Some(None);
        }
        let at_url = "/registry/url";
        let written = self.required::<String>(at_url)?;
        let found_before = self.found();
        let mut urls = Vec::new();
        for text in written.split(',').map(str::trim) {
            match parse_registry_url(text) {
                Ok(url) => urls.push(url),
                Err((message, is_secret)) => {
                    if is_secret {
                        self.secret_places.push(at_url.to_owned());
                    }
                    let suggestion = "`https://registry:8081`, for example".to_owned();
                    self.report(at_url, Place::Value, message, Some(suggestion));
                }
            }
        }
        let options = self.client_options("/registry/options", &OptionsOf::Registry);
        let is_sound = self.found() == found_before;
        is_sound.then_some(Some(Registry { urls, options: options? }))
    }

    /// The id becomes part of application ids, which are split at `/`.
    fn check_cluster_id(&mut self, pointer: &str, cluster_id: Option<&str>) {
        let Some(id) = cluster_id else { return };
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !(1..=128).contains(&id.len()) || !id.chars().all(fits) {
            let message = format!(
                "`{id}` is not a cluster id: only ASCII letters, digits, `.`, `_` and `-`, at most 128 characters"
            );
            self.report(pointer, Place::Value, message, None);
        }
    }

    fn clouds(&mut self) -> Vec<Option<CloudSpec>> {
        let clouds: Vec<Option<CloudSpec>> =
            self.names("/clouds").into_iter().map(|name| self.cloud(name)).collect();
        let known: Vec<&CloudSpec> = clouds.iter().flatten().collect();
        for (index, cloud) in known.iter().enumerate() {
            for earlier in &known[..index] {
                self.check_apart(earlier, cloud);
            }
        }
        clouds
    }

    fn cloud(&mut self, name: String) -> Option<CloudSpec> {
        let pointer = pointer_to("/clouds", &name);
        let at_url = format!("{pointer}/url");
        let url =
            self.required::<String>(&at_url).and_then(|text| match parse_location(&text, self.folder) {
                Ok(url) => Some(url),
                Err(problem) => {
                    if problem.is_secret {
                        self.secret_places.push(at_url.clone());
                    }
                    self.report(&at_url, Place::Value, problem.message, problem.suggestion);
                    None
                }
            });
        let options = self.client_options(&format!("{pointer}/options"), &OptionsOf::Cloud(url.as_ref()));
        Some(CloudSpec { url: url?, options: options?, name })
    }

    /// Two clouds in one place would be one copy that counts as two.
    fn check_apart(&mut self, earlier: &CloudSpec, cloud: &CloudSpec) {
        if store_address(earlier) != store_address(cloud) {
            return;
        }
        let relation = match overlap(&earlier.url, &cloud.url) {
            Overlap::None => return,
            Overlap::Same => "the same location as",
            Overlap::Nested => "a location that overlaps with",
        };
        let pointer = format!("{}/url", pointer_to("/clouds", &cloud.name));
        let message = format!(
            "`{}` is {relation} `{}`: that would be one copy, counted twice",
            cloud.name, earlier.name
        );
        self.report(pointer, Place::Value, message, Some("give each cloud a location of its own".into()));
    }

    fn commit(&mut self) -> (Duration, u64) {
        let defaults = raw::Commit::default();
        let interval = self.typed::<HumanDuration>("/commit/interval").unwrap_or(defaults.interval);
        self.check_time("/commit/interval", "interval", interval, COMMIT_INTERVAL);
        let size = self.typed::<ByteSize>("/commit/size").unwrap_or(defaults.size);
        self.check_bytes("/commit/size", "size", size, COMMIT_BYTES_MIN, COMMIT_BYTES_MAX);
        (interval.0, size.0)
    }

    fn fill(&mut self) -> Option<u64> {
        let bandwidth = self.typed::<ByteSize>("/fill/bandwidth")?;
        let (least, most) = FILL_BYTES_PER_SECOND;
        self.check_bytes("/fill/bandwidth", "bandwidth", bandwidth, least, most);
        Some(bandwidth.0)
    }

    fn worker_token(&mut self) -> Option<Text> {
        let pointer = "/workers/token";
        let raw::OptionValue(written) = self.required(pointer)?;
        self.option_text(pointer, "token", &written)
    }

    fn memory(&mut self) -> u64 {
        let memory = self.typed("/memory").unwrap_or_else(raw::default_memory);
        self.check_bytes("/memory", "memory", memory, MEMORY_BYTES_MIN, MEMORY_BYTES_MAX);
        memory.0
    }

    pub(super) fn check_bytes(&mut self, pointer: &str, name: &str, size: ByteSize, least: u64, most: u64) {
        let message = if size.0 < least {
            format!("`{name}` is {size}; it must be at least {}", ByteSize(least))
        } else if size.0 > most {
            format!("`{name}` is {size}; it can be at most {}", ByteSize(most))
        } else {
            return;
        };
        self.report(pointer, Place::Value, message, None);
    }

    pub(super) fn check_count(&mut self, pointer: &str, name: &str, count: u64, bounds: RangeInclusive<u64>) {
        if let Some(message) = beyond(name, count, bounds) {
            self.report(pointer, Place::Value, message, None);
        }
    }

    pub(super) fn check_time(
        &mut self,
        pointer: &str,
        name: &str,
        time: HumanDuration,
        bounds: RangeInclusive<Duration>,
    ) {
        let (least, most) = bounds.into_inner();
        if let Some(message) = beyond(name, time, HumanDuration(least)..=HumanDuration(most)) {
            self.report(pointer, Place::Value, message, None);
        }
    }

    /// Every source by its name, also those that are wrong: datasets may refer to them.
    fn sources(&mut self) -> Vec<(String, Option<SourceSpec>)> {
        let mut topics_of: Vec<(String, SourceTopics)> = Vec::new();
        let mut sources = Vec::new();
        for name in self.names("/sources") {
            let pointer = pointer_to("/sources", &name);
            let topics = self.topics(&name, &pointer);
            if let Some((at, topics)) = &topics {
                self.check_read_once(&name, at, topics, &topics_of);
                topics_of.push((name.clone(), topics.clone()));
            }
            let source = self.source(&name, &pointer, topics.map(|(_, topics)| topics));
            sources.push((name, source));
        }
        sources
    }

    /// The topics of a source, and where they are written: `topic` or `topics`, not both.
    fn topics(&mut self, name: &str, pointer: &str) -> Option<(String, SourceTopics)> {
        let [one, several] = ["topic", "topics"].map(|field| format!("{pointer}/{field}"));
        let is_written = |at: &str| self.locations.contains_key(at);
        match (is_written(&one), is_written(&several)) {
            (true, true) => {
                let message = format!("`{name}` has both `topic` and `topics`");
                self.report(several, Place::Key, message, Some("keep one of them".into()));
                None
            }
            (true, false) => match self.required::<Option<String>>(&one)? {
                Some(topic) => Some((one, SourceTopics::Named(vec![topic]))),
                None => {
                    self.report(
                        one,
                        Place::Key,
                        "`topic` is empty",
                        Some("expected the name of a topic".into()),
                    );
                    None
                }
            },
            (false, true) => Some((several.clone(), self.several_topics(&several)?)),
            (false, false) => {
                // A misspelt field is one mistake: it is reported as unknown, not as missing too.
                let below = format!("{pointer}/");
                let may_be_meant = self.findings.iter().any(|found| {
                    found.pointer.starts_with(&below) && found.message.starts_with("unknown field")
                });
                if !may_be_meant {
                    let message = format!("missing field `topic` in `{name}`");
                    let suggestion = "add `topic: flights`, or `topics` for several";
                    self.report(pointer, Place::Key, message, Some(suggestion.into()));
                }
                None
            }
        }
    }

    fn several_topics(&mut self, pointer: &str) -> Option<SourceTopics> {
        let written = self.required::<Option<raw::Topics>>(pointer)?;
        match written.unwrap_or(raw::Topics::Named(Vec::new())) {
            raw::Topics::Named(names) => {
                let names: Vec<String> = names.into_iter().map(|raw::TopicName(name)| name).collect();
                if names.is_empty() {
                    self.report(pointer, Place::Key, "`topics` is empty", Some("name at least one".into()));
                    return None;
                }
                for (index, name) in names.iter().enumerate() {
                    if names[..index].contains(name) {
                        let message = format!("`{name}` is here twice");
                        self.report(format!("{pointer}/{index}"), Place::Value, message, None);
                    }
                }
                Some(SourceTopics::Named(names))
            }
            raw::Topics::Matching(raw::TopicMatch { pattern }) => match TopicPattern::new(&pattern) {
                Ok(pattern) => Some(SourceTopics::Matching(pattern)),
                Err(problem) => {
                    let (message, suggestion) = split_help(&problem);
                    self.report(format!("{pointer}/pattern"), Place::Value, message, suggestion);
                    None
                }
            },
        }
    }

    /// Two patterns that match the same topic are found when the topics are described.
    fn check_read_once(
        &mut self,
        name: &str,
        at: &str,
        topics: &SourceTopics,
        earlier: &[(String, SourceTopics)],
    ) {
        let shared = earlier.iter().find_map(|(other, theirs)| Some((other, topics.shared_with(theirs)?)));
        if let Some((other, topic)) = shared {
            let message = format!("topic `{topic}` is read by the source `{other}` already");
            let suggestion = format!("let the datasets of `{name}` read from `{other}`");
            self.report(at, Place::Value, message, Some(suggestion));
        }
    }

    fn source(&mut self, name: &str, pointer: &str, topics: Option<SourceTopics>) -> Option<SourceSpec> {
        let format = self.required(&format!("{pointer}/format"));
        let encoding = format.and_then(|format| self.encoding(pointer, format));
        let payload_compression = self.or_default(&format!("{pointer}/payload_compression"));
        let unknown_fields = self.or_default(&format!("{pointer}/unknown_fields"));
        let start = self.or_default(&format!("{pointer}/start"));
        let fields = self.fields(&format!("{pointer}/fields"))?;
        // Every field passed on its own, so together they do, unless there are none, which is reported.
        let contract = to_arrow_schema(&fields).ok()?;
        let schema = self.columns(pointer, encoding.as_ref(), contract)?;
        let source = SourceSpec {
            name: name.to_owned(),
            topics: topics?,
            format: format?,
            encoding: encoding?,
            payload_compression,
            unknown_fields,
            start,
            schema,
            fields,
        };
        self.check_decoder(pointer, &source);
        Some(source)
    }

    /// The columns of a source: its fields, and those that its envelope adds.
    fn columns(
        &mut self,
        pointer: &str,
        encoding: Option<&Encoding>,
        contract: SchemaRef,
    ) -> Option<SchemaRef> {
        if encoding.is_none_or(|encoding| encoding.envelope() == Envelope::None) {
            return Some(contract);
        }
        match schema_in_envelope(&contract) {
            Ok(schema) => Some(schema),
            Err(error) => {
                let fields = format!("{pointer}/fields");
                let at = match &error {
                    SchemaError::InvalidName { field, .. } => pointer_to(&fields, field),
                    _ => fields,
                };
                self.report_field(&at, error);
                None
            }
        }
    }

    /// The format, the schema files and the fields of a source each make sense; here it turns out whether together.
    fn check_decoder(&mut self, pointer: &str, source: &SourceSpec) {
        let Err(error) = decoder(source) else { return };
        let field = match &error {
            SchemaError::InvalidForFormat { field, .. } | SchemaError::ProtobufField { field, .. } => {
                Some(pointer_to(&format!("{pointer}/fields"), field))
            }
            _ => None,
        };
        let schema = format!("{pointer}/schema");
        let at = field
            .filter(|at| self.value.pointer(at).is_some())
            .or_else(|| self.value.pointer(&schema).map(|_| schema))
            .unwrap_or_else(|| format!("{pointer}/format"));
        let problem = crate::chain_of(&error);
        let (message, suggestion) = split_help(&problem);
        self.report(at, Place::Value, message, suggestion);
    }

    /// All fields, or `None` if one of them is wrong: a query is not checked against a part of them.
    fn fields(&mut self, pointer: &str) -> Option<Fields> {
        let mut fields = Vec::new();
        for name in self.names(pointer) {
            let below = pointer_to(pointer, &name);
            let Some(spec) = self.required::<FieldSpec>(&below) else { continue };
            match to_arrow_schema(&Fields(vec![(name.clone(), spec.clone())])) {
                Ok(_) => fields.push((name, spec)),
                Err(error) => self.report_field(&below, error),
            }
        }
        let written = self.locations.keys().filter(|key| is_child(pointer, key)).count();
        let is_readable = !self.unreadable.iter().any(|unreadable| unreadable.starts_with(pointer));
        (is_readable && fields.len() == written).then_some(Fields(fields))
    }

    pub(super) fn report_field(&mut self, pointer: &str, error: SchemaError) {
        match error {
            SchemaError::InvalidType { source, .. } => {
                let long_form = format!("{pointer}/type");
                let at = if self.value.pointer(&long_form).is_some() { &long_form } else { pointer };
                let message = format!("`{}` is not a type", source.written);
                let suggestion = source.suggestion.map(|meant| format!("did you mean `{meant}`?"));
                self.report(at, Place::Value, message, suggestion.or(Some(source.problem)));
            }
            SchemaError::InvalidName { field, problem } => {
                let (reason, suggestion) = split_help(problem);
                self.report(
                    pointer,
                    Place::Key,
                    format!("`{field}` cannot be a field: {reason}"),
                    suggestion,
                );
            }
            other => self.report(pointer, Place::Value, other.to_string(), None),
        }
    }

    fn datasets(&mut self, sources: &[(String, Option<SourceSpec>)]) -> Vec<Option<DatasetSpec>> {
        let names = self.names("/datasets");
        let datasets: Vec<Option<DatasetSpec>> =
            names.into_iter().map(|name| self.dataset(name, sources)).collect();
        let known: Vec<&DatasetSpec> = datasets.iter().flatten().collect();
        for (index, dataset) in known.iter().enumerate() {
            self.check_own_group(dataset, &known[..index]);
        }
        datasets
    }

    /// Progress of two datasets under one name would be that of neither.
    fn check_own_group(&mut self, dataset: &DatasetSpec, earlier: &[&DatasetSpec]) {
        self.check_group_of_publish(dataset, earlier);
        let Some(DeadLetterSpec { group, .. }) = &dataset.dead_letter else { return };
        let has_it =
            |other: &&&DatasetSpec| other.dead_letter.as_ref().is_some_and(|theirs| theirs.group == *group);
        if let Some(other) = earlier.iter().find(has_it) {
            let pointer = format!("{}/dead_letter", pointer_to("/datasets", &dataset.name));
            let message = format!("`{group}` is the group of the dead letters of `{}` already", other.name);
            let suggestion = "give each dataset a `group` of its own; they may share the topic";
            self.report(pointer, Place::Key, message, Some(suggestion.to_owned()));
        }
    }

    /// What gets the rejected records of dataset `name`. Not a topic that the topology reads: what cannot be made a row would
    /// go round for ever.
    fn dead_letter(
        &mut self,
        name: &str,
        pointer: &str,
        sources: &[(String, Option<SourceSpec>)],
    ) -> Option<DeadLetterSpec> {
        let raw::DeadLetter { topic, group, from_version } =
            self.typed::<Option<raw::DeadLetter>>(pointer).flatten()?;
        let reads = |(_, source): &&(String, Option<SourceSpec>)| {
            source.as_ref().is_some_and(|source| source.topics.contains(&topic))
        };
        if let Some((reader, _)) = sources.iter().find(reads) {
            let message = format!(
                "`{topic}` is read by the source `{reader}`: rejected records would come back as new ones"
            );
            let suggestion = "name a topic that this topology does not read; another topology may read it";
            self.report(format!("{pointer}/topic"), Place::Value, message, Some(suggestion.to_owned()));
        }
        let topology = self.value.pointer("/topology").and_then(Json::as_str).unwrap_or_default();
        let group = group.unwrap_or_else(|| format!("{topology}.{name}.dead_letter"));
        Some(DeadLetterSpec { topic, group, from_version })
    }

    fn dataset(&mut self, name: String, sources: &[(String, Option<SourceSpec>)]) -> Option<DatasetSpec> {
        let pointer = pointer_to("/datasets", &name);
        let source = self.source_of(&format!("{pointer}/from"), sources);
        let description = self.typed::<Option<String>>(&format!("{pointer}/description")).flatten();
        let sql = self.required::<String>(&format!("{pointer}/sql"));
        let (own_expectations, are_own_complete) = self.expectations(&format!("{pointer}/expect"));
        let mut promise = self.promise(&pointer, &own_expectations);
        let promised = promise.iter().flat_map(|promise| &promise.expectations);
        let expectations: Vec<Expectation> =
            own_expectations.iter().chain(promised).map(|(_, expectation)| expectation.clone()).collect();
        let is_whole = match &promise {
            Some(promise) => promise.is_whole,
            None => !self.is_given(&format!("{pointer}/contract")),
        };
        let are_complete = are_own_complete && is_whole;
        let partition_by = self.partition_by(&format!("{pointer}/partition_by"));
        let compression = match self.typed::<String>(&format!("{pointer}/compression")) {
            // A text that is no compression was reported with the structure.
            Some(text) => text.parse::<Compression>().ok(),
            None => Some(Compression::default()),
        };
        let dead_letter = self.dead_letter(&name, &format!("{pointer}/dead_letter"), sources);
        let publish = self.publish(&name, &format!("{pointer}/publish"), sources);
        let maintenance = self.maintenance(&format!("{pointer}/maintenance"));
        let limits = self.limits(&format!("{pointer}/limits"), &expectations, are_complete);
        let input = source.and_then(|source| sources[source].1.as_ref());
        if let (Some(input), Some(sql)) = (input, &sql) {
            let query = sql::Query { sql, expectations: &own_expectations, partition_by: &partition_by };
            let columns = sql::check(self, &pointer, input, &query);
            if let (Some(publish), Some(columns)) = (&publish, &columns) {
                self.check_published_columns(&format!("{pointer}/publish"), publish, columns);
            }
            if let Some(promise) = &mut promise {
                promise.check(self, &pointer, input, columns.as_deref());
            }
        }
        let (description, contract) = match promise {
            Some(promise) => self.settle(&pointer, description, promise),
            None => (description, None),
        };
        let (source, sql) = (source?, sql?);
        let dataset = DatasetSpec {
            name,
            source,
            description,
            contract,
            sql,
            expectations,
            limits,
            partition_by,
            compression: compression?,
            dead_letter,
            publish,
            maintenance,
        };
        are_complete.then_some(dataset)
    }

    /// Limits on rules that there are; `are_all` says whether `expectations` are all that were written.
    fn limits(&mut self, pointer: &str, expectations: &[Expectation], are_all: bool) -> Vec<LimitSpec> {
        let mut limits = Vec::new();
        for rule in self.names(pointer) {
            let below = pointer_to(pointer, &rule);
            let Some(limit) = self.typed::<raw::RateLimit>(&below) else { continue };
            let named = expectations.iter().map(|expectation| expectation.name.as_str());
            let known: Vec<&str> = named.chain([UNDECODABLE_LIMIT]).chain(RULES_OF_SQL).collect();
            if are_all && !known.contains(&rule.as_str()) {
                let message = format!("`{rule}` is no expectation of this dataset");
                self.report(&below, Place::Key, message, did_you_mean(&rule, known));
            } else if !self.locations.keys().any(|key| is_child(&below, key)) {
                let message = format!("the limit `{rule}` limits nothing");
                let suggestion = "give it `warn_above` or `fail_above`, such as `fail_above: 20%`";
                self.report(&below, Place::Value, message, Some(suggestion.to_owned()));
            }
            let raw::RateLimit { warn_above, fail_above } = limit;
            limits.push(LimitSpec { rule, warn_above, fail_above });
        }
        limits
    }

    fn maintenance(&mut self, pointer: &str) -> MaintenanceSpec {
        let defaults = raw::Compact::default();
        let at = |name: &str| format!("{pointer}/{name}");
        let enabled = self.typed(&at("compact/enabled")).unwrap_or(defaults.enabled);
        let size_at = at("compact/target_file_size");
        let size = self.typed::<ByteSize>(&size_at).unwrap_or(defaults.target_file_size);
        self.check_bytes(&size_at, "target_file_size", size, TARGET_FILE_BYTES_MIN, TARGET_FILE_BYTES_MAX);
        let files_at = at("compact/min_files");
        let files = self.typed::<u64>(&files_at).unwrap_or(defaults.min_files);
        self.check_count(&files_at, "min_files", files, COMPACT_FILES);
        let keep_at = at("keep_versions");
        let keep_versions = self.typed::<Option<u64>>(&keep_at).flatten();
        if keep_versions == Some(0) {
            let message = "`keep_versions` is 0; it must be at least 1: a query reads a version while the next is written";
            self.report(keep_at, Place::Value, message, None);
        }
        let compact =
            CompactSpec { target_bytes: size.0, files_min: usize::try_from(files).unwrap_or(usize::MAX) };
        let checkpoint_every = self.typed::<u64>(&at("checkpoint_every"));
        let checkpoint_every = checkpoint_every.unwrap_or(raw::Maintenance::default().checkpoint_every);
        MaintenanceSpec {
            compact: enabled.then_some(compact),
            keep_versions,
            checkpoint_every: (checkpoint_every > 0).then_some(checkpoint_every),
        }
    }

    fn source_of(&mut self, pointer: &str, sources: &[(String, Option<SourceSpec>)]) -> Option<usize> {
        let from = self.required::<String>(pointer)?;
        let index = sources.iter().position(|(name, _)| *name == from);
        if index.is_none() && !sources.is_empty() {
            let names = sources.iter().map(|(name, _)| name.as_str());
            self.report(
                pointer,
                Place::Value,
                format!("there is no source `{from}`"),
                did_you_mean(&from, names),
            );
        }
        index
    }

    /// The expectations that are right in themselves, each with its index, and whether they are all there are.
    pub(super) fn expectations(&mut self, pointer: &str) -> (Vec<(usize, Expectation)>, bool) {
        let count = self.value.pointer(pointer).and_then(Json::as_array).map_or(0, Vec::len);
        let mut expectations: Vec<(usize, Expectation)> = Vec::new();
        for index in 0..count {
            let below = format!("{pointer}/{index}");
            let Some(expectation) = self.required::<Expectation>(&below) else { continue };
            self.check_rule_name(&below, &expectation.name, &expectations);
            expectations.push((index, expectation));
        }
        let are_complete = expectations.len() == count;
        (expectations, are_complete)
    }

    /// Names of rules are labels of metrics and keys of counts, beside the reasons of the decoder.
    fn check_rule_name(&mut self, pointer: &str, name: &str, earlier: &[(usize, Expectation)]) {
        let at = format!("{pointer}/name");
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if !(1..=64).contains(&name.len()) || !name.chars().all(fits) {
            let message = format!(
                "`{name}` is not a name here: only ASCII letters, digits, `-` and `_`, at most 64 characters"
            );
            self.report(at, Place::Value, message, None);
        } else if RULES_OF_SQL.contains(&name)
            || RejectReason::ALL.iter().any(|reason| reason.as_str() == name)
        {
            let message = format!("isobar itself counts rejected records under `{name}`");
            self.report(at, Place::Value, message, Some("give the expectation another name".into()));
        } else if earlier.iter().any(|(_, other)| other.name == name) {
            let message = format!("there are two expectations `{name}`");
            self.report(at, Place::Value, message, Some("rename one: rows are counted by this name".into()));
        }
    }

    /// The partition columns, each once.
    fn partition_by(&mut self, pointer: &str) -> Vec<String> {
        let mut columns: Vec<String> = Vec::new();
        for (index, column) in self.or_default::<Vec<String>>(pointer).into_iter().enumerate() {
            if columns.contains(&column) {
                self.report(
                    format!("{pointer}/{index}"),
                    Place::Value,
                    format!("`{column}` is here twice"),
                    None,
                );
            } else {
                columns.push(column);
            }
        }
        columns
    }

    /// Positions lie in the datasets of a source; a source without one would have nowhere to keep them.
    fn check_every_source_is_read(&mut self, sources: &[(String, Option<SourceSpec>)]) {
        let datasets = self.names("/datasets");
        let froms: Vec<Option<&str>> = datasets
            .iter()
            .map(|name| {
                self.value.pointer(&format!("{}/from", pointer_to("/datasets", name))).and_then(Json::as_str)
            })
            .collect();
        // A dataset whose `from` is missing or wrong may have meant this source.
        let is_known =
            |from: &&Option<&str>| from.is_some_and(|from| sources.iter().any(|(name, _)| name == from));
        if froms.is_empty() || !froms.iter().all(|from| is_known(&from)) {
            return;
        }
        let unread: Vec<String> = sources
            .iter()
            .filter(|(name, _)| !froms.contains(&Some(name.as_str())))
            .map(|(name, _)| name.clone())
            .collect();
        for name in unread {
            let suggestion = format!("remove it, or add a dataset with `from: {name}`");
            let message = format!("no dataset reads from the source `{name}`");
            self.report(pointer_to("/sources", &name), Place::Key, message, Some(suggestion));
        }
    }
}

/// Whether `pointer` leads to an entry of the mapping at `parent`.
pub(super) fn is_child(parent: &str, pointer: &str) -> bool {
    let below = pointer.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/'));
    below.is_some_and(|name| !name.contains('/'))
}

/// "what is wrong; the way out", apart.
pub(super) fn split_help(problem: &str) -> (&str, Option<String>) {
    match problem.split_once("; ") {
        Some((message, help)) => (message, Some(help.to_owned())),
        None => (problem, None),
    }
}

/// The options that say *which* store a URL is in, such as the endpoint or the account.
fn store_address(cloud: &CloudSpec) -> Vec<(&str, &str)> {
    let is_address =
        |name: &str| ["endpoint", "account", "base_url", "emulator"].iter().any(|word| name.contains(word));
    let options = cloud.options.iter().map(|(name, text)| (name.as_str(), text.template()));
    options.filter(|(name, _)| is_address(name) && !is_secret_name(name)).collect()
}

/// The address of a registry, or what is wrong with it, and whether it holds a secret.
fn parse_registry_url(text: &str) -> Result<Url, (String, bool)> {
    if has_credentials(text) {
        let message = "the URL holds a user name or a password, which belong in `options`, by reference";
        return Err((message.to_owned(), true));
    }
    let url = Url::parse(text).map_err(|error| (format!("`{text}` is not a URL: {error}"), false))?;
    let is_plain = url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_plain {
        return Err((format!("`{text}` is not the address of a registry"), false));
    }
    Ok(url)
}

fn check_broker(broker: &str) -> Result<(), String> {
    let address = broker.split_once("://").map_or(broker, |(_, address)| address);
    let malformed = || Err(format!("`{broker}` is not the address of a broker"));
    if broker.is_empty() {
        return Err("a broker has no address".into());
    }
    if address.contains("${") {
        return Err("`brokers` cannot hold references; only values of `options` can".into());
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let is_number = host.chars().all(|c| c.is_ascii_digit());
    if is_number || host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c)) {
        return malformed();
    }
    match port.map(str::parse::<u16>) {
        None => Ok(()),
        Some(Ok(port)) if port > 0 => Ok(()),
        Some(_) => malformed(),
    }
}
