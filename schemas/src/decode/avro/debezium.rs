//! Debezium's change events in Avro, as Kafka Connect's AvroConverter writes them: the row out of its envelope.
//!
//! ```text
//! record Envelope { before: null | Value, after: null | Value, source: Source, op: string, ts_ms: null | long, … }
//! ```
//!
//! [`debezium`](crate::decode::debezium) says which events are rows. What kind of events a schema has is seen from the names
//! of its fields, once: changes of rows have an `op`; heartbeats and boundaries of transactions, which have schemas of
//! their own, have none. The record of the row is resolved against the contract like any other, and is read straight into
//! the columns from `after`. Which field has the row is known when `op` was read, and it mostly comes later: `before` is
//! stepped over, and read afterwards if it was a delete.

use arrow::datatypes::Fields;

use super::input::Input;
use super::read::{read_fields, read_value, skip};
use super::resolve::{Problems, RecordPlan, Resolver, Root, Step, incompatible, not_a_record, of_branch};
use super::schema::{AvroSchema, Field, Type, TypeId, Unit};
use crate::decode::columns::Columns;
use crate::decode::debezium::{self, DELETE, Member, MemberSet};
use crate::decode::reject::{Fault, Parsed, RejectReason};
use crate::decode::rows::Read;

/// How to read the events of one record, or of null.
#[derive(Debug)]
pub(crate) enum EventPlan {
    /// Changes of rows, or what else has an operation.
    Change(ChangePlan),
    /// Events without an operation that say nothing of rows.
    Eventless(EventlessPlan),
    /// No event.
    Null,
}

/// How to read changes of rows.
#[derive(Debug)]
pub(crate) struct ChangePlan {
    /// In the order in which they were written.
    steps: Vec<EventStep>,
    /// How to read the row before the change, if the writer has a field for it.
    before: Option<Optional<RecordPlan>>,
    /// Whether the writer has a field for when the change was made.
    has_source: bool,
    /// The column of the operation, behind those of the row; that of the time follows it.
    op_column: usize,
}

/// What to do with a field of an event.
#[derive(Debug)]
enum EventStep {
    /// Take note of where it is, and step over it.
    Before(TypeId),
    /// Read the row.
    After(Optional<RecordPlan>),
    /// Read the time.
    Source(Optional<SourcePlan>),
    Op(TypeId),
    Skip(String, TypeId),
}

/// How to read where a change comes from: when it was made.
#[derive(Debug)]
struct SourcePlan {
    /// In the order in which they were written.
    steps: Vec<SourceStep>,
    /// Whether one of them is the time.
    has_timestamp: bool,
}

/// What to do with a field of the source of a change.
#[derive(Debug)]
enum SourceStep {
    /// Read it into the column of the time.
    Timestamp(Step),
    Skip(String, TypeId),
}

/// How to read events of which no field is the operation.
#[derive(Debug)]
pub(crate) struct EventlessPlan {
    /// In the order in which they were written.
    fields: Vec<(String, TypeId)>,
    /// Whether the status must be that of a transaction that begins or ends.
    has_status: bool,
}

/// How to read a record, null, or a union of these.
#[derive(Debug)]
struct Optional<T> {
    is_union: bool,
    /// Of each branch, or of the only type: how to read it, `None` for null; or why not.
    branches: Vec<Result<Option<T>, Box<Fault>>>,
}

