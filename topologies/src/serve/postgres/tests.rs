//! The protocol byte by byte, over a socket, on small tables in memory. Real clients are in `tests/clients`.

use std::net::Ipv4Addr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use isobar_connectors::clouds::Cloud;
use object_store::ObjectStoreExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::commit::format::published_path;
use crate::prove::testing::{DATASET, History};
use crate::serve::testing::{TOKEN, topology};

fn engine(clouds: &[Cloud], serve: &str) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    Engine::open(&topology(folder.path(), serve), clouds).unwrap()
}

/// For everybody, with newer versions looked for each time.
fn open_engine(clouds: &[Cloud]) -> Engine {
    engine(clouds, "{ refresh: 0s }")
}

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Served {
    async fn start(engine: Engine) -> Self {
        Self::start_on(engine, Terms::default()).await
    }

    async fn start_on(engine: Engine, terms: Terms) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, engine, terms, stop.clone()));
        Self { address, stop, server }
    }

    async fn client(&self) -> Client {
        let mut client = Client(TcpStream::connect(self.address).await.unwrap());
        client.startup(&[("user", "ana"), ("application_name", "test")]).await;
        client.until_ready().await;
        client
    }

    async fn stop(self) {
        self.stop.cancel();
        self.server.await.unwrap();
    }
}

struct Client(TcpStream);

/// Tag and body.
type Message = (char, Bytes);

impl Client {
    async fn startup(&mut self, settings: &[(&str, &str)]) {
        let mut body = BytesMut::new();
        body.put_u32(3 << 16);
        for (name, value) in settings {
            put_text(&mut body, name);
            put_text(&mut body, value);
        }
        body.put_u8(0);
        self.write(None, &body).await;
    }

    async fn write(&mut self, tag: Option<u8>, body: &[u8]) {
        let mut message = BytesMut::new();
        message.extend(tag);
        message.put_i32(body.len() as i32 + 4);
        message.put_slice(body);
        self.0.write_all(&message).await.unwrap();
    }

    /// `None`: the server has hung up.
    async fn read(&mut self) -> Option<Message> {
        let tag = self.0.read_u8().await.ok()?;
        let mut body = vec![0; self.0.read_i32().await.unwrap() as usize - 4];
        self.0.read_exact(&mut body).await.unwrap();
        Some((char::from(tag), body.into()))
    }

