//! The command line: commands, options, and the help that people read first.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::demo::TopicFile;
use crate::span::Bound;
use crate::spec::units::{HumanDuration, UnitError};
use clap::builder::FalseyValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use isobar_schemas::TopicPartition;
use url::Url;

pub use super::drift::args::{
    DriftCheckArgs, DriftCommand, DriftPerformanceArgs, DriftRowsArgs, DriftSkewArgs,
};
pub use super::models::args::{
    ExportModelArgs, ModelsArgs, ModelsCommand, PromoteArgs, RegisterModelArgs, RollbackArgs, ShowModelArgs,
    VerifyModelsArgs,
};
use crate::quarantine::listing::SHOWN_MAX;
use crate::query::DIFF_ROWS_MAX;
use crate::spec::serve::worker_url;
use crate::spec::units::ByteSize;
use crate::training::SetVersions;

/// isobar reads Kafka topics, transforms and validates the records with SQL, and writes one feature dataset that is
/// identical, byte for byte, in every cloud, exactly once.
#[derive(Debug, Parser)]
#[command(
    name = "isobar",
    version,
    about = "Kafka topics in, one feature dataset out: the same bytes in every cloud, exactly once",
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:
  isobar demo                              the whole job on real data, nothing to start beforehand
  isobar check topology.yaml               every problem of a spec, with line and column
  isobar run topology.yaml                 run it until stopped
  isobar prove --config topology.yaml      audit its datasets from what lies in the clouds

Exit codes: 0 success, 1 something failed while running, 2 the configuration or the command line
is wrong, 3 leak-check found leaks or drift found alarms."
)]
pub struct Args {
    /// How to write logs.
    #[command(flatten)]
    pub logs: LogArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How to write logs. They go to standard error.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Logs (to standard error)")]
pub struct LogArgs {
    /// Logs for people or for programs
    #[arg(
        long,
        global = true,
        default_value = "human",
        value_name = "human|json",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,
    /// Least level to log: error, warn, info, debug or trace; or a filter such as `warn,isobar_topologies=debug`
    #[arg(long, global = true, default_value = "info", env = "ISOBAR_LOG", value_name = "LEVEL")]
    pub log_level: String,
}

/// Logs for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event
    Human,
    /// One JSON object per event
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a topology: consume, transform, validate, and commit to every cloud
    #[command(after_help = "Examples:
  isobar run topology.yaml
  isobar run topology.yaml --until-caught-up              commit what is there, then exit
  isobar run topology.yaml --metrics-addr 0.0.0.0:9464    /metrics, /healthz and /readyz
  isobar --log-format json run topology.yaml              logs for a collector
  isobar run topology.yaml --standby --metrics-addr 0.0.0.0:9464 --advertise node-1:9464
                                                          lead when nobody else does
  isobar run topology.yaml --worker                       read and transform for whoever leads
  isobar run backfill.yaml --from earliest --to start-of:topology.yaml
                                                          what came before another topology

With --standby, start as many processes as there may be losses, in any order, on different machines:
one leads, the others listen to it and take over when it is silent. Without it, a process takes over
at once, and the one that led stops.

With --worker, a process takes its share of the partitions and leaves the deciding to the leader,
which has to be reached: start that one with --metrics-addr. All need the same `workers.token`.

SIGINT or SIGTERM stops gracefully: what was read is committed. A second one stops at once; nothing
is lost then either, since the next run starts at the last commit.")]
    Run(RunArgs),

    /// Check a spec and report every problem, with line, column and a way out
    #[command(after_help = "Examples:
  isobar check topology.yaml
  isobar check topology.yaml --resolve-secrets            also look up ${env:…} and ${file:…}
  isobar check topology.yaml --format json | jq '.problems[].message'

Nothing is contacted: neither Kafka nor a cloud. Exit code 2 when there is a problem.")]
    Check(CheckArgs),

    /// Show what a topology would do: plans, schemas, partitioning, and where each byte goes
    #[command(after_help = "Examples:
  isobar plan topology.yaml
  isobar plan topology.yaml --format json | jq '.datasets[].output'
  isobar plan topology.yaml --tables

Nothing is written, and nothing is contacted without --tables: neither Kafka nor a cloud.
Exit code 2 if a start would be refused because of a table.")]
    Plan(PlanArgs),

    /// Connect to everything a topology names, and say what is well, what is not, and what to do about it
    #[command(after_help = "Examples:
  isobar doctor topology.yaml
  isobar doctor topology.yaml --outage 72h                may it be down so long and lose nothing?
  isobar doctor topology.yaml --format json | jq '.checks[] | select(.status == \"problem\")'
  isobar doctor topology.yaml --strict --timeout 10s      in a pipeline, before a roll-out

May run before the first start, and while the topology runs. Nothing of the topology is written,
only objects that show what each cloud allows; they are removed again where that is allowed.

Exit codes: 0 no problems, 1 problems (with --strict also warnings), 2 the spec is wrong.")]
    Doctor(DoctorArgs),

    /// Audit datasets from what lies in the clouds alone: every offset once, the same bytes everywhere
    #[command(after_help = "Examples:
  isobar prove --config topology.yaml                     every dataset of the topology
  isobar prove flight_features --config topology.yaml
  isobar prove --config topology.yaml --format json | jq .holds

Exit code 0 only when everything holds.")]
    Prove(ProveArgs),

