//! Connections to workers: each shows the secret, and TLS where it is configured.
//!
//! A connection is made when it is first needed, kept, and made again when it was lost. A worker that says nothing any more, because
//! its machine is gone for example, is noticed by pings of HTTP/2.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderValue, Request, Response};
use datafusion::common::exec_err;
use datafusion::error::{DataFusionError, Result};
use datafusion_distributed::grpc::{BoxCloneSyncChannel, create_worker_client};
use datafusion_distributed::{ChannelResolver, WorkerChannel};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use url::Url;

use super::secret_of;
use crate::error::Error;
use crate::spec::ServeSpec;
use crate::spec::serve::WorkersSpec;

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long a connection may be silent before the worker is asked whether it is there.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long it may take to say so: a worker that has much to do says it late.
const SILENCE_AFTER_PING_MAX: Duration = Duration::from_secs(20);

/// Connections that are kept. Those that are in use go on without being kept.
const OPEN_MAX: usize = 256;

/// The connections of this process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Channels(Arc<Inner>);

struct Inner {
    /// What is shown.
    secret: HeaderValue,
    tls: Option<ClientTlsConfig>,
    /// The only places that are connected to; none: whatever a plan says.
    only: Vec<Url>,
    open: Mutex<HashMap<Url, BoxCloneSyncChannel>>,
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channels").field("only", &self.0.only).finish_non_exhaustive()
    }
}

impl Channels {
    /// To the workers at `only`, or to any if there are none. Nobody is asked yet.
    ///
    /// # Errors
    /// [`Error::Configuration`] for a secret that leads nowhere or is none, and for certificates that cannot be read.
    pub(super) fn open(
        serve: &ServeSpec,
        spec: &WorkersSpec,
        only: &[Url],
    ) -> std::result::Result<Self, Error> {
        let mut secret = HeaderValue::try_from(format!("Bearer {}", secret_of(&spec.secret)?))
            .map_err(|_| Error::Bug("a secret of visible characters is no header".to_owned()))?;
        secret.set_sensitive(true);
        let tls = spec.ca.as_deref().map(|ca| tls(serve, ca)).transpose()?;
        Ok(Self(Arc::new(Inner { secret, tls, only: only.to_vec(), open: Mutex::default() })))
    }

    fn channel(&self, url: &Url) -> Result<BoxCloneSyncChannel> {
        let inner = &self.0;
        if !inner.only.is_empty() && !inner.only.contains(url) {
            return exec_err!("{url} is none of `serve.workers.urls`");
        }
        let mut open = inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(url) {
            return Ok(channel.clone());
        }
        let external = |error: tonic::transport::Error| DataFusionError::External(Box::new(error));
        let mut endpoint = Endpoint::from_shared(url.as_str().to_owned())
            .map_err(external)?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(SILENCE_MAX)
            .keep_alive_timeout(SILENCE_AFTER_PING_MAX);
        if url.scheme() == "https" {
            let Some(tls) = &inner.tls else {
                return exec_err!("{url} needs `serve.workers.ca`");
            };
            endpoint = endpoint.tls_config(tls.clone()).map_err(external)?;
        }
        let channel = Authorized { channel: endpoint.connect_lazy(), secret: inner.secret.clone() };
        let channel = BoxCloneSyncChannel::new(channel);
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(url.clone(), channel.clone());
        Ok(channel)
    }
}

/// What workers have to show, and what is shown to them.
fn tls(serve: &ServeSpec, ca: &Path) -> std::result::Result<ClientTlsConfig, Error> {
    let read = |field: &str, file: &Path| {
        std::fs::read(file)
            .map_err(|error| Error::Configuration(format!("{field}: {}: {error}", file.display())))
    };
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("serve.workers.ca", ca)?));
    let Some(own) = &serve.tls else { return Ok(config) };
    let certificate = read("serve.tls.certificate", &own.certificate)?;
    let key = read("serve.tls.private_key", &own.private_key)?;
    Ok(config.identity(Identity::from_pem(certificate, key)))
}

#[async_trait]
impl ChannelResolver for Channels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>> {
        Ok(create_worker_client(self.channel(url)?))
    }
}

/// A connection, every request of which shows the secret.
#[derive(Clone)]
struct Authorized {
    channel: Channel,
    secret: HeaderValue,
}

impl Service<Request<Body>> for Authorized {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().insert(AUTHORIZATION, self.secret.clone());
        self.channel.call(request)
    }
}
