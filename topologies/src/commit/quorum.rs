//! What a leader knows about its own epoch: which record lies where, what is decided, what is published.
//!
//! Pure bookkeeping: lanes report what a cloud answered, the state says what follows. A record is **decided** when
//! a majority of the registered clouds holds it and every record before it.

/// One cloud, as seen by the leader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloudState {
    /// Records `0..stored` of this epoch are in the cloud.
    pub stored: u64,
    /// Records `0..published` have their bodies in the cloud's `_delta_log`s.
    pub published: u64,
    /// The cloud's log was closed by a later leader: nothing more can be stored there in this epoch.
    pub sealed: bool,
}

/// The state of one epoch at its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    clouds: Vec<CloudState>,
    proposed: u64,
}

impl Quorum {
    /// A new epoch over `clouds` registered clouds, with nothing stored anywhere.
    pub fn new(clouds: usize) -> Self {
        Self { clouds: vec![CloudState::default(); clouds], proposed: 0 }
    }

    /// How many clouds decide.
    pub fn majority(&self) -> usize {
        majority(self.clouds.len())
    }

    /// Takes the next record into the log; its index.
    ///
    /// # Panics
    /// If the record before it is not decided: one undecided record at a time.
    pub fn propose(&mut self) -> u64 {
        assert_eq!(self.decided(), self.proposed, "a record is proposed before the last one is decided");
        self.proposed += 1;
        self.proposed - 1
    }

    /// Cloud `cloud` holds record `index`.
    ///
    /// # Panics
    /// If records arrive out of order: a cloud receives record `i` only after `i - 1`.
    pub fn record_stored(&mut self, cloud: usize, index: u64) {
        assert!(index < self.proposed, "record {index} was never proposed");
        assert_eq!(self.clouds[cloud].stored, index, "records of an epoch are stored in order");
        self.clouds[cloud].stored += 1;
    }

    /// Cloud `cloud` has published the bodies of record `index`.
    ///
    /// # Panics
    /// If the record is not decided, or records are published out of order.
    pub fn record_published(&mut self, cloud: usize, index: u64) {
        assert!(index < self.decided(), "record {index} is published before it is decided");
        assert_eq!(self.clouds[cloud].published, index, "records are published in order");
        self.clouds[cloud].published += 1;
    }

    /// Cloud `cloud` is closed for this epoch.
    pub fn record_sealed(&mut self, cloud: usize) {
        self.clouds[cloud].sealed = true;
    }

    /// Records proposed so far.
    pub fn proposed(&self) -> u64 {
        self.proposed
    }

    /// Records `0..decided()` are held by a majority.
    pub fn decided(&self) -> u64 {
        self.reached_by_majority(|cloud| cloud.stored)
    }

    /// Records `0..published()` are published by a majority.
    pub fn published(&self) -> u64 {
        self.reached_by_majority(|cloud| cloud.published)
    }

    /// The state of one cloud.
    pub fn cloud(&self, cloud: usize) -> &CloudState {
        &self.clouds[cloud]
    }

    fn reached_by_majority(&self, progress: impl Fn(&CloudState) -> u64) -> u64 {
        let mut reached: Vec<u64> = self.clouds.iter().map(progress).collect();
        reached.sort_unstable_by(|left, right| right.cmp(left));
        reached[self.majority() - 1]
    }
}

/// The smallest number of clouds of which any two sets share one.
pub fn majority(clouds: usize) -> usize {
    clouds / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cloud_decides_alone_two_decide_together_any_two_of_three() {
        for (clouds, needed) in [(1, 1), (2, 2), (3, 2)] {
            let mut quorum = Quorum::new(clouds);
            assert_eq!(quorum.propose(), 0);
            for cloud in 0..clouds {
                assert_eq!(
                    quorum.decided(),
                    u64::from(cloud >= needed),
                    "{clouds} clouds, {cloud} hold the record"
                );
                quorum.record_stored(cloud, 0);
            }
            assert_eq!(quorum.decided(), 1);
        }
    }

    #[test]
    fn a_cloud_behind_does_not_hold_up_decisions() {
        let mut quorum = Quorum::new(3);
        for index in 0..5 {
            assert_eq!(quorum.propose(), index);
            quorum.record_stored(0, index);
            quorum.record_stored(2, index);
            quorum.record_published(0, index);
        }
        assert_eq!((quorum.decided(), quorum.published()), (5, 0));
        quorum.record_published(2, 0);
        assert_eq!(quorum.published(), 1);
        quorum.record_stored(1, 0);
        assert_eq!(quorum.cloud(1).stored, 1);
    }

    #[test]
    #[should_panic(expected = "published before it is decided")]
    fn publishing_an_undecided_record_is_a_bug() {
        let mut quorum = Quorum::new(3);
        quorum.propose();
        quorum.record_stored(0, 0);
        quorum.record_published(0, 0);
    }
}