    /// Everything up to the message that says that the server waits for the next one, or that it hangs up.
    async fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.read().await {
            let is_ready = message.0 == 'Z';
            messages.push(message);
            if is_ready {
                break;
            }
        }
        messages
    }

    async fn ask(&mut self, sql: &str) -> Vec<Message> {
        let mut body = BytesMut::new();
        put_text(&mut body, sql);
        self.write(Some(b'Q'), &body).await;
        self.until_ready().await
    }

    async fn parse(&mut self, name: &str, sql: &str) {
        let mut body = BytesMut::new();
        [name, sql].iter().for_each(|text| put_text(&mut body, text));
        body.put_u16(0);
        self.write(Some(b'P'), &body).await;
    }

    /// Values as text; the answer in binary.
    async fn bind(&mut self, portal: &str, name: &str, values: &[&str]) {
        let mut body = BytesMut::new();
        [portal, name].iter().for_each(|text| put_text(&mut body, text));
        body.put_u16(0);
        body.put_u16(values.len() as u16);
        for value in values {
            body.put_i32(value.len() as i32);
            body.put_slice(value.as_bytes());
        }
        body.put_u16(1);
        body.put_u16(1);
        self.write(Some(b'B'), &body).await;
    }

    async fn execute(&mut self, portal: &str, rows_max: i32) {
        let mut body = BytesMut::new();
        put_text(&mut body, portal);
        body.put_i32(rows_max);
        self.write(Some(b'E'), &body).await;
    }

    async fn sync(&mut self) -> Vec<Message> {
        self.write(Some(b'S'), &[]).await;
        self.until_ready().await
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn tags(messages: &[Message]) -> String {
    messages.iter().map(|(tag, _)| tag).collect()
}

/// The first column of each row, as text.
fn values(messages: &[Message]) -> Vec<String> {
    let rows = messages.iter().filter(|(tag, _)| *tag == 'D');
    let first = rows.map(|(_, body)| {
        let mut body = body.slice(2..);
        let length = body.get_i32() as usize;
        String::from_utf8(body[..length].to_vec()).unwrap()
    });
    first.collect()
}

/// The field of the first error.
fn field(messages: &[Message], key: u8) -> String {
    let (_, body) = messages.iter().find(|(tag, _)| *tag == 'E').expect("an error");
    let fields = body.split(|byte| *byte == 0);
    let found = fields.filter_map(|field| field.split_first()).find(|(own, _)| **own == key);
    String::from_utf8(found.unwrap().1.to_vec()).unwrap()
}

fn status(messages: &[Message]) -> char {
    let (tag, body) = messages.last().unwrap();
    assert_eq!(*tag, 'Z');
    char::from(body[0])
}

#[tokio::test]
async fn statements_as_text_are_answered_as_text() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    let answer = client.ask("SELECT x, month FROM flights ORDER BY x LIMIT 2").await;
    assert_eq!((tags(&answer).as_str(), values(&answer)), ("TDDCZ", vec!["0".to_owned(), "1".to_owned()]));
    assert_eq!(answer[3].1.as_ref(), b"SELECT 2\0");
    let answer =
        client.ask("SELECT 1; ; SELECT 2 AS b; SET application_name = 'x'; SHOW application_name").await;
    assert_eq!(tags(&answer), "TDCTDCSCTDCZ");
    assert_eq!(values(&answer), ["1", "2", "x"]);
    assert_eq!(tags(&client.ask(" ; -- nothing").await), "IZ");
    let answer = client.ask("SELECT 1; SELECT * FROM nowhere; SELECT 2").await;
    assert_eq!((tags(&answer).as_str(), field(&answer, b'C').as_str()), ("TDCEZ", "42P01"));
    for (sql, code) in [
        ("SELECT 1 +", "42601"),
        ("SELECT absent FROM flights", "42703"),
        ("INSERT INTO flights VALUES (1)", "25006"),
        ("COPY flights TO STDOUT", "0A000"),
        ("SELECT $1", "42P18"),
        ("SET TimeZone = 'Asia/Tokyo'", "22023"),
        ("SELECT 1 / (x - x) FROM flights", "22012"),
        ("SELECT CAST(concat(month, 'x') AS BIGINT) FROM flights", "22P02"),
        ("SELECT x FROM flights a, flights b", "42702"),
        ("SELECT month, count(*) FROM flights", "42803"),
    ] {
        let answer = client.ask(sql).await;
        assert_eq!((field(&answer, b'C').as_str(), status(&answer)), (code, 'I'), "{sql}");
    }
    let answer = client.ask("SELECT relname, pg_table_is_visible(oid) FROM pg_class ORDER BY 1").await;
    assert_eq!(values(&answer)[0], "flights");
    served.stop().await;
}

#[tokio::test]
async fn a_portal_gives_its_rows_in_pieces() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    client.ask("BEGIN").await;
    client.parse("s", "SELECT x FROM flights WHERE x >= $1 ORDER BY x").await;
    client.write(Some(b'D'), b"Ss\0").await;
    client.bind("p", "s", &["11"]).await;
    client.write(Some(b'D'), b"Pp\0").await;
    client.execute("p", 3).await;
    let answer = client.sync().await;
    // Parsed; parameters and columns; bound; columns; three rows and a break.
    assert_eq!(tags(&answer), "1tT2TDDDsZ");
    assert_eq!(answer[1].1.as_ref(), [0, 1, 0, 0, 0, 20], "an int8, as x is");
    assert_eq!(answer[5].1.as_ref(), [0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 11], "in binary");
    client.execute("p", 3).await;
    client.execute("p", 0).await;
    let answer = client.sync().await;
    assert_eq!(tags(&answer), "DCCZ");
    assert_eq!((answer[1].1.as_ref(), answer[2].1.as_ref()), (&b"SELECT 1\0"[..], &b"SELECT 0\0"[..]));
    client.ask("COMMIT").await;
    client.execute("p", 0).await;
    assert_eq!(field(&client.sync().await, b'C'), "34000", "it ended with the transaction");
    // The statement did not.
    client.bind("", "s", &["14"]).await;
    client.execute("", 0).await;
    assert_eq!(tags(&client.sync().await), "2DCZ");
    served.stop().await;
}

