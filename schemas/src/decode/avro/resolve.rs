//! Resolves a writer's schema against the schema of the batches, once, into a [`Plan`] that every record follows.
//!
//! A plan walks the values of a record in the order in which they were written. Each goes into its column, as the type
//! of the column, or is stepped over. What cannot be read at all is found here, with all fields that are in the way, and
//! not record by record; only of a union it depends on the record which branch it has.
//!
//! Reading goes as deep as the columns do, so a type that refers to itself is no problem here; what is stepped over is
//! bounded while it is read.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Fields};

use super::debezium::EventPlan;
use super::schema::{AvroSchema, Field, Type, TypeId, Unit};
use crate::decode::UnknownFields;
use crate::decode::reject::{Fault, RejectReason};
use crate::fields::type_name;

/// Most fields and types of a writer that are looked at for one schema. Unions of records with unions in them can have
/// as many as there are ways through them.
const LOOKS_MAX: usize = 1 << 18;

/// How to read the records of one writer's schema.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) schema: AvroSchema,
    pub(crate) root: Root,
}

/// What a whole value is.
#[derive(Debug)]
pub(crate) enum Root {
    Record(RecordPlan),
    /// A union of records; of its branches, how to read it or why not.
    Union(Vec<Result<RecordPlan, Box<Fault>>>),
    /// An event in Debezium's envelope.
    Event(EventPlan),
    /// A union of such events; of its branches, how to read it or why not.
    Events(Vec<Result<EventPlan, Box<Fault>>>),
}

/// How to read a record as a row of some columns.
#[derive(Debug)]
pub(crate) struct RecordPlan {
    /// In the order in which they were written.
    pub(crate) fields: Vec<FieldStep>,
    /// The columns that the writer has no field for.
    pub(crate) absent: Vec<usize>,
}

/// What to do with a field of a record.
#[derive(Debug)]
pub(crate) enum FieldStep {
    /// Read it into the column of this index.
    Read(usize, Step),
    /// Step over it.
    Skip(String, TypeId),
}

/// How to read a value as one more row of a column: what was written. [`step_into`] says which types of columns each
/// of these can be read into.
#[derive(Debug)]
pub(crate) enum Step {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Date,
    TimeMillis,
    TimeMicros,
    Timestamp(Unit),
    LocalTimestamp(Unit),
    /// The scale, and the number of bytes if it is fixed.
    Decimal(i64, Option<usize>),
    /// The 16 bytes of a UUID.
    Uuid,
    /// So many bytes.
    Fixed(usize),
    /// The symbols.
    Enum(Arc<[String]>),
    Array(Box<Step>),
    Map(Box<Step>),
    Record(RecordPlan),
    /// A union of two: the branch that is null, and how to read the other.
    Nullable(usize, Box<Step>),
    /// How to read each branch, or why not.
    Union(Vec<Result<Step, Box<Fault>>>),
}

/// Everything that stands in the way of reading a schema, in the order of its fields. Not empty.
pub(crate) type Problems = Vec<Box<Fault>>;

impl Plan {
    /// How to read the records of `schema` into columns for `fields`.
    pub(crate) fn new(
        schema: AvroSchema,
        fields: &Fields,
        unknown_fields: UnknownFields,
    ) -> Result<Self, Problems> {
        Self::resolve(schema, unknown_fields, |resolver| resolver.root(fields))
    }

    /// How to read the events of `schema` in Debezium's envelope, whose rows have columns for `fields`, into these and the
    /// columns that the envelope adds behind them.
    pub(crate) fn of_events(
        schema: AvroSchema,
        fields: &Fields,
        unknown_fields: UnknownFields,
    ) -> Result<Self, Problems> {
        Self::resolve(schema, unknown_fields, |resolver| resolver.events(fields))
    }

    fn resolve(
        schema: AvroSchema,
        unknown_fields: UnknownFields,
        root_of: impl FnOnce(&mut Resolver<'_>) -> Result<Root, Problems>,
    ) -> Result<Self, Problems> {
        let refuse_unknown_fields = unknown_fields == UnknownFields::Quarantine;
        let mut resolver = Resolver { schema: &schema, refuse_unknown_fields, looks: 0 };
        let root = root_of(&mut resolver)?;
        // Where it was only branches that were looked at no more, they must not be taken for unreadable.
        resolver.look(0)?;
        Ok(Self { schema, root })
    }

    /// Whether some record of this can be a row: heartbeats of Debezium, for example, cannot.
    pub(crate) fn has_rows(&self) -> bool {
        match &self.root {
            Root::Record(_) | Root::Union(_) => true,
            Root::Event(event) => event.has_rows(),
            Root::Events(events) => events.iter().flatten().any(EventPlan::has_rows),
        }
    }
}

pub(crate) struct Resolver<'a> {
    pub(crate) schema: &'a AvroSchema,
    refuse_unknown_fields: bool,
    looks: usize,
}

