//! What a feature looked like in training, as `statistics.json` of a model says, and the bins that later values are counted in.
//!
//! `docs/training-models.md` has the format. The file comes from whoever trained: it is bounded and checked before anything is
//! counted by it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::distances::total;
use crate::query::time_ms;

/// The format that is known.
const FORMAT: &str = "isobar feature statistics 1";
/// Edges that a feature may have.
const EDGES_MAX: usize = 1_000;
/// Categories that a feature may have.
const VALUES_MAX: usize = 100_000;
/// Categories that have a bin of their own.
const CATEGORIES_MAX: usize = 50;

/// `statistics.json`.
#[derive(Debug, Clone)]
pub(super) struct Statistics {
    /// When the first row that was learnt from happened, in milliseconds since the Unix epoch.
    pub(super) from_ms: i64,
    /// The same of the last row.
    pub(super) to_ms: i64,
    /// The features by name.
    pub(super) features: BTreeMap<String, Bins>,
    /// The labels, if they were counted.
    pub(super) label: Option<Bins>,
    /// The model's answers, if they were counted.
    pub(super) prediction: Option<Bins>,
}

#[derive(Deserialize)]
struct File {
    format: String,
    from: String,
    to: String,
    features: BTreeMap<String, Feature>,
    #[serde(default)]
    label: Option<Labels>,
    #[serde(default)]
    prediction: Option<Feature>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Feature {
    Category { rows: u64, missing: u64, counts: BTreeMap<String, u64> },
    Number { rows: u64, missing: u64, edges: Vec<f64>, counts: Vec<u64> },
}

#[derive(Deserialize)]
struct Labels {
    rows: u64,
    counts: BTreeMap<String, u64>,
}

impl Statistics {
    /// Reads the file.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if file.format != FORMAT {
            return Err(format!("its format is {:.100?}, and only {FORMAT:?} is known", file.format));
        }
        let time = |text: &str| time_ms(text).ok_or_else(|| format!("{text:.100?} is no time"));
        let (from_ms, to_ms) = (time(&file.from)?, time(&file.to)?);
        if from_ms > to_ms {
            return Err("it ends before it begins".to_owned());
        }
        let bins = |name: &str, feature: Feature| {
            Bins::of(feature).map_err(|problem| format!("{name:.100}: {problem}"))
        };
        let label = file.label.map(|Labels { rows, counts }| Feature::Category { rows, missing: 0, counts });
        let features = file.features.into_iter().map(|(name, feature)| {
            let bins = bins(&name, feature)?;
            Ok::<_, String>((name, bins))
        });
        Ok(Self {
            from_ms,
            to_ms,
            features: features.collect::<Result<_, _>>()?,
            label: label.map(|label| bins("label", label)).transpose()?,
            prediction: file.prediction.map(|answers| bins("prediction", answers)).transpose()?,
        })
    }
}

/// How values are told apart.
#[derive(Debug, Clone, PartialEq)]
enum Scale {
    /// Ascending and all different: below the first, from the first to below the second, …, from the last on.
    Edges(Vec<f64>),
    /// The bins of categories that training knew.
    Values(BTreeMap<i64, usize>),
}

/// The bins of a feature: those of its values, and the last one for what is missing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bins {
    scale: Scale,
    /// What is in each, for people.
    pub(super) labels: Vec<String>,
    /// How many rows of training are in each.
    pub(super) trained: Vec<u64>,
}

impl Bins {
    fn of(feature: Feature) -> Result<Self, String> {
        let (bins, rows) = match feature {
            Feature::Number { rows, missing, edges, counts } => {
                (Self::numbers(edges, counts, missing)?, rows)
            }
            Feature::Category { rows, missing, counts } => (Self::categories(&counts, missing)?, rows),
        };
        let counted = bins.trained.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
        if counted != Some(rows) || rows == 0 {
            return Err(format!("its counts are not those of {rows} rows"));
        }
        Ok(bins)
    }

    fn numbers(edges: Vec<f64>, counts: Vec<u64>, missing: u64) -> Result<Self, String> {
        let edges: Vec<f64> = edges.into_iter().map(snapped).collect();
        let is_ascending = edges.windows(2).all(|pair| pair[0] <= pair[1]);
        if edges.is_empty()
            || edges.len() > EDGES_MAX
            || !is_ascending
            || !edges.iter().all(|e| e.is_finite())
        {
            return Err(format!("its edges are not ascending numbers, at most {EDGES_MAX}"));
        }
        if counts.len() != edges.len() + 1 {
            return Err(format!("{} edges have {} counts", edges.len(), counts.len()));
        }
        let mut labels = vec![format!("below {}", edges[0])];
        labels.extend(edges.windows(2).map(|pair| format!("{} to below {}", pair[0], pair[1])));
        labels.extend(edges.last().map(|last| format!("{last} and above")));
        labels.push("missing".to_owned());
        let mut trained = counts;
        trained.push(missing);
        Ok(Self { scale: Scale::Edges(edges), labels, trained })
    }

