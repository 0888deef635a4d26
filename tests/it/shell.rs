//! The shell of `isobar query`: the statements of a pipe, and a person at a terminal, which `script` of util-linux is here.

use std::path::Path;
use std::process::Stdio;

use isobar_tests::events::{self, FEATURES_YAML, Generator, TOPIC};
use isobar_tests::lab::{Lab, write_file};
use isobar_tests::prng::Seed;
use isobar_tests::program::{Output, binary, run};
use isobar_tests::wait::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// A lab with a dataset, and its spec in a file.
async fn filled(test: &'static str) -> (Lab, String) {
    let lab = Lab::in_directories();
    lab.produce(TOPIC, Generator::mixed(Seed::of(test).prng()).records(300));
    lab.run_until_caught_up(&lab.features()).await.unwrap();
    let spec = lab.spec(events::SOURCE, FEATURES_YAML).written();
    let spec = text(&spec).to_owned();
    (lab, spec)
}

/// Runs what a file says.
async fn piped(lab: &Lab, spec: &str, arguments: &[&str], statements: &str) -> Output {
    let file = write_file(&lab.directory.path().join("statements.sql"), statements);
    let mut command = Command::new("sh");
    command.args(["-c", "file=$1; shift; exec \"$@\" < \"$file\"", "sh"]).arg(file).arg(binary());
    command.args(["query", "--config", spec]).args(arguments);
    command.env_remove("ISOBAR_LOG").env_remove("ISOBAR_FAILPOINT").env("NO_COLOR", "1").kill_on_drop(true);
    run(&mut command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_statements_of_a_pipe_and_its_commands_are_done_in_turn() {
    let (lab, spec) = filled("shell_pipe").await;
    let statements = "SELECT 20 + 3\n  AS n; SELECT ';' AS s;\n\\d\n\\d features_quarantine\n\\l\n\\snapshots features\n\
                      \\x on\nSELECT 4 AS four, 5 AS n;\n\\x\n\\format csv\nSELECT 6 AS six;\n\\timing\nSELECT 7 AS seven";
    let output = piped(&lab, &spec, &["--stats"], statements).await;
    output.assert(
        0,
        &[
            "| 23 |",
            "| ; |",
            "| features_quarantine |",
            "payload",
            "COMMITTED",
            "SHA-256",
            "-[ row 1 ]\nfour | 4\nn    | 5\n",
            "six\n6\n",
            "time: ",
            "seven\n7\n",
        ],
    );
    assert_eq!(output.stderr.matches("read nothing of the data files").count(), 5, "{output}");
    // The first error ends the program, and a command that is mistyped is one.
    let output = piped(&lab, &spec, &[], "SELECT 1 AS one;\n\\snapshot features\nSELECT 2 AS two;\n").await;
    output.assert(2, &["one", "did you mean `\\snapshots`?"]);
    assert!(!output.stdout.contains("two"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_holds_tables_or_one_answer_in_a_format_for_programs() {
    let (lab, spec) = filled("shell_output").await;
    let file = |name: &str| lab.directory.path().join(name);
    let (rows, more, tables) = (file("rows.csv"), file("more.parquet"), file("tables.txt"));
    let output = piped(&lab, &spec, &["-o", text(&rows)], "SELECT 1 AS one; SELECT 2 AS two;").await;
    output.assert(2, &["rows.csv holds an answer already", "\\o"]);
    assert_eq!(std::fs::read_to_string(&rows).unwrap(), "one\n1\n");

    let statements = format!(
        "SELECT 3 AS three;\n\\format parquet\n\\o {}\nSELECT count(*) AS n FROM features;\n\
         \\format table\n\\o {}\nSELECT 4 AS four; SELECT 5 AS five;\n\\d\n\\o\nSELECT 6 AS six;\n",
        text(&more),
        text(&tables)
    );
    let output = piped(&lab, &spec, &["-o", text(&rows)], &statements).await;
    output.assert(0, &["features_quarantine", "six"]);
    assert_eq!(std::fs::read_to_string(&rows).unwrap(), "three\n3\n");
    assert!(std::fs::read(&more).unwrap().starts_with(b"PAR1"));
    let tables = std::fs::read_to_string(&tables).unwrap();
    assert!(tables.contains("four") && tables.contains("five") && !tables.contains("six"), "{tables}");
    assert!(!output.stdout.contains("five"), "{output}");

    let output = piped(&lab, &spec, &["--format", "arrow"], "SELECT 1;").await;
    output.assert(2, &["needs a file of its own"]);
}

/// Somebody at a terminal.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: watch::Receiver<String>,
    /// What was looked at.
    seen: usize,
}

impl Terminal {
    fn open(spec: &str, state: &Path, kind: &str) -> Self {
        let program = format!("exec '{}' query --config '{spec}'", text(&binary()));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &program, "/dev/null"]).kill_on_drop(true);
        command.env("XDG_STATE_HOME", state).env("TERM", kind).env("NO_COLOR", "1");
        command.env_remove("ISOBAR_LOG").env_remove("ISOBAR_FAILPOINT").env_remove("ISOBAR_NO_HISTORY");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("script of util-linux is installed");
        let (keys, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, shown) = watch::channel(String::new());
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes).await {
                sender.send_modify(|text| text.push_str(&String::from_utf8_lossy(&bytes[..read])));
            }
        });
        Self { child, keys, shown, seen: 0 }
    }

    async fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).await.unwrap();
        self.keys.flush().await.unwrap();
    }

    /// Waits until `part` is shown, behind what was looked at before.
    async fn shows(&mut self, part: &str) {
        let seen = self.seen;
        let _ = tokio::time::timeout(PATIENCE, self.shown.wait_for(|text| text[seen..].contains(part))).await;
        let text = self.shown.borrow().clone();
        let at = text[seen..].find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} is not shown behind {:?}", &text[seen..]));
        self.seen = seen + at + part.len();
    }

    async fn ended(mut self) -> Option<i32> {
        self.child.wait().await.unwrap().code()
    }
}

