"""The PostgreSQL protocol by the clients that people have: psql, psycopg and asyncpg give the answers of `isobar query`.

See clients.py for how to run it by hand. psql is Debian's package `postgresql-client`; without it, its tests are skipped.
"""

import asyncio
import csv
import datetime
import decimal
import io
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import tempfile
import threading
import unittest

import asyncpg
import clients
import psycopg
from clients import ROWS, SERVE, TOKEN, TOKENS, WEATHER_TOKEN

PATTERNS = {"postgres": r"PostgreSQL.*?(127\.0\.0\.1:\d+)"}
# Takes very long, and sends nothing before.
ENDLESS = "SELECT count(*) FROM flight_features AS a, flight_features AS b WHERE a.carrier <> b.carrier"
PSQL = shutil.which("psql")


def setUpModule():
    folder = pathlib.Path(unittest.enterModuleContext(tempfile.TemporaryDirectory())) / "demo"
    Served.topology = clients.demo(folder)
    with_tokens = folder / "with_tokens.yaml"
    with_tokens.write_text(Served.topology.read_text() + SERVE)
    served = clients.server(with_tokens, ["--postgres", "127.0.0.1:0"], PATTERNS, TOKENS)
    Served.host, Served.port = unittest.enterModuleContext(served)["postgres"].split(":")
    if PSQL is None:
        print("psql is not here, its tests are skipped: apt-get install postgresql-client")


class Served(unittest.TestCase):
    """What all tests below share: one server."""

    maxDiff = 4000

    def connect(self, token=TOKEN, **options):
        connection = psycopg.connect(host=self.host, port=self.port, user="somebody", dbname="isobar", password=token, autocommit=True,
                                     **options)
        self.addCleanup(connection.close)
        return connection

    def psql(self, *arguments, token=TOKEN, code=0):
        address = f"host={self.host} port={self.port} user=somebody dbname=isobar"
        done = subprocess.run([PSQL, address, "-X", *arguments], capture_output=True, text=True, timeout=clients.PATIENCE_SECONDS,
                              env={**os.environ, "PGPASSWORD": token, "PGCLIENTENCODING": "UTF8"}, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout if code == 0 else done.stderr


def typed(value, name):
    """A value of JSON as the type with this name is in Python."""
    if value is None:
        return None
    if name.endswith("[]"):
        return [typed(element, name[:-2]) for element in value]
    if name == "timestamptz":
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).astimezone(datetime.timezone.utc)
    if name == "timestamp":
        return datetime.datetime.fromisoformat(value.removesuffix("Z"))
    if name == "date":
        return datetime.date.fromisoformat(value)
    if name == "numeric":
        return decimal.Decimal(str(value))
    if name in ("float4", "float8"):
        return float(value)
    if name == "bytea":
        return bytes.fromhex(value)
    return value


def type_names(cursor):
    """Of the columns, `[]` behind those of arrays."""
    names = []
    for column in cursor.description:
        info = psycopg.adapters.types.get(column.type_code)
        names.append(info.name + ("[]" if info.array_oid == column.type_code and info.oid != column.type_code else ""))
    return names


def plain(rows):
    """Values that compare equal whichever zone a time is in."""
    def one(value):
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            return value.astimezone(datetime.timezone.utc)
        return value

    return [tuple(one(value) for value in row) for row in rows]


