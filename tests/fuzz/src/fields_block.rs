//! The `fields` of a source: types as text.

use std::str::FromStr;

use isobar_schemas::fields::{FieldType, check, type_name};
use isobar_schemas::{DecodeLimits, Fields, JsonDecoder, UnknownFields, to_arrow_schema};

/// JSON that may be a `fields` block. What is one can be written and read again, and has a schema that records can have.
pub(crate) fn fields(data: &[u8]) {
    let Ok(fields) = serde_json::from_slice::<Fields>(data) else { return };
    let written = serde_json::to_string(&fields).expect("fields have a form in JSON");
    assert_eq!(serde_json::from_str::<Fields>(&written).expect("what was written can be read"), fields);
    let problems = check(&fields);
    let schema = match to_arrow_schema(&fields) {
        Ok(schema) => schema,
        Err(problem) => {
            assert_eq!(problem.to_string(), problems[0].to_string());
            return;
        }
    };
    assert!(problems.is_empty(), "{problems:?}");
    for (field, (name, spec)) in schema.fields().iter().zip(&fields.0) {
        assert_eq!((field.name(), field.is_nullable()), (name, spec.nullable));
        let name = type_name(field.data_type());
        let again = FieldType::from_str(&name).expect("the name of a type is a type");
        assert_eq!(&again.to_arrow(), field.data_type());
    }
    JsonDecoder::new(schema, UnknownFields::Quarantine, DecodeLimits::default())
        .expect("JSON has a form for every type");
}
