//! The settings of a session that drivers ask for and set.
//!
//! A setting that would change what an answer means is either obeyed or refused; the others are kept, so that `SHOW` says what
//! was set.

use std::collections::BTreeMap;
use std::time::Duration;

use super::failure::{Failure, code};

/// The version of PostgreSQL whose protocol and catalog this is like.
pub(super) const SERVER_VERSION: &str = "16.4";

/// What is told at the beginning, and again whenever it changes, in the spelling that clients look for.
const REPORTED: [(&str, &str); 11] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "on"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];

/// Others that are known, with their values.
const KNOWN: [(&str, &str); 28] = [
    ("array_nulls", "on"),
    ("backslash_quote", "safe_encoding"),
    ("bytea_output", "hex"),
    ("client_min_messages", "notice"),
    ("constraint_exclusion", "partition"),
    ("cursor_tuple_fraction", "0.1"),
    ("default_transaction_isolation", "repeatable read"),
    ("enable_nestloop", "on"),
    ("enable_seqscan", "on"),
    ("escape_string_warning", "on"),
    ("extra_float_digits", "1"),
    ("geqo", "on"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("is_superuser", "off"),
    ("jit", "off"),
    ("lc_collate", "C"),
    ("lc_messages", "C"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("plan_cache_mode", "auto"),
    ("row_security", "on"),
    ("search_path", "\"$user\", public"),
    ("server_version_num", "160004"),
    ("statement_timeout", "0"),
    ("synchronous_commit", "on"),
    ("transaction_isolation", "repeatable read"),
    ("transaction_read_only", "on"),
];

/// Most settings that one session adds.
const ADDED_MAX: usize = 100;
/// Most bytes of a value.
const VALUE_BYTES_MAX: usize = 1_000;

/// The settings of one session.
#[derive(Debug, Default, Clone)]
pub(super) struct Settings {
    /// What was set, by name in small letters.
    set: BTreeMap<String, String>,
    statement_timeout: Option<Duration>,
}

impl Settings {
    /// What the client asks for when it connects. Drivers ask for the time zone and the formats of their machine, without an
    /// error in mind; they are told what they have instead.
    pub(super) fn begin(&mut self, asked: &[(String, String)]) {
        for (name, value) in asked {
            if let Err(failure) = self.set(name, value) {
                tracing::debug!(setting = name, reason = failure.message, "setting not taken over");
            }
        }
    }

    /// What clients are told at the beginning.
    pub(super) fn reported(&self) -> Vec<(String, String)> {
        let value = |name: &str| self.show(name).unwrap_or_default();
        REPORTED.iter().map(|(name, _)| ((*name).to_owned(), value(name))).collect()
    }

    /// How long a statement may take, if the client has said so.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        self.statement_timeout
    }

    /// The value of a setting.
    pub(super) fn show(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_lowercase();
        self.set.get(&name).cloned().or_else(|| default_of(&name).map(str::to_owned))
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> BTreeMap<String, String> {
        let defaults = REPORTED.iter().chain(&KNOWN);
        let mut all: BTreeMap<String, String> =
            defaults.map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect();
        all.extend(self.set.clone());
        all
    }

    /// Sets one; what the client must be told of it then.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<Option<(String, String)>, Failure> {
        let name = name.to_ascii_lowercase();
        if value.eq_ignore_ascii_case("default") {
            return self.reset(&name);
        }
        check(&name, value)?;
        if name == "statement_timeout" {
            self.statement_timeout = timeout(value)?;
        }
        if self.set.len() >= ADDED_MAX && !self.set.contains_key(&name) {
            return Err(Failure::new(
                code::CONFIGURED_LIMIT,
                format!("at most {ADDED_MAX} settings are kept"),
            ));
        }
        if !is_fixed(&name) {
            self.set.insert(name.clone(), value.to_owned());
        }
        Ok(self.report(&name))
    }

    /// Sets one back.
    pub(super) fn reset(&mut self, name: &str) -> Result<Option<(String, String)>, Failure> {
        if default_of(name).is_none() && !self.set.contains_key(name) {
            return Err(unknown(name));
        }
        self.set.remove(name);
        if name == "statement_timeout" {
            self.statement_timeout = None;
        }
        Ok(self.report(name))
    }

    /// Sets all of them back.
    pub(super) fn reset_all(&mut self) -> Vec<(String, String)> {
        let names: Vec<String> = std::mem::take(&mut self.set).into_keys().collect();
        self.statement_timeout = None;
        names.iter().filter_map(|name| self.report(name)).collect()
    }

    /// The value that was set, if one was.
    pub(super) fn own(&self, name: &str) -> Option<String> {
        self.set.get(name).cloned()
    }

    /// These settings, but for some that are as they were `before`: set, or not.
    pub(super) fn with(&self, before: &BTreeMap<String, Option<String>>) -> Self {
        let mut settings = self.clone();
        for (name, value) in before {
            let restored = match value {
                Some(value) => settings.set(name, value),
                None => settings.reset(name),
            };
            if let Err(failure) = restored {
                // It was not there before, and is not there any more.
                tracing::debug!(setting = name, reason = failure.message, "setting not taken back");
            }
        }
        settings
    }

    /// Puts others in the place of these; what the client must be told of it.
    pub(super) fn replace(&mut self, others: Self) -> Vec<(String, String)> {
        let told = self.reported();
        *self = others;
        self.reported().into_iter().filter(|setting| !told.contains(setting)).collect()
    }

    fn report(&self, name: &str) -> Option<(String, String)> {
        let (spelled, _) = REPORTED.iter().find(|(reported, _)| reported.eq_ignore_ascii_case(name))?;
        Some(((*spelled).to_owned(), self.show(name)?))
    }
}

/// That there is no such setting.
pub(super) fn unknown(name: &str) -> Failure {
    Failure::new(code::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
}

fn default_of(name: &str) -> Option<&'static str> {
    let mut all = REPORTED.iter().chain(&KNOWN);
    all.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

/// Whether a setting has one value here, however it is spelled.
fn is_fixed(name: &str) -> bool {
    matches!(
        name,
        "client_encoding"
            | "datestyle"
            | "intervalstyle"
            | "timezone"
            | "bytea_output"
            | "standard_conforming_strings"
            | "transaction_read_only"
            | "default_transaction_read_only"
            | "transaction_isolation"
            | "default_transaction_isolation"
    )
}

/// Refuses values that would promise what is not so.
fn check(name: &str, value: &str) -> Result<(), Failure> {
    let is = |allowed: &[&str]| allowed.iter().any(|allowed| value.eq_ignore_ascii_case(allowed));
    let (is_fine, instead) = match name {
        "client_encoding" => (is(&["utf8", "utf-8", "unicode"]), "texts are in UTF8 here"),
        "datestyle" => {
            (value.trim_start().to_ascii_lowercase().starts_with("iso"), "dates are in the style ISO here")
        }
        "intervalstyle" => (is(&["postgres"]), "intervals are in the style postgres here"),
        "timezone" => (
            is(&["utc", "gmt", "etc/utc", "etc/gmt", "z", "zulu", "0", "+00", "+00:00", "local"]),
            "times are in UTC here; write AT TIME ZONE into the query for another zone",
        ),
        "bytea_output" => (is(&["hex"]), "bytes are in hexadecimal here"),
        "standard_conforming_strings" => {
            (is(&["on", "true", "yes", "1"]), "a backslash in a text stands for itself here")
        }
        "server_version"
        | "server_version_num"
        | "server_encoding"
        | "is_superuser"
        | "in_hot_standby"
        | "integer_datetimes"
        | "max_identifier_length"
        | "lc_collate" => (false, "it cannot be changed"),
        _ => (default_of(name).is_some() || name.contains('.'), ""),
    };
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::new(
            code::INVALID_PARAMETER_VALUE,
            format!("the value of \"{name}\" is too long"),
        ));
    }
    match (is_fine, instead) {
        (true, _) => Ok(()),
        (false, "") => Err(unknown(name)),
        (false, instead) => Err(Failure::new(
            code::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"{name}\": \"{value}\": {instead}"),
        )),
    }
}

