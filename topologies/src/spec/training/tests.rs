use super::*;
use crate::spec::{CheckOptions, check_text};

const TOPOLOGY: &str = include_str!("../../../flight_delays/topology.yaml");

fn topology() -> Topology {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("flight_delays");
    check_text(TOPOLOGY, "topology.yaml", &folder, CheckOptions::default())
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn resolved(text: &str) -> Result<Request, SpecErrors> {
    let raw = parse(text, "set.yaml")?;
    resolve(&raw, &topology(), text, "set.yaml")
}

const SET: &str = "training_set: late
topology: topology.yaml
spine:
  dataset: flight_features
  time: scheduled_at
  keys: [origin]
views:
  weather_hourly:
    time: observed_at
    features: [wind_speed_mph]
";

#[test]
fn what_is_not_said_has_its_default() {
    let request = resolved(SET).unwrap();
    assert_eq!(request.spine.source, SpineSource::Dataset("flight_features".into()));
    assert_eq!((request.spine.labels, request.spine.condition), (None, None));
    let [view] = request.views.as_slice() else { panic!("{:?}", request.views) };
    assert_eq!(view.dataset, "weather_hourly");
    assert_eq!((&view.keys, &view.spine_keys), (&vec!["origin".to_owned()], &vec!["origin".to_owned()]));
    assert_eq!((&view.known_time, &view.offset, view.ttl_ms), (&KnownTime::IfThere, &None, None));
    assert_eq!(view.features[0].name, "weather_hourly__wind_speed_mph");
}

#[test]
fn what_is_said_counts() {
    let text = SET.replace("    features", "    keys: [station]\n    spine_keys: [dest]\n    features")
        + "    rename: { wind_speed_mph: wind }\n    prefix: w\n    ttl: 1h30m\n    version: 7\n    ignore_known_time: true\n";
    let request = resolved(&text).unwrap();
    let view = &request.views[0];
    assert_eq!((view.keys[0].as_str(), view.spine_keys[0].as_str()), ("station", "dest"));
    assert_eq!(view.features[0], Feature { column: "wind_speed_mph".into(), name: "w__wind".into() });
    assert_eq!((view.at, view.ttl_ms), (Some(At::Version(7)), Some(5_400_000)));
    assert_eq!(view.known_time, KnownTime::Ignored);
    let text = SET.to_owned() + "    at: 1970-01-01T00:00:01Z\n    prefix: ''\n";
    let request = resolved(&text).unwrap();
    assert_eq!(request.views[0].at, Some(At::TimeMs(1000)));
    assert_eq!(request.views[0].features[0].name, "wind_speed_mph");
}

/// Line, column, and message of each problem.
fn problems(text: &str) -> Vec<(usize, usize, String)> {
    let errors = resolved(text).expect_err(text);
    errors.problems.into_iter().map(|problem| (problem.line, problem.column, problem.message)).collect()
}

#[test]
fn problems_have_places() {
    for (from, to, line, column, message) in [
        (
            "flight_features",
            "flight_feature",
            4,
            12,
            "the topology flight_delays has no dataset `flight_feature`",
        ),
        (
            "  weather_hourly:",
            "  weather_daily:",
            8,
            3,
            "the topology flight_delays has no dataset `weather_daily`",
        ),
        ("keys: [origin]", "keys: [origin, origin]", 6, 18, "`origin` is named twice"),
        ("keys: [origin]", "keys: []", 6, 3, "name a column at least"),
        ("[wind_speed_mph]", "[origin]", 10, 16, "`origin` is a key of the view"),
        (
            "  dataset: flight",
            "  file: a.csv\n  dataset: flight",
            3,
            1,
            "the rows of the spine cannot come from several places",
        ),
        ("  dataset: flight_features\n", "", 3, 1, "the spine says nothing about where its rows come from"),
        (
            "dataset: flight_features",
            "file: a.json",
            4,
            9,
            "`a.json` is neither a Parquet nor a CSV file by its ending",
        ),
        ("    time: observed", "    tme: observed", 9, 5, "unknown field `tme` in `weather_hourly`"),
        ("    time: observed", "    at: soon\n    time: observed", 9, 9, "`soon` is no time"),
        ("    time: observed", "    ttl: 3\n    time: observed", 9, 10, "`ttl` must be a duration such as"),
    ] {
        let text = SET.replacen(from, to, 1);
        let found = problems(&text);
        let (found_line, found_column, found_message) = &found[0];
        assert!(found_message.starts_with(message), "{found:?}");
        assert_eq!((*found_line, *found_column), (line, column), "{message}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = SET.replace("keys: [origin]", "keys: []").replace("flight_features", "nothing")
        + "    known_time: a\n    ignore_known_time: true\n    version: 1\n    at: '2026-01-01'\n    rename: { x: y }\n";
    let found = problems(&text);
    // Without keys of the spine the view has none either.
    assert_eq!(found.len(), 5, "{found:?}");
}

#[test]
fn features_have_different_names() {
    let text = SET.to_owned()
        + "  other:\n    dataset: weather_hourly\n    prefix: weather_hourly\n    features: [wind_speed_mph]\n";
    let found = problems(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].2.contains("a feature `weather_hourly__wind_speed_mph` already"), "{found:?}");
}

#[test]
fn the_examples_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("flight_delays");
    let set = load(&folder.join("late_arrivals.yaml")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(set.request.views[0].features[0].name, "weather__temperature");
    assert_eq!(set.request.topology, "flight_delays");
    let raw = parse(schema::TRAINING_SET_EXAMPLE, "example").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(raw.views.0.len(), 2);
}

#[test]
fn a_file_that_is_not_there_is_a_problem() {
    let errors = load(Path::new("/does/not/exist.yaml")).unwrap_err();
    assert!(errors.problems[0].message.starts_with("the training set cannot be read"), "{errors}");
}