impl<T> Optional<T> {
    /// How to read the record that comes next, if it is one.
    fn next(&self, input: &mut Input<'_>) -> Parsed<Option<&T>> {
        let branch = if self.is_union { input.index(self.branches.len(), "branch")? } else { 0 };
        match &self.branches[branch] {
            Ok(record) => Ok(record.as_ref()),
            Err(fault) => Err(fault.clone()),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Resolution.

impl Resolver<'_> {
    /// How to read events of the writer's schema, whose rows have these columns.
    pub(crate) fn events(&mut self, columns: &Fields) -> Result<Root, Problems> {
        let schema = self.schema;
        let Type::Union(branches) = schema.get(schema.root()) else {
            return Ok(Root::Event(self.event(schema.root(), columns)?));
        };
        let branches: Vec<_> = branches.iter().map(|branch| self.event(*branch, columns)).collect();
        if branches.iter().all(|branch| !matches!(branch, Ok(EventPlan::Change(_) | EventPlan::Eventless(_))))
        {
            let problems: Problems = branches.into_iter().filter_map(Result::err).flatten().collect();
            return Err(if problems.is_empty() { vec![debezium::no_event()] } else { problems });
        }
        Ok(Root::Events(branches.into_iter().map(|branch| branch.map_err(of_branch)).collect()))
    }

    fn event(&mut self, id: TypeId, columns: &Fields) -> Result<EventPlan, Problems> {
        let schema = self.schema;
        let fields = match schema.get(id) {
            Type::Record { fields, .. } => fields,
            Type::Null => return Ok(EventPlan::Null),
            other => return Err(vec![not_a_record(other)]),
        };
        self.look(fields.len())?;
        let mut members = MemberSet::default();
        for field in fields {
            members.add(Member::of(&field.name));
        }
        if members.has(Member::Op) {
            return Ok(EventPlan::Change(self.change(fields, columns)?));
        }
        if !members.is_heartbeat() && !members.is_boundary() {
            return Err(vec![debezium::no_event()]);
        }
        let fields = fields.iter().map(|field| (field.name.clone(), field.of)).collect();
        Ok(EventPlan::Eventless(EventlessPlan { fields, has_status: members.has(Member::Status) }))
    }

    fn change(&mut self, fields: &[Field], columns: &Fields) -> Result<ChangePlan, Problems> {
        let after = fields.iter().find(|field| Member::of(&field.name) == Member::After);
        let mut steps = Vec::with_capacity(fields.len());
        let (mut before, mut has_source) = (None, false);
        let mut problems = Vec::new();
        for field in fields {
            let step = match Member::of(&field.name) {
                Member::Before => match self.optional(field.of, |it, row| it.record(row, columns)) {
                    Ok(row) => {
                        before = Some(row);
                        Ok(EventStep::Before(field.of))
                    }
                    // What is in the way of a row is said once.
                    Err(_) if after.is_some_and(|after| self.has_same_records(field.of, after.of)) => {
                        continue;
                    }
                    Err(inner) => Err(inner),
                },
                Member::After => {
                    self.optional(field.of, |it, row| it.record(row, columns)).map(EventStep::After)
                }
                Member::Source => {
                    has_source = true;
                    self.optional(field.of, Self::source).map(EventStep::Source)
                }
                Member::Op => self.check_text(field.of).map(|()| EventStep::Op(field.of)),
                _ => Ok(EventStep::Skip(field.name.clone(), field.of)),
            };
            match step {
                Ok(step) => steps.push(step),
                Err(inner) => problems.extend(inner.into_iter().map(|fault| fault.within(&field.name))),
            }
        }
        if problems.is_empty() {
            Ok(ChangePlan { steps, before, has_source, op_column: columns.len() })
        } else {
            Err(problems)
        }
    }

    /// How to read `id`, of which a record is read as `record` says.
    fn optional<T>(
        &mut self,
        id: TypeId,
        mut record: impl FnMut(&mut Self, &[Field]) -> Result<T, Problems>,
    ) -> Result<Optional<T>, Problems> {
        let schema = self.schema;
        let mut read = |id: TypeId| match schema.get(id) {
            Type::Null => Ok(None),
            Type::Record { fields, .. } => record(&mut *self, fields).map(Some),
            other => Err(vec![not_a_record(other)]),
        };
        let (is_union, branches): (bool, Vec<Result<Option<T>, Problems>>) = match schema.get(id) {
            Type::Union(branches) => (true, branches.iter().map(|branch| read(*branch)).collect()),
            _ => (false, vec![read(id)]),
        };
        let is_unreadable = branches.iter().any(Result::is_err);
        if is_unreadable && !branches.iter().any(|branch| matches!(branch, Ok(Some(_)))) {
            return Err(branches.into_iter().filter_map(Result::err).flatten().collect());
        }
        let branches = branches.into_iter().map(|branch| branch.map_err(of_branch)).collect();
        Ok(Optional { is_union, branches })
    }

    fn source(&mut self, fields: &[Field]) -> Result<SourcePlan, Problems> {
        self.look(fields.len())?;
        let mut has_timestamp = false;
        let steps = fields.iter().map(|field| {
            if Member::of(&field.name) != Member::Millis {
                return Ok(SourceStep::Skip(field.name.clone(), field.of));
            }
            has_timestamp = true;
            let step = self.timestamp(field.of);
            step.map(SourceStep::Timestamp).map_err(|fault| vec![fault.within(&field.name)])
        });
        let steps = steps.collect::<Result<_, Problems>>()?;
        Ok(SourcePlan { steps, has_timestamp })
    }

    /// How to read milliseconds since the Unix epoch as a timestamp.
    fn timestamp(&self, id: TypeId) -> Result<Step, Box<Fault>> {
        match self.schema.get(id) {
            Type::Null => Ok(Step::Null),
            Type::Long => Ok(Step::Timestamp(Unit::Millis)),
            Type::Timestamp(unit) => Ok(Step::Timestamp(*unit)),
            Type::Union(branches) => {
                // Unions have no unions in them.
                let mut steps: Vec<_> = branches.iter().map(|branch| self.timestamp(*branch)).collect();
                let is_readable = steps.iter().any(|step| matches!(step, Ok(Step::Timestamp(_))));
                if let Some(unreadable) = steps.iter().position(Result::is_err).filter(|_| !is_readable) {
                    return steps.swap_remove(unreadable);
                }
                let steps = steps.into_iter().map(|step| step.map_err(|fault| of_branch(vec![fault])));
                Ok(Step::Union(steps.collect()))
            }
            other => Err(incompatible(format!(
                "the writer's {} is no long, of milliseconds since 1970-01-01 00:00 UTC",
                other.describe()
            ))),
        }
    }

    /// Whether both are records, or unions of records and others, and the records are the same: each can be read if the
    /// other can.
    fn has_same_records(&self, one: TypeId, other: TypeId) -> bool {
        let records = |id: TypeId| -> Vec<TypeId> {
            let of = match self.schema.get(id) {
                Type::Union(branches) => branches.as_slice(),
                _ => std::slice::from_ref(&id),
            };
            of.iter().copied().filter(|id| matches!(self.schema.get(*id), Type::Record { .. })).collect()
        };
        let same = records(one);
        !same.is_empty() && same == records(other)
    }

    /// Makes sure that a value of `id` can be a text.
    fn check_text(&self, id: TypeId) -> Result<(), Problems> {
        match self.schema.get(id) {
            Type::String | Type::Enum { .. } => Ok(()),
            Type::Union(branches) if branches.iter().any(|branch| self.check_text(*branch).is_ok()) => Ok(()),
            other => {
                let problem = format!("expected a string, found the writer's {}", other.describe());
                Err(vec![Fault::new(RejectReason::WrongType, problem)])
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Reading.

impl EventPlan {
    /// Whether some event of this can be a row.
    pub(crate) fn has_rows(&self) -> bool {
        let has_row = |step: &EventStep| match step {
            EventStep::After(row) => row.branches.iter().any(|branch| matches!(branch, Ok(Some(_)))),
            _ => false,
        };
        matches!(self, EventPlan::Change(plan) if plan.steps.iter().any(has_row))
    }

    /// Reads an event as one more row, if it is one.
    pub(crate) fn read(
        &self,
        schema: &AvroSchema,
        columns: &mut Columns,
        input: &mut Input<'_>,
    ) -> Parsed<Read> {
        match self {
            EventPlan::Change(plan) => plan.read(schema, columns, input),
            EventPlan::Eventless(plan) => plan.read(schema, input),
            EventPlan::Null => Ok(Read::Nothing),
        }
    }
}

impl ChangePlan {
    fn read(&self, schema: &AvroSchema, columns: &mut Columns, input: &mut Input<'_>) -> Parsed<Read> {
        let (mut op, mut before, mut has_after) = (None, None, false);
        input.enter()?;
        for step in &self.steps {
            match step {
                EventStep::After(row) => {
                    let is_there = read_row(row, schema, columns, input);
                    has_after = is_there.map_err(|fault| fault.within("after"))?;
                }
                EventStep::Before(id) => {
                    // Whether it is the row is known when the operation is.
                    before = Some(input.clone());
                    skip(schema, *id, input).map_err(|fault| fault.within("before"))?;
                }
                EventStep::Source(source) => {
                    let read = read_source(source, schema, self.op_column + 1, columns, input);
                    read.map_err(|fault| fault.within("source"))?;
                }
                EventStep::Op(id) => {
                    op = Some(read_op(schema, *id, input).map_err(|fault| fault.within("op"))?);
                }
                EventStep::Skip(name, id) => {
                    skip(schema, *id, input).map_err(|fault| fault.within(name))?;
                }
            }
        }
        input.leave();
        let op = op.ok_or_else(debezium::no_event)?;
        if op == DELETE {
            if has_after {
                return Err(debezium::row_after_delete());
            }
            self.read_before(before, schema, columns)?;
        } else if !has_after {
            return Err(debezium::no_row_after());
        }
        debezium::push_op(op, self.op_column, columns);
        if !self.has_source {
            columns.column(self.op_column + 1).push_null()?;
        }
        columns.end_row();
        Ok(Read::Row)
    }

    /// Reads the row that was deleted, which starts at `at`.
    fn read_before(&self, at: Option<Input<'_>>, schema: &AvroSchema, columns: &mut Columns) -> Parsed<()> {
        let (Some(row), Some(mut at)) = (&self.before, at) else { return Err(debezium::no_row_before()) };
        match read_row(row, schema, columns, &mut at).map_err(|fault| fault.within("before"))? {
            true => Ok(()),
            false => Err(debezium::no_row_before()),
        }
    }
}

/// Reads a row into its columns, if there is one: whether there is. The row is not ended.
fn read_row(
    row: &Optional<RecordPlan>,
    schema: &AvroSchema,
    columns: &mut Columns,
    input: &mut Input<'_>,
) -> Parsed<bool> {
    match row.next(input)? {
        Some(plan) => read_fields(schema, plan, columns, input).map(|()| true),
        None => Ok(false),
    }
}

/// Reads where a change comes from, and when it was made into column `index`.
fn read_source(
    source: &Optional<SourcePlan>,
    schema: &AvroSchema,
    index: usize,
    columns: &mut Columns,
    input: &mut Input<'_>,
) -> Parsed<()> {
    let column = columns.column(index);
    let Some(plan) = source.next(input)? else { return column.push_null() };
    input.enter()?;
    for step in &plan.steps {
        match step {
            SourceStep::Timestamp(step) => {
                read_value(schema, step, column, input).map_err(|fault| fault.within("ts_ms"))?;
            }
            SourceStep::Skip(name, id) => skip(schema, *id, input).map_err(|fault| fault.within(name))?,
        }
    }
    input.leave();
    if plan.has_timestamp { Ok(()) } else { column.push_null() }
}

fn read_op(schema: &AvroSchema, id: TypeId, input: &mut Input<'_>) -> Parsed<&'static str> {
    match read_text(schema, id, input, debezium::operation)? {
        Some(op) => op,
        None => Err(Fault::new(RejectReason::WrongType, "expected a string")),
    }
}

impl EventlessPlan {
    fn read(&self, schema: &AvroSchema, input: &mut Input<'_>) -> Parsed<Read> {
        let mut is_boundary = false;
        input.enter()?;
        for (name, id) in &self.fields {
            let read = if Member::of(name) == Member::Status {
                let status = read_text(schema, *id, input, debezium::is_boundary_status);
                status.map(|status| is_boundary = status == Some(true))
            } else {
                skip(schema, *id, input)
            };
            read.map_err(|fault| fault.within(name))?;
        }
        input.leave();
        if self.has_status && !is_boundary { Err(debezium::no_event()) } else { Ok(Read::Nothing) }
    }
}

/// What `take` makes of a text or of the symbol of an enum; `None` if the value is neither.
fn read_text<T>(
    schema: &AvroSchema,
    id: TypeId,
    input: &mut Input<'_>,
    take: fn(&str) -> T,
) -> Parsed<Option<T>> {
    match schema.get(id) {
        Type::String => Ok(Some(take(input.string()?))),
        Type::Enum { symbols, .. } => Ok(Some(take(&symbols[input.index(symbols.len(), "symbol")?]))),
        Type::Union(branches) => {
            // Unions have no unions in them.
            let branch = input.index(branches.len(), "branch")?;
            read_text(schema, branches[branch], input, take)
        }
        _ => skip(schema, id, input).map(|()| None),
    }
}

#[cfg(test)]
mod tests;
