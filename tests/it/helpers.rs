//! The helpers notice what they are there to notice.

use std::fs;

use isobar_tests::delta::{Log, Table};
use isobar_tests::events::{self, Content, FEATURES, Generator, TOPIC, Value};
use isobar_tests::lab::Lab;
use isobar_tests::ledger::Ledger;
use isobar_tests::prng::{Prng, Seed};
use isobar_tests::proxy::{Mode, Proxy};
use isobar_tests::trees::{Tree, differences};
use isobar_tests::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn filled() -> Lab {
    let seed = Seed::of("helpers");
    let lab = Lab::in_directories();
    lab.produce(TOPIC, Generator::mixed(seed.prng()).records(300));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    lab.assert_features_complete().await;
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_sees_rows_that_are_lost_doubled_changed_or_misplaced() {
    let lab = filled().await;
    let (dataset, quarantine) = lab.tables(&lab.clouds[0], FEATURES).await;
    let ledger = lab.ledger().clone();
    let sees = |dataset: &Table, quarantine: &Table| {
        !ledger.differences(TOPIC, events::features, dataset, quarantine).is_empty()
    };
    assert!(!sees(&dataset, &quarantine));

    let changed = |change: &dyn Fn(&mut Table)| {
        let mut table = dataset.clone();
        change(&mut table);
        table
    };
    let row = |table: &mut Table| table.files[0].rows[0].clone();
    let damages: [(&str, Table); 6] = [
        ("lost", changed(&|table| _ = table.files[0].rows.pop())),
        (
            "doubled",
            changed(&|table| {
                let copy = row(table);
                table.files[0].rows.push(copy);
            }),
        ),
        (
            "changed",
            changed(&|table| _ = table.files[0].rows[0].insert("city".into(), Value::from("Atlantis"))),
        ),
        (
            "misplaced",
            changed(&|table| _ = table.files[0].rows[0].insert("kafka_offset".into(), Value::Int(1_000_000))),
        ),
        ("without a column", changed(&|table| _ = table.files[0].rows[0].remove("many"))),
        ("a version short", changed(&|table| _ = table.log.versions.pop())),
    ];
    for (what, damaged) in &damages {
        assert!(sees(damaged, &quarantine), "{what}");
    }
    for column in ["reason", "rule", "topic", "timestamp", "key", "payload", "message"] {
        let mut damaged = quarantine.clone();
        damaged.files[0].rows[0].insert(column.into(), Value::Int(7));
        assert!(sees(&dataset, &damaged), "{column}");
    }
    let mut damaged = quarantine.clone();
    damaged.files[0].rows.pop();
    assert!(sees(&dataset, &damaged), "lost from the quarantine");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_of_logs_sees_a_broken_chain_a_gap_and_wrong_sums() {
    let lab = filled().await;
    let log = Log::read(&*lab.clouds[0].store(), FEATURES).await;
    assert!(log.problems().is_empty());
    let changed = |change: &dyn Fn(&mut Log)| {
        let mut log = log.clone();
        change(&mut log);
        log.problems()
    };
    let info =
        |log: &mut Log, version: usize| log.versions[version].actions[0]["commitInfo"]["isobar"].take();
    let last = log.versions.len() - 1;
    let damages = [
        ("a version missing", changed(&|log| _ = log.versions.remove(0))),
        ("other bytes before", changed(&|log| log.versions[0].bytes = "other".into())),
        (
            "a gap",
            changed(&|log| {
                let mut isobar = info(log, last);
                isobar["offsets"][0]["start"] = 1_000_000.into();
                log.versions[last].actions[0]["commitInfo"]["isobar"] = isobar;
            }),
        ),
        (
            "a wrong sum",
            changed(&|log| {
                let mut isobar = info(log, last);
                isobar["rows"]["in"] = 1_000_000.into();
                log.versions[last].actions[0]["commitInfo"]["isobar"] = isobar;
            }),
        ),
        (
            "a txn missing",
            changed(&|log| log.versions[last].actions.retain(|action| action.get("txn").is_none())),
        ),
    ];
    for (what, problems) in damages {
        assert!(!problems.is_empty(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_differ_by_a_byte_a_file_and_an_empty_folder() {
    let lab = filled().await;
    lab.assert_trees_equal().await;
    let folder = lab.clouds[1].folder.clone().unwrap();
    let reference = lab.clouds[0].tree().await;
    let compare = async || differences(&reference, &lab.clouds[1].tree().await).len();
    assert_eq!(compare().await, 0);
    fs::write(folder.join("control/more"), "x").unwrap();
    assert_eq!(compare().await, 0, "control/ is not compared");
    fs::create_dir(folder.join("datasets/empty")).unwrap();
    assert_eq!(compare().await, 1);
    fs::write(folder.join("datasets/empty/.hidden#1"), "x").unwrap();
    assert_eq!(compare().await, 2);
    let version = folder.join("datasets/features/_delta_log/00000000000000000000.json");
    let mut bytes = fs::read(&version).unwrap();
    bytes[10] ^= 1;
    fs::write(&version, bytes).unwrap();
    assert_eq!(compare().await, 3);
    assert_eq!(differences(&Tree::new(), &Tree::new()).len(), 0);
}

#[test]
fn one_seed_gives_the_same_records_and_every_fate_is_among_them() {
    let draw = |seed| Generator::mixed(Prng::new(seed)).records(3000);
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    let mut ledger = Ledger::default();
    let (mut rows, mut rejected, mut dropped, mut filtered) = (0, 0, 0, 0);
    let mut reasons = std::collections::BTreeSet::new();
    for record in draw(7) {
        match record.fate(events::features) {
            events::Fate::Row { .. } => rows += 1,
            events::Fate::Rejected { reason, .. } => {
                rejected += 1;
                reasons.insert(reason);
            }
            events::Fate::Dropped(_) => dropped += 1,
            events::Fate::Filtered { .. } => filtered += 1,
        }
        if let (Content::Event(_), Some(payload)) = (&record.content, &record.payload) {
            serde_json::from_slice::<serde_json::Value>(payload).expect("an event is written as JSON");
        }
        ledger.push(TOPIC, 0, record);
    }
    assert!(
        rows > 1500 && rejected > 100 && dropped > 50 && filtered > 30,
        "{rows} {rejected} {dropped} {filtered}"
    );
    assert!(reasons.len() >= 10, "{reasons:?}");
    assert_eq!(ledger.len(TOPIC), 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_forwards_hangs_refuses_cuts_and_loses_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let (received, mut requests) = tokio::sync::watch::channel(0);
    let echo = tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let received = received.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 4];
                while connection.read_exact(&mut bytes).await.is_ok() {
                    received.send_modify(|count| *count += 1);
                    if connection.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let proxy = Proxy::start(&target).await;
    let ask = async |connection: &mut TcpStream| -> std::io::Result<[u8; 4]> {
        connection.write_all(b"ping").await?;
        let mut answer = [0; 4];
        connection.read_exact(&mut answer).await?;
        Ok(answer)
    };
    let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(ask(&mut connection).await.unwrap(), *b"ping");

    proxy.set(Mode::LoseAnswers);
    assert!(ask(&mut connection).await.is_err());
    requests.wait_for(|count| *count == 2).await.unwrap();

    proxy.set(Mode::Hang);
    let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
    let mut answer = tokio::spawn(async move {
        let answer = ask(&mut connection).await;
        (connection, answer)
    });
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut answer).await;
    assert!(early.is_err(), "{early:?}");
    proxy.set(Mode::Forward);
    let (mut connection, answer) = answer.await.unwrap();
    assert_eq!(answer.unwrap(), *b"ping");

    proxy.set_after(2, Mode::Forward);
    let mut cut = TcpStream::connect(proxy.address()).await.unwrap();
    let before = proxy.passed();
    assert!(ask(&mut cut).await.is_err());
    assert_eq!((proxy.passed() - before, proxy.forget_after()), (2, false));
    assert_eq!(ask(&mut connection).await.unwrap(), *b"ping");
    proxy.set_after(1000, Mode::Refuse);
    assert!(proxy.forget_after());

    proxy.set(Mode::Refuse);
    until("the old connection is closed", async || ask(&mut connection).await.is_err()).await;
    let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(ask(&mut connection).await.is_err());
    echo.abort();
}
