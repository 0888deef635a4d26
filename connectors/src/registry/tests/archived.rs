//! Starting without the registry.

use serde_json::json;

use super::super::SchemaArchive;
use super::*;
use crate::Error;

const TEXT: &str = r#"{"type":"record","name":"R","fields":[]}"#;

/// What a client of a registry with one schema, id 1, leaves behind.
async fn archive_of(server: &Server) -> SchemaArchive {
    let client = client(&[&server.url()]);
    assert_eq!(client.schema(1).await.unwrap(), schema());
    let (archive, omitted) = client.export();
    assert_eq!((archive.ids().collect::<Vec<_>>(), omitted), (vec![1], 0));
    SchemaArchive::from_bytes(&archive.to_bytes().unwrap()).unwrap()
}

fn schema() -> SchemaAnswer {
    known(SchemaKind::Avro, TEXT, &[])
}

/// A registry that answers once and then as `then` says.
async fn once(then: fn() -> Reply) -> Server {
    Server::start(move |_, before| if before == 0 { avro(TEXT) } else { then() }).await
}

#[tokio::test]
async fn without_the_registry_a_recorded_schema_is_known_and_no_other() {
    let server = once(|| Reply::with(503, "", "")).await;
    let archive = archive_of(&server).await;
    let (client, is_same) = client(&[&server.url()]).with_archive(archive.clone());
    assert!(is_same);
    assert_eq!(client.schema(1).await.unwrap(), schema());
    let asked = server.requests().len();
    assert_eq!(client.schema(1).await.unwrap(), schema());
    assert_eq!(server.requests().len(), asked, "a registry that was just away is not asked about it again");
    assert!(matches!(client.schema(2).await, Err(Error::RegistryUnreachable { .. })));
    // What it was given it passes on.
    assert_eq!(client.export(), (archive, 0));
}

#[tokio::test]
async fn the_registry_is_asked_first_and_may_lay_out_a_schema_in_another_way() {
    let server = once(|| avro("{ \"type\": \"record\", \"name\": \"R\", \"fields\": [ ] }")).await;
    let (client, _) = client(&[&server.url()]).with_archive(archive_of(&server).await);
    let laid_out = known(SchemaKind::Avro, "{ \"type\": \"record\", \"name\": \"R\", \"fields\": [ ] }", &[]);
    assert_eq!(client.schema(1).await.unwrap(), laid_out);
}

#[tokio::test]
async fn another_schema_under_the_same_id_is_a_hard_stop() {
    for then in [|| avro("\"int\""), || Reply::json(200, json!({ "schema": TEXT, "schemaType": "JSON" }))] {
        let server = once(then).await;
        let (client, _) = client(&[&server.url()]).with_archive(archive_of(&server).await);
        let error = client.schema(1).await.unwrap_err();
        assert!(matches!(error, Error::RegistryChanged { id: 1, .. }), "{error}");
        assert!(error.to_string().contains(&server.url()), "{error}");
    }
}

#[tokio::test]
async fn a_schema_that_the_registry_has_lost_stays_known() {
    let dangling = || Reply::json(200, json!({ "schema": TEXT, "schemaType": "XSD" }));
    for then in [no_schema, dangling] {
        let server = once(then).await;
        let (client, _) = client(&[&server.url()]).with_archive(archive_of(&server).await);
        assert_eq!(client.schema(1).await.unwrap(), schema());
    }
}

#[tokio::test]
async fn an_archive_of_another_registry_is_not_used() {
    let server = once(|| Reply::with(503, "", "")).await;
    let archive = archive_of(&server).await;
    let other = Server::absent().await;
    let (client, is_same) = client(&[&other]).with_archive(archive.clone());
    assert!(!is_same);
    assert!(client.schema(1).await.is_err());
    assert!(client.export().0.is_empty());
    // One server in common is the same registry.
    let (client, is_same) = super::client(&[&other, &server.url()]).with_archive(archive);
    assert!(is_same);
    assert_eq!(client.schema(1).await.unwrap(), schema());
}

#[tokio::test]
async fn an_export_that_would_be_too_large_leaves_out_what_was_used_longest_ago() {
    // Escaped as JSON, each of these bytes takes six.
    let server = Server::start(|_, _| avro(&"\u{1}".repeat(1 << 20))).await;
    let client = client(&[&server.url()]);
    for id in 1..=8 {
        client.schema(id).await.unwrap();
    }
    let (archive, omitted) = client.export();
    assert_eq!((archive.ids().collect::<Vec<_>>(), omitted), (vec![4, 5, 6, 7, 8], 3));
    assert!(archive.to_bytes().is_ok());
}
