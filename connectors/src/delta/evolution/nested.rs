//! What is inside columns: the rules of [`evolution`](super) for fields of structs, wherever a struct lies.
//!
//! A field is to its struct what a column is to its table, with one difference. Columns are appended, and rows may have
//! them in any order. **Fields keep their order**, in the table and in every file: those of a file are some of the table's, in
//! the table's order, because readers in use go by it. So a new field takes the place that it has in the rows.
//! Elements of lists and values of maps are what they are, a struct with fields or not. Keys of maps do not change.
//!
//! The depth is that of a schema that was read ([`super::schema`]), which is bounded.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};

use super::{Difference, not_in, of_missing, of_new};
use crate::delta::schema::{DESCRIPTION, UNIT, child_path, same_type, type_text};

/// What lies in the same place inside two types.
enum Inside<'a> {
    /// Both are structs; these are their fields.
    Structs(&'a Fields, &'a Fields),
    /// Both are lists, or maps with the same keys: what the path calls their elements or values, and these.
    Items(&'static str, &'a Field, &'a Field),
    /// Nothing, or they are not of one kind.
    Nothing,
}

fn inside<'a>(one: &'a DataType, other: &'a DataType) -> Inside<'a> {
    match (one, other) {
        (DataType::Struct(one), DataType::Struct(other)) => Inside::Structs(one, other),
        (DataType::List(one), DataType::List(other)) => Inside::Items("element", one, other),
        (DataType::Map(one, _), DataType::Map(other, _)) => {
            match (key_and_value(one), key_and_value(other)) {
                (Some([key, one]), Some([other_key, other]))
                    if same_type(key.data_type(), other_key.data_type()) =>
                {
                    Inside::Items("value", one, other)
                }
                _ => Inside::Nothing,
            }
        }
        _ => Inside::Nothing,
    }
}

fn key_and_value(entries: &Field) -> Option<[&Field; 2]> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Some([fields[0].as_ref(), fields[1].as_ref()]),
        _ => None,
    }
}

/// Whether the fields that both have come in another order in `given`.
fn is_out_of_order(stored: &Fields, given: &Fields) -> bool {
    let places = given.iter().filter_map(|field| Some(stored.find(field.name())?.0));
    !places.is_sorted()
}

fn names(fields: &Fields) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    names.join(", ")
}

/// How the field `field` of the rows to come differs from the field `column` of the table, but for descriptions.
pub(super) fn differences(path: &str, column: &Field, field: &Field) -> Vec<Difference> {
    let mut found = match inside(column.data_type(), field.data_type()) {
        Inside::Structs(is, rows) => of_structs(path, is, rows),
        Inside::Items(name, is, rows) => differences(&child_path(path, name), is, rows),
        Inside::Nothing if same_type(column.data_type(), field.data_type()) => Vec::new(),
        Inside::Nothing => return vec![Difference::Refused { what: other_type(path, column, field) }],
    };
    match (column.is_nullable(), field.is_nullable()) {
        (false, true) => found.push(Difference::Nullable { column: path.to_owned() }),
        (true, false) => found.push(Difference::NeverNull { column: path.to_owned() }),
        _ => {}
    }
    found
}

fn of_structs(path: &str, is: &Fields, rows: &Fields) -> Vec<Difference> {
    let mut found = Vec::new();
    for column in is {
        let path = child_path(path, column.name());
        match rows.find(column.name()) {
            Some((_, field)) => found.extend(differences(&path, column, field)),
            None => found.push(of_missing(&path, column)),
        }
    }
    found.extend(not_in(rows, is).map(|field| of_new(&child_path(path, field.name()), is, field)));
    if is_out_of_order(is, rows) {
        let what = format!(
            "column {path} has its fields in another order than the table, where they are {}; files keep that order, because some \
             readers go by it. Write them in it, or use another name for the column ({path} stays, null from now on), or for the dataset",
            names(is)
        );
        found.push(Difference::Refused { what });
    }
    found
}

