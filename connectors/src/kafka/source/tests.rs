//! The source against the embedded broker: a real librdkafka client over TCP.

use std::future::pending;

use super::*;
use crate::kafka::{Compression, EmbeddedBroker, KafkaProducer, ProducedRecord};

const TOPIC: &str = "t";
const PATIENCE: Duration = Duration::from_secs(120);

fn config(broker: &EmbeddedBroker) -> KafkaConfig {
    KafkaConfig::new([broker.bootstrap_servers()], "test")
}

fn producer(broker: &EmbeddedBroker, compression: Compression) -> KafkaProducer {
    KafkaProducer::start(&broker.bootstrap_servers(), compression).unwrap()
}

fn from_start(partitions: i32) -> Vec<(TopicPartition, i64)> {
    (0..partitions).map(|number| (TopicPartition::new(TOPIC, number), 0)).collect()
}

async fn next(source: &mut dyn Source) -> SourceEvent {
    tokio::time::timeout(PATIENCE, source.next())
        .await
        .expect("an event in time")
        .expect("the source goes on")
}

/// Waits for something that librdkafka does in its own time.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    offset: i64,
    timestamp_ms: Option<i64>,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

fn records(chunk: &RecordChunk) -> impl Iterator<Item = Record> {
    (0..chunk.len()).map(|i| Record {
        offset: chunk.offsets()[i],
        timestamp_ms: chunk.timestamps_ms()[i],
        key: chunk.key(i).map(<[u8]>::to_vec),
        payload: chunk.payload(i).map(<[u8]>::to_vec),
    })
}

/// Reads until `partitions` partitions have ended, and returns what came, and where they ended.
async fn read_to_end(
    source: &mut dyn Source,
    partitions: usize,
) -> (BTreeMap<i32, Vec<Record>>, BTreeMap<i32, i64>) {
    let (mut read, mut ends) = (BTreeMap::<i32, Vec<Record>>::new(), BTreeMap::new());
    while ends.len() < partitions {
        match next(source).await {
            SourceEvent::Chunk(chunk) => {
                let number = chunk.topic_partition().partition;
                assert!(!ends.contains_key(&number), "records before the end is announced");
                read.entry(number).or_default().extend(records(&chunk));
            }
            SourceEvent::EndOfPartition { topic_partition, next_offset } => {
                ends.insert(topic_partition.partition, next_offset);
            }
            SourceEvent::Failed(error) => panic!("{error}"),
        }
    }
    (read, ends)
}

#[tokio::test]
async fn everything_is_read_once_in_order_and_as_it_was() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 3)]).unwrap();
    let producer = producer(&broker, Compression::Zstd);
    let mut produced = BTreeMap::<i32, Vec<Record>>::new();
    for i in 0..30_000_i64 {
        let partition = (i % 7 % 3) as i32;
        let long = format!("{i:0>width$}", width = (i % 300) as usize).into_bytes();
        let (key, payload) = match i % 11 {
            0 => (Some(b"tombstone".to_vec()), None),
            1 => (None, Some(Vec::new())),
            2 => (Some(Vec::new()), Some(long)),
            _ => (None, Some(long)),
        };
        let timestamp_ms = Some(1_356_998_400_000 + i);
        producer
            .produce(ProducedRecord {
                topic: TOPIC,
                partition,
                key: key.as_deref(),
                payload: payload.as_deref(),
                timestamp_ms,
                // Nobody asks for them here.
                headers: &[("trace", Some(b"x"))],
            })
            .unwrap();
        let records = produced.entry(partition).or_default();
        records.push(Record { offset: records.len() as i64, timestamp_ms, key, payload });
    }
    producer.flush(PATIENCE).unwrap();

    let mut source = KafkaSource::start(&config(&broker), from_start(3)).unwrap();
    let (read, ends) = read_to_end(&mut source, 3).await;
    for (number, records) in &produced {
        assert_eq!(ends[number], records.len() as i64);
        assert!(read[number] == *records, "partition {number} differs");
    }
    assert_eq!(source.status().records(), 30_000);
    eventually("the status shows the positions", || {
        let partitions = source.status().partitions();
        partitions.values().map(|status| status.next_offset).sum::<i64>() == 30_000
            && partitions.values().all(|status| status.log_end == Some(status.next_offset))
    })
    .await;
    assert!(source.status().connected());

    // What is produced later arrives without asking, and its end is announced again.
    producer.produce(ProducedRecord { topic: TOPIC, partition: 1, ..Default::default() }).unwrap();
    producer.flush(PATIENCE).unwrap();
    let (read, later_ends) = read_to_end(&mut source, 1).await;
    assert_eq!(read[&1].len(), 1);
    assert_eq!(later_ends[&1], ends[&1] + 1);
    Box::new(source).close().await;
}

