//! Connections with certificates (`testing/make.sh` makes them): who is let in, and as whom, by every protocol.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::*;
use crate::gateway::{GatewayOptions, GatewayServer};
use crate::prove::testing::History;
use crate::serve::{ServeOptions, Server};
use crate::spec::{CheckOptions, Topology, check_text};

const TOKEN: &str = "a-token-of-the-admin";
const SQL: &str = "SELECT count(x) AS n FROM flights";
/// What is counted by the admin, who sees everything, and by `dashboards`, who sees a part.
const ALL: i64 = 15;
const PART: i64 = 5;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/tls/testing").join(name)
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).unwrap()
}

fn spec(client_ca: &str) -> TlsSpec {
    TlsSpec {
        certificate: file("server.pem"),
        private_key: file("server.key"),
        client_ca: Some(file(client_ca)),
    }
}

/// Two callers: one by its certificate, one by its token. Everybody has to show a certificate.
fn topology(folder: &Path) -> Topology {
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    let TlsSpec { certificate, private_key, client_ca } = spec("authority.pem");
    let text = format!(
        "
topology: t
kafka: {{ brokers: a:1 }}
clouds: {{ a: {{ url: ./data }} }}
memory: 128MiB
serve:
  tls: {{ certificate: {certificate:?}, private_key: {private_key:?}, client_ca: {:?} }}
  callers:
    dashboards: {{ certificate: \"URI:spiffe://example.com/dashboards\", role: part }}
    admin: {{ token: \"${{file:token}}\" }}
  roles: {{ part: {{ datasets: {{ flights: {{ rows: \"x >= 3 AND x < 8\" }} }} }} }}
sources: {{ s: {{ topic: s, format: json, fields: {{ x: int64, month: string }} }} }}
datasets: {{ flights: {{ from: s, sql: 'SELECT month, x FROM s' }} }}
",
        client_ca.unwrap()
    );
    check_text(&text, "t.yaml", folder, CheckOptions::default())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

struct Served {
    server: Server,
    topology: Topology,
    shutdown: CancellationToken,
}

impl Served {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let topology = topology(folder.path());
        let shutdown = CancellationToken::new();
        let clouds = Some(History::good().store(1).await);
        let options = ServeOptions { clouds, ..ServeOptions::new(anywhere()) };
        let server = Server::start(&topology, options, shutdown.clone()).await.unwrap();
        Self { server, topology, shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.server.stopped().await;
    }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A connection of the client whose certificate has this name among the files.
async fn connect(
    address: SocketAddr,
    client: Option<&str>,
    protocol: Option<&[u8]>,
) -> std::io::Result<client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(&file("authority.pem"), "authority").unwrap() {
        roots.add(authority).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let certificate = certificates(&file(&format!("{name}.pem")), "certificate").unwrap();
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(certificate, key).unwrap()
        }
    };
    config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
    let connection = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, connection).await
}

/// The answer by HTTP, and its status; `None` if there is none.
async fn ask(address: SocketAddr, client: Option<&str>, token: Option<&str>) -> Option<(u16, String)> {
    let mut connection = connect(address, client, None).await.ok()?;
    let body = format!("{{\"sql\": \"{SQL}\", \"format\": \"csv\"}}");
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "POST /v1/query HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{token}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut reply = Vec::new();
    // In TLS 1.3 a client learns that its certificate is refused after its own part of the handshake, now or when it reads.
    if connection.write_all(request.as_bytes()).await.is_ok() {
        let _ = connection.read_to_end(&mut reply).await;
    }
    let reply = String::from_utf8(reply).unwrap();
    let status = reply.split(' ').nth(1)?.parse().unwrap();
    Some((status, reply))
}

#[tokio::test]
async fn by_http_a_certificate_names_the_caller_and_its_role() {
    let served = Served::start().await;
    let address = served.server.address;
    let rows = |count: i64| format!("\n{count}\n");
    for (client, token, count) in [("dashboards", None, PART), ("unnamed", Some(TOKEN), ALL)] {
        let (status, reply) = ask(address, Some(client), token).await.unwrap();
        assert!(status == 200 && reply.contains(&rows(count)), "{client}: {reply}");
    }
    for (client, token) in
        [("unnamed", None), ("unnamed", Some("a-token-of-nobody")), ("dashboards", Some(TOKEN))]
    {
        let (status, reply) = ask(address, Some(client), token).await.unwrap();
        assert_eq!(status, 401, "{client}, {token:?}: {reply}");
    }
    // Neither gets as far as to show a token.
    for client in [None, Some("forged")] {
        assert_eq!(ask(address, client, Some(TOKEN)).await, None, "{client:?}");
    }
    served.stop().await;
}

/// What PostgreSQL's protocol answers at first, and to a query if no password is asked for; `None` if nothing.
async fn ask_postgres(address: SocketAddr, client: Option<&str>) -> Option<(i32, Vec<u8>)> {
    let mut connection = connect(address, client, Some(b"postgresql")).await.ok()?;
    let mut startup = Vec::from(&b"\0\0\0\0\0\x03\0\0user\0anybody\0\0"[..]);
    startup[3] = u8::try_from(startup.len()).unwrap();
    connection.write_all(&startup).await.ok()?;
    assert_eq!(connection.read_u8().await.ok()?, b'R');
    assert_eq!(connection.read_i32().await.unwrap(), 8);
    let asked = connection.read_i32().await.unwrap();
    let mut answer = Vec::new();
    if asked == 0 {
        let length = u32::try_from(4 + SQL.len() + 1).unwrap().to_be_bytes();
        let query = [&b"Q"[..], &length, SQL.as_bytes(), b"\0X\0\0\0\x04"].concat();
        connection.write_all(&query).await.unwrap();
        let _ = connection.read_to_end(&mut answer).await;
    }
    Some((asked, answer))
}

#[tokio::test]
async fn by_postgresql_a_certificate_stands_in_for_the_password() {
    let mut served = Served::start().await;
    let address = served.server.start_postgres(&served.topology, anywhere()).await.unwrap();
    let (asked, answer) = ask_postgres(address, Some("dashboards")).await.unwrap();
    // A row of one column with a text of one byte.
    let row = [&[0, 1, 0, 0, 0, 1][..], PART.to_string().as_bytes()].concat();
    let has_row = answer.windows(row.len()).any(|bytes| bytes == row);
    assert!(asked == 0 && has_row, "{asked}: {}", String::from_utf8_lossy(&answer));
    // 3: a password is asked for.
    assert_eq!(ask_postgres(address, Some("unnamed")).await.unwrap().0, 3);
    for client in [None, Some("forged")] {
        assert_eq!(ask_postgres(address, client).await, None, "{client:?}");
    }
    served.stop().await;
}

/// What is counted by Flight SQL.
async fn ask_flight(address: SocketAddr, client: Option<&str>, token: Option<&str>) -> Result<i64, String> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pem("authority.pem")))
        .domain_name("localhost");
    let identity = |name: &str| Identity::from_pem(pem(&format!("{name}.pem")), pem(&format!("{name}.key")));
    let tls = client.into_iter().fold(tls, |tls, name| tls.identity(identity(name)));
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
    let channel = endpoint.connect().await.map_err(|error| format!("no connection: {error}"))?;
    let mut client = FlightSqlServiceClient::new(channel);
    if let Some(token) = token {
        client.set_token(token.to_owned());
    }
    let info = client.execute(SQL.to_owned(), None).await.map_err(|error| error.to_string())?;
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let rows: Vec<_> = client.do_get(ticket).await.unwrap().try_collect().await.unwrap();
    Ok(rows[0].column(0).as_primitive::<Int64Type>().value(0))
}

#[tokio::test]
async fn by_flight_a_certificate_names_the_caller_and_its_role() {
    let mut served = Served::start().await;
    let address = served.server.start_flight(&served.topology, anywhere()).await.unwrap();
    assert_eq!(ask_flight(address, Some("dashboards"), None).await, Ok(PART));
    assert_eq!(ask_flight(address, Some("unnamed"), Some(TOKEN)).await, Ok(ALL));
    for (client, token) in [("unnamed", None), ("dashboards", Some(TOKEN))] {
        let refused = ask_flight(address, Some(client), token).await.unwrap_err();
        assert!(refused.contains("token"), "{client}: {refused}");
    }
    for client in [None, Some("forged")] {
        assert!(ask_flight(address, client, Some(TOKEN)).await.is_err(), "{client:?}");
    }
    served.stop().await;
}

/// A gateway before the server at `backend`, which trusts the authority `ca`.
async fn gateway(backend: SocketAddr, ca: &str, stop: CancellationToken) -> GatewayServer {
    let [certificate, private_key] = ["server.pem", "server.key"].map(file);
    let text = format!(
        "
gateway:
  backends: [{{ url: 'https://{backend}', cloud: a }}]
  ca: {:?}
  identity: {{ certificate: {:?}, private_key: {:?} }}
  tls: {{ certificate: {certificate:?}, private_key: {private_key:?} }}
",
        file(ca),
        file("unnamed.pem"),
        file("unnamed.key")
    );
    let spec = crate::spec::gateway::check_text(&text, "gateway.yaml", Path::new("/"));
    let spec = spec.unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let options = GatewayOptions { listen: anywhere(), grace: HANDSHAKE_PATIENCE, file: None };
    GatewayServer::start(&spec, options, stop).await.unwrap()
}

#[tokio::test]
async fn a_gateway_shows_its_certificate_and_hands_on_tokens() {
    let served = Served::start().await;
    let stop = CancellationToken::new();
    let trusting = gateway(served.server.address, "authority.pem", stop.clone()).await;
    let (status, reply) = ask(trusting.address, None, Some(TOKEN)).await.unwrap();
    assert!(status == 200 && reply.contains(&format!("\n{ALL}\n")), "{reply}");
    // Nobody is somebody because the gateway asks.
    assert_eq!(ask(trusting.address, None, None).await.unwrap().0, 401);
    let strict = gateway(served.server.address, "stranger.pem", stop.clone()).await;
    let (status, reply) = ask(strict.address, None, Some(TOKEN)).await.unwrap();
    assert!(status == 503 && reply.contains("there is no connection to a"), "{reply}");
    stop.cancel();
    trusting.stopped().await;
    strict.stopped().await;
    served.stop().await;
}

#[test]
fn files_that_do_not_do_are_named() {
    let refusal = |edit: &dyn Fn(&mut TlsSpec)| {
        let mut spec = spec("authority.pem");
        edit(&mut spec);
        open(&spec, "serve.tls").unwrap_err().to_string()
    };
    assert!(open(&spec("authority.pem"), "serve.tls").is_ok());
    for (error, field, name) in [
        (refusal(&|spec| spec.certificate = file("nowhere.pem")), "certificate", "nowhere.pem"),
        (
            refusal(&|spec| spec.certificate = file("server.key")),
            "certificate",
            "there is no certificate in it",
        ),
        (refusal(&|spec| spec.private_key = file("server.pem")), "private_key", "server.pem"),
        // Somebody else's key.
        (refusal(&|spec| spec.private_key = file("forged.key")), "certificate", "server.pem"),
        (
            refusal(&|spec| spec.client_ca = Some(file("server.key"))),
            "client_ca",
            "there is no certificate in it",
        ),
        (refusal(&|spec| spec.client_ca = Some(file("nowhere.pem"))), "client_ca", "nowhere.pem"),
    ] {
        assert!(error.contains(&format!("serve.tls.{field}: ")) && error.contains(name), "{error}");
    }
}
