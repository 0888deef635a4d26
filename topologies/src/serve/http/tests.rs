//! Routes, statuses and hosts. Whole conversations are in the integration tests.

use std::collections::BTreeSet;

use super::*;

#[test]
fn every_route_is_described_and_nothing_else() {
    let routes: BTreeSet<(String, String)> =
        routes().into_iter().map(|route| (route.path.to_owned(), route.method.to_owned())).collect();
    let document = openapi::document();
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].is_string() && operation["responses"]["200"].is_object(), "{path}");
            described.insert((path.clone(), method.clone()));
        }
    }
    assert_eq!(described, routes);
}

/// Calls `visit` with every reference in `value`.
fn references(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(target) if key == "$ref" => visit(target),
                    value => references(value, visit),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, visit)),
        _ => {}
    }
}

#[test]
fn references_of_the_description_lead_somewhere() {
    let document = openapi::document();
    let mut count = 0;
    references(&document, &mut |target| {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target}");
        count += 1;
    });
    assert!(count > 5, "{count} references");
}

#[test]
fn every_status_of_a_problem_is_described() {
    let refusals = [
        Refusal::Unauthenticated("why".into()),
        Refusal::Forbidden("why".into()),
        Refusal::Wrong("why".into()),
        Refusal::NotFound("why".into()),
        Refusal::TooMuch { limit: "waiting", message: "why".into() },
        Refusal::TooMuch { limit: "sql", message: "why".into() },
        Refusal::TooMuch { limit: "rows", message: "why".into() },
        Refusal::Unavailable("why".into()),
        Refusal::Internal("why".into()),
    ];
    let document = openapi::document();
    let described = document["paths"]["/v1/query"]["post"]["responses"].as_object().unwrap();
    let mut statuses = BTreeSet::from(["200".to_owned()]);
    for refusal in refusals {
        let response = Problem(refusal).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], problem::PROBLEM_TYPE);
        statuses.insert(response.status().as_u16().to_string());
    }
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), statuses);
}

#[test]
fn names_that_point_to_this_machine_are_told_from_its_own() {
    let is_ours = |host: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        is_for_this_machine(&headers)
    };
    for host in ["localhost", "LOCALHOST:8181", "127.0.0.1:8181", "127.9.9.9", "[::1]:8181", "[::1]"] {
        assert!(is_ours(host), "{host}");
    }
    for host in
        ["example.com", "localhost.example.com:8181", "10.0.0.1", "[::2]:1", "", "127.0.0.1.example.com"]
    {
        assert!(!is_ours(host), "{host}");
    }
    assert!(is_for_this_machine(&HeaderMap::new()));
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    for elsewhere in ["http://", "https://", "src=", "@import", "url(", "innerHTML", "eval("] {
        assert!(!PAGE.contains(elsewhere), "{elsewhere}");
    }
}
