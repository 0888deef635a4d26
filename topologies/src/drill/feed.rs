//! What `isobar drill --demo` drills: the demo's topology with an embedded broker, and flights for as long as it takes.
//!
//! The flights of 2013 are produced over and over at a steady rate, so that there is traffic however long the drill is.
//! The rate is low enough for the embedded broker to keep what a pipeline that pauses for a minute has not read yet.

use std::path::PathBuf;
use std::time::Duration;

use isobar_connectors::kafka::{
    Compression, EmbeddedBroker, KafkaProducer, ProducedRecord, partition_of_key,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::demo::replay::{FLIGHTS, PARTITIONS, Records, WEATHER};
use crate::demo::write_topology;
use crate::error::Error;
use crate::spec::Topology;

/// How often records are produced, and how many at a time: 1,000 a second.
const TICK: (Duration, usize) = (Duration::from_millis(50), 50);
/// How long the last records may take to be delivered.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(30);

/// A broker, three directories as clouds, and the demo's topology.
pub(super) struct Feed {
    pub(super) topology: Topology,
    broker: EmbeddedBroker,
    directory: TempDir,
}

impl Feed {
    pub(super) fn start() -> Result<Self, Error> {
        let directory = tempfile::tempdir()
            .map_err(|error| Error::Configuration(format!("cannot create a temporary directory: {error}")))?;
        let broker = EmbeddedBroker::start(&[(FLIGHTS.topic, PARTITIONS), (WEATHER.topic, PARTITIONS)])
            .map_err(|error| Error::connector("start the embedded broker", error))?;
        let topology = write_topology(directory.path(), &broker.bootstrap_servers())?;
        Ok(Self { topology, broker, directory })
    }

    /// Where the specification lies.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("topology.yaml")
    }

    /// Produces from now on, until stopped.
    pub(super) fn produce(&self) -> Feeding {
        let stop = CancellationToken::new();
        let task = tokio::spawn(feed(self.broker.bootstrap_servers(), stop.clone()));
        Feeding { stop, task }
    }
}

/// A feed that runs.
pub(super) struct Feeding {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Feeding {
    /// Stops it, and says what went wrong meanwhile.
    pub(super) async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        self.task.await.expect("feeding does not panic")
    }
}

async fn feed(brokers: String, stop: CancellationToken) -> Result<(), Error> {
    let failed = |error| Error::connector("produce to the embedded broker", error);
    let producer = KafkaProducer::start(&brokers, Compression::Zstd).map_err(failed)?;
    let mut records = Records::open(&FLIGHTS)?;
    let mut clock = tokio::time::interval(TICK.0);
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = stop.cancelled() => break,
        }
        for _ in 0..TICK.1 {
            let Some((key, payload)) = records.next_record()? else {
                records = Records::open(&FLIGHTS)?;
                continue;
            };
            let record = ProducedRecord {
                topic: FLIGHTS.topic,
                partition: partition_of_key(key.as_bytes(), PARTITIONS),
                key: Some(key.as_bytes()),
                payload: Some(payload.as_bytes()),
                ..Default::default()
            };
            producer.produce(record).map_err(failed)?;
        }
    }
    tokio::task::block_in_place(|| producer.flush(DELIVERY_PATIENCE)).map_err(failed)
}
