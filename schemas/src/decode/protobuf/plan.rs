//! What to do with each field of a message, settled once per message and contract.
//!
//! A [`MessagePlan`] holds a message descriptor against the columns of a contract. It says for every field number that
//! the descriptor has what may come there (the [`Slot`]s), and for every column where its value comes from and how it
//! becomes one (the [`ColumnPlan`]s). Names are compared here, and types that do not fit are found here, so that
//! decoding knows only numbers.
//!
//! The plan is a tree of the shape of the contract: a message that contains itself is followed as deep as the contract
//! goes and no deeper. `read` walks it.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use prost_reflect::{
    Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value as DefaultValue,
};

use super::read::Seen;
use super::wire::WireType;
use crate::error::Error;
use crate::fields::type_name;

/// How the messages of one type become the rows of one set of columns.
#[derive(Debug)]
pub(super) struct MessagePlan {
    pub(super) slots: Vec<Slot>,
    pub(super) numbers: Numbers,
    /// One for each column, in their order.
    pub(super) columns: Vec<ColumnPlan>,
    /// Slots of fields that `proto2` calls `required`.
    pub(super) required: Vec<usize>,
    /// What a row costs at least, in bytes: a message of no bytes fills it.
    pub(super) row_bytes: usize,
    /// What has been seen of each slot in the message being read.
    pub(super) seen: Vec<Seen>,
    /// The member that each `oneof` had last; at first, any.
    pub(super) last_of: Vec<usize>,
    /// Number of the message being read: what [`seen`](Self::seen) says of others is void.
    pub(super) message: u64,
}

/// A field of a message, as far as the wire is concerned.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    /// How a single value lies on the wire. Groups are only stepped over.
    pub(super) wire_type: WireType,
    pub(super) occurrences: Occurrences,
    /// Index of the `oneof` it is in.
    pub(super) oneof: Option<usize>,
    /// Whether the contract has the field.
    pub(super) wanted: bool,
}

/// Which occurrences of a field count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occurrences {
    /// The last one.
    Last,
    /// All, in their order: a list, a map, or a message, which several occurrences merge into.
    All,
    /// As `All`; and an occurrence may be many values in a row without tags.
    AllOrPacked,
}

/// Where the value of a column comes from.
#[derive(Debug)]
pub(super) struct ColumnPlan {
    /// The field, if the message has one of the column's name.
    pub(super) slot: Option<usize>,
    pub(super) convert: Convert,
    /// What stands for a field that is not there.
    pub(super) absent: Absent,
}

/// What stands for a field that is not there.
#[derive(Debug)]
pub(super) enum Absent {
    Null,
    /// The value that these 64 bits are on the wire; as bytes with a length, no bytes.
    Raw(u64),
    /// The default that a `proto2` field declares.
    Bytes(Vec<u8>),
    /// The list or map of no elements.
    Empty,
}

/// How a value on the wire becomes one in a column.
#[derive(Debug)]
pub(super) enum Convert {
    /// There is no such field: nothing is converted.
    Nothing,
    Scalar(Scalar),
    /// A message into a struct.
    Struct(Box<MessagePlan>),
    /// A message into its own bytes.
    Bytes,
    /// `google.protobuf.Timestamp`, of which slot 0 is the seconds and slot 1 the nanoseconds.
    Timestamp(Box<MessagePlan>),
    /// `google.protobuf.Duration`, likewise.
    Duration(Box<MessagePlan>),
    /// `google.type.Date`, of which slots 0 to 2 are year, month and day.
    Date(Box<MessagePlan>),
    /// `google.type.TimeOfDay`, of which slots 0 to 3 are hours, minutes, seconds and nanoseconds.
    TimeOfDay(Box<MessagePlan>),
    /// `confluent.type.Decimal`, of which slot 0 is the unscaled value and slot 1 the scale.
    Decimal(Box<MessagePlan>),
    /// One of `google/protobuf/wrappers.proto`, of which slot 0 is the value.
    Wrapper(Box<MessagePlan>, Scalar),
    List(Box<Convert>, WireType),
    /// The entries, of which slot 0 is the key and slot 1 the value.
    Map(Box<MapPlan>),
}

/// How the entries of a map become keys and values.
#[derive(Debug)]
pub(super) struct MapPlan {
    pub(super) entry: MessagePlan,
    pub(super) key: Scalar,
    pub(super) value: Convert,
    /// What stands for a value that an entry leaves out.
    pub(super) value_absent: u64,
}

/// The type of a single value.
#[derive(Debug)]
pub(super) enum Scalar {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Float,
    Double,
    Bool,
    String,
    Bytes,
    Enum(EnumNames),
}

