//! Kafka behind TLS and SASL: the main job through each listener, and what is said when somebody is not let in.

use std::fs;

use isobar_tests::events::Generator;
use isobar_tests::lab::write_file;
use isobar_tests::prng::Seed;
use isobar_tests::services::required;

use super::Live;

/// How to get in at one of Kafka's listeners: the variable with its address, and the options of the specification.
struct Door {
    variable: &'static str,
    options: Vec<(&'static str, String)>,
}

impl Door {
    /// TLS with a certificate of the client.
    fn mtls() -> Option<Self> {
        let [authority, certificate, key] =
            required(["ISOBAR_TLS_CA", "ISOBAR_TLS_CLIENT_CERT", "ISOBAR_TLS_CLIENT_KEY"])?;
        let options = vec![
            ("security.protocol", "SSL".to_owned()),
            ("ssl.ca.location", authority),
            ("ssl.certificate.location", certificate),
            ("ssl.key.location", key),
        ];
        Some(Self { variable: "ISOBAR_KAFKA_MTLS_BROKERS", options })
    }

    /// User and password, over plain text.
    fn sasl(mechanism: &str) -> Option<Self> {
        let [user] = required(["ISOBAR_KAFKA_USER"])?;
        let options = vec![
            ("security.protocol", "SASL_PLAINTEXT".to_owned()),
            ("sasl.mechanism", mechanism.to_owned()),
            ("sasl.username", user),
            ("sasl.password", "${file:password}".to_owned()),
        ];
        Some(Self { variable: "ISOBAR_KAFKA_SASL_BROKERS", options })
    }

    /// User and password, over TLS.
    fn sasl_tls(mechanism: &str) -> Option<Self> {
        let [authority] = required(["ISOBAR_TLS_CA"])?;
        let door =
            Self::sasl(mechanism)?.with("security.protocol", "SASL_SSL").with("ssl.ca.location", &authority);
        Some(Self { variable: "ISOBAR_KAFKA_SASL_TLS_BROKERS", ..door })
    }

    /// The same with another option.
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.options.retain(|(option, _)| *option != name);
        self.options.push((name, value.to_owned()));
        self
    }

    /// The same without an option.
    fn without(mut self, name: &str) -> Self {
        self.options.retain(|(option, _)| *option != name);
        self
    }
}

impl Live {
    /// The specification with `door` in place of the plain listener. The password lies in a file beside it.
    fn spec_through(&self, door: &Door, password: &str) -> Option<String> {
        let [brokers] = required([door.variable])?;
        write_file(&self.directory.path().join("password"), password);
        let plain = format!("brokers: {}\n", self.services.brokers);
        let options: String =
            door.options.iter().map(|(name, value)| format!("    {name}: \"{value}\"\n")).collect();
        let spec = self.spec("500ms");
        let text = fs::read_to_string(&spec).unwrap();
        assert!(text.contains(&plain));
        let text = text.replace(&plain, &format!("brokers: {brokers}\n  options:\n{options}"));
        Some(write_file(&spec, &text).to_str().unwrap().to_owned())
    }

    /// Runs until it is caught up, and expects that it is not let in: `parts` are said, `password` is not.
    async fn assert_refused(&self, door: &Door, password: &str, code: i32, parts: &[&str]) {
        let Some(spec) = self.spec_through(door, password) else { return };
        // Everything that may be logged is.
        let output = self.run(&["--log-level", "debug", "run", &spec, "--until-caught-up"]).await;
        output.assert(code, parts);
        assert!(!output.text().contains(password), "the password is shown:\n{output}");
    }
}

fn password() -> Option<String> {
    let [password] = required(["ISOBAR_KAFKA_PASSWORD"])?;
    Some(password)
}

async fn the_main_job_through(test: &'static str, door: Option<Door>) {
    let Some(mut live) = Live::begin(test).await else { return };
    let (Some(door), Some(password)) = (door, password()) else { return };
    let mut records = Generator::mixed(Seed::of(test).prng());
    let producer = live.producer();
    let Some(spec) = live.spec_through(&door, &password) else { return };
    // The second run finds its positions, which belong to the cluster and not to the way in.
    for _ in 0..2 {
        live.produce(&producer, records.records(2_000));
        let output = live.run(&["run", &spec, "--until-caught-up"]).await;
        output.assert(0, &[]);
        assert!(!output.text().contains(&password), "the password is shown:\n{output}");
        live.assert_complete(spec.as_ref()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_with_a_certificate_of_the_client() {
    the_main_job_through("mtls", Door::mtls()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_with_sasl_plain() {
    the_main_job_through("sasl-plain", Door::sasl("PLAIN")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_with_scram_256() {
    the_main_job_through("scram-256", Door::sasl("SCRAM-SHA-256")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_with_scram_512_over_tls() {
    the_main_job_through("scram-512-tls", Door::sasl_tls("SCRAM-SHA-512")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_as_such_and_not_shown() {
    let Some(live) = Live::begin("wrong-password").await else { return };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let (Some(plain), Some(tls)) = (Door::sasl(mechanism), Door::sasl_tls(mechanism)) else { return };
        for door in [plain, tls] {
            live.assert_refused(
                &door,
                "not-the-password",
                2,
                &["kafka denied access", "check the credentials"],
            )
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_nobody_vouches_for_are_named_as_such() {
    let Some(live) = Live::begin("untrusted").await else { return };
    let Some([authority, certificate, key]) =
        required(["ISOBAR_TLS_STRANGER_CA", "ISOBAR_TLS_STRANGER_CERT", "ISOBAR_TLS_STRANGER_KEY"])
    else {
        return;
    };
    let (Some(mtls), Some(sasl_tls)) = (Door::mtls(), Door::sasl_tls("PLAIN")) else { return };
    let Some(password) = password() else { return };
    // The broker's certificate is not of an authority that we trust. Nothing was sent to it yet.
    let door = sasl_tls.with("ssl.ca.location", &authority);
    live.assert_refused(&door, &password, 1, &["certificate verify failed", "ssl.ca.location"]).await;
    // Ours is not of an authority that the broker trusts, or there is none.
    let stranger = mtls.with("ssl.certificate.location", &certificate).with("ssl.key.location", &key);
    live.assert_refused(&stranger, &password, 1, &["certificate"]).await;
    let nobody = stranger.without("ssl.certificate.location").without("ssl.key.location");
    live.assert_refused(&nobody, &password, 1, &["bad certificate", "ssl.certificate.location"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_protocol_for_a_listener_is_named_with_the_way_out() {
    let Some(live) = Live::begin("protocol").await else { return };
    let (Some(mtls), Some(password)) = (Door::mtls(), password()) else { return };
    let plain_to_tls = Door { options: vec![("security.protocol", "PLAINTEXT".to_owned())], ..mtls };
    live.assert_refused(&plain_to_tls, &password, 1, &["security.protocol"]).await;
}
