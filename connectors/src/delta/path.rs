//! Paths in the log: always relative to the table, URI-encoded once.
//!
//! An `add` names its file by a URI-encoded relative path, so a reader decodes it once and appends it to wherever it
//! found the table. That is what makes one log valid in every cloud. Absolute paths, URLs and `..` are refused on
//! reading: a log must not be able to point outside its table.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::Error;

/// Everything but RFC 3986's unreserved characters, `/` between segments and the `=` of `column=value`.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b'=');

/// Longest path accepted, in bytes. S3 and Azure allow 1,024 bytes for a whole key.
pub const PATH_BYTES_MAX: usize = 1024;

/// Encodes an object path, relative to the table, for the log.
pub fn encode_log_path(object_path: &str) -> String {
    utf8_percent_encode(object_path, ENCODED).to_string()
}

/// Decodes a path of the log to the object's path, relative to the table.
///
/// # Errors
/// [`Error::LogEntry`] if the path is absolute, has a URL scheme, an empty, `.` or `..` segment, a backslash or a
/// control character, is too long, or is not UTF-8 once decoded.
pub fn decode_log_path(log_path: &str) -> Result<String, Error> {
    let refuse = |why: &str| Error::LogEntry(format!("path {log_path:.200?}: {why}"));
    if log_path.len() > 3 * PATH_BYTES_MAX {
        return Err(Error::LogEntry(format!("a path of {} bytes", log_path.len())));
    }
    if has_scheme(log_path) {
        return Err(refuse("a URL, where only relative paths are allowed"));
    }
    let decoded = percent_decode_str(log_path)
        .decode_utf8()
        .map_err(|_| refuse("not UTF-8 once decoded"))?
        .into_owned();
    if decoded.len() > PATH_BYTES_MAX {
        return Err(refuse("too long"));
    }
    if decoded.chars().any(|c| c.is_control() || c == '\\') {
        return Err(refuse("a backslash or a control character"));
    }
    if decoded.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(refuse("absolute, or an empty, `.` or `..` segment"));
    }
    Ok(decoded)
}

/// Whether the first segment reads as `scheme:`.
fn has_scheme(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or_default();
    first.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_is_undone_by_decoding_once() {
        for path in ["month=1/part-a-00000.parquet", "city=S%C3%A3o%20Paulo/x.parquet", "a b/ü/%25~.txt", "x"]
        {
            let encoded = encode_log_path(path);
            assert!(encoded.is_ascii());
            assert_eq!(decode_log_path(&encoded).unwrap(), path);
        }
        assert_eq!(encode_log_path("m=a%20b/p-1_2.parquet"), "m=a%2520b/p-1_2.parquet");
    }

    #[test]
    fn paths_that_leave_the_table_are_refused() {
        let outside = [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/%2e%2e/x",
            "%2E%2E/x",
            "a//b",
            "./a",
            "s3://bucket/x",
            "file:/x",
            "S3A:x",
            "a%2F..%2Fb",
            "%2Fetc",
            "a\\b",
            "a%5Cb",
            "a%00b",
            "a%0Ab",
            "%ff",
        ];
        for path in outside {
            assert!(decode_log_path(path).is_err(), "{path}");
        }
        assert!(decode_log_path(&"x/".repeat(4000)).is_err());
        assert!(decode_log_path(&"x".repeat(PATH_BYTES_MAX + 1)).is_err());
    }
}