/// The names of an enum's numbers; of several names of one number, the first.
#[derive(Debug)]
pub(super) struct EnumNames {
    pub(super) full_name: String,
    pub(super) names: HashMap<i32, String>,
}

/// Finds a slot by the number of its field.
#[derive(Debug)]
pub(super) struct Numbers {
    /// Slot of each small number; [`Self::NONE`] where there is none.
    small: Vec<u32>,
    large: HashMap<u32, u32>,
}

impl Numbers {
    const NONE: u32 = u32::MAX;
    /// Numbers below this are looked up by index.
    const SMALL: u32 = 1024;

    fn new(numbers: impl Iterator<Item = u32>) -> Self {
        let mut found = Self { small: Vec::new(), large: HashMap::new() };
        for (slot, number) in (0..).zip(numbers) {
            if number >= Self::SMALL {
                found.large.insert(number, slot);
                continue;
            }
            let index = number as usize;
            found.small.resize(found.small.len().max(index + 1), Self::NONE);
            found.small[index] = slot;
        }
        found
    }

    #[inline]
    pub(super) fn slot(&self, number: u32) -> Option<usize> {
        if number < Self::SMALL {
            let slot = *self.small.get(number as usize)?;
            return (slot != Self::NONE).then_some(slot as usize);
        }
        self.large.get(&number).map(|slot| *slot as usize)
    }
}

impl MessagePlan {
    /// The plan for messages of `message` into columns of `fields`. `path` names the message in errors.
    pub(super) fn new(message: &MessageDescriptor, fields: &Fields, path: &Path<'_>) -> Result<Self, Error> {
        let declared: Vec<_> = message.fields().collect();
        let by_name: HashMap<_, _> =
            declared.iter().enumerate().map(|(slot, declared)| (declared.name(), slot)).collect();
        let mut plan = Self::of_fields(&declared);
        plan.slots.iter_mut().for_each(|slot| slot.wanted = false);
        for field in fields {
            let slot = by_name.get(field.name().as_str()).copied();
            let found = slot.map(|slot| (slot, &declared[slot]));
            plan.columns.push(ColumnPlan::new(found, field, &path.within(field.name()))?);
            if let Some(slot) = slot {
                plan.slots[slot].wanted = true;
            }
        }
        plan.row_bytes = fields.iter().map(|field| row_bytes(field.data_type())).sum();
        Ok(plan)
    }

    /// A plan that finds the values of `fields`, but has no columns.
    fn of_fields(fields: &[FieldDescriptor]) -> Self {
        let mut oneofs: HashMap<String, usize> = HashMap::new();
        let mut last_of = Vec::new();
        let mut slots = Vec::with_capacity(fields.len());
        for (slot, field) in fields.iter().enumerate() {
            // The `oneof` around a proto3 `optional` has one member; nothing displaces it.
            let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
            let oneof = oneof.map(|oneof| {
                *oneofs.entry(oneof.name().to_owned()).or_insert_with(|| {
                    last_of.push(slot);
                    last_of.len() - 1
                })
            });
            slots.push(Slot::new(field, oneof));
        }
        let required = (0..fields.len()).filter(|slot| fields[*slot].is_required()).collect();
        Self {
            numbers: Numbers::new(fields.iter().map(FieldDescriptor::number)),
            columns: Vec::new(),
            required,
            row_bytes: 0,
            seen: vec![Seen::default(); slots.len()],
            last_of,
            slots,
            message: 0,
        }
    }
}

impl Slot {
    fn new(field: &FieldDescriptor, oneof: Option<usize>) -> Self {
        let kind = field.kind();
        let wire_type = if field.is_group() { WireType::StartGroup } else { wire_type(&kind) };
        let occurrences = match (field.cardinality(), wire_type) {
            (Cardinality::Repeated, WireType::Length | WireType::StartGroup) => Occurrences::All,
            (Cardinality::Repeated, _) => Occurrences::AllOrPacked,
            _ if matches!(kind, Kind::Message(_)) => Occurrences::All,
            _ => Occurrences::Last,
        };
        Self { name: field.name().to_owned(), wire_type, occurrences, oneof, wanted: true }
    }
}

fn wire_type(kind: &Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::Fixed64,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::Fixed32,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::Length,
        _ => WireType::Varint,
    }
}

/// Bytes that a value of `data_type` takes at least, of a struct all its columns together.
fn row_bytes(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| row_bytes(field.data_type())).sum(),
        other => other.primitive_width().unwrap_or(size_of::<i32>()),
    }
}

