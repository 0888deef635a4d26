use arrow::util::display::array_value_to_string;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;
use crate::query::{QueryLimits, sql};

async fn context() -> SessionContext {
    let config = SessionConfig::new()
        .with_target_partitions(2)
        .set_bool("datafusion.sql_parser.enable_subquery_sort_elimination", false);
    let state = SessionStateBuilder::new().with_config(config).with_default_features();
    let context = SessionContext::new_with_state(extended(state).build());
    for table in [
        "trades AS SELECT column1 AS id, column2 AS sym, column3 AS t FROM (VALUES \
         (1, 'a', 10), (2, 'a', 20), (3, 'b', 15), (4, 'c', 15), (5, NULL, 15), (6, 'a', NULL))",
        "quotes AS SELECT column1 AS sym, column2 AS t, column3 AS price FROM (VALUES \
         ('a', 15, 2), ('a', 10, 1), ('b', 16, 4), ('a', 20, 3))",
        "limits AS SELECT column1 AS sym, column2 AS t, column3 AS cap FROM (VALUES ('a', 9, 90), ('a', 16, 160))",
        "labels AS SELECT column1 AS customer, to_timestamp(column2) AS at, column3 AS label FROM (VALUES \
         (7, 100, 'x'), (7, 200, 'y'), (8, 200, 'z'))",
        "scores AS SELECT column1 AS customer, to_timestamp(column2) AS event_time, \
         to_timestamp_millis(column3 * 1000) AS known_time, column4 AS offset, column5 AS score FROM (VALUES \
         (7, 90, 90, 1, 0.1), (7, 95, 150, 2, 0.2), (7, 95, 150, 3, 0.3), (8, 10, 10, 4, 0.4))",
        "\"visits.daily\" AS SELECT column1 AS who, to_timestamp(column2) AS seen, column3 AS pages FROM (VALUES \
         (7, 100, 5), (8, 150, 6))",
    ] {
        context.sql(&format!("CREATE TABLE {table}")).await.unwrap().collect().await.unwrap();
    }
    context
}

async fn planned(sql: &str) -> Result<LogicalPlan> {
    plan_in(&context().await, sql).await
}

async fn plan_in(context: &SessionContext, sql: &str) -> Result<LogicalPlan> {
    let mut state = context.state();
    let parsed = sql::parse(&state, sql, &QueryLimits::default())?;
    sql::plan(&mut state, parsed, sql::Pins::default()).await
}

/// The rows of the answer, their values separated by commas.
async fn rows(sql: &str) -> Vec<String> {
    let context = context().await;
    let plan = plan_in(&context, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let batches = DataFrame::new(context.state(), plan).collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            rows.push(values.collect::<Vec<_>>().join(","));
        }
    }
    rows
}

async fn refusal(sql: &str) -> String {
    match planned(sql).await {
        Ok(plan) => panic!("{sql} was planned:\n{}", plan.display_indent()),
        Err(error) => error.strip_backtrace(),
    }
}

