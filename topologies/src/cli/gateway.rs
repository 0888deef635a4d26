//! `isobar gateway`: a gateway from its file to a graceful stop.

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::args::{Format, GatewayArgs};
use super::run::stop_on_signals;
use super::{Exit, output, runtime};
use crate::gateway::{GatewayOptions, GatewayServer};
use crate::spec::gateway::{self, GatewaySpec};

/// Stands before the servers that `args` name until it is stopped, or checks the file that names them.
pub(super) fn gateway(args: &GatewayArgs) -> anyhow::Result<Exit> {
    if args.check {
        return check(args);
    }
    let spec = gateway::load(&args.gateway)?;
    runtime()?.block_on(run_until_stopped(&spec, args))?;
    Ok(Exit::Success)
}

fn check(args: &GatewayArgs) -> anyhow::Result<Exit> {
    let checked = gateway::load(&args.gateway);
    let exit = if checked.is_ok() { Exit::Success } else { Exit::Configuration };
    let file = args.gateway.display();
    match (args.output.format, checked) {
        (Format::Json, Ok(_)) => {
            output::print_json(&serde_json::json!({ "file": file.to_string(), "problems": [] }))?;
        }
        (Format::Json, Err(errors)) => output::print_json(&errors.to_json())?,
        (Format::Human, Ok(spec)) => {
            let count = spec.backends.len();
            let backends = if count == 1 { "backend" } else { "backends" };
            output::print(&format!("{file}: no problems ({count} {backends})\n"))?;
        }
        (Format::Human, Err(errors)) => output::print(&errors.render(output::stdout_colour()))?,
    }
    Ok(exit)
}

async fn run_until_stopped(spec: &GatewaySpec, args: &GatewayArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let options =
        GatewayOptions { listen: args.listen, grace: args.grace.0, file: Some(args.gateway.clone()) };
    let server = GatewayServer::start(spec, options, shutdown).await?;
    info!(address = %server.address, backends = spec.backends.len(), tls = spec.tls.is_some(), "serving");
    server.stopped().await;
    Ok(())
}