    /// Hold every cloud against what was decided, and put back what differs
    #[command(after_help = "Examples:
  isobar scrub topology.yaml                              look, and write nothing
  isobar scrub topology.yaml --repair                     and put the decided bytes back
  isobar scrub topology.yaml --sample 0.05 --throttle 20MiB    every day a few files, gently
  isobar scrub topology.yaml --readmit azure              rebuild and count again a wiped cloud

May run while the topology runs; --readmit ends that run, to be started again. What does not belong
in a table is kept under control/<topology>/foreign/. Exit code 0 only when all is well, or was
repaired and read back.")]
    Scrub(ScrubArgs),

    /// Go on without offsets that Kafka lost, and write down that and why
    #[command(after_help = "Examples:
  isobar accept-gap topology.yaml --partition orders:3 --from 1200 --to 1850 --reason \"outage 3 May\"

For a topology that stopped because Kafka no longer holds what comes next; its message names the
offsets. --from is where the datasets stand, --to an offset that the broker still has. The gap is
decided and published like a commit; the history of every table shows it for ever, and so does
prove. This process leads the topology for a moment: one that runs is superseded.")]
    AcceptGap(AcceptGapArgs),

    /// Run the whole job on real data, with nothing to start beforehand
    #[command(after_help = "Examples:
  isobar demo
  isobar demo --keep /tmp/flights          keep the three \"clouds\" and the spec
  isobar demo --fail azure                 take one cloud away half-way, and bring it back
  isobar demo --topology orders.yaml --records orders=orders.jsonl
                                           another topology, on records at hand

Flights and weather of New York in 2013 are replayed into an embedded broker and committed to three
folders that stand for three clouds. With --topology, the lines of files are, and committed to the
clouds of that topology, which cannot go on from Kafka afterwards; what it says of brokers is left
alone, and nothing is sent to topics.")]
    Demo(DemoArgs),

    /// Make something fail on purpose on a live topology, measure what that does, and prove the result
    #[command(after_help = "Examples:
  isobar drill --demo cloud-away azure                    on the data of the demo
  isobar drill --demo leader-kill --runs 5
  isobar drill --config topology.yaml cloud-away gcp --runs 20 --hold 30s
  isobar drill --config topology.yaml cloud-slow aws --latency 2s --pause-max 3s --recovery-max 60s

The drill leads the topology itself and commits what is in its topics. The fault is between this
process and the cloud: no provider is touched, and it ends with the process. Reports are written as
JSON and Markdown. Exit code 1 when the proof fails, a cloud does not recover, or a limit is
exceeded; 2 when another process leads the topology and --take-over is not given.")]
    Drill(DrillArgs),

    /// List the failpoints that ISOBAR_FAILPOINT can arm, one a line
    #[command(
        hide = true,
        after_help = "Examples:
  isobar failpoints
  ISOBAR_FAILPOINT=publish.before-put@azure=kill isobar run topology.yaml"
    )]
    Failpoints,

    /// Ask the datasets of a topology a question in SQL
    #[command(after_help = "Examples:
  isobar query \"SELECT count(*) FROM flight_features\" --config topology.yaml
  isobar query \"SELECT * FROM flight_features LIMIT 5\" --config topology.yaml --format csv
  isobar query \"SELECT * FROM flight_features VERSION AS OF 42\" -c topology.yaml -o flights.parquet
  isobar query \"SELECT count(*) FROM flight_features TIMESTAMP AS OF '2026-05-01'\" -c topology.yaml
  isobar query \"EXPLAIN ANALYZE SELECT count(*) FROM flight_features\" -c topology.yaml
  isobar query \"SELECT * FROM flight_features\" -c topology.yaml --timeout 30s -o flights.csv
  isobar query -c topology.yaml
  isobar query -c topology.yaml < statements.sql
  isobar query \"SELECT count(*) FROM flight_features\" -c topology.yaml --prefer nearest --stats
  isobar query \"SELECT count(*) FROM flights\" -c topology.yaml --min-version flights=42
  isobar query \"SELECT count(*) FROM flights\" -c topology.yaml --workers http://a:8182,http://b:8182

A table is at its newest version where the query names none. Versions are those of isobar snapshots;
a time means the newest version committed by then. Both give the same rows in every cloud.
A cloud that fails while a query reads is replaced by the next one, at the same version.
Exit code 1 means that it may help to try again, 2 that the query or the spec must change.")]
    Query(QueryArgs),

    /// Serve the datasets and models of a topology to programs: SQL by HTTP and Flight SQL, and inference
    #[command(after_help = "Examples:
  isobar serve topology.yaml                             for this machine: http://127.0.0.1:8181
  isobar serve topology.yaml --listen 0.0.0.0:8181       needs tokens: see `serve` of the spec
  isobar serve topology.yaml --postgres 127.0.0.1:5432   also for psql, drivers and BI tools
  isobar serve topology.yaml --flight 127.0.0.1:32010    also for ADBC and JDBC (Flight SQL)
  isobar serve topology.yaml --inference-grpc 127.0.0.1:8001   also models by gRPC
  isobar serve topology.yaml --worker --listen 10.0.0.1:8182   parts of other servers' queries
  curl -s http://127.0.0.1:8181/v1/query -H 'Content-Type: application/json' \\
      -d '{\"sql\": \"SELECT count(*) AS n FROM flight_features\"}'
  curl -s http://127.0.0.1:8181/v1/datasets -H \"Authorization: Bearer $TOKEN\"

It needs no leader, Kafka only for the logs that `serve` in the spec names, and writes nothing else;
there may be as many servers as needed.
`GET /openapi.json` describes the interface. Who may read what, limits of queries and TLS are under
`serve` in the spec.

