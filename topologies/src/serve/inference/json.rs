//! Requests and answers as HTTP has them: JSON, with tensors in it or, as bytes, behind it.
//!
//! Numbers are read one after the other into elements, whatever the lists they stand in: a body becomes a few times its size in
//! memory and no more. Numbers that are not finite are `"NaN"`, `"Infinity"` and `"-Infinity"` in answers, as everywhere here; in
//! requests they travel as bytes only.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value as Json, json};

use super::keys::EntityKeys;
use super::request::{CLASSIFICATION, InferAnswer, InferRequest, Parameter, SHARED_MEMORY, TENSORS_MAX};
use super::tensor::{Tensor, shown, unknown_datatype};
use crate::inference::Elements;
use crate::serve::Refusal;

/// The parameter with the number of bytes of a tensor behind the JSON.
const BINARY_SIZE: &str = "binary_data_size";
/// Lists within lists.
const DEPTH_MAX: usize = 32;

/// A request as it is written. What is not known here is passed over; what may be left out may be null too, as MLServer's client
/// writes it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    id: Option<String>,
    parameters: Option<OfRequest>,
    inputs: Option<Vec<Input>>,
    outputs: Option<Vec<Wanted>>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Option<OfTensor>,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: Option<OfTensor>,
}

/// The parameters of a request.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OfRequest {
    /// Whether all outputs are wanted as bytes.
    binary_data_output: bool,
    entity_keys: Option<EntityKeys>,
}

/// The parameters of an input or of an output that is wanted.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OfTensor {
    /// How many bytes of an input are behind the JSON.
    binary_data_size: Option<usize>,
    /// Whether an output is wanted as bytes.
    binary_data: Option<bool>,
    shared_memory_region: Option<IgnoredAny>,
    classification: Option<IgnoredAny>,
}

/// Which outputs are wanted as bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Form {
    all: bool,
    /// By output, where it says so itself.
    of_output: BTreeMap<String, bool>,
}

impl Form {
    fn is_binary(&self, output: &str) -> bool {
        self.of_output.get(output).copied().unwrap_or(self.all)
    }
}

/// Reads a request for `model`. The first `json_bytes` of `body` are JSON; the rest are tensors.
///
/// # Errors
/// [`Refusal::Wrong`] says what is wrong with it.
pub(super) fn read(
    model: String,
    version: String,
    body: &[u8],
    json_bytes: Option<usize>,
) -> Result<(InferRequest, Form), Refusal> {
    let (head, mut rest) = body.split_at_checked(json_bytes.unwrap_or(body.len())).ok_or_else(|| {
        Refusal::Wrong("`Inference-Header-Content-Length` is more than the body has".to_owned())
    })?;
    let written: Written =
        serde_json::from_slice(head).map_err(|error| Refusal::Wrong(format!("the body: {error}")))?;
    let (given, wanted) = (written.inputs.unwrap_or_default(), written.outputs.unwrap_or_default());
    if given.len().max(wanted.len()) > TENSORS_MAX {
        return Err(Refusal::Wrong(format!("a request has at most {TENSORS_MAX} tensors")));
    }
    let mut inputs = Vec::with_capacity(given.len());
    for input in given {
        inputs.push(input.tensor(&mut rest)?);
    }
    if !rest.is_empty() {
        let bytes = rest.len();
        return Err(Refusal::Wrong(format!("{bytes} bytes behind the JSON belong to no input")));
    }
    let of_request = written.parameters.unwrap_or_default();
    let mut form = Form { all: of_request.binary_data_output, ..Form::default() };
    let mut outputs = Vec::with_capacity(wanted.len());
    for Wanted { name, parameters } in wanted {
        let parameters = parameters.unwrap_or_default();
        refuse_unserved(&name, &parameters)?;
        if let Some(is_binary) = parameters.binary_data {
            form.of_output.insert(name.clone(), is_binary);
        }
        outputs.push(name);
    }
    let (id, entity_keys) = (written.id.unwrap_or_default(), of_request.entity_keys);
    let request = InferRequest { model, version, id, entity_keys, inputs, outputs };
    Ok((request, form))
}

