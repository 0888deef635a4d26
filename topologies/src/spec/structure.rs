//! The shape of a spec, checked against its JSON Schema: every problem, each at its line and column.
//!
//! serde stops at the first mistake and knows no places, so the tree is walked beside the schema instead. What is
//! wrong is reported and left out of the value that the walk gives back, so that the rest can be checked further:
//! a typo in one field hides no problem of another. Only the keywords in `KEYWORDS` are understood; a test holds
//! the schema to them.

use serde_json::{Map, Value as Json};

use super::check::{Finding, Place};
use super::suggest::{did_you_mean, nearest, one_of};
use super::yaml::{Document, Entry, Node, Value, pointer_to};
use super::{raw, units};

/// The keywords of JSON Schema that [`walk`] understands or may ignore.
#[cfg(test)]
pub(super) const KEYWORDS: &[&str] = &[
    // Checked.
    "$ref",
    "additionalProperties",
    "anyOf",
    "const",
    "enum",
    "items",
    "maxProperties",
    "minLength",
    "minProperties",
    "oneOf",
    "pattern",
    "properties",
    "propertyNames",
    "required",
    "type",
    // Checked with the whole spec, by what reads the number.
    "format",
    "maximum",
    "minimum",
    // Of no effect on what is valid.
    "$defs",
    "$schema",
    "default",
    "description",
    "examples",
    "title",
];

/// The parts of `root`, which is a `document`, that fit `schema`, and what is wrong with the others.
pub(super) fn walk(schema: &Json, root: &Node, document: Document) -> (Json, Vec<Finding>) {
    let mut walker = Walker { root: schema, document, findings: Vec::new() };
    let value = walker.walk(schema, root, "").unwrap_or(Json::Null);
    (value, walker.findings)
}

/// Whether `pattern` is one of those checked: here, or for the types of fields when they are resolved.
#[cfg(test)]
pub(super) fn knows_pattern(pattern: &str) -> bool {
    let is_field_type = pattern.starts_with("^(decimal|list|struct|map)");
    is_field_type || PATTERNS.iter().any(|known| known.pattern == pattern)
}

/// Why a text does not fit its pattern, and what may have been meant.
type Misfit = (String, Option<String>);

/// A pattern of the schema and the code that checks it, with better words than "does not match".
struct Pattern {
    pattern: &'static str,
    /// What a text of this pattern is.
    what: &'static str,
    check: fn(&str) -> Result<(), Misfit>,
}

const PATTERNS: &[Pattern] = &[
    Pattern { pattern: raw::TOPOLOGY_NAME_PATTERN, what: "a name", check: |text| check_name(text, "-_", 64) },
    Pattern { pattern: raw::CLOUD_NAME_PATTERN, what: "a name", check: |text| check_name(text, "-_", 32) },
    Pattern { pattern: raw::TABLE_NAME_PATTERN, what: "a name", check: check_table_name },
    Pattern { pattern: raw::TOPIC_PATTERN, what: "the name of a topic", check: check_topic },
    Pattern { pattern: raw::GROUP_PATTERN, what: "the name of a consumer group", check: check_group },
    Pattern { pattern: raw::COMPRESSION_PATTERN, what: "a compression", check: check_compression },
    Pattern {
        pattern: units::DURATION_PATTERN,
        what: "a duration",
        check: |text| checked(text.parse::<units::HumanDuration>()),
    },
    Pattern {
        pattern: units::PERCENT_PATTERN,
        what: "a share",
        check: |text| checked(text.parse::<units::Percent>()),
    },
    Pattern {
        pattern: units::SIZE_PATTERN,
        what: "a size",
        check: |text| checked(text.parse::<units::ByteSize>()),
    },
];

fn checked<T>(parsed: Result<T, units::UnitError>) -> Result<(), Misfit> {
    parsed.map(drop).map_err(|error| (error.to_string(), None))
}

fn check_name(text: &str, marks: &str, length_max: usize) -> Result<(), Misfit> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || marks.contains(c);
    if (1..=length_max).contains(&text.len()) && text.chars().all(fits) {
        return Ok(());
    }
    let allowed: String = marks.chars().map(|mark| format!(", `{mark}`")).collect();
    let message = format!(
        "`{text}` is not a name here: only lower-case letters, digits{allowed}, at most {length_max} characters"
    );
    let lowered = text.trim().to_lowercase();
    let slug: String = lowered.chars().map(|c| if fits(c) { c } else { '_' }).take(length_max).collect();
    let is_useful = slug.chars().any(|c| c.is_ascii_alphanumeric());
    Err((message, is_useful.then(|| format!("`{slug}`, for example"))))
}

