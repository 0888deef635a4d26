//! Protobuf: payloads of messages that are given, and schemas that are not; held against `prost-reflect`.

use std::sync::LazyLock;

use arrow::datatypes::SchemaRef;
use isobar_schemas::decode::MessageDescriptor;
use isobar_schemas::{
    DecodeLimits, Decoder, ProtobufDecoder, ProtobufSchema, ProtobufSource, RegisteredSchema, SchemaKind,
    SchemaReference, UnknownFields, WriterSchema, fields_of_protobuf, to_arrow_schema,
};
use prost_reflect::DynamicMessage;
use prost_reflect::prost::Message as _;

use crate::fates::{Fate, Growth, Subject, fates, no_registry};
use crate::input::Input;
use crate::testing::schema;

/// What `protobuf/read.rs` lets a payload become.
const GROWTH: Growth = Growth { per_byte: 65, per_record: (16 << 10) + 1 };

const TEXT: &str = r#"syntax = "proto2"; package p;
import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto"; import "google/protobuf/wrappers.proto";
enum E { option allow_alias = true; ZERO = 0; ONE = 1; ALSO_ONE = 1; FAR = 100000; MINUS = -5; }
message Kinds {
  optional int32 a = 1; optional sint64 b = 2; optional fixed32 c = 3; optional sfixed64 d = 4; optional uint64 e = 5;
  optional float f = 6; optional double g = 7 [default = 1.5]; optional bool h = 8; optional string i = 9 [default = "é"];
  optional bytes j = 10; optional E k = 11 [default = FAR]; repeated int32 l = 12 [packed = true]; repeated string m = 13;
  repeated E n = 14; optional Inner o = 15; repeated Inner p = 16;
  oneof q { int64 r = 17; string s = 18; Inner t = 19; }
  optional google.protobuf.Timestamp u = 20; optional google.protobuf.Duration v = 21;
  optional google.protobuf.Int32Value w = 22; repeated double x = 23;
}
message Inner { optional uint32 a = 1; repeated bool b = 2; optional string c = 3; }
message Maps {
  map<string, int64> a = 1; map<int32, Inner> b = 2; map<bool, E> c = 3; repeated Maps d = 4; required int32 e = 5;
  optional group G = 6 { optional int32 z = 1; }
}"#;

struct Case {
    message: MessageDescriptor,
    contract: SchemaRef,
    /// Whether writing a message anew does not change its row. Bytes of messages may come in another order then, and
    /// so may the entries of maps.
    keeps: bool,
}

static CASES: LazyLock<[Case; 4]> = LazyLock::new(|| {
    let main = ProtobufSource { name: "fuzz.proto".to_owned(), text: TEXT.to_owned() };
    let schema_of_all = ProtobufSchema::from_sources(main, Vec::new()).expect("a schema of our own");
    let message = |name| schema_of_all.message(name).expect("a message of our own");
    let own = |name| contract_of(&message(name)).expect("a contract can have all of it");
    let other = schema(&[
        ("a", "int8"),
        ("k", "int32"),
        ("o", "binary"),
        ("p", "list<struct<c: string>>"),
        ("e", "decimal(20,0)"),
        ("absent", "date"),
        ("u", "struct<seconds: int64>"),
        ("x", "list<float64>"),
        ("r", "int64"),
    ]);
    [
        ("p.Kinds", own("p.Kinds"), true),
        ("p.Maps", own("p.Maps"), false),
        ("p.Kinds", other, false),
        ("p.Inner", own("p.Inner"), true),
    ]
    .map(|(name, contract, keeps)| Case { message: message(name), contract, keeps })
});

fn contract_of(message: &MessageDescriptor) -> Option<SchemaRef> {
    fields_of_protobuf(message).ok().and_then(|fields| to_arrow_schema(&fields).ok())
}

fn registered(text: &str, references: Vec<SchemaReference>) -> RegisteredSchema {
    RegisteredSchema { kind: SchemaKind::Protobuf, text: text.to_owned(), references }
}

fn registry(id: u32) -> WriterSchema {
    match id {
        0 | 1 => WriterSchema::Known(registered(TEXT, Vec::new())),
        2 => WriterSchema::Known(RegisteredSchema {
            kind: SchemaKind::Avro,
            ..registered("\"int\"", Vec::new())
        }),
        3 => WriterSchema::Known(registered("message", Vec::new())),
        4 => WriterSchema::Unusable("too large".to_owned()),
        _ => WriterSchema::Unknown,
    }
}