impl ColumnPlan {
    fn new(
        declared: Option<(usize, &FieldDescriptor)>,
        field: &Field,
        path: &Path<'_>,
    ) -> Result<Self, Error> {
        let Some((slot, declared)) = declared else {
            if !field.is_nullable() {
                return Err(path.problem("required, but the message has no field of this name"));
            }
            return Ok(Self { slot: None, convert: Convert::Nothing, absent: Absent::Null });
        };
        if declared.is_group() {
            return Err(path.problem("a group, which cannot become a column; leave it out"));
        }
        let convert = convert_field(declared, field.data_type(), path)?;
        Ok(Self { slot: Some(slot), absent: absent(declared), convert })
    }
}

/// What stands for `field` where a message does not have it.
fn absent(field: &FieldDescriptor) -> Absent {
    if field.cardinality() == Cardinality::Repeated {
        return Absent::Empty;
    }
    let declares_default = field.field_descriptor_proto().default_value.is_some();
    if field.supports_presence() && (!declares_default || field.containing_oneof().is_some()) {
        return Absent::Null;
    }
    match field.default_value() {
        DefaultValue::String(text) => Absent::Bytes(text.into_bytes()),
        DefaultValue::Bytes(bytes) => Absent::Bytes(bytes.to_vec()),
        value => Absent::Raw(raw_default(&value, &field.kind())),
    }
}

/// `value`, which is not bytes, in the 64 bits that it would be on the wire.
fn raw_default(value: &DefaultValue, kind: &Kind) -> u64 {
    let zigzag = |value: i64| (value << 1 ^ value >> 63) as u64;
    match *value {
        DefaultValue::Bool(value) => value.into(),
        DefaultValue::I32(value) if *kind == Kind::Sint32 => zigzag(value.into()),
        DefaultValue::I64(value) if *kind == Kind::Sint64 => zigzag(value),
        DefaultValue::I32(value) | DefaultValue::EnumNumber(value) => i64::from(value) as u64,
        DefaultValue::I64(value) => value as u64,
        DefaultValue::U32(value) => value.into(),
        DefaultValue::U64(value) => value,
        DefaultValue::F32(value) => value.to_bits().into(),
        DefaultValue::F64(value) => value.to_bits(),
        // No bytes: the empty string, and the message of no fields.
        _ => 0,
    }
}

fn convert_field(field: &FieldDescriptor, target: &DataType, path: &Path<'_>) -> Result<Convert, Error> {
    if field.cardinality() != Cardinality::Repeated {
        return convert_single(&field.kind(), target, path);
    }
    match (map_entry(field), target) {
        (Some(entry), DataType::Map(entries, _)) => convert_map(&entry, entries.data_type(), path),
        (None, DataType::List(element)) => {
            let convert = convert_single(&field.kind(), element.data_type(), &path.within("[]"))?;
            Ok(Convert::List(Box::new(convert), wire_type(&field.kind())))
        }
        (Some(_), _) => Err(path.mismatch("a map", target, "map<string, …>")),
        (None, _) => Err(path.mismatch("repeated", target, "list<…>")),
    }
}

/// Key and value of the entries of `field`, if it is a map. Descriptors need not be what a compiler wrote, so both are
/// looked for.
fn map_entry(field: &FieldDescriptor) -> Option<[FieldDescriptor; 2]> {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => Some([entry.get_field(1)?, entry.get_field(2)?]),
        _ => None,
    }
}

fn convert_map(entry: &[FieldDescriptor; 2], target: &DataType, path: &Path<'_>) -> Result<Convert, Error> {
    let DataType::Struct(target) = target else { return Err(path.problem("not a map of the contract")) };
    let [key, value] = entry;
    let key = match Scalar::new(&key.kind()) {
        Some(Scalar::Float | Scalar::Double | Scalar::Bytes | Scalar::Enum(_)) | None => {
            return Err(path.problem("the keys of the map are of a type that Protobuf does not allow"));
        }
        Some(key) => key,
    };
    let convert = convert_single(&value.kind(), target[1].data_type(), &path.within("[]"))?;
    Ok(Convert::Map(Box::new(MapPlan {
        entry: MessagePlan::of_fields(entry),
        key,
        value: convert,
        value_absent: raw_default(&value.kind().default_value(), &value.kind()),
    })))
}

