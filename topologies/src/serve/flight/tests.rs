//! Flight SQL over a socket, with the client of its own crate.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type, Schema};
use arrow::util::pretty::pretty_format_batches;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    ActionCancelQueryRequest, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandStatementQuery, ProstMessageExt, SqlInfo,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, Criteria, Empty, FlightDescriptor,
    FlightInfo, IpcMessage, Ticket,
};
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use isobar_connectors::clouds::Cloud;
use object_store::ObjectStoreExt;
use prost::Message;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::commit::format::published_path;
use crate::prove::testing::{DATASET, History};
use crate::serve::testing::IN_MEMORY;
use crate::spec::{self, CheckOptions};

type Client = FlightSqlServiceClient<Channel>;

/// A server, and a client that has shown nothing yet.
struct Served {
    client: Client,
    address: String,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Served {
    async fn start(engine: &Engine) -> Self {
        let stop = CancellationToken::new();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (address, server) = start(engine, listen, None, stop.clone()).await.unwrap();
        let address = format!("http://{address}");
        Self { client: connect(&address).await, address, stop, server }
    }

    /// Stops it, and waits until it has stopped.
    async fn stop(self) {
        drop(self.client);
        self.stop.cancel();
        self.server.await.unwrap();
    }
}

/// An engine on the tables of a history, whose newest versions are looked for each time. `callers` are lines under `serve`.
fn engine_for(clouds: &[Cloud], callers: &str) -> Engine {
    let text = format!("{IN_MEMORY}serve:\n  refresh: 0s\n{callers}");
    let topology = spec::check_text(&text, "topology.yaml", Path::new("/specs"), CheckOptions::default());
    Engine::open(&topology.unwrap_or_else(|problems| panic!("{problems}")), clouds).unwrap()
}

/// For everybody.
fn engine(clouds: &[Cloud]) -> Engine {
    engine_for(clouds, "")
}

const ANA: &str = "a-token-of-somebody";
const BO: &str = "a-token-of-somebody-else";

/// For two.
fn engine_with_callers(clouds: &[Cloud]) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let mut callers = String::from("  callers:\n");
    for (name, token) in [("ana", ANA), ("bo", BO)] {
        let file = folder.path().join(name);
        std::fs::write(&file, token).unwrap();
        callers.push_str(&format!("    {name}: {{ token: \"${{file:{}}}\" }}\n", file.display()));
    }
    engine_for(clouds, &callers)
}

async fn connect(address: &str) -> Client {
    let channel = Endpoint::from_shared(address.to_owned()).unwrap().connect().await.unwrap();
    FlightSqlServiceClient::new(channel)
}

fn code(error: FlightError) -> (Code, String) {
    match error {
        FlightError::Tonic(status) => (status.code(), status.message().to_owned()),
        other => panic!("no status: {other}"),
    }
}

fn ticket(info: &FlightInfo) -> Ticket {
    let [endpoint] = info.endpoint.as_slice() else { panic!("{} endpoints", info.endpoint.len()) };
    endpoint.ticket.clone().unwrap()
}

async fn fetch(client: &mut Client, info: &FlightInfo) -> Vec<RecordBatch> {
    let rows = client.do_get(ticket(info)).await.unwrap();
    let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    let schema = info.clone().try_decode_schema().unwrap();
    for batch in &batches {
        assert_eq!(*batch.schema(), schema, "what was announced");
    }
    batches
}

