//! Dates and timestamps from text, in the proleptic Gregorian calendar.
//!
//! Accepted are the forms of RFC 3339 and no others: `2013-01-01` for a date; `2013-01-01T05:00:00Z` for a timestamp,
//! with any number of decimals of a second, a space instead of the `T`, and any offset. A timestamp without a zone is
//! in UTC. Digits below a microsecond are cut off, towards the past.

/// Days since 1970-01-01 of a text like `2013-01-01`.
pub(crate) fn date(text: &str) -> Option<i32> {
    let mut scanner = Scanner { rest: text.as_bytes() };
    let days = scanner.date()?;
    scanner.rest.is_empty().then_some(days)
}

/// Microseconds since 1970-01-01 00:00 UTC of a text like `2013-01-01T05:00:00Z`.
pub(crate) fn timestamp_micros(text: &str) -> Option<i64> {
    let mut scanner = Scanner { rest: text.as_bytes() };
    let days = scanner.date()?;
    scanner.one_of(b"Tt ")?;
    let hour = scanner.number(2, 23)?;
    scanner.one_of(b":")?;
    let minute = scanner.number(2, 59)?;
    scanner.one_of(b":")?;
    // A leap second is the first second of the next minute, as everywhere in POSIX time.
    let second = scanner.number(2, 60)?;
    let micros = scanner.fraction_micros()?;
    let offset_minutes = scanner.zone()?;
    if !scanner.rest.is_empty() {
        return None;
    }
    let minutes =
        (i64::from(days) * 24 + i64::from(hour)) * 60 + i64::from(minute) - i64::from(offset_minutes);
    Some((minutes * 60 + i64::from(second)) * 1_000_000 + i64::from(micros))
}

/// Days since 1970-01-01 of a day of the years 0 to 9999; `None` if there is no such day.
pub(crate) fn days(year: i32, month: i32, day: i32) -> Option<i32> {
    let is_day = (0..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day);
    is_day.then(|| days_since_1970(year, month, day))
}

struct Scanner<'a> {
    rest: &'a [u8],
}

impl Scanner<'_> {
    /// The next byte, which must be one of `bytes`.
    fn one_of(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        bytes.contains(first).then_some(*first)
    }

    /// A number of exactly `digits` digits, at most `max`.
    fn number(&mut self, digits: usize, max: i32) -> Option<i32> {
        let (text, rest) = self.rest.split_at_checked(digits)?;
        self.rest = rest;
        let value = text
            .iter()
            .try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i32::from(byte - b'0')))?;
        (value <= max).then_some(value)
    }

    fn date(&mut self) -> Option<i32> {
        let year = self.number(4, 9999)?;
        self.one_of(b"-")?;
        let month = self.number(2, 12)?;
        self.one_of(b"-")?;
        let day = self.number(2, 31)?;
        days(year, month, day)
    }

    /// Microseconds of a fraction like `.25`, 0 if there is none.
    fn fraction_micros(&mut self) -> Option<i32> {
        if self.rest.first() != Some(&b'.') {
            return Some(0);
        }
        let digits = self.rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (text, rest) = self.rest[1..].split_at(digits);
        self.rest = rest;
        let micros = (0..6)
            .fold(0, |micros, place| micros * 10 + text.get(place).map_or(0, |byte| i32::from(byte - b'0')));
        (digits > 0).then_some(micros)
    }

    /// Minutes east of UTC of a zone like `Z` or `-05:00`, 0 if there is none.
    fn zone(&mut self) -> Option<i32> {
        if self.rest.is_empty() {
            return Some(0);
        }
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let hours = self.number(2, 23)?;
        self.one_of(b":")?;
        let minutes = self.number(2, 59)?;
        Some(sign * (hours * 60 + minutes))
    }
}

fn days_in_month(year: i32, month: i32) -> i32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Counts years from March, so that the leap day is the last of its year.
/// <https://howardhinnant.github.io/date_algorithms.html#days_from_civil>
fn days_since_1970(year: i32, month: i32, day: i32) -> i32 {
    let year = year - i32::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use arrow::array::types::Date32Type;
    use arrow::compute::kernels::cast_utils::Parser;

    use super::*;

    #[test]
    fn every_day_follows_the_day_before() {
        let mut expected = date("0000-01-01").unwrap();
        for year in 0..=9999 {
            for month in 1..=12 {
                for day in 1..=31 {
                    let text = format!("{year:04}-{month:02}-{day:02}");
                    if day > days_in_month(year, month) {
                        assert_eq!(date(&text), None, "{text}");
                        continue;
                    }
                    assert_eq!(date(&text), Some(expected), "{text}");
                    expected += 1;
                }
            }
        }
        for text in ["1970-01-01", "2000-02-29", "1900-03-01", "2013-12-31", "0001-01-01", "9999-12-31"] {
            assert_eq!(date(text), Date32Type::parse(text), "{text}");
        }
    }

    #[test]
    fn timestamps_follow_rfc_3339() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00", 0),
            ("1970-01-01 00:00:00.000001z", 1),
            ("1970-01-01t00:00:00.1", 100_000),
            ("1970-01-01T00:00:00.1234569Z", 123_456),
            ("1969-12-31T23:59:59.9999999Z", -1),
            ("1970-01-01T05:30:00+05:30", 0),
            ("1969-12-31T19:00:00-05:00", 0),
            ("2013-01-01T10:00:00Z", 1_357_034_400_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ] {
            assert_eq!(timestamp_micros(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "2013",
            "2013-1-1T00:00:00Z",
            "2013-01-01",
            "2013-01-01T",
            "2013-01-01T05:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T05:60:00Z",
            "2013-01-01T05:00:61Z",
            "2013-01-01T05:00:00.Z",
            "2013-01-01T05:00:00 Z",
            "2013-01-01T05:00:00Zulu",
            "2013-01-01T05:00:00+05",
            "2013-01-01T05:00:00+0530",
            "2013-02-29T05:00:00Z",
            "2013-00-01T05:00:00Z",
            "2013-01-00T05:00:00Z",
            "+2013-01-01T05:00:00Z",
            "20１3-01-01T05:00:00Z",
            "now",
        ] {
            assert_eq!(timestamp_micros(text), None, "{text}");
        }
        for text in ["2013-01-01 ", " 2013-01-01", "2013-01-01T00:00:00Z", "13-01-01", "today", "2013/01/01"]
        {
            assert_eq!(date(text), None, "{text}");
        }
    }
}
