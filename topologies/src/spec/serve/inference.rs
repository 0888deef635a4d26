//! `serve.inference`: what requests of the inference protocol may cost.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::commit::model::is_model_name;
use crate::spec::check::Place;
use crate::spec::raw::{Entries, TOPIC_PATTERN};
use crate::spec::resolve::Resolver;
use crate::spec::units::{ByteSize, HumanDuration};
use crate::spec::yaml::pointer_to;

const BYTES: (u64, u64) = (1 << 10, 1 << 30);
const REQUESTS_MAX: u64 = 100_000;
const LOADED_MAX: u64 = 10_000;
const ROWS_MAX: u64 = 1 << 20;
const REFRESH: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);
const WAIT: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(1);
const LOG_BYTES: (u64, u64) = (1 << 20, 1 << 30);
const LOG_PATIENCE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// What requests of the inference protocol may cost.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeInference {
    /// Most bytes of a request, from 1KiB to 1GiB. Default: 16MiB.
    pub bytes: Option<ByteSize>,

    /// Requests at the same time, of all models; further ones are refused. Up to 100,000. Default: 256.
    #[schemars(range(min = 1, max = 100000))]
    pub running: Option<u64>,

    /// How long what an alias means is believed, from 100ms to 1h. While it is looked up again, requests go to the version that was
    /// meant before. Default: 5s.
    pub refresh: Option<HumanDuration>,

    /// Models that stay loaded, each alias and version that is asked for; up to 10,000. One more takes the place of the one that was
    /// not asked for longest. Default: 16.
    #[schemars(range(min = 1, max = 10000))]
    pub loaded: Option<u64>,

    /// What holds for every model. Default: that of each limit.
    pub limits: ServeModelLimits,

    /// What holds for single models, by name, where it is not that of `limits`. Default: none.
    pub models: Entries<ServeModelLimits>,

    /// Where it is written what models were given and what they answered. Default: nowhere.
    pub log: Option<ServeVectorLog>,
}

/// Where it is written what models were given and what they answered.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeVectorLog {
    /// A topic of the cluster in `kafka`. The topology in `topologies/served_vectors` makes a dataset of it. Required.
    #[schemars(regex(pattern = TOPIC_PATTERN), extend("examples" = ["served_vectors"]))]
    pub topic: String,

    /// The share of rows that are written, above 0 and up to 1. Which ones follows from their `id`. Default: 1.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub share: Option<f64>,

    /// Whether a request is answered only after Kafka has stored its rows. Without, nobody waits, and what cannot be written is
    /// counted. Default: false.
    #[serde(default)]
    pub required: bool,

    /// How long a request waits for room before it is run, and for Kafka after that, up to 1h each. Default: 5s.
    #[serde(default)]
    pub patience: Option<HumanDuration>,

    /// Bytes of records on their way to Kafka, counted as the most that they can have; 1MiB to 1GiB. Default: 16MiB.
    #[serde(default)]
    pub buffer: Option<ByteSize>,
}

/// What requests to a model may cost.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeModelLimits {
    /// Requests to a model at the same time, up to 100,000; further ones are refused. Default: 64.
    #[schemars(range(min = 1, max = 100000))]
    pub running: Option<u64>,

    /// Most rows of a request, up to 1048576. Default: 10,000.
    #[schemars(range(min = 1, max = 1048576))]
    pub rows: Option<u64>,

    /// Longest time of a request from when all of it is there, 1ms to 10m. Default: 5s.
    pub time: Option<HumanDuration>,

    /// Rows for which requests wait to be answered in one run of the model, up to 1048576. With 1, nothing waits. Default: 1.
    #[schemars(range(min = 1, max = 1048576))]
    pub batch: Option<u64>,

    /// How long a request waits for others, 100us to 1s. Default: 2ms.
    pub wait: Option<HumanDuration>,

    /// What becomes of a request with a key that has no row, or none that is young enough. Default: `error`.
    pub missing: Option<MissingEntities>,
}

/// What becomes of a request with a key that has no row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum MissingEntities {
    /// It is refused.
    #[default]
    Error,
    /// The features of that row are filled with NULL, and `models: nulls` says what that means.
    Fill,
}

/// Checked: what requests of the inference protocol may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct InferenceSpec {
    /// Bytes of a request.
    pub bytes: usize,
    /// Requests at the same time.
    pub running: usize,
    /// How long what an alias means is believed.
    pub refresh: Duration,
    /// Models that stay loaded.
    pub loaded: usize,
    /// What holds for every model.
    pub limits: ModelLimits,
    /// What holds for single models.
    pub models: BTreeMap<String, ModelLimits>,
    /// Where it is written what models were given and what they answered.
    pub log: Option<VectorLogSpec>,
}

