//! The subject under which a registry keeps the schema of a topic's records.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How producers name the subjects of their schemas: the three strategies of Confluent's serializers.
///
/// Only looking a schema up by its subject needs this (the newest schema, a check of compatibility). Records name
/// their schema by its id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubjectNames {
    /// `<topic>-key` and `<topic>-value`: every record of a topic has the same type. Confluent's default.
    #[default]
    Topic,
    /// The full name of the record's type: it means the same in every topic.
    Record,
    /// `<topic>-<full name of the type>`: a topic holds several types.
    TopicRecord,
}

/// Which part of a Kafka record a schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordPart {
    /// The key.
    Key,
    /// The payload, which Kafka calls the value.
    Value,
}

impl SubjectNames {
    /// The subject of a schema. `record` is the full name of the type that it describes: namespace and name in Avro,
    /// package and message in Protobuf, the title in JSON Schema. `None` if the strategy needs that name and there is
    /// none, or it is empty.
    ///
    /// ```
    /// use isobar_connectors::registry::{RecordPart, SubjectNames};
    ///
    /// let subject = |names: SubjectNames| names.subject("flights", RecordPart::Value, Some("nyc.Flight"));
    /// assert_eq!(subject(SubjectNames::Topic).as_deref(), Some("flights-value"));
    /// assert_eq!(subject(SubjectNames::Record).as_deref(), Some("nyc.Flight"));
    /// assert_eq!(subject(SubjectNames::TopicRecord).as_deref(), Some("flights-nyc.Flight"));
    /// assert_eq!(SubjectNames::Record.subject("flights", RecordPart::Key, None), None);
    /// ```
    pub fn subject(self, topic: &str, part: RecordPart, record: Option<&str>) -> Option<String> {
        let record = record.filter(|name| !name.is_empty());
        match (self, part) {
            (Self::Topic, RecordPart::Key) => Some(format!("{topic}-key")),
            (Self::Topic, RecordPart::Value) => Some(format!("{topic}-value")),
            (Self::Record, _) => record.map(str::to_owned),
            (Self::TopicRecord, _) => record.map(|record| format!("{topic}-{record}")),
        }
    }
}
