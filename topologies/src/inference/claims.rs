//! What an ONNX file claims, looked at before ONNX Runtime sees it.
//!
//! A few bytes can claim a tensor of terabytes, or name another file of the machine to be read. The file is Protocol Buffers; only
//! what matters here is decoded, in one pass, without a copy:
//!
//! - every tensor that the file holds lies in the file, and all of them together take no more than the limit;
//! - operators that make a tensor of nothing (`ConstantOfShape`, `Expand`, `Tile`, the random ones) are within the limit where the
//!   file itself says how much they make;
//! - inputs and outputs are tensors, not maps or sequences;
//! - graphs within graphs are few levels deep.
//!
//! What a graph computes on its way from the rows is not known before it runs: that is bounded by the rows given at a time.

use std::collections::HashMap;

use prost::encoding::{WireType, decode_key, decode_varint};

/// Graphs within graphs, of loops and branches.
const DEPTH_MAX: usize = 8;
/// Elements of a tensor that can be a shape.
const SHAPE_MAX: u64 = 64;

const FLOAT: u64 = 1;
const INT64: u64 = 7;

/// Checks the file's claims.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check(onnx: &[u8], bytes_max: u64) -> Result<(), String> {
    if onnx.len() as u64 > bytes_max {
        return Err(format!("it has {} bytes, more than the limit of {bytes_max}", onnx.len()));
    }
    let mut claims = Claims { bytes: 0, bytes_max };
    let mut has_graph = false;
    for field in Fields(onnx) {
        match field? {
            (7, Value::Bytes(graph)) => {
                has_graph = true;
                claims.graph(graph, 0, true)?;
            }
            (25, Value::Bytes(function)) => claims.function(function)?,
            (20, Value::Bytes(_)) => return Err("it is for training, not for inference".into()),
            _ => {}
        }
    }
    if has_graph { Ok(()) } else { Err("it has no graph: this is no ONNX model".into()) }
}

/// What has been claimed so far.
struct Claims {
    bytes: u64,
    bytes_max: u64,
}

/// A small tensor of whole numbers, such as a shape.
type Shape = Vec<i64>;

/// A tensor's claim.
#[derive(Default)]
struct TensorClaim {
    dims: Vec<i64>,
    data_type: u64,
    is_external: bool,
    values: Shape,
    raw: Vec<u8>,
}

impl Claims {
    /// Adds `elements` of `size` bytes each.
    fn add(&mut self, what: &str, elements: Option<u64>, size: u64) -> Result<(), String> {
        let bytes = elements.and_then(|elements| elements.checked_mul(size));
        let all = bytes.and_then(|bytes| self.bytes.checked_add(bytes));
        match all {
            Some(all) if all <= self.bytes_max => {
                self.bytes = all;
                Ok(())
            }
            _ => {
                let bytes =
                    bytes.map_or("more bytes than there are".to_owned(), |bytes| format!("{bytes} bytes"));
                Err(format!("{what} claims {bytes}; the limit for all tensors is {}", self.bytes_max))
            }
        }
    }

