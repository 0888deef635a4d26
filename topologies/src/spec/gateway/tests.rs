use super::*;

const FILE: &str = "gateway:
  backends:
    - { url: 'http://127.0.0.1:8181', cloud: aws }
    - { url: 'http://127.0.0.1:8182', cloud: azure }
";

fn checked(text: &str) -> Result<GatewaySpec, SpecErrors> {
    check_text(text, "gateway.yaml", Path::new("/gateways"))
}

#[test]
fn what_is_not_said_has_its_default() {
    let spec = checked(FILE).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(spec.prefer, Preference::Nearest);
    assert_eq!((spec.time, spec.probe), (Duration::from_secs(60), Duration::from_secs(1)));
    assert_eq!((spec.body_bytes, spec.attempts), (1 << 20, 3));
    assert_eq!((spec.retries.to_string(), spec.hedges.to_string()), ("20%".into(), "5%".into()));
    assert!(spec.tls.is_none() && spec.ca.is_none());
    let expected = BackendSpec {
        url: "http://127.0.0.1:8181".parse().unwrap(),
        cloud: "aws".into(),
        weight: 1,
        price: None,
        is_draining: false,
    };
    assert_eq!(spec.backends[0], expected);
    assert_eq!(spec.backends[1].address(), "127.0.0.1:8182");
}

#[test]
fn the_example_is_right() {
    let spec = checked(schema::GATEWAY_EXAMPLE).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(spec.backends.len(), 3);
    assert_eq!((spec.backends[0].weight, spec.backends[0].price), (2, Some(0.40)));
    assert!(spec.backends[2].is_draining);
    assert_eq!(spec.backends[1].address(), "azure.example.com:8181");
    assert_eq!(spec.ca, Some("/gateways/./authorities.pem".into()));
    assert_eq!(spec.tls.unwrap().certificate, Path::new("/gateways/./gateway.pem"));
}

/// Pointer and message of each problem.
fn problems(text: &str) -> Vec<(String, String)> {
    let errors = checked(text).expect_err(text);
    errors.problems.into_iter().map(|problem| (problem.pointer, problem.message)).collect()
}

#[test]
fn what_is_wrong_is_named_where_it_stands() {
    let first = "cloud: aws";
    for (from, to, pointer, said) in [
        (first, "cloud: AWS", "/gateway/backends/0/cloud", "`AWS` is not a name here"),
        (first, "cloud: aws, weight: 0", "/gateway/backends/0/weight", "from 1 to 1000"),
        (first, "cloud: aws, weight: -1", "/gateway/backends/0/weight", "from 1 to 1000"),
        (first, "cloud: aws, price: -1", "/gateway/backends/0/price", "from 0 to 1000000"),
        (first, "cloud: aws, wieght: 2", "/gateway/backends/0/wieght", "unknown field `wieght`"),
        (":8182", ":8181", "/gateway/backends/1/url", "this backend is there twice"),
        (":8182", ":8182/v1", "/gateway/backends/1/url", "scheme, host and port"),
        ("'http://127.0.0.1:8182'", "ftp://a:1", "/gateway/backends/1/url", "scheme, host and port"),
        ("'http://127.0.0.1:8182'", "'https://a:1'", "/gateway/backends/1/url", "`ca` is missing"),
        ("  backends", "  prefer: fastest\n  backends", "/gateway/prefer", "unknown value `fastest`"),
        ("  backends", "  prefer: cheapest\n  backends", "/gateway/backends/0", "has no price"),
        (
            "  backends",
            "  identity: { certificate: a, private_key: b }\n  backends",
            "/gateway/identity",
            "shown to nobody",
        ),
        ("  backends", "  time: 0s\n  backends", "/gateway/time", "from 1ms to 24h"),
        ("  backends", "  probe: 1ms\n  backends", "/gateway/probe", "from 50ms to 1h"),
        ("  backends", "  body: 1GiB\n  backends", "/gateway/body", "at most 64MiB"),
        ("  backends", "  attempts: 11\n  backends", "/gateway/attempts", "from 1 to 10"),
        ("  backends", "  hedges: 5\n  backends", "/gateway/hedges", "`hedges` must be a share"),
    ] {
        let found = problems(&FILE.replacen(from, to, 1));
        let is_found = found.iter().any(|(at, message)| at == pointer && message.contains(said));
        assert!(is_found, "{to}: {found:?}");
    }
    assert!(problems("gateway: { backends: [] }")[0].1.contains("there is no backend"));
    let many = (0..33).map(|port| format!("    - {{ url: 'http://a:{}', cloud: aws }}\n", port + 1));
    let many = format!("gateway:\n  backends:\n{}", many.collect::<String>());
    assert!(problems(&many)[0].1.contains("there can be 32"));
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = FILE.replace(":8182", ":8181").replace("  backends", "  time: 0s\n  attempts: 0\n  backends");
    assert_eq!(problems(&text).len(), 3);
}

#[test]
fn a_password_in_a_url_is_not_shown() {
    let text = FILE.replace("http://127.0.0.1:8182", "http://me:secret-word@a:1");
    let errors = checked(&text).unwrap_err();
    let shown = errors.render(crate::spec::Colour::None);
    assert!(!shown.contains("secret-word") && shown.contains("scheme, host and port"), "{shown}");
}