#[tokio::test]
async fn headers_are_kept_of_the_topics_of_which_they_are_wanted() {
    type HeadersOfRecord = &'static [(&'static str, Option<&'static [u8]>)];
    const RECORDS: [HeadersOfRecord; 4] = [
        &[("trace", Some(b"1")), ("none", None), ("trace", Some(b"\xff\x00")), ("empty", Some(b""))],
        &[],
        &[("", Some(b"x")), ("ż", Some(b"\0"))],
        &[("last", Some(&[7; 10_000]))],
    ];
    let broker = EmbeddedBroker::start(&[("wanted", 1), ("other", 1)]).unwrap();
    let producer = producer(&broker, Compression::Lz4);
    for topic in ["wanted", "other"] {
        for headers in RECORDS {
            let record = ProducedRecord { topic, payload: Some(b"p"), headers, ..Default::default() };
            producer.produce(record).unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();

    let mut config = config(&broker);
    config.keeps_headers = Some(Arc::new(|topic| topic == "wanted"));
    // So that chunks begin anew in the middle.
    config.chunk_records_max = 3;
    let assignment = ["wanted", "other"].map(|topic| (TopicPartition::new(topic, 0), 0));
    let mut source = KafkaSource::start(&config, assignment.to_vec()).unwrap();
    let (mut ended, mut read, mut chunks) = (0, Vec::new(), 0);
    while ended < 2 {
        match next(&mut source).await {
            SourceEvent::Chunk(chunk) if &*chunk.topic_partition().topic == "wanted" => {
                chunks += 1;
                read.extend((0..chunk.len()).map(|record| {
                    let headers = chunk.headers(record).expect("they are kept and can be read");
                    headers
                        .iter()
                        .map(|(key, value)| (key.to_string(), value.map(<[u8]>::to_vec)))
                        .collect::<Vec<_>>()
                }));
            }
            SourceEvent::Chunk(chunk) => {
                assert!(!chunk.has_headers());
                assert_eq!(chunk.bytes(), chunk.len());
            }
            SourceEvent::EndOfPartition { .. } => ended += 1,
            SourceEvent::Failed(error) => panic!("{error}"),
        }
    }
    let produced = RECORDS.map(|headers| {
        let owned = headers.iter().map(|(key, value)| (key.to_string(), value.map(<[u8]>::to_vec)));
        owned.collect::<Vec<_>>()
    });
    assert_eq!(read, produced);
    assert!(chunks > 1, "one chunk shows nothing of the next");
    Box::new(source).close().await;
}

#[tokio::test]
async fn reading_begins_at_the_assigned_positions_and_a_new_assignment_replaces_the_old_one() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 3)]).unwrap();
    let producer = producer(&broker, Compression::Lz4);
    for i in 0..6_000_i32 {
        let payload = i.to_le_bytes();
        let record =
            ProducedRecord { topic: TOPIC, partition: i % 3, payload: Some(&payload), ..Default::default() };
        producer.produce(record).unwrap();
    }
    producer.flush(PATIENCE).unwrap();

    let small_chunks = KafkaConfig { chunk_records_max: 100, ..config(&broker) };
    let mut source = KafkaSource::start(&small_chunks, from_start(3)).unwrap();
    let mut first_read = 0;
    for round in 1..13_i64 {
        // Some assignments are replaced at once, some while chunks are on their way: 2,000 records are 20 chunks.
        for _ in 0..round % 4 {
            if let SourceEvent::Chunk(chunk) = next(&mut source).await {
                first_read += chunk.len();
            }
        }
        let positions = vec![
            (TopicPartition::new(TOPIC, 0), (round * 37) % 2_000),
            (TopicPartition::new(TOPIC, 2), (round * 91) % 2_000),
        ];
        source.reassign(positions.clone());
        let mut expected: BTreeMap<_, _> = positions.into_iter().collect();
        let mut ended = 0;
        while ended < 2 {
            match next(&mut source).await {
                SourceEvent::Chunk(chunk) => {
                    let position = expected.get_mut(chunk.topic_partition()).expect("it is assigned");
                    for offset in chunk.offsets() {
                        assert_eq!(offset, position, "{} in round {round}", chunk.topic_partition());
                        *position += 1;
                    }
                }
                SourceEvent::EndOfPartition { topic_partition, next_offset } => {
                    assert_eq!(expected[&topic_partition], next_offset);
                    ended += 1;
                }
                SourceEvent::Failed(error) => panic!("{error}"),
            }
        }
        source.reassign(from_start(3));
    }
    assert!(first_read > 0, "some rounds must have read before the change");
}

