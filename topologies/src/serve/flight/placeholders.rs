//! `?`, which JDBC knows only, in the place of `$1`, `$2`, ….

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

/// `sql` with a number in the place of each `?`, counted from the beginning.
///
/// # Errors
/// Says what is wrong if it has placeholders of both kinds. Text that cannot be read is left as it is: the engine says why.
pub(super) fn numbered(sql: &str) -> Result<String, &'static str> {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location() else {
        return Ok(sql.to_owned());
    };
    let placeholders = tokens.iter().filter_map(|token| match &token.token {
        Token::Placeholder(name) => Some((name.as_str(), token.span.start)),
        _ => None,
    });
    let (marks, names): (Vec<_>, Vec<_>) = placeholders.partition(|(name, _)| *name == "?");
    if marks.is_empty() {
        return Ok(sql.to_owned());
    }
    if !names.is_empty() {
        return Err("the placeholders are `?`, or `$1`, `$2`, …, not both");
    }
    let mut places = marks.into_iter().map(|(_, start)| start).peekable();
    let mut numbered = String::with_capacity(sql.len() + 16);
    let (mut here, mut count) = (Location::new(1, 1), 0);
    for character in sql.chars() {
        if places.next_if_eq(&here).is_some() {
            count += 1;
            numbered.push_str(&format!("${count}"));
        } else {
            numbered.push(character);
        }
        here = match character {
            '\n' => Location::new(here.line + 1, 1),
            _ => Location::new(here.line, here.column + 1),
        };
    }
    Ok(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_numbers_and_nothing_else_changes() {
        for (sql, expected) in [
            ("SELECT 1", "SELECT 1"),
            ("SELECT ?", "SELECT $1"),
            (
                "SELECT ? + ?, 'ü?' -- ?\nFROM \"t?\"\n WHERE a = ?",
                "SELECT $1 + $2, 'ü?' -- ?\nFROM \"t?\"\n WHERE a = $3",
            ),
            ("SELECT '''?' || ? /* ? */", "SELECT '''?' || $1 /* ? */"),
            ("SELECT 'ü' = ?", "SELECT 'ü' = $1"),
            ("SELECT $2 + $1", "SELECT $2 + $1"),
            ("SELECT $name", "SELECT $name"),
            ("SELECT 'open ?", "SELECT 'open ?"),
        ] {
            assert_eq!(numbered(sql).as_deref(), Ok(expected), "{sql}");
        }
        assert!(numbered("SELECT ? + $1").is_err());
    }
}