SIGINT or SIGTERM stops: new queries are refused, those that run have --grace to end.")]
    Serve(ServeArgs),

    /// Stand before servers in several clouds: failover, load balancing, retries and hedges
    #[command(after_help = "Examples:
  isobar gateway gateway.yaml                            for this machine, at 127.0.0.1:8190
  isobar gateway gateway.yaml --listen 0.0.0.0:8190      see `tls` of the file
  isobar gateway gateway.yaml --check                    only says what is wrong with the file
  isobar gateway gateway.yaml --check --format json | jq '.problems[].message'
  isobar schema gateway > gateway.schema.json            what the file may hold, for editors
  curl -s http://127.0.0.1:8190/metrics | grep isobar_gateway_backend_up

Each request goes to a server that works, by latency, weight and price. What changes nothing is sent
to another server when one is lost, and to a second one when the first is slow. Tokens pass through.

Changes of `weight`, `price` and `drain` in the file are taken up while it runs.
SIGINT or SIGTERM stops: nothing new is accepted, requests that run have --grace to end.")]
    Gateway(GatewayArgs),

    /// List the versions of a dataset: when each was committed, what it is, and what it changed
    #[command(after_help = "Examples:
  isobar snapshots topology.yaml flight_features
  isobar snapshots topology.yaml flight_features.quarantine --limit 5
  isobar snapshots topology.yaml flight_features --format json | jq '.versions[].rows_total'

The newest version comes first. One that is marked `let go` can no longer be read, because a vacuum
let go of files that it had; its entry in the log is still there. No data file is read.")]
    Snapshots(SnapshotsArgs),

    /// Compare two versions of a dataset
    #[command(after_help = "Examples:
  isobar diff topology.yaml flight_features 40 42
  isobar diff topology.yaml flight_features 40 42 --rows
  isobar diff topology.yaml flight_features 40 42 --format json | jq '.partitions'

Files, rows, offsets and columns are compared by the log alone. With --rows the rows are read too,
from the files that only one of the versions has; the column `difference` is above zero for rows
that came and below zero for rows that left.")]
    Diff(DiffArgs),

    /// Make a training set: rows with what was known of them at their time, the same bytes from every cloud
    #[command(after_help = "Examples:
  isobar training-set late.yaml --out ./sets            the newest versions, which are written down
  isobar training-set late.yaml --at flights=42,weather=17 --out ./sets
  isobar training-set late.yaml --at 2026-05-01T00:00:00Z --out cloud://aws/training/late
  isobar training-set late.yaml --verify sets/late-0c2f4b7d9a11e5d8.json
  isobar training-set late.yaml --out ./sets --format json | jq -r .file

The file says which rows and features: isobar schema training-set. Beside the Parquet file lies a
manifest with the versions that were read, their hashes, and a digest of the rows; --verify makes
the set again and compares. Files are named after a hash of all that: nothing is overwritten.

Exit codes: 0 made, or the same as before; 1 a failure, or --verify found a difference; 2 the file,
the topology or the command line is wrong.")]
    TrainingSet(TrainingSetArgs),

    /// Find rows of a training set that used the future
    #[command(after_help = "Examples:
  isobar leak-check late.yaml                             of the set that isobar makes
  isobar leak-check late.yaml --set features.parquet      of one that something else made
  isobar leak-check late.yaml --set late-0c2f.parquet --manifest late-0c2f.json
  isobar leak-check late.yaml --set features.csv --format json | jq '.examples[]'

Each value is looked for among all rows of its view, without the join that makes training sets. A
leak is a value that only rows have that happened after the time of the spine, became known after
it, were older than the time to live, or that no row has.

Exit codes: 0 no leaks, 1 a failure, 2 the file, the topology or the command line is wrong, 3 leaks.")]
    LeakCheck(LeakCheckArgs),

    /// Compare online look-ups with what a query says at the same version
    #[command(after_help = "Examples:
  isobar verify-online topology.yaml --directory /var/lib/isobar/online
  isobar verify-online topology.yaml flight_features --url http://localhost:8181 --sample 5000
  isobar verify-online topology.yaml --directory ./online --format json | jq '.datasets[].different'

A folder of stores is compared whole, or a sample of it; no process may have it open. A server is
asked for a sample of the keys, over HTTP, with the token in ISOBAR_TOKEN if there is one, and each
answer is compared at the version that it states.

Exit codes: 0 they agree, 1 they do not, 2 the specification or the command line is wrong.")]
    VerifyOnline(VerifyOnlineArgs),

    /// Models beside the data: versions, and aliases that switch at once in every cloud
    #[command(after_help = "Examples:
  isobar models register ./forest --model flight_delay --alias challenger --config topology.yaml
  isobar models promote flight_delay@challenger --config topology.yaml
  isobar models show flight_delay@champion --config topology.yaml
  isobar models verify --config topology.yaml

A version is an ONNX model with what is known of it: the same bytes in every cloud, decided by the
same protocol as the data.")]
    Models {
        /// What to do
        #[command(subcommand)]
        command: ModelsCommand,
    },

    /// Does a model still see what it learnt from, what the datasets say, and is it as good as it was?
    #[command(after_help = "Examples:
  isobar drift check --model flight_delay@champion --training-set flight_delay.yaml --windows 4
  isobar drift skew --model flight_delay --served served_vectors --offline served_flights.yaml
  isobar drift performance --model flight_delay --query scored.sql -c topology.yaml

