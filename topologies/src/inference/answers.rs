//! What a graph answers, as one value per row and, of classifiers, a label.
//!
//! | outputs | value | label |
//! |---|---|---|
//! | label int64 `[n]`, probabilities `[n, 2]` (scikit-learn, `zipmap` off) | the second column | the label |
//! | label int64 `[n]`, probabilities `[n, c]` | the largest column | the label |
//! | label int64 `[n]` | the label | the label |
//! | `[n, 1]` or `[n]` (Keras) | it | none |
//! | `[n, c]` (softmax) | of two the second column, else the largest | the index of the largest column |

use arrow::array::{Float64Array, Int64Array};
use ort::session::SessionOutputs;
use ort::value::DynValue;

use super::Predictions;
use super::matrix::{ElementType, Elements, tensors_text};
use super::outputs::Output;
use crate::models::{Signature, Tensor};

/// Which outputs are looked at.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    label: Option<String>,
    values: Option<(String, ElementType)>,
}

impl Answers {
    /// Those of a model with this signature.
    pub(super) fn new(signature: &Signature) -> Result<Self, String> {
        let (mut label, mut values) = (None, None);
        for Tensor { name, datatype, shape } in &signature.outputs {
            match (ElementType::of(datatype), shape.as_slice()) {
                (Some(ElementType::Int64), [None] | [None, Some(1)]) => _ = label.get_or_insert(name.clone()),
                (Some(element @ (ElementType::Float32 | ElementType::Float64)), [None] | [None, _]) => {
                    _ = values.get_or_insert((name.clone(), element));
                }
                _ if datatype == "BYTES" => {
                    return Err(format!(
                        "output `{name}` is text; train the classifier on whole numbers as classes"
                    ));
                }
                _ => {}
            }
        }
        if label.is_none() && values.is_none() {
            return Err(format!(
                "of the outputs [{}] none is a value per row: FP32 or FP64 [?, n], or labels INT64 [?]",
                tensors_text(&signature.outputs)
            ));
        }
        Ok(Self { label, values })
    }

    /// Adds what `outputs` say of `rows` rows to `so_far`.
    pub(super) fn add(
        &self,
        outputs: &SessionOutputs<'_>,
        rows: usize,
        so_far: &mut Answered,
    ) -> Result<(), String> {
        let get = |name: &str| outputs.get(name).ok_or_else(|| format!("there is no output `{name}`"));
        if let Some(name) = &self.label {
            let (shape, labels) = get(name)?
                .try_extract_tensor::<i64>()
                .map_err(|error| format!("output `{name}`: {error}"))?;
            if labels.len() != rows {
                return Err(format!("output `{name}` has the shape {shape} for {rows} rows"));
            }
            so_far.labels.extend_from_slice(labels);
        }
        match &self.values {
            None => so_far.add_labels(),
            Some((name, element)) => {
                let output = get(name)?;
                match element {
                    ElementType::Float64 => {
                        let (values, width) = table::<f64>(name, output, rows)?;
                        so_far.add(values, width, self.label.is_some(), |value| value);
                    }
                    _ => {
                        let (values, width) = table::<f32>(name, output, rows)?;
                        so_far.add(values, width, self.label.is_some(), f64::from);
                    }
                }
            }
        }
        Ok(())
    }

    /// The value of each row in outputs that were collected as they are.
    pub(super) fn values(&self, outputs: &[Output]) -> Result<Vec<f64>, String> {
        let get = |name: &str| {
            let output = outputs.iter().find(|output| output.name == name);
            output.ok_or_else(|| format!("there is no output `{name}`"))
        };
        let mut answered = Answered::default();
        let Some((name, _)) = &self.values else {
            let name = self.label.as_deref().unwrap_or_default();
            let Elements::Int64(labels) = &get(name)?.elements else {
                return Err(format!("output `{name}` has no labels"));
            };
            answered.labels.extend_from_slice(labels);
            answered.add_labels();
            return Ok(answered.values);
        };
        let output = get(name)?;
        let width: usize = output.width.iter().product();
        // Labels are not asked for here.
        match &output.elements {
            Elements::Float32(values) if width > 0 => answered.add(values, width, true, f64::from),
            Elements::Float64(values) if width > 0 => answered.add(values, width, true, |value| value),
            _ => return Err(format!("output `{name}` has no values")),
        }
        Ok(answered.values)
    }
}

/// The elements of an output and how many there are per row.
fn table<'o, T: ort::value::PrimitiveTensorElementType>(
    name: &str,
    output: &'o DynValue,
    rows: usize,
) -> Result<(&'o [T], usize), String> {
    let (shape, values) =
        output.try_extract_tensor::<T>().map_err(|error| format!("output `{name}`: {error}"))?;
    let width = values.len() / rows.max(1);
    let fits = width > 0 && width * rows == values.len() && shape.first() == Some(&(rows as i64));
    if fits {
        Ok((values, width))
    } else {
        Err(format!("output `{name}` has the shape {shape} for {rows} rows"))
    }
}

