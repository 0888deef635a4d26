//! How far two distributions over the same bins are apart.

use serde::Serialize;

/// A measure of the distance between the shares of two histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// The population stability index.
    Psi,
    /// The divergence of Jensen and Shannon, in bits: from 0 to 1.
    JensenShannon,
    /// The largest difference between the shares of a bin: from 0 to 1.
    LInfinity,
}

impl Distance {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Psi, Self::JensenShannon, Self::LInfinity];

    /// Its name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Psi => "psi",
            Self::JensenShannon => "jensen_shannon",
            Self::LInfinity => "l_infinity",
        }
    }

    /// The distance of `window` from `reference`: counts of the same bins, of which each side has some. Never below 0.
    pub(super) fn between(self, reference: &[u64], window: &[u64]) -> f64 {
        debug_assert_eq!(reference.len(), window.len(), "the same bins");
        let rows = (total(reference), total(window));
        match self {
            Self::Psi => psi(reference, window, rows),
            // Rounding could take a few of the last digits off nothing.
            Self::JensenShannon => {
                pairs(reference, window, rows).map(|(r, w)| js_of(r, w)).sum::<f64>().clamp(0.0, 1.0)
            }
            Self::LInfinity => pairs(reference, window, rows).map(|(r, w)| (r - w).abs()).fold(0.0, f64::max),
        }
    }
}

/// How many rows are in all bins together.
pub(super) fn total(counts: &[u64]) -> u64 {
    counts.iter().sum()
}

/// The shares of both sides.
fn pairs<'a>(
    reference: &'a [u64],
    window: &'a [u64],
    rows: (u64, u64),
) -> impl Iterator<Item = (f64, f64)> + 'a {
    let of = |count: u64, rows: u64| count as f64 / rows.max(1) as f64;
    reference.iter().zip(window).map(move |(r, w)| (of(*r, rows.0), of(*w, rows.1)))
}

/// Each bin that is not empty on both sides has half a row more, so that none is empty on one.
fn psi(reference: &[u64], window: &[u64], rows: (u64, u64)) -> f64 {
    let used = reference.iter().zip(window).filter(|(r, w)| **r + **w > 0);
    let bins = used.clone().count() as f64;
    let smooth = |count: u64, rows: u64| (count as f64 + 0.5) / (rows as f64 + 0.5 * bins);
    used.map(|(r, w)| {
        let (r, w) = (smooth(*r, rows.0), smooth(*w, rows.1));
        (w - r) * (w / r).ln()
    })
    .sum()
}

fn js_of(r: f64, w: f64) -> f64 {
    let middle = 0.5 * (r + w);
    let part = |share: f64| if share > 0.0 { 0.5 * share * (share / middle).log2() } else { 0.0 };
    part(r) + part(w)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    #[test]
    fn distances_are_what_they_are_by_hand() {
        // Shares of a half and a half, against a quarter and three quarters.
        let (reference, window) = ([50, 50], [25, 75]);
        // (25.5/101 − 50.5/101)·ln(25.5/50.5) + (75.5/101 − 50.5/101)·ln(75.5/50.5)
        let expected = 25.0 / 101.0 * ((50.5f64 / 25.5).ln() + (75.5f64 / 50.5).ln());
        assert_near(Distance::Psi.between(&reference, &window), expected);
        // m = 3/8, 5/8
        let expected = 0.5 * (0.5 * (4.0f64 / 3.0).log2() + 0.5 * 0.8f64.log2())
            + 0.5 * (0.25 * (2.0f64 / 3.0).log2() + 0.75 * 1.2f64.log2());
        assert_near(Distance::JensenShannon.between(&reference, &window), expected);
        assert_near(Distance::LInfinity.between(&reference, &window), 0.25);
    }

    #[test]
    fn equal_shares_have_no_distance_and_disjoint_ones_the_largest() {
        for distance in [Distance::JensenShannon, Distance::LInfinity] {
            assert_near(distance.between(&[3, 1, 0], &[30, 10, 0]), 0.0);
            assert_near(distance.between(&[7, 0], &[0, 9]), 1.0);
        }
        assert_near(Distance::Psi.between(&[30, 10, 0], &[30, 10, 0]), 0.0);
        assert!(Distance::Psi.between(&[700, 0], &[0, 900]) > 10.0);
    }

    #[test]
    fn a_bin_that_nobody_uses_changes_nothing() {
        for distance in Distance::ALL {
            let without = distance.between(&[3, 5], &[4, 1]);
            assert_near(distance.between(&[3, 0, 5, 0], &[4, 0, 1, 0]), without);
        }
    }
}
