//! Models in a stage, beside ONNX Runtime alone.
//!
//! Both sides score the same rows in the same process, on one thread, as many at a time. *Alone* is a call of ONNX Runtime on
//! matrices that are there already; the *stage* is the whole way of a batch through a dataset's query: columns of doubles to a
//! matrix, the model, and a struct of which the fields are columns again. The two are measured in turn, and the medians count.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use isobar_topologies::inference::{InferenceLimits, Predictors, Prepared, Runtime, Session, signature_of};
use isobar_topologies::models::{Artifact, Feature, Manifest};
use isobar_transforms::{DatasetTransform, TransformSpec};
use serde::Serialize;

use crate::measure::Stopwatch;
use crate::numbers::Numbers;

/// Processor time of one round of one side, at least: the system counts it in hundredths.
const CORE_SECONDS_MIN: f64 = 1.0;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Rows that are there; a round goes through them as often as it takes a second.
    pub(crate) rows: usize,
    /// Rows at a time.
    pub(crate) batch_rows: usize,
    /// Rounds of each side.
    pub(crate) rounds: usize,
}

/// What a model costs.
#[derive(Debug, Serialize)]
struct Rates {
    model: String,
    features: usize,
    alone_rows_per_core_second: f64,
    stage_rows_per_core_second: f64,
    ratio: f64,
}

/// Measures each of `models`, on the library at `library` or where the environment says.
pub(crate) fn run(models: &[PathBuf], library: Option<&Path>, sizes: Sizes, json: bool) -> Result<()> {
    ensure!(sizes.rounds > 0 && sizes.batch_rows > 0 && sizes.rows > 0, "there must be a round and a row");
    let runtime = Runtime::load(library)?;
    let rates = models.iter().map(|path| {
        let onnx = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        measure(&runtime, &name, &onnx, sizes).with_context(|| path.display().to_string())
    });
    let rates = rates.collect::<Result<Vec<_>>>()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&rates)?);
        return Ok(());
    }
    println!(
        "| model | features | ONNX Runtime alone, rows/s per core | stage, rows/s per core | stage : alone |"
    );
    println!("|---|---|---|---|---|");
    for Rates { model, features, alone_rows_per_core_second, stage_rows_per_core_second, ratio } in rates {
        println!(
            "| {model} | {features} | {alone_rows_per_core_second:.0} | {stage_rows_per_core_second:.0} | {ratio:.2} |"
        );
    }
    Ok(())
}

fn measure(runtime: &Runtime, name: &str, onnx: &[u8], sizes: Sizes) -> Result<Rates> {
    let signature = signature_of(onnx)?;
    let limits = InferenceLimits { rows_per_run: sizes.batch_rows, ..InferenceLimits::default() };
    let session = Session::new(runtime, onnx, &signature, &limits)?;
    let features = session.features();
    let schema = schema(features);
    let count = sizes.rows.div_ceil(sizes.batch_rows);
    let batches = (0..count).map(|number| batch(&schema, number as u64, sizes.batch_rows));
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let only_features: Vec<usize> = (1..=features).collect();
    let prepared = batches.iter().map(|batch| Ok(session.prepare(&batch.project(&only_features)?)?));
    let prepared = prepared.collect::<Result<Vec<Prepared>>>()?;

    let models = Predictors::of_stream(&limits);
    models.answer_with(
        "model".parse().map_err(anyhow::Error::msg)?,
        session.clone(),
        &manifest(name, features, onnx),
    );
    let mut transform = compile(&models, &schema)?;
    let rows = (count * sizes.batch_rows) as u64;
    let (mut alone, mut stage) = (Vec::new(), Vec::new());
    for round in 0..=sizes.rounds {
        let (rate, sum_alone) = timed(rows, || run_alone(&session, &prepared))?;
        let (rate_of_stage, sum_of_stage) = timed(rows, || run_stage(&mut transform, &models, &batches))?;
        ensure!(sum_alone == sum_of_stage, "the stage says {sum_of_stage}, ONNX Runtime alone {sum_alone}");
        eprintln!("{name}: alone {rate:.0}, stage {rate_of_stage:.0} rows/s per core");
        // The first round is for caches and arenas.
        if round > 0 {
            alone.push(rate);
            stage.push(rate_of_stage);
        }
    }
    let (alone, stage) = (median(alone), median(stage));
    Ok(Rates {
        model: name.to_owned(),
        features,
        alone_rows_per_core_second: alone,
        stage_rows_per_core_second: stage,
        ratio: stage / alone,
    })
}

