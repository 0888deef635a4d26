//! What was found, as Prometheus reads it: for the text file collector of a node exporter.
//!
//! Label values are names of the model and its features, so that the number of series is bounded by the model.

use std::path::Path;

use prometheus::{Encoder, GaugeVec, Opts, Registry, TextEncoder};

use super::check::DriftReport;
use super::replace_file;
use crate::error::Error;

/// Writes the metrics of the newest window, the whole file at once.
///
/// # Errors
/// [`Error::LocalFile`] if it cannot be written.
pub fn write_metrics(report: &DriftReport, path: &Path) -> Result<(), Error> {
    let text = encoded(report).map_err(|error| Error::Bug(format!("metrics of drift: {error}")))?;
    replace_file(path, &text, "metrics")
}

fn encoded(report: &DriftReport) -> Result<Vec<u8>, prometheus::Error> {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str, labels: &[&str]| {
        let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok::<_, prometheus::Error>(gauge)
    };
    let by_distance = ["model", "feature", "distance"];
    let distances = gauge(
        "isobar_drift_distance",
        "Distance of a feature in the newest window from the reference.",
        &by_distance,
    )?;
    let limits =
        gauge("isobar_drift_limit", "From which distance on a feature alarms by itself.", &by_distance)?;
    let alarms =
        gauge("isobar_drift_alarm", "Whether a feature of the newest window alarms.", &["model", "feature"])?;
    let judged =
        gauge("isobar_drift_features_judged", "Features of the newest window that were judged.", &["model"])?;
    let ends = gauge(
        "isobar_drift_window_end_seconds",
        "End of the newest window, seconds since the Unix epoch.",
        &["model"],
    )?;
    let model = report.model.as_str();
    if let Some(window) = report.windows.last() {
        for feature in &window.features {
            let name = feature.feature.as_str();
            for found in &feature.distances {
                let labels = [model, name, found.distance.name()];
                distances.with_label_values(&labels).set(found.value);
                limits.with_label_values(&labels).set(found.limit);
            }
            if feature.not_judged.is_none() {
                alarms.with_label_values(&[model, name]).set(f64::from(u8::from(feature.alarm)));
            }
        }
        let count = window.features.iter().filter(|feature| feature.not_judged.is_none()).count();
        judged.with_label_values(&[model]).set(count as f64);
        ends.with_label_values(&[model]).set(window.to_ms as f64 / 1000.0);
    }
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::check::FeatureReport;
    use super::super::check::tests::{feature, report, week};
    use super::*;

    #[test]
    fn the_newest_window_is_told() {
        let not_judged = FeatureReport {
            not_judged: Some("7 rows are too few".into()),
            distances: Vec::new(),
            ..feature("y", 0.0)
        };
        let windows = vec![week(vec![feature("x", 0.1)]), week(vec![feature("x", 0.5), not_judged])];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drift.prom");
        std::fs::write(&path, "something older").unwrap();
        write_metrics(&report(windows), &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for line in [
            r#"isobar_drift_distance{distance="psi",feature="x",model="late"} 0.5"#,
            r#"isobar_drift_limit{distance="psi",feature="x",model="late"} 0.25"#,
            r#"isobar_drift_alarm{feature="x",model="late"} 1"#,
            r#"isobar_drift_features_judged{model="late"} 1"#,
            r#"isobar_drift_window_end_seconds{model="late"} 1381190400"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("older") && !text.contains(r#"feature="y""#), "{text}");
    }
}
