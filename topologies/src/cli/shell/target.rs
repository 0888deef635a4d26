//! The file that answers go to.
//!
//! Tables for people follow one another in it, as on a screen. In the formats for programs a file is one answer: two JSON arrays,
//! two CSV headers or two Parquet files behind one another are nothing that can be read. So the second one is refused, before it is asked.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::super::Misconfigured;
use super::super::query::write_file;
use crate::query::{Answer, RowsFormat};

/// A file that is there, or replaced, with the first answer.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    /// Open behind the tables that it holds.
    tables: Option<File>,
    /// Whether it holds an answer for programs.
    is_taken: bool,
}

impl Target {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, tables: None, is_taken: false }
    }

    /// Whether an answer in `format` has a place in it.
    pub(super) fn check(&self, format: RowsFormat) -> anyhow::Result<()> {
        let is_behind_tables = self.tables.is_some() && format != RowsFormat::Table;
        if !self.is_taken && !is_behind_tables {
            return Ok(());
        }
        let file = self.path.display();
        let refusal = format!(
            "{file} holds an answer already, and only tables follow one another: name another with \\o"
        );
        Err(Misconfigured(refusal).into())
    }

    /// Writes text for people behind what is there.
    pub(super) fn append(&mut self, text: &[u8]) -> anyhow::Result<()> {
        let action = || format!("write {}", self.path.display());
        let file = match &mut self.tables {
            Some(file) => file,
            None => self.tables.insert(File::create(&self.path).with_context(action)?),
        };
        file.write_all(text).with_context(action)
    }

    /// Writes one answer for programs, which is there when it is complete.
    pub(super) async fn write(&mut self, answer: &mut Answer, format: RowsFormat) -> anyhow::Result<()> {
        write_file(answer, format, &self.path).await?;
        self.is_taken = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_one_another_in_a_file_that_they_replace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.txt");
        std::fs::write(&path, "older").unwrap();
        let mut target = Target::new(path.clone());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "older");
        for text in ["one\n", "two\n"] {
            target.check(RowsFormat::Table).unwrap();
            target.append(text.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        for format in [RowsFormat::Json, RowsFormat::Csv, RowsFormat::Parquet, RowsFormat::Arrow] {
            let refused = target.check(format).unwrap_err().to_string();
            assert!(refused.contains("rows.txt") && refused.contains("\\o"), "{refused}");
        }
    }
}
