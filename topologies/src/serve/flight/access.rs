//! Who asks: the token in the header `authorization`, as `Bearer TOKEN`, or as the password of `Basic`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Extensions, Status};

use super::Flight;
use super::status::status;
use crate::serve::{Caller, PeerNames};

/// The header.
pub(super) const AUTHORIZATION: &str = "authorization";

impl Flight {
    /// Who sent a request with these headers, over this connection.
    pub(super) async fn caller(
        &self,
        headers: &MetadataMap,
        connection: &Extensions,
    ) -> Result<Caller, Status> {
        let token = token(headers)?;
        self.engine.recognise(token.as_deref(), &names(connection)).await.map_err(status)
    }
}

/// The names in the certificate that was shown for a connection.
pub(super) fn names(connection: &Extensions) -> PeerNames {
    let shown = connection.get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
    PeerNames::of(shown.as_ref().map(|certificates| certificates.as_slice()))
}

/// Whom tickets and statements belong to: names of callers are given by more than one side, so that a name alone may be another's.
pub(super) fn identity(caller: &Caller) -> String {
    format!("{}/{}", caller.role.name, caller.name)
}

/// The token of a request, `None` if it has none. The user's name beside a password is not looked at: the token says who it is.
pub(super) fn token(headers: &MetadataMap) -> Result<Option<String>, Status> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let value = value.to_str().map_err(|_| unreadable())?.trim();
    let (scheme, credentials) = value.split_once(' ').ok_or_else(unreadable)?;
    let credentials = credentials.trim();
    let token = if scheme.eq_ignore_ascii_case("bearer") {
        credentials.to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let decoded = BASE64_STANDARD.decode(credentials).map_err(|_| unreadable())?;
        let decoded = String::from_utf8(decoded).map_err(|_| unreadable())?;
        decoded.split_once(':').ok_or_else(unreadable)?.1.to_owned()
    } else {
        return Err(unreadable());
    };
    Ok(Some(token).filter(|token| !token.is_empty()))
}

/// The header that a client shows from now on, after it has shown `token` in another way.
pub(super) fn bearer(token: &str) -> Result<MetadataValue<Ascii>, Status> {
    format!("Bearer {token}").parse().map_err(|_| unreadable())
}

fn unreadable() -> Status {
    Status::unauthenticated(
        "the header `authorization` is neither `Bearer TOKEN` nor `Basic` with the token as password",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(header: &str) -> Result<Option<String>, Status> {
        let mut headers = MetadataMap::new();
        headers.insert(AUTHORIZATION, header.parse().unwrap());
        token(&headers)
    }

    #[test]
    fn a_token_is_a_bearers_or_a_password() {
        assert_eq!(token(&MetadataMap::new()).unwrap(), None);
        assert_eq!(token_of("Bearer a.b-c").unwrap().as_deref(), Some("a.b-c"));
        assert_eq!(token_of("bearer  abc ").unwrap().as_deref(), Some("abc"));
        let basic = |text: &str| token_of(&format!("Basic {}", BASE64_STANDARD.encode(text)));
        assert_eq!(basic("ana:a:b").unwrap().as_deref(), Some("a:b"));
        assert_eq!(basic("ana:").unwrap(), None);
        assert_eq!(basic("ana").unwrap_err().code(), tonic::Code::Unauthenticated);
        for header in ["Basic !", "Digest abc", "abc"] {
            assert_eq!(token_of(header).unwrap_err().code(), tonic::Code::Unauthenticated, "{header}");
        }
        assert_eq!(bearer("abc").unwrap(), "Bearer abc");
        assert!(bearer("a\nb").is_err());
    }
}
