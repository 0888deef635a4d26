//! The line editor: history, completion, and statements of several lines.
//!
//! The terminal sends Ctrl-C as a key while a line is edited, and as a signal at other times. Entries of the history go to a file
//! that only its owner can read, each as soon as it was typed; shells that run at the same time share it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::complete::{Names, complete, is_worth_keeping};
use super::input::is_whole;
use super::lines::{Line, Lines};

/// Entries that are kept. The oldest are forgotten.
const HISTORY_ENTRIES_MAX: usize = 1_000;

/// Names to complete, which may come to be known while lines are edited.
pub(super) type SharedNames = Arc<Mutex<Names>>;

/// Lines that are edited on a terminal.
pub(super) struct Edited {
    editor: Editor<Answers, FileHistory>,
    /// Where the history is; `None`: nowhere.
    history: Option<PathBuf>,
}

impl Edited {
    /// Takes the terminal, and what is remembered in the file `history`.
    pub(super) fn open(names: SharedNames, history: Option<PathBuf>) -> io::Result<Self> {
        let config = Config::builder().max_history_size(HISTORY_ENTRIES_MAX).map_err(into_io)?;
        let config = config.completion_type(CompletionType::List).auto_add_history(false).build();
        let mut editor = Editor::with_config(config).map_err(into_io)?;
        editor.set_helper(Some(Answers(names)));
        let mut edited = Self { editor, history };
        if let Some(file) = edited.history.as_ref().filter(|file| file.exists()) {
            let loaded = edited.editor.load_history(file);
            edited.keep_if(loaded);
        }
        Ok(edited)
    }

    fn remember(&mut self, entry: &str) {
        let entry = entry.trim_end();
        let previous = self.editor.history().iter().next_back();
        if !is_worth_keeping(entry, previous.map(String::as_str)) {
            return;
        }
        let kept = self.keep(entry);
        self.keep_if(kept);
    }

    fn keep(&mut self, entry: &str) -> rustyline::Result<()> {
        self.editor.add_history_entry(entry)?;
        let Some(file) = &self.history else { return Ok(()) };
        make_folder(file)?;
        self.editor.append_history(file)
    }

    /// A history that cannot be kept is no reason to end; that is said once.
    fn keep_if(&mut self, done: rustyline::Result<()>) {
        if let Err(error) = done
            && let Some(file) = self.history.take()
        {
            eprintln!("no history is kept: {}: {error}", file.display());
        }
    }
}

impl Lines for Edited {
    async fn next(&mut self, prompt: &str) -> io::Result<Line> {
        match self.editor.readline(prompt) {
            Ok(text) => {
                self.remember(&text);
                Ok(Line::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(into_io(error)),
        }
    }
}

fn into_io(error: ReadlineError) -> io::Error {
    match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// The folder of the history, for its owner's eyes only.
fn make_folder(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match file.parent() {
        Some(folder) => std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

/// The file of the history in the user's folder for state, as the XDG base directory specification says; `None` if there is no
/// such folder.
pub(super) fn history_file() -> Option<PathBuf> {
    let said = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    history_in(said, std::env::home_dir())
}

/// A relative `XDG_STATE_HOME` is to be ignored.
fn history_in(state: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let state = state.filter(|folder| folder.is_absolute());
    let state = state.or_else(|| Some(home.filter(|home| home.is_absolute())?.join(".local/state")))?;
    Some(state.join("isobar/query_history"))
}

/// What the editor asks while a line is edited.
struct Answers(SharedNames);

impl Helper for Answers {}

impl Hinter for Answers {
    type Hint = String;
}

impl Highlighter for Answers {}

impl Completer for Answers {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(complete(line, at, &names))
    }
}

impl Validator for Answers {
    /// A statement goes on in the next line until it has its end.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_whole(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_lies_in_the_folder_for_state() {
        let found = |state: Option<&str>, home: Option<&str>| {
            history_in(state.map(PathBuf::from), home.map(PathBuf::from))
        };
        let file = |path: &str| Some(Path::new(path).join("isobar/query_history"));
        assert_eq!(found(Some("/state"), Some("/home/me")), file("/state"));
        assert_eq!(found(None, Some("/home/me")), file("/home/me/.local/state"));
        assert_eq!(found(Some("state"), Some("/home/me")), file("/home/me/.local/state"));
        assert_eq!(found(Some(""), Some("")), None);
        assert_eq!(found(None, None), None);
    }
}
