//! Finding the highest number in a folder of numbered objects that only grows.
//!
//! Claims and logs of epochs are never removed, and a take-over needs the newest only. Their names are numbers of fixed
//! width, so a store lists them in order, and "is there any above `x`" is one listing of which the first page is enough.
//! Numbers may have gaps, because a cloud was away; that there is none above `x` says the same of every higher one all the
//! same. So the highest is galloped to and then bisected for, which takes one page while there are few and about two per
//! binary digit of the number otherwise.
//!
//! Every answer is evidence by itself, in whatever order a store lists: a number seen exists, and a listing that came to
//! its end has shown all there were. What is created meanwhile may be found or not, as in a listing from the beginning.

use futures::TryStreamExt;
use isobar_connectors::clouds::Cloud;
use object_store::path::Path;

use super::Epoch;
use super::format::{Keys, number_of};
use crate::error::Error;

/// Objects looked at in one listing: a page of S3 and Google's store.
const PAGE_OBJECTS: usize = 1000;

/// What the beginning of a listing shows of the numbers above a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Above {
    /// The highest of those seen; `None` only if there are none at all.
    highest: Option<u64>,
    /// Whether all there are were seen.
    is_all: bool,
}

/// The highest number above `bound`, of all numbers without one; `look` shows the beginning of those above another.
async fn highest_above<E, F>(bound: Option<u64>, look: impl Fn(Option<u64>) -> F) -> Result<Option<u64>, E>
where
    F: Future<Output = Result<Above, E>>,
{
    let first = look(bound).await?;
    let Some(mut low) = first.highest.filter(|_| !first.is_all) else { return Ok(first.highest) };
    // `low` exists, and once `high` is known, there was nothing above it.
    let mut high: Option<u64> = None;
    while high.is_none_or(|high| low < high) {
        let middle = high.map_or(low.saturating_mul(2), |high| low + (high - low) / 2);
        let above = look(Some(middle)).await?;
        match above.highest {
            Some(found) if above.is_all => return Ok(Some(found)),
            Some(found) => low = found,
            None => high = Some(middle),
        }
    }
    Ok(Some(low))
}

/// The highest epoch claimed in a cloud.
pub(super) async fn highest_claim(cloud: &Cloud, keys: &Keys) -> Result<Option<Epoch>, Error> {
    let folder = keys.claims();
    let look = |bound: Option<u64>| {
        let after = bound.map(|bound| keys.claim(Epoch(bound)));
        look_above(cloud, &folder, bound, after, number_of)
    };
    Ok(highest_above(None, look).await?.map(Epoch))
}

/// The highest epoch above `bound` that has a log in a cloud.
pub(super) async fn highest_log(
    cloud: &Cloud,
    keys: &Keys,
    bound: Option<Epoch>,
) -> Result<Option<Epoch>, Error> {
    let folder = keys.logs();
    let epoch_of = |record: &Path| number_of(&Path::from_iter(record.prefix_match(&folder)?.next()));
    let look = |bound: Option<u64>| {
        // No record of its log comes after this one.
        let after = bound.map(|bound| keys.record(Epoch(bound), u64::MAX));
        look_above(cloud, &folder, bound, after, epoch_of)
    };
    Ok(highest_above(bound.map(|epoch| epoch.0), look).await?.map(Epoch))
}

/// Lists the objects of `folder` after the name `after`: a page of them, or as many as it takes to find one whose number
/// is above `bound`.
async fn look_above(
    cloud: &Cloud,
    folder: &Path,
    bound: Option<u64>,
    after: Option<Path>,
    number: impl Fn(&Path) -> Option<u64>,
) -> Result<Above, Error> {
    let mut listed = match &after {
        Some(after) => cloud.control.list_with_offset(Some(folder), after),
        None => cloud.control.list(Some(folder)),
    };
    let (mut highest, mut objects) = (None, 0);
    while objects < PAGE_OBJECTS || highest.is_none() {
        let object = listed.try_next().await;
        let object = object.map_err(|error| Error::store(cloud, &format!("list {folder}"), error))?;
        let Some(object) = object else { return Ok(Above { highest, is_all: true }) };
        objects += 1;
        highest = highest.max(number(&object.location).filter(|number| Some(*number) > bound));
    }
    Ok(Above { highest, is_all: false })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use futures::FutureExt;

    use super::*;

    /// The highest of `numbers` above `bound` as it is found with listings of `page` numbers, and how many there were.
    fn search(numbers: &BTreeSet<u64>, bound: Option<u64>, page: usize) -> (Option<u64>, usize) {
        let looks = Cell::new(0);
        let look = |above: Option<u64>| {
            looks.set(looks.get() + 1);
            let listed = numbers.iter().filter(|number| Some(**number) > above);
            let highest = listed.clone().take(page).max().copied();
            let is_all = listed.clone().count() < page;
            async move { Ok::<_, Infallible>(Above { highest, is_all }) }
        };
        let found = highest_above(bound, look).now_or_never().expect("nothing is waited for");
        (found.unwrap_or_else(|never| match never {}), looks.get())
    }

    #[test]
    fn the_highest_number_is_found_whatever_the_gaps() {
        let sets: [&[u64]; 9] = [
            &[],
            &[0],
            &[1],
            &[7, 8, 9],
            &[0, u64::MAX],
            &[1, 2, 3, u64::MAX - 1, u64::MAX],
            &[1, 1_000_000_000_000],
            &[500, 501, 502, 503, 504, 505, 506, 507, 508, 509, 510, 511, 512],
            &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
        ];
        for numbers in sets {
            let numbers: BTreeSet<u64> = numbers.iter().copied().collect();
            for page in 1..=4 {
                for bound in [None, Some(0), Some(1), Some(63), Some(600), Some(u64::MAX)] {
                    let highest = numbers.last().copied().filter(|highest| Some(*highest) > bound);
                    assert_eq!(search(&numbers, bound, page).0, highest, "{numbers:?} {bound:?} {page}");
                }
            }
        }
    }

    #[test]
    fn few_numbers_take_one_listing_and_many_a_logarithm() {
        assert_eq!(search(&(1..=999).collect(), None, PAGE_OBJECTS), (Some(999), 1));
        for highest in [1000, 1001, 4096, 65_537, 300_000] {
            let (found, looks) = search(&(1..=highest).collect(), None, PAGE_OBJECTS);
            assert_eq!(found, Some(highest));
            let digits = highest.ilog2() as usize + 1;
            assert!(looks <= 2 * digits, "{looks} listings for {highest}");
        }
        // From what is known already it is one listing again.
        assert_eq!(search(&(1..=300_000).collect(), Some(299_500), PAGE_OBJECTS), (Some(300_000), 1));
        assert_eq!(search(&(1..=300_000).collect(), Some(300_000), PAGE_OBJECTS), (None, 1));
    }
}