    /// The most frequent values, all others that are known, those that are not, and what is missing.
    fn categories(counts: &BTreeMap<String, u64>, missing: u64) -> Result<Self, String> {
        if counts.is_empty() || counts.len() > VALUES_MAX {
            return Err(format!("it has {} categories, and 1 to {VALUES_MAX} can be", counts.len()));
        }
        let mut values = Vec::with_capacity(counts.len());
        for (text, count) in counts {
            let value: i64 =
                text.parse().map_err(|_| format!("the category {text:.100?} is no whole number"))?;
            values.push((value, *count));
        }
        if values.iter().map(|(value, _)| value).collect::<BTreeSet<_>>().len() != values.len() {
            return Err("a category is there twice".to_owned());
        }
        values.sort_unstable_by_key(|(value, count)| (std::cmp::Reverse(*count), *value));
        let own = values.len().min(CATEGORIES_MAX);
        let mut labels: Vec<String> = values[..own].iter().map(|(value, _)| value.to_string()).collect();
        let mut trained: Vec<u64> = values[..own].iter().map(|(_, count)| *count).collect();
        let others = values[own..].iter().try_fold(0u64, |sum, (_, count)| sum.checked_add(*count));
        labels.extend(["others that training knew", "never seen", "missing"].map(str::to_owned));
        trained.extend([others.ok_or("its counts are too large")?, 0, missing]);
        let bins = values.iter().enumerate().map(|(at, (value, _))| (*value, at.min(own)));
        Ok(Self { scale: Scale::Values(bins.collect()), labels, trained })
    }

    /// Where `value` is counted; NaN is missing.
    pub(super) fn bin(&self, value: Option<f64>) -> usize {
        let missing = self.missing();
        match (&self.scale, value) {
            (_, None) => missing,
            (_, Some(value)) if value.is_nan() => missing,
            (Scale::Edges(edges), Some(value)) => edges.partition_point(|edge| *edge <= value),
            (Scale::Values(bins), Some(value)) => {
                // Beyond 2^53 a double is no whole number of its own.
                let is_whole = value.fract() == 0.0 && value.abs() < 9e15;
                let known = is_whole.then(|| bins.get(&(value as i64)).copied()).flatten();
                known.unwrap_or(missing - 1)
            }
        }
    }

    /// The bin of what is missing.
    pub(super) fn missing(&self) -> usize {
        self.labels.len() - 1
    }

    /// By how much more than chance `counts` differ from training's, if they do: the share of rows in one bin.
    pub(super) fn disagreement(&self, counts: &[u64]) -> Option<f64> {
        let rows = (total(&self.trained) as f64, total(counts) as f64);
        if rows.1 == 0.0 {
            return Some(1.0);
        }
        // A trial may have learnt from every twentieth row.
        let allowed = 0.01 + 3.0 / rows.0.min(rows.1).sqrt();
        let shares = self.trained.iter().zip(counts).map(|(t, c)| *t as f64 / rows.0 - *c as f64 / rows.1);
        let largest = shares.map(f64::abs).fold(0.0, f64::max);
        (largest > allowed).then_some(largest)
    }
}

