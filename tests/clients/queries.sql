-- Questions that every client asks, one a line; all of them have one answer, whoever asks. Where it can be known without isobar, it
-- follows as rows in JSON behind `--=`: times in UTC with six digits of a second, decimals and bytes as text.
SELECT 1 AS one, 'text' AS t, NULL AS nothing, true AS yes, false AS no
--= [[1, "text", null, true, false]]
SELECT count(*) AS n FROM flight_features
--= [[327346]]
SELECT origin, count(*) AS n, avg(arrival_delay_minutes) AS delay, max(scheduled_at) AS last FROM flight_features GROUP BY origin ORDER BY origin
SELECT * FROM flight_features ORDER BY kafka_partition, kafka_offset LIMIT 1000
SELECT * FROM weather_hourly ORDER BY kafka_partition, kafka_offset LIMIT 1000
SELECT carrier, late, count(*) AS n FROM flight_features GROUP BY carrier, late ORDER BY carrier, late
SELECT CAST(distance_miles AS DECIMAL(12, 3)) / 7 AS d, CAST(scheduled_at AS DATE) AS day, CAST(carrier AS VARCHAR) AS c, CAST(origin AS BYTEA) AS b FROM flight_features ORDER BY kafka_partition, kafka_offset LIMIT 10
SELECT DISTINCT destination FROM flight_features WHERE destination LIKE 'A%' ORDER BY 1
SELECT make_array(1, 2, NULL) AS numbers, make_array('a', 'b c', NULL, 'NULL', '{"x"}') AS words
--= [[[1, 2, null], ["a", "b c", null, "NULL", "{\"x\"}"]]]
SELECT named_struct('a', 1, 'b', make_array('x', NULL)) AS s, make_array(make_array(1), make_array(2, 3)) AS nested
--= [[{"a": 1, "b": ["x", null]}, [[1], [2, 3]]]]
SELECT CAST(1 AS TINYINT) AS i8, CAST(-2 AS SMALLINT) AS i16, CAST(3 AS INT) AS i32, CAST(-9223372036854775807 AS BIGINT) AS i64
--= [[1, -2, 3, -9223372036854775807]]
SELECT arrow_cast(255, 'UInt8') AS u8, arrow_cast(65535, 'UInt16') AS u16, arrow_cast(4294967295, 'UInt32') AS u32, arrow_cast('18446744073709551615', 'UInt64') AS u64
--= [[255, 65535, 4294967295, "18446744073709551615"]]
SELECT CAST(1.5 AS FLOAT) AS f32, CAST(0.1 AS DOUBLE) + CAST(0.2 AS DOUBLE) AS f64, CAST(1e300 AS DOUBLE) AS large, CAST(1e-300 AS DOUBLE) AS small
--= [[1.5, 0.30000000000000004, 1e300, 1e-300]]
SELECT CAST('123.450' AS DECIMAL(10, 3)) AS d, CAST('-0.001' AS DECIMAL(10, 3)) AS small, CAST('12345678901234567890123456789012345.678' AS DECIMAL(38, 3)) AS wide
--= [["123.450", "-0.001", "12345678901234567890123456789012345.678"]]
SELECT DATE '2013-07-01' AS day, DATE '1969-12-31' AS before, TIMESTAMP '2013-07-01T12:34:56.789012' AS plain, TIMESTAMP '2013-07-01T12:34:56Z' AS zoned
--= [["2013-07-01", "1969-12-31", "2013-07-01T12:34:56.789012", "2013-07-01T12:34:56.000000"]]
SELECT flight_number FROM flight_features WHERE 1 = 0
--= []
SELECT count(*) AS n FROM flight_features VERSION AS OF 1
WITH f AS (SELECT * FROM flight_features WHERE origin = 'JFK') SELECT f.carrier, count(*) AS n FROM f JOIN weather_hourly AS w ON f.origin = w.origin AND date_trunc('hour', f.scheduled_at) = w.observed_at GROUP BY f.carrier ORDER BY f.carrier
SELECT 'ä€😀' AS unicode, '' AS empty, 'a	b"\' AS odd
--= [["ä€😀", "", "a\tb\"\\"]]
SELECT count(*) AS n, sum(distance_miles) AS s FROM datasets.flight_features WHERE month = '2013-02' AND late