class Answers(Served):
    def test_psycopg_gets_the_answers_of_isobar_query_in_both_formats(self):
        connection, known = self.connect(), clients.answers()
        self.assertGreater(len(known), 5)
        for sql in clients.queries():
            with self.subTest(sql):
                expected = clients.asked(self.topology, sql)
                for binary in (False, True):
                    cursor = connection.cursor(binary=binary)
                    rows = plain(cursor.execute(sql).fetchall())
                    names = [column.name for column in cursor.description]
                    types = type_names(cursor)
                    if sql in known:
                        self.assertEqual([[clients.plain(value) for value in row] for row in rows], known[sql], f"binary: {binary}")
                    self.assertEqual(len(rows), len(expected))
                    for row, wanted in zip(rows, expected):
                        self.assertEqual(list(wanted), names)
                        wanted = tuple(typed(value, name) for value, name in zip(wanted.values(), types))
                        self.assertEqual(row, wanted, f"binary: {binary}, {types}")
        self.assertEqual(connection.execute(clients.queries()[1]).fetchone(), (ROWS,))

    @unittest.skipIf(PSQL is None, "psql is not here")
    def test_psql_shows_what_the_protocol_sends(self):
        """Text for text, as libpq got it for psycopg."""
        connection = self.connect()
        for sql in clients.queries():
            with self.subTest(sql):
                result = connection.pgconn.exec_(sql.encode())
                cells = range(result.nfields)
                sent = [[result.fname(at).decode() for at in cells]]
                for row in range(result.ntuples):
                    values = [result.get_value(row, at) for at in cells]
                    sent.append(["(null)" if value is None else value.decode() for value in values])
                shown = self.psql("--csv", "-P", "null=(null)", "-c", sql)
                self.assertEqual(list(csv.reader(io.StringIO(shown))), sent)

    @unittest.skipIf(PSQL is None, "psql is not here")
    def test_psql_shows_what_postgresql_shows(self):
        """Text for text, as a server of PostgreSQL 15 wrote the same values."""
        for sql, shown in [
            ("SELECT true, CAST('NaN' AS DOUBLE), CAST('-inf' AS DOUBLE), CAST('1e20' AS DOUBLE), CAST('1e-5' AS DOUBLE)",
             "t|NaN|-Infinity|1e+20|1e-05"),
            ("SELECT CAST('LGA' AS BYTEA), CAST('-0.50' AS DECIMAL(5, 2)), make_array('a', 'b c', NULL, ''), make_array(true, NULL)",
             '\\x4c4741|-0.50|{a,"b c",NULL,""}|{t,NULL}'),
            ("SELECT DATE '1969-12-31', TIMESTAMP '2013-07-01T12:34:56.5', TIMESTAMP '1969-12-31T23:59:59.999999'",
             "1969-12-31|2013-07-01 12:34:56.5|1969-12-31 23:59:59.999999"),
            ("SELECT INTERVAL '1 month 2 days 3.5 seconds', INTERVAL '-1 day', arrow_cast(90061001, 'Duration(Millisecond)')",
             "1 mon 2 days 00:00:03.5|-1 days|25:01:01.001"),
            ("SELECT min(scheduled_at) FROM flight_features", "2013-01-01 10:15:00+00"),
        ]:
            with self.subTest(sql):
                self.assertEqual(self.psql("-A", "-t", "-c", sql), shown + "\n")

    def test_special_values(self):
        for binary in (False, True):
            cursor = self.connect().cursor(binary=binary)
            cursor.execute("SELECT CAST('NaN' AS DOUBLE), CAST('-inf' AS DOUBLE), INTERVAL '1 month 2 days 3.5 seconds', "
                           "arrow_cast('04:05:06.789', 'Time64(Microsecond)'), arrow_cast(90061001, 'Duration(Millisecond)'), "
                           "map(['k'], [1])")
            not_a_number, infinite, _interval, time, duration, mapped = cursor.fetchone()
            self.assertNotEqual(not_a_number, not_a_number)
            self.assertEqual(infinite, float("-inf"))
            self.assertEqual(time, datetime.time(4, 5, 6, 789000))
            self.assertEqual(duration, datetime.timedelta(days=1, hours=1, minutes=1, milliseconds=1001))
            self.assertEqual(mapped, {"k": 1})

    def test_values_are_bound_in_both_formats(self):
        rows = "SELECT count(*) AS n FROM flight_features WHERE "
        midnight = datetime.datetime(2013, 7, 1, tzinfo=datetime.timezone.utc)
        connection = self.connect()
        for sql, values, literal in [
            (rows + "origin = {} AND arrival_delay_minutes > {}", ("JFK", 30), ("'JFK'", "30")),
            (rows + "distance_miles > {} AND distance_miles < {}", (0, 5_000_000_000), ("0", "5000000000")),
            (rows + "kafka_offset < {}", (1000,), ("1000",)),
            (rows + "CAST(distance_miles AS DOUBLE) / 2 > {}", (500.25,), ("500.25",)),
            (rows + "carrier = {}", (None,), ("NULL",)),
            (rows + "late = {}", (True,), ("true",)),
            (rows + "scheduled_at >= {}", (midnight,), ("TIMESTAMP '2013-07-01T00:00:00Z'",)),
            (rows + "CAST(scheduled_at AS DATE) = {}", (datetime.date(2013, 7, 1),), ("DATE '2013-07-01'",)),
            (rows + "distance_miles * 1.0 = {}", (decimal.Decimal("1400.0"),), ("1400.0",)),
            (rows + "origin = ANY({})", (["JFK", "EWR"],), ("make_array('JFK', 'EWR')",)),
            ("SELECT {} || carrier AS c FROM flight_features ORDER BY kafka_partition, kafka_offset LIMIT 3", ("'; $1 --",),
             ("'''; $1 --'",)),
        ]:
            expected = [tuple(row.values()) for row in clients.asked(self.topology, sql.format(*literal))]
            for placeholder in ("%s", "%t", "%b"):
                if placeholder == "%b" and None in values:
                    continue
                asked = sql.replace("{}", placeholder)
                with self.subTest(asked, values=values):
                    self.assertEqual(connection.execute(asked, values).fetchall(), expected)

    def test_a_prepared_statement_runs_again_with_other_values(self):
        connection = self.connect()
        sql = "SELECT count(*) FROM flight_features WHERE origin = %s AND month = %s"
        counts = [connection.execute(sql, values, prepare=True).fetchone()[0]
                  for values in (("JFK", "2013-01"), ("EWR", "2013-02"), ("JFK", "2013-01"))]
        self.assertEqual(counts[0], counts[2])
        self.assertNotEqual(counts[0], counts[1])
        self.assertEqual(counts[0], connection.execute(
            "SELECT count(*) FROM flight_features WHERE origin = 'JFK' AND month = '2013-01'").fetchone()[0])

    def test_a_pipeline_of_statements(self):
        connection = self.connect()
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::bigint", (number,)) for number in range(10)]
        self.assertEqual([cursor.fetchone()[0] for cursor in cursors], list(range(10)))

    def test_rows_come_as_they_are_read(self):
        connection = self.connect()
        count = sum(1 for _ in connection.cursor().stream("SELECT * FROM flight_features"))
        self.assertEqual(count, ROWS)

    def test_rows_are_fetched_in_pieces(self):
        """asyncpg asks for some rows of a portal at a time, and everything in binary."""
        async def count():
            connection = await asyncpg.connect(host=self.host, port=int(self.port), user="somebody", password=TOKEN, database="isobar",
                                               ssl=False)
            try:
                async with connection.transaction(readonly=True):
                    numbers = [row["kafka_offset"] async for row in connection.cursor(
                        "SELECT kafka_offset FROM flight_features WHERE kafka_partition = $1 ORDER BY kafka_offset", 0, prefetch=1000)]
                whole = await connection.fetch(
                    "SELECT kafka_offset FROM flight_features WHERE kafka_partition = $1 ORDER BY kafka_offset", 0)
                return numbers, [row["kafka_offset"] for row in whole]
            finally:
                await connection.close()

        pieces, whole = asyncio.run(count())
        self.assertGreater(len(whole), 10_000)
        self.assertEqual(pieces, whole)

    def test_many_clients_at_once(self):
        sql, answers = clients.queries()[2], []

        def ask():
            with psycopg.connect(host=self.host, port=self.port, user="a", dbname="isobar", password=TOKEN) as connection:
                answers.append(connection.execute(sql).fetchall())

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(answers, [answers[0]] * 8)