/// An edge as it was written. Numbers are read to within a unit in the last place, and values are float32: one that equals an edge has to be
/// counted from the edge on, as in training. Between float32 numbers so small a difference decides nothing; edges that it makes equal have nothing
/// between them.
fn snapped(edge: f64) -> f64 {
    let nearest = f64::from(edge as f32);
    if (edge - nearest).abs() <= 4.0 * f64::EPSILON * edge.abs() { nearest } else { edge }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Statistics with a number `x` and a category `c`.
    pub(in crate::drift) fn example() -> serde_json::Value {
        serde_json::json!({
            "format": FORMAT,
            "rows": 10,
            "from": "2013-01-01T10:15:00+00:00",
            "to": "2013-08-31T03:59:00+00:00",
            "features": {
                "x": { "kind": "number", "rows": 10, "missing": 1, "mean": 1.0, "edges": [0.0, 1.5, 2.0], "counts": [0, 4, 3, 2] },
                "c": { "kind": "category", "rows": 10, "missing": 0, "counts": { "65": 7, "66": 3 } }
            },
            "label": { "rows": 10, "counts": { "0": 8, "1": 2 } }
        })
    }

    fn parsed(statistics: &serde_json::Value) -> Result<Statistics, String> {
        Statistics::parse(statistics.to_string().as_bytes())
    }

    #[test]
    fn values_fall_into_the_bins_of_training() {
        let statistics = parsed(&example()).unwrap();
        let x = &statistics.features["x"];
        let bins = [-1.0, 0.0, 1.4, 1.5, 1.9, 2.0, 1e9, f64::NAN].map(|value| x.bin(Some(value)));
        assert_eq!(bins, [0, 1, 1, 2, 2, 3, 3, 4]);
        assert_eq!((x.bin(None), x.trained.as_slice()), (4, [0, 4, 3, 2, 1].as_slice()));
        assert_eq!(x.labels, ["below 0", "0 to below 1.5", "1.5 to below 2", "2 and above", "missing"]);
        let c = &statistics.features["c"];
        let bins = [65.0, 66.0, 67.0, 65.5, f64::INFINITY].map(|value| c.bin(Some(value)));
        assert_eq!((bins, c.bin(None)), ([0, 1, 3, 3, 3], 4));
        assert_eq!(c.trained, [7, 3, 0, 0, 0]);
        assert_eq!(statistics.label.unwrap().trained, [8, 2, 0, 0, 0]);
        assert_eq!((statistics.from_ms, statistics.prediction), (1_357_035_300_000, None));
    }

    #[test]
    fn an_edge_that_is_read_a_little_off_is_the_value_that_it_was() {
        let value = f64::from(39.02f32);
        for read in [value, f64::from_bits(value.to_bits() + 1), f64::from_bits(value.to_bits() - 1)] {
            let bins = Bins::numbers(vec![0.0, read, 50.0], vec![0, 5, 5, 0], 0).unwrap();
            assert_eq!(bins.bin(Some(value)), 2, "{read}");
        }
        let between = 39.021;
        assert_eq!((snapped(between), snapped(0.0)), (between, 0.0));
    }

    #[test]
    fn rare_categories_share_a_bin() {
        let counts: BTreeMap<String, u64> =
            (0..60u64).map(|value| (value.to_string(), 1000 - value)).collect();
        let bins = Bins::categories(&counts, 5).unwrap();
        assert_eq!(bins.labels.len(), CATEGORIES_MAX + 3);
        assert_eq!([0.0, 49.0, 50.0, 59.0, 60.0].map(|value| bins.bin(Some(value))), [0, 49, 50, 50, 51]);
        assert_eq!(total(&bins.trained), counts.values().sum::<u64>() + 5);
    }

    #[test]
    fn statistics_that_cannot_be_so_are_refused() {
        for (pointer, wrong, problem) in [
            ("/format", serde_json::json!("other"), "format"),
            ("/from", serde_json::json!("yesterday"), "no time"),
            ("/from", serde_json::json!("2014-01-01T00:00:00Z"), "before it begins"),
            ("/features/x/rows", serde_json::json!(11), "x: its counts are not those of 11 rows"),
            ("/features/x/edges", serde_json::json!([0.0, 2.0, 1.5]), "ascending"),
            ("/features/x/edges", serde_json::json!([]), "ascending"),
            ("/features/x/counts", serde_json::json!([9]), "3 edges have 1 counts"),
            ("/features/x/counts", serde_json::json!([u64::MAX, 4, 3, 2]), "not those of 10 rows"),
            ("/features/c/counts", serde_json::json!({ "A": 10 }), "no whole number"),
            ("/features/c/counts", serde_json::json!({ "1": 5, "01": 5 }), "twice"),
            ("/features/c/counts", serde_json::json!({}), "0 categories"),
        ] {
            let mut statistics = example();
            *statistics.pointer_mut(pointer).unwrap() = wrong;
            let error = parsed(&statistics).unwrap_err();
            assert!(error.contains(problem), "expected {problem:?}, got {error:?}");
        }
    }

    #[test]
    fn other_rows_than_those_of_training_disagree() {
        let many = |counts: [u64; 5]| counts.map(|count| count * 100_000);
        let mut statistics = example();
        let x = &mut statistics["features"]["x"];
        x["rows"] = 1_000_000.into();
        x["missing"] = 100_000.into();
        x["counts"] = serde_json::json!([0, 400_000, 300_000, 200_000]);
        let statistics = parsed(&statistics).unwrap();
        let x = &statistics.features["x"];
        assert_eq!(x.disagreement(&many([0, 4, 3, 2, 1])), None);
        assert!(x.disagreement(&many([0, 3, 4, 2, 1])).is_some_and(|share| (share - 0.1).abs() < 1e-9));
        assert_eq!(x.disagreement(&[0; 5]), Some(1.0));
    }
}
