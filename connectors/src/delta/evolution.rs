//! Schema evolution: what becomes of a table when rows of other columns are to come, and the entry that says so.
//!
//! Pure. **Rows fit a table** if it has all their columns, by name and type, and those that they lack may be null. A table
//! only grows: [`differences`] says how the rows to come differ from it, [`evolved`] what it has to be for them to fit, and
//! [`not_succeeding`] what keeps a table from being the one after another. Rows that fit a table fit whatever succeeds it, so
//! files that are written meanwhile by an older schema do no harm. The argument: `docs/evolution.md`.
//!
//! The entry is an ordinary body with a `metaData` action and nothing else. Its operation is `UPDATE SCHEMA`, with two
//! parameters, both text: `after`, the version of the `metaData` before this one, 0 for that of the table's creation, and
//! `changes`, for people.
//!
//! Fields of structs are like columns, wherever the struct lies, also in lists and in values of maps ([`nested`]). A column
//! has its path as its name here: `place.city`, `items.element.price`, `rates.value.low`.

use std::collections::BTreeMap;
use std::fmt;

use arrow::datatypes::{Field, FieldRef, Fields, Schema};

use super::actions::{CommitInfo, Metadata};
use super::schema::{self, type_text};
use crate::Error;

mod nested;

pub(crate) use self::nested::misfits;

const UPDATE_SCHEMA: &str = "UPDATE SCHEMA";

/// Longest text about the changes, bytes. A longer one is cut: the schema itself says the same.
const CHANGES_BYTES_MAX: usize = 4000;

/// One way in which the rows to come differ from their table. A column is one of the table or, by its path, a field inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The table does not have the column: it is appended, nullable.
    New {
        /// The column.
        column: String,
        /// Its type as Delta writes it.
        delta_type: String,
    },
    /// The column may be null in the rows, and not in the table so far.
    Nullable {
        /// The column.
        column: String,
    },
    /// The column has another description, or another unit.
    Described {
        /// The column.
        column: String,
    },
    /// The dataset has another description.
    DatasetDescribed,
    /// The rows do not have the column: it stays, and is null in them. Nothing changes in the table.
    Gone {
        /// The column.
        column: String,
    },
    /// The column is never null in the rows, and may be in the table. Nothing changes there.
    NeverNull {
        /// The column.
        column: String,
    },
    /// The table cannot become one that the rows fit.
    Refused {
        /// What differs, and the way out.
        what: String,
    },
}

impl Difference {
    /// Whether the table has to change for it.
    pub fn is_change(&self) -> bool {
        match self {
            Self::New { .. } | Self::Nullable { .. } | Self::Described { .. } | Self::DatasetDescribed => {
                true
            }
            Self::Gone { .. } | Self::NeverNull { .. } | Self::Refused { .. } => false,
        }
    }

    /// Whether rows do not fit before the table has changed. What is said about a table keeps no rows out of it.
    pub fn keeps_rows_out(&self) -> bool {
        matches!(self, Self::New { .. } | Self::Nullable { .. } | Self::Refused { .. })
    }

    /// Whether no table can hold both.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl fmt::Display for Difference {
    /// As a line of a list of what a start would do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New { column, delta_type } => write!(f, "adds column {column}: {delta_type}"),
            Self::Nullable { column } => write!(f, "lets column {column} be null from now on"),
            Self::Described { column } => write!(f, "changes the description of column {column}"),
            Self::DatasetDescribed => f.write_str("changes the description of the dataset"),
            Self::Gone { column } => write!(f, "keeps column {column}, null from now on"),
            Self::NeverNull { column } => write!(f, "keeps column {column} nullable, never null from now on"),
            Self::Refused { what } => write!(f, "refused: {what}"),
        }
    }
}

