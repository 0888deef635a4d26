//! The simulator over TCP, for tests with real processes and for clients of other languages.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::Simulator;
use super::body::WireBody;
use super::protocol::Protocol;

/// One cloud of a simulator at an address; it ends, with its connections, when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<Infallible>,
}

impl Server {
    pub(super) async fn start(
        simulator: Arc<Simulator>,
        protocol: Protocol,
        address: &str,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, simulator, protocol));
        Ok(Self { address, task })
    }

    /// Where it listens, `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Serves until the process ends.
    ///
    /// # Panics
    /// If the server does.
    pub async fn serve_for_ever(mut self) {
        let Err(error) = (&mut self.task).await;
        panic!("the server ended: {error}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, simulator: Arc<Simulator>, protocol: Protocol) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        // A connection that fails before it is there is the client's business, and so is what becomes of one.
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, Arc::clone(&simulator), protocol));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, simulator: Arc<Simulator>, protocol: Protocol) {
    // A dropped connection is an error of the service: hyper then closes it without an answer.
    let service = service_fn(|request| respond(Arc::clone(&simulator), protocol, request));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(
    simulator: Arc<Simulator>,
    protocol: Protocol,
    request: Request<Incoming>,
) -> io::Result<Response<WireBody>> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.map_err(io::Error::other)?;
    match simulator.handle(protocol, parts, body).await {
        Some(sent) => Ok(sent.into_response(None)),
        None => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}