/// How many point-in-time joins are in the plan of `sql`.
async fn joins(sql: &str) -> usize {
    let plan = planned(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    plan.display_indent().to_string().matches("PointInTimeJoin:").count()
}

#[tokio::test]
async fn each_operator_finds_the_nearest_row_on_its_side() {
    for (operator, expected) in [
        (">=", ["1,1", "2,3", "3,", "4,", "5,", "6,"]),
        (">", ["1,", "2,2", "3,", "4,", "5,", "6,"]),
        ("<=", ["1,1", "2,3", "3,4", "4,", "5,", "6,"]),
        ("<", ["1,2", "2,", "3,4", "4,", "5,", "6,"]),
    ] {
        let sql = format!(
            "SELECT l.id, r.price FROM trades AS l ASOF JOIN quotes AS r MATCH_CONDITION (l.t {operator} r.t) \
             ON l.sym = r.sym ORDER BY l.id"
        );
        assert_eq!(rows(&sql).await, expected, "{operator}");
    }
}

#[tokio::test]
async fn keys_can_be_written_in_each_way() {
    let begin = "SELECT id, price FROM trades ASOF JOIN quotes MATCH_CONDITION (trades.t >= quotes.t)";
    let expected = ["1,1", "2,3", "3,", "4,", "5,", "6,"];
    for keys in [
        "ON trades.sym = quotes.sym",
        "ON (quotes.sym = trades.sym)",
        "ON quotes.sym = trades.sym AND (trades.sym = quotes.sym AND upper(trades.sym) = upper(quotes.sym))",
        "USING (sym)",
    ] {
        assert_eq!(rows(&format!("{begin} {keys} ORDER BY id")).await, expected, "{keys}");
    }
    assert_eq!(rows(&format!("{begin} ORDER BY id")).await, ["1,1", "2,3", "3,2", "4,2", "5,2", "6,"]);
    let sql = "SELECT sym, price FROM trades ASOF JOIN quotes MATCH_CONDITION (trades.t >= quotes.t) USING (sym) \
               WHERE id = 2";
    assert_eq!(rows(sql).await, ["a,3"]);
    let sql = "SELECT * FROM trades AS l ASOF JOIN quotes AS r MATCH_CONDITION (l.t >= r.t) USING (sym) WHERE l.id = 2";
    assert_eq!(rows(sql).await, ["2,a,20,20,3"]);
}

#[tokio::test]
async fn joins_that_ask_for_the_same_spine_are_one() {
    let two = "SELECT l.id, q.price, c.cap FROM trades AS l ASOF JOIN quotes AS q MATCH_CONDITION (l.t >= q.t) \
               ON l.sym = q.sym ASOF JOIN limits AS c MATCH_CONDITION (";
    let same = format!("{two} l.t >= c.t) ON l.sym = c.sym ORDER BY l.id");
    assert_eq!(joins(&same).await, 1);
    assert_eq!(rows(&same).await, ["1,1,90", "2,3,160", "3,,", "4,,", "5,,", "6,,"]);
    let further = format!("{two} q.t > c.t) ON q.sym = c.sym ORDER BY l.id");
    assert_eq!(joins(&further).await, 2);
    assert_eq!(rows(&further).await, ["1,1,90", "2,3,160", "3,,", "4,,", "5,,", "6,,"]);
    let using = "SELECT id, sym, price, cap FROM trades AS l ASOF JOIN quotes AS q MATCH_CONDITION (l.t >= q.t) \
                 USING (sym) ASOF JOIN limits AS c MATCH_CONDITION (l.t >= c.t) USING (sym) ORDER BY id LIMIT 2";
    assert_eq!(joins(using).await, 1);
    assert_eq!(rows(using).await, ["1,a,1,90", "2,a,3,160"]);
}

#[tokio::test]
async fn as_of_joins_stand_wherever_joins_do() {
    let all = "SELECT l.id, q.price, n.name FROM trades AS l JOIN (VALUES ('a', 'A'), ('b', 'B')) AS n(sym, name) \
               ON l.sym = n.sym ASOF JOIN quotes AS q MATCH_CONDITION (l.t >= q.t) ON n.sym = q.sym \
               JOIN limits AS c ON c.cap = 90 WHERE l.id < 4 ORDER BY l.id";
    assert_eq!(rows(all).await, ["1,1,A", "2,3,A", "3,,B"]);
    let nested = "WITH w AS (SELECT * FROM trades WHERE id < 3) SELECT x.id, (SELECT max(l.id) FROM w AS l ASOF JOIN \
                  quotes AS q MATCH_CONDITION (l.t >= q.t) ON l.sym = q.sym) AS m FROM (w AS x ASOF JOIN quotes AS q \
                  MATCH_CONDITION (x.t >= q.t) ON x.sym = q.sym) ORDER BY 1";
    assert_eq!(rows(nested).await, ["1,2", "2,2"]);
    let explained = rows(
        "EXPLAIN SELECT l.id, q.price FROM trades AS l ASOF JOIN quotes AS q MATCH_CONDITION (l.t >= q.t) ON l.sym = q.sym",
    )
    .await
    .join("\n");
    for part in ["PointInTimeJoin: views=[{on=[", "match=[l.t >= q.t]}]", "PointInTimeJoinExec: views=[{on=["]
    {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    let aggregated = "SELECT count(*) AS n, sum(q.price) AS s FROM trades AS l ASOF JOIN quotes AS q \
                      MATCH_CONDITION (l.t >= q.t) ON l.sym = q.sym";
    assert_eq!(rows(aggregated).await, ["6,4"]);
}

#[tokio::test]
async fn rows_come_in_the_order_of_the_spine() {
    for (order, expected) in [
        ("id DESC", ["6,", "5,", "4,", "3,", "2,3", "1,1"]),
        ("t, id", ["1,1", "3,", "4,", "5,", "2,3", "6,"]),
    ] {
        let sql = format!(
            "SELECT l.id, q.price FROM (SELECT * FROM trades ORDER BY {order}) AS l ASOF JOIN quotes AS q \
             MATCH_CONDITION (l.t >= q.t) ON l.sym = q.sym"
        );
        assert_eq!(rows(&sql).await, expected, "{order}");
    }
}

#[tokio::test]
async fn times_of_day_and_decimal_numbers_are_times_too() {
    let sql = "SELECT l.id, r.x FROM (VALUES (1, TIME '10:00:00')) AS l(id, t) ASOF JOIN (VALUES (TIME '09:59:59', 5), \
               (TIME '10:00:01', 6)) AS r(t, x) MATCH_CONDITION (l.t >= r.t)";
    assert_eq!(rows(sql).await, ["1,5"]);
    let sql = "SELECT l.id, r.x FROM (VALUES (1, CAST(10 AS DECIMAL(10, 0)))) AS l(id, t) ASOF JOIN (VALUES (9, 5), (11, 6)) \
               AS r(t, x) MATCH_CONDITION (l.t >= r.t)";
    assert_eq!(rows(sql).await, ["1,5"]);
    let sql = "SELECT l.id, r.x FROM (VALUES (1, DATE '2026-01-02')) AS l(id, t) ASOF JOIN (VALUES \
               (TIMESTAMP '2026-01-01 23:59:59', 5), (TIMESTAMP '2026-01-02 00:00:01', 6)) AS r(t, x) \
               MATCH_CONDITION (l.t >= r.t)";
    assert_eq!(rows(sql).await, ["1,5"]);
}

#[tokio::test]
async fn what_snowflake_refuses_is_refused_with_the_reason() {
    for (join, part) in [
        ("MATCH_CONDITION (l.t = r.t) ON l.sym = r.sym", ">=, >, <= and <"),
        ("MATCH_CONDITION (r.t <= l.t) ON l.sym = r.sym", "left table first"),
        ("MATCH_CONDITION (l.t >= l.t) ON l.sym = r.sym", "left table first"),
        ("MATCH_CONDITION (l.t >= r.t + l.id) ON l.sym = r.sym", "columns of one side"),
        ("MATCH_CONDITION (l.t >= 5) ON l.sym = r.sym", "columns of one side"),
        ("MATCH_CONDITION (l.t >= r.t AND l.id > 3) ON l.sym = r.sym", ">=, >, <= and <"),
        ("MATCH_CONDITION (true)", "compare two times"),
        ("MATCH_CONDITION (l.t >= r.t) ON l.sym = r.sym OR l.id = r.price", "joined by AND"),
        ("MATCH_CONDITION (l.t >= r.t) ON l.id > r.price", "joined by AND"),
        ("MATCH_CONDITION (l.t >= r.t) ON l.id = l.t", "one side with the other"),
        ("MATCH_CONDITION (l.t >= r.t) ON l.id = 3", "columns of one side"),
        ("MATCH_CONDITION (l.t >= r.nothing) ON l.sym = r.sym", "nothing"),
        ("MATCH_CONDITION (l.t >= t) ON l.sym = r.sym", "t"),
        ("MATCH_CONDITION (l.t >= r.t) USING (price)", "price"),
    ] {
        let refusal = refusal(&format!("SELECT * FROM trades AS l ASOF JOIN quotes AS r {join}")).await;
        assert!(refusal.contains(part), "{join}: {refusal}");
    }
    let lateral = "SELECT * FROM trades AS l ASOF JOIN LATERAL (SELECT * FROM quotes) AS r MATCH_CONDITION (l.t >= r.t)";
    assert!(refusal(lateral).await.contains("LATERAL"));
    assert!(!refusal("SELECT * FROM trades AS l ASOF JOIN quotes AS r ON l.sym = r.sym").await.is_empty());
    assert!(
        refusal("SELECT * FROM trades ASOF JOIN nowhere MATCH_CONDITION (trades.t >= nowhere.t)")
            .await
            .contains("nowhere")
    );
    assert!(
        !refusal("SELECT * FROM trades ASOF JOIN trades MATCH_CONDITION (trades.t >= trades.t)")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_view_is_as_it_was_known() {
    let sql = "SELECT customer, label, scores__score FROM point_in_time(labels, at, keys => customer, scores) ORDER BY label";
    assert_eq!(rows(sql).await, ["7,x,0.1", "7,y,0.3", "8,z,0.4"]);
    let sql = "SELECT label, scores__score, scores__offset FROM point_in_time(labels, at, keys => customer, \
               view(scores, known => NULL)) ORDER BY label";
    assert_eq!(rows(sql).await, ["x,0.3,3", "y,0.3,3", "z,0.4,4"]);
    let sql = "SELECT label, scores__score FROM point_in_time(labels, at, keys => customer, \
               view(scores, ttl => INTERVAL '105 seconds')) ORDER BY label";
    assert_eq!(rows(sql).await, ["x,0.1", "y,0.3", "z,"]);
    let sql = "SELECT label, scores__score FROM point_in_time(labels, at, keys => customer, \
               view(scores, ttl => INTERVAL '104 seconds')) ORDER BY label";
    assert_eq!(rows(sql).await, ["x,0.1", "y,", "z,"]);
}

#[tokio::test]
async fn many_views_with_settings_of_their_own_are_one_join() {
    let sql = "WITH recent AS (SELECT * FROM scores WHERE score > 0.15) SELECT p.label, p.scores__score, p.r__score, \
               p.visits_daily__pages FROM point_in_time(spine => (SELECT * FROM labels WHERE label <> 'z'), time => 'at', \
               keys => ['customer'], scores, view((SELECT * FROM recent), prefix => 'r'), \
               view('visits.daily', keys => who, time => seen)) AS p ORDER BY p.label";
    assert_eq!(rows(sql).await, ["x,0.1,,5", "y,0.3,0.3,5"]);
    assert_eq!(joins(sql).await, 1);
    let names = planned("SELECT * FROM point_in_time(labels, at, keys => customer, scores)").await.unwrap();
    let names: Vec<String> = names.schema().columns().into_iter().map(|column| column.flat_name()).collect();
    assert_eq!(
        names,
        [
            "customer",
            "at",
            "label",
            "scores__event_time",
            "scores__known_time",
            "scores__offset",
            "scores__score"
        ]
    );
    let sql = "SELECT p.visits_daily__pages FROM point_in_time(labels, at, view(\"visits.daily\", spine_keys => (customer), \
               keys => (who), spine_time => at, time => seen)) AS p ORDER BY 1";
    assert_eq!(rows(sql).await, ["5", "5", "6"]);
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_refused_with_the_way_out() {
    for (arguments, part) in [
        ("", "is to begin with the spine"),
        ("labels", "is to begin with the spine"),
        ("labels, at", "needs a view"),
        ("labels, at, scores", "keys => "),
        ("labels, at, keys => nobody, scores", "no column nobody among customer, at, label"),
        (
            "labels, at, keys => customer, view(scores, time => never)",
            "no column never among customer, event_time",
        ),
        (
            "labels, at, keys => (customer, label), view(scores, keys => customer)",
            "1 keys of a view cannot be 2",
        ),
        ("labels, at, keys => customer, view(scores, lag => 1)", "no setting lag"),
        ("labels, at, keys => customer, view(scores, 5)", "has no name"),
        ("labels, at, keys => customer, view(scores, ttl => INTERVAL '1 month')", "interval of days"),
        ("labels, at, keys => customer, view(scores, ttl => INTERVAL '-1 day')", "interval of days"),
        ("labels, at, keys => customer, view()", "begin with a table"),
        ("labels, at, keys => customer, 5", "no table"),
        ("labels, at, keys => customer, nowhere", "nowhere"),
        ("labels, at, keys => customer, scores, scores", "scores__"),
        ("labels, at, sources => 3, scores", "no argument sources"),
        ("labels, at, keys => customer, *", "no value"),
        ("labels, 5, keys => customer, scores", "no column"),
    ] {
        let refusal = refusal(&format!("SELECT * FROM point_in_time({arguments})")).await;
        assert!(refusal.contains(part), "{arguments}: {refusal}");
    }
    // The function is none of tables in files or of other statements.
    assert!(!refusal("SELECT * FROM point_in_time('/etc/passwd', at, keys => a, scores)").await.is_empty());
}
