//! The client of schema registries against a real one, Apicurio.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use isobar_connectors::registry::{
    Compatibility, RecordPart, RegistryClient, RegistryConfig, SchemaAnswer, SchemaArchive, SubjectNames,
};
use isobar_schemas::{RegisteredSchema, SchemaKind, SchemaReference};
use isobar_tests::proxy::{Mode, Proxy};
use isobar_tests::registry::LiveRegistry;
use isobar_tests::services::required;
use isobar_tests::wait::until_some;
use reqwest::Method;
use serde_json::json;
use tokio::process::{Child, Command};

fn known(kind: SchemaKind, text: &str, references: &[(&str, &str)]) -> SchemaAnswer {
    let references = references
        .iter()
        .map(|(name, text)| SchemaReference { name: (*name).to_owned(), text: (*text).to_owned() })
        .collect();
    SchemaAnswer::Known(Arc::new(RegisteredSchema { kind, text: text.to_owned(), references }))
}

fn client(registry: &LiveRegistry) -> RegistryClient {
    RegistryClient::new(&RegistryConfig::new([&registry.url])).unwrap()
}

const POINT: &str = r#"{"type":"record","name":"geo.Point","fields":[{"name":"x","type":"double"},{"name":"y","type":"double"}]}"#;
const AIRPORT: &str = r#"{"type":"record","name":"nyc.Airport","fields":[{"name":"code","type":"string"},{"name":"at","type":"geo.Point"}]}"#;
const FLIGHT: &str = r#"{"type":"record","name":"nyc.Flight","fields":[{"name":"origin","type":"nyc.Airport"},{"name":"seen","type":["null","geo.Point"],"default":null}]}"#;

#[tokio::test]
async fn avro_schemas_come_with_what_they_refer_to() {
    let Some(registry) = LiveRegistry::connect("avro") else { return };
    let point = registry.register("point", "AVRO", POINT, &[]).await;
    let to_point = registry.reference("geo.Point", "point");
    registry.register("airport", "AVRO", AIRPORT, std::slice::from_ref(&to_point)).await;
    let references = [registry.reference("nyc.Airport", "airport"), to_point];
    let flight = registry.register("flight", "AVRO", FLIGHT, &references).await;
    let answers = client(&registry).schemas(&[flight, point]).await.unwrap();
    let texts = [("geo.Point", POINT), ("nyc.Airport", AIRPORT)];
    assert_eq!(answers, [known(SchemaKind::Avro, FLIGHT, &texts), known(SchemaKind::Avro, POINT, &[])]);
}

#[tokio::test]
async fn protobuf_schemas_come_with_their_imports() {
    let Some(registry) = LiveRegistry::connect("protobuf") else { return };
    let money = "syntax = \"proto3\";\npackage money;\nmessage Money {\n  int64 cents = 1;\n}\n";
    let order = "syntax = \"proto3\";\npackage shop;\nimport \"money/money.proto\";\nimport \"google/protobuf/timestamp.proto\";\n\
                 message Order {\n  money.Money total = 1;\n  google.protobuf.Timestamp at = 2;\n}\n";
    registry.register("money/money.proto", "PROTOBUF", money, &[]).await;
    let references = [registry.reference("money/money.proto", "money/money.proto")];
    let id = registry.register("orders-value", "PROTOBUF", order, &references).await;
    let answer = client(&registry).schema(id).await.unwrap();
    assert_eq!(answer, known(SchemaKind::Protobuf, order, &[("money/money.proto", money)]));
}

#[tokio::test]
async fn json_schemas_come_with_what_they_refer_to() {
    let Some(registry) = LiveRegistry::connect("json") else { return };
    let money = r#"{"$id":"money.json","type":"object","properties":{"cents":{"type":"integer"}}}"#;
    let order = r#"{"$id":"order.json","type":"object","properties":{"total":{"$ref":"money.json"}}}"#;
    registry.register("money", "JSON", money, &[]).await;
    let references = [registry.reference("money.json", "money")];
    let id = registry.register("order", "JSON", order, &references).await;
    let answer = client(&registry).schema(id).await.unwrap();
    assert_eq!(answer, known(SchemaKind::Json, order, &[("money.json", money)]));
}

