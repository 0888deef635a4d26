//! Settings and secrets.

use serde_json::json;

use super::super::Credentials;
use super::*;
use crate::Error;

const SECRET: &str = "geheim-9";

fn basic() -> Credentials {
    Credentials::Basic { user: "reader".into(), password: SECRET.into() }
}

#[tokio::test]
async fn credentials_are_sent_wherever_they_were_given_and_shown_nowhere() {
    let server = Server::start(|request, _| match request.header("authorization") {
        // reader:geheim-9
        Some("Basic cmVhZGVyOmdlaGVpbS05") | Some("Bearer geheim-9") => avro("\"int\""),
        other => panic!("{other:?}"),
    })
    .await;
    let plain = RegistryConfig::new([server.url()]);
    for config in [
        RegistryConfig { credentials: basic(), ..plain.clone() },
        RegistryConfig { credentials: Credentials::Bearer { token: SECRET.into() }, ..plain },
        RegistryConfig::new([server.url_of("reader:geheim%2D9")]),
        RegistryConfig { credentials: basic(), ..RegistryConfig::new([server.url_of("reader:geheim-9")]) },
    ] {
        let client = with(&config);
        assert_eq!(client.schema(1).await.unwrap(), known(SchemaKind::Avro, "\"int\"", &[]));
        let shown = format!("{config:?} {client:?} {:?}", client.export());
        assert!(!shown.contains("geheim") && shown.contains(&server.url()), "{shown}");
    }
}

#[tokio::test]
async fn an_error_shows_no_secret_even_if_the_server_repeats_it() {
    let echo = |status| {
        move |request: &Request, _| {
            let sent = request.header("authorization").unwrap().to_owned();
            Reply::json(
                status,
                json!({ "error_code": status, "message": format!("you sent {sent} and\n{SECRET}") }),
            )
        }
    };
    for (status, expected) in [(401, "does not accept"), (403, "does not allow"), (418, "418"), (500, "500")]
    {
        let server = Server::start(echo(status)).await;
        let config = RegistryConfig {
            credentials: Credentials::Bearer { token: SECRET.into() },
            ..RegistryConfig::new([server.url()])
        };
        let error = with(&config).schema(1).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("geheim") && shown.contains(expected), "{shown}");
        assert_eq!(matches!(error, Error::RegistryDenied { .. }), status < 404, "{shown}");
        assert_eq!(error.is_configuration(), status != 500);
    }
    // A refusal is not asked for twice; without credentials it says that there are none.
    let server = Server::start(|_, _| Reply::with(401, "WWW-Authenticate: Basic\r\n", "")).await;
    let error = client(&[&server.url()]).schema(1).await.unwrap_err().to_string();
    assert!(error.contains("no credentials were sent"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn credentials_go_to_no_server_that_another_one_names() {
    let elsewhere = Server::start(|_, _| avro("\"int\"")).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("Location: {}/schemas/ids/1\r\n", elsewhere.url());
        let server = Server::start(move |_, _| Reply::with(status, &location, "")).await;
        let bearer = Credentials::Bearer { token: SECRET.into() };
        for (credentials, sent) in [(basic(), "Basic cmVhZGVyOmdlaGVpbS05"), (bearer, "Bearer geheim-9")] {
            let config = RegistryConfig { credentials, ..RegistryConfig::new([server.url()]) };
            let error = with(&config).schema(1).await.unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(matches!(error, Error::RegistryAnswer { .. }) && error.is_configuration(), "{shown}");
            assert!(shown.contains("a redirect, which is not followed"), "{shown}");
            assert!(shown.contains(&status.to_string()) && !shown.contains("geheim"), "{shown}");
            assert_eq!(server.requests().last().unwrap().header("authorization"), Some(sent));
        }
        assert_eq!(server.requests().len(), 2, "asking again does not help");
    }
    assert_eq!(elsewhere.lines(), [""; 0]);
}

#[test]
fn a_wrong_setting_is_refused_with_the_reason_and_without_the_secret() {
    let refused = |config: &RegistryConfig, reason: &str| {
        let error = RegistryClient::new(config).unwrap_err();
        let shown = format!("{error} {error:?} {config:?}");
        assert!(error.is_configuration() && shown.contains(reason) && !shown.contains("geheim"), "{shown}");
    };
    let url = |url: &str| RegistryConfig::new([url]);
    refused(&RegistryConfig::new([""; 0]), "no URL");
    refused(&url("registry.example:8081"), "not with http://");
    refused(&url("//reader:geheim-9@registry"), "its URL is none");
    refused(&url("ftp://reader:geheim-9@registry"), "ftp://");
    refused(&url("http://registry/?a=geheim"), "query");
    refused(&RegistryConfig::new(["http://a", "http:// b:geheim"]), "URL 2");
    refused(
        &RegistryConfig::new(["http://a:geheim@x", "http://b:geheim@y"]),
        "URL 2 holds other credentials",
    );
    let bearer = |token: &str| RegistryConfig {
        credentials: Credentials::Bearer { token: token.into() },
        ..url("http://registry")
    };
    refused(&bearer(""), "token is empty");
    refused(&bearer("geheim\n"), "line break");
    let pem = |authorities: Option<&str>, identity: Option<&str>| RegistryConfig {
        authorities_pem: authorities.map(Into::into),
        identity_pem: identity.map(Into::into),
        ..url("https://registry")
    };
    refused(&pem(Some("geheim"), None), "no certificate");
    refused(&pem(None, Some("geheim")), "certificate and its unencrypted key");
}
