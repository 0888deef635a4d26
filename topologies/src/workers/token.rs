//! A secret that processes of a topology share.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::spec::{Secret, Topology};

/// Shorter ones can be guessed.
const CHARACTERS_MIN: usize = 16;

/// What is kept of the token: enough to recognise it, not enough to show it.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Token {
    /// The token `secret`.
    ///
    /// # Errors
    /// [`Error::Configuration`] if it is too short to be a secret, or cannot stand in an HTTP header.
    pub fn new(secret: &Secret) -> Result<Self, Error> {
        let token = secret.expose();
        if token.len() < CHARACTERS_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Configuration(format!(
                "workers.token leads to no token: it has at least {CHARACTERS_MIN} visible ASCII characters, such as \
                 `openssl rand -hex 32` prints"
            )));
        }
        Ok(Self::of(token))
    }

    /// That of a secret that is known to be one.
    pub(crate) fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether the value of an `Authorization` header shows this token. Takes the same time for every wrong one: digests
    /// are compared, and all of them.
    pub(crate) fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Some(shown) = authorization.and_then(|value| value.strip_prefix(b"Bearer ")) else {
            return false;
        };
        crate::is_shown(&self.0, &Sha256::digest(shown))
    }
}

/// The token that `topology` refers to, looked up now; `None` when it has no workers.
///
/// # Errors
/// [`Error::Configuration`] if the reference leads nowhere.
pub fn resolve(topology: &Topology) -> Result<Option<Secret>, Error> {
    let Some(text) = &topology.worker_token else { return Ok(None) };
    let secret = text.resolve();
    secret
        .map(Some)
        .map_err(|error| Error::Configuration(format!("workers.token: {}", crate::chain_of(&error))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";

    #[test]
    fn only_the_token_itself_is_admitted() {
        let token = Token::new(&Secret::new(SECRET)).unwrap();
        assert!(token.admits(Some(b"Bearer 0123456789abcdef")));
        let wrong: [&[u8]; 7] = [
            b"",
            b"Bearer ",
            b"Bearer 0123456789abcde",
            b"Bearer 0123456789abcdef0",
            b"Bearer 0123456789abcdeF",
            b"bearer 0123456789abcdef",
            b"0123456789abcdef",
        ];
        for wrong in wrong {
            assert!(!token.admits(Some(wrong)), "{wrong:?}");
        }
        assert!(!token.admits(None));
        assert_eq!(format!("{token:?}"), "***");
    }

    #[test]
    fn a_token_that_is_short_or_does_not_fit_into_a_header_is_refused_without_being_shown() {
        for secret in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\n", "0123456789äbcdef"]
        {
            let error = Token::new(&Secret::new(secret)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(secret.is_empty() || !error.to_string().contains(secret));
        }
    }
}
