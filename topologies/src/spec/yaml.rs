//! YAML text → a tree in which every key and value knows its line and column.
//!
//! Parsing is bounded: 1 MiB of text, 64 levels, and the parser's own budget of nodes that aliases may expand to.
//! Keys are plain texts. A key written twice is a problem, and so is anything a topology has no use for (tags,
//! several documents). Where parsing can go on after a problem it does, so that one run reports them all.
//!
//! The parser recurses per level and counts a mapping's key as one node however large it is. So before it runs,
//! [`check_nesting`] bounds the levels of block collections (the scanner bounds flow collections itself), and where
//! a text has anchors a first pass with all aliases disarmed refuses every key that is not a plain text.

use std::collections::BTreeMap;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use serde_json::{Number, Value as Json};

use super::problem::Position;

/// Upper bound of a spec's text.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Upper bound of a spec's nesting.
pub const DEPTH_MAX: usize = 64;

/// Upper bound of the block levels handed to the parser; above it even recursion would be a risk.
const BLOCK_LEVELS_MAX: usize = 256;

/// Duplicate keys reported before giving up.
const DUPLICATES_MAX: usize = 64;

/// First of the private characters that mark a key as a duplicate. See [`parse`].
const DUPLICATE_MARK: u32 = 0xE000;

/// The private character that stands for the `*` of a disarmed alias.
const DISARMED_ALIAS: char = '\u{E100}';

/// What a text is, for the messages about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// A topology.
    Spec,
    /// The contract of a dataset.
    Contract,
    /// A training set.
    TrainingSet,
    /// A model as MLflow describes it.
    MlModel,
    /// A gateway.
    Gateway,
}

impl Document {
    /// The word for it.
    pub fn noun(self) -> &'static str {
        match self {
            Document::Spec => "spec",
            Document::Contract => "contract",
            Document::TrainingSet => "training set",
            Document::MlModel => "MLmodel",
            Document::Gateway => "gateway",
        }
    }

    fn how_to_begin(self) -> &'static str {
        match self {
            Document::Spec => "`isobar schema` prints what a spec may hold, with an example",
            Document::Contract => "`isobar schema contract` prints what a contract may hold, with an example",
            Document::TrainingSet => {
                "`isobar schema training-set` prints what a training set may hold, with an example"
            }
            Document::MlModel => "`mlflow.onnx.save_model` writes one",
            Document::Gateway => "`isobar schema gateway` prints what a gateway may hold, with an example",
        }
    }

    fn one_per_file(self) -> &'static str {
        match self {
            Document::Spec => "one file describes one topology",
            Document::Contract => "one file holds one contract",
            Document::TrainingSet => "one file describes one training set",
            Document::MlModel => "one file describes one model",
            Document::Gateway => "one file describes one gateway",
        }
    }
}

/// A value of the tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where the value starts: for a block scalar the first character of its text, for a block mapping its first key.
    pub position: Position,
    /// Where it ends, exclusive.
    pub end: Position,
    /// How many characters of its first line it takes, at least 1.
    pub width: usize,
    /// What it is.
    pub value: Value,
}

/// What a [`Node`] holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing: `~`, `null`, or no text at all.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// `- a` or `[a]`.
    List(Vec<Node>),
    /// `key: value` or `{key: value}`, in the order of the text.
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key starts.
    pub key_position: Position,
    /// The value.
    pub value: Node,
}

/// Where a value lies, by its JSON pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The key that leads to it, with its width in characters; `None` for items of lists and the root.
    pub key: Option<(Position, usize)>,
    /// The value itself, with its width in characters.
    pub value: (Position, usize),
}

/// A problem of the text itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextProblem {
    /// Where.
    pub position: Position,
    /// JSON pointer to the mapping or list it was found in, where known.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub suggestion: Option<String>,
}

/// What parsing gives: a tree if there is one, and everything that is wrong with the text.
#[derive(Debug)]
pub struct Parsed {
    /// The document, without the entries that are problems. `None` when the text is no YAML.
    pub root: Option<Node>,
    /// Problems, in no particular order.
    pub problems: Vec<TextProblem>,
}

