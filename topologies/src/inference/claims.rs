//! What an ONNX file claims, held against its manifest and bounded before ONNX Runtime sees it.
//!
//! [`describe`] walks the file: all tensors lie in it and are what they claim, inputs and outputs are tensors. What is left is
//! what a file makes of nothing: a few bytes of `ConstantOfShape`, `Expand`, `Tile` or of the random operators ask for terabytes.
//! Where the file itself says how much they make, that is within the limit. What a graph computes on its way from the rows is not
//! known before it runs; that is bounded by the rows given at a time.

use std::collections::HashMap;

use super::matrix::tensors_text;
use crate::models::onnx::{Fields, RANK_MAX, Value, describe, elements, last_text, nested, numbers};
use crate::models::{Signature, Tensor};

/// ONNX's number of the type of shapes.
const INT64: u64 = 7;
/// Bytes of the largest elements that these operators make.
const ELEMENT_BYTES: u64 = 8;

/// Holds a file against `signature` and the limit.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check(onnx: &[u8], signature: &Signature, bytes_max: u64) -> Result<(), String> {
    if onnx.len() as u64 > bytes_max {
        return Err(format!("it has {} bytes, more than the limit of {bytes_max}", onnx.len()));
    }
    let found = describe(onnx)?.signature;
    compare("input", &found.inputs, &signature.inputs)?;
    compare("output", &found.outputs, &signature.outputs)?;
    let mut made = Made { bytes: 0, bytes_max };
    for field in Fields::of(onnx) {
        match field? {
            (7, Value::Bytes(graph)) => made.graph(graph)?,
            // The nodes of a function.
            (25, Value::Bytes(function)) => made.nodes(function, 7, &mut HashMap::new())?,
            _ => {}
        }
    }
    Ok(())
}

fn compare(what: &str, found: &[Tensor], expected: &[Tensor]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (tensors_text(found), tensors_text(expected));
    Err(format!("its {what}s are {found}, the manifest says {expected}"))
}

/// What operators make of nothing, so far.
struct Made {
    bytes: u64,
    bytes_max: u64,
}

/// The tensors of a graph that can be shapes, by name.
type Shapes<'a> = HashMap<&'a str, Vec<u64>>;

impl Made {
    fn graph(&mut self, graph: &[u8]) -> Result<(), String> {
        let mut shapes = Shapes::new();
        // Before the nodes: a node may use one that comes after it.
        for tensor in nested(graph, 5) {
            let tensor = tensor?;
            if let (Some(name), Some(shape)) = (last_text(tensor, 8)?, shape_in(tensor)?) {
                shapes.insert(name, shape);
            }
        }
        self.nodes(graph, 1, &mut shapes)
    }

    /// The nodes in field `number` of `parent`, in order: what one says another may use.
    fn nodes<'a>(&mut self, parent: &'a [u8], number: u32, shapes: &mut Shapes<'a>) -> Result<(), String> {
        nested(parent, number).try_for_each(|node| self.node(node?, shapes))
    }

    fn node<'a>(&mut self, node: &'a [u8], shapes: &mut Shapes<'a>) -> Result<(), String> {
        let operator = last_text(node, 4)?.unwrap_or_default();
        let mut constant = None;
        for attribute in nested(node, 5) {
            let attribute = attribute?;
            for graph in nested(attribute, 6).chain(nested(attribute, 11)) {
                self.graph(graph?)?;
            }
            match (operator, last_text(attribute, 1)?.unwrap_or_default()) {
                ("Constant", "value") => {
                    for tensor in nested(attribute, 5) {
                        constant = shape_in(tensor?)?;
                    }
                }
                ("Constant", "value_ints") => constant = Some(few(attribute, 8)?),
                ("RandomNormal" | "RandomUniform", "shape") => self.add(operator, &few(attribute, 8)?)?,
                _ => {}
            }
        }
        if let (Some(shape), Some(output)) = (constant, texts(node, 2)?.first()) {
            shapes.insert(*output, shape);
        }
        let inputs = texts(node, 1)?;
        let shape = match operator {
            "ConstantOfShape" => inputs.first(),
            "Expand" | "Tile" => inputs.get(1),
            _ => None,
        };
        match shape.and_then(|name| shapes.get(name)).cloned() {
            Some(shape) => self.add(operator, &shape),
            None => Ok(()),
        }
    }

    fn add(&mut self, operator: &str, shape: &[u64]) -> Result<(), String> {
        // A negative dimension is taken as it comes.
        let dims: Vec<u64> = shape.iter().map(|dim| if *dim > i64::MAX as u64 { 1 } else { *dim }).collect();
        let bytes = elements(&dims).and_then(|elements| elements.checked_mul(ELEMENT_BYTES));
        match bytes.and_then(|bytes| self.bytes.checked_add(bytes)).filter(|bytes| *bytes <= self.bytes_max) {
            Some(bytes) => {
                self.bytes = bytes;
                Ok(())
            }
            None => Err(format!(
                "its operator {operator} makes a tensor of the shape {dims:?}, more than the limit of {} bytes",
                self.bytes_max
            )),
        }
    }
}

/// The values of a tensor that can be a shape.
fn shape_in(tensor: &[u8]) -> Result<Option<Vec<u64>>, String> {
    let mut data_type = 0;
    for field in Fields::of(tensor) {
        if let (2, Value::Number(number)) = field? {
            data_type = number;
        }
    }
    let count = elements(&numbers(tensor, 1)?);
    if data_type != INT64 || count.is_none_or(|count| count > RANK_MAX as u64) {
        return Ok(None);
    }
    let mut values = numbers(tensor, 7)?;
    for raw in nested(tensor, 9) {
        let numbers = raw?.chunks_exact(8).map(|bytes| bytes.try_into().map_or(u64::MAX, u64::from_le_bytes));
        values.extend(numbers);
    }
    Ok(Some(values))
}

/// The numbers of an attribute that can be a shape.
fn few(attribute: &[u8], number: u32) -> Result<Vec<u64>, String> {
    numbers(attribute, number).map_err(|_| format!("a shape has more than {RANK_MAX} dimensions"))
}

/// The texts in field `number` of `message`.
fn texts(message: &[u8], number: u32) -> Result<Vec<&str>, String> {
    let each = nested(message, number);
    each.map(|text| std::str::from_utf8(text?).map_err(|_| "a name is not UTF-8".to_owned())).collect()
}

#[cfg(test)]
mod tests;
