//! The little XML that the protocols need.
//!
//! The documents are a few fixed forms without attributes or nested elements of the same name, so text is searched,
//! not parsed; what does not fit is malformed.

pub(super) const PROLOGUE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

/// `<name>text</name>`.
pub(super) fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escaped(text))
}

/// The text of every `<name>…</name>` in `xml`, unescaped, in order.
pub fn texts(xml: &str, name: &str) -> Vec<String> {
    inner(xml, name).into_iter().map(unescaped).collect()
}

/// What stands in every `<name>…</name>` of `xml`, as it is written.
pub(super) fn inner<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0)).collect()
}

/// Names and texts of the children of `xml`, which have no children themselves.
pub(super) fn children(xml: &str) -> Option<Vec<(&str, String)>> {
    let mut children = Vec::new();
    let mut rest = xml.trim();
    while !rest.is_empty() {
        let (name, after) = rest.strip_prefix('<')?.split_once('>')?;
        let (text, after) = after.split_once(&format!("</{name}>"))?;
        children.push((name, unescaped(text.trim())));
        rest = after.trim_start();
    }
    Some(children)
}
