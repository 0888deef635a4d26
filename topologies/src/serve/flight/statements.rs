//! Queries: planned, prepared, given values, fetched and cancelled.

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{
    ActionCreatePreparedStatementResult, Any, Command, DoPutPreparedStatementResult, ProstMessageExt,
    TicketStatementQuery,
};
use arrow_flight::{FlightData, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Status;
use uuid::Uuid;

use super::access::identity;
use super::seal::{Planned, Sealed, pinned};
use super::status::status;
use super::{Flight, MESSAGE_BYTES_TARGET, Replies, parameters, placeholders, plain};
use crate::query::{Answer, TableVersion};
use crate::serve::{Caller, Prepared, Protocol, Question, Refusal, versions_json};

/// A query that was planned.
pub(super) struct Plan {
    /// Columns of the answer, in plain types.
    pub(super) schema: SchemaRef,
    /// What it reads.
    pub(super) versions: Vec<TableVersion>,
    /// What its rows are fetched with.
    pub(super) ticket: Bytes,
}

impl Flight {
    /// A query that nobody has planned yet.
    pub(super) fn question(&self, caller: &Caller, sql: &str) -> Result<Sealed, Status> {
        let sql = placeholders::numbered(sql).map_err(Status::invalid_argument)?;
        Ok(Sealed { caller: identity(caller), sql, ..Sealed::default() })
    }

    /// Plans a query, at the newest versions.
    pub(super) async fn plan(&self, caller: &Caller, query: Sealed) -> Result<Plan, Status> {
        let prepared = self.prepare(caller, &query).await?;
        let needed = prepared.parameters().len();
        if query.parameters.is_none() && needed > 0 {
            return Err(Status::invalid_argument(format!(
                "the query has {needed} placeholders: prepare it, and bind a value to each"
            )));
        }
        let schema = plain::schema(&prepared.schema());
        let versions = prepared.versions().to_vec();
        let planned = Planned {
            id: Uuid::new_v4().to_string(),
            versions: pinned(&versions),
            schema: fingerprint(&schema)?,
        };
        let statement_handle = self.seal.close(&Sealed { planned: Some(planned), ..query })?;
        let ticket = TicketStatementQuery { statement_handle }.as_any().encode_to_vec().into();
        Ok(Plan { schema, versions, ticket })
    }

    /// Parses and plans a query with its values, at the versions that were planned if there are any.
    async fn prepare(&self, caller: &Caller, query: &Sealed) -> Result<Prepared, Status> {
        let values = query.parameters.as_deref().map(parameters::values).transpose();
        let question = Question {
            sql: query.sql.clone(),
            parameters: values.map_err(|error| unencoded(&error))?,
            versions: query.planned.as_ref().map(Planned::newest).unwrap_or_default(),
            protocol: Protocol::Flight,
            ..Question::default()
        };
        self.engine.prepare(caller, question).await.map_err(status)
    }

    /// A prepared statement with the values that were bound to it.
    pub(super) async fn plan_statement(&self, caller: &Caller, handle: &[u8]) -> Result<Plan, Status> {
        let statement = self.statement(caller, handle)?;
        if statement.parameters.is_none() && statement.placeholders > 0 {
            return Err(Status::invalid_argument(format!(
                "the statement has {} placeholders, and no values are bound to them in the handle that was sent",
                statement.placeholders
            )));
        }
        self.plan(caller, statement).await
    }

    /// Columns of the answer to a prepared statement, as far as they are known before its values are.
    pub(super) async fn statement_schema(&self, caller: &Caller, handle: &[u8]) -> Result<SchemaRef, Status> {
        let statement = self.statement(caller, handle)?;
        Ok(plain::schema(&self.prepare(caller, &statement).await?.schema()))
    }

    /// Prepares a statement. Its handle is all that there is of it.
    pub(super) async fn create_statement(
        &self,
        caller: &Caller,
        sql: &str,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let query = self.question(caller, sql)?;
        let prepared = self.prepare(caller, &query).await?;
        let needed = prepared.parameters();
        let by_position = needed.iter().enumerate().all(|(at, (name, _))| *name == format!("${}", at + 1));
        if !by_position {
            let names: Vec<&str> = needed.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Status::invalid_argument(format!(
                "the placeholders must be `?`, or `$1`, `$2` and so on without a gap: they are {}",
                names.join(", ")
            )));
        }
        let statement = Sealed { placeholders: u32::try_from(needed.len()).unwrap_or(u32::MAX), ..query };
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: self.seal.close(&statement)?,
            dataset_schema: encoded_schema(&plain::schema(&prepared.schema()))?,
            parameter_schema: match needed.is_empty() {
                true => Bytes::new(),
                false => encoded_schema(&parameters::schema(&needed))?,
            },
        })
    }

    /// Binds values to a prepared statement: the handle of the statement with them.
    pub(super) async fn bind(
        &self,
        caller: &Caller,
        handle: &[u8],
        messages: impl Stream<Item = Result<FlightData, Status>>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let statement = self.statement(caller, handle)?;
        let values = parameters::receive(messages, statement.placeholders).await?;
        let bound = self.seal.close(&Sealed { parameters: Some(values), ..statement })?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(bound) })
    }

    /// The statement that a handle stands for.
    pub(super) fn statement(&self, caller: &Caller, handle: &[u8]) -> Result<Sealed, Status> {
        let opened = self.seal.open(handle, &identity(caller))?;
        match opened.planned {
            None => Ok(opened),
            Some(_) => Err(Status::invalid_argument("this is a ticket, not a prepared statement")),
        }
    }

    /// The rows of a ticket.
    pub(super) async fn fetch(&self, caller: &Caller, handle: &[u8]) -> Result<Replies<FlightData>, Status> {
        let (query, planned) = self.ticket(caller, handle)?;
        let fetch = self.running.begin(&planned.id)?;
        let begun = async {
            let prepared = self.prepare(caller, &query).await?;
            let schema = plain::schema(&prepared.schema());
            if fingerprint(&schema)? != planned.schema || pinned(prepared.versions()) != planned.versions {
                return Err(Status::aborted(
                    "the tables are not any more what they were when the query was planned: plan it again",
                ));
            }
            let prepared = prepared.until(fetch.cancelled());
            Ok::<_, Status>((schema, prepared.run(None).await.map_err(status)?))
        };
        let (schema, answer) = fetch.unless_cancelled(begun).await?;
        let columns = schema.clone();
        let rows = stream::try_unfold((answer, fetch), move |(mut answer, fetch)| {
            let columns = columns.clone();
            async move {
                let next = fetch.unless_cancelled(next_batch(&mut answer, &columns)).await?;
                Ok::<_, Status>(next.map(|batch| (batch, (answer, fetch))))
            }
        });
        Ok(encoded(schema, rows))
    }

    /// The query of a ticket, and what its plan found.
    fn ticket(&self, caller: &Caller, handle: &[u8]) -> Result<(Sealed, Planned), Status> {
        let query = self.seal.open(handle, &identity(caller))?;
        let planned = query.planned.clone();
        let planned =
            planned.ok_or_else(|| Status::invalid_argument("this is a prepared statement, not a ticket"))?;
        Ok((query, planned))
    }

    /// Cancels the query that `info` was the answer to, whether its rows are being fetched or not yet.
    pub(super) fn cancel(&self, caller: &Caller, info: &FlightInfo) -> Result<(), Status> {
        let tickets = info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.as_ref());
        let mut ids = Vec::new();
        for ticket in tickets {
            let Command::TicketStatementQuery(ticket) = command(&ticket.ticket)? else {
                return Err(Status::invalid_argument("only queries can be cancelled"));
            };
            ids.push(self.ticket(caller, &ticket.statement_handle)?.1.id);
        }
        if ids.is_empty() {
            return Err(Status::invalid_argument("nothing is named that could be cancelled"));
        }
        ids.iter().for_each(|id| self.running.cancel(id));
        Ok(())
    }
}