/// A time in milliseconds, or with a unit; 0 is none.
fn timeout(text: &str) -> Result<Option<Duration>, Failure> {
    let digits = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let unit_ms = match text[digits..].trim() {
        "" | "ms" => Some(1),
        "s" => Some(1_000),
        "min" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let ms =
        text[..digits].parse::<u64>().ok().zip(unit_ms).and_then(|(number, unit)| number.checked_mul(unit));
    let ms = ms.ok_or_else(|| {
        let message =
            format!("invalid value for parameter \"statement_timeout\": \"{text}\": such as 500 or '30s'");
        Failure::new(code::INVALID_PARAMETER_VALUE, message)
    })?;
    Ok((ms > 0).then(|| Duration::from_millis(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_answers_is_obeyed_or_refused() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("TimeZone", "Europe/Berlin"),
            ("client_encoding", "LATIN1"),
            ("DateStyle", "German"),
            ("bytea_output", "escape"),
            ("standard_conforming_strings", "off"),
            ("server_version", "9"),
        ] {
            let failure = settings.set(name, value).unwrap_err();
            assert_eq!(failure.code, code::INVALID_PARAMETER_VALUE, "{name}");
        }
        assert_eq!(settings.set("nonsense", "1").unwrap_err().code, code::UNDEFINED_OBJECT);
        assert_eq!(
            settings.set("DateStyle", "ISO, DMY").unwrap(),
            Some(("DateStyle".into(), "ISO, MDY".into()))
        );
        assert_eq!(settings.set("timezone", "Etc/UTC").unwrap(), Some(("TimeZone".into(), "UTC".into())));
        assert_eq!(settings.set("client_encoding", "utf-8").unwrap().unwrap().1, "UTF8");
    }

    #[test]
    fn what_was_set_is_shown_and_set_back() {
        let mut settings = Settings::default();
        let reported = settings.set("application_name", "psql").unwrap();
        assert_eq!(reported, Some(("application_name".into(), "psql".into())));
        assert_eq!(settings.set("extra_float_digits", "3").unwrap(), None);
        assert_eq!(settings.show("Extra_Float_Digits").as_deref(), Some("3"));
        assert_eq!(settings.set("my.own", "x").unwrap(), None);
        assert_eq!(settings.show("my.own").as_deref(), Some("x"));
        assert_eq!(settings.reset_all(), [("application_name".into(), String::new())]);
        assert_eq!(settings.show("extra_float_digits").as_deref(), Some("1"));
        assert_eq!(settings.show("my.own"), None);
        settings
            .begin(&[("TimeZone".into(), "Asia/Tokyo".into()), ("application_name".into(), "jdbc".into())]);
        let reported = settings.reported();
        assert!(reported.contains(&("TimeZone".into(), "UTC".into())), "{reported:?}");
        assert!(reported.contains(&("application_name".into(), "jdbc".into())), "{reported:?}");
    }

    #[test]
    fn timeouts_have_units() {
        let mut settings = Settings::default();
        for (text, ms) in [("500", 500), ("30s", 30_000), ("2 min", 120_000), ("1d", 86_400_000)] {
            settings.set("statement_timeout", text).unwrap();
            assert_eq!(settings.statement_timeout(), Some(Duration::from_millis(ms)), "{text}");
        }
        settings.set("statement_timeout", "0").unwrap();
        assert_eq!(settings.statement_timeout(), None);
        for wrong in ["", "s", "1 year", "-1", "99999999999999999999", "9999999999999999999d"] {
            assert!(settings.set("statement_timeout", wrong).is_err(), "{wrong}");
        }
    }
}
