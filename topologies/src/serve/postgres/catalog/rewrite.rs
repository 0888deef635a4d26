//! Queries of PostgreSQL's catalog in words that the planner knows.
//!
//! | PostgreSQL | here |
//! |---|---|
//! | `OPERATOR(pg_catalog.~)`, `COLLATE`, `pg_catalog.` before functions and types | without |
//! | `'flights'::regclass`, `oid::regclass`, `::regtype`, `::regnamespace` | the number; the name |
//! | `x = ANY ('{a,b}')`, `x = ANY (ARRAY[…])` | `x IN (…)` |
//! | `pg_table_is_visible(…)`, `current_user`, `pg_get_expr(…)` and others with one result | the result |
//! | a query in an expression that cannot have a row ([`nothing`](super::nothing)) | null, or false |
//! | columns without a name, or with one that another has | a name |
//! | `c.*` among others | the columns |

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Array, BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, TableFactor, UnaryOperator,
    Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::super::failure::{Failure, code};
use super::contents::{
    Contents, OWN_OID, OWNER, STANDARD_OID, TABLES_OID, columns_of, oid_of_type, relation_of, version,
};
use super::functions::{COMMENT, FORMAT_TYPE, RELATION_NAME};
use super::nothing::is_empty;
use super::{DEPTH_MAX, OWN, STANDARD};
use crate::query::CATALOG;

/// Stands before a number in names that another column has; it cannot be typed.
const AGAIN: char = '\u{1}';
/// Columns that one query lists, after each `*` was replaced by what it stands for.
const COLUMNS_MAX: usize = 2_000;

/// Puts `query` in other words, everywhere in it.
pub(super) fn rewrite(query: &mut Query, contents: &Contents) -> Result<(), Failure> {
    match query.visit(&mut Rewrite { contents }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(failure) => Err(failure),
    }
}

/// The name of a column as the client gets it.
pub(super) fn shown(name: &str) -> &str {
    name.split(AGAIN).next().unwrap_or(name)
}

/// A name as it is compared: in small letters, unless it is quoted.
pub(super) fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

/// The last part of a name.
pub(super) fn last(name: &ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(folded).unwrap_or_default()
}

/// The name that PostgreSQL gives to a column of an answer.
pub(super) fn item_name(item: &SelectItem) -> String {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => folded(alias),
        SelectItem::UnnamedExpr(expression) => {
            expression_name(expression).unwrap_or_else(|| "?column?".to_owned())
        }
        _ => "?column?".to_owned(),
    }
}

fn expression_name(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Identifier(ident) => Some(folded(ident)),
        Expr::CompoundIdentifier(idents) => idents.last().map(folded),
        Expr::Function(function) => Some(last(&function.name)),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => expression_name(inner),
        Expr::Cast { expr, data_type, .. } => expression_name(expr).or_else(|| Some(type_name(data_type))),
        Expr::Case { else_result, .. } => {
            let of_else = else_result.as_ref().filter(|other| !matches!(***other, Expr::Value(_)));
            of_else.and_then(|other| expression_name(other)).or_else(|| Some("case".to_owned()))
        }
        Expr::Exists { .. } => Some("exists".to_owned()),
        Expr::Array(_) => Some("array".to_owned()),
        Expr::Subquery(query) => match &*query.body {
            datafusion::sql::sqlparser::ast::SetExpr::Select(select) => {
                select.projection.first().map(item_name)
            }
            _ => None,
        },
        _ => None,
    }
}

/// A type without its schema and its quotes, in small letters.
fn type_name(data_type: &DataType) -> String {
    let name = data_type.to_string().to_ascii_lowercase().replace('"', "");
    name.strip_prefix("pg_catalog.").unwrap_or(&name).to_owned()
}

struct Rewrite<'a> {
    contents: &'a Contents,
}

