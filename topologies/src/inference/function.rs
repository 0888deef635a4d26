//! `predict('model', feature, …)`: a model's answer for each row, as a struct.
//!
//! ```sql
//! SELECT *, predict('flight_delay', dep_delay, distance, hour) AS delay FROM flights
//! ```
//!
//! | field | |
//! |---|---|
//! | `value` | the probability of the second of two classes, of more classes that of the label, or the value of a regression |
//! | `label` | the class; null where the model says none |
//! | `model`, `version`, `sha256` | which file answered |
//! | `features` | the datasets and contracts that its features are from |
//! | `challenger`, `challenger_sha256` | the value of the model in the shadow, and which file that is; null where there is none |
//!
//! The type does not depend on the model, so that a query can be checked where there is none. A row that cannot be scored is an
//! error that names the rule it goes into the quarantine under.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray, new_empty_array, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::{exec_datafusion_err, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use isobar_transforms::{PREDICT_ERROR, PREDICT_TIMEOUT, RuleError};

use super::predictors::{Answer, Predictors};
use super::reference::Reference;
use super::{Error as InferenceError, Predictions};

/// Its name.
const FUNCTION: &str = "predict";

impl Predictors {
    /// The function whose calls are answered by these models.
    pub fn function(self: &Arc<Self>) -> Arc<ScalarUDF> {
        // Between two commits of a stream nothing changes; a query in some time may be answered by another model.
        let volatility = if self.is_stream() { Volatility::Immutable } else { Volatility::Stable };
        let signature = Signature::user_defined(volatility);
        Arc::new(ScalarUDF::new_from_impl(PredictFunction { predictors: self.clone(), signature }))
    }
}

#[derive(Debug)]
struct PredictFunction {
    predictors: Arc<Predictors>,
    signature: Signature,
}

impl PartialEq for PredictFunction {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.predictors, &other.predictors)
    }
}

impl Eq for PredictFunction {}

impl Hash for PredictFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        FUNCTION.hash(state);
    }
}

fn fields() -> Fields {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Fields::from(vec![
        field("value", DataType::Float64),
        field("label", DataType::Int64),
        field("model", DataType::Utf8),
        field("version", DataType::Int64),
        field("sha256", DataType::Utf8),
        field("features", DataType::Utf8),
        field("challenger", DataType::Float64),
        field("challenger_sha256", DataType::Utf8),
    ])
}

impl ScalarUDFImpl for PredictFunction {
    fn name(&self) -> &str {
        FUNCTION
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let (Some(model), features) = (given.first(), given.get(1..).unwrap_or_default()) else {
            return plan_err!(
                "{FUNCTION}() takes a model and its features, as in {FUNCTION}('flight_delay', distance)"
            );
        };
        if !matches!(model, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8) {
            return plan_err!("the first argument of {FUNCTION}() is a model's name, not a {model}");
        }
        let mut types = vec![model.clone()];
        for given in features {
            types.push(match given {
                DataType::Null => DataType::Float64,
                DataType::Boolean => DataType::Boolean,
                number if number.is_numeric() => number.clone(),
                other => {
                    return plan_err!(
                        "the features of {FUNCTION}() are numbers and booleans, not a {other}: cast it"
                    );
                }
            });
        }
        Ok(types)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(fields()))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let literals = args.scalar_arguments;
        let Some(text) = literals.first().copied().flatten().and_then(|model| model.try_as_str().flatten())
        else {
            return plan_err!(
                "the first argument of {FUNCTION}() is a model's name in quotes, such as 'flight_delay'"
            );
        };
        let reference: Reference = match text.parse() {
            Ok(reference) => reference,
            Err(problem) => return plan_err!("{FUNCTION}(): {problem}"),
        };
        let features = literals.len() - 1;
        if features == 0 {
            return plan_err!("{FUNCTION}('{reference}') has no features");
        }
        // It would be computed once, while it is planned, and stay when the alias moves.
        if self.predictors.is_stream() && literals.iter().all(Option::is_some) {
            return plan_err!(
                "{FUNCTION}('{reference}', …) has constants only: at least one feature is a column"
            );
        }
        if let Err(problem) = self.predictors.note(&reference, features) {
            return plan_err!("{FUNCTION}(): {problem}");
        }
        Ok(Arc::new(Field::new(FUNCTION, DataType::Struct(fields()), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ScalarFunctionArgs { args, number_rows: rows, .. } = args;
        let mut args = args.into_iter();
        let reference: Reference = match args.next() {
            Some(ColumnarValue::Scalar(model)) => {
                let text = model.try_as_str().flatten().unwrap_or_default();
                text.parse().map_err(|problem| exec_datafusion_err!("{FUNCTION}(): {problem}"))?
            }
            _ => return Err(exec_datafusion_err!("{FUNCTION}() was planned without a model")),
        };
        if rows == 0 {
            return Ok(ColumnarValue::Array(new_empty_array(&DataType::Struct(fields()))));
        }
        let columns = args.map(|arg| arg.into_array(rows)).collect::<Result<Vec<_>>>()?;
        let answer =
            self.predictors.answer(&reference, columns, rows).map_err(|error| refused(&reference, &error))?;
        Ok(ColumnarValue::Array(Arc::new(struct_of(answer, rows)?)))
    }
}

/// Why a row is not scored, with the rule that says so.
fn refused(reference: &Reference, error: &InferenceError) -> DataFusionError {
    let rule = match error {
        InferenceError::TimedOut(_) => PREDICT_TIMEOUT,
        _ => PREDICT_ERROR,
    };
    DataFusionError::External(Box::new(RuleError { rule, message: format!("model {reference}: {error}") }))
}

fn struct_of(answer: Answer, rows: usize) -> Result<StructArray> {
    let (bound, Predictions { values, labels }) = answer.champion;
    let [model, version, sha256, features] = bound.identity.columns(rows)?;
    let (challenger, challenger_sha256) = match answer.challenger {
        Some((bound, said)) => {
            let [_, _, sha256, _] = bound.identity.columns(rows)?;
            (Arc::new(said.values) as ArrayRef, sha256)
        }
        None => (new_null_array(&DataType::Float64, rows), new_null_array(&DataType::Utf8, rows)),
    };
    let labels: ArrayRef = match labels {
        Some(labels) => Arc::new(labels),
        None => new_null_array(&DataType::Int64, rows),
    };
    let columns = vec![
        Arc::new(values) as ArrayRef,
        labels,
        model,
        version,
        sha256,
        features,
        challenger,
        challenger_sha256,
    ];
    Ok(StructArray::try_new(fields(), columns, None)?)
}