fn convert_single(kind: &Kind, target: &DataType, path: &Path<'_>) -> Result<Convert, Error> {
    let Kind::Message(message) = kind else { return convert_scalar(kind, target, path) };
    if let Some(convert) = convert_well_known(message, target, path)? {
        return Ok(convert);
    }
    match target {
        DataType::Struct(fields) => Ok(Convert::Struct(Box::new(MessagePlan::new(message, fields, path)?))),
        DataType::Binary => Ok(Convert::Bytes),
        _ => {
            let found = format!("the message {}", message.full_name());
            Err(path.mismatch(&found, target, natural_type_of_message(message)))
        }
    }
}

/// The well-known messages that have a type of their own in a contract. As any message they may also be a struct, or
/// their own bytes.
fn convert_well_known(
    message: &MessageDescriptor,
    target: &DataType,
    path: &Path<'_>,
) -> Result<Option<Convert>, Error> {
    let slots = |kinds: &[Kind]| -> Option<Box<MessagePlan>> {
        let fields: Option<Vec<_>> = (1..).zip(kinds).map(|(number, _)| message.get_field(number)).collect();
        let fields = fields?;
        let as_published =
            fields.iter().zip(kinds).all(|(field, kind)| field.kind() == *kind && !field.is_list());
        as_published.then(|| Box::new(MessagePlan::of_fields(&fields)))
    };
    let known = || published(message).map(|fields| Box::new(MessagePlan::of_fields(&fields)));
    const INSTANT: [Kind; 2] = [Kind::Int64, Kind::Int32];
    Ok(match (message.full_name(), target) {
        ("google.protobuf.Timestamp", DataType::Timestamp(TimeUnit::Microsecond, _)) => {
            slots(&INSTANT).map(Convert::Timestamp)
        }
        ("google.protobuf.Duration", DataType::Int64) => slots(&INSTANT).map(Convert::Duration),
        (DATE, DataType::Date32) => known().map(Convert::Date),
        (TIME_OF_DAY, DataType::Int64) => known().map(Convert::TimeOfDay),
        (DECIMAL, DataType::Decimal128(..)) => known().map(Convert::Decimal),
        (name, _) if !matches!(target, DataType::Struct(_)) => {
            let Some(kind) = wrapped(name) else { return Ok(None) };
            if *target == DataType::Binary && !matches!(kind, Kind::String | Kind::Bytes) {
                return Ok(None);
            }
            check_scalar(&kind, target, path)?;
            slots(std::slice::from_ref(&kind))
                .and_then(|plan| Some(Convert::Wrapper(plan, Scalar::new(&kind)?)))
        }
        _ => None,
    })
}

/// Messages of [`known`](super::known) files that have a type of their own in a contract.
pub(super) const DATE: &str = "google.type.Date";
pub(super) const TIME_OF_DAY: &str = "google.type.TimeOfDay";
const DECIMAL: &str = "confluent.type.Decimal";

/// The fields that say what one of these messages means, in an order of ours; `None` if it is none of them, or is not what
/// was published under its name.
pub(super) fn published(message: &MessageDescriptor) -> Option<Vec<FieldDescriptor>> {
    let names = match message.full_name() {
        DATE => vec![("year", Kind::Int32), ("month", Kind::Int32), ("day", Kind::Int32)],
        TIME_OF_DAY => vec![
            ("hours", Kind::Int32),
            ("minutes", Kind::Int32),
            ("seconds", Kind::Int32),
            ("nanos", Kind::Int32),
        ],
        // The precision says how many digits the value has, which it says by itself.
        DECIMAL => vec![("value", Kind::Bytes), ("scale", Kind::Int32), ("precision", Kind::Uint32)],
        _ => return None,
    };
    let field = |(name, kind): (&str, Kind)| {
        message.get_field_by_name(name).filter(|field| field.kind() == kind && !field.is_list())
    };
    names.into_iter().map(field).collect()
}

/// The kind of value inside the wrapper called `message`.
pub(super) fn wrapped(message: &str) -> Option<Kind> {
    Some(match message.strip_prefix("google.protobuf.")? {
        "DoubleValue" => Kind::Double,
        "FloatValue" => Kind::Float,
        "Int64Value" => Kind::Int64,
        "UInt64Value" => Kind::Uint64,
        "Int32Value" => Kind::Int32,
        "UInt32Value" => Kind::Uint32,
        "BoolValue" => Kind::Bool,
        "StringValue" => Kind::String,
        "BytesValue" => Kind::Bytes,
        _ => return None,
    })
}

fn convert_scalar(kind: &Kind, target: &DataType, path: &Path<'_>) -> Result<Convert, Error> {
    check_scalar(kind, target, path)?;
    match Scalar::new(kind) {
        Some(scalar) => Ok(Convert::Scalar(scalar)),
        None => Err(path.problem("a message where a single value belongs")),
    }
}

