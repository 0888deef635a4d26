//! What clients send, out of bytes that nobody has checked.
//!
//! `pgwire`'s own decoder reads behind the end of short messages, which panics, and takes messages of a gigabyte from anybody;
//! so a message is cut out by its length here first ([`Input`](super::wire::Input)), and nothing is read outside it.

use bytes::{Buf, Bytes};

use super::failure::{Failure, code};

/// Tags of messages.
pub(super) const QUERY: u8 = b'Q';
pub(super) const CALL: u8 = b'F';
pub(super) const SYNC: u8 = b'S';
pub(super) const TERMINATE: u8 = b'X';

/// A message of a client that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frontend {
    Query(String),
    Parse {
        statement: String,
        sql: String,
        /// Object ids of the types of parameters; 0 leaves one to us.
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        statement: String,
        /// None: all are text; one: for all; otherwise one for each.
        formats: Vec<i16>,
        values: Vec<Option<Bytes>>,
        /// The same for the columns of the answer.
        result_formats: Vec<i16>,
    },
    Describe(Target),
    Execute {
        portal: String,
        /// 0: all.
        rows_max: usize,
    },
    Close(Target),
    Flush,
    Sync,
    Terminate,
    Password(String),
    /// A part of a copy; left over if the copy was refused.
    Copy,
    /// A call of a function by its number.
    Call,
}

/// What is described or closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Statement(String),
    Portal(String),
}

impl Frontend {
    /// The message with a tag and a body.
    pub(super) fn decode(tag: u8, body: Bytes) -> Result<Self, Failure> {
        let mut body = Body(body);
        let message = match tag {
            QUERY => Self::Query(body.text()?),
            b'P' => Self::Parse { statement: body.text()?, sql: body.text()?, types: body.list(Body::u32)? },
            b'B' => Self::Bind {
                portal: body.text()?,
                statement: body.text()?,
                formats: body.list(Body::format)?,
                values: body.list(Body::value)?,
                result_formats: body.list(Body::format)?,
            },
            b'D' => Self::Describe(body.target()?),
            // A negative number means all as well.
            b'E' => Self::Execute {
                portal: body.text()?,
                rows_max: usize::try_from(body.u32()?.cast_signed()).unwrap_or(0),
            },
            b'C' => Self::Close(body.target()?),
            b'H' => Self::Flush,
            SYNC => Self::Sync,
            TERMINATE => Self::Terminate,
            b'p' => Self::Password(body.text()?),
            b'd' | b'c' | b'f' => return Ok(Self::Copy),
            CALL => return Ok(Self::Call),
            _ => return Err(Failure::malformed("there is no such kind")),
        };
        if body.0.has_remaining() {
            return Err(Failure::malformed("it is longer than what it holds"));
        }
        Ok(message)
    }
}

/// The rest of a message. Every step checks that there is so much.
struct Body(Bytes);

impl Body {
    fn take(&mut self, length: usize) -> Result<Bytes, Failure> {
        if self.0.len() < length {
            return Err(Failure::malformed("it ends too early"));
        }
        Ok(self.0.split_to(length))
    }

    fn u16(&mut self) -> Result<u16, Failure> {
        Ok(self.take(2)?.get_u16())
    }

    fn u32(&mut self) -> Result<u32, Failure> {
        Ok(self.take(4)?.get_u32())
    }

    /// Up to a NUL.
    fn text(&mut self) -> Result<String, Failure> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| Failure::malformed("a text has no end"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.into())
            .map_err(|_| Failure::new(code::NOT_IN_REPERTOIRE, "invalid byte sequence for encoding \"UTF8\""))
    }

    /// Values that each have two bytes at least, so that their number is bounded by the message.
    fn list<T>(&mut self, element: fn(&mut Self) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
        (0..self.u16()?).map(|_| element(self)).collect()
    }

    fn format(&mut self) -> Result<i16, Failure> {
        match self.u16()? {
            format @ (0 | 1) => Ok(format.cast_signed()),
            _ => Err(Failure::malformed("a format is neither text nor binary")),
        }
    }

    fn value(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.u32()?.cast_signed() {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| Failure::malformed("a negative length"))?;
                self.take(length).map(Some)
            }
        }
    }

    fn target(&mut self) -> Result<Target, Failure> {
        let kind = self.take(1)?[0];
        let name = self.text()?;
        match kind {
            b'S' => Ok(Target::Statement(name)),
            b'P' => Ok(Target::Portal(name)),
            _ => Err(Failure::malformed("neither a statement nor a portal")),
        }
    }
}

/// What opens a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opening {
    /// A session: the minor version of protocol 3, and settings by name.
    Startup { minor: u16, settings: Vec<(String, String)> },
    /// The query of another connection is to end.
    Cancel { process: i32, key: Bytes },
    /// TLS is asked for.
    Tls,
    /// Encryption by GSSAPI is asked for.
    Gss,
}

