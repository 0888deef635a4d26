//! Functions that queries of the catalog call and the planner does not have. Those whose result does not depend on rows are
//! replaced by it (see [`rewrite`](super::rewrite)); the others are here.

use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use pgwire::api::Type;

use super::contents::{Contents, formatted};
use crate::query::quoted;

/// The comment of a table, or of a column of it.
pub(super) const COMMENT: &str = "isobar_comment";
/// The name of a relation.
pub(super) const RELATION_NAME: &str = "isobar_relation_name";
/// The name of a type.
pub(super) const FORMAT_TYPE: &str = "format_type";
/// A name as it is written in a query.
const QUOTE_IDENT: &str = "quote_ident";
/// Most bytes of a name that is written so: quotes double each time.
const NAME_BYTES_MAX: usize = 10_000;

/// Calls of these make a statement without tables one of the catalog's.
const KNOWN: [&str; 23] = [
    "col_description",
    "current_database",
    "current_schema",
    "current_schemas",
    "current_setting",
    "format_type",
    "has_column_privilege",
    "has_database_privilege",
    "has_schema_privilege",
    "has_table_privilege",
    "inet_client_addr",
    "inet_server_addr",
    "obj_description",
    "pg_advisory_unlock_all",
    "pg_backend_pid",
    "pg_client_encoding",
    "pg_encoding_to_char",
    "pg_get_userbyid",
    "pg_is_in_recovery",
    "pg_my_temp_schema",
    "pg_table_is_visible",
    "to_regclass",
    "version",
];

/// Whether `name` is that of a function about the server.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// Whether `name` is one that is called without brackets.
pub(super) fn is_variable(name: &str) -> bool {
    matches!(name, "current_user" | "session_user" | "current_role" | "current_catalog" | "current_schema")
}

/// The functions, for what one caller sees.
pub(super) fn all(contents: &Contents) -> Vec<ScalarUDF> {
    let comments = contents.clone();
    let comment = move |oid: i64, column: i64| comments.comment(oid, column);
    let names = contents.clone();
    let name = move |oid: i64| match oid {
        0 => Some("-".to_owned()),
        _ => Some(names.name_of_relation(oid).unwrap_or_else(|| oid.to_string())),
    };
    vec![
        create_udf(
            COMMENT,
            vec![DataType::Int64, DataType::Int64],
            DataType::Utf8,
            Volatility::Immutable,
            Arc::new(move |arguments: &[ColumnarValue]| {
                let arguments = ColumnarValue::values_to_arrays(arguments)?;
                let (oids, columns) = (arguments[0].as_primitive::<Int64Type>(), &arguments[1]);
                let columns = columns.as_primitive::<Int64Type>();
                texts(oids.iter().zip(columns).map(|(oid, column)| comment(oid?, column?)))
            }),
        ),
        create_udf(
            RELATION_NAME,
            vec![DataType::Int64],
            DataType::Utf8,
            Volatility::Immutable,
            Arc::new(move |arguments: &[ColumnarValue]| {
                let arguments = ColumnarValue::values_to_arrays(arguments)?;
                texts(arguments[0].as_primitive::<Int64Type>().iter().map(|oid| name(oid?)))
            }),
        ),
        create_udf(
            FORMAT_TYPE,
            vec![DataType::Int64, DataType::Int32],
            DataType::Utf8,
            Volatility::Immutable,
            Arc::new(|arguments: &[ColumnarValue]| {
                let arguments = ColumnarValue::values_to_arrays(arguments)?;
                let (oids, modifiers) = (arguments[0].as_primitive::<Int64Type>(), &arguments[1]);
                let modifiers = modifiers.as_primitive::<Int32Type>();
                texts(oids.iter().zip(modifiers).map(|(oid, modifier)| {
                    let oid = oid?;
                    if oid == 0 {
                        return Some("-".to_owned());
                    }
                    let data_type = u32::try_from(oid).ok().and_then(Type::from_oid);
                    Some(data_type.map_or("???".to_owned(), |own| formatted(&own, modifier.unwrap_or(-1))))
                }))
            }),
        ),
        create_udf(
            QUOTE_IDENT,
            vec![DataType::Utf8],
            DataType::Utf8,
            Volatility::Immutable,
            Arc::new(|arguments: &[ColumnarValue]| {
                let arguments = ColumnarValue::values_to_arrays(arguments)?;
                let names = arguments[0].as_string::<i32>();
                if names.iter().flatten().any(|name| name.len() > NAME_BYTES_MAX) {
                    return exec_err!("{QUOTE_IDENT}: a name has at most {NAME_BYTES_MAX} bytes");
                }
                texts(names.iter().map(|name| name.map(identifier)))
            }),
        ),
    ]
}

/// `name` in quotes, unless it means the same without.
fn identifier(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let is_part = |byte: u8| is_plain(byte) || byte.is_ascii_digit() || byte == b'$';
    match name.bytes().next() {
        Some(first) if is_plain(first) && name.bytes().all(is_part) => name.to_owned(),
        _ => quoted(name),
    }
}

fn texts(texts: impl Iterator<Item = Option<String>>) -> Result<ColumnarValue> {
    Ok(ColumnarValue::Array(Arc::new(StringArray::from_iter(texts))))
}