impl Input {
    /// The tensor, in the JSON or in the next bytes of `rest`.
    fn tensor(self, rest: &mut &[u8]) -> Result<Tensor, Refusal> {
        let Self { name, shape, datatype, parameters, data } = self;
        let parameters = parameters.unwrap_or_default();
        refuse_unserved(&name, &parameters)?;
        let wrong = |what: &str| Refusal::Wrong(format!("input `{}`: {what}", shown(&name)));
        let Some(size) = parameters.binary_data_size else {
            let data = data.ok_or_else(|| wrong("it has neither `data` nor `binary_data_size`"))?;
            return Tensor::new(&name, &shape, data.elements(&name, &datatype)?);
        };
        if data.is_some() {
            return Err(wrong("it has both `data` and `binary_data_size`"));
        }
        let (raw, behind) = rest
            .split_at_checked(size)
            .ok_or_else(|| wrong("`binary_data_size` is more than there is behind the JSON"))?;
        *rest = behind;
        Tensor::from_raw(&name, &datatype, &shape, raw)
    }
}

/// Refuses what the protocol's extensions know and this server does not.
fn refuse_unserved(name: &str, parameters: &OfTensor) -> Result<(), Refusal> {
    let unserved = match parameters {
        OfTensor { shared_memory_region: Some(_), .. } => SHARED_MEMORY,
        OfTensor { classification: Some(_), .. } => CLASSIFICATION,
        _ => return Ok(()),
    };
    Err(Refusal::Wrong(format!("tensor `{}`: there is no `{unserved}` here", shown(name))))
}

/// The elements of a tensor in JSON, before it is known what they have to be.
#[derive(Debug, Clone, PartialEq)]
enum Data {
    Nothing,
    Whole(Vec<i64>),
    Fractions(Vec<f64>),
    Flags(Vec<bool>),
    Texts(Vec<Vec<u8>>),
}

impl Data {
    fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "empty",
            Self::Whole(_) => "whole numbers",
            Self::Fractions(_) => "numbers with fractions",
            Self::Flags(_) => "true or false",
            Self::Texts(_) => "texts",
        }
    }

    /// The elements as `datatype`, where nothing of them gets lost but what its precision does not hold.
    fn elements(self, name: &str, datatype: &str) -> Result<Elements, Refusal> {
        let kind = self.kind();
        let wrong = |what: String| Refusal::Wrong(format!("input `{}`: {what}", shown(name)));
        Ok(match (datatype, self) {
            ("FP32", Self::Nothing) => Elements::Float32(Vec::new()),
            ("FP32", Self::Whole(values)) => {
                Elements::Float32(values.iter().map(|value| *value as f32).collect())
            }
            ("FP32", Self::Fractions(values)) => {
                let narrow = values.iter().map(|value| Some(*value as f32).filter(|value| value.is_finite()));
                let narrow: Option<Vec<f32>> = narrow.collect();
                Elements::Float32(narrow.ok_or_else(|| wrong("a number does not fit FP32".to_owned()))?)
            }
            ("FP64", Self::Nothing) => Elements::Float64(Vec::new()),
            ("FP64", Self::Whole(values)) => {
                Elements::Float64(values.iter().map(|value| *value as f64).collect())
            }
            ("FP64", Self::Fractions(values)) => Elements::Float64(values),
            ("INT32", Self::Nothing) => Elements::Int32(Vec::new()),
            ("INT32", Self::Whole(values)) => {
                let narrow: Option<Vec<i32>> =
                    values.iter().map(|value| i32::try_from(*value).ok()).collect();
                Elements::Int32(narrow.ok_or_else(|| wrong("a number does not fit INT32".to_owned()))?)
            }
            ("INT64", Self::Nothing) => Elements::Int64(Vec::new()),
            ("INT64", Self::Whole(values)) => Elements::Int64(values),
            ("BOOL", Self::Nothing) => Elements::Bool(Vec::new()),
            ("BOOL", Self::Flags(values)) => Elements::Bool(values),
            ("BYTES", Self::Nothing) => Elements::Bytes(Vec::new()),
            ("BYTES", Self::Texts(values)) => Elements::Bytes(values),
            ("FP32" | "FP64" | "INT32" | "INT64" | "BOOL" | "BYTES", _) => {
                return Err(wrong(format!("its data are {kind}, and its datatype is {datatype}")));
            }
            (other, _) => return Err(unknown_datatype(name, other)),
        })
    }

    fn mixed<E: serde::de::Error>(&self, next: &str) -> E {
        E::custom(format!("a tensor has {} and {next}", self.kind()))
    }

    fn add_whole<E: serde::de::Error>(&mut self, value: i64) -> Result<(), E> {
        match self {
            Self::Nothing => *self = Self::Whole(vec![value]),
            Self::Whole(values) => values.push(value),
            Self::Fractions(values) => values.push(value as f64),
            _ => return Err(self.mixed("numbers")),
        }
        Ok(())
    }

    fn add_fraction<E: serde::de::Error>(&mut self, value: f64) -> Result<(), E> {
        match self {
            Self::Nothing => *self = Self::Fractions(vec![value]),
            Self::Fractions(values) => values.push(value),
            Self::Whole(values) => {
                // As they would have been read beside fractions.
                let mut fractions: Vec<f64> = values.iter().map(|value| *value as f64).collect();
                fractions.push(value);
                *self = Self::Fractions(fractions);
            }
            _ => return Err(self.mixed("numbers")),
        }
        Ok(())
    }

    fn add_flag<E: serde::de::Error>(&mut self, value: bool) -> Result<(), E> {
        match self {
            Self::Nothing => *self = Self::Flags(vec![value]),
            Self::Flags(values) => values.push(value),
            _ => return Err(self.mixed("true or false")),
        }
        Ok(())
    }

    fn add_text<E: serde::de::Error>(&mut self, value: &str) -> Result<(), E> {
        match self {
            Self::Nothing => *self = Self::Texts(vec![value.into()]),
            Self::Texts(values) => values.push(value.into()),
            _ => return Err(self.mixed("texts")),
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut data = Self::Nothing;
        Filling { data: &mut data, depth: DEPTH_MAX }.deserialize(deserializer)?;
        Ok(data)
    }
}