impl VisitorMut for Rewrite<'_> {
    type Break = Failure;

    /// Before its expressions are changed, from which columns have their names.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Failure> {
        match name_columns(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => ControlFlow::Break(failure),
        }
    }

    /// Grafana asks which schemas need not be named, in a way that the planner does not know.
    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Failure> {
        if let Expr::InSubquery { expr, subquery, negated } = expression
            && is_search_path(subquery)
        {
            *expression =
                Expr::InList { expr: expr.clone(), list: vec![literal(CATALOG.1)], negated: *negated };
        }
        ControlFlow::Continue(())
    }

    /// After what is in it.
    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Failure> {
        match self.replacement(expression) {
            Ok(Some(other)) => *expression = other,
            Ok(None) => (),
            Err(failure) => return ControlFlow::Break(failure),
        }
        ControlFlow::Continue(())
    }
}

/// Gives every column a name of its own.
fn name_columns(select: &mut Select) -> Result<(), Failure> {
    if select.projection.len() == 1 && !matches!(select.projection[0], SelectItem::UnnamedExpr(_)) {
        return Ok(());
    }
    let mut taken = BTreeMap::new();
    let mut named = Vec::with_capacity(select.projection.len());
    for item in std::mem::take(&mut select.projection) {
        match columns_behind(&item, select) {
            Some(columns) => named.extend(columns.into_iter().map(|column| with_name(column, &mut taken))),
            None => named.push(with_name(item, &mut taken)),
        }
        if named.len() > COLUMNS_MAX {
            let message = format!("a query lists more than {COLUMNS_MAX} columns");
            return Err(Failure::new(code::PROGRAM_LIMIT, message));
        }
    }
    select.projection = named;
    Ok(())
}

/// The columns that `relation.*` stands for.
fn columns_behind(item: &SelectItem, select: &Select) -> Option<Vec<SelectItem>> {
    let SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) = item else {
        return None;
    };
    let wanted = last(name);
    let joined = select.from.iter().flat_map(|table| {
        std::iter::once(&table.relation).chain(table.joins.iter().map(|join| &join.relation))
    });
    let mut found = joined.filter_map(|relation| match relation {
        TableFactor::Table { name, alias, .. } => {
            let called = alias.as_ref().map_or_else(|| last(name), |alias| folded(&alias.name));
            (called == wanted).then(|| relation_of(name)).flatten()
        }
        _ => None,
    });
    let columns = columns_of(found.next()?).into_iter().map(|column| {
        let column = vec![Ident::with_quote('"', wanted.clone()), Ident::with_quote('"', column)];
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(column))
    });
    Some(columns.collect())
}

fn with_name(item: SelectItem, taken: &mut BTreeMap<String, usize>) -> SelectItem {
    if matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)) {
        return item;
    }
    let name = item_name(&item);
    let unique = unique_of(&name, taken);
    match item {
        SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_)))
            if unique == name =>
        {
            SelectItem::UnnamedExpr(expr)
        }
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', unique) }
        }
        other => other,
    }
}

/// `name`, with a number behind it if it is taken. Names are kept with the last number.
fn unique_of(name: &str, taken: &mut BTreeMap<String, usize>) -> String {
    let (mut unique, mut number) = (name.to_owned(), taken.get(name).copied().unwrap_or(0));
    while taken.contains_key(&unique) {
        number += 1;
        unique = format!("{name}{AGAIN}{number}");
    }
    taken.insert(unique.clone(), 1);
    taken.insert(name.to_owned(), number.max(1));
    unique
}

