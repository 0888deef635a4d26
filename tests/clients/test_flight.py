"""Flight SQL by the clients that people have: ADBC, JDBC with the calls of DBeaver, and curl beside them give the same answers.

    ISOBAR_BIN=target/release/isobar $(tests/services/services python tests/clients/flight-requirements.txt) \\
        -m unittest discover --start-directory tests/clients --pattern test_flight.py
"""

import pathlib
import re
import tempfile
import threading
import unittest
import unittest.mock

import clients
import duckdb
import flight
from adbc_driver_flightsql import DatabaseOptions
from clients import ROWS, SERVE, TOKEN, TOKENS, WEATHER_TOKEN
from deltalake import DeltaTable

ROOT = pathlib.Path(__file__).resolve().parents[2]
TLS = "grpc+tls"
BY_ORIGIN = "SELECT origin, count(*) AS n, avg(arrival_delay_minutes) AS delay FROM flight_features GROUP BY origin ORDER BY origin"
# Flight SQL sends signed numbers, and says so of one that does not fit.
TOO_LARGE = "arrow_cast('18446744073709551615', 'UInt64')"
SPECIAL = "SELECT CAST('NaN' AS DOUBLE) AS a, CAST('inf' AS DOUBLE) AS b, CAST('-inf' AS DOUBLE) AS c, CAST('-0.0' AS DOUBLE) AS d"
# Functions and syntax that DuckDB has not, and what has another type there.
ONLY_HERE = ["make_array", "named_struct", "arrow_cast", "VERSION AS OF", "/ 7", "sum("]
MISTAKES = ["SELECT nothing FROM flight_features", "SELECT * FROM nowhere", "SELECT FROM WHERE", "DROP TABLE flight_features",
            "INSERT INTO flight_features VALUES (1)", "SELECT 1; SELECT 2", "SELECT * FROM flight_features VERSION AS OF 100000"]


def setUpModule():
    folder = pathlib.Path(unittest.enterModuleContext(tempfile.TemporaryDirectory())) / "demo"
    topology = clients.demo(folder)
    topology.write_text(topology.read_text() + SERVE)
    Served.folder = folder
    Served.addresses = unittest.enterModuleContext(flight.server(topology, TOKENS))
    Served.adbc = unittest.enterModuleContext(flight.Adbc(Served.addresses.flight, TOKEN))
    Served.jdbc = unittest.enterModuleContext(flight.Jdbc(Served.addresses.flight, TOKEN))
    Served.curl = flight.Curl(Served.addresses.http, TOKEN)


class Served(unittest.TestCase):
    """What all tests below share: one server, and a client of each kind."""

    def clients(self):
        return {"adbc": self.adbc, "jdbc": self.jdbc, "curl": self.curl}

    def same(self, sql, values=()):
        answers = {name: client.query(sql, values) for name, client in self.clients().items()}
        for name, answer in answers.items():
            self.assertEqual(answer, answers["adbc"], f"{name}: {sql} {values}")
        return answers["adbc"]


