//! Files of their own beside a spec, such as training sets: from the text to a struct in the right shape, and to everything that is
//! wrong with it, each at its line and column.

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::check::{Finding, find_secrets, mask, mask_lines, of_text};
use super::problem::{Problem, SpecErrors};
use super::structure;
use super::yaml::{self, Document, Node};

/// The text of such a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct DocumentText<'a> {
    pub(super) text: &'a str,
    /// Its name in messages.
    pub(super) file: &'a str,
    pub(super) document: Document,
    /// Pointers below which everything is data, whatever it is called.
    pub(super) data: &'a [&'a str],
}

impl DocumentText<'_> {
    /// What is written, if it fits `schema`.
    pub(super) fn parse<T: DeserializeOwned>(&self, schema: &Json) -> Result<T, SpecErrors> {
        let parsed = yaml::parse_as(self.text, self.document);
        let (value, findings) = match &parsed.root {
            Some(root) => structure::walk(schema, root, self.document),
            None => (Json::Null, Vec::new()),
        };
        let mut problems: Vec<Problem> =
            parsed.problems.into_iter().map(|problem| of_text(problem, self.file)).collect();
        let locations = parsed.root.as_ref().map(Node::locations).unwrap_or_default();
        problems.extend(findings.into_iter().map(|finding| finding.into_problem(self.file, &locations)));
        if !problems.is_empty() {
            return Err(self.wrong(problems));
        }
        serde_json::from_value(value).map_err(|error| {
            let message = format!("the {} is wrong: {error}", self.document.noun());
            SpecErrors::of_file(self.file, message, None)
        })
    }

    /// All that was found in a text of the right shape.
    pub(super) fn refused(&self, findings: Vec<Finding>) -> SpecErrors {
        let root = yaml::parse_as(self.text, self.document).root;
        let locations = root.as_ref().map(Node::locations).unwrap_or_default();
        let problems = findings.into_iter().map(|finding| finding.into_problem(self.file, &locations));
        self.wrong(problems.collect())
    }

    fn wrong(&self, mut problems: Vec<Problem>) -> SpecErrors {
        problems.sort_by(|a, b| (a.line, a.column, &a.message).cmp(&(b.line, b.column, &b.message)));
        problems.dedup();
        // Such a file has no place for secrets; what may be one all the same is not shown.
        let shown = match yaml::parse_as(self.text, self.document).root {
            Some(root) => {
                let mut places = Vec::new();
                find_secrets(&root, "", self.data, &mut places);
                mask(self.text, &root, &places)
            }
            None => mask_lines(self.text),
        };
        let masked_texts = [(self.file.to_owned(), shown)].into();
        SpecErrors { file: self.file.to_owned(), problems, masked_texts }
    }
}
