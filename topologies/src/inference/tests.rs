//! What needs ONNX Runtime: switched on by its path in `ISOBAR_ONNXRUNTIME`.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use isobar_transforms::{
    DatasetTransform, Error as TransformError, PREDICT_ERROR, PREDICT_TIMEOUT, TransformOutcome,
    TransformSpec,
};

use super::store::Bound;
use super::testing::{golden, has_library};
use super::*;
use crate::models::{Artifact, Feature, Manifest, Signature};

/// What ONNX Runtime's Python and this may differ by.
const TOLERANCE: f64 = 1e-5;

pub(super) fn runtime(test: &str) -> Option<Runtime> {
    has_library(test).then(|| Runtime::load(None).unwrap())
}

fn signature(name: &str) -> Signature {
    serde_json::from_slice(&golden(&format!("{name}.json"))).unwrap()
}

fn session(runtime: &Runtime, name: &str, limits: &InferenceLimits) -> Result<Session, Error> {
    Session::new(runtime, &golden(&format!("{name}.onnx")), &signature(name), limits)
}

pub(super) fn loaded(runtime: &Runtime, name: &str) -> Session {
    session(runtime, name, &InferenceLimits::default()).unwrap()
}

/// The features of `answers.csv` as doubles, and the columns behind them.
struct Answers {
    features: RecordBatch,
    label: Vec<i64>,
    forest: Vec<f64>,
    network: Vec<f64>,
}

fn answers() -> Answers {
    let text = golden("answers.csv");
    let rows: Vec<Vec<f64>> = csv::Reader::from_reader(&text[..]).deserialize().map(Result::unwrap).collect();
    let column = |index: usize| rows.iter().map(|row| row[index]).collect::<Vec<f64>>();
    let features =
        (0..8).map(|index| (format!("f{index}"), Arc::new(Float64Array::from(column(index))) as ArrayRef));
    Answers {
        features: RecordBatch::try_from_iter(features).unwrap(),
        label: column(8).into_iter().map(|label| label as i64).collect(),
        forest: column(9),
        network: column(10),
    }
}

fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= TOLERANCE, "row {row}: {found} is not {expected}");
    }
}

pub(super) fn floats(values: &[f32]) -> RecordBatch {
    RecordBatch::try_from_iter([("x", Arc::new(Float32Array::from(values.to_vec())) as ArrayRef)]).unwrap()
}

#[test]
fn a_thousand_answers_are_those_of_python() {
    let Some(runtime) = runtime("a_thousand_answers_are_those_of_python") else { return };
    let answers = answers();
    assert_eq!(answers.features.num_rows(), 1000);
    for rows_per_run in [1, 64, 999, 4096] {
        let limits = InferenceLimits { rows_per_run, ..InferenceLimits::default() };
        let forest = session(&runtime, "forest", &limits).unwrap().run(&answers.features).unwrap();
        assert_eq!(forest.labels, Some(Int64Array::from(answers.label.clone())));
        assert_close(forest.values.values(), &answers.forest);
        let network = session(&runtime, "network", &limits).unwrap().run(&answers.features).unwrap();
        assert_eq!(network.labels, None);
        assert_close(network.values.values(), &answers.network);
    }
    let alone = loaded(&runtime, "forest");
    let prepared = alone.prepare(&answers.features).unwrap();
    assert_eq!(alone.run_prepared(&prepared).unwrap(), alone.run(&answers.features).unwrap());
    let nothing = alone.run(&answers.features.slice(0, 0)).unwrap();
    assert_eq!((nothing.values.len(), nothing.labels), (0, None));
}

#[test]
fn inputs_of_their_own_and_doubles_are_understood() {
    let Some(runtime) = runtime("inputs_of_their_own_and_doubles_are_understood") else { return };
    let batch = RecordBatch::try_from_iter([
        ("a", Arc::new(Float64Array::from(vec![0.1, 1e300])) as ArrayRef),
        ("b", Arc::new(Int64Array::from(vec![7, -2]))),
    ]);
    let said = loaded(&runtime, "separate").run(&batch.unwrap()).unwrap();
    assert_eq!(said.values.values(), &[70.1, 1e300]);
}

#[test]
fn a_run_that_fails_is_an_error_and_the_model_answers_on() {
    let Some(runtime) = runtime("a_run_that_fails_is_an_error_and_the_model_answers_on") else { return };
    let picky = loaded(&runtime, "picky");
    for _ in 0..3 {
        assert!(matches!(picky.run(&floats(&[1.0, 10.0])), Err(Error::Run(_))));
        assert_eq!(picky.run(&floats(&[1.0, 9.0])).unwrap().values.values(), &[10.0, 90.0]);
    }
}

