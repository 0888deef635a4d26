//! The canonical form of a schema and its fingerprint, by which single-object encoding names it.
//!
//! By the section "Parsing Canonical Form for Schemas" of the specification: full names, no documentation, no
//! attributes that do not matter for reading, and no logical types. (The form that `apache-avro` makes keeps
//! `{"type":"long"}` where a logical type was, so its fingerprints are not those that other writers put into records.)

use std::collections::HashSet;

use super::schema::{AvroSchema, Fixed, Type, TypeId};

/// The fingerprint of the canonical form.
pub(crate) fn fingerprint(schema: &AvroSchema) -> u64 {
    rabin(canonical_form(schema).as_bytes())
}

/// The canonical form. Goes as deep as the text of the schema.
fn canonical_form(schema: &AvroSchema) -> String {
    let mut writer = Writer { schema, defined: HashSet::new(), out: String::new() };
    writer.write(schema.root());
    writer.out
}

struct Writer<'a> {
    schema: &'a AvroSchema,
    /// Types with a name that have been written; from then on the name stands for them.
    defined: HashSet<TypeId>,
    out: String,
}

impl Writer<'_> {
    // Names and symbols are letters, digits, dots and underscores: none needs an escape.
    fn write(&mut self, id: TypeId) {
        let schema = self.schema;
        match schema.get(id) {
            Type::Null => self.out.push_str("\"null\""),
            Type::Boolean => self.out.push_str("\"boolean\""),
            Type::Int | Type::Date | Type::TimeMillis => self.out.push_str("\"int\""),
            Type::Long | Type::TimeMicros | Type::Timestamp(_) | Type::LocalTimestamp(_) => {
                self.out.push_str("\"long\"");
            }
            Type::Float => self.out.push_str("\"float\""),
            Type::Double => self.out.push_str("\"double\""),
            Type::Bytes | Type::BigDecimal | Type::Decimal { fixed: None, .. } => {
                self.out.push_str("\"bytes\"");
            }
            Type::String | Type::UuidText => self.out.push_str("\"string\""),
            Type::Fixed(fixed)
            | Type::Decimal { fixed: Some(fixed), .. }
            | Type::UuidFixed(fixed)
            | Type::Duration(fixed) => self.write_fixed(id, fixed),
            Type::Enum { name, symbols } => {
                if self.define(id, name, "enum") {
                    self.out.push_str(",\"symbols\":[");
                    self.write_all(symbols, |writer, symbol| writer.write_text(symbol));
                    self.out.push_str("]}");
                }
            }
            Type::Array(items) => {
                self.out.push_str("{\"type\":\"array\",\"items\":");
                self.write(*items);
                self.out.push('}');
            }
            Type::Map(values) => {
                self.out.push_str("{\"type\":\"map\",\"values\":");
                self.write(*values);
                self.out.push('}');
            }
            Type::Union(branches) => {
                self.out.push('[');
                self.write_all(branches, |writer, branch| writer.write(*branch));
                self.out.push(']');
            }
            Type::Record { name, fields } => {
                if self.define(id, name, "record") {
                    self.out.push_str(",\"fields\":[");
                    self.write_all(fields, |writer, field| {
                        writer.out.push_str("{\"name\":");
                        writer.write_text(&field.name);
                        writer.out.push_str(",\"type\":");
                        writer.write(field.of);
                        writer.out.push('}');
                    });
                    self.out.push_str("]}");
                }
            }
        }
    }

    /// Writes the name of a type, and says whether its definition has to go on.
    fn define(&mut self, id: TypeId, name: &str, kind: &str) -> bool {
        let is_new = self.defined.insert(id);
        if is_new {
            self.out.push_str("{\"name\":");
            self.write_text(name);
            self.out.push_str(",\"type\":");
            self.write_text(kind);
        } else {
            self.write_text(name);
        }
        is_new
    }

    fn write_fixed(&mut self, id: TypeId, fixed: &Fixed) {
        if self.define(id, &fixed.name, "fixed") {
            self.out.push_str(&format!(",\"size\":{}}}", fixed.size));
        }
    }

    fn write_all<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            write(self, item);
        }
    }

    fn write_text(&mut self, text: &str) {
        self.out.push('"');
        self.out.push_str(text);
        self.out.push('"');
    }
}

/// The 64-bit fingerprint of Rabin that the specification gives the algorithm of.
fn rabin(bytes: &[u8]) -> u64 {
    const EMPTY: u64 = 0xc15d_213a_a4d7_a795;
    bytes.iter().fold(EMPTY, |fingerprint, byte| {
        let low = (0..8).fold((fingerprint ^ u64::from(*byte)) & 0xff, |bits, _| {
            (bits >> 1) ^ (EMPTY & (bits & 1).wrapping_neg())
        });
        (fingerprint >> 8) ^ low
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> AvroSchema {
        AvroSchema::parse(text, &[]).unwrap()
    }

    #[test]
    fn fingerprints_are_those_of_the_reference_implementation() {
        // From share/test/data/schema-tests.txt of Apache Avro.
        for (text, expected) in [
            (r#""null""#, 7195948357588979594_i64),
            (r#"{"type":"boolean"}"#, -6970731678124411036),
            (r#""int""#, 8247732601305521295),
            (r#""long""#, -3434872931120570953),
            (r#""float""#, 5583340709985441680),
            (r#""double""#, -8181574048448539266),
            (r#""bytes""#, 5746618253357095269),
            (r#""string""#, -8142146995180207161),
        ] {
            assert_eq!(fingerprint(&parse(text)) as i64, expected, "{text}");
        }
    }

    #[test]
    fn the_canonical_form_keeps_what_matters_for_reading() {
        let text = r#"{"namespace":"a.b","doc":"d","name":"R","type":"record","extra":{"x":[1]},"fields":[
            {"name":"t","type":{"logicalType":"timestamp-millis","type":"long"},"doc":"when","default":0},
            {"name":"e","type":{"type":"enum","name":"E","symbols":["X","Y"],"default":"X"}},
            {"name":"f","type":{"type":"fixed","name":"c.F","size":4,"logicalType":"decimal","precision":9}},
            {"name":"r","type":["null","R",{"type":"map","values":{"type":"array","items":"E"}}],"default":null},
            {"name":"g","type":"c.F","aliases":["h"]}]}"#;
        let expected = concat!(
            r#"{"name":"a.b.R","type":"record","fields":[{"name":"t","type":"long"},"#,
            r#"{"name":"e","type":{"name":"a.b.E","type":"enum","symbols":["X","Y"]}},"#,
            r#"{"name":"f","type":{"name":"c.F","type":"fixed","size":4}},"#,
            r#"{"name":"r","type":["null","a.b.R",{"type":"map","values":{"type":"array","items":"a.b.E"}}]},"#,
            r#"{"name":"g","type":"c.F"}]}"#,
        );
        assert_eq!(canonical_form(&parse(text)), expected);
        assert_eq!(canonical_form(&parse(expected)), expected);
        let theirs = apache_avro::Schema::parse_str(expected).unwrap();
        assert_eq!(theirs.canonical_form(), expected);
        let theirs = theirs.fingerprint::<apache_avro::rabin::Rabin>().bytes;
        assert_eq!(theirs, fingerprint(&parse(text)).to_le_bytes());
    }
}