#[tokio::test]
async fn after_an_error_messages_are_passed_over_until_sync() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    client.parse("", "SELECT * FROM nowhere").await;
    client.bind("", "", &[]).await;
    client.execute("", 0).await;
    let answer = client.sync().await;
    assert_eq!((tags(&answer).as_str(), status(&answer)), ("EZ", 'I'));
    client.parse("", "SELECT x FROM flights WHERE x = $1").await;
    client.bind("", "", &["eleven"]).await;
    client.execute("", 0).await;
    let answer = client.sync().await;
    assert_eq!((tags(&answer).as_str(), field(&answer, b'C').as_str()), ("1EZ", "22P02"));
    let long = format!("SELECT '{}'", "x".repeat(70_000));
    for (statement, code) in
        [("SELECT 1; SELECT 2", "42601"), ("SELECT $70000", "54000"), (long.as_str(), "54000")]
    {
        client.parse("", statement).await;
        assert_eq!(field(&client.sync().await, b'C'), code, "{statement}");
    }
    client.bind("", "absent", &[]).await;
    assert_eq!(field(&client.sync().await, b'C'), "26000");
    // An empty statement is one.
    client.parse("", "").await;
    client.bind("", "", &[]).await;
    client.write(Some(b'D'), b"P\0").await;
    client.execute("", 0).await;
    assert_eq!(tags(&client.sync().await), "12nIZ");
    served.stop().await;
}

#[tokio::test]
async fn what_was_passed_over_is_not_looked_at() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    client.parse("", "SELECT * FROM nowhere").await;
    // No text in UTF-8; a query at once; a description of nothing.
    client.write(Some(b'P'), b"\0\xff\0\0\0").await;
    client.write(Some(b'Q'), b"\xff\0").await;
    client.write(Some(b'D'), b"").await;
    let answer = client.sync().await;
    assert_eq!((tags(&answer).as_str(), field(&answer, b'C').as_str()), ("EZ", "42P01"));
    assert_eq!(values(&client.ask("SELECT 1").await), ["1"]);
    served.stop().await;
}

#[tokio::test]
async fn a_function_that_is_called_by_number_is_refused_at_once() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    // 1,598 is `random`. No `Sync` follows a call.
    client.write(Some(b'F'), b"\0\0\x06\x3e\0\0\0\0\0\0").await;
    let answer = client.until_ready().await;
    assert_eq!((tags(&answer).as_str(), field(&answer, b'C').as_str()), ("EZ", "0A000"));
    assert_eq!(values(&client.ask("SELECT 1").await), ["1"]);
    served.stop().await;
}

#[tokio::test]
async fn portals_end_with_what_they_live_in() {
    let clouds = History::good().store(1).await;
    let served = Served::start(engine(&clouds, "{ refresh: 0s, limits: { running: 1, waiting: 0 } }")).await;
    let mut client = served.client().await;
    let all = "SELECT a.x FROM flights a, flights b, flights c";
    // Of a transaction that failed.
    client.ask("BEGIN").await;
    client.parse("", all).await;
    client.bind("p", "", &[]).await;
    client.execute("p", 1).await;
    assert_eq!(tags(&client.sync().await), "12DsZ");
    let mut other = served.client().await;
    assert_eq!(field(&other.ask("SELECT 1").await, b'C'), "53400", "its query has the only place");
    assert_eq!(status(&client.ask("SELECT 1 +").await), 'E');
    assert_eq!(values(&other.ask("SELECT 1").await), ["1"]);
    client.ask("ROLLBACK").await;
    // Without one, of the messages up to a query at once.
    client.parse("", all).await;
    client.bind("p", "", &[]).await;
    client.execute("p", 1).await;
    assert_eq!(tags(&client.ask("SHOW server_version").await), "12DsTDCZ");
    assert_eq!(values(&other.ask("SELECT 1").await), ["1"]);
    served.stop().await;
}

#[tokio::test]
async fn what_a_session_keeps_is_bounded() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    let long = format!("SELECT '{}'", "x".repeat(60_000));
    let mut refused = 0;
    for name in 0..80 {
        client.parse(&name.to_string(), &long).await;
        let answer = client.sync().await;
        if tags(&answer) == "EZ" {
            assert_eq!(field(&answer, b'C'), "53400");
            refused += 1;
        }
    }
    assert!(refused > 0 && refused < 80, "{refused}");
    // One of the same name takes the place of what was there.
    client.ask("DEALLOCATE ALL").await;
    for _ in 0..80 {
        client.parse("", &long).await;
    }
    assert_eq!(tags(&client.sync().await), "1".repeat(80) + "Z");
    served.stop().await;
}

