//! Processes of a benchmark's own: runs that are measured alone, and servers.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

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

/// The program `isobar`: `given`, or the one beside this.
pub(crate) fn isobar(given: Option<PathBuf>) -> Result<PathBuf> {
    let program = match given {
        Some(program) => program,
        None => std::env::current_exe().context("find this program")?.with_file_name("isobar"),
    };
    ensure!(program.exists(), "{} is not there: build it, or name it with --program", program.display());
    Ok(program)
}

/// Starts `isobar` with `arguments`, and waits until it says where it listens. Its log is read on, so that it can go on to write it.
pub(crate) fn listening(program: &Path, arguments: &[&str]) -> Result<(Server, String)> {
    let mut command = Command::new(program);
    command.args(["--log-format", "json"]).args(arguments);
    command.env_remove("ISOBAR_LOG").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut server = Server(command.spawn().with_context(|| format!("start {}", program.display()))?);
    let mut log = BufReader::new(server.0.stderr.take().context("its log is piped")?);
    let (mut said, mut line) = (String::new(), String::new());
    while log.read_line(&mut line)? > 0 {
        let entry: Json = serde_json::from_str(&line).unwrap_or_default();
        if let Some(address) = entry["address"].as_str() {
            thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            return Ok((server, address.to_owned()));
        }
        said.push_str(&line);
        line.clear();
    }
    bail!("the server ended before it listened:\n{said}")
}