#[tokio::test]
async fn a_slow_consumer_bounds_the_memory_and_loses_nothing() {
    const PARTITIONS: i32 = 8;
    let broker = EmbeddedBroker::start(&[(TOPIC, PARTITIONS)]).unwrap();
    let producer = producer(&broker, Compression::None);
    let payload = vec![7_u8; 1_000];
    for i in 0..24_000 {
        let partition = i % PARTITIONS;
        let record =
            ProducedRecord { topic: TOPIC, partition, payload: Some(&payload), ..Default::default() };
        producer.produce(record).unwrap();
    }
    producer.flush(PATIENCE).unwrap();

    let config = KafkaConfig { memory_bytes_max: 8 << 20, ..config(&broker) };
    let limits = Limits::of(&config);
    let mut source = KafkaSource::start(&config, from_start(PARTITIONS)).unwrap();
    let status = source.status();
    let mut held = Vec::new();
    let mut records = 0;
    // Takes everything and drops nothing, until nothing comes any more.
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(500), source.next()).await {
        if let SourceEvent::Chunk(chunk) = event {
            records += chunk.len();
            held.push(chunk);
        }
    }
    assert!(records < 24_000, "the budget must have stopped the reading");
    let memory: usize = held.iter().map(|chunk| chunk.memory_bytes()).sum();
    assert_eq!(status.bytes_in_flight(), memory);
    // Buffers grow by doubling, so a chunk may hold twice its bytes.
    assert!(memory <= limits.held_bytes_max + 2 * limits.open_bytes_max, "{memory} bytes held");
    assert!(memory >= limits.held_bytes_max / 2, "only {memory} bytes were used");

    // It reads on at once.
    held.clear();
    while records < 24_000 {
        if let SourceEvent::Chunk(chunk) = next(&mut source).await {
            records += chunk.len();
        }
    }
    assert_eq!(records, 24_000);
    assert_eq!(status.records(), 24_000);
}

