//! What a request gives, as the features of a model; what it does not give is looked up by the key of its entity.
//!
//! | an input is called | it is |
//! |---|---|
//! | like an input of the graph | that input, with its type and shape |
//! | like a feature of the manifest | that feature, one value per row |
//! | like a column of a key | part of the key of each row's entity |
//!
//! A feature that the manifest has from a dataset with an online view may be left out: it is looked up there, at one version for all
//! rows of the request, which the answer states. What is given is never replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{Field, Schema};

use super::request::InferRequest;
use super::tensor::{Tensor, shown};
use super::vectors::Keys;
use crate::inference::{Elements, shape_text};
use crate::models::Manifest;
use crate::online::{Found, KEYS_MAX, LookupError, Options, View, key_column};
use crate::serve::Refusal;
use crate::spec::serve::MissingEntities;

/// The features of a request, as far as it gives them.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// How many rows there are.
    rows: usize,
    names: Vec<String>,
    columns: Vec<Option<ArrayRef>>,
    keys: Keys,
}

/// A feature that is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its place among the features.
    place: usize,
    /// The column of its dataset.
    column: String,
}

/// The version of a dataset that features are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LookedUp {
    pub(super) dataset: String,
    pub(super) version: u64,
    pub(super) sha256: String,
    pub(super) committed_ms: i64,
    /// How old the version is.
    pub(super) age_ms: u64,
    /// Keys without a row.
    pub(super) missing: usize,
}

/// How many features an input of the graph has.
fn width_of(shape: &[Option<u64>]) -> usize {
    match shape {
        [_, Some(width)] => usize::try_from(*width).unwrap_or(usize::MAX),
        _ => 1,
    }
}

/// The names of all features: those of the manifest, or those of the inputs.
fn names_of(manifest: &Manifest) -> Vec<String> {
    if !manifest.features.is_empty() {
        return manifest.features.iter().map(|feature| feature.name.clone()).collect();
    }
    let inputs = manifest.signature.inputs.iter();
    let names = inputs.flat_map(|input| match width_of(&input.shape) {
        1 => vec![input.name.clone()],
        width => (0..width).map(|at| format!("{}[{at}]", input.name)).collect(),
    });
    names.collect()
}

impl Given {
    /// What `asked` gives of the features of `manifest`, whose model is loaded, and of the columns of `keys`.
    ///
    /// # Errors
    /// [`Refusal::Wrong`] for inputs of other names, types and shapes than the model takes.
    pub(super) fn of(
        manifest: &Manifest,
        keys: &BTreeSet<String>,
        asked: &InferRequest,
    ) -> Result<Self, Refusal> {
        let names = names_of(manifest);
        let mut given = Self { rows: 0, columns: vec![None; names.len()], names, keys: Keys::new() };
        let rows = asked.rows();
        if let Some(entities) = &asked.entity_keys {
            if let Some(name) = entities.columns.keys().find(|name| !keys.contains(*name)) {
                return Err(given.no_key(manifest, name));
            }
            given.keys = entities.columns.clone();
        }
        for input in &asked.inputs {
            if input.rows() != rows {
                return Err(Refusal::Wrong(format!(
                    "input `{}` has {} rows where there are {rows} before it",
                    shown(&input.name),
                    input.rows()
                )));
            }
            given.add(manifest, keys, input)?;
        }
        given.rows = rows;
        match rows {
            0 => Err(Refusal::Wrong(format!("there are no rows: {}", takes(manifest)))),
            _ => Ok(given),
        }
    }

