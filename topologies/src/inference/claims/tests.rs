use super::*;
use crate::models::onnx::tests::{message, number};

/// A field of bytes.
fn bytes(number: u32, value: &[u8]) -> Vec<u8> {
    message(number, &[value.to_vec()])
}

/// A float tensor `[?, 1]` as an input or output.
fn value(name: &str) -> Vec<u8> {
    let free = bytes(1, &[]);
    let one = bytes(1, &number(1, 1));
    let tensor = [number(1, 1), bytes(2, &[free, one].concat())].concat();
    [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
}

fn model(parts: &[Vec<u8>]) -> Vec<u8> {
    let graph = [parts.concat(), bytes(11, &value("x")), bytes(12, &value("y"))].concat();
    [number(1, 10), bytes(7, &graph)].concat()
}

fn signature() -> Signature {
    let tensor =
        |name: &str| Tensor { name: name.into(), datatype: "FP32".into(), shape: vec![None, Some(1)] };
    Signature { inputs: vec![tensor("x")], outputs: vec![tensor("y")] }
}

fn shape_tensor(name: &str, shape: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = shape.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    let dims = number(1, shape.len() as u64);
    [dims, number(2, INT64), bytes(8, name.as_bytes()), bytes(9, &raw)].concat()
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name.as_bytes())).collect();
    let attributes: Vec<u8> = attributes.iter().flat_map(|attribute| bytes(5, attribute)).collect();
    let node = [inputs, bytes(2, output.as_bytes()), bytes(4, operator.as_bytes()), attributes].concat();
    bytes(1, &node)
}

fn checked(parts: &[Vec<u8>], bytes_max: u64) -> Result<(), String> {
    check(&model(parts), &signature(), bytes_max)
}

#[test]
fn operators_that_make_something_of_nothing_are_counted() {
    let shape = [1_i64 << 20, 1 << 20];
    let ints: Vec<u8> = shape.iter().flat_map(|dim| number(8, *dim as u64)).collect();
    let shape_attribute = [bytes(1, b"shape"), ints.clone()].concat();
    let value_ints = [bytes(1, b"value_ints"), ints].concat();
    let value_tensor = [bytes(1, b"value"), bytes(5, &shape_tensor("", &shape))].concat();
    let held = bytes(5, &shape_tensor("s", &shape));
    let inner = [
        bytes(1, b"then_branch"),
        bytes(6, &[held.clone(), node("ConstantOfShape", &["s"], "y", &[])].concat()),
    ]
    .concat();
    let graphs = [
        vec![node("ConstantOfShape", &["s"], "y", &[]), held.clone()],
        vec![node("Expand", &["x", "s"], "y", &[]), held.clone()],
        vec![node("Tile", &["x", "s"], "y", &[]), held],
        vec![node("RandomNormal", &[], "y", &[shape_attribute])],
        vec![node("Constant", &[], "s", &[value_ints]), node("ConstantOfShape", &["s"], "y", &[])],
        vec![node("Constant", &[], "s", &[value_tensor]), node("ConstantOfShape", &["s"], "y", &[])],
        vec![node("If", &["x"], "y", &[inner])],
    ];
    for graph in graphs {
        let problem = checked(&graph, 1 << 30).unwrap_err();
        assert!(problem.contains("operator"), "{problem}");
    }
}

#[test]
fn what_is_within_the_limit_may_be_made() {
    let make =
        |shape: &[i64]| [node("ConstantOfShape", &["s"], "zeros", &[]), bytes(5, &shape_tensor("s", shape))];
    assert_eq!(checked(&make(&[128]), 1024), Ok(()), "exactly the limit");
    assert!(checked(&make(&[129]), 1024).is_err());
    assert_eq!(checked(&make(&[128, -1]), 1024), Ok(()));
    assert!(checked(&make(&[i64::MAX, i64::MAX]), u64::MAX).is_err(), "more than can be counted");
    let two = [make(&[100]), make(&[100])].concat();
    assert!(checked(&two, 1024).unwrap_err().contains("limit"), "the limit is for all of them");
    // Such a tensor is no shape, and says nothing.
    let unknown = node("ConstantOfShape", &["elsewhere"], "zeros", &[]);
    assert_eq!(checked(&[unknown], 1024), Ok(()));
}

#[test]
fn a_file_that_is_large_damaged_or_another_one_is_refused() {
    let whole = model(&[]);
    assert_eq!(check(&whole, &signature(), whole.len() as u64), Ok(()));
    assert!(check(&whole, &signature(), 4).unwrap_err().contains("limit of 4"));
    for end in 0..whole.len() {
        assert!(check(&whole[..end], &signature(), 1024).is_err(), "{end}");
    }
    let mut other = signature();
    other.outputs[0].shape[1] = None;
    let problem = check(&whole, &other, 1024).unwrap_err();
    assert_eq!(problem, "its outputs are y FP32[?, 1], the manifest says y FP32[?, ?]");
}