/// The answers of all runs so far.
#[derive(Debug, Default)]
pub(super) struct Answered {
    values: Vec<f64>,
    labels: Vec<i64>,
}

impl Answered {
    /// Takes the labels for values, from the first row that has none.
    fn add_labels(&mut self) {
        let known = self.values.len();
        self.values.extend(self.labels[known..].iter().map(|label| *label as f64));
    }

    /// Adds rows of `width` columns.
    fn add<T: Copy + PartialOrd>(
        &mut self,
        table: &[T],
        width: usize,
        has_labels: bool,
        widen: impl Fn(T) -> f64,
    ) {
        match width {
            1 => self.values.extend(table.iter().map(|value| widen(*value))),
            _ => {
                for row in table.chunks_exact(width) {
                    let largest =
                        (1..width).fold(0, |best, index| if row[index] > row[best] { index } else { best });
                    self.values.push(widen(row[if width == 2 { 1 } else { largest }]));
                    if !has_labels {
                        self.labels.push(largest as i64);
                    }
                }
            }
        }
    }

    pub(super) fn finish(self) -> Predictions {
        let labels = (!self.labels.is_empty()).then(|| Int64Array::from(self.labels));
        Predictions { values: Float64Array::from(self.values), labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, datatype: &str, shape: &[Option<u64>]) -> Tensor {
        Tensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec() }
    }

    fn answers(outputs: &[Tensor]) -> Result<Answers, String> {
        Answers::new(&Signature { inputs: vec![], outputs: outputs.to_vec() })
    }

    #[test]
    fn the_outputs_of_scikit_learn_and_of_keras_are_known() {
        let label = tensor("label", "INT64", &[None]);
        let probabilities = tensor("probabilities", "FP32", &[None, Some(2)]);
        let both = answers(&[label.clone(), probabilities]).unwrap();
        assert_eq!(both.label.as_deref(), Some("label"));
        assert_eq!(both.values, Some(("probabilities".into(), ElementType::Float32)));
        let network = answers(&[tensor("dense", "FP64", &[None, Some(1)])]).unwrap();
        assert_eq!(
            (network.label, network.values.map(|(_, element)| element)),
            (None, Some(ElementType::Float64))
        );
        assert!(answers(&[label]).is_ok());
        let wrong = [
            (tensor("label", "BYTES", &[None]), "classes"),
            (tensor("image", "FP32", &[None, Some(3), Some(4)]), "image FP32[?, 3, 4]"),
            (tensor("one", "FP32", &[Some(1), Some(1)]), "one FP32[1, 1]"),
        ];
        for (output, expected) in wrong {
            let problem = answers(&[output]).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn outputs_as_they_are_have_the_same_values() {
        let output = |name: &str, width: &[usize], elements| Output {
            name: name.into(),
            width: width.to_vec(),
            elements,
        };
        let label = || output("label", &[], Elements::Int64(vec![1, 0]));
        let signature = [tensor("label", "INT64", &[None]), tensor("p", "FP32", &[None, Some(2)])];
        let probabilities = output("p", &[2], Elements::Float32(vec![0.25, 0.75, 0.5, 0.5]));
        let both = answers(&signature).unwrap();
        assert_eq!(both.values(&[label(), probabilities]), Ok(vec![0.75, 0.5]));
        assert_eq!(answers(&signature[..1]).unwrap().values(&[label()]), Ok(vec![1.0, 0.0]));
        let vector = answers(&[tensor("y", "FP64", &[None])]).unwrap();
        assert_eq!(vector.values(&[output("y", &[], Elements::Float64(vec![0.5]))]), Ok(vec![0.5]));
        assert!(both.values(&[label()]).unwrap_err().contains("no output `p`"));
        let texts = output("p", &[], Elements::Bytes(vec![vec![]]));
        assert!(both.values(&[label(), texts]).unwrap_err().contains("no values"));
    }

    #[test]
    fn the_value_is_the_second_of_two_classes_and_the_largest_of_more() {
        let add = |table: &[f32], width, has_labels| {
            let mut answered = Answered::default();
            answered.add(table, width, has_labels, f64::from);
            (answered.values, answered.labels)
        };
        assert_eq!(add(&[0.75, 0.25, 0.5, 0.5], 2, false), (vec![0.25, 0.5], vec![0, 0]));
        assert_eq!(add(&[0.25, 0.25, 0.5, 0.125, 0.75, 0.125], 3, false), (vec![0.5, 0.75], vec![2, 1]));
        assert_eq!(add(&[0.25, 0.75], 2, true), (vec![0.75], vec![]));
        assert_eq!(add(&[0.25, 0.75], 1, false), (vec![0.25, 0.75], vec![]));
    }
}
