//! Flight's requests: what is asked for. Who asks is known before ([`access`](super::access)).

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, Any, Command, ProstMessageExt,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, Criteria, Empty,
    FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo, PutResult,
    SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::access::{AUTHORIZATION, bearer, caller, token};
use super::statements::{Plan, command, encoded, encoded_schema, info};
use super::status::short;
use super::{Flight, Replies};

const CREATE_STATEMENT: &str = "CreatePreparedStatement";
const CLOSE_STATEMENT: &str = "ClosePreparedStatement";
const CANCEL_QUERY: &str = "CancelQuery";
const CANCEL_INFO: &str = "CancelFlightInfo";
/// Of Flight SQL, and of no use where nothing can be changed.
const TRANSACTIONS: [&str; 4] = ["BeginTransaction", "EndTransaction", "BeginSavepoint", "EndSavepoint"];

/// What a client may send beside its headers.
const HANDSHAKE_MESSAGES_MAX: usize = 10;

const ONLY_QUERIES: &str = "only queries are allowed here: nothing can be written";
const NO_TRANSACTIONS: &str = "there are no transactions here: each query reads one version of every table";

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Replies<HandshakeResponse>;
    type ListFlightsStream = Replies<FlightInfo>;
    type DoGetStream = Replies<FlightData>;
    type DoPutStream = Replies<PutResult>;
    type DoActionStream = Replies<arrow_flight::Result>;
    type ListActionsStream = Replies<ActionType>;
    type DoExchangeStream = Replies<FlightData>;

    /// Takes a password, and says what header to send from now on.
    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        let (headers, _, messages) = request.into_parts();
        let shown = token(&headers)?;
        let answer = stream::iter([Ok(HandshakeResponse { protocol_version: 0, payload: Bytes::new() })]);
        // Nothing is in them; a client that is cut off while it still sends would take that for an error.
        let rest = messages.take(HANDSHAKE_MESSAGES_MAX).filter_map(|_| std::future::ready(None));
        let mut response: Response<Self::HandshakeStream> = Response::new(answer.chain(rest).boxed());
        if let Some(shown) = shown {
            response.metadata_mut().insert(AUTHORIZATION, bearer(&shown)?);
        }
        Ok(response)
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(Status::unimplemented("there is nothing but queries: list the tables by GetTables"))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let (_, extensions, descriptor) = request.into_parts();
        let caller = caller(&extensions)?;
        let plan = match command(&descriptor.cmd)? {
            Command::CommandStatementQuery(query) => {
                refuse_transaction(query.transaction_id.as_ref())?;
                let question = self.question(&caller, &query.query)?;
                self.plan(&caller, question).await?
            }
            Command::CommandPreparedStatementQuery(statement) => {
                self.plan_statement(&caller, &statement.prepared_statement_handle).await?
            }
            other => Plan {
                schema: self.metadata_schema(&other).ok_or_else(|| unknown(&other))?,
                versions: Vec::new(),
                ticket: descriptor.cmd.clone(),
            },
        };
        Ok(Response::new(info(plan)?.with_descriptor(descriptor)))
    }

    async fn poll_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("queries are not polled: ask GetFlightInfo"))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let (_, extensions, descriptor) = request.into_parts();
        let caller = caller(&extensions)?;
        let schema = match command(&descriptor.cmd)? {
            Command::CommandStatementQuery(query) => {
                refuse_transaction(query.transaction_id.as_ref())?;
                let question = self.question(&caller, &query.query)?;
                self.plan(&caller, question).await?.schema
            }
            Command::CommandPreparedStatementQuery(statement) => {
                self.statement_schema(&caller, &statement.prepared_statement_handle).await?
            }
            other => self.metadata_schema(&other).ok_or_else(|| unknown(&other))?,
        };
        Ok(Response::new(SchemaResult { schema: encoded_schema(&schema)? }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let (_, extensions, ticket) = request.into_parts();
        let caller = caller(&extensions)?;
        let rows = match command(&ticket.ticket)? {
            Command::TicketStatementQuery(ticket) => self.fetch(&caller, &ticket.statement_handle).await?,
            other => {
                let unknown = unknown(&other);
                let rows = self.metadata(&caller, other).await?.ok_or(unknown)?;
                encoded(rows.schema(), stream::iter([Ok(rows)]))
            }
        };
        Ok(Response::new(rows))
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let (_, extensions, mut messages) = request.into_parts();
        let caller = caller(&extensions)?;
        let first = messages.message().await?.ok_or_else(|| Status::invalid_argument("nothing was sent"))?;
        let descriptor = first.flight_descriptor.as_ref();
        let descriptor =
            descriptor.ok_or_else(|| Status::invalid_argument("the first message has no descriptor"))?;
        match command(&descriptor.cmd)? {
            Command::CommandPreparedStatementQuery(statement) => {
                let messages = stream::iter([Ok(first)]).chain(messages);
                let bound = self.bind(&caller, &statement.prepared_statement_handle, messages).await?;
                Ok(replies([PutResult { app_metadata: bound.encode_to_vec().into() }]))
            }
            Command::CommandStatementUpdate(_)
            | Command::CommandPreparedStatementUpdate(_)
            | Command::CommandStatementIngest(_)
            | Command::CommandStatementSubstraitPlan(_) => Err(Status::unimplemented(ONLY_QUERIES)),
            other => Err(unknown(&other)),
        }
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented(ONLY_QUERIES))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let (_, extensions, action) = request.into_parts();
        let caller = caller(&extensions)?;
        let answer: Option<Bytes> = match action.r#type.as_str() {
            CREATE_STATEMENT => {
                let create: ActionCreatePreparedStatementRequest = unpacked(&action)?;
                refuse_transaction(create.transaction_id.as_ref())?;
                let created = self.create_statement(&caller, &create.query).await?;
                Some(created.as_any().encode_to_vec().into())
            }
            CLOSE_STATEMENT => {
                let close: ActionClosePreparedStatementRequest = unpacked(&action)?;
                self.statement(&caller, &close.prepared_statement_handle)?;
                None
            }
            CANCEL_QUERY => {
                let cancel: ActionCancelQueryRequest = unpacked(&action)?;
                let info = FlightInfo::decode(cancel.info).map_err(|error| unreadable(&action, &error))?;
                self.cancel(&caller, &info)?;
                // Its own enumeration, which has the same numbers, is not public.
                let result = ActionCancelQueryResult { result: CancelStatus::Cancelled as i32 };
                Some(result.as_any().encode_to_vec().into())
            }
            CANCEL_INFO => {
                let cancel = CancelFlightInfoRequest::decode(action.body.clone());
                let cancel = cancel.map_err(|error| unreadable(&action, &error))?;
                self.cancel(&caller, &cancel.info.unwrap_or_default())?;
                Some(CancelFlightInfoResult::new(CancelStatus::Cancelled).encode_to_vec().into())
            }
            name if TRANSACTIONS.contains(&name) => return Err(Status::unimplemented(NO_TRANSACTIONS)),
            name => return Err(Status::unimplemented(short(&format!("there is no action {name}")))),
        };
        Ok(replies(answer.map(arrow_flight::Result::new)))
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        let actions = [
            (CREATE_STATEMENT, "Prepares a query: ActionCreatePreparedStatementRequest"),
            (CLOSE_STATEMENT, "Ends a prepared query: ActionClosePreparedStatementRequest"),
            (CANCEL_QUERY, "Cancels a query, as before Arrow 13: ActionCancelQueryRequest"),
            (CANCEL_INFO, "Cancels a query: CancelFlightInfoRequest"),
        ];
        let described = |(name, about): (&str, &str)| ActionType {
            r#type: name.to_owned(),
            description: about.to_owned(),
        };
        Ok(replies(actions.map(described)))
    }
}

/// An answer of all these.
fn replies<T: Send + 'static>(all: impl IntoIterator<Item = T>) -> Response<Replies<T>> {
    let all: Vec<Result<T, Status>> = all.into_iter().map(Ok).collect();
    Response::new(stream::iter(all).boxed())
}

/// What an action of Flight SQL is about.
fn unpacked<M: ProstMessageExt>(action: &Action) -> Result<M, Status> {
    let message = Any::decode(action.body.clone()).map_err(|error| unreadable(action, &error))?;
    let message = message.unpack().map_err(|error| unreadable(action, &error))?;
    message
        .ok_or_else(|| Status::invalid_argument(format!("{}: the request is of another kind", action.r#type)))
}

fn unreadable(action: &Action, error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(format!("{}: the request cannot be read: {error}", action.r#type))
}

fn unknown(command: &Command) -> Status {
    Status::unimplemented(short(&format!("there is no command {}", command.type_url())))
}

fn refuse_transaction(transaction: Option<&Bytes>) -> Result<(), Status> {
    match transaction.is_some_and(|id| !id.is_empty()) {
        true => Err(Status::unimplemented(NO_TRANSACTIONS)),
        false => Ok(()),
    }
}
