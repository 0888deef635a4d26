//! What a lab must look like when the work is done.

use isobar_topologies::spec::Topology;

use super::Lab;
use crate::events;
use crate::trees;

impl Lab {
    /// Everything that was produced is in every cloud, once and right; the clouds are equal as far as their logs name
    /// something; and `prove` holds. What must be true after kills and outages.
    ///
    /// # Panics
    /// If it is not.
    pub async fn assert_whole(&self) {
        self.assert_features_complete().await;
        self.assert_reachable_equal(events::FEATURES).await;
        self.assert_proved().await;
    }

    /// As [`assert_whole`](Self::assert_whole), and nothing lies in one cloud that does not lie in all. What must be true
    /// after runs that nothing disturbed.
    ///
    /// # Panics
    /// If it is not.
    pub async fn assert_whole_and_equal(&self) {
        self.assert_features_complete().await;
        self.assert_trees_equal().await;
        self.assert_proved().await;
    }

    /// Runs `topology` until it has caught up; then [`assert_whole`](Self::assert_whole).
    ///
    /// # Panics
    /// If the run fails, or something is wrong after it.
    pub async fn catch_up_and_assert_whole(&self, topology: &Topology) {
        self.run_until_caught_up(topology).await.expect("a run with every cloud there catches up");
        self.assert_whole().await;
    }

    /// In every cloud, `features` holds everything produced, once and right, and nothing else.
    ///
    /// # Panics
    /// If it does not.
    pub async fn assert_features_complete(&self) {
        for cloud in &self.clouds {
            let (dataset, quarantine) = self.tables(cloud, events::FEATURES).await;
            self.ledger().assert_complete(events::TOPIC, events::features, &dataset, &quarantine);
        }
    }

    /// In every cloud, `features` is right as far as it goes.
    ///
    /// # Panics
    /// If it is not.
    pub async fn assert_features_right(&self) {
        for cloud in &self.clouds {
            let (dataset, quarantine) = self.tables(cloud, events::FEATURES).await;
            let dataset = dataset.as_far_as(&quarantine);
            self.ledger().assert_right(events::TOPIC, events::features, &dataset, &quarantine);
        }
    }

    /// The clouds are equal outside `control/`, as `diff -r` sees it.
    ///
    /// # Panics
    /// If they are not.
    pub async fn assert_trees_equal(&self) {
        let mut named = Vec::new();
        for cloud in &self.clouds {
            named.push((cloud.name.clone(), cloud.tree().await));
        }
        trees::assert_all_equal(&named);
    }

    /// What the logs of `dataset` and its quarantine name is equal in all clouds.
    ///
    /// # Panics
    /// If it is not.
    pub async fn assert_reachable_equal(&self, dataset: &str) {
        let quarantine = format!("{dataset}.quarantine");
        let mut named = Vec::new();
        for cloud in &self.clouds {
            named
                .push((cloud.name.clone(), trees::reachable(&*cloud.store(), &[dataset, &quarantine]).await));
        }
        trees::assert_all_equal(&named);
    }

    /// `prove` holds.
    ///
    /// # Panics
    /// If it does not.
    pub async fn assert_proved(&self) {
        let report = self.proof().await;
        assert!(report.holds(), "prove does not hold:\n{}", report.to_table());
    }
}
