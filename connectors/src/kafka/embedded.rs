//! A Kafka broker inside the process, for demonstrations and tests: librdkafka's own mock cluster, which real clients
//! reach over TCP.
//!
//! **Its limit:** a partition keeps at most [`PARTITION_BYTES_MAX`](EmbeddedBroker::PARTITION_BYTES_MAX) of record
//! batches as they were sent (compressed), and drops the oldest beyond that without a word. A producer must not get
//! further ahead of the reader than this; a reader that is overtaken fails with a lost position. Records live as long
//! as the process, and there are no access rules and no retention by time. Of transactions it takes the requests and keeps
//! nothing: what is aborted stays, nobody is fenced, and progress that is noted with one is forgotten.

use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
};

use rdkafka::{
    error::KafkaResult,
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use crate::Error;

type Cluster = MockCluster<'static, DefaultProducerContext>;
type Job = Box<dyn FnOnce(&Cluster) + Send>;

/// A single broker that lives until dropped. It keeps only [`EmbeddedBroker::PARTITION_BYTES_MAX`] per partition.
pub struct EmbeddedBroker {
    bootstrap_servers: String,
    /// Dropped to stop the broker.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Bytes of (compressed) record batches that a partition keeps.
    pub const PARTITION_BYTES_MAX: usize = 5 << 20;

    /// Starts a broker on a free port of the loopback interface, with the given topics and numbers of partitions.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self, Error> {
        let topics: Vec<(String, i32)> =
            topics.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (started, start) = mpsc::channel();
        // The cluster's handle may not change threads, so one thread owns it and does what it is asked.
        let thread = thread::Builder::new()
            .name("kafka-embedded".into())
            .spawn(move || {
                let cluster = match create(&topics) {
                    Ok(cluster) => cluster,
                    Err(error) => {
                        let _ = started.send(Err(error.to_string()));
                        return;
                    }
                };
                let _ = started.send(Ok(cluster.bootstrap_servers()));
                for job in inbox {
                    job(&cluster);
                }
            })
            .map_err(|error| failure(error.to_string()))?;
        let bootstrap_servers =
            start.recv().map_err(|_| failure("its thread ended".into()))?.map_err(failure)?;
        Ok(Self { bootstrap_servers, jobs: Some(jobs), thread: Some(thread) })
    }

    /// The broker's address, `host:port`.
    pub fn bootstrap_servers(&self) -> String {
        self.bootstrap_servers.clone()
    }

    /// Creates another topic.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), Error> {
        let name = name.to_owned();
        self.run(move |cluster| cluster.create_topic(&name, partitions, 1))
    }

    /// Makes the broker refuse connections, or accept them again. Its records stay.
    pub fn set_down(&self, down: bool) -> Result<(), Error> {
        self.run(move |cluster| if down { cluster.broker_down(-1) } else { cluster.broker_up(-1) })
    }

    /// Refuses the next `times` producers that want to send in transactions, as a broker does whose access rules say so. The
    /// producers of others are refused as well while they begin.
    pub fn refuse_transactions(&self, times: usize) -> Result<(), Error> {
        self.run(move |cluster| {
            let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
            cluster.request_errors(RDKafkaApiKey::InitProducerId, &vec![refused; times]);
            Ok(())
        })
    }

    fn run(&self, job: impl FnOnce(&Cluster) -> KafkaResult<()> + Send + 'static) -> Result<(), Error> {
        let (done, answer) = mpsc::channel();
        let job: Job = Box::new(move |cluster| {
            let _ = done.send(job(cluster).map_err(|error| failure(error.to_string())));
        });
        let ended = || failure("its thread ended".into());
        self.jobs.as_ref().ok_or_else(ended)?.send(job).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }
}

fn create(topics: &[(String, i32)]) -> KafkaResult<Cluster> {
    let cluster = MockCluster::new(1)?;
    for (name, partitions) in topics {
        cluster.create_topic(name, *partitions, 1)?;
    }
    Ok(cluster)
}

fn failure(reason: String) -> Error {
    Error::Kafka { action: "run the embedded broker".into(), reason }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed by its thread already.
            let _ = thread.join();
        }
    }
}
