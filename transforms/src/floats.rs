//! Doubles as floats. Here rather than where models are asked, because this crate is the one that is optimised for its loops.

/// `doubles` as floats, each the nearest one, and whether one that is finite became infinite.
pub fn narrowed(doubles: &[f64]) -> (Vec<f32>, bool) {
    let floats: Vec<f32> = doubles.iter().map(|double| *double as f32).collect();
    let pairs = doubles.iter().zip(&floats);
    // Without a branch for each, many are looked at together.
    let overflows = pairs.fold(false, |found, (double, float)| found | is_overflow(*double, *float));
    (floats, overflows)
}

/// Whether `double` is finite and `float`, which was made of it, is not.
pub fn is_overflow(double: f64, float: f32) -> bool {
    double.is_finite() & float.is_infinite()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_found() {
        let largest = f64::from(f32::MAX);
        for (double, float) in [(largest, f32::MAX), (-1e-60, 0.0), (f64::NEG_INFINITY, f32::NEG_INFINITY)] {
            assert_eq!(narrowed(&[1.5, double]), (vec![1.5, float], false));
        }
        let (floats, overflows) = narrowed(&[f64::NAN]);
        assert!(floats[0].is_nan() && !overflows);
        assert_eq!(narrowed(&[0.1, -1e39]), (vec![0.1, f32::NEG_INFINITY], true));
    }
}