    fn graph(&mut self, graph: &[u8], depth: usize, is_main: bool) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("graphs lie more than {DEPTH_MAX} deep in one another"));
        }
        let mut shapes: HashMap<&[u8], Shape> = HashMap::new();
        // Tensors first: a node may refer to one that comes after it.
        for field in Fields(graph) {
            match field? {
                (5, Value::Bytes(tensor)) => {
                    if let (name, Some(shape)) = self.tensor(tensor)? {
                        shapes.insert(name, shape);
                    }
                }
                (15, Value::Bytes(sparse)) => self.sparse_tensor(sparse)?,
                (11, Value::Bytes(input)) if is_main => value_is_a_tensor(input, "input")?,
                (12, Value::Bytes(output)) if is_main => value_is_a_tensor(output, "output")?,
                _ => {}
            }
        }
        self.nodes(graph, 1, &mut shapes, depth)
    }

    fn function(&mut self, function: &[u8]) -> Result<(), String> {
        self.nodes(function, 7, &mut HashMap::new(), 1)
    }

    fn nodes<'a>(
        &mut self,
        parent: &'a [u8],
        number: u32,
        shapes: &mut HashMap<&'a [u8], Shape>,
        depth: usize,
    ) -> Result<(), String> {
        for field in Fields(parent) {
            match field? {
                (found, Value::Bytes(node)) if found == number => self.node(node, shapes, depth)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn node<'a>(
        &mut self,
        node: &'a [u8],
        shapes: &mut HashMap<&'a [u8], Shape>,
        depth: usize,
    ) -> Result<(), String> {
        let (mut inputs, mut outputs, mut operator) = (Vec::new(), Vec::new(), &b""[..]);
        let mut attributes = Vec::new();
        for field in Fields(node) {
            match field? {
                (1, Value::Bytes(name)) => inputs.push(name),
                (2, Value::Bytes(name)) => outputs.push(name),
                (4, Value::Bytes(name)) => operator = name,
                (5, Value::Bytes(attribute)) => attributes.push(attribute),
                _ => {}
            }
        }
        let mut constant = None;
        for attribute in attributes {
            let Attribute { name, shape } = self.attribute(attribute, depth)?;
            match operator {
                b"Constant" if matches!(name, b"value" | b"value_ints" | b"value_int") => constant = shape,
                b"RandomNormal" | b"RandomUniform" if name == b"shape" => {
                    self.makes(operator, shape.as_deref())?
                }
                _ => {}
            }
        }
        if let (Some(shape), Some(output)) = (constant, outputs.first()) {
            shapes.insert(output, shape);
        }
        let operand = match operator {
            b"ConstantOfShape" => inputs.first(),
            b"Expand" | b"Tile" => inputs.get(1),
            _ => None,
        };
        match operand.and_then(|name| shapes.get(*name)).cloned() {
            Some(shape) => self.makes(operator, Some(&shape)),
            None => Ok(()),
        }
    }

    /// An operator that makes a tensor of this shape.
    fn makes(&mut self, operator: &[u8], shape: Option<&[i64]>) -> Result<(), String> {
        let Some(shape) = shape else { return Ok(()) };
        // Of the largest elements that there are, and not negative: -1 is a dimension that is taken as it is.
        let elements = shape.iter().try_fold(1_u64, |all, dim| all.checked_mul(dim.unsigned_abs()));
        self.add(&format!("an operator {}", String::from_utf8_lossy(operator)), elements, 8)
    }

    fn attribute<'a>(&mut self, attribute: &'a [u8], depth: usize) -> Result<Attribute<'a>, String> {
        let (mut name, mut shape, mut numbers) = (&b""[..], None, Vec::new());
        for field in Fields(attribute) {
            match field? {
                (1, Value::Bytes(text)) => name = text,
                (3, Value::Number(number)) => numbers.push(number as i64),
                (8, value) => add_few(&mut numbers, value)?,
                (5 | 10, Value::Bytes(tensor)) => shape = self.tensor(tensor)?.1,
                (6 | 11, Value::Bytes(graph)) => self.graph(graph, depth + 1, false)?,
                (22 | 23, Value::Bytes(sparse)) => self.sparse_tensor(sparse)?,
                _ => {}
            }
        }
        let is_shape = !numbers.is_empty() && numbers.len() as u64 <= SHAPE_MAX;
        Ok(Attribute { name, shape: shape.or(is_shape.then_some(numbers)) })
    }

    fn sparse_tensor(&mut self, sparse: &[u8]) -> Result<(), String> {
        let mut dims = Vec::new();
        for field in Fields(sparse) {
            match field? {
                (1 | 2, Value::Bytes(tensor)) => _ = self.tensor(tensor)?,
                (3, value) => add_numbers(&mut dims, value)?,
                _ => {}
            }
        }
        // It is written out in full before it is used.
        self.add("a sparse tensor", elements_of(&dims), 8)
    }

    /// Checks a tensor: its name and, if it can be a shape, its values.
    fn tensor<'a>(&mut self, tensor: &'a [u8]) -> Result<(&'a [u8], Option<Shape>), String> {
        let mut name = &b""[..];
        let mut claim = TensorClaim::default();
        for field in Fields(tensor) {
            match field? {
                (1, value) => add_numbers(&mut claim.dims, value)?,
                (2, Value::Number(data_type)) => claim.data_type = data_type,
                (7, value) => add_few(&mut claim.values, value)?,
                (8, Value::Bytes(text)) => name = text,
                (9, Value::Bytes(raw)) if raw.len() as u64 <= SHAPE_MAX * 8 => claim.raw = raw.to_vec(),
                (13, _) => claim.is_external = true,
                (14, Value::Number(1)) => claim.is_external = true,
                _ => {}
            }
        }
        let what = || format!("tensor `{}`", String::from_utf8_lossy(name));
        if claim.is_external {
            return Err(format!("{} is in another file; save the model as one file", what()));
        }
        let Some(size) = size_of(claim.data_type) else {
            return Err(format!("{} has elements of type {}, which is unknown", what(), claim.data_type));
        };
        let elements = elements_of(&claim.dims);
        self.add(&what(), elements, size)?;
        let is_shape = claim.data_type == INT64 && elements.is_some_and(|elements| elements <= SHAPE_MAX);
        Ok((name, is_shape.then(|| claim.into_shape())))
    }
}

