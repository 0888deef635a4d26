//! Processes of a benchmark's own: runs that are measured alone, and servers.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// Runs this program again with `arguments`; the last line of its output is what it found, as JSON.
pub(crate) fn child<T: DeserializeOwned>(arguments: &[&str]) -> Result<T> {
    let program = std::env::current_exe().context("find this program")?;
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{} ended with {}", arguments[0], output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(text.lines().last().unwrap_or_default()).context("read the measurement")
}

/// A process that is ended together with this.
pub(crate) struct Server(pub(crate) Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