/// Whether values of `kind` may become values of `target`; whether one fits is seen when it comes.
fn check_scalar(kind: &Kind, target: &DataType, path: &Path<'_>) -> Result<(), Error> {
    use DataType::*;
    let fits = match kind {
        Kind::Double => matches!(target, Float64),
        Kind::Float => matches!(target, Float32 | Float64),
        Kind::Bool => matches!(target, Boolean),
        Kind::String | Kind::Bytes => matches!(target, Utf8 | Binary),
        Kind::Enum(_) => matches!(target, Utf8 | Int32 | Int64),
        Kind::Message(_) => false,
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Fixed32 | Kind::Sfixed32 => {
            matches!(target, Int8 | Int16 | Int32 | Int64 | Decimal128(..) | Float64)
        }
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => {
            matches!(target, Int8 | Int16 | Int32 | Int64 | Decimal128(..))
        }
    };
    if fits {
        return Ok(());
    }
    let found = match kind {
        Kind::Enum(descriptor) => format!("the enum {}", descriptor.full_name()),
        kind => format!("{kind:?}"),
    };
    Err(path.mismatch(&found, target, natural_type(kind)))
}

/// The type of a contract that holds every value of `kind`, which is not a message.
pub(super) fn natural_type(kind: &Kind) -> &'static str {
    match kind {
        Kind::Double => "float64",
        Kind::Float => "float32",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "int32",
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint32 | Kind::Fixed32 => "int64",
        Kind::Uint64 | Kind::Fixed64 => "decimal(20,0)",
        Kind::Bool => "boolean",
        Kind::String | Kind::Enum(_) => "string",
        Kind::Bytes => "binary",
        Kind::Message(_) => "struct<…>",
    }
}

fn natural_type_of_message(message: &MessageDescriptor) -> &'static str {
    match message.full_name() {
        "google.protobuf.Timestamp" => "timestamp",
        "google.protobuf.Duration" => "int64",
        DATE if published(message).is_some() => "date",
        TIME_OF_DAY if published(message).is_some() => "int64",
        DECIMAL if published(message).is_some() => "decimal(p,s)",
        name => wrapped(name).map_or("struct<…>", |kind| natural_type(&kind)),
    }
}

impl Scalar {
    /// `None` for messages.
    fn new(kind: &Kind) -> Option<Self> {
        Some(match kind {
            Kind::Int32 => Scalar::Int32,
            Kind::Int64 => Scalar::Int64,
            Kind::Uint32 => Scalar::Uint32,
            Kind::Uint64 => Scalar::Uint64,
            Kind::Sint32 => Scalar::Sint32,
            Kind::Sint64 => Scalar::Sint64,
            Kind::Fixed32 => Scalar::Fixed32,
            Kind::Fixed64 => Scalar::Fixed64,
            Kind::Sfixed32 => Scalar::Sfixed32,
            Kind::Sfixed64 => Scalar::Sfixed64,
            Kind::Float => Scalar::Float,
            Kind::Double => Scalar::Double,
            Kind::Bool => Scalar::Bool,
            Kind::String => Scalar::String,
            Kind::Bytes => Scalar::Bytes,
            Kind::Enum(descriptor) => Scalar::Enum(EnumNames::new(descriptor)),
            Kind::Message(_) => return None,
        })
    }
}

impl EnumNames {
    fn new(descriptor: &EnumDescriptor) -> Self {
        let mut names = HashMap::new();
        // In the order of declaration: `values` goes by number.
        for value in &descriptor.enum_descriptor_proto().value {
            names.entry(value.number()).or_insert_with(|| value.name().to_owned());
        }
        Self { full_name: descriptor.full_name().to_owned(), names }
    }
}

/// A field from the record down, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    outer: Option<&'a Path<'a>>,
    name: &'a str,
}

impl<'a> Path<'a> {
    pub(super) const RECORD: Path<'static> = Path { outer: None, name: "" };

    fn within(&'a self, name: &'a str) -> Self {
        Self { outer: Some(self), name }
    }

    fn text(&self) -> String {
        let outer = self.outer.map(Path::text).unwrap_or_default();
        let separator = if outer.is_empty() || self.name.starts_with('[') { "" } else { "." };
        format!("{outer}{separator}{}", self.name)
    }

    fn problem(&self, problem: impl Into<String>) -> Error {
        Error::ProtobufField { field: self.text(), problem: problem.into() }
    }

    fn mismatch(&self, found: &str, target: &DataType, natural: &str) -> Error {
        let target = type_name(target);
        self.problem(format!("the message has {found} here, which cannot become {target}; take {natural}"))
    }
}
