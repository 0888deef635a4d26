//! From a connection of the network to a session: TLS, who asks, and what both sides tell each other first.

use std::net::SocketAddr;

use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey,
};
use tokio::io::{AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::Caller;
use super::conversation::converse;
use super::failure::{Failure, Trouble, code};
use super::frontend::{Frontend, Opening};
use super::session::Session;
use super::settings::Settings;
use super::wire::{Input, MESSAGE_BYTES_MAX, Output, opening};
use super::{Cancelable, OPENING_TIME_MAX, PROTOCOL_NAME, Shared};

/// What TLS begins with, and no message of the protocol.
const TLS_HANDSHAKE: u8 = 0x16;

/// Everything that there is to do for a connection. `has_place`: whether it is one of those that may be there.
pub(super) async fn connected(stream: TcpStream, peer: SocketAddr, shared: &Shared, has_place: bool) {
    let opened = tokio::time::timeout(OPENING_TIME_MAX, open(stream, peer, shared, has_place));
    let opened = tokio::select! {
        () = shared.shutdown.cancelled() => return,
        opened = opened => opened,
    };
    let ended = match opened {
        Ok(Ok(Some(opened))) => {
            let Opened { input, output, session, cancelable } = opened;
            converse(input, output, session, &cancelable, shared).await
        }
        Ok(Ok(None)) => Ok(()),
        Ok(Err(trouble)) => Err(trouble),
        Err(_) => {
            tracing::debug!(%peer, "a client did not say in time who it is");
            Ok(())
        }
    };
    if let Err(trouble) = ended {
        tracing::debug!(%peer, %trouble, "connection ended");
    }
}

/// A connection whose client is known.
struct Opened {
    input: Input,
    output: Output,
    session: Session,
    cancelable: Cancelable,
}

/// `None`: there is nothing more to do.
async fn open(
    mut stream: TcpStream,
    peer: SocketAddr,
    shared: &Shared,
    has_place: bool,
) -> Result<Option<Opened>, Trouble> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first[0] == TLS_HANDSHAKE {
        let Some(tls) = &shared.tls else { return Ok(None) };
        let stream = tls.accept(stream).await?;
        // As PostgreSQL asks of clients that do not ask for TLS first: a page in a browser cannot pretend to be one.
        if stream.get_ref().1.alpn_protocol() != Some(PROTOCOL_NAME) {
            return Ok(None);
        }
        return encrypted(stream, peer, shared, has_place).await;
    }
    // One question about each kind of encryption.
    for _ in 0..3 {
        let Some(message) = opening(&mut stream).await? else { return Ok(None) };
        match Opening::decode(message) {
            Ok(Opening::Tls) => match &shared.tls {
                Some(tls) => {
                    let stream = accepted(stream, tls).await?;
                    return encrypted(stream, peer, shared, has_place).await;
                }
                None => stream.write_all(b"N").await?,
            },
            Ok(Opening::Gss) => stream.write_all(b"N").await?,
            decoded => {
                let (input, output) = split(stream);
                let (input, output) = (Input::new(Box::new(input)), Output::new(Box::new(output)));
                return begin(
                    input,
                    output,
                    decoded,
                    peer,
                    shared,
                    Circumstances { is_secure: false, has_place },
                )
                .await;
            }
        }
    }
    Ok(None)
}

async fn accepted(mut stream: TcpStream, tls: &TlsAcceptor) -> Result<TlsStream<TcpStream>, Trouble> {
    stream.write_all(b"S").await?;
    Ok(tls.accept(stream).await?)
}

async fn encrypted(
    mut stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    shared: &Shared,
    has_place: bool,
) -> Result<Option<Opened>, Trouble> {
    let Some(message) = opening(&mut stream).await? else { return Ok(None) };
    let decoded = Opening::decode(message);
    let (input, output) = split(stream);
    let (input, output) = (Input::new(Box::new(input)), Output::new(Box::new(output)));
    begin(input, output, decoded, peer, shared, Circumstances { is_secure: true, has_place }).await
}

#[derive(Clone, Copy)]
struct Circumstances {
    is_secure: bool,
    has_place: bool,
}

/// What follows the question about encryption.
async fn begin(
    mut input: Input,
    mut output: Output,
    decoded: Result<Opening, Failure>,
    peer: SocketAddr,
    shared: &Shared,
    circumstances: Circumstances,
) -> Result<Option<Opened>, Trouble> {
    let begun = match decoded {
        Ok(Opening::Cancel { process, key }) => {
            shared.cancels.cancel(process, &key);
            output.close().await;
            return Ok(None);
        }
        Ok(Opening::Startup { minor, settings }) => {
            let startup = Startup { minor, settings };
            startup.session(&mut input, &mut output, peer, shared, circumstances).await
        }
        Ok(Opening::Tls | Opening::Gss) => Err(Failure::malformed("encryption is asked for twice").into()),
        Err(failure) => Err(failure.into()),
    };
    match begun {
        Ok((session, cancelable)) => {
            input.bytes_max = MESSAGE_BYTES_MAX;
            Ok(Some(Opened { input, output, session, cancelable }))
        }
        Err(Trouble::Failed(mut failure)) => {
            // There is no session to go on with.
            failure.is_fatal = true;
            output.put(&failure.clone().message());
            output.close().await;
            Err(failure.into())
        }
        Err(gone) => Err(gone),
    }
}

