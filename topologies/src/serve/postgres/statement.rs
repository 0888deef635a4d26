//! What kind of statement a text holds, without parsing more of it than its first words.
//!
//! Drivers and BI tools send statements about the session around their queries. Those are understood here; everything else goes
//! to the engine, which has the only word on what a query is.

use std::ops::Range;

/// A piece of SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name or key word, as it is written.
    Word(&'a str),
    /// A name in double quotes, without them.
    Quoted(&'a str),
    /// A text in single quotes or between dollar signs, without them; `''` is still two.
    Text(&'a str),
    /// `$1`.
    Parameter(usize),
    Number(&'a str),
    Sign(char),
}

impl Token<'_> {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own.eq_ignore_ascii_case(word))
    }
}

/// The pieces of `sql` and where they are, without blanks and comments.
pub(super) fn tokens(sql: &str) -> Vec<(Token<'_>, Range<usize>)> {
    let bytes = sql.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        let rest = &sql[at..];
        let first = bytes[at];
        let token = if first.is_ascii_whitespace() {
            at += 1;
            continue;
        } else if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if rest.starts_with("/*") {
            at += comment(rest);
            continue;
        } else if first == b'\'' {
            at += quoted(rest, b'\'', false);
            Token::Text(inner(&sql[start..at]))
        } else if first == b'"' {
            at += quoted(rest, b'"', false);
            Token::Quoted(inner(&sql[start..at]))
        } else if matches!(first, b'e' | b'E') && rest[1..].starts_with('\'') {
            at += 1 + quoted(&rest[1..], b'\'', true);
            Token::Text(inner(&sql[start + 1..at]))
        } else if first == b'$' {
            let (token, length) = dollar(rest);
            at += length;
            token
        } else if first.is_ascii_digit() {
            at += length_of(rest, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'));
            Token::Number(&sql[start..at])
        } else if is_name(first) {
            at += length_of(rest, |byte| is_name(byte) || byte.is_ascii_digit() || byte == b'$');
            Token::Word(&sql[start..at])
        } else {
            at += 1;
            Token::Sign(char::from(first))
        };
        found.push((token, start..at));
    }
    found
}

/// A letter, or a part of a character beyond ASCII, none of which is anything else in SQL.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

fn length_of(text: &str, is_part: impl Fn(u8) -> bool) -> usize {
    text.bytes().position(|byte| !is_part(byte)).unwrap_or(text.len())
}

/// Bytes of the comment that `text` begins with. Comments nest.
fn comment(text: &str) -> usize {
    let (bytes, mut depth, mut at) = (text.as_bytes(), 0_usize, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(bytes.len())
}

/// Bytes of the quoted text that `text` begins with, quotes included.
fn quoted(text: &str, quote: u8, has_escapes: bool) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if has_escapes => at += 2,
            byte if byte == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A quoted text without its quotes; the last may be missing.
fn inner(text: &str) -> &str {
    let quote = &text[..1];
    let text = &text[1..];
    text.strip_suffix(quote).unwrap_or(text)
}

/// What a dollar sign begins: a parameter, a text between tags, or nothing.
fn dollar(text: &str) -> (Token<'_>, usize) {
    let digits = length_of(&text[1..], |byte| byte.is_ascii_digit());
    if digits > 0 {
        let number = text[1..=digits].parse().unwrap_or(usize::MAX);
        return (Token::Parameter(number), 1 + digits);
    }
    let name = length_of(&text[1..], |byte| is_name(byte) || byte.is_ascii_digit());
    if text[1 + name..].starts_with('$') {
        let (tag, rest) = text.split_at(name + 2);
        let length = rest.find(tag).unwrap_or(rest.len());
        return (Token::Text(&rest[..length]), (tag.len() + length + tag.len()).min(text.len()));
    }
    (Token::Sign('$'), 1)
}

/// The statements of `sql`, without those that are empty.
pub(super) fn split(sql: &str) -> Vec<&str> {
    let (mut statements, mut start, mut end) = (Vec::new(), None, 0);
    for (token, range) in tokens(sql) {
        if token == Token::Sign(';') {
            statements.extend(start.take().map(|start| &sql[start..end]));
        } else {
            start = start.or(Some(range.start));
            end = range.end;
        }
    }
    statements.extend(start.map(|start| &sql[start..end]));
    statements
}

/// The highest number of a parameter.
pub(super) fn parameters(sql: &str) -> usize {
    let number = |token: Token<'_>| if let Token::Parameter(number) = token { number } else { 0 };
    tokens(sql).into_iter().map(|(token, _)| number(token)).max().unwrap_or(0)
}

/// The numbers of the parameters that can only be arrays, because of `ANY ($1)`.
pub(super) fn arrays(sql: &str) -> Vec<usize> {
    let tokens: Vec<Token<'_>> = tokens(sql).into_iter().map(|(token, _)| token).collect();
    let found = tokens.windows(4).filter_map(|tokens| match tokens {
        [word, Token::Sign('('), Token::Parameter(number), Token::Sign(')')]
            if word.is("ANY") || word.is("SOME") || word.is("ALL") =>
        {
            Some(*number)
        }
        _ => None,
    });
    found.collect()
}

/// What a statement is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rows, if it is right.
    Query,
    Begin,
    Commit,
    Rollback,
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    Set {
        name: String,
        value: String,
        /// Until the end of the transaction.
        is_local: bool,
    },
    /// One setting; `None`: all.
    Show(Option<String>),
    /// The same.
    Reset(Option<String>),
    Discard,
    /// A prepared statement; `None`: all.
    Deallocate(Option<String>),
    /// Something that has no effect here, with the tag that answers it.
    Harmless(&'static str),
    /// Would change something.
    Writes(String),
    /// Is understood and not there, with what there is instead.
    Missing(&'static str),
}

/// What `sql`, one statement, is.
pub(super) fn kind_of(sql: &str) -> Kind {
    let tokens: Vec<Token<'_>> = tokens(sql).into_iter().map(|(token, _)| token).collect();
    let Some(Token::Word(first)) = tokens.first() else { return Kind::Query };
    let rest = &tokens[1..];
    let is = |at: usize, word: &str| rest.get(at).is_some_and(|token| token.is(word));
    // `WORK` and `TRANSACTION` say nothing.
    let after = &rest[usize::from(is(0, "WORK") || is(0, "TRANSACTION")).min(rest.len())..];
    match first.to_ascii_uppercase().as_str() {
        "BEGIN" => Kind::Begin,
        "START" if is(0, "TRANSACTION") => Kind::Begin,
        "COMMIT" | "END" if is(0, "PREPARED") => {
            Kind::Missing("two-phase commit: there is nothing to commit")
        }
        "COMMIT" | "END" => Kind::Commit,
        "ROLLBACK" | "ABORT" => match after {
            [to, name @ ..] if to.is("TO") => {
                let name =
                    if name.first().is_some_and(|word| word.is("SAVEPOINT")) { &name[1..] } else { name };
                name_of(name).map_or(Kind::Query, Kind::RollbackTo)
            }
            _ => Kind::Rollback,
        },
        "SAVEPOINT" => name_of(rest).map_or(Kind::Query, Kind::Savepoint),
        "RELEASE" => {
            let name = if is(0, "SAVEPOINT") { &rest[1..] } else { rest };
            name_of(name).map_or(Kind::Query, Kind::Release)
        }
        "SET" => set(rest),
        "SHOW" => match rest {
            [all] if all.is("ALL") => Kind::Show(None),
            [transaction, isolation, level]
                if transaction.is("TRANSACTION") && isolation.is("ISOLATION") && level.is("LEVEL") =>
            {
                Kind::Show(Some("transaction_isolation".to_owned()))
            }
            [time, zone] if time.is("TIME") && zone.is("ZONE") => Kind::Show(Some("timezone".to_owned())),
            // The engine's own: what tables there are.
            [tables] if tables.is("TABLES") => Kind::Query,
            _ => whole_setting(rest).map_or(Kind::Query, |name| Kind::Show(Some(name))),
        },
        "RESET" if is(0, "ALL") => Kind::Reset(None),
        "RESET" if is(0, "SESSION") || is(0, "ROLE") => Kind::Harmless("RESET"),
        "RESET" => whole_setting(rest).map_or(Kind::Query, |name| Kind::Reset(Some(name))),
        "DISCARD" => Kind::Discard,
        "DEALLOCATE" => {
            let name = if is(0, "PREPARE") { &rest[1..] } else { rest };
            match name {
                [all] if all.is("ALL") => Kind::Deallocate(None),
                _ => name_of(name).map_or(Kind::Query, |name| Kind::Deallocate(Some(name))),
            }
        }
        // What drivers send to clean a connection up before they lend it again.
        "UNLISTEN" => Kind::Harmless("UNLISTEN"),
        "CLOSE" if is(0, "ALL") => Kind::Harmless("CLOSE CURSOR ALL"),
        "LISTEN" | "NOTIFY" => Kind::Missing("notifications"),
        "DECLARE" | "FETCH" | "MOVE" | "CLOSE" => {
            Kind::Missing("cursors in SQL: ask for the rows in pieces by the protocol instead, as drivers do")
        }
        "PREPARE" | "EXECUTE" => {
            Kind::Missing("prepared statements in SQL: prepare them by the protocol instead, as drivers do")
        }
        "COPY" => Kind::Missing("COPY: write a query instead, such as \\copy's `\\g FILE` in psql"),
        word @ ("INSERT" | "UPDATE" | "DELETE" | "MERGE" | "CREATE" | "ALTER" | "DROP" | "TRUNCATE"
        | "GRANT" | "REVOKE" | "VACUUM" | "REINDEX" | "CLUSTER" | "COMMENT" | "LOCK" | "DO"
        | "CALL" | "REFRESH" | "IMPORT" | "SECURITY" | "REASSIGN" | "CHECKPOINT" | "LOAD"
        | "ANALYZE" | "ANALYSE") => Kind::Writes(word.to_owned()),
        _ => Kind::Query,
    }
}

/// The name that `tokens` are, as it is compared.
pub(super) fn name_of(tokens: &[Token<'_>]) -> Option<String> {
    match tokens {
        [Token::Word(name)] => Some(name.to_ascii_lowercase()),
        [Token::Quoted(name)] => Some((*name).replace("\"\"", "\"")),
        _ => None,
    }
}

/// The name of a setting, in small letters, and what follows it.
fn setting<'a, 'b>(tokens: &'a [Token<'b>]) -> Option<(String, &'a [Token<'b>])> {
    let part = |token: &Token<'_>| match token {
        Token::Word(name) | Token::Quoted(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    let mut name = part(tokens.first()?)?;
    let mut rest = &tokens[1..];
    while let [Token::Sign('.'), next, after @ ..] = rest {
        name = format!("{name}.{}", part(next)?);
        rest = after;
    }
    Some((name, rest))
}

/// The name of a setting that nothing follows.
fn whole_setting(tokens: &[Token<'_>]) -> Option<String> {
    setting(tokens).filter(|(_, rest)| rest.is_empty()).map(|(name, _)| name)
}

fn set(tokens: &[Token<'_>]) -> Kind {
    let is_local = tokens.first().is_some_and(|word| word.is("LOCAL"));
    let has_scope = is_local || tokens.first().is_some_and(|word| word.is("SESSION"));
    let tokens = &tokens[usize::from(has_scope)..];
    let begins = |words: &[&str]| {
        words.iter().enumerate().all(|(at, word)| tokens.get(at).is_some_and(|token| token.is(word)))
    };
    if begins(&["TRANSACTION"]) || begins(&["CHARACTERISTICS", "AS", "TRANSACTION"]) {
        // Every transaction reads, at one version of each table, whatever is asked.
        return Kind::Harmless("SET");
    }
    if begins(&["CONSTRAINTS"]) {
        return Kind::Harmless("SET CONSTRAINTS");
    }
    if begins(&["AUTHORIZATION"]) || begins(&["ROLE"]) {
        return Kind::Missing("changing who asks: connect again with another token");
    }
    let (name, rest) = if begins(&["TIME", "ZONE"]) {
        ("timezone".to_owned(), &tokens[2..])
    } else if begins(&["NAMES"]) {
        ("client_encoding".to_owned(), &tokens[1..])
    } else {
        match setting(tokens) {
            Some((name, [Token::Sign('='), rest @ ..])) => (name, rest),
            Some((name, [to, rest @ ..])) if to.is("TO") => (name, rest),
            _ => return Kind::Query,
        }
    };
    let mut value = String::new();
    for token in rest {
        match token {
            Token::Sign(',') => value.push_str(", "),
            Token::Sign(sign) => value.push(*sign),
            Token::Text(text) => value.push_str(&text.replace("''", "'")),
            Token::Word(text) | Token::Quoted(text) | Token::Number(text) => value.push_str(text),
            Token::Parameter(_) => return Kind::Query,
        }
    }
    Kind::Set { name, value, is_local }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_that_are_not_quoted() {
        let sql = "SELECT ';' AS \";\" -- ;\n; /* ; /* ; */ ; */ SELECT $a$ ; $a$ ;; SELECT E'\\';', $1 ";
        assert_eq!(split(sql), ["SELECT ';' AS \";\"", "SELECT $a$ ; $a$", "SELECT E'\\';', $1"]);
        for empty in ["", " ; ;", "-- nothing", "/* never ends"] {
            assert!(split(empty).is_empty(), "{empty}");
        }
        // What has no end goes on to the end.
        for open in ["SELECT 'a;", "SELECT \"a;", "SELECT $$a;", "SELECT E'a\\", "SELECT 'é;"] {
            assert_eq!(split(open), [open]);
        }
        assert_eq!(split("SELECT é; SELECT 'ü'"), ["SELECT é", "SELECT 'ü'"]);
    }

    #[test]
    fn parameters_are_counted_outside_of_texts() {
        assert_eq!(parameters("SELECT $2, '$3', $1 -- $4\n, $tag$ $5 $tag$, \"$6\", a$7"), 2);
        assert_eq!(parameters("SELECT 1"), 0);
        assert_eq!(
            arrays("SELECT $1 FROM a WHERE b = any ($2) AND c <> ALL($3) AND d = ANY($4::int[])"),
            [2, 3]
        );
        assert_eq!(parameters("SELECT $99999999999999999999999"), usize::MAX);
    }

    #[test]
    fn statements_about_the_session_are_told_from_queries() {
        let set_for = |is_local| {
            move |name: &str, value: &str| Kind::Set { name: name.into(), value: value.into(), is_local }
        };
        let (set, set_local) = (set_for(false), set_for(true));
        let cases = [
            ("SELECT 1", Kind::Query),
            ("/* who */ select 1", Kind::Query),
            ("WITH a AS (SELECT 1) SELECT * FROM a", Kind::Query),
            ("(SELECT 1)", Kind::Query),
            ("begin isolation level serializable read only", Kind::Begin),
            ("START TRANSACTION", Kind::Begin),
            ("COMMIT", Kind::Commit),
            ("end work", Kind::Commit),
            ("rollback transaction", Kind::Rollback),
            ("ROLLBACK TO SAVEPOINT \"A b\"", Kind::RollbackTo("A b".into())),
            ("ROLLBACK WORK TO a", Kind::RollbackTo("a".into())),
            ("SAVEPOINT Sp1", Kind::Savepoint("sp1".into())),
            ("RELEASE SAVEPOINT sp1", Kind::Release("sp1".into())),
            ("SET extra_float_digits = 3", set("extra_float_digits", "3")),
            ("SET SESSION search_path TO \"a\", public", set("search_path", "a, public")),
            ("set local TimeZone = 'UTC'", set_local("timezone", "UTC")),
            ("SET TIME ZONE 'Europe/Berlin'", set("timezone", "Europe/Berlin")),
            ("SET NAMES 'UTF8'", set("client_encoding", "UTF8")),
            ("SET my.setting = -1", set("my.setting", "-1")),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Kind::Harmless("SET")),
            ("SHOW TRANSACTION ISOLATION LEVEL", Kind::Show(Some("transaction_isolation".into()))),
            ("SHOW server_version", Kind::Show(Some("server_version".into()))),
            ("SHOW ALL", Kind::Show(None)),
            ("SHOW TABLES", Kind::Query),
            ("SHOW COLUMNS FROM a", Kind::Query),
            ("RESET ALL", Kind::Reset(None)),
            ("RESET statement_timeout", Kind::Reset(Some("statement_timeout".into()))),
            ("DISCARD ALL", Kind::Discard),
            ("DEALLOCATE ALL", Kind::Deallocate(None)),
            ("DEALLOCATE PREPARE \"_pg3_0\"", Kind::Deallocate(Some("_pg3_0".into()))),
            ("UNLISTEN *", Kind::Harmless("UNLISTEN")),
            ("CLOSE ALL", Kind::Harmless("CLOSE CURSOR ALL")),
            ("insert into a values (1)", Kind::Writes("INSERT".into())),
            ("-- no\nDROP TABLE a", Kind::Writes("DROP".into())),
        ];
        for (sql, kind) in cases {
            assert_eq!(kind_of(sql), kind, "{sql}");
        }
        for missing in
            ["LISTEN a", "FETCH 1 FROM c", "COPY a TO STDOUT", "SET ROLE a", "PREPARE p AS SELECT 1"]
        {
            assert!(matches!(kind_of(missing), Kind::Missing(_)), "{missing}");
        }
    }
}