async fn query(client: &mut Client, sql: &str) -> String {
    let info = client.execute(sql.to_owned(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    text(&fetch(client, &info).await)
}

async fn refusal(client: &mut Client, sql: &str) -> (Code, String) {
    code(client.execute(sql.to_owned(), None).await.expect_err(sql))
}

/// Cells, by rows and columns.
fn text(batches: &[RecordBatch]) -> String {
    let table = pretty_format_batches(batches).unwrap().to_string();
    let lines = table.lines().filter(|line| line.starts_with('|'));
    let cells = lines.map(|line| {
        line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" ")
    });
    cells.collect::<Vec<_>>().join("; ")
}

/// The values for two placeholders.
fn values(number: i64, word: &str) -> RecordBatch {
    let number: ArrayRef = Arc::new(Int64Array::from(vec![number]));
    let word: ArrayRef = Arc::new(StringArray::from(vec![word]));
    RecordBatch::try_from_iter([("$1", number), ("$2", word)]).unwrap()
}

#[tokio::test]
async fn what_is_fetched_is_what_was_planned() {
    let clouds = History::good().store(1).await;
    let newest = published_path(DATASET, 3);
    let body = clouds[0].data.get(&newest).await.unwrap().bytes().await.unwrap();
    clouds[0].data.delete(&newest).await.unwrap();
    let mut served = Served::start(&engine(&clouds)).await;

    let sql = "SELECT count(x) AS n, max(x) AS x FROM flights";
    let planned = served.client.execute(sql.to_owned(), None).await.unwrap();
    let both = "SELECT (SELECT count(x) FROM flights VERSION AS OF 1) AS a, count(x) AS b FROM flights";
    let planned_both = served.client.execute(both.to_owned(), None).await.unwrap();
    clouds[0].data.put(&newest, body.into()).await.unwrap();

    assert_eq!(query(&mut served.client, sql).await, "n x; 15 14");
    let said: serde_json::Value = serde_json::from_slice(&planned.app_metadata).unwrap();
    assert_eq!(said, serde_json::json!({ "versions": [{ "table": DATASET, "version": 2, "cloud": "a" }] }));
    assert_eq!(text(&fetch(&mut served.client, &planned).await), "n x; 13 12");
    assert_eq!(text(&fetch(&mut served.client, &planned).await), "n x; 13 12", "once more");
    assert_eq!(text(&fetch(&mut served.client, &planned_both).await), "a b; 8 13");
    served.stop().await;
}

#[tokio::test]
async fn a_version_that_is_gone_is_an_error_and_not_another_version() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine(&clouds)).await;
    let planned = served.client.execute("SELECT max(x) AS x FROM flights".to_owned(), None).await.unwrap();
    clouds[0].data.delete(&published_path(DATASET, 3)).await.unwrap();
    // What the server has read it may keep; what it cannot read it must not replace.
    match served.client.do_get(ticket(&planned)).await {
        Ok(rows) => {
            let rows: Vec<RecordBatch> = rows.try_collect().await.unwrap();
            assert_eq!(text(&rows), "x; 14");
        }
        Err(error) => assert_ne!(code(error).0, Code::Internal),
    }
    served.stop().await;
}

#[tokio::test]
async fn a_ticket_is_of_use_as_it_is_and_to_nobody_else() {
    let clouds = History::good().store(1).await;
    let served = Served::start(&engine_with_callers(&clouds)).await;
    let (mut ana, mut bo) = (connect(&served.address).await, connect(&served.address).await);
    let refused = code(ana.execute("SELECT 1".to_owned(), None).await.unwrap_err());
    assert_eq!(refused.0, Code::Unauthenticated);
    ana.handshake("whoever", ANA).await.unwrap();
    assert_eq!(ana.token().map(String::as_str), Some(ANA));
    bo.set_token(BO.to_owned());
    let mut stranger = connect(&served.address).await;
    assert!(stranger.handshake("ana", "no token of anybody").await.is_err());

    let info = ana.execute("SELECT max(x) AS x FROM flights".to_owned(), None).await.unwrap();
    let good = ticket(&info);
    assert_eq!(code(bo.do_get(good.clone()).await.map(|_| ()).unwrap_err()).0, Code::InvalidArgument);
    for at in (0..good.ticket.len()).step_by(7) {
        let mut bytes = good.ticket.to_vec();
        bytes[at] ^= 1;
        let refused = code(ana.do_get(Ticket::new(bytes)).await.map(|_| ()).unwrap_err());
        assert!(matches!(refused.0, Code::InvalidArgument | Code::Unimplemented), "byte {at}: {refused:?}");
    }
    let mut prepared = ana.prepare("SELECT $1 + x AS y FROM flights".to_owned(), None).await.unwrap();
    assert_eq!(code(prepared.execute().await.unwrap_err()).0, Code::InvalidArgument, "no value is bound");
    assert_eq!(text(&fetch(&mut ana, &info).await), "x; 14");
    let cancel = Action::new("CancelFlightInfo", CancelFlightInfoRequest::new(info.clone()).encode_to_vec());
    let refused = bo.do_action(cancel).await.map(|_| ()).unwrap_err();
    assert_eq!(code(refused).0, Code::InvalidArgument);
    assert_eq!(text(&fetch(&mut ana, &info).await), "x; 14", "nobody else cancels it");
    served.stop().await;
}

