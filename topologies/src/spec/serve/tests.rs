//! `serve` as written, and what is wrong with it.

use std::path::Path;

use super::*;
use crate::spec::schema::EXAMPLE;
use crate::spec::{CheckOptions, SpecErrors, Topology, check_text};

fn check(serve: &str) -> Result<Topology, SpecErrors> {
    let text = format!("{EXAMPLE}serve:\n{serve}");
    check_text(&text, "topology.yaml", Path::new("/specs"), CheckOptions::default())
}

/// What is said of each problem.
fn problems(serve: &str) -> Vec<String> {
    let Err(errors) = check(serve) else { return Vec::new() };
    errors.problems.into_iter().map(|problem| problem.message).collect()
}

#[test]
fn nothing_said_is_everybody_on_this_machine_and_the_documented_limits() {
    let text = EXAMPLE;
    let topology = check_text(text, "topology.yaml", Path::new("/specs"), CheckOptions::default());
    let serve = topology.unwrap_or_else(|errors| panic!("{errors}")).serve;
    assert!(serve.callers.is_empty() && serve.jwt.is_none() && serve.roles.is_empty() && serve.tls.is_none());
    assert_eq!(serve.audit, None);
    assert_eq!(serve.refresh, Duration::from_secs(1));
    let expected = LimitsOfQueries {
        time: Duration::from_secs(60),
        memory_bytes: 96 << 20,
        disk_bytes: 4 << 30,
        rows: 10_000_000,
        bytes: 1 << 30,
        sql_bytes: 64 << 10,
        running: 8,
        waiting: 64,
    };
    assert_eq!(serve.limits, expected);
}

