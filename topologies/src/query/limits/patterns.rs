//! Patterns that are small when they are compiled.

use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use regex::RegexBuilder;

use super::exceeded;

/// Bytes of a pattern, and of the program that it is compiled to.
const PATTERN_BYTES_MAX: usize = 2_000;
const PROGRAM_BYTES_MAX: usize = 4 << 20;
/// A pattern of so many bytes that counts nothing is small when it is compiled.
const PLAIN_PATTERN_BYTES_MAX: usize = 200;

/// Refuses a pattern that is large, or becomes large.
pub(super) fn check_pattern(pattern: &str) -> Result<()> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(exceeded(
            "pattern",
            format!("a pattern of {} bytes is longer than {PATTERN_BYTES_MAX}", pattern.len()),
        ));
    }
    if pattern.len() <= PLAIN_PATTERN_BYTES_MAX && !pattern.contains('{') {
        return Ok(());
    }
    match RegexBuilder::new(pattern).size_limit(PROGRAM_BYTES_MAX).build() {
        Err(regex::Error::CompiledTooBig(_)) => {
            Err(exceeded("pattern", "a pattern repeats too much: it cannot be compiled".to_owned()))
        }
        // The function says what is wrong with one that is none.
        _ => Ok(()),
    }
}

/// Refuses a pattern that is not known before rows are, or that is large.
pub(super) fn check_literal_pattern(pattern: &Expr) -> Result<()> {
    match pattern {
        Expr::Literal(value, _) => match value.try_as_str() {
            Some(Some(text)) => check_pattern(text),
            _ => Ok(()),
        },
        Expr::Cast(cast) => check_literal_pattern(&cast.expr),
        Expr::Alias(alias) => check_literal_pattern(&alias.expr),
        _ => Err(exceeded("patterns", "the pattern of `~` or SIMILAR TO is to be a literal".to_owned())),
    }
}