#[tokio::test]
async fn nothing_is_said_to_a_stranger() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine_with_callers(&clouds)).await;
    let stranger = served.client.inner_mut();
    let nothing = || FlightDescriptor::new_cmd(Bytes::new());
    let refused = [
        stranger.list_actions(Empty {}).await.map(|_| ()),
        stranger.list_flights(Criteria::default()).await.map(|_| ()),
        stranger.get_flight_info(nothing()).await.map(|_| ()),
        stranger.poll_flight_info(nothing()).await.map(|_| ()),
        stranger.get_schema(nothing()).await.map(|_| ()),
        stranger.do_get(Ticket::new(Bytes::new())).await.map(|_| ()),
        stranger.do_action(Action::new("Nothing", Bytes::new())).await.map(|_| ()),
        stranger.do_put(stream::empty()).await.map(|_| ()),
        stranger.do_exchange(stream::empty()).await.map(|_| ()),
        stranger.handshake(stream::empty()).await.map(|_| ()),
    ];
    for (at, refused) in refused.into_iter().enumerate() {
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated, "{at}");
    }
    served.client.set_token(ANA.to_owned());
    assert_eq!(query(&mut served.client, "SELECT 1 AS one").await, "one; 1");
    served.stop().await;
}

#[tokio::test]
async fn values_are_bound_to_a_prepared_statement_as_often_as_it_is_run() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine(&clouds)).await;
    for sql in [
        "SELECT x FROM flights WHERE x > ? AND month = ? ORDER BY x",
        "SELECT x FROM flights WHERE x > $1 AND month = $2 ORDER BY x",
    ] {
        let mut prepared = served.client.prepare(sql.to_owned(), None).await.unwrap();
        let told: Vec<DataType> = prepared
            .parameter_schema()
            .unwrap()
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        assert_eq!(told, [DataType::Int64, DataType::Utf8], "{sql}");
        assert_eq!(prepared.dataset_schema().unwrap().field(0).name(), "x");
        for (number, word, expected) in [(10, "2", "x; 11; 12"), (0, "1", "x; 1; 2"), (13, "a b", "x; 14")] {
            prepared.set_parameters(values(number, word)).unwrap();
            let info = prepared.execute().await.unwrap();
            assert_eq!(text(&fetch(&mut served.client, &info).await), expected, "{sql}, {number}, {word}");
        }
        let alone = values(1, "1").project(&[0]).unwrap();
        prepared.set_parameters(alone).unwrap();
        let (refused, message) = code(prepared.execute().await.unwrap_err());
        assert_eq!(refused, Code::InvalidArgument);
        assert!(message.contains("2 placeholders"), "{message}");
        prepared.close().await.unwrap();
    }
    let mut none = served.client.prepare("SELECT count(*) AS n FROM flights".to_owned(), None).await.unwrap();
    assert_eq!(none.parameter_schema().unwrap(), &Schema::empty());
    let info = none.execute().await.unwrap();
    assert_eq!(text(&fetch(&mut served.client, &info).await), "n; 15");
    for sql in ["SELECT x FROM flights WHERE x > ?", "SELECT x FROM flights WHERE x > $1"] {
        let (refused, message) = refusal(&mut served.client, sql).await;
        assert_eq!(refused, Code::InvalidArgument, "{message}");
    }
    for sql in ["SELECT x FROM flights WHERE x > $2", "SELECT x FROM flights WHERE x > ? AND month = $1"] {
        let refused = served.client.prepare(sql.to_owned(), None).await.map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("placeholders"), "{sql}: {refused}");
    }
    served.stop().await;
}