impl Opening {
    /// What stands behind the length of the first message.
    pub(super) fn decode(body: Bytes) -> Result<Self, Failure> {
        const CANCEL: u32 = 80_877_102;
        const TLS: u32 = 80_877_103;
        const GSS: u32 = 80_877_104;
        let mut body = Body(body);
        match body.u32()? {
            TLS => Ok(Self::Tls),
            GSS => Ok(Self::Gss),
            CANCEL => {
                let process = body.u32()?.cast_signed();
                let length = body.0.len();
                Ok(Self::Cancel { process, key: body.take(length)? })
            }
            version if version >> 16 == 3 => {
                let minor = (version & 0xffff) as u16;
                let mut settings = Vec::new();
                loop {
                    let name = body.text()?;
                    if name.is_empty() {
                        break;
                    }
                    settings.push((name, body.text()?));
                }
                Ok(Self::Startup { minor, settings })
            }
            version => Err(Failure::fatal(
                code::PROTOCOL_VIOLATION,
                format!(
                    "unsupported frontend protocol {}.{}: this server speaks 3",
                    version >> 16,
                    version & 0xffff
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(tag: u8, body: &'static [u8]) -> Result<Frontend, Failure> {
        Frontend::decode(tag, Bytes::from_static(body))
    }

    #[test]
    fn messages_are_what_the_protocol_says() {
        assert_eq!(decode(b'Q', b"SELECT 1\0"), Ok(Frontend::Query("SELECT 1".into())));
        let parse = Frontend::Parse { statement: "s".into(), sql: "SELECT $1".into(), types: vec![20, 0] };
        assert_eq!(decode(b'P', b"s\0SELECT $1\0\0\x02\0\0\0\x14\0\0\0\0"), Ok(parse));
        let bind = Frontend::Bind {
            portal: String::new(),
            statement: "s".into(),
            formats: vec![1],
            values: vec![Some(Bytes::from_static(b"ab")), None, Some(Bytes::new())],
            result_formats: vec![0, 1],
        };
        let body = b"\0s\0\0\x01\0\x01\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0\0\x02\0\0\0\x01";
        assert_eq!(decode(b'B', body), Ok(bind));
        assert_eq!(decode(b'D', b"Sname\0"), Ok(Frontend::Describe(Target::Statement("name".into()))));
        assert_eq!(decode(b'C', b"P\0"), Ok(Frontend::Close(Target::Portal(String::new()))));
        assert_eq!(decode(b'E', b"p\0\0\0\0\x05"), Ok(Frontend::Execute { portal: "p".into(), rows_max: 5 }));
        assert_eq!(
            decode(b'E', b"\0\xff\xff\xff\xff"),
            Ok(Frontend::Execute { portal: String::new(), rows_max: 0 })
        );
        assert_eq!(decode(b'S', b""), Ok(Frontend::Sync));
        assert_eq!(decode(b'p', b"secret\0"), Ok(Frontend::Password("secret".into())));
    }

    /// Each of these makes the decoder of `pgwire` 0.41 panic, or reserve memory for what is not there.
    #[test]
    fn malformed_messages_are_refused() {
        let bodies: [(u8, &[u8]); 12] = [
            (b'Q', b"no end"),
            (b'P', b"s\0SELECT 1\0"),
            (b'P', b"s\0SELECT 1\0\xff\xff\0"),
            (b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
            (b'B', b"\0\0\0\0\0\x01\x80\0\0\0\0\0"),
            (b'B', b"\0\0\0\x01\0\x02\0\0\0\0"),
            (b'B', b"\0\0\xff\xff"),
            (b'D', b""),
            (b'D', b"Xname\0"),
            (b'E', b"\0\0"),
            (b'S', b"more"),
            (b'?', b""),
        ];
        for (tag, body) in bodies {
            let failure = decode(tag, body).expect_err("malformed");
            assert_eq!((failure.code, failure.is_fatal), (code::PROTOCOL_VIOLATION, true), "{tag} {body:?}");
        }
        let failure = decode(b'Q', b"\xff\0").unwrap_err();
        assert_eq!((failure.code, failure.is_fatal), (code::NOT_IN_REPERTOIRE, false));
    }

    #[test]
    fn a_connection_opens_in_one_of_four_ways() {
        let open = |body: &'static [u8]| Opening::decode(Bytes::from_static(body));
        let settings = vec![("user".to_owned(), "ana".to_owned()), ("database".to_owned(), String::new())];
        assert_eq!(open(b"\0\x03\0\0user\0ana\0database\0\0\0"), Ok(Opening::Startup { minor: 0, settings }));
        assert_eq!(open(b"\x04\xd2\x16\x2f"), Ok(Opening::Tls));
        assert_eq!(open(b"\x04\xd2\x16\x30"), Ok(Opening::Gss));
        let cancel = Opening::Cancel { process: 7, key: Bytes::from_static(b"abcd") };
        assert_eq!(open(b"\x04\xd2\x16\x2e\0\0\0\x07abcd"), Ok(cancel));
        for wrong in
            [&b""[..], b"\0\x02\0\0\0", b"\0\x03\0\0user\0ana\0", b"\0\x03\0\0", b"\x04\xd2\x16\x2e\0"]
        {
            assert!(open(wrong).unwrap_err().is_fatal, "{wrong:?}");
        }
    }
}
