use super::*;

/// A field of bytes.
fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    let mut field = key(number, 2);
    field.extend(varint(value.len() as u64));
    field.extend(value);
    field
}

/// A field of a number.
fn number(number: u8, value: u64) -> Vec<u8> {
    let mut field = key(number, 0);
    field.extend(varint(value));
    field
}

fn key(number: u8, wire_type: u8) -> Vec<u8> {
    varint(u64::from(number) << 3 | u64::from(wire_type))
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    [number(1, 10), bytes(7, &graph.concat())].concat()
}

fn tensor(name: &str, data_type: u64, dims: &[u64], more: &[Vec<u8>]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| number(1, *dim)).collect();
    [dims, number(2, data_type), bytes(8, name.as_bytes()), more.concat()].concat()
}

fn shape_tensor(name: &str, shape: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = shape.iter().flat_map(|dim| dim.to_le_bytes()).collect();
    tensor(name, INT64, &[shape.len() as u64], &[bytes(9, &raw)])
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name.as_bytes())).collect();
    let attributes: Vec<u8> = attributes.iter().flat_map(|attribute| bytes(5, attribute)).collect();
    let node = [inputs, bytes(2, output.as_bytes()), bytes(4, operator.as_bytes()), attributes].concat();
    bytes(1, &node)
}

fn value(name: &str, kind: u8) -> Vec<u8> {
    [bytes(1, name.as_bytes()), bytes(2, &bytes(kind, &[]))].concat()
}

fn problem(graph: &[Vec<u8>]) -> String {
    check(&model(graph), 1 << 20).unwrap_err()
}

#[test]
fn a_small_model_is_within_its_limits() {
    let graph = [
        bytes(5, &tensor("w", FLOAT, &[4, 4], &[])),
        bytes(5, &shape_tensor("shape", &[16, -1])),
        node("ConstantOfShape", &["shape"], "zeros", &[]),
        node("MatMul", &["x", "w"], "y", &[]),
        bytes(11, &value("x", 1)),
        bytes(12, &value("y", 1)),
    ];
    assert_eq!(check(&model(&graph), 1 << 20), Ok(()));
}

#[test]
fn a_tensor_that_claims_more_than_the_limit_is_refused_by_name() {
    let graph = |dims: &[u64]| vec![bytes(5, &tensor("huge", FLOAT, dims, &[]))];
    for dims in [&[1 << 18, 2][..], &[1 << 40, 1 << 40], &[u64::MAX, 1], &[u64::MAX - 7]] {
        let problem = problem(&graph(dims));
        assert!(problem.contains("`huge`"), "{problem}");
    }
    assert_eq!(check(&model(&graph(&[1 << 18])), 1 << 20), Ok(()), "exactly the limit");
    let two = [graph(&[1 << 17]), graph(&[1 << 18])].concat();
    assert!(problem(&two).contains("limit"), "the limit is for all of them");
}

#[test]
fn operators_that_make_something_of_nothing_are_counted() {
    let shape = [1_i64 << 20, 1 << 20];
    let ints: Vec<u8> = shape.iter().flat_map(|dim| number(8, *dim as u64)).collect();
    let shape_attribute = [bytes(1, b"shape"), ints.clone()].concat();
    let value_ints = [bytes(1, b"value_ints"), ints].concat();
    let value_tensor = [bytes(1, b"value"), bytes(5, &shape_tensor("", &shape))].concat();
    let held = bytes(5, &shape_tensor("s", &shape));
    let graphs = [
        vec![node("ConstantOfShape", &["s"], "y", &[]), held.clone()],
        vec![node("Expand", &["x", "s"], "y", &[]), held.clone()],
        vec![node("Tile", &["x", "s"], "y", &[]), held],
        vec![node("RandomNormal", &[], "y", &[shape_attribute])],
        vec![node("Constant", &[], "s", &[value_ints]), node("ConstantOfShape", &["s"], "y", &[])],
        vec![node("Constant", &[], "s", &[value_tensor]), node("ConstantOfShape", &["s"], "y", &[])],
    ];
    for graph in graphs {
        assert!(problem(&graph).contains("an operator"), "{}", problem(&graph));
    }
}

#[test]
fn other_files_maps_and_deep_graphs_are_refused() {
    let external = tensor("w", FLOAT, &[1], &[bytes(13, &bytes(1, b"location")), number(14, 1)]);
    assert!(problem(&[bytes(5, &external)]).contains("another file"));
    assert!(problem(&[bytes(12, &value("probabilities", 4))]).contains("zipmap"));
    assert!(problem(&[bytes(5, &tensor("w", 99, &[1], &[]))]).contains("type 99"));
    let nested = |depth: usize| {
        let mut graph = node("Identity", &["x"], "y", &[]);
        for _ in 0..depth {
            graph = node("If", &["c"], "y", &[[bytes(1, b"then_branch"), bytes(6, &graph)].concat()]);
        }
        graph
    };
    assert_eq!(check(&model(&[nested(DEPTH_MAX)]), 1 << 20), Ok(()));
    assert!(problem(&[nested(DEPTH_MAX + 1)]).contains("deep"));
}

#[test]
fn damaged_bytes_are_an_error_wherever_they_are_cut() {
    let whole = model(&[
        bytes(5, &shape_tensor("shape", &[16])),
        node("ConstantOfShape", &["shape"], "y", &[]),
        bytes(12, &value("y", 1)),
    ]);
    assert_eq!(check(&whole, 1 << 20), Ok(()));
    // Cut after the first field there is no graph; anywhere else a field is not whole.
    for end in 0..whole.len() {
        assert!(check(&whole[..end], 1 << 20).is_err(), "{end}");
    }
    assert!(check(b"no model at all", 1 << 20).is_err());
    assert!(check(&whole, 4).unwrap_err().contains("limit of 4"));
}
