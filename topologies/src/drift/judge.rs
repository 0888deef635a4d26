//! Whether a distance is more than chance: null distributions from the reference's own windows, and many tests at a stated rate.
//!
//! Nothing here reads anything. `docs/drift.md` has the formulae, their sources and what they take for granted.

use super::distances::{Distance, total};
use super::special::{f_quantile, f_survival};

/// Windows' worth of days that a reference must have.
pub(super) const REFERENCE_WINDOWS_MIN: usize = 5;
/// Rows of a window, below which nothing is said.
pub(super) const ROWS_MIN: u64 = 30;
/// Degrees of freedom of a null distribution, however little it varies or much.
const DEGREES: std::ops::RangeInclusive<f64> = 0.5..=1000.0;

/// Where the rows lie that windows are held against, counted in the bins of one feature.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    /// Counts of all days.
    pub(super) counts: Vec<u64>,
    /// By how much the difference of a window from a reference that it is no part of exceeds that from one that it is.
    inflation: f64,
    /// Degrees of freedom of what was estimated from its windows.
    denominator: f64,
    /// Rows that a window of it has on average.
    rows: f64,
    /// Mean and variance of the distances of its windows, in the order of [`Distance::ALL`].
    moments: [(f64, f64); 3],
}

impl Reference {
    /// Of counts by day, one after the other, for windows of so many days.
    ///
    /// # Errors
    /// Why nothing can be held against it.
    pub(super) fn of(days: &[Vec<u64>], window_days: usize) -> Result<Self, String> {
        let used = days.iter().filter(|day| total(day) > 0).count();
        if used < REFERENCE_WINDOWS_MIN * window_days {
            return Err(format!(
                "the reference has {used} days with rows, and windows of {window_days} days need {}",
                REFERENCE_WINDOWS_MIN * window_days
            ));
        }
        let mut counts = vec![0; days[0].len()];
        days.iter().for_each(|day| add(&mut counts, day));
        let mut squares = Vec::new();
        let mut rows = Vec::new();
        for window in days.windows(window_days) {
            let mut window_counts = vec![0; counts.len()];
            window.iter().for_each(|day| add(&mut window_counts, day));
            if total(&window_counts) >= ROWS_MIN {
                rows.push(total(&window_counts) as f64);
                squares.push(Distance::ALL.map(|distance| form(distance, &counts, &window_counts)));
            }
        }
        if squares.is_empty() {
            return Err(format!("no window of the reference has {ROWS_MIN} rows"));
        }
        let moments = [0usize, 1, 2].map(|at| moments(squares.iter().map(|forms| forms[at])));
        let share = window_days as f64 / used as f64;
        Ok(Self {
            counts,
            inflation: (1.0 + share) / (1.0 - share),
            denominator: 1.5 * (1.0 / share - 1.0),
            rows: moments_mean(&rows),
            moments,
        })
    }

    /// How far `window` is away by each distance, and what that is by chance, in the order of [`Distance::ALL`].
    pub(super) fn measures(&self, window: &[u64]) -> Vec<Measure> {
        let mut measures = Distance::ALL.map(|distance| self.measure(distance, window));
        // The tail of a maximum over bins, of which most hardly vary and one may vary much, is longer than its two moments say. That of a
        // sum over the same bins is not.
        let of_sum = measures[Distance::JensenShannon as usize].p_value();
        measures[Distance::LInfinity as usize].p_least = of_sum;
        measures.to_vec()
    }

    /// How far `window` is away, and what that is by chance as the distance's own moments say.
    fn measure(&self, distance: Distance, window: &[u64]) -> Measure {
        let value = distance.between(&self.counts, window);
        let (rows, window_rows) = (total(&self.counts) as f64, total(window) as f64);
        let (unit, degrees) = sampling(distance, &self.counts, window);
        let (mean, variance) = self.moments[distance as usize];
        let fewer = unit * (1.0 / window_rows - 1.0 / self.rows).max(0.0);
        let least = unit * (1.0 / window_rows + 1.0 / rows);
        let mut mean = mean * self.inflation + fewer;
        let mut variance = variance * self.inflation.powi(2) + 2.0 * fewer.powi(2) / degrees;
        if mean < least {
            (mean, variance) = (least, variance.max(2.0 * least.powi(2) / degrees));
        }
        let numerator = 2.0 * mean.powi(2) / variance;
        let numerator = if numerator.is_nan() { *DEGREES.end() } else { numerator };
        Measure {
            distance,
            value,
            mean,
            numerator: numerator.clamp(*DEGREES.start(), *DEGREES.end()),
            denominator: self.denominator,
            p_least: 0.0,
        }
    }
}

/// A distance, and its distribution if nothing has shifted: the quadratic form that it is, divided by `mean`, is F.
#[derive(Debug, Clone)]
pub(super) struct Measure {
    pub(super) distance: Distance,
    pub(super) value: f64,
    mean: f64,
    numerator: f64,
    denominator: f64,
    /// It is not called less likely than this.
    p_least: f64,
}

