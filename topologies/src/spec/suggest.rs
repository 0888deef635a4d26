//! Suggestions: which of the words that exist was meant by one that does not.

/// The candidate nearest to `word`, if any is near enough to be what was meant: letters swapped, missing or added, a
/// wrong case, `-` for `_`, or a word cut short.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let normal = |text: &str| text.to_lowercase().replace(['-', ' ', '.'], "_");
    let word = normal(word);
    let edits_max = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = normal(candidate);
            let edits = strsim::damerau_levenshtein(&word, &other);
            let is_cut_short = word.len() >= 3 && (other.starts_with(&word) || word.starts_with(&other));
            // Two short words that share no letter are never one typo apart in meaning.
            let is_near = edits <= edits_max && edits < other.chars().count();
            (is_near || is_cut_short).then_some((edits, candidate))
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Help for a word that does not exist: the nearest one that does, or all of them.
pub(crate) fn did_you_mean<'a, I>(word: &str, candidates: I) -> Option<String>
where
    I: IntoIterator<Item = &'a str> + Clone,
{
    match nearest(word, candidates.clone()) {
        Some(candidate) => Some(format!("did you mean `{candidate}`?")),
        None => one_of(candidates).map(|list| format!("expected {list}")),
    }
}

/// "`a`, `b` or `c`"; `None` for no candidates.
pub(super) fn one_of<'a>(candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut quoted: Vec<String> = candidates.into_iter().map(|candidate| format!("`{candidate}`")).collect();
    let last = quoted.pop()?;
    Some(if quoted.is_empty() { last } else { format!("{} or {last}", quoted.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not() {
        let fields = ["brokers", "cluster_id", "topic_identity", "options"];
        for (word, meant) in [
            ("brokrs", Some("brokers")),
            ("broker", Some("brokers")),
            ("Brokers", Some("brokers")),
            ("cluster-id", Some("cluster_id")),
            ("clusterid", Some("cluster_id")),
            ("topic", Some("topic_identity")),
            ("opitons", Some("options")),
            ("bananas", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, fields), meant, "{word}");
        }
    }

    #[test]
    fn help_names_the_nearest_or_all() {
        assert_eq!(did_you_mean("jsn", ["json"]), Some("did you mean `json`?".into()));
        assert_eq!(
            did_you_mean("avro", ["id", "name", "key"]),
            Some("expected `id`, `name` or `key`".into())
        );
        assert_eq!(did_you_mean("x", []), None);
    }
}
