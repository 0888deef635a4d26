use arrow::array::{BooleanArray, Decimal128Array, Int32Array, Int64Array, StringArray, UInt64Array};
use arrow::buffer::NullBuffer;

use super::*;

fn tensor(name: &str, datatype: &str, shape: &[Option<u64>]) -> Tensor {
    Tensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec() }
}

fn signature(inputs: &[Tensor]) -> Signature {
    Signature { inputs: inputs.to_vec(), outputs: vec![] }
}

fn layout(datatype: &str, features: u64, nulls: Nulls, nan_allowed: bool) -> Layout {
    Layout::new(&signature(&[tensor("x", datatype, &[None, Some(features)])]), nulls, nan_allowed).unwrap()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

/// The elements of all rows.
fn elements(layout: &Layout, batch: &RecordBatch) -> Result<Vec<Elements>, Error> {
    let columns = layout.columns(batch)?;
    layout.elements(&columns, batch, 0..batch.num_rows())
}

fn floats(elements: Result<Vec<Elements>, Error>) -> Vec<f32> {
    match elements.unwrap().remove(0) {
        Elements::Float32(values) => values,
        other => panic!("{other:?}"),
    }
}

fn doubles(values: &[Option<f64>]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

#[test]
fn columns_of_all_numbers_become_one_matrix_row_by_row() {
    let batch = batch(vec![
        ("a", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        ("b", doubles(&[Some(0.5), Some(-1.5), Some(f64::INFINITY)])),
        ("c", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ("d", Arc::new(Decimal128Array::from(vec![125, 250, 375]).with_precision_and_scale(5, 2).unwrap())),
    ]);
    let layout = layout("FP32", 4, Nulls::Refuse, false);
    let whole = vec![1.0, 0.5, 1.0, 1.25, 2.0, -1.5, 0.0, 2.5, 3.0, f32::INFINITY, 1.0, 3.75];
    assert_eq!(elements(&layout, &batch), Ok(vec![Elements::Float32(whole.clone())]));
    let columns = layout.columns(&batch).unwrap();
    let part = layout.elements(&columns, &batch, 1..3);
    assert_eq!(part, Ok(vec![Elements::Float32(whole[4..].to_vec())]));
}

#[test]
fn inputs_of_their_own_take_the_features_in_order() {
    let inputs = [
        tensor("a", "INT64", &[None]),
        tensor("b", "FP64", &[None, Some(2)]),
        tensor("c", "BOOL", &[None, Some(1)]),
    ];
    let layout = Layout::new(&signature(&inputs), Nulls::Fill(1.0), false).unwrap();
    assert_eq!(layout.features(), 4);
    let batch = batch(vec![
        ("a", Arc::new(Int64Array::from(vec![Some(7), None])) as ArrayRef),
        ("b", doubles(&[Some(0.1), None])),
        ("c", doubles(&[None, Some(0.2)])),
        ("d", Arc::new(BooleanArray::from(vec![None, Some(false)]))),
    ]);
    let expected = vec![
        Elements::Int64(vec![7, 1]),
        Elements::Float64(vec![0.1, 1.0, 1.0, 0.2]),
        Elements::Bool(vec![true, false]),
    ];
    assert_eq!(elements(&layout, &batch), Ok(expected));
}

#[test]
fn the_first_row_that_cannot_be_scored_is_named() {
    let null = batch(vec![("a", doubles(&[Some(1.0), Some(2.0), None])), ("b", doubles(&[Some(0.0); 3]))]);
    let nan = batch(vec![("a", doubles(&[Some(1.0), Some(f64::NAN)])), ("b", doubles(&[Some(0.0); 2]))]);
    let huge = batch(vec![("a", doubles(&[Some(1.0), Some(1e300)])), ("b", doubles(&[Some(0.0); 2]))]);
    let row = |row, message: &str| Err(Error::Row { row, message: message.to_owned() });
    let strict = layout("FP32", 2, Nulls::Refuse, false);
    assert_eq!(elements(&strict, &null), row(2, "feature `a` is NULL"));
    assert_eq!(elements(&strict, &nan), row(1, "feature `a` is NaN"));
    assert_eq!(elements(&strict, &huge), row(1, "feature `a` is 1e300, which the model's FP32 cannot hold"));
    let columns = strict.columns(&null).unwrap();
    assert!(strict.elements(&columns, &null, 0..2).is_ok(), "the rows before it can be scored");
    assert_eq!(strict.elements(&columns, &null, 1..3), row(2, "feature `a` is NULL"));

    let lenient = layout("FP32", 2, Nulls::Fill(-1.0), true);
    let filled = elements(&lenient, &null);
    assert_eq!(filled, Ok(vec![Elements::Float32(vec![1.0, 0.0, 2.0, 0.0, -1.0, 0.0])]));
    assert!(floats(elements(&lenient, &nan))[2].is_nan(), "NaN is allowed");
    let with_nan = layout("FP32", 2, Nulls::Nan, false);
    assert!(floats(elements(&with_nan, &null))[4].is_nan(), "NaN that stands for NULL is no NaN of the row");

    let narrow = batch(vec![("a", Arc::new(Int32Array::from(vec![Some(7), None])) as ArrayRef)]);
    let filled = elements(&layout("INT32", 1, Nulls::Fill(-2.0), false), &narrow);
    assert_eq!(filled, Ok(vec![Elements::Int32(vec![7, -2])]));
    for nulls in [Nulls::Fill(0.5), Nulls::Fill(1e12), Nulls::Nan] {
        assert_eq!(elements(&layout("INT32", 1, nulls, false), &narrow), row(1, "feature `a` is NULL"));
    }
    let whole = layout("INT64", 1, Nulls::Nan, false);
    let numbers = batch(vec![("a", Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef)]);
    assert_eq!(elements(&whole, &numbers), row(1, "feature `a` is NULL"), "whole numbers have no NaN");
}

#[test]
fn what_lies_where_a_feature_is_null_does_not_matter() {
    let nulls = NullBuffer::from(vec![true, false, false]);
    let column = Float64Array::new(vec![1.0, f64::NAN, 1e300].into(), Some(nulls));
    let batch = batch(vec![("a", Arc::new(column) as ArrayRef)]);
    let filled = elements(&layout("FP32", 1, Nulls::Fill(-1.0), false), &batch);
    assert_eq!(filled, Ok(vec![Elements::Float32(vec![1.0, -1.0, -1.0])]));
}

#[test]
fn other_columns_than_the_features_are_refused() {
    let text = batch(vec![("a", Arc::new(StringArray::from(vec!["1"])) as ArrayRef)]);
    let fraction = batch(vec![("a", doubles(&[Some(1.0)]))]);
    let large = batch(vec![("a", Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef)]);
    let problem = |datatype: &str, features, batch: &RecordBatch| match elements(
        &layout(datatype, features, Nulls::Refuse, false),
        batch,
    ) {
        Err(Error::Features(problem)) => problem,
        other => panic!("{other:?}"),
    };
    assert!(problem("FP32", 1, &text).contains("`a` is Utf8"));
    assert!(problem("INT64", 1, &fraction).contains("`a` is Float64"));
    assert!(problem("BOOL", 1, &fraction).contains("`a`"));
    assert!(problem("INT64", 1, &large).contains("`a`"), "a number that does not fit is no other number");
    assert!(problem("INT32", 1, &large).contains("`a`"), "nor in 32 bits");
    assert!(problem("FP32", 2, &fraction).contains("2 features, 1 were given"));
}

#[test]
fn inputs_that_are_no_features_are_refused() {
    for (datatype, shape, expected) in [
        ("BYTES", &[None, Some(1)][..], "BYTES"),
        ("FP32", &[None, None], "[?, ?]"),
        ("FP32", &[Some(1), Some(4)], "[1, 4]"),
        ("FP32", &[None, Some(3), Some(3)], "[?, 3, 3]"),
        ("FP32", &[None, Some(0)], "[?, 0]"),
        ("FP32", &[None, Some(u64::MAX)], "features"),
    ] {
        let problem =
            Layout::new(&signature(&[tensor("x", datatype, shape)]), Nulls::Refuse, false).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }
    assert!(Layout::new(&signature(&[]), Nulls::Refuse, false).is_err());
}

#[test]
fn a_row_is_taken_out_of_elements_of_every_type() {
    assert_eq!(Elements::Float32(vec![1.0, 0.1, 3.0, -0.5]).row(1, 2), [3.0, -0.5]);
    assert_eq!(Elements::Float32(vec![0.1]).row(0, 1), [f64::from(0.1_f32)]);
    assert!(Elements::Float64(vec![0.0, f64::NAN]).row(1, 2)[0].is_nan());
    assert_eq!(Elements::Int32(vec![7, -8]).row(1, 2), [-8.0]);
    assert_eq!(Elements::Int64(vec![4_869_963]).row(0, 1), [4_869_963.0]);
    assert_eq!(Elements::Bool(vec![true, false]).row(0, 1), [1.0, 0.0]);
    assert!(Elements::Bytes(vec![vec![1]]).row(0, 1).is_empty());
}