/// The JSON pointer of `child` below `parent` (RFC 6901).
pub fn pointer_to(parent: &str, child: &str) -> String {
    format!("{parent}/{}", child.replace('~', "~0").replace('/', "~1"))
}

impl Node {
    /// The value as JSON. Numbers that JSON lacks become texts.
    pub fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Boolean(value) => Json::Bool(*value),
            Value::Integer(value) => Json::Number((*value).into()),
            Value::Float(value) => {
                Number::from_f64(*value).map_or_else(|| Json::String(value.to_string()), Json::Number)
            }
            Value::Text(value) => Json::String(value.clone()),
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect())
            }
        }
    }

    /// Where everything below this node lies, by JSON pointer.
    pub fn locations(&self) -> BTreeMap<String, Location> {
        let mut locations = BTreeMap::new();
        collect_locations(self, None, String::new(), &mut locations);
        locations
    }
}

fn collect_locations(
    node: &Node,
    key: Option<(Position, usize)>,
    pointer: String,
    locations: &mut BTreeMap<String, Location>,
) {
    match &node.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_locations(item, None, format!("{pointer}/{index}"), locations);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let key = (entry.key_position, entry.key.chars().count().max(1));
                collect_locations(&entry.value, Some(key), pointer_to(&pointer, &entry.key), locations);
            }
        }
        _ => {}
    }
    locations.insert(pointer, Location { key, value: (node.position, node.width) });
}

/// Parses the text of a spec; see [`parse_as`].
pub fn parse(text: &str) -> Parsed {
    parse_as(text, Document::Spec)
}

/// Parses the text of a `document`.
///
/// saphyr stops at the first key written twice. To report them all, the first character of the second key is
/// replaced by a private one (columns stay as they are) and the text is parsed again; marked keys are left out of
/// the tree.
pub fn parse_as(text: &str, document: Document) -> Parsed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Err(problem) = check_bounds(text, document).and_then(|()| check_anchored_keys(text)) {
        return Parsed { root: None, problems: vec![problem] };
    }
    let mut problems = Vec::new();
    let mut characters: Vec<char> = text.chars().collect();
    loop {
        let source: String = characters.iter().collect();
        match MarkedYaml::load_from_str(&source) {
            Ok(documents) => {
                let root = convert_document(&documents, text, document, &mut problems);
                return Parsed { root, problems };
            }
            Err(error) => {
                let problem = describe(&error, text);
                let is_duplicate = error.info() == "duplicated key in mapping";
                problems.push(problem);
                let mark = DUPLICATE_MARK + u32::try_from(problems.len()).unwrap_or(u32::MAX);
                if !is_duplicate
                    || problems.len() > DUPLICATES_MAX
                    || !mark_duplicate(&mut characters, error.marker().index(), mark)
                {
                    return Parsed { root: None, problems };
                }
            }
        }
    }
}

/// Replaces the first character of the key at `index` by the character `mark`. Whether there was one.
fn mark_duplicate(characters: &mut [char], index: usize, mark: u32) -> bool {
    let is_quote = |c: &char| *c == '"' || *c == '\'';
    let first = if characters.get(index).is_some_and(is_quote) { index + 1 } else { index };
    match (characters.get_mut(first), char::from_u32(mark)) {
        (Some(character), Some(mark)) if character.is_alphanumeric() || *character == '_' => {
            *character = mark;
            true
        }
        _ => false,
    }
}

fn is_marked_duplicate(key: &str) -> bool {
    let marks = DUPLICATE_MARK..=DUPLICATE_MARK + DUPLICATES_MAX as u32;
    key.chars().next().is_some_and(|first| marks.contains(&u32::from(first)))
}

