//! The `query` section: which cloud queries read, what that costs, and what they keep on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Prefer;
use super::check::Place;
use super::raw;
use super::resolve::Resolver;
use super::suggest::did_you_mean;
use super::units::ByteSize;
use super::yaml::pointer_to;

/// Bytes of a gibibyte, in which egress is priced.
const GIB: f64 = (1u64 << 30) as f64;
/// Requests that are priced together.
const MILLION: f64 = 1_000_000.0;
/// What no price is above.
const PRICE_MAX: f64 = 1_000_000.0;
/// Least and most of a cache.
const CACHE_BYTES: (u64, u64) = (16 << 20, 1 << 50);
/// Longest name of a currency.
const CURRENCY_BYTES_MAX: usize = 8;

/// How queries read the datasets.
#[derive(Debug, Clone, PartialEq)]
pub struct QuerySpec {
    /// Which cloud is asked first.
    pub prefer: Prefer,
    /// The cloud that queries run in, whose egress is free there.
    pub local_to: Option<String>,
    /// What prices are in.
    pub currency: String,
    /// What reading costs, by cloud.
    pub prices: BTreeMap<String, PriceSpec>,
    /// Blocks of data files on a local disk; `None`: nothing is kept.
    pub cache: Option<CacheSpec>,
}

impl Default for QuerySpec {
    fn default() -> Self {
        Self {
            prefer: Prefer::default(),
            local_to: None,
            currency: raw::default_currency(),
            prices: BTreeMap::new(),
            cache: None,
        }
    }
}

/// What reading from a cloud costs. Neither is negative.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PriceSpec {
    /// For each gibibyte that leaves the cloud.
    pub egress_per_gib: f64,
    /// For a million requests that read.
    pub request_per_million: f64,
}

/// Blocks of data files on a local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSpec {
    /// The folder, absolute.
    pub directory: PathBuf,
    /// Bytes it may take.
    pub bytes_max: u64,
}

impl QuerySpec {
    /// What reading so much from `cloud` costs; `None` if it has no price.
    pub fn cost(&self, cloud: &str, bytes: u64, requests: u64) -> Option<f64> {
        let is_local = self.local_to.as_deref() == Some(cloud);
        let price = match self.prices.get(cloud) {
            Some(price) => *price,
            None if is_local => PriceSpec::default(),
            None => return None,
        };
        let egress = if is_local { 0.0 } else { bytes as f64 / GIB * price.egress_per_gib };
        Some(egress + requests as f64 / MILLION * price.request_per_million)
    }
}