Exit codes: 0 no alarm, 1 a failure, 2 the command line or the data must change, 3 alarms.")]
    Drift {
        /// What to compare
        #[command(subcommand)]
        command: Box<DriftCommand>,
    },

    /// Look at rejected records, and send them through the topology again, once
    #[command(after_help = "Examples:
  isobar quarantine ls --config topology.yaml
  isobar quarantine show flight_features --config topology.yaml --where \"rule = 'arrival_known'\"
  isobar quarantine redrive flight_features --config topology.yaml --dry-run

A rejected record lies in the quarantine of its dataset, as it came, with the reason. Once the
topology is mended, a redrive takes it out of there and into the dataset in one step.")]
    Quarantine {
        /// What to do
        #[command(subcommand)]
        command: QuarantineCommand,
    },

    /// Print the JSON Schema of a spec, for editors; or look at the schemas of records
    #[command(after_help = "Examples:
  isobar schema > topology.schema.json
  isobar schema fields order.avsc
  isobar schema fields order.proto --message shop.v1.Order
  isobar schema diff topology.yaml orders order-v2.avsc
  isobar schema contract > contract.schema.json           for the contracts that datasets name
  isobar schema training-set > set.schema.json            for training sets
  isobar schema gateway > gateway.schema.json             for gateways

Then put this line first in a spec, and editors with a YAML language server complete and check it:
  # yaml-language-server: $schema=topology.schema.json")]
    Schema {
        /// Without one, the JSON Schema of a spec is printed
        #[command(subcommand)]
        command: Option<SchemaCommand>,
    },

    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  isobar completions bash > ~/.local/share/bash-completion/completions/isobar
  isobar completions zsh > ~/.zfunc/_isobar
  isobar completions fish > ~/.config/fish/completions/isobar.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What to do with the schemas of records.
#[derive(Debug, Clone, Subcommand)]
pub enum SchemaCommand {
    /// Print the `fields` of a source whose records have this schema, to be pasted into a spec
    #[command(after_help = "Examples:
  isobar schema fields order.avsc
  isobar schema fields order.proto money.proto --message shop.v1.Order
  isobar schema fields order.desc --message shop.v1.Order     a descriptor set, as `protoc -o` writes it")]
    Fields(RecordSchemaArgs),

    /// Say what a source would make of records with a new schema, before anybody writes them
    #[command(after_help = "Examples:
  isobar schema diff topology.yaml orders order-v2.avsc
  isobar schema diff topology.yaml orders order-v2.proto --message shop.v1.Order --format json

Exit codes: 0 every record of the new schema can become a row, 1 not so, 2 the command line, the spec or the schema
is wrong.")]
    Diff(SchemaDiffArgs),

    /// Print the JSON Schema of a data contract, for editors
    #[command(after_help = "Examples:
  isobar schema contract > contract.schema.json

Then put this line first in a contract, and editors with a YAML language server complete and check it:
  # yaml-language-server: $schema=contract.schema.json")]
    Contract,

    /// Print the JSON Schema of a training set, for editors
    #[command(after_help = "Examples:
  isobar schema training-set > set.schema.json

Then put this line first in such a file, and editors with a YAML language server complete and check it:
  # yaml-language-server: $schema=set.schema.json")]
    TrainingSet,

    /// Print the JSON Schema of a gateway, for editors
    #[command(after_help = "Examples:
  isobar schema gateway > gateway.schema.json

Then put this line first in such a file, and editors with a YAML language server complete and check it:
  # yaml-language-server: $schema=gateway.schema.json")]
    Gateway,
}

/// A schema of records, in files.
#[derive(Debug, Clone, ClapArgs)]
pub struct RecordSchemaArgs {
    /// An Avro schema (.avsc); or a .proto file and those that it imports; or a Protobuf descriptor set (any other name)
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The Protobuf message that a record is, by its full name; needed where there are several
    #[arg(long, value_name = "NAME")]
    pub message: Option<String>,
    /// How to print what was found.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `isobar schema diff`.
#[derive(Debug, Clone, ClapArgs)]
pub struct SchemaDiffArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// The source in it
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The new schema.
    #[command(flatten)]
    pub schema: RecordSchemaArgs,
}

/// Options of `isobar run`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RunArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// Commit and exit when every partition has reached the end it had at the start
    #[arg(long)]
    pub until_caught_up: bool,
    /// Where to begin what has not begun yet, in place of `start`: earliest, latest, timestamp:TIME, offset:N, or
    /// start-of:TOPOLOGY.yaml, where another topology has begun
    #[arg(long, value_name = "WHERE", conflicts_with = "worker")]
    pub from: Option<Bound>,
    /// Commit and exit when everything before this is in; the same words
    #[arg(long, value_name = "WHERE", conflicts_with_all = ["worker", "standby"])]
    pub to: Option<Bound>,
    /// Serve /metrics, /healthz and /readyz at this address; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub metrics_addr: Option<SocketAddr>,
    /// Wait until nobody leads this topology, then lead; stand by again when another process takes over
    #[arg(long, requires = "metrics_addr")]
    pub standby: bool,
    /// Read, transform and stage for whoever leads this topology; needs `workers` in the spec
    #[arg(long, conflicts_with_all = ["standby", "until_caught_up", "advertise"])]
    pub worker: bool,
    /// Where other processes reach --metrics-addr, to listen to the leader; by default that address itself
    #[arg(long, value_name = "HOST:PORT", requires = "metrics_addr")]
    pub advertise: Option<String>,
    /// How long the leader may be silent before a standby takes over
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub takeover_after: HumanDuration,
    /// How long a start waits while too few clouds answer; the first one needs all of them [default: 1m]
    // A standby stands by meanwhile, and a worker asks the leader: neither has a use for it.
    #[arg(long, value_name = "DURATION", conflicts_with_all = ["standby", "worker"])]
    pub wait_for_clouds: Option<HumanDuration>,
    /// Show progress on standard error; auto: if it is a terminal and logs are for people
    #[arg(long, default_value = "auto", value_name = "auto|always|never", hide_possible_values = true)]
    pub progress: When,
}

