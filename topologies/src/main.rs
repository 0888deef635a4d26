//! The `isobar` command. Everything it does is in the library; see `isobar --help`.

use std::process::ExitCode;

use clap::Parser;
use isobar_topologies::cli::{self, args::Args};

/// Arrow and Parquet allocate large buffers at a high rate from several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = cli::logs::init(&args.logs).and_then(|()| cli::run(args));
    result.unwrap_or_else(|error| cli::report(&error)).into()
}
