//! What clients ask of the catalog, in their own words.

use arrow::array::Array;
use arrow::datatypes::TimeUnit;
use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;

use super::super::super::TableInfo;
use super::*;
use crate::query::TableVersion;

fn contents() -> Contents {
    let fields = vec![
        Field::new("x", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true)
            .with_metadata([("comment".to_owned(), "who".to_owned())].into_iter().collect()),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("xs", DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true))), true),
        Field::new("price", DataType::Decimal128(10, 2), true),
    ];
    let table = |name: &str, fields: Vec<Field>, comment: Option<&str>| TableInfo {
        name: name.to_owned(),
        version: TableVersion {
            table: name.to_owned(),
            version: 3,
            cloud: "aws".to_owned(),
            committed_ms: 0,
            sha256: String::new(),
        },
        schema: Arc::new(Schema::new(fields)),
        comment: comment.map(str::to_owned),
    };
    let weather = vec![Field::new("origin", DataType::Utf8, false)];
    let tables = vec![table("flights", fields, Some("Departures")), table("Weather data", weather, None)];
    let settings = [("search_path".to_owned(), "\"$user\", public".to_owned())];
    Contents::new("ana", tables).in_session(7, settings.into())
}

/// On a thread with a stack for any statement, as [`plan`] does it.
async fn answered(sql: &str) -> Result<(Vec<String>, Vec<String>), Failure> {
    let (watch, sql) = (Watch::start(&limits()), sql.to_owned());
    aside(&watch, async move { Ok(answer(&sql).await) }).await.unwrap()
}

async fn answer(sql: &str) -> Result<(Vec<String>, Vec<String>), Failure> {
    let planned = planned(parse(sql)?, &contents()).await?;
    let names = planned.names();
    let batches: Vec<RecordBatch> = planned.run(Vec::new()).await?.try_collect().await?;
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let value = |column: &Arc<dyn Array>| match column.is_null(row)
                || column.data_type() == &DataType::Null
            {
                true => "null".to_owned(),
                false => array_value_to_string(column, row).unwrap(),
            };
            rows.push(batch.columns().iter().map(value).collect::<Vec<_>>().join("|"));
        }
    }
    Ok((names, rows))
}

async fn rows(sql: &str) -> Vec<String> {
    answered(sql).await.unwrap_or_else(|failure| panic!("{sql}: {failure:?}")).1
}

fn oid() -> String {
    contents().oid_of_relation("flights").unwrap().to_string()
}

#[tokio::test]
async fn everything_that_psql_asks_is_answered() {
    let questions = include_str!("psql.sql").replace("OID", &oid());
    let questions: Vec<&str> = questions.split(";\n").filter(|sql| sql.contains("SELECT")).collect();
    assert!(questions.len() > 20, "{}", questions.len());
    for sql in questions {
        assert!(may_be_about(sql), "{sql}");
        assert!(Relations::of(&parse(sql).unwrap()).is_about_the_catalog(), "{sql}");
        rows(sql).await;
    }
}

#[tokio::test]
async fn psql_lists_tables_and_their_columns() {
    let listed = "SELECT n.nspname as \"Schema\", c.relname as \"Name\", \
                  CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' END as \"Type\", \
                  pg_catalog.pg_get_userbyid(c.relowner) as \"Owner\", \
                  pg_catalog.obj_description(c.oid, 'pg_class') as \"Description\" \
                  FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                  WHERE c.relkind IN ('r','p','') AND n.nspname !~ '^pg_toast' AND pg_catalog.pg_table_is_visible(c.oid) \
                  ORDER BY 1,2";
    let (names, rows_listed) = answered(listed).await.unwrap();
    assert_eq!(names, ["Schema", "Name", "Type", "Owner", "Description"]);
    assert_eq!(
        rows_listed,
        ["datasets|Weather data|table|isobar|null", "datasets|flights|table|isobar|Departures"]
    );
    let found = "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c \
                 LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relname OPERATOR(pg_catalog.~) '^(flights)$' COLLATE pg_catalog.default \
                 AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3";
    assert_eq!(rows(found).await, [format!("{}|datasets|flights", oid())]);
    let columns = format!(
        "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), \
         (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) FROM pg_catalog.pg_attrdef d \
          WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef), \
         a.attnotnull, pg_catalog.col_description(a.attrelid, a.attnum) \
         FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = '{}' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        oid()
    );
    let (names, rows_of_columns) = answered(&columns).await.unwrap();
    assert_eq!(names, ["attname", "format_type", "pg_get_expr", "attnotnull", "col_description"]);
    assert_eq!(
        rows_of_columns,
        [
            "x|bigint|null|true|null",
            "name|text|null|false|who",
            "at|timestamp with time zone|null|false|null",
            "xs|integer[]|null|false|null",
            "price|numeric(10,2)|null|false|null",
        ]
    );
}

