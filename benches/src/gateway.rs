//! A drill: what requests notice of a server that dies, when they come through a gateway.
//!
//! Three `isobar serve` in processes of their own answer look-ups of the same table, or ask a model about what they look up, `isobar
//! gateway` stands before them, and requests are sent to it when they are due ([`open_loop`](crate::open_loop)). One server gets SIGKILL
//! and is started again, at the same address. No request may fail. Each server has its own store of look-ups; the one that returns has
//! the store that it left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use isobar_topologies::inference::signature_of;
use isobar_topologies::models::Tensor;
use serde_json::{Value as Json, json};

use crate::dataset::{LOCATION, Place};
use crate::numbers::Numbers;
use crate::open_loop::{self, Sample, Times};
use crate::process::{self, Server};

const DATASET: &str = "entities";
const FEATURES: usize = 20;
/// The name of the model.
const MODEL: &str = "score";
const CLOUDS: [&str; 3] = ["aws", "azure", "gcp"];
/// Of [`CLOUDS`], where the server dies.
const LOST: usize = 1;
/// How long requests are sent before anything counts.
const WARM_UP_SECONDS: u64 = 5;
/// How long after the death the worst is to be expected.
const FAILOVER: Duration = Duration::from_secs(1);
/// How long servers and gateway may take until they are ready. Only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is done.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where everything is kept.
    pub(crate) directory: Option<PathBuf>,
    /// Entities in the table.
    pub(crate) entities: u64,
    /// Requests per second.
    pub(crate) rate: u64,
    /// How long requests are sent.
    pub(crate) seconds: u64,
    /// When a server is killed, in seconds.
    pub(crate) kill_at: u64,
    /// When it is started again, in seconds.
    pub(crate) return_at: u64,
    /// An ONNX file: what it says of an entity is asked, which is sent as a key.
    pub(crate) model: Option<PathBuf>,
    /// `isobar`; by default the one beside this program.
    pub(crate) program: Option<PathBuf>,
}

/// Makes the table unless it is there, starts everything, and measures.
pub(crate) async fn run(options: Options) -> Result<()> {
    let Options { entities, rate, seconds, kill_at, return_at, .. } = options;
    ensure!(entities > 0 && rate > 0, "there is nothing to ask for");
    ensure!(kill_at < return_at && return_at < seconds, "a server dies, then returns, then requests go on");
    let program = process::isobar(options.program.clone())?;
    let temporary = tempfile::tempdir()?;
    let directory = options.directory.clone().unwrap_or_else(|| temporary.path().to_owned());
    let directory = directory.join(format!("gateway-{entities}"));
    let place = Place::open_as(&directory, &topology()).await?;
    if !place.has(DATASET, 1) {
        write_table(&place, entities).await?;
    }
    let file = place.file.clone();
    if let Some(onnx) = &options.model {
        register(&program, onnx, &file)?;
    }
    tokio::task::spawn_blocking(move || drill(&options, &program, &directory, &file)).await?
}

fn schema() -> SchemaRef {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![field("entity", DataType::Int64), field("at", time)];
    fields.extend((0..FEATURES).map(|index| field(&format!("feature_{index}"), DataType::Int64)));
    Arc::new(Schema::new(fields))
}

/// The topology of the table: nobody runs it.
fn topology() -> String {
    let features: Vec<String> = (0..FEATURES).map(|index| format!("feature_{index}")).collect();
    let fields: String = features.iter().map(|feature| format!(", {feature}: int64")).collect();
    format!(
        "topology: bench\n\
         kafka: {{ brokers: \"localhost:9092\" }}\n\
         clouds:\n  {LOCATION}\n\
         sources:\n  records: {{ topic: records, format: json, fields: {{ entity: int64, at: timestamp{fields} }} }}\n\
         datasets:\n  {DATASET}: {{ from: records, sql: \"SELECT entity, at, {} FROM records\" }}\n\
         online: [{{ dataset: {DATASET}, keys: [entity], time: at }}]\n",
        features.join(", ")
    )
}

async fn write_table(place: &Place, entities: u64) -> Result<()> {
    let mut numbers = Numbers(1);
    let entities = i64::try_from(entities)?;
    let times: TimestampMicrosecondArray = (0..entities).map(Some).collect();
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from_iter_values(0..entities)), Arc::new(times.with_timezone("UTC"))];
    for _ in 0..FEATURES {
        let values = (0..entities).map(|_| numbers.below(1 << 40) as i64);
        columns.push(Arc::new(Int64Array::from_iter_values(values)));
    }
    let rows = RecordBatch::try_new(schema(), columns)?;
    let mut table = place.create(DATASET, schema())?;
    let file = table.write_file(std::iter::once(Ok(rows))).await?;
    table.commit(vec![file])
}

