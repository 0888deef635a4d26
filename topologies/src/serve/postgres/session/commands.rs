//! Statements about the session: transactions, settings, what was prepared.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use bytes::BufMut;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::DataRow;
use pgwire::messages::response::NoticeResponse;
use pgwire::messages::startup::ParameterStatus;

use super::super::failure::{Failure, code};
use super::super::settings::unknown;
use super::super::statement::Kind;
use super::super::wire::Output;
use super::{Columns, Open, Session, Transaction, complete};

/// Most savepoints of a transaction.
const SAVEPOINTS_MAX: usize = 1_000;

impl Session {
    /// After an error in a transaction, nothing but its end.
    pub(super) fn allowed(&self, kind: &Kind) -> Result<(), Failure> {
        match (&self.transaction, kind) {
            (Transaction::Failed(_), Kind::Commit | Kind::Rollback | Kind::RollbackTo(_)) => Ok(()),
            (Transaction::Failed(_), _) => Err(Failure::new(
                code::FAILED_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            )),
            _ => Ok(()),
        }
    }

    /// Obeys a statement that is no query.
    pub(super) fn command(&mut self, kind: &Kind, output: &mut Output) -> Result<(), Failure> {
        // It was planned outside of a transaction that begins now, or within one that ends.
        self.fresh = None;
        match kind {
            Kind::Query => return Err(Failure::new(code::INTERNAL, "a query is no command")),
            Kind::Begin => {
                match self.transaction {
                    Transaction::None => {
                        let open = Open { settings: self.settings.clone(), ..Open::default() };
                        self.transaction = Transaction::Open(open);
                    }
                    _ => warn(output, code::ACTIVE_TRANSACTION, "there is already a transaction in progress"),
                }
                complete(output, "BEGIN");
            }
            Kind::Commit | Kind::Rollback => {
                let ended = std::mem::replace(&mut self.transaction, Transaction::None);
                let tag = match (ended, kind) {
                    (Transaction::None, _) => {
                        warn(output, code::NO_TRANSACTION, "there is no transaction in progress");
                        if *kind == Kind::Commit { "COMMIT" } else { "ROLLBACK" }
                    }
                    (Transaction::Open(open), Kind::Commit) => {
                        let kept = self.settings.with(&open.local);
                        report(output, self.settings.replace(kept));
                        "COMMIT"
                    }
                    (Transaction::Open(open) | Transaction::Failed(open), _) => {
                        report(output, self.settings.replace(open.settings));
                        "ROLLBACK"
                    }
                };
                self.portals.clear();
                complete(output, tag);
            }
            Kind::Savepoint(name) => {
                let Transaction::Open(open) = &mut self.transaction else { return Err(outside("SAVEPOINT")) };
                if open.savepoints.len() >= SAVEPOINTS_MAX {
                    let message = format!("a transaction has at most {SAVEPOINTS_MAX} savepoints");
                    return Err(Failure::new(code::CONFIGURED_LIMIT, message));
                }
                open.savepoints.push(name.clone());
                complete(output, "SAVEPOINT");
            }
            Kind::Release(name) => {
                let Transaction::Open(open) = &mut self.transaction else {
                    return Err(outside("RELEASE SAVEPOINT"));
                };
                let at = open.savepoint(name)?;
                open.savepoints.truncate(at);
                complete(output, "RELEASE");
            }
            Kind::RollbackTo(name) => {
                let open = match &mut self.transaction {
                    Transaction::Open(open) | Transaction::Failed(open) => open,
                    Transaction::None => return Err(outside("ROLLBACK TO SAVEPOINT")),
                };
                let at = open.savepoint(name)?;
                open.savepoints.truncate(at + 1);
                // There is nothing to undo.
                self.transaction = Transaction::Open(std::mem::take(open));
                complete(output, "ROLLBACK");
            }
            Kind::Set { name, value, is_local } => {
                self.set(name, value, *is_local, output)?;
                complete(output, "SET");
            }
            Kind::Show(name) => self.show(name.as_deref(), output)?,
            Kind::Reset(name) => {
                match name {
                    Some(name) => report(output, self.settings.reset(name)?),
                    None => report(output, self.settings.reset_all()),
                }
                complete(output, "RESET");
            }
            Kind::Discard => {
                if !matches!(self.transaction, Transaction::None) {
                    let message = "DISCARD ALL cannot run inside a transaction block";
                    return Err(Failure::new(code::ACTIVE_TRANSACTION, message));
                }
                self.statements.clear();
                self.portals.clear();
                report(output, self.settings.reset_all());
                complete(output, "DISCARD ALL");
            }
            Kind::Deallocate(None) => {
                self.statements.clear();
                complete(output, "DEALLOCATE ALL");
            }
            Kind::Deallocate(Some(name)) => {
                self.statement(name)?;
                self.statements.remove(name);
                complete(output, "DEALLOCATE");
            }
            Kind::Harmless(tag) => complete(output, tag),
            Kind::Writes(word) => {
                let message =
                    format!("cannot execute {word} in a read-only transaction: nothing can be changed here");
                return Err(Failure::new(code::READ_ONLY, message));
            }
            Kind::Missing(what) => {
                return Err(Failure::new(code::FEATURE_NOT_SUPPORTED, format!("not supported here: {what}")));
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str, is_local: bool, output: &mut Output) -> Result<(), Failure> {
        if is_local && matches!(self.transaction, Transaction::None) {
            warn(output, code::NO_TRANSACTION, "SET LOCAL can only be used in transaction blocks");
            return Ok(());
        }
        let before = self.settings.own(name);
        report(output, self.settings.set(name, value)?);
        if let Transaction::Open(open) = &mut self.transaction {
            if is_local {
                open.local.entry(name.to_owned()).or_insert(before);
            } else {
                open.local.remove(name);
            }
        }
        Ok(())
    }

    fn show(&self, name: Option<&str>, output: &mut Output) -> Result<(), Failure> {
        match name {
            Some(name) => {
                let value = self.settings.show(name).ok_or_else(|| unknown(name))?;
                row(output, &[&value]);
            }
            None => {
                self.settings.all().iter().for_each(|(name, value)| row(output, &[name, value, ""]));
            }
        }
        complete(output, "SHOW");
        Ok(())
    }
}

impl Open {
    fn savepoint(&self, name: &str) -> Result<usize, Failure> {
        let at = self.savepoints.iter().rposition(|savepoint| savepoint == name);
        at.ok_or_else(|| Failure::new(code::NO_SAVEPOINT, format!("savepoint \"{name}\" does not exist")))
    }
}

/// The columns of statements that are no query.
pub(super) fn columns_of(kind: &Kind) -> Option<Columns> {
    let names: &[&str] = match kind {
        Kind::Show(Some(name)) => &[name],
        Kind::Show(None) => &["name", "setting", "description"],
        _ => return None,
    };
    let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    Some(Columns::new(Arc::new(Schema::new(fields))))
}

fn warn(output: &mut Output, code: &str, message: &str) {
    let fields = vec![
        (b'S', "WARNING".to_owned()),
        (b'V', "WARNING".to_owned()),
        (b'C', code.to_owned()),
        (b'M', message.to_owned()),
    ];
    output.put(&PgWireBackendMessage::NoticeResponse(NoticeResponse::new(fields)));
}

fn report(output: &mut Output, settings: impl IntoIterator<Item = (String, String)>) {
    for (name, value) in settings {
        output.put(&PgWireBackendMessage::ParameterStatus(ParameterStatus::new(name, value)));
    }
}

/// A row of texts, which are the same in both formats.
fn row(output: &mut Output, texts: &[&str]) {
    let mut row = DataRow::default();
    for text in texts {
        row.data.put_i32(text.len() as i32);
        row.data.put_slice(text.as_bytes());
        row.field_count += 1;
    }
    output.put(&PgWireBackendMessage::DataRow(row));
}

fn outside(command: &str) -> Failure {
    Failure::new(code::NO_TRANSACTION, format!("{command} can only be used in transaction blocks"))
}
