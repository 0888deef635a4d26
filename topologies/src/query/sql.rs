//! From text to a plan that only reads.
//!
//! Two things are refused that would otherwise be done or passed over: anything but a query, and a query that names a
//! version. DataFusion parses `VERSION AS OF`, `TIMESTAMP AS OF` and `FOR SYSTEM_TIME AS OF` in some dialects and
//! then reads the newest version all the same, so the syntax tree is searched for them.

use std::ops::ControlFlow;

use datafusion::common::plan_datafusion_err;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{TableFactor, TableVersion, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::DatabricksDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::asof;

/// Plans `sql`, which must be one statement that reads.
pub(super) async fn plan(state: &SessionState, sql: &str) -> Result<LogicalPlan, DataFusionError> {
    refuse_versions_in_text(sql)?;
    let mut statement = state.sql_to_statement(sql, &state.config().options().sql_parser.dialect)?;
    refuse_versions(&statement)?;
    asof::rewrite(&mut statement)?;
    let plan = state.statement_to_plan(statement).await?;
    let read_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let verified = read_only.verify_plan(&plan);
    verified.map_err(|error| {
        plan_datafusion_err!("only queries are allowed here: {}", error.strip_backtrace())
    })?;
    Ok(plan)
}

/// The session's dialect may not know the clauses and then calls them a syntax error; this one does, so that the
/// answer is about what was meant.
fn refuse_versions_in_text(sql: &str) -> Result<(), DataFusionError> {
    match Parser::parse_sql(&DatabricksDialect {}, sql) {
        Ok(statements) => statements.iter().try_for_each(refuse_versions_in),
        // Whatever this dialect does not understand, the session's own parser judges.
        Err(_) => Ok(()),
    }
}

fn refuse_versions(statement: &Statement) -> Result<(), DataFusionError> {
    match statement {
        Statement::Statement(statement) => refuse_versions_in(statement.as_ref()),
        Statement::Explain(explain) => refuse_versions(&explain.statement),
        // None of these reads a table, and none passes the check of the plan.
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => Ok(()),
    }
}

fn refuse_versions_in(tree: &impl Visit) -> Result<(), DataFusionError> {
    match tree.visit(&mut FindVersion) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(clause) => Err(plan_datafusion_err!(
            "this version of isobar reads the newest version of a table only: leave out {clause}"
        )),
    }
}

struct FindVersion;

impl Visitor for FindVersion {
    type Break = String;

    fn pre_visit_table_factor(&mut self, table_factor: &TableFactor) -> ControlFlow<String> {
        match table_factor {
            // In other dialects `AT (…)` and `BEFORE (…)` are an alias with column names.
            TableFactor::Table { version: None | Some(TableVersion::Function(_)), .. } => {
                ControlFlow::Continue(())
            }
            TableFactor::Table { version: Some(version), .. } => ControlFlow::Break(format!("`{version}`")),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn refusal(sql: &str) -> String {
        let context = SessionContext::new();
        context.sql("CREATE TABLE d AS VALUES (1)").await.unwrap();
        match plan(&context.state(), sql).await {
            Ok(plan) => panic!("{sql} was planned:\n{plan}"),
            Err(error) => error.strip_backtrace(),
        }
    }

    #[tokio::test]
    async fn versions_are_refused_wherever_they_stand() {
        for sql in [
            "SELECT * FROM d VERSION AS OF 3",
            "SELECT * FROM d TIMESTAMP AS OF '2026-01-01'",
            "SELECT * FROM d FOR SYSTEM_TIME AS OF '2026-01-01'",
            "SELECT * FROM (SELECT * FROM d VERSION AS OF 3) AS x",
            "WITH x AS (SELECT * FROM d VERSION AS OF 3) SELECT * FROM x",
            "SELECT (SELECT count(*) FROM d VERSION AS OF 3)",
            "SELECT 1 WHERE EXISTS (SELECT * FROM d VERSION AS OF 3)",
            "SELECT * FROM d JOIN d VERSION AS OF 3 ON true",
            "SELECT * FROM d UNION ALL SELECT * FROM d VERSION AS OF 3",
            "EXPLAIN SELECT * FROM d VERSION AS OF 3",
        ] {
            let refusal = refusal(sql).await;
            assert!(refusal.contains("newest version") && refusal.contains("AS OF"), "{sql}: {refusal}");
        }
    }

    #[tokio::test]
    async fn versions_are_refused_in_a_dialect_that_knows_them() {
        let context = SessionContext::new();
        context.sql("CREATE TABLE d AS VALUES (1)").await.unwrap();
        let state = context.state();
        let dialect = datafusion::config::Dialect::Databricks;
        let statement = state.sql_to_statement("SELECT * FROM d VERSION AS OF 3", &dialect).unwrap();
        assert!(refuse_versions(&statement).is_err());
    }

    #[tokio::test]
    async fn anything_but_a_query_is_refused() {
        for sql in [
            "CREATE TABLE x AS SELECT 1",
            "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
            "CREATE VIEW x AS SELECT 1",
            "DROP TABLE d",
            "INSERT INTO d VALUES (2)",
            "UPDATE d SET column1 = 2",
            "DELETE FROM d",
            "COPY d TO '/tmp/d.csv'",
            "COPY (SELECT 1) TO '/tmp/d.csv'",
            "EXPLAIN ANALYZE INSERT INTO d VALUES (2)",
            "SET datafusion.execution.batch_size = 1",
            "RESET datafusion.execution.batch_size",
            "BEGIN",
            "PREPARE p AS SELECT 1",
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
        ] {
            let refusal = refusal(sql).await;
            assert!(!refusal.is_empty(), "{sql}");
        }
        assert!(refusal("SELECT 1; SELECT 2").await.contains("single"));
        assert!(refusal("").await.contains("No SQL"));
        assert!(refusal("DROP TABLE d").await.contains("only queries"));
        assert!(refusal("SELECT * FROM '/etc/passwd'").await.contains("not found"));
    }

    #[tokio::test]
    async fn names_that_look_like_the_clauses_are_fine() {
        let context = SessionContext::new();
        context.sql("CREATE TABLE version AS SELECT 1 AS timestamp, 2 AS version").await.unwrap();
        for sql in [
            "SELECT version.timestamp, version.version FROM version AS timestamp, version",
            "SELECT 'd VERSION AS OF 3' AS text",
            "SELECT at.a FROM version at(a, b)",
            "WITH q AS (SELECT 1) SELECT * FROM q",
            "SHOW TABLES",
        ] {
            let context = SessionContext::new_with_config(
                datafusion::prelude::SessionConfig::new().with_information_schema(true),
            );
            context.sql("CREATE TABLE version AS SELECT 1 AS timestamp, 2 AS version").await.unwrap();
            plan(&context.state(), sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }
}
