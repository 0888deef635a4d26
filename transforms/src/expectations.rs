//! Expectations: named conditions on the rows of a source, and what to do with a row that does not meet one.
//!
//! Expectations are checked before the query, on the fields of the source and its metadata columns, in the order of
//! the spec; the first that a row fails decides its fate. A condition that is NULL for a row is met, as in SQL's
//! `CHECK`. A row that a condition cannot be evaluated for (a division by zero, a text that is no number) is rejected
//! under the rule [`SQL_ERROR`], whatever the action.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use isobar_schemas::RejectReason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checked::checked_expression;
use crate::error::{Error, message_of};
use crate::rows::{is_in_a_row, isolate};
use crate::rule::{RULES_OF_SQL, SQL_ERROR};
use crate::sql::SqlSession;
use crate::transform::{FailedRow, RowReject, shortened};

/// A condition that every row of a source should meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// The rule's name in counts, metrics and the quarantine: letters, digits, `_` and `-`.
    pub name: String,
    /// An SQL condition over the fields of the source and its metadata columns, such as `dep_time IS NOT NULL`. A row
    /// for which it is NULL meets it.
    pub check: String,
    /// What to do with a row that does not meet the condition.
    pub action: Action,
}

/// What to do with a row that does not meet an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Count it, and go on with it.
    Warn,
    /// Leave it out on purpose, and count it.
    Drop,
    /// Put its record into the quarantine.
    Quarantine,
    /// Stop the pipeline before it.
    Fail,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Action::Warn => "warn",
            Action::Drop => "drop",
            Action::Quarantine => "quarantine",
            Action::Fail => "fail",
        }
    }
}

/// Longest name of an expectation.
const NAME_BYTES_MAX: usize = 64;

/// Checks that the names can be told apart from each other and from the reasons of a decoder.
pub(crate) fn check_names(expectations: &[Expectation]) -> Result<(), Error> {
    let reserved = RejectReason::ALL.map(RejectReason::as_str);
    let mut seen = HashSet::new();
    for Expectation { name, .. } in expectations {
        let problem =
            |problem: &str| Error::ExpectationName { name: name.clone(), problem: problem.to_owned() };
        let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !is_word {
            return Err(problem("a name is 1 to 64 letters, digits, `_` and `-`"));
        }
        if RULES_OF_SQL.contains(&name.as_str()) || reserved.contains(&name.as_str()) {
            return Err(problem("isobar itself rejects records under this name; choose another"));
        }
        if !seen.insert(name) {
            return Err(problem("the name is given twice"));
        }
    }
    Ok(())
}

/// An expectation whose check is known to be good.
#[derive(Debug)]
pub(crate) struct Rule {
    name: String,
    action: Action,
    condition: Expr,
}

impl Rule {
    pub(crate) fn plan(session: &SqlSession, expectation: &Expectation) -> Result<Self, Error> {
        let condition =
            session.condition(&expectation.check).map_err(|source| in_check(&expectation.name, source))?;
        Ok(Self { name: expectation.name.clone(), action: expectation.action, condition })
    }

    /// The names of the columns that the check reads.
    pub(crate) fn columns_read(&self) -> BTreeSet<String> {
        self.condition.column_refs().into_iter().map(|column| column.name.clone()).collect()
    }

    /// What the rule does, however its check was written.
    pub(crate) fn canonical(&self) -> String {
        format!("{} {} {}", self.name, self.action.as_str(), self.condition)
    }
}

fn in_check(name: &str, source: Error) -> Error {
    Error::ExpectationCheck { name: name.to_owned(), source: Box::new(source) }
}

/// The fates that expectations decided for the rows of a batch.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Whether each row goes on to the query; `None` if all do.
    pub(crate) accepted: Option<BooleanBuffer>,
    pub(crate) dropped: BTreeMap<String, u64>,
    pub(crate) warned: BTreeMap<String, u64>,
    pub(crate) rejects: Vec<RowReject>,
    /// The first row that must stop the pipeline.
    pub(crate) failed: Option<FailedRow>,
}

/// Expectations compiled for batches of one schema.
#[derive(Debug)]
pub(crate) struct Expectations {
    rules: Vec<CompiledRule>,
}

#[derive(Debug)]
struct CompiledRule {
    name: String,
    action: Action,
    condition: Arc<dyn PhysicalExpr>,
}

