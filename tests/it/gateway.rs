//! `isobar gateway` before `isobar serve`, as processes: servers that die, return, drain, hang and break off, and requests that must not be
//! sent twice.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use isobar_tests::events::{FEATURES_YAML, Generator, SOURCE, TOPIC};
use isobar_tests::lab::Lab;
use isobar_tests::prng::Seed;
use isobar_tests::program::{Background, http_get, isobar, run_isobar};
use isobar_tests::proxy::{Mode, Proxy};
use isobar_tests::wait::{in_time, until};
use reqwest::{Client, Response};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::serve::value;

const TOKEN: &str = "token-of-the-gateways-tests";
const COUNT: &str = "SELECT count(*) AS n FROM features";
/// Clients that send one request after the other.
const CLIENTS: usize = 8;
/// Requests from which on something has been seen enough.
const ENOUGH: usize = 200;
/// Rows of an answer that no socket holds.
const ROWS: usize = 3_000_000;
/// Probes would say what the requests are to find out.
const NO_PROBES: &str = "  probe: 1h\n";

/// A lab with a table, and the spec of a server that asks for a token.
async fn filled() -> (Lab, String) {
    let lab = Lab::in_directories();
    let mut spec = lab.spec(SOURCE, FEATURES_YAML);
    lab.produce(TOPIC, Generator::mixed(Seed::of("gateway").prng()).records(100));
    lab.run_until_caught_up(&spec.resolved()).await.unwrap();
    std::fs::write(spec.folder.join("token"), TOKEN).unwrap();
    spec.datasets.push_str("serve: { callers: { tests: { token: \"${file:token}\" } } }\n");
    let path = spec.written();
    (lab, path.to_str().unwrap().to_owned())
}

/// A process that listens.
struct Listening {
    program: Background,
    address: String,
}

impl Listening {
    async fn start(arguments: &[&str], log: &Path) -> Self {
        let program =
            Background::start(&mut isobar(&[&["--log-format", "json"][..], arguments].concat()), log);
        let line: Json = serde_json::from_str(&program.says("\"serving\"").await).unwrap();
        Self { address: line["address"].as_str().unwrap().to_owned(), program }
    }

    async fn serve(spec: &str, listen: &str, log: &Path) -> Self {
        Self::start(&["serve", spec, "--listen", listen], log).await
    }

    async fn metric(&self, name: &str) -> u64 {
        let (status, text) = http_get(&self.address, "/metrics").await.unwrap();
        assert_eq!(status, 200);
        value(&text, name)
    }

    /// Whether the backend gets requests.
    async fn is_up(&self, backend: &str, cloud: &str) -> bool {
        let name = format!("isobar_gateway_backend_up{{backend=\"{backend}\",cloud=\"{cloud}\"}}");
        self.metric(&name).await == 1
    }

    /// What became so often of requests at the backend.
    async fn attempts(&self, backend: &str, cloud: &str, outcome: &str) -> u64 {
        let labels = format!("backend=\"{backend}\",cloud=\"{cloud}\",outcome=\"{outcome}\"");
        self.metric(&format!("isobar_gateway_attempts_total{{{labels}}}")).await
    }
}

/// The text of a gateway before these addresses, one in each cloud; `rest` are further lines.
fn gateway_text(backends: &[&str], rest: &str) -> String {
    let mut text = format!("gateway:\n{rest}  backends:\n");
    for (address, cloud) in backends.iter().zip(["aws", "azure", "gcp"]) {
        text.push_str(&format!("    - {{ url: 'http://{address}', cloud: {cloud} }}\n"));
    }
    text
}