class Sessions(Served):
    def test_what_writes_is_refused(self):
        connection = self.connect()
        for sql in ["DROP TABLE flight_features", "INSERT INTO flight_features VALUES (1)", "CREATE TABLE a (b int)",
                    "UPDATE flight_features SET late = true", "DELETE FROM flight_features", "TRUNCATE flight_features"]:
            with self.subTest(sql), self.assertRaises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute(sql)
        for sql, error in [("SELECT nothing FROM flight_features", psycopg.errors.UndefinedColumn),
                           ("SELECT * FROM nowhere", psycopg.errors.UndefinedTable),
                           ("SELECT 1 +", psycopg.errors.SyntaxError),
                           ("COPY flight_features TO STDOUT", psycopg.errors.FeatureNotSupported),
                           ("SELECT * FROM flight_features VERSION AS OF 100000", psycopg.Error)]:
            with self.subTest(sql), self.assertRaises(error):
                connection.execute(sql)
        self.assertEqual(connection.execute("SELECT 1").fetchone(), (1,))

    def test_transactions_begin_and_end(self):
        with psycopg.connect(host=self.host, port=self.port, user="a", dbname="isobar", password=TOKEN) as connection:
            first = connection.execute(clients.queries()[1]).fetchone()
            self.assertEqual(connection.info.transaction_status, psycopg.pq.TransactionStatus.INTRANS)
            with self.assertRaises(psycopg.errors.UndefinedTable), connection.transaction():
                connection.execute("SELECT * FROM nowhere")
            self.assertEqual(connection.execute(clients.queries()[1]).fetchone(), first)
            with self.assertRaises(psycopg.errors.UndefinedTable):
                connection.execute("SELECT * FROM nowhere")
            with self.assertRaises(psycopg.errors.InFailedSqlTransaction):
                connection.execute("SELECT 1")
            connection.rollback()
            self.assertEqual(connection.execute("SELECT 1").fetchone(), (1,))

    def test_a_transaction_pins_versions(self):
        """Versions are named: the demo writes none while it is served. That newer ones do not show is tested beside the code."""
        connection = self.connect()
        with connection.transaction():
            old = connection.execute("SELECT count(*) FROM flight_features VERSION AS OF 1").fetchone()[0]
            self.assertLess(old, ROWS)
            self.assertEqual(connection.execute(clients.queries()[1]).fetchone(), (ROWS,))

    def test_a_query_is_cancelled(self):
        connection, ended = self.connect(), threading.Event()

        def cancel():
            # Again until it has been heard: the query may not have begun.
            while not ended.wait(0.1):
                connection.cancel_safe()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            with self.assertRaisesRegex(psycopg.errors.QueryCanceled, "user request"):
                connection.execute(ENDLESS)
        finally:
            ended.set()
            canceller.join()
        self.assertEqual(connection.execute("SELECT 1").fetchone(), (1,))
        connection.execute("SET statement_timeout = '50ms'")
        with self.assertRaisesRegex(psycopg.errors.QueryCanceled, "statement timeout"):
            connection.execute(ENDLESS)

    def test_a_wrong_token_is_refused(self):
        for token in ("another-token-of-somebody", ""):
            with self.subTest(token), self.assertRaises(psycopg.OperationalError) as raised:
                self.connect(token=token or None)
            self.assertNotIn("another-token", str(raised.exception))

    def test_a_role_sees_its_tables_only(self):
        connection = self.connect(WEATHER_TOKEN)
        self.assertGreater(connection.execute("SELECT count(*) FROM weather_hourly").fetchone()[0], 0)
        with self.assertRaises(psycopg.Error):
            connection.execute("SELECT count(*) FROM flight_features")
        for sql in ["SELECT relname FROM pg_class", "SELECT table_name FROM information_schema.tables",
                    "SELECT DISTINCT table_name FROM information_schema.columns"]:
            self.assertEqual(connection.execute(sql).fetchall(), [("weather_hourly",)], sql)


