//! Keys of entities in the parameter `entity_keys`: a list of objects, one per row, or one object; or the same as text, where parameters
//! are texts. They are read into columns one value after the other, and bounded on the way.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::request::ENTITY_KEYS;
use super::tensor::shown;
use crate::online::KEYS_MAX;
use crate::serve::Refusal;

/// Columns of a key.
const COLUMNS_MAX: usize = 100;

/// Keys, one per row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EntityKeys {
    /// How many there are.
    pub(super) rows: usize,
    /// Their columns by name, each with the text of every row.
    pub(super) columns: BTreeMap<String, Vec<String>>,
}

impl EntityKeys {
    /// Those in a text.
    ///
    /// # Errors
    /// [`Refusal::Wrong`] if there are none.
    pub(super) fn from_text(text: &str) -> Result<Self, Refusal> {
        let wrong = |error: serde_json::Error| Refusal::Wrong(format!("parameter `{ENTITY_KEYS}`: {error}"));
        let mut json = serde_json::Deserializer::from_str(text);
        let keys = json.deserialize_any(Written { may_be_text: false }).map_err(wrong)?;
        json.end().map_err(wrong)?;
        Ok(keys)
    }
}

impl<'de> Deserialize<'de> for EntityKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written { may_be_text: true })
    }
}

/// All keys as they are written.
struct Written {
    may_be_text: bool,
}

impl<'de> Visitor<'de> for Written {
    type Value = EntityKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of keys, one per row, such as [{\"carrier\": \"AA\"}]")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<EntityKeys, E> {
        match self.may_be_text {
            true => EntityKeys::from_text(text).map_err(E::custom),
            false => Err(E::invalid_type(serde::de::Unexpected::Str(&shown(text)), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<EntityKeys, A::Error> {
        let mut keys = EntityKeys::default();
        while rows.next_element_seed(Row(&mut keys))?.is_some() {}
        Ok(keys)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<EntityKeys, A::Error> {
        let mut keys = EntityKeys::default();
        Row(&mut keys).visit_map(members)?;
        Ok(keys)
    }
}

/// The next key, which is added to those before it.
struct Row<'a>(&'a mut EntityKeys);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key: an object with a member for each of its columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self(keys) = self;
        if keys.rows == KEYS_MAX {
            return Err(A::Error::custom(format!("there are more than {KEYS_MAX} keys")));
        }
        let other = || A::Error::custom("a key has other columns than the one before it");
        let mut count = 0;
        while let Some(name) = members.next_key::<String>()? {
            let Text(text) = members.next_value()?;
            if keys.rows > 0 && !keys.columns.contains_key(&name) {
                return Err(other());
            }
            if keys.rows == 0 && keys.columns.len() == COLUMNS_MAX {
                return Err(A::Error::custom(format!("a key has at most {COLUMNS_MAX} columns")));
            }
            let texts = keys.columns.entry(name).or_default();
            if texts.len() != keys.rows {
                return Err(A::Error::custom("a key has a column twice"));
            }
            texts.push(text);
            count += 1;
        }
        if count != keys.columns.len() {
            return Err(other());
        }
        keys.rows += 1;
        Ok(())
    }
}

/// The value of a column of a key.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfColumn)
    }
}

struct OfColumn;

impl Visitor<'_> for OfColumn {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of a key: a text, a whole number, true or false")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Text, E> {
        Ok(Text(value.to_owned()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Text, E> {
        Ok(Text(value.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Text, E> {
        Ok(Text(value.to_string()))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Text, E> {
        Ok(Text(value.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<EntityKeys, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_are_read_into_columns() {
        let keys = read(r#"[{"origin":"JFK","hour":7},{"hour":-8,"origin":"ä"}]"#).unwrap();
        assert_eq!((keys.rows, &keys.columns["origin"][..]), (2, &["JFK".to_owned(), "ä".to_owned()][..]));
        assert_eq!(keys.columns["hour"], ["7", "-8"]);
        let one = read(r#"{"is_late":true}"#).unwrap();
        assert_eq!((one.rows, &one.columns["is_late"][..]), (1, &["true".to_owned()][..]));
        assert_eq!(read(r#""[{\"is_late\":true}]""#).unwrap(), one);
        assert_eq!(EntityKeys::from_text(r#"{"is_late":true}"#), Ok(one));
        assert_eq!(read("[]").unwrap(), EntityKeys::default());
        assert_eq!(read("[{},{}]").unwrap().rows, 2);
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        let many = format!("[{}]", vec!["{}"; KEYS_MAX + 1].join(","));
        let members: Vec<String> = (0..=COLUMNS_MAX).map(|at| format!("\"c{at}\":1")).collect();
        let wide = format!("{{{}}}", members.join(","));
        for (text, what) in [
            ("7", "a list of keys"),
            ("[7]", "a key: an object"),
            ("[[]]", "a key: an object"),
            (r#"[{"a":1.5}]"#, "a value of a key"),
            (r#"[{"a":null}]"#, "a value of a key"),
            (r#"[{"a":[1]}]"#, "a value of a key"),
            (r#"[{"a":1},{"b":1}]"#, "other columns"),
            (r#"[{"a":1},{}]"#, "other columns"),
            (r#"[{},{"a":1}]"#, "other columns"),
            (r#"[{"a":1,"a":2}]"#, "twice"),
            (r#""{""#, "parameter `entity_keys`"),
            (r#""\"{}\"""#, "a list of keys"),
            (r#""{} 7""#, "trailing"),
            (many.as_str(), "more than 1000 keys"),
            (wide.as_str(), "at most 100 columns"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(what), "{text:.100}: {refused}");
        }
    }
}
