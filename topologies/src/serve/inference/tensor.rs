//! Tensors as they travel: a name, a type, a shape, and elements row by row.
//!
//! A shape claims nothing: it is held against the elements that are there before anything is made of it.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, BooleanArray, PrimitiveArray};
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type};

use crate::inference::{Elements, Output};
use crate::serve::Refusal;

/// Bytes of the length before each element of `BYTES`.
const LENGTH_BYTES: usize = 4;
/// Types of elements that can be sent.
const DATATYPES: &str = "FP32, FP64, INT32, INT64, BOOL and BYTES";
/// Dimensions of a tensor: rows, and columns of features.
const RANK_MAX: usize = 32;

/// A tensor, with as many elements as its shape says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) elements: Elements,
}

impl Elements {
    /// What the protocol calls their type.
    pub(super) fn datatype(&self) -> &'static str {
        match self {
            Self::Float32(_) => "FP32",
            Self::Float64(_) => "FP64",
            Self::Int32(_) => "INT32",
            Self::Int64(_) => "INT64",
            Self::Bool(_) => "BOOL",
            Self::Bytes(_) => "BYTES",
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Float32(values) => values.len(),
            Self::Float64(values) => values.len(),
            Self::Int32(values) => values.len(),
            Self::Int64(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }

    /// Little-endian, one after the other; each of `BYTES` behind its length.
    pub(super) fn to_raw(&self) -> Vec<u8> {
        match self {
            Self::Float32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Float64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Int32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Int64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Bool(values) => values.iter().map(|value| u8::from(*value)).collect(),
            Self::Bytes(values) => {
                let mut raw = Vec::new();
                for value in values {
                    // Longer ones do not come out of a model: its texts are in memory, and its tensors are bounded.
                    raw.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
                    raw.extend(value);
                }
                raw
            }
        }
    }
}

impl Tensor {
    /// The tensor `name` of these elements.
    ///
    /// # Errors
    /// [`Refusal::Wrong`] if its shape is none, or says another number of elements.
    pub(super) fn new(name: &str, shape: &[i64], elements: Elements) -> Result<Self, Refusal> {
        let wrong = |what: String| Refusal::Wrong(format!("tensor `{}`: {what}", shown(name)));
        if shape.is_empty() || shape.len() > RANK_MAX {
            return Err(wrong(format!("a shape has 1 to {RANK_MAX} dimensions, not {}", shape.len())));
        }
        let dims: Option<Vec<usize>> = shape.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let dims = dims.ok_or_else(|| wrong(format!("the shape {shape:?} has a negative dimension")))?;
        let claimed = dims.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
        if claimed != Some(elements.len()) {
            let found = elements.len();
            return Err(wrong(format!("the shape {shape:?} does not go with {found} elements")));
        }
        Ok(Self { name: name.to_owned(), shape: dims, elements })
    }

    /// The tensor `name` from bytes as [`Elements::to_raw`] writes them.
    ///
    /// # Errors
    /// [`Refusal::Wrong`] if they are no elements of this type, or not as many as the shape says.
    pub(super) fn from_raw(name: &str, datatype: &str, shape: &[i64], raw: &[u8]) -> Result<Self, Refusal> {
        let wrong = |what: &str| {
            let bytes = raw.len();
            Refusal::Wrong(format!("tensor `{}`: {bytes} bytes are no {datatype}: {what}", shown(name)))
        };
        let partial = || wrong("the last element is not whole");
        let elements = match datatype {
            "FP32" => Elements::Float32(numbers(raw, f32::from_le_bytes).ok_or_else(partial)?),
            "FP64" => Elements::Float64(numbers(raw, f64::from_le_bytes).ok_or_else(partial)?),
            "INT32" => Elements::Int32(numbers(raw, i32::from_le_bytes).ok_or_else(partial)?),
            "INT64" => Elements::Int64(numbers(raw, i64::from_le_bytes).ok_or_else(partial)?),
            "BOOL" => {
                let values = raw.iter().map(|byte| match byte {
                    0 => Some(false),
                    1 => Some(true),
                    _ => None,
                });
                let values: Option<Vec<bool>> = values.collect();
                Elements::Bool(values.ok_or_else(|| wrong("a byte is neither 0 nor 1"))?)
            }
            "BYTES" => Elements::Bytes(texts(raw).ok_or_else(partial)?),
            other => return Err(unknown_datatype(name, other)),
        };
        Self::new(name, shape, elements)
    }

    /// An output of a model for `rows` rows.
    pub(super) fn of_output(output: Output, rows: usize) -> Self {
        let shape = std::iter::once(rows).chain(output.width).collect();
        Self { name: output.name, shape, elements: output.elements }
    }

    /// What the protocol calls the type of its elements.
    pub(super) fn datatype(&self) -> &'static str {
        self.elements.datatype()
    }

    /// Its first dimension.
    pub(super) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or_default()
    }

    /// How many elements a row has.
    pub(super) fn width(&self) -> usize {
        // Where there are no rows, nothing has bounded the rest.
        self.shape.iter().skip(1).fold(1, |width: usize, dim| width.saturating_mul(*dim))
    }

    /// Its columns, one for each element of a row; `None` for texts.
    pub(super) fn columns(&self) -> Option<Vec<ArrayRef>> {
        let width = self.width();
        Some(match &self.elements {
            Elements::Float32(values) => columns_of::<Float32Type>(values, width),
            Elements::Float64(values) => columns_of::<Float64Type>(values, width),
            Elements::Int32(values) => columns_of::<Int32Type>(values, width),
            Elements::Int64(values) => columns_of::<Int64Type>(values, width),
            Elements::Bool(values) => {
                let column = |at| values.iter().skip(at).step_by(width).copied().collect::<Vec<bool>>();
                (0..width).map(|at| Arc::new(BooleanArray::from(column(at))) as ArrayRef).collect()
            }
            Elements::Bytes(_) => return None,
        })
    }
}

