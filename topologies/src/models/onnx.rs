//! What an ONNX file says about its inputs and outputs, read without ONNX Runtime and without believing the file.
//!
//! Only the wire format of Protocol Buffers is walked: the graph's inputs and outputs, the operator sets, and every
//! tensor, for what it claims to be. A file is refused that is not all there is (tensors kept in other files), that claims
//! tensors it does not hold, or that is nested without end. Nothing is allocated by what a file says.

use std::collections::BTreeSet;

use super::manifest::{Signature, Tensor};

/// Depth of graphs in graphs.
const DEPTH_MAX: usize = 16;
/// Inputs, and outputs.
const VALUES_MAX: usize = 10_000;
/// Dimensions of a tensor.
pub(crate) const RANK_MAX: usize = 32;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 1000;
/// Elements of the smallest types that one byte of a tensor's data may hold.
const ELEMENTS_PER_BYTE_MAX: u64 = 4;

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) signature: Signature,
    /// The version of ONNX's own operators.
    pub(crate) opset: Option<i64>,
}

/// Reads what `bytes`, an ONNX model, says about itself.
///
/// # Errors
/// Why it is no model, or none that can be served.
pub(crate) fn describe(bytes: &[u8]) -> Result<Described, String> {
    let (mut graph, mut opset, mut ir_version) = (None, None, None);
    for field in Fields::of(bytes) {
        match field? {
            (1, Value::Number(version)) => ir_version = Some(version),
            (7, Value::Bytes(_)) if graph.is_some() => return Err("it has two graphs".to_owned()),
            (7, Value::Bytes(bytes)) => graph = Some(bytes),
            (8, Value::Bytes(set)) => {
                let (domain, version) = operator_set(set)?;
                if domain.is_empty() || domain == "ai.onnx" {
                    opset = Some(version);
                }
            }
            // Functions: their nodes are field 7.
            (25, Value::Bytes(function)) => {
                for node in nested(function, 7) {
                    check_node(node?, 1)?;
                }
            }
            // How it was trained.
            (20, Value::Bytes(training)) => {
                for field in Fields::of(training) {
                    if let (1 | 2, Value::Bytes(graph)) = field? {
                        check_graph(graph, 1)?;
                    }
                }
            }
            _ => {}
        }
    }
    if ir_version.is_none_or(|version| version == 0) {
        return Err("it is no ONNX model: it has no version".to_owned());
    }
    let graph = graph.ok_or("it is no ONNX model: it has no graph")?;
    check_graph(graph, 0)?;
    Ok(Described { signature: signature(graph)?, opset })
}

/// Inputs and outputs of a graph. Inputs that the graph itself gives a value are none.
fn signature(graph: &[u8]) -> Result<Signature, String> {
    let mut initialised = BTreeSet::new();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for field in Fields::of(graph) {
        match field? {
            (5, Value::Bytes(tensor)) => {
                if let Some(name) = last_text(tensor, 8)? {
                    initialised.insert(name);
                }
            }
            (11, Value::Bytes(value)) => inputs.push(value),
            (12, Value::Bytes(value)) => outputs.push(value),
            _ => {}
        }
        if inputs.len().max(outputs.len()) > VALUES_MAX {
            return Err(format!("it has more than {VALUES_MAX} inputs or outputs"));
        }
    }
    let mut signature = Signature::default();
    let mut names = BTreeSet::new();
    for value in inputs {
        let name = last_text(value, 1)?.unwrap_or_default();
        if !initialised.contains(name) {
            signature.inputs.push(tensor(value, "input")?);
        }
    }
    for value in outputs {
        signature.outputs.push(tensor(value, "output")?);
    }
    for tensor in signature.inputs.iter().chain(&signature.outputs) {
        if !names.insert(tensor.name.as_str()) {
            return Err(format!("two inputs or outputs are called `{}`", tensor.name));
        }
    }
    if signature.inputs.is_empty() || signature.outputs.is_empty() {
        return Err("it has no input, or no output".to_owned());
    }
    Ok(signature)
}

