//! The contract that a message suggests.

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};

use super::plan::{DATE, TIME_OF_DAY, natural_type, published, wrapped};
use crate::error::Error;
use crate::fields::{FieldSpec, Fields};

/// How deep messages are followed into each other. Types of a contract may be nested a little deeper.
const DEPTH_MAX: usize = 16;

/// Most fields of a contract, those inside structs included.
const FIELDS_MAX: usize = 10_000;

/// The `fields` block that takes all of `message`, in the order of its declaration.
///
/// | Protobuf | contract |
/// |---|---|
/// | `uint32` | `int64` |
/// | `uint64` | `decimal(20,0)` |
/// | enum | `string`: the name |
/// | message | `struct<…>` |
/// | `repeated`, `map` | `list<…>`, `map<string, …>` |
/// | `Timestamp` | `timestamp` |
/// | `Duration`, `TimeOfDay` | `int64`, in microseconds |
/// | `Date` of `google.type` | `date` |
/// | `Decimal` of Confluent | `struct<…>`: it does not tell the digits of all its values, `decimal(p,s)` takes those that it has |
/// | the wrappers | what they wrap |
/// | `Struct`, `Value`, `ListValue`, a message inside itself | `binary`: its bytes |
///
/// Only what `proto2` calls `required` is not nullable. Groups are left out: no contract can have them.
///
/// # Errors
/// If the message has no field that a contract can have, or more than 10,000.
pub fn fields_of_protobuf(message: &MessageDescriptor) -> Result<Fields, Error> {
    let mut describing = Describing { within: vec![message.clone()], fields: 0 };
    let mut fields = Vec::new();
    for field in declared(message) {
        let mut spec = FieldSpec::nullable(describing.field_type(&field)?);
        spec.nullable = field.cardinality() != Cardinality::Required;
        spec.unit = unit_of(&field.kind()).map(str::to_owned);
        fields.push((field.name().to_owned(), spec));
    }
    if fields.is_empty() {
        return Err(Error::NoFields);
    }
    Ok(Fields(fields))
}

/// The fields of `message` in the order of its declaration, without groups.
fn declared(message: &MessageDescriptor) -> Vec<FieldDescriptor> {
    let numbers = message.descriptor_proto().field.iter().map(|field| field.number().unsigned_abs());
    numbers.filter_map(|number| message.get_field(number)).filter(|field| !field.is_group()).collect()
}

/// The unit of values that the type of the field does not tell.
fn unit_of(kind: &Kind) -> Option<&'static str> {
    let Kind::Message(message) = kind else { return None };
    match message.full_name() {
        "google.protobuf.Duration" => Some("microseconds"),
        TIME_OF_DAY if published(message).is_some() => Some("microseconds of the day"),
        _ => None,
    }
}

struct Describing {
    /// The messages that the field being described lies in, the outermost first.
    within: Vec<MessageDescriptor>,
    fields: usize,
}

impl Describing {
    fn field_type(&mut self, field: &FieldDescriptor) -> Result<String, Error> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(Error::ProtobufField {
                field: field.full_name().to_owned(),
                problem: format!("more than {FIELDS_MAX} fields; name those you want in `fields`"),
            });
        }
        match (field.kind(), field.cardinality()) {
            (Kind::Message(entry), Cardinality::Repeated) if entry.is_map_entry() => {
                let value = entry.get_field(2).map(|value| value.kind());
                Ok(format!("map<string, {}>", self.kind_type(&value.unwrap_or(Kind::Bytes))?))
            }
            (kind, Cardinality::Repeated) => Ok(format!("list<{}>", self.kind_type(&kind)?)),
            (kind, _) => self.kind_type(&kind),
        }
    }

    fn kind_type(&mut self, kind: &Kind) -> Result<String, Error> {
        let Kind::Message(message) = kind else { return Ok(natural_type(kind).to_owned()) };
        let name = message.full_name();
        match name {
            "google.protobuf.Timestamp" => return Ok("timestamp".to_owned()),
            "google.protobuf.Duration" => return Ok("int64".to_owned()),
            TIME_OF_DAY if published(message).is_some() => return Ok("int64".to_owned()),
            DATE if published(message).is_some() => return Ok("date".to_owned()),
            "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" => {
                return Ok("binary".to_owned());
            }
            _ => {}
        }
        if let Some(kind) = wrapped(name) {
            return Ok(natural_type(&kind).to_owned());
        }
        let fields = declared(message);
        if fields.is_empty() || self.within.len() == DEPTH_MAX || self.within.contains(message) {
            return Ok("binary".to_owned());
        }
        self.within.push(message.clone());
        let members = fields
            .iter()
            .map(|field| Ok(format!("{}: {}", field.name(), self.field_type(field)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        self.within.pop();
        Ok(format!("struct<{}>", members.join(", ")))
    }
}