    fn add(&mut self, manifest: &Manifest, keys: &BTreeSet<String>, input: &Tensor) -> Result<(), Refusal> {
        let name = shown(&input.name);
        let (mut first, mut of_graph) = (0, None);
        for expected in &manifest.signature.inputs {
            let width = width_of(&expected.shape);
            if expected.name == input.name {
                let is_shape = input.shape.len() == expected.shape.len() && input.width() == width;
                if input.datatype() != expected.datatype || !is_shape {
                    return Err(Refusal::Wrong(format!(
                        "input `{name}` is {}{:?}, the model takes {}{}",
                        input.datatype(),
                        input.shape,
                        expected.datatype,
                        shape_text(&expected.shape)
                    )));
                }
                of_graph = Some(first);
            }
            first += width;
        }
        let is_column = matches!(input.shape.as_slice(), [_] | [_, 1]);
        let by_name = || self.names.iter().position(|feature| *feature == input.name).filter(|_| is_column);
        let feature = of_graph.or_else(by_name);
        if let Some(feature) = feature {
            self.put(feature, input)?;
        }
        // A feature may be a column of a key as well.
        let is_key = is_column && keys.contains(&input.name);
        let texts = if is_key { key_texts(input)? } else { None };
        if texts.is_none() && feature.is_none() {
            return Err(no_input(manifest, &name));
        }
        let before = texts.and_then(|texts| self.keys.insert(input.name.clone(), texts));
        match before {
            Some(_) => Err(Refusal::Wrong(format!("`{name}` is there twice"))),
            None => Ok(()),
        }
    }

    /// Why `name` stands for nothing among the keys of a request.
    fn no_key(&self, manifest: &Manifest, name: &str) -> Refusal {
        match self.names.iter().any(|feature| feature == name) {
            true => {
                Refusal::Wrong(format!("`{name}` is no column of a key, but a feature: send it as an input"))
            }
            false => no_input(manifest, &shown(name)),
        }
    }

    /// The columns of keys as texts, which are not needed any more.
    pub(super) fn take_keys(&mut self) -> Keys {
        std::mem::take(&mut self.keys)
    }

    /// Puts the columns of `input` where the features begin that it is.
    fn put(&mut self, first: usize, input: &Tensor) -> Result<(), Refusal> {
        let columns = input.columns().ok_or_else(|| {
            Refusal::Wrong(format!("feature `{}` is BYTES, and features are numbers", shown(&input.name)))
        })?;
        for (column, place) in columns.into_iter().zip(&mut self.columns[first..]) {
            if place.replace(column).is_some() {
                return Err(Refusal::Wrong(format!("`{}` is there twice", shown(&input.name))));
            }
        }
        Ok(())
    }

    /// The features that are missing, by the dataset that has them.
    ///
    /// # Errors
    /// [`Refusal::Wrong`] if one is of no dataset.
    pub(super) fn missing(&self, manifest: &Manifest) -> Result<BTreeMap<String, Vec<Wanted>>, Refusal> {
        let mut missing: BTreeMap<String, Vec<Wanted>> = BTreeMap::new();
        for (place, name) in self.names.iter().enumerate() {
            if self.columns[place].is_some() {
                continue;
            }
            let feature = manifest.features.get(place);
            let found = feature.and_then(|feature| Some((feature.dataset.clone()?, feature.column())));
            let (dataset, column) = found
                .ok_or_else(|| Refusal::Wrong(format!("feature `{name}` is missing: {}", takes(manifest))))?;
            missing.entry(dataset).or_default().push(Wanted { place, column: column.to_owned() });
        }
        Ok(missing)
    }

    /// The names of `features`, for people.
    pub(super) fn names(&self, features: &[Wanted]) -> String {
        let names = features.iter().map(|wanted| self.names[wanted.place].as_str());
        names.collect::<Vec<&str>>().join("`, `")
    }