#[tokio::test]
async fn a_position_after_the_end_fails_and_says_what_to_do() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let mut source = KafkaSource::start(&config(&broker), vec![(TopicPartition::new(TOPIC, 0), 17)]).unwrap();
    let SourceEvent::Failed(error) = next(&mut source).await else { panic!("it must fail") };
    let Error::PositionLost { next_offset: 17, log_end: Some(0), .. } = error else { panic!("{error:?}") };
    let text = error.to_string();
    assert!(text.contains("t[0] ends at offset 0, but 17 is the next one"), "{text}");
    assert!(text.contains("positions never go back"), "{text}");

    // A failed assignment can be replaced.
    source.reassign(from_start(1));
    let (_, ends) = read_to_end(&mut source, 1).await;
    assert_eq!(ends[&0], 0);
}

#[tokio::test]
async fn a_position_that_retention_has_passed_fails_instead_of_jumping() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let producer = producer(&broker, Compression::None);
    let payload = vec![7_u8; 100_000];
    for _ in 0..100 {
        let record = ProducedRecord { topic: TOPIC, payload: Some(&payload), ..Default::default() };
        producer.produce(record).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let mut source = KafkaSource::start(&config(&broker), from_start(1)).unwrap();
    let SourceEvent::Failed(error) = next(&mut source).await else { panic!("it must fail") };
    let Error::PositionLost { next_offset: 0, log_start: Some(log_start), .. } = error else {
        panic!("{error:?}")
    };
    assert!(log_start > 0);
    let text = error.to_string();
    assert!(text.contains("retention removed offsets 0 to") && text.contains("accept-gap"), "{text}");
}

#[tokio::test]
async fn a_partition_that_does_not_exist_does_not_hold_up_the_others() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let beyond = || vec![(TopicPartition::new(TOPIC, 0), 0), (TopicPartition::new(TOPIC, 9), 0)];
    let patient = KafkaSource::start(&config(&broker), beyond()).unwrap();
    let mut patient: Box<dyn Source> = Box::new(patient);
    // The end of the other partition is told, and the source goes on.
    let (_, ends) = read_to_end(&mut *patient, 1).await;
    assert_eq!(ends[&0], 0);
    let producer = producer(&broker, Compression::None);
    producer.produce(ProducedRecord { topic: TOPIC, payload: Some(b"x"), ..Default::default() }).unwrap();
    producer.flush(PATIENCE).unwrap();
    assert!(matches!(next(&mut *patient).await, SourceEvent::Chunk(chunk) if chunk.len() == 1));
    patient.close().await;
}

#[tokio::test]
async fn a_broker_that_goes_and_comes_back_is_waited_for() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let producer = producer(&broker, Compression::None);
    let record = ProducedRecord { topic: TOPIC, payload: Some(b"x"), ..Default::default() };
    producer.produce(record).unwrap();
    producer.flush(PATIENCE).unwrap();
    let mut source = KafkaSource::start(&config(&broker), from_start(1)).unwrap();
    let (read, _) = read_to_end(&mut source, 1).await;
    assert_eq!(read[&0].len(), 1);

    broker.set_down(true).unwrap();
    let status = source.status();
    eventually("the loss is noticed", || !status.connected()).await;
    producer.produce(record).unwrap();
    broker.set_down(false).unwrap();
    let (read, ends) = read_to_end(&mut source, 1).await;
    assert_eq!((read[&0].len(), ends[&0]), (1, 2));
    assert!(status.connected());
}

#[tokio::test]
async fn progress_is_reported_for_tools_and_never_used() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let producer = producer(&broker, Compression::None);
    for _ in 0..3 {
        producer.produce(ProducedRecord { topic: TOPIC, ..Default::default() }).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let mut source = KafkaSource::start(&config(&broker), from_start(1)).unwrap();
    read_to_end(&mut source, 1).await;
    source.report_progress(&[(TopicPartition::new(TOPIC, 0), 2)]);
    let committed = || {
        let mut list = TopicPartitionList::new();
        list.add_partition(TOPIC, 0);
        let consumer = source.reader.consumer.upgrade().unwrap();
        let list = consumer.committed_offsets(list, PATIENCE).unwrap();
        list.find_partition(TOPIC, 0).unwrap().offset()
    };
    eventually("the report arrives", || committed() == Offset::Offset(2)).await;
    assert_eq!(source.status().progress_failures(), 0);
    Box::new(source).close().await;

    let mut source = KafkaSource::start(&config(&broker), from_start(1)).unwrap();
    let (read, _) = read_to_end(&mut source, 1).await;
    assert_eq!(read[&0].len(), 3, "reading begins where it is told, not at the reported position");
}