#[tokio::test]
async fn hostile_questions_about_the_catalog_leave_the_server_up() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    let (sums, casts) = ("1+".repeat(30_000), "CAST(".repeat(30));
    for (sql, codes) in [
        (format!("SELECT {sums}1 FROM pg_class"), &["54000"][..]),
        (format!("SELECT {casts} FROM pg_class"), &["54000", "42601"][..]),
        ("SELECT repeat(relname, 100000000) FROM pg_class".to_owned(), &["54000"][..]),
    ] {
        let code = field(&client.ask(&sql).await, b'C');
        assert!(codes.contains(&code.as_str()), "{code} {sql:.80}");
    }
    assert_eq!(values(&client.ask("SELECT count(*) FROM pg_namespace").await), ["3"]);
    served.stop().await;
}

#[tokio::test]
async fn a_transaction_stays_at_the_versions_that_it_saw_first() {
    let history = History::good();
    let clouds = history.store(1).await;
    let last = published_path(DATASET, 3);
    clouds[0].data.delete(&last).await.unwrap();
    let served = Served::start(open_engine(&clouds)).await;
    let (mut inside, mut outside) = (served.client().await, served.client().await);
    let count = "SELECT count(x) AS n FROM flights";
    assert_eq!(status(&inside.ask("BEGIN ISOLATION LEVEL REPEATABLE READ").await), 'T');
    // A version that is named is not kept.
    assert_eq!(values(&inside.ask("SELECT count(x) FROM flights VERSION AS OF 1").await), ["8"]);
    assert_eq!(values(&inside.ask(count).await), ["13"]);
    clouds[0].data.put(&last, history.objects()[&last].clone().into()).await.unwrap();
    assert_eq!(values(&outside.ask(count).await), ["15"]);
    assert_eq!(values(&inside.ask(count).await), ["13"]);
    inside.parse("", count).await;
    inside.bind("", "", &[]).await;
    inside.execute("", 0).await;
    let answer = inside.sync().await;
    assert_eq!(answer[2].1.last(), Some(&13));
    assert_eq!(values(&inside.ask("SELECT count(x) FROM flights VERSION AS OF 3").await), ["15"]);
    assert_eq!(status(&inside.ask("COMMIT").await), 'I');
    assert_eq!(values(&inside.ask(count).await), ["15"]);
    served.stop().await;
}

#[tokio::test]
async fn what_was_prepared_before_a_transaction_is_seen_by_it_too() {
    let history = History::good();
    let clouds = history.store(1).await;
    let last = published_path(DATASET, 3);
    clouds[0].data.delete(&last).await.unwrap();
    let served = Served::start(open_engine(&clouds)).await;
    let mut client = served.client().await;
    client.parse("begin", "BEGIN").await;
    client.sync().await;
    // All without a `Sync` between.
    let count = "SELECT count(x) AS n FROM flights";
    client.parse("count", count).await;
    client.bind("b", "begin", &[]).await;
    client.execute("b", 0).await;
    client.bind("c", "count", &[]).await;
    client.execute("c", 0).await;
    let answer = client.sync().await;
    assert_eq!((tags(&answer).as_str(), status(&answer)), ("12C2DCZ", 'T'));
    assert_eq!(answer[4].1.last(), Some(&13));
    clouds[0].data.put(&last, history.objects()[&last].clone().into()).await.unwrap();
    assert_eq!(values(&client.ask(count).await), ["13"]);
    client.ask("COMMIT").await;
    assert_eq!(values(&client.ask(count).await), ["15"]);
    served.stop().await;
}

#[tokio::test]
async fn settings_of_a_transaction_end_with_it() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    let shown = "SHOW statement_timeout; SHOW application_name";
    client.ask("SET statement_timeout = '1h'; SET application_name = 'a'").await;
    client.ask("BEGIN; SET LOCAL statement_timeout = '1min'; SET application_name = 'b'").await;
    assert_eq!(values(&client.ask(shown).await), ["1min", "b"]);
    client.ask("COMMIT").await;
    assert_eq!(values(&client.ask(shown).await), ["1h", "b"]);
    client.ask("BEGIN; SET statement_timeout = 0; SET LOCAL application_name = 'c'").await;
    // The client is told that it is what it was.
    assert_eq!(tags(&client.ask("ROLLBACK").await), "SCZ");
    assert_eq!(values(&client.ask(shown).await), ["1h", "b"]);
    assert_eq!(tags(&client.ask("SET LOCAL statement_timeout = 0").await), "NCZ");
    assert_eq!(tags(&client.ask("BEGIN; SET LOCAL my.own = 1; RESET my.own; COMMIT").await), "CCCCZ");
    assert_eq!(values(&client.ask(shown).await), ["1h", "b"]);
    served.stop().await;
}