impl Rewrite<'_> {
    fn replacement(&self, expression: &mut Expr) -> Result<Option<Expr>, Failure> {
        Ok(match expression {
            Expr::Collate { expr, .. } => Some((**expr).clone()),
            Expr::Value(value) => match &value.value {
                Value::EscapedStringLiteral(text) => Some(literal(text)),
                _ => None,
            },
            // Texts, or arrays that are null themselves.
            Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right }
                if is_null(left) || is_null(right) =>
            {
                Some(null())
            }
            Expr::BinaryOp { op, .. } => {
                if let Some(plain) = plain_operator(op) {
                    *op = plain;
                }
                None
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                Some(among(left, right, false))
            }
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => Some(among(left, right, true)),
            Expr::Subquery(query) if is_empty(query) => Some(null()),
            Expr::Exists { subquery, negated } if is_empty(subquery) => Some(boolean(*negated)),
            Expr::InSubquery { subquery, negated, .. } if is_empty(subquery) => Some(boolean(*negated)),
            Expr::Cast { expr, data_type, .. } => self.cast(expr, data_type)?,
            Expr::Identifier(ident) if ident.quote_style.is_none() => {
                ident.value.eq_ignore_ascii_case("current_schema").then(|| literal(CATALOG.1))
            }
            Expr::Function(function) => self.call(function)?,
            _ => None,
        })
    }

    /// Casts to types that are names for numbers, and to PostgreSQL's own types.
    fn cast(&self, expression: &Expr, data_type: &DataType) -> Result<Option<Expr>, Failure> {
        let text = text_of(expression);
        let number = text.and_then(|text| text.parse::<i64>().ok());
        let name = type_name(data_type);
        let to = |data_type| Ok(Some(cast(expression.clone(), data_type)));
        match name.as_str() {
            "regclass" | "regtype" | "regnamespace" if number.is_some() => Ok(number.map(numeric)),
            "regclass" => match text {
                Some(text) => self.contents.oid_of_relation(text).map(|oid| Some(numeric(oid))).ok_or_else(|| {
                    Failure::new(code::UNDEFINED_TABLE, format!("relation \"{text}\" does not exist"))
                }),
                None => Ok(Some(call(RELATION_NAME, vec![cast(expression.clone(), DataType::BigInt(None))]))),
            },
            "regtype" => match text {
                Some(text) => oid_of_type(text).map(|oid| Some(numeric(oid))).ok_or_else(|| {
                    Failure::new(code::UNDEFINED_OBJECT, format!("type \"{text}\" does not exist"))
                }),
                None => {
                    let oid = cast(expression.clone(), DataType::BigInt(None));
                    Ok(Some(call(FORMAT_TYPE, vec![oid, cast(null(), DataType::Int(None))])))
                }
            },
            "regnamespace" => match text {
                Some(text) => schema_oid(text).map(|oid| Some(numeric(oid))).ok_or_else(|| {
                    Failure::new(code::UNDEFINED_OBJECT, format!("schema \"{text}\" does not exist"))
                }),
                None => parsed(&format!(
                    "CASE {expression} WHEN {OWN_OID} THEN '{OWN}' WHEN {STANDARD_OID} THEN '{STANDARD}' WHEN \
                     {TABLES_OID} THEN '{}' END",
                    CATALOG.1
                ))
                .map(Some),
            },
            "oid" | "xid" | "cid" | "xid8" => match named_relation(expression) {
                // The number, its name, and the number again.
                Some(oid) => Ok(Some(oid)),
                None => to(DataType::BigInt(None)),
            },
            "text" | "name" | "char" | "cstring" | "regproc" | "regprocedure" | "regrole" | "regoper" => {
                to(DataType::Text)
            }
            "int2" => to(DataType::SmallInt(None)),
            "int4" => to(DataType::Int(None)),
            "int8" => to(DataType::BigInt(None)),
            "bool" => to(DataType::Boolean),
            _ => Ok(None),
        }
    }

    /// Calls with one result, and those of functions that have another name here.
    fn call(&self, function: &mut Function) -> Result<Option<Expr>, Failure> {
        let name = last(&function.name);
        let arguments = arguments(function);
        let first = arguments.first();
        let user = || literal(&self.contents.user);
        if name == "array" && matches!(&function.args, FunctionArguments::Subquery(query) if is_empty(query))
        {
            return Ok(Some(null()));
        }
        Ok(Some(match name.as_str() {
            "version" => literal(&version()),
            "current_database" | "current_catalog" => literal(CATALOG.0),
            "current_schema" => literal(CATALOG.1),
            "current_schemas" => {
                let own = first.is_some_and(|first| first.to_string().eq_ignore_ascii_case("true"));
                let schemas: &[&str] = if own { &[OWN, CATALOG.1] } else { &[CATALOG.1] };
                Expr::Array(Array {
                    elem: schemas.iter().map(|schema| literal(schema)).collect(),
                    named: true,
                })
            }
            "current_user" | "session_user" | "current_role" | "getpgusername" => user(),
            "user" if matches!(function.args, FunctionArguments::None) => user(),
            "pg_get_userbyid" => literal(OWNER),
            "pg_encoding_to_char" | "pg_client_encoding" => literal("UTF8"),
            "pg_backend_pid" => numeric(i64::from(self.contents.process)),
            "pg_my_temp_schema" => numeric(0),
            "current_setting" => self.setting(&arguments)?,
            "pg_table_is_visible"
            | "pg_type_is_visible"
            | "pg_function_is_visible"
            | "pg_opclass_is_visible"
            | "pg_operator_is_visible"
            | "pg_collation_is_visible" => boolean(true),
            "pg_is_in_recovery"
            | "pg_relation_is_publishable"
            | "pg_is_other_temp_schema"
            | "row_security_active"
            | "pg_has_role" => boolean(false),
            "has_table_privilege"
            | "has_column_privilege"
            | "has_any_column_privilege"
            | "has_schema_privilege"
            | "has_database_privilege"
            | "has_type_privilege" => boolean(may(arguments.last())),
            "pg_get_expr"
            | "pg_get_indexdef"
            | "pg_get_constraintdef"
            | "pg_get_viewdef"
            | "pg_get_partkeydef"
            | "pg_get_triggerdef"
            | "pg_get_ruledef"
            | "pg_get_functiondef"
            | "pg_get_function_result"
            | "pg_get_function_arguments"
            | "pg_get_function_identity_arguments"
            | "pg_get_serial_sequence"
            | "pg_get_statisticsobjdef_columns"
            | "pg_tablespace_location"
            | "pg_size_pretty"
            | "shobj_description"
            | "inet_client_addr"
            | "inet_server_addr"
            | "pg_relation_filepath"
            | "pg_advisory_unlock_all" => cast(null(), DataType::Text),
            "pg_table_size"
            | "pg_relation_size"
            | "pg_total_relation_size"
            | "pg_indexes_size"
            | "pg_database_size"
            | "inet_client_port"
            | "inet_server_port" => cast(null(), DataType::BigInt(None)),
            "obj_description" => {
                let of_tables = arguments.get(1).is_none_or(|catalog| text_of(catalog) == Some("pg_class"));
                match first {
                    Some(oid) if of_tables => call(COMMENT, vec![as_oid(oid), numeric(0)]),
                    _ => cast(null(), DataType::Text),
                }
            }
            "col_description" => match arguments.as_slice() {
                [oid, column] => call(COMMENT, vec![as_oid(oid), as_oid(column)]),
                _ => return Ok(None),
            },
            FORMAT_TYPE => match arguments.as_slice() {
                [oid, modifier] => {
                    call(FORMAT_TYPE, vec![as_oid(oid), cast(modifier.clone(), DataType::Int(None))])
                }
                _ => return Ok(None),
            },
            "to_regclass" => match first.and_then(text_of) {
                Some(text) => {
                    let oid = self.contents.oid_of_relation(text);
                    oid.map_or_else(|| cast(null(), DataType::BigInt(None)), numeric)
                }
                None => return Ok(None),
            },
            "parse_ident" => match first.and_then(text_of) {
                Some(text) => {
                    let parts = text.split('.').map(|part| literal(part.trim_matches('"')));
                    Expr::Array(Array { elem: parts.collect(), named: true })
                }
                None => return Ok(None),
            },
            "array_to_string" if first.is_some_and(is_null) => cast(null(), DataType::Text),
            "array_upper" => match first {
                Some(Expr::Array(array)) => numeric(array.elem.len() as i64),
                _ => return Ok(None),
            },
            _ => {
                // Functions have no schemas here.
                if function.name.0.len() > 1 {
                    function.name = ObjectName::from(vec![Ident::new(name)]);
                }
                return Ok(None);
            }
        }))
    }

    fn setting(&self, arguments: &[Expr]) -> Result<Expr, Failure> {
        let Some(name) = arguments.first().and_then(text_of) else {
            return Err(Failure::new(
                code::FEATURE_NOT_SUPPORTED,
                "current_setting of a name that is computed",
            ));
        };
        let may_be_missing =
            arguments.get(1).is_some_and(|missing| missing.to_string().eq_ignore_ascii_case("true"));
        match self.contents.settings.get(&name.to_ascii_lowercase()) {
            Some(value) => Ok(literal(value)),
            None if may_be_missing => Ok(cast(null(), DataType::Text)),
            None => Err(super::super::settings::unknown(name)),
        }
    }
}