@unittest.skipIf(PSQL is None, "psql is not here")
class Psql(Served):
    def test_d_lists_tables(self):
        for command in ("\\d", "\\dt"):
            listed = self.psql("-A", "-t", "-c", command).splitlines()
            self.assertEqual([line.split("|")[:3] for line in listed if "quarantine" not in line],
                             [["datasets", "flight_features", "table"], ["datasets", "weather_hourly", "table"]])

    def test_d_shows_columns(self):
        shown = self.psql("-A", "-t", "-c", "\\d weather_hourly").splitlines()
        columns = dict(line.split("|")[:2] for line in shown)
        self.assertEqual(columns["origin"], "text")
        self.assertEqual(columns["observed_at"], "timestamp with time zone")
        self.assertEqual(columns["temperature_fahrenheit"], "double precision")

    def test_other_commands_answer(self):
        for command in ("\\dt+", "\\d+ weather_hourly", "\\dn", "\\dn+", "\\du", "\\dv", "\\di", "\\df", "\\dx", "\\z", "\\conninfo"):
            with self.subTest(command):
                self.psql("-c", command)
        self.assertIn("isobar", self.psql("-A", "-t", "-c", "\\l"))

    def test_a_wrong_token_is_refused(self):
        self.assertIn("FATAL", self.psql("-c", "SELECT 1", token="another-token-of-somebody", code=2))

    def test_a_mistake_is_shown(self):
        self.assertIn("flight_features", self.psql("-c", "SELECT * FROM nowhere", code=1))


