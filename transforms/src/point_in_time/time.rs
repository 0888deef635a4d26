//! Times of any unit as whole numbers, *ticks*, that compare as instants.
//!
//! A view keeps the ticks of its own unit. A row of the spine asks in another unit perhaps, and is asked back: what is
//! the newest tick of the view that you admit, and what the oldest? Both answers are exact for every value a time can
//! have, so nothing is rounded and nothing wraps around.

use std::time::Duration;

use arrow::array::{Array, ArrowPrimitiveType, AsArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type,
};
use datafusion::common::{exec_datafusion_err, internal_datafusion_err};
use datafusion::error::Result;

/// Which row of a view belongs to a row of the spine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Hash)]
pub enum Matching {
    /// The newest with `spine time >= event_time`.
    #[default]
    AtOrBefore,
    /// The newest with `spine time > event_time`.
    Before,
    /// The oldest with `spine time <= event_time`.
    AtOrAfter,
    /// The oldest with `spine time < event_time`.
    After,
}

impl Matching {
    /// Whether the oldest row is wanted. The ticks of such a view are mirrored, so that the newest is looked for
    /// in every case.
    pub(super) fn is_mirrored(self) -> bool {
        matches!(self, Matching::AtOrAfter | Matching::After)
    }

    /// The comparison of the spine's time with the view's.
    pub(super) fn operator(self) -> &'static str {
        match self {
            Matching::AtOrBefore => ">=",
            Matching::Before => ">",
            Matching::AtOrAfter => "<=",
            Matching::After => "<",
        }
    }
}

/// `tick` with the order of time reversed. Unlike a change of sign it is defined for every number.
pub(super) fn mirrored(tick: i64) -> i64 {
    !tick
}

/// What one tick is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    /// A number that is no time.
    Number,
    Day,
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
}

impl Unit {
    /// The unit of `data_type`, if its values can be compared as times. Time zones say how a time is shown and are
    /// no part of it; a timestamp without one is UTC.
    pub(super) fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Unit::Number,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => Unit::Number,
            DataType::Date32 => Unit::Day,
            DataType::Date64 => Unit::Millisecond,
            DataType::Timestamp(TimeUnit::Second, _) => Unit::Second,
            DataType::Timestamp(TimeUnit::Millisecond, _) => Unit::Millisecond,
            DataType::Timestamp(TimeUnit::Microsecond, _) => Unit::Microsecond,
            DataType::Timestamp(TimeUnit::Nanosecond, _) => Unit::Nanosecond,
            _ => return None,
        })
    }

    /// The finer of two units, in which times of both are whole numbers. `None` if only one of them is of times.
    pub(super) fn finest(self, other: Self) -> Option<Self> {
        ((self == Unit::Number) == (other == Unit::Number)).then(|| self.max(other))
    }

    fn nanoseconds(self) -> i64 {
        match self {
            Unit::Number | Unit::Nanosecond => 1,
            Unit::Microsecond => 1_000,
            Unit::Millisecond => 1_000_000,
            Unit::Second => 1_000_000_000,
            Unit::Day => 86_400 * 1_000_000_000,
        }
    }
}

/// The values of `array` in its own unit. Slots that are null hold anything.
pub(super) fn ticks(array: &dyn Array) -> Result<ScalarBuffer<i64>> {
    Ok(match array.data_type() {
        DataType::Int8 => widened::<Int8Type>(array),
        DataType::Int16 => widened::<Int16Type>(array),
        DataType::Int32 => widened::<Int32Type>(array),
        DataType::Int64 => array.as_primitive::<Int64Type>().values().clone(),
        DataType::UInt8 => widened::<UInt8Type>(array),
        DataType::UInt16 => widened::<UInt16Type>(array),
        DataType::UInt32 => widened::<UInt32Type>(array),
        DataType::Date32 => widened::<Date32Type>(array),
        DataType::Date64 => array.as_primitive::<Date64Type>().values().clone(),
        DataType::Timestamp(TimeUnit::Second, _) => {
            array.as_primitive::<TimestampSecondType>().values().clone()
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().values().clone()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().values().clone()
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            array.as_primitive::<TimestampNanosecondType>().values().clone()
        }
        other => return Err(internal_datafusion_err!("{other} is no type of times")),
    })
}