class Answers(Served):
    def test_all_clients_get_the_same_answers_and_they_are_right(self):
        known = {sql: rows for sql, rows in clients.answers().items() if TOO_LARGE not in sql}
        self.assertGreater(len(known), 5)
        for sql in clients.queries():
            with self.subTest(sql):
                answer = self.same(sql.replace(TOO_LARGE, "arrow_cast('9223372036854775807', 'UInt64')"))
                self.assertEqual(answer.rows, known.get(sql, answer.rows))
        self.assertEqual(self.same(SPECIAL).rows, [["NaN", "Infinity", "-Infinity", -0.0]])
        self.same("EXPLAIN SELECT count(*) FROM flight_features WHERE month = '2013-01'")

    def test_another_engine_finds_the_same_in_the_files(self):
        """DuckDB, of what deltalake reads: no code of isobar has part in it."""
        database, agreed = duckdb.connect(), 0
        folder = self.folder / "aws" / "datasets"
        for name in ("flight_features", "weather_hourly"):
            database.register(name, DeltaTable(str(folder / name)).to_pyarrow_table())
        for sql in clients.queries():
            if any(word in sql for word in ONLY_HERE):
                continue
            with self.subTest(sql):
                expected = flight.table_of(database.sql(sql.replace("datasets.", "")).to_arrow_table())
                answer = self.adbc.query(sql)
                self.assertEqual(answer.columns, expected.columns)
                self.assertEqual(len(answer.rows), len(expected.rows))
                for row, wanted in zip(answer.rows, expected.rows):
                    self.assert_close(row, wanted)
                agreed += 1
        self.assertGreaterEqual(agreed, 13)
        old = DeltaTable(str(folder / "flight_features"), version=1).to_pyarrow_table().num_rows
        self.assertEqual(self.adbc.query("SELECT count(*) AS n FROM flight_features VERSION AS OF 1").rows, [[old]])
        self.assertLess(old, ROWS)

    def assert_close(self, row, wanted):
        """The last digit of a mean depends on the order in which it is summed up."""
        for value, other in zip(row, wanted, strict=True):
            if isinstance(value, float) and isinstance(other, float):
                self.assertAlmostEqual(value, other, delta=abs(other) * 1e-12)
            else:
                self.assertEqual(value, other, f"{row} {wanted}")

    def test_a_number_that_does_not_fit_is_no_other_number(self):
        for client in (self.adbc, self.jdbc):
            with self.assertRaisesRegex(flight.Refused, "CAST"):
                client.query(f"SELECT {TOO_LARGE} AS n")
        self.same(f"SELECT CAST({TOO_LARGE} AS DECIMAL(20, 0)) AS n")

    def test_values_are_bound(self):
        rows = "SELECT count(*) AS n FROM flight_features WHERE "
        for sql, values in [
            (rows + "origin = $1 AND arrival_delay_minutes > $2", ("JFK", 30)),
            (rows + "distance_miles > $1 AND distance_miles < $2", (0, 5_000_000_000)),
            (rows + "kafka_offset < $1", (5_000_000_000,)),
            (rows + "CAST(distance_miles AS DOUBLE) / 2 > $1", (500.25,)),
            (rows + "carrier = $1", (None,)),
            ("SELECT $1 || carrier AS c FROM flight_features ORDER BY kafka_partition, kafka_offset LIMIT 3", ("'; ? $1 --",)),
            (rows + "scheduled_at >= CAST(CAST($1 AS VARCHAR) AS TIMESTAMP)", ("2013-07-01T00:00:00",)),
        ]:
            with self.subTest(sql, values=values):
                self.same(sql, values)

    def test_a_statement_runs_again_with_other_values(self):
        sql = "SELECT count(*) AS n FROM flight_features WHERE origin = ? AND month = ?"
        counts = [self.jdbc.query(sql, ("JFK", "2013-01")), self.jdbc.again(("EWR", "2013-02")), self.jdbc.again(("JFK", "2013-01"))]
        expected = [self.adbc.query(sql, values) for values in (("JFK", "2013-01"), ("EWR", "2013-02"), ("JFK", "2013-01"))]
        self.assertEqual(counts, expected)
        self.assertNotEqual(counts[0], counts[1])

    def test_a_time_is_bound_to_the_millisecond(self):
        """The driver sends milliseconds whatever the unit of the column is."""
        sql = "SELECT count(*) AS n FROM flight_features WHERE scheduled_at >= ?"
        bound = self.jdbc.ask("prepared", sql, "timestamp", "2013-07-01 00:00:00.5")
        self.assertEqual(bound, self.adbc.query(sql.replace("?", "TIMESTAMP '2013-07-01T00:00:00.5Z'")))
        self.assertNotIn(bound.rows[0][0], (0, ROWS))

    def test_mistakes_and_writes_are_refused_by_all(self):
        for sql in MISTAKES:
            for name, client in self.clients().items():
                with self.subTest(sql, client=name), self.assertRaises(flight.Refused):
                    client.query(sql)
        with self.assertRaisesRegex(flight.Refused, "only queries"):
            self.jdbc.ask("update", "DELETE FROM flight_features")
        for client in (self.adbc, self.jdbc):
            with self.assertRaisesRegex(flight.Refused, "placeholders"):
                client.query("SELECT count(*) FROM flight_features WHERE origin = $2", ("JFK",))
        self.same("SELECT 1 AS one")

    def test_a_whole_table_comes_in_batches(self):
        with self.adbc.connection.cursor() as cursor:
            cursor.execute("SELECT * FROM flight_features")
            batches = list(cursor.fetch_record_batch())
        self.assertEqual(sum(batch.num_rows for batch in batches), ROWS)
        self.assertGreater(len(batches), 10)

    def test_a_query_is_cancelled(self):
        endless = "SELECT a.carrier FROM flight_features a, flight_features b"
        ended = self.jdbc.ask("cancel", endless)
        self.assertLess(ended["rows"], 5_000_000, ended)
        with self.adbc.connection.cursor() as cursor:
            cursor.execute(endless)
            rows = cursor.fetch_record_batch()
            rows.read_next_batch()
            cursor.adbc_cancel()
            with self.assertRaises(Exception):
                for _ in rows:
                    pass
        self.same("SELECT 1 AS one")

    def test_many_clients_at_once(self):
        expected, answers = self.adbc.query(BY_ORIGIN), []

        def ask():
            with flight.Adbc(self.addresses.flight, TOKEN) as client:
                answers.append(client.query(BY_ORIGIN))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(answers, [expected] * 8)


