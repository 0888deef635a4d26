//! The catalogue of hostile queries, `tests/sql/hostile.sql`, and what must hold after each of them.
//!
//! ```sql
//! -- two lists in one another
//! -- expect: limit literals
//! SELECT 1 IN ({{200000|, |#}})
//! ```
//!
//! A case is a line with its name, a line that says what is expected, and the query, up to an empty line. `{{N|between|text}}` stands
//! for `text`, N times, with `between` between; `#` in it is the number, from 0, and `#+` the number after it.
//!
//! | expected | means |
//! |---|---|
//! | `refused TEXT` | an error that holds the text: it is not allowed, or there is no such thing |
//! | `limit TEXT` | an error that holds the text: it is allowed, and too much |
//! | `answer TEXT` | rows that hold the text |

use std::path::PathBuf;

/// What must become of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Not allowed, or not there.
    Refused,
    /// Too much.
    Limit,
    /// Rows.
    Answer,
}

/// One query that means no good.
#[derive(Debug, Clone)]
pub struct Hostile {
    /// What it tries.
    pub name: String,
    /// What must become of it.
    pub expected: Expected,
    /// What the answer, or the error, must hold.
    pub text: String,
    /// The query, written out.
    pub sql: String,
}

/// All cases, in the order of the file.
///
/// # Panics
/// If the file cannot be read, or is wrong.
pub fn catalogue() -> Vec<Hostile> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("sql/hostile.sql");
    let text = std::fs::read_to_string(&path).expect("the catalogue can be read");
    let blocks = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty());
    // The first block says what the file is.
    blocks.skip(1).map(case).collect()
}

fn case(block: &str) -> Hostile {
    let mut lines = block.lines();
    let mut comment = || lines.next().and_then(|line| line.strip_prefix("-- "));
    let name = comment().unwrap_or_else(|| panic!("a case begins with its name:\n{block}")).to_owned();
    let expectation = comment().and_then(|line| line.strip_prefix("expect: "));
    let expectation = expectation.unwrap_or_else(|| panic!("{name}: the second line says what is expected"));
    let (kind, text) = expectation.split_once(' ').unwrap_or((expectation, ""));
    let expected = match kind {
        "refused" => Expected::Refused,
        "limit" => Expected::Limit,
        "answer" => Expected::Answer,
        other => panic!("{name}: {other} is none of refused, limit and answer"),
    };
    let sql = written_out(&lines.collect::<Vec<_>>().join("\n"));
    assert!(!sql.is_empty(), "{name}: no query");
    Hostile { name, expected, text: text.to_owned(), sql }
}

/// `sql` with every `{{N|between|text}}` written out.
fn written_out(sql: &str) -> String {
    let mut written = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("{{") {
        let (template, after) = after.split_once("}}").expect("a template has an end");
        let mut parts = template.splitn(3, '|');
        let mut part = || parts.next().expect("a template has three parts");
        let (count, between, text) = (part(), part(), part());
        let count: usize = count.parse().expect("a template begins with a number");
        written.push_str(before);
        for number in 0..count {
            if number > 0 {
                written.push_str(between);
            }
            let text = text.replace("#+", &(number + 1).to_string()).replace('#', &number.to_string());
            written.push_str(&text);
        }
        rest = after;
    }
    written.push_str(rest);
    written
}
