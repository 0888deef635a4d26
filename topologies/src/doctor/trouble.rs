//! Why a look at something did not succeed, as far as somebody would act differently.

use std::time::Duration;

use isobar_connectors::Error as ConnectorError;
use object_store::Error as StoreError;

use crate::chain_of;
use crate::error::Error;
use crate::spec::units::HumanDuration;

/// Characters of what was said that are kept: a server may answer with anything.
const WORDS_MAX: usize = 1000;

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    /// What was said, for people. Holds no secret.
    pub(super) what: String,
}

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The credentials are not accepted, or do not suffice.
    Denied,
    /// What was asked for is not there.
    Absent,
    /// Nobody answers.
    Silent,
    /// Whoever answers cannot do it.
    Unsupported,
    /// The specification is wrong, or what it refers to.
    Misconfigured,
    /// Anything else.
    Failed,
}

/// What a look gave.
pub(super) type Look<T> = Result<T, Trouble>;

impl Trouble {
    pub(super) fn new(kind: Kind, what: impl Into<String>) -> Self {
        let what: String = what.into();
        match what.char_indices().nth(WORDS_MAX) {
            Some((end, _)) => Self { kind, what: format!("{}…", &what[..end]) },
            None => Self { kind, what },
        }
    }

    fn late(patience: Duration) -> Self {
        Self::new(Kind::Silent, format!("no answer within {}", HumanDuration(patience)))
    }
}

/// What `look` gives, if it does in time.
pub(super) async fn within<T>(patience: Duration, look: impl Future<Output = Look<T>>) -> Look<T> {
    tokio::time::timeout(patience, look).await.unwrap_or_else(|_| Err(Trouble::late(patience)))
}

/// Whose move it is when a store says so.
fn kind_of(error: &StoreError) -> Kind {
    match error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => Kind::Denied,
        StoreError::NotFound { .. } => Kind::Absent,
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => Kind::Unsupported,
        // The clients report what never came to an answer, and answers that they do not expect, alike; only their words
        // tell which it was.
        StoreError::Generic { source, .. } if chain_of(&**source).contains("status code") => Kind::Failed,
        StoreError::Generic { .. } => Kind::Silent,
        _ => Kind::Failed,
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::new(kind_of(&error), chain_of(&error))
    }
}

impl From<ConnectorError> for Trouble {
    fn from(error: ConnectorError) -> Self {
        let kind = match &error {
            ConnectorError::Store { source, .. } => kind_of(source),
            ConnectorError::KafkaDenied { .. } | ConnectorError::RegistryDenied { .. } => Kind::Denied,
            ConnectorError::TopicMissing { .. }
            | ConnectorError::PartitionGone { .. }
            | ConnectorError::PositionLost { .. } => Kind::Absent,
            ConnectorError::KafkaUnreachable { .. } | ConnectorError::RegistryUnreachable { .. } => {
                Kind::Silent
            }
            ConnectorError::RegistryAnswer { .. } => Kind::Unsupported,
            error if error.is_configuration() => Kind::Misconfigured,
            _ => Kind::Failed,
        };
        Self::new(kind, chain_of(&error))
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Connector { source, .. } => source.into(),
            Error::Store { source, .. } => source.into(),
            Error::Configuration(what) => Self::new(Kind::Misconfigured, what),
            Error::NoMajority { .. } => Self::new(Kind::Silent, chain_of(&error)),
            error => Self::new(Kind::Failed, chain_of(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Box<dyn std::error::Error + Send + Sync> {
        "said so".into()
    }

    #[test]
    fn what_a_store_says_decides_whose_move_it_is() {
        let path = || "a/b".to_owned();
        let cases = [
            (StoreError::PermissionDenied { path: path(), source: source() }, Kind::Denied),
            (StoreError::Unauthenticated { path: path(), source: source() }, Kind::Denied),
            (StoreError::NotFound { path: path(), source: source() }, Kind::Absent),
            (StoreError::Generic { store: "s", source: source() }, Kind::Silent),
            (StoreError::Generic { store: "s", source: "status code: 400, said so".into() }, Kind::Failed),
        ];
        for (error, kind) in cases {
            let text = error.to_string();
            let inner = Trouble::from(error);
            assert_eq!(inner.kind, kind, "{text}");
            assert!(inner.what.contains("said so"), "{inner:?}");
        }
    }

    #[test]
    fn kafka_and_the_registry_are_told_apart_by_what_helps() {
        let denied = ConnectorError::KafkaDenied { what: "topic t".into(), reason: "no".into() };
        let missing = ConnectorError::TopicMissing { topic: "t".into(), similar: Vec::new() };
        let (server, what) = ("http://r/".to_owned(), "x".to_owned());
        let answer = ConnectorError::RegistryAnswer { server, what, answer: "404".into() };
        let away = ConnectorError::RegistryUnreachable { what: "x".into(), attempts: 4, reason: "r".into() };
        let option = ConnectorError::KafkaOption { option: "o".into(), problem: "p".into() };
        let kinds = [denied, missing, answer, away, option].map(|error| Trouble::from(error).kind);
        let expected = [Kind::Denied, Kind::Absent, Kind::Unsupported, Kind::Silent, Kind::Misconfigured];
        assert_eq!(kinds, expected);
        let wrapped =
            Error::connector("ask", ConnectorError::KafkaDenied { what: "t".into(), reason: "n".into() });
        assert_eq!(Trouble::from(wrapped).kind, Kind::Denied);
    }

    #[test]
    fn an_answer_of_any_length_is_shortened() {
        let long = Trouble::new(Kind::Failed, "é".repeat(5000));
        assert_eq!(long.what.chars().count(), WORDS_MAX + 1);
        assert_eq!(Trouble::new(Kind::Failed, "é".repeat(WORDS_MAX)).what.chars().count(), WORDS_MAX);
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_after_its_patience() {
        let hanging = within(Duration::from_millis(5), std::future::pending::<Look<()>>()).await;
        let trouble = hanging.unwrap_err();
        assert_eq!((trouble.kind, trouble.what.as_str()), (Kind::Silent, "no answer within 5ms"));
        assert_eq!(within(Duration::from_secs(60), async { Ok(7) }).await, Ok(7));
    }
}