/// A ValueInfoProto.
fn tensor(value: &[u8], what: &str) -> Result<Tensor, String> {
    let name = last_text(value, 1)?.unwrap_or_default();
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!("an {what} has no name, or none that can be used"));
    }
    let name = name.to_owned();
    let mut kind = None;
    for field in nested(value, 2) {
        for field in Fields::of(field?) {
            if let (number @ (1 | 4 | 5 | 8 | 9), Value::Bytes(bytes)) = field? {
                kind = Some((number, bytes));
            }
        }
    }
    let Some((1, tensor)) = kind else {
        let way_out = "export the model so that each is a tensor; with skl2onnx: `options={'zipmap': False}`";
        return Err(format!("the {what} `{name}` is no tensor, but a sequence or map: {way_out}"));
    };
    let (mut element, mut shape) = (0, None);
    for field in Fields::of(tensor) {
        match field? {
            (1, Value::Number(number)) => element = number,
            (2, Value::Bytes(bytes)) => shape = Some(bytes),
            _ => {}
        }
    }
    let datatype = datatype(element).ok_or_else(|| {
        format!("the {what} `{name}` has elements of a type that cannot be served ({element})")
    })?;
    let shape =
        shape.ok_or_else(|| format!("the {what} `{name}` has no shape: export the model with shapes"))?;
    let mut dimensions = Vec::new();
    for dimension in nested(shape, 1) {
        let mut size = None;
        for field in Fields::of(dimension?) {
            if let (1, Value::Number(number)) = field? {
                // Some exporters write -1 where a dimension is free.
                size = (number <= i64::MAX as u64).then_some(number);
            }
        }
        dimensions.push(size);
        if dimensions.len() > RANK_MAX {
            return Err(format!("the {what} `{name}` has more than {RANK_MAX} dimensions"));
        }
    }
    Ok(Tensor { name, datatype: datatype.to_owned(), shape: dimensions })
}

/// The name that the Open Inference Protocol has for a type of elements.
fn datatype(element: u64) -> Option<&'static str> {
    Some(match element {
        1 => "FP32",
        2 => "UINT8",
        3 => "INT8",
        4 => "UINT16",
        5 => "INT16",
        6 => "INT32",
        7 => "INT64",
        8 => "BYTES",
        9 => "BOOL",
        10 => "FP16",
        11 => "FP64",
        12 => "UINT32",
        13 => "UINT64",
        16 => "BF16",
        _ => return None,
    })
}

/// An OperatorSetIdProto.
fn operator_set(set: &[u8]) -> Result<(&str, i64), String> {
    let mut version = 0;
    for field in Fields::of(set) {
        if let (2, Value::Number(number)) = field? {
            version = number as i64;
        }
    }
    Ok((last_text(set, 1)?.unwrap_or_default(), version))
}