/// Payloads that may be messages of a schema that is given.
pub(crate) fn payloads(data: &[u8]) {
    let Some(mut input) = Input::new(data) else { return };
    let case = &CASES[input.choose(4)];
    let unknown_fields = [UnknownFields::Ignore, UnknownFields::Quarantine][input.choose(2)];
    let limits = input.limits();
    let registered = input.choose(4);
    let new = |contract: &SchemaRef| -> Box<dyn Decoder> {
        let contract = contract.clone();
        Box::new(
            match registered {
                1 => ProtobufDecoder::with_registry(contract, None, unknown_fields, limits),
                2 => ProtobufDecoder::with_registry(contract, Some("p.Inner"), unknown_fields, limits),
                _ => ProtobufDecoder::new(contract, &case.message, unknown_fields, limits),
            }
            .expect("the message fits the contract"),
        )
    };
    let payloads = input.payloads();
    let fates = check(new(&case.contract), limits, &payloads, &registry);
    if !case.keeps || matches!(registered, 1 | 2) {
        return;
    }
    for (payload, fate) in payloads.iter().zip(fates) {
        if let Some(payload) = payload {
            written_anew(case, payload, &fate);
        }
    }
}

/// A message that `prost-reflect` reads and writes anew, in an order of its own and each field once, has the same row.
fn written_anew(case: &Case, payload: &[u8], fate: &Fate) {
    let Ok(row) = fate else { return };
    // What is there several times, or of no use, may be malformed: only they look at it.
    let Ok(message) = DynamicMessage::decode(case.message.clone(), payload) else { return };
    let payload = message.encode_to_vec();
    let limits = DecodeLimits::default();
    let decoder = ProtobufDecoder::new(case.contract.clone(), &case.message, UnknownFields::Ignore, limits)
        .expect("a contract that fits");
    let anew = check(Box::new(decoder), limits, &[Some(&payload)], &no_registry).remove(0);
    assert_eq!(anew.as_ref(), Ok(row), "{payload:?}");
}

/// A text that may be a schema, or bytes that may be a descriptor set, and payloads that may be its messages.
pub(crate) fn schemas(data: &[u8]) {
    let Some(mut input) = Input::new(data) else { return };
    let form = input.choose(4);
    let limits = input.limits();
    let bytes = input.take_first();
    if form == 3 {
        if let Ok(schema) = ProtobufSchema::from_descriptor_set(bytes) {
            messages(&schema, limits, &input);
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut references = Vec::new();
    if form == 1
        && let Some(Some(import)) = input.payloads().first()
    {
        let text = String::from_utf8_lossy(import).into_owned();
        references.push(SchemaReference { name: "a.proto".to_owned(), text });
    }
    let writer = registered(text, references);
    let schema = ProtobufSchema::from_registered(&writer);
    if let Ok(schema) = &schema {
        messages(schema, limits, &input);
    }
    // In a registry, where a schema that is none rejects records.
    let contract = CASES[0].contract.clone();
    let decoder = ProtobufDecoder::with_registry(contract, None, UnknownFields::Quarantine, limits)
        .expect("a schema that columns have");
    let answer = |_| WriterSchema::Known(writer.clone());
    let fates = check(Box::new(decoder), limits, &input.payloads(), &answer);
    assert!(schema.is_ok() || fates.iter().all(Result::is_err), "rows of a schema that is none");
}

/// What a schema declares suggests contracts that it fits.
fn messages(schema: &ProtobufSchema, limits: DecodeLimits, input: &Input<'_>) {
    let Ok(message) = schema.only_message() else { return };
    assert_eq!(schema.message(message.full_name()).expect("a message has its name"), message);
    let Some(contract) = contract_of(&message) else { return };
    let decoder = ProtobufDecoder::new(contract, &message, UnknownFields::Quarantine, limits)
        .expect("a message fits the contract it suggests");
    check(Box::new(decoder), limits, &input.payloads(), &no_registry);
}

fn check(
    decoder: Box<dyn Decoder>,
    limits: DecodeLimits,
    payloads: &[Option<&[u8]>],
    registry: &dyn Fn(u32) -> WriterSchema,
) -> Vec<Fate> {
    let subject = Subject {
        decoder,
        payload_bytes_max: limits.payload_bytes_max,
        growth: GROWTH,
        several: false,
        in_envelope: false,
        registry,
    };
    fates(subject, payloads)
}
