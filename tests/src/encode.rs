//! Events in every format, encoded by libraries that the product does not decode with.

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use prost_reflect::{DescriptorPool, DynamicMessage, Value as Proto};

use crate::events::Event;

/// The Avro schema of an event.
pub const AVRO: &str = r#"{
  "type": "record", "name": "Event", "namespace": "tests", "fields": [
    {"name": "id", "type": "long"},
    {"name": "city", "type": ["null", "string"]},
    {"name": "amount", "type": ["null", "double"]},
    {"name": "items", "type": ["null", "int"]},
    {"name": "flag", "type": ["null", "boolean"]},
    {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]}
  ]
}"#;

/// The Protobuf schema of an event.
pub const PROTOBUF: &str = r#"syntax = "proto3";
package tests;
import "google/protobuf/timestamp.proto";
message Event {
  int64 id = 1;
  optional string city = 2;
  optional double amount = 3;
  optional int32 items = 4;
  optional bool flag = 5;
  google.protobuf.Timestamp at = 6;
}
"#;

/// Encodes events with `apache-avro`.
#[derive(Debug)]
pub struct AvroEncoder(Schema);

impl AvroEncoder {
    /// For events of the schema [`AVRO`].
    ///
    /// # Panics
    /// If that is not one.
    pub fn new() -> Self {
        Self(Schema::parse_str(AVRO).expect("the schema of the tests is one"))
    }

    /// The binary encoding of `event`.
    ///
    /// # Panics
    /// If the library does not encode it.
    pub fn encode(&self, event: &Event) -> Vec<u8> {
        let optional = |value: Option<Avro>| match value {
            None => Avro::Union(0, Box::new(Avro::Null)),
            Some(value) => Avro::Union(1, Box::new(value)),
        };
        let fields = vec![
            ("id".into(), Avro::Long(event.id)),
            ("city".into(), optional(event.city.clone().map(Avro::String))),
            ("amount".into(), optional(event.amount.map(Avro::Double))),
            ("items".into(), optional(event.items.map(Avro::Int))),
            ("flag".into(), optional(event.flag.map(Avro::Boolean))),
            ("at".into(), optional(event.at_micros.map(Avro::TimestampMicros))),
        ];
        let writer = GenericDatumWriter::builder(&self.0).build().expect("the schema resolves");
        writer.write_value_to_vec(Avro::Record(fields)).expect("the value is of the schema")
    }
}

impl Default for AvroEncoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Encodes events with `prost-reflect`.
#[derive(Debug)]
pub struct ProtobufEncoder(DescriptorPool);

impl ProtobufEncoder {
    /// For events of the schema [`PROTOBUF`], which lies in `folder` as `event.proto`.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn new(folder: &std::path::Path) -> Self {
        let files = protox::compile(["event.proto"], [folder]).expect("the schema of the tests is one");
        Self(DescriptorPool::from_file_descriptor_set(files).expect("what protox makes is well-formed"))
    }

    /// The binary encoding of `event`.
    pub fn encode(&self, event: &Event) -> Vec<u8> {
        let mut message = self.message("tests.Event");
        let fields = [
            ("id", Some(Proto::I64(event.id))),
            ("city", event.city.clone().map(Proto::String)),
            ("amount", event.amount.map(Proto::F64)),
            ("items", event.items.map(Proto::I32)),
            ("flag", event.flag.map(Proto::Bool)),
            ("at", event.at_micros.map(|micros| self.timestamp(micros))),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                message.set_field_by_name(name, value);
            }
        }
        prost_reflect::prost::Message::encode_to_vec(&message)
    }

    fn timestamp(&self, micros: i64) -> Proto {
        let mut message = self.message("google.protobuf.Timestamp");
        message.set_field_by_name("seconds", Proto::I64(micros.div_euclid(1_000_000)));
        let nanos = micros.rem_euclid(1_000_000) * 1_000;
        message.set_field_by_name("nanos", Proto::I32(nanos as i32));
        Proto::Message(message)
    }

    fn message(&self, name: &str) -> DynamicMessage {
        DynamicMessage::new(
            self.0.get_message_by_name(name).expect("the schema of the tests has the message"),
        )
    }
}

/// `event` as a line of CSV, its fields in the order of [`SOURCE`](crate::events::SOURCE).
pub fn csv_line(event: &Event) -> Vec<u8> {
    let text = |value: Option<String>| value.unwrap_or_default();
    let city = event.city.as_ref().map(|city| format!("\"{}\"", city.replace('"', "\"\"")));
    let at = event.at_micros.and_then(chrono::DateTime::from_timestamp_micros);
    let fields = [
        event.id.to_string(),
        text(city),
        text(event.amount.map(|amount| amount.to_string())),
        text(event.items.map(|items| items.to_string())),
        text(event.flag.map(|flag| flag.to_string())),
        text(at.map(|at| at.to_rfc3339())),
    ];
    fields.join(",").into_bytes()
}
