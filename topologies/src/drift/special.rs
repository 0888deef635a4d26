//! Distribution functions: of F, for p-values, and of Student's t, for intervals.

/// Γ by Lanczos' approximation with g = 7 and these coefficients (Godfrey 2001): 15 digits.
const LANCZOS: [f64; 9] = [
    0.9999999999998099,
    676.5203681218851,
    -1259.1392167224028,
    771.3234287776531,
    -176.6150291621406,
    12.507343278686905,
    -0.13857109526572012,
    9.984369578019572e-6,
    1.5056327351493116e-7,
];
/// Steps of the continued fraction. It needs about the square root of its larger parameter.
const STEPS_MAX: u32 = 10_000;
/// Halvings of an interval: more than a double has bits.
const HALVINGS: u32 = 200;

/// The logarithm of Γ(`x`), for `x` > 0.
fn ln_gamma(x: f64) -> f64 {
    if x < 0.5 {
        // Reflection: the approximation is for the right half of the plane.
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let terms = LANCZOS.iter().enumerate().skip(1).map(|(at, coefficient)| coefficient / (x + at as f64));
    let sum = LANCZOS[0] + terms.sum::<f64>();
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// The regularised incomplete beta function I_x(a, b), for positive `a` and `b`.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    // The fraction converges fast on this side of the mean, and the other side is its complement.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz' method.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let apart = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d) = (1.0, 1.0 / apart(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for step in 1..=STEPS_MAX {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for coefficient in [even, odd] {
            d = 1.0 / apart(1.0 + coefficient * d);
            c = apart(1.0 + coefficient / c);
            change = c * d;
            fraction *= change;
        }
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

/// How likely a value of the F distribution with these degrees of freedom is above `x`.
pub(super) fn f_survival(x: f64, numerator: f64, denominator: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let share = denominator / (denominator + numerator * x);
    incomplete_beta(denominator / 2.0, numerator / 2.0, share)
}

/// The value that the F distribution exceeds with this `probability`.
pub(super) fn f_quantile(probability: f64, numerator: f64, denominator: f64) -> f64 {
    halved(|x| f_survival(x, numerator, denominator) > probability)
}

/// The value that Student's t exceeds, upwards or downwards, with this `probability`.
pub(super) fn t_quantile(probability: f64, degrees: f64) -> f64 {
    // The square of t is F with one degree of freedom.
    f_quantile(probability, 1.0, degrees).sqrt()
}

/// Where `is_below` ends to hold, from 0 on.
fn halved(is_below: impl Fn(f64) -> bool) -> f64 {
    let mut high = 1.0;
    while is_below(high) && high < 1e300 {
        high *= 2.0;
    }
    let mut low = 0.0;
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if is_below(middle) { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: f64, expected: f64, relative: f64) {
        assert!((found / expected - 1.0).abs() < relative, "{found} is not {expected}");
    }

    /// `scipy.special.gammaln(x)`, scipy 1.17.1.
    #[test]
    fn the_logarithm_of_gamma_is_scipys() {
        for (x, expected) in [
            (0.5, 0.5723649429247),
            (1.5, -0.12078223763524526),
            (10.0, 12.801827480081469),
            (123.4, 469.3360974421906),
            (0.25, 1.2880225246980774),
            (2744.0, 18977.68032030088),
        ] {
            assert_near(ln_gamma(x), expected, 1e-12);
        }
    }

    /// `scipy.special.betainc(a, b, x)`, scipy 1.17.1.
    #[test]
    fn the_incomplete_beta_function_is_scipys() {
        for (a, b, x, expected) in [
            (0.5, 0.5, 0.3, 0.36901011956554536),
            (2.0, 3.0, 0.4, 0.5248),
            (10.0, 25.0, 0.2, 0.12543675586494268),
            (0.75, 40.0, 0.01, 0.46483414404451423),
            (40.0, 0.75, 0.99, 0.5351658559554853),
            (5.0, 25.0, 0.9, 1.0),
            (3.0, 0.25, 1e-12, 1.1718750000006592e-37),
            (0.25, 3.0, 1e-9, 0.007907924882326115),
            (500.0, 3.0, 0.98, 0.0025065654923883567),
        ] {
            assert_near(incomplete_beta(a, b, x), expected, 1e-11);
        }
        assert_eq!((incomplete_beta(2.0, 3.0, 0.0), incomplete_beta(2.0, 3.0, 1.0)), (0.0, 1.0));
    }

    /// `scipy.special.fdtrc(numerator, denominator, x)`, scipy 1.17.1. Small tails count: many tests divide them.
    #[test]
    fn the_tail_of_f_is_scipys() {
        for (numerator, denominator, x, expected) in [
            (1.0, 10.0, 4.9646, 0.050000052192913744),
            (5.0, 50.0, 3.4, 0.010122302256570938),
            (2.5, 50.0, 20.0, 6.279015843727092e-8),
            (19.0, 33.0, 1.0, 0.48533837263788593),
            (12.5, 48.0, 30.0, 2.0401714170495045e-18),
            // The fewest and the most degrees of freedom that a feature and its reference can have.
            (0.5, 6.0, 50.0, 0.0009569032603864359),
            (0.5, 28.5, 1e6, 1.239554468044654e-62),
            (1000.0, 6.0, 3.0, 0.08048500008952819),
            (1000.0, 5488.5, 1.2, 6.167541386303181e-5),
        ] {
            assert_near(f_survival(x, numerator, denominator), expected, 1e-9);
            assert_near(f_quantile(expected, numerator, denominator), x, 1e-9);
        }
    }

    /// `scipy.special.stdtrit(degrees, 1 - probability / 2)`, scipy 1.17.1.
    #[test]
    fn quantiles_of_t_are_scipys() {
        for (degrees, probability, expected) in [
            (6.0, 0.05, 2.4469118511449786),
            (6.0, 0.01, 3.7074280213248065),
            (1.0, 0.05, 12.706204736174694),
            (29.0, 0.002, 3.3962402883568026),
            (4.0, 0.00125, 8.121636503575035),
        ] {
            assert_near(t_quantile(probability, degrees), expected, 1e-9);
        }
    }
}
