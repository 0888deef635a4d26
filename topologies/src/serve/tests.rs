//! How a server is started, as far as that can be seen without one.

use super::*;
use crate::spec::{CheckOptions, check_text};

fn topology(serve: &str) -> Topology {
    let text = format!(
        "
topology: t
kafka: {{ brokers: a:1 }}
clouds: {{ a: {{ url: ./data }} }}
serve: {serve}
sources: {{ s: {{ topic: s, format: json, fields: {{ x: int64 }} }} }}
datasets: {{ flights: {{ from: s, sql: 'SELECT x FROM s' }} }}
"
    );
    let folder = tempfile::tempdir().unwrap();
    check_text(&text, "t.yaml", folder.path(), CheckOptions::default())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[test]
fn views_pause_between_looks_whatever_queries_want() {
    assert_eq!(follow_interval(&topology("{ refresh: 0s }")), FOLLOW_INTERVAL_MIN);
    assert_eq!(follow_interval(&topology("{ refresh: 1ms }")), FOLLOW_INTERVAL_MIN);
    assert_eq!(follow_interval(&topology("{ refresh: 7s }")), Duration::from_secs(7));
}

#[test]
fn a_slow_reader_has_the_longest_time_that_a_query_may_have() {
    let role =
        "callers: { a: { token: '${env:A}', role: r } }, roles: { r: { all: true, limits: { time: 2h } } }";
    for (serve, expected) in [
        ("{}".to_owned(), Duration::from_secs(120)),
        ("{ limits: { time: 1h } }".to_owned(), Duration::from_secs(3600)),
        (format!("{{ {role} }}"), Duration::from_secs(7200)),
        (format!("{{ limits: {{ time: 3h }}, {role} }}"), Duration::from_secs(10_800)),
    ] {
        assert_eq!(bounds(&topology(&serve)).unread, expected, "{serve}");
    }
}
