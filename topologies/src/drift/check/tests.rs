use super::super::bins::tests::example;
use super::*;
use crate::spec::{CheckOptions, check_text};

const DAYS: i64 = 70;

fn topology() -> Topology {
    let text = "topology: flights\nkafka:\n  brokers: localhost:9092\nclouds:\n  aws: { url: \"file:./aws\" }\n\
                sources:\n  flights:\n    topic: flights\n    format: json\n    fields: { x: float64 }\n\
                datasets:\n  scored:\n    from: flights\n    sql: SELECT x FROM flights\n";
    let folder = std::env::temp_dir();
    check_text(text, "topology.yaml", &folder, CheckOptions::default()).unwrap()
}

/// A check of two windows of a week, whose reference is the ten weeks before.
fn asked() -> Check {
    Check {
        topology: topology(),
        model: "late".parse().unwrap(),
        rows: RowsOf::dataset("scored", "at"),
        reference_rows: None,
        reference: ReferenceDays::Before(DAYS as u32),
        versions: SetVersions::Newest,
        window_days: 7,
        windows: 2,
        until_day: Some(1000),
        false_alarms: 0.01,
        minimum: Minimum { psi: 0.1, jensen_shannon: 0.02, l_infinity: 0.05 },
        prediction: None,
        label: None,
        labelled: 0.95,
    }
}

fn statistics() -> Statistics {
    Statistics::parse(example().to_string().as_bytes()).unwrap()
}

fn column(name: &str, is_label: bool) -> Column {
    let statistics = statistics();
    let bins = if is_label { statistics.label.unwrap() } else { statistics.features[name].clone() };
    Column { name: name.to_owned(), column: name.to_owned(), bins, is_of_training: !is_label, is_label }
}

/// So many days with `counts`, of which the first bin has a few rows more or less from day to day.
fn days(count: i64, counts: [u64; 5]) -> Days {
    (0..count)
        .map(|day| {
            [counts[0] + [0, 5, 2, 7][day as usize % 4], counts[1], counts[2], counts[3], counts[4]].to_vec()
        })
        .collect()
}