#[tokio::test]
async fn the_server_says_what_it_is() {
    let cases = [
        ("SELECT current_database(), current_schema(), current_user", "isobar|datasets|ana"),
        ("SELECT current_schema, session_user, pg_backend_pid()", "datasets|ana|7"),
        ("SELECT current_setting('search_path')", "\"$user\", public"),
        ("SELECT pg_catalog.pg_is_in_recovery()", "false"),
        (
            "SELECT has_table_privilege('flights', 'SELECT'), has_schema_privilege('datasets', 'CREATE')",
            "true|false",
        ),
        ("SELECT 'a' = ANY (current_schemas(true)), 'datasets' = ANY (current_schemas(false))", "false|true"),
        ("SELECT to_regclass('flights') IS NULL, to_regclass('datasets.absent') IS NULL", "false|true"),
    ];
    for (sql, row) in cases {
        assert!(may_be_about(sql), "{sql}");
        assert_eq!(rows(sql).await, [row], "{sql}");
    }
    assert!(rows("SELECT version()").await[0].starts_with("PostgreSQL 16.4 (isobar "));
    let (names, _) =
        answered("SELECT version(), 1, pg_catalog.current_database(), 'x' AS \"Y\"").await.unwrap();
    assert_eq!(names, ["version", "?column?", "current_database", "Y"]);
}

#[tokio::test]
async fn names_of_relations_and_types_stand_for_numbers() {
    let sql = "SELECT c.oid::regclass, c.oid::regclass::oid = c.oid, c.oid = 'datasets.flights'::regclass \
               FROM pg_class c WHERE c.oid = 'flights'::regclass";
    assert_eq!(rows(sql).await, ["flights|true|true"]);
    let sql = "SELECT 'pg_class'::regclass::oid, 'text'::regtype::oid, 25::oid::regtype, 'datasets'::regnamespace::oid";
    assert_eq!(rows(sql).await, ["1259|25|text|2200"]);
    let failure = answered("SELECT 'absent'::regclass").await.unwrap_err();
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (code::UNDEFINED_TABLE, "relation \"absent\" does not exist")
    );
}

#[tokio::test]
async fn jdbc_finds_tables_and_columns() {
    let tables = r#"SELECT current_database() AS "TABLE_CAT", n.nspname AS "TABLE_SCHEM", c.relname AS "TABLE_NAME",
        CASE n.nspname ~ '^pg_' OR n.nspname = 'information_schema'
          WHEN true THEN CASE WHEN n.nspname = 'pg_catalog' THEN 'SYSTEM TABLE' ELSE NULL END
          WHEN false THEN CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'v' THEN 'VIEW' ELSE NULL END
          ELSE NULL END AS "TABLE_TYPE",
        d.description AS "REMARKS", '' as "TYPE_CAT", '' as "TYPE_SCHEM", '' as "TYPE_NAME"
        FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c
        LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 and d.classoid = 'pg_class'::regclass)
        WHERE c.relnamespace = n.oid AND c.relname LIKE 'fl%'
        AND (false OR ( c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ))
        ORDER BY "TABLE_TYPE","TABLE_SCHEM","TABLE_NAME""#;
    assert_eq!(rows(tables).await, ["isobar|datasets|flights|TABLE|Departures|||"]);
    let columns = r"SELECT * FROM (SELECT current_database() AS current_database, n.nspname,c.relname,a.attname,a.atttypid,
        a.attnotnull OR (t.typtype = 'd' AND t.typnotnull) AS attnotnull,a.atttypmod,a.attlen,t.typtypmod,
        row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS attnum, nullif(a.attidentity, '') as attidentity,
        nullif(a.attgenerated, '') as attgenerated,
        pg_catalog.pg_get_expr(def.adbin, def.adrelid) AS adsrc,dsc.description,t.typbasetype,t.typtype
        FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON (c.relnamespace = n.oid)
        JOIN pg_catalog.pg_attribute a ON (a.attrelid=c.oid) JOIN pg_catalog.pg_type t ON (a.atttypid = t.oid)
        LEFT JOIN pg_catalog.pg_attrdef def ON (a.attrelid=def.adrelid AND a.attnum = def.adnum)
        LEFT JOIN pg_catalog.pg_description dsc ON (c.oid=dsc.objoid AND a.attnum = dsc.objsubid)
        LEFT JOIN pg_catalog.pg_class dc ON (dc.oid=dsc.classoid AND dc.relname='pg_class')
        LEFT JOIN pg_catalog.pg_namespace dn ON (dc.relnamespace=dn.oid AND dn.nspname='pg_catalog')
        WHERE c.relkind in ('r','p','v','f','m') and a.attnum > 0 AND NOT a.attisdropped AND c.relname LIKE 'flights') c
        WHERE true ORDER BY nspname,c.relname,attnum";
    let found = rows(columns).await;
    assert_eq!(found.len(), 5);
    assert_eq!(found[1], "isobar|datasets|flights|name|25|false|-1|-1|-1|2|null|null|null|who|0|b");
    // Keys and indexes are asked for in queries that the planner does not know; there are none.
    let keys = "SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, ct.relname AS TABLE_NAME, a.attname AS COLUMN_NAME, \
                (information_schema._pg_expandarray(i.indkey)).n AS KEY_SEQ, ci.relname AS PK_NAME \
                FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid) \
                JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid) \
                JOIN pg_catalog.pg_index i ON ( a.attrelid = i.indrelid) \
                JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) WHERE true AND i.indisprimary";
    let (names, none) = answered(keys).await.unwrap();
    assert_eq!((names[1].as_str(), names[4].as_str(), none.len()), ("table_schem", "key_seq", 0));
}

