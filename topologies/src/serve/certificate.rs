//! The names in the certificate that a client shows.
//!
//! The TLS library has checked before that one of the authorities signed it and that the client has its key, in a strict reading of
//! the whole. Here only names are looked for, in DER (ITU-T X.690): the common names of the subject (RFC 5280, 4.1.2.6) and the
//! alternative names that are URIs, hosts or addresses of mail (4.2.1.6). A certificate that cannot be read so names nobody.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::spec::certificate::CertificateName;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// Of a certificate: `[0] version`, `[3] extensions`.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// Of a name: `[1] rfc822Name`, `[2] dNSName`, `[6] uniformResourceIdentifier`.
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// The names of whoever is at the other end of a connection; none without a certificate.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerNames(Arc<[CertificateName]>);

impl PeerNames {
    /// Those of the first of `certificates`, which is the client's own.
    pub(crate) fn of(certificates: Option<&[CertificateDer<'_>]>) -> Self {
        let own = certificates.and_then(|certificates| certificates.first());
        Self(own.and_then(|own| names(own)).unwrap_or_default().into())
    }

    pub(super) fn as_slice(&self) -> &[CertificateName] {
        &self.0
    }
}

/// The names in a certificate; `None` if it cannot be read.
fn names(certificate: &[u8]) -> Option<Vec<CertificateName>> {
    let mut certificate = Reader(Reader(certificate).take(SEQUENCE)?);
    let mut fields = Reader(certificate.take(SEQUENCE)?);
    fields.skip(VERSION)?;
    fields.take(INTEGER)?;
    for _signature_issuer_and_validity in 0..3 {
        fields.take(SEQUENCE)?;
    }
    let mut found = Vec::new();
    common_names(fields.take(SEQUENCE)?, &mut found)?;
    fields.take(SEQUENCE)?;
    while let Some((tag, content)) = fields.next()? {
        if tag == EXTENSIONS {
            alternative_names(content, &mut found)?;
        }
    }
    Some(found)
}

fn common_names(subject: &[u8], found: &mut Vec<CertificateName>) -> Option<()> {
    let mut parts = Reader(subject);
    while let Some((tag, part)) = parts.next()? {
        let mut attributes = Reader(part);
        while let Some((inner, attribute)) = attributes.next()? {
            if (tag, inner) != (SET, SEQUENCE) {
                return None;
            }
            let mut attribute = Reader(attribute);
            let is_common_name = attribute.take(OBJECT_IDENTIFIER)? == COMMON_NAME;
            let (kind, value) = attribute.next()??;
            if is_common_name && matches!(kind, UTF8_STRING | PRINTABLE_STRING | IA5_STRING) {
                found.push(CertificateName::Common(text(value)?));
            }
        }
    }
    Some(())
}

fn alternative_names(extensions: &[u8], found: &mut Vec<CertificateName>) -> Option<()> {
    let mut extensions = Reader(Reader(extensions).take(SEQUENCE)?);
    while let Some((tag, extension)) = extensions.next()? {
        let mut extension = Reader(extension);
        let is_names = extension.take(OBJECT_IDENTIFIER)? == ALTERNATIVE_NAMES;
        extension.skip(BOOLEAN)?;
        let content = extension.take(OCTETS)?;
        if tag != SEQUENCE || !is_names {
            continue;
        }
        let mut names = Reader(Reader(content).take(SEQUENCE)?);
        while let Some((kind, name)) = names.next()? {
            match kind {
                EMAIL => found.push(CertificateName::Email(text(name)?)),
                DNS => found.push(CertificateName::dns(&text(name)?)),
                URI => found.push(CertificateName::Uri(text(name)?)),
                _ => {}
            }
        }
    }
    Some(())
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Values one after the other, each with its tag and its length.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next value and its tag; `Some(None)` at the end, `None` if there is no whole one.
    fn next(&mut self) -> Option<Option<(u8, &'a [u8])>> {
        let Some((&tag, rest)) = self.0.split_first() else { return Some(None) };
        // Tags of several bytes are not used in certificates.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = digits.iter().fold(0, |length, digit| (length << 8) | u32::from(*digit));
                (usize::try_from(length).ok()?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Some((tag, content)))
    }

    /// The next value, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()?.filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// Passes over a value that may be missing.
    fn skip(&mut self, tag: u8) -> Option<()> {
        if self.0.first() == Some(&tag) {
            self.next()??;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn written(certificate: CertificateDer<'_>) -> Vec<String> {
        PeerNames::of(Some(&[certificate])).as_slice().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_of_every_kind_are_found() {
        assert_eq!(
            written(certificate(include_str!("tls/testing/dashboards.pem"))),
            [
                "CN=dashboards",
                "URI:spiffe://example.com/dashboards",
                "DNS:dashboards.example.com",
                "email:dashboards@example.com",
            ]
        );
        assert_eq!(written(certificate(include_str!("tls/testing/unnamed.pem"))), ["CN=somebody else"]);
        assert!(PeerNames::of(None).as_slice().is_empty());
    }

    #[test]
    fn what_is_cut_off_or_damaged_names_nobody_else() {
        let whole = certificate(include_str!("tls/testing/dashboards.pem"));
        for end in 0..whole.len() {
            assert_eq!(names(&whole[..end]), None, "{end} bytes");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.to_vec();
                damaged[at] ^= 1 << bit;
                // Whatever comes of it, the reader stays within the bytes, and every name is text of the certificate.
                let text = String::from_utf8_lossy(&damaged).to_ascii_lowercase();
                for name in names(&damaged).unwrap_or_default() {
                    let shown = name.to_string().to_ascii_lowercase();
                    let (_, name) = shown.split_once(['=', ':']).unwrap();
                    assert!(text.contains(name), "byte {at}, bit {bit}: {name}");
                }
            }
        }
    }
}
