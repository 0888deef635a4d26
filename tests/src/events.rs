//! What is produced: events of mixed quality, and the fate each must meet.
//!
//! The source of most tests is [`SOURCE`], its dataset [`FEATURES`]. The rules of both are written here a second time,
//! in Rust and by hand ([`features`]), so that the tests do not ask isobar what isobar should do.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};

use crate::prng::Prng;

/// The topic of [`SOURCE`].
pub const TOPIC: &str = "events";

/// YAML of the source `events`.
pub const SOURCE: &str = "  events:
    topic: events
    format: json
    fields:
      id: { type: int64, nullable: false }
      city: string
      amount: float64
      items: int32
      flag: boolean
      at: timestamp
";

/// The dataset of [`FEATURES_YAML`].
pub const FEATURES: &str = "features";

/// YAML of the dataset `features`: one rule of each kind that lets the pipeline go on, and a filter. Its files stay as
/// they were committed: [`maintained_features`] is the one that is maintained.
pub const FEATURES_YAML: &str = "  features:
    from: events
    sql: |
      SELECT id, city, amount, items, flag, at, items > 10 AS many,
             _partition AS kafka_partition, _offset AS kafka_offset
      FROM events WHERE items IS NULL OR items >= 0
    expect:
      - { name: flagged, check: \"flag IS NULL OR flag\", action: drop }
      - { name: has_amount, check: \"amount IS NOT NULL\", action: quarantine }
      - { name: small, check: \"amount < 1000\", action: warn }
    maintenance: { compact: { enabled: false }, checkpoint_every: 0 }
";

/// YAML of the dataset `features` with the value `maintenance` of its option of that name.
///
/// # Panics
/// If [`FEATURES_YAML`] has no such option to be replaced.
pub fn maintained_features(maintenance: &str) -> String {
    let none = "{ compact: { enabled: false }, checkpoint_every: 0 }";
    assert_eq!(FEATURES_YAML.matches(none).count(), 1, "there is one option to be replaced");
    FEATURES_YAML.replace(none, maintenance)
}

/// The fate of an event in `features`.
pub fn features(event: &Event) -> Fate {
    if event.flag == Some(false) {
        return Fate::Dropped("flagged");
    }
    let Some(amount) = event.amount else { return Fate::by_rule("has_amount") };
    let warned = if amount < 1000.0 { None } else { Some("small") };
    if event.items.is_some_and(|items| items < 0) {
        return Fate::Filtered { warned };
    }
    let mut row = event.row();
    row.insert("many".into(), event.items.map_or(Value::Null, |items| Value::Bool(items > 10)));
    Fate::Row { row, warned }
}

/// A value of a row, in as few kinds as needed to compare.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL's null.
    Null,
    /// A boolean.
    Bool(bool),
    /// Any integer.
    Int(i64),
    /// Any float.
    Float(f64),
    /// Text, also that of a partition value.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Microseconds since the Unix epoch.
    Micros(i64),
    /// A struct, by field.
    Struct(Row),
    /// A list.
    List(Vec<Value>),
    /// A map, in its own order.
    Map(Vec<(Value, Value)>),
    /// Anything else, as the Parquet crate prints it.
    Other(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

/// A row by column.
pub type Row = BTreeMap<String, Value>;

/// What must become of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Its row is in the dataset.
    Row {
        /// The row, without its Kafka position.
        row: Row,
        /// The rule with the action `warn` that it breaks.
        warned: Option<&'static str>,
    },
    /// It is in the quarantine.
    Rejected {
        /// The column `reason`.
        reason: &'static str,
        /// The column `rule`.
        rule: Option<&'static str>,
    },
    /// An expectation with the action `drop` left it out.
    Dropped(&'static str),
    /// The query's `WHERE` left it out.
    Filtered {
        /// The rule with the action `warn` that it breaks.
        warned: Option<&'static str>,
    },
}

impl Fate {
    /// In the quarantine because of an expectation.
    pub fn by_rule(rule: &'static str) -> Self {
        Fate::Rejected { reason: "expectation", rule: Some(rule) }
    }

    /// In the quarantine because it cannot be decoded.
    pub fn undecodable(reason: &'static str) -> Self {
        Fate::Rejected { reason, rule: None }
    }
}

/// A record of [`SOURCE`] that can be decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Unique.
    pub id: i64,
    /// Any text.
    pub city: Option<String>,
    /// An exact number of eighths.
    pub amount: Option<f64>,
    /// Anything.
    pub items: Option<i32>,
    /// Anything.
    pub flag: Option<bool>,
    /// Microseconds since the Unix epoch.
    pub at_micros: Option<i64>,
}

impl Event {
    /// An event that becomes a row.
    pub fn plain(id: i64) -> Self {
        Self {
            id,
            city: Some(format!("city {}", id % 7)),
            amount: Some(id as f64 / 8.0),
            items: Some((id % 20) as i32),
            flag: Some(true),
            at_micros: Some(1_356_998_400_000_000 + id),
        }
    }

    /// The columns that come from the event as they are.
    pub fn row(&self) -> Row {
        let columns = [
            ("id", Value::Int(self.id)),
            ("city", self.city.as_deref().into()),
            ("amount", self.amount.map_or(Value::Null, Value::Float)),
            ("items", self.items.map_or(Value::Null, |items| Value::Int(items.into()))),
            ("flag", self.flag.map_or(Value::Null, Value::Bool)),
            ("at", self.at_micros.map_or(Value::Null, Value::Micros)),
        ];
        columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The event as JSON, in one of the many ways to write it.
    pub fn to_json(&self, prng: &mut Prng) -> Vec<u8> {
        let mut members: Vec<(&str, Option<String>)> = vec![
            ("id", Some(self.id.to_string())),
            ("city", self.city.as_deref().map(|city| text(city, prng))),
            ("amount", self.amount.map(|amount| amount.to_string())),
            ("items", self.items.map(|items| whole(items, prng))),
            ("flag", self.flag.map(|flag| flag.to_string())),
            ("at", self.at_micros.map(|micros| format!("\"{}\"", time(micros, prng)))),
        ];
        for place in (1..members.len()).rev() {
            members.swap(place, prng.index(place + 1));
        }
        let spaces: [&str; 4] = ["", "", " ", "\n\t"];
        let mut json = String::from("{");
        for (name, value) in members {
            // A null may be written or left out.
            let Some(value) = value.or_else(|| prng.chance(50).then(|| "null".to_owned())) else { continue };
            let comma = if json.len() > 1 { "," } else { "" };
            json.push_str(&format!("{comma}{}\"{name}\":{}{value}", prng.pick(&spaces), prng.pick(&spaces)));
        }
        json.push('}');
        json.into_bytes()
    }
}

fn text(text: &str, prng: &mut Prng) -> String {
    if prng.chance(80) {
        return serde_json::Value::from(text).to_string();
    }
    let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{escaped}\"")
}

/// A whole number in one of the ways in which JSON writes it.
fn whole(number: i32, prng: &mut Prng) -> String {
    match prng.below(10) {
        0 => format!("{number}.0"),
        1 => format!("{number}e0"),
        _ => number.to_string(),
    }
}

fn time(micros: i64, prng: &mut Prng) -> String {
    let utc: DateTime<Utc> =
        DateTime::from_timestamp_micros(micros).expect("the generator draws representable times");
    match prng.below(4) {
        0 => {
            let zone = FixedOffset::east_opt(2 * 3600).expect("two hours are a valid offset");
            utc.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Micros, false)
        }
        _ => utc.to_rfc3339_opts(SecondsFormat::Micros, true),
    }
}

/// What a record holds, as far as the tests know.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// It can be decoded.
    Event(Event),
    /// It cannot, for this reason.
    Bad(&'static str),
}

/// A record to produce.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// What it holds.
    pub content: Content,
}

impl Record {
    /// A record with `payload` that cannot be decoded for `reason`.
    pub fn bad(payload: Option<&[u8]>, reason: &'static str) -> Self {
        let payload = payload.map(<[u8]>::to_vec);
        Self {
            key: Some(b"bad".to_vec()),
            payload,
            timestamp_ms: 1_400_000_000_000,
            content: Content::Bad(reason),
        }
    }

    /// A record of `event`, written plainly.
    pub fn of(event: Event) -> Self {
        let payload = event.to_json(&mut Prng::new(event.id as u64));
        let key = event.city.clone().map(String::into_bytes);
        Self {
            key,
            payload: Some(payload),
            timestamp_ms: 1_400_000_000_000 + event.id,
            content: Content::Event(event),
        }
    }

    /// Its fate under the rules of `judge`.
    pub fn fate(&self, judge: Judge) -> Fate {
        match &self.content {
            Content::Event(event) => judge(event),
            Content::Bad(reason) => Fate::undecodable(reason),
        }
    }
}

/// The rules of a dataset, for events that can be decoded.
pub type Judge = fn(&Event) -> Fate;

/// Draws records, the same ones for one seed.
#[derive(Debug, Clone)]
pub struct Generator {
    prng: Prng,
    next_id: i64,
    bad_percent: u64,
}

impl Generator {
    /// Records of every quality.
    pub fn mixed(prng: Prng) -> Self {
        Self { prng, next_id: 1, bad_percent: 8 }
    }

    /// Records that can all be decoded; expectations reject some.
    pub fn decodable(prng: Prng) -> Self {
        Self { bad_percent: 0, ..Self::mixed(prng) }
    }

    /// The next record.
    pub fn record(&mut self) -> Record {
        let id = self.next_id;
        self.next_id += 1;
        let prng = &mut self.prng;
        let timestamp_ms = 1_356_998_400_000 + id * 997;
        let key = match prng.below(5) {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(prng.pick(&CITIES).as_bytes().to_vec()),
        };
        if prng.chance(self.bad_percent) {
            let bad = bad_payloads();
            let (_, payload, reason) = prng.pick(&bad).clone();
            return Record { key, payload, timestamp_ms, content: Content::Bad(reason) };
        }
        let event = draw_event(id, prng);
        Record { key, payload: Some(event.to_json(prng)), timestamp_ms, content: Content::Event(event) }
    }

    /// The next `count` records.
    pub fn records(&mut self, count: usize) -> Vec<Record> {
        (0..count).map(|_| self.record()).collect()
    }
}

const CITIES: [&str; 8] = ["Oslo", "São Paulo", "", "\"quoted\"", "back\\slash", "東京", "tab\there", "😀"];

fn draw_event(id: i64, prng: &mut Prng) -> Event {
    Event {
        id,
        city: prng.chance(90).then(|| (*prng.pick(&CITIES)).to_owned()),
        amount: prng.chance(94).then(|| prng.below(12_000) as f64 / 8.0 - 300.0),
        items: prng.chance(85).then(|| prng.below(26) as i32 - 1),
        flag: prng.chance(70).then(|| prng.chance(93)),
        at_micros: prng.chance(90).then(|| prng.below(2_000_000_000_000_000) as i64),
    }
}

/// Payloads that [`SOURCE`] must reject: what each is, the payload, and the reason.
pub fn bad_payloads() -> Vec<(&'static str, Option<Vec<u8>>, &'static str)> {
    let text = |what: &'static str, payload: &str, reason| (what, Some(payload.as_bytes().to_vec()), reason);
    let bytes = |what: &'static str, payload: &[u8], reason| (what, Some(payload.to_vec()), reason);
    vec![
        ("tombstone", None, "tombstone"),
        bytes("no bytes", b"", "empty_payload"),
        text("only white space", " \n\t", "undecodable"),
        bytes("random bytes", &[0x00, 0xff, 0x13, 0x37, 0x80, 0x0a], "undecodable"),
        text("words", "hello, world", "undecodable"),
        text("truncated in a string", r#"{"id":1,"city":"Os"#, "undecodable"),
        text("truncated after a name", r#"{"id"#, "undecodable"),
        text("truncated before the end", r#"{"id":1,"items":3"#, "undecodable"),
        text("the first half of an object", r#"{"id":7,"city":"A"#, "undecodable"),
        text("the second half of an object", r#"B","amount":1.0,"items":1}"#, "undecodable"),
        text("two objects", r#"{"id":1}{"id":2}"#, "undecodable"),
        text("two objects on two lines", "{\"id\":1}\n{\"id\":2}\n", "undecodable"),
        text("an array", r#"[{"id":1}]"#, "undecodable"),
        text("a number", "17", "undecodable"),
        text("null", "null", "undecodable"),
        text("a string", r#""{\"id\":1}""#, "undecodable"),
        text("a trailing comma", r#"{"id":1,}"#, "undecodable"),
        text("no quotes", "{id:1}", "undecodable"),
        text("single quotes", "{'id':1}", "undecodable"),
        text("NaN", r#"{"id":1,"amount":NaN}"#, "undecodable"),
        text("a leading zero", r#"{"id":01}"#, "undecodable"),
        text("a byte order mark", "\u{feff}{\"id\":1}", "undecodable"),
        text("a raw line break in a string", "{\"id\":1,\"city\":\"a\nb\"}", "undecodable"),
        text("a lone surrogate", r#"{"id":1,"city":"\ud800"}"#, "undecodable"),
        bytes("bytes that are not UTF-8", b"{\"id\":1,\"city\":\"\xff\xfe\"}", "undecodable"),
        bytes("a zero byte behind", b"{\"id\":1}\0", "undecodable"),
        text("a fraction for int32", r#"{"id":1,"items":1.5}"#, "wrong_type"),
        text("text for int32", r#"{"id":1,"items":"12"}"#, "wrong_type"),
        text("text for int64", r#"{"id":"1"}"#, "wrong_type"),
        text("text for boolean", r#"{"id":1,"flag":"true"}"#, "wrong_type"),
        text("a number for boolean", r#"{"id":1,"flag":1}"#, "wrong_type"),
        text("a number for string", r#"{"id":1,"city":5}"#, "wrong_type"),
        text("text for float64", r#"{"id":1,"amount":"1.5"}"#, "wrong_type"),
        text("an object for string", r#"{"id":1,"city":{"name":"Oslo"}}"#, "wrong_type"),
        text("an array for int32", r#"{"id":1,"items":[3]}"#, "wrong_type"),
        text("a number for timestamp", r#"{"id":1,"at":1356998400}"#, "wrong_type"),
        text("a required field missing", r#"{"city":"Oslo"}"#, "missing_field"),
        text("nothing at all", "{}", "missing_field"),
        text("a required field null", r#"{"id":null}"#, "null_field"),
        text("an unknown field", r#"{"id":1,"colour":"red"}"#, "unknown_field"),
        text("a field in another case", r#"{"id":1,"City":"Oslo"}"#, "unknown_field"),
        text("a field twice", r#"{"id":1,"id":1}"#, "duplicate_field"),
        text("too large for int32", r#"{"id":1,"items":2147483648}"#, "out_of_range"),
        text("too large for int64", r#"{"id":9223372036854775808}"#, "out_of_range"),
        text("a day that does not exist", r#"{"id":1,"at":"2013-02-30T00:00:00Z"}"#, "invalid_value"),
        text("no time at all", r#"{"id":1,"at":"yesterday"}"#, "invalid_value"),
    ]
}