/// Why a type cannot become the other one, and the way out.
fn other_type(path: &str, column: &Field, field: &Field) -> String {
    let (is, wanted) = (type_text(column.data_type()), type_text(field.data_type()));
    let differs = format!("column {path} is {is} in the table and {wanted} in the specification");
    let otherwise =
        format!("use another name for the column ({path} stays, null from now on), or for the dataset");
    if is_nested(column.data_type()) || is_nested(field.data_type()) {
        return format!("{differs}. Leave it as it was, {otherwise}");
    }
    if is_wider(column.data_type(), field.data_type()) {
        return format!(
            "{differs}; a wider type needs Delta's table feature typeWidening, with which readers in use, Python's deltalake among \
             them, refuse the whole table. Cast it to {is} in SQL if its values fit, {otherwise}, which a backfill can fill from \
             the beginning"
        );
    }
    format!("{differs}. Cast it to {is} in SQL, {otherwise}")
}

fn is_nested(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::Struct(_) | DataType::Map(..))
}

/// Whether Delta's `typeWidening` would allow it.
fn is_wider(from: &DataType, to: &DataType) -> bool {
    use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64};
    match (from, to) {
        (Int8, Int16 | Int32 | Int64 | Float64)
        | (Int16, Int32 | Int64 | Float64)
        | (Int32, Int64 | Float64)
        | (Float32, Float64) => true,
        (Int8 | Int16 | Int32, Decimal128(precision, scale)) => {
            i16::from(*precision) - i16::from(*scale) >= 10
        }
        (Int64, Decimal128(precision, scale)) => i16::from(*precision) - i16::from(*scale) >= 20,
        (Decimal128(precision, scale), Decimal128(wide, fine)) => {
            let (digits, more) =
                (i16::from(*wide) - i16::from(*precision), i16::from(*fine) - i16::from(*scale));
            more >= 0 && digits >= more
        }
        _ => false,
    }
}

/// Whether what both have is described alike. What only one has is new or gone.
pub(super) fn is_described_alike(column: &Field, field: &Field) -> bool {
    let says_the_same = |key: &&str| column.metadata().get(*key) == field.metadata().get(*key);
    [DESCRIPTION, UNIT].iter().all(says_the_same)
        && is_described_alike_inside(column.data_type(), field.data_type())
}

fn is_described_alike_inside(column: &DataType, field: &DataType) -> bool {
    match inside(column, field) {
        Inside::Structs(is, rows) => is.iter().all(|column| {
            rows.find(column.name()).is_none_or(|(_, field)| is_described_alike(column, field))
        }),
        Inside::Items(_, is, rows) => is_described_alike(is, rows) && are_keys_described_alike(column, field),
        Inside::Nothing => true,
    }
}

/// Of maps whose keys are the same; true of all else.
fn are_keys_described_alike(column: &DataType, field: &DataType) -> bool {
    let (DataType::Map(is, _), DataType::Map(rows, _)) = (column, field) else { return true };
    match (key_and_value(is), key_and_value(rows)) {
        (Some([is, _]), Some([rows, _])) => is_described_alike(is, rows),
        _ => true,
    }
}

/// The field that holds what is in `column` and the values of `field` to come, which differ in nothing that is refused. Described
/// as `field` is.
pub(super) fn grown(column: &Field, field: &Field) -> Field {
    field
        .clone()
        .with_data_type(grown_type(column.data_type(), field.data_type()))
        .with_nullable(column.is_nullable() || field.is_nullable())
}

fn grown_type(column: &DataType, field: &DataType) -> DataType {
    match (inside(column, field), field) {
        (Inside::Structs(is, rows), _) => DataType::Struct(grown_fields(is, rows).into()),
        (Inside::Items(_, is, rows), DataType::Map(entries, is_sorted)) => {
            let Some([key, _]) = key_and_value(entries) else { return field.clone() };
            let pair = DataType::Struct(vec![key.clone(), grown(is, rows)].into());
            DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(pair)), *is_sorted)
        }
        (Inside::Items(_, is, rows), _) => DataType::List(Arc::new(grown(is, rows))),
        // The same type, but for the descriptions inside.
        (Inside::Nothing, _) => field.clone(),
    }
}