/// How rows of the columns `wanted` differ from `table`, in the order of the table's columns, then of the wanted ones.
///
/// # Errors
/// [`Error::Schema`] if one of the two has no readable schema.
pub fn differences(table: &Metadata, wanted: &Metadata) -> Result<Vec<Difference>, Error> {
    let (is, rows) = (columns(table)?, columns(wanted)?);
    let mut found = Vec::new();
    if table.partition_columns != wanted.partition_columns {
        let (is, rows) = (table.partition_columns.join(", "), wanted.partition_columns.join(", "));
        let what = format!(
            "the table is partitioned by [{is}], the specification says [{rows}]; a table keeps its partitioning. Give the \
             dataset a new name, or its old `partition_by`"
        );
        found.push(Difference::Refused { what });
    }
    for column in is.fields() {
        match rows.fields().find(column.name()) {
            Some((_, field)) => found.extend(of_column(column, field)),
            None => found.push(of_missing(column.name(), column)),
        }
    }
    for field in not_in(rows.fields(), is.fields()) {
        found.push(of_new(field.name(), is.fields(), field));
    }
    if table.description != wanted.description {
        found.push(Difference::DatasetDescribed);
    }
    Ok(found)
}

fn columns(metadata: &Metadata) -> Result<Schema, Error> {
    schema::to_arrow(&metadata.schema_string)
}

/// The fields of `these` whose names none of `those` has.
fn not_in<'a>(these: &'a Fields, those: &'a Fields) -> impl Iterator<Item = &'a FieldRef> {
    these.iter().filter(|field| those.find(field.name()).is_none())
}

/// What differs of a column that both have.
fn of_column(column: &Field, field: &Field) -> Vec<Difference> {
    let mut found = nested::differences(column.name(), column, field);
    let is_refused = found.iter().any(Difference::is_refused);
    if !is_refused && !nested::is_described_alike(column, field) {
        found.push(Difference::Described { column: column.name().clone() });
    }
    found
}

fn of_missing(path: &str, column: &Field) -> Difference {
    if column.is_nullable() {
        return Difference::Gone { column: path.to_owned() };
    }
    Difference::Refused {
        what: format!(
            "column {path} is NOT NULL in the table, and the specification has no such column. Select it again, or give the \
             dataset a new name"
        ),
    }
}

/// `others` are the columns, or fields of the struct, among which there is none of this name.
fn of_new(path: &str, others: &Fields, field: &Field) -> Difference {
    let alike = |column: &&FieldRef| column.name().to_lowercase() == field.name().to_lowercase();
    match others.iter().find(alike) {
        Some(column) => Difference::Refused {
            what: format!(
                "column {path} differs from the table's {} in case alone. Write it as the table does",
                column.name()
            ),
        },
        None => Difference::New { column: path.to_owned(), delta_type: type_text(field.data_type()) },
    }
}

/// The table that rows of the columns `wanted` fit: `table` itself where they do already.
///
/// # Errors
/// [`Error::Schema`] naming what stands in the way.
pub fn evolved(table: &Metadata, wanted: &Metadata) -> Result<Metadata, Error> {
    let refused = differences(table, wanted)?.into_iter().find(Difference::is_refused);
    if let Some(refused) = refused {
        return Err(Error::Schema(refused.to_string()));
    }
    let (is, rows) = (columns(table)?, columns(wanted)?);
    let kept = is.fields().iter().map(|column| match rows.fields().find(column.name()) {
        Some((_, field)) => nested::grown(column, field),
        None => column.as_ref().clone(),
    });
    let new = not_in(rows.fields(), is.fields()).map(|field| field.as_ref().clone().with_nullable(true));
    let schema = Schema::new(kept.chain(new).collect::<Vec<Field>>());
    Ok(Metadata {
        schema_string: schema::to_delta(&schema)?,
        description: wanted.description.clone(),
        ..table.clone()
    })
}

