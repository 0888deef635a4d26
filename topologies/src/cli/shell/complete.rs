//! What a line editor asks: what can stand here, and what is worth remembering. Pure functions.

use super::input::COMMANDS;

/// Words that queries are made of.
const KEYWORDS: [&str; 40] = [
    "AND",
    "AS",
    "ASC",
    "ASOF JOIN",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COUNT",
    "CROSS JOIN",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXISTS",
    "EXPLAIN",
    "FROM",
    "GROUP BY",
    "HAVING",
    "IN",
    "INTERVAL",
    "IS NULL",
    "JOIN",
    "LEFT JOIN",
    "LIKE",
    "LIMIT",
    "MATCH_CONDITION",
    "NOT",
    "ON",
    "OR",
    "ORDER BY",
    "OVER",
    "SELECT",
    "THEN",
    "TIMESTAMP AS OF",
    "UNION ALL",
    "VERSION AS OF",
    "WHEN",
    "WHERE",
];
/// Behind these a table is expected.
const BEFORE_TABLES: [&str; 6] = ["FROM", "JOIN", "DESCRIBE", "\\d", "\\snapshots", "TABLE"];
/// Bytes of an entry of the history: a list that was pasted is not typed again.
const ENTRY_BYTES_MAX: usize = 10_000;

/// The names in a catalog.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub(super) tables: Vec<String>,
    pub(super) columns: Vec<String>,
}

/// Where the word begins that ends at byte `at` of `line`, and what it can become.
pub(super) fn complete(line: &str, at: usize, names: &Names) -> (usize, Vec<String>) {
    let before = line.get(..at).unwrap_or(line);
    let is_of_word = |character: char| character.is_alphanumeric() || "_\\?.".contains(character);
    let begin = before.rfind(|character: char| !is_of_word(character));
    let begin = begin.map_or(0, |found| found + before[found..].chars().next().map_or(1, char::len_utf8));
    let word = &before[begin..];
    let previous = before[..begin].split_whitespace().next_back().unwrap_or_default();
    let expects_table = BEFORE_TABLES.iter().any(|expecting| expecting.eq_ignore_ascii_case(previous));
    let candidates: Vec<&str> = if word.starts_with('\\') {
        COMMANDS.to_vec()
    } else if expects_table {
        names.tables.iter().map(String::as_str).collect()
    } else if word.is_empty() {
        // Everything would be too much to look at.
        Vec::new()
    } else {
        let columns = names.columns.iter().chain(&names.tables).map(String::as_str);
        columns.chain(KEYWORDS).collect()
    };
    let fits =
        |candidate: &&str| candidate.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    let mut fitting: Vec<String> = candidates.into_iter().filter(fits).map(str::to_owned).collect();
    fitting.sort();
    fitting.dedup();
    (begin, fitting)
}

/// Whether an entry belongs in the history behind `previous`: not if it begins with a blank, as in shells, and not twice.
pub(super) fn is_worth_keeping(entry: &str, previous: Option<&str>) -> bool {
    let is_hidden = entry.starts_with(char::is_whitespace);
    !is_hidden && !entry.is_empty() && entry.len() <= ENTRY_BYTES_MAX && previous != Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            tables: vec!["flights".into(), "flights_quarantine".into(), "weather".into()],
            columns: vec!["origin".into(), "wind".into()],
        }
    }

    #[test]
    fn what_can_stand_here_is_what_begins_so() {
        for (line, begin, expected) in [
            ("SELECT * FROM fl", 14, vec!["flights", "flights_quarantine"]),
            ("SELECT * FROM ", 14, vec!["flights", "flights_quarantine", "weather"]),
            ("select * from FLIGHTS_", 14, vec!["flights_quarantine"]),
            ("SELECT w", 7, vec!["WHEN", "WHERE", "weather", "wind"]),
            ("SELECT max(o", 11, vec!["ON", "OR", "ORDER BY", "OVER", "origin"]),
            ("SELECT ", 7, vec![]),
            ("\\d we", 3, vec!["weather"]),
            ("\\s", 0, vec!["\\snapshots"]),
            ("", 0, vec![]),
            ("é w", 3, vec!["WHEN", "WHERE", "weather", "wind"]),
        ] {
            let found = complete(line, line.len(), &names());
            assert_eq!(found, (begin, expected.into_iter().map(str::to_owned).collect()), "{line}");
        }
        let in_the_middle = complete("SELECT wi FROM flights", 9, &names());
        assert_eq!(in_the_middle, (7, vec!["wind".to_owned()]));
    }

    #[test]
    fn the_history_has_no_entry_twice_and_none_that_begins_with_a_blank() {
        assert!(is_worth_keeping("SELECT 1", None));
        assert!(is_worth_keeping("SELECT 1", Some("SELECT 2")));
        assert!(!is_worth_keeping("SELECT 1", Some("SELECT 1")));
        assert!(!is_worth_keeping(" SELECT 'secret'", None));
        assert!(!is_worth_keeping("", None));
        assert!(!is_worth_keeping(&"x".repeat(ENTRY_BYTES_MAX + 1), None));
    }
}
