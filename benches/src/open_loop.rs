//! Requests over HTTP at a fixed rate.
//!
//! Each is sent when it is due, whether or not earlier ones were answered (an open loop), and its latency begins when it was due: a
//! server that stalls is charged for all that waited meanwhile, so nothing is hidden by coordinated omission.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Connections that requests are sent over at first; each has one under way at a time.
const CONNECTIONS: usize = 64;
/// More are made while all of them wait for answers, up to so many: each is a thread, and a gateway has two files open for it, of which
/// many systems allow 1,024. Beyond that requests wait here, which counts as their latency.
const CONNECTIONS_MAX: usize = 400;
/// After so long without a request, a connection is looked at before it is used, as clients do: servers close what is not used.
const LOOKED_AT_AFTER: Duration = Duration::from_secs(1);
/// How long an answer may take. Only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Sample {
    /// When it was due, after the first.
    pub(crate) due: Duration,
    /// From then to the last byte of its answer, or to its failure.
    pub(crate) took: Duration,
    /// Why there is no answer, or none that says 200.
    pub(crate) failure: Option<String>,
}

/// A request, and when it is due.
struct Due {
    after: Duration,
    request: Vec<u8>,
}

/// What all connections share.
#[derive(Clone)]
struct Shared {
    due: Arc<Mutex<mpsc::Receiver<Due>>>,
    /// Connections without a request, less requests that nobody has taken.
    free: Arc<AtomicIsize>,
    started: Instant,
}

/// Sends `requests`, so many a second, the first one at `started`. Whichever connection is free takes the next; there is another one
/// if none is.
pub(crate) fn send(
    address: &str,
    requests: Vec<Vec<u8>>,
    rate: u64,
    started: Instant,
) -> Result<Vec<Sample>> {
    let count = requests.len();
    let (due, taken) = mpsc::channel::<Due>();
    let shared = Shared { due: Arc::new(Mutex::new(taken)), free: Arc::default(), started };
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(begin(Connection::open(address)?, &shared));
    }
    let interval = Duration::from_secs(1).as_nanos() as u64 / rate;
    for (number, request) in (0u64..).zip(requests) {
        let after = Duration::from_nanos(interval * number);
        // A thread of the system wakes up within some microseconds; a timer of the runtime within a millisecond.
        thread::sleep((started + after).saturating_duration_since(Instant::now()));
        if shared.free.fetch_sub(1, Ordering::Relaxed) <= 0 && connections.len() < CONNECTIONS_MAX {
            connections.push(begin(Connection::new(address), &shared));
        }
        due.send(Due { after, request }).context("somebody takes requests")?;
    }
    drop(due);
    let mut samples = Vec::with_capacity(count);
    for connection in connections {
        samples.extend(connection.join().map_err(|_| anyhow::anyhow!("a connection died"))?);
    }
    ensure!(samples.len() == count, "{} of {count} requests came to an end", samples.len());
    Ok(samples)
}

/// Sends what is due over `connection`, until nothing is any more.
fn begin(mut connection: Connection, shared: &Shared) -> JoinHandle<Vec<Sample>> {
    let Shared { due, free, started } = shared.clone();
    free.fetch_add(1, Ordering::Relaxed);
    thread::spawn(move || {
        let mut samples = Vec::new();
        loop {
            let next = due.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Due { after, request }) = next else { return samples };
            let failure = connection.ask(&request).err().map(|error| format!("{error:#}"));
            let took = (started + after).elapsed();
            samples.push(Sample { due: after, took, failure });
            free.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// The whole answer to one request; an error if it does not say 200.
pub(crate) fn ask(address: &str, request: &[u8]) -> Result<String> {
    let mut connection = Connection::open(address)?;
    connection.ask(request)?;
    Ok(String::from_utf8_lossy(&connection.buffer).into_owned())
}

/// Some times, in ascending order.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Head of the columns of [`columns`](Self::columns), and the line below.
    pub(crate) const HEAD: [&'static str; 2] = ["p50 ms | p99 ms | p999 ms | max ms |", "---|---|---|---|"];

    /// Of `times`, in any order; one at least.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Columns of a Markdown table.
    pub(crate) fn columns(&self) -> String {
        let at = |share: f64| {
            let place = (self.0.len() as f64 * share) as usize;
            self.0.get(place.min(self.0.len().saturating_sub(1))).map_or(f64::NAN, Duration::as_secs_f64)
                * 1e3
        };
        format!("{:.3} | {:.3} | {:.3} | {:.3} |", at(0.5), at(0.99), at(0.999), at(1.0))
    }
}

/// A connection that is kept open, and made again after a failure. No more of HTTP than the servers use, so that the client costs little.
struct Connection {
    address: String,
    /// And when it was used last.
    stream: Option<(TcpStream, Instant)>,
    buffer: Vec<u8>,
}

impl Connection {
    /// One that is made for its first request.
    fn new(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None, buffer: Vec::new() }
    }

    fn open(address: &str) -> Result<Self> {
        let stream = Some((connect(address)?, Instant::now()));
        Ok(Self { stream, ..Self::new(address) })
    }

    /// Sends a request and reads the whole answer.
    fn ask(&mut self, request: &[u8]) -> Result<()> {
        let stream = match self.stream.take() {
            Some((stream, used)) if used.elapsed() < LOOKED_AT_AFTER || is_open(&stream)? => stream,
            _ => connect(&self.address)?,
        };
        // One with half an answer in it is of no further use.
        self.stream = Some((self.ask_over(stream, request)?, Instant::now()));
        Ok(())
    }

    fn ask_over(&mut self, mut stream: TcpStream, request: &[u8]) -> Result<TcpStream> {
        stream.write_all(request)?;
        self.buffer.clear();
        let mut piece = [0; 64 << 10];
        let mut length = None;
        while length.is_none_or(|length| self.buffer.len() < length) {
            let read = stream.read(&mut piece)?;
            ensure!(read > 0, "the server closed the connection");
            self.buffer.extend_from_slice(&piece[..read]);
            if length.is_none() {
                length = answer_length(&self.buffer)?;
            }
        }
        ensure!(self.buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.buffer));
        Ok(stream)
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).context("connect to the server")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether the other end has neither closed a connection nor sent what nobody asked for.
fn is_open(stream: &TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    Ok(matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock))
}

/// How long an answer is, as soon as its head is there.
fn answer_length(answer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("an answer without a length")?.trim().parse()?;
    Ok(Some(end + 4 + length))
}