impl Resolver<'_> {
    fn root(&mut self, columns: &Fields) -> Result<Root, Problems> {
        let schema = self.schema;
        match schema.get(schema.root()) {
            Type::Record { fields, .. } => Ok(Root::Record(self.record(fields, columns)?)),
            Type::Union(branches) if !branches.is_empty() => {
                let branches = branches.iter().map(|branch| match schema.get(*branch) {
                    Type::Record { fields, .. } => self.record(fields, columns),
                    other => Err(vec![not_a_record(other)]),
                });
                let branches: Vec<_> = branches.collect();
                if branches.iter().all(Result::is_err) {
                    return Err(branches.into_iter().filter_map(Result::err).flatten().collect());
                }
                Ok(Root::Union(branches.into_iter().map(|branch| branch.map_err(of_branch)).collect()))
            }
            other => Err(vec![not_a_record(other)]),
        }
    }

    /// How to read a record with these fields into these columns.
    pub(crate) fn record(&mut self, fields: &[Field], columns: &Fields) -> Result<RecordPlan, Problems> {
        self.look(fields.len() + columns.len())?;
        let mut by_name: HashMap<_, _> =
            columns.iter().enumerate().map(|(index, column)| (column.name().as_str(), index)).collect();
        let mut steps = Vec::with_capacity(fields.len());
        let mut problems = Vec::new();
        for field in fields {
            let name = field.name.as_str();
            match by_name.remove(name) {
                Some(index) => {
                    let column = &columns[index];
                    match self.value(field.of, column.data_type(), column.is_nullable()) {
                        Ok(step) => steps.push(FieldStep::Read(index, step)),
                        Err(inner) => problems.extend(inner.into_iter().map(|fault| fault.within(name))),
                    }
                }
                None if self.refuse_unknown_fields => {
                    let fault = Fault::new(RejectReason::UnknownField, "the schema has no such field");
                    problems.push(fault.within(name));
                }
                None => steps.push(FieldStep::Skip(field.name.clone(), field.of)),
            }
        }
        let mut absent: Vec<usize> = by_name.into_values().collect();
        absent.sort_unstable();
        for column in absent.iter().map(|index| &columns[*index]).filter(|column| !column.is_nullable()) {
            let fault = Fault::new(RejectReason::MissingField, "required, but missing");
            problems.push(fault.within(column.name()));
        }
        if problems.is_empty() { Ok(RecordPlan { fields: steps, absent }) } else { Err(problems) }
    }

    /// Takes note of having to look at `more` fields or types.
    pub(crate) fn look(&mut self, more: usize) -> Result<(), Problems> {
        self.looks = self.looks.saturating_add(more);
        if self.looks > LOOKS_MAX {
            return Err(vec![incompatible("the writer has too many fields, or branches within branches")]);
        }
        Ok(())
    }

    fn value(&mut self, id: TypeId, column: &DataType, nullable: bool) -> Result<Step, Problems> {
        self.look(1)?;
        let in_items = |problems: Problems| -> Problems {
            problems.into_iter().map(|fault| fault.within_element()).collect()
        };
        match (self.schema.get(id), column) {
            (Type::Null, _) if nullable => Ok(Step::Null),
            (Type::Null, _) => Err(vec![Fault::new(RejectReason::NullField, "required, but null")]),
            (Type::Union(branches), _) => self.union(branches, column),
            (Type::Array(items), DataType::List(element)) => {
                let items = self.value(*items, element.data_type(), element.is_nullable());
                Ok(Step::Array(Box::new(items.map_err(in_items)?)))
            }
            (writer @ Type::Map(values), DataType::Map(entries, _)) => {
                let value = value_of_entries(entries.data_type()).ok_or_else(|| no_way(writer, column))?;
                let values = self.value(*values, value.data_type(), value.is_nullable());
                Ok(Step::Map(Box::new(values.map_err(in_items)?)))
            }
            (Type::Record { fields, .. }, DataType::Struct(columns)) => {
                Ok(Step::Record(self.record(fields, columns)?))
            }
            (writer, column) => step_into(writer, column).ok_or_else(|| no_way(writer, column)),
        }
    }

    /// A branch that cannot be read is no obstacle as long as another can: it rejects the records that have it. Null
    /// is for each record to judge as well.
    fn union(&mut self, branches: &[TypeId], column: &DataType) -> Result<Step, Problems> {
        let schema = self.schema;
        let is_null = |id: &TypeId| *schema.get(*id) == Type::Null;
        let mut steps: Vec<_> = branches.iter().map(|branch| self.value(*branch, column, true)).collect();
        let mut others =
            steps.iter().zip(branches).filter(|(_, id)| !is_null(id)).map(|(step, _)| step).peekable();
        if others.peek().is_some() && others.all(Result::is_err) {
            return Err(steps.into_iter().filter_map(Result::err).flatten().collect());
        }
        if let ([_, _], Some(null)) = (branches, branches.iter().position(is_null))
            && let Ok(step) = steps.swap_remove(1 - null)
        {
            return Ok(Step::Nullable(null, Box::new(step)));
        }
        Ok(Step::Union(steps.into_iter().map(|step| step.map_err(of_branch)).collect()))
    }
}