/// Options of `isobar check`.
#[derive(Debug, Clone, ClapArgs)]
#[command(mut_arg("format", |format| format.help("How to print problems")))]
pub struct CheckArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// For people or for programs
    #[command(flatten)]
    pub output: OutputArgs,
    /// Also look up every `${env:…}` and `${file:…}`, and report those that lead nowhere
    #[arg(long)]
    pub resolve_secrets: bool,
}

/// Options of `isobar plan`.
#[derive(Debug, Clone, ClapArgs)]
#[command(mut_arg("format", |format| format.help("How to print the plan")))]
pub struct PlanArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// For people or for programs
    #[command(flatten)]
    pub output: OutputArgs,
    /// Also read the tables in the clouds, and say what a start would do to them: columns that are added, kept, or in the way
    #[arg(long)]
    pub tables: bool,
}

/// Options of `isobar doctor`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DoctorArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// How long the topology may be down without losing records: topics must keep them so long
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub outage: HumanDuration,
    /// How long each look may take; what does not answer by then is reported and hides nothing else
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_patience)]
    pub timeout: HumanDuration,
    /// Exit code 1 for warnings as well
    #[arg(long)]
    pub strict: bool,
    /// How to print the report
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// A duration of a second to an hour: with less nothing far away can answer.
fn parse_patience(text: &str) -> Result<HumanDuration, String> {
    let patience: HumanDuration = text.parse().map_err(|error: UnitError| error.to_string())?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    if bounds.contains(&patience.0) { Ok(patience) } else { Err("it can be from 1s to 1h".to_owned()) }
}