fn check_table_name(text: &str) -> Result<(), Misfit> {
    check_name(text, "_", 64)?;
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let message = format!("`{text}` is not a name here: SQL names do not start with a digit");
        return Err((message, Some(format!("`_{text}`, for example"))));
    }
    Ok(())
}

fn check_topic(text: &str) -> Result<(), Misfit> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=249).contains(&text.len()) && text.chars().all(fits) && text != "." && text != ".." {
        return Ok(());
    }
    let message = format!(
        "`{text}` is not the name of a Kafka topic: only ASCII letters, digits, `.`, `_` and `-`, at most 249 characters"
    );
    Err((message, None))
}

fn check_group(text: &str) -> Result<(), Misfit> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=200).contains(&text.len()) && text.chars().all(fits) {
        return Ok(());
    }
    let message = format!(
        "`{text}` cannot be the name of a consumer group here: only ASCII letters, digits, `.`, `_` and `-`, at most 200 characters"
    );
    Err((message, None))
}

fn check_compression(text: &str) -> Result<(), Misfit> {
    if text.parse::<super::Compression>().is_ok() {
        return Ok(());
    }
    let suggestion = "expected `zstd(1)` to `zstd(22)`, `snappy` or `none`";
    Err((format!("unknown compression `{text}`"), Some(suggestion.into())))
}

/// The kinds of values that a schema can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    Text,
    List,
    Map,
}

impl Kind {
    fn named(name: &str) -> Option<Kind> {
        Some(match name {
            "null" => Kind::Null,
            "boolean" => Kind::Boolean,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "string" => Kind::Text,
            "array" => Kind::List,
            "object" => Kind::Map,
            _ => return None,
        })
    }

    fn of_json(value: &Json) -> Kind {
        match value {
            Json::Null => Kind::Null,
            Json::Bool(_) => Kind::Boolean,
            Json::Number(number) if number.is_f64() => Kind::Number,
            Json::Number(_) => Kind::Integer,
            Json::String(_) => Kind::Text,
            Json::Array(_) => Kind::List,
            Json::Object(_) => Kind::Map,
        }
    }

    fn of_node(node: &Node) -> Kind {
        match node.value {
            Value::Null => Kind::Null,
            Value::Boolean(_) => Kind::Boolean,
            Value::Integer(_) => Kind::Integer,
            Value::Float(_) => Kind::Number,
            Value::Text(_) => Kind::Text,
            Value::List(_) => Kind::List,
            Value::Map(_) => Kind::Map,
        }
    }

    fn accepts(self, found: Kind) -> bool {
        self == found || (self == Kind::Number && found == Kind::Integer)
    }

    fn describe(self) -> &'static str {
        match self {
            Kind::Null => "nothing",
            Kind::Boolean => "true or false",
            Kind::Integer => "a whole number",
            Kind::Number => "a number",
            Kind::Text => "a text",
            Kind::List => "a list",
            Kind::Map => "a mapping",
        }
    }
}

/// What the spec has, in words.
fn describe_found(node: &Node) -> String {
    match &node.value {
        Value::Null => "nothing".into(),
        Value::Boolean(value) => format!("`{value}`"),
        Value::Integer(value) => format!("the number {value}"),
        Value::Float(value) => format!("the number {value}"),
        Value::Text(_) => "a text".into(),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a mapping".into(),
    }
}

/// What a schema asks for, in words, with its example.
fn describe_asked(schema: &Json, kinds: &[Kind]) -> String {
    let pattern = schema.get("pattern").and_then(Json::as_str);
    let what = match pattern.and_then(|pattern| PATTERNS.iter().find(|known| known.pattern == pattern)) {
        Some(known) => known.what.to_owned(),
        None => {
            let kinds = kinds.iter().filter(|kind| **kind != Kind::Null).map(|kind| kind.describe());
            kinds.collect::<Vec<_>>().join(" or ")
        }
    };
    match schema.pointer("/examples/0").and_then(Json::as_str) {
        Some(example) => format!("{what} such as `{example}`"),
        None => what,
    }
}