/// `OPERATOR(pg_catalog.~)` without its schema.
fn plain_operator(operator: &BinaryOperator) -> Option<BinaryOperator> {
    let BinaryOperator::PGCustomBinaryOperator(parts) = operator else { return None };
    Some(match parts.last()?.as_str() {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// Whether a value is one of an array, or not.
fn among(value: &Expr, array: &Expr, negated: bool) -> Expr {
    let mut array = array;
    while let Expr::Nested(inner) | Expr::Cast { expr: inner, .. } = array {
        array = inner;
    }
    let list = match array {
        Expr::Array(array) => Some(array.elem.clone()),
        other => text_of(other).map(|text| {
            let elements = text.trim_start_matches('{').trim_end_matches('}').split(',');
            let elements = elements.map(str::trim).filter(|element| !element.is_empty());
            elements.map(|element| literal(element.trim_matches('"'))).collect()
        }),
    };
    match list {
        Some(list) if list.is_empty() => boolean(negated),
        Some(list) => Expr::InList { expr: Box::new(value.clone()), list, negated },
        None => {
            let found = call("array_has", vec![array.clone(), value.clone()]);
            if negated { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(found) } } else { found }
        }
    }
}

fn is_search_path(query: &Query) -> bool {
    let text = query.to_string();
    text.contains("'search_path'") && text.contains("generate_series")
}

/// Whether a privilege is one to read.
fn may(privilege: Option<&Expr>) -> bool {
    privilege.and_then(text_of).is_some_and(|privileges| {
        let mut privileges = privileges.split(',').map(|one| one.trim().to_ascii_uppercase());
        privileges.any(|one| matches!(one.as_str(), "SELECT" | "USAGE" | "CONNECT"))
    })
}

fn schema_oid(name: &str) -> Option<i64> {
    match name {
        OWN => Some(OWN_OID),
        STANDARD => Some(STANDARD_OID),
        name if name == CATALOG.1 => Some(TABLES_OID),
        _ => None,
    }
}

/// The number whose relation's name is meant.
fn named_relation(expression: &Expr) -> Option<Expr> {
    match expression {
        Expr::Function(function) if last(&function.name) == RELATION_NAME => arguments(function).pop(),
        _ => None,
    }
}

fn arguments(function: &Function) -> Vec<Expr> {
    let FunctionArguments::List(list) = &function.args else { return Vec::new() };
    let arguments = list.args.iter().filter_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    });
    arguments.collect()
}

