//! Columns that grow by one JSON value at a time and can take the last one back.
//!
//! A record is read straight into the columns of its fields; nothing lies between the payload and the Arrow buffers.
//! Reading can stop anywhere with a [`Fault`]. The columns then hold a part of the record, and
//! [`Members::truncate`] cuts them back to the rows before it: a bad record leaves no trace. That works because a
//! column only ever grows at its end, at every level of nesting.

use std::collections::{HashMap, HashSet};
use std::mem::take;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, BooleanBufferBuilder, ListArray, MapArray,
    NullBufferBuilder, PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, FieldRef, Fields, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;

use super::json::{Cursor, Kind};
use super::numbers::{self, Inexact};
use super::reject::{Fault, Parsed, RejectReason, shortened};
use super::temporal;
use crate::error::Error;
use crate::fields::{UTC, type_name};

/// What reading needs beside the payload.
#[derive(Debug)]
pub(crate) struct Context {
    /// Whether a field that the schema does not have is a fault; otherwise it is checked and skipped.
    pub(crate) refuse_unknown_fields: bool,
    /// Room for strings that must be unescaped before they can be looked at.
    pub(crate) scratch: Vec<u8>,
}

/// The columns of an object's fields.
#[derive(Debug)]
pub(crate) struct Members {
    members: Vec<Member>,
    /// Index of a field by its name.
    by_name: HashMap<String, usize>,
    fields: Fields,
    /// Number of the object being read, to know which of its fields have been seen.
    object: u64,
}

#[derive(Debug)]
struct Member {
    /// The name as it usually stands in a payload, in quotes; `None` if it cannot stand there without escapes.
    quoted_name: Option<Vec<u8>>,
    column: Column,
    /// The last object that had this field.
    seen_in: u64,
}

impl Members {
    /// Empty columns for `fields`.
    pub(crate) fn new(fields: &Fields) -> Result<Self, Error> {
        let members = fields
            .iter()
            .map(|field| {
                Ok(Member { quoted_name: quoted(field.name()), column: Column::new(field)?, seen_in: 0 })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let by_name = fields.iter().enumerate().map(|(index, field)| (field.name().clone(), index)).collect();
        Ok(Self { members, by_name, fields: fields.clone(), object: 0 })
    }

    /// Reads an object, whose opening brace comes next, as one more row of every column.
    pub(crate) fn read(&mut self, cursor: &mut Cursor<'_>, context: &mut Context) -> Parsed<()> {
        cursor.enter()?;
        cursor.skip_whitespace();
        self.object += 1;
        let mut seen = 0;
        let mut likely = 0;
        let mut more = !cursor.take(b'}');
        while more {
            if let Some(index) = self.find(cursor, context, likely)? {
                self.read_member(index, cursor, context)?;
                seen += 1;
                likely = index + 1;
            } else {
                cursor.colon()?;
                cursor.skip_value(&mut context.scratch)?;
            }
            more = cursor.next_item(b'}')?;
        }
        cursor.leave();
        if seen < self.members.len() {
            self.append_missing()?;
        }
        Ok(())
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
    fn read_member(&mut self, index: usize, cursor: &mut Cursor<'_>, context: &mut Context) -> Parsed<()> {
        let member = &mut self.members[index];
        cursor.colon()?;
        if member.seen_in == self.object {
            let fault = Fault::new(RejectReason::DuplicateField, "given twice");
            return Err(fault.within(member.column.field.name()));
        }
        member.seen_in = self.object;
        member.column.read(cursor, context).map_err(|fault| fault.within(member.column.field.name()))
    }

    /// Appends null to the columns that the object just read has no field for.
    fn append_missing(&mut self) -> Parsed<()> {
        for member in self.members.iter_mut().filter(|member| member.seen_in != self.object) {
            if !member.column.field.is_nullable() {
                let fault = Fault::new(RejectReason::MissingField, "required, but missing");
                return Err(fault.within(member.column.field.name()));
            }
            member.column.append_null();
        }
        Ok(())
    }

    /// Appends null to every column, as the null object does.
    fn append_nulls(&mut self) {
        self.members.iter_mut().for_each(|member| member.column.append_null());
    }

    /// Cuts every column back to its first `rows` rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.members.iter_mut().for_each(|member| member.column.truncate(rows));
    }

    /// Makes room for `rows` rows.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.members.iter_mut().for_each(|member| member.column.reserve(rows));
    }

    /// The arrays of all columns, which are empty afterwards.
    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.members.iter_mut().map(|member| member.column.finish()).collect()
    }
}

