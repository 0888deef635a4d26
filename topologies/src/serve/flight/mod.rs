//! Arrow Flight SQL of `isobar serve`: what ADBC, JDBC and with them notebooks, BI tools and other engines speak.
//!
//! A client asks twice. The first request is planned and answered with a ticket, the second fetches the rows of a ticket:
//!
//! ```text
//! GetFlightInfo(sql) ─▶ Engine::prepare ─▶ schema, versions ─▶ ticket: sql, parameters, versions, schema, who asked; signed
//! DoGet(ticket) ──────▶ Engine::prepare with these versions ─▶ the same schema and versions? ─▶ rows
//! ```
//!
//! - **The same snapshot.** The ticket carries the versions, so that what is fetched is what was planned, whatever was committed
//!   in between. Where that cannot be had any more, it is an error, never another version.
//! - **Nothing is kept here.** Tickets and the handles of prepared statements hold all that there is, under a signature
//!   ([`seal`]): they cannot be changed, and only who got one can use it. The key is made at the start, so that none outlives the server.
//!   Whether the caller may still read the tables is asked anew by the engine, each time.
//! - **Rows wait for the client.** A batch is asked of the query when the client has room for it, and split into messages of at most
//!   [`MESSAGE_BYTES_TARGET`] where its rows allow that. A client that goes away ends its query.
//! - **Columns are plain.** Dictionaries, views and unsigned numbers become what every driver shows as it is ([`plain`]).
//!
//! Only queries: whatever would write, and transactions, are refused. Errors carry gRPC's codes ([`status`]).

mod access;
mod metadata;
mod parameters;
mod placeholders;
mod plain;
mod running;
mod seal;
mod service;
mod sql_info;
mod statements;
pub(super) mod status;
#[cfg(test)]
mod tests;
mod xdbc;

use std::net::SocketAddr;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use arrow_flight::sql::metadata::{SqlInfoData, XdbcTypeInfoData};
use futures::stream::BoxStream;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;

pub(super) use self::access::recognised;
use self::running::Running;
use self::seal::Seal;
use super::{Engine, Server, check_address, grpc, tls};
use crate::error::Error;
use crate::http::bind;
use crate::spec::Topology;

/// What a message with rows should not be above: gRPC's clients take 4 MiB unless they are told to take more. A single row that is
/// larger is one message all the same.
const MESSAGE_BYTES_TARGET: usize = 2 << 20;
/// What a client may send in one message: a query, a ticket, or the parameters of a statement.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Answers of a server that come one after the other.
type Replies<T> = BoxStream<'static, Result<T, Status>>;

/// The service.
struct Flight {
    engine: Engine,
    seal: Seal,
    running: Running,
    sql_info: SqlInfoData,
    types: XdbcTypeInfoData,
}

impl Flight {
    fn new(engine: Engine) -> Result<Self, Error> {
        let unbuilt = |error| Error::Bug(format!("describe what Flight SQL can do: {error}"));
        Ok(Self {
            engine,
            seal: Seal::new(),
            running: Running::default(),
            sql_info: sql_info::build().map_err(unbuilt)?,
            types: xdbc::build().map_err(unbuilt)?,
        })
    }
}

impl Server {
    /// Serves Flight SQL at `listen` as well, until the server ends, and says where that is. `topology` is the server's.
    ///
    /// # Errors
    /// [`Error::Configuration`] for an address that cannot be listened on or must not be without tokens, and for keys and
    /// certificates that cannot be read.
    pub async fn start_flight(
        &mut self,
        topology: &Topology,
        listen: SocketAddr,
    ) -> Result<SocketAddr, Error> {
        let tls = tls::of(topology)?;
        check_address(&self.engine, listen, tls.is_some())?;
        let (address, serving) = start(&self.engine, listen, tls, self.shutdown.clone()).await?;
        self.listeners.push(serving);
        Ok(address)
    }
}

/// Serves at `listen` until `stop`, and then until the last query has ended. Says where it listens.
async fn start(
    engine: &Engine,
    listen: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
) -> Result<(SocketAddr, JoinHandle<()>), Error> {
    let (listener, address) = bind("--flight", listen).await?;
    let flight = Flight::new(engine.clone())?;
    let service = FlightServiceServer::new(flight).max_decoding_message_size(REQUEST_BYTES_MAX);
    let callers = access::known_callers(engine.clone());
    let services = grpc::server().add_service(InterceptedService::new(service, callers));
    let serving = tokio::spawn(async move {
        if let Err(error) = grpc::serve(services, listener, address, tls, stop).await {
            let error = crate::chain_of(&error);
            tracing::error!(error, "Flight SQL is not served any more");
        }
    });
    Ok((address, serving))
}
