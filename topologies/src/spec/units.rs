//! Durations, sizes and shares as people write them: `10s`, `500ms`, `1m30s`, `128MiB`, `64kB`, `20%`.
//!
//! A number without a unit is refused: `10` could be seconds or milliseconds, and a wrong guess shows only under
//! load. All types write themselves back in the shortest form that reads as the same value. The patterns here are
//! the ones in the JSON Schema, so an editor and `isobar check` accept the same texts.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a [`HumanDuration`] looks like.
pub const DURATION_PATTERN: &str = "^([0-9]+(ms|s|m|h))+$";

/// What a [`ByteSize`] looks like.
pub const SIZE_PATTERN: &str = "^[0-9]+ ?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$";

/// What a [`Percent`] looks like.
pub const PERCENT_PATTERN: &str = "^[0-9]{1,3}([.][0-9]{1,4})?%$";

const DURATION_UNITS_MS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// A text that is no duration or no size. Fix the spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// Not a number of hours, minutes, seconds and milliseconds.
    #[error("`{0}` is not a duration: write a whole number and a unit, such as `10s`, `500ms` or `1m30s`")]
    Duration(String),
    /// Not a number of bytes.
    #[error("`{0}` is not a size: write a whole number and a unit, such as `128MiB` or `64kB`")]
    Size(String),
    /// Not a share of 100.
    #[error("`{0}` is not a share: write a number from 0 to 100 and a percent sign, such as `20%` or `0.5%`")]
    Percent(String),
    /// The number does not fit.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// Why `name` cannot be `value`, which is beyond `bounds`; `None` if it is not.
pub(super) fn beyond<T: PartialOrd + fmt::Display>(
    name: &str,
    value: T,
    bounds: RangeInclusive<T>,
) -> Option<String> {
    let (least, most) = (bounds.start(), bounds.end());
    (!bounds.contains(&value)).then(|| format!("`{name}` is {value}; it can be from {least} to {most}"))
}

/// A length of time, in steps of a millisecond: `500ms`, `10s`, `1m30s`, `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A number of bytes: `128MiB` is 134,217,728 and `128MB` is 128,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A share, in steps of a millionth: `20%`, `0.5%`. At most `100%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent {
    parts_per_million: u32,
}

impl Percent {
    /// Whether `part` is a larger share of `whole`.
    pub fn is_exceeded_by(self, part: u64, whole: u64) -> bool {
        u128::from(part) * 1_000_000 > u128::from(whole) * u128::from(self.parts_per_million)
    }
}

/// Splits `text` into its leading decimal digits and the rest.
fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

impl FromStr for HumanDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || UnitError::Duration(text.to_owned());
        let too_large = || UnitError::TooLarge(text.to_owned());
        if text.is_empty() {
            return Err(malformed());
        }
        let mut total_ms = 0u64;
        let mut rest = text;
        while !rest.is_empty() {
            let (digits, after_digits) = split_digits(rest);
            if digits.is_empty() {
                return Err(malformed());
            }
            let unit_length = after_digits.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after_unit) = after_digits.split_at(unit_length);
            let (_, unit_ms) =
                DURATION_UNITS_MS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
            let count: u64 = digits.parse().map_err(|_| too_large())?;
            total_ms =
                count.checked_mul(*unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(too_large)?;
            rest = after_unit;
        }
        Ok(Self(Duration::from_millis(total_ms)))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest_ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest_ms == 0 {
            return f.write_str("0s");
        }
        for (unit, unit_ms) in DURATION_UNITS_MS {
            if rest_ms >= unit_ms {
                write!(f, "{}{unit}", rest_ms / unit_ms)?;
                rest_ms %= unit_ms;
            }
        }
        Ok(())
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || UnitError::Size(text.to_owned());
        let too_large = || UnitError::TooLarge(text.to_owned());
        let (digits, after_digits) = split_digits(text);
        if digits.is_empty() {
            return Err(malformed());
        }
        let unit = after_digits.strip_prefix(' ').unwrap_or(after_digits);
        let (_, unit_bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        let count: u64 = digits.parse().map_err(|_| too_large())?;
        count.checked_mul(*unit_bytes).map(Self).ok_or_else(too_large)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact =
            |(_, unit_bytes): &&(&str, u64)| self.0 >= *unit_bytes && self.0.is_multiple_of(*unit_bytes);
        let fewest_units = SIZE_UNITS.iter().filter(exact).min_by_key(|(_, unit_bytes)| self.0 / unit_bytes);
        let (unit, unit_bytes) = fewest_units.unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / unit_bytes)
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || UnitError::Percent(text.to_owned());
        let number = text.strip_suffix('%').ok_or_else(malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |digits: &str, most: usize| {
            (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !is_number(whole, 3) || !is_number(fraction, 4) {
            return Err(malformed());
        }
        let parse = |digits: &str| digits.parse::<u32>().map_err(|_| malformed());
        let parts_per_million = parse(whole)? * 10_000 + parse(&format!("{fraction:0<4}"))?;
        if parts_per_million > 1_000_000 {
            return Err(malformed());
        }
        Ok(Self { parts_per_million })
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.parts_per_million / 10_000, self.parts_per_million % 10_000);
        match fraction {
            0 => write!(f, "{whole}%"),
            _ => write!(f, "{whole}.{}%", format!("{fraction:04}").trim_end_matches('0')),
        }
    }
}

