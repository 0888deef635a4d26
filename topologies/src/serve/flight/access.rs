//! Who asks: the token in the header `authorization`, as `Bearer TOKEN`, or as the password of `Basic`.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Extensions, Request, Status};

use super::status::status;
use crate::serve::{Caller, Engine, PeerNames};

/// Clients in Go leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The header.
pub(super) const AUTHORIZATION: &str = "authorization";

/// Finds out who asks before a byte of the body is read, whatever is asked: strangers keep no memory busy. The caller goes on with
/// the request, see [`caller`].
pub(super) fn known_callers(engine: Engine) -> impl Interceptor + Clone + Send + Sync + 'static {
    move |mut request: Request<()>| -> Result<Request<()>, Status> {
        let caller = recognised(&engine, request.metadata(), request.extensions())?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// Who asks, by the headers of a request and the certificate that was shown for its connection.
pub(in crate::serve) fn recognised(
    engine: &Engine,
    headers: &MetadataMap,
    connection: &Extensions,
) -> Result<Caller, Status> {
    let token = token(headers)?;
    engine.recognise(token.as_deref(), &names(connection)).map_err(status)
}

/// The names in the certificate that was shown for a connection.
fn names(connection: &Extensions) -> PeerNames {
    let shown = connection.get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
    PeerNames::of(shown.as_ref().map(|certificates| certificates.as_slice()))
}

/// Who sent the request that has these.
pub(super) fn caller(extensions: &Extensions) -> Result<Caller, Status> {
    extensions.get().cloned().ok_or_else(|| Status::unauthenticated("nobody knows who asks"))
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
        let decoded = BASE64.decode(credentials).map_err(|_| unreadable())?;
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
        let basic = |text: &str| token_of(&format!("Basic {}", BASE64.encode(text)));
        assert_eq!(basic("ana:a:b").unwrap().as_deref(), Some("a:b"));
        assert_eq!(basic("ana:").unwrap(), None);
        // The same with its padding and without.
        assert_eq!(token_of("Basic YW5hOmFiYw==").unwrap().as_deref(), Some("abc"));
        assert_eq!(token_of("Basic YW5hOmFiYw").unwrap().as_deref(), Some("abc"));
        assert_eq!(basic("ana").unwrap_err().code(), tonic::Code::Unauthenticated);
        for header in ["Basic !", "Digest abc", "abc"] {
            assert_eq!(token_of(header).unwrap_err().code(), tonic::Code::Unauthenticated, "{header}");
        }
        assert_eq!(bearer("abc").unwrap(), "Bearer abc");
        assert!(bearer("a\nb").is_err());
    }
}
