//! The `models` section: with what `predict(…)` runs, what it may cost, and what it makes of NULL.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Place;
use super::resolve::Resolver;
use super::units::{ByteSize, HumanDuration};
use crate::commit::model::is_alias;
use crate::inference::{CHAMPION, InferenceLimits, Nulls};

const TIME: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
const BYTES: (u64, u64) = (1 << 10, 16 << 30);
const THREADS_MAX: u64 = 256;
const SESSIONS_MAX: u64 = 64;
const ROWS_MAX: u64 = 1 << 20;

/// How models are run that queries call with `predict('model', …)`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// ONNX Runtime's library, `libonnxruntime.so`, relative to the spec; PyPI's package `onnxruntime` has it in
    /// `onnxruntime/capi`. Default: the environment variable `ISOBAR_ONNXRUNTIME`.
    #[schemars(extend("examples" = ["/opt/onnxruntime/lib/libonnxruntime.so"]))]
    pub onnxruntime: Option<String>,

    /// Longest time that models may take for one batch of records, and for one call of a query; 10ms to 10m. Rows of a
    /// batch that takes longer go to the quarantine under `predict_timeout`. Default: 10s.
    pub time: Option<HumanDuration>,

    /// Largest model: of its file, and of all the tensors that it claims together. 1KiB to 16GiB. Default: 1GiB.
    pub bytes: Option<ByteSize>,

    /// Threads that one model runs on, 1 to 256. Default: 1.
    pub threads: Option<u64>,

    /// How often a model is loaded, to be asked by so many at the same time; 1 to 64. Default: 1.
    pub sessions: Option<u64>,

    /// Rows that a model is given at a time, at most; 1 to 1048576. What a model needs beside its file grows with them.
    /// Default: 4096.
    pub rows: Option<u64>,

    /// What becomes of a row of which a feature is NULL. Default: `error`.
    pub nulls: NullFeatures,

    /// What NULL stands for with `nulls: fill`. Default: none.
    pub fill: Option<f64>,

    /// Whether a feature may be NaN; without, such a row goes to the quarantine. Default: false.
    pub nan: bool,

    /// The alias of a version that is asked beside the champion, in its shadow: what it says is in the field `challenger`, and what
    /// goes wrong with it does not matter to the row. Default: none.
    #[schemars(extend("examples" = ["challenger"]))]
    pub shadow: Option<String>,
}

/// What becomes of a row of which a feature is NULL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum NullFeatures {
    /// It goes to the quarantine, under `predict_error`.
    #[default]
    Error,
    /// The feature is NaN.
    Nan,
    /// The feature is what `fill` says.
    Fill,
}

/// How models are run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelsSpec {
    /// ONNX Runtime's library, absolute; `None`: the environment says where it is.
    pub onnxruntime: Option<PathBuf>,
    /// What a model may cost, and what it may be given.
    pub limits: InferenceLimits,
    /// The alias of the version in the shadow of the champion.
    pub shadow: Option<String>,
}

