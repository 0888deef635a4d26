//! Reads JSON values into columns.
//!
//! [`Members`] mirrors the objects of a schema: under which names their fields stand in a payload. The values go to
//! the [`Columns`] beside it, which know nothing of JSON.

use std::collections::HashMap;

use arrow::datatypes::{DataType, FieldRef, Fields};

use super::base64;
use super::cursor::{Cursor, Kind, is_number};
use crate::decode::columns::{Column, Columns, Entries, Values};
use crate::decode::numbers;
use crate::decode::reject::{Fault, Parsed, RejectReason};
use crate::decode::temporal;
use crate::fields::type_name;

/// What reading needs beside the payload.
#[derive(Debug)]
pub(crate) struct Context {
    /// Whether a field that the schema does not have is a fault; otherwise it is checked and skipped.
    pub(crate) refuse_unknown_fields: bool,
    /// Room for strings that must be unescaped before they can be looked at.
    pub(crate) scratch: Vec<u8>,
}

/// The fields of an object, by name.
#[derive(Debug)]
pub(crate) struct Members {
    members: Vec<Member>,
    /// Index of a field by its name.
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
struct Member {
    /// The name as it usually stands in a payload, in quotes; `None` if it cannot stand there without escapes.
    quoted_name: Option<Vec<u8>>,
    shape: Shape,
}

/// What of a value has names.
#[derive(Debug)]
enum Shape {
    /// Nothing.
    Scalar,
    /// The value is an object with these fields.
    Object(Members),
    /// The value is an array or a map, of values of this shape.
    Items(Box<Shape>),
}

impl Shape {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Struct(fields) => Shape::Object(Members::new(fields)),
            DataType::List(element) => Shape::Items(Box::new(Shape::of(element.data_type()))),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(entry) if entry.len() == 2 => {
                    Shape::Items(Box::new(Shape::of(entry[1].data_type())))
                }
                _ => Shape::Scalar,
            },
            _ => Shape::Scalar,
        }
    }
}

impl Members {
    /// The names of `fields`.
    pub(crate) fn new(fields: &Fields) -> Self {
        let member = |field: &FieldRef| Member {
            quoted_name: quoted(field.name()),
            shape: Shape::of(field.data_type()),
        };
        let by_name = fields.iter().enumerate().map(|(index, field)| (field.name().clone(), index)).collect();
        Self { members: fields.iter().map(member).collect(), by_name }
    }

    /// Reads an object, whose opening brace comes next, as one more row of every column.
    pub(crate) fn read(
        &self,
        columns: &mut Columns,
        cursor: &mut Cursor<'_>,
        context: &mut Context,
    ) -> Parsed<()> {
        let seen = self.read_some(columns, cursor, context)?;
        self.end_row(columns, seen)
    }

    /// Ends a row for which `seen` members were read; those that are missing are null.
    #[inline]
    pub(crate) fn end_row(&self, columns: &mut Columns, seen: usize) -> Parsed<()> {
        if seen < self.members.len() {
            columns.fill_missing()?;
        }
        columns.end_row();
        Ok(())
    }

    /// Reads an object, whose opening brace comes next, into the columns of its members, and returns how many there
    /// were. The row is not ended.
    pub(crate) fn read_some(
        &self,
        columns: &mut Columns,
        cursor: &mut Cursor<'_>,
        context: &mut Context,
    ) -> Parsed<usize> {
        cursor.enter()?;
        cursor.skip_whitespace();
        let mut seen = 0;
        let mut likely = 0;
        let mut more = !cursor.take(b'}');
        while more {
            if let Some(index) = self.find(cursor, context, likely)? {
                self.read_member(index, columns, cursor, context)?;
                seen += 1;
                likely = index + 1;
            } else {
                cursor.colon()?;
                cursor.skip_value(&mut context.scratch)?;
            }
            more = cursor.next_item(b'}')?;
        }
        cursor.leave();
        Ok(seen)
    }

