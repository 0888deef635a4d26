//! How a query names a model: `flight_delay`, `flight_delay@challenger` or `flight_delay@3`.

use std::fmt;
use std::str::FromStr;

use crate::models::{Manifest, Model};

/// The alias of the version that answers where a query names none.
pub const CHAMPION: &str = "champion";

/// A model, and which of its versions is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    model: String,
    wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    /// Whichever version the alias means.
    Alias(String),
    /// This one.
    Version(u64),
}

impl Reference {
    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether it is the model that decides, which a challenger may be put beside.
    pub(super) fn is_champion(&self) -> bool {
        matches!(&self.wanted, Wanted::Alias(alias) if alias == CHAMPION)
    }

    /// The version of `model` that is meant.
    pub(super) fn version_of<'m>(&self, model: &'m Model) -> Result<&'m Manifest, String> {
        let version = match &self.wanted {
            Wanted::Version(version) => *version,
            Wanted::Alias(alias) => *model.aliases.get(alias).ok_or_else(|| {
                let known: Vec<&str> = model.aliases.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "it has none".to_owned() } else { known.join(", ") };
                format!(
                    "model {} has no alias `{alias}` ({known}); isobar models promote gives it one",
                    self.model
                )
            })?,
        };
        model.versions.get(&version).ok_or_else(|| format!("model {} has no version {version}", self.model))
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (model, wanted) = match text.split_once('@') {
            None => (text, Wanted::Alias(CHAMPION.to_owned())),
            Some((model, version))
                if version.bytes().all(|byte| byte.is_ascii_digit()) && !version.is_empty() =>
            {
                let number =
                    version.parse().map_err(|_| format!("`{text}`: there is no version {version}"))?;
                (model, Wanted::Version(number))
            }
            Some((model, alias)) => (model, Wanted::Alias(alias.to_owned())),
        };
        let is_name = |name: &str| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
                && !name.starts_with('.')
        };
        let alias_is_right = !matches!(&wanted, Wanted::Alias(alias) if !is_name(alias));
        if is_name(model) && alias_is_right {
            return Ok(Self { model: model.to_owned(), wanted });
        }
        Err(format!("`{text}` names no model; write 'name', 'name@alias' or 'name@version'"))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wanted {
            Wanted::Alias(alias) if alias == CHAMPION => f.write_str(&self.model),
            Wanted::Alias(alias) => write!(f, "{}@{alias}", self.model),
            Wanted::Version(version) => write!(f, "{}@{version}", self.model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_an_alias_or_a_version_behind_it() {
        let wanted = |text: &str| text.parse::<Reference>().map(|reference| reference.wanted);
        assert_eq!(wanted("flight_delay"), Ok(Wanted::Alias(CHAMPION.into())));
        assert_eq!(wanted("flight_delay@challenger"), Ok(Wanted::Alias("challenger".into())));
        assert_eq!(wanted("flight_delay@12"), Ok(Wanted::Version(12)));
        for text in ["flight_delay", "a@b", "a@3"] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        for text in ["", "@3", "a@", "a/b", "../a", "a@b@c", "a b", "a@99999999999999999999"] {
            assert!(wanted(text).is_err(), "{text}");
        }
    }
}
