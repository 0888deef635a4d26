//! Which topics a source reads: one, several, or all whose names match a pattern.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// Longest pattern, bytes.
const PATTERN_BYTES_MAX: usize = 256;
/// Bytes that a compiled pattern may take.
const COMPILED_BYTES_MAX: usize = 1 << 18;

/// The topics of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceTopics {
    /// These, at least one, each once. All of them must exist.
    Named(Vec<String>),
    /// Those whose names match, also those that appear later.
    Matching(TopicPattern),
}

impl SourceTopics {
    /// Whether the source reads `topic`, if there is such a topic.
    pub fn contains(&self, topic: &str) -> bool {
        match self {
            Self::Named(names) => names.iter().any(|name| name == topic),
            Self::Matching(pattern) => pattern.matches(topic),
        }
    }

    /// The topics that must exist.
    pub fn named(&self) -> &[String] {
        match self {
            Self::Named(names) => names,
            Self::Matching(_) => &[],
        }
    }

    /// A topic that both read, as far as the specification alone tells: of two patterns only Kafka's topics tell.
    pub(super) fn shared_with<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let (mine, theirs) = (self.named().iter(), other.named().iter());
        let shared =
            mine.filter(|topic| other.contains(topic)).chain(theirs.filter(|topic| self.contains(topic)));
        shared.map(String::as_str).next()
    }
}

impl fmt::Display for SourceTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(names) => f.write_str(&names.join(", ")),
            Self::Matching(pattern) => write!(f, "/{pattern}/"),
        }
    }
}

/// A regular expression that the whole name of a topic must match, in time linear in the name.
///
/// Kafka's internal topics, whose names begin with two underscores, match only a pattern that begins with them too: `^.*`
/// is meant for what people produce.
#[derive(Debug, Clone)]
pub struct TopicPattern {
    text: String,
    whole: Regex,
}

impl TopicPattern {
    /// The pattern written as `text`, or what is wrong with it and, after `; `, the way out.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!(
                "the pattern has {} bytes; at most {PATTERN_BYTES_MAX} are possible",
                text.len()
            ));
        }
        if !text.starts_with('^') {
            return Err(format!(
                "`{text}` does not say where a name begins; begin it with `^`: the whole name must match"
            ));
        }
        // By itself first: it must not close the group that is put around it.
        compile(text)?;
        Ok(Self { text: text.to_owned(), whole: compile(&format!("^(?:{text})$"))? })
    }

    /// Whether `topic` matches.
    pub fn matches(&self, topic: &str) -> bool {
        (!topic.starts_with("__") || self.text.starts_with("^__")) && self.whole.is_match(topic.as_bytes())
    }
}

/// Names of topics are ASCII, so classes such as `\d` and `\w` are.
fn compile(pattern: &str) -> Result<Regex, String> {
    let built =
        RegexBuilder::new(pattern).unicode(false).size_limit(COMPILED_BYTES_MAX).nest_limit(32).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern is too large; use fewer repetitions".to_owned(),
        // The last line says what is wrong, those before it show where.
        error => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            format!("not a regular expression: {reason}")
        }
    })
}

impl PartialEq for TopicPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TopicPattern {}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::new(text).unwrap_or_else(|problem| panic!("{text}: {problem}"))
    }

    #[test]
    fn the_whole_name_matches_and_internal_topics_only_when_they_are_meant() {
        let cases: [(&str, &[&str], &[&str]); 6] = [
            ("^orders-.*", &["orders-", "orders-eu"], &["orders", "old-orders-eu", "Orders-eu"]),
            ("^orders", &["orders"], &["orders-eu"]),
            ("^a$", &["a"], &["ab", "a\n"]),
            // The anchor of the first branch does not leave the second one open at its end.
            ("^a|b", &["a", "b"], &["ab", "xb", "bx"]),
            (r"^t\d{2}", &["t07"], &["t7", "t077"]),
            ("^.*", &["a", "_a"], &["__consumer_offsets"]),
        ];
        for (text, matching, other) in cases {
            let pattern = pattern(text);
            assert!(matching.iter().all(|topic| pattern.matches(topic)), "{text}");
            assert!(!other.iter().any(|topic| pattern.matches(topic)), "{text}");
        }
        assert!(pattern("^__consumer.*").matches("__consumer_offsets"));
    }

    #[test]
    fn a_pattern_that_is_open_wrong_or_huge_is_refused() {
        for (text, problem) in [
            ("orders-.*", "begin it with `^`"),
            ("", "begin it with `^`"),
            ("^a(", "not a regular expression"),
            ("^a)|(b", "not a regular expression"),
            ("^[z-a]", "not a regular expression"),
            ("^(a{1000}){1000}", "too large"),
            (&format!("^{}", "a".repeat(256)), "257 bytes"),
        ] {
            let found = TopicPattern::new(text).unwrap_err();
            assert!(found.contains(problem), "{text}: {found}");
        }
    }

    #[test]
    fn topics_that_two_sources_read_are_found() {
        let named = |names: &[&str]| SourceTopics::Named(names.iter().map(|name| name.to_string()).collect());
        let matching = |text: &str| SourceTopics::Matching(pattern(text));
        assert_eq!(named(&["a", "b"]).shared_with(&named(&["c", "b"])), Some("b"));
        assert_eq!(named(&["a", "b"]).shared_with(&named(&["c"])), None);
        for (one, other) in [(named(&["a1"]), matching("^a.")), (matching("^a."), named(&["a1"]))] {
            assert_eq!(one.shared_with(&other), Some("a1"));
        }
        assert_eq!(matching("^a.").shared_with(&matching("^a.*")), None);
    }
}