/// The text that an expression is.
fn text_of(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        Expr::Nested(inner) => text_of(inner),
        Expr::Cast { expr, data_type, .. } if matches!(type_name(data_type).as_str(), "text" | "name") => {
            text_of(expr)
        }
        _ => None,
    }
}

fn is_null(expression: &Expr) -> bool {
    matches!(expression, Expr::Value(value) if value.value == Value::Null)
}

fn literal(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).with_empty_span())
}

fn numeric(number: i64) -> Expr {
    Expr::Value(Value::Number(number.to_string(), false).with_empty_span())
}

fn boolean(value: bool) -> Expr {
    Expr::Value(Value::Boolean(value).with_empty_span())
}

fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

fn as_oid(expression: &Expr) -> Expr {
    cast(expression.clone(), DataType::BigInt(None))
}

fn cast(expression: Expr, data_type: DataType) -> Expr {
    Expr::Cast {
        kind: datafusion::sql::sqlparser::ast::CastKind::Cast,
        expr: Box::new(expression),
        data_type,
        array: false,
        format: None,
    }
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(datafusion::sql::sqlparser::ast::FunctionArgumentList {
            duplicate_treatment: None,
            args: args.collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// An expression out of text that holds other expressions, as they are written.
fn parsed(text: &str) -> Result<Expr, Failure> {
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(DEPTH_MAX);
    let parsed = parser.try_with_sql(text).and_then(|mut parser| parser.parse_expr());
    parsed.map_err(|error| Failure::new(code::SYNTAX_ERROR, error.to_string()))
}
