//! Features as ONNX Runtime takes them: one matrix `[rows, features]`, or a tensor per feature.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Float32Array, Float64Array, PrimitiveArray, RecordBatch,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type};
use isobar_transforms::floats::{self, is_overflow};
use ort::session::SessionInputValue;
use ort::value::{PrimitiveTensorElementType, TensorRef};

use super::{Error, Nulls};
use crate::models::{Signature, Tensor};

/// Types of elements that can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    Float32,
    Float64,
    Int32,
    Int64,
    Bool,
}

impl ElementType {
    pub(super) fn of(datatype: &str) -> Option<Self> {
        Some(match datatype {
            "FP32" => Self::Float32,
            "FP64" => Self::Float64,
            "INT32" => Self::Int32,
            "INT64" => Self::Int64,
            "BOOL" => Self::Bool,
            _ => return None,
        })
    }

    /// The Arrow type that a column of `given` is read as, if it can be.
    fn reads(self, given: &DataType) -> Option<DataType> {
        let is_number = given.is_numeric() && !matches!(given, DataType::Decimal256(..));
        Some(match self {
            Self::Float32 if is_number || *given == DataType::Boolean => DataType::Float32,
            Self::Float64 if is_number || *given == DataType::Boolean => DataType::Float64,
            Self::Int32 if given.is_integer() || *given == DataType::Boolean => DataType::Int32,
            Self::Int64 if given.is_integer() || *given == DataType::Boolean => DataType::Int64,
            Self::Bool if *given == DataType::Boolean => DataType::Boolean,
            _ => return None,
        })
    }
}

/// An input of the graph and the features that go into it.
#[derive(Debug, Clone)]
struct Input {
    name: String,
    element: ElementType,
    /// Indexes of the features.
    features: Range<usize>,
    /// Whether it is `[rows]` rather than `[rows, features]`.
    is_vector: bool,
}

/// How features become the inputs of a graph.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    inputs: Vec<Input>,
    features: usize,
    nulls: Nulls,
    nan_allowed: bool,
}

/// Elements of a tensor, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Elements {
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Bool(Vec<bool>),
    /// Texts and other bytes. Features are none.
    Bytes(Vec<Vec<u8>>),
}

impl Layout {
    /// The layout of a model with this signature.
    pub(super) fn new(signature: &Signature, nulls: Nulls, nan_allowed: bool) -> Result<Self, String> {
        let mut inputs = Vec::new();
        let mut features = 0;
        for tensor in &signature.inputs {
            let input = input_of(tensor, features)?;
            features = input.features.end;
            inputs.push(input);
        }
        match features {
            0 => Err("the model has no inputs".into()),
            _ => Ok(Self { inputs, features, nulls, nan_allowed }),
        }
    }

    /// How many features there are.
    pub(super) fn features(&self) -> usize {
        self.features
    }

    /// Reads the columns of `batch` as features of the right types: once for all rows.
    pub(super) fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, Error> {
        if batch.num_columns() != self.features {
            let given = batch.num_columns();
            return Err(Error::Features(format!(
                "the model has {} features, {given} were given",
                self.features
            )));
        }
        let mut columns = Vec::with_capacity(self.features);
        for input in &self.inputs {
            for feature in input.features.clone() {
                let column = batch.column(feature);
                let given = column.data_type();
                let schema = batch.schema_ref();
                let name = schema.field(feature).name();
                let Some(read) = input.element.reads(given) else {
                    let wanted = &input.element;
                    return Err(Error::Features(format!(
                        "feature `{name}` is {given}, the model takes {wanted:?}: cast it"
                    )));
                };
                columns.push(match (given, &read) {
                    (DataType::Float64, DataType::Float32) => {
                        Arc::new(narrowed(column.as_primitive(), name)?)
                    }
                    _ => {
                        // A number that does not fit is an error, never a null.
                        let options = CastOptions { safe: false, ..CastOptions::default() };
                        cast_with_options(column, &read, &options)
                            .map_err(|error| Error::Features(format!("feature `{name}`: {error}")))?
                    }
                });
            }
        }
        Ok(columns)
    }