/// What keeps `newer` from being what `older` became: nothing if rows that fit `older` fit it, and readers find every
/// column where it was, and the fields of structs in the order in which they were.
pub fn not_succeeding(older: &Metadata, newer: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    let mut same = |what: &str, is_same: bool| {
        if !is_same {
            problems.push(format!("another {what} of the table"));
        }
    };
    same("id", older.id == newer.id);
    same("name", older.name == newer.name);
    same("format", older.format == newer.format);
    same("partitioning", older.partition_columns == newer.partition_columns);
    same("configuration", older.configuration == newer.configuration);
    same("createdTime", older.created_time == newer.created_time);
    let (was, is) = match (columns(older), columns(newer)) {
        (Ok(was), Ok(is)) => (was, is),
        (Err(error), _) | (_, Err(error)) => {
            problems.push(error.to_string());
            return problems;
        }
    };
    for (index, column) in was.fields().iter().enumerate() {
        let name = column.name();
        match is.fields().get(index) {
            Some(field) if field.name() != name => {
                problems.push(format!("column {} in the place of {name}", field.name()));
            }
            Some(field) => problems.extend(nested::not_succeeding(name, column, field)),
            None => problems.push(format!("column {name} is gone")),
        }
    }
    let new = is.fields().iter().skip(was.fields().len());
    problems.extend(
        new.filter(|field| !field.is_nullable())
            .map(|field| format!("column {} is new and NOT NULL", field.name())),
    );
    problems
}

/// What keeps rows with the columns `rows` from being in `table`. The partition columns are not looked at: files do not
/// have them.
///
/// # Errors
/// [`Error::Schema`] if the table has no readable schema.
pub fn not_fitting(table: &Metadata, rows: &Schema) -> Result<Vec<String>, Error> {
    let is = columns(table)?;
    let stored = |name: &str| !table.partition_columns.iter().any(|column| column == name);
    let mut problems = Vec::new();
    for field in rows.fields() {
        let name = field.name();
        match is.field_with_name(name).ok().filter(|_| stored(name)) {
            None => problems.push(format!("column {name} is not in the table's schema")),
            Some(column) => problems.extend(misfits(name, column, field)),
        }
    }
    let missing = is.fields().iter().filter(|column| {
        !column.is_nullable() && stored(column.name()) && rows.field_with_name(column.name()).is_err()
    });
    problems
        .extend(missing.map(|column| {
            format!("column {} is missing, and NOT NULL in the table's schema", column.name())
        }));
    Ok(problems)
}

/// What the entry says that changes a table's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaUpdate {
    /// Version of the `metaData` before this one.
    pub after: u64,
    /// What changes, for people.
    pub changes: String,
}

impl SchemaUpdate {
    /// The name of the operation.
    pub const OPERATION: &'static str = UPDATE_SCHEMA;

    /// The change after version `after` for the differences `found`.
    pub fn new(after: u64, found: &[Difference]) -> Self {
        let changes: Vec<String> =
            found.iter().filter(|difference| difference.is_change()).map(ToString::to_string).collect();
        let mut changes = changes.join("; ");
        if changes.len() > CHANGES_BYTES_MAX {
            changes.truncate(changes.floor_char_boundary(CHANGES_BYTES_MAX));
        }
        Self { after, changes }
    }

    /// The parameters of the operation.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        [("after", self.after.to_string()), ("changes", self.changes.clone())]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }

    /// The change that a body with this `commitInfo` makes, `None` for one that makes none.
    ///
    /// # Errors
    /// [`Error::LogEntry`] if the parameters are not exactly those of the operation.
    pub fn of(info: &CommitInfo) -> Result<Option<Self>, Error> {
        if info.operation != UPDATE_SCHEMA {
            return Ok(None);
        }
        let refuse = || Error::LogEntry(format!("parameters of {UPDATE_SCHEMA}"));
        let text = |name: &str| info.operation_parameters.get(name).ok_or_else(refuse);
        let update =
            Self { after: text("after")?.parse().map_err(|_| refuse())?, changes: text("changes")?.clone() };
        // One spelling, so that the same change is the same bytes.
        if update.parameters() != info.operation_parameters || update.changes.len() > CHANGES_BYTES_MAX {
            return Err(refuse());
        }
        Ok(Some(update))
    }
}

#[cfg(test)]
mod tests;
