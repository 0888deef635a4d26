//! A server that answers what a closure says, one request per connection, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What was asked.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// `GET /path?query`, still escaped.
    pub(super) line: String,
    /// The header's lines, names in lower case.
    pub(super) headers: Vec<String>,
    pub(super) body: String,
}

impl Request {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What to do about a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// Send these bytes and close the connection.
    Bytes(Vec<u8>),
    /// Say nothing and keep the connection open.
    Hang,
    /// Send a body without an end.
    Endless,
}

impl Reply {
    pub(super) fn json(status: u16, body: Json) -> Self {
        Self::with(status, "", &body.to_string())
    }

    /// Header lines end in `\r\n`.
    pub(super) fn with(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n{body}"
        );
        Self::Bytes(text.into_bytes())
    }

    /// Closes the connection without a word.
    pub(super) fn nothing() -> Self {
        Self::Bytes(Vec::new())
    }

    /// The same, without its last bytes.
    pub(super) fn truncated(self, bytes: usize) -> Self {
        match self {
            Self::Bytes(mut all) => {
                all.truncate(all.len() - bytes);
                Self::Bytes(all)
            }
            other => other,
        }
    }
}

/// Lives until dropped.
pub(super) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// A server that answers with `reply`, which is also told how many requests came before.
    pub(super) async fn start(reply: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, reply) = (requests.clone(), Arc::new(reply));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(serve(connection, log.clone(), reply.clone()));
            }
        });
        Self { address, requests, _tasks: tasks }
    }

    /// An address where nobody listens.
    pub(super) async fn absent() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL with `user:password@`.
    pub(super) fn url_of(&self, user: &str) -> String {
        format!("http://{user}@{}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The lines of the requests so far.
    pub(super) fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.line).collect()
    }
}

async fn serve(
    mut connection: TcpStream,
    log: Arc<Mutex<Vec<Request>>>,
    reply: Arc<impl Fn(&Request, usize) -> Reply>,
) {
    let Some(request) = read(&mut connection).await else { return };
    let reply = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        reply(&request, log.len() - 1)
    };
    match reply {
        Reply::Bytes(bytes) => {
            let _ = connection.write_all(&bytes).await;
            let _ = connection.shutdown().await;
        }
        Reply::Hang => std::future::pending().await,
        Reply::Endless => {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut sent = connection.write_all(head).await;
            while sent.is_ok() {
                let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
                sent = connection.write_all(chunk.as_bytes()).await;
            }
        }
    }
}

async fn read(connection: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
    let mut lines = text.split("\r\n");
    let line = lines.next()?.strip_suffix(" HTTP/1.1")?.to_owned();
    let lower =
        |line: &str| line.split_once(": ").map(|(name, value)| format!("{}: {value}", name.to_lowercase()));
    let headers: Vec<String> = lines.filter_map(lower).collect();
    let mut request = Request { line, headers, body: String::new() };
    let length: usize = request.header("content-length").map_or(0, |length| length.parse().unwrap_or(0));
    while bytes.len() < head + 4 + length {
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    request.body = String::from_utf8(bytes[head + 4..].to_vec()).ok()?;
    Some(request)
}