/// A value by the last step of its pointer: "`brokers`", "item 2 of `expect`"; the whole is "the document".
pub(super) fn describe_place(pointer: &str) -> String {
    let Some((parent, last)) = pointer.rsplit_once('/') else { return "the document".into() };
    let name = last.replace("~1", "/").replace("~0", "~");
    match name.parse::<usize>() {
        Ok(index) if !parent.is_empty() => format!("item {} of {}", index + 1, describe_place(parent)),
        _ => format!("`{name}`"),
    }
}

struct Walker<'a> {
    root: &'a Json,
    document: Document,
    findings: Vec<Finding>,
}

impl<'a> Walker<'a> {
    /// The value of `node` as far as it fits `schema`; `None` where nothing of it does.
    fn walk(&mut self, schema: &'a Json, node: &Node, pointer: &str) -> Option<Json> {
        let schema = self.follow(schema);
        if let Some(literals) = self.literals(schema) {
            return self.walk_literal(&literals, node, pointer);
        }
        if let Some(branches) = branches(schema) {
            return self.walk_branches(schema, branches, node, pointer);
        }
        let kinds = self.kinds(schema);
        if !kinds.is_empty() && !kinds.iter().any(|kind| kind.accepts(Kind::of_node(node))) {
            self.report_kind(schema, &kinds, node, pointer);
            return None;
        }
        match &node.value {
            Value::Map(entries) => Some(self.walk_map(schema, entries, pointer)),
            Value::List(items) => Some(self.walk_list(schema, items, pointer)),
            Value::Text(text) => self.walk_text(schema, text, pointer),
            _ => Some(node.to_json()),
        }
    }

