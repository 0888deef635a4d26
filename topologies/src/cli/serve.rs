//! `isobar serve`: a server from its spec to a graceful stop.

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::args::ServeArgs;
use super::run::stop_on_signals;
use super::{Exit, runtime};
use crate::serve::{ServeOptions, Server, WorkerServer};
use crate::spec::{self, Topology};

/// Serves the topology that `args` name until it is stopped.
pub(super) fn serve(args: &ServeArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    if args.worker {
        runtime()?.block_on(work_until_stopped(&topology, args))?;
    } else {
        runtime()?.block_on(serve_until_stopped(&topology, args))?;
    }
    Ok(Exit::Success)
}

async fn serve_until_stopped(topology: &Topology, args: &ServeArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let online = args.online_directory.clone();
    let options = ServeOptions { grace: args.grace.0, online, ..ServeOptions::new(args.listen) };
    let mut server = Server::start(topology, options, shutdown).await?;
    if let Some(listen) = args.postgres {
        let address = server.start_postgres(topology, listen).await?;
        info!(%address, "serving the PostgreSQL protocol");
    }
    if let Some(listen) = args.flight {
        let address = server.start_flight(topology, listen).await?;
        info!(%address, "serving Flight SQL");
    }
    if let Some(listen) = args.inference_grpc {
        let address = server.start_inference_grpc(topology, listen).await?;
        info!(%address, "serving the inference protocol by gRPC");
    }
    let tls = topology.serve.tls.is_some();
    info!(topology = %topology.name, address = %server.address, tls, "serving");
    server.stopped().await;
    Ok(())
}

async fn work_until_stopped(topology: &Topology, args: &ServeArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let options = ServeOptions { grace: args.grace.0, ..ServeOptions::new(args.listen) };
    let worker = WorkerServer::start(topology, options, shutdown).await?;
    let tls = topology.serve.tls.is_some();
    info!(topology = %topology.name, address = %worker.address, tls, "working for other servers");
    worker.stopped().await;
    Ok(())
}
