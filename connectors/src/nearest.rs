//! Suggestions for misspelt names.

/// The candidates closest to `name`, best first, at most three: within a third of its length in single-letter
/// edits, or containing it.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let name = name.to_lowercase();
    let distance_max = (name.chars().count() / 3).max(1);
    let mut close: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let distance = edit_distance(&name, &lower);
            let contained =
                name.len() >= 4 && lower.len() >= 4 && (lower.contains(&name) || name.contains(&lower));
            (distance <= distance_max || contained).then_some((distance, candidate))
        })
        .collect();
    close.sort();
    close.into_iter().map(|(_, candidate)| candidate).take(3).collect()
}

/// Levenshtein's distance: the fewest single-letter insertions, deletions and replacements from `a` to `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, distance) in
            [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("same", "same", 0)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} → {b}");
        }
    }

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let known = ["region", "endpoint", "access_key_id", "account_name"];
        assert_eq!(nearest("regoin", known), ["region"]);
        assert_eq!(nearest("account", known), ["account_name"]);
        assert!(nearest("colour", known).is_empty());
    }
}