#[tokio::test]
async fn after_an_error_a_transaction_only_ends() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    client.ask("BEGIN; SAVEPOINT a").await;
    assert_eq!(status(&client.ask("SELECT * FROM nowhere").await), 'E');
    assert_eq!(field(&client.ask("SELECT 1").await, b'C'), "25P02");
    assert_eq!(status(&client.ask("ROLLBACK TO SAVEPOINT a").await), 'T');
    assert_eq!(values(&client.ask("SELECT 1").await), ["1"]);
    assert_eq!(field(&client.ask("DROP TABLE flights").await, b'C'), "25006");
    let answer = client.ask("COMMIT").await;
    assert_eq!((answer[0].1.as_ref(), status(&answer)), (&b"ROLLBACK\0"[..], 'I'));
    assert_eq!(field(&client.ask("SAVEPOINT a").await, b'C'), "25P01");
    served.stop().await;
}

#[tokio::test]
async fn a_query_is_cancelled_by_number_and_key() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = Client(TcpStream::connect(served.address).await.unwrap());
    client.startup(&[("user", "ana")]).await;
    let hello = client.until_ready().await;
    let (_, key) = hello.iter().find(|(tag, _)| *tag == 'K').unwrap().clone();
    assert_eq!(key.len(), 8);
    let cancel = |key: Bytes| {
        let address = served.address;
        async move {
            let mut other = Client(TcpStream::connect(address).await.unwrap());
            let mut body = BytesMut::from(&80_877_102_u32.to_be_bytes()[..]);
            body.put_slice(&key);
            other.write(None, &body).await;
            // It is done when the server hangs up, and says nothing.
            assert_eq!(other.0.read_u8().await.ok(), None);
        }
    };
    let (from, to) = (1_000_000_i64, 2_000_000_i64);
    let endless =
        format!("SELECT a.value FROM generate_series({from}, {to}) AS a, generate_series({from}, {to}) AS b");
    let mut body = BytesMut::new();
    put_text(&mut body, &endless);
    client.write(Some(b'Q'), &body).await;
    // It runs.
    assert_eq!(client.read().await.unwrap().0, 'T');
    let mut wrong = BytesMut::from(&key[..]);
    wrong[7] ^= 1;
    cancel(wrong.freeze()).await;
    cancel(key.clone()).await;
    let ended = client.until_ready().await;
    assert_eq!((field(&ended, b'C').as_str(), status(&ended)), ("57014", 'I'));
    // Nothing runs now, and what comes later is not meant.
    cancel(key).await;
    assert_eq!(values(&client.ask("SELECT 1").await), ["1"]);
    client.ask("SET statement_timeout = '1ms'").await;
    let answer = client.ask(&endless).await;
    assert_eq!(field(&answer, b'C'), "57014");
    served.stop().await;
}

#[tokio::test]
async fn a_token_is_a_password() {
    let callers = "{ refresh: 0s, callers: { ana: { token: \"${file:token}\" } } }";
    let served = Served::start(engine(&History::good().store(1).await, callers)).await;
    for (token, is_right) in [(TOKEN, true), ("another-token-of-somebody", false), ("", false)] {
        let mut client = Client(TcpStream::connect(served.address).await.unwrap());
        client.startup(&[("user", "whoever")]).await;
        let (tag, body) = client.read().await.unwrap();
        assert_eq!((tag, body.as_ref()), ('R', &[0, 0, 0, 3][..]));
        let mut password = BytesMut::new();
        put_text(&mut password, token);
        client.write(Some(b'p'), &password).await;
        let answer = client.until_ready().await;
        if is_right {
            assert_eq!(status(&answer), 'I');
            assert_eq!(values(&client.ask("SELECT current_user").await), ["ana"]);
        } else {
            assert_eq!((field(&answer, b'C').as_str(), field(&answer, b'S').as_str()), ("28P01", "FATAL"));
            assert!(client.read().await.is_none());
        }
    }
    // Nothing is answered before.
    let mut client = Client(TcpStream::connect(served.address).await.unwrap());
    client.startup(&[("user", "whoever")]).await;
    client.read().await.unwrap();
    let answer = client.ask("SELECT 1").await;
    assert_eq!((tags(&answer).as_str(), field(&answer, b'S').as_str()), ("E", "FATAL"));
    served.stop().await;
}