/// A query that nobody waits for to end.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000000000000);";

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_lines_are_edited_and_ctrl_c_ends_a_query_and_not_the_shell() {
    let (lab, spec) = filled("shell_terminal").await;
    let state = lab.directory.path().join("state");
    let mut terminal = Terminal::open(&spec, &state, "xterm");
    terminal.shows("isobar> ").await;
    // A statement of two lines, with the name of a table that is completed.
    terminal.type_in("SELECT 20 + 3\r").await;
    terminal.type_in("AS n FROM features_q\t LIMIT 1;\r").await;
    terminal.shows("| 23 |").await;
    terminal.shows("isobar> ").await;
    // What was typed is dropped.
    terminal.type_in("SELECT nonsense \x03").await;
    terminal.shows("isobar> ").await;
    terminal.type_in("SELECT 4 + 4;\r").await;
    terminal.shows("| 8 ").await;
    terminal.shows("isobar> ").await;
    terminal.type_in(&format!("{ENDLESS} SELECT 40 + 4;\r")).await;
    terminal.shows(" read").await;
    terminal.type_in("\x03").await;
    terminal.shows("error: cancelled").await;
    terminal.shows("isobar> ").await;
    terminal.type_in("SELECT nothing;\r").await;
    terminal.shows("error: ").await;
    terminal.shows("isobar> ").await;
    terminal.type_in("SELECT 50 + 5;\r").await;
    terminal.shows("| 55 ").await;
    terminal.shows("isobar> ").await;
    terminal.type_in("\x04").await;
    let shown = terminal.shown.clone();
    assert_eq!(terminal.ended().await, Some(0));
    assert!(!shown.borrow().contains("| 44 "), "what stood behind the query that was cancelled was run");

    let history = state.join("isobar/query_history");
    let kept = std::fs::read_to_string(&history).unwrap();
    for entry in ["SELECT 20 + 3\\nAS n FROM features_quarantine LIMIT 1;", "SELECT 4 + 4;", "SELECT 50 + 5;"]
    {
        assert!(kept.lines().any(|line| line == entry), "{entry}: {kept}");
    }
    assert!(!kept.contains("nonsense"), "{kept}");
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&history), mode(&state.join("isobar"))), (0o600, 0o700));
    }

    // The history is there the next time: the arrow up and the enter key.
    let mut terminal = Terminal::open(&spec, &state, "xterm");
    terminal.shows("isobar> ").await;
    terminal.type_in("\x1b[A\r").await;
    terminal.shows("| 55 ").await;
    terminal.shows("isobar> ").await;
    terminal.type_in("\\q\r").await;
    assert_eq!(terminal.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_that_cannot_edit_ctrl_c_drops_a_line_and_ends_a_query() {
    let (lab, spec) = filled("shell_dumb").await;
    let state = lab.directory.path().join("state");
    let mut terminal = Terminal::open(&spec, &state, "dumb");
    terminal.shows("isobar> ").await;
    terminal.type_in("SELECT nonsense\n").await;
    terminal.shows("     -> ").await;
    terminal.type_in("more \x03").await;
    terminal.shows("isobar> ").await;
    terminal.type_in("SELECT 4 + 4;\n").await;
    terminal.shows("| 8 ").await;
    terminal.shows("isobar> ").await;
    terminal.type_in("exit\n").await;
    assert_eq!(terminal.ended().await, Some(0));
    assert!(!state.exists(), "a terminal without an editor has no history");
}