/// Where it is written what models were given and what they answered.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorLogSpec {
    /// A topic of Kafka.
    pub topic: String,
    /// The share of rows that are written: above 0, and 1 for all.
    pub share: f64,
    /// Whether nothing is answered that cannot be written.
    pub required: bool,
    /// How long a request waits for room, and for Kafka.
    pub patience: Duration,
    /// Bytes of records on their way.
    pub buffer_bytes: u32,
}

/// What requests to a model may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelLimits {
    /// Requests at the same time.
    pub running: usize,
    /// Rows of a request.
    pub rows: usize,
    /// From when all of a request is there to its answer.
    pub time: Duration,
    /// Rows for which requests wait.
    pub batch: usize,
    /// How long a request waits for others.
    pub wait: Duration,
    /// What a key without a row means.
    pub missing: MissingEntities,
}

impl Default for InferenceSpec {
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            running: 256,
            refresh: Duration::from_secs(5),
            loaded: 16,
            limits: ModelLimits::default(),
            models: BTreeMap::new(),
            log: None,
        }
    }
}

impl Default for ModelLimits {
    fn default() -> Self {
        Self {
            running: 64,
            rows: 10_000,
            time: Duration::from_secs(5),
            batch: 1,
            wait: Duration::from_millis(2),
            missing: MissingEntities::Error,
        }
    }
}

impl InferenceSpec {
    /// What holds for this model.
    pub fn limits_of(&self, model: &str) -> &ModelLimits {
        self.models.get(model).unwrap_or(&self.limits)
    }
}