/// Adds what it finds to the data, list within list.
struct Filling<'a> {
    data: &'a mut Data,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Filling<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Filling<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("elements of a tensor: numbers, true or false, or texts, in lists")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.data.add_flag(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.data.add_whole(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.data.add_whole(value),
            Err(_) => self.data.add_fraction(value as f64),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.data.add_fraction(value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.data.add_text(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Self { data, depth } = self;
        let depth =
            depth.checked_sub(1).ok_or_else(|| A::Error::custom("there are too many lists in lists"))?;
        while elements.next_element_seed(Filling { data: &mut *data, depth })?.is_some() {}
        Ok(())
    }
}

/// An answer, and how many bytes of it are JSON if there are others behind.
pub(super) fn written(answer: &InferAnswer, form: &Form) -> Result<(Vec<u8>, Option<usize>), Refusal> {
    let mut behind = Vec::new();
    let outputs: Vec<Output<'_>> = answer
        .outputs
        .iter()
        .map(|output| {
            let raw = form.is_binary(&output.name).then(|| output.elements.to_raw());
            let size = raw.as_ref().map(Vec::len);
            behind.extend(raw);
            Output {
                name: &output.name,
                datatype: output.datatype(),
                shape: &output.shape,
                parameters: size.map(|size| json!({ BINARY_SIZE: size })),
                data: if size.is_none() { Some(Shown(&output.elements)) } else { None },
            }
        })
        .collect();
    let parameters = answer.parameters.iter().map(|(name, value)| {
        let value = match value {
            Parameter::Number(number) => json!(number),
            Parameter::Text(text) => json!(text),
        };
        (name.clone(), value)
    });
    let head = Head {
        model_name: &answer.model,
        model_version: answer.version.to_string(),
        id: Some(answer.id.as_str()).filter(|id| !id.is_empty()),
        parameters: parameters.collect(),
        outputs,
    };
    let mut bytes = serde_json::to_vec(&head)
        .map_err(|error| Refusal::Internal(format!("an answer cannot be written: {error}")))?;
    if behind.is_empty() {
        return Ok((bytes, None));
    }
    let json_bytes = bytes.len();
    behind.iter().for_each(|raw| bytes.extend(raw));
    Ok((bytes, Some(json_bytes)))
}

#[derive(Serialize)]
struct Head<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    parameters: Map<String, Json>,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Shown<'a>>,
}

/// Elements as one list.
struct Shown<'a>(&'a Elements);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Elements::Float32(values) => floats(values, serializer, |value| value.is_finite(), f64::from),
            Elements::Float64(values) => floats(values, serializer, |value| value.is_finite(), |value| value),
            Elements::Int32(values) => values.serialize(serializer),
            Elements::Int64(values) => values.serialize(serializer),
            Elements::Bool(values) => values.serialize(serializer),
            Elements::Bytes(values) => {
                serializer.collect_seq(values.iter().map(|value| String::from_utf8_lossy(value)))
            }
        }
    }
}

