//! Columns that grow at their end, one value at a time, and can be cut back.
//!
//! Every format reads its records straight into these; nothing lies between a payload and the Arrow buffers.
//! Reading can stop anywhere with a [`Fault`]. The columns then hold a part of the record, and
//! [`Columns::truncate`] cuts them back to the rows before it: a bad record leaves no trace. That works because a
//! column only ever grows at its end, at every level of nesting.
//!
//! A reader matches [`Column::values`], pushes one value of the type it finds there, and then says
//! [`Column::set_present`]; or it says [`Column::push_null`]. Of a struct it fills every column, then calls
//! [`Columns::end_row`]; of a list or map it pushes the elements, then the number that the column has then.

use std::collections::HashSet;
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

use super::reject::{Fault, Parsed, RejectReason};
use crate::error::Error;
use crate::fields::UTC;

/// The columns of the fields of a record or struct.
#[derive(Debug)]
pub(crate) struct Columns {
    fields: Fields,
    columns: Vec<Column>,
    /// Rows that are complete. A column may have a value of the row after them.
    rows: usize,
}

impl Columns {
    /// Empty columns for `fields`.
    pub(crate) fn new(fields: &Fields) -> Result<Self, Error> {
        let columns = fields.iter().map(Column::new).collect::<Result<_, _>>()?;
        Ok(Self { fields: fields.clone(), columns, rows: 0 })
    }

    /// The fields, in the order of the columns.
    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The column of field `index`.
    #[inline]
    pub(crate) fn column(&mut self, index: usize) -> &mut Column {
        &mut self.columns[index]
    }

    /// Whether the row that is being read has a value, or null, in column `index` already.
    #[inline]
    pub(crate) fn has_value(&self, index: usize) -> bool {
        self.columns[index].len() > self.rows
    }

    /// Appends null to the columns that the row being read has nothing for.
    pub(crate) fn fill_missing(&mut self) -> Parsed<()> {
        let rows = self.rows;
        for column in self.columns.iter_mut().filter(|column| column.len() <= rows) {
            if !column.field.is_nullable() {
                let fault = Fault::new(RejectReason::MissingField, "required, but missing");
                return Err(fault.within(column.field.name()));
            }
            column.append_null();
        }
        Ok(())
    }

    /// Ends the row that is being read; every column has its value.
    #[inline]
    pub(crate) fn end_row(&mut self) {
        self.rows += 1;
        debug_assert!(self.columns.iter().all(|column| column.len() == self.rows));
    }

    /// Appends null to every column, as the null struct does.
    fn append_nulls(&mut self) {
        self.columns.iter_mut().for_each(Column::append_null);
        self.end_row();
    }

    /// Cuts every column back to its first `rows` rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
        self.rows = rows;
    }

    /// Makes room for `rows` rows.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.reserve(rows));
    }

    /// The arrays of all columns, which are empty afterwards.
    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.rows = 0;
        self.columns.iter_mut().map(Column::finish).collect()
    }

    fn finish_struct(&mut self, nulls: Option<NullBuffer>) -> Result<StructArray, ArrowError> {
        let rows = self.rows;
        StructArray::try_new_with_length(self.fields.clone(), self.finish()?, nulls, rows)
    }
}

/// Byte strings end to end. Together they must stay below 2 GiB: see [`rows`](super::rows).
#[derive(Debug)]
pub(crate) struct Slices {
    /// The bytes of all slices; those after the last end belong to the slice that is being read.
    pub(crate) bytes: Vec<u8>,
    offsets: Vec<i32>,
    /// Bytes in the last array, as a guess for the next.
    bytes_before: usize,
}

impl Slices {
    fn new() -> Self {
        Self { bytes: Vec::new(), offsets: vec![0], bytes_before: 0 }
    }

    /// Number of slices.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Appends a slice.
    #[inline]
    pub(crate) fn push(&mut self, slice: &[u8]) {
        self.bytes.extend_from_slice(slice);
        self.close();
    }

    /// Ends the slice whose bytes have been appended.
    #[inline]
    pub(crate) fn close(&mut self) {
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

/// The values of a column, in the form of its type. Strings must be UTF-8 and decimals within their precision; the
/// offsets of lists and maps start with 0 and go on with the number of elements after each row.
#[derive(Debug)]
pub(crate) enum Values {
    Boolean(BooleanBufferBuilder),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    /// Unscaled values, then precision and scale.
    Decimal(Vec<i128>, u8, i8),
    String(Slices),
    Binary(Slices),
    /// Days since 1970-01-01.
    Date(Vec<i32>),
    /// Microseconds since 1970-01-01 00:00 UTC.
    Timestamp(Vec<i64>),
    List(Vec<i32>, Box<Column>),
    Struct(Box<Columns>),
    Map(Vec<i32>, Box<Entries>),
}

/// Keys and values of the maps of a column.
#[derive(Debug)]
pub(crate) struct Entries {
    field: FieldRef,
    fields: Fields,
    pub(crate) keys: Slices,
    pub(crate) values: Column,
}

/// The values of one field.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) field: FieldRef,
    nulls: NullBufferBuilder,
    pub(crate) values: Values,
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
            DataType::Struct(fields) => Values::Struct(Box::new(Columns::new(fields)?)),
            DataType::Map(entries, false) => {
                Values::Map(vec![0], Box::new(Entries::new(entries).ok_or_else(unsupported)??))
            }
            _ => return Err(unsupported()),
        };
        Ok(Self { field: Arc::clone(field), nulls: NullBufferBuilder::new(0), values })
    }

    /// Number of rows.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Ends a row whose value has been pushed to [`values`](Self::values).
    #[inline]
    pub(crate) fn set_present(&mut self) {
        self.nulls.append_non_null();
    }

    /// Appends null, where the field may be null.
    #[inline]
    pub(crate) fn push_null(&mut self) -> Parsed<()> {
        if !self.field.is_nullable() {
            return Err(Fault::new(RejectReason::NullField, "required, but null"));
        }
        self.append_null();
        Ok(())
    }

    /// Appends null, also to a column that is not nullable: a struct around it is null then, and hides it.
    pub(crate) fn append_null(&mut self) {
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
            Values::Struct(columns) => columns.append_nulls(),
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
            Values::Struct(columns) => columns.truncate(rows),
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
            Values::Struct(columns) => columns.reserve(rows),
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
            Values::Struct(columns) => Arc::new(columns.finish_struct(nulls)?),
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

    /// Ends the map whose entries start at entry `first`, and returns how many entries the column has now. No key
    /// may be there twice.
    pub(crate) fn end_map(&self, first: i32) -> Parsed<i32> {
        let len = self.keys.len();
        let first = first as usize;
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