    /// Reads a name and finds its field. Producers write the fields of a record in the same order again and again,
    /// so the field after the last one is tried first, and mostly is the one.
    #[inline]
    fn find(&self, cursor: &mut Cursor<'_>, context: &mut Context, likely: usize) -> Parsed<Option<usize>> {
        if let Some(Member { quoted_name: Some(quoted_name), .. }) = self.members.get(likely)
            && cursor.take_all(quoted_name)
        {
            return Ok(Some(likely));
        }
        let name = cursor.name(&mut context.scratch)?;
        match self.by_name.get(name) {
            Some(index) => Ok(Some(*index)),
            None if context.refuse_unknown_fields => {
                let fault = Fault::new(RejectReason::UnknownField, "the schema has no such field");
                Err(fault.within(name))
            }
            None => Ok(None),
        }
    }

    #[inline]
    fn read_member(
        &self,
        index: usize,
        columns: &mut Columns,
        cursor: &mut Cursor<'_>,
        context: &mut Context,
    ) -> Parsed<()> {
        cursor.colon()?;
        if columns.has_value(index) {
            let fault = Fault::new(RejectReason::DuplicateField, "given twice");
            return Err(fault.within(columns.fields()[index].name()));
        }
        let column = columns.column(index);
        read_value(column, &self.members[index].shape, cursor, context)
            .map_err(|fault| fault.within(column.field.name()))
    }
}

/// `name` in quotes, if no byte of it needs an escape.
fn quoted(name: &str) -> Option<Vec<u8>> {
    let plain = name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    plain.then(|| format!("\"{name}\"").into_bytes())
}

/// Reads the value that starts here as one more row of `column`.
#[inline]
fn read_value(
    column: &mut Column,
    shape: &Shape,
    cursor: &mut Cursor<'_>,
    context: &mut Context,
) -> Parsed<()> {
    let kind = cursor.kind()?;
    if kind == Kind::Null {
        cursor.null()?;
        return column.push_null();
    }
    match (&mut column.values, kind) {
        (Values::Int32(values), Kind::Number) => values.push(read_integer(cursor, "int32")?),
        (Values::Int64(values), Kind::Number) => values.push(read_integer(cursor, "int64")?),
        (Values::Int16(values), Kind::Number) => values.push(read_integer(cursor, "int16")?),
        (Values::Int8(values), Kind::Number) => values.push(read_integer(cursor, "int8")?),
        (Values::Float64(values), Kind::Number) => values.push(read_float64(cursor)?),
        (Values::Float32(values), Kind::Number) => values.push(read_float32(cursor)?),
        (Values::Boolean(values), Kind::Boolean) => values.append(cursor.boolean()?),
        (Values::String(slices), Kind::String) => {
            cursor.string(&mut slices.bytes)?;
            slices.close();
        }
        (Values::Timestamp(values), Kind::String) => {
            let text = cursor.text(&mut context.scratch)?;
            values.push(temporal::timestamp_micros(text).ok_or_else(|| invalid(&column.field))?);
        }
        (Values::Date(values), Kind::String) => {
            let text = cursor.text(&mut context.scratch)?;
            values.push(temporal::date(text).ok_or_else(|| invalid(&column.field))?);
        }
        (Values::Decimal(values, precision, scale), Kind::Number) => {
            values.push(numbers::decimal(cursor.number()?, *precision, *scale)?);
        }
        (Values::Decimal(values, precision, scale), Kind::String) => {
            let text = cursor.text(&mut context.scratch)?;
            if !is_number(text) {
                return Err(invalid(&column.field));
            }
            values.push(numbers::decimal(text, *precision, *scale)?);
        }
        (Values::Binary(slices), Kind::String) => {
            let text = cursor.text(&mut context.scratch)?;
            base64::decode(text.as_bytes(), &mut slices.bytes).ok_or_else(|| invalid(&column.field))?;
            slices.close();
        }
        (Values::List(offsets, element), Kind::Array) => {
            let len = read_list(offsets, element, shape, cursor, context)?;
            offsets.push(len);
        }
        (Values::Struct(columns), Kind::Object) => match shape {
            Shape::Object(members) => members.read(columns, cursor, context)?,
            _ => unreachable!("a struct has the shape of an object"),
        },
        (Values::Map(offsets, entries), Kind::Object) => {
            let len = read_map(offsets, entries, shape, cursor, context)?;
            offsets.push(len);
        }
        _ => return Err(wrong_kind(&column.field, kind)),
    }
    column.set_present();
    Ok(())
}

