//! Payloads as they are: the whole payload is the value of the only field.
//!
//! The field is `binary`, or `string`, and then the payload must be UTF-8. A payload of no bytes is a value like any
//! other here; a tombstone is not.

use arrow::datatypes::SchemaRef;

use super::columns::{Columns, Values};
use super::json::check_utf8;
use super::reject::{Fault, Parsed, RejectReason};
use super::rows::{Expansion, Rows};
use super::{DecodeLimits, Decoded, Decoder};
use crate::error::Error;
use crate::fields::type_name;
use crate::records::RecordChunk;

/// Turns payloads into batches of one column. See the [module](self).
#[derive(Debug)]
pub struct RawDecoder {
    rows: Rows,
}

impl RawDecoder {
    /// A decoder into batches of `schema`.
    ///
    /// # Errors
    /// If the schema is anything but one field of the type `binary` or `string`.
    pub fn new(schema: SchemaRef, limits: DecodeLimits) -> Result<Self, Error> {
        let [field] = schema.fields().as_ref() else {
            return Err(Error::NotOneField { fields: schema.fields().len() });
        };
        let rows = Rows::new(schema.clone(), limits, Expansion::NONE)?;
        match Columns::new(schema.fields())?.column(0).values {
            Values::Binary(_) | Values::String(_) => Ok(Self { rows: rows.accept_empty() }),
            _ => Err(Error::InvalidForFormat {
                field: field.name().clone(),
                format: "raw",
                problem: format!("{} is not a payload; take binary or string", type_name(field.data_type())),
            }),
        }
    }
}

impl Decoder for RawDecoder {
    fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    fn decode(&mut self, chunk: &RecordChunk) -> Result<Decoded, Error> {
        self.rows.decode(chunk, read)
    }
}

/// Takes `payload` for one more row.
fn read(payload: &[u8], columns: &mut Columns) -> Parsed<()> {
    let column = columns.column(0);
    match &mut column.values {
        Values::Binary(slices) => slices.push(payload),
        Values::String(slices) => {
            check_utf8(payload).map_err(|fault| fault.within(column.field.name()))?;
            slices.push(payload);
        }
        _ => return Err(Fault::new(RejectReason::WrongType, "not a column for payloads")),
    }
    column.set_present();
    columns.end_row();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::*;
    use crate::decode::testing::{chunk, render_row, schema};

    fn decoder(data_type: &str) -> RawDecoder {
        RawDecoder::new(schema(&[("payload!", data_type)]), DecodeLimits::default()).unwrap()
    }

    #[test]
    fn a_payload_is_a_value_as_it_is() {
        let payloads: [Option<&[u8]>; 4] = [Some(b"\x00\xff"), None, Some(b""), Some(b"{}")];
        let decoded = decoder("binary").decode(&chunk(payloads)).unwrap();
        assert_eq!(decoded.records, [0, 2, 3]);
        let rows: Vec<_> = (0..3).map(|row| render_row(&decoded.batch, row)).collect();
        assert_eq!(rows, ["{payload: [0, 255]}", "{payload: []}", "{payload: [123, 125]}"]);
        assert_eq!(decoded.rejects[0].reason, RejectReason::Tombstone);
    }

    #[test]
    fn text_must_be_utf8() {
        let payloads: [Option<&[u8]>; 4] = [Some(b"a\xc5"), Some("ż\n".as_bytes()), Some(b"\xbc"), Some(b"")];
        let decoded = decoder("string").decode(&chunk(payloads)).unwrap();
        assert_eq!(decoded.records, [1, 3]);
        assert_eq!(render_row(&decoded.batch, 0), "{payload: \"ż\\n\"}");
        let rejects: Vec<_> = decoded.rejects.iter().map(|reject| (reject.record, reject.reason)).collect();
        assert_eq!(rejects, [(0, RejectReason::Undecodable), (2, RejectReason::Undecodable)]);
        assert_eq!(decoded.rejects[0].message, "field `payload`: byte 1: not UTF-8");
    }

    #[test]
    fn a_payload_beyond_the_limit_is_rejected() {
        let limits = DecodeLimits { payload_bytes_max: 3, ..DecodeLimits::default() };
        let mut decoder = RawDecoder::new(schema(&[("payload", "binary")]), limits).unwrap();
        let decoded = decoder.decode(&chunk([Some(&b"abc"[..]), Some(&b"abcd"[..])])).unwrap();
        assert_eq!(decoded.records, [0]);
        assert_eq!(decoded.rejects[0].reason, RejectReason::Oversize);
    }

    #[test]
    fn the_contract_must_be_one_field_for_bytes_or_text() {
        let new = |schema| RawDecoder::new(schema, DecodeLimits::default()).unwrap_err().to_string();
        assert!(new(Arc::new(Schema::empty())).contains("exactly one field"));
        assert!(new(schema(&[("a", "binary"), ("b", "string")])).contains("exactly one field"));
        assert!(new(schema(&[("a", "int32")])).contains("take binary or string"));
    }
}
