//! The way of rows from a source to a dataset: expectations first, then the query.
//!
//! A [`DatasetTransform`] is compiled once per dataset and then run on one batch after the other. Each row given gets
//! exactly one fate (see [`RowCounts`]), which depends on that row alone: the result is the same however records are
//! cut into batches. A row that an expression fails on is rejected under the rule [`SQL_ERROR`](crate::SQL_ERROR); it never stops the
//! others. A function can say that it is another rule ([`RuleError`](crate::RuleError)).

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::logical_expr::ScalarUDF;
use isobar_schemas::metadata::schema_with_metadata;
use isobar_schemas::{MetadataColumn, RowCounts};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::expectations::{self, Expectation, Expectations, Rule, Verdict};
use crate::query::Query;
use crate::rows::{is_in_a_row, isolate};
use crate::rule::rule_of;
use crate::sql::SqlSession;

/// Longest message of a reject, in bytes: errors of casts repeat the value, however long it is.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What makes a dataset out of a source.
#[derive(Debug, Clone)]
pub struct TransformSpec {
    /// The name of the source, which is the name of the table in SQL.
    pub source_name: String,
    /// The fields of the source, as decoded.
    pub input_schema: SchemaRef,
    /// The query.
    pub sql: String,
    /// The expectations, in the order in which they are checked.
    pub expectations: Vec<Expectation>,
}

/// A row that is kept out of the dataset and goes to its quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowReject {
    /// Index of the row in the batch given.
    pub row: u32,
    /// The expectation it did not meet, or one of [`RULES_OF_SQL`](crate::RULES_OF_SQL).
    pub rule: String,
    /// Why, in words.
    pub message: String,
}

/// A row that must stop the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRow {
    /// Index of the row in the batch given.
    pub row: u32,
    /// The expectation with the action `fail` that it did not meet.
    pub rule: String,
}

/// What became of a batch.
#[derive(Debug, Clone)]
#[must_use]
pub struct TransformOutcome {
    /// The rows of the dataset, in the order of the rows given.
    pub rows: RecordBatch,
    /// The fates of all rows given; of those before the failed row, if there is one.
    pub counts: RowCounts,
    /// The rows rejected, in order.
    pub rejects: Vec<RowReject>,
    /// The first row that must stop the pipeline. Nothing after it has been looked at; everything before it is here
    /// and may be committed.
    pub failed: Option<FailedRow>,
}

/// A compiled transform. See the [module](self).
#[derive(Debug)]
pub struct DatasetTransform {
    expectations: Expectations,
    query: Query,
    metadata_columns: Vec<MetadataColumn>,
    batch_schema: SchemaRef,
    fingerprint: String,
}

impl DatasetTransform {
    /// Compiles `spec`.
    ///
    /// # Errors
    /// If the query or an expectation is wrong, or not possible for a stream.
    pub fn compile(spec: TransformSpec) -> Result<Self, Error> {
        Self::compile_with(spec, &[])
    }

    /// The same, with further functions. What they give for a row must depend on that row, on what the transform was given
    /// and on nothing else, or the caller says what it depended on.
    ///
    /// # Errors
    /// Those of [`compile`](Self::compile).
    pub fn compile_with(spec: TransformSpec, functions: &[Arc<ScalarUDF>]) -> Result<Self, Error> {
        let TransformSpec { source_name, input_schema, sql, expectations } = spec;
        expectations::check_names(&expectations)?;
        let table_schema = schema_with_metadata(&input_schema, &MetadataColumn::ALL);
        let session = SqlSession::with_functions(&source_name, table_schema, functions)?;
        let query = Query::compile(&session, &sql)?;
        let rules = expectations
            .iter()
            .map(|expectation| Rule::plan(&session, expectation))
            .collect::<Result<Vec<_>, _>>()?;
        let fingerprint = fingerprint(&source_name, &input_schema, &query, &rules);

        let mut columns_read = query.columns_read();
        rules.iter().for_each(|rule| columns_read.extend(rule.columns_read()));
        let mut metadata_columns = MetadataColumn::ALL.to_vec();
        metadata_columns.retain(|column| columns_read.contains(column.name()));
        let batch_schema = schema_with_metadata(&input_schema, &metadata_columns);
        let expectations = Expectations::compile(&session, &source_name, &batch_schema, rules)?;
        Ok(Self { expectations, query, metadata_columns, batch_schema, fingerprint })
    }

    /// The schema of the dataset's rows: names, types and nullability as a Delta table can store them.
    pub fn output_schema(&self) -> &SchemaRef {
        self.query.output_schema()
    }

    /// The metadata columns that batches must carry after the fields of the source, in this order.
    pub fn metadata_columns(&self) -> &[MetadataColumn] {
        &self.metadata_columns
    }

    /// Whether `column` is one of them.
    pub fn uses(&self, column: MetadataColumn) -> bool {
        self.metadata_columns.contains(&column)
    }

    /// SHA-256, in hexadecimal, of what the transform does: the optimised plan, the expectations, and the schemas.
    /// White space and comments in the SQL make no difference.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The optimised logical and physical plan, for people.
    pub fn explain(&self) -> String {
        self.query.explain()
    }

