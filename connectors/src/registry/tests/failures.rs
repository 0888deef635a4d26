//! Servers that do not answer.

use serde_json::json;

use super::*;
use crate::Error;

/// The ways in which a server gives no answer for now.
const FAILURES: [fn() -> Reply; 7] = [
    || Reply::json(500, json!({ "error_code": 50001, "message": "Error in the backend data store" })),
    || Reply::with(503, "", "<html>no healthy upstream</html>"),
    || Reply::with(429, "Retry-After: 0\r\n", ""),
    || Reply::with(408, "Retry-After: soon\r\n", ""),
    Reply::nothing,
    || avro("\"int\"").truncated(3),
    || Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
];

#[tokio::test]
async fn what_fails_for_now_is_asked_again() {
    for failure in FAILURES {
        let server =
            Server::start(move |_, before| if before < 2 { failure() } else { avro("\"int\"") }).await;
        let answer = client(&[&server.url()]).schema(1).await;
        assert_eq!(answer.unwrap(), known(SchemaKind::Avro, "\"int\"", &[]), "{:?}", failure());
        assert_eq!(server.requests().len(), 3, "{:?}", failure());
    }
}

#[tokio::test]
async fn a_registry_that_never_answers_is_named_with_every_server_and_reason() {
    for failure in FAILURES {
        let server = Server::start(move |_, _| failure()).await;
        let absent = Server::absent().await;
        let client = client(&[&server.url(), &absent]);
        let error = client.schema(9).await.unwrap_err();
        let Error::RegistryUnreachable { what, attempts, reason } = &error else { panic!("{error}") };
        assert_eq!((what.as_str(), *attempts), ("schema 9", 3));
        assert!(reason.contains(&server.url()) && reason.contains(&absent), "{reason}");
        assert!(reason.contains("refused"), "{reason}");
        assert_eq!(server.requests().len(), 3);
        assert!(!error.is_configuration());
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_not_waited_for() {
    let hanging = Server::start(|_, _| Reply::Hang).await;
    let patience = Patience { request: Duration::from_millis(50), rounds_max: 2, ..IMPATIENT };
    let client = RegistryClient::with_patience(&RegistryConfig::new([hanging.url()]), patience).unwrap();
    let error = client.schema(1).await.unwrap_err();
    assert!(
        matches!(error, Error::RegistryUnreachable { .. }) && error.to_string().contains("timed out"),
        "{error}"
    );
    assert_eq!(hanging.requests().len(), 2);
}

#[tokio::test]
async fn another_server_takes_over_and_is_asked_first_from_then_on() {
    let down = Server::start(|_, _| Reply::with(503, "", "")).await;
    let up = Server::start(|_, _| avro("\"int\"")).await;
    let client = client(&[&Server::absent().await, &down.url(), &up.url()]);
    for id in 1..=3 {
        assert_eq!(client.schema(id).await.unwrap(), known(SchemaKind::Avro, "\"int\"", &[]));
    }
    assert_eq!((down.requests().len(), up.requests().len()), (1, 3));
}

#[tokio::test]
async fn no_answer_about_one_id_does_not_lose_the_others() {
    let server = Server::start(|request, _| match request.line.as_str() {
        "GET /schemas/ids/2" => Reply::with(503, "", ""),
        _ => avro("\"int\""),
    })
    .await;
    let client = client(&[&server.url()]);
    assert!(client.schemas(&[1, 2]).await.is_err());
    assert_eq!(client.schema(1).await.unwrap(), known(SchemaKind::Avro, "\"int\"", &[]));
    assert_eq!(server.lines().iter().filter(|line| line.ends_with("/1")).count(), 1);
}

#[tokio::test]
async fn no_answer_about_a_reference_is_no_answer_about_the_schema() {
    let server = Server::start(|request, _| match request.line.as_str() {
        "GET /schemas/ids/1" => Reply::json(
            200,
            json!({ "schema": "x", "references": [{ "name": "n", "subject": "s", "version": 1 }] }),
        ),
        _ => Reply::with(503, "", ""),
    })
    .await;
    let error = client(&[&server.url()]).schema(1).await.unwrap_err();
    assert!(matches!(error, Error::RegistryUnreachable { .. }), "{error}");
    assert!(error.to_string().contains("version 1 of subject s, which a schema refers to"), "{error}");
}
