//! The queries of a spec: compiled, and what is wrong with them shown where it stands in the YAML.

use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use isobar_connectors::dataset::{Compression, TableLayout};
use isobar_connectors::delta::schema::to_delta;
use isobar_schemas::fields::type_name;
use isobar_transforms::{DatasetTransform, Error as TransformError, Expectation, TransformSpec};

use super::SourceSpec;
use super::check::Place;
use super::problem::Position;
use super::resolve::Resolver;
use super::suggest::did_you_mean;
use crate::inference::{InferenceLimits, Predictors};

/// Any path will do to ask the writer about a schema.
const DATASETS_FOLDER: &str = "datasets";

/// What makes a dataset of its source.
pub(super) struct Query<'a> {
    pub(super) sql: &'a str,
    /// In the order of the spec, without those that are wrong in themselves.
    pub(super) expectations: &'a [(usize, Expectation)],
    pub(super) partition_by: &'a [String],
}

/// Compiles the dataset at `pointer` and reports what is wrong with its query, its expectations and its partition
/// columns. The compiler stops at the first problem, so the query and each expectation are compiled on their own. The
/// columns of the query, if it compiles.
pub(super) fn check(
    resolver: &mut Resolver<'_>,
    pointer: &str,
    input: &SourceSpec,
    query: &Query<'_>,
) -> Option<SchemaRef> {
    let at_sql = format!("{pointer}/sql");
    if query.sql.trim().is_empty() {
        let suggestion = format!("`SELECT * FROM {}`, for example", input.name);
        resolver.report(at_sql, Place::Value, "`sql` is empty", Some(suggestion));
        return None;
    }
    check_expectations(resolver, &format!("{pointer}/expect"), input, query.expectations);
    match compile(input, query.sql, &[]) {
        Ok(transform) => {
            check_output(resolver, pointer, transform.output_schema(), query.partition_by);
            Some(transform.output_schema().clone())
        }
        Err(error) => {
            report_error(resolver, at_sql, query.sql, &error);
            None
        }
    }
}

/// The columns of `sql` over `input`, if it compiles.
pub(super) fn columns(input: &SourceSpec, sql: &str) -> Option<SchemaRef> {
    compile(input, sql, &[]).ok().map(|transform| transform.output_schema().clone())
}

/// Compiles each of the expectations at `pointer`, given with their indexes, and reports what is wrong with them.
pub(super) fn check_expectations(
    resolver: &mut Resolver<'_>,
    pointer: &str,
    input: &SourceSpec,
    expectations: &[(usize, Expectation)],
) {
    for (index, expectation) in expectations {
        let everything = format!("SELECT * FROM \"{}\"", input.name);
        match compile(input, &everything, std::slice::from_ref(expectation)) {
            // Names were checked before, all of them against each other.
            Ok(_) | Err(TransformError::ExpectationName { .. }) => {}
            Err(error) => {
                let at_check = format!("{pointer}/{index}/check");
                report_error(resolver, at_check, &expectation.check, &error);
            }
        }
    }
}

fn compile(
    input: &SourceSpec,
    sql: &str,
    expectations: &[Expectation],
) -> Result<DatasetTransform, TransformError> {
    let spec = TransformSpec {
        source_name: input.name.clone(),
        input_schema: input.schema.clone(),
        sql: sql.to_owned(),
        expectations: expectations.to_vec(),
    };
    // Which models answer does not matter to what a query is.
    DatasetTransform::compile_with(spec, &[Predictors::of_stream(&InferenceLimits::default()).function()])
}

/// Reports `error`, found in the text `sql` at `pointer`, where it lies in the YAML.
fn report_error(resolver: &mut Resolver<'_>, pointer: String, sql: &str, error: &TransformError) {
    let place = error.location().and_then(|location| {
        let start = resolver.locations.get(&pointer)?.value.0;
        let (line, column) = (usize::try_from(location.line).ok()?, usize::try_from(location.column).ok()?);
        place_in_yaml(resolver.text, start, sql, line, column)
    });
    // A message repeats the place in the SQL only where it has none in the YAML.
    let message =
        if place.is_some() { message_without_place(error) } else { crate::chain_of(innermost(error)) };
    let (message, suggestion) = split_suggestion(&message);
    resolver.report(pointer, place.map_or(Place::Value, Place::At), message, suggestion);
}

/// The error of the check itself, without the name of its expectation: the place says which it is.
fn innermost(error: &TransformError) -> &TransformError {
    match error {
        TransformError::ExpectationCheck { source, .. } => innermost(source),
        other => other,
    }
}

fn message_without_place(error: &TransformError) -> String {
    match innermost(error) {
        TransformError::InvalidSql { message, .. } => message.clone(),
        TransformError::Refused { what, why, .. } => format!("{what} is not possible here: {why}"),
        other => crate::chain_of(other),
    }
}

/// The engine's message, and the suggestion in it.
fn split_suggestion(message: &str) -> (String, Option<String>) {
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((problem, rest)) = message.split_once(". Did you mean '") {
        let column = rest.split('\'').next().unwrap_or_default();
        // There is one table, so its name before the column helps nobody.
        let column = column.rsplit('.').next().unwrap_or_default();
        return (problem.to_owned(), Some(format!("did you mean `{column}`?")));
    }
    if let Some((problem, columns)) = message.split_once(". Valid fields are ") {
        return (problem.to_owned(), Some(format!("the columns are {}", columns.trim_end_matches('.'))));
    }
    (message.trim_end_matches('.').to_owned(), None)
}

