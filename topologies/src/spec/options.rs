//! The options of the clients for Kafka and for the clouds: names that exist, values that are theirs, no secrets
//! inline.
//!
//! What a name means and which are isobar's own is the business of the client; here it is asked, and its answer is
//! put where the option stands. Values that hold references are looked up only when asked for.

use std::collections::BTreeMap;

use url::Url;

use super::check::Place;
use super::location::has_credentials;
use super::raw::OptionValue;
use super::resolve::{Resolver, split_help};
use super::secret::{TemplateError, Text, is_connection_string, is_secret_name};
use super::suggest::{did_you_mean, one_of};
use super::yaml::pointer_to;

/// Whose options they are.
pub(super) enum OptionsOf<'a> {
    Kafka,
    Registry,
    /// A cloud's; its client can be asked only if the URL says which it is.
    Cloud(Option<&'a Url>),
}

impl Resolver<'_> {
    /// The options at `pointer`, each checked. `None` when one of them is wrong.
    pub(super) fn client_options(
        &mut self,
        pointer: &str,
        whose: &OptionsOf<'_>,
    ) -> Option<BTreeMap<String, Text>> {
        let found_before = self.found();
        let mut options = BTreeMap::new();
        for name in self.names(pointer) {
            let below = pointer_to(pointer, &name);
            let Some(OptionValue(value)) = self.required(&below) else { continue };
            if let Some(text) = self.option_text(&below, &name, &value) {
                options.insert(name, text);
            }
        }
        self.check_with_client(pointer, whose, &options);
        (self.found() == found_before).then_some(options)
    }

    pub(super) fn option_text(&mut self, pointer: &str, name: &str, value: &str) -> Option<Text> {
        let is_secret = is_secret_name(name);
        let text = match Text::parse(value, self.folder) {
            Ok(text) => text,
            // A password may hold a `${` of its own; only what looks like a forgotten `env:` is repeated.
            Err(_) if is_secret && forgotten_kind(value).is_none() => {
                self.report_inline_secret(pointer, name);
                return None;
            }
            Err(error) => {
                self.report(pointer, Place::Value, error.to_string(), how_to_refer(&error));
                return None;
            }
        };
        // Only a connection string is text around its secret.
        let is_hidden = text.is_only_references() || (text.has_reference() && is_connection_string(name));
        if (is_secret && !is_hidden) || has_credentials(value) {
            self.report_inline_secret(pointer, name);
            return None;
        }
        if self.options.resolve_secrets
            && let Err(error) = text.resolve()
        {
            self.report(pointer, Place::Value, crate::chain_of(&error), None);
        }
        Some(text)
    }

    fn report_inline_secret(&mut self, pointer: &str, name: &str) {
        self.secret_places.push(pointer.to_owned());
        let variable = variable_for(pointer, name);
        let message = format!("`{name}` is a secret, and secrets do not stand in a spec");
        let suggestion = format!(
            "put it in the environment or in a file and write \"${{env:{variable}}}\" or \"${{file:path}}\""
        );
        self.report(pointer, Place::Value, message, Some(suggestion));
    }

    /// What the client that takes the options thinks of their names, and of the values that are no references.
    fn check_with_client(&mut self, pointer: &str, whose: &OptionsOf<'_>, options: &BTreeMap<String, Text>) {
        let written: BTreeMap<String, String> =
            options.iter().map(|(name, text)| (name.clone(), text.template().to_owned())).collect();
        let problems: Vec<(String, String)> = match whose {
            OptionsOf::Kafka => isobar_connectors::kafka::check_options(&written)
                .into_iter()
                .map(|found| (found.option, found.problem))
                .collect(),
            OptionsOf::Cloud(Some(url)) => isobar_connectors::clouds::check_options(url, &written)
                .into_iter()
                .map(|found| (found.option, found.problem))
                .collect(),
            OptionsOf::Cloud(None) => Vec::new(),
            OptionsOf::Registry => check_registry_options(&written),
        };
        for (name, problem) in problems {
            // Problems that begin with "is" speak of the option, the others of its value.
            let is_about_option = problem.starts_with("is ");
            let is_reference = options.get(&name).is_some_and(Text::has_reference);
            if is_reference && !is_about_option {
                continue;
            }
            let (message, suggestion) = split_help(&problem);
            let message = if is_about_option { format!("`{name}` {message}") } else { message.to_owned() };
            let place = if is_about_option { Place::Key } else { Place::Value };
            self.report(pointer_to(pointer, &name), place, message, suggestion);
        }
    }
}

const REGISTRY_OPTIONS: [&str; 5] = ["username", "password", "token", "ca_pem", "identity_pem"];

/// Names that no registry's client knows, and names that do not go together.
fn check_registry_options(options: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    for name in options.keys().filter(|name| !REGISTRY_OPTIONS.contains(&name.as_str())) {
        let help = did_you_mean(name, REGISTRY_OPTIONS).or_else(|| one_of(REGISTRY_OPTIONS));
        problems.push((name.clone(), format!("is no option of a registry; {}", help.unwrap_or_default())));
    }
    let has = |name: &str| options.contains_key(name);
    if has("token") && (has("username") || has("password")) {
        problems
            .push(("token".into(), "is given beside a user name or password; give one or the other".into()));
    } else if has("password") && !has("username") {
        problems.push(("password".into(), "is given without its `username`; add it".into()));
    }
    problems
}

/// A name for the environment variable that could hold the option `name`: `AWS_ACCESS_KEY_ID`.
fn variable_for(pointer: &str, name: &str) -> String {
    let owner =
        pointer.trim_start_matches("/clouds").split('/').find(|step| !step.is_empty()).unwrap_or_default();
    let upper = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
    };
    let (owner, name) = (upper(owner), upper(name));
    if name.starts_with(&owner) { name } else { format!("{owner}_{name}") }
}

fn how_to_refer(error: &TemplateError) -> Option<String> {
    let TemplateError::UnknownKind(written) = error else {
        return Some("write `$${` where a plain `${` is meant".into());
    };
    let name = written.split_once(':').map_or(written.as_str(), |(_, name)| name);
    let is_variable = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_variable.then(|| format!("did you mean `${{env:{name}}}`?"))
}

/// The name in `${NAME}`, if that is all of `value` and looks like an environment variable.
fn forgotten_kind(value: &str) -> Option<&str> {
    let name = value.strip_prefix("${")?.strip_suffix('}')?;
    let is_variable =
        !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    is_variable.then_some(name)
}