impl TensorClaim {
    fn into_shape(self) -> Shape {
        if !self.values.is_empty() {
            return self.values;
        }
        let numbers = self.raw.chunks_exact(8);
        numbers.map(|bytes| bytes.try_into().map_or(i64::MAX, i64::from_le_bytes)).collect()
    }
}

struct Attribute<'a> {
    name: &'a [u8],
    shape: Option<Shape>,
}

/// `None` for a dimension below 0, or more elements than can be counted.
fn elements_of(dims: &[i64]) -> Option<u64> {
    dims.iter().try_fold(1_u64, |all, dim| all.checked_mul(u64::try_from(*dim).ok()?))
}

/// Bytes per element of a type, rounded up; of a text, what the program keeps of an empty one.
fn size_of(data_type: u64) -> Option<u64> {
    Some(match data_type {
        FLOAT | 6 | 12 => 4,
        2 | 3 | 9 | 17..=26 => 1,
        4 | 5 | 10 | 16 => 2,
        INT64 | 11 | 13 | 14 => 8,
        15 => 16,
        8 => 32,
        _ => return None,
    })
}

/// Refuses maps and sequences, which exporters of classifiers make by default.
fn value_is_a_tensor(value: &[u8], what: &str) -> Result<(), String> {
    let (mut name, mut is_tensor) = (&b""[..], false);
    for field in Fields(value) {
        match field? {
            (1, Value::Bytes(text)) => name = text,
            (2, Value::Bytes(type_of)) => {
                for kind in Fields(type_of) {
                    is_tensor |= kind?.0 == 1;
                }
            }
            _ => {}
        }
    }
    if is_tensor {
        return Ok(());
    }
    let name = String::from_utf8_lossy(name);
    Err(format!("{what} `{name}` is no tensor; export a classifier with `zipmap` off"))
}

/// Numbers of a repeated field, one by one or packed.
fn add_numbers(numbers: &mut Vec<i64>, value: Value<'_>) -> Result<(), String> {
    match value {
        Value::Number(number) => numbers.push(number as i64),
        Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                numbers.push(decode_varint(&mut packed).map_err(|_| DAMAGED)? as i64);
            }
        }
        Value::Other => return Err(DAMAGED.into()),
    }
    Ok(())
}

/// The same, as long as they can be a shape: most lists are long and are none.
fn add_few(numbers: &mut Vec<i64>, value: Value<'_>) -> Result<(), String> {
    let is_long = matches!(value, Value::Bytes(packed) if packed.len() as u64 > SHAPE_MAX * 10);
    if is_long || numbers.len() as u64 > SHAPE_MAX { Ok(()) } else { add_numbers(numbers, value) }
}

const DAMAGED: &str = "it is damaged, or no ONNX model";

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// 32 or 64 bits, which say nothing here.
    Other,
}

/// The fields of a message, by number.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let (number, wire_type) = decode_key(&mut self.0).ok()?;
        let value = match wire_type {
            WireType::Varint => Value::Number(decode_varint(&mut self.0).ok()?),
            WireType::LengthDelimited => {
                let bytes = usize::try_from(decode_varint(&mut self.0).ok()?).ok()?;
                Value::Bytes(self.take(bytes)?)
            }
            WireType::ThirtyTwoBit => self.take(4).map(|_| Value::Other)?,
            WireType::SixtyFourBit => self.take(8).map(|_| Value::Other)?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        Some((number, value))
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| DAMAGED.to_owned()))
    }
}

#[cfg(test)]
mod tests;
