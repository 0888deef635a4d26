//! The `isobar` binary, as a user runs it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::wait::find;

/// How long a command may take. Only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much of a program's log a failed test shows.
const SHOWN_LINES: usize = 40;

/// The binary: `ISOBAR_BIN`, or the one that was built beside the tests.
///
/// # Panics
/// If there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("ISOBAR_BIN") {
        return path.into();
    }
    let tests = std::env::current_exe().expect("the path of the test binary is known");
    let path = tests.ancestors().nth(2).expect("tests lie in deps/").join("isobar");
    assert!(
        path.exists(),
        "{} is missing: build it first, in the same profile (cargo build --release --bin isobar)",
        path.display()
    );
    path
}

/// A command of isobar with nothing of the environment that could change what it does.
pub fn isobar(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env_remove("ISOBAR_LOG")
        .env_remove("ISOBAR_FAILPOINT")
        .env("NO_COLOR", "1")
        .kill_on_drop(true);
    command
}

/// What a finished command left behind.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Both outputs together.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// The exit code is `code`, and every one of `parts` is in the output.
    ///
    /// # Panics
    /// If not.
    pub fn assert(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self}");
        for part in parts {
            assert!(self.text().contains(part), "{part:?} is not said:\n{self}");
        }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {:?}\n--- output\n{}\n--- errors\n{}", self.code, self.stdout, self.stderr)
    }
}

/// Runs `command` to its end.
///
/// # Panics
/// If it cannot be started, or hangs.
pub async fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    let finished = tokio::time::timeout(PATIENCE, command.output()).await;
    let finished = finished.expect("the command ends in time").expect("the command can be started");
    Output {
        code: finished.status.code(),
        stdout: String::from_utf8_lossy(&finished.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
    }
}

/// Runs `isobar` with `arguments` to its end.
pub async fn run_isobar(arguments: &[&str]) -> Output {
    run(&mut isobar(arguments)).await
}

/// A command that goes on while the test does other things. Killed when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    errors: PathBuf,
    output: JoinHandle<String>,
}

impl Background {
    /// Starts `command`; what it writes to standard error goes to the file `errors`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command, errors: &Path) -> Self {
        let file = std::fs::File::create(errors).expect("the log file can be created");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().expect("the command can be started");
        let mut stdout = child.stdout.take().expect("standard output is piped");
        let output = tokio::spawn(async move {
            let mut text = Vec::new();
            // What was written before a kill is kept.
            let _ = stdout.read_to_end(&mut text).await;
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, errors: errors.to_owned(), output }
    }

    /// What it has written to standard error so far.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.errors).unwrap_or_default()).into_owned()
    }

    /// Waits until a line of standard error holds `part`; that line.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn says(&self, part: &str) -> String {
        let line = async || self.errors().lines().find(|line| line.contains(part)).map(str::to_owned);
        let Some(line) = find(line).await else {
            let errors = self.errors();
            let skipped = errors.lines().count().saturating_sub(SHOWN_LINES);
            let end = errors.lines().skip(skipped).collect::<Vec<_>>().join("\n");
            panic!("the program does not say {part:?}; the end of what it says:\n{end}");
        };
        line
    }

    /// Sends a signal, by its name without `SIG`.
    ///
    /// # Panics
    /// If the process has ended.
    pub async fn signal(&self, name: &str) {
        let id = self.child.id().expect("the process has not ended");
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {id}")).status().await;
        assert!(sent.expect("a shell can be started").success(), "kill -{name} {id}");
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Kills it at once, as a power failure would.
    ///
    /// # Panics
    /// If that is not possible.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it hangs.
    pub async fn ended(mut self) -> Output {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("the command ends in time").expect("a child can be waited for");
        let stderr = self.errors();
        let stdout = self.output.await.expect("reading the output does not panic");
        Output { code: status.code(), stdout, stderr }
    }
}

/// Status and body of a GET, without a client that could hide something; `None` if nobody answers.
pub async fn http_get(address: &str, path: &str) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    exchange(address, request).await
}

/// Status and body of an answer to a POST with these headers, each ended by a line break; `None` if nobody answers.
pub async fn http_post(address: &str, path: &str, headers: &str, body: &str) -> Option<(u16, String)> {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    exchange(address, request).await
}

async fn exchange(address: &str, request: String) -> Option<(u16, String)> {
    let mut connection = TcpStream::connect(address).await.ok()?;
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