    /// The schema that a `$ref` stands for. The references of a generated schema always lead somewhere.
    fn follow(&self, mut schema: &'a Json) -> &'a Json {
        while let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            match self.root.pointer(reference.trim_start_matches('#')) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// The texts that a schema of fixed values allows; `None` for any other schema.
    fn literals(&self, schema: &'a Json) -> Option<Vec<&'a str>> {
        if let Some(literal) = schema.get("const") {
            return Some(vec![literal.as_str()?]);
        }
        if let Some(literals) = schema.get("enum").and_then(Json::as_array) {
            return literals.iter().map(Json::as_str).collect();
        }
        let mut literals = Vec::new();
        for branch in branches(schema)? {
            literals.extend(self.literals(self.follow(branch))?);
        }
        Some(literals)
    }

    fn walk_literal(&mut self, literals: &[&str], node: &Node, pointer: &str) -> Option<Json> {
        let name = self.describe(pointer);
        let expected = one_of(literals.iter().copied()).unwrap_or_default();
        match &node.value {
            Value::Text(text) if literals.contains(&text.as_str()) => {
                return Some(Json::String(text.clone()));
            }
            Value::Text(text) => {
                let suggestion = did_you_mean(text, literals.iter().copied());
                self.report(pointer, Place::Value, format!("unknown value `{text}` for {name}"), suggestion);
            }
            _ => {
                let message = format!("{name} must be {expected}, found {}", describe_found(node));
                self.report(pointer, Place::Value, message, None);
            }
        }
        None
    }

    /// Checks `node` against the branch it was meant for: the one of its kind, or the one it fits best.
    fn walk_branches(
        &mut self,
        schema: &'a Json,
        branches: &'a [Json],
        node: &Node,
        pointer: &str,
    ) -> Option<Json> {
        let found = Kind::of_node(node);
        let fitting = branches.iter().filter(|branch| {
            let kinds = self.kinds(self.follow(branch));
            kinds.is_empty() || kinds.iter().any(|kind| kind.accepts(found))
        });
        let attempts = fitting.map(|branch| {
            let mut attempt = Walker { root: self.root, document: self.document, findings: Vec::new() };
            let value = attempt.walk(branch, node, pointer);
            (attempt.findings, value)
        });
        match attempts.min_by_key(|(findings, _)| findings.len()) {
            Some((findings, value)) => {
                self.findings.extend(findings);
                value
            }
            None => {
                let kinds = self.kinds(schema);
                self.report_kind(schema, &kinds, node, pointer);
                None
            }
        }
    }

    /// The kinds of values that `schema` allows; empty for any.
    fn kinds(&self, schema: &'a Json) -> Vec<Kind> {
        if let Some(literals) = schema.get("const").map(std::slice::from_ref) {
            return literals.iter().map(Kind::of_json).collect();
        }
        match schema.get("type") {
            Some(Json::String(name)) => Kind::named(name).into_iter().collect(),
            Some(Json::Array(names)) => {
                names.iter().filter_map(Json::as_str).filter_map(Kind::named).collect()
            }
            _ => branches(schema)
                .unwrap_or_default()
                .iter()
                .flat_map(|branch| self.kinds(self.follow(branch)))
                .collect(),
        }
    }

    fn walk_map(&mut self, schema: &'a Json, entries: &[Entry], pointer: &str) -> Json {
        let properties = schema.get("properties").and_then(Json::as_object);
        let additional = schema.get("additionalProperties");
        let mut map = Map::new();
        for entry in entries {
            let below = pointer_to(pointer, &entry.key);
            self.check_key(schema, entry, &below);
            let property = properties.and_then(|properties| properties.get(&entry.key));
            let value = match property.or(additional) {
                Some(Json::Bool(false)) => {
                    self.report_unknown(properties, &entry.key, pointer, &below);
                    None
                }
                Some(schema) => self.walk(schema, &entry.value, &below),
                None => Some(entry.value.to_json()),
            };
            if let Some(value) = value {
                map.insert(entry.key.clone(), value);
            }
        }
        self.check_required(schema, properties, entries, pointer);
        self.check_size(schema, entries, pointer);
        Json::Object(map)
    }

    fn check_key(&mut self, schema: &'a Json, entry: &Entry, pointer: &str) {
        let pattern = schema.pointer("/propertyNames/pattern").and_then(Json::as_str);
        if let Some(Err((message, suggestion))) =
            pattern.and_then(|pattern| check_pattern(pattern, &entry.key))
        {
            self.report(pointer, Place::Key, message, suggestion);
        }
    }

    fn check_required(
        &mut self,
        schema: &Json,
        properties: Option<&Map<String, Json>>,
        entries: &[Entry],
        pointer: &str,
    ) {
        for name in
            schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
        {
            // A misspelt field is one mistake: it is reported as unknown, not as missing too.
            let is_meant_by = |entry: &Entry| {
                let names =
                    || properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str));
                entry.key == name
                    || (!names().any(|known| known == entry.key)
                        && nearest(&entry.key, names()) == Some(name))
            };
            if entries.iter().any(is_meant_by) {
                continue;
            }
            let property = properties.and_then(|properties| properties.get(name));
            let message = match pointer {
                "" => format!("missing field `{name}`"),
                _ => format!("missing field `{name}` in {}", self.describe(pointer)),
            };
            self.report(
                pointer,
                Place::Key,
                message,
                property.and_then(|property| how_to_add(name, property)),
            );
        }
    }

    fn check_size(&mut self, schema: &Json, entries: &[Entry], pointer: &str) {
        let bound = |keyword: &str| schema.get(keyword).and_then(Json::as_u64);
        let name = self.describe(pointer);
        if entries.is_empty() && bound("minProperties").is_some_and(|least| least > 0) {
            self.report(pointer, Place::Key, format!("{name} is empty"), None);
        }
        let Some(most) = bound("maxProperties") else { return };
        if let Some(entry) = usize::try_from(most).ok().and_then(|most| entries.get(most)) {
            let message = format!("{name} has {} entries; at most {most} are possible", entries.len());
            self.report(&pointer_to(pointer, &entry.key), Place::Key, message, None);
        }
    }

    fn walk_list(&mut self, schema: &'a Json, items: &[Node], pointer: &str) -> Json {
        let Some(item_schema) = schema.get("items") else {
            return Json::Array(items.iter().map(Node::to_json).collect());
        };
        // An item that does not fit leaves `null` behind, so that the indexes of the others stay.
        let walked = items.iter().enumerate().map(|(index, item)| {
            self.walk(item_schema, item, &format!("{pointer}/{index}")).unwrap_or(Json::Null)
        });
        Json::Array(walked.collect())
    }

    fn walk_text(&mut self, schema: &Json, text: &str, pointer: &str) -> Option<Json> {
        let pattern = schema.get("pattern").and_then(Json::as_str);
        if let Some(Err((message, suggestion))) = pattern.and_then(|pattern| check_pattern(pattern, text)) {
            self.report(pointer, Place::Value, message, suggestion);
            return None;
        }
        if text.is_empty() && schema.get("minLength").and_then(Json::as_u64).is_some_and(|least| least > 0) {
            self.report(pointer, Place::Value, format!("{} is empty", self.describe(pointer)), None);
            return None;
        }
        Some(Json::String(text.to_owned()))
    }

    fn report_kind(&mut self, schema: &Json, kinds: &[Kind], node: &Node, pointer: &str) {
        let name = self.describe(pointer);
        let asked = describe_asked(schema, kinds);
        if node.value == Value::Null {
            return self.report(
                pointer,
                Place::Key,
                format!("{name} is empty"),
                Some(format!("expected {asked}")),
            );
        }
        let message = format!("{name} must be {asked}, found {}", describe_found(node));
        self.report(pointer, Place::Value, message, how_to_rewrite(schema, kinds, node));
    }

    fn report_unknown(
        &mut self,
        properties: Option<&Map<String, Json>>,
        key: &str,
        parent: &str,
        pointer: &str,
    ) {
        let message = match parent {
            "" => format!("unknown field `{key}`"),
            _ => format!("unknown field `{key}` in {}", self.describe(parent)),
        };
        let names = || properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str));
        let suggestion = match nearest(key, names()) {
            Some(name) => Some(format!("did you mean `{name}`?")),
            None => match self.home_of(key).as_slice() {
                [home] => Some(format!("`{key}` is a field of {home}")),
                _ => one_of(names()).map(|list| format!("expected {list}")),
            },
        };
        self.report(pointer, Place::Key, message, suggestion);
    }

    /// Where else a field of this name belongs.
    fn home_of(&self, key: &str) -> Vec<String> {
        let top = self.root.get("properties").and_then(Json::as_object).into_iter().flatten();
        let sections = top.filter_map(|(section, schema)| {
            let schema = self.follow(schema);
            let entry = schema.get("additionalProperties").filter(|entry| entry.is_object());
            let is_home =
                |schema: &Json| schema.get("properties").is_some_and(|names| names.get(key).is_some());
            if is_home(schema) {
                Some(format!("`{section}`"))
            } else {
                entry
                    .map(|entry| self.follow(entry))
                    .filter(|entry| is_home(entry))
                    .map(|_| format!("each of `{section}`"))
            }
        });
        let itself = self.root.pointer(&format!("/properties/{key}"));
        let itself = itself.map(|_| format!("the {} itself", self.document.noun()));
        sections.chain(itself).collect()
    }

    /// As [`describe_place`], and the whole by its name.
    fn describe(&self, pointer: &str) -> String {
        match pointer {
            "" => format!("the {}", self.document.noun()),
            _ => describe_place(pointer),
        }
    }

    fn report(&mut self, pointer: &str, place: Place, message: String, suggestion: Option<String>) {
        self.findings.push(Finding { pointer: pointer.to_owned(), place, message, suggestion });
    }
}