#[tokio::test]
async fn what_there_is_can_be_asked_and_filtered() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine(&clouds)).await;
    let client = &mut served.client;
    let info = client.get_catalogs().await.unwrap();
    assert_eq!(text(&fetch(client, &info).await), "catalog_name; isobar");
    let info = client.get_db_schemas(CommandGetDbSchemas::default()).await.unwrap();
    assert_eq!(text(&fetch(client, &info).await), "catalog_name db_schema_name; isobar datasets");
    let none = CommandGetDbSchemas { db_schema_filter_pattern: Some("x%".to_owned()), ..Default::default() };
    let info = client.get_db_schemas(none).await.unwrap();
    assert_eq!(fetch(client, &info).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    let info = client.get_table_types().await.unwrap();
    assert_eq!(text(&fetch(client, &info).await), "table_type; TABLE");

    let info = client.get_tables(CommandGetTables::default()).await.unwrap();
    let tables = fetch(client, &info).await;
    let names: Vec<&str> = tables[0].column(2).as_string::<i32>().iter().flatten().collect();
    assert!(names.contains(&DATASET), "{names:?}");
    assert!(names.len() > 1, "the quarantine is there: {names:?}");
    for (filter, expected) in [
        (CommandGetTables { table_name_filter_pattern: Some("fl_ghts".to_owned()), ..Default::default() }, 1),
        (CommandGetTables { table_name_filter_pattern: Some("flights".to_owned()), ..Default::default() }, 1),
        (
            CommandGetTables {
                table_name_filter_pattern: Some("fl\\_ghts".to_owned()),
                ..Default::default()
            },
            0,
        ),
        (CommandGetTables { catalog: Some("other".to_owned()), ..Default::default() }, 0),
        (
            CommandGetTables { db_schema_filter_pattern: Some("data%".to_owned()), ..Default::default() },
            names.len(),
        ),
        (CommandGetTables { table_types: vec!["VIEW".to_owned()], ..Default::default() }, 0),
    ] {
        let info = client.get_tables(filter.clone()).await.unwrap();
        let rows: usize = fetch(client, &info).await.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, expected, "{filter:?}");
    }
    let with_schema = CommandGetTables {
        include_schema: true,
        table_name_filter_pattern: Some(DATASET.to_owned()),
        ..Default::default()
    };
    let info = client.get_tables(with_schema).await.unwrap();
    let tables = fetch(client, &info).await;
    let schema = Bytes::copy_from_slice(tables[0].column(4).as_binary::<i32>().value(0));
    let schema = Schema::try_from(IpcMessage(schema)).unwrap();
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(columns, ["month", "x"]);
    served.stop().await;
}