impl Measure {
    /// How likely as large a distance is by chance.
    pub(super) fn p_value(&self) -> f64 {
        if self.value <= 0.0 {
            return 1.0;
        }
        f_survival(squared(self.distance, self.value) / self.mean, self.numerator, self.denominator)
            .max(self.p_least)
    }

    /// The distance that is exceeded by chance with this `probability`, as its own moments say; the largest that there is, if that is no less likely.
    pub(super) fn limit(&self, probability: f64) -> f64 {
        let form = self.mean * f_quantile(probability, self.numerator, self.denominator);
        match self.distance {
            Distance::Psi => form,
            Distance::JensenShannon => form.min(1.0),
            Distance::LInfinity => form.sqrt().min(1.0),
        }
    }
}

/// The distance as a quadratic form in the differences of shares, to first order.
fn form(distance: Distance, reference: &[u64], window: &[u64]) -> f64 {
    squared(distance, distance.between(reference, window))
}

fn squared(distance: Distance, value: f64) -> f64 {
    if distance == Distance::LInfinity { value.powi(2) } else { value }
}

/// What sampling independent rows adds to the form, per 1/rows, and with how many degrees of freedom.
fn sampling(distance: Distance, reference: &[u64], window: &[u64]) -> (f64, f64) {
    let both: Vec<f64> = reference.iter().zip(window).map(|(r, w)| (*r + *w) as f64).collect();
    let rows: f64 = both.iter().sum();
    let bins = both.iter().filter(|count| **count > 0.0).count() as f64;
    let degrees = (bins - 1.0).max(1.0);
    match distance {
        Distance::Psi => (degrees, degrees),
        Distance::JensenShannon => (degrees / (8.0 * std::f64::consts::LN_2), degrees),
        Distance::LInfinity => {
            // No sum of squares of correlated normals has a larger mean of its greatest than this.
            let spread = both.iter().map(|count| count / rows * (1.0 - count / rows)).fold(0.0, f64::max);
            (spread * 2.0 * (2.0 * bins).ln(), 2.0)
        }
    }
}

fn add(sum: &mut [u64], counts: &[u64]) {
    sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    (mean, values.map(|value| (value - mean).powi(2)).sum::<f64>() / count)
}

fn moments_mean(values: &[f64]) -> f64 {
    moments(values.iter().copied()).0
}

