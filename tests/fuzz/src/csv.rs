//! Lines of CSV, held against the crate `csv`.

use isobar_schemas::{CsvDecoder, CsvFormat, DecodeLimits, JsonDecoder, UnknownFields};

use crate::fates::{Fate, Growth, Subject, fates, no_registry};
use crate::input::Input;
use crate::testing::schema;

const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

const TEXTS: [(&str, &str); 2] = [("a", "string"), ("b", "string")];

const KINDS: [(&str, &str); 9] = [
    ("i!", "int32"),
    ("l", "int64"),
    ("f", "float32"),
    ("d", "decimal(9,2)"),
    ("x", "boolean"),
    ("s", "string"),
    ("n", "binary"),
    ("t", "date"),
    ("z", "timestamp"),
];

/// Payloads that may be lines.
pub(crate) fn lines(data: &[u8]) {
    let Some(mut input) = Input::new(data) else { return };
    let delimiter = DELIMITERS[input.choose(4)];
    let limits = input.limits();
    match input.choose(4) {
        0 => check(&TEXTS, CsvFormat { delimiter, header: None }, limits, &input, |line, fate| {
            second_opinion(delimiter, line, fate);
        }),
        1 => {
            let header = ["s", "other", "i", "d", "t"].map(str::to_owned).to_vec();
            check(&KINDS, CsvFormat { delimiter, header: Some(header) }, limits, &input, |_, _| ());
        }
        2 => check(&KINDS, CsvFormat { delimiter, header: None }, limits, &input, |_, _| ()),
        _ => {
            let kind = KINDS[input.choose(9)];
            let format = CsvFormat { delimiter, header: None };
            check(&[kind], format, limits, &input, |line, fate| same_as_json(kind, delimiter, line, fate));
        }
    }
}

fn check(
    fields: &[(&str, &str)],
    format: CsvFormat,
    limits: DecodeLimits,
    input: &Input<'_>,
    opinion: impl Fn(&[u8], &Fate),
) {
    let decoder = CsvDecoder::new(schema(fields), &format, limits).expect("the format fits the schema");
    let payload_bytes_max = limits.payload_bytes_max;
    let subject = Subject {
        decoder: Box::new(decoder),
        payload_bytes_max,
        growth: Growth::NONE,
        several: false,
        in_envelope: false,
        registry: &no_registry,
    };
    let payloads = input.payloads();
    for (payload, fate) in payloads.iter().zip(fates(subject, &payloads)) {
        if let Some(line) = payload {
            opinion(line, &fate);
        }
    }
}

/// What is accepted, the crate `csv` reads as one record of the same fields.
fn second_opinion(delimiter: u8, line: &[u8], fate: &Fate) {
    let Ok(row) = fate else { return };
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).flexible(true).from_reader(line);
    let records: Vec<_> = reader.records().collect::<Result<_, _>>().expect("the crate csv reads it as well");
    if matches!(line, b"\n" | b"\r\n") {
        // A line of one field that is null; to the crate, no line.
        return;
    }
    assert_eq!(records.len(), 1, "{row}");
    let shown = |text: &str| match text {
        // Null or the empty text; the crate does not tell them apart.
        "" => ["null".to_owned(), "\"\"".to_owned()],
        text => [format!("{text:?}"), format!("{text:?}")],
    };
    assert_eq!(records[0].len(), 2, "{row}");
    let [a, b] = [shown(&records[0][0]), shown(&records[0][1])];
    let possible = a.iter().flat_map(|a| b.iter().map(move |b| format!("{{a: {a}, b: {b}}}")));
    assert!(possible.into_iter().any(|possible| possible == *row), "{row}: {:?}", records[0]);
}

/// A field's text makes the value that it makes in JSON, in quotes where JSON wants them.
fn same_as_json(kind: (&str, &str), delimiter: u8, line: &[u8], fate: &Fate) {
    let Ok(text) = std::str::from_utf8(line) else { return };
    let special = |byte: u8| byte == delimiter || byte < b' ' || matches!(byte, b'"' | b'\\');
    if text.is_empty() || text.starts_with('\u{feff}') || text.bytes().any(special) {
        return;
    }
    let quoted = matches!(kind.1, "string" | "binary" | "date" | "timestamp");
    if !quoted && text.trim() != text || text == "null" && kind.1 != "string" {
        return;
    }
    let name = kind.0.trim_end_matches('!');
    let payload =
        if quoted { format!("{{\"{name}\":\"{text}\"}}") } else { format!("{{\"{name}\":{text}}}") };
    let limits = DecodeLimits::default();
    let decoder =
        JsonDecoder::new(schema(&[kind]), UnknownFields::Quarantine, limits).expect("a schema for JSON");
    let subject = Subject {
        decoder: Box::new(decoder),
        payload_bytes_max: limits.payload_bytes_max,
        growth: Growth::NONE,
        several: false,
        in_envelope: false,
        registry: &no_registry,
    };
    let json = fates(subject, &[Some(payload.as_bytes())]).remove(0);
    if let Err((isobar_schemas::RejectReason::Oversize, _)) = fate {
        return;
    }
    assert_eq!(json.ok(), fate.clone().ok(), "{payload}");
}
