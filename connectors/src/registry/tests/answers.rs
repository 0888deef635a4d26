//! What answers mean.

use serde_json::json;

use super::super::{Compatibility, ReferenceTo, SubjectVersion};
use super::*;
use crate::Error;

#[tokio::test]
async fn a_schema_has_the_type_that_is_given_and_is_avro_without_one() {
    let server = Server::start(|request, _| match request.line.as_str() {
        "GET /api/v7/schemas/ids/1" => avro("\"string\""),
        "GET /api/v7/schemas/ids/2" => Reply::json(
            200,
            json!({ "schema": "syntax = \"proto3\";", "schemaType": "PROTOBUF", "references": [] }),
        ),
        "GET /api/v7/schemas/ids/3" => Reply::json(
            200,
            json!({ "schema": "{}", "schemaType": "JSON", "references": null, "maxId": 9, "guid": "x" }),
        ),
        "GET /api/v7/schemas/ids/2147483647" => {
            Reply::json(200, json!({ "schema": "\"int\"", "schemaType": "AVRO", "subject": "s" }))
        }
        "GET /api/v7/schemas/ids/5" => Reply::json(200, json!({ "schema": "<a/>", "schemaType": "XSD" })),
        line => panic!("{line}"),
    })
    .await;
    // With and without a slash at the end.
    for end in ["", "/"] {
        let client = client(&[&format!("{}/api/v7{end}", server.url())]);
        let answers = client.schemas(&[3, 1, 2, i32::MAX.unsigned_abs(), 5]).await.unwrap();
        let why = "its type is XSD, not AVRO, PROTOBUF or JSON".to_owned();
        let expected = [
            known(SchemaKind::Json, "{}", &[]),
            known(SchemaKind::Avro, "\"string\"", &[]),
            known(SchemaKind::Protobuf, "syntax = \"proto3\";", &[]),
            known(SchemaKind::Avro, "\"int\"", &[]),
            SchemaAnswer::Unusable(why),
        ];
        assert_eq!(answers, expected);
    }
}

