-- Queries that mean no good, over the dataset `features` of the tests. tests/src/hostile.rs says how this file is read.

-- a cross join whose rows would never end
-- expect: limit
SELECT count(*) FROM range(10000000) AS a, range(10000000) AS b, range(10000000) AS c

-- a cross join of which no row passes
-- expect: limit
SELECT a.value FROM range(10000000) AS a CROSS JOIN range(10000000) AS b WHERE a.value + b.value < 0

-- a join without keys, the condition of which never holds
-- expect: limit
SELECT count(*) FROM range(2000000) AS a JOIN range(2000000) AS b ON a.value * b.value < 0

-- a dataset with itself, again and again
-- expect: limit
SELECT count(*) FROM features AS a, features AS b, features AS c, features AS d, features AS e, features AS f, features AS g WHERE a.id + b.id + c.id + d.id + e.id + f.id + g.id = 1.5

-- recursion without end
-- expect: limit longer
WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n

-- recursion that stands still
-- expect: limit
WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x FROM n) SELECT x FROM n WHERE x > 1

-- a series without end
-- expect: limit longer
SELECT sum(value) FROM generate_series(1, 9000000000000000000)

-- rows without end, all of them wanted
-- expect: limit
SELECT value FROM generate_series(1, 9000000000000000000)

-- recursion that doubles its rows
-- expect: limit
WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT n.x FROM n, range(100) AS r) SELECT x FROM n ORDER BY x

