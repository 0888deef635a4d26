//! What all protocols share: who asks, what is asked, and the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::ParamValues;

use super::refusal::Refusal;
use crate::query::{Answer, TableVersion};

/// The tables, who may read what of them, and the limits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {}

/// Somebody who asks, after authentication.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What logs call the caller.
    pub name: String,
}

/// One question.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// One statement that only reads.
    pub sql: String,
    /// Values for its placeholders `$1`, …; may also be given when it is run.
    pub parameters: Option<ParamValues>,
    /// Versions of tables, by name: what a ticket carries from planning to fetching. A table not named here, nor pinned by
    /// the query itself, is at its newest version.
    pub versions: BTreeMap<String, u64>,
    /// By table, the version that it must have reached.
    pub min_version: BTreeMap<String, u64>,
    /// How old the last look for newer versions may be.
    pub max_staleness: Option<Duration>,
}

/// A table that a caller may read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TableInfo {
    /// Its name in queries.
    pub name: String,
    /// Its newest version that is known here, and the cloud that it is read from.
    pub version: TableVersion,
    /// Its columns, as the caller sees them.
    pub schema: SchemaRef,
    /// What is said about it.
    pub comment: Option<String>,
}

/// A question that was parsed, planned and pinned to versions; no row was read.
#[derive(Debug)]
pub struct Prepared {}

impl Engine {
    /// Who shows `token`: a bearer token, or the password of the PostgreSQL protocol.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`].
    pub async fn authenticate(&self, _token: Option<&str>) -> Result<Caller, Refusal> {
        Err(Refusal::Internal("not there yet".to_owned()))
    }

    /// Parses and plans `question`, pinned to versions. Reads no row.
    ///
    /// # Errors
    /// [`Refusal`], for every reason there is.
    pub async fn prepare(&self, _caller: &Caller, _question: Question) -> Result<Prepared, Refusal> {
        Err(Refusal::Internal("not there yet".to_owned()))
    }

    /// The tables that `caller` may read, by name.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] if no cloud can serve one.
    pub async fn tables(&self, _caller: &Caller) -> Result<Vec<TableInfo>, Refusal> {
        Err(Refusal::Internal("not there yet".to_owned()))
    }
}

impl Prepared {
    /// Columns of the answer.
    pub fn schema(&self) -> SchemaRef {
        Schema::empty().into()
    }

    /// The placeholders, `$1` first, and their types where the query says them.
    pub fn parameters(&self) -> Vec<(String, Option<DataType>)> {
        Vec::new()
    }

    /// The versions that the answer will be of.
    pub fn versions(&self) -> &[TableVersion] {
        &[]
    }

    /// Starts it. Dropping the answer, or this future, cancels it.
    ///
    /// # Errors
    /// [`Refusal`], as far as it is known before the first row.
    pub async fn run(self, _parameters: Option<ParamValues>) -> Result<Answer, Refusal> {
        Err(Refusal::Internal("not there yet".to_owned()))
    }
}