/// Registers the model at `onnx`, whose features are the first columns of the table.
fn register(program: &Path, onnx: &Path, topology: &Path) -> Result<()> {
    let bytes = fs::read(onnx).with_context(|| format!("read {}", onnx.display()))?;
    let inputs = signature_of(&bytes)?.inputs;
    let columns = |input: &Tensor| input.shape.get(1).copied().flatten().unwrap_or(1);
    let count: u64 = inputs.iter().map(columns).sum();
    ensure!(count <= FEATURES as u64, "the model has {count} features, the table {FEATURES}");
    let feature = |index| json!({ "name": format!("feature_{index}"), "type": "int64", "dataset": DATASET });
    let features: Vec<Json> = (0..count).map(feature).collect();
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("model.onnx"), bytes)?;
    fs::write(folder.path().join("manifest.json"), json!({ "features": features }).to_string())?;
    let mut command = Command::new(program);
    command.args(["models", "register"]).arg(folder.path()).args(["--model", MODEL, "--alias", "champion"]);
    let status = command.arg("--config").arg(topology).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "isobar models register ended with {status}");
    Ok(())
}

/// A server of look-ups, in its cloud.
struct Backend<'a> {
    program: &'a Path,
    topology: &'a str,
    /// Where its rows are kept.
    store: String,
}

impl Backend<'_> {
    fn start(&self, listen: &str) -> Result<(Server, String)> {
        let arguments = ["serve", self.topology, "--listen", listen, "--online-directory", &self.store];
        process::listening(self.program, &arguments)
    }
}

fn drill(options: &Options, program: &Path, directory: &Path, topology: &Path) -> Result<()> {
    let topology = topology.to_str().context("the directory has a UTF-8 name")?;
    let text = directory.to_str().context("the directory has a UTF-8 name")?;
    let backend = |at: usize| Backend { program, topology, store: format!("{text}/online-{}", CLOUDS[at]) };
    let mut servers = Vec::new();
    for at in 0..CLOUDS.len() {
        servers.push(backend(at).start("127.0.0.1:0")?);
    }
    let request = if options.model.is_some() { inference } else { look_up };
    let first = request(0);
    for (_, address) in &servers {
        until("a server answers", || Ok(is_answered(address, &first)))?;
    }
    let addresses: Vec<&str> = servers.iter().map(|(_, address)| address.as_str()).collect();
    let file = directory.join("gateway.yaml");
    fs::write(&file, gateway(&addresses))?;
    let file = file.to_str().context("the directory has a UTF-8 name")?;
    let (_gateway, address) = process::listening(program, &["gateway", file, "--listen", "127.0.0.1:0"])?;
    until("all servers are up", || Ok(metric(&address, "isobar_gateway_backend_up")? == 3))?;

    let requests = |seconds: u64, seed: u64| -> Vec<Vec<u8>> {
        let mut numbers = Numbers(seed);
        (0..options.rate * seconds).map(|_| request(numbers.below(options.entities))).collect()
    };
    open_loop::send(&address, requests(WARM_UP_SECONDS, 2), options.rate, Instant::now())?;
    // Made before the first one is due.
    let measured = requests(options.seconds, 3);
    let before = Counters::read(&address)?;
    let started = Instant::now() + Duration::from_millis(100);
    let [kill_at, return_at] = [options.kill_at, options.return_at].map(Duration::from_secs);
    let (server, lost_address) = servers.remove(LOST);
    let (samples, returned) = thread::scope(|scope| {
        let (backend, gateway) = (backend(LOST), address.as_str());
        let fate = scope.spawn(move || -> Result<(Server, u64)> {
            sleep_until(started + kill_at);
            // SIGKILL.
            drop(server);
            sleep_until(started + return_at);
            let answered = answered_by_the_lost(gateway)?;
            Ok((backend.start(&lost_address)?.0, answered))
        });
        let samples = open_loop::send(&address, measured, options.rate, started);
        (samples, fate.join())
    });
    let samples = samples?;
    let (_returned, answered) =
        returned.map_err(|_| anyhow::anyhow!("nobody lived to start the server again"))??;
    let counters = Counters::read(&address)?.since(before);
    let returned = answered_by_the_lost(&address)? - answered;
    report(options, &samples, kill_at, return_at, counters, returned);
    let failed: Vec<&Sample> = samples.iter().filter(|sample| sample.failure.is_some()).collect();
    if let Some(Sample { due, failure: Some(failure), .. }) = failed.first() {
        bail!("{} requests failed, the first one {:.3} s in: {failure}", failed.len(), due.as_secs_f64());
    }
    ensure!(
        returned > 0,
        "the server that returned answered nothing: it was not up again in time, see --return-at"
    );
    Ok(())
}

