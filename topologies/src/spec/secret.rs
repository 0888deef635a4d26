//! Option values that may refer to secrets, and the secrets themselves.
//!
//! A spec never holds a secret, only where to find one: `${env:NAME}` is an environment variable and
//! `${file:path}` the content of a file (a mounted Kubernetes secret, say) without its trailing line break.
//! References may stand inside longer text; `$${` stands for a plain `${`. A [`Text`] is such a template with its
//! syntax already checked; [`Text::resolve`] looks the references up, at run time only, and gives a [`Secret`],
//! which prints as `***` wherever it may end up.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Upper bound of a file that `${file:…}` names. Keys and certificates are a few KiB.
const SECRET_FILE_BYTES_MAX: u64 = 64 << 10;

/// A text that must not be shown. `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself. Call this where the value leaves for the client library, nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A malformed reference in a template. Fix the spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// `${` without its `}`.
    #[error("`${{` is not closed by `}}`")]
    Unclosed,
    /// Neither `env:` nor `file:`.
    #[error("`${{{0}}}` is not a reference: write `${{env:NAME}}` or `${{file:path}}`")]
    UnknownKind(String),
    /// Not the name of an environment variable.
    #[error("`{0}` is not the name of an environment variable")]
    VariableName(String),
    /// `${file:}`.
    #[error("`${{file:}}` names no file")]
    EmptyPath,
}

/// A reference that leads nowhere. Fix the environment of the process; the message never holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The environment variable is not set.
    #[error("environment variable `{name}` is not set")]
    VariableMissing {
        /// The variable.
        name: String,
    },
    /// The environment variable is set to nothing, which is a mistake more often than a password.
    #[error("environment variable `{name}` is empty")]
    VariableEmpty {
        /// The variable.
        name: String,
    },
    /// The environment variable is not UTF-8.
    #[error("environment variable `{name}` is not UTF-8")]
    VariableNotUtf8 {
        /// The variable.
        name: String,
    },
    /// The file cannot be read.
    #[error("secret file `{}` cannot be read", path.display())]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// The system's own answer.
        source: std::io::Error,
    },
    /// The file holds nothing.
    #[error("secret file `{}` is empty", path.display())]
    FileEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The file is too large to be a secret.
    #[error("secret file `{}` is larger than {} KiB", path.display(), SECRET_FILE_BYTES_MAX >> 10)]
    FileTooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not UTF-8.
    #[error("secret file `{}` is not UTF-8", path.display())]
    FileNotUtf8 {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(String),
    File(PathBuf),
}

/// The value of an option: plain text, references to secrets, or both.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    /// As written in the spec.
    template: String,
    parts: Vec<Part>,
}

impl Text {
    /// Parses `template`. Relative paths of `${file:…}` start at `folder`, the folder of the spec.
    pub fn parse(template: &str, folder: &Path) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = template;
        while let Some(dollar) = rest.find('$') {
            literal.push_str(&rest[..dollar]);
            rest = &rest[dollar..];
            if let Some(after) = rest.strip_prefix("$${") {
                literal.push_str("${");
                rest = after;
            } else if let Some(after) = rest.strip_prefix("${") {
                let end = after.find('}').ok_or(TemplateError::Unclosed)?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(parse_reference(&after[..end], folder)?);
                rest = &after[end + 1..];
            } else {
                literal.push('$');
                rest = &rest[1..];
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { template: template.to_owned(), parts })
    }

    /// Whether the text refers to at least one environment variable or file.
    pub fn has_reference(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Literal(_)))
    }

    /// Whether the text is made of references and nothing else.
    pub fn is_only_references(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| !matches!(part, Part::Literal(_)))
    }

    /// The text as the spec has it, references unresolved: safe to show.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// Looks every reference up. Reads the environment and files each time, so a rotated secret is seen.
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        let mut value = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => value.push_str(literal),
                Part::Variable(name) => value.push_str(&read_variable(name)?),
                Part::File(path) => value.push_str(&read_file(path)?),
            }
        }
        Ok(Secret(value))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.template, f)
    }
}

fn parse_reference(reference: &str, folder: &Path) -> Result<Part, TemplateError> {
    if let Some(name) = reference.strip_prefix("env:") {
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        return if is_name {
            Ok(Part::Variable(name.to_owned()))
        } else {
            Err(TemplateError::VariableName(name.to_owned()))
        };
    }
    if let Some(path) = reference.strip_prefix("file:") {
        return if path.is_empty() {
            Err(TemplateError::EmptyPath)
        } else {
            Ok(Part::File(folder.join(path)))
        };
    }
    Err(TemplateError::UnknownKind(reference.to_owned()))
}

fn read_variable(name: &str) -> Result<String, SecretError> {
    use std::env::VarError;
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Err(SecretError::VariableEmpty { name: name.to_owned() }),
        Ok(value) => Ok(value),
        Err(VarError::NotPresent) => Err(SecretError::VariableMissing { name: name.to_owned() }),
        Err(VarError::NotUnicode(_)) => Err(SecretError::VariableNotUtf8 { name: name.to_owned() }),
    }
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let path = path.to_owned();
    let mut bytes = Vec::new();
    let read =
        File::open(&path).and_then(|file| file.take(SECRET_FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(source) = read {
        return Err(SecretError::FileUnreadable { path, source });
    }
    if bytes.len() as u64 > SECRET_FILE_BYTES_MAX {
        return Err(SecretError::FileTooLarge { path });
    }
    let Ok(content) = String::from_utf8(bytes) else {
        return Err(SecretError::FileNotUtf8 { path });
    };
    // Editors and `echo` end a file with one line break that is no part of the secret.
    let value = content.strip_suffix('\n').unwrap_or(&content);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        return Err(SecretError::FileEmpty { path });
    }
    Ok(value.to_owned())
}