fn check_bounds(text: &str, document: Document) -> Result<(), TextProblem> {
    let first = Position { line: 1, column: 1 };
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the {} is larger than {} MiB", document.noun(), TEXT_BYTES_MAX >> 20);
        return Err(TextProblem { position: first, pointer: String::new(), message, suggestion: None });
    }
    check_nesting(text)
}

/// Refuses texts whose block collections could nest deeper than the parser may recurse.
///
/// A block collection lies further right than the one around it (or in the same column, for a list in a mapping),
/// so the lines that enclose a line are those above it with ever smaller indents, and what they can open is bounded
/// by the indicators at their start. This counts too much rather than too little: text in block scalars is counted
/// like structure.
fn check_nesting(text: &str) -> Result<(), TextProblem> {
    let mut enclosing: Vec<(usize, usize)> = Vec::new();
    let mut levels = 0usize;
    for (index, line) in text.split(['\n', '\r']).enumerate() {
        let content = line.trim_start_matches([' ', '\t']);
        if content.is_empty() {
            continue;
        }
        let indent = line.len() - content.len();
        while let Some((_, opened)) = enclosing.pop_if(|(outer, _)| *outer >= indent) {
            levels -= opened;
        }
        let is_indicator = |word: &&str| matches!(*word, "-" | "?" | ":");
        let opened = 1 + content
            .split([' ', '\t'])
            .take_while(|word| word.is_empty() || is_indicator(word) || word.starts_with(['&', '!']))
            .filter(is_indicator)
            .count();
        enclosing.push((indent, opened));
        levels += opened;
        if levels > BLOCK_LEVELS_MAX {
            return Err(too_deep(Position { line: index + 1, column: 1 }, String::new()));
        }
    }
    Ok(())
}

/// Where a text has anchors: refuses keys that are lists, mappings or aliases, with all aliases disarmed. A text
/// that is no YAML passes; the parse proper reports it.
fn check_anchored_keys(text: &str) -> Result<(), TextProblem> {
    if !text.contains('&') {
        return Ok(());
    }
    let mut disarmed = String::with_capacity(text.len());
    let mut previous = ' ';
    for character in text.chars() {
        let starts_alias = character == '*' && (previous.is_whitespace() || "[]{},:-?\"'".contains(previous));
        disarmed.push(if starts_alias { DISARMED_ALIAS } else { character });
        previous = character;
    }
    let mut problem = None;
    for document in MarkedYaml::load_from_str(&disarmed).unwrap_or_default() {
        find_complex_key(&document, &mut problem);
    }
    problem.map_or(Ok(()), Err)
}

fn find_complex_key(node: &MarkedYaml<'_>, found: &mut Option<TextProblem>) {
    match &node.data {
        YamlData::Sequence(items) => items.iter().for_each(|item| find_complex_key(item, found)),
        YamlData::Mapping(entries) => {
            for (key, value) in entries {
                let is_plain = match &key.data {
                    YamlData::Value(Scalar::String(text)) => !text.starts_with(DISARMED_ALIAS),
                    YamlData::Value(_) => true,
                    _ => false,
                };
                if !is_plain && found.is_none() {
                    *found = Some(TextProblem {
                        position: position_of(&key.span.start),
                        pointer: String::new(),
                        message: "a key must be a plain text".into(),
                        suggestion: None,
                    });
                }
                find_complex_key(value, found);
            }
        }
        YamlData::Tagged(_, inner) => find_complex_key(inner, found),
        _ => {}
    }
}

fn too_deep(position: Position, pointer: String) -> TextProblem {
    let message = format!("nested deeper than {DEPTH_MAX} levels");
    TextProblem { position, pointer, message, suggestion: None }
}

fn position_of(marker: &saphyr::Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}

