//! What a schema registry says of the schemas that records were written with.

/// What a registry has under an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriterSchema {
    /// A schema.
    Known(RegisteredSchema),
    /// Nothing: the registry answered that there is no such id.
    Unknown,
}

/// A schema as a registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredSchema {
    /// The language of the text.
    pub kind: SchemaKind,
    /// The text of the schema.
    pub text: String,
    /// Every schema that this one refers to, also by way of others; each after those that it refers to itself.
    pub references: Vec<SchemaReference>,
}

/// The language of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaKind {
    /// An Avro schema in JSON.
    Avro,
    /// A `.proto` file.
    Protobuf,
    /// A JSON Schema.
    Json,
}

impl SchemaKind {
    /// What people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            SchemaKind::Avro => "Avro",
            SchemaKind::Protobuf => "Protobuf",
            SchemaKind::Json => "JSON Schema",
        }
    }
}

impl std::fmt::Display for SchemaKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A schema that another refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaReference {
    /// The name it is referred to by: a full name in Avro, the path of an import in Protobuf.
    pub name: String,
    /// The text of the schema.
    pub text: String,
}
