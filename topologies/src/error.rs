//! What stops a topology, and what a person should do about it.

use isobar_connectors::clouds::Cloud;

/// An error of the running system. [`exit_code`](Error::exit_code) says whose move it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The specification or something it names is wrong: fix the configuration.
    #[error("{0}")]
    Configuration(String),
    /// A connector failed: retry, or see its own documentation.
    #[error("{action}")]
    Connector {
        /// What was being done.
        action: String,
        /// The connector's error.
        #[source]
        source: isobar_connectors::Error,
    },
    /// A store gave an error outside the write-once path: retry.
    #[error("cloud {cloud}: {action}")]
    Store {
        /// The cloud.
        cloud: String,
        /// What was being done.
        action: String,
        /// The store's answer.
        #[source]
        source: object_store::Error,
    },
    /// A record could not be decoded, transformed or written: report a bug.
    #[error("{action}")]
    Transform {
        /// What was being done.
        action: String,
        /// The engine's error.
        #[source]
        source: isobar_transforms::Error,
    },
    /// A query reached one of its limits: ask for less.
    #[error("{message}")]
    Limit {
        /// The limit, by its name in the specification.
        limit: &'static str,
        /// What it is, and what would help.
        message: String,
    },
    /// Too few clouds answered: retry when they are back.
    #[error("cannot {action}: {needed} of {clouds} clouds are needed{}", listed(.reasons))]
    NoMajority {
        /// What was being done.
        action: String,
        /// How many clouds it takes.
        needed: usize,
        /// How many are registered.
        clouds: usize,
        /// Per missing cloud, why.
        reasons: Vec<String>,
    },
    /// Another process leads now: stop. Nothing is lost; that process goes on from the same chain.
    #[error(
        "another process took over this topology (its epoch closed ours, {epoch}); nothing is lost, it goes on from the same positions"
    )]
    Superseded {
        /// Our own epoch.
        epoch: super::commit::Epoch,
    },
    /// A worker's last commit was answered by nobody: retry when a leader is there. Nothing is lost.
    #[error("{0}")]
    LeaderSilent(String),
    /// A redrive was refused again and again, because others came first, or its files were not stored: retry. What was
    /// decided of it stays.
    #[error("{0}")]
    NotDecided(String),
    /// An expectation with the action `fail` met a record that breaks it: fix the data or the expectation.
    #[error("expectation {rule} of dataset {dataset} failed at {record}: its action is `fail`")]
    ExpectationFailed {
        /// The dataset.
        dataset: String,
        /// The expectation.
        rule: String,
        /// Topic, partition and offset.
        record: String,
    },
    /// More records missed a rule than its `fail_above` allows: fix the records, the schema or the limit. The batch was not
    /// committed, and the next run reads it again.
    #[error(
        "dataset {dataset}: {missed} of the last {records} records missed `{rule}`, which is above its `fail_above` of {limit}; the batch is \
         not committed and nothing is lost. Mend the records' producer or the schema; or raise the limit, and redrive the \
         quarantine later"
    )]
    RateAbove {
        /// The dataset.
        dataset: String,
        /// The expectation, `undecodable` or `sql_error`.
        rule: String,
        /// Records that missed it.
        missed: u64,
        /// Of so many.
        records: u64,
        /// The limit.
        limit: crate::spec::units::Percent,
    },
    /// Something in a cloud is not what isobar wrote: inspect it, then `isobar prove`.
    #[error("{what} is damaged: {detail}")]
    Damaged {
        /// The object.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Kafka no longer holds what the chain wants to read next: rows would be missing. A person must decide.
    #[error("{0}")]
    Gap(String),
    /// A child process did not do what it was started for: see what it said.
    #[error("the child process `isobar run` {0}")]
    Child(String),
    /// Our own invariant broke: report a bug. Nothing was committed.
    #[error("refused our own commit, please report this: {0}")]
    Bug(String),
}

fn listed(reasons: &[String]) -> String {
    reasons.iter().map(|reason| format!("\n  {reason}")).collect()
}

impl Error {
    /// 2 when the configuration must change, 1 for everything met at run time.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Configuration(_) => 2,
            Error::Connector { source, .. } if source.is_configuration() => 2,
            _ => 1,
        }
    }

    /// Whether trying again cannot help before a person has changed or decided something.
    pub(crate) fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Error::Gap(_)
                | Error::ExpectationFailed { .. }
                | Error::RateAbove { .. }
                | Error::Transform { .. }
                | Error::Bug(_)
                | Error::Connector {
                    source: isobar_connectors::Error::PositionLost { .. }
                        | isobar_connectors::Error::PartitionGone { .. },
                    ..
                }
        ) || self.exit_code() == 2
    }

    pub(crate) fn store(cloud: &Cloud, action: &str, source: object_store::Error) -> Self {
        Self::Store { cloud: cloud.name.clone(), action: action.to_owned(), source }
    }

    pub(crate) fn connector(action: impl Into<String>, source: isobar_connectors::Error) -> Self {
        Self::Connector { action: action.into(), source }
    }

    pub(crate) fn damaged(what: &str, detail: impl Into<String>) -> Self {
        Self::Damaged { what: what.to_owned(), detail: detail.into() }
    }

    pub(crate) fn no_majority(action: &str, needed: usize, clouds: usize, reasons: Vec<String>) -> Self {
        Self::NoMajority { action: action.to_owned(), needed, clouds, reasons }
    }

    pub(crate) fn other_clouds(topology: &str, registered: &[String], ours: &[String]) -> Self {
        Self::Configuration(format!(
            "topology {topology} is registered in the clouds [{}], this specification names [{}]: \
             use the registered names in the registered order",
            registered.join(", "),
            ours.join(", ")
        ))
    }
}