/// Options of `isobar prove`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ProveArgs {
    /// The datasets; without any, all of the topology
    #[arg(value_name = "DATASET")]
    pub datasets: Vec<String>,
    /// The spec
    #[arg(long, short, value_name = "TOPOLOGY")]
    pub config: PathBuf,
    /// For people or for programs
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `isobar scrub`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ScrubArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// Look at this dataset and its quarantine only; may be repeated
    #[arg(long = "dataset", value_name = "DATASET")]
    pub datasets: Vec<String>,
    /// Look into this cloud only; may be repeated
    #[arg(long = "cloud", value_name = "CLOUD")]
    pub clouds: Vec<String>,
    /// Put the decided bytes back where a cloud has others or none
    #[arg(long)]
    pub repair: bool,
    /// Rebuild the tables of this cloud, which lost what it held, and have the others readmit it
    #[arg(long, value_name = "CLOUD", conflicts_with_all = ["datasets", "clouds", "repair"])]
    pub readmit: Option<String>,
    /// Read the bytes of this share of the files, 0 to 1; of the others, look at presence and size
    #[arg(long, default_value_t = 1.0, value_name = "RATIO")]
    pub sample: f64,
    /// Move at most so many bytes of files per second, such as 20MiB
    #[arg(long, value_name = "BYTES/s")]
    pub throttle: Option<ByteSize>,
    /// How to print the report
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar accept-gap`.
#[derive(Debug, Clone, ClapArgs)]
pub struct AcceptGapArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// The partition
    #[arg(long, value_name = "TOPIC:NUMBER", value_parser = parse_partition)]
    pub partition: TopicPartition,
    /// The first offset that is missing: where the datasets stand
    #[arg(long, value_name = "OFFSET")]
    pub from: i64,
    /// The offset to go on at
    #[arg(long, value_name = "OFFSET")]
    pub to: i64,
    /// Why, on one line, for whoever reads the history of the tables
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `topic:3`. Names of topics hold no colon.
fn parse_partition(text: &str) -> Result<TopicPartition, String> {
    let malformed =
        || format!("`{text}` is no partition: write the topic, a colon and the number, such as `orders:3`");
    let (topic, number) =
        text.split_once(':').filter(|(topic, _)| !topic.is_empty()).ok_or_else(malformed)?;
    Ok(TopicPartition::new(topic, number.parse::<u16>().map_err(|_| malformed())?.into()))
}

/// Options of `isobar demo`.
#[derive(Debug, Clone, ClapArgs)]
#[command(mut_arg("format", |format| format.help("How to print the summary")))]
pub struct DemoArgs {
    /// Keep the three "clouds" and the spec in this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Make this cloud refuse every request half-way, and bring it back: aws, azure or gcp
    #[arg(long, value_name = "CLOUD")]
    pub fail: Option<String>,
    /// Run this topology instead, in its own clouds, on the records of --records
    #[arg(long, value_name = "FILE", requires = "records", conflicts_with_all = ["keep", "fail"])]
    pub topology: Option<PathBuf>,
    /// Replay this file into a topic of --topology, each line a record; can be given for several topics
    #[arg(long, value_name = "TOPIC=FILE", requires = "topology", value_parser = parse_records)]
    pub records: Vec<TopicFile>,
    /// For people or for programs
    #[command(flatten)]
    pub output: OutputArgs,
}

fn parse_records(text: &str) -> Result<TopicFile, String> {
    match text.split_once('=') {
        Some((topic, path)) if !topic.is_empty() && !path.is_empty() => {
            Ok(TopicFile { topic: topic.to_owned(), path: path.into() })
        }
        _ => Err("write a topic and a file, such as `orders=orders.jsonl`".to_owned()),
    }
}

/// Options of `isobar drill`.
#[derive(Debug, Clone, ClapArgs)]
#[command(mut_arg("format", |format| format.help("How to print the report").global(true)))]
pub struct DrillArgs {
    /// What to make fail
    #[command(subcommand)]
    pub failure: DrillFailure,
    /// The spec of the topology to drill
    #[arg(long, short, global = true, value_name = "TOPOLOGY")]
    pub config: Option<PathBuf>,
    /// Drill the demo's topology, with a broker and clouds of its own
    #[arg(long, global = true)]
    pub demo: bool,
    /// How often to repeat the fault
    #[arg(long, global = true, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// How long each fault lasts; 10s, and for leader-kill 0s, where it is not said
    #[arg(long, global = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub hold: Option<Duration>,
    /// Exit code 1 when a pause is longer
    #[arg(long, global = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub pause_max: Option<Duration>,
    /// Exit code 1 when a recovery takes longer
    #[arg(long, global = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub recovery_max: Option<Duration>,
    /// Lead the topology although another process does; that one ends with exit code 1
    #[arg(long, global = true)]
    pub take_over: bool,
    /// Where to write the reports: PATH.json and PATH.md; by default named after failure and time
    #[arg(long, global = true, value_name = "PATH")]
    pub report: Option<PathBuf>,
    /// For people or for programs
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What a drill makes fail.
#[derive(Debug, Clone, Subcommand)]
pub enum DrillFailure {
    /// Every request to a cloud is refused
    CloudAway {
        /// The cloud
        cloud: String,
    },
    /// Every request to a cloud takes longer
    CloudSlow {
        /// The cloud
        cloud: String,
        /// By how much
        #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
        latency: Duration,
    },
    /// Every write to a cloud is carried out, and reported as failed
    LostAnswers {
        /// The cloud
        cloud: String,
    },
    /// The leader, a child process, is killed and started again
    LeaderKill {
        /// Another child process stands by and takes over; the killed one's place is taken by a new standby
        #[arg(long)]
        standby: bool,
    },
}

/// What `isobar quarantine` does.
#[derive(Debug, Clone, Subcommand)]
pub enum QuarantineCommand {
    /// How many rows are in the quarantines, by reason and rule
    #[command(after_help = "Examples:
  isobar quarantine ls --config topology.yaml
  isobar quarantine ls --config topology.yaml --format json | jq '.quarantines[].rows'")]
    Ls(ListArgs),

    /// Show rows of a quarantine: where they came from, why they are there, and what they hold
    #[command(after_help = "Examples:
  isobar quarantine show flight_features --config topology.yaml
  isobar quarantine show flight_features -c topology.yaml --where \"rule = 'arrival_known'\" --limit 5
  isobar quarantine show flight_features -c topology.yaml --where \"topic = 'flights' AND \\\"offset\\\" = 41\"
  isobar quarantine show flight_features -c topology.yaml --format json | jq -r .payload

The columns of a condition are reason, rule, message, topic, partition, offset, timestamp, key and
payload. Control characters are shown as escapes; with --format json, one object a line, a key or
payload that is not UTF-8 is in key_hex or payload_hex.")]
    Show(ShowArgs),

    /// Send rows of a quarantine through the topology as it is now: each lands once, or stays
    #[command(after_help = "Examples:
  isobar quarantine redrive flight_features --config topology.yaml --dry-run
  isobar quarantine redrive flight_features --config topology.yaml
  isobar quarantine redrive flight_features -c topology.yaml --where \"rule = 'arrival_known'\"

Rows that are accepted leave the quarantine and land in the dataset in one decision, so that none
lands twice, also when the command is killed or run by two people at once. Rows that are rejected
again stay, with their new reason. A running leader is asked to decide, if it has --metrics-addr and
`workers.token`; it must run the same spec. If nobody leads, the command leads for the moment.

Exit code 0 when all selected rows went through, whatever became of them.")]
    Redrive(RedriveArgs),
}

/// Options of `isobar quarantine ls`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ListArgs {
    /// The spec
    #[arg(long, short, value_name = "TOPOLOGY")]
    pub config: PathBuf,
    /// How to print what is there
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar quarantine show`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ShowArgs {
    /// The dataset
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// The spec
    #[arg(long, short, value_name = "TOPOLOGY")]
    pub config: PathBuf,
    /// Only rows for which this SQL condition holds
    #[arg(long = "where", value_name = "CONDITION")]
    pub condition: Option<String>,
    /// At most so many rows
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(SHOWN_MAX)))]
    pub limit: u32,
    /// How to print the rows
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar quarantine redrive`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RedriveArgs {
    /// The dataset
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// The spec, as the running leader has it
    #[arg(long, short, value_name = "TOPOLOGY")]
    pub config: PathBuf,
    /// Only rows for which this SQL condition holds
    #[arg(long = "where", value_name = "CONDITION")]
    pub condition: Option<String>,
    /// Say what would become of the rows, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Lead although another process does; that one ends, and has to be started again
    #[arg(long, conflicts_with = "dry_run")]
    pub take_over: bool,
    /// How to print the summary
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar query`.
#[derive(Debug, Clone, ClapArgs)]
pub struct QueryArgs {
    /// The query; datasets are tables by their names. With `-`, it is read from standard input. Without one, a shell is
    /// started, or the statements of standard input are run
    #[arg(value_name = "SQL")]
    pub sql: Option<String>,
    /// The spec
    #[arg(long, short, value_name = "TOPOLOGY")]
    pub config: PathBuf,
    /// How to write rows; by default a table, or what the ending of --output says
    #[arg(long, value_name = "table|json|csv|parquet|arrow", hide_possible_values = true)]
    pub format: Option<RowFormat>,
    /// Write the rows to this file, which is replaced when all of them are there
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// End the query with an error after this time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Ask as somebody over the network: with limits of time, memory, rows and bytes, without settings and names of files
    #[arg(long)]
    pub as_served: bool,
    /// Which cloud to ask first; by default what the spec says under `query`
    #[arg(long, value_name = "order|nearest|cheapest", hide_possible_values = true)]
    pub prefer: Option<CloudPreference>,
    /// Ask this cloud only, and no other one if it fails
    #[arg(long, value_name = "NAME", conflicts_with = "prefer")]
    pub cloud: Option<String>,
    /// The cloud that this runs in, whose egress is free; by default what the spec says under `query`
    #[arg(long, value_name = "NAME")]
    pub local_to: Option<String>,
    /// Fail unless the newest version of a table is this one or a later one; can be given for several tables
    #[arg(long, value_name = "TABLE=VERSION", value_parser = parse_table_version)]
    pub min_version: Vec<(String, u64)>,
    /// Fail unless the newest version of every table was committed at most so long ago
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<HumanDuration>,
    /// Say on standard error what was read from which cloud, and what that costs by the prices of the spec
    #[arg(long)]
    pub stats: bool,
    /// Keep no history of what is typed into the shell, and read none
    #[arg(long, env = "ISOBAR_NO_HISTORY", value_parser = FalseyValueParser::new())]
    pub no_history: bool,
    /// Divide queries among these workers, with the secret in `serve.workers` of the spec
    #[arg(long, value_name = "URL,URL", value_delimiter = ',', value_parser = parse_worker)]
    pub workers: Vec<Url>,
}