class Tokens(Served):
    def test_nobody_without_a_token_of_the_server(self):
        for token in (None, "another-token-altogether"):
            with self.subTest(token), self.assertRaises(flight.Refused):
                with flight.Adbc(self.addresses.flight, token) as client:
                    client.query("SELECT 1")
            with self.subTest(token), self.assertRaises(flight.Refused), flight.Jdbc(self.addresses.flight, token) as client:
                client.query("SELECT 1")

    def test_user_and_password(self):
        with flight.Adbc(self.addresses.flight, options={"username": "anybody", "password": TOKEN}) as client:
            self.assertEqual(client.query("SELECT 1 AS one").rows, [[1]])

    def test_a_role_sees_its_tables_only(self):
        with flight.Adbc(self.addresses.flight, WEATHER_TOKEN) as adbc, flight.Jdbc(self.addresses.flight, WEATHER_TOKEN) as jdbc:
            self.assertEqual(jdbc.metadata("getTables", None, None, None, None).values("TABLE_NAME"), ["weather_hourly"])
            sql = "SELECT count(*) AS n FROM weather_hourly"
            self.assertEqual(adbc.query(sql), self.adbc.query(sql))
            for client in (adbc, jdbc):
                with self.assertRaises(flight.Refused):
                    client.query("SELECT count(*) FROM flight_features")