/// Ids are Java's `int`; a larger one is garbage, and some servers answer it with what is no answer.
#[tokio::test]
async fn an_id_that_no_registry_can_have_is_not_asked_for() {
    let server = Server::start(|request, _| panic!("{}", request.line)).await;
    let client = client(&[&server.url()]);
    assert_eq!(
        client.schemas(&[1 << 31, u32::MAX]).await.unwrap(),
        [SchemaAnswer::Unknown, SchemaAnswer::Unknown]
    );
    assert_eq!(server.lines(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_schema_is_asked_for_once() {
    let server = Server::start(|_, _| avro("\"int\"")).await;
    let client = client(&[&server.url()]);
    for _ in 0..3 {
        assert_eq!(client.schema(1).await.unwrap(), known(SchemaKind::Avro, "\"int\"", &[]));
    }
    assert_eq!(server.lines(), ["GET /schemas/ids/1"]);
}

#[tokio::test]
async fn an_unknown_id_is_an_answer_after_a_second_look() {
    let server = Server::start(|_, _| no_schema()).await;
    let client = client(&[&server.url()]);
    for _ in 0..3 {
        assert_eq!(client.schemas(&[9, 8]).await.unwrap(), [SchemaAnswer::Unknown, SchemaAnswer::Unknown]);
    }
    let mut lines = server.lines();
    lines.sort();
    assert_eq!(
        lines,
        ["GET /schemas/ids/8", "GET /schemas/ids/8", "GET /schemas/ids/9", "GET /schemas/ids/9"]
    );
}

#[tokio::test]
async fn a_server_that_has_not_heard_of_a_new_schema_yet_is_not_believed() {
    let behind = Server::start(|_, _| no_schema()).await;
    let ahead = Server::start(|_, _| avro("\"int\"")).await;
    let client = client(&[&behind.url(), &ahead.url()]);
    assert_eq!(client.schema(1).await.unwrap(), known(SchemaKind::Avro, "\"int\"", &[]));
    // Another server was asked, not a new one preferred.
    let _ = client.schema(2).await.unwrap();
    assert_eq!(behind.lines(), ["GET /schemas/ids/1", "GET /schemas/ids/2"]);
    // A single server may be asked again.
    let late = Server::start(|_, before| if before == 0 { no_schema() } else { avro("\"int\"") }).await;
    let client = super::client(&[&late.url()]);
    assert_eq!(client.schema(1).await.unwrap(), known(SchemaKind::Avro, "\"int\"", &[]));
}

#[tokio::test]
async fn a_404_that_does_not_say_what_is_missing_is_no_answer() {
    for reply in [
        || Reply::json(404, json!({ "error_code": 0, "message": "RESTEASY003210: Could not find resource" })),
        || Reply::json(404, json!({ "error_code": 40401, "message": "Subject not found." })),
        || Reply::with(404, "Content-Type: text/html\r\n", "<html>nothing here</html>"),
        || Reply::json(404, json!({ "error_code": "40403" })),
        || Reply::json(400, json!({ "error_code": 40403, "message": "x" })),
        || Reply::with(200, "", "<html>sign in</html>"),
        || Reply::json(200, json!({ "message": "no schema in here" })),
        || Reply::with(302, "Location: http://127.0.0.1:9/\r\n", ""),
    ] {
        let server = Server::start(move |_, _| reply()).await;
        let error = client(&[&server.url()]).schema(9).await.unwrap_err();
        assert!(matches!(error, Error::RegistryAnswer { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("schema 9") && text.contains(&server.url()) && text.contains("base URL"),
            "{text}"
        );
        assert_eq!(server.requests().len(), 1, "asking again does not help: {text}");
    }
}

/// Answers like a registry that has, under id 1, version 1 of `root`, and what `references` says: each subject with
/// the names and subjects that it refers to, all in version 1.
async fn graph(references: &'static [(&'static str, &'static [(&'static str, &'static str)])]) -> Server {
    let body = move |subject: &str| {
        let to = references.iter().find(|(from, _)| *from == subject)?.1;
        let to: Vec<_> = to
            .iter()
            .map(|(name, subject)| json!({ "name": name, "subject": subject, "version": 1 }))
            .collect();
        Some(
            json!({ "id": 7, "subject": subject, "version": 1, "schema": format!("text of {subject}"), "references": to }),
        )
    };
    Server::start(move |request, _| {
        if request.line == "GET /schemas/ids/1" {
            return Reply::json(200, body("root").unwrap());
        }
        let subject = request.line.strip_prefix("GET /subjects/").unwrap();
        let subject = subject.strip_suffix("/versions/1?deleted=true").unwrap();
        let subject = percent_encoding::percent_decode_str(subject).decode_utf8().unwrap();
        let missing =
            json!({ "error_code": 40401, "message": "No artifact with ID 'x' in group 'null' was found." });
        body(&subject).map_or_else(|| Reply::json(404, missing), |body| Reply::json(200, body))
    })
    .await
}

#[tokio::test]
async fn references_come_once_and_after_what_they_refer_to() {
    let server = graph(&[
        ("root", &[("b", "b"), ("c", "c"), ("again.proto", "dir/a ü.proto")]),
        ("b", &[("a", "dir/a ü.proto")]),
        ("c", &[("b", "b"), ("a", "dir/a ü.proto")]),
        ("dir/a ü.proto", &[]),
    ])
    .await;
    let a = "text of dir/a ü.proto";
    let expected = [("a", a), ("b", "text of b"), ("c", "text of c"), ("again.proto", a)];
    let answer = client(&[&server.url()]).schema(1).await.unwrap();
    assert_eq!(answer, known(SchemaKind::Avro, "text of root", &expected));
    // A slash in a subject does not end it.
    assert!(
        server.lines().contains(&"GET /subjects/dir%2Fa%20%C3%BC.proto/versions/1?deleted=true".to_owned())
    );
}

async fn unusable(references: &'static [(&'static str, &'static [(&'static str, &'static str)])]) -> String {
    let server = graph(references).await;
    match client(&[&server.url()]).schema(1).await.unwrap() {
        SchemaAnswer::Unusable(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_schema_whose_references_are_no_tree_is_unusable() {
    let cycle = unusable(&[("root", &[("a", "a")]), ("a", &[("b", "b")]), ("b", &[("a", "a")])]).await;
    assert_eq!(cycle, "it refers to itself by way of version 1 of subject a");
    let itself = unusable(&[("root", &[("root", "root")])]).await;
    assert_eq!(itself, "it refers to itself by way of version 1 of subject root");
    let missing = unusable(&[("root", &[("a", "gone")])]).await;
    assert_eq!(missing, "it refers to version 1 of subject gone, which is not there");
    let ambiguous =
        unusable(&[("root", &[("b", "b"), ("a", "x")]), ("b", &[("a", "y")]), ("y", &[]), ("x", &[])]).await;
    assert_eq!(ambiguous, "it refers to both version 1 of subject y and version 1 of subject x as a");
}

#[tokio::test]
async fn references_without_an_end_are_cut_off() {
    let reference = |number: usize| json!({ "name": format!("n{number}"), "subject": format!("s{number}"), "version": 1 });
    // Each refers to the next one.
    let deep = Server::start(move |_, before| {
        Reply::json(200, json!({ "id": 1, "version": 1, "schema": "x", "references": [reference(before)] }))
    })
    .await;
    let answer = client(&[&deep.url()]).schema(1).await.unwrap();
    assert_eq!(answer, SchemaAnswer::Unusable("its references are nested more than 32 deep".to_owned()));
    assert_eq!(deep.requests().len(), 33);
    // One refers to very many.
    let wide = Server::start(move |request, _| {
        let references: Vec<_> = (0..10_000).map(reference).collect();
        let references = if request.line.starts_with("GET /schemas") { references } else { Vec::new() };
        Reply::json(200, json!({ "id": 1, "version": 1, "schema": "x", "references": references }))
    })
    .await;
    let answer = client(&[&wide.url()]).schema(1).await.unwrap();
    assert_eq!(answer, SchemaAnswer::Unusable("it refers to more than 256 other schemas".to_owned()));
    assert_eq!(wide.requests().len(), 257);
    // A few large ones.
    let large = Server::start(move |request, _| {
        let references: Vec<_> = (0..9).map(reference).collect();
        let references = if request.line.starts_with("GET /schemas") { references } else { Vec::new() };
        Reply::json(
            200,
            json!({ "id": 1, "version": 1, "schema": "x".repeat(2 << 20), "references": references }),
        )
    })
    .await;
    let answer = client(&[&large.url()]).schema(1).await.unwrap();
    assert_eq!(answer, SchemaAnswer::Unusable("it and what it refers to are larger than 16 MiB".to_owned()));
    assert_eq!(large.requests().len(), 9);
}

#[tokio::test]
async fn a_schema_of_many_megabytes_is_unusable() {
    let announced = Server::start(|_, _| Reply::with(200, "", &" ".repeat((8 << 20) + 1))).await;
    let endless = Server::start(|_, _| Reply::Endless).await;
    for server in [announced, endless] {
        let answer = client(&[&server.url()]).schema(1).await.unwrap();
        let why = "it is larger than 8 MiB as the registry sends it".to_owned();
        assert_eq!(answer, SchemaAnswer::Unusable(why));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_version_of_a_subject_is_found_or_is_not_there() {
    let server = Server::start(|request, _| match request.line.as_str() {
        "GET /subjects/a-value/versions/latest" => {
            Reply::json(200, json!({ "subject": "a-value", "id": 3, "version": 2, "schema": "\"int\"" }))
        }
        "GET /subjects/a-value/versions/7" => {
            Reply::json(404, json!({ "error_code": 40402, "message": "No version '7' found" }))
        }
        "GET /subjects/b-value/versions/latest" => {
            Reply::json(404, json!({ "error_code": 40401, "message": "No artifact with ID 'b-value'" }))
        }
        _ => Reply::json(404, json!({ "error_code": 40403, "message": "an answer to another question" })),
    })
    .await;
    let client = client(&[&server.url()]);
    let newest = client.subject_version("a-value", None).await.unwrap();
    let schema = known(SchemaKind::Avro, "\"int\"", &[]);
    assert_eq!(newest, Some(SubjectVersion { id: 3, version: 2, schema }));
    assert_eq!(client.subject_version("a-value", Some(7)).await.unwrap(), None);
    assert_eq!(client.subject_version("b-value", None).await.unwrap(), None);
    assert!(matches!(client.subject_version("c", Some(1)).await, Err(Error::RegistryAnswer { .. })));
}

#[tokio::test]
async fn a_registry_says_whether_a_schema_may_follow() {
    let server = Server::start(|request, _| {
        let line = request.line.as_str();
        let subject = line.strip_prefix("POST /compatibility/subjects/").unwrap();
        match subject.strip_suffix("/versions/latest?verbose=true").unwrap() {
            "good" => Reply::json(200, json!({ "is_compatible": true, "reason": null })),
            "confluent" => Reply::json(200, json!({ "is_compatible": false, "messages": ["one", "two"] })),
            "apicurio" => Reply::json(200, json!({ "is_compatible": false, "reason": "q at /fields/0" })),
            "new" => Reply::json(404, json!({ "error_code": 40402, "message": "No version 'latest'" })),
            _ => Reply::json(422, json!({ "error_code": 42201, "message": "Input schema is invalid" })),
        }
    })
    .await;
    let client = client(&[&server.url()]);
    let references = [ReferenceTo { name: "n".into(), subject: "s".into(), version: 3 }];
    for (subject, expected) in [
        ("good", Compatibility::Compatible),
        ("confluent", Compatibility::Incompatible(vec!["one".into(), "two".into()])),
        ("apicurio", Compatibility::Incompatible(vec!["q at /fields/0".into()])),
        ("new", Compatibility::NothingRegistered),
        ("bad", Compatibility::Invalid("Input schema is invalid".into())),
    ] {
        let answer = client.compatibility(subject, SchemaKind::Protobuf, "text", &references).await.unwrap();
        assert_eq!(answer, expected);
    }
    let asked = &server.requests()[0];
    assert_eq!(asked.header("content-type"), Some("application/vnd.schemaregistry.v1+json"));
    let body: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
    let expected = json!({
        "schema": "text", "schemaType": "PROTOBUF", "references": [{ "name": "n", "subject": "s", "version": 3 }],
    });
    assert_eq!(body, expected);
}