#[tokio::test]
async fn keys_types_and_abilities_have_the_columns_of_the_protocol() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine(&clouds)).await;
    let client = &mut served.client;
    let table = || DATASET.to_owned();
    let keys = [
        client
            .get_primary_keys(CommandGetPrimaryKeys { table: table(), ..Default::default() })
            .await
            .unwrap(),
        client
            .get_exported_keys(CommandGetExportedKeys { table: table(), ..Default::default() })
            .await
            .unwrap(),
        client
            .get_imported_keys(CommandGetImportedKeys { table: table(), ..Default::default() })
            .await
            .unwrap(),
        client.get_cross_reference(CommandGetCrossReference::default()).await.unwrap(),
    ];
    for (info, columns) in keys.iter().zip([6, 13, 13, 13]) {
        assert_eq!(info.clone().try_decode_schema().unwrap().fields().len(), columns);
        assert_eq!(fetch(client, info).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    }
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: None }).await.unwrap();
    assert!(fetch(client, &info).await[0].num_rows() > 10);
    let info = client
        .get_sql_info(vec![SqlInfo::FlightSqlServerName, SqlInfo::SqlTransactionsSupported])
        .await
        .unwrap();
    let abilities = text(&fetch(client, &info).await);
    assert_eq!(abilities, "info_name value; 0 {string_value=isobar}; 563 {bool_value=false}");
    served.stop().await;
}

#[tokio::test]
async fn nothing_is_written_and_mistakes_are_said() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine(&clouds)).await;
    let client = &mut served.client;
    for sql in
        ["INSERT INTO flights VALUES ('1', 1)", "DROP TABLE flights", "CREATE TABLE t (a INT)", "SET a = 1"]
    {
        assert_eq!(refusal(client, sql).await.0, Code::InvalidArgument, "{sql}");
        let refused = code(client.execute_update(sql.to_owned(), None).await.unwrap_err());
        assert_eq!(refused.0, Code::Unimplemented, "{sql}");
        assert!(refused.1.contains("only queries"), "{}", refused.1);
    }
    let (refused, message) = refusal(client, "SELECT y FROM flights").await;
    assert_eq!(refused, Code::InvalidArgument);
    assert!(message.contains('y'), "{message}");
    let (_, message) = refusal(client, "SELECT x FROM flight").await;
    assert!(message.contains("flights"), "says which tables there are: {message}");
    assert_eq!(code(client.begin_transaction().await.unwrap_err()).0, Code::Unimplemented);
    let inside = client.execute("SELECT 1".to_owned(), Some(Bytes::from_static(b"t"))).await.unwrap_err();
    assert_eq!(code(inside).0, Code::Unimplemented);
    let unknown = client.do_action(Action::new("Nothing", Bytes::new())).await.map(|_| ()).unwrap_err();
    assert_eq!(code(unknown).0, Code::Unimplemented);
    for garbage in [&b""[..], b"garbage", &[0xff; 64]] {
        let refused = code(client.do_get(Ticket::new(garbage.to_vec())).await.map(|_| ()).unwrap_err());
        assert!(matches!(refused.0, Code::InvalidArgument | Code::Unimplemented), "{refused:?}");
    }
    assert_eq!(query(client, "SELECT 1 AS one").await, "one; 1", "the server is well");
    served.stop().await;
}

#[tokio::test]
async fn the_columns_of_an_answer_are_known_without_it() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine(&clouds)).await;
    let asked =
        CommandStatementQuery { query: "SELECT x, month FROM flights".to_owned(), transaction_id: None };
    let asked = FlightDescriptor::new_cmd(asked.as_any().encode_to_vec());
    let schema = served.client.inner_mut().get_schema(asked).await.unwrap().into_inner();
    let schema = Schema::try_from(&schema).unwrap();
    let columns: Vec<(&str, &DataType)> =
        schema.fields().iter().map(|field| (field.name().as_str(), field.data_type())).collect();
    assert_eq!(columns, [("x", &DataType::Int64), ("month", &DataType::Utf8)]);
    served.stop().await;
}

#[tokio::test]
async fn views_and_large_rows_arrive_in_messages_of_a_moderate_size() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine(&clouds)).await;
    // A client refuses messages above 4 MiB; the rows are 34 MB, in one batch as far as the engine goes.
    let sql = "SELECT a.x, CAST(repeat('y', 10000) AS VARCHAR) AS t FROM flights a, flights b, flights c";
    let info = served.client.execute(sql.to_owned(), None).await.unwrap();
    let batches = fetch(&mut served.client, &info).await;
    let numbers =
        batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
    let mut numbers: Vec<i64> = numbers.collect();
    numbers.sort_unstable();
    let expected: Vec<i64> = (0..15).flat_map(|x| [x; 15 * 15]).collect();
    assert_eq!(numbers, expected);
    for batch in &batches {
        let texts = batch.column(1).as_string::<i32>();
        assert!(texts.iter().flatten().all(|text| text.len() == 10_000) && texts.null_count() == 0);
    }
    served.stop().await;
}

