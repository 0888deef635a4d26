//! What can be asked of `isobar models`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::cli::args::ReportFormat;
use crate::models::Reference;
use crate::spec::units::ByteSize;

/// What to do with models.
#[derive(Debug, Clone, Subcommand)]
pub enum ModelsCommand {
    /// Which models there are, with their newest versions and aliases
    #[command(after_help = "Examples:
  isobar models ls --config topology.yaml
  isobar models ls -c topology.yaml --format json | jq -r '.models[].name'")]
    Ls(ModelsArgs),

    /// What is known of a model or of one version
    #[command(after_help = "Examples:
  isobar models show flight_delay --config topology.yaml             its versions and aliases
  isobar models show flight_delay@3 -c topology.yaml                 version 3
  isobar models show flight_delay@champion -c topology.yaml --format json | jq .metrics")]
    Show(ShowModelArgs),

    /// Make a new version of what lies in a folder, in every cloud
    #[command(after_help = "Examples:
  isobar models register ./forest --model flight_delay --config topology.yaml
  isobar models register ./forest --model flight_delay --alias challenger -c topology.yaml
  isobar models register ./mlruns/0/…/artifacts/model --model flight_delay -c topology.yaml

The folder holds model.onnx and manifest.json, and if there are any statistics.json, model_card.md and
plots/; or it is one of MLflow's with the flavour onnx. Everything is checked before anything is
written. The version exists once its entry is decided, after its files are in a majority of clouds; if
the command is killed before, nothing is visible. A cloud that is away is filled by the next command.")]
    Register(RegisterModelArgs),

    /// Have an alias mean a version
    #[command(after_help = "Examples:
  isobar models promote flight_delay@3 --config topology.yaml
  isobar models promote flight_delay@challenger -c topology.yaml     champion means what challenger means
  isobar models promote flight_delay@3 --alias challenger -c topology.yaml

It is one decided entry: whoever reads the model sees the alias before or after, in every cloud.")]
    Promote(PromoteArgs),

    /// Have an alias mean again what it meant before
    #[command(after_help = "Examples:
  isobar models rollback flight_delay --config topology.yaml
  isobar models rollback flight_delay --alias challenger -c topology.yaml

It goes one step back, and another one if it is run again. It is a new entry: nothing is forgotten.")]
    Rollback(RollbackArgs),

    /// Compare every byte of the models in every cloud with what is decided
    #[command(after_help = "Examples:
  isobar models verify --config topology.yaml
  isobar models verify flight_delay -c topology.yaml --format json | jq '.findings'
  isobar models verify -c topology.yaml --repair
  isobar models verify -c topology.yaml --readmit azure      a cloud that lost everything

Exit codes: 0 all clouds hold what is decided, 1 they do not, 2 the spec or the command line is wrong.")]
    Verify(VerifyModelsArgs),

    /// Write a version as a folder of MLflow's
    #[command(after_help = "Examples:
  isobar models export flight_delay@champion --out ./mlflow --config topology.yaml
  python -c \"import mlflow; mlflow.pyfunc.load_model('./mlflow')\"")]
    Export(ExportModelArgs),
}

/// Options of `isobar models ls`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ModelsArgs {
    /// The spec
    #[arg(long, short, value_name = "TOPOLOGY")]
    pub config: PathBuf,
    /// How to print what is there
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar models show`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ShowModelArgs {
    /// The model, or a version of it
    #[arg(value_name = "NAME[@VERSION|@ALIAS]")]
    pub model: Reference,
    /// Where models are, and how to print.
    #[command(flatten)]
    pub models: ModelsArgs,
}

/// Options of `isobar models register`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RegisterModelArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The model that it becomes a version of
    #[arg(long, value_name = "NAME")]
    pub model: String,
    /// An alias that means the new version from then on
    #[arg(long, value_name = "ALIAS")]
    pub alias: Option<String>,
    /// How large the ONNX file may be. It is held in memory
    #[arg(long, value_name = "BYTES", default_value = "1GiB")]
    pub onnx_bytes_max: ByteSize,
    /// Where models are, and how to print.
    #[command(flatten)]
    pub models: ModelsArgs,
}

/// Options of `isobar models promote`.
#[derive(Debug, Clone, ClapArgs)]
pub struct PromoteArgs {
    /// The version; the newest if none is named
    #[arg(value_name = "NAME[@VERSION|@ALIAS]")]
    pub model: Reference,
    /// The alias
    #[arg(long, value_name = "ALIAS", default_value = "champion")]
    pub alias: String,
    /// Where models are, and how to print.
    #[command(flatten)]
    pub models: ModelsArgs,
}

/// Options of `isobar models rollback`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RollbackArgs {
    /// The model
    #[arg(value_name = "NAME")]
    pub model: String,
    /// The alias
    #[arg(long, value_name = "ALIAS", default_value = "champion")]
    pub alias: String,
    /// Where models are, and how to print.
    #[command(flatten)]
    pub models: ModelsArgs,
}

/// Options of `isobar models verify`.
#[derive(Debug, Clone, ClapArgs)]
pub struct VerifyModelsArgs {
    /// The model; by default all
    #[arg(value_name = "NAME")]
    pub model: Option<String>,
    /// Put the decided bytes back where a cloud has others or none
    #[arg(long)]
    pub repair: bool,
    /// Rebuild the models of this cloud, which lost what it held, and have the others readmit it
    #[arg(long, value_name = "CLOUD", conflicts_with_all = ["model", "repair"])]
    pub readmit: Option<String>,
    /// Where models are, and how to print.
    #[command(flatten)]
    pub models: ModelsArgs,
}

/// Options of `isobar models export`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ExportModelArgs {
    /// The version; the newest if none is named
    #[arg(value_name = "NAME[@VERSION|@ALIAS]")]
    pub model: Reference,
    /// The folder, which must not exist, or be empty
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    /// Where models are, and how to print.
    #[command(flatten)]
    pub models: ModelsArgs,
}