fn parse_worker(text: &str) -> Result<Url, String> {
    worker_url(text).map_err(str::to_owned)
}

fn parse_table_version(text: &str) -> Result<(String, u64), String> {
    let parsed = text.rsplit_once('=').and_then(|(table, version)| Some((table, version.parse().ok()?)));
    match parsed {
        Some((table, version)) if !table.is_empty() => Ok((table.to_owned(), version)),
        _ => Err("write a table and a version, such as `flight_features=42`".to_owned()),
    }
}

/// Which cloud a query asks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CloudPreference {
    /// The first one of the spec.
    Order,
    /// The one that answers soonest.
    Nearest,
    /// The one that costs least.
    Cheapest,
}

/// Options of `isobar serve`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ServeArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// Where HTTP listens; other addresses than loopback ones need tokens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8181")]
    pub listen: SocketAddr,
    /// Run parts of other servers' queries, and serve nothing else; needs `serve.workers` in the spec
    #[arg(long, conflicts_with_all = ["online_directory", "postgres", "flight", "inference_grpc"])]
    pub worker: bool,
    /// A folder for the newest rows of the datasets of `online`, which are looked up by key
    #[arg(long, value_name = "FOLDER")]
    pub online_directory: Option<PathBuf>,
    /// Where the PostgreSQL protocol is spoken as well, for psql, drivers and BI tools; 5432 is its usual port
    #[arg(long, value_name = "ADDR")]
    pub postgres: Option<SocketAddr>,
    /// Where Flight SQL listens as well, for ADBC and JDBC; 32010 is its usual port
    #[arg(long, value_name = "ADDR")]
    pub flight: Option<SocketAddr>,
    /// Where the Open Inference Protocol is spoken by gRPC as well; by HTTP it is at --listen; 8001 is its usual port
    #[arg(long, value_name = "ADDR")]
    pub inference_grpc: Option<SocketAddr>,
    /// How long queries that run may go on after the first signal
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub grace: HumanDuration,
}