/// `name` in quotes, if no byte of it needs an escape.
fn quoted(name: &str) -> Option<Vec<u8>> {
    let plain = name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    plain.then(|| format!("\"{name}\"").into_bytes())
}

/// Byte strings end to end.
#[derive(Debug)]
struct Slices {
    bytes: Vec<u8>,
    offsets: Vec<i32>,
    /// Bytes in the last array, as a guess for the next.
    bytes_before: usize,
}

impl Slices {
    fn new() -> Self {
        Self { bytes: Vec::new(), offsets: vec![0], bytes_before: 0 }
    }

    /// Ends the slice whose bytes have been appended.
    #[inline]
    fn close(&mut self) {
        self.offsets.push(self.bytes.len() as i32);
    }

    fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len + 1);
        self.bytes.truncate(self.offsets[len] as usize);
    }

    fn reserve(&mut self, len: usize) {
        self.offsets.reserve(len);
        self.bytes.reserve(self.bytes_before);
    }

    fn finish(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        self.bytes_before = self.bytes.len();
        (finish_offsets(&mut self.offsets), Buffer::from_vec(take(&mut self.bytes)))
    }
}

fn finish_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(std::mem::replace(offsets, vec![0]).into())
}

#[derive(Debug)]
enum Values {
    Boolean(BooleanBufferBuilder),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>, u8, i8),
    String(Slices),
    Binary(Slices),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    List(Vec<i32>, Box<Column>),
    Struct(Box<Members>, usize),
    Map(Vec<i32>, Box<Entries>),
}

/// Keys and values of the maps of a column.
#[derive(Debug)]
struct Entries {
    field: FieldRef,
    fields: Fields,
    keys: Slices,
    values: Column,
}

/// The values of one field.
#[derive(Debug)]
struct Column {
    field: FieldRef,
    nulls: NullBufferBuilder,
    values: Values,
}

impl Column {
    fn new(field: &FieldRef) -> Result<Self, Error> {
        let unsupported =
            || Error::UnsupportedType { field: field.name().clone(), data_type: field.data_type().clone() };
        let values = match field.data_type() {
            DataType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            DataType::Int8 => Values::Int8(Vec::new()),
            DataType::Int16 => Values::Int16(Vec::new()),
            DataType::Int32 => Values::Int32(Vec::new()),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Decimal128(precision, scale) if (0..=38).contains(scale) => {
                Values::Decimal(Vec::new(), *precision, *scale)
            }
            DataType::Utf8 => Values::String(Slices::new()),
            DataType::Binary => Values::Binary(Slices::new()),
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == UTC => {
                Values::Timestamp(Vec::new())
            }
            DataType::List(element) => Values::List(vec![0], Box::new(Column::new(element)?)),
            DataType::Struct(fields) => Values::Struct(Box::new(Members::new(fields)?), 0),
            DataType::Map(entries, false) => {
                Values::Map(vec![0], Box::new(Entries::new(entries).ok_or_else(unsupported)??))
            }
            _ => return Err(unsupported()),
        };
        Ok(Self { field: Arc::clone(field), nulls: NullBufferBuilder::new(0), values })
    }