/// Numbers, and words for those that JSON does not have.
fn floats<T: Copy + Serialize, S: Serializer>(
    values: &[T],
    serializer: S,
    is_finite: impl Fn(T) -> bool,
    widen: impl Fn(T) -> f64,
) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(values.len()))?;
    for value in values {
        match widen(*value) {
            _ if is_finite(*value) => list.serialize_element(value)?,
            wide if wide.is_nan() => list.serialize_element("NaN")?,
            wide if wide > 0.0 => list.serialize_element("Infinity")?,
            _ => list.serialize_element("-Infinity")?,
        }
    }
    list.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Result<(InferRequest, Form), Refusal> {
        read("late".into(), String::new(), body.as_bytes(), None)
    }

    fn tensor(datatype: &str, shape: &str, data: &str) -> Result<Tensor, String> {
        let body =
            format!(r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#);
        request(&body).map(|(mut request, _)| request.inputs.remove(0)).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn lists_flat_or_in_each_other_are_the_same_elements() {
        let expected = Elements::Float32(vec![1.0, 2.5, -3.0, 4.0]);
        for data in ["[1, 2.5, -3, 4]", "[[1, 2.5], [-3, 4.0]]", "[[[1], [2.5]], [[-3], [4]]]"] {
            let read = tensor("FP32", "[2, 2]", data).unwrap();
            assert_eq!((&read.elements, &read.shape[..]), (&expected, &[2, 2][..]), "{data}");
        }
        let elements = |datatype: &str, data: &str| tensor(datatype, "[2]", data).unwrap().elements;
        assert_eq!(elements("FP64", "[0.1, 7]"), Elements::Float64(vec![0.1, 7.0]));
        assert_eq!(elements("INT32", "[-1, 2]"), Elements::Int32(vec![-1, 2]));
        assert_eq!(
            elements("INT64", "[9007199254740993, 2]"),
            Elements::Int64(vec![9_007_199_254_740_993, 2])
        );
        assert_eq!(elements("BOOL", "[true, false]"), Elements::Bool(vec![true, false]));
        assert_eq!(elements("BYTES", r#"["N12", "ä"]"#), Elements::Bytes(vec![b"N12".to_vec(), "ä".into()]));
    }

    #[test]
    fn what_may_be_left_out_may_be_null() {
        let body = r#"{"id":null,"parameters":null,"outputs":null,"inputs":[
            {"name":"x","datatype":"FP32","shape":[1],"parameters":null,"data":[1]}]}"#;
        let (asked, form) = request(body).unwrap();
        assert_eq!((asked.id.as_str(), asked.inputs.len(), asked.outputs.len()), ("", 1, 0));
        assert_eq!((asked.entity_keys, form), (None, Form::default()));
        let (asked, _) = request(r#"{"inputs":null,"outputs":[{"name":"y","parameters":null}]}"#).unwrap();
        assert_eq!((asked.inputs.len(), &asked.outputs[..]), (0, &["y".to_owned()][..]));
    }

    #[test]
    fn what_is_no_tensor_is_refused_with_the_reason() {
        for (datatype, shape, data, what) in [
            ("FP32", "[2]", "[1, \"x\"]", "whole numbers and texts"),
            ("FP32", "[2]", "[1, null]", "null"),
            ("FP32", "[2]", "[1, NaN]", "the body"),
            ("FP32", "[1]", "[1e300]", "does not fit FP32"),
            ("FP32", "[1]", "[true]", "its data are true or false"),
            ("INT64", "[1]", "[1.5]", "its data are numbers with fractions"),
            ("INT64", "[1]", "[18446744073709551615]", "its data are numbers with fractions"),
            ("INT32", "[1]", "[2147483648]", "does not fit INT32"),
            ("BOOL", "[1]", "[1]", "its data are whole numbers"),
            ("BYTES", "[1]", "[1]", "its data are whole numbers"),
            ("FP16", "[1]", "[1]", "`FP16` is not known"),
            ("FP32", "[3]", "[1, 2]", "does not go with 2 elements"),
            ("FP32", "[4611686018427387904, 4]", "[]", "does not go with 0 elements"),
            ("FP32", "[-1]", "[1]", "negative"),
            ("FP32", "[1]", "{}", "elements of a tensor"),
        ] {
            let refused = tensor(datatype, shape, data).unwrap_err();
            assert!(refused.contains(what), "{datatype} {data}: {refused}");
        }
        let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
        assert!(tensor("FP32", "[1]", &deep).unwrap_err().contains("lists in lists"));
        for (body, what) in [
            ("", "the body"),
            ("7", "the body"),
            (r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}"#, "neither `data`"),
            (r#"{"inputs":[{"name":"x","shape":[1]}]}"#, "datatype"),
            (
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}]}"#,
                "no `shared_memory_region`",
            ),
            (r#"{"outputs":[{"name":"y","parameters":{"classification":3}}]}"#, "no `classification`"),
            (r#"{"parameters":{"binary_data_output":1}}"#, "boolean"),
            (r#"{"parameters":{"entity_keys":[7]}}"#, "a key: an object"),
            (
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":-1}}]}"#,
                "the body",
            ),
        ] {
            let refused = request(body).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains(what), "{body}: {refused}");
        }
    }

    #[test]
    fn tensors_behind_the_json_are_taken_in_order() {
        let input = |name: &str, datatype: &str, size: usize| json!({ "name": name, "datatype": datatype, "shape": [1], "parameters": { BINARY_SIZE: size } });
        let head = json!({
            "id": "42",
            "inputs": [input("a", "FP32", 4), input("b", "INT64", 8)],
            "outputs": [{ "name": "y", "parameters": { "binary_data": false } }, { "name": "z" }],
            "parameters": { "binary_data_output": true, "entity_keys": "[]", "priority": 3 },
        })
        .to_string();
        let raw = [&1.5f32.to_le_bytes()[..], &7i64.to_le_bytes()].concat();
        let body = [head.as_bytes(), &raw].concat();
        let read = |json_bytes, body: &[u8]| read("late".into(), "3".into(), body, Some(json_bytes));
        let (request, form) = read(head.len(), &body).unwrap();
        assert_eq!(request.inputs[0].elements, Elements::Float32(vec![1.5]));
        assert_eq!(request.inputs[1].elements, Elements::Int64(vec![7]));
        assert_eq!((request.id.as_str(), request.version.as_str(), request.outputs.len()), ("42", "3", 2));
        assert_eq!(request.entity_keys, Some(EntityKeys::default()));
        assert_eq!((form.is_binary("y"), form.is_binary("z")), (false, true));
        let refused = |json_bytes, body: &[u8]| read(json_bytes, body).map(|_| ()).unwrap_err().to_string();
        assert!(refused(head.len(), &body[..body.len() - 1]).contains("more than there is"));
        assert!(refused(head.len(), &[&body[..], &[0]].concat()).contains("1 bytes behind the JSON"));
        assert!(refused(body.len() + 1, &body).contains("more than the body has"));
        assert!(refused(head.len() - 1, &body).contains("the body"));
        let claimed = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":99999999999999}}]}"#;
        assert!(refused(claimed.len(), claimed.as_bytes()).contains("more than there is"));
    }

    #[test]
    fn an_answer_says_what_it_is_of_and_has_its_tensors_in_it_or_behind_it() {
        let output = |name: &str, elements| Tensor { name: name.into(), shape: vec![3], elements };
        let answer = InferAnswer {
            model: "late".into(),
            version: 3,
            id: "42".into(),
            parameters: vec![
                ("version".into(), Parameter::Number(3)),
                ("sha256".into(), Parameter::Text("ab".into())),
            ],
            outputs: vec![
                output("p", Elements::Float32(vec![0.1, f32::NAN, f32::NEG_INFINITY])),
                output("label", Elements::Int64(vec![1, 0, 1])),
            ],
        };
        let (text, json_bytes) = written(&answer, &Form::default()).unwrap();
        let expected = r#"{"model_name":"late","model_version":"3","id":"42","parameters":{"version":3,"sha256":"ab"},"outputs":[{"name":"p","datatype":"FP32","shape":[3],"data":[0.1,"NaN","-Infinity"]},{"name":"label","datatype":"INT64","shape":[3],"data":[1,0,1]}]}"#;
        assert_eq!((String::from_utf8(text).unwrap().as_str(), json_bytes), (expected, None));

        let form = Form { all: true, of_output: BTreeMap::from([("p".to_owned(), false)]) };
        let (bytes, json_bytes) = written(&answer, &form).unwrap();
        let (head, raw) = bytes.split_at(json_bytes.unwrap());
        let head: Json = serde_json::from_slice(head).unwrap();
        assert_eq!(head["outputs"][1]["parameters"], json!({ BINARY_SIZE: 24 }));
        assert_eq!(head["outputs"][1].get("data"), None);
        assert_eq!(raw, answer.outputs[1].elements.to_raw());
    }
}
