//! A topology for tests of the protocols.

use std::path::Path;

use crate::spec::{CheckOptions, Topology, check_text};

/// What the file `token` in the folder of [`topology`] has.
pub(super) const TOKEN: &str = "token-of-the-analyst";

/// A topology with the dataset of the history, whose clouds are this process's memory; sections follow.
pub(super) const IN_MEMORY: &str = "
topology: t
kafka: { brokers: \"localhost:9092\" }
clouds: { a: { url: \"memory://a\" }, b: { url: \"memory://b\" }, c: { url: \"memory://c\" } }
commit: { interval: 10s, size: 256MiB }
memory: 384MiB
sources:
  s: { topic: s, format: json, fields: { x: int64, month: string } }
datasets:
  flights: { from: s, sql: \"SELECT month, x FROM s\", partition_by: [month] }
";

/// A topology with the dataset of the history and one that nothing was committed to; `serve` is YAML, its secrets in `folder`.
pub(super) fn topology(folder: &Path, serve: &str) -> Topology {
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    let text = format!(
        "
topology: t
kafka: {{ brokers: a:1 }}
clouds: {{ a: {{ url: ./data }} }}
memory: 128MiB
serve: {serve}
sources: {{ s: {{ topic: s, format: json, fields: {{ x: int64, month: string }} }} }}
datasets:
  flights: {{ from: s, sql: 'SELECT month, x FROM s', description: Flights. }}
  weather: {{ from: s, sql: 'SELECT x FROM s' }}
"
    );
    check_text(&text, "t.yaml", folder, CheckOptions::default())
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}
