//! Exact numbers from the text of a JSON number, and decimals from others.
//!
//! JSON has one kind of number; a column has a type. A number becomes a value only if nothing of it is lost: `3.0`
//! and `3e2` are integers, `1.5` is not. Floating point is the exception, as its users expect: the nearest value is
//! taken, and only what lies beyond the largest is refused.
//!
//! The binary formats have decimals as whole numbers with a scale, which the column may have another of.

use super::reject::{Fault, Parsed, RejectReason, shortened};

/// Why a number has no exact form of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inexact {
    /// Digits remain after the last place there is.
    Fraction,
    /// More digits before the point than there is room for.
    TooLarge,
}

/// `text`, a JSON number, times ten to the `scale`, as an integer.
pub(crate) fn scaled_integer(text: &str, scale: i64) -> Result<i128, Inexact> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (negative, whole) = match whole.strip_prefix('-') {
        Some(whole) => (true, whole),
        None => (false, whole),
    };
    let digits = || whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0');
    let Some((last, _)) = digits().enumerate().filter(|(_, digit)| *digit != 0).last() else {
        return Ok(0);
    };
    let significant = last + 1;
    let places = exponent.saturating_add(scale).saturating_sub(fraction.len() as i64);
    let dropped = whole.len() + fraction.len() - significant;
    // The value is the significant digits times ten to this.
    let shift = places.saturating_add(dropped as i64);
    if shift < 0 {
        return Err(Inexact::Fraction);
    }
    let mut value = 0_i128;
    let zeros = std::iter::repeat_n(0, usize::try_from(shift.min(40)).unwrap_or(0));
    for digit in digits().take(significant).chain(zeros) {
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(i128::from(digit)))
            .ok_or(Inexact::TooLarge)?;
    }
    // Forty zeros after a digit other than zero have overflown above, so a larger shift cannot get here.
    Ok(if negative { -value } else { value })
}

/// The exponent after an `e`; far beyond anything representable it no longer matters by how much.
fn exponent_of(text: &str) -> i64 {
    const FAR: i64 = 1 << 40;
    let text = text.strip_prefix('+').unwrap_or(text);
    text.parse().unwrap_or(if text.starts_with('-') { -FAR } else { FAR }).clamp(-FAR, FAR)
}

/// The integer that `text` says, for a column of the type `type_name`.
pub(crate) fn integer<T: TryFrom<i128>>(text: &str, type_name: &str) -> Parsed<T> {
    match scaled_integer(text, 0) {
        Ok(value) => T::try_from(value).map_err(|_| out_of_range(text, type_name)),
        Err(Inexact::TooLarge) => Err(out_of_range(text, type_name)),
        Err(Inexact::Fraction) => Err(Fault::new(
            RejectReason::WrongType,
            format!("expected {type_name}, found {}, which is not a whole number", shortened(text)),
        )),
    }
}

/// The unscaled value of the JSON number `text`, for a column of the type `decimal(precision,scale)`.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Parsed<i128> {
    let out_of_range = || out_of_range(text, &format!("decimal({precision},{scale})"));
    match scaled_integer(text, i64::from(scale)) {
        Ok(value) if has_precision(value, precision) => Ok(value),
        Ok(_) | Err(Inexact::TooLarge) => Err(out_of_range()),
        Err(Inexact::Fraction) => Err(too_many_decimals(text, precision, scale)),
    }
}

/// The unscaled value of a decimal column, from an unscaled value in two's complement, big-endian, which has `scale`
/// decimals: negative ones stand for zeros before the point.
pub(crate) fn decimal_of_bytes(bytes: &[u8], scale: i64, precision: u8, to_scale: i8) -> Parsed<i128> {
    let Some(first) = bytes.first() else {
        return Err(Fault::new(RejectReason::InvalidValue, "a decimal of no bytes"));
    };
    let sign = if *first < 0x80 { 0 } else { 0xff };
    // Leading bytes that only repeat the sign.
    let padding = bytes.iter().take_while(|byte| **byte == sign).count();
    let significant = &bytes[padding..];
    let mut wide = [sign; 16];
    if significant.len() > wide.len() {
        return Err(too_many_digits(bytes.len(), precision, to_scale));
    }
    wide[16 - significant.len()..].copy_from_slice(significant);
    let value = i128::from_be_bytes(wide);
    // With all 16 bytes in use, the highest bit must still be the sign.
    if (value < 0) != (sign == 0xff) {
        return Err(too_many_digits(bytes.len(), precision, to_scale));
    }
    rescaled(value, scale, precision, to_scale)
}

#[cold]
fn too_many_digits(bytes: usize, precision: u8, scale: i8) -> Box<Fault> {
    out_of_range(&format!("a decimal of {bytes} bytes"), &format!("decimal({precision},{scale})"))
}

/// `value`, which has `scale` decimals, with `to_scale` decimals; only if nothing is lost and it has the precision.
pub(crate) fn rescaled(value: i128, scale: i64, precision: u8, to_scale: i8) -> Parsed<i128> {
    let shift = i64::from(to_scale).saturating_sub(scale);
    // Ten to the 39th and more divides nothing and fits in nothing, but zero.
    let power = u32::try_from(shift.unsigned_abs()).ok().and_then(|digits| 10_i128.checked_pow(digits));
    let exact = match power {
        _ if shift == 0 || value == 0 => Some(value),
        Some(power) if shift > 0 => value.checked_mul(power),
        None if shift > 0 => None,
        Some(power) if value % power == 0 => Some(value / power),
        _ => return Err(too_many_decimals(&decimal_text(value, scale), precision, to_scale)),
    };
    exact
        .filter(|value| has_precision(*value, precision))
        .ok_or_else(|| out_of_range(&decimal_text(value, scale), &format!("decimal({precision},{to_scale})")))
}