    /// The elements of every input, for `rows` of `columns`.
    pub(super) fn elements(
        &self,
        columns: &[ArrayRef],
        names: &RecordBatch,
        rows: Range<usize>,
    ) -> Result<Vec<Elements>, Error> {
        let each = self.inputs.iter().map(|input| {
            let filling = Filling { layout: self, input, columns, names, rows: rows.clone() };
            Ok(match input.element {
                ElementType::Float32 => Elements::Float32(
                    filling.numbers::<Float32Type>(|value| Some(value as f32), f32::is_nan)?,
                ),
                ElementType::Float64 => Elements::Float64(filling.numbers::<Float64Type>(Some, f64::is_nan)?),
                ElementType::Int32 => {
                    // Every number of this type is a double.
                    let whole = |value: f64| (f64::from(value as i32) == value).then_some(value as i32);
                    Elements::Int32(filling.numbers::<Int32Type>(whole, |_| false)?)
                }
                ElementType::Int64 => {
                    let whole = |value: f64| (value.fract() == 0.0).then_some(value as i64);
                    Elements::Int64(filling.numbers::<Int64Type>(whole, |_| false)?)
                }
                ElementType::Bool => Elements::Bool(filling.booleans()?),
            })
        });
        each.collect()
    }

    /// `elements` as tensors of the graph, which borrow them.
    pub(super) fn tensors<'e>(
        &self,
        elements: &'e [Elements],
        rows: usize,
    ) -> ort::Result<Vec<(Cow<'_, str>, SessionInputValue<'e>)>> {
        let each = self.inputs.iter().zip(elements).map(|(input, elements)| {
            let shape = match input.is_vector {
                true => vec![rows],
                false => vec![rows, input.features.len()],
            };
            let tensor = match elements {
                Elements::Float32(values) => tensor(shape, values),
                Elements::Float64(values) => tensor(shape, values),
                Elements::Int32(values) => tensor(shape, values),
                Elements::Int64(values) => tensor(shape, values),
                Elements::Bool(values) => tensor(shape, values),
                Elements::Bytes(_) => Err(ort::Error::new("features are no texts")),
            };
            Ok((Cow::Borrowed(input.name.as_str()), tensor?))
        });
        each.collect()
    }
}

fn tensor<T>(shape: Vec<usize>, values: &[T]) -> ort::Result<SessionInputValue<'_>>
where
    T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static,
{
    Ok(TensorRef::from_array_view((shape, values))?.into())
}

/// An input, whose features begin at `first`.
fn input_of(tensor: &Tensor, first: usize) -> Result<Input, String> {
    let Tensor { name, datatype, shape } = tensor;
    let Some(element) = ElementType::of(datatype) else {
        return Err(format!(
            "input `{name}` has elements of type {datatype}; FP32, FP64, INT32, INT64 and BOOL are possible"
        ));
    };
    let (count, is_vector) = match shape.as_slice() {
        [None] => (1, true),
        [None, Some(count)] if *count > 0 => (usize::try_from(*count).unwrap_or(usize::MAX), false),
        _ => {
            return Err(format!(
                "input `{name}` has the shape {}: rows must be free, and the number of features fixed",
                shape_text(shape)
            ));
        }
    };
    let end = first.checked_add(count).filter(|end| *end <= FEATURES_MAX);
    let Some(end) = end else { return Err(format!("more than {FEATURES_MAX} features")) };
    Ok(Input { name: name.clone(), element, features: first..end, is_vector })
}

/// More than any table has columns.
const FEATURES_MAX: usize = 10_000;

/// Inputs or outputs as people write them.
pub(super) fn tensors_text(tensors: &[Tensor]) -> String {
    let each = tensors.iter();
    let each = each.map(|Tensor { name, datatype, shape }| format!("{name} {datatype}{}", shape_text(shape)));
    each.collect::<Vec<_>>().join(", ")
}

