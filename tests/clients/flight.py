"""Three clients of a server: ADBC and JDBC by Flight SQL, and curl by HTTP.

Each client gives an answer as a `Table`: names of columns, and rows of plain values that compare equal whichever client they
came by. Times are in UTC with six digits of a second, decimals and bytes are text, and so are numbers that are not finite.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import threading
import types
import urllib.parse

import clients
import pyarrow
from adbc_driver_flightsql import DatabaseOptions, dbapi
from clients import PATIENCE_SECONDS, plain, services

HERE = pathlib.Path(__file__).resolve().parent
# The driver's buffers lie outside the heap; see docs/serve-flight.md.
JAVA = ["java", "--add-opens=java.base/java.nio=ALL-UNNAMED", "-Duser.timezone=UTC", "-Xmx512m"]
ARROW = "application/vnd.apache.arrow.stream"


@dataclasses.dataclass(frozen=True)
class Table:
    columns: list
    rows: list

    def values(self, column):
        at = [name.lower() for name in self.columns].index(column.lower())
        return [row[at] for row in self.rows]


class Refused(Exception):
    """A client's word for an error."""


def table_of(rows):
    """A `Table` of Arrow's rows."""
    columns = [[plain(value) for value in column.to_pylist()] for column in rows.columns]
    return Table(list(rows.column_names), [list(row) for row in zip(*columns)] if columns else [])


@contextlib.contextmanager
def server(topology, tokens):
    """Serves `topology`, whose tokens are in variables of these names, until the end of the block: the addresses by protocol."""
    patterns = {"http": r"serving topology.*?(127\.0\.0\.1:\d+)", "flight": r"Flight SQL.*?(127\.0\.0\.1:\d+)",
                "postgres": r"PostgreSQL.*?(127\.0\.0\.1:\d+)"}
    options = ["--flight", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]
    with clients.server(topology, options, patterns, tokens) as found:
        yield types.SimpleNamespace(**found)


# ---------------------------------------------------------------- the clients


class Adbc:
    def __init__(self, address, token=None, options=None, scheme="grpc"):
        options = dict(options or {})
        if token is not None:
            options[DatabaseOptions.AUTHORIZATION_HEADER.value] = f"Bearer {token}"
        try:
            self.connection = dbapi.connect(f"{scheme}://{address}", options, autocommit=True)
        except dbapi.Error as error:
            raise Refused(str(error)) from error

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.connection.close()

    def query(self, sql, values=()):
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(sql, list(values) or None)
                return table_of(cursor.fetch_arrow_table())
        except (dbapi.Error, pyarrow.ArrowException, OSError) as error:
            raise Refused(str(error)) from error


class Curl:
    def __init__(self, address, token=None):
        self.address, self.token = address, token

    def query(self, sql, values=()):
        body = json.dumps({"sql": sql, "parameters": list(values)})
        command = ["curl", "-sS", "--fail-with-body", "--max-time", str(PATIENCE_SECONDS), f"http://{self.address}/v1/query", "-H",
                   "Content-Type: application/json", "-H", f"Accept: {ARROW}", "--data-binary", "@-"]
        if self.token is not None:
            command += ["-H", f"Authorization: Bearer {self.token}"]
        done = subprocess.run(command, input=body.encode(), capture_output=True, timeout=PATIENCE_SECONDS)
        if done.returncode != 0:
            raise Refused(done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace"))
        with pyarrow.ipc.open_stream(done.stdout) as rows:
            return table_of(rows.read_all())


class Jdbc:
    """One JVM with one connection; requests are answered in their order. See jdbc/Jdbc.java."""

    def __init__(self, address, token=None, options="useEncryption=false"):
        environment = {**os.environ, **({} if token is None else {"ISOBAR_TOKEN": token})}
        if token is None:
            environment.pop("ISOBAR_TOKEN", None)
        command = [*JAVA, "-cp", str(driver()), str(HERE / "jdbc" / "Jdbc.java"), f"jdbc:arrow-flight-sql://{address}/?{options}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=environment)
        self.said = []
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        # What a JVM that has ended does not take.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        # Nothing is left to be said but by a JVM that hangs.
        timer = threading.Timer(PATIENCE_SECONDS, self.process.kill)
        timer.start()
        self.process.stdout.read()
        self.process.wait()
        timer.cancel()
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def ask(self, *request):
        line = "\t".join(urllib.parse.quote_plus(str(field)) for field in request)
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
            self.reader.join()
            raise Refused("".join(self.said))
        answer = json.loads(answer)
        if "error" in answer:
            raise Refused(f"{answer['error']}: {answer['message']}")
        return answer.get("values") or Table(answer["columns"], answer["rows"])

    def query(self, sql, values=()):
        if not values:
            return self.ask("query", sql)
        return self.ask("prepared", sql, *self.typed(values))

    def again(self, values):
        """The last statement that had values, with others."""
        return self.ask("again", *self.typed(values))

    @staticmethod
    def typed(values):
        kinds = {int: "long", float: "double", str: "text", type(None): "null"}
        return [field for value in values for field in (kinds[type(value)], "" if value is None else value)]

    def metadata(self, method, *arguments):
        return self.ask("metadata", method, *("null" if argument is None else argument for argument in arguments))


def driver():
    """The driver's jar."""
    pom = HERE / "jdbc" / "pom.xml"
    program = services()

    def install(folder):
        program.tool("java")
        program.run(program.tool("mvn"), "-q", "-B", "-f", pom, "dependency:copy-dependencies", "-DexcludeTransitive=true",
                    f"-DoutputDirectory={folder}")

    return next(program.packages("jdbc", pom, install).glob("flight-sql-jdbc-driver-*.jar"))


def has(program):
    return shutil.which(program) is not None