class Metadata(Served):
    TABLES = ["flight_features", "flight_features_quarantine", "weather_hourly", "weather_hourly_quarantine"]

    def test_what_dbeaver_asks(self):
        jdbc = self.jdbc
        self.assertEqual(jdbc.metadata("getCatalogs").values("TABLE_CAT"), ["isobar"])
        self.assertEqual(jdbc.metadata("getSchemas").values("TABLE_SCHEM"), ["datasets"])
        self.assertEqual(jdbc.metadata("getSchemas", "isobar", "data%").values("TABLE_CATALOG"), ["isobar"])
        self.assertEqual(jdbc.metadata("getTableTypes").values("TABLE_TYPE"), ["TABLE"])
        tables = jdbc.metadata("getTables", "isobar", "datasets", "%", None)
        self.assertEqual(set(tables.values("TABLE_TYPE")), {"TABLE"})
        self.assertLessEqual(set(tables.values("TABLE_NAME")), set(self.TABLES))
        self.assertLessEqual({"flight_features", "weather_hourly"}, set(tables.values("TABLE_NAME")))
        self.assertEqual(jdbc.metadata("getTables", None, None, "flight\\_features", "TABLE").values("TABLE_NAME"), ["flight_features"])
        self.assertEqual(jdbc.metadata("getTables", "other", None, None, None).rows, [])
        self.assertEqual(jdbc.metadata("getTables", None, None, None, "VIEW").rows, [])

        columns = jdbc.metadata("getColumns", "isobar", "datasets", "flight\\_features", "%")
        described = self.adbc.query("DESCRIBE flight_features")
        self.assertEqual(columns.values("COLUMN_NAME"), described.values("column_name"))
        self.assertEqual(columns.values("ORDINAL_POSITION"), list(range(1, len(described.rows) + 1)))
        self.assertEqual(columns.values("IS_NULLABLE"), described.values("is_nullable"))
        kinds = dict(zip(columns.values("COLUMN_NAME"), columns.values("TYPE_NAME")))
        self.assertEqual((kinds["carrier"], kinds["late"], kinds["distance_miles"], kinds["kafka_offset"]),
                         ("VARCHAR", "BOOLEAN", "INTEGER", "BIGINT"))
        self.assertTrue(kinds["scheduled_at"].startswith("TIMESTAMP"), kinds)
        self.assertEqual(len(jdbc.metadata("getColumns", None, None, "weather\\_hourly", "orig%").rows), 1)

        for method in ("getPrimaryKeys", "getImportedKeys", "getExportedKeys"):
            self.assertEqual(jdbc.metadata(method, "isobar", "datasets", "flight_features").rows, [], method)
        cross = ["isobar", "datasets", "flight_features"] * 2
        self.assertEqual(jdbc.metadata("getCrossReference", *cross).rows, [])
        # The driver answers these by itself; they must not fail.
        jdbc.metadata("getTypeInfo")
        jdbc.metadata("getIndexInfo", "isobar", "datasets", "flight_features", "false", "true")
        jdbc.metadata("getProcedures", None, None, None)
        jdbc.metadata("getFunctions", None, None, None)

    def test_what_the_server_says_of_itself(self):
        said = self.jdbc.ask("product")
        self.assertEqual({method: why for method, why in said.items() if isinstance(why, dict)}, {}, "methods that fail")
        for method, expected in {
            "getDatabaseProductName": "isobar", "isReadOnly": True, "supportsTransactions": False, "supportsBatchUpdates": False,
            "getIdentifierQuoteString": '"', "getSearchStringEscape": "\\", "getDefaultTransactionIsolation": 0,
            "supportsGroupBy": True, "supportsUnionAll": True, "supportsFullOuterJoins": True, "supportsStoredProcedures": False,
            "getCatalogTerm": "catalog", "getSchemaTerm": "schema", "supportsSelectForUpdate": False, "supportsConvert": True,
        }.items():
            self.assertEqual(said[method], expected, method)
        self.assertRegex(said["getDatabaseProductVersion"], r"^\d+\.\d+\.\d+$")
        for method, name in {"getSQLKeywords": "ORDER", "getNumericFunctions": "sqrt", "getStringFunctions": "upper",
                             "getTimeDateFunctions": "date_trunc", "getSystemFunctions": "coalesce"}.items():
            self.assertIn(name, said[method].split(", "), method)

    def test_what_adbc_asks(self):
        connection = self.adbc.connection
        self.assertEqual(connection.adbc_get_info()["vendor_name"], "isobar")
        self.assertEqual(connection.adbc_get_table_types(), ["TABLE"])
        schema = connection.adbc_get_table_schema("flight_features", catalog_filter="isobar", db_schema_filter="datasets")
        self.assertEqual(schema.names, self.adbc.query("DESCRIBE flight_features").values("column_name"))
        catalogs = connection.adbc_get_objects(depth="columns").read_all().to_pylist()
        self.assertEqual([catalog["catalog_name"] for catalog in catalogs], ["isobar"])
        schemas = catalogs[0]["catalog_db_schemas"]
        self.assertEqual([schema["db_schema_name"] for schema in schemas], ["datasets"])
        columns = {table["table_name"]: [column["column_name"] for column in table["table_columns"]]
                   for table in schemas[0]["db_schema_tables"]}
        self.assertEqual(columns["flight_features"], schema.names)
        with connection.cursor() as cursor:
            planned = cursor.adbc_execute_schema("SELECT origin, count(*) AS n FROM flight_features GROUP BY origin")
        self.assertEqual(planned.names, ["origin", "n"])