#[test]
fn a_model_that_does_not_end_is_ended() {
    let Some(runtime) = runtime("a_model_that_does_not_end_is_ended") else { return };
    let limits = InferenceLimits { time_max: Duration::from_millis(50), ..InferenceLimits::default() };
    let endless = session(&runtime, "endless", &limits).unwrap();
    for _ in 0..2 {
        assert_eq!(endless.run(&floats(&[1.0])), Err(Error::TimedOut(limits.time_max)));
    }
}

#[test]
fn files_that_are_no_models_are_refused() {
    let Some(runtime) = runtime("files_that_are_no_models_are_refused") else { return };
    let limits = InferenceLimits::default();
    let problem = |name: &str| match session(&runtime, name, &limits) {
        Err(Error::Model(problem)) => problem,
        other => panic!("{name}: {other:?}"),
    };
    assert!(problem("huge").contains("tensor `w` claims 1099511627776 elements"), "{}", problem("huge"));
    assert!(problem("made_huge").contains("ConstantOfShape"), "{}", problem("made_huge"));
    assert!(problem("maps").contains("zipmap"), "{}", problem("maps"));

    let forest = golden("forest.onnx");
    let load = |bytes: &[u8], signature: &Signature| Session::new(&runtime, bytes, signature, &limits);
    for end in (0..forest.len()).step_by(forest.len() / 50) {
        assert!(matches!(load(&forest[..end], &signature("forest")), Err(Error::Model(_))), "cut at {end}");
    }
    let small = InferenceLimits { model_bytes_max: 1024, ..InferenceLimits::default() };
    let large = Session::new(&runtime, &forest, &signature("forest"), &small);
    assert!(matches!(large, Err(Error::Model(problem)) if problem.contains("limit of 1024")));

    let mut other = signature("forest");
    other.inputs[0].name = "y".into();
    let problem = |signature: &Signature| load(&forest, signature).unwrap_err().to_string();
    assert!(problem(&other).contains("the manifest says y FP32[?, 8]"), "{}", problem(&other));
    let mut other = signature("forest");
    other.inputs[0].shape[1] = Some(9);
    assert!(problem(&other).contains("FP32[?, 9]"), "{}", problem(&other));
    let mut other = signature("forest");
    other.inputs[0].datatype = "FP64".into();
    assert!(problem(&other).contains("FP64[?, 8]"), "{}", problem(&other));
}

#[test]
fn many_threads_ask_one_model() {
    let Some(runtime) = runtime("many_threads_ask_one_model") else { return };
    let limits = InferenceLimits { sessions: 2, rows_per_run: 100, ..InferenceLimits::default() };
    let forest = session(&runtime, "forest", &limits).unwrap();
    let expected = answers();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let said = forest.run(&expected.features).unwrap();
                    assert_close(said.values.values(), &expected.forest);
                }
            });
        }
    });
}

fn manifest(name: &str, version: u64) -> Manifest {
    let feature = |name: &str| Feature {
        name: name.into(),
        type_text: "double".into(),
        dataset: Some("flights".into()),
        column: None,
        contract: Some("1.2.0".into()),
    };
    Manifest {
        model: name.into(),
        version,
        onnx: Artifact { file: "model.onnx".into(), bytes: 1, sha256: format!("{version:064}") },
        signature: signature(name),
        features: vec![feature("dep_delay")],
        data: vec![],
        training_set_sha256: None,
        metrics: Default::default(),
        revision: None,
        statistics: None,
        files: vec![],
    }
}

fn bound(runtime: &Runtime, name: &str, version: u64, limits: &InferenceLimits) -> Bound {
    Bound::new(session(runtime, name, limits).unwrap(), &manifest(name, version))
}

fn input() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("x", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
    ]))
}

fn compile(models: &Arc<Predictors>, sql: &str) -> Result<DatasetTransform, TransformError> {
    let spec = TransformSpec {
        source_name: "events".into(),
        input_schema: input(),
        sql: sql.into(),
        expectations: vec![],
    };
    DatasetTransform::compile_with(spec, &[models.function()])
}

fn rows(values: &[Option<f64>]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..values.len() as i64)),
        Arc::new(Float64Array::from(values.to_vec())),
        Arc::new(StringArray::from_iter_values(values.iter().map(|_| "text"))),
    ];
    RecordBatch::try_new(input(), columns).unwrap()
}

fn run(transform: &mut DatasetTransform, models: &Predictors, values: &[Option<f64>]) -> TransformOutcome {
    models.begin_batch();
    transform.run(rows(values)).unwrap()
}