fn check_output(resolver: &mut Resolver<'_>, pointer: &str, output: &SchemaRef, partition_by: &[String]) {
    let found_before = resolver.found();
    let at_sql = format!("{pointer}/sql");
    if let Err(error) = to_delta(output) {
        let suggestion =
            "give the column another name or type in the query, such as `CAST(x AS BIGINT) AS name`";
        resolver.report(&at_sql, Place::Value, crate::chain_of(&error), Some(suggestion.into()));
    }
    let at = format!("{pointer}/partition_by");
    for (index, column) in partition_by.iter().enumerate() {
        let at_column = format!("{at}/{index}");
        match output.field_with_name(column) {
            Err(_) => {
                let names = output.fields().iter().map(|field| field.name().as_str());
                let message = format!("the query has no column `{column}`");
                resolver.report(at_column, Place::Value, message, did_you_mean(column, names));
            }
            Ok(field) if !can_partition(field.data_type()) => {
                let message =
                    format!("`{column}` is a {}, which cannot name a folder", type_name(field.data_type()));
                let suggestion = "choose a column of texts, whole numbers, dates or booleans";
                resolver.report(at_column, Place::Value, message, Some(suggestion.into()));
            }
            Ok(_) => {}
        }
    }
    let is_left = |field: &&FieldRef| !partition_by.contains(field.name());
    if !output.fields().iter().any(|field| is_left(&field)) {
        let message = "every column of the query names a folder; none is left for the files";
        resolver.report(&at, Place::Key, message, Some("leave at least one column out".into()));
    }
    if resolver.found() == found_before {
        // The writer has the last word, so that a spec which passes can be written.
        let layout = TableLayout::new(DATASETS_FOLDER, output.clone(), partition_by, Compression::default());
        if let Err(error) = layout {
            resolver.report(&at_sql, Place::Value, crate::chain_of(&error), None);
        }
    }
}

fn can_partition(data_type: &DataType) -> bool {
    !data_type.is_nested() && !data_type.is_floating() && !matches!(data_type, DataType::Binary)
}

/// Where line `line`, column `column` of a text of the YAML lies in the YAML. `start` is where the text starts.
///
/// It is worked out for texts whose lines stand in the YAML as they are (`|` blocks, texts on one line) and compared
/// with what stands there; for others (`>` blocks, escapes) there is no such place.
fn place_in_yaml(yaml: &str, start: Position, text: &str, line: usize, column: usize) -> Option<Position> {
    let blank_lines = text.chars().take_while(|c| *c == '\n').count();
    let line_in_yaml = (start.line + line.checked_sub(1)?).checked_sub(blank_lines)?;
    let wanted = text.split('\n').nth(line - 1)?;
    let written = yaml.lines().nth(line_in_yaml.checked_sub(1)?)?;
    let indent = start.column - 1;
    // A text in quotes starts after the first of them.
    let offset = [indent, indent + 1].into_iter().take(if line == 1 { 2 } else { 1 }).find(|offset| {
        let tail: String = written.chars().skip(*offset).collect();
        tail.starts_with(wanted)
    })?;
    Some(Position { line: line_in_yaml, column: offset + column })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_sql_are_places_in_the_yaml() {
        let at = |line, column| Position { line, column };
        let block = "sql: |\n    SELECT a,\n      b FROM\n    t\n";
        let text = "SELECT a,\n  b FROM\nt\n";
        assert_eq!(place_in_yaml(block, at(2, 5), text, 1, 8), Some(at(2, 12)));
        assert_eq!(place_in_yaml(block, at(2, 5), text, 2, 3), Some(at(3, 7)));
        assert_eq!(place_in_yaml(block, at(2, 5), text, 9, 1), None);
        let blank_first = "sql: |\n\n    SELECT a\n";
        assert_eq!(place_in_yaml(blank_first, at(3, 5), "\nSELECT a\n", 2, 8), Some(at(3, 12)));
        assert_eq!(place_in_yaml("sql: SELECT a", at(1, 6), "SELECT a", 1, 8), Some(at(1, 13)));
        assert_eq!(place_in_yaml("sql: \"SELECT a\"", at(1, 6), "SELECT a", 1, 8), Some(at(1, 14)));
        let folded = "sql: >\n  SELECT a,\n  b\n";
        assert_eq!(place_in_yaml(folded, at(2, 3), "SELECT a, b\n", 1, 11), None);
    }

    #[test]
    fn suggestions_of_the_engine_become_help() {
        let both =
            "No field named arr_dely. Did you mean 'flights.arr_delay'?.\nValid fields are flights.year.";
        let expected = ("No field named arr_dely".to_owned(), Some("did you mean `arr_delay`?".to_owned()));
        assert_eq!(split_suggestion(both), expected);
        let expected = ("No field named x".to_owned(), Some("the columns are a, b".to_owned()));
        assert_eq!(split_suggestion("No field named x.\nValid fields are a, b."), expected);
        assert_eq!(split_suggestion("Expected: x."), ("Expected: x".to_owned(), None));
    }
}