/// A shape as people write it.
pub(crate) fn shape_text(shape: &[Option<u64>]) -> String {
    let dims: Vec<String> =
        shape.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

/// Doubles as FP32. A number that is finite as float64 and not as float32 would be scored as another number.
fn narrowed(wide: &Float64Array, name: &str) -> Result<Float32Array, Error> {
    let (narrow, overflows) = floats::narrowed(wide.values());
    if overflows {
        let pairs = wide.values().iter().zip(&narrow);
        let mut pairs = pairs.enumerate().filter(|(row, _)| wide.is_valid(*row));
        if let Some((row, (value, _))) = pairs.find(|(_, (wide, narrow))| is_overflow(**wide, **narrow)) {
            let message = format!("feature `{name}` is {value:e}, which the model's FP32 cannot hold");
            return Err(Error::Row { row, message });
        }
    }
    Ok(Float32Array::new(narrow.into(), wide.nulls().cloned()))
}

/// Whether one of `finds` holds. Looks at all of them: without a branch for each, many are looked at together.
fn is_any(finds: impl Iterator<Item = bool>) -> bool {
    finds.fold(false, |found, this| found | this)
}

/// One input being filled.
struct Filling<'a> {
    layout: &'a Layout,
    input: &'a Input,
    columns: &'a [ArrayRef],
    names: &'a RecordBatch,
    rows: Range<usize>,
}

impl Filling<'_> {
    /// `fill` makes a number of what stands for NULL, unless the type has no such number.
    fn numbers<T: ArrowPrimitiveType>(
        &self,
        fill: impl Fn(f64) -> Option<T::Native>,
        is_nan: impl Fn(T::Native) -> bool,
    ) -> Result<Vec<T::Native>, Error> {
        let (width, count) = (self.input.features.len(), self.rows.len());
        let columns =
            self.columns[self.input.features.clone()].iter().map(|column| column.as_primitive::<T>());
        let columns: Vec<&PrimitiveArray<T>> = columns.collect();
        let each_values: Vec<&[T::Native]> =
            columns.iter().map(|column| &column.values()[self.rows.clone()]).collect();
        // Row by row, so that the matrix is written once, from front to back.
        let mut matrix = Vec::with_capacity(width * count);
        for row in 0..count {
            matrix.extend(each_values.iter().map(|values| values[row]));
        }
        for (place, (column, values)) in columns.iter().zip(&each_values).enumerate() {
            let feature = self.input.features.start + place;
            if !self.layout.nan_allowed && is_any(values.iter().map(|value| is_nan(*value))) {
                let is_valid = |row: usize| column.is_valid(self.rows.start + row);
                let found = values.iter().enumerate().find(|(row, value)| is_nan(**value) && is_valid(*row));
                if let Some((row, _)) = found {
                    return Err(self.wrong(row, feature, "NaN"));
                }
            }
            self.fill_nulls(*column, feature, |row| {
                let filled = match self.layout.nulls {
                    Nulls::Refuse => None,
                    Nulls::Fill(value) => fill(value),
                    Nulls::Nan => fill(f64::NAN),
                };
                filled.is_some_and(|value| {
                    matrix[row * width + place] = value;
                    true
                })
            })?;
        }
        Ok(matrix)
    }

    fn booleans(&self) -> Result<Vec<bool>, Error> {
        let width = self.input.features.len();
        let mut matrix = vec![false; width * self.rows.len()];
        for (place, feature) in self.input.features.clone().enumerate() {
            let column = self.columns[feature].as_boolean();
            for (row, cell) in matrix[place..].iter_mut().step_by(width).enumerate() {
                *cell = column.value(self.rows.start + row);
            }
            self.fill_nulls(column, feature, |row| {
                let Nulls::Fill(value) = self.layout.nulls else { return false };
                matrix[row * width + place] = value != 0.0;
                true
            })?;
        }
        Ok(matrix)
    }

    /// Calls `fill` for every row that is null; where it cannot, the row cannot be scored.
    fn fill_nulls(
        &self,
        column: &dyn Array,
        feature: usize,
        mut fill: impl FnMut(usize) -> bool,
    ) -> Result<(), Error> {
        if column.null_count() == 0 {
            return Ok(());
        }
        for row in 0..self.rows.len() {
            if column.is_null(self.rows.start + row) && !fill(row) {
                return Err(self.wrong(row, feature, "NULL"));
            }
        }
        Ok(())
    }

    fn wrong(&self, row: usize, feature: usize, what: &str) -> Error {
        let name = self.names.schema_ref().field(feature).name().clone();
        Error::Row { row: self.rows.start + row, message: format!("feature `{name}` is {what}") }
    }
}

#[cfg(test)]
mod tests;