    /// Looks up `features` in `view`. Reads from a disk.
    ///
    /// # Errors
    /// [`Refusal`]: keys that are missing or none of this view, keys without a row unless that is allowed, and a view that cannot
    /// be read.
    pub(super) fn look_up(
        &mut self,
        view: &View,
        features: &[Wanted],
        missing: MissingEntities,
        now_ms: i64,
    ) -> Result<LookedUp, Refusal> {
        let dataset = view.spec().dataset.clone();
        if self.rows > KEYS_MAX {
            return Err(Refusal::TooMuch {
                limit: "keys",
                message: format!("{} rows; one request looks up {KEYS_MAX}", self.rows),
            });
        }
        let reader = view.reader().map_err(refused)?;
        let mut keys = Vec::new();
        for field in reader.layout().keys() {
            let texts = self.keys.get(field.name()).ok_or_else(|| {
                Refusal::Wrong(format!(
                    "feature `{}` of {dataset} is missing: send it, or the key of its rows: {}",
                    self.names(features),
                    view.spec().keys.join(", ")
                ))
            })?;
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            keys.push(key_column(field, &texts).map_err(refused)?);
        }
        // A column may be more than one feature.
        let mut columns: Vec<String> = features.iter().map(|wanted| wanted.column.clone()).collect();
        columns.sort();
        columns.dedup();
        let options = Options { features: Some(columns.clone()), ..Options::default() };
        let answer = view.answer(&reader, &keys, &options, now_ms).map_err(refused)?;
        let mut without = 0;
        let mut places = Vec::with_capacity(self.rows);
        for (row, found) in answer.found.iter().enumerate() {
            let what = match found {
                Found::Row(place) => {
                    places.push(Some(*place as u64));
                    continue;
                }
                Found::Expired => "no row that is young enough",
                Found::Nothing => "no row",
            };
            if missing == MissingEntities::Error {
                let key = self.key_text(&view.spec().keys, row);
                return Err(Refusal::NotFound(format!("{dataset} has {what} for {key} (row {row})")));
            }
            without += 1;
            places.push(None);
        }
        let places = UInt64Array::from(places);
        for Wanted { place, column } in features {
            let Ok(at) = columns.binary_search(column) else { continue };
            let taken = take(answer.rows.column(at), &places, None);
            let taken = taken.map_err(|error| refused(LookupError::Internal(error.to_string())))?;
            self.columns[*place] = Some(taken);
        }
        Ok(LookedUp {
            dataset,
            version: answer.applied.version,
            sha256: answer.applied.sha256,
            committed_ms: answer.applied.committed_ms,
            age_ms: answer.age_ms,
            missing: without,
        })
    }

    /// The key of a row, for people.
    fn key_text(&self, columns: &[String], row: usize) -> String {
        let value = |column: &String| {
            let text = self.keys.get(column).and_then(|texts| texts.get(row));
            format!("{column}={}", shown(text.map(String::as_str).unwrap_or_default()))
        };
        columns.iter().map(value).collect::<Vec<String>>().join(", ")
    }

    /// The features as a batch, after all of them are there.
    ///
    /// # Errors
    /// [`Refusal::Internal`] if one is missing.
    pub(super) fn into_batch(self) -> Result<RecordBatch, Refusal> {
        let columns: Option<Vec<ArrayRef>> = self.columns.into_iter().collect();
        let columns = columns.ok_or_else(|| Refusal::Internal("a feature is missing".to_owned()))?;
        let fields = self.names.iter().zip(&columns);
        let fields: Vec<Field> =
            fields.map(|(name, column)| Field::new(name, column.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| Refusal::Internal(format!("the features are no batch: {error}")))
    }
}

/// What a model takes, for people.
fn takes(manifest: &Manifest) -> String {
    const NAMES_MAX: usize = 20;
    let inputs = manifest.signature.inputs.iter();
    let inputs: Vec<String> = inputs
        .map(|input| format!("`{}` {}{}", input.name, input.datatype, shape_text(&input.shape)))
        .collect();
    let mut names: Vec<&str> = manifest.features.iter().map(|feature| feature.name.as_str()).collect();
    let more = names.len() > NAMES_MAX;
    names.truncate(NAMES_MAX);
    let features = match names.is_empty() {
        true => String::new(),
        false => format!(", or its features {}{}", names.join(", "), if more { ", …" } else { "" }),
    };
    format!("the model takes {}{features}", inputs.join(", "))
}

fn no_input(manifest: &Manifest, name: &str) -> Refusal {
    Refusal::Wrong(format!("`{name}` is no input of the model: {}", takes(manifest)))
}

/// The elements of an input as the texts that keys are read from; `None` for fractions, which are no keys.
fn key_texts(input: &Tensor) -> Result<Option<Vec<String>>, Refusal> {
    Ok(Some(match &input.elements {
        Elements::Float32(_) | Elements::Float64(_) => return Ok(None),
        Elements::Int32(values) => values.iter().map(ToString::to_string).collect(),
        Elements::Int64(values) => values.iter().map(ToString::to_string).collect(),
        Elements::Bool(values) => values.iter().map(ToString::to_string).collect(),
        Elements::Bytes(values) => {
            let texts = values.iter().map(|value| String::from_utf8(value.clone()));
            let texts: Result<Vec<String>, _> = texts.collect();
            texts.map_err(|_| Refusal::Wrong(format!("key `{}`: a text is not UTF-8", shown(&input.name))))?
        }
    }))
}

/// Why nothing was looked up.
fn refused(error: LookupError) -> Refusal {
    crate::serve::Problem::from(error).refusal
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float32Type, Float64Type};
    use serde_json::{Value as Json, json};