#[test]
fn everything_is_read_as_written() {
    let serve = check(
        "  callers:
    dashboards: { token: \"${env:DASHBOARDS}\", role: analyst }
    admin: { token: \"${file:admin}\" }
    robot: { certificate: \"URI:spiffe://example.com/robot\" }
  jwt: { issuer: https://issuer.example/, audience: isobar, jwks: ./jwks.json, secret: \"${env:SHARED}\", role_claim: group }
  roles:
    analyst:
      datasets:
        flight_features: { rows: carrier = 'UA', hide: [dep_time], hash: [carrier] }
        flight_features.quarantine: {}
    auditor: { all: true, limits: { time: 1m, rows: 5000, running: 3 } }
    guest: { limits: { memory: 1MiB, disk: 0B, bytes: 1MiB, sql: 1KiB } }
  limits: { time: 5s, memory: 64MiB, disk: 1GiB, rows: 1000, bytes: 8MiB, sql: 4KiB, running: 2, waiting: 0 }
  refresh: 500ms
  hash_key: \"${env:HASH_KEY}\"
  tls: { certificate: ./server.pem, private_key: /keys/server.pem, client_ca: ./clients.pem }
  audit: { topic: query_audit, required: true, patience: 2s, sql: 1KiB, parameters: true, buffer: 10 }
  workers: { urls: [http://10.0.0.1:8182, https://b/], secret: \"${env:SECRET}\", ca: ./workers.pem, share: 1MiB }
",
    );
    let serve = serve.unwrap_or_else(|errors| panic!("{errors}")).serve;
    let callers: Vec<(&str, Option<&str>)> =
        serve.callers.iter().map(|caller| (caller.name.as_str(), caller.role.as_deref())).collect();
    assert_eq!(callers, [("dashboards", Some("analyst")), ("admin", None), ("robot", None)]);
    let shown: Vec<(bool, Option<String>)> = serve
        .callers
        .iter()
        .map(|caller| (caller.token.is_some(), caller.certificate.as_ref().map(ToString::to_string)))
        .collect();
    let robot = Some("URI:spiffe://example.com/robot".to_owned());
    assert_eq!(shown, [(true, None), (true, None), (false, robot)]);
    let jwt = serve.jwt.unwrap();
    assert_eq!((jwt.issuer.as_str(), jwt.audience.as_str()), ("https://issuer.example/", "isobar"));
    assert_eq!(jwt.jwks.unwrap(), Path::new("/specs/./jwks.json"));
    assert!(jwt.secret.is_some());
    assert_eq!(jwt.role_claim, "group");
    let rule = TableRule {
        rows: Some("carrier = 'UA'".to_owned()),
        hide: ["dep_time".to_owned()].into(),
        hash: ["carrier".to_owned()].into(),
    };
    assert_eq!(serve.roles["analyst"].tables["flight_features"], rule);
    assert_eq!(serve.roles["analyst"].tables["flight_features.quarantine"], TableRule::default());
    assert!(serve.roles["auditor"].all && !serve.roles["analyst"].all);
    let limits = LimitsOfQueries {
        time: Duration::from_secs(5),
        memory_bytes: 64 << 20,
        disk_bytes: 1 << 30,
        rows: 1000,
        bytes: 8 << 20,
        sql_bytes: 4 << 10,
        running: 2,
        waiting: 0,
    };
    assert_eq!(serve.limits, limits);
    // What a role does not say is that of everybody.
    let auditor = LimitsOfQueries { time: Duration::from_secs(60), rows: 5000, running: 3, ..limits };
    assert_eq!(serve.roles["auditor"].limits, Some(auditor));
    let guest = LimitsOfQueries {
        memory_bytes: 1 << 20,
        disk_bytes: 0,
        bytes: 1 << 20,
        sql_bytes: 1 << 10,
        ..limits
    };
    assert_eq!(serve.roles["guest"].limits, Some(guest));
    assert_eq!(serve.roles["analyst"].limits, None);
    let has_places = |role: &str| serve.roles[role].has_places;
    assert!(has_places("auditor") && !has_places("guest") && !has_places("analyst"));
    assert_eq!(serve.refresh, Duration::from_millis(500));
    assert!(serve.hash_key.is_some());
    let audit = AuditSpec {
        topic: "query_audit".to_owned(),
        required: true,
        patience: Duration::from_secs(2),
        sql_bytes: 1 << 10,
        parameters: true,
        buffer: 10,
    };
    assert_eq!(serve.audit, Some(audit));
    let tls = serve.tls.unwrap();
    assert_eq!(tls.certificate, Path::new("/specs/./server.pem"));
    assert_eq!(tls.private_key, Path::new("/keys/server.pem"));
    assert_eq!(tls.client_ca.unwrap(), Path::new("/specs/./clients.pem"));
    let workers = serve.workers.unwrap();
    let urls: Vec<&str> = workers.urls.iter().map(|url| url.as_str()).collect();
    assert_eq!(urls, ["http://10.0.0.1:8182/", "https://b/"]);
    assert_eq!(
        (workers.ca.unwrap().as_path(), workers.share_bytes),
        (Path::new("/specs/./workers.pem"), 1 << 20)
    );
}

#[test]
fn what_is_wrong_is_said() {
    for (serve, expected) in [
        ("  callers: { a: { token: hunter2-hunter2-hunter2 } }\n", "`token` is a secret"),
        ("  callers: { a: { token: \"${env:A}\", role: nobody } }\n", "there is no role `nobody`"),
        ("  callers: { a: {} }\n", "there is neither `token` nor `certificate`"),
        ("  callers: { a: { certificate: CN=a } }\n", "clients are not asked for one"),
        (
            "  callers: { a: { certificate: a } }\n  tls: { certificate: c, private_key: k, client_ca: a }\n",
            "a name in a certificate is `CN=…`",
        ),
        ("  roles: { a: { all: true } }\n", "nobody has these roles"),
        (
            "  callers: { a: { token: \"${env:A}\", role: r } }\n  roles: { r: { datasets: { flights: {} } } }\n",
            "there is no dataset `flights`",
        ),
        (
            "  callers: { a: { token: \"${env:A}\", role: r } }\n  roles: { r: { datasets: { flight_features: { rows: ' ' } } } }\n",
            "`rows` is empty",
        ),
        ("  jwt: { issuer: i, audience: a }\n", "neither `jwks` nor `secret`"),
        ("  jwt: { issuer: i, jwks: f }\n", "missing field `audience`"),
        ("  jwt: { issuer: i, audience: a, secret: hunter2 }\n", "`secret` is a secret"),
        ("  hash_key: hunter2\n", "`hash_key` is a secret"),
        ("  limits: { memory: 512MiB }\n", "`memory` is 512MiB; it can be at most 384MiB"),
        ("  limits: { memory: 1KiB }\n", "`memory` is 1KiB; it must be at least 1MiB"),
        ("  limits: { rows: 0 }\n", "`rows` is 0"),
        ("  limits: { running: 0 }\n", "`running` is 0; it can be from 1 to 1000"),
        (
            "  callers: { a: { token: \"${env:A}\" } }\n  roles: { r: { limits: { rows: 0 } } }\n",
            "`rows` is 0",
        ),
        (
            "  callers: { a: { token: \"${env:A}\" } }\n  roles: { r: { limits: { memory: 512MiB } } }\n",
            "`memory` is 512MiB; it can be at most 384MiB",
        ),
        ("  audit: { required: true }\n", "missing field `topic`"),
        ("  audit: { topic: a b }\n", "not the name of a Kafka topic"),
        ("  audit: { topic: a, buffer: 1 }\n", "`buffer` is 1; it can be from 2 to 100000"),
        ("  audit: { topic: a, sql: 2MiB }\n", "`sql` is 2MiB; it can be at most 1MiB"),
        ("  audit: { topic: a, patience: 2h }\n", "`patience` is 2h"),
        ("  limits: { time: 25h }\n", "`time` is 25h"),
        ("  refresh: 2h\n", "`refresh` is 2h"),
        ("  limits: { rowz: 1 }\n", "unknown field `rowz`"),
        ("  workers: { urls: [http://a:1] }\n", "missing field `secret`"),
        ("  workers: { secret: hunter2 }\n", "`secret` is a secret"),
        ("  workers: { secret: \"${env:A}\", urls: [a] }\n", "this is no URL"),
        ("  workers: { secret: \"${env:A}\", urls: [ftp://a:1] }\n", "by `http` or `https`"),
        ("  workers: { secret: \"${env:A}\", urls: [http://a:1/b] }\n", "a host and a port and nothing else"),
        ("  workers: { secret: \"${env:A}\", urls: [http://a:1, http://a:1/] }\n", "there twice"),
        ("  workers: { secret: \"${env:A}\", urls: [https://a:1] }\n", "`ca` is missing"),
        ("  workers: { secret: \"${env:A}\", share: 512B }\n", "`share` is 512B; it must be at least 1KiB"),
    ] {
        let found = problems(serve);
        assert_eq!(found.len(), 1, "{serve}{found:#?}");
        assert!(found[0].contains(expected), "{serve}{found:#?}");
        let shown = check(serve).unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    for (serve, expected) in [
        (
            "  jwt: { issuer: i, jwks: f }\n  limits: { rows: 0 }\n  refresh: 2h\n",
            &["missing field `audience`", "`rows` is 0", "`refresh` is 2h"][..],
        ),
        // Somebody has the role, though the token is wrong.
        (
            "  callers: { a: { token: hunter2-hunter2-hunter2, role: r } }\n  roles: { r: { all: true } }\n",
            &["`token` is a secret"][..],
        ),
    ] {
        let found = problems(serve);
        assert_eq!(found.len(), expected.len(), "{serve}{found:#?}");
        for part in expected {
            assert!(found.iter().any(|problem| problem.contains(part)), "{part}: {serve}{found:#?}");
        }
    }
}
