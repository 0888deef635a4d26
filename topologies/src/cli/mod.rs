//! The command line of `isobar`.
//!
//! [`args`] says what can be asked, [`run`] does it. What a command finds goes to standard output, logs and errors go
//! to standard error. Exit codes: 0 success, 1 something failed while running, 2 the configuration or the command
//! line is wrong, so that a script can tell "try again" from "a person must change something"; 3 `leak-check` found leaks,
//! or `drift` found alarms.

use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use crate::demo::DemoOptions;
use crate::gap::GapRequest;
use crate::spec::{self, CheckOptions, SpecErrors};

pub mod args;
mod bars;
mod doctor;
mod drift;
mod drill;
mod gateway;
pub mod logs;
mod models;
mod online;
pub mod output;
mod quarantine;
mod query;
mod run;
mod schema;
mod scrub;
mod serve;
mod shell;
mod training;

use args::{AcceptGapArgs, Args, CheckArgs, Command, DemoArgs, Format, PlanArgs, ProveArgs, SchemaCommand};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is done, and holds.
    Success,
    /// Something failed while running. Trying again may help.
    Failure,
    /// The configuration or the command line is wrong. A person must change something.
    Configuration,
    /// A training set holds what was not known at its time.
    Leaks,
    /// A model does not see or say what it should.
    Alarms,
}

impl Exit {
    /// What an error means for the exit code.
    pub fn of(error: &anyhow::Error) -> Self {
        let is_configuration = error.chain().any(|cause| {
            cause.is::<SpecErrors>()
                || cause.is::<Misconfigured>()
                || cause.downcast_ref::<crate::Error>().is_some_and(|error| error.exit_code() == 2)
        });
        // A context is no link of the chain by itself, but can be asked for.
        if is_configuration || error.downcast_ref::<Misconfigured>().is_some() {
            Self::Configuration
        } else {
            Self::Failure
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => ExitCode::SUCCESS,
            Exit::Failure => ExitCode::from(1),
            Exit::Configuration => ExitCode::from(2),
            Exit::Leaks | Exit::Alarms => ExitCode::from(3),
        }
    }
}

/// An option or an environment variable that is wrong, other than a spec.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// Does what `args` ask for.
///
/// # Errors
/// What stopped it; [`report`] prints it and gives the exit code.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    isobar_connectors::failpoint::arm_from_environment().map_err(Misconfigured)?;
    match args.command {
        Command::Run(run_args) => run::run(&run_args, &args.logs),
        Command::Check(check_args) => check(&check_args),
        Command::Plan(plan_args) => plan(&plan_args),
        Command::Doctor(doctor_args) => doctor::doctor(&doctor_args),
        Command::Prove(prove_args) => prove(&prove_args),
        Command::Scrub(scrub_args) => scrub::scrub(&scrub_args),
        Command::AcceptGap(gap_args) => accept_gap(gap_args),
        Command::Demo(demo_args) => demo(demo_args),
        Command::Drill(drill_args) => drill::drill(drill_args),
        Command::Failpoints => drill::list_failpoints(),
        Command::Query(query_args) => query::query(&query_args),
        Command::Serve(serve_args) => serve::serve(&serve_args),
        Command::Gateway(gateway_args) => gateway::gateway(&gateway_args),
        Command::Snapshots(snapshots_args) => query::snapshots(&snapshots_args),
        Command::Diff(diff_args) => query::diff(&diff_args),
        Command::TrainingSet(set_args) => training::training_set(&set_args),
        Command::LeakCheck(check_args) => training::leak_check(&check_args),
        Command::VerifyOnline(verify_args) => online::verify(&verify_args),
        Command::Models { command } => models::models(&command),
        Command::Drift { command } => drift::drift(&command),
        Command::Quarantine { command } => quarantine::quarantine(&command),
        Command::Schema { command: None } => {
            output::print_json(&spec::json_schema())?;
            Ok(Exit::Success)
        }
        Command::Schema { command: Some(SchemaCommand::Fields(fields_args)) } => schema::fields(&fields_args),
        Command::Schema { command: Some(SchemaCommand::Diff(diff_args)) } => schema::diff(&diff_args),
        Command::Schema { command: Some(SchemaCommand::Contract) } => {
            output::print_json(&spec::contract_json_schema())?;
            Ok(Exit::Success)
        }
        Command::Schema { command: Some(SchemaCommand::TrainingSet) } => {
            output::print_json(&spec::training_set_json_schema())?;
            Ok(Exit::Success)
        }
        Command::Schema { command: Some(SchemaCommand::Gateway) } => {
            output::print_json(&spec::gateway_json_schema())?;
            Ok(Exit::Success)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "isobar", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Success)
        }
    }
}