fn widened<T: ArrowPrimitiveType>(array: &dyn Array) -> ScalarBuffer<i64>
where
    i64: From<T::Native>,
{
    array.as_primitive::<T>().values().iter().map(|value| i64::from(*value)).collect()
}

/// `values`, ticks of `from`, as ticks of `to`, which is as fine or finer. What `nulls` calls null is not looked at.
pub(super) fn rescaled(
    values: ScalarBuffer<i64>,
    nulls: Option<&NullBuffer>,
    from: Unit,
    to: Unit,
) -> Result<ScalarBuffer<i64>> {
    let factor = from.nanoseconds() / to.nanoseconds();
    if factor == 1 {
        return Ok(values);
    }
    let scaled = values.iter().enumerate().map(|(row, value)| match value.checked_mul(factor) {
        Some(scaled) => Ok(scaled),
        None if nulls.is_some_and(|nulls| nulls.is_null(row)) => Ok(0),
        None => Err(exec_datafusion_err!(
            "a time of a view lies too far away to be compared with one in {to:?}s: cast both columns to one unit"
        )),
    });
    scaled.collect()
}

/// How the ticks of the spine and of a view relate. Of two units, one tick is always a whole number of the other's.
#[derive(Debug, Clone, Copy)]
enum Ratio {
    Same,
    /// One tick of the spine is so many of the view.
    ViewIsFiner(i64),
    /// One tick of the view is so many of the spine.
    ViewIsCoarser(i64),
}

/// Which ticks of a view a row of the spine admits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    matching: Matching,
    ratio: Ratio,
    /// In ticks of the finer unit, rounded down: times are whole numbers of it, so this admits the same rows.
    ttl: Option<i128>,
}

impl Bounds {
    /// For spine times in `spine`, and ticks of a view in `view`, mirrored if `matching` is.
    pub(super) fn new(spine: Unit, view: Unit, matching: Matching, ttl: Option<Duration>) -> Self {
        let (of_spine, of_view) = (spine.nanoseconds(), view.nanoseconds());
        let ratio = match of_spine.cmp(&of_view) {
            std::cmp::Ordering::Equal => Ratio::Same,
            std::cmp::Ordering::Greater => Ratio::ViewIsFiner(of_spine / of_view),
            std::cmp::Ordering::Less => Ratio::ViewIsCoarser(of_view / of_spine),
        };
        let finer = i128::from(of_spine.min(of_view));
        // At most 2^64 seconds, so it fits many times.
        let ttl = ttl.map(|ttl| ttl.as_nanos().cast_signed() / finer);
        Self { matching, ratio, ttl }
    }

    /// The highest tick that a row of the spine at `time` admits; `None` if there is none.
    #[inline]
    pub(super) fn newest(&self, time: i64) -> Option<i64> {
        // Ticks of the view not after `time`, and not before it, which differ if `time` lies between two.
        let (floor, ceiling) = match self.ratio {
            Ratio::Same => (time, time),
            Ratio::ViewIsFiner(factor) => match time.checked_mul(factor) {
                Some(tick) => (tick, tick),
                None => return self.newest_beyond(time > 0),
            },
            Ratio::ViewIsCoarser(factor) => {
                let floor = time.div_euclid(factor);
                (floor, floor + i64::from(time.rem_euclid(factor) != 0))
            }
        };
        match self.matching {
            Matching::AtOrBefore => Some(floor),
            Matching::Before => ceiling.checked_sub(1),
            Matching::AtOrAfter => Some(mirrored(ceiling)),
            Matching::After => floor.checked_add(1).map(mirrored),
        }
    }

    /// For a time that lies after all ticks, or before all.
    fn newest_beyond(&self, after: bool) -> Option<i64> {
        (after != self.matching.is_mirrored()).then_some(i64::MAX)
    }

    /// The lowest tick that a row of the spine at `time` admits, if the view has a time to live. More than 64 bits,
    /// because it can lie before all ticks or after all.
    #[inline]
    pub(super) fn oldest(&self, time: i64) -> Option<i128> {
        let ttl = self.ttl?;
        let time = i128::from(time);
        Some(match self.ratio {
            Ratio::Same => time - ttl,
            Ratio::ViewIsFiner(factor) => time * i128::from(factor) - ttl,
            Ratio::ViewIsCoarser(factor) => ceiling_of(time - ttl, factor),
        })
    }
}