    /// Reads the value that starts here as one more row.
    #[inline]
    fn read(&mut self, cursor: &mut Cursor<'_>, context: &mut Context) -> Parsed<()> {
        let kind = cursor.kind()?;
        if kind == Kind::Null {
            return self.read_null(cursor);
        }
        match (&mut self.values, kind) {
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
                values.push(temporal::timestamp_micros(text).ok_or_else(|| self.field.invalid())?);
            }
            (Values::Date(values), Kind::String) => {
                let text = cursor.text(&mut context.scratch)?;
                values.push(temporal::date(text).ok_or_else(|| self.field.invalid())?);
            }
            (Values::Decimal(values, precision, scale), Kind::Number) => {
                values.push(decimal(cursor.number()?, *precision, *scale)?);
            }
            (Values::Decimal(values, precision, scale), Kind::String) => {
                let text = cursor.text(&mut context.scratch)?;
                if !numbers::is_number(text) {
                    return Err(self.field.invalid());
                }
                values.push(decimal(text, *precision, *scale)?);
            }
            (Values::Binary(slices), Kind::String) => {
                let text = cursor.text(&mut context.scratch)?;
                decode_base64(text.as_bytes(), &mut slices.bytes).ok_or_else(|| self.field.invalid())?;
                slices.close();
            }
            (Values::List(offsets, element), Kind::Array) => {
                let len = read_list(offsets, element, cursor, context)?;
                offsets.push(len);
            }
            (Values::Struct(members, len), Kind::Object) => {
                members.read(cursor, context)?;
                *len += 1;
            }
            (Values::Map(offsets, entries), Kind::Object) => {
                let len = entries.read(offsets, cursor, context)?;
                offsets.push(len);
            }
            _ => return Err(self.field.wrong_kind(kind)),
        }
        self.nulls.append_non_null();
        Ok(())
    }

    fn read_null(&mut self, cursor: &mut Cursor<'_>) -> Parsed<()> {
        cursor.null()?;
        if !self.field.is_nullable() {
            return Err(Fault::new(RejectReason::NullField, "required, but null"));
        }
        self.append_null();
        Ok(())
    }

    /// Appends null, also to a column that is not nullable: an object around it is null then, and hides it.
    fn append_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.append(false),
            Values::Int8(values) => values.push(0),
            Values::Int16(values) => values.push(0),
            Values::Int32(values) | Values::Date(values) => values.push(0),
            Values::Int64(values) | Values::Timestamp(values) => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal(values, ..) => values.push(0),
            Values::String(slices) | Values::Binary(slices) => slices.close(),
            Values::List(offsets, _) | Values::Map(offsets, _) => offsets.push(offsets[offsets.len() - 1]),
            Values::Struct(members, len) => {
                members.append_nulls();
                *len += 1;
            }
        }
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Boolean(values) => values.truncate(rows),
            Values::Int8(values) => values.truncate(rows),
            Values::Int16(values) => values.truncate(rows),
            Values::Int32(values) | Values::Date(values) => values.truncate(rows),
            Values::Int64(values) | Values::Timestamp(values) => values.truncate(rows),
            Values::Float32(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Decimal(values, ..) => values.truncate(rows),
            Values::String(slices) | Values::Binary(slices) => slices.truncate(rows),
            Values::List(offsets, element) => {
                offsets.truncate(rows + 1);
                element.truncate(offsets[rows] as usize);
            }
            Values::Struct(members, len) => {
                members.truncate(rows);
                *len = rows;
            }
            Values::Map(offsets, entries) => {
                offsets.truncate(rows + 1);
                entries.keys.truncate(offsets[rows] as usize);
                entries.values.truncate(offsets[rows] as usize);
            }
        }
        self.nulls.truncate(rows);
    }

    /// Makes room for `rows` rows; of what is nested, as much as grows by itself.
    fn reserve(&mut self, rows: usize) {
        match &mut self.values {
            Values::Boolean(values) => values.reserve(rows),
            Values::Int8(values) => values.reserve(rows),
            Values::Int16(values) => values.reserve(rows),
            Values::Int32(values) | Values::Date(values) => values.reserve(rows),
            Values::Int64(values) | Values::Timestamp(values) => values.reserve(rows),
            Values::Float32(values) => values.reserve(rows),
            Values::Float64(values) => values.reserve(rows),
            Values::Decimal(values, ..) => values.reserve(rows),
            Values::String(slices) | Values::Binary(slices) => slices.reserve(rows),
            Values::List(offsets, _) | Values::Map(offsets, _) => offsets.reserve(rows),
            Values::Struct(members, _) => members.reserve(rows),
        }
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.finish().filter(|nulls| nulls.null_count() > 0);
        Ok(match &mut self.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int8(values) => primitive::<Int8Type>(values, nulls)?,
            Values::Int16(values) => primitive::<Int16Type>(values, nulls)?,
            Values::Int32(values) => primitive::<Int32Type>(values, nulls)?,
            Values::Int64(values) => primitive::<Int64Type>(values, nulls)?,
            Values::Float32(values) => primitive::<Float32Type>(values, nulls)?,
            Values::Float64(values) => primitive::<Float64Type>(values, nulls)?,
            Values::Date(values) => primitive::<Date32Type>(values, nulls)?,
            Values::Timestamp(values) => {
                let array = PrimitiveArray::<TimestampMicrosecondType>::try_new(take(values).into(), nulls)?;
                Arc::new(array.with_timezone(UTC))
            }
            Values::Decimal(values, precision, scale) => {
                let array = PrimitiveArray::<Decimal128Type>::try_new(take(values).into(), nulls)?;
                Arc::new(array.with_precision_and_scale(*precision, *scale)?)
            }
            Values::String(slices) => {
                let (offsets, bytes) = slices.finish();
                Arc::new(StringArray::try_new(offsets, bytes, nulls)?)
            }
            Values::Binary(slices) => {
                let (offsets, bytes) = slices.finish();
                Arc::new(BinaryArray::try_new(offsets, bytes, nulls)?)
            }
            Values::List(offsets, element) => {
                let field = Arc::clone(&element.field);
                Arc::new(ListArray::try_new(field, finish_offsets(offsets), element.finish()?, nulls)?)
            }
            Values::Struct(members, len) => {
                let arrays = members.finish()?;
                Arc::new(StructArray::try_new_with_length(members.fields.clone(), arrays, nulls, take(len))?)
            }
            Values::Map(offsets, entries) => {
                let offsets = finish_offsets(offsets);
                Arc::new(MapArray::try_new(
                    Arc::clone(&entries.field),
                    offsets,
                    entries.finish()?,
                    nulls,
                    false,
                )?)
            }
        })
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(PrimitiveArray::<T>::try_new(take(values).into(), nulls)?))
}