impl Resolver<'_> {
    /// The section, without what is wrong in it.
    pub(super) fn models(&mut self) -> ModelsSpec {
        let mut limits = InferenceLimits::default();
        if let Some(time) = self.typed::<Option<HumanDuration>>("/models/time").flatten() {
            self.check_time("/models/time", "time", time, TIME);
            limits.time_max = time.0;
        }
        if let Some(size) = self.typed::<Option<ByteSize>>("/models/bytes").flatten() {
            self.check_bytes("/models/bytes", "bytes", size, BYTES.0, BYTES.1);
            limits.model_bytes_max = size.0;
        }
        limits.threads = self.count("threads", THREADS_MAX, limits.threads);
        limits.sessions = self.count("sessions", SESSIONS_MAX, limits.sessions);
        limits.rows_per_run = self.count("rows", ROWS_MAX, limits.rows_per_run);
        limits.nulls = self.null_features();
        limits.nan_allowed = self.typed("/models/nan").unwrap_or_default();
        ModelsSpec { onnxruntime: self.library(), limits, shadow: self.shadow() }
    }

    fn library(&mut self) -> Option<PathBuf> {
        let path = self.typed::<Option<String>>("/models/onnxruntime").flatten()?;
        if path.is_empty() {
            let suggestion = "name the library, such as `/opt/onnxruntime/lib/libonnxruntime.so`".to_owned();
            self.report("/models/onnxruntime", Place::Value, "`onnxruntime` is empty", Some(suggestion));
        }
        Some(self.folder.join(path))
    }

    fn count(&mut self, name: &str, most: u64, default: usize) -> usize {
        let pointer = format!("/models/{name}");
        let Some(count) = self.typed::<Option<u64>>(&pointer).flatten() else { return default };
        self.check_count(&pointer, name, count, 1..=most);
        usize::try_from(count).unwrap_or(default)
    }

    fn null_features(&mut self) -> Nulls {
        let fill = self.typed::<Option<f64>>("/models/fill").flatten();
        let nulls = self.typed("/models/nulls").unwrap_or_default();
        match (nulls, fill) {
            (NullFeatures::Fill, Some(value)) if value.is_finite() => Nulls::Fill(value),
            (NullFeatures::Fill, _) => {
                let suggestion = Some("say what NULL stands for, such as `fill: 0`".to_owned());
                self.report(
                    "/models/nulls",
                    Place::Value,
                    "`nulls` is `fill`, and there is no `fill`",
                    suggestion,
                );
                Nulls::Refuse
            }
            (_, Some(_)) => {
                let suggestion = Some("write `nulls: fill`, or leave `fill` out".to_owned());
                self.report("/models/fill", Place::Key, "`fill` has no effect", suggestion);
                Nulls::Refuse
            }
            (NullFeatures::Nan, None) => Nulls::Nan,
            (NullFeatures::Error, None) => Nulls::Refuse,
        }
    }

    fn shadow(&mut self) -> Option<String> {
        let alias = self.typed::<Option<String>>("/models/shadow").flatten()?;
        if !is_alias(&alias) {
            let message = format!(
                "`{alias}` is no alias: lower-case letters, digits, `_` and `-`, beginning with a letter"
            );
            self.report("/models/shadow", Place::Value, message, None);
        } else if alias == CHAMPION {
            let message = "the champion cannot be in its own shadow";
            self.report("/models/shadow", Place::Value, message, Some("name another alias".to_owned()));
        }
        Some(alias)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{CheckOptions, Topology, check_text};
    use super::*;

    const EXAMPLE: &str = include_str!("example.yaml");

    fn check(section: &str) -> Result<Topology, Vec<(String, String)>> {
        let text = format!("{EXAMPLE}models:\n{section}");
        check_text(&text, "topology.yaml", Path::new("/specs"), CheckOptions::default()).map_err(|errors| {
            errors.problems.into_iter().map(|problem| (problem.pointer, problem.message)).collect()
        })
    }

    #[test]
    fn a_whole_section_is_understood() {
        let models = check(
            "  onnxruntime: lib/libonnxruntime.so
  time: 2s
  bytes: 1MiB
  threads: 2
  sessions: 3
  rows: 1000
  nulls: fill
  fill: -1.5
  nan: true
  shadow: challenger
",
        );
        let limits = InferenceLimits {
            time_max: Duration::from_secs(2),
            model_bytes_max: 1 << 20,
            threads: 2,
            sessions: 3,
            rows_per_run: 1000,
            nulls: Nulls::Fill(-1.5),
            nan_allowed: true,
        };
        let onnxruntime = Some(PathBuf::from("/specs/lib/libonnxruntime.so"));
        let expected = ModelsSpec { onnxruntime, limits, shadow: Some("challenger".into()) };
        assert_eq!(models.unwrap().models, expected);
        assert_eq!(check("  nulls: nan\n").unwrap().models.limits.nulls, Nulls::Nan);
        let without = check_text(EXAMPLE, "topology.yaml", Path::new("/specs"), CheckOptions::default());
        assert_eq!(without.unwrap().models, ModelsSpec::default());
    }

    #[test]
    fn all_that_is_wrong_is_named_at_once_where_it_stands() {
        let problems = check(
            "  onnxruntime: \"\"
  time: 1ms
  bytes: 1B
  threads: 0
  sessions: 65
  rows: 0
  fill: 1
  shadow: champion
",
        )
        .unwrap_err();
        let found: Vec<&str> = problems.iter().map(|(pointer, _)| pointer.as_str()).collect();
        for field in ["onnxruntime", "time", "bytes", "threads", "sessions", "rows", "fill", "shadow"] {
            assert!(found.contains(&format!("/models/{field}").as_str()), "{field}: {problems:?}");
        }
        for (section, pointer) in [
            ("  nulls: fill\n", "/models/nulls"),
            ("  nulls: zero\n", "/models/nulls"),
            ("  shadow: a b\n", "/models/shadow"),
            ("  library: x\n", "/models/library"),
        ] {
            let problems = check(section).expect_err(section);
            assert!(problems.iter().any(|(at, _)| at == pointer), "{section}: {problems:?}");
        }
    }
}
