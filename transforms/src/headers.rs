//! `header(_headers, 'name')`: the value of one Kafka header.
//!
//! ```sql
//! SELECT *, CAST(header(_headers, 'trace-id') AS VARCHAR) AS trace_id FROM orders
//! WHERE TRY_CAST(header(_headers, 'source') AS VARCHAR) IS DISTINCT FROM 'test'
//! ```
//!
//! DataFusion 55 finds an element of a list by its value or by a lambda, and has lambdas only in dialects of SQL that read
//! other things differently; so this is a function of ours. Where a record has several headers of the name it is the last of
//! them, as in Kafka's own `Headers.lastHeader`. NULL where there is none, or where it has no value. The value is bytes:
//! Kafka knows no other type. `CAST(… AS VARCHAR)` rejects a row whose bytes are not UTF-8, `TRY_CAST` makes them NULL.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryBuilder};
use arrow::datatypes::DataType;
use datafusion::common::plan_err;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use isobar_schemas::metadata::headers_type;

const NAME: &str = "header";

/// The function. See the [module](self).
pub fn header_function() -> ScalarUDF {
    ScalarUDF::new_from_impl(HeaderFunction { signature: Signature::user_defined(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HeaderFunction {
    signature: Signature,
}

impl ScalarUDFImpl for HeaderFunction {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [headers, _] = take_function_args(NAME, given)?;
        if !are_headers(headers) {
            return plan_err!(
                "{NAME}() looks into headers, as in {NAME}(_headers, 'name'), not into a {headers}"
            );
        }
        Ok(vec![headers_type(), DataType::Utf8])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [headers, names] = take_function_args(NAME, args.args)?;
        let (headers, names) = (headers.into_array(rows)?, names.into_array(rows)?);
        let (headers, names) = (headers.as_list::<i32>(), names.as_string::<i32>());
        let entries = headers.values().as_struct();
        let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_binary::<i32>());
        let mut found = BinaryBuilder::with_capacity(rows, 0);
        for row in 0..rows {
            let is_known = headers.is_valid(row) && names.is_valid(row);
            let of_row = headers.value_offsets()[row] as usize..headers.value_offsets()[row + 1] as usize;
            let last = of_row.rev().find(|header| is_known && keys.value(*header) == names.value(row));
            let value = last.filter(|header| values.is_valid(*header)).map(|header| values.value(header));
            found.append_option(value);
        }
        Ok(ColumnarValue::Array(Arc::new(found.finish())))
    }
}

/// Whether a column of this type holds headers, in whatever variant of lists, texts and bytes a table is read as.
fn are_headers(data_type: &DataType) -> bool {
    let (DataType::List(element) | DataType::LargeList(element)) = data_type else { return false };
    let DataType::Struct(fields) = element.data_type() else { return false };
    matches!(fields.as_ref(), [key, value] if key.name() == "key" && value.name() == "value")
}