/// Options of `isobar gateway`.
#[derive(Debug, Clone, ClapArgs)]
#[command(mut_arg("format", |format| format.help("How to print problems").requires("check")))]
pub struct GatewayArgs {
    /// The file that names the servers
    #[arg(value_name = "GATEWAY")]
    pub gateway: PathBuf,
    /// Where it listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8190")]
    pub listen: SocketAddr,
    /// How long requests that run may go on after the first signal
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub grace: HumanDuration,
    /// Only check the file
    #[arg(long)]
    pub check: bool,
    /// For people or for programs
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Options of `isobar snapshots`.
#[derive(Debug, Clone, ClapArgs)]
pub struct SnapshotsArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// The dataset, or its quarantine
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// At most so many versions
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// How to print the versions
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar diff`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DiffArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// The dataset, or its quarantine
    #[arg(value_name = "DATASET")]
    pub dataset: String,
    /// The earlier version
    #[arg(value_name = "FROM")]
    pub from: u64,
    /// The later version
    #[arg(value_name = "TO")]
    pub to: u64,
    /// Also read the rows that one of the versions has and the other has not
    #[arg(long)]
    pub rows: bool,
    /// At most so many rows
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=DIFF_ROWS_MAX as i64))]
    pub limit: u32,
    /// How to print the comparison
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar training-set`.
#[derive(Debug, Clone, ClapArgs)]
pub struct TrainingSetArgs {
    /// The file that describes the training set
    #[arg(value_name = "SET")]
    pub set: PathBuf,
    /// Where to write it: a folder, or cloud://NAME/training/… in a cloud of the topology
    #[arg(long, short, value_name = "URL", required_unless_present = "verify")]
    pub out: Option<String>,
    /// The versions of datasets where the file names none: flights=42,weather=17, or a time; by default the newest
    #[arg(long, value_name = "VERSIONS|TIME")]
    pub at: Option<SetVersions>,
    /// Make the set of this manifest again, keep nothing, and say what differs
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = ["out", "at"])]
    pub verify: Option<PathBuf>,
    /// Read from this cloud only
    #[arg(long, value_name = "CLOUD")]
    pub cloud: Option<String>,
    /// How to print the summary
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar verify-online`.
#[derive(Debug, Clone, ClapArgs)]
pub struct VerifyOnlineArgs {
    /// The spec
    #[arg(value_name = "TOPOLOGY")]
    pub topology: PathBuf,
    /// The dataset; by default every one of `online`
    #[arg(value_name = "DATASET")]
    pub dataset: Option<String>,
    /// Where look-ups are answered from.
    #[command(flatten)]
    pub from: OnlineArgs,
    /// Compare so many keys; by default all of a store, and 1,000 of a server
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub sample: Option<u32>,
    /// Which keys these are: the same number means the same keys
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
    /// What the server is shown; better in the environment than here, where others see it
    #[arg(long, env = "ISOBAR_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// How to print the comparison
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Options of `isobar leak-check`.
#[derive(Debug, Clone, ClapArgs)]
pub struct LeakCheckArgs {
    /// The file that describes the training set
    #[arg(value_name = "SET")]
    pub set: PathBuf,
    /// The rows to check, a Parquet or CSV file; by default the set is made first
    #[arg(long = "set", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The versions of datasets where the file names none: flights=42,weather=17, or a time; by default the newest
    #[arg(long, value_name = "VERSIONS|TIME")]
    pub at: Option<SetVersions>,
    /// The versions of datasets that this manifest names
    #[arg(long, value_name = "MANIFEST", conflicts_with = "at")]
    pub manifest: Option<PathBuf>,
    /// Read from this cloud only
    #[arg(long, value_name = "CLOUD")]
    pub cloud: Option<String>,
    /// Show at most so many leaks; all are counted
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub limit: u32,
    /// How to print the report
    #[arg(long, default_value = "table", value_name = "table|json", hide_possible_values = true)]
    pub format: ReportFormat,
}

/// Where look-ups are answered from: one of them.
#[derive(Debug, Clone, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct OnlineArgs {
    /// A folder of stores
    #[arg(long, value_name = "FOLDER")]
    pub directory: Option<PathBuf>,
    /// A server that runs
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

/// How to print what a command finds. Where that is no result, the command says in its own words what it is.
#[derive(Debug, Clone, ClapArgs)]
pub struct OutputArgs {
    /// How to print the result
    #[arg(long, default_value = "human", value_name = "human|json", hide_possible_values = true)]
    pub format: Format,
}

/// Output for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    Human,
    /// One JSON document
    Json,
}

/// How to print a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A table for people
    Table,
    /// One JSON document
    Json,
}

/// How to print rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    /// A table for people
    Table,
    /// One JSON array of objects
    Json,
    /// Comma-separated values with a header
    Csv,
    /// A Parquet file
    Parquet,
    /// A file of Arrow record batches
    Arrow,
}

/// When to do something that suits a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// When it suits
    Auto,
    /// In any case
    Always,
    /// Not at all
    Never,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_prints_in_which_format() {
        let mut command = Args::command();
        command.build();
        for (names, what) in [
            ("check", "problems"),
            ("plan", "the plan"),
            ("prove", "the result"),
            ("demo", "the summary"),
            ("drill", "the report"),
            ("drill leader-kill", "the report"),
        ] {
            let mut subcommand = &command;
            for name in names.split(' ') {
                subcommand = subcommand.find_subcommand(name).expect("there is this command");
            }
            let formats = subcommand.get_arguments().filter(|argument| argument.get_id() == "format");
            let helps: Vec<String> =
                formats.filter_map(|format| Some(format.get_help()?.to_string())).collect();
            assert_eq!(helps, [format!("How to print {what}")], "{names}");
            let help = subcommand.clone().render_help().to_string();
            assert!(help.contains("--format <human|json>"), "{names}: {help}");
        }
    }

    #[test]
    fn every_command_has_examples() {
        let command = Args::command();
        for subcommand in command.get_subcommands() {
            let name = subcommand.get_name();
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n"), "{name}");
            assert!(help.contains(&format!("isobar {name}")), "{name}");
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{name}: {line}");
            }
        }
    }

    #[test]
    fn examples_parse() {
        let command = Args::command();
        let mut examples = 0;
        for subcommand in command.get_subcommands() {
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter_map(|line| line.strip_prefix("  isobar ")) {
                // Comments follow the commands after two spaces, redirections after `<`, `>` or `|`.
                let line = line.split("   ").next().unwrap_or_default();
                let line = line.split(['<', '>', '|']).next().unwrap_or_default();
                let words = line.split('"').enumerate().flat_map(|(index, part)| -> Vec<&str> {
                    if index % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }
                });
                let words: Vec<&str> = std::iter::once("isobar").chain(words).collect();
                assert!(Args::try_parse_from(&words).is_ok(), "{words:?}");
                examples += 1;
            }
        }
        assert!(examples > 15, "{examples}");
    }
}