async fn next_batch(answer: &mut Answer, columns: &SchemaRef) -> Result<Option<RecordBatch>, Status> {
    let batch = answer.next_batch().await.map_err(|error| status(Refusal::from(error)))?;
    batch.map(|batch| plain::batch(&batch, columns)).transpose().map_err(|error| {
        let advice = "a number above 9223372036854775807 is sent as DECIMAL(20, 0) or VARCHAR: CAST it";
        Status::invalid_argument(format!("a value cannot be sent: {error}; {advice}"))
    })
}

/// The command that `bytes` hold.
pub(super) fn command(bytes: &Bytes) -> Result<Command, Status> {
    let unreadable = |why: String| Status::invalid_argument(format!("not a command of Flight SQL: {why}"));
    let message = Any::decode(bytes.clone()).map_err(|error| unreadable(error.to_string()))?;
    Command::try_from(message).map_err(|error| unreadable(error.to_string()))
}

/// `rows` in messages, asked for one at a time.
pub(super) fn encoded(
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, Status>> + Send + 'static,
) -> Replies<FlightData> {
    let encoder = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(MESSAGE_BYTES_TARGET)
        .build(rows.map_err(FlightError::from));
    encoder.map_err(Status::from).boxed()
}

/// What a client is told about an answer before it fetches it.
pub(super) fn info(plan: Plan) -> Result<FlightInfo, Status> {
    let read = serde_json::json!({ "versions": versions_json(&plan.versions) });
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(plan.ticket));
    let info = FlightInfo::new().try_with_schema(&plan.schema).map_err(|error| unencoded(&error))?;
    Ok(info.with_endpoint(endpoint).with_ordered(true).with_app_metadata(read.to_string()))
}

/// `schema` as Flight SQL carries it inside other messages.
pub(super) fn encoded_schema(schema: &Schema) -> Result<Bytes, Status> {
    let message = IpcMessage::try_from(SchemaAsIpc::new(schema, &IpcWriteOptions::default()));
    message.map(|message| message.0).map_err(|error| unencoded(&error))
}

/// SHA-256 of the names, types and metadata of columns.
fn fingerprint(schema: &SchemaRef) -> Result<Bytes, Status> {
    Ok(Bytes::copy_from_slice(&Sha256::digest(encoded_schema(schema)?)))
}

fn unencoded(error: &ArrowError) -> Status {
    Status::internal(format!("encode an answer: {error}"))
}