    use super::*;

    /// A model with an input of two features, one of a dataset, and one of its own.
    fn manifest() -> Manifest {
        serde_json::from_value(json!({
            "model": "late",
            "version": 3,
            "onnx": { "file": "model.onnx", "bytes": 1, "sha256": "ab".repeat(32) },
            "signature": {
                "inputs": [
                    { "name": "X", "datatype": "FP32", "shape": [null, 2] },
                    { "name": "hour", "datatype": "INT64", "shape": [null] },
                ],
                "outputs": [],
            },
            "features": [
                { "name": "wind", "type": "float64", "dataset": "weather" },
                { "name": "visible", "type": "float64", "dataset": "weather", "column": "visibility" },
                { "name": "hour", "type": "int64" },
            ],
            "data": [],
        }))
        .unwrap()
    }

    fn request(inputs: Vec<Tensor>, entity_keys: Option<Json>) -> InferRequest {
        let entity_keys = entity_keys.map(|keys| serde_json::from_value(keys).unwrap());
        InferRequest { model: "late".into(), inputs, entity_keys, ..InferRequest::default() }
    }

    fn tensor(name: &str, shape: &[i64], elements: Elements) -> Tensor {
        Tensor::new(name, shape, elements).unwrap()
    }

    /// What `asked` gives, where these are columns of keys.
    fn of(asked: &InferRequest, keys: &[&str]) -> Result<Given, Refusal> {
        let keys = keys.iter().map(|name| (*name).to_owned()).collect();
        Given::of(&manifest(), &keys, asked)
    }

    fn refusal(inputs: Vec<Tensor>, entity_keys: Option<Json>) -> String {
        let given = of(&request(inputs, entity_keys), &["origin", "hour", "a"]);
        given.and_then(|given| given.missing(&manifest())).unwrap_err().to_string()
    }

    #[test]
    fn inputs_of_the_graph_and_features_by_name_become_one_batch() {
        let whole = vec![
            tensor("hour", &[2], Elements::Int64(vec![7, 8])),
            tensor("X", &[2, 2], Elements::Float32(vec![1.0, 2.0, 3.0, 4.0])),
        ];
        let given = of(&request(whole, None), &[]).unwrap();
        assert!(given.missing(&manifest()).unwrap().is_empty());
        let batch = given.into_batch().unwrap();
        assert_eq!((batch.num_rows(), batch.schema().field(1).name().as_str()), (2, "visible"));
        assert_eq!(batch.column(1).as_primitive::<Float32Type>().values(), &[2.0, 4.0]);

        let by_name = vec![
            tensor("wind", &[1], Elements::Float64(vec![0.5])),
            tensor("hour", &[1], Elements::Int64(vec![7])),
            tensor("visible", &[1, 1], Elements::Float64(vec![9.0])),
        ];
        let batch = of(&request(by_name, None), &[]).unwrap().into_batch().unwrap();
        assert_eq!(batch.column(0).as_primitive::<Float64Type>().values(), &[0.5]);
        assert_eq!(batch.column(1).as_primitive::<Float64Type>().values(), &[9.0]);
    }