/// `dividend / divisor`, rounded up. The divisor is positive.
#[inline]
fn ceiling_of(dividend: i128, divisor: i64) -> i128 {
    // A division of 64 bits is much faster, and the rule.
    if let Ok(small) = i64::try_from(dividend) {
        return i128::from(small.div_euclid(divisor)) + i128::from(small.rem_euclid(divisor) != 0);
    }
    let divisor = i128::from(divisor);
    dividend.div_euclid(divisor) + i128::from(dividend.rem_euclid(divisor) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: [Unit; 5] =
        [Unit::Day, Unit::Second, Unit::Millisecond, Unit::Microsecond, Unit::Nanosecond];
    const MATCHINGS: [Matching; 4] =
        [Matching::AtOrBefore, Matching::Before, Matching::AtOrAfter, Matching::After];

    /// Times around each border that there is.
    fn times() -> Vec<i64> {
        let borders = [i64::MIN, i64::MAX, 0, 86_400, -86_400, i64::MAX / 1000, i64::MIN / 1000, 1_000_000];
        let around = |border: i64| (-2..=2).filter_map(move |step| border.checked_add(step));
        borders.into_iter().flat_map(around).collect()
    }

    fn admits(matching: Matching, spine: i128, event: i128) -> bool {
        match matching {
            Matching::AtOrBefore => event <= spine,
            Matching::Before => event < spine,
            Matching::AtOrAfter => event >= spine,
            Matching::After => event > spine,
        }
    }

    #[test]
    fn bounds_admit_what_the_comparison_of_instants_admits() {
        for spine in UNITS {
            for view in UNITS {
                for matching in MATCHINGS {
                    let bounds = Bounds::new(spine, view, matching, None);
                    for time in times() {
                        for event in times() {
                            let expected = admits(
                                matching,
                                i128::from(time) * i128::from(spine.nanoseconds()),
                                i128::from(event) * i128::from(view.nanoseconds()),
                            );
                            let tick = if matching.is_mirrored() { mirrored(event) } else { event };
                            let found = bounds.newest(time).is_some_and(|newest| tick <= newest);
                            assert_eq!(found, expected, "{time} {spine:?} {matching:?} {event} {view:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_time_to_live_admits_exactly_what_is_not_older() {
        let ttls = [0, 1, 999, 1_000, 1_001, 86_400_000_000_000, u64::MAX].map(Duration::from_nanos);
        for spine in UNITS {
            for view in UNITS {
                for ttl in ttls.into_iter().chain([Duration::MAX]) {
                    let bounds = Bounds::new(spine, view, Matching::AtOrBefore, Some(ttl));
                    for time in times() {
                        for event in times() {
                            let age = i128::from(time) * i128::from(spine.nanoseconds())
                                - i128::from(event) * i128::from(view.nanoseconds());
                            let found = bounds.oldest(time).is_some_and(|oldest| i128::from(event) >= oldest);
                            let expected = age <= ttl.as_nanos().cast_signed();
                            assert_eq!(found, expected, "{time} {spine:?} {ttl:?} {event} {view:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_time_that_a_finer_unit_cannot_hold_is_an_error_and_null_is_not() {
        let nulls = NullBuffer::from(vec![true, false]);
        let values = || ScalarBuffer::from(vec![1, i64::MAX]);
        let scaled = rescaled(values(), Some(&nulls), Unit::Second, Unit::Millisecond).unwrap();
        assert_eq!(scaled[0], 1000);
        assert!(rescaled(values(), None, Unit::Second, Unit::Millisecond).is_err());
        assert_eq!(rescaled(values(), None, Unit::Day, Unit::Day).unwrap(), values());
    }

    #[test]
    fn times_and_numbers_have_no_unit_in_common() {
        assert_eq!(Unit::Number.finest(Unit::Second), None);
        assert_eq!(Unit::Number.finest(Unit::Number), Some(Unit::Number));
        assert_eq!(Unit::Day.finest(Unit::Microsecond), Some(Unit::Microsecond));
    }
}