/// Words in an option's name that say its value is a secret.
const SECRET_WORDS: [&str; 6] = ["password", "passwd", "passphrase", "secret", "credential", "credentials"];

/// Words that say so only when they stand alone, since longer words contain them (`sasl` contains `sas`).
const SECRET_WHOLE_WORDS: [&str; 5] = ["key", "keys", "token", "sas", "pem"];

/// Last words of options that speak *about* a secret without holding it: a path, an address, a switch, a name.
const HARMLESS_LAST_WORDS: [&str; 12] = [
    "location",
    "file",
    "path",
    "url",
    "uri",
    "endpoint",
    "enabled",
    "enable",
    "type",
    "id",
    "method",
    "algorithm",
];

/// Names in which the rule below errs.
const ALWAYS_SECRET: [&str; 2] = ["access_key_id", "aws_access_key_id"];
const NEVER_SECRET: [&str; 4] =
    ["ssl.certificate.pem", "ssl.ca.pem", "application_credentials", "google_application_credentials"];

/// Whether an option of this name holds a connection string: settings of which some are secret.
pub fn is_connection_string(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace(['.', '-', '_'], "");
    name.contains("connectionstring")
}

/// Whether an option of this name holds a secret, so that its value must be a reference.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if ALWAYS_SECRET.contains(&name.as_str()) {
        return true;
    }
    if NEVER_SECRET.contains(&name.as_str()) {
        return false;
    }
    let words: Vec<&str> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    if words.last().is_some_and(|last| HARMLESS_LAST_WORDS.contains(last)) {
        return false;
    }
    let is_secret_word = |word: &&str| {
        SECRET_WHOLE_WORDS.contains(word)
            || word.ends_with("key")
            || SECRET_WORDS.iter().any(|s| word.contains(s))
    };
    words.iter().any(is_secret_word) || is_connection_string(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(template: &str) -> Result<Text, TemplateError> {
        Text::parse(template, Path::new("/specs"))
    }

    #[test]
    fn templates_resolve_to_their_references() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "s3cr3t\r\n").unwrap();
        let text = Text::parse("a$b-${file:key}-$${env:X}-${env:PATH}", folder.path()).unwrap();
        assert!(text.has_reference());
        let secret = text.resolve().unwrap();
        let path = std::env::var("PATH").unwrap();
        assert_eq!(secret.expose(), format!("a$b-s3cr3t-${{env:X}}-{path}"));
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert!(!text.is_only_references());
        assert!(parse("${env:A}${env:B}").unwrap().is_only_references());
        let plain = parse("eu-west-1").unwrap();
        assert!(!plain.has_reference() && !plain.is_only_references());
        assert_eq!(plain.resolve().unwrap().expose(), "eu-west-1");
    }

    #[test]
    fn malformed_references_are_named() {
        assert_eq!(parse("${env:A").unwrap_err(), TemplateError::Unclosed);
        assert_eq!(parse("${HOME}").unwrap_err(), TemplateError::UnknownKind("HOME".into()));
        assert_eq!(parse("${env:1A}").unwrap_err(), TemplateError::VariableName("1A".into()));
        assert_eq!(parse("${env:}").unwrap_err(), TemplateError::VariableName(String::new()));
        assert_eq!(parse("${file:}").unwrap_err(), TemplateError::EmptyPath);
        assert_eq!(
            TemplateError::UnknownKind("HOME".into()).to_string(),
            "`${HOME}` is not a reference: write `${env:NAME}` or `${file:path}`"
        );
    }

    #[test]
    fn unresolvable_references_name_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), "\n").unwrap();
        std::fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
        std::fs::write(folder.path().join("large"), vec![b'x'; SECRET_FILE_BYTES_MAX as usize + 1]).unwrap();
        let resolve = |template: &str| Text::parse(template, folder.path()).unwrap().resolve().unwrap_err();
        assert!(matches!(
            resolve("${env:ISOBAR_TEST_NOT_SET}"),
            SecretError::VariableMissing { name } if name == "ISOBAR_TEST_NOT_SET"
        ));
        assert!(
            matches!(resolve("${file:none}"), SecretError::FileUnreadable { path, .. } if path.ends_with("none"))
        );
        assert!(matches!(resolve("${file:empty}"), SecretError::FileEmpty { .. }));
        assert!(matches!(resolve("${file:binary}"), SecretError::FileNotUtf8 { .. }));
        assert!(matches!(resolve("${file:large}"), SecretError::FileTooLarge { .. }));
    }

    #[test]
    fn names_of_secrets_are_recognised() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.client.secret",
            "secret_access_key",
            "AWS_SECRET_ACCESS_KEY",
            "access_key_id",
            "access_key",
            "account_key",
            "accountkey",
            "apiKey",
            "sas_token",
            "sas",
            "token",
            "session_token",
            "client_secret",
            "connection_string",
            "azure_storage_connection_string",
            "service_account_key",
            "credentials",
            "sse_customer_key_base64",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "region",
            "endpoint",
            "account",
            "sasl.mechanism",
            "sasl.username",
            "security.protocol",
            "ssl.key.location",
            "ssl.ca.pem",
            "sasl.oauthbearer.token.endpoint.url",
            "azure_federated_token_file",
            "sse_kms_key_id",
            "aws_sse_bucket_key_enabled",
            "service_account_path",
            "google_application_credentials",
            "monkey.business",
            "keystone",
        ] {
            // `monkey` ends in `key`: a false alarm that costs a reference is accepted, a leaked secret is not.
            assert_eq!(is_secret_name(name), name == "monkey.business", "{name}");
        }
    }
}
