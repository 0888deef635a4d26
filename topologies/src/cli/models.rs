//! `isobar models`: versions and aliases of models, in every cloud.

pub(super) mod args;

use std::collections::BTreeMap;
use std::fmt::Display;

use comfy_table::{Table, presets};
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value as Json, json};

use self::args::{
    ExportModelArgs, ModelsArgs, ModelsCommand, PromoteArgs, RegisterModelArgs, RollbackArgs, ShowModelArgs,
    VerifyModelsArgs,
};
use super::args::ReportFormat;
use super::{Exit, output, runtime};
use crate::error::Error;
use crate::models::{self, Candidate, Manifest, Model, Registry, Tensor, Verified, Which, Writer};
use crate::spec;
use crate::start::open_clouds;

/// Does what `command` asks for.
pub(super) fn models(command: &ModelsCommand) -> anyhow::Result<Exit> {
    match command {
        ModelsCommand::Ls(args) => list(args),
        ModelsCommand::Show(args) => show(args),
        ModelsCommand::Register(args) => register(args),
        ModelsCommand::Promote(args) => promote(args),
        ModelsCommand::Rollback(args) => rollback(args),
        ModelsCommand::Verify(args) => verify(args),
        ModelsCommand::Export(args) => export(args),
    }
}

fn registry(args: &ModelsArgs) -> anyhow::Result<Registry> {
    Ok(Registry::new(open_clouds(&spec::load(&args.config)?)?))
}

fn list(args: &ModelsArgs) -> anyhow::Result<Exit> {
    let registry = registry(args)?;
    let models = runtime()?.block_on(async {
        let mut models = Vec::new();
        for name in registry.names().await? {
            models.push(registry.model(&name).await?);
        }
        Ok::<_, Error>(models)
    })?;
    match args.format {
        ReportFormat::Table if models.is_empty() => output::print("there is no model yet")?,
        ReportFormat::Table => {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING);
            table.set_header(["MODEL", "VERSIONS", "NEWEST", "ALIASES"]);
            for model in &models {
                let newest = model.versions.keys().next_back().map(u64::to_string).unwrap_or_default();
                table.add_row([
                    model.name.clone(),
                    model.versions.len().to_string(),
                    newest,
                    pairs(&model.aliases),
                ]);
            }
            output::print(&table.to_string())?;
        }
        ReportFormat::Json => {
            let models: Vec<Json> = models.iter().map(summary).collect();
            output::print_json(&json!({ "models": models }))?;
        }
    }
    Ok(Exit::Success)
}

/// The aliases that mean one version.
fn aliases_of(model: &Model, version: u64) -> String {
    let meaning = model.aliases.iter().filter(|(_, meant)| **meant == version);
    meaning.map(|(alias, _)| alias.as_str()).collect::<Vec<_>>().join(" ")
}

/// Values with their names, as people read them: `challenger=4 champion=3`.
fn pairs<V: Display>(values: &BTreeMap<String, V>) -> String {
    let pairs = values.iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join(" ")
}

/// A model without its manifests.
fn summary(model: &Model) -> Json {
    let versions: Vec<u64> = model.versions.keys().copied().collect();
    json!({ "name": model.name, "versions": versions, "aliases": model.aliases, "entry": model.entry })
}

fn show(args: &ShowModelArgs) -> anyhow::Result<Exit> {
    let registry = registry(&args.models)?;
    let model = runtime()?.block_on(registry.model(&args.model.model))?;
    match (args.models.format, &args.model.which) {
        (ReportFormat::Table, Which::Newest) => output::print(&versions_of(&model))?,
        (ReportFormat::Json, Which::Newest) => {
            let mut json = summary(&model);
            json["versions"] = serde_json::to_value(model.versions.values().collect::<Vec<_>>())?;
            output::print_json(&json)?;
        }
        (ReportFormat::Table, which) => output::print(&describe(model.version(which)?, &model))?,
        (ReportFormat::Json, which) => output::print_json(&serde_json::to_value(model.version(which)?)?)?,
    }
    Ok(Exit::Success)
}

fn versions_of(model: &Model) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["VERSION", "ALIASES", "FEATURES", "METRICS", "ONNX", "SHA-256"]);
    for (version, manifest) in &model.versions {
        table.add_row([
            version.to_string(),
            aliases_of(model, *version),
            manifest.features.len().to_string(),
            pairs(&manifest.metrics),
            HumanBytes(manifest.onnx.bytes).to_string(),
            manifest.onnx.sha256.get(..12).unwrap_or_default().to_owned(),
        ]);
    }
    table.to_string()
}

