//! How a query names a model: `flight_delay`, `flight_delay@challenger` or `flight_delay@3`.

use std::fmt;
use std::str::FromStr;

use crate::models::{Reference as Written, Which};

/// The alias of the version that answers where a query names none.
pub const CHAMPION: &str = "champion";

/// A model, and which of its versions is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference(Written);

impl Reference {
    /// The model's name.
    pub fn model(&self) -> &str {
        &self.0.model
    }

    /// The version that is meant.
    pub(super) fn which(&self) -> &Which {
        &self.0.which
    }

    /// Whether it is the model that decides, which a challenger may be put beside.
    pub(super) fn is_champion(&self) -> bool {
        matches!(&self.0.which, Which::Alias(alias) if alias == CHAMPION)
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut written: Written = text.parse()?;
        // The newest version is not one that somebody has decided for.
        if written.which == Which::Newest {
            written.which = Which::Alias(CHAMPION.to_owned());
        }
        Ok(Self(written))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.model();
        match self.which() {
            Which::Version(version) => write!(f, "{model}@{version}"),
            Which::Alias(alias) if !self.is_champion() => write!(f, "{model}@{alias}"),
            Which::Alias(_) | Which::Newest => f.write_str(model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_an_alias_or_a_version_behind_it() {
        let which = |text: &str| text.parse::<Reference>().map(|reference| reference.0.which);
        assert_eq!(which("flight_delay"), Ok(Which::Alias(CHAMPION.into())));
        assert_eq!(which("flight_delay@challenger"), Ok(Which::Alias("challenger".into())));
        assert_eq!(which("flight_delay@12"), Ok(Which::Version(12)));
        for text in ["flight_delay", "a@b", "a@3"] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        assert_eq!("a@champion".parse::<Reference>().unwrap().to_string(), "a");
        for text in ["", "@3", "a@", "a/b", "../a", "a@b@c", "a b"] {
            assert!(which(text).is_err(), "{text}");
        }
    }
}