@unittest.skipIf(shutil.which("openssl") is None, "openssl is not here")
class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.secrets = clients.services().Secrets(folder)
        cls.authority = str(cls.secrets.certificate("ca.pem"))
        cls.tls = {"certificate": str(cls.secrets.certificate("server.pem")), "private_key": str(cls.secrets.certificate("server.key"))}
        topology = Served.topology.with_name("with_tls.yaml")
        topology.write_text(Served.topology.read_text() + SERVE + f"  tls: {json.dumps(cls.tls)}\n")
        served = clients.server(topology, ["--postgres", "127.0.0.1:0"], PATTERNS, TOKENS)
        cls.host, cls.port = cls.enterClassContext(served)["postgres"].split(":")

    def test_psycopg_checks_the_certificate(self):
        with psycopg.connect(host=self.host, port=self.port, user="a", dbname="isobar", password=TOKEN, sslmode="verify-full",
                             sslrootcert=self.authority) as connection:
            self.assertTrue(connection.pgconn.ssl_in_use)
            self.assertEqual(connection.execute(clients.queries()[1]).fetchone(), (ROWS,))
            connection.cancel_safe()

    def test_nobody_comes_without_a_certificate_where_one_is_asked_for(self):
        """Not over TLS, and not in plain text either, which a token would do for on this machine."""
        shown, shown_key = (str(self.secrets.certificate(name)) for name in ("client.pem", "client.key"))
        pathlib.Path(shown_key).chmod(0o600)
        topology = Served.topology.with_name("with_mutual_tls.yaml")
        tls = json.dumps({**self.tls, "client_ca": self.authority})
        topology.write_text(Served.topology.read_text() + SERVE + f"  tls: {tls}\n")
        with clients.server(topology, ["--postgres", "127.0.0.1:0"], PATTERNS, TOKENS) as found:
            host, port = found["postgres"].split(":")
            address = {"host": host, "port": port, "user": "a", "dbname": "isobar", "password": TOKEN}
            with psycopg.connect(**address, sslmode="require", sslcert=shown, sslkey=shown_key) as connection:
                self.assertEqual(connection.execute("SELECT 1").fetchone(), (1,))
            with self.assertRaisesRegex(psycopg.OperationalError, "certificate"):
                psycopg.connect(**address, sslmode="disable")
            with self.assertRaises(psycopg.OperationalError):
                psycopg.connect(**address, sslmode="require", sslcert=f"{shown}.none")

    def test_asyncpg_checks_the_certificate(self):
        async def count():
            context = ssl.create_default_context(cafile=self.authority)
            connection = await asyncpg.connect(host="localhost", port=int(self.port), user="a", password=TOKEN, database="isobar",
                                               ssl=context)
            try:
                return await connection.fetchval(clients.queries()[1])
            finally:
                await connection.close()

        self.assertEqual(asyncio.run(count()), ROWS)