/// Serde by `FromStr` and `Display`, and a JSON Schema of a patterned string.
macro_rules! as_text {
    ($type:ty, $name:literal, $pattern:expr, $examples:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "examples": $examples })
            }
        }
    };
}

as_text!(HumanDuration, "Duration", DURATION_PATTERN, ["10s", "500ms", "1m30s"]);
as_text!(ByteSize, "Size", SIZE_PATTERN, ["256MiB", "64kB"]);
as_text!(Percent, "Percent", PERCENT_PATTERN, ["20%", "0.5%"]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        for (text, ms, shortest) in [
            ("10s", 10_000, "10s"),
            ("500ms", 500, "500ms"),
            ("1m30s", 90_000, "1m30s"),
            ("90s", 90_000, "1m30s"),
            ("2h", 7_200_000, "2h"),
            ("0s", 0, "0s"),
            ("1s1ms", 1_001, "1s1ms"),
        ] {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.0, Duration::from_millis(ms), "{text}");
            assert_eq!(duration.to_string(), shortest);
            assert_eq!(shortest.parse(), Ok(duration));
        }
        for text in ["", "10", "s", "10 s", "10sec", "-1s", "1.5s", "10s ", "ms10", "１s"] {
            assert_eq!(text.parse::<HumanDuration>(), Err(UnitError::Duration(text.into())), "{text}");
        }
        let huge = format!("{}h", u64::MAX);
        assert_eq!(huge.parse::<HumanDuration>(), Err(UnitError::TooLarge(huge)));
    }

    #[test]
    fn shares_read_and_write_and_compare_exactly() {
        for (text, shortest) in [
            ("20%", "20%"),
            ("0.5%", "0.5%"),
            ("100%", "100%"),
            ("0%", "0%"),
            ("1.2500%", "1.25%"),
            ("0.0001%", "0.0001%"),
        ] {
            let share: Percent = text.parse().unwrap();
            assert_eq!(share.to_string(), shortest);
            assert_eq!(shortest.parse(), Ok(share));
        }
        for text in ["", "20", "%", "-1%", "101%", "100.0001%", "1.%", ".5%", "0.00001%", "20 %", "1e1%"] {
            assert_eq!(text.parse::<Percent>(), Err(UnitError::Percent(text.into())), "{text}");
        }
        let fifth: Percent = "20%".parse().unwrap();
        assert!(!fifth.is_exceeded_by(1, 5) && fifth.is_exceeded_by(200_001, 1_000_000));
        assert!(fifth.is_exceeded_by(u64::MAX, u64::MAX) && !fifth.is_exceeded_by(0, 0));
    }

    #[test]
    fn sizes_read_and_write() {
        for (text, bytes, shortest) in [
            ("128MiB", 128 << 20, "128MiB"),
            ("128 MiB", 128 << 20, "128MiB"),
            ("128MB", 128_000_000, "128MB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("64kB", 64_000, "64kB"),
            ("64KB", 64_000, "64kB"),
            ("7B", 7, "7B"),
            ("0B", 0, "0B"),
            ("1TiB", 1 << 40, "1TiB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size, ByteSize(bytes), "{text}");
            assert_eq!(size.to_string(), shortest);
            assert_eq!(shortest.parse(), Ok(size));
        }
        for text in ["", "128", "MiB", "128mib", "1.5GiB", "-1B", "128  MiB", "128MiBs"] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError::Size(text.into())), "{text}");
        }
        let huge = format!("{}KiB", u64::MAX);
        assert_eq!(huge.parse::<ByteSize>(), Err(UnitError::TooLarge(huge)));
    }
}
