//! `isobar training-set` and `isobar leak-check`.

use anyhow::Context;
use comfy_table::{Table, presets};
use indicatif::{HumanBytes, HumanCount};
use tracing::debug;

use super::args::{LeakCheckArgs, ReportFormat, TrainingSetArgs};
use super::bars::QueryProgress;
use super::{Exit, Misconfigured, output, runtime};
use crate::spec::training::{TrainingSet, load};
use crate::training::{self, Input, MadeSet, Manifest, SetClouds, SetVersions};

/// Makes a training set, or makes one again and compares.
pub(super) fn training_set(args: &TrainingSetArgs) -> anyhow::Result<Exit> {
    let set = load(&args.set)?;
    match (&args.verify, &args.out) {
        (Some(manifest), _) => {
            let manifest = Manifest::read(manifest)?;
            runtime()?.block_on(verify(&set, args, &manifest))
        }
        (None, Some(out)) => runtime()?.block_on(make(&set, args, out)),
        (None, None) => Err(Misconfigured("name a folder with --out".to_owned()).into()),
    }
}

async fn make(set: &TrainingSet, args: &TrainingSetArgs, out: &str) -> anyhow::Result<Exit> {
    let clouds = SetClouds::open(set, args.cloud.as_deref())?;
    let versions = args.at.clone().unwrap_or_default();
    let progress = QueryProgress::default();
    let made = training::make(set, &clouds, &versions, out, &|scanned| progress.show(scanned)).await;
    progress.end().await?;
    let made = made?;
    for read in &made.read {
        debug!(table = %read.table, version = read.version, cloud = %read.cloud, "was read");
    }
    match args.format {
        ReportFormat::Table => output::print(&summary(&made))?,
        ReportFormat::Json => {
            let MadeSet { manifest, file, manifest_file, read, .. } = &made;
            output::print_json(&serde_json::json!({
                "file": file,
                "manifest_file": manifest_file,
                "read": read,
                "manifest": manifest,
            }))?;
        }
    }
    Ok(Exit::Success)
}

async fn verify(set: &TrainingSet, args: &TrainingSetArgs, manifest: &Manifest) -> anyhow::Result<Exit> {
    let clouds = SetClouds::open(set, args.cloud.as_deref())?;
    let progress = QueryProgress::default();
    let differences = training::verify(set, &clouds, manifest, &|scanned| progress.show(scanned)).await;
    progress.end().await?;
    let differences = differences?;
    match args.format {
        ReportFormat::Json => output::print_json(&serde_json::json!({
            "training_set": manifest.training_set,
            "digest": manifest.digest,
            "same": differences.is_empty(),
            "differences": differences,
        }))?,
        ReportFormat::Table if differences.is_empty() => {
            let (name, rows) = (&manifest.training_set, HumanCount(manifest.rows));
            output::print(&format!("{name}: the same {rows} rows, digest {}", manifest.digest))?;
        }
        ReportFormat::Table => {
            let lines = differences.iter().map(|difference| format!("{difference}\n"));
            let lines: String = lines.collect();
            output::print(&format!("{lines}{}: not the same as before", manifest.training_set))?;
        }
    }
    Ok(if differences.is_empty() { Exit::Success } else { Exit::Failure })
}

/// What was made, for people.
fn summary(made: &MadeSet) -> String {
    let manifest = &made.manifest;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["INPUT", "VERSION", "SHA-256"]);
    for input in &manifest.inputs {
        let (name, version, sha256) = match input {
            Input::Table { table, version, sha256 } => (table, version.to_string(), sha256),
            Input::File { file, sha256, .. } => (file, String::new(), sha256),
        };
        table.add_row([name.as_str(), version.as_str(), sha256.get(..12).unwrap_or(sha256)]);
    }
    format!(
        "{table}\n{}: {} rows of {} columns, {}\nfile      {}\nmanifest  {}\ndigest    {}\n",
        manifest.training_set,
        HumanCount(manifest.rows),
        manifest.columns.len(),
        HumanBytes(manifest.file.bytes),
        made.file,
        made.manifest_file,
        manifest.digest
    )
}

/// Looks for rows that used the future.
pub(super) fn leak_check(args: &LeakCheckArgs) -> anyhow::Result<Exit> {
    let set = load(&args.set)?;
    let versions = match &args.manifest {
        Some(manifest) => SetVersions::Each(Manifest::read(manifest)?.versions),
        None => args.at.clone().unwrap_or_default(),
    };
    let clouds = SetClouds::open(&set, args.cloud.as_deref())?;
    let report = runtime()?.block_on(async {
        let progress = QueryProgress::default();
        let limit = args.limit as usize;
        let file = args.file.as_deref();
        let show = |scanned| progress.show(scanned);
        let report = training::check_leaks(&set, &clouds, &versions, file, limit, &show).await;
        progress.end().await?;
        Ok::<_, anyhow::Error>(report?)
    })?;
    match args.format {
        ReportFormat::Table => output::print(&report.to_table())?,
        ReportFormat::Json => {
            let json = serde_json::to_value(&report).context("write a report as JSON")?;
            output::print_json(&json)?;
        }
    }
    Ok(if report.is_clean() { Exit::Success } else { Exit::Leaks })
}