/// The field of the values of a map, from the type of its entries.
fn value_of_entries(entries: &DataType) -> Option<&FieldRef> {
    match entries {
        DataType::Struct(entry) => entry.get(1),
        _ => None,
    }
}

/// How to read a value of a simple type into a column, if nothing of it is lost and nothing made up.
fn step_into(writer: &Type, column: &DataType) -> Option<Step> {
    use DataType::{Binary, Boolean, Date32, Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, Utf8};
    Some(match (writer, column) {
        (Type::Boolean, Boolean) => Step::Boolean,
        (Type::Int, Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Decimal128(..)) => Step::Int,
        (Type::Long, Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Decimal128(..)) => Step::Long,
        (Type::Float, Float32 | Float64) => Step::Float,
        (Type::Double, Float64) => Step::Double,
        (Type::Bytes, Binary | Utf8) => Step::Bytes,
        (Type::String, Utf8 | Binary) => Step::String,
        (Type::UuidText, Utf8) => Step::String,
        (Type::UuidFixed(_), Utf8) => Step::Uuid,
        (Type::Enum { symbols, .. }, Utf8) => Step::Enum(Arc::clone(symbols)),
        (Type::Fixed(fixed) | Type::UuidFixed(fixed) | Type::Duration(fixed), Binary) => {
            Step::Fixed(fixed.size)
        }
        (Type::BigDecimal, Binary) => Step::Bytes,
        (Type::Decimal { scale, fixed, .. }, Decimal128(..)) => {
            // No scale is so large that it makes a difference.
            let scale = i64::try_from(*scale).unwrap_or(i64::MAX);
            Step::Decimal(scale, fixed.as_ref().map(|fixed| fixed.size))
        }
        (Type::Date, Date32) => Step::Date,
        (Type::TimeMillis, Int32 | Int64) => Step::TimeMillis,
        (Type::TimeMicros, Int64) => Step::TimeMicros,
        (Type::Timestamp(unit), DataType::Timestamp(..)) => Step::Timestamp(*unit),
        (Type::LocalTimestamp(unit), Int64) => Step::LocalTimestamp(*unit),
        _ => return None,
    })
}

#[cold]
fn no_way(writer: &Type, column: &DataType) -> Problems {
    let way_out = match (writer, column) {
        (Type::LocalTimestamp(_), DataType::Timestamp(..)) => {
            "; it has no time zone, so it is no instant: int64 takes the microseconds of the local clock"
        }
        (Type::Long | Type::Int, DataType::Timestamp(..) | DataType::Date32) => {
            "; without a logical type it has no unit: int64 takes it as it is"
        }
        (Type::Timestamp(_), DataType::Int64) => {
            "; use timestamp, which does not depend on the writer's unit"
        }
        (Type::Date, DataType::Int32 | DataType::Int64) => "; use date",
        (Type::Double, DataType::Float32) => "; use float64, which loses no digits",
        (Type::TimeMicros, DataType::Int32) => "; use int64, in microseconds",
        (Type::BigDecimal, _) => ", only as binary",
        _ => "",
    };
    let problem =
        format!("the writer's {} cannot be read as {}{way_out}", writer.describe(), type_name(column));
    vec![incompatible(problem)]
}

pub(crate) fn not_a_record(found: &Type) -> Box<Fault> {
    incompatible(format!("the writer's {} is not a record", found.describe()))
}

pub(crate) fn incompatible(problem: impl Into<String>) -> Box<Fault> {
    Fault::new(RejectReason::IncompatibleSchema, problem)
}

/// Why a record with this branch of a union cannot be read: it is the record that is in the way then.
pub(crate) fn of_branch(problems: Problems) -> Box<Fault> {
    let mut fault = problems.into_iter().next().unwrap_or_else(|| incompatible("the branch cannot be read"));
    if fault.reason == RejectReason::IncompatibleSchema {
        fault.reason = RejectReason::WrongType;
    }
    fault
}
