//! Logs: to standard error, for people or for programs, filtered by `--log-level` or `ISOBAR_LOG`.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::args::{LogArgs, LogFormat};
use super::bars::LogWriter;
use super::output;

/// Sets up logging for the process. Call it once.
pub fn init(args: &LogArgs) -> anyhow::Result<()> {
    let filter = filter(&args.log_level)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogWriter);
    let is_set = match args.log_format {
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
        LogFormat::Human => {
            let colours = output::wants_colour(std::io::stderr().is_terminal());
            logs.with_ansi(colours).with_target(false).try_init()
        }
    };
    is_set.map_err(|error| anyhow::anyhow!("set up logs: {error}"))
}

fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let context = || super::Misconfigured(format!("`{directives}` is not a log level or filter"));
    EnvFilter::builder().parse(directives).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_understood_and_nonsense_is_a_wrong_configuration() {
        for directives in ["info", "warn,isobar_topologies=debug", "off"] {
            assert!(filter(directives).is_ok(), "{directives}");
        }
        let error = filter("isobar=loud").unwrap_err();
        assert_eq!(super::super::Exit::of(&error), super::super::Exit::Configuration);
    }
}