fn report(
    options: &Options,
    samples: &[Sample],
    kill_at: Duration,
    return_at: Duration,
    counters: Counters,
    returned: u64,
) {
    let Options { rate, seconds, entities, model, .. } = options;
    let asked = if model.is_some() { "inferences by key" } else { "look-ups" };
    println!(
        "{rate} {asked} a second for {seconds} s, of {entities} entities with {FEATURES} features; one of three servers killed after \
         {} s and started again after {} s\n",
        kill_at.as_secs(),
        return_at.as_secs()
    );
    let [columns, line] = Times::HEAD;
    println!("| | requests | failed | {columns}\n|---|---|---|{line}");
    let end = Duration::MAX;
    for (name, from, to) in [
        ("before", Duration::ZERO, kill_at),
        ("the first second without it", kill_at, kill_at + FAILOVER),
        ("without it", kill_at, return_at),
        ("after its return", return_at, end),
        ("all", Duration::ZERO, end),
    ] {
        let part = || samples.iter().filter(move |sample| (from..to).contains(&sample.due));
        let failed = part().filter(|sample| sample.failure.is_some()).count();
        let times = Times::of(part().map(|sample| sample.took).collect());
        println!("| {name} | {} | {failed} | {}", times.count(), times.columns());
    }
    let Counters { retries, hedges } = counters;
    println!(
        "\n{retries} requests were sent again, {hedges} to a second server beside the first; the server that returned answered {returned}."
    );
}

/// What a gateway has counted.
#[derive(Debug, Clone, Copy)]
struct Counters {
    retries: u64,
    hedges: u64,
}

impl Counters {
    fn read(gateway: &str) -> Result<Self> {
        Ok(Self {
            retries: metric(gateway, "isobar_gateway_retries_total")?,
            hedges: metric(gateway, "isobar_gateway_hedges_total")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self { retries: self.retries - before.retries, hedges: self.hedges - before.hedges }
    }
}

/// Answers that a gateway has had of the server that is lost and returns.
fn answered_by_the_lost(gateway: &str) -> Result<u64> {
    metric_of(gateway, "isobar_gateway_attempts_total", |labels| {
        labels.contains(CLOUDS[LOST]) && labels.contains("answered")
    })
}

/// A gateway before servers at `addresses`.
fn gateway(addresses: &[&str]) -> String {
    // The server that returns has its share before the drill is over.
    let mut text = "gateway:\n  slow_start: 2s\n  backends:\n".to_owned();
    for (address, cloud) in addresses.iter().zip(CLOUDS) {
        text.push_str(&format!("    - {{ url: \"http://{address}\", cloud: {cloud} }}\n"));
    }
    text
}

fn look_up(entity: u64) -> Vec<u8> {
    get(&format!("/v1/datasets/{DATASET}/features?entity={entity}"))
}

/// What the model says of an entity.
fn inference(entity: u64) -> Vec<u8> {
    let key = json!({ "name": "entity", "datatype": "INT64", "shape": [1], "data": [entity] });
    let body = json!({ "inputs": [key] }).to_string();
    let length = body.len();
    format!(
        "POST /v2/models/{MODEL}/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// Whether `address` answers `request` with 200.
fn is_answered(address: &str, request: &[u8]) -> bool {
    open_loop::ask(address, request).is_ok()
}

/// The sum of a metric over all its labels.
fn metric(address: &str, name: &str) -> Result<u64> {
    metric_of(address, name, |_| true)
}

/// The sum of a metric over those of its labels for which `counts` holds.
fn metric_of(address: &str, name: &str, counts: impl Fn(&str) -> bool) -> Result<u64> {
    let text = open_loop::ask(address, &get("/metrics"))?;
    let values = text.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        counts(labels).then(|| value.trim().parse::<u64>())
    });
    Ok(values.sum::<Result<u64, _>>()?)
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn sleep_until(time: Instant) {
    thread::sleep(time.saturating_duration_since(Instant::now()));
}