/// Every tensor of a graph, at any depth, is what it claims to be.
fn check_graph(graph: &[u8], depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("graphs are nested more than {DEPTH_MAX} deep"));
    }
    for field in Fields::of(graph) {
        match field? {
            (1, Value::Bytes(node)) => check_node(node, depth)?,
            (5, Value::Bytes(tensor)) => check_tensor(tensor)?,
            (15, Value::Bytes(sparse)) => check_sparse(sparse)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_node(node: &[u8], depth: usize) -> Result<(), String> {
    for attribute in nested(node, 5) {
        for field in Fields::of(attribute?) {
            match field? {
                (5 | 10, Value::Bytes(tensor)) => check_tensor(tensor)?,
                (6 | 11, Value::Bytes(graph)) => check_graph(graph, depth + 1)?,
                (22 | 23, Value::Bytes(sparse)) => check_sparse(sparse)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// A SparseTensorProto: values and indices are tensors; the dimensions beside them are refused above what could be indexed.
fn check_sparse(sparse: &[u8]) -> Result<(), String> {
    for field in Fields::of(sparse) {
        if let (1 | 2, Value::Bytes(tensor)) = field? {
            check_tensor(tensor)?;
        }
    }
    let dimensions = numbers(sparse, 3)?;
    match elements(&dimensions) {
        Some(_) => Ok(()),
        None => Err("a sparse tensor claims more elements than there can be".to_owned()),
    }
}

/// A TensorProto holds what its dimensions claim, and holds it itself.
fn check_tensor(tensor: &[u8]) -> Result<(), String> {
    let name = || {
        let name = last_text(tensor, 8).ok().flatten().unwrap_or_default();
        name.chars().take(100).collect::<String>().escape_debug().to_string()
    };
    let mut held: u64 = 0;
    for field in Fields::of(tensor) {
        match field? {
            (13, _) | (14, Value::Number(1..)) => {
                return Err(format!(
                    "the tensor `{}` lies in another file: save the model as one file (MLflow: `save_as_external_data=False`)",
                    name()
                ));
            }
            // The kinds of data that a tensor can have: raw, or numbers or texts by type.
            (4 | 5 | 6 | 7 | 9 | 10 | 11, Value::Bytes(data)) => {
                held = held.saturating_add(data.len().max(1) as u64)
            }
            (4 | 5 | 7 | 10 | 11, _) => held = held.saturating_add(8),
            _ => {}
        }
    }
    let dimensions = numbers(tensor, 1)?;
    let elements = elements(&dimensions)
        .ok_or_else(|| format!("the tensor `{}` claims more elements than there can be", name()))?;
    if elements > held.saturating_mul(ELEMENTS_PER_BYTE_MAX) {
        return Err(format!("the tensor `{}` claims {elements} elements and holds {held} bytes", name()));
    }
    Ok(())
}

/// The product of dimensions, `None` where it cannot be.
pub(crate) fn elements(dimensions: &[u64]) -> Option<u64> {
    let product = dimensions.iter().try_fold(1_u64, |product, dimension| product.checked_mul(*dimension))?;
    let is_negative = dimensions.iter().any(|dimension| *dimension > i64::MAX as u64);
    (!is_negative && product <= i64::MAX as u64).then_some(product)
}

/// The numbers of a repeated field, packed or not; few, since they are dimensions.
pub(crate) fn numbers(message: &[u8], number: u32) -> Result<Vec<u64>, String> {
    let mut numbers = Vec::new();
    for field in Fields::of(message) {
        match field? {
            (found, Value::Number(value)) if found == number => numbers.push(value),
            (found, Value::Bytes(mut packed)) if found == number => {
                while !packed.is_empty() && numbers.len() <= RANK_MAX {
                    numbers.push(varint(&mut packed)?);
                }
            }
            _ => {}
        }
        if numbers.len() > RANK_MAX {
            return Err(format!("a tensor has more than {RANK_MAX} dimensions"));
        }
    }
    Ok(numbers)
}

/// The messages in field `number` of `message`.
pub(crate) fn nested(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], String>> {
    Fields::of(message).filter_map(move |field| match field {
        Ok((found, Value::Bytes(bytes))) if found == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// The text in field `number` of `message`; the last one counts.
pub(crate) fn last_text(message: &[u8], number: u32) -> Result<Option<&str>, String> {
    let mut text = None;
    for bytes in nested(message, number) {
        text = Some(std::str::from_utf8(bytes?).map_err(|_| "a name is not UTF-8".to_owned())?);
    }
    Ok(text)
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Fixed,
    Bytes(&'a [u8]),
}

/// The fields of a message, in its order; ends after an error.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Result<(u32, Value<'a>), String> {
        let key = varint(&mut self.rest)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0);
        let number = number.ok_or("it is no ONNX model: a field has no number")?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut self.rest)?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = varint(&mut self.rest)?;
                Value::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            kind => return Err(format!("it is no ONNX model: a field has the unknown type {kind}")),
        };
        Ok((number, value))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

const CUT_SHORT: &str = "it is no ONNX model, or it was cut short";

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number: u64 = 0;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first().ok_or(CUT_SHORT)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("it is no ONNX model: a number has no end".to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
    }

    pub(crate) fn number(field: u32, value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_varint(&mut bytes, u64::from(field) << 3);
        push_varint(&mut bytes, value);
        bytes
    }

    pub(crate) fn message(field: u32, parts: &[Vec<u8>]) -> Vec<u8> {
        let content = parts.concat();
        let mut bytes = Vec::new();
        push_varint(&mut bytes, u64::from(field) << 3 | 2);
        push_varint(&mut bytes, content.len() as u64);
        bytes.extend(content);
        bytes
    }

    fn text(field: u32, text: &str) -> Vec<u8> {
        message(field, &[text.as_bytes().to_vec()])
    }

    /// A dimension is free where it is `None`.
    fn value(field: u32, name: &str, element: u64, shape: &[Option<u64>]) -> Vec<u8> {
        let dimension = |size: &Option<u64>| match size {
            Some(size) => message(1, &[number(1, *size)]),
            None => message(1, &[text(2, "N")]),
        };
        let shape: Vec<Vec<u8>> = shape.iter().map(dimension).collect();
        let tensor = message(1, &[number(1, element), message(2, &shape)]);
        message(field, &[text(1, name), message(2, &[tensor])])
    }

    fn initializer(field: u32, name: &str, dimensions: &[u64], data: &[u8]) -> Vec<u8> {
        let mut parts: Vec<Vec<u8>> = dimensions.iter().map(|size| number(1, *size)).collect();
        parts.extend([number(2, 1), text(8, name), message(9, &[data.to_vec()])]);
        message(field, &parts)
    }

    fn model(graph: &[Vec<u8>]) -> Vec<u8> {
        let opset = message(8, &[text(1, ""), number(2, 18)]);
        [number(1, 8), text(2, "isobar"), message(7, graph), opset].concat()
    }

    /// A small model: rows of `features` numbers go in, a label and two probabilities come out.
    pub(in crate::models) fn small(features: u64) -> Vec<u8> {
        model(&[
            value(11, "features", 1, &[None, Some(features)]),
            value(12, "label", 7, &[None]),
            value(12, "probabilities", 1, &[None, Some(2)]),
            initializer(5, "weights", &[features], &vec![0; 4 * features as usize]),
        ])
    }

    #[test]
    fn inputs_and_outputs_are_read() {
        let described = describe(&small(3)).unwrap();
        assert_eq!(described.opset, Some(18));
        let tensor = |name: &str, datatype: &str, shape: &[Option<u64>]| Tensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
        };
        assert_eq!(described.signature.inputs, [tensor("features", "FP32", &[None, Some(3)])]);
        assert_eq!(
            described.signature.outputs,
            [tensor("label", "INT64", &[None]), tensor("probabilities", "FP32", &[None, Some(2)])]
        );
    }

    #[test]
    fn an_input_that_the_graph_itself_gives_a_value_is_none() {
        let graph = [
            value(11, "x", 11, &[None, Some(1)]),
            value(11, "weights", 1, &[Some(2)]),
            initializer(5, "weights", &[2], &[0; 8]),
            value(12, "y", 11, &[None, Some(1)]),
        ];
        let described = describe(&model(&graph)).unwrap();
        let names: Vec<&str> = described.signature.inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names, ["x"]);
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        let with = |more: Vec<u8>| {
            let graph = [value(11, "x", 1, &[None, Some(1)]), value(12, "y", 1, &[None]), more];
            describe(&model(&graph))
        };
        assert!(with(Vec::new()).is_ok());
        let sequence = message(12, &[text(1, "z"), message(2, &[message(4, &[])])]);
        let shapeless = message(12, &[text(1, "z"), message(2, &[message(1, &[number(1, 1)])])]);
        let external = message(5, &[number(1, 2), number(2, 1), text(8, "w"), number(14, 1)]);
        let located = message(
            5,
            &[number(2, 1), text(8, "w"), message(13, &[text(1, "location"), text(2, "/etc/passwd")])],
        );
        let nested = |inner: Vec<u8>| message(1, &[message(5, &[message(6, &[inner])])]);
        let mut deep = initializer(5, "w", &[1], &[0; 4]);
        for _ in 0..DEPTH_MAX + 2 {
            deep = nested(deep);
        }
        for (more, reason) in [
            (sequence, "zipmap"),
            (shapeless, "no shape"),
            (value(12, "z", 14, &[None]), "cannot be served"),
            (value(12, "z", 1, &[None; RANK_MAX + 1]), "dimensions"),
            (value(12, "x", 1, &[None]), "two inputs or outputs"),
            (value(12, "a\nb", 1, &[None]), "no name"),
            (external.clone(), "another file"),
            (located, "another file"),
            (nested(external), "another file"),
            (initializer(5, "w", &[1 << 40], &[0; 8]), "claims"),
            (initializer(5, "w", &[1 << 40, 1 << 40], &[0; 8]), "claims more"),
            (initializer(5, "w", &[u64::MAX], &[0; 8]), "claims more"),
            (initializer(5, "w", &[2; RANK_MAX + 1], &[0; 8]), "dimensions"),
            (nested(initializer(5, "w", &[1 << 40], &[0; 8])), "claims"),
            (deep, "nested"),
        ] {
            let error = with(more).expect_err(reason);
            assert!(error.contains(reason), "expected {reason:?}, got {error:?}");
        }
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_makes_it_panic() {
        let bytes = small(3);
        for end in 0..bytes.len() {
            // A prefix may be a model without what was cut off, but not one without its graph.
            if let Ok(described) = describe(&bytes[..end]) {
                assert_eq!(described.signature, describe(&bytes).unwrap().signature);
            }
        }
        for place in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut broken = bytes.clone();
                broken[place] ^= flip;
                let _ = describe(&broken);
            }
        }
        for hostile in [
            &b""[..],
            b"{}",
            b"\x08",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            &[0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        ] {
            assert!(describe(hostile).is_err());
        }
    }
}