    #[test]
    fn what_a_dataset_has_may_be_left_out_and_keys_come_as_inputs_or_in_the_parameter() {
        let hour = || tensor("hour", &[2], Elements::Int64(vec![7, 8]));
        let wanted = |place, column: &str| Wanted { place, column: column.to_owned() };
        let expected =
            BTreeMap::from([("weather".to_owned(), vec![wanted(0, "wind"), wanted(1, "visibility")])]);
        let origin = tensor("origin", &[2], Elements::Bytes(vec![b"JFK".to_vec(), b"LGA".to_vec()]));
        let asked = request(vec![hour(), origin], None);
        let given = of(&asked, &["origin", "hour"]).unwrap();
        assert_eq!(given.missing(&manifest()).unwrap(), expected);
        assert_eq!(given.names(&expected["weather"]), "wind`, `visible");
        assert_eq!(given.keys["origin"], ["JFK", "LGA"]);
        assert_eq!(given.keys["hour"], ["7", "8"], "a feature may be part of a key");
        let given = of(&asked, &["origin"]).unwrap();
        assert_eq!(given.keys.keys().collect::<Vec<_>>(), ["origin"], "and need not be");
        for keys in [
            json!([{ "origin": "JFK" }, { "origin": "LGA" }]),
            json!("[{\"origin\":\"JFK\"},{\"origin\":\"LGA\"}]"),
        ] {
            let given = of(&request(vec![hour()], Some(keys)), &["origin"]).unwrap();
            assert_eq!(
                (given.rows, &given.keys["origin"][..]),
                (2, &["JFK".to_owned(), "LGA".to_owned()][..])
            );
        }
        let wind = tensor("wind", &[2], Elements::Float64(vec![1.0, 2.0]));
        let given = of(&request(vec![hour(), wind], None), &[]).unwrap();
        let missing = given.missing(&manifest()).unwrap();
        assert_eq!(missing["weather"], [wanted(1, "visibility")], "what is given stays");
        let typo = tensor("origins", &[2], Elements::Int64(vec![1, 2]));
        let refused = of(&request(vec![hour(), typo], None), &["origin"]).unwrap_err().to_string();
        assert!(refused.contains("`origins` is no input of the model"), "{refused}");
        let feature = Some(json!([{ "hour": 7 }]));
        let refused = of(&request(vec![], feature), &["origin"]).unwrap_err().to_string();
        assert!(refused.contains("`hour` is no column of a key, but a feature"), "{refused}");
        let unknown = Some(json!([{ "town": 7 }]));
        let refused = of(&request(vec![], unknown), &["origin"]).unwrap_err().to_string();
        assert!(refused.contains("`town` is no input of the model"), "{refused}");
    }

    #[test]
    fn what_is_no_feature_of_the_model_is_refused_with_what_it_takes() {
        let hour = || tensor("hour", &[1], Elements::Int64(vec![7]));
        let x = |shape: &[i64], values: usize| tensor("X", shape, Elements::Float32(vec![0.0; values]));
        assert!(refusal(vec![], None).contains("there are no rows"));
        assert!(refusal(vec![x(&[1, 2], 2)], None).contains("feature `hour` is missing"));
        assert!(refusal(vec![x(&[1, 3], 3)], None).contains("the model takes FP32[?, 2]"));
        assert!(refusal(vec![x(&[2], 2)], None).contains("the model takes FP32[?, 2]"));
        assert!(refusal(vec![x(&[2, 2], 4), hour()], None).contains("`hour` has 1 rows where there are 2"));
        assert!(refusal(vec![x(&[0, 2], 0)], None).contains("there are no rows"));
        let doubles = tensor("X", &[1, 2], Elements::Float64(vec![0.0; 2]));
        assert!(refusal(vec![doubles], None).contains("is FP64[1, 2]"));
        let image = tensor("image", &[1, 2, 2], Elements::Float32(vec![0.0; 4]));
        assert!(refusal(vec![image], None).contains("`image` is no input of the model: the model takes `X`"));
        assert!(refusal(vec![hour(), hour()], None).contains("twice"));
        let wind = tensor("wind", &[1], Elements::Bytes(vec![b"1".to_vec()]));
        assert!(refusal(vec![wind], None).contains("features are numbers"));
        let text = tensor("origin", &[1], Elements::Bytes(vec![vec![255]]));
        assert!(refusal(vec![text], None).contains("UTF-8"));
        assert!(refusal(vec![], Some(json!([]))).contains("there are no rows"));
        assert!(refusal(vec![hour()], Some(json!([{ "a": 1 }, { "a": 2 }]))).contains("`hour` has 1 rows"));
        assert!(refusal(vec![hour()], Some(json!([{ "hour": 7 }]))).contains("`hour` is there twice"));
    }
}
