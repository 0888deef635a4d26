//! Who reads what: contiguous shares of the sorted partitions, first the leader's, then the workers' in the order of
//! their ids. Only a matter of work: who is wrong about it is told that its commit is stale.

/// The share of participant `index` of `participants`. Shares differ by one partition at most, and tile `partitions`.
pub(super) fn share_of<T>(partitions: &[T], index: usize, participants: usize) -> &[T] {
    let bound = |index: usize| index * partitions.len() / participants;
    &partitions[bound(index)..bound(index + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_tile_the_partitions_and_are_even() {
        for partitions in 0..20 {
            let all: Vec<usize> = (0..partitions).collect();
            for participants in 1..8 {
                let shares: Vec<&[usize]> =
                    (0..participants).map(|index| share_of(&all, index, participants)).collect();
                assert_eq!(shares.concat(), all);
                let (least, most) =
                    (shares.iter().map(|s| s.len()).min(), shares.iter().map(|s| s.len()).max());
                assert!(most.unwrap() - least.unwrap() <= 1, "{shares:?}");
            }
        }
    }
}