fn branches(schema: &Json) -> Option<&[Json]> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Json::as_array).map(Vec::as_slice)
}

fn check_pattern(pattern: &str, text: &str) -> Option<Result<(), Misfit>> {
    PATTERNS.iter().find(|known| known.pattern == pattern).map(|known| (known.check)(text))
}

/// Help for a value that is nearly right: a number or `true` where a text is asked for, one text where a list is.
fn how_to_rewrite(schema: &Json, kinds: &[Kind], node: &Node) -> Option<String> {
    let is_scalar = !matches!(node.value, Value::Map(_) | Value::List(_));
    let is_free_text = schema.get("pattern").is_none() && schema.get("examples").is_none();
    if is_scalar && kinds.contains(&Kind::Text) && is_free_text {
        return Some(format!("put it in quotes: \"{}\"", scalar_text(node)));
    }
    match &node.value {
        Value::Text(text) if kinds == [Kind::List] => Some(format!("write a list: `[{text}]`")),
        _ => None,
    }
}

fn scalar_text(node: &Node) -> String {
    match &node.value {
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(value) => value.clone(),
        Value::Null | Value::List(_) | Value::Map(_) => String::new(),
    }
}

/// Help for a missing field: an example if its schema has a short one, else the first sentence of its description.
fn how_to_add(name: &str, property: &Json) -> Option<String> {
    if let Some(example) = property.pointer("/examples/0").and_then(Json::as_str) {
        return Some(format!("add `{name}: {example}`"));
    }
    let description = property.get("description").and_then(Json::as_str)?;
    let end = [". ", ": ", "; "].iter().filter_map(|mark| description.find(mark)).min();
    let phrase = &description[..end.unwrap_or(description.len())];
    Some(format!("add `{name}`: {}", phrase.trim_end_matches('.')))
}