/// A gateway before these addresses, and its file.
async fn gateway(folder: &Path, backends: &[&str], rest: &str) -> (Listening, PathBuf) {
    let file = folder.join("gateway.yaml");
    std::fs::write(&file, gateway_text(backends, rest)).unwrap();
    let arguments = ["gateway", file.to_str().unwrap(), "--listen", "127.0.0.1:0", "--grace", "5m"];
    let gateway = Listening::start(&arguments, &folder.join("gateway.log")).await;
    for (backend, cloud) in backends.iter().zip(["aws", "azure", "gcp"]) {
        until("the backend is up", async || gateway.is_up(backend, cloud).await).await;
    }
    (gateway, file)
}

/// Two servers, and a proxy before the first.
async fn behind_a_proxy(spec: &str, folder: &Path) -> (Listening, Listening, Proxy) {
    let first = Listening::serve(spec, "127.0.0.1:0", &folder.join("aws.log")).await;
    let second = Listening::serve(spec, "127.0.0.1:0", &folder.join("azure.log")).await;
    let proxy = Proxy::start(&first.address).await;
    (first, second, proxy)
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

async fn ask(client: &Client, address: &str, sql: &str) -> reqwest::Result<Response> {
    let body = json!({ "sql": sql, "format": "csv" }).to_string();
    let request = client.post(format!("http://{address}/v1/query")).bearer_auth(TOKEN);
    request.header("Content-Type", "application/json").body(body).send().await
}

fn cloud(answer: &Response) -> &str {
    answer.headers()["isobar-cloud"].to_str().unwrap()
}

/// Clients that ask the gateway again and again.
struct Load {
    answered: Arc<AtomicUsize>,
    stop: CancellationToken,
    clients: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(address: &str) -> Self {
        let (answered, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let clients = (0..CLIENTS).map(|number| {
            let (address, answered, stop) = (address.to_owned(), answered.clone(), stop.clone());
            tokio::spawn(async move {
                let client = client();
                while !stop.is_cancelled() {
                    let answer = match number % 2 {
                        0 => ask(&client, &address, COUNT).await,
                        _ => {
                            client
                                .get(format!("http://{address}/v1/datasets"))
                                .bearer_auth(TOKEN)
                                .send()
                                .await
                        }
                    };
                    let answer = answer.map_err(|error| format!("no answer: {error:?}"))?;
                    let status = answer.status();
                    let text = answer.text().await.map_err(|error| format!("broken off: {error:?}"))?;
                    let is_right =
                        if number % 2 == 0 { text.starts_with("n\n") } else { text.contains("features") };
                    if status != 200 || !is_right {
                        return Err(format!("{status}: {text}"));
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), String>(())
            })
        });
        let clients = clients.collect();
        Self { answered, stop, clients }
    }

    /// Waits for some more answers, or a failure.
    async fn goes_on(&self) {
        let from = self.answered.load(Ordering::Relaxed);
        until("requests are answered", async || {
            let has_ended = self.clients.iter().any(JoinHandle::is_finished);
            has_ended || self.answered.load(Ordering::Relaxed) >= from + ENOUGH
        })
        .await;
    }

    async fn ends_well(self) {
        self.stop.cancel();
        for client in self.clients {
            let ended = in_time("a client stops", client).await.unwrap();
            assert_eq!(ended, Ok(()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_a_server_is_killed_and_returns() {
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let first = Listening::serve(&spec, "127.0.0.1:0", &folder.join("aws.log")).await;
    let second = Listening::serve(&spec, "127.0.0.1:0", &folder.join("azure.log")).await;
    let third = Listening::serve(&spec, "127.0.0.1:0", &folder.join("gcp.log")).await;
    let backends = [&first, &second, &third].map(|server| server.address.clone());
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    let (gateway, _) = gateway(folder, &backends, "  probe: 100ms\n  slow_start: 0s\n").await;
    let load = Load::start(&gateway.address);
    load.goes_on().await;
    until("the server has requests", async || gateway.attempts(backends[1], "azure", "answered").await > 0)
        .await;

    second.program.kill().await;
    load.goes_on().await;
    until("the loss is known", async || !gateway.is_up(backends[1], "azure").await).await;
    let before = gateway.attempts(backends[1], "azure", "answered").await;
    load.goes_on().await;
    assert_eq!(gateway.attempts(backends[1], "azure", "answered").await, before);

    let _returned = Listening::serve(&spec, backends[1], &folder.join("azure-again.log")).await;
    until("it is up again", async || gateway.is_up(backends[1], "azure").await).await;
    until("it has requests again", async || {
        load.goes_on().await;
        gateway.attempts(backends[1], "azure", "answered").await > before
    })
    .await;
    load.ends_well().await;
    for outcome in ["unavailable", "broken", "late", "refused"] {
        for kind in ["query", "other"] {
            let name = format!("isobar_gateway_requests_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
            assert_eq!(gateway.metric(&name).await, 0, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_pass_and_a_backend_drains_by_the_file() {
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let first = Listening::serve(&spec, "127.0.0.1:0", &folder.join("aws.log")).await;
    let second = Listening::serve(&spec, "127.0.0.1:0", &folder.join("azure.log")).await;
    let backends = [first.address.as_str(), second.address.as_str()];
    let (gateway, file) = gateway(folder, &backends, "  prefer: order\n").await;
    let client = client();
    let answer = client.get(format!("http://{}/v1/datasets", gateway.address)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), cloud(&answer)), (401, "aws"));
    let answer = ask(&client, &gateway.address, COUNT).await.unwrap();
    assert_eq!((answer.status().as_u16(), cloud(&answer)), (200, "aws"));
    assert!(answer.headers()["isobar-versions"].to_str().unwrap().starts_with("features="));
    // The inference protocol goes through as it is, its refusals too.
    let infers = format!("http://{}/v2", gateway.address);
    let answer = client.get(format!("{infers}/health/live")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), cloud(&answer)), (200, "aws"));
    let answer = client.post(format!("{infers}/models/nobody/infer")).body("{}").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), cloud(&answer)), (401, "aws"));
    let said: Json = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert!(said["error"].is_string(), "{said}");

    // A file with a mistake changes nothing.
    let text = gateway_text(&backends, "  prefer: order\n");
    std::fs::write(&file, text.replace("cloud: aws", "cloud: aws, drian: true")).unwrap();
    gateway.program.says("unknown field `drian`").await;
    assert_eq!(cloud(&ask(&client, &gateway.address, COUNT).await.unwrap()), "aws");
    std::fs::write(&file, text.replace("cloud: aws", "cloud: aws, drain: true")).unwrap();
    until("the backend drains", async || !gateway.is_up(backends[0], "aws").await).await;
    for _ in 0..20 {
        let answer = ask(&client, &gateway.address, COUNT).await.unwrap();
        assert_eq!((answer.status().as_u16(), cloud(&answer)), (200, "azure"));
    }
    let all = text
        .replace("cloud: aws", "cloud: aws, drain: true")
        .replace("cloud: azure", "cloud: azure, drain: true");
    std::fs::write(&file, all).unwrap();
    until("both drain", async || !gateway.is_up(backends[1], "azure").await).await;
    let answer = ask(&client, &gateway.address, COUNT).await.unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    assert!(answer.text().await.unwrap().contains("all of them drain"));
    assert_eq!(http_get(&gateway.address, "/readyz").await.unwrap().0, 503);
    assert_eq!(http_get(&gateway.address, "/healthz").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_lets_answers_end() {
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let server = Listening::serve(&spec, "127.0.0.1:0", &folder.join("aws.log")).await;
    let (gateway, _) = gateway(folder, &[&server.address], "  time: 1h\n").await;
    let sql = format!("SELECT value FROM generate_series(1, {ROWS})");
    let mut answer = ask(&client(), &gateway.address, &sql).await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    let mut text = answer.chunk().await.unwrap().unwrap().to_vec();
    gateway.program.signal("TERM").await;
    let address = gateway.address.clone();
    until("nobody is let in any more", async || TcpStream::connect(&address).await.is_err()).await;
    while let Some(piece) = answer.chunk().await.unwrap() {
        text.extend_from_slice(&piece);
    }
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, ROWS + 1);
    gateway.program.ended().await.assert(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_backend_is_asked_when_one_is_slow() {
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let (_first, second, proxy) = behind_a_proxy(&spec, folder).await;
    let address = proxy.address();
    let rest = format!("  prefer: order\n  hedges: 100%\n{NO_PROBES}");
    let (gateway, _) = gateway(folder, &[&address, &second.address], &rest).await;
    let client = client();
    // What is usual has to be known.
    for _ in 0..50 {
        assert_eq!(ask(&client, &gateway.address, COUNT).await.unwrap().status(), 200);
    }
    proxy.set(Mode::Hang);
    let before = gateway.metric("isobar_gateway_hedges_total").await;
    for _ in 0..10 {
        let answer = ask(&client, &gateway.address, COUNT).await.unwrap();
        assert_eq!((answer.status().as_u16(), cloud(&answer)), (200, "azure"));
    }
    assert_eq!(gateway.metric("isobar_gateway_hedges_total").await, before + 10);
    assert!(gateway.attempts(&address, "aws", "abandoned").await >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backend_does_not_answer_any_more_is_asked_elsewhere() {
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let (_first, second, proxy) = behind_a_proxy(&spec, folder).await;
    let address = proxy.address();
    // Probes find out; nothing else would.
    let rest = "  prefer: order\n  hedges: 0%\n  probe: 100ms\n";
    let (gateway, _) = gateway(folder, &[&address, &second.address], rest).await;
    let client = client();
    assert_eq!(cloud(&ask(&client, &gateway.address, COUNT).await.unwrap()), "aws");
    proxy.set(Mode::Hang);
    let answer = in_time("the answer", ask(&client, &gateway.address, COUNT)).await.unwrap();
    assert_eq!((answer.status().as_u16(), cloud(&answer)), (200, "azure"));
    assert!(!gateway.is_up(&address, "aws").await);
    // It works again.
    proxy.set(Mode::Forward);
    until("it is asked again", async || {
        cloud(&ask(&client, &gateway.address, COUNT).await.unwrap()) == "aws"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_an_error_and_nothing_is_repeated() {
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let (_first, second, proxy) = behind_a_proxy(&spec, folder).await;
    let address = proxy.address();
    let rest = format!("  prefer: order\n  hedges: 0%\n{NO_PROBES}");
    let (gateway, _) = gateway(folder, &[&address, &second.address], &rest).await;
    proxy.set_after(1 << 20, Mode::Refuse);
    let sql = format!("SELECT value FROM generate_series(1, {ROWS})");
    let mut answer = ask(&client(), &gateway.address, &sql).await.unwrap();
    assert_eq!((answer.status().as_u16(), cloud(&answer)), (200, "aws"));
    let mut length = 0;
    let broken = loop {
        match answer.chunk().await {
            Ok(Some(piece)) => length += piece.len(),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken && length > 0, "{length} bytes that look like all of the answer");
    let labels = format!("backend=\"{address}\",cloud=\"aws\"");
    assert_eq!(gateway.metric(&format!("isobar_gateway_answers_broken_total{{{labels}}}")).await, 1);
    assert_eq!(gateway.metric("isobar_gateway_retries_total").await, 0);
    assert_eq!(gateway.attempts(&second.address, "azure", "answered").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_as_much_time_as_whoever_asks() {
    let (lab, spec) = filled().await;
    let folder = lab.directory.path();
    let server = Listening::serve(&spec, "127.0.0.1:0", &folder.join("aws.log")).await;
    let proxy = Proxy::start(&server.address).await;
    let (gateway, _) = gateway(folder, &[&proxy.address()], NO_PROBES).await;
    proxy.set(Mode::Hang);
    let url = format!("http://{}/v1/datasets", gateway.address);
    let asked = client().get(&url).header("isobar-timeout", "50ms").send();
    let answer = in_time("the answer", asked).await.unwrap();
    assert_eq!(answer.status().as_u16(), 504);
    let problem: Json = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(problem["type"], "urn:isobar:problem:late");
    let answer = client().get(&url).header("isobar-timeout", "soon").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 400);
}

/// What a server of these tests does with a request that is no probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Answers it.
    Answer,
    /// Closes the connection.
    Close,
    /// Says that there is no room for it.
    Refuse,
}

/// A server that keeps the requests that come to it. A real one has none that change something.
struct Recording {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Recording {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let kept = requests.clone();
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(answer_one(connection, does, kept.clone()));
            }
        });
        Self { address, requests, task }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The next request on `connection`, its body included; `None` at its end.
async fn next_request(connection: &mut TcpStream) -> Option<String> {
    let (mut read, mut piece) = (String::new(), [0; 4096]);
    loop {
        if let Some(head) = read.find("\r\n\r\n") {
            let length = read[..head].lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if read.len() == head + 4 + length {
                return Some(read);
            }
        }
        match connection.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(length) => read.push_str(std::str::from_utf8(&piece[..length]).unwrap()),
        }
    }
}

/// Answers one request of a connection, as most small servers do.
async fn answer_one(mut connection: TcpStream, does: Does, kept: Arc<Mutex<Vec<String>>>) {
    let Some(request) = next_request(&mut connection).await else { return };
    let mut status = "200 OK";
    if !request.starts_with("GET /readyz ") {
        kept.lock().unwrap().push(request);
        match does {
            Does::Close => return,
            Does::Refuse => status = "429 Too Many Requests",
            Does::Answer => {}
        }
    }
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-length: 3\r\nconnection: close\r\nkeep-alive: timeout=5\r\n\r\nok\n"
    );
    // Whoever goes away has no use for it.
    let _ = connection.write_all(answer.as_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_is_never_sent_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Recording::start(Does::Close).await, Recording::start(Does::Close).await);
    let backends = [first.address.as_str(), second.address.as_str()];
    let rest = format!("  prefer: order\n{NO_PROBES}");
    let (gateway, _) = gateway(folder.path(), &backends, &rest).await;
    let client = client();
    let url = |path: &str| format!("http://{}{path}", gateway.address);
    let answer = client.post(url("/v1/orders")).body("an order.").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 502);
    let problem: Json = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(problem["type"], "urn:isobar:problem:broken");
    assert!(problem["detail"].as_str().unwrap().contains("may have been carried out"), "{problem}");
    assert_eq!((first.requests().len(), second.requests().len()), (1, 0));
    for answer in [
        client.put(url("/v1/query")).body("a question."),
        client.delete(url("/v1/datasets/features")),
        client.post(url("/v1/query/")).body("a question."),
    ] {
        assert_eq!(answer.send().await.unwrap().status().as_u16(), 502);
    }
    assert_eq!(first.requests().len() + second.requests().len(), 4);
    assert_eq!(gateway.metric("isobar_gateway_retries_total").await, 0);
    // What changes nothing is asked of both, once each.
    for (at, path) in
        ["/v1/query", "/v1/features", "/v2/models/late/infer", "/v2/models/late/versions/champion/infer"]
            .into_iter()
            .enumerate()
    {
        let before = (first.requests().len(), second.requests().len());
        let answer = client.post(url(path)).body("a question.").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 503, "{path}");
        let after = (first.requests().len(), second.requests().len());
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{path}");
        assert_eq!(gateway.metric("isobar_gateway_retries_total").await, at as u64 + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_backend_has_no_room_for_is_asked_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (full, other) = (Recording::start(Does::Refuse).await, Recording::start(Does::Answer).await);
    let backends = [full.address.as_str(), other.address.as_str()];
    let rest = format!("  prefer: order\n{NO_PROBES}");
    let (gateway, _) = gateway(folder.path(), &backends, &rest).await;
    let client = client();
    let url = |path: &str| format!("http://{}{path}", gateway.address);
    let answer = client.post(url("/v2/models/late/infer")).body("a question.").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), cloud(&answer)), (200, "azure"));
    assert_eq!((full.requests().len(), other.requests().len()), (1, 1));
    assert_eq!(gateway.metric("isobar_gateway_retries_total").await, 1);
    // What may change something is asked once.
    let answer = client.post(url("/v1/orders")).body("an order.").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), cloud(&answer)), (429, "aws"));
    assert_eq!((full.requests().len(), other.requests().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_written_goes_to_another_backend_whatever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Recording::start(Does::Answer).await, Recording::start(Does::Answer).await);
    let backends = [first.address.as_str(), second.address.as_str()];
    let rest = format!("  prefer: order\n  body: 1KiB\n{NO_PROBES}");
    let (gateway, _) = gateway(folder.path(), &backends, &rest).await;
    let client = client();
    let url = format!("http://{}/v1/orders?for=us", gateway.address);
    let large = format!("{}.", "x".repeat(2000));
    // Only the first is asked while it is there.
    let request = client.post(&url).body("an order.").header("connection", "x-mine").header("x-mine", "1");
    let request = request.header("x-forwarded-for", "192.0.2.1").header("host", "orders.example");
    let answer = request.send().await.unwrap();
    assert_eq!((answer.status().as_u16(), cloud(&answer)), (200, "aws"));
    assert!(!answer.headers().contains_key("keep-alive"));
    let seen = first.requests().remove(0);
    assert!(
        seen.starts_with("POST /v1/orders?for=us HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nan order."),
        "{seen}"
    );
    for line in ["host: orders.example", "x-forwarded-for: 192.0.2.1, 127.0.0.1", "x-forwarded-proto: http"] {
        assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line}: {seen}");
    }
    assert!(seen.contains("\r\nisobar-timeout: ") && !seen.contains("x-mine"), "{seen}");

    let address = first.address.clone();
    drop(first);
    until("the first is gone", async || TcpStream::connect(&address).await.is_err()).await;
    // The first of these finds out; its body is too large to be kept, and was not written yet.
    for body in [large.as_str(), "an order."] {
        let answer = client.post(&url).body(body.to_owned()).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), cloud(&answer)), (200, "azure"));
        assert!(second.requests().last().unwrap().ends_with(&format!("\r\n\r\n{body}")));
    }
    assert_eq!(gateway.metric("isobar_gateway_retries_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_is_refused_with_everything_that_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let path = file.to_str().unwrap();
    run_isobar(&["gateway", path]).await.assert(2, &["the gateway cannot be read", "isobar schema gateway"]);
    std::fs::write(&file, gateway_text(&["a:1", "a:1"], "  time: 0s\n")).unwrap();
    let problems = ["this backend is there twice", "`time` is 0s"];
    run_isobar(&["gateway", path]).await.assert(2, &problems);
    run_isobar(&["gateway", path, "--check"]).await.assert(2, &problems);
    let printed = run_isobar(&["gateway", path, "--check", "--format", "json"]).await;
    let printed: Json = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(printed["problems"].as_array().unwrap().len(), 2, "{printed}");
    std::fs::write(&file, gateway_text(&["a:1"], "")).unwrap();
    run_isobar(&["gateway", path, "--check"]).await.assert(0, &["no problems (1 backend)"]);
    let schema = run_isobar(&["schema", "gateway"]).await;
    schema.assert(0, &["isobar gateway", "slow_start"]);
    let missing = format!("  ca: {}\n", folder.path().join("nowhere.pem").display());
    std::fs::write(&file, gateway_text(&["a:1"], &missing)).unwrap();
    run_isobar(&["gateway", path]).await.assert(2, &["gateway.ca", "nowhere.pem"]);
}