/// A type of elements that is not known.
pub(super) fn unknown_datatype(name: &str, datatype: &str) -> Refusal {
    let (name, datatype) = (shown(name), shown(datatype));
    Refusal::Wrong(format!(
        "tensor `{name}`: the datatype `{datatype}` is not known here; there are {DATATYPES}"
    ))
}

/// The beginning of a name that somebody else has given.
pub(super) fn shown(name: &str) -> String {
    const CHARACTERS_MAX: usize = 100;
    name.chars().filter(|character| !character.is_control()).take(CHARACTERS_MAX).collect()
}

fn columns_of<T: ArrowPrimitiveType>(values: &[T::Native], width: usize) -> Vec<ArrayRef> {
    let column = |at| PrimitiveArray::<T>::from_iter_values(values.iter().skip(at).step_by(width).copied());
    (0..width).map(|at| Arc::new(column(at)) as ArrayRef).collect()
}

/// The numbers in `raw`, each of `N` bytes; `None` if the last one is not whole.
fn numbers<T, const N: usize>(raw: &[u8], number: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
    if !raw.len().is_multiple_of(N) {
        return None;
    }
    raw.chunks_exact(N).map(|bytes| bytes.try_into().ok().map(&number)).collect()
}

/// The texts in `raw`, each behind its length; `None` if the last one is not whole.
fn texts(mut raw: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut texts = Vec::new();
    while !raw.is_empty() {
        let (length, rest) = raw.split_at_checked(LENGTH_BYTES)?;
        let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
        let (text, rest) = rest.split_at_checked(length)?;
        texts.push(text.to_vec());
        raw = rest;
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    #[test]
    fn every_type_survives_the_way_there_and_back() {
        for elements in [
            Elements::Float32(vec![0.5, f32::NAN.copysign(1.0), -1e-45]),
            Elements::Float64(vec![0.1, -0.0, f64::MAX]),
            Elements::Int32(vec![i32::MIN, 0, 7]),
            Elements::Int64(vec![i64::MIN, 0, 7]),
            Elements::Bool(vec![true, false, true]),
            Elements::Bytes(vec![b"N12".to_vec(), vec![], vec![0, 255]]),
        ] {
            let raw = elements.to_raw();
            let read = Tensor::from_raw("x", elements.datatype(), &[3], &raw).unwrap();
            assert_eq!(read.elements.to_raw(), raw, "{elements:?}");
            assert_eq!((read.datatype(), read.rows(), read.width()), (elements.datatype(), 3, 1));
        }
        assert_eq!(Elements::Float32(vec![1.0]).to_raw(), [0, 0, 128, 63]);
        assert_eq!(Elements::Bytes(vec![b"ab".to_vec()]).to_raw(), [2, 0, 0, 0, b'a', b'b']);
    }

    #[test]
    fn a_row_of_a_matrix_is_taken_apart_into_columns() {
        let matrix =
            Tensor::new("x", &[2, 3], Elements::Float32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).unwrap();
        let columns = matrix.columns().unwrap();
        let second: Vec<f32> = columns[1].as_primitive::<Float32Type>().values().to_vec();
        assert_eq!((columns.len(), second), (3, vec![2.0, 5.0]));
        let flags = Tensor::new("x", &[2], Elements::Bool(vec![true, false])).unwrap();
        assert_eq!(*flags.columns().unwrap()[0].as_boolean(), BooleanArray::from(vec![true, false]));
        assert_eq!(Tensor::new("x", &[0, 3], Elements::Int32(vec![])).unwrap().columns().unwrap().len(), 3);
        assert!(Tensor::new("x", &[1], Elements::Bytes(vec![vec![]])).unwrap().columns().is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused_and_nothing_is_made_of_a_claim() {
        let raw = |datatype: &str, shape: &[i64], raw: &[u8]| {
            Tensor::from_raw("x", datatype, shape, raw).unwrap_err().to_string()
        };
        assert!(raw("FP32", &[1], &[0; 3]).contains("not whole"));
        assert!(raw("FP32", &[2], &[0; 4]).contains("does not go with 1 elements"));
        assert!(raw("FP32", &[1 << 40, 1 << 40], &[0; 4]).contains("does not go with 1 elements"));
        assert!(raw("FP32", &[-1], &[0; 4]).contains("negative"));
        let nothing = Tensor::from_raw("x", "FP32", &[0, i64::MAX, 4], &[]).unwrap();
        assert_eq!((nothing.rows(), nothing.width()), (0, usize::MAX));
        assert!(raw("FP32", &[], &[0; 4]).contains("dimensions"));
        assert!(raw("FP32", &[1; 33], &[0; 4]).contains("dimensions"));
        assert!(raw("BOOL", &[1], &[2]).contains("neither 0 nor 1"));
        assert!(raw("BYTES", &[1], &[255, 255, 255, 255, 0]).contains("not whole"));
        assert!(raw("BYTES", &[1], &[0, 0]).contains("not whole"));
        assert!(raw("FP16", &[1], &[0; 2]).contains("`FP16` is not known"));
    }
}