impl Resolver<'_> {
    /// `serve.inference`, checked.
    pub(super) fn inference(&mut self) -> InferenceSpec {
        let mut inference = InferenceSpec::default();
        let at = "/serve/inference";
        if let Some(size) = self.typed::<Option<ByteSize>>(&format!("{at}/bytes")).flatten() {
            self.check_bytes(&format!("{at}/bytes"), "bytes", size, BYTES.0, BYTES.1);
            inference.bytes = usize::try_from(size.0).unwrap_or(usize::MAX);
        }
        inference.running = self.bounded_count(at, "running", REQUESTS_MAX, inference.running);
        inference.loaded = self.bounded_count(at, "loaded", LOADED_MAX, inference.loaded);
        inference.refresh = self.bounded_time(at, "refresh", REFRESH, inference.refresh);
        inference.limits = self.model_limits(&format!("{at}/limits"), inference.limits);
        let at_models = format!("{at}/models");
        for model in self.names(&at_models) {
            let pointer = pointer_to(&at_models, &model);
            if !is_model_name(&model) {
                let message = format!("`{model}` is no name of a model");
                self.report(pointer.clone(), Place::Key, message, None);
            }
            let limits = self.model_limits(&pointer, inference.limits);
            inference.models.insert(model, limits);
        }
        inference.log = self.vector_log(&format!("{at}/log"));
        inference
    }

    fn vector_log(&mut self, at: &str) -> Option<VectorLogSpec> {
        let raw: ServeVectorLog = self.typed::<Option<_>>(at).flatten()?;
        let share = raw.share.unwrap_or(1.0);
        let is_share = share > 0.0 && share <= 1.0;
        if !is_share {
            let message = format!("`share` is {share}; it can be above 0 and up to 1");
            self.report(format!("{at}/share"), Place::Value, message, None);
        }
        let patience = raw.patience.unwrap_or(HumanDuration(Duration::from_secs(5)));
        self.check_time(&format!("{at}/patience"), "patience", patience, LOG_PATIENCE);
        let buffer = raw.buffer.unwrap_or(ByteSize(16 << 20));
        self.check_bytes(&format!("{at}/buffer"), "buffer", buffer, LOG_BYTES.0, LOG_BYTES.1);
        Some(VectorLogSpec {
            topic: raw.topic,
            share,
            required: raw.required,
            patience: patience.0,
            buffer_bytes: u32::try_from(buffer.0).unwrap_or(u32::MAX),
        })
    }

    fn model_limits(&mut self, at: &str, general: ModelLimits) -> ModelLimits {
        ModelLimits {
            running: self.bounded_count(at, "running", REQUESTS_MAX, general.running),
            rows: self.bounded_count(at, "rows", ROWS_MAX, general.rows),
            time: self.bounded_time(at, "time", TIME, general.time),
            batch: self.bounded_count(at, "batch", ROWS_MAX, general.batch),
            wait: self.bounded_time(at, "wait", WAIT, general.wait),
            missing: self
                .typed::<Option<MissingEntities>>(&format!("{at}/missing"))
                .flatten()
                .unwrap_or(general.missing),
        }
    }

    fn bounded_count(&mut self, at: &str, name: &str, most: u64, default: usize) -> usize {
        let pointer = format!("{at}/{name}");
        let Some(count) = self.typed::<Option<u64>>(&pointer).flatten() else { return default };
        self.check_count(&pointer, name, count, 1..=most);
        usize::try_from(count).unwrap_or(default)
    }

    fn bounded_time(
        &mut self,
        at: &str,
        name: &str,
        bounds: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let pointer = format!("{at}/{name}");
        let Some(time) = self.typed::<Option<HumanDuration>>(&pointer).flatten() else { return default };
        self.check_time(&pointer, name, time, bounds);
        time.0
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spec::schema::EXAMPLE;
    use crate::spec::{CheckOptions, check_text};

    fn check(serve: &str) -> Result<InferenceSpec, Vec<(String, String)>> {
        let text = format!("{EXAMPLE}serve:\n{serve}");
        let checked = check_text(&text, "topology.yaml", Path::new("/specs"), CheckOptions::default());
        checked.map(|topology| topology.serve.inference).map_err(|errors| {
            errors.problems.into_iter().map(|problem| (problem.pointer, problem.message)).collect()
        })
    }

    #[test]
    fn a_model_has_its_own_limits_and_otherwise_those_of_all() {
        let found = check(
            "  inference:
    bytes: 1MiB
    running: 10
    refresh: 1s
    loaded: 2
    limits: { running: 5, rows: 100, time: 1s, batch: 32, wait: 1ms, missing: fill }
    models: { late: { rows: 7, missing: error } }
    log: { topic: vectors, share: 0.25, required: true, patience: 2s, buffer: 2MiB }
",
        );
        let limits = ModelLimits {
            running: 5,
            rows: 100,
            time: Duration::from_secs(1),
            batch: 32,
            wait: Duration::from_millis(1),
            missing: MissingEntities::Fill,
        };
        let late = ModelLimits { rows: 7, missing: MissingEntities::Error, ..limits };
        let expected = InferenceSpec {
            bytes: 1 << 20,
            running: 10,
            refresh: Duration::from_secs(1),
            loaded: 2,
            limits,
            models: BTreeMap::from([("late".to_owned(), late)]),
            log: Some(VectorLogSpec {
                topic: "vectors".to_owned(),
                share: 0.25,
                required: true,
                patience: Duration::from_secs(2),
                buffer_bytes: 2 << 20,
            }),
        };
        let found = found.unwrap();
        assert_eq!(found, expected);
        assert_eq!((found.limits_of("late").rows, found.limits_of("other").rows), (7, 100));
        assert_eq!(check("  refresh: 1s\n").unwrap(), InferenceSpec::default());
        let log = check("  inference: { log: { topic: vectors } }\n").unwrap().log.unwrap();
        assert_eq!((log.share, log.required, log.buffer_bytes), (1.0, false, 16 << 20));
    }

    #[test]
    fn what_is_wrong_is_named_where_it_stands() {
        for (section, pointer) in [
            ("  inference: { bytes: 1B }\n", "/serve/inference/bytes"),
            ("  inference: { running: 0 }\n", "/serve/inference/running"),
            ("  inference: { loaded: 0 }\n", "/serve/inference/loaded"),
            ("  inference: { refresh: 1ms }\n", "/serve/inference/refresh"),
            ("  inference: { limits: { batch: 0 } }\n", "/serve/inference/limits/batch"),
            ("  inference: { limits: { wait: 2s } }\n", "/serve/inference/limits/wait"),
            ("  inference: { limits: { time: 1h } }\n", "/serve/inference/limits/time"),
            ("  inference: { limits: { missing: skip } }\n", "/serve/inference/limits/missing"),
            ("  inference: { models: { Late: {} } }\n", "/serve/inference/models/Late"),
            ("  inference: { models: { late: { rows: 0 } } }\n", "/serve/inference/models/late/rows"),
            ("  inference: { model: {} }\n", "/serve/inference/model"),
            ("  inference: { log: {} }\n", "/serve/inference/log"),
            ("  inference: { log: { topic: \"a b\" } }\n", "/serve/inference/log/topic"),
            ("  audit: { topic: t }\n  inference: { log: { topic: t } }\n", "/serve/inference/log/topic"),
            ("  inference: { log: { topic: t, share: 0 } }\n", "/serve/inference/log/share"),
            ("  inference: { log: { topic: t, share: 1.5 } }\n", "/serve/inference/log/share"),
            ("  inference: { log: { topic: t, buffer: 1KiB } }\n", "/serve/inference/log/buffer"),
            ("  inference: { log: { topic: t, patience: 2h } }\n", "/serve/inference/log/patience"),
        ] {
            let problems = check(section).expect_err(section);
            assert!(problems.iter().any(|(at, _)| at == pointer), "{section}: {problems:?}");
        }
    }
}
