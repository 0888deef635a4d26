//! How much a query has read from each cloud, and what that costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::HumanBytes;
use serde::Serialize;

use crate::spec::QuerySpec;

/// Counts for one query. Only data files are counted: the log is read once for many queries.
#[derive(Debug)]
pub(super) struct Meter {
    clouds: Vec<(String, Counts)>,
    cached_bytes: AtomicU64,
    query: QuerySpec,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    /// Nothing was read yet from the clouds of these names.
    pub(super) fn new<'a>(clouds: impl Iterator<Item = &'a str>, query: &QuerySpec) -> Self {
        let clouds = clouds.map(|name| (name.to_owned(), Counts::default())).collect();
        Self { clouds, cached_bytes: AtomicU64::new(0), query: query.clone() }
    }

    /// A request to the cloud at `cloud` is made, whatever becomes of it.
    pub(super) fn asked(&self, cloud: usize) {
        self.clouds[cloud].1.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// These bytes have come from the cloud at `cloud`.
    pub(super) fn received(&self, cloud: usize, bytes: u64) {
        self.clouds[cloud].1.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// These bytes were on the local disk.
    pub(super) fn found(&self, bytes: u64) {
        self.cached_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn usage(&self) -> Usage {
        let read = |(cloud, counts): &(String, Counts)| {
            let requests = counts.requests.load(Ordering::Relaxed);
            let bytes = counts.bytes.load(Ordering::Relaxed);
            CloudUsage { cloud: cloud.clone(), requests, bytes }
        };
        let clouds: Vec<CloudUsage> = self.clouds.iter().map(read).filter(|read| read.requests > 0).collect();
        let has_prices = !self.query.prices.is_empty() || self.query.local_to.is_some();
        let cost = clouds
            .iter()
            .try_fold(0.0, |sum, read| Some(sum + self.query.cost(&read.cloud, read.bytes, read.requests)?));
        Usage {
            clouds,
            cached_bytes: self.cached_bytes.load(Ordering::Relaxed),
            cost: if has_prices { cost } else { None },
            currency: self.query.currency.clone(),
        }
    }
}

/// How much was read of data files.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// The clouds that were asked, in the order of the topology.
    pub clouds: Vec<CloudUsage>,
    /// Bytes that were on the local disk and not asked of a cloud.
    pub cached_bytes: u64,
    /// What this costs by the prices of the topology; `None` if some cloud has none.
    pub cost: Option<f64>,
    /// What the cost is in.
    pub currency: String,
}

/// How much was read from one cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CloudUsage {
    /// The cloud.
    pub cloud: String,
    /// Requests made, also those that failed.
    pub requests: u64,
    /// Bytes that came, also of answers that broke off.
    pub bytes: u64,
}

impl std::fmt::Display for Usage {
    /// One line, for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        for CloudUsage { cloud, requests, bytes } in &self.clouds {
            let plural = if *requests == 1 { "" } else { "s" };
            parts.push(format!("{} in {requests} request{plural} from {cloud}", HumanBytes(*bytes)));
        }
        if self.cached_bytes > 0 {
            parts.push(format!("{} from the cache", HumanBytes(self.cached_bytes)));
        }
        if parts.is_empty() {
            parts.push("nothing of the data files".to_owned());
        }
        write!(f, "read {}", parts.join(", "))?;
        match self.cost {
            Some(cost) => write!(f, "; about {cost:.6} {}", self.currency),
            None => Ok(()),
        }
    }
}

/// The counts of a query on its way. They can be asked while it runs, and after it.
#[derive(Debug, Clone)]
pub struct Metered(pub(super) Arc<Meter>);

impl Metered {
    /// How much was read so far.
    pub fn usage(&self) -> Usage {
        self.0.usage()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::PriceSpec;

    #[test]
    fn what_was_read_is_told_with_its_cost() {
        let price = PriceSpec { egress_per_gib: 0.5, request_per_million: 2.0 };
        let query = QuerySpec { prices: BTreeMap::from([("a".into(), price)]), ..QuerySpec::default() };
        let meter = Meter::new(["a", "b"].into_iter(), &query);
        assert_eq!(meter.usage().to_string(), "read nothing of the data files; about 0.000000 USD");
        meter.asked(0);
        meter.received(0, 1 << 29);
        meter.found(1024);
        let text = "read 512.00 MiB in 1 request from a, 1.00 KiB from the cache; about 0.250002 USD";
        assert_eq!(meter.usage().to_string(), text);
        meter.asked(1);
        meter.asked(1);
        let usage = meter.usage();
        assert_eq!((usage.cost, usage.clouds.len(), usage.clouds[1].requests), (None, 2, 2));
        assert!(usage.to_string().ends_with("0 B in 2 requests from b, 1.00 KiB from the cache"), "{usage}");
    }

    #[test]
    fn without_prices_no_cost_is_told() {
        let meter = Meter::new(["a"].into_iter(), &QuerySpec::default());
        assert_eq!(meter.usage().to_string(), "read nothing of the data files");
    }
}