#[cold]
fn wrong_kind(field: &FieldRef, found: Kind) -> Box<Fault> {
    let expected = type_name(field.data_type());
    Fault::new(RejectReason::WrongType, format!("expected {expected}, found {}", found.as_str()))
}

#[cold]
fn invalid(field: &FieldRef) -> Box<Fault> {
    let form = match field.data_type() {
        DataType::Date32 => "a date such as 2013-01-31",
        DataType::Timestamp(..) => "a timestamp such as 2013-01-31T05:00:00Z",
        DataType::Binary => "bytes in Base64",
        _ => "a decimal number",
    };
    Fault::new(RejectReason::InvalidValue, format!("the text is not {form}"))
}

#[inline]
pub(crate) fn read_integer<T: TryFrom<i64> + TryFrom<i128>>(
    cursor: &mut Cursor<'_>,
    type_name: &str,
) -> Parsed<T> {
    let Some((negative, magnitude)) = cursor.short_integer() else {
        return numbers::integer(cursor.number()?, type_name);
    };
    let magnitude = magnitude as i64; // 18 digits at most
    let value = if negative { -magnitude } else { magnitude };
    T::try_from(value).map_err(|_| numbers::out_of_range(&value.to_string(), type_name))
}

#[inline]
fn read_float64(cursor: &mut Cursor<'_>) -> Parsed<f64> {
    if let Some((negative, magnitude)) = cursor.short_integer() {
        let magnitude = magnitude as f64; // the nearest one
        return Ok(if negative { -magnitude } else { magnitude });
    }
    numbers::float64(cursor.number()?)
}

#[inline]
fn read_float32(cursor: &mut Cursor<'_>) -> Parsed<f32> {
    if let Some((negative, magnitude)) = cursor.short_integer() {
        let magnitude = magnitude as f32; // the nearest one
        return Ok(if negative { -magnitude } else { magnitude });
    }
    numbers::float32(cursor.number()?)
}

/// The shape of what is in an array or a map.
#[inline]
fn shape_of_items(shape: &Shape) -> &Shape {
    match shape {
        Shape::Items(items) => items,
        _ => unreachable!("a list or map has the shape of items"),
    }
}

/// Reads the elements of a list and returns how many elements the column has then.
fn read_list(
    offsets: &[i32],
    element: &mut Column,
    shape: &Shape,
    cursor: &mut Cursor<'_>,
    context: &mut Context,
) -> Parsed<i32> {
    let shape = shape_of_items(shape);
    let mut len = offsets[offsets.len() - 1];
    cursor.enter()?;
    cursor.skip_whitespace();
    let mut more = !cursor.take(b']');
    while more {
        read_value(element, shape, cursor, context).map_err(|fault| fault.within_element())?;
        len += 1;
        more = cursor.next_item(b']')?;
    }
    cursor.leave();
    Ok(len)
}

/// Reads the entries of a map and returns how many entries the column has then.
fn read_map(
    offsets: &[i32],
    entries: &mut Entries,
    shape: &Shape,
    cursor: &mut Cursor<'_>,
    context: &mut Context,
) -> Parsed<i32> {
    let shape = shape_of_items(shape);
    cursor.enter()?;
    cursor.skip_whitespace();
    let mut more = !cursor.take(b'}');
    while more {
        let name = cursor.name(&mut context.scratch)?;
        entries.keys.push(name.as_bytes());
        cursor.colon()?;
        read_value(&mut entries.values, shape, cursor, context).map_err(|fault| fault.within_element())?;
        more = cursor.next_item(b'}')?;
    }
    cursor.leave();
    entries.end_map(offsets[offsets.len() - 1])
}