/// A parser's error in our words, with the usual ways out.
fn describe(error: &saphyr::ScanError, text: &str) -> TextProblem {
    let position = position_of(error.marker());
    let line = text.lines().nth(position.line - 1).unwrap_or_default();
    let problem = |message: String, suggestion: Option<&str>| TextProblem {
        position,
        pointer: String::new(),
        message,
        suggestion: suggestion.map(str::to_owned),
    };
    if error.info() == "duplicated key in mapping" {
        let rest: String = line.chars().skip(position.column - 1).collect();
        let key = rest.split(':').next().unwrap_or_default().trim_matches([' ', '"', '\'']);
        return problem(format!("`{key}` is here twice"), Some("remove or rename one of the two"));
    }
    let suggestion = if line.contains("${") {
        Some("put references in quotes: \"${env:NAME}\"")
    } else if line.trim_start_matches(' ').starts_with('\t') || error.info().contains("tab") {
        Some("indent with spaces, not tabs")
    } else if error.info().contains("mapping values are not allowed") {
        Some("put a text that contains `: ` in quotes")
    } else {
        None
    };
    problem(format!("not valid YAML: {}", error.info()), suggestion)
}

fn convert_document(
    documents: &[MarkedYaml<'_>],
    text: &str,
    document: Document,
    problems: &mut Vec<TextProblem>,
) -> Option<Node> {
    if let Some(second) = documents.get(1) {
        problems.push(TextProblem {
            position: position_of(&second.span.start),
            pointer: String::new(),
            message: "a second document starts here".into(),
            suggestion: Some(format!("{}: remove the `---` and what follows it", document.one_per_file())),
        });
    }
    let is_empty = |document: &&MarkedYaml<'_>| {
        matches!(document.data, YamlData::BadValue | YamlData::Value(Scalar::Null))
    };
    let Some(first) = documents.first().filter(|first| !is_empty(first)) else {
        problems.push(TextProblem {
            position: Position { line: 1, column: 1 },
            pointer: String::new(),
            message: format!("the {} is empty", document.noun()),
            suggestion: Some(document.how_to_begin().into()),
        });
        return None;
    };
    let lines = text.lines().collect();
    Converter { lines, problems }.convert(first, None, "", 0)
}

struct Converter<'a> {
    lines: Vec<&'a str>,
    problems: &'a mut Vec<TextProblem>,
}

