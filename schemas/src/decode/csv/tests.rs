//! The decoder against examples, and against the crate `csv` as writer and as second opinion.

use super::*;
use crate::decode::testing::{Random, chunk, render_row, schema};

fn decoder(fields: &[(&str, &str)], format: &CsvFormat) -> CsvDecoder {
    CsvDecoder::new(schema(fields), format, DecodeLimits::default()).unwrap()
}

/// The row, rendered, that `payload` becomes, or the reason and message why not.
fn fate(decoder: &mut CsvDecoder, payload: &str) -> Result<String, (RejectReason, String)> {
    let mut decoded = decoder.decode(&chunk([Some(payload.as_bytes())])).unwrap();
    assert_eq!(decoded.batch.num_rows() + decoded.rejects.len(), 1);
    match decoded.rejects.pop() {
        Some(reject) => Err((reject.reason, reject.message)),
        None => Ok(render_row(&decoded.batch, 0)),
    }
}

#[test]
fn lines_become_rows() {
    let mut decoder = decoder(&[("a", "string"), ("b", "int32")], &CsvFormat::default());
    for (line, expected) in [
        ("x,1", "{a: \"x\", b: 1}"),
        ("x,1\n", "{a: \"x\", b: 1}"),
        ("x,1\r\n", "{a: \"x\", b: 1}"),
        ("\"x\",\"1\"", "{a: \"x\", b: 1}"),
        ("\"x,y\",1", "{a: \"x,y\", b: 1}"),
        ("\"x\ny\r\n\",1\n", "{a: \"x\\ny\\r\\n\", b: 1}"),
        ("\"\"\"x\"\"\",1", "{a: \"\\\"x\\\"\", b: 1}"),
        ("\"\",1", "{a: \"\", b: 1}"),
        (",", "{a: null, b: null}"),
        (",\n", "{a: null, b: null}"),
        (" x ,1", "{a: \" x \", b: 1}"),
        ("żółć 😀,-0", "{a: \"żółć 😀\", b: 0}"),
    ] {
        assert_eq!(fate(&mut decoder, line), Ok(expected.to_owned()), "{line:?}");
    }
}

#[test]
fn what_rfc_4180_does_not_allow_is_rejected() {
    let mut decoder = decoder(&[("a", "string"), ("b", "string")], &CsvFormat::default());
    for (line, part) in [
        ("x", "expected 2 fields, found 1"),
        ("\n", "expected 2 fields, found 1"),
        ("x,y,z", "expected 2 fields, found 3"),
        ("x,y,", "expected 2 fields, found 3"),
        ("x,y\nx,y", "second line"),
        ("x,y\n\n", "second line"),
        ("x,y\n\r\n", "second line"),
        ("\nx,y", "second line"),
        ("x,\ny", "second line"),
        ("x\r,y", "second line"),
        ("x\"z,y", "a quote inside"),
        ("x,y\"", "a quote inside"),
        ("\"x,y", "not closed"),
        ("x,\"y", "not closed"),
        ("x,\"y\n", "not closed"),
        ("x,\"", "not closed"),
        ("\"x\"z,y", "after its closing quote"),
        ("\"x\"z\",y", "after its closing quote"),
        ("\"x\" ,y", "after its closing quote"),
        ("\"x\"\"z,y", "not closed"),
        ("\u{feff}x,y", "byte order mark"),
    ] {
        let (reason, message) = fate(&mut decoder, line).unwrap_err();
        assert_eq!(reason, RejectReason::Undecodable, "{line:?}: {message}");
        assert!(message.contains(part), "{line:?}: {message}");
    }
    let decoded = decoder.decode(&chunk([Some(&b"x,\xff"[..]), Some(b"x,y"), None, Some(b"")])).unwrap();
    assert_eq!(decoded.records, [1]);
    let reasons: Vec<_> = decoded.rejects.iter().map(|reject| reject.reason).collect();
    assert_eq!(reasons, [RejectReason::Undecodable, RejectReason::Tombstone, RejectReason::EmptyPayload]);
}

#[test]
fn values_follow_the_rules_of_the_json_decoder() {
    use RejectReason::*;
    for (data_type, text, expected) in [
        ("boolean", "true", Ok("true")),
        ("boolean", "TRUE", Err(WrongType)),
        ("boolean", "1", Err(WrongType)),
        ("int8", "127", Ok("127")),
        ("int8", "128", Err(OutOfRange)),
        ("int16", "3e2", Ok("300")),
        ("int32", "3.0", Ok("3")),
        ("int32", "3.5", Err(WrongType)),
        ("int32", "03", Err(WrongType)),
        ("int32", "+3", Err(WrongType)),
        ("int32", " 3", Err(WrongType)),
        ("int32", "\"3\"", Ok("3")),
        ("int32", "\"\"", Err(WrongType)),
        ("int64", "9223372036854775808", Err(OutOfRange)),
        ("float32", "0.1", Ok("0.1")),
        ("float64", "0.1", Ok("0.1")),
        ("float64", "NaN", Err(WrongType)),
        ("float64", "inf", Err(WrongType)),
        ("float64", "1e309", Err(OutOfRange)),
        ("decimal(5,2)", "-999.99", Ok("-99999")),
        ("decimal(5,2)", "1.005", Err(InvalidValue)),
        ("decimal(5,2)", "1000", Err(OutOfRange)),
        ("string", "null", Ok("\"null\"")),
        ("binary", "AP8=", Ok("[0, 255]")),
        ("binary", "AP8", Err(InvalidValue)),
        ("date", "1970-02-01", Ok("31")),
        ("date", "2013-02-29", Err(InvalidValue)),
        ("timestamp", "1970-01-01 00:00:01.5", Ok("1500000")),
        ("timestamp", "1970-01-01", Err(InvalidValue)),
    ] {
        let mut decoder = decoder(&[("v", data_type)], &CsvFormat::default());
        let found = fate(&mut decoder, text).map_err(|(reason, message)| {
            assert!(message.starts_with("field `v`: "), "{message}");
            reason
        });
        assert_eq!(found, expected.map(|value| format!("{{v: {value}}}")), "{data_type} {text:?}");
    }
}