-- a thousand tables in one FROM
-- expect: limit joins 1000 tables
SELECT 1 FROM {{1000|, |features AS t#}}

-- a thousand joins
-- expect: limit joins
SELECT 1 FROM features{{1000|| JOIN features AS t# ON true}}

-- a thousand unions
-- expect: limit relations
{{1000| UNION ALL |SELECT # AS x}}

-- unions of subqueries in one another
-- expect: refused
{{300||SELECT * FROM (}}SELECT 1{{300||)}}

-- names that double what is behind them
-- expect: limit relations
WITH a0 AS (SELECT 1 AS x){{40||, a#+ AS (SELECT l.x FROM a# AS l, a# AS r)}} SELECT count(*) FROM a40

-- names that double by UNION
-- expect: limit relations
WITH a0 AS (SELECT id FROM features){{30||, a#+ AS (SELECT id FROM a# UNION ALL SELECT id FROM a#)}} SELECT count(*) FROM a30

-- names that double in subqueries of conditions
-- expect: limit relations
WITH a0 AS (SELECT 1 AS x){{30||, a#+ AS (SELECT x FROM a# WHERE x IN (SELECT x FROM a#))}} SELECT count(*) FROM a30

-- columns that double
-- expect: limit expressions
WITH a0 AS (SELECT id AS x FROM features){{40||, a#+ AS (SELECT x + x AS x FROM a#)}} SELECT count(*) FROM a40 WHERE x = 1

-- columns that double by CASE
-- expect: limit expressions
WITH a0 AS (SELECT id AS x FROM features){{30||, a#+ AS (SELECT CASE WHEN x > # THEN x ELSE x - 1 END AS x FROM a#)}} SELECT count(*) FROM a30 WHERE x = 1

-- texts that double
-- expect: limit
WITH a0 AS (SELECT city AS x FROM features){{12||, a#+ AS (SELECT x || x || x || x || x || x || x || x AS x FROM a#)}} SELECT max(length(x)) FROM a12

-- a long sum
-- expect: limit in one another
SELECT {{20000| + |1}}

-- a long list of conditions
-- expect: limit in one another
SELECT count(*) FROM features WHERE {{5000| OR |id = #}}

-- brackets in brackets
-- expect: refused
SELECT {{5000||(}}1{{5000||)}}

-- NOT NOT NOT
-- expect: refused
SELECT {{20000| |NOT}} true

-- minus minus minus
-- expect: refused
SELECT {{20000| |-}} 1

-- CASE in CASE
-- expect: refused
SELECT {{500| |CASE WHEN true THEN}} 1 {{500| |END}}

-- functions in functions
-- expect: refused
SELECT {{500||abs(}}1{{500||)}}

-- casts in one another that the parser reads in two ways each
-- expect: limit gave up
SELECT {{40||CAST(}}1 ! 1

-- positions that the parser reads in four ways each
-- expect: limit gave up
SELECT {{40||POSITION(}}1 ! 1

-- words that may be names, before signs
-- expect: limit gave up
SELECT {{40||NOT - }}1 ! 1

-- intervals of intervals
-- expect: limit gave up
SELECT {{40||INTERVAL - }}1 ! 1

-- arguments with names, in one another
-- expect: refused
SELECT {{40||f(a := }}1 ! 1

-- lists in lists
-- expect: refused
SELECT {{500||[}}1{{500||]}}

-- a list of a hundred thousand and one numbers
-- expect: limit bytes
SELECT count(*) FROM features WHERE id IN ({{100001|,|#}})

-- a list of thirty thousand numbers
-- expect: answer n
SELECT count(*) AS n FROM features WHERE id IN ({{30000|,|#}})

-- a text of a megabyte
-- expect: limit bytes
SELECT length('{{1000000||x}}')

-- comments of a megabyte
-- expect: limit bytes
SELECT 1 /* {{1000000||x}} */

-- values without end
-- expect: limit
SELECT count(*) FROM (VALUES {{60000|,|(#)}}) AS v

-- a row of five thousand columns
-- expect: limit columns
SELECT {{5000|,|#}}

-- all subsets of twenty keys
-- expect: limit sets
SELECT count(*) FROM features GROUP BY CUBE ({{20|,|id + #}})

-- subsets of subsets
-- expect: limit sets
SELECT count(*) FROM features GROUP BY CUBE (id, city, flag, items), CUBE (many, at, amount, kafka_offset), CUBE (id, city, flag, items)

-- a text of two gigabytes
-- expect: limit repeat
SELECT repeat('x', 2000000000)

-- a text of two gigabytes for each row
-- expect: limit repeat
SELECT length(repeat(city, 2000000000)) FROM features

-- a large text for each of many rows
-- expect: limit
SELECT max(length(repeat('x', 1000000) || value)) FROM range(1000000)

-- a constant of a megabyte beside every row
-- expect: limit too long
SELECT repeat('x', 1000000) FROM range(1000000)

-- a long value of a subquery beside every row
-- expect: limit too long
SELECT (SELECT max(repeat('x', 1000000 + value)) FROM range(1)) FROM range(1000000)

-- a long value beside every row of a window
-- expect: limit too long
SELECT first_value(s) OVER (ORDER BY value) FROM (SELECT value, CASE WHEN value = 0 THEN repeat('x', 1000000 + value) END AS s FROM range(100000))

-- padding
-- expect: limit lpad
SELECT lpad('x', 2000000000, 'y')

-- padding to the right
-- expect: limit rpad
SELECT rpad(city, 2000000000) FROM features

-- replacing each letter by a thousand
-- expect: limit replace
SELECT replace(repeat('x', 1000000), 'x', repeat('y', 1000))

-- replacing by a pattern
-- expect: limit regexp_replace
SELECT regexp_replace(repeat('x', 1000000), '(x)', '\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1', 'g')

-- a list of a billion
-- expect: limit range
SELECT array_length(range(0, 1000000000))

-- a list of seconds
-- expect: limit generate_series
SELECT generate_series(TIMESTAMP '1700-01-01', TIMESTAMP '2200-01-01', INTERVAL '1 second')

-- lists of lists of lists
-- expect: limit array_repeat
SELECT array_repeat(array_repeat(array_repeat(1, 1000), 1000), 1000)

-- a list that is made long
-- expect: limit array_resize
SELECT array_resize([1], 2000000000)

-- a list as a text with long separators
-- expect: limit array_to_string
SELECT array_to_string(range(0, 100000), repeat('x', 100000))

-- a null of eight gigabytes
-- expect: limit list
SELECT CAST(NULL AS BIGINT[1000000000])

-- a null of eight gigabytes by another name
-- expect: refused fixed
SELECT arrow_cast(NULL, 'FixedSizeList(1000000000, Int64)')

-- long texts that are joined
-- expect: limit too long
SELECT count(*) FROM (SELECT repeat('x', 100000 + id % 10) AS s FROM features) AS a JOIN features AS b ON a.s <> b.city

-- a list of a million beside a long text
-- expect: limit too long
SELECT count(*) FROM (SELECT unnest(r), s FROM (SELECT range(0, 100000 + value) AS r, repeat('x', 1000000 + value) AS s FROM range(2)))

-- lists in lists that are taken apart
-- expect: limit
SELECT count(*) FROM (SELECT unnest(r) AS r FROM (SELECT array_repeat(range(0, 1000), 1000) AS r FROM range(1000)))

-- two long texts, each letter with each
-- expect: limit levenshtein
SELECT levenshtein(repeat('x', 1000000), repeat('y', 1000000))

-- repetitions in repetitions
-- expect: limit pattern
SELECT count(*) FROM features WHERE city ~ '((((a{1,100}){1,100}){1,100}){1,100})'

-- the same in a function
-- expect: limit pattern
SELECT regexp_match('a', '((((\w{1,100}){1,100}){1,100}){1,100})')

-- the classic that backtracks
-- expect: answer false
SELECT (repeat('a', 100000) || '!') ~ '^(a+)+$' AS matches

-- a pattern for each row
-- expect: limit patterns
SELECT count(*) FROM range(1000000) AS r WHERE regexp_like('aaaa', 'a{' || (r.value % 1000) || '}')

-- a pattern of ten thousand letters
-- expect: limit pattern
SELECT city ~ '{{10000||a}}' FROM features

-- LIKE with many wildcards
-- expect: answer
SELECT count(*) AS n FROM features WHERE repeat('a', 10000) LIKE '{{100||%a}}%b'

-- an aggregate that keeps everything
-- expect: limit memory
SELECT array_length(array_agg(repeat('x', 100) || value)) FROM range(100000000)

-- a text of all rows
-- expect: limit memory
SELECT length(string_agg(repeat('x', 1000) || value, ',')) FROM range(100000000)

-- more groups than there is memory
-- expect: limit
SELECT count(*) FROM (SELECT value % 90000000 AS k, array_agg(value) FROM range(100000000) GROUP BY k)

-- different values without end
-- expect: limit
SELECT count(DISTINCT repeat('x', 100) || value) FROM range(100000000)

-- centroids without end
-- expect: limit centroids
SELECT approx_percentile_cont(0.5, 1000000000) WITHIN GROUP (ORDER BY id) FROM features

-- a window over everything
-- expect: limit memory
SELECT sum(value) OVER () FROM range(100000000)

-- a window over everything, for each row
-- expect: limit
SELECT max(value) OVER (PARTITION BY value % 3 ORDER BY value ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) FROM range(100000000)

-- sorting what does not end
-- expect: limit
SELECT value FROM range(1000000000) ORDER BY -value LIMIT 10 OFFSET 900000000

-- point-in-time joins without end
-- expect: limit
SELECT count(*) FROM features AS a{{200|| ASOF JOIN features AS t# MATCH_CONDITION (a.at >= t#.at) ON a.id = t#.id}}

-- a function given to a function
-- expect: refused
SELECT array_transform(range(0, 1000000), x -> repeat('x', 1000000))

-- COPY
-- expect: refused only queries
COPY features TO '/tmp/isobar-hostile.parquet'

-- COPY of a query
-- expect: refused only queries
COPY (SELECT 1) TO '/tmp/isobar-hostile.csv' STORED AS CSV

-- CREATE EXTERNAL TABLE
-- expect: refused only queries
CREATE EXTERNAL TABLE passwords STORED AS CSV LOCATION '/etc/passwd'

-- CREATE TABLE
-- expect: refused only queries
CREATE TABLE more AS SELECT * FROM range(100)

-- CREATE VIEW
-- expect: refused only queries
CREATE VIEW more AS SELECT * FROM features

-- CREATE FUNCTION
-- expect: refused
CREATE FUNCTION f(x INT) RETURNS INT RETURN x + 1

-- INSERT
-- expect: refused only queries
INSERT INTO features VALUES (1)

-- DELETE
-- expect: refused only queries
DELETE FROM features

-- UPDATE
-- expect: refused only queries
UPDATE features SET id = 1

-- DROP
-- expect: refused only queries
DROP TABLE features

-- SELECT INTO
-- expect: refused only queries
SELECT * INTO other FROM features

-- SET
-- expect: refused only queries
SET datafusion.execution.batch_size = 1

-- PREPARE
-- expect: refused only queries
PREPARE p AS SELECT 1

-- EXECUTE
-- expect: refused only queries
EXECUTE p

-- a transaction
-- expect: refused only queries
BEGIN

-- two statements
-- expect: refused single statement
SELECT 1; DROP TABLE features

-- EXPLAIN ANALYZE of a change
-- expect: refused only queries
EXPLAIN ANALYZE INSERT INTO features VALUES (1)

-- a file by its name
-- expect: refused not found
SELECT * FROM '/etc/passwd'

-- a file of a table by its name
-- expect: refused not found
SELECT * FROM 'data.parquet'

-- a file by its address
-- expect: refused not found
SELECT * FROM 'file:///etc/passwd'

-- an object in a store
-- expect: refused not found
SELECT * FROM 's3://bucket/key.parquet'

-- the log of a table
-- expect: refused not found
SELECT * FROM "features/_delta_log/00000000000000000000.json"

-- a function that reads files
-- expect: refused not found
SELECT * FROM read_parquet('/etc/passwd')

-- a function that reads the metadata of files
-- expect: refused not found
SELECT * FROM parquet_metadata('features.parquet')

-- a function that reads lines
-- expect: refused
SELECT pg_read_file('/etc/passwd')

-- the environment
-- expect: refused
SELECT getenv('HOME'), current_setting('data_directory')

-- settings
-- expect: refused settings
SHOW ALL

-- one setting
-- expect: refused settings
SHOW datafusion.runtime.temp_directory

-- settings as a table
-- expect: refused settings
SELECT * FROM information_schema.df_settings

-- settings as a table in a subquery
-- expect: refused settings
SELECT (SELECT max(value) FROM isobar.information_schema.df_settings)

-- which program this is
-- expect: refused version
SELECT version()

-- which file a row is from
-- expect: refused input_file_name
SELECT input_file_name() FROM features

-- names of tables and columns
-- expect: answer features
SELECT table_name, column_name FROM information_schema.columns

-- a plan with its files
-- expect: answer file_groups
EXPLAIN SELECT * FROM features

-- a plan with all that it did
-- expect: answer Plan
EXPLAIN ANALYZE VERBOSE SELECT max(amount), city FROM features GROUP BY city

-- a plan in every step
-- expect: answer
EXPLAIN VERBOSE SELECT id FROM features WHERE id > 1

-- a plan as a tree
-- expect: answer
EXPLAIN FORMAT TREE SELECT id FROM features

-- an error that might show a path
-- expect: refused
SELECT CAST(city AS BIGINT) FROM features WHERE city IS NOT NULL

-- a version that there is not
-- expect: refused there is
SELECT * FROM features VERSION AS OF 1000000

-- versions without end
-- expect: limit
SELECT count(*) FROM {{150|, |features VERSION AS OF # AS t#}}

-- a control character
-- expect: refused
SELECT * FROM "version"('1')

-- nothing
-- expect: refused
;

-- half a text
-- expect: refused
SELECT 'x

-- a division by zero
-- expect: refused
SELECT 1 / (id - id) FROM features