impl Resolver<'_> {
    /// The section, without what is wrong in it.
    pub(super) fn query(&mut self) -> QuerySpec {
        let clouds = self.names("/clouds");
        let defaults = QuerySpec::default();
        let query = QuerySpec {
            prefer: self.typed("/query/prefer").unwrap_or_default(),
            local_to: self.typed::<Option<String>>("/query/local_to").flatten(),
            currency: self.typed("/query/currency").unwrap_or(defaults.currency),
            prices: self.prices(&clouds),
            cache: self.cache(),
        };
        if let Some(cloud) = query.local_to.as_deref().filter(|cloud| !clouds.iter().any(|it| it == cloud)) {
            let message = format!("`local_to` is `{cloud}`, which is none of `clouds`");
            let suggestion = did_you_mean(cloud, clouds.iter().map(String::as_str));
            self.report("/query/local_to", Place::Value, message, suggestion);
        }
        let is_short = (1..=CURRENCY_BYTES_MAX).contains(&query.currency.len());
        if !is_short || query.currency.chars().any(|c| c.is_control() || c.is_whitespace()) {
            let message = "`currency` is not a name of at most 8 bytes, such as `USD`".to_owned();
            self.report("/query/currency", Place::Value, message, None);
        }
        if query.prefer == Prefer::Cheapest {
            let unpriced = clouds.iter().filter(|cloud| query.cost(cloud, 1, 1).is_none());
            let unpriced: Vec<&str> = unpriced.map(String::as_str).collect();
            if !unpriced.is_empty() {
                let message =
                    format!("`prefer` is `cheapest`, and there is no price of {}", unpriced.join(", "));
                let suggestion = "add them under `prices`, or prefer `order` or `nearest`".to_owned();
                self.report("/query/prefer", Place::Value, message, Some(suggestion));
            }
        }
        query
    }

    fn prices(&mut self, clouds: &[String]) -> BTreeMap<String, PriceSpec> {
        let mut prices = BTreeMap::new();
        for cloud in self.names("/query/prices") {
            let pointer = pointer_to("/query/prices", &cloud);
            if !clouds.contains(&cloud) {
                let message = format!("`{cloud}` has a price and is none of `clouds`");
                let suggestion = did_you_mean(&cloud, clouds.iter().map(String::as_str));
                self.report(pointer.as_str(), Place::Key, message, suggestion);
            }
            let Some(raw::Price { egress_per_gib, request_per_million }) = self.typed(&pointer) else {
                continue;
            };
            let fields = [("egress_per_gib", egress_per_gib), ("request_per_million", request_per_million)];
            for (field, price) in fields {
                if !(0.0..=PRICE_MAX).contains(&price) {
                    let message = format!("`{field}` is {price}; it can be from 0 to {PRICE_MAX}");
                    self.report(format!("{pointer}/{field}"), Place::Value, message, None);
                }
            }
            prices.insert(cloud, PriceSpec { egress_per_gib, request_per_million });
        }
        prices
    }

    fn cache(&mut self) -> Option<CacheSpec> {
        let raw::QueryCache { directory, size } = self.typed::<Option<_>>("/query/cache").flatten()?;
        let (least, most) = CACHE_BYTES;
        self.check_bytes("/query/cache/size", "size", size, least, most);
        if directory.is_empty() {
            let suggestion = Some("name a folder, such as `./cache`".to_owned());
            self.report("/query/cache/directory", Place::Value, "`directory` is empty", suggestion);
        }
        let ByteSize(bytes_max) = size;
        Some(CacheSpec { directory: self.folder.join(directory), bytes_max })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{CheckOptions, Topology, check_text};
    use super::*;

    const EXAMPLE: &str = include_str!("example.yaml");

    fn check(section: &str) -> Result<Topology, Vec<(String, String)>> {
        let text = format!("{EXAMPLE}query:\n{section}");
        check_text(&text, "topology.yaml", Path::new("/specs"), CheckOptions::default()).map_err(|errors| {
            errors.problems.into_iter().map(|problem| (problem.pointer, problem.message)).collect()
        })
    }

    #[test]
    fn without_the_section_the_order_of_the_clouds_counts() {
        let topology =
            check_text(EXAMPLE, "topology.yaml", Path::new("/specs"), CheckOptions::default()).unwrap();
        assert_eq!(topology.query, QuerySpec::default());
        assert_eq!(topology.query.prefer, Prefer::Order);
    }

    #[test]
    fn a_whole_section_is_understood() {
        let query = check(
            "  prefer: cheapest
  local_to: azure
  currency: EUR
  prices:
    aws: { egress_per_gib: 0.09, request_per_million: 0.4 }
    gcp: { egress_per_gib: 1 }
  cache: { directory: ./cache, size: 1GiB }
",
        );
        let query = query.unwrap().query;
        assert_eq!(query.prefer, Prefer::Cheapest);
        let cache = CacheSpec { directory: "/specs/./cache".into(), bytes_max: 1 << 30 };
        assert_eq!(query.cache, Some(cache));
        assert_eq!(query.cost("azure", 1 << 40, 9), Some(0.0));
        assert_eq!(query.cost("gcp", 1 << 29, 9), Some(0.5));
        assert_eq!(query.cost("aws", 0, 10_000_000), Some(4.0));
        assert_eq!(query.cost("other", 1, 1), None);
        assert_eq!(query.currency, "EUR");
    }

    #[test]
    fn what_is_wrong_is_named_where_it_stands() {
        for (section, pointer, said) in [
            ("  prefer: fastest\n", "/query/prefer", "unknown value `fastest`"),
            ("  prefer: cheapest\n", "/query/prefer", "no price of aws, azure, gcp"),
            ("  local_to: asw\n", "/query/local_to", "`asw`, which is none of `clouds`"),
            ("  prices: { asw: { egress_per_gib: 1 } }\n", "/query/prices/asw", "none of `clouds`"),
            (
                "  prices: { aws: { egress_per_gib: -1 } }\n",
                "/query/prices/aws/egress_per_gib",
                "from 0 to 1000000",
            ),
            ("  prices: { aws: { egress: 1 } }\n", "/query/prices/aws/egress", "egress"),
            ("  currency: \"\"\n", "/query/currency", "`currency`"),
            ("  cache: { directory: ./cache, size: 1MiB }\n", "/query/cache/size", "at least 16MiB"),
            ("  cache: { directory: \"\", size: 1GiB }\n", "/query/cache/directory", "is empty"),
        ] {
            let problems = check(section).expect_err(section);
            let found = problems.iter().any(|(at, message)| at == pointer && message.contains(said));
            assert!(found, "{section}: {problems:?}");
        }
    }
}