/// A version for people.
fn describe(manifest: &Manifest, model: &Model) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<13}{value}\n"));
    line("model", format!("{} version {}", manifest.model, manifest.version));
    let aliases = aliases_of(model, manifest.version);
    line("aliases", if aliases.is_empty() { "none".to_owned() } else { aliases });
    let tensor = |tensor: &Tensor| format!("{} {tensor}", tensor.name);
    manifest.signature.inputs.iter().for_each(|input| line("input", tensor(input)));
    manifest.signature.outputs.iter().for_each(|output| line("output", tensor(output)));
    for feature in &manifest.features {
        let of = feature.dataset.as_ref().map(|dataset| format!(" of {dataset}")).unwrap_or_default();
        let column = feature.column.as_ref().map(|column| format!(", column {column}")).unwrap_or_default();
        let contract =
            feature.contract.as_ref().map(|version| format!(", contract {version}")).unwrap_or_default();
        line("feature", format!("{} {}{of}{column}{contract}", feature.name, feature.type_text));
    }
    for data in &manifest.data {
        line("data", format!("{} version {} {}", data.dataset, data.version, data.sha256));
    }
    manifest.training_set_sha256.iter().for_each(|digest| line("training set", digest.clone()));
    manifest.metrics.iter().for_each(|(name, value)| line("metric", format!("{name} {value}")));
    manifest.revision.iter().for_each(|revision| line("revision", revision.clone()));
    for artifact in manifest.artifacts() {
        line("file", format!("{} {} {}", artifact.file, HumanBytes(artifact.bytes), artifact.sha256));
    }
    text
}

fn register(args: &RegisterModelArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.models.config)?;
    let candidate = Candidate::read(&args.folder, &args.model, args.onnx_bytes_max.0)?;
    let manifest = runtime()?.block_on(async {
        let writer = Writer::open(&topology)?;
        writer.register(&candidate, args.alias.as_deref()).await
    })?;
    match args.models.format {
        ReportFormat::Json => {
            output::print_json(&json!({ "alias": args.alias, "manifest": manifest }))?;
        }
        ReportFormat::Table => {
            let alias = args.alias.as_ref().map(|alias| format!(", {alias} means it")).unwrap_or_default();
            output::print(&format!("{} version {} is registered{alias}", manifest.model, manifest.version))?;
        }
    }
    Ok(Exit::Success)
}

fn promote(args: &PromoteArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.models.config)?;
    let (model, alias) = (&args.model.model, &args.alias);
    let (version, changed) = runtime()?
        .block_on(async { Writer::open(&topology)?.promote(model, &args.model.which, alias).await })?;
    match args.models.format {
        ReportFormat::Json => {
            output::print_json(
                &json!({ "model": model, "alias": alias, "version": version, "changed": changed }),
            )?;
        }
        ReportFormat::Table if changed => {
            output::print(&format!("{alias} of {model} means version {version}"))?
        }
        ReportFormat::Table => {
            output::print(&format!("{alias} of {model} means version {version} already"))?;
        }
    }
    Ok(Exit::Success)
}

fn rollback(args: &RollbackArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.models.config)?;
    let (model, alias) = (&args.model, &args.alias);
    let version = runtime()?.block_on(async { Writer::open(&topology)?.rollback(model, alias).await })?;
    match args.models.format {
        ReportFormat::Json => {
            output::print_json(&json!({ "model": model, "alias": alias, "version": version }))?;
        }
        ReportFormat::Table => output::print(&format!("{alias} of {model} means version {version} again"))?,
    }
    Ok(Exit::Success)
}

fn verify(args: &VerifyModelsArgs) -> anyhow::Result<Exit> {
    let topology = spec::load(&args.models.config)?;
    let verified = runtime()?.block_on(async {
        let writer = Writer::open(&topology)?;
        match &args.readmit {
            Some(lost) => models::readmit(&writer, lost).await,
            None => models::verify(&writer, args.model.as_deref(), args.repair).await,
        }
    })?;
    match args.models.format {
        ReportFormat::Json => {
            let mut json = serde_json::to_value(&verified)?;
            json["holds"] = json!(verified.holds());
            output::print_json(&json)?;
        }
        ReportFormat::Table => output::print(&report(&verified))?,
    }
    Ok(if verified.holds() { Exit::Success } else { Exit::Failure })
}

/// What was compared, for people.
fn report(verified: &Verified) -> String {
    let mut text = String::new();
    let repaired = verified.repaired.iter().map(|finding| ("repaired", finding));
    for (what, finding) in repaired.chain(verified.findings.iter().map(|finding| ("wrong", finding))) {
        let cloud = finding.cloud.as_deref().unwrap_or("all clouds");
        text.push_str(&format!("{what:<9} {cloud}: {}: {}\n", finding.object, finding.detail));
    }
    let Verified { models, entries, files, bytes, findings, .. } = verified;
    let verdict = match findings.len() {
        0 => "the same in every cloud".to_owned(),
        count => format!("{count} objects are not as they are decided"),
    };
    text + &format!(
        "{} models, {} entries, {} files, {}: {verdict}\n",
        models.len(),
        HumanCount(*entries),
        HumanCount(*files),
        HumanBytes(*bytes)
    )
}

fn export(args: &ExportModelArgs) -> anyhow::Result<Exit> {
    let registry = registry(&args.models)?;
    let manifest = runtime()?.block_on(async {
        let model = registry.model(&args.model.model).await?;
        let manifest = model.version(&args.model.which)?;
        models::export(&registry, manifest, &args.out).await?;
        Ok::<_, Error>(manifest.clone())
    })?;
    let (model, version, folder) = (&manifest.model, manifest.version, args.out.display());
    match args.models.format {
        ReportFormat::Json => {
            output::print_json(&json!({ "model": model, "version": version, "folder": folder.to_string() }))?;
        }
        ReportFormat::Table => output::print(&format!("{model} version {version} is in {folder}"))?,
    }
    Ok(Exit::Success)
}
