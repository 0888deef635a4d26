//! A command that is started when something alarms: at most once for a version of a model, a window and its features.
//!
//! Before the command starts, a file is created in the folder of the state, which only one process can do, once. So neither a restart nor a
//! second process starts it again; a process that dies in between leaves the file, and the command is not started: at most once, not
//! at least once. The file says how the command ended, and deleting it lets the command run once more.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

use isobar_connectors::delta::sha256_hex;
use serde_json::json;

use super::check::{DriftReport, day};
use super::replace_file;
use crate::aside::new_file;
use crate::error::Error;

/// What became of a trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Triggered {
    /// Nothing alarms.
    Not,
    /// The command was started for this alarm before.
    Before,
    /// It was started, and ended with this exit code; `None` after a signal.
    Ended(Option<i32>),
}

/// Starts `command`, a program and its arguments, if something alarms in `report` for which it was not started before. `state` is the folder
/// that remembers; it is made if it is not there. Waits until the command ends.
///
/// # Errors
/// [`Error::LocalFile`] if the state cannot be written, in which case nothing is started, or the program cannot be; [`Error::Configuration`]
/// if there is no program.
pub fn trigger(report: &DriftReport, command: &[String], state: &Path) -> Result<Triggered, Error> {
    let Some((window, features)) = report.newest_alarm() else { return Ok(Triggered::Not) };
    let Some((program, arguments)) = command.split_first() else {
        return Err(Error::Configuration("--on-drift names no command".to_owned()));
    };
    let features = features.join(",");
    let version = report.version.to_string();
    let key = [report.model.as_str(), &version, &window.from, &window.to, &features].join("\n");
    let name = format!(
        "{}-{}-{}-{}.json",
        report.model,
        version,
        day(&window.from),
        &sha256_hex(key.as_bytes())[..16]
    );
    let path = state.join(name);
    let said = |ended: Option<&str>| {
        let said = json!({
            "model": report.model,
            "version": report.version,
            "from": window.from,
            "to": window.to,
            "features": features,
            "ended": ended,
        });
        format!("{said:#}\n").into_bytes()
    };
    if !created(state, &path, &said(None))? {
        return Ok(Triggered::Before);
    }
    let ended = Command::new(program)
        .args(arguments)
        // Standard output is the report's.
        .stdout(std::io::stderr())
        .env("ISOBAR_DRIFT_MODEL", &report.model)
        .env("ISOBAR_DRIFT_VERSION", &version)
        .env("ISOBAR_DRIFT_FROM", &window.from)
        .env("ISOBAR_DRIFT_TO", &window.to)
        .env("ISOBAR_DRIFT_FEATURES", &features)
        .status();
    let how = match &ended {
        Ok(status) => status.to_string(),
        Err(error) => format!("not started: {error}"),
    };
    replace_file(&path, &said(Some(&how)), "how the command ended")?;
    let status = ended.map_err(|source| Error::LocalFile { action: format!("start {program}"), source })?;
    Ok(Triggered::Ended(status.code()))
}

/// Whether the file was not there, and is now: whole, and on the disk with its name, so that a loss of power does not forget it either.
fn created(folder: &Path, path: &Path, content: &[u8]) -> Result<bool, Error> {
    if path.is_file() {
        return Ok(false);
    }
    let create = || {
        fs::create_dir_all(folder)?;
        let mut file = new_file(folder, ".isobar-drift-")?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        // A file that could not be written whole must not look like a command that was started.
        file.persist_noclobber(path).map_err(|error| error.error)?;
        #[cfg(unix)]
        fs::File::open(folder)?.sync_all()?;
        Ok::<_, std::io::Error>(())
    };
    match create() {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_file() => Ok(false),
        Err(source) => Err(Error::LocalFile {
            action: format!("remember in {} that the command is started", path.display()),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{feature, report, week};
    use super::*;

    fn alarming(version: u64, features: &[&str]) -> DriftReport {
        let features = features.iter().map(|name| feature(name, 0.5)).collect();
        DriftReport { version, ..report(vec![week(features)]) }
    }

    #[cfg(unix)]
    #[test]
    fn a_command_runs_once_for_a_version_a_window_and_its_features() {
        let folder = tempfile::tempdir().unwrap();
        let (state, out) = (folder.path().join("state/drift"), folder.path().join("out"));
        let line = format!(
            "echo \"$0 $ISOBAR_DRIFT_VERSION $ISOBAR_DRIFT_FEATURES\" >> '{}'; exit 7",
            out.display()
        );
        let command = ["sh", "-c", &line, "a; b"].map(str::to_owned);
        let run = |report: &DriftReport| trigger(report, &command, &state).unwrap();
        assert_eq!(run(&alarming(1, &[])), Triggered::Not);
        assert!(!state.exists());
        let first = alarming(1, &["x", "y"]);
        assert_eq!(run(&first), Triggered::Ended(Some(7)));
        assert_eq!(run(&first), Triggered::Before);
        assert_eq!(run(&alarming(1, &["x"])), Triggered::Ended(Some(7)));
        assert_eq!(run(&alarming(2, &["x", "y"])), Triggered::Ended(Some(7)));
        // An argument is an argument, whatever is in it.
        assert_eq!(fs::read_to_string(&out).unwrap(), "a; b 1 x,y\na; b 1 x\na; b 2 x,y\n");
        let files: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 3);
        for file in files {
            assert!(fs::read_to_string(&file).unwrap().contains("exit status: 7"));
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_and_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let command = ["there-is-no-such-program-here".to_owned()];
        let error = trigger(&alarming(1, &["x"]), &command, folder.path()).unwrap_err();
        assert!(error.to_string().contains("start there-is-no-such-program"), "{error}");
        assert_eq!(trigger(&alarming(1, &["x"]), &command, folder.path()).unwrap(), Triggered::Before);
        assert!(trigger(&alarming(2, &["x"]), &[], folder.path()).is_err());
        // A state that cannot remember starts nothing: there would be another error.
        let file = folder.path().join("a file");
        fs::write(&file, "").unwrap();
        let error = trigger(&alarming(1, &["x"]), &command, &file).unwrap_err();
        assert!(error.to_string().contains("remember in"), "{error}");
    }
}