/// P-values adjusted for being many, by Holm's step-down: one that is below a rate then is an alarm at that rate of any false alarm.
pub(super) fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest: f64 = 0.0;
    for (rank, at) in order.into_iter().enumerate() {
        let remaining = (p_values.len() - rank) as f64;
        largest = largest.max((p_values[at] * remaining).min(1.0));
        adjusted[at] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const BINS: usize = 10;
    const WINDOW: usize = 7;
    const DAYS: usize = 140;

    /// A number that is nearly normal: mean 0, deviation 1.
    fn normal(rng: &mut StdRng) -> f64 {
        (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
    }

    /// Counts of one day: `rows` values around the day's own mean, of which `day` of the variance is, moved by `shift`.
    fn day(rng: &mut StdRng, rows: usize, of_day: f64, shift: f64) -> Vec<u64> {
        let own = normal(rng) * of_day.sqrt();
        let mut counts = vec![0; BINS];
        for _ in 0..rows {
            let value = own + normal(rng) * (1.0 - of_day).sqrt() + shift;
            let bin = ((value + 2.0) / 4.0 * BINS as f64).clamp(0.0, BINS as f64 - 1.0);
            counts[bin as usize] += 1;
        }
        counts
    }

    fn window(rng: &mut StdRng, rows: usize, of_day: f64, shift: f64) -> Vec<u64> {
        let mut counts = vec![0; BINS];
        (0..WINDOW).for_each(|_| add(&mut counts, &day(rng, rows, of_day, shift)));
        counts
    }

    /// How many of the trials have an adjusted p-value below `rate`.
    fn alarms(seed: u64, trials: usize, rows: usize, of_day: f64, shift: f64, rate: f64) -> usize {
        let mut rng = StdRng::seed_from_u64(seed);
        let is_alarm = |_: &usize| {
            let days: Vec<Vec<u64>> = (0..DAYS).map(|_| day(&mut rng, rows, of_day, 0.0)).collect();
            let reference = Reference::of(&days, WINDOW).unwrap();
            let window = window(&mut rng, rows, of_day, shift);
            let p_values: Vec<f64> = reference.measures(&window).iter().map(Measure::p_value).collect();
            holm(&p_values).iter().any(|p_value| *p_value < rate)
        };
        (0..trials).filter(is_alarm).count()
    }

    #[test]
    fn rows_that_do_not_shift_alarm_no_more_often_than_is_said() {
        // At 5 % of 400 trials there are 20; more than 38 are less likely than one in ten thousand.
        for (seed, of_day) in [(1, 0.0), (2, 0.2), (3, 0.6)] {
            let found = alarms(seed, 400, 40, of_day, 0.0, 0.05);
            assert!(found <= 38, "{of_day}: {found} of 400");
        }
    }

    #[test]
    fn small_probabilities_are_not_said_too_often_of_days_that_differ_much() {
        // Many tests at once ask for small probabilities. Of 7,500 windows 7.5 are as unlikely as 0.001; by its own moments the largest difference of
        // a bin would be so in five times as many.
        let mut rng = StdRng::seed_from_u64(9);
        let mut found = [0; 3];
        for _ in 0..150 {
            let days: Vec<Vec<u64>> = (0..DAYS).map(|_| day(&mut rng, 40, 0.6, 0.0)).collect();
            let reference = Reference::of(&days, WINDOW).unwrap();
            for _ in 0..50 {
                let measures = reference.measures(&window(&mut rng, 40, 0.6, 0.0));
                found
                    .iter_mut()
                    .zip(&measures)
                    .for_each(|(found, m)| *found += usize::from(m.p_value() < 0.001));
            }
        }
        assert!(found.iter().all(|found| *found <= 22), "{found:?}");
    }

    #[test]
    fn rows_taken_for_independent_would_alarm_all_the_time() {
        let mut rng = StdRng::seed_from_u64(4);
        let mut found = 0;
        for _ in 0..100 {
            let reference: Vec<u64> = window(&mut rng, 40 * DAYS / WINDOW, 0.0, 0.0);
            let window = window(&mut rng, 40, 0.6, 0.0);
            // Pearson's statistic of the same shares, whose mean is the number of bins less one without dependence.
            let (rows, window_rows) = (total(&reference) as f64, total(&window) as f64);
            let terms = reference.iter().zip(&window).filter(|(r, _)| **r > 0).map(|(r, w)| {
                let (r, w) = (*r as f64 / rows, *w as f64 / window_rows);
                (w - r).powi(2) / r
            });
            // The 99th percentile of chi-square with 9 degrees of freedom is 21.7.
            found += usize::from(terms.sum::<f64>() / (1.0 / rows + 1.0 / window_rows) > 21.7);
        }
        assert!(found > 50, "{found} of 100");
    }

    #[test]
    fn a_shift_is_found_where_days_vary_less_than_it() {
        assert_eq!(alarms(5, 50, 40, 0.0, 1.0, 0.01), 50);
        assert_eq!(alarms(6, 50, 40, 0.05, 1.5, 0.01), 50);
    }

    #[test]
    fn fewer_rows_have_larger_limits() {
        let mut rng = StdRng::seed_from_u64(7);
        let days: Vec<Vec<u64>> = (0..DAYS).map(|_| day(&mut rng, 100, 0.0, 0.0)).collect();
        let reference = Reference::of(&days, WINDOW).unwrap();
        for distance in Distance::ALL {
            let limit = |rows| {
                let mut rng = StdRng::seed_from_u64(8);
                reference.measure(distance, &window(&mut rng, rows, 0.0, 0.0)).limit(0.001)
            };
            assert!(limit(10) > 1.3 * limit(100), "{distance:?}: {} and {}", limit(10), limit(100));
            let measure = reference.measure(distance, &window(&mut rng, 100, 0.0, 0.5));
            let exceeded = Measure { value: measure.limit(0.001), ..measure };
            assert!((exceeded.p_value() - 0.001).abs() < 1e-6, "{distance:?}: {}", exceeded.p_value());
        }
    }

    #[test]
    fn a_limit_is_a_distance_that_there_is() {
        // Every other week has only the one value, or only the other.
        let days: Vec<Vec<u64>> =
            (0..DAYS).map(|day| [vec![100, 0], vec![0, 100]][day / WINDOW % 2].clone()).collect();
        let reference = Reference::of(&days, WINDOW).unwrap();
        for distance in [Distance::JensenShannon, Distance::LInfinity] {
            assert_eq!(reference.measure(distance, &[700, 0]).limit(1e-6), 1.0, "{distance:?}");
        }
    }

    #[test]
    fn a_feature_that_never_varied_alarms_when_it_does() {
        let days = vec![vec![100, 0, 0]; DAYS];
        let reference = Reference::of(&days, WINDOW).unwrap();
        for distance in Distance::ALL {
            assert_eq!(reference.measure(distance, &[700, 0, 0]).p_value(), 1.0);
            let few = reference.measure(distance, &[699, 1, 0]).p_value();
            assert!(few > 0.001, "{distance:?}: {few}");
            let many = reference.measure(distance, &[600, 100, 0]).p_value();
            assert!(many < 1e-9, "{distance:?}: {many}");
        }
    }

    #[test]
    fn too_short_a_reference_judges_nothing() {
        let day = vec![10, 10];
        let mut days = vec![day; REFERENCE_WINDOWS_MIN * WINDOW];
        assert!(Reference::of(&days, WINDOW).is_ok());
        days[3] = vec![0, 0];
        let error = Reference::of(&days, WINDOW).unwrap_err();
        assert!(error.contains("34 days") && error.contains("need 35"), "{error}");
        let sparse = vec![vec![1, 0]; DAYS];
        assert!(Reference::of(&sparse, WINDOW).unwrap_err().contains("30 rows"));
    }

    #[test]
    fn p_values_are_adjusted_as_holm_says() {
        // 0.005·4, then 0.01·3, then 0.03·2, and what is below what came before is as large.
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.6, 0.7]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