/// Rows per second of processor time, and what came out. The work, `rows` rows, is done again until that can be told.
fn timed(rows: u64, mut work: impl FnMut() -> Result<f64>) -> Result<(f64, f64)> {
    let stopwatch = Stopwatch::start()?;
    let mut done = 0;
    loop {
        let sum = work()?;
        done += rows;
        let measured = stopwatch.stop(done, 0)?;
        if measured.core_seconds >= CORE_SECONDS_MIN {
            return Ok((done as f64 / measured.core_seconds, sum));
        }
    }
}

fn run_alone(session: &Session, prepared: &[Prepared]) -> Result<f64> {
    let each =
        prepared.iter().map(|prepared| Ok(sum(&session.run_prepared(prepared)?.values).unwrap_or(0.0)));
    each.sum()
}

fn run_stage(transform: &mut DatasetTransform, models: &Predictors, batches: &[RecordBatch]) -> Result<f64> {
    let mut all = 0.0;
    for batch in batches {
        models.begin_batch();
        let outcome = transform.run(batch.clone())?;
        ensure!(outcome.rejects.is_empty(), "a row was rejected: {:?}", outcome.rejects[0]);
        all += sum(outcome.rows.column(1).as_primitive::<Float64Type>()).unwrap_or(0.0);
    }
    Ok(all)
}

fn compile(models: &Arc<Predictors>, schema: &SchemaRef) -> Result<DatasetTransform> {
    let names: Vec<&str> = schema.fields()[1..].iter().map(|field| field.name().as_str()).collect();
    let sql = format!(
        "SELECT id, p['value'] AS value, p['label'] AS label, p['version'] AS version, p['sha256'] AS sha256, \
         p['features'] AS features FROM (SELECT id, predict('model', {}) AS p FROM events)",
        names.join(", ")
    );
    let spec = TransformSpec {
        source_name: "events".to_owned(),
        input_schema: schema.clone(),
        sql,
        expectations: Vec::new(),
    };
    Ok(DatasetTransform::compile_with(spec, &[models.function()])?)
}

fn schema(features: usize) -> SchemaRef {
    let id = Field::new("id", DataType::Int64, false);
    let features = (0..features).map(|index| Field::new(format!("f{index}"), DataType::Float64, true));
    Arc::new(Schema::new(std::iter::once(id).chain(features).collect::<Vec<_>>()))
}

/// Numbers from -2 to 2 that follow from the batch's number.
fn batch(schema: &SchemaRef, number: u64, rows: usize) -> Result<RecordBatch> {
    let mut numbers = Numbers(number);
    let mut next = || numbers.below(1 << 24) as f64 / f64::from(1 << 22) - 2.0;
    let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(0..rows as i64))];
    for _ in 1..schema.fields().len() {
        columns.push(Arc::new(Float64Array::from_iter_values((0..rows).map(|_| next()))));
    }
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// What a registry would say of the model.
fn manifest(name: &str, features: usize, onnx: &[u8]) -> Manifest {
    let feature = |index: usize| Feature {
        name: format!("f{index}"),
        type_text: "float64".to_owned(),
        dataset: Some("flight_features".to_owned()),
        column: None,
        contract: Some("1.2.0".to_owned()),
    };
    Manifest {
        model: name.to_owned(),
        version: 1,
        onnx: Artifact { file: "model.onnx".to_owned(), bytes: onnx.len() as u64, sha256: "0".repeat(64) },
        signature: Default::default(),
        features: (0..features).map(feature).collect(),
        data: Vec::new(),
        training_set_sha256: None,
        metrics: Default::default(),
        revision: None,
        statistics: None,
        files: Vec::new(),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