class Tls(unittest.TestCase):
    @unittest.skipUnless(flight.has("openssl"), "there is no openssl to make certificates with")
    def test_a_client_knows_the_server_and_the_server_its_clients(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            secrets = clients.services().Secrets(folder)
            authority = secrets.certificate("ca.pem")
            topology = Served.folder / "tls.yaml"
            plain = (Served.folder / "topology.yaml").read_text()
            tls = f"  tls: {{ certificate: {secrets.certificate('server.pem')}, private_key: {secrets.certificate('server.key')}"
            topology.write_text(plain + tls + " }\n")
            trust = {DatabaseOptions.TLS_ROOT_CERTS.value: authority.read_text()}
            one = [[1]]
            with flight.server(topology, TOKENS) as addresses:
                with flight.Adbc(addresses.flight, TOKEN, trust, TLS) as client:
                    self.assertEqual(client.query("SELECT 1 AS one").rows, one)
                with flight.Jdbc(addresses.flight, TOKEN, f"tlsRootCerts={authority}") as client:
                    self.assertEqual(client.query("SELECT 1 AS one").rows, one)
                stranger = {DatabaseOptions.TLS_ROOT_CERTS.value: secrets.certificate("stranger-ca.pem").read_text()}
                with self.assertRaises(flight.Refused), flight.Adbc(addresses.flight, TOKEN, stranger, TLS) as client:
                    client.query("SELECT 1")
            topology.write_text(plain + tls + f", client_ca: {authority} }}\n")
            with flight.server(topology, TOKENS) as addresses:
                shown = {DatabaseOptions.MTLS_CERT_CHAIN.value: secrets.certificate("client.pem").read_text(),
                         DatabaseOptions.MTLS_PRIVATE_KEY.value: secrets.certificate("client.key").read_text()}
                with flight.Adbc(addresses.flight, TOKEN, {**trust, **shown}, TLS) as client:
                    self.assertEqual(client.query("SELECT 1 AS one").rows, one)
                with self.assertRaises(flight.Refused), flight.Adbc(addresses.flight, TOKEN, trust, TLS) as client:
                    client.query("SELECT 1")


class Examples(Served):
    """docs/python.md, block by block, in one notebook."""

    def blocks(self):
        text = (ROOT / "docs" / "python.md").read_text()
        for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
            title, body = section.split("\n", 1)
            for block in re.findall(r"^```python\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL):
                yield title, block

    def test_every_example_gives_the_same_answer(self):
        expected = self.adbc.query(BY_ORIGIN).rows
        environment = {"ISOBAR_FLIGHT": f"grpc://{self.addresses.flight}", "ISOBAR_HTTP": f"http://{self.addresses.http}", "ISOBAR_TOKEN": TOKEN,
                       "ISOBAR_CLOUD": str(self.folder / "aws")}
        environment["ISOBAR_POSTGRES"] = f"postgresql://anybody@{self.addresses.postgres}/isobar"
        notebook, run, shown = {}, [], []
        with unittest.mock.patch.dict("os.environ", environment):
            for title, block in self.blocks():
                with self.subTest(title):
                    notebook.pop("frame", None)
                    exec(compile(block, f"docs/python.md: {title}", "exec"), notebook)  # noqa: S102
                    run.append(title)
                    if "frame" in notebook:
                        self.assert_rows(notebook["frame"], expected)
                        shown.append(title)
        self.assertEqual(notebook["now"], (ROWS,))
        self.assertLess(notebook["before"][0], notebook["now"][0])
        self.assertLessEqual({"Connect", "pandas", "Polars", "DuckDB", "Parameters", "HTTP", "psycopg", "deltalake"}, set(run))
        # By way of deltalake as well.
        self.assertEqual(shown.count("deltalake"), 3)
        notebook["connection"].close()

    def assert_rows(self, frame, expected):
        if hasattr(frame, "itertuples"):
            frame = frame.itertuples(index=False)
        elif hasattr(frame, "rows"):
            frame = frame.rows()
        rows = [list(row) for row in frame]
        self.assertEqual([row[:2] for row in rows], [row[:2] for row in expected])
        for row, other in zip(rows, expected):
            self.assertAlmostEqual(float(row[2]), other[2], places=9)


if __name__ == "__main__":
    unittest.main()