#[tokio::test]
async fn tools_find_tables_and_columns() {
    // DBeaver: a column twice.
    let sql = "SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n \
               LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=n.oid AND d.objsubid=0 \
               AND d.classoid='pg_namespace'::regclass ORDER BY nspname";
    let (names, found) = answered(sql).await.unwrap();
    assert_eq!(names, ["oid", "oid", "nspname", "nspowner", "nspacl", "description"]);
    assert_eq!(found[0], "2200|2200|datasets|10|null|null");
    // Grafana.
    let sql = "SELECT CASE WHEN quote_ident(table_schema) IN (SELECT CASE WHEN trim(s[i]) = '\"$user\"' THEN user \
               ELSE trim(s[i]) END FROM generate_series(array_lower(string_to_array(current_setting('search_path'),','),1), \
               array_upper(string_to_array(current_setting('search_path'),','),1)) as i, \
               string_to_array(current_setting('search_path'),',') s) THEN quote_ident(table_name) \
               ELSE quote_ident(table_schema) || '.' || quote_ident(table_name) END AS \"table\" \
               FROM information_schema.tables WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog') \
               ORDER BY 1";
    assert_eq!(rows(sql).await, ["\"Weather data\"", "flights"]);
    let sql = "SELECT quote_ident(column_name) AS \"column\", data_type AS \"type\" FROM information_schema.columns \
               WHERE table_name = 'flights' AND data_type IN ('bigint','numeric','ARRAY') ORDER BY ordinal_position";
    assert_eq!(rows(sql).await, ["x|bigint", "xs|ARRAY", "price|numeric"]);
    let sql =
        "SELECT table_schema, table_name, table_type FROM information_schema.tables ORDER BY table_name";
    assert_eq!(rows(sql).await, ["datasets|Weather data|BASE TABLE", "datasets|flights|BASE TABLE"]);
    // SQLAlchemy.
    let sql = "SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace \
               ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace \
               WHERE pg_catalog.pg_class.relkind = ANY (ARRAY['r', 'p']) \
               AND pg_catalog.pg_class.relpersistence != 't' AND pg_catalog.pg_namespace.nspname = 'datasets' ORDER BY 1";
    assert_eq!(rows(sql).await, ["Weather data", "flights"]);
}

#[tokio::test]
async fn what_is_not_there_is_an_error() {
    for (sql, code) in [
        ("SELECT pg_sleep(1) FROM pg_class", code::UNDEFINED_FUNCTION),
        ("SELECT absent FROM pg_class", code::UNDEFINED_COLUMN),
        ("SELECT current_setting('absent')", code::UNDEFINED_OBJECT),
        ("INSERT INTO pg_class SELECT * FROM pg_class", code::READ_ONLY),
    ] {
        let failure = answered(sql).await.expect_err(sql);
        assert_eq!(failure.code, code, "{sql}: {}", failure.message);
    }
}