#[test]
fn a_shift_alarms_in_its_window_and_its_feature_only() {
    let columns = [column("x", false), column("c", false)];
    let usual = [100, 50, 50, 10, 5];
    let held = [days(DAYS, usual), days(DAYS, usual)];
    let mut windows = [days(14, usual), days(14, usual)];
    windows[1].truncate(7);
    windows[1].extend(days(7, [50, 100, 50, 10, 5]));
    let reports = judged(&asked(), &columns, &held, &windows, Span(986, 1000));
    let alarms = reports.iter().flat_map(|window| window.features.iter().map(|feature| feature.alarm));
    assert_eq!(alarms.collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(
        (reports[1].from.as_str(), reports[1].to.as_str()),
        ("1972-09-20T00:00:00.000Z", "1972-09-27T00:00:00.000Z")
    );
    let shifted = &reports[1].features[1];
    assert!(shifted.distances.iter().all(|distance| distance.alarm && distance.value > distance.limit));
    let report = report(reports);
    let (window, features) = report.newest_alarm().unwrap();
    assert_eq!((window.to_ms, features), (1000 * DAY_MS, vec!["c"]));
    assert!(report.to_table().contains("DRIFT"));
}

#[test]
fn a_difference_that_is_certain_and_small_is_no_alarm() {
    let columns = [column("x", false)];
    let many = [1_000_000, 500_000, 500_000, 100_000, 50_000];
    let held = [days(DAYS, many)];
    let slight = [1_010_000, 490_000, 500_000, 100_000, 50_000];
    let reports = judged(&asked(), &columns, &held, &[days(14, slight)], Span(986, 1000));
    let feature = &reports[0].features[0];
    assert!(
        feature.distances.iter().all(|distance| distance.adjusted < 0.01 && !distance.alarm),
        "{feature:?}"
    );
    let mut lower = asked();
    lower.minimum = Minimum { psi: 0.0, jensen_shannon: 0.0, l_infinity: 0.0 };
    assert!(judged(&lower, &columns, &held, &[days(14, slight)], Span(986, 1000))[0].features[0].alarm);
}

#[test]
fn labels_wait_until_they_are_there_and_missing_ones_are_no_value() {
    let columns = [column("label", true)];
    // Bins: 0, 1, others, never seen, missing.
    let held = [days(DAYS, [80, 20, 0, 0, 0])];
    let mut windows = days(7, [80, 20, 0, 0, 3]);
    windows.extend(days(7, [40, 10, 0, 0, 50]));
    let reports = judged(&asked(), &columns, &held, &[windows], Span(986, 1000));
    let arrived = &reports[0].features[0];
    assert!(arrived.not_judged.is_none() && !arrived.alarm, "{arrived:?}");
    let waiting = &reports[1].features[0];
    assert_eq!(waiting.not_judged.as_deref(), Some("371 of 721 labels are there"));
    assert!(waiting.distances.is_empty() && !waiting.alarm);
    // However few labels are asked for, a handful says nothing.
    let check = Check { labelled: 0.0, windows: 1, ..asked() };
    let handful = vec![vec![3, 1, 0, 0, 100]; 7];
    let reports = judged(&check, &columns, &held, &[handful], Span(993, 1000));
    assert_eq!(reports[0].features[0].not_judged.as_deref(), Some("28 of 728 labels are there"));
}

#[test]
fn what_cannot_be_judged_says_why() {
    let columns = [column("x", false)];
    let held = [days(34, [100, 50, 50, 10, 5])];
    let reports = judged(&asked(), &columns, &held, &[days(14, [100, 50, 50, 10, 5])], Span(986, 1000));
    assert!(reports[0].features[0].not_judged.as_deref().unwrap().contains("34 days"));
    let held = [days(DAYS, [100, 50, 50, 10, 5])];
    let few = vec![vec![1, 0, 0, 0, 0]; 14];
    let reports = judged(&asked(), &columns, &held, &[few], Span(986, 1000));
    assert_eq!(reports[0].features[0].not_judged.as_deref(), Some("7 rows are too few"));
    let report = report(reports);
    assert!(report.newest_alarm().is_none());
    // What was not tested has no probability.
    let table = report.to_table();
    assert!(table.contains("7 rows are too few") && !table.contains("1.00e0"), "{table}");
}

#[test]
fn counts_have_a_bound() {
    let columns = [column("x", false), column("c", false)];
    assert!(countable(&columns, Span(0, 3_000_000)).is_ok());
    let error = countable(&columns, Span(0, 4_000_000)).unwrap_err().to_string();
    assert!(error.contains("2 columns with 10 bins over 4000000 days"), "{error}");
}

#[test]
fn windows_and_reference_do_not_overlap() {
    let statistics = statistics();
    let mut check = asked();
    assert_eq!(spans(&check, &statistics, 1000).unwrap(), (Span(916, 986), Span(986, 1000)));
    check.reference = ReferenceDays::Training;
    // 2013-01-01 and 2013-09-01.
    assert_eq!(spans(&check, &statistics, 15_963).unwrap().0, Span(15_706, 15_949));
    let error = spans(&check, &statistics, 15_962).unwrap_err().to_string();
    assert!(error.contains("cannot be held against itself"), "{error}");
    check.reference = ReferenceDays::Days(10, 10);
    assert!(spans(&check, &statistics, 1000).is_err());
}

/// A report of these windows.
pub(in crate::drift) fn report(windows: Vec<WindowReport>) -> DriftReport {
    DriftReport {
        model: "late".to_owned(),
        version: 1,
        sha256: "ab".repeat(32),
        reference_from: "2013-01-01T00:00:00.000Z".to_owned(),
        reference_to: "2013-09-01T00:00:00.000Z".to_owned(),
        reference_rows: 1000,
        read: Vec::new(),
        false_alarms: 0.01,
        tests: 3,
        alarms: windows.iter().flat_map(|window| &window.features).filter(|feature| feature.alarm).count(),
        windows,
    }
}

/// A week with these features.
pub(in crate::drift) fn week(features: Vec<FeatureReport>) -> WindowReport {
    WindowReport {
        from: "2013-10-01T00:00:00.000Z".to_owned(),
        to: "2013-10-08T00:00:00.000Z".to_owned(),
        to_ms: 1_381_190_400_000,
        rows: 100,
        features,
    }
}

/// A feature with this stability index, which alarms from a quarter on.
pub(in crate::drift) fn feature(name: &str, psi: f64) -> FeatureReport {
    let alarm = psi >= 0.25;
    FeatureReport {
        feature: name.to_owned(),
        not_judged: None,
        alarm,
        distances: vec![DistanceReport {
            distance: Distance::Psi,
            value: psi,
            limit: 0.25,
            p_value: 0.001,
            adjusted: 0.002,
            alarm,
        }],
        bins: vec![
            BinReport { label: "\"1\" to below 2".to_owned(), reference: 0.5, window: 1.0 },
            BinReport { label: "2 & above".to_owned(), reference: 0.5, window: 0.0 },
        ],
    }
}