/// Prints `error` for people, to standard error, and gives the exit code.
pub fn report(error: &anyhow::Error) -> Exit {
    if output::is_broken_pipe(error) {
        return Exit::Success;
    }
    let colour = output::stderr_colour();
    match error.downcast_ref::<SpecErrors>() {
        Some(errors) => eprint!("{}", errors.render(colour)),
        None => {
            let mark = if colour == spec::Colour::Ansi { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
            eprintln!("{mark} {}", crate::chain_of(error.as_ref()));
        }
    }
    Exit::of(error)
}

fn check(args: &CheckArgs) -> anyhow::Result<Exit> {
    let options = CheckOptions { resolve_secrets: args.resolve_secrets };
    let checked = spec::load_with(&args.topology, options);
    let exit = if checked.is_ok() { Exit::Success } else { Exit::Configuration };
    match (args.output.format, checked) {
        (Format::Json, Ok(_)) => {
            let file = args.topology.display().to_string();
            output::print_json(&serde_json::json!({ "file": file, "problems": [] }))?;
        }
        (Format::Json, Err(errors)) => output::print_json(&errors.to_json())?,
        (Format::Human, Ok(topology)) => {
            let count =
                |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
            output::print(&format!(
                "{}: no problems ({}, {}, {})",
                args.topology.display(),
                count(topology.sources.len(), "source"),
                count(topology.datasets.len(), "dataset"),
                count(topology.clouds.len(), "cloud"),
            ))?;
        }
        (Format::Human, Err(errors)) => output::print(&errors.render(output::stdout_colour()))?,
    }
    Ok(exit)
}

fn plan(args: &PlanArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    let plan = crate::plan::plan(&topology)?;
    let tables =
        if args.tables { Some(runtime()?.block_on(crate::evolve::preview(&topology))?) } else { None };
    match args.output.format {
        Format::Human => {
            output::print(&plan.render())?;
            for table in tables.iter().flatten() {
                output::print(&format!("\n{}", table.render()))?;
            }
        }
        Format::Json => {
            let mut json = serde_json::to_value(&plan)?;
            if let Some(tables) = &tables {
                json["tables"] = serde_json::to_value(tables)?;
            }
            output::print_json(&json)?;
        }
    }
    let is_refused = tables.iter().flatten().any(|table| table.refused);
    Ok(if is_refused { Exit::Configuration } else { Exit::Success })
}

fn prove(args: &ProveArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.config)?;
    let report = runtime()?.block_on(crate::prove::prove_topology(&topology, &args.datasets))?;
    output::print(&match args.output.format {
        Format::Human => report.to_table(),
        Format::Json => report.to_json(),
    })?;
    Ok(if report.holds() { Exit::Success } else { Exit::Failure })
}

fn accept_gap(args: AcceptGapArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.topology)?;
    let AcceptGapArgs { topology: _, partition, from, to, reason } = args;
    let request = GapRequest { partition, from, to, reason };
    let accepted = runtime()?.block_on(crate::gap::accept(&topology, &request))?;
    let GapRequest { partition, from, to, .. } = request;
    let (sequence, datasets) = (accepted.sequence, accepted.datasets.join(", "));
    output::print(&format!(
        "accepted in decision {sequence}: {datasets} will go on at offset {to} of {partition}, without [{from}, {to})\n"
    ))?;
    Ok(Exit::Success)
}

fn demo(args: DemoArgs) -> anyhow::Result<Exit> {
    let json = args.output.format == Format::Json;
    let DemoArgs { keep, fail, topology, records, .. } = args;
    let options = DemoOptions { keep, fail, topology, records, json };
    let is_proved = runtime()?.block_on(crate::demo::demo(options))?;
    Ok(if is_proved { Exit::Success } else { Exit::Failure })
}

/// Stack of a thread that runs tasks: queries evaluate expressions that are hundreds deep. Only what is used becomes memory.
const STACK_BYTES: usize = 8 << 20;

/// The threads that asynchronous commands run on.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .context("start the threads of the runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_tell_configuration_from_failure() {
        let configuration = [
            anyhow::Error::from(Misconfigured("x".into())).context("y"),
            anyhow::Error::from(crate::Error::Configuration("x".into())).context("y"),
            spec::load(std::path::Path::new("/does/not/exist.yaml")).unwrap_err().into(),
        ];
        for error in configuration {
            assert_eq!(Exit::of(&error), Exit::Configuration, "{error:?}");
        }
        assert_eq!(Exit::of(&crate::Error::Gap("x".into()).into()), Exit::Failure);
        assert_eq!(Exit::of(&anyhow::anyhow!("x")), Exit::Failure);
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let error = Err::<(), _>(gone).context("print").unwrap_err();
        assert_eq!(report(&error), Exit::Success);
    }
}
