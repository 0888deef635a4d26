//! Reads JSON text (RFC 8259) token by token, strictly.
//!
//! A [`Cursor`] walks one payload once, front to back. It accepts exactly the grammar of the RFC: no missing or
//! trailing commas, no leading zeros, no raw control characters in strings, no lone surrogates, no `NaN`. Nesting is
//! bounded, so that no payload can exhaust the stack. Anything else is a [`Fault`] with the byte it was found at.

use crate::decode::reject::{Fault, Parsed, RejectReason};

/// What kind of value starts at a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Boolean => "a boolean",
            Kind::Number => "a number",
            Kind::String => "a string",
            Kind::Array => "an array",
            Kind::Object => "an object",
        }
    }
}

/// A position in one payload. A clone goes its own way from there.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    depth_left: usize,
    depth_max: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `text`; values may be nested `depth_max` deep.
    pub(crate) fn new(text: &'a str, depth_max: usize) -> Self {
        Self { text, at: 0, depth_left: depth_max, depth_max }
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// The next byte, whatever it is.
    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    pub(crate) fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Steps over `expected` if it comes next.
    #[inline]
    pub(crate) fn take(&mut self, expected: u8) -> bool {
        let found = self.peek() == Some(expected);
        self.at += usize::from(found);
        found
    }

    /// Steps over `expected`, which is plain text, if it comes next.
    #[inline]
    pub(crate) fn take_all(&mut self, expected: &[u8]) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    /// The kind of the value that starts here. Steps over nothing.
    #[inline]
    pub(crate) fn kind(&self) -> Parsed<Kind> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'"') => Ok(Kind::String),
            Some(b'n') => Ok(Kind::Null),
            Some(b't' | b'f') => Ok(Kind::Boolean),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            _ => Err(self.expected("a value")),
        }
    }

    /// The fault of finding something else here than `what`.
    #[cold]
    pub(crate) fn expected(&self, what: &str) -> Box<Fault> {
        let found = match self.text[self.at..].chars().next() {
            None => "the end of the payload".to_owned(),
            Some(found) => format!("{found:?}"),
        };
        Fault::new(RejectReason::Undecodable, format!("byte {}: expected {what}, found {found}", self.at))
    }

    #[cold]
    fn invalid(&self, at: usize, problem: &str) -> Box<Fault> {
        Fault::new(RejectReason::Undecodable, format!("byte {at}: {problem}"))
    }

    /// Enters an object or array, whose opening bracket comes next.
    #[inline]
    pub(crate) fn enter(&mut self) -> Parsed<()> {
        if self.depth_left == 0 {
            return Err(self.invalid(self.at, &format!("nested more than {} deep", self.depth_max)));
        }
        self.depth_left -= 1;
        self.at += 1;
        Ok(())
    }

    /// Leaves an object or array, after its closing bracket.
    #[inline]
    pub(crate) fn leave(&mut self) {
        self.depth_left += 1;
    }

    /// After a member or element: `true` and on to the next if there is one, `false` past `close` if that was all.
    #[inline]
    pub(crate) fn next_item(&mut self, close: u8) -> Parsed<bool> {
        self.skip_whitespace();
        if self.take(b',') {
            self.skip_whitespace();
            return Ok(true);
        }
        if self.take(close) {
            return Ok(false);
        }
        Err(self.expected(if close == b'}' { "`,` or `}`" } else { "`,` or `]`" }))
    }

    /// Steps over the colon between a name and its value, and the space around it.
    #[inline]
    pub(crate) fn colon(&mut self) -> Parsed<()> {
        self.skip_whitespace();
        if !self.take(b':') {
            return Err(self.expected("`:`"));
        }
        self.skip_whitespace();
        Ok(())
    }

    /// Requires the end of the payload, but for white space.
    pub(crate) fn end(&mut self) -> Parsed<()> {
        self.skip_whitespace();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.expected("the end of the payload after one object")),
        }
    }

    /// Reads `null`, whose first letter comes next.
    #[inline]
    pub(crate) fn null(&mut self) -> Parsed<()> {
        if self.take_all(b"null") { Ok(()) } else { Err(self.expected("`null`")) }
    }

    /// Reads `true` or `false`, whose first letter comes next.
    #[inline]
    pub(crate) fn boolean(&mut self) -> Parsed<bool> {
        if self.take_all(b"true") {
            return Ok(true);
        }
        if self.take_all(b"false") {
            return Ok(false);
        }
        Err(self.expected("`true` or `false`"))
    }

    /// Reads a number that is nothing but an optional minus and up to 18 digits, as sign and magnitude; steps over
    /// nothing and returns `None` when it is anything else, good or bad: [`number`](Self::number) tells.
    #[inline]
    pub(crate) fn short_integer(&mut self) -> Option<(bool, u64)> {
        let negative = self.peek() == Some(b'-');
        let digits = &self.rest()[usize::from(negative)..];
        let mut magnitude = 0_u64;
        let mut count = 0;
        while let Some(digit @ 0..=9) = digits.get(count).map(|byte| byte.wrapping_sub(b'0')) {
            if count == 18 {
                return None;
            }
            magnitude = magnitude * 10 + u64::from(digit);
            count += 1;
        }
        let leading_zero = count > 1 && digits[0] == b'0';
        if count == 0 || leading_zero || matches!(digits.get(count), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        self.at += usize::from(negative) + count;
        Some((negative, magnitude))
    }

    /// Reads a number, which starts here, as its text.
    pub(crate) fn number(&mut self) -> Parsed<&'a str> {
        let start = self.at;
        self.take(b'-');
        let leading_zero = self.peek() == Some(b'0');
        if self.digits()? > 1 && leading_zero {
            return Err(self.invalid(start, "a number starts with a zero"));
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// Steps over digits and counts them; there must be one.
    fn digits(&mut self) -> Parsed<usize> {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return Err(self.expected("a digit"));
        }
        self.at += count;
        Ok(count)
    }

    /// Reads a string, whose opening quote comes next, onto the end of `out`.
    #[inline]
    pub(crate) fn string(&mut self, out: &mut Vec<u8>) -> Parsed<()> {
        self.at += 1;
        loop {
            let rest = self.rest();
            let plain = plain_len(rest);
            out.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape(out)?,
                Some(_) => return Err(self.expected("an escape, as control characters must be")),
                None => return Err(self.expected("`\"`")),
            }
        }
    }

    /// Reads a string, whose opening quote comes next, as it stands in the payload if it has no escapes, otherwise
    /// by way of `scratch`.
    #[inline]
    pub(crate) fn text<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Parsed<&'s str>
    where
        'a: 's,
    {
        let start = self.at + 1;
        let end = start + plain_len(&self.text.as_bytes()[start..]);
        if self.text.as_bytes().get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(&self.text[start..end]);
        }
        scratch.clear();
        self.string(scratch)?;
        // Never an error: parts of a `str` and whole characters make a `str`.
        std::str::from_utf8(scratch).map_err(|_| self.invalid(start, "a string is not UTF-8"))
    }

    /// Reads one escape, whose backslash comes next.
    fn escape(&mut self, out: &mut Vec<u8>) -> Parsed<()> {
        let start = self.at;
        self.at += 1;
        let byte = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode_escape(start, out),
            _ => return Err(self.expected("one of the escapes of JSON")),
        };
        self.at += 1;
        out.push(byte);
        Ok(())
    }

    /// Reads `uXXXX`, and the second half of a surrogate pair where the first half demands it.
    fn unicode_escape(&mut self, start: usize, out: &mut Vec<u8>) -> Parsed<()> {
        self.at += 1;
        let mut code = self.hex4()?;
        if (0xD800..0xDC00).contains(&code) && self.take_all(b"\\u") {
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                code = 0x1_0000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            }
        }
        // A surrogate that is left over is not a character.
        let Some(character) = char::from_u32(code) else {
            return Err(self.invalid(start, "half a surrogate pair"));
        };
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex4(&mut self) -> Parsed<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return Err(self.expected("a hexadecimal digit"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// Steps over a whole value, as strictly as if it were wanted.
    pub(crate) fn skip_value(&mut self, scratch: &mut Vec<u8>) -> Parsed<()> {
        match self.kind()? {
            Kind::Null => self.null(),
            Kind::Boolean => self.boolean().map(drop),
            Kind::Number => self.number().map(drop),
            Kind::String => self.text(scratch).map(drop),
            Kind::Array => self.skip_items(b']', scratch),
            Kind::Object => self.skip_items(b'}', scratch),
        }
    }

    fn skip_items(&mut self, close: u8, scratch: &mut Vec<u8>) -> Parsed<()> {
        self.enter()?;
        self.skip_whitespace();
        let mut more = !self.take(close);
        while more {
            if close == b'}' {
                self.name(scratch)?;
                self.colon()?;
            }
            self.skip_value(scratch)?;
            more = self.next_item(close)?;
        }
        self.leave();
        Ok(())
    }

    /// Reads the name of a member.
    pub(crate) fn name<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Parsed<&'s str>
    where
        'a: 's,
    {
        match self.peek() {
            Some(b'"') => self.text(scratch),
            _ => Err(self.expected("a name in quotes")),
        }
    }
}

/// Whether `text` is a JSON number, as a number in a string must be as well.
pub(crate) fn is_number(text: &str) -> bool {
    let mut cursor = Cursor::new(text, 0);
    cursor.number().is_ok() && cursor.peek().is_none()
}

/// How many bytes from the start may stand in a string as they are: up to a quote, a backslash or a control
/// character. Looks at eight bytes at a time.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // In `(x - ONES) & !x & HIGHS` the lowest bit set marks the lowest zero byte of `x`; marks above it may be false.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut rest = bytes;
    while let Some((chunk, tail)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quotes = zeros(word ^ (ONES * b'"' as u64));
        let backslashes = zeros(word ^ (ONES * b'\\' as u64));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let special = quotes | backslashes | controls;
        if special != 0 {
            return bytes.len() - rest.len() + special.trailing_zeros() as usize / 8;
        }
        rest = tail;
    }
    let plain = rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)).count();
    bytes.len() - rest.len() + plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_len_agrees_with_looking_at_each_byte() {
        let specials = [b'"', b'\\', 0x1f, 0x00, b'\n'];
        let plains = [b'a', b' ', 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']', 0xdc, 0xa2];
        for len in 0..40 {
            for plain in plains {
                let mut bytes = vec![plain; len];
                assert_eq!(plain_len(&bytes), len);
                for at in 0..len {
                    for special in specials {
                        bytes[at] = special;
                        assert_eq!(plain_len(&bytes), at, "{bytes:?}");
                    }
                    bytes[at] = plain;
                }
            }
        }
    }
}