/// 759,375 rows and 80 MB: more than can be on their way.
const LONG: &str =
    "SELECT a.x, repeat('y', 100) AS t FROM flights a, flights b, flights c, flights d, flights e";

#[tokio::test]
async fn a_query_is_cancelled_before_and_while_its_rows_come() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine(&clouds)).await;
    let client = &mut served.client;
    let cancel = |info: &FlightInfo| {
        Action::new("CancelFlightInfo", CancelFlightInfoRequest::new(info.clone()).encode_to_vec())
    };
    let info = client.execute("SELECT x FROM flights".to_owned(), None).await.unwrap();
    let answer = client.do_action(cancel(&info)).await.unwrap().message().await.unwrap().unwrap();
    let answer = CancelFlightInfoResult::decode(answer.body).unwrap();
    assert_eq!(answer.status(), CancelStatus::Cancelled);
    assert_eq!(code(client.do_get(ticket(&info)).await.map(|_| ()).unwrap_err()).0, Code::Cancelled);

    for legacy in [false, true] {
        let info = client.execute(LONG.to_owned(), None).await.unwrap();
        let mut rows = client.do_get(ticket(&info)).await.unwrap();
        assert!(rows.try_next().await.unwrap().is_some_and(|batch| batch.num_rows() > 0));
        let action = match legacy {
            false => cancel(&info),
            true => {
                let request = ActionCancelQueryRequest { info: info.encode_to_vec().into() };
                Action::new("CancelQuery", request.as_any().encode_to_vec())
            }
        };
        client.do_action(action).await.unwrap().message().await.unwrap().unwrap();
        let ended = loop {
            match rows.try_next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it went to its end"),
                Err(error) => break code(error),
            }
        };
        assert_eq!(ended.0, Code::Cancelled, "{}", ended.1);
    }
    assert_eq!(query(client, "SELECT 1 AS one").await, "one; 1");
    served.stop().await;
}

#[tokio::test]
async fn a_cancelled_query_gives_its_place_back_although_nobody_reads() {
    let clouds = History::good().store(1).await;
    let mut served =
        Served::start(&engine_for(&clouds, "  limits: { running: 1, waiting: 1, time: 10m }\n")).await;
    let info = served.client.execute(LONG.to_owned(), None).await.unwrap();
    let mut rows = served.client.do_get(ticket(&info)).await.unwrap();
    assert!(rows.try_next().await.unwrap().is_some_and(|batch| batch.num_rows() > 0));
    let cancel = Action::new("CancelFlightInfo", CancelFlightInfoRequest::new(info).encode_to_vec());
    let mut other = connect(&served.address).await;
    other.do_action(cancel).await.unwrap().message().await.unwrap().unwrap();
    assert_eq!(query(&mut other, "SELECT 1 AS one").await, "one; 1");
    drop(rows);
    drop(other);
    served.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_lets_its_queries_end() {
    let clouds = History::good().store(1).await;
    let mut served = Served::start(&engine(&clouds)).await;
    let info = served.client.execute(LONG.to_owned(), None).await.unwrap();
    let mut rows = served.client.do_get(ticket(&info)).await.unwrap();
    let mut count = rows.try_next().await.unwrap().unwrap().num_rows();
    served.stop.cancel();
    while let Some(batch) = rows.try_next().await.unwrap() {
        count += batch.num_rows();
    }
    assert_eq!(count, 15_usize.pow(5));
    drop(rows);
    served.stop().await;
}