/// All fields of both, in an order that is that of each. New ones may be null: the rows that are there have no value for them.
fn grown_fields(is: &Fields, rows: &Fields) -> Vec<Field> {
    let mut grown_fields: Vec<Field> = is
        .iter()
        .map(|column| match rows.find(column.name()) {
            Some((_, field)) => grown(column, field),
            None => column.as_ref().clone(),
        })
        .collect();
    let mut next = 0;
    for field in rows {
        match grown_fields.iter().position(|other| other.name() == field.name()) {
            Some(at) => next = at + 1,
            None => {
                grown_fields.insert(next, field.as_ref().clone().with_nullable(true));
                next += 1;
            }
        }
    }
    grown_fields
}

/// What keeps `is` from being what the field `was` became.
pub(super) fn not_succeeding(path: &str, was: &Field, is: &Field) -> Vec<String> {
    let mut problems = match inside(was.data_type(), is.data_type()) {
        Inside::Structs(was, is) => structs_not_succeeding(path, was, is),
        Inside::Items(name, was, is) => not_succeeding(&child_path(path, name), was, is),
        Inside::Nothing if same_type(was.data_type(), is.data_type()) => Vec::new(),
        Inside::Nothing => {
            let (was, is) = (type_text(was.data_type()), type_text(is.data_type()));
            return vec![format!("column {path} is {is} and was {was}")];
        }
    };
    if was.is_nullable() && !is.is_nullable() {
        problems.push(format!("column {path} is NOT NULL and was not"));
    }
    problems
}

fn structs_not_succeeding(path: &str, was: &Fields, is: &Fields) -> Vec<String> {
    let mut problems = Vec::new();
    for field in was {
        let path = child_path(path, field.name());
        match is.find(field.name()) {
            Some((_, newer)) => problems.extend(not_succeeding(&path, field, newer)),
            None => problems.push(format!("column {path} is gone")),
        }
    }
    let new = not_in(is, was).filter(|field| !field.is_nullable());
    problems
        .extend(new.map(|field| format!("column {} is new and NOT NULL", child_path(path, field.name()))));
    if is_out_of_order(is, was) {
        problems.push(format!("column {path} has its fields in another order: {}", names(is)));
    }
    problems
}

/// What keeps values of `field` from being in the field or column `column`, which the path names.
pub(crate) fn misfits(path: &str, column: &Field, field: &Field) -> Vec<String> {
    let mut problems = match inside(column.data_type(), field.data_type()) {
        Inside::Structs(is, has) => struct_misfits(path, is, has),
        Inside::Items(name, is, has) => misfits(&child_path(path, name), is, has),
        Inside::Nothing if same_type(column.data_type(), field.data_type()) => Vec::new(),
        Inside::Nothing => {
            let (is, has) = (type_text(column.data_type()), type_text(field.data_type()));
            return vec![format!("column {path} is {has} here and {is} in the table's schema")];
        }
    };
    if field.is_nullable() && !column.is_nullable() {
        problems.push(format!("column {path} may be null here and not in the table's schema"));
    }
    problems
}

fn struct_misfits(path: &str, is: &Fields, has: &Fields) -> Vec<String> {
    let mut problems = Vec::new();
    for field in has {
        let path = child_path(path, field.name());
        match is.find(field.name()) {
            Some((_, column)) => problems.extend(misfits(&path, column, field)),
            None => problems.push(format!("column {path} is not in the table's schema")),
        }
    }
    for column in not_in(is, has).filter(|column| !column.is_nullable()) {
        let path = child_path(path, column.name());
        problems.push(format!("column {path} is missing, and NOT NULL in the table's schema"));
    }
    if is_out_of_order(is, has) {
        problems.push(format!(
            "column {path} has its fields in another order than the table's schema: {}",
            names(has)
        ));
    }
    problems
}