#[tokio::test]
async fn closing_does_not_wait_for_a_broker_that_is_away() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let mut source = KafkaSource::start(&config(&broker), from_start(1)).unwrap();
    read_to_end(&mut source, 1).await;
    broker.set_down(true).unwrap();
    source.report_progress(&[(TopicPartition::new(TOPIC, 0), 0)]);
    // librdkafka itself would wait for a minute.
    tokio::time::timeout(PATIENCE, Box::new(source).close()).await.expect("closing ends by itself");
}

#[tokio::test]
async fn waiting_for_an_event_can_be_given_up_without_losing_one() {
    let broker = EmbeddedBroker::start(&[(TOPIC, 1)]).unwrap();
    let mut source = KafkaSource::start(&config(&broker), from_start(1)).unwrap();
    let producer = producer(&broker, Compression::None);
    for i in 0..200 {
        producer.produce(ProducedRecord { topic: TOPIC, ..Default::default() }).unwrap();
        if i % 50 == 0 {
            producer.flush(PATIENCE).unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();
    let mut records = 0;
    while records < 200 {
        tokio::select! {
            biased;
            () = async { tokio::task::yield_now().await } => {}
            event = source.next() => match event {
                Some(SourceEvent::Chunk(chunk)) => records += chunk.len(),
                Some(SourceEvent::EndOfPartition { .. }) => {}
                _ => pending().await,
            },
        }
    }
    assert_eq!(records, 200);
}

/// Not a test but a measurement, of the poll loop against the safe consumer's: run with `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed_of_the_poll_loop() {
    const PARTITIONS: i32 = 48;
    const RECORDS: i64 = 640_000;
    let broker = EmbeddedBroker::start(&[(TOPIC, PARTITIONS)]).unwrap();
    let producer = producer(&broker, Compression::None);
    let payload = vec![b'x'; 310];
    for i in 0..RECORDS {
        let partition = (i % i64::from(PARTITIONS)) as i32;
        let record =
            ProducedRecord { topic: TOPIC, partition, payload: Some(&payload), ..Default::default() };
        producer.produce(record).unwrap();
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    for _ in 0..3 {
        let cpu = cpu_seconds();
        let started = Instant::now();
        let mut source = KafkaSource::start(&config(&broker), from_start(PARTITIONS)).unwrap();
        let mut records = 0;
        let mut chunks = 0;
        while records < RECORDS {
            if let SourceEvent::Chunk(chunk) = next(&mut source).await {
                records += chunk.len() as i64;
                chunks += 1;
            }
        }
        report(&format!("KafkaSource, {chunks} chunks"), RECORDS, started, cpu);
        drop(source);

        let cpu = cpu_seconds();
        let started = Instant::now();
        let client = config(&broker).consumer().unwrap();
        let consumer: BaseConsumer = client.create().unwrap();
        consumer.assign(&position_list(&from_start(PARTITIONS)).unwrap()).unwrap();
        let mut records = 0;
        let mut bytes = 0;
        while records < RECORDS {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                use rdkafka::Message as _;
                records += 1;
                bytes += message.payload().map_or(0, <[u8]>::len);
            }
        }
        report(&format!("BaseConsumer::poll, {bytes} bytes"), RECORDS, started, cpu);
    }
}

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn report(what: &str, records: i64, started: Instant, cpu: f64) {
    let megabytes = records as f64 * 310.0 / 1e6;
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("{what}: {:.0} MB/s, {:.0} MB/s per core (broker included)", megabytes / wall, megabytes / cpu);
}
