//! Runs the model checker: `tests/model/run --help`.

mod runs;

use std::process::ExitCode;

use runs::{Options, Size};

const HELP: &str = "\
usage: tests/model/run [--full] [--seed N] [--threads N] [--trace] [--list] [NAME]...

Checks the commit protocol with a model checker: every broken variant must be caught, the protocol as built
must hold in every state within bounds, and in random walks beyond them. README.md says what is modelled.

  --full       the large bounds and more walks (half an hour, 1 GiB); without, a few minutes and 300 MiB
  --seed N     seed of the random walks, by default 1
  --threads N  threads of the larger checks, by default 1
  --trace      print the steps by which each broken variant breaks its invariant
  --list       print the names of the checks and end
  NAME         only the checks whose names contain one of these

Each line: name, distinct states, steps taken, depth of the longest path, seconds, peak memory so far, verdict.
Exit code 0: all that was run held, and all variants that were run were caught; 1: not so; 2: unknown option.
";

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Command::Help) => print!("{HELP}"),
        Ok(Command::List(options)) => runs::list(&options),
        Ok(Command::Run(options)) => {
            return if runs::run(&options) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(what) => {
            eprintln!("isobar-model: {what}; --help lists the options");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

enum Command {
    Help,
    List(Options),
    Run(Options),
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = Options { size: Size::Small, seed: 1, threads: 1, trace: false, names: Vec::new() };
    let mut lists = false;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-h" | "--help" => return Ok(Command::Help),
            "--full" => options.size = Size::Full,
            "--trace" => options.trace = true,
            "--list" => lists = true,
            "--seed" => options.seed = number(&argument, arguments.next())?,
            "--threads" => options.threads = number(&argument, arguments.next())?,
            option if option.starts_with('-') => return Err(format!("there is no option {option}")),
            name => options.names.push(name.to_owned()),
        }
    }
    Ok(if lists { Command::List(options) } else { Command::Run(options) })
}

fn number<T: std::str::FromStr>(option: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{option} needs a number"))?;
    value.parse().map_err(|_| format!("{option} needs a number, not {value}"))
}