impl Expectations {
    /// Compiles `rules` for batches of `schema`, which has the columns they read.
    pub(crate) fn compile(
        session: &SqlSession,
        source_name: &str,
        schema: &SchemaRef,
        rules: Vec<Rule>,
    ) -> Result<Self, Error> {
        let columns = DFSchema::try_from_qualified_schema(source_name, schema).map_err(Error::execution)?;
        let compile = |rule: Rule| {
            let invalid = |error| in_check(&rule.name, Error::invalid_sql(error));
            let condition = session
                .state()
                .create_physical_expr(rule.condition.clone(), &columns)
                .and_then(checked_expression)
                .map_err(invalid)?;
            let data_type = condition.data_type(schema).map_err(invalid)?;
            if data_type != DataType::Boolean {
                let message =
                    format!("a check is a condition, but `{}` is of type {data_type}", rule.condition);
                return Err(in_check(&rule.name, Error::InvalidSql { location: None, message }));
            }
            Ok(CompiledRule { name: rule.name, action: rule.action, condition })
        };
        Ok(Self { rules: rules.into_iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Decides which rows of `batch` go on to the query, and what becomes of the others.
    pub(crate) fn check(&self, batch: &RecordBatch) -> Result<Verdict, Error> {
        let mut verdict = Verdict::default();
        let mut fates = Fates { undecided: vec![true; batch.num_rows()], decided: 0 };
        for rule in &self.rules {
            let misses = rule.misses(batch, &fates)?;
            let missed = misses.iter().filter(|(_, error)| error.is_none()).count() as u64;
            match rule.action {
                Action::Warn => add(&mut verdict.warned, &rule.name, missed),
                Action::Drop => add(&mut verdict.dropped, &rule.name, missed),
                Action::Quarantine | Action::Fail => {}
            }
            for (row, error) in misses {
                fates.decide(rule, row, error, &mut verdict);
            }
        }
        verdict.accepted = (fates.decided > 0).then(|| fates.undecided.into_iter().collect());
        Ok(verdict)
    }
}

fn add(counts: &mut BTreeMap<String, u64>, rule: &str, rows: u64) {
    if rows > 0 {
        *counts.entry(rule.to_owned()).or_default() += rows;
    }
}

/// Which rows still await their fate.
struct Fates {
    undecided: Vec<bool>,
    decided: usize,
}

impl Fates {
    /// Decides the fate of a row that missed `rule`, or that its check failed on.
    fn decide(&mut self, rule: &CompiledRule, row: u32, error: Option<String>, verdict: &mut Verdict) {
        let (name, message) = match (error, rule.action) {
            (Some(error), _) => (SQL_ERROR, shortened(format!("expectation `{}`: {error}", rule.name))),
            (None, Action::Warn) => return,
            (None, Action::Drop) => return self.close(row),
            (None, Action::Quarantine) => {
                (rule.name.as_str(), format!("the expectation `{}` is not met", rule.name))
            }
            (None, Action::Fail) => {
                let is_first = verdict.failed.as_ref().is_none_or(|failed| row < failed.row);
                if is_first {
                    verdict.failed = Some(FailedRow { row, rule: rule.name.clone() });
                }
                return self.close(row);
            }
        };
        verdict.rejects.push(RowReject { row, rule: name.to_owned(), message });
        self.close(row);
    }

    fn close(&mut self, row: u32) {
        self.undecided[row as usize] = false;
        self.decided += 1;
    }

    /// The rows that still await their fate.
    fn open_rows(&self) -> UInt32Array {
        let rows = self.undecided.iter().zip(0..).filter(|(undecided, _)| **undecided);
        rows.map(|(_, row)| row).collect::<Vec<u32>>().into()
    }
}

impl CompiledRule {
    /// The undecided rows that miss the rule, and those that its check fails on, with the error; in order.
    fn misses(&self, batch: &RecordBatch, fates: &Fates) -> Result<Vec<(u32, Option<String>)>, Error> {
        match self.evaluate(batch) {
            Ok(met) => {
                let mut misses = Vec::new();
                for_each_false(&met, |row| {
                    if fates.undecided[row] {
                        misses.push((row as u32, None));
                    }
                });
                Ok(misses)
            }
            Err(error) if is_in_a_row(&error) => self.misses_one_by_one(batch, fates),
            Err(error) => Err(Error::execution(error)),
        }
    }

    /// The same, if the check fails on some row. It may be one whose fate an earlier rule has decided.
    fn misses_one_by_one(
        &self,
        batch: &RecordBatch,
        fates: &Fates,
    ) -> Result<Vec<(u32, Option<String>)>, Error> {
        let rows = fates.open_rows();
        let open = take_record_batch(batch, &rows).map_err(|error| Error::execution(error.into()))?;
        let mut misses = Vec::new();
        isolate(&open, &mut |part| self.evaluate(&part), &mut |start, _, result| match result {
            Ok(met) => for_each_false(&met, |row| misses.push((rows.value(start + row), None))),
            Err(error) => misses.push((rows.value(start), Some(message_of(&error)))),
        })?;
        Ok(misses)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, DataFusionError> {
        let met = self.condition.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(as_boolean_array(&met)?.clone())
    }
}

/// Calls `found` for every row that is false: not true, and not null.
fn for_each_false(array: &BooleanArray, mut found: impl FnMut(usize)) {
    let falses = !array.values();
    let falses = match array.nulls() {
        Some(nulls) => &falses & nulls.inner(),
        None => falses,
    };
    falses.set_indices().for_each(&mut found);
}