/// The faults of a value that does not fit its field.
trait Expected {
    fn wrong_kind(&self, found: Kind) -> Box<Fault>;
    fn invalid(&self) -> Box<Fault>;
}

impl Expected for FieldRef {
    #[cold]
    fn wrong_kind(&self, found: Kind) -> Box<Fault> {
        let expected = type_name(self.data_type());
        Fault::new(RejectReason::WrongType, format!("expected {expected}, found {}", found.as_str()))
    }

    #[cold]
    fn invalid(&self) -> Box<Fault> {
        let form = match self.data_type() {
            DataType::Date32 => "a date such as 2013-01-31",
            DataType::Timestamp(..) => "a timestamp such as 2013-01-31T05:00:00Z",
            DataType::Binary => "bytes in Base64",
            _ => "a decimal number",
        };
        Fault::new(RejectReason::InvalidValue, format!("the text is not {form}"))
    }
}

#[inline]
fn read_integer<T: TryFrom<i64> + TryFrom<i128>>(cursor: &mut Cursor<'_>, type_name: &str) -> Parsed<T> {
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
    let text = cursor.number()?;
    // Never an error: the grammar of JSON numbers is part of Rust's.
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(numbers::out_of_range(text, "float64")),
    }
}

#[inline]
fn read_float32(cursor: &mut Cursor<'_>) -> Parsed<f32> {
    if let Some((negative, magnitude)) = cursor.short_integer() {
        let magnitude = magnitude as f32; // the nearest one
        return Ok(if negative { -magnitude } else { magnitude });
    }
    let text = cursor.number()?;
    // Not by way of a float64: rounding twice may miss the nearest value.
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(numbers::out_of_range(text, "float32")),
    }
}

fn decimal(text: &str, precision: u8, scale: i8) -> Parsed<i128> {
    let out_of_range = || numbers::out_of_range(text, &format!("decimal({precision},{scale})"));
    match numbers::scaled_integer(text, i64::from(scale)) {
        Ok(value) if value.unsigned_abs() < 10_u128.pow(u32::from(precision)) => Ok(value),
        Ok(_) | Err(Inexact::TooLarge) => Err(out_of_range()),
        Err(Inexact::Fraction) => Err(Fault::new(
            RejectReason::InvalidValue,
            format!("{} has more than the {scale} decimals of decimal({precision},{scale})", shortened(text)),
        )),
    }
}