fn values_of(outcome: &TransformOutcome, column: &str) -> Vec<Option<f64>> {
    outcome.rows.column_by_name(column).unwrap().as_primitive::<Float64Type>().iter().collect()
}

const EVERY_FIELD: &str = "SELECT id, p['value'] AS value, p['label'] AS label, p['model'] AS model, p['version'] AS version, \
                           p['sha256'] AS sha256, p['features'] AS features, p['challenger'] AS challenger, \
                           p['challenger_sha256'] AS challenger_sha256 \
                           FROM (SELECT id, predict('picky', x) AS p FROM events)";

#[test]
fn rows_carry_what_scored_them_and_rows_that_cannot_be_scored_are_rejected() {
    let test = "rows_carry_what_scored_them_and_rows_that_cannot_be_scored_are_rejected";
    let Some(runtime) = runtime(test) else { return };
    let limits = InferenceLimits::default();
    let models = Predictors::bound(&limits, "picky", bound(&runtime, "picky", 3, &limits), None);
    let mut transform = compile(&models, EVERY_FIELD).unwrap();
    let good = run(&mut transform, &models, &[Some(1.0), Some(2.0)]);
    assert_eq!(values_of(&good, "value"), [Some(10.0), Some(20.0)]);
    assert_eq!(values_of(&good, "challenger"), [None, None]);
    let text =
        |column: &str| good.rows.column_by_name(column).unwrap().as_string::<i32>().value(1).to_owned();
    assert_eq!((text("model"), text("features")), ("picky".into(), "flights@1.2.0".into()));
    assert_eq!(text("sha256"), format!("{:064}", 3));
    assert_eq!(good.rows.column_by_name("version").unwrap().as_primitive::<Int64Type>().values(), &[3, 3]);
    assert_eq!(good.rows.column_by_name("label").unwrap().null_count(), 2);

    // NULL, NaN, and a row that the graph itself fails on.
    let mut values: Vec<Option<f64>> = (0..100).map(|row| Some(f64::from(row % 10))).collect();
    (values[10], values[50], values[99]) = (None, Some(f64::NAN), Some(10.0));
    let mixed = run(&mut transform, &models, &values);
    assert_eq!((mixed.counts.input, mixed.counts.output), (100, 97));
    assert_eq!(mixed.counts.rejected, [(PREDICT_ERROR.to_owned(), 3)].into());
    let messages: Vec<_> = mixed.rejects.iter().map(|reject| (reject.row, reject.message.as_str())).collect();
    assert_eq!(messages[0], (10, "model picky: feature `dep_delay` is NULL"));
    assert_eq!(messages[1], (50, "model picky: feature `dep_delay` is NaN"));
    assert!(messages[2].0 == 99 && messages[2].1.contains("ONNX Runtime"), "{messages:?}");
    let ids = mixed.rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec();
    let expected: Vec<i64> = (0..100).filter(|id| ![10, 50, 99].contains(id)).collect();
    assert_eq!(ids, expected);
}

#[test]
fn a_batch_that_takes_too_long_is_rejected_whole_and_the_next_has_its_own_time() {
    let test = "a_batch_that_takes_too_long_is_rejected_whole_and_the_next_has_its_own_time";
    let Some(runtime) = runtime(test) else { return };
    let limits = InferenceLimits { time_max: Duration::from_millis(50), ..InferenceLimits::default() };
    let models = Predictors::bound(&limits, "endless", bound(&runtime, "endless", 1, &limits), None);
    let mut transform = compile(&models, "SELECT id, predict('endless', x) AS p FROM events").unwrap();
    for _ in 0..2 {
        let outcome = run(&mut transform, &models, &[Some(1.0); 100]);
        assert_eq!(outcome.counts.rejected, [(PREDICT_TIMEOUT.to_owned(), 100)].into());
        assert_eq!(outcome.rows.num_rows(), 0);
    }
}