    /// Transforms `batch`: the fields of the source, then [`metadata_columns`](Self::metadata_columns).
    ///
    /// # Errors
    /// Never because of what is in a row; only by a lack of memory, or by a bug.
    pub fn run(&mut self, batch: RecordBatch) -> Result<TransformOutcome, Error> {
        self.check_columns(&batch)?;
        let verdict = self.expectations.check(&batch)?;
        match verdict.failed {
            None => self.run_query(batch, verdict),
            Some(failed) => {
                let before = batch.slice(0, failed.row as usize);
                let verdict = self.expectations.check(&before)?;
                debug_assert!(verdict.failed.is_none(), "the failed row was the first");
                Ok(TransformOutcome { failed: Some(failed), ..self.run_query(before, verdict)? })
            }
        }
    }

    /// Runs the query on the rows of `batch` that `verdict` leaves, and adds everything up.
    fn run_query(&self, batch: RecordBatch, verdict: Verdict) -> Result<TransformOutcome, Error> {
        let mut rejects = verdict.rejects;
        let accepted = match &verdict.accepted {
            None => batch.clone(),
            Some(accepted) => filter_record_batch(&batch, &accepted.clone().into())
                .map_err(|error| Error::execution(error.into()))?,
        };
        let accepted_rows = accepted.num_rows();
        let errors_before = rejects.len();
        let rows = match self.query.run(accepted.clone()) {
            Ok(rows) => rows,
            Err(error) if is_in_a_row(&error) => {
                let rows_given: Vec<usize> = match &verdict.accepted {
                    None => (0..accepted_rows).collect(),
                    Some(accepted) => accepted.set_indices().collect(),
                };
                self.run_query_on_parts(&accepted, &rows_given, &mut rejects)?
            }
            Err(error) => return Err(Error::execution(error)),
        };
        let errors = rejects.len() - errors_before;
        rejects.sort_by_key(|reject| reject.row);

        let mut counts = RowCounts {
            input: batch.num_rows() as u64,
            output: rows.num_rows() as u64,
            filtered: (accepted_rows - errors - rows.num_rows()) as u64,
            dropped: verdict.dropped,
            warned: verdict.warned,
            ..RowCounts::default()
        };
        for reject in &rejects {
            *counts.rejected.entry(reject.rule.clone()).or_default() += 1;
        }
        assert!(counts.adds_up(), "every row has one fate: {counts:?}");
        Ok(TransformOutcome { rows, counts, rejects, failed: None })
    }

    /// Runs the query on parts of `accepted`, because it fails on some row, and rejects those rows. Row `r` is row
    /// `rows_given[r]` of the batch given.
    fn run_query_on_parts(
        &self,
        accepted: &RecordBatch,
        rows_given: &[usize],
        rejects: &mut Vec<RowReject>,
    ) -> Result<RecordBatch, Error> {
        let mut parts = Vec::new();
        isolate(accepted, &mut |part| self.query.run(part), &mut |start, _, result| match result {
            Ok(rows) => parts.push(rows),
            Err(error) => {
                let (row, (rule, message)) = (rows_given[start] as u32, rule_of(&error));
                rejects.push(RowReject { row, rule: rule.to_owned(), message: shortened(message) });
            }
        })?;
        concat_batches(self.output_schema(), &parts).map_err(|error| Error::execution(error.into()))
    }

    fn check_columns(&self, batch: &RecordBatch) -> Result<(), Error> {
        let found = batch.schema();
        let fits = found.fields().len() == self.batch_schema.fields().len()
            && found.fields().iter().zip(self.batch_schema.fields()).all(|(found, expected)| {
                found.name() == expected.name() && found.data_type() == expected.data_type()
            });
        if fits {
            return Ok(());
        }
        Err(Error::ForeignBatch { found: columns_of(&found), expected: columns_of(&self.batch_schema) })
    }
}

/// The names and types of columns.
fn columns_of(schema: &Schema) -> String {
    let columns: Vec<_> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    format!("({})", columns.join(", "))
}

/// The same, with nullability: everything about a schema that the bytes of a table depend on.
fn canonical_schema(schema: &Schema) -> String {
    let field = |field: &arrow::datatypes::FieldRef| {
        format!(
            "{:?} {:?} {}",
            field.name(),
            field.data_type(),
            if field.is_nullable() { "nullable" } else { "required" }
        )
    };
    schema.fields().iter().map(field).collect::<Vec<_>>().join("\n")
}

fn fingerprint(source_name: &str, input_schema: &Schema, query: &Query, rules: &[Rule]) -> String {
    let rules: Vec<_> = rules.iter().map(Rule::canonical).collect();
    let sections = [
        ("source", source_name.to_owned()),
        ("input", canonical_schema(input_schema)),
        ("expectations", rules.join("\n")),
        ("plan", query.canonical()),
        ("output", canonical_schema(query.output_schema())),
    ];
    let mut digest = Sha256::new_with_prefix("isobar transform 1\n");
    for (name, text) in sections {
        // With the length in front, no text can be taken for another's part.
        digest.update(format!("{name} {}\n{text}\n", text.len()));
    }
    hex::encode(digest.finalize())
}

/// `message`, cut to what a quarantine table should hold.
pub(crate) fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests;
