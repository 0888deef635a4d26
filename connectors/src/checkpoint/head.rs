//! The part of a table's state that is not files, and is small: `protocol`, `metaData` and the positions.

use std::collections::BTreeMap;

use crate::Error;
use crate::delta::body::{check_metadata, check_protocol};
use crate::delta::{Action, Metadata, Protocol, Txn};

/// The newest of each.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) protocol: Option<Protocol>,
    pub(super) metadata: Option<Metadata>,
    /// By appId.
    pub(super) txns: BTreeMap<String, Txn>,
}

impl Head {
    /// Takes over what `newer` has.
    pub(super) fn update(&mut self, newer: Head) {
        self.protocol = newer.protocol.or(self.protocol.take());
        self.metadata = newer.metadata.or(self.metadata.take());
        self.txns.extend(newer.txns);
    }

    /// Takes an action of a checkpoint, where each occurs once.
    pub(super) fn insert(&mut self, action: Action) -> Result<(), Error> {
        let repeated = match action {
            Action::Protocol(protocol) => {
                check_protocol(&protocol)?;
                self.protocol.replace(protocol).is_some()
            }
            Action::MetaData(metadata) => {
                check_metadata(&metadata)?;
                self.metadata.replace(metadata).is_some()
            }
            Action::Txn(txn) => {
                if txn.version < 0 {
                    return Err(Error::LogEntry(format!("txn {}: version {}", txn.app_id, txn.version)));
                }
                self.txns.insert(txn.app_id.clone(), txn).is_some()
            }
            other => {
                return Err(Error::LogEntry(format!("unexpected action: {:.200}", format!("{other:?}"))));
            }
        };
        if repeated { Err(Error::LogEntry("an action occurs twice".into())) } else { Ok(()) }
    }

    /// The actions, in the order of a checkpoint's rows.
    pub(super) fn into_actions(self) -> Result<Vec<Action>, Error> {
        let (Some(protocol), Some(metadata)) = (self.protocol, self.metadata) else {
            return Err(Error::LogEntry("neither a checkpoint nor a body creates the table".into()));
        };
        let mut actions = vec![Action::Protocol(protocol), Action::MetaData(metadata)];
        actions.extend(self.txns.into_values().map(Action::Txn));
        Ok(actions)
    }
}
