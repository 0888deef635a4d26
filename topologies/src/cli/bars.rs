//! What `isobar run` shows while it works: one line of numbers on standard error, redrawn in place.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::progress::Progress;

/// How often the line is redrawn.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Shows `progress` until `done`, then takes the line away.
pub(super) async fn show(progress: Arc<Progress>, topology: String, done: CancellationToken) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {prefix}  {msg}").expect("the template is fixed and valid");
    bar.set_style(style);
    bar.set_prefix(topology);
    let mut clock = tokio::time::interval(REDRAW_INTERVAL);
    while !done.is_cancelled() {
        tokio::select! {
            _ = clock.tick() => {}
            () = done.cancelled() => break,
        }
        bar.set_message(line(&progress));
        bar.tick();
    }
    bar.finish_and_clear();
}

fn line(progress: &Progress) -> String {
    let seconds = progress.elapsed().as_secs_f64().max(0.001);
    let committed = progress.snapshot();
    let rows: u64 = committed.rows.values().map(|rows| rows.output).sum();
    let rejected: u64 = committed.rows.values().map(|rows| rows.rejected_total()).sum();
    format!(
        "{} records ({}/s)  {} commits  {} rows  {} rejected  {} of Parquet",
        HumanCount(progress.records()),
        HumanBytes((progress.bytes() as f64 / seconds) as u64),
        HumanCount(committed.commits),
        HumanCount(rows),
        HumanCount(rejected),
        HumanBytes(committed.file_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_records_and_commits() {
        let progress = Progress::default();
        progress.consumed(1_234_567, 1 << 20);
        progress.committed(|committed| committed.file_bytes = 3 << 20);
        let line = line(&progress);
        assert!(line.starts_with("1,234,567 records ("), "{line}");
        assert!(line.ends_with("1 commits  0 rows  0 rejected  3.00 MiB of Parquet"), "{line}");
    }
}
