//! Where lines come from: a terminal with or without a line editor, or a file.
//!
//! The promise is the same everywhere: Ctrl-C while a line is typed drops what was typed of the statement and nothing else.

use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc as blocking;
use std::thread;

use futures::{FutureExt, future};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

/// Bytes of one line; a statement may have many.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What a person does when asked for a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// Ctrl-C: what was typed of a statement is forgotten.
    Interrupted,
    /// There are no more.
    End,
}

/// Where lines come from.
pub(super) trait Lines {
    /// The next line, without its end; with a line editor, several of them.
    async fn next(&mut self, prompt: &str) -> io::Result<Line>;
}

/// Presses of Ctrl-C that come as signals.
pub(super) struct Interrupts(Option<Signal>);

impl Interrupts {
    /// Nobody listens: the signal ends the program, as it does others in a pipe.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn of(signal: Signal) -> Self {
        Self(Some(signal))
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => _ = signal.recv().await,
            None => future::pending().await,
        }
    }

    /// Forgets those that came so far.
    pub(super) fn forget(&mut self) {
        if let Some(signal) = &mut self.0 {
            while signal.recv().now_or_never().flatten().is_some() {}
        }
    }
}

/// Lines of a file or a pipe.
pub(super) struct Piped<R>(pub(super) R);

impl<R: BufRead> Lines for Piped<R> {
    async fn next(&mut self, _: &str) -> io::Result<Line> {
        read_line(&mut self.0)
    }
}

fn read_line(input: &mut impl BufRead) -> io::Result<Line> {
    let mut line = String::new();
    match input.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? {
        0 => Ok(Line::End),
        _ if line.len() as u64 == LINE_BYTES_MAX && !line.ends_with('\n') => {
            Err(io::Error::other(format!("a line has more than {LINE_BYTES_MAX} bytes")))
        }
        _ => Ok(Line::Text(line.trim_end_matches(['\n', '\r']).to_owned())),
    }
}

/// Lines of a terminal without any editing, or whose output goes elsewhere. Prompts are written to standard error.
///
/// A thread of its own waits for the terminal, because such a wait cannot be ended: after Ctrl-C it goes on, and has the next line.
pub(super) struct Typed {
    /// Asks for a line.
    asks: blocking::Sender<()>,
    lines: mpsc::Receiver<io::Result<Line>>,
    is_waiting: bool,
    interrupts: Interrupts,
}

impl Typed {
    pub(super) fn start(interrupts: Interrupts) -> io::Result<Self> {
        let (asks, asked) = blocking::channel();
        let (sender, lines) = mpsc::channel(1);
        let read = move || {
            while asked.recv().is_ok() {
                if sender.blocking_send(read_line(&mut io::stdin().lock())).is_err() {
                    return;
                }
            }
        };
        // It ends with the process: nothing wakes it while nobody types.
        thread::Builder::new().name("terminal".to_owned()).spawn(read)?;
        Ok(Self { asks, lines, is_waiting: false, interrupts })
    }
}

impl Lines for Typed {
    async fn next(&mut self, prompt: &str) -> io::Result<Line> {
        // What is pressed from here on is an answer to the prompt.
        self.interrupts.forget();
        write_prompt(prompt)?;
        if !self.is_waiting {
            self.asks.send(()).map_err(io::Error::other)?;
            self.is_waiting = true;
        }
        tokio::select! {
            line = self.lines.recv() => {
                self.is_waiting = false;
                line.unwrap_or(Ok(Line::End))
            }
            () = self.interrupts.next() => {
                eprintln!();
                Ok(Line::Interrupted)
            }
        }
    }
}

fn write_prompt(prompt: &str) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(prompt.as_bytes())?;
    stderr.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_a_pipe_come_without_their_ends() {
        let mut lines = Piped("a\r\nb\n\nc".as_bytes());
        for expected in ["a", "b", "", "c"] {
            assert_eq!(lines.next("").await.unwrap(), Line::Text(expected.to_owned()));
        }
        assert_eq!(lines.next("").await.unwrap(), Line::End);
        let endless = Piped(io::BufReader::new(io::repeat(b'x'))).next("").await;
        assert_eq!(endless.unwrap_err().to_string(), "a line has more than 1048576 bytes");
    }
}