#[tokio::test]
async fn what_is_not_there_is_an_answer_and_a_wrong_path_is_none() {
    let Some(registry) = LiveRegistry::connect("missing") else { return };
    let client = client(&registry);
    assert_eq!(
        client.schemas(&[u32::MAX, 2_000_000_000]).await.unwrap(),
        [const { SchemaAnswer::Unknown }; 2]
    );
    let subject = registry.subject("nothing");
    assert_eq!(client.subject_version(&subject, None).await.unwrap(), None);
    let id = registry.register("something", "AVRO", "\"int\"", &[]).await;
    assert_eq!(client.subject_version(&registry.subject("something"), Some(2)).await.unwrap(), None);
    let wrong = registry.url.replace("/apis/ccompat/v7", "/apis");
    assert_ne!(wrong, registry.url);
    let client = RegistryClient::new(&RegistryConfig::new([wrong])).unwrap();
    let error = client.schema(id).await.unwrap_err();
    assert!(error.is_configuration() && error.to_string().contains("/apis/ccompat/v7"), "{error}");
}

#[tokio::test]
async fn the_newest_version_of_a_subject_and_what_may_follow_it() {
    let Some(registry) = LiveRegistry::connect("versions") else { return };
    let client = client(&registry);
    let record = |fields: &str| format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
    let (old, new) = (record(""), record(r#"{"name":"a","type":"int","default":0}"#));
    registry.register("flights-value", "AVRO", &old, &[]).await;
    let id = registry.register("flights-value", "AVRO", &new, &[]).await;
    let topic = registry.subject("flights");
    let subject = SubjectNames::Topic.subject(&topic, RecordPart::Value, None).unwrap();
    let newest = client.subject_version(&subject, None).await.unwrap().unwrap();
    assert_eq!((newest.id, newest.version), (id, 2));
    assert_eq!(newest.schema, known(SchemaKind::Avro, &new, &[]));
    let first = client.subject_version(&subject, Some(1)).await.unwrap().unwrap();
    assert_eq!(first.schema, known(SchemaKind::Avro, &old, &[]));

    let rule = json!({ "compatibility": "BACKWARD" });
    registry.ask(Method::PUT, &["config", &subject], Some(rule)).await;
    let may_follow =
        async |text: &str| client.compatibility(&subject, SchemaKind::Avro, text, &[]).await.unwrap();
    assert_eq!(may_follow(&old).await, Compatibility::Compatible);
    let without_default = record(r#"{"name":"b","type":"int"}"#);
    assert!(
        matches!(may_follow(&without_default).await, Compatibility::Incompatible(why) if !why.is_empty())
    );
    let nobody = registry.subject("nobody");
    let answer = client.compatibility(&nobody, SchemaKind::Avro, &old, &[]).await.unwrap();
    assert_eq!(answer, Compatibility::NothingRegistered);
}

#[tokio::test]
async fn without_the_registry_recorded_schemas_are_known_until_it_is_back() {
    let Some(registry) = LiveRegistry::connect("offline") else { return };
    let id = registry.register("a", "AVRO", POINT, &[]).await;
    let other = registry.register("b", "AVRO", "\"long\"", &[]).await;
    let address = registry.url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let proxy = Proxy::start(address).await;
    let config = RegistryConfig::new([registry.url.replace(address, &proxy.address())]);
    let online = RegistryClient::new(&config).unwrap();
    assert_eq!(online.schema(id).await.unwrap(), known(SchemaKind::Avro, POINT, &[]));
    let recorded = online.export().0.to_bytes().unwrap();

    for mode in [Mode::Refuse, Mode::LoseAnswers] {
        proxy.set(mode);
        let archive = SchemaArchive::from_bytes(&recorded).unwrap();
        let (offline, is_same) = RegistryClient::new(&config).unwrap().with_archive(archive);
        assert!(is_same);
        assert_eq!(offline.schema(id).await.unwrap(), known(SchemaKind::Avro, POINT, &[]));
        let error = offline.schema(other).await.unwrap_err();
        assert!(error.to_string().contains(&proxy.address()) && !error.is_configuration(), "{error}");
        proxy.set(Mode::Forward);
        assert_eq!(offline.schema(other).await.unwrap(), known(SchemaKind::Avro, "\"long\"", &[]));
    }
}

#[tokio::test]
async fn only_a_registry_that_the_authority_vouches_for_is_asked() {
    let Some(registry) = LiveRegistry::connect("tls") else { return };
    let Some([url, authority, stranger]) =
        required(["ISOBAR_REGISTRY_TLS_URL", "ISOBAR_TLS_CA", "ISOBAR_TLS_STRANGER_CA"])
    else {
        return;
    };
    let id = registry.register("a", "AVRO", POINT, &[]).await;
    let ask = async |authorities_pem: Option<Vec<u8>>| {
        let config = RegistryConfig { authorities_pem, ..RegistryConfig::new([&url]) };
        RegistryClient::new(&config).unwrap().schema(id).await
    };
    let answer = ask(Some(fs::read(authority).unwrap())).await;
    assert_eq!(answer.unwrap(), known(SchemaKind::Avro, POINT, &[]));
    for others in [None, Some(fs::read(stranger).unwrap())] {
        let error = ask(others).await.unwrap_err().to_string();
        assert!(error.contains("invalid peer certificate") && error.contains(&url), "{error}");
    }
}

/// OpenSSL's own server, which wants a certificate of the client and sends files; it lives until dropped.
fn strict_server(folder: &Path, address: &str) -> Option<Child> {
    let [authority, certificate, key] =
        required(["ISOBAR_TLS_CA", "ISOBAR_TLS_SERVER_CERT", "ISOBAR_TLS_SERVER_KEY"])?;
    let mut command = Command::new("openssl");
    command.args([
        "s_server",
        "-accept",
        address,
        "-cert",
        &certificate,
        "-key",
        &key,
        "-CAfile",
        &authority,
    ]);
    command.args(["-Verify", "1", "-verify_return_error", "-HTTP", "-quiet"]).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    Some(command.spawn().expect("openssl can be started"))
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_it() {
    let Some(_) = LiveRegistry::connect("mtls") else { return };
    let Some([authority, certificate, key]) =
        required(["ISOBAR_TLS_CA", "ISOBAR_TLS_CLIENT_CERT", "ISOBAR_TLS_CLIENT_KEY"])
    else {
        return;
    };
    let Some([stranger, strangers_key]) = required(["ISOBAR_TLS_STRANGER_CERT", "ISOBAR_TLS_STRANGER_KEY"])
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("schemas/ids")).unwrap();
    let answer = "HTTP/1.0 200 OK\r\nContent-Length: 20\r\n\r\n{\"schema\":\"\\\"int\\\"\"}";
    fs::write(folder.path().join("schemas/ids/1"), answer).unwrap();
    // Free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let Some(_server) = strict_server(folder.path(), &address) else { return };

    let both =
        |certificate: &str, key: &str| [fs::read(certificate).unwrap(), fs::read(key).unwrap()].concat();
    let ask = async |identity_pem: Option<Vec<u8>>| {
        let authorities_pem = Some(fs::read(&authority).unwrap());
        let config = RegistryConfig {
            authorities_pem,
            identity_pem,
            ..RegistryConfig::new([format!("https://{address}")])
        };
        RegistryClient::new(&config).unwrap().schema(1).await
    };
    let answer =
        until_some("the server answers", async || ask(Some(both(&certificate, &key))).await.ok()).await;
    assert_eq!(answer, known(SchemaKind::Avro, "\"int\"", &[]));
    for identity in [None, Some(both(&stranger, &strangers_key))] {
        let error = ask(identity).await.unwrap_err();
        assert!(!error.is_configuration() && error.to_string().contains(&address), "{error}");
    }
}
