//! What `isobar run` and `isobar query` show while they work: one line of numbers on standard error, redrawn in place.
//!
//! Logs go to the same place, so [`LogWriter`] takes the line away while it writes.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Context;
use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::progress::Progress;
use crate::query::Scanned;

/// How often the line is redrawn.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// How long a query runs before its progress is shown.
const QUERY_PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// How often a line is written where nothing can be redrawn.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Everything drawn on standard error.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Standard error for logs: above what is redrawn in place.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Does `write`, which may write to the same terminal, while nothing is drawn there.
pub(super) fn suspended<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

/// Shows `progress` until `done`: a line redrawn in place on a terminal, elsewhere a new line now and then.
pub(super) async fn show(progress: Arc<Progress>, topology: String, done: CancellationToken) {
    if !io::stderr().is_terminal() {
        return every(PLAIN_INTERVAL, &done, || eprintln!("{topology}: {}", line(&progress))).await;
    }
    let bar = BARS.add(ProgressBar::no_length());
    let style =
        ProgressStyle::with_template("{spinner} {prefix}  {msg}").expect("the template is fixed and valid");
    bar.set_style(style);
    bar.set_prefix(topology);
    every(REDRAW_INTERVAL, &done, || {
        bar.set_message(line(&progress));
        bar.tick();
    })
    .await;
    bar.finish_and_clear();
}

/// How much a query has read, on a terminal, once that takes long.
#[derive(Default)]
pub(super) struct QueryProgress {
    done: CancellationToken,
    bar: Cell<Option<JoinHandle<()>>>,
}

impl QueryProgress {
    /// Shows it from now on, if this takes long.
    pub(super) fn show(&self, scanned: Scanned) {
        if io::stderr().is_terminal() {
            let shown = show_query(scanned, self.done.clone());
            self.bar.set(Some(tokio::spawn(shown)));
        }
    }

    /// Shows nothing any more.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.done.cancel();
        match self.bar.into_inner() {
            Some(bar) => bar.await.context("show progress"),
            None => Ok(()),
        }
    }
}

/// Shows how much a query has read, once it has run for a while and until `done`.
async fn show_query(scanned: Scanned, done: CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(QUERY_PROGRESS_AFTER) => {}
        () = done.cancelled() => return,
    }
    let bar = BARS.add(ProgressBar::no_length());
    let style =
        ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("the template is fixed and valid");
    bar.set_style(style);
    every(REDRAW_INTERVAL, &done, || {
        bar.set_message(query_line(&scanned));
        bar.tick();
    })
    .await;
    bar.finish_and_clear();
}

fn query_line(scanned: &Scanned) -> String {
    format!("{} rows, {} read", HumanCount(scanned.rows()), HumanBytes(scanned.bytes()))
}

async fn every(interval: Duration, done: &CancellationToken, mut draw: impl FnMut()) {
    let mut clock = tokio::time::interval(interval);
    loop {
        tokio::select! {
            _ = clock.tick() => draw(),
            () = done.cancelled() => return,
        }
    }
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