/// What a client says at first.
struct Startup {
    minor: u16,
    settings: Vec<(String, String)>,
}

impl Startup {
    async fn session(
        self,
        input: &mut Input,
        output: &mut Output,
        peer: SocketAddr,
        shared: &Shared,
        circumstances: Circumstances,
    ) -> Result<(Session, Cancelable), Trouble> {
        let minor = self.negotiate(output);
        if !circumstances.has_place {
            return Err(Failure::new(code::TOO_MANY_CONNECTIONS, "sorry, too many clients already").into());
        }
        if shared.needs_tls && !circumstances.is_secure {
            let message =
                "clients show a certificate here: connect with TLS (sslmode=require, sslcert, sslkey)";
            return Err(Failure::new(code::NOT_AUTHORIZED, message).into());
        }
        if self.settings.iter().any(|(name, value)| name == "replication" && !is_off(value)) {
            return Err(Failure::new(code::FEATURE_NOT_SUPPORTED, "replication is not supported here").into());
        }
        let (caller, token) = authenticated(input, output, peer, shared, circumstances.is_secure).await?;
        tracing::debug!(caller = caller.name, %peer, "connected");
        let cancelable = shared.cancels.register(if minor >= 2 { 32 } else { 4 });

        let mut settings = Settings::default();
        settings.begin(&self.asked());
        output.put(&PgWireBackendMessage::Authentication(Authentication::Ok));
        for (name, value) in settings.reported() {
            output.put(&PgWireBackendMessage::ParameterStatus(ParameterStatus::new(name, value)));
        }
        let key = SecretKey::Bytes(cancelable.key.clone().into());
        let key = BackendKeyData::new(cancelable.process, key);
        output.put(&PgWireBackendMessage::BackendKeyData(key));
        output.put(&PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(TransactionStatus::Idle)));
        output.flush().await?;
        let session = Session::new(shared.engine.clone(), caller, token, cancelable.process, settings);
        Ok((session, cancelable))
    }

    /// The minor version that is spoken: 0, or 2, which has longer keys. A client that asks for what there is not is told.
    fn negotiate(&self, output: &mut Output) -> u16 {
        let minor = if self.minor >= 2 { 2 } else { 0 };
        let unknown: Vec<String> = self
            .settings
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| name.starts_with("_pq_."))
            .collect();
        if minor != self.minor || !unknown.is_empty() {
            let version = (3 << 16) | i32::from(minor);
            output.put(&PgWireBackendMessage::NegotiateProtocolVersion(NegotiateProtocolVersion::new(
                version, unknown,
            )));
        }
        minor
    }

    /// The settings among what the client says.
    fn asked(&self) -> Vec<(String, String)> {
        let is_setting = |name: &str| {
            !matches!(name, "user" | "database" | "options" | "replication") && !name.starts_with("_pq_.")
        };
        let named = self.settings.iter().filter(|(name, _)| is_setting(name)).cloned();
        // `-c name=value`, as `PGOPTIONS` has it.
        let options = self.settings.iter().filter(|(name, _)| name == "options");
        let options = options.flat_map(|(_, text)| text.split_whitespace());
        let options = options.filter_map(|option| {
            let option = option.strip_prefix("-c").or_else(|| option.strip_prefix("--")).unwrap_or(option);
            let (name, value) = option.split_once('=')?;
            Some((name.replace('-', "_"), value.to_owned()))
        });
        named.chain(options).collect()
    }
}

fn is_off(value: &str) -> bool {
    ["false", "off", "no", "0"].iter().any(|off| value.eq_ignore_ascii_case(off))
}

/// Who asks, and what shows it. A token is asked for if there must be one, and never in plain text through a network.
async fn authenticated(
    input: &mut Input,
    output: &mut Output,
    peer: SocketAddr,
    shared: &Shared,
    is_secure: bool,
) -> Result<(Caller, Option<String>), Trouble> {
    if shared.engine.is_open() {
        return Ok((shared.engine.authenticate(None).await?, None));
    }
    if !is_secure && !peer.ip().to_canonical().is_loopback() {
        let how = if shared.tls.is_some() {
            "connect with TLS (sslmode=require)"
        } else {
            "this server has no TLS, so that only clients on the same machine can connect"
        };
        let message = format!("a token is needed, which is not sent in plain text: {how}");
        return Err(Failure::new(code::NOT_AUTHORIZED, message).into());
    }
    output.put(&PgWireBackendMessage::Authentication(Authentication::CleartextPassword));
    output.flush().await?;
    let Some((tag, body)) = input.next().await? else {
        // Some clients connect first and ask for the password then.
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    };
    match Frontend::decode(tag, body)? {
        Frontend::Password(token) => Ok((shared.engine.authenticate(Some(&token)).await?, Some(token))),
        _ => Err(Failure::malformed("a password was expected").into()),
    }
}
