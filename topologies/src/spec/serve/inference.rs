//! `serve.inference`: what requests of the inference protocol may cost.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::commit::model::is_model_name;
use crate::spec::check::Place;
use crate::spec::raw::Entries;
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
        inference
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
        };
        let found = found.unwrap();
        assert_eq!(found, expected);
        assert_eq!((found.limits_of("late").rows, found.limits_of("other").rows), (7, 100));
        assert_eq!(check("  refresh: 1s\n").unwrap(), InferenceSpec::default());
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
        ] {
            let problems = check(section).expect_err(section);
            assert!(problems.iter().any(|(at, _)| at == pointer), "{section}: {problems:?}");
        }
    }
}