impl Converter<'_> {
    /// The node for `yaml`; `None`, with a problem reported, when it has no use here. `key` is where its key lies:
    /// an absent value has no place of its own.
    fn convert(
        &mut self,
        yaml: &MarkedYaml<'_>,
        key: Option<Position>,
        pointer: &str,
        depth: usize,
    ) -> Option<Node> {
        let position = position_of(&yaml.span.start);
        if depth > DEPTH_MAX {
            self.problems.push(too_deep(position, pointer.to_owned()));
            return None;
        }
        let mut width = self.width(yaml);
        let mut place = position;
        let value = match &yaml.data {
            YamlData::Value(Scalar::Null) => {
                if let Some(key) = key {
                    (place, width) = (key, 1);
                }
                Value::Null
            }
            YamlData::Value(Scalar::Boolean(value)) => Value::Boolean(*value),
            YamlData::Value(Scalar::Integer(value)) => Value::Integer(*value),
            YamlData::Value(Scalar::FloatingPoint(value)) => Value::Float(value.into_inner()),
            YamlData::Value(Scalar::String(value)) => Value::Text(value.clone().into_owned()),
            YamlData::Sequence(items) => Value::List(self.convert_items(items, pointer, depth)),
            YamlData::Mapping(entries) => {
                let mut converted = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    converted.extend(self.convert_entry(key, value, pointer, depth));
                }
                Value::Map(converted)
            }
            YamlData::Tagged(tag, _) => {
                self.report(
                    position,
                    pointer,
                    format!("the tag `{tag}` has no meaning here"),
                    "remove the tag",
                );
                return None;
            }
            YamlData::Representation(..) | YamlData::Alias(_) | YamlData::BadValue => {
                self.report(
                    position,
                    pointer,
                    "this is no value".into(),
                    "write a text, a number, a list or a mapping",
                );
                return None;
            }
        };
        Some(Node { position: place, end: position_of(&yaml.span.end), width, value })
    }

    /// Items that are problems become `null`, so that the indexes of the others stay.
    fn convert_items(&mut self, items: &[MarkedYaml<'_>], pointer: &str, depth: usize) -> Vec<Node> {
        let mut converted = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let (position, end) = (position_of(&item.span.start), position_of(&item.span.end));
            let absent = Node { position, end, width: 1, value: Value::Null };
            let node = self.convert(item, None, &format!("{pointer}/{index}"), depth + 1);
            converted.push(node.unwrap_or(absent));
        }
        converted
    }

    fn convert_entry(
        &mut self,
        key: &MarkedYaml<'_>,
        value: &MarkedYaml<'_>,
        pointer: &str,
        depth: usize,
    ) -> Option<Entry> {
        let key_position = position_of(&key.span.start);
        let YamlData::Value(Scalar::String(text)) = &key.data else {
            let suggestion = "put the key in quotes if it is meant as a text";
            self.report(key_position, pointer, "a key must be a plain text".into(), suggestion);
            return None;
        };
        if is_marked_duplicate(text) {
            return None;
        }
        let value = self.convert(value, Some(key_position), &pointer_to(pointer, text), depth + 1)?;
        Some(Entry { key: text.clone().into_owned(), key_position, value })
    }

    fn report(&mut self, position: Position, pointer: &str, message: String, suggestion: &str) {
        let suggestion = Some(suggestion.to_owned());
        self.problems.push(TextProblem { position, pointer: pointer.to_owned(), message, suggestion });
    }

    /// How many characters of its first line the value takes.
    fn width(&self, yaml: &MarkedYaml<'_>) -> usize {
        let (start, end) = (&yaml.span.start, &yaml.span.end);
        let line = self.lines.get(start.line().max(1) - 1).copied().unwrap_or_default();
        let to_line_end = line.trim_end().chars().count().saturating_sub(start.col());
        let width =
            if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { to_line_end };
        width.clamp(1, to_line_end.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    fn root(text: &str) -> Node {
        let parsed = parse(text);
        assert_eq!(parsed.problems, []);
        parsed.root.unwrap()
    }

    fn problems(text: &str) -> Vec<(usize, usize, String)> {
        let parsed = parse(text);
        parsed.problems.into_iter().map(|p| (p.position.line, p.position.column, p.message)).collect()
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let text = "a: 1\nb:\n  - x\n  - {y: 'z', w: [1.5, true]}\nc: |\n  SELECT\n    1\nd:\n\"e/f\": ~\n";
        let node = root(text);
        let locations = node.locations();
        let key = |pointer: &str| locations[pointer].key.unwrap();
        let value = |pointer: &str| locations[pointer].value;
        assert_eq!(key("/a"), (at(1, 1), 1));
        assert_eq!(value("/a"), (at(1, 4), 1));
        assert_eq!(value("/b"), (at(3, 3), 3));
        assert_eq!(value("/b/0"), (at(3, 5), 1));
        assert_eq!(locations["/b/0"].key, None);
        assert_eq!(key("/b/1/y"), (at(4, 6), 1));
        assert_eq!(value("/b/1/y"), (at(4, 9), 3));
        assert_eq!(value("/b/1/w/1").0, at(4, 23));
        assert_eq!(value("/c"), (at(6, 3), 6));
        assert_eq!(key("/d").0, at(8, 1));
        assert_eq!(value("/d").0, at(8, 1));
        assert_eq!(key("/e~1f").0, at(9, 1));
        let json = serde_json::json!({
            "a": 1, "b": ["x", {"y": "z", "w": [1.5, true]}], "c": "SELECT\n  1\n", "d": null, "e/f": null
        });
        assert_eq!(node.to_json(), json);
    }

    #[test]
    fn order_of_keys_is_kept() {
        let Value::Map(entries) = root("b: 1\na: 2\nc: 3\n").value else { panic!("a mapping") };
        let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["b", "a", "c"]);
    }

    #[test]
    fn all_duplicates_are_reported_and_the_rest_stays() {
        let text = "a: 1\nb: 2\na: 3\nc: {x: 1, x: 2}\n\"b\": 4\n";
        let parsed = parse(text);
        let places: Vec<_> = parsed.problems.iter().map(|p| (p.position, p.message.as_str())).collect();
        assert_eq!(
            places,
            [
                (at(3, 1), "`a` is here twice"),
                (at(4, 11), "`x` is here twice"),
                (at(5, 1), "`b` is here twice")
            ]
        );
        assert_eq!(parsed.root.unwrap().to_json(), serde_json::json!({"a": 1, "b": 2, "c": {"x": 1}}));
    }

    #[test]
    fn what_is_no_spec_is_said_plainly() {
        assert_eq!(problems(""), [(1, 1, "the spec is empty".into())]);
        assert_eq!(problems("# nothing\n"), [(1, 1, "the spec is empty".into())]);
        assert_eq!(problems("a: 1\n---\nb: 2\n"), [(3, 1, "a second document starts here".into())]);
        assert_eq!(problems("a: !x 1\n"), [(1, 4, "the tag `!x` has no meaning here".into())]);
        assert_eq!(problems("a: !x [1]\n"), [(1, 4, "the tag `!x` has no meaning here".into())]);
        assert_eq!(problems("1: a\n"), [(1, 1, "a key must be a plain text".into())]);
        assert_eq!(problems("[a, b]: c\n"), [(1, 1, "a key must be a plain text".into())]);
        assert_eq!(problems("a: *b\n").len(), 1);
        let parsed = parse("a: {b: ${env:X}}\n");
        assert_eq!(
            parsed.problems[0].suggestion.as_deref(),
            Some("put references in quotes: \"${env:NAME}\"")
        );
        let parsed = parse("a:\n\t- b\n");
        assert_eq!(parsed.problems[0].suggestion.as_deref(), Some("indent with spaces, not tabs"));
    }

    #[test]
    fn aliases_expand_within_bounds() {
        assert_eq!(root("a: &x [1]\nb: *x\n").to_json(), serde_json::json!({"a": [1], "b": [1]}));
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let inner = level - 1;
            let alias = format!("*a{inner}");
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", ")));
        }
        assert_eq!(problems(&bomb).len(), 1);
        // The parser's budget counts a key as one node, whatever it holds.
        let keys = "a: &a {? [x, x, x, x] : 1}\nb: &b {? [*a, *a, *a, *a] : 1}\n";
        assert_eq!(problems(keys), [(1, 10, "a key must be a plain text".into())]);
        assert_eq!(problems("a: &a k\n*a : 1\n"), [(2, 1, "a key must be a plain text".into())]);
    }

    #[test]
    fn deep_nesting_is_refused_before_it_can_overflow_the_stack() {
        let deep = |message: &str| message.contains("nested deeper") || message.contains("recursion limit");
        let compact = "- ".repeat(TEXT_BYTES_MAX / 2 - 1);
        let flow = "[".repeat(TEXT_BYTES_MAX - 1);
        let pairs = "[a: ".repeat(TEXT_BYTES_MAX / 4 - 1);
        let closed_pairs = format!("{}{}", "[a: ".repeat(250), "]".repeat(250));
        let steps: String = (0..1_400).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        let keys = "? ".repeat(10_000);
        for text in [compact, flow, pairs, closed_pairs, steps, keys] {
            let found = problems(&text);
            assert_eq!(found.len(), 1, "{}", &text[..40]);
            assert!(deep(&found[0].2), "{}", found[0].2);
        }
        let allowed: String = (0..DEPTH_MAX).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        assert_eq!(problems(&allowed), []);
        let wide = "a:\n  - b\n".to_owned() + &"  - c: d\n".repeat(5_000);
        assert_eq!(problems(&wide), []);
        assert_eq!(problems(&"x".repeat(TEXT_BYTES_MAX + 1))[0].2, "the spec is larger than 1 MiB");
    }
}
