//! Rows as JSON.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrowPrimitiveType, AsArray, RecordBatch, new_empty_array};
use arrow::compute::{max, min};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, FieldRef, Float16Type, Float32Type, Float64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder, WriterBuilder, make_encoder,
};
use arrow::temporal_conversions::as_datetime;

/// Of what is written as arrow does.
static PLAIN: LazyLock<EncoderOptions> = LazyLock::new(EncoderOptions::default);

/// Rows as JSON objects, one a line.
///
/// # Errors
/// For columns that JSON has no place for, and for times that no calendar has.
pub(crate) fn json_lines(rows: &RecordBatch) -> Result<String, ArrowError> {
    if rows.num_rows() == 0 {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    let builder = WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(Faithful));
    let mut writer: LineDelimitedWriter<_> = builder.build::<_, LineDelimited>(&mut bytes);
    writer.write(rows)?;
    writer.finish()?;
    drop(writer);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// How the values of one column are written.
pub(crate) fn json_options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(Faithful))
}

/// Why JSON has no place for the values of a column, if it has none.
pub(crate) fn json_problem(field: &FieldRef) -> Option<String> {
    let (empty, options) = (new_empty_array(field.data_type()), json_options());
    make_encoder(field, &empty, &options).err().map(|error| error.to_string())
}

/// Numbers that JSON has none for are texts, as in PostgreSQL: `"NaN"`, `"Infinity"`, `"-Infinity"`. arrow writes null, which is
/// another value. In the place of a time that no calendar has it writes why, which is another value too, and refused.
#[derive(Debug)]
struct Faithful;

impl EncoderFactory for Faithful {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        refuse_times_beyond(array)?;
        let value: Box<dyn Fn(usize) -> f64 + 'a> = match array.data_type() {
            DataType::Float16 => {
                let array = array.as_primitive::<Float16Type>();
                Box::new(move |row| f64::from(array.value(row).to_f32()))
            }
            DataType::Float32 => {
                let array = array.as_primitive::<Float32Type>();
                Box::new(move |row| f64::from(array.value(row)))
            }
            DataType::Float64 => {
                let array = array.as_primitive::<Float64Type>();
                Box::new(move |row| array.value(row))
            }
            _ => return Ok(None),
        };
        let finite = make_encoder(field, array, &PLAIN)?;
        Ok(Some(NullableEncoder::new(Box::new(FloatEncoder { value, finite }), array.nulls().cloned())))
    }
}

/// Refuses dates and timestamps hundreds of thousands of years away.
fn refuse_times_beyond(array: &dyn Array) -> Result<(), ArrowError> {
    fn check<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &dyn Array) -> Result<(), ArrowError> {
        let array = array.as_primitive::<T>();
        for value in [min(array), max(array)].into_iter().flatten() {
            let value: i64 = value.into();
            if as_datetime::<T>(value).is_none() {
                let data_type = T::DATA_TYPE;
                return Err(ArrowError::CastError(format!("{value} as {data_type} is in no calendar")));
            }
        }
        Ok(())
    }
    match array.data_type() {
        DataType::Date32 => check::<Date32Type>(array),
        DataType::Date64 => check::<Date64Type>(array),
        DataType::Timestamp(TimeUnit::Second, _) => check::<TimestampSecondType>(array),
        DataType::Timestamp(TimeUnit::Millisecond, _) => check::<TimestampMillisecondType>(array),
        DataType::Timestamp(TimeUnit::Microsecond, _) => check::<TimestampMicrosecondType>(array),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => check::<TimestampNanosecondType>(array),
        _ => Ok(()),
    }
}

struct FloatEncoder<'a> {
    value: Box<dyn Fn(usize) -> f64 + 'a>,
    finite: NullableEncoder<'a>,
}

impl Encoder for FloatEncoder<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = (self.value)(row);
        if value.is_finite() {
            return self.finite.encode(row, out);
        }
        let text: &[u8] = match value {
            f64::INFINITY => b"\"Infinity\"",
            f64::NEG_INFINITY => b"\"-Infinity\"",
            _ => b"\"NaN\"",
        };
        out.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, Date32Array, Float32Array, Float64Array, ListArray, StructArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_texts_at_any_depth() {
        let doubles: ArrayRef =
            Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(0.1), None, Some(f64::NEG_INFINITY)]));
        let singles: ArrayRef = Arc::new(Float32Array::from(vec![f32::INFINITY, 0.1, -0.0, f32::NAN]));
        let record =
            StructArray::from(vec![(Arc::new(Field::new("d", DataType::Float64, true)), doubles.clone())]);
        let list = ListArray::from_iter_primitive::<Float64Type, _, _>([
            Some(vec![Some(f64::INFINITY), None, Some(1.5)]),
            Some(vec![]),
            None,
            Some(vec![Some(f64::NAN)]),
        ]);
        let rows = RecordBatch::try_from_iter([
            ("d", doubles),
            ("s", singles),
            ("r", Arc::new(record) as ArrayRef),
            ("l", Arc::new(list) as ArrayRef),
        ])
        .unwrap();
        let lines = json_lines(&rows).unwrap();
        let expected = [
            r#"{"d":"NaN","s":"Infinity","r":{"d":"NaN"},"l":["Infinity",null,1.5]}"#,
            r#"{"d":0.1,"s":0.1,"r":{"d":0.1},"l":[]}"#,
            r#"{"d":null,"s":-0.0,"r":{"d":null},"l":null}"#,
            r#"{"d":"-Infinity","s":"NaN","r":{"d":"-Infinity"},"l":["NaN"]}"#,
        ];
        assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
        assert_eq!(json_lines(&rows.slice(0, 0)).unwrap(), "");
    }

    #[test]
    fn a_time_that_no_calendar_has_is_an_error_and_no_text_in_its_place() {
        let utc = |values: Vec<Option<i64>>| {
            Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef
        };
        let lines = |column: ArrayRef| json_lines(&RecordBatch::try_from_iter([("at", column)]).unwrap());
        let last = utc(vec![None, Some(253_402_300_799_999_999)]);
        assert_eq!(lines(last).unwrap(), "{\"at\":null}\n{\"at\":\"9999-12-31T23:59:59.999999Z\"}\n");
        for (number, beyond) in [
            (i64::MAX, utc(vec![None, Some(0), Some(i64::MAX)])),
            (i64::MIN, utc(vec![Some(i64::MIN), Some(0)])),
            (i64::from(i32::MAX), Arc::new(Date32Array::from(vec![i32::MAX])) as ArrayRef),
        ] {
            let field = Arc::new(Field::new("at", beyond.data_type().clone(), true));
            let nested: ArrayRef = Arc::new(StructArray::from(vec![(field, beyond.clone())]));
            for column in [beyond, nested] {
                let error = lines(column).unwrap_err().to_string();
                assert!(error.contains(&number.to_string()), "{error}");
            }
        }
    }

    #[test]
    fn a_map_whose_keys_are_no_texts_has_no_place_in_json() {
        let map = |keys: DataType| {
            let entries = vec![Field::new("key", keys, false), Field::new("value", DataType::Int32, true)];
            let entries = Field::new("entries", DataType::Struct(entries.into()), false);
            Arc::new(Field::new("m", DataType::Map(Arc::new(entries), false), true))
        };
        assert_eq!(json_problem(&map(DataType::Utf8)), None);
        assert!(json_problem(&map(DataType::Int32)).is_some());
        for plain in [DataType::Decimal128(38, 9), DataType::Binary, DataType::Date32, DataType::Null] {
            assert_eq!(json_problem(&Arc::new(Field::new("c", plain, true))), None);
        }
    }
}