#[tokio::test]
async fn who_shows_a_token_is_not_counted_as_refused() {
    let callers = "{ refresh: 0s, callers: { ana: { token: \"${file:token}\" } } }";
    let engine = engine(&History::good().store(1).await, callers);
    let served = Served::start(engine.clone()).await;
    let mut client = Client(TcpStream::connect(served.address).await.unwrap());
    client.startup(&[("user", "whoever")]).await;
    client.read().await.unwrap();
    let mut password = BytesMut::new();
    put_text(&mut password, TOKEN);
    client.write(Some(b'p'), &password).await;
    assert_eq!(status(&client.until_ready().await), 'I');
    assert!(!engine.metrics().contains("unauthenticated"), "{}", engine.metrics());
    served.stop().await;
}

#[tokio::test]
async fn where_clients_show_certificates_nobody_connects_without_tls() {
    let terms = Terms { needs_tls: true, ..Terms::default() };
    let served = Served::start_on(open_engine(&History::good().store(1).await), terms).await;
    let mut client = Client(TcpStream::connect(served.address).await.unwrap());
    client.startup(&[("user", "ana")]).await;
    let answer = client.until_ready().await;
    assert_eq!((tags(&answer).as_str(), field(&answer, b'C').as_str()), ("E", "28000"));
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_told_to_go() {
    let terms = Terms { idle_time_max: Duration::from_millis(1), ..Terms::default() };
    let served = Served::start_on(open_engine(&History::good().store(1).await), terms).await;
    let mut client = served.client().await;
    let answer = client.until_ready().await;
    assert_eq!((tags(&answer).as_str(), field(&answer, b'C').as_str()), ("E", "57P05"));
    served.stop().await;
}

#[tokio::test]
async fn malformed_messages_end_the_connection_and_not_the_server() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let openings: [&[u8]; 5] = [
        b"\0\0\0\x03",
        b"\xff\xff\xff\xff\0\x03\0\0",
        b"\x7f\xff\xff\xff\0\x03\0\0",
        b"\0\0\0\x09\0\x02\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    for opening in openings {
        let mut client = Client(TcpStream::connect(served.address).await.unwrap());
        client.0.write_all(opening).await.unwrap();
        let answer = client.until_ready().await;
        assert!(["", "E"].contains(&tags(&answer).as_str()), "{opening:?}");
    }
    for message in [&b"Q\0\0\0\x03"[..], b"Q\x7f\0\0\0", b"B\0\0\0\x0a\0\0\xff\xff\xff\xff", b"\0\0\0\0\x04"]
    {
        let mut client = served.client().await;
        client.0.write_all(message).await.unwrap();
        let answer = client.until_ready().await;
        assert_eq!((tags(&answer).as_str(), field(&answer, b'S').as_str()), ("E", "FATAL"), "{message:?}");
    }
    let mut client = served.client().await;
    assert_eq!(values(&client.ask("SELECT 1").await), ["1"]);
    served.stop().await;
}

#[tokio::test]
async fn the_server_stops_with_a_word_to_clients() {
    let served = Served::start(open_engine(&History::good().store(1).await)).await;
    let mut client = served.client().await;
    served.stop().await;
    let answer = client.until_ready().await;
    assert_eq!((tags(&answer).as_str(), field(&answer, b'C').as_str()), ("E", "57P01"));
}

#[test]
fn keys_of_other_connections_cancel_nothing() {
    let cancels = Arc::new(Cancels::default());
    let (one, other) = (cancels.register(4), cancels.register(32));
    assert_eq!((one.key.len(), other.key.len()), (4, 32));
    assert_ne!(one.process, other.process);
    let (first, second) = (one.begin(), other.begin());
    cancels.cancel(one.process, &other.key);
    cancels.cancel(one.process, &[]);
    cancels.cancel(one.process, &one.key[..3]);
    cancels.cancel(other.process, &one.key);
    assert!(!first.is_cancelled() && !second.is_cancelled());
    cancels.cancel(one.process, &one.key);
    assert!(first.is_cancelled() && !second.is_cancelled());
    assert!(!one.begin().is_cancelled());
    let process = one.process;
    drop(one);
    assert!(!cancels.by_process.lock().unwrap().contains_key(&process));
}
