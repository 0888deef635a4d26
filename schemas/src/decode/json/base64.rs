//! Base64, strictly: the form in which JSON carries bytes.

/// Decodes standard Base64 with padding (RFC 4648, section 4) onto the end of `out`; `None` if `text` is anything
/// else, or does not write its last bytes in the one canonical way.
pub(crate) fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let digit = |byte: u8| -> Option<u32> {
        Some(u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let (groups, rest) = text.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    for (index, group) in groups.iter().enumerate() {
        let padding = match group {
            [_, _, b'=', b'='] => 2,
            [_, _, _, b'='] => 1,
            _ => 0,
        };
        if padding > 0 && index + 1 < groups.len() {
            return None;
        }
        let digits = &group[..4 - padding];
        let bits = digits.iter().try_fold(0, |bits, byte| Some(bits << 6 | digit(*byte)?))? << (6 * padding);
        let [_, bytes @ ..] = bits.to_be_bytes();
        let (kept, unused) = bytes.split_at(3 - padding);
        if unused.iter().any(|byte| *byte != 0) {
            return None;
        }
        out.extend_from_slice(kept);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_follows_rfc_4648() {
        let decode = |text: &str| {
            let mut out = Vec::new();
            super::decode(text.as_bytes(), &mut out).map(|()| out)
        };
        for (text, expected) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(expected.as_bytes()));
        }
        assert_eq!(decode("+/8="), Some(vec![0xfb, 0xff]));
        for text in ["Zg", "Zg=", "Z===", "====", "Zh==", "Zm9=", "Zg==Zg==", "Zm 9", "Zm9v\n", "-_8="] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