/// Reads the elements of a list and returns how many elements the column has then.
fn read_list(
    offsets: &[i32],
    element: &mut Column,
    cursor: &mut Cursor<'_>,
    context: &mut Context,
) -> Parsed<i32> {
    let mut len = offsets[offsets.len() - 1];
    cursor.enter()?;
    cursor.skip_whitespace();
    let mut more = !cursor.take(b']');
    while more {
        element.read(cursor, context).map_err(|fault| fault.within_element())?;
        len += 1;
        more = cursor.next_item(b']')?;
    }
    cursor.leave();
    Ok(len)
}

impl Entries {
    /// `None` if `field` is not that of a map with strings as keys.
    fn new(field: &FieldRef) -> Option<Result<Self, Error>> {
        let DataType::Struct(fields) = field.data_type() else { return None };
        let [key, value] = fields.as_ref() else { return None };
        if key.data_type() != &DataType::Utf8 || key.is_nullable() || field.is_nullable() {
            return None;
        }
        Some(Column::new(value).map(|values| Self {
            field: Arc::clone(field),
            fields: fields.clone(),
            keys: Slices::new(),
            values,
        }))
    }

    /// Reads the entries of a map and returns how many entries the column has then.
    fn read(&mut self, offsets: &[i32], cursor: &mut Cursor<'_>, context: &mut Context) -> Parsed<i32> {
        let first = offsets[offsets.len() - 1] as usize;
        cursor.enter()?;
        cursor.skip_whitespace();
        let mut more = !cursor.take(b'}');
        while more {
            let name = cursor.name(&mut context.scratch)?;
            self.keys.bytes.extend_from_slice(name.as_bytes());
            self.keys.close();
            cursor.colon()?;
            self.values.read(cursor, context).map_err(|fault| fault.within_element())?;
            more = cursor.next_item(b'}')?;
        }
        cursor.leave();
        let len = self.keys.offsets.len() - 1;
        let mut keys = HashSet::with_capacity(len - first);
        for key in self.keys.offsets[first..].windows(2) {
            if !keys.insert(&self.keys.bytes[key[0] as usize..key[1] as usize]) {
                return Err(Fault::new(RejectReason::DuplicateField, "a key is given twice"));
            }
        }
        Ok(len as i32)
    }

    fn finish(&mut self) -> Result<StructArray, ArrowError> {
        let (offsets, bytes) = self.keys.finish();
        let len = offsets.len() - 1;
        let keys = StringArray::try_new(offsets, bytes, None)?;
        let arrays: Vec<ArrayRef> = vec![Arc::new(keys), self.values.finish()?];
        StructArray::try_new_with_length(self.fields.clone(), arrays, None, len)
    }
}

/// Decodes standard Base64 with padding (RFC 4648, section 4) onto the end of `out`; `None` if `text` is anything
/// else, or does not write its last bytes in the one canonical way.
fn decode_base64(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let digit = |byte: u8| -> Option<u32> {
        Some(u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let (groups, rest) = text.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    for (index, group) in groups.iter().enumerate() {
        let padding = match group {
            [_, _, b'=', b'='] => 2,
            [_, _, _, b'='] => 1,
            _ => 0,
        };
        if padding > 0 && index + 1 < groups.len() {
            return None;
        }
        let digits = &group[..4 - padding];
        let bits = digits.iter().try_fold(0, |bits, byte| Some(bits << 6 | digit(*byte)?))? << (6 * padding);
        let [_, bytes @ ..] = bits.to_be_bytes();
        let (kept, unused) = bytes.split_at(3 - padding);
        if unused.iter().any(|byte| *byte != 0) {
            return None;
        }
        out.extend_from_slice(kept);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_follows_rfc_4648() {
        let decode = |text: &str| {
            let mut out = Vec::new();
            decode_base64(text.as_bytes(), &mut out).map(|()| out)
        };
        for (text, expected) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(expected.as_bytes()));
        }
        assert_eq!(decode("+/8="), Some(vec![0xfb, 0xff]));
        for text in ["Zg", "Zg=", "Z===", "====", "Zh==", "Zm9=", "Zg==Zg==", "Zm 9", "Zm9v\n", "-_8="] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