#[test]
fn a_challenger_answers_beside_the_champion_and_its_errors_do_not_matter() {
    let test = "a_challenger_answers_beside_the_champion_and_its_errors_do_not_matter";
    let Some(runtime) = runtime(test) else { return };
    let limits = InferenceLimits { time_max: Duration::from_secs(2), ..InferenceLimits::default() };
    let limit = &limits;
    let with = |challenger: &str| {
        let challenger = bound(&runtime, challenger, 2, limit);
        Predictors::bound(limit, "picky", bound(&runtime, "picky", 1, limit), Some(challenger))
    };
    let models = with("picky");
    let used = models.in_use();
    assert_eq!(
        used.iter().map(|model| (model.version, model.shadow)).collect::<Vec<_>>(),
        [(1, false), (2, true)]
    );
    let mut transform = compile(&models, EVERY_FIELD).unwrap();
    let both = run(&mut transform, &models, &[Some(1.0), Some(2.0)]);
    assert_eq!(values_of(&both, "challenger"), [Some(10.0), Some(20.0)]);
    let sha256 =
        both.rows.column_by_name("challenger_sha256").unwrap().as_string::<i32>().value(0).to_owned();
    assert_eq!(sha256, format!("{:064}", 2));

    // One that never ends, and one that takes other features.
    for failing in ["endless", "separate"] {
        let models = with(failing);
        let mut transform = compile(&models, EVERY_FIELD).unwrap();
        let outcome = run(&mut transform, &models, &[Some(1.0), Some(2.0)]);
        assert_eq!(values_of(&outcome, "value"), [Some(10.0), Some(20.0)], "{failing}");
        assert_eq!(values_of(&outcome, "challenger"), [None, None], "{failing}");
        assert!(outcome.rejects.is_empty());
    }
}

#[test]
fn rows_that_no_model_scores_are_rejected_under_the_rule_that_says_so() {
    let models = Predictors::of_stream(&InferenceLimits::default());
    let sql = "SELECT id, predict('picky', x) AS p FROM events WHERE id > 0";
    let mut transform = compile(&models, sql).unwrap();
    let outcome = run(&mut transform, &models, &[Some(1.0), Some(2.0), None]);
    assert_eq!((outcome.counts.filtered, outcome.rows.num_rows()), (1, 0));
    assert_eq!(outcome.counts.rejected, [(PREDICT_ERROR.to_owned(), 2)].into());
    assert_eq!(outcome.rejects[0].message, "model picky: it is not loaded");
}

#[test]
fn several_fields_of_one_call_are_scored_once() {
    let models = Predictors::of_stream(&InferenceLimits::default());
    let direct = "SELECT id, predict('picky', x)['value'] AS value, predict('picky', x)['sha256'] AS sha256 FROM events";
    for sql in [direct, EVERY_FIELD] {
        let explained = compile(&models, sql).unwrap().explain();
        let (_, physical) = explained.split_once("physical plan").unwrap();
        assert_eq!(physical.matches("predict(").count(), 1, "{explained}");
    }
}

#[test]
fn calls_that_cannot_be_right_are_refused_while_they_are_planned() {
    let models = Predictors::of_stream(&InferenceLimits::default());
    for (call, expected) in [
        ("predict()", "predict"),
        ("predict('m')", "has no features"),
        ("predict(s, x)", "in quotes"),
        ("predict(x, x)", "model's name"),
        ("predict('m', s)", "cast it"),
        ("predict('m', 1.0)", "constants only"),
        ("predict('../m', x)", "no name of a model"),
    ] {
        let error = compile(&models, &format!("SELECT id, {call} AS p FROM events")).unwrap_err();
        assert!(error.to_string().contains(expected), "{call}: {error}");
    }
    assert!(compile(&models, "SELECT id, predict('m@challenger', x, id, id > 1) AS p FROM events").is_ok());
    let twice = "SELECT predict('m', x) AS p, predict('m', x, id) AS q FROM events";
    assert!(compile(&models, twice).unwrap_err().to_string().contains("features"));
}

#[test]
fn models_turn_only_when_they_are_others() {
    let Some(runtime) = runtime("models_turn_only_when_they_are_others") else { return };
    let limits = InferenceLimits::default();
    let models = Predictors::bound(&limits, "picky", bound(&runtime, "picky", 1, &limits), None);
    let same = Predictors::bound(&limits, "picky", bound(&runtime, "picky", 1, &limits), None);
    let other = Predictors::bound(&limits, "picky", bound(&runtime, "picky", 2, &limits), None);
    assert!(!models.differ(&same.bindings()));
    assert!(!models.turn(same.bindings()));
    assert!(models.differ(&other.bindings()));
    assert!(models.turn(other.bindings()));
    let mut transform = compile(&models, EVERY_FIELD).unwrap();
    let first = run(&mut transform, &models, &[Some(1.0)]);
    models.turn(same.bindings());
    let second = run(&mut transform, &models, &[Some(1.0)]);
    let both = concat_batches(transform.output_schema(), [&first.rows, &second.rows]).unwrap();
    assert_eq!(both.column_by_name("version").unwrap().as_primitive::<Int64Type>().values(), &[2, 1]);
}
