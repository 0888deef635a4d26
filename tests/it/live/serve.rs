//! `isobar serve` behind TLS, with the certificates that the services are started with.

use isobar_tests::events::{FEATURES_YAML, SOURCE};
use isobar_tests::lab::Lab;
use isobar_tests::services::{Services, required};
use reqwest::{Certificate, Client, Identity};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "token-of-a-live-test";

#[tokio::test(flavor = "multi_thread")]
async fn only_clients_with_a_certificate_of_the_authority_are_heard() {
    let Some(_services) = Services::connect("serve").await else { return };
    let Some([authority, certificate, key]) =
        required(["ISOBAR_TLS_CA", "ISOBAR_TLS_SERVER_CERT", "ISOBAR_TLS_SERVER_KEY"])
    else {
        return;
    };
    let Some([ours, our_key, stranger, strangers_key]) = required([
        "ISOBAR_TLS_CLIENT_CERT",
        "ISOBAR_TLS_CLIENT_KEY",
        "ISOBAR_TLS_STRANGER_CERT",
        "ISOBAR_TLS_STRANGER_KEY",
    ]) else {
        return;
    };
    let lab = Lab::in_directories();
    let mut spec = lab.spec(SOURCE, FEATURES_YAML);
    std::fs::write(spec.folder.join("token"), TOKEN).unwrap();
    spec.datasets.push_str(&format!(
        "serve:\n  callers: {{ live: {{ token: \"${{file:token}}\" }} }}\n  \
         tls: {{ certificate: \"{certificate}\", private_key: \"{key}\", client_ca: \"{authority}\" }}\n"
    ));
    let topology = spec.resolved();
    let shutdown = CancellationToken::new();
    let server = lab.serve(&topology, shutdown.clone()).await;
    let url = format!("https://{}/v1/query", server.address);

    let read = |file: &str| std::fs::read(file).unwrap();
    let ask = async |identity: Option<[&str; 2]>, token: &str| {
        let mut client =
            Client::builder().add_root_certificate(Certificate::from_pem(&read(&authority)).unwrap());
        if let Some([certificate, key]) = identity {
            client = client.identity(Identity::from_pem(&[read(key), read(certificate)].concat()).unwrap());
        }
        let question = json!({ "sql": "SELECT 1 AS one", "format": "csv" }).to_string();
        let request = client.build().unwrap().post(&url).bearer_auth(token);
        let answer = request.header("Content-Type", "application/json").body(question).send().await?;
        Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.text().await?))
    };
    assert_eq!(
        ask(Some([ours.as_str(), our_key.as_str()]), TOKEN).await.unwrap(),
        (200, "one\n1\n".to_owned())
    );
    // A certificate does not stand for a token.
    assert_eq!(ask(Some([ours.as_str(), our_key.as_str()]), "another-token").await.unwrap().0, 401);
    assert!(ask(None, TOKEN).await.is_err());
    assert!(ask(Some([stranger.as_str(), strangers_key.as_str()]), TOKEN).await.is_err());
    let plain = url.replace("https", "http");
    assert!(Client::new().post(plain).send().await.is_err(), "there is no way without TLS");
    assert_eq!(ask(Some([ours.as_str(), our_key.as_str()]), TOKEN).await.unwrap().0, 200);
    shutdown.cancel();
    server.stopped().await;
}
