//! `isobar run`: a topology from its spec to a graceful stop.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::args::{LogArgs, LogFormat, RunArgs, When};
use super::{Exit, bars, runtime};
use crate::error::Error;
use crate::http::{MetricsServer, Side};
use crate::pipeline::{self, RunOptions};
use crate::spec::{self, Topology};
use crate::standby;
use crate::workers::{self, Desk};

/// How long a start waits while too few clouds answer, unless told otherwise.
const CLOUDS_PATIENCE: Duration = Duration::from_secs(60);
/// Exit code of a process that a second signal stopped at once, as shells expect it: 128 + SIGINT.
const EXIT_CODE_INTERRUPTED: i32 = 130;

/// Runs the topology that `args` name, until it is stopped, caught up, or failed.
pub(super) fn run(args: &RunArgs, logs: &LogArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    let shows_progress = match args.progress {
        When::Always => true,
        When::Never => false,
        // Logs for programs are for programs only.
        When::Auto => std::io::stderr().is_terminal() && logs.log_format == LogFormat::Human,
    };
    runtime()?.block_on(run_until_stopped(&topology, args, shows_progress))
}

async fn run_until_stopped(
    topology: &Topology,
    args: &RunArgs,
    shows_progress: bool,
) -> anyhow::Result<Exit> {
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let mut options = RunOptions {
        until_caught_up: args.until_caught_up || args.to.is_some(),
        from: args.from.clone(),
        to: args.to.clone(),
        clouds_patience: clouds_patience(args),
        ..RunOptions::new(&topology.name)
    };
    let token = workers::token::resolve(topology)?;
    if let Some(token) = token.as_ref().filter(|_| !args.worker) {
        options.desk = Some(Desk::new(token, options.metrics.clone())?);
        if args.metrics_addr.is_none() && !options.until_caught_up {
            warn!("no worker reaches this process: workers come in by --metrics-addr");
        }
    }
    // What accompanies the pipeline lives as long as it does, not only until it is asked to stop.
    let done = CancellationToken::new();
    let server = match args.metrics_addr {
        Some(address) => {
            let side = Side::of(&topology.name, &options);
            let server = MetricsServer::start(address, side, done.clone()).await?;
            info!(address = %server.address, "serving metrics");
            options.address = advertised(server.address, args)?;
            Some(server)
        }
        None => None,
    };
    let line = shows_progress
        .then(|| tokio::spawn(bars::show(options.progress.clone(), topology.name.clone(), done.clone())));
    let result = if args.worker {
        let token = token.ok_or_else(|| no_workers(topology))?;
        workers::run(topology, options, &token, shutdown).await.map(|_| ())
    } else if args.standby {
        standby::run(topology, options, args.takeover_after.0, shutdown).await.map(|_| ())
    } else {
        pipeline::run(topology, options, shutdown).await.map(|_| ())
    };
    done.cancel();
    if let Some(line) = line {
        line.await.context("show progress")?;
    }
    if let Some(server) = server {
        server.stopped().await;
    }
    result?;
    Ok(Exit::Success)
}

/// How long a start waits for clouds. A standby stands by meanwhile.
fn clouds_patience(args: &RunArgs) -> Duration {
    match args.wait_for_clouds {
        Some(patience) => patience.0,
        None if args.standby => Duration::ZERO,
        None => CLOUDS_PATIENCE,
    }
}

fn no_workers(topology: &Topology) -> Error {
    Error::Configuration(format!(
        "topology {} has no workers: add `workers: {{ token: \"${{env:ISOBAR_WORKER_TOKEN}}\" }}` to its specification, for the \
         leader as well",
        topology.name
    ))
}

/// Where others reach this process. An address that stands for every interface is none that others could use.
fn advertised(bound: SocketAddr, args: &RunArgs) -> anyhow::Result<Option<String>> {
    match &args.advertise {
        Some(address) => Ok(Some(address.clone())),
        None if !bound.ip().is_unspecified() => Ok(Some(bound.to_string())),
        None if args.standby => Err(Error::Configuration(format!(
            "other processes cannot listen at {bound}: say with --advertise HOST:PORT where they reach this process"
        ))
        .into()),
        None => Ok(None),
    }
}

/// The first SIGINT or SIGTERM asks for a graceful stop, the second ends the process at once.
pub(super) fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    // The task ends with the process: it must hear a second signal for as long as the pipeline is stopping.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if shutdown.is_cancelled() {
                warn!("stopped at once; the next run starts at the last commit");
                std::process::exit(EXIT_CODE_INTERRUPTED);
            }
            info!("stopping; a second signal stops at once");
            shutdown.cancel();
        }
    });
    Ok(())
}