#[test]
fn a_required_field_must_not_be_null() {
    let mut decoder = decoder(&[("a!", "int32"), ("b", "int32")], &CsvFormat::default());
    assert_eq!(fate(&mut decoder, "1,").unwrap(), "{a: 1, b: null}");
    let (reason, message) = fate(&mut decoder, ",1").unwrap_err();
    assert_eq!((reason, message.as_str()), (RejectReason::NullField, "field `a`: required, but null"));
}

#[test]
fn one_field_of_no_text_is_null() {
    let mut decoder = decoder(&[("a", "string")], &CsvFormat::default());
    assert_eq!(fate(&mut decoder, "\n").unwrap(), "{a: null}");
    assert_eq!(fate(&mut decoder, "\"\"").unwrap(), "{a: \"\"}");
}

#[test]
fn a_header_says_where_fields_are() {
    let format = CsvFormat { delimiter: b';', header: Some(["b", "other", "a"].map(str::to_owned).to_vec()) };
    let mut decoder = decoder(&[("a", "int32"), ("b", "string"), ("c", "date")], &format);
    assert_eq!(fate(&mut decoder, "x;anything;7").unwrap(), "{a: 7, b: \"x\", c: null}");
    assert!(fate(&mut decoder, "x;7").unwrap_err().1.contains("expected 3 fields"));
}

#[test]
fn formats_and_schemas_that_cannot_be_are_refused() {
    let new = |fields: &[(&str, &str)], format: CsvFormat| {
        CsvDecoder::new(schema(fields), &format, DecodeLimits::default()).unwrap_err().to_string()
    };
    for delimiter in [b'"', b'\n', b'\r', 0, 0xff] {
        let format = CsvFormat { delimiter, header: None };
        assert!(new(&[("a", "string")], format).contains("delimiter"), "{delimiter}");
    }
    assert!(new(&[("a", "list<int32>")], CsvFormat::default()).contains("list<int32> has no form in CSV"));
    let header = |names: &[&str]| CsvFormat {
        header: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        ..CsvFormat::default()
    };
    assert!(new(&[("a", "string")], header(&["a", "a"])).contains("names it twice"));
    assert!(new(&[("a!", "string")], header(&["b"])).contains("does not name it"));
}

/// What the crate `csv` reads, of lines that the crate `csv` wrote, is what this decoder reads.
#[test]
fn lines_of_the_crate_csv_are_read_back() {
    let fields: Vec<_> = ["a", "b", "c"].map(|name| (name, "string")).to_vec();
    let mut decoder = decoder(&fields, &CsvFormat::default());
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let texts: Vec<String> = (0..3)
            .map(|_| {
                let parts = ["a", "é", "😀", "\"", ",", "\n", "\r", " ", ";", "\u{feff}", "1"];
                (0..random.below(6)).map(|_| random.pick(&parts)).collect()
            })
            .collect();
        let mut writer =
            csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
        writer.write_record(&texts).unwrap();
        let line = writer.into_inner().unwrap();
        let decoded = decoder.decode(&chunk([Some(&line[..])])).unwrap();
        assert_eq!(decoded.rejects, [], "seed {seed}");
        let [a, b, c] = [0, 1, 2].map(|index| format!("{:?}", texts[index]));
        assert_eq!(render_row(&decoded.batch, 0), format!("{{a: {a}, b: {b}, c: {c}}}"), "seed {seed}");
    }
}

/// Whatever is accepted, the crate `csv` reads as one record of the same fields.
#[test]
fn the_crate_csv_agrees_on_what_is_accepted() {
    let mut decoder = decoder(&[("a", "string"), ("b", "string")], &CsvFormat::default());
    let mut accepted = 0;
    for seed in 0..4_000 {
        let mut random = Random::new(seed);
        let parts = ["a", "b", "é", "\"", "\"", ",", ",", "\n", "\r", " "];
        let line: String = (0..1 + random.below(9)).map(|_| random.pick(&parts)).collect();
        let Ok(row) = fate(&mut decoder, &line) else { continue };
        accepted += 1;
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
        let records: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap();
        assert_eq!(records.len(), 1, "{line:?}");
        let texts: Vec<_> = records[0].iter().collect();
        let shown =
            |index: usize| if texts[index].is_empty() { None } else { Some(format!("{:?}", texts[index])) };
        let matches = |index: usize, name: &str| match shown(index) {
            Some(text) => row.contains(&format!("{name}: {text}")),
            None => row.contains(&format!("{name}: null")) || row.contains(&format!("{name}: \"\"")),
        };
        assert!(texts.len() == 2 && matches(0, "a") && matches(1, "b"), "{line:?}: {row}");
    }
    assert!(accepted > 100, "{accepted}");
}