#[tokio::test]
async fn names_are_written_as_in_a_query_and_do_not_grow_without_end() {
    let sql = "SELECT quote_ident('a'), quote_ident('B c'), quote_ident('d\"'), pg_catalog.quote_ident(quote_ident('1')), \
               quote_ident(NULL), version() IS NULL";
    assert_eq!(rows(sql).await, [r#"a|"B c"|"d"""|"""1"""|null|false"#]);
    // Each doubles the quotes.
    let (begin, quotes, end) = ("quote_ident(".repeat(8), "\"".repeat(200), ")".repeat(8));
    let failure = answered(&format!("SELECT {begin}'{quotes}'{end}, version()")).await.unwrap_err();
    assert!(failure.message.contains("10000 bytes"), "{failure:?}");
}

#[tokio::test]
async fn the_catalog_is_asked_within_limits() {
    let sums = format!("SELECT {}1 FROM pg_class", "1+".repeat(30_000));
    let casts = format!("SELECT {} FROM pg_class", "CAST(".repeat(30));
    let stars = format!("SELECT {} 1 FROM pg_class c", "c.*,".repeat(500));
    for sql in
        [sums.as_str(), casts.as_str(), stars.as_str(), "SELECT repeat(relname, 100000000) FROM pg_class"]
    {
        let failure = answered(sql).await.expect_err(sql);
        // Where brackets end too early, it depends on which of two limits the parser meets first.
        let is_a_limit = failure.code == code::PROGRAM_LIMIT
            || sql == casts && failure.message.to_lowercase().contains("recursion");
        assert!(is_a_limit, "{sql:.80}: {failure:?}");
    }
    let (names, found) = answered("SELECT oid, oid, 1 AS oid, nspname, oid FROM pg_namespace").await.unwrap();
    assert_eq!((names.join(" ").as_str(), found.len()), ("oid oid oid nspname oid", 3));
}

#[test]
fn queries_of_data_are_not_of_the_catalog() {
    let is_own = |sql: &str| may_be_about(sql) && Relations::of(&parse(sql).unwrap()).is_about_the_catalog();
    for sql in [
        "SELECT * FROM flights",
        "SELECT version FROM flights VERSION AS OF 1",
        "SELECT 'pg_class', \"pg_type\" FROM flights",
        "SELECT version(), x FROM flights",
        "SELECT x FROM flights WHERE x IN (SELECT oid FROM pg_class)",
        "SELECT 1",
    ] {
        assert!(!may_be_about(sql) || !is_own(sql), "{sql}");
    }
    for sql in [
        "SELECT version()",
        "select * from PG_CATALOG.pg_class",
        "WITH a AS (SELECT * FROM pg_class) SELECT * FROM a",
        "SELECT * FROM information_schema.columns",
    ] {
        assert!(is_own(sql), "{sql}");
    }
}

#[test]
fn a_query_without_rows_is_recognised() {
    let is_empty = |sql: &str| match parse(sql).unwrap() {
        Statement::Query(query) => nothing::is_empty(&query),
        _ => panic!("{sql}"),
    };
    for sql in [
        "SELECT a FROM pg_index",
        "SELECT a FROM pg_class c, pg_inherits i WHERE true",
        "SELECT a FROM pg_class c JOIN pg_index i ON true LEFT JOIN pg_type t ON true",
        "SELECT a FROM pg_class c RIGHT JOIN pg_index i ON true",
        "SELECT count(*) FROM pg_index GROUP BY a",
        "SELECT (SELECT count(*) FROM pg_class) FROM pg_policy",
        "SELECT a FROM pg_index UNION SELECT a FROM pg_policy ORDER BY 1",
        "SELECT a FROM (SELECT a FROM pg_trigger) AS t",
        "SELECT a FROM information_schema.table_constraints",
    ] {
        assert!(is_empty(sql), "{sql}");
    }
    for sql in [
        "SELECT count(*) FROM pg_index",
        "SELECT 1 FROM pg_index HAVING true",
        "SELECT a FROM pg_class c LEFT JOIN pg_index i ON true",
        "SELECT a FROM pg_class c JOIN pg_index i ON true RIGHT JOIN pg_type t ON true",
        "SELECT a FROM pg_index i FULL JOIN pg_class c ON true",
        "SELECT a FROM pg_index UNION SELECT a FROM pg_class",
        "WITH pg_index AS (SELECT 1) SELECT a FROM pg_index",
        "SELECT a FROM other.pg_index",
    ] {
        assert!(!is_empty(sql), "{sql}");
    }
}