/// `value` times ten to the minus `scale`, in digits.
#[cold]
fn decimal_text(value: i128, scale: i64) -> String {
    if scale == 0 { value.to_string() } else { format!("{value}e{}", scale.saturating_neg()) }
}

/// The fault of a number that would lose decimals in its column.
#[cold]
pub(crate) fn too_many_decimals(text: &str, precision: u8, scale: i8) -> Box<Fault> {
    let text = shortened(text);
    let problem = format!("{text} has more than the {scale} decimals of decimal({precision},{scale})");
    Fault::new(RejectReason::InvalidValue, problem)
}

/// Whether a decimal with `precision` digits can have the unscaled value `value`.
#[inline]
pub(crate) fn has_precision(value: i128, precision: u8) -> bool {
    value.unsigned_abs() < 10_u128.pow(u32::from(precision))
}

/// The nearest value to the JSON number `text`, which must not lie beyond the largest.
pub(crate) fn float64(text: &str) -> Parsed<f64> {
    // Never an error: the grammar of JSON numbers is part of Rust's.
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(out_of_range(text, "float64")),
    }
}

/// The nearest value to the JSON number `text`, which must not lie beyond the largest.
pub(crate) fn float32(text: &str) -> Parsed<f32> {
    // Not by way of a float64: rounding twice may miss the nearest value.
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(out_of_range(text, "float32")),
    }
}

/// The fault of a number that its type cannot hold.
#[cold]
pub(crate) fn out_of_range(text: &str, type_name: &str) -> Box<Fault> {
    Fault::new(RejectReason::OutOfRange, format!("{} is out of the range of {type_name}", shortened(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_or_refused() {
        for (text, scale, expected) in [
            ("0", 0, Ok(0)),
            ("-0", 0, Ok(0)),
            ("0.000e9999999999999999999", 0, Ok(0)),
            ("3.0", 0, Ok(3)),
            ("3e2", 0, Ok(300)),
            ("300E-2", 0, Ok(3)),
            ("-12.50e1", 0, Ok(-125)),
            ("1.5", 0, Err(Inexact::Fraction)),
            ("1e-1", 0, Err(Inexact::Fraction)),
            ("1e-99999999999999999999", 0, Err(Inexact::Fraction)),
            ("1.5", 1, Ok(15)),
            ("1.50", 1, Ok(15)),
            ("1.55", 1, Err(Inexact::Fraction)),
            ("9223372036854775808", 0, Ok(1 << 63)),
            ("1e38", 0, Ok(10_i128.pow(38))),
            ("1e39", 0, Err(Inexact::TooLarge)),
            ("1e99999999999999999999", 0, Err(Inexact::TooLarge)),
            ("170141183460469231731687303715884105727", 0, Ok(i128::MAX)),
            ("170141183460469231731687303715884105728", 0, Err(Inexact::TooLarge)),
        ] {
            assert_eq!(scaled_integer(text, scale), expected, "{text} at scale {scale}");
        }
    }

    #[test]
    fn a_decimal_gets_another_scale_or_is_refused() {
        use RejectReason::{InvalidValue, OutOfRange};
        for (value, scale, precision, to_scale, expected) in [
            (256, 2, 9, 2, Ok(256)),
            (7, 2, 12, 4, Ok(700)),
            (10, 2, 5, 1, Ok(1)),
            (-10, 2, 5, 1, Ok(-1)),
            (11, 2, 5, 1, Err((InvalidValue, "11e-2 has more than the 1 decimals of decimal(5,1)"))),
            (1000, 2, 3, 2, Err((OutOfRange, "1000e-2 is out of the range of decimal(3,2)"))),
            // The scale is negative where the value has zeros before its point.
            (1, -3, 4, 0, Ok(1000)),
            (1, -3, 3, 0, Err((OutOfRange, "1e3 is out of the range of decimal(3,0)"))),
            (-1, -36, 38, 2, Err((OutOfRange, "-1e36 is out of the range of decimal(38,2)"))),
            (-1, -35, 38, 2, Ok(-10_i128.pow(37))),
            (0, i64::MIN, 1, 0, Ok(0)),
            (0, i64::MAX, 1, 0, Ok(0)),
            (1, i64::MIN, 38, 38, Err((OutOfRange, "is out of the range of decimal(38,38)"))),
            (1, i64::MAX, 38, 38, Err((InvalidValue, "has more than the 38 decimals"))),
            (i128::MAX, 39, 38, 0, Err((InvalidValue, "has more than the 0 decimals"))),
            (10_i128.pow(38), 38, 1, 0, Ok(1)),
        ] {
            match (rescaled(value, scale, precision, to_scale), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(fault), Err((reason, part))) => {
                    assert_eq!(fault.reason, reason);
                    let message = fault.into_message();
                    assert!(message.contains(part), "{message}");
                }
                (found, _) => panic!("{value}e-{scale} as decimal({precision},{to_scale}): {found:?}"),
            }
        }
    }

    #[test]
    fn an_integer_out_of_its_type_is_refused() {
        assert_eq!(integer::<i8>("127", "int8").unwrap(), 127);
        assert_eq!(integer::<i8>("128", "int8").unwrap_err().reason, RejectReason::OutOfRange);
        assert_eq!(integer::<i64>("-9223372036854775808", "int64").unwrap(), i64::MIN);
        assert_eq!(
            integer::<i64>("9223372036854775808", "int64").unwrap_err().reason,
            RejectReason::OutOfRange
        );
        assert_eq!(integer::<i64>("1.5", "int64").unwrap_err().reason, RejectReason::WrongType);
    }
}
