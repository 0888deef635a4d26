//! The simulator in place of the network, within the process: for `with_http_connector` of `object_store`'s builders.
//!
//! It keeps what the real HTTP client keeps: a time-out covers a request from its start to the last byte of the answer,
//! in tokio's time; a connection that is closed without an answer is an error of the kind that hyper's "connection
//! closed before message completed" becomes (`Request`, which `object_store` always repeats), and a body cut short is
//! an error too.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpResponse, HttpResponseBody, HttpService,
};
use tokio::time::{Instant, timeout_at};

use super::Simulator;
use super::body::http_error;
use super::protocol::Protocol;

/// Leads every request to one cloud of a simulator.
#[derive(Debug, Clone)]
pub struct Connector {
    pub(super) simulator: Arc<Simulator>,
    pub(super) protocol: Protocol,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let timeout = match options.get_config_value(&ClientConfigKey::Timeout) {
            Some(text) => {
                Some(humantime::parse_duration(&text).map_err(|error| object_store::Error::Generic {
                    store: "simulator",
                    source: format!("time-out {text}: {error}").into(),
                })?)
            }
            None => None,
        };
        Ok(HttpClient::new(Service { connector: self.clone(), timeout }))
    }
}

#[derive(Debug)]
struct Service {
    connector: Connector,
    timeout: Option<Duration>,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let (parts, body) = request.into_parts();
        let body = to_bytes(Body::new(body), usize::MAX).await;
        let body = body.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let Connector { simulator, protocol } = &self.connector;
        let handled = simulator.handle(*protocol, parts, body);
        let sent = match deadline {
            Some(deadline) => timeout_at(deadline, handled)
                .await
                .map_err(|_| http_error(HttpErrorKind::Timeout, io::ErrorKind::TimedOut))?,
            None => handled.await,
        };
        let sent =
            sent.ok_or_else(|| http_error(HttpErrorKind::Request, io::ErrorKind::ConnectionAborted))?;
        Ok(sent.into_response(deadline).map(HttpResponseBody::new))
    }
}
