//! What a certificate calls whoever shows it.

use std::fmt;
use std::str::FromStr;

/// A name in a certificate, of its kind: who gives out one kind may not give out another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// The common name of the subject.
    Common(String),
    /// An alternative name that is a URI, such as those of SPIFFE.
    Uri(String),
    /// An alternative name that is the name of a host, in small letters.
    Dns(String),
    /// An alternative name that is an address of mail.
    Email(String),
}

/// How names of a kind begin, and what they are.
type Kind = (&'static str, fn(&str) -> CertificateName);

impl CertificateName {
    /// The name of a host.
    pub(crate) fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }
}

impl FromStr for CertificateName {
    type Err = String;

    /// As OpenSSL prints them.
    fn from_str(text: &str) -> Result<Self, String> {
        let kinds: [Kind; 4] = [
            ("CN=", |name| Self::Common(name.to_owned())),
            ("URI:", |name| Self::Uri(name.to_owned())),
            ("DNS:", Self::dns),
            ("email:", |name| Self::Email(name.to_owned())),
        ];
        let named = kinds.iter().find_map(|(kind, named)| Some(named(text.strip_prefix(kind)?)));
        let is_empty = |name: &Self| match name {
            Self::Common(name) | Self::Uri(name) | Self::Dns(name) | Self::Email(name) => name.is_empty(),
        };
        named.filter(|name| !is_empty(name)).ok_or_else(|| {
            "a name in a certificate is `CN=…`, `URI:…`, `DNS:…` or `email:…`, as `openssl x509 -text` prints it".to_owned()
        })
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Common(name) => write!(f, "CN={name}"),
            Self::Uri(name) => write!(f, "URI:{name}"),
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Email(name) => write!(f, "email:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_a_kind() {
        for text in ["CN=a b", "URI:spiffe://example.com/a", "DNS:a.example.com", "email:a@example.com"] {
            assert_eq!(text.parse::<CertificateName>().unwrap().to_string(), text);
        }
        assert_eq!("DNS:A.Example.com".parse(), Ok(CertificateName::Dns("a.example.com".into())));
        assert_ne!("CN=a".parse::<CertificateName>(), "DNS:a".parse());
        for text in ["", "a", "CN=", "cn=a", "IP:10.0.0.1"] {
            assert!(text.parse::<CertificateName>().is_err(), "{text}");
        }
    }
}
