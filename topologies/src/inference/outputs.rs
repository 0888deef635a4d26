//! The outputs of a graph as they are, for those who want its tensors rather than one value per row.

use std::ops::Range;

use ort::session::SessionOutputs;
use ort::value::{DynValue, PrimitiveTensorElementType};

use super::matrix::{Elements, shape_text};
use crate::models::{Signature, Tensor};

/// An output of a graph for some rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Output {
    pub(crate) name: String,
    /// Its dimensions behind that of the rows.
    pub(crate) width: Vec<usize>,
    pub(crate) elements: Elements,
}

impl Output {
    /// Some of its rows.
    pub(crate) fn slice(&self, rows: Range<usize>) -> Self {
        let width: usize = self.width.iter().product();
        let range = rows.start * width..rows.end * width;
        let elements = match &self.elements {
            Elements::Float32(values) => Elements::Float32(values[range].to_vec()),
            Elements::Float64(values) => Elements::Float64(values[range].to_vec()),
            Elements::Int32(values) => Elements::Int32(values[range].to_vec()),
            Elements::Int64(values) => Elements::Int64(values[range].to_vec()),
            Elements::Bool(values) => Elements::Bool(values[range].to_vec()),
            Elements::Bytes(values) => Elements::Bytes(values[range].to_vec()),
        };
        Self { name: self.name.clone(), width: self.width.clone(), elements }
    }

    /// Adds the rows of `more`, which is the same output for the rows that follow.
    fn extend(&mut self, more: Self) -> Result<(), String> {
        if self.width != more.width {
            return Err(format!("output `{}` has rows of different shapes", self.name));
        }
        match (&mut self.elements, more.elements) {
            (Elements::Float32(all), Elements::Float32(more)) => all.extend(more),
            (Elements::Float64(all), Elements::Float64(more)) => all.extend(more),
            (Elements::Int32(all), Elements::Int32(more)) => all.extend(more),
            (Elements::Int64(all), Elements::Int64(more)) => all.extend(more),
            (Elements::Bool(all), Elements::Bool(more)) => all.extend(more),
            (Elements::Bytes(all), Elements::Bytes(more)) => all.extend(more),
            _ => return Err(format!("output `{}` changes its type", self.name)),
        }
        Ok(())
    }
}

/// Whether outputs of this type can be given to somebody.
pub(crate) fn is_given(datatype: &str) -> bool {
    matches!(datatype, "FP32" | "FP64" | "INT32" | "INT64" | "BOOL" | "BYTES")
}

/// The outputs of all runs so far, in the order of the signature, but for those of types that cannot be given.
#[derive(Debug, Default)]
pub(super) struct Collected(Vec<Output>);

impl Collected {
    /// Adds what `outputs` say of `rows` rows.
    pub(super) fn add(
        &mut self,
        signature: &Signature,
        outputs: &SessionOutputs<'_>,
        rows: usize,
    ) -> Result<(), String> {
        let given = signature.outputs.iter().filter(|tensor| is_given(&tensor.datatype));
        for (place, tensor) in given.enumerate() {
            let value =
                outputs.get(&tensor.name).ok_or_else(|| format!("there is no output `{}`", tensor.name))?;
            let output = output_of(tensor, value, rows)?;
            match self.0.get_mut(place) {
                Some(so_far) => so_far.extend(output)?,
                None => self.0.push(output),
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<Output> {
        self.0
    }
}

fn output_of(tensor: &Tensor, value: &DynValue, rows: usize) -> Result<Output, String> {
    let name = &tensor.name;
    let wrong = |error: ort::Error| format!("output `{name}`: {error}");
    let (shape, elements) = match tensor.datatype.as_str() {
        "FP32" => extracted(value, Elements::Float32).map_err(wrong)?,
        "FP64" => extracted(value, Elements::Float64).map_err(wrong)?,
        "INT32" => extracted(value, Elements::Int32).map_err(wrong)?,
        "INT64" => extracted(value, Elements::Int64).map_err(wrong)?,
        "BOOL" => extracted(value, Elements::Bool).map_err(wrong)?,
        _ => {
            let (shape, texts) = value.try_extract_strings().map_err(wrong)?;
            (shape.to_vec(), Elements::Bytes(texts.into_iter().map(String::into_bytes).collect()))
        }
    };
    let dims: Option<Vec<usize>> = shape.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    match dims.as_deref() {
        Some([first, width @ ..]) if *first == rows => {
            Ok(Output { name: name.clone(), width: width.to_vec(), elements })
        }
        _ => {
            let shape: Vec<Option<u64>> = shape.iter().map(|dim| u64::try_from(*dim).ok()).collect();
            Err(format!("output `{name}` has the shape {} for {rows} rows", shape_text(&shape)))
        }
    }
}

fn extracted<T: PrimitiveTensorElementType + Clone>(
    value: &DynValue,
    elements: impl FnOnce(Vec<T>) -> Elements,
) -> ort::Result<(Vec<i64>, Elements)> {
    let (shape, values) = value.try_extract_tensor::<T>()?;
    Ok((shape.to_vec(), elements(values.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(width: &[usize], values: &[f32]) -> Output {
        Output { name: "p".into(), width: width.to_vec(), elements: Elements::Float32(values.to_vec()) }
    }

    #[test]
    fn rows_are_added_and_taken_out_again() {
        let mut all = output(&[2], &[1.0, 2.0]);
        all.extend(output(&[2], &[3.0, 4.0, 5.0, 6.0])).unwrap();
        assert_eq!(all.slice(1..3), output(&[2], &[3.0, 4.0, 5.0, 6.0]));
        assert_eq!(all.slice(0..1), output(&[2], &[1.0, 2.0]));
        assert!(all.extend(output(&[3], &[0.0; 3])).unwrap_err().contains("shapes"));
        let labels = Output { elements: Elements::Int64(vec![1, 2]), ..output(&[2], &[]) };
        assert!(all.extend(labels).unwrap_err().contains("type"));
        let vector = output(&[], &[1.0, 2.0, 3.0]);
        assert_eq!(vector.slice(1..2), output(&[], &[2.0]));
    }
}
