"""Judges what isobar wrote, with readers that share no code with its writers.

    oracle counts  TABLE            rows, files, version, comments, rows per Hive partition, Kafka positions
    oracle unique  TABLE --columns a,b
                                    no two rows agree in these columns
    oracle offsets TABLE... --ends 0=1000,1=998
                                    these tables together hold every position from 0 up to (not
                                    including) the end of each Kafka partition, each once
    oracle compare TABLE TABLE...   the tables hold equal rows, as multisets, and equal columns with equal comments
    oracle versions TABLE --at 3=FILE --at 7=FILE...
                                    these Parquet files hold the rows that TABLE had at these versions
    oracle as_of QUESTIONS OBSERVATIONS --answers FILE --match '>='
                                    the answers (CSV: id, value) are what DuckDB's ASOF JOIN finds
    oracle as_of QUESTIONS OBSERVATIONS --answers FILE --match known [--ttl SECONDS]
                                    the answers are the newest observations that were known
    oracle digest FILE --manifest MANIFEST
                                    the Parquet file of a training set has the hash, the rows, the columns and the digest
                                    that its manifest says, by the definition in docs/training-sets.md
    oracle flights DIR              what `isobar demo --keep DIR` left, in every cloud, against
                                    values computed from the CSV files

The log is read by delta-rs (Python `deltalake`), the rows by DuckDB. TABLE is a path or a URI; for
an object store give `--storage-options JSON`, once for all tables or once for each, in their order.

Prints one JSON object. Exit code 0: right; 1: wrong, with each difference on standard error;
2: wrong arguments, or a table that cannot be read.
"""

import argparse
import hashlib
import json
import pathlib
import struct
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as parquet
import pyarrow.types as types
from deltalake import DeltaTable

CLOUDS = ("aws", "azure", "gcp")
DATA = pathlib.Path(__file__).resolve().parents[2] / "topologies" / "flight_delays" / "data"
# The names under which a dataset and a quarantine table keep the position of a row.
POSITIONS = (("kafka_partition", "kafka_offset"), ("partition", "offset"))
SHOWN_MAX = 3


class Unreadable(Exception):
    """A table that is not there or not a table."""


# ---------------------------------------------------------------- tables


class Table:
    """One Delta table, registered in DuckDB as `name`."""

    def __init__(self, con, name, uri, options=None, version=None):
        self.con, self.name, self.uri = con, name, str(uri)
        try:
            self.delta = DeltaTable(self.uri, version=version, storage_options=options)
        except Exception as error:
            raise Unreadable(f"{self.uri}: {error}") from error
        dataset = self.delta.to_pyarrow_dataset()
        self.columns = {field.name: str(field.type) for field in dataset.schema}
        fields = self.delta.schema().fields
        self.comments = {field.name: field.metadata["comment"] for field in fields if "comment" in field.metadata}
        con.register(name, dataset)

    def copied(self):
        """The same with its rows in memory, for many questions to a small table."""
        self.con.execute(f"CREATE TABLE {self.name}_rows AS FROM {self.name}")
        self.name += "_rows"
        return self

    def position(self):
        """The two columns that hold it, quoted, or None."""
        return next((tuple(map(quoted, pair)) for pair in POSITIONS if set(pair) <= set(self.columns)), None)

    def rows(self):
        return scalar(self.con, f"SELECT count(*) FROM {self.name}")

    def summary(self):
        hive = self.delta.metadata().partition_columns
        found = {
            "comments": self.comments,
            "table": self.uri,
            "version": self.delta.version(),
            "files": len(self.delta.file_uris()),
            "rows": self.rows(),
        }
        if hive:
            keys = ", ".join(quoted(column) for column in hive)
            label = " || '/' || ".join(f"{literal(column + '=')} || {quoted(column)}::VARCHAR" for column in hive)
            found["partitions"] = dict(self.con.execute(
                f"SELECT {label}, count(*) FROM {self.name} GROUP BY {keys} ORDER BY 1").fetchall())
        if self.position():
            partition, offset = self.position()
            rows = self.con.execute(
                f"SELECT {partition}, count(*), min({offset}), max({offset}) FROM {self.name} GROUP BY 1 ORDER BY 1")
            found["kafka"] = {str(p): {"rows": n, "first_offset": first, "last_offset": last}
                              for p, n, first, last in rows.fetchall()}
        return found


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def scalar(con, sql):
    return con.execute(sql).fetchall()[0][0]


def connect():
    con = duckdb.connect()
    # Instants are compared as instants; no answer may depend on the machine's zone.
    con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return con


def opened(parsed):
    """The tables of the command line, as t0, t1, …"""
    options = [json.loads(text) for text in parsed.storage_options or []]
    if len(options) == 1:
        options *= len(parsed.tables)
    if options and len(options) != len(parsed.tables):
        raise Unreadable("give --storage-options once, or once for each table")
    con = connect()
    return con, [Table(con, f"t{i}", uri, options[i] if options else None) for i, uri in enumerate(parsed.tables)]


# ---------------------------------------------------------------- simple questions


def counts(parsed, _wrong):
    _, (table,) = opened(parsed)
    return table.summary()


def unique(parsed, wrong):
    con, (table,) = opened(parsed)
    keys = ", ".join(quoted(column) for column in parsed.columns.split(","))
    groups = f"SELECT {keys}, count(*) AS copies FROM {table.name} GROUP BY ALL HAVING copies > 1"
    duplicates = scalar(con, f"SELECT coalesce(sum(copies - 1), 0)::BIGINT FROM ({groups})")
    if duplicates:
        wrong(f"{table.uri}: {duplicates} rows repeat ({keys}) of another, such as {sample(con, groups)}")
    return {"table": table.uri, "rows": table.rows(), "duplicates": duplicates}


def offsets(parsed, wrong):
    con, tables = opened(parsed)
    ends = {int(partition): int(end) for partition, _, end in (part.partition("=") for part in parsed.ends.split(","))}
    union = " UNION ALL ".join(f"SELECT {p} AS p, {o} AS o FROM {table.name}"
                               for table in tables for p, o in [required_position(table)])
    con.execute(f"CREATE TABLE seen AS SELECT p, o, count(*) AS copies FROM ({union}) GROUP BY p, o")
    con.execute("CREATE TABLE ends (p INTEGER, stop BIGINT)")
    con.executemany("INSERT INTO ends VALUES (?, ?)", list(ends.items()))
    con.execute("CREATE TABLE due AS SELECT p, unnest(range(stop)) AS o FROM ends")
    found = {"rows": scalar(con, f"SELECT count(*) FROM ({union})"), "due": sum(ends.values())}
    for what, sql in {
        "repeated": "SELECT p, o FROM seen WHERE copies > 1",
        "missing": "SELECT p, o FROM due ANTI JOIN seen USING (p, o)",
        "unexpected": "SELECT p, o FROM seen ANTI JOIN due USING (p, o)",
    }.items():
        found[what] = scalar(con, f"SELECT count(*) FROM ({sql})")
        if found[what]:
            wrong(f"{found[what]} positions are {what}, such as (partition, offset) {sample(con, sql)}")
    return found


def required_position(table):
    if table.position() is None:
        raise Unreadable(f"{table.uri}: none of the column pairs {POSITIONS} is there")
    return table.position()


def compare(parsed, wrong):
    con, (first, *others) = opened(parsed)
    found = {"table": first.uri, "rows": first.rows(), "different": {}}
    for other in others:
        if other.columns != first.columns:
            wrong(f"{other.uri}: columns {other.columns}, but {first.uri} has {first.columns}")
            continue
        if other.comments != first.comments:
            wrong(f"{other.uri}: comments {other.comments}, but {first.uri} has {first.comments}")
        if different := difference(con, f"SELECT * FROM {first.name}", f"SELECT * FROM {other.name}", other.uri, wrong):
            found["different"][other.uri] = different
    return found


def versions(parsed, wrong):
    con = connect()
    found = {"table": parsed.table, "rows": {}, "different": {}}
    for number, (version, _, file) in enumerate(at.partition("=") for at in parsed.at):
        table = Table(con, f"t{number}", parsed.table, version=int(version))
        found["rows"][version] = table.rows()
        got = f"SELECT * FROM read_parquet({literal(file)})"
        columns = [row[0] for row in con.execute(f"DESCRIBE {got}").fetchall()]
        if columns != list(table.columns):
            wrong(f"{file}: columns {columns}, but version {version} has {list(table.columns)}")
        elif different := difference(con, f"SELECT * FROM {table.name}", got, file, wrong):
            found["different"][version] = different
    return found


def as_of(parsed, wrong):
    """Questions are (id, trial, k, t), observations (trial, k, event_time, known_time, seq, value)."""
    con, (questions, observations) = opened(parsed)
    if parsed.match == "known":
        due = known_answers(questions.name, observations.name, parsed.ttl)
    else:
        # Of rows at the same time DuckDB takes any.
        observed = f"(SELECT trial, k, event_time, max(value) AS value FROM {observations.name} GROUP BY ALL)"
        due = f"""
            SELECT q.id, o.value FROM {questions.name} AS q ASOF LEFT JOIN {observed} AS o
            ON q.trial = o.trial AND q.k = o.k AND q.t {parsed.match} o.event_time"""
    columns = "columns = {'id': 'BIGINT', 'value': 'BIGINT'}, header = true"
    got = f"SELECT id, value FROM read_csv({literal(str(parsed.answers))}, {columns})"
    different = difference(con, due, got, parsed.answers, wrong)
    found = scalar(con, f"SELECT count(value) FROM ({got})")
    return {"questions": questions.rows(), "answered": found, "different": different}


def known_answers(questions, observations, ttl):
    """The highest of all observations that may be used, found by looking at each of them."""
    young = f"AND epoch_us(q.t) - epoch_us(o.event_time) <= {round(ttl * 1_000_000)}" if ttl is not None else ""
    return f"""
        SELECT id, value FROM (
            SELECT q.id, o.value, row_number() OVER (PARTITION BY q.id ORDER BY
                o.event_time DESC NULLS LAST, o.known_time DESC NULLS LAST, o.seq DESC NULLS LAST, o.value DESC) AS place
            FROM {questions} AS q LEFT JOIN {observations} AS o
            ON q.trial = o.trial AND q.k = o.k AND o.event_time <= q.t AND o.known_time <= q.t {young})
        WHERE place = 1"""


def difference(con, due, got, where, wrong):
    """How many rows are in one of two queries only; repeated rows count."""
    total = 0
    for what, sql in (("missing", f"({due}) EXCEPT ALL ({got})"), ("not expected", f"({got}) EXCEPT ALL ({due})")):
        rows = scalar(con, f"SELECT count(*) FROM ({sql})")
        total += rows
        if rows:
            wrong(f"{where}: {rows} rows are {what}, such as {sample(con, sql)}")
    return total


def sample(con, sql):
    """A few rows as text. As text: an instant needs a zone library to become a Python object."""
    rows = con.execute(f"SELECT row_to_json(r)::VARCHAR FROM (SELECT * FROM ({sql}) ORDER BY ALL LIMIT {SHOWN_MAX}) r")
    return "; ".join(row[0] for row in rows.fetchall())


# ---------------------------------------------------------------- training sets


def digest(parsed, wrong):
    """The digest as docs/training-sets.md defines it, with nothing but struct and SHA-256."""
    manifest = json.loads(parsed.manifest.read_text())
    table = parquet.read_table(parsed.file)
    columns = []
    for name, column in zip(table.column_names, table.columns):
        name_of_type, encode = encoding(column.type)
        # Times as whole numbers: as Python objects they would lose what is below a microsecond.
        values = (column.cast(pa.int64()) if types.is_timestamp(column.type) else
                  column.cast(pa.int32()) if types.is_date32(column.type) else column).to_pylist()
        sha256 = hashlib.sha256()
        for value in values:
            sha256.update(b"\0" if value is None else b"\1" + encode(value))
        columns.append((name, name_of_type, sha256.hexdigest()))
    lines = [f"rows {table.num_rows}"] + [f"column {json.dumps(n, ensure_ascii=False)} {t} {d}" for n, t, d in columns]
    found = {
        "rows": table.num_rows,
        "columns": columns,
        "digest": hashlib.sha256("".join(line + "\n" for line in ["isobar training set 1", *lines]).encode()).hexdigest(),
        "sha256": hashlib.sha256(parsed.file.read_bytes()).hexdigest(),
    }
    due = {
        "rows": manifest["rows"],
        "columns": [(column["name"], column["type"], column["sha256"]) for column in manifest["columns"]],
        "digest": manifest["digest"],
        "sha256": manifest["file"]["sha256"],
    }
    for what in found:
        if found[what] != due[what]:
            wrong(f"{parsed.file}: {what} {found[what]}, but the manifest says {due[what]}")
    return found


def encoding(kind):
    """The name of a type, and its values as bytes."""
    sized = lambda value: struct.pack("<Q", len(value)) + value
    for is_kind, name, encode in (
        (types.is_boolean, "boolean", lambda value: bytes([value])),
        (types.is_int32, "int32", lambda value: struct.pack("<i", value)),
        (types.is_int64, "int64", lambda value: struct.pack("<q", value)),
        (types.is_float64, "float64", lambda value: struct.pack("<d", value)),
        (types.is_string, "string", lambda value: sized(value.encode())),
        (types.is_binary, "binary", sized),
        (types.is_date32, "date", lambda value: struct.pack("<i", value)),
    ):
        if is_kind(kind):
            return name, encode
    if types.is_timestamp(kind):
        unit = kind.unit + (", UTC" if kind.tz else "")
        name = "timestamp" if unit == "us, UTC" else f"timestamp({unit})"
        return name, lambda value: struct.pack("<q", value)
    raise Unreadable(f"a digest of {kind} is not needed by any test")


# ---------------------------------------------------------------- the demo

# What the feature columns must hold, from the CSV alone and by another way than the topology's
# SQL: times from the local columns and the zone, not from `time_hour`. `instant` is the earlier
# of the two when the clock shows a time twice; readings of that hour follow each other in the file.
MACROS = """
    CREATE MACRO zoned(local) AS timezone('America/New_York', local);
    CREATE MACRO instant(local) AS least(zoned(local), zoned(local - INTERVAL 1 HOUR) + INTERVAL 1 HOUR);"""
FLIGHT_FEATURES = """
    SELECT line,
           instant(make_timestamp(year, month, day, hour, minute, 0)) AS scheduled_at,
           carrier, tailnum AS tail_number, flight AS flight_number, origin, dest AS destination,
           origin || '-' || dest AS route, distance AS distance_miles, sched_dep_time // 100 AS hour_of_day,
           isodow(make_date(year, month, day)) AS day_of_week, dep_delay AS departure_delay_minutes,
           arr_delay AS arrival_delay_minutes, arr_delay >= 16 AS late,
           strftime(make_date(year, month, day), '%Y-%m') AS month
    FROM flights_csv"""
WEATHER_HOURLY = """
    SELECT line,
           origin, instant(make_timestamp(year, month, day, hour, 0, 0)) + to_hours(
               row_number() OVER (PARTITION BY origin, year, month, day, hour ORDER BY line) - 1) AS observed_at,
           temp AS temperature_fahrenheit, dewp AS dew_point_fahrenheit, humid AS humidity_percent,
           wind_dir AS wind_direction_degrees, wind_speed AS wind_speed_mph, wind_gust AS wind_gust_mph,
           precip AS precipitation_inches, pressure AS pressure_millibars, visib AS visibility_miles,
           strftime(make_date(year, month, day), '%Y-%m') AS month
    FROM weather_csv"""


class Dataset:
    """What a dataset of the demo must hold: rows of a CSV file, each with one fate."""

    def __init__(self, name, source, columns, accepted, rejected, dropped, key, numbers, comments):
        self.name, self.source, self.columns, self.key, self.comments = name, source, columns, key, comments
        self.accepted, self.rejected, self.dropped, self.numbers = accepted, rejected, dropped, numbers


DATASETS = (
    Dataset("flight_features", "flights_csv", FLIGHT_FEATURES,
            accepted="dep_time IS NOT NULL AND arr_delay IS NOT NULL",
            rejected={"arrival_known": "dep_time IS NOT NULL AND arr_delay IS NULL"},
            dropped="dep_time IS NULL",
            key=("scheduled_at", "carrier", "flight_number", "origin"),
            numbers={"arrival_delay_minutes_sum": "sum(arrival_delay_minutes)::BIGINT", "late": "count(*) FILTER (late)"},
            # Two of those in its contract.
            comments={"carrier": "two-character IATA carrier code", "distance_miles": "distance between the airports [miles]"}),
    Dataset("weather_hourly", "weather_csv", WEATHER_HOURLY,
            accepted="wind_speed IS NULL OR wind_speed < 1000",
            rejected={"plausible_wind": "wind_speed > 1000"},
            dropped="false",
            key=("origin", "observed_at"),
            numbers={"wind_gust_readings": "count(wind_gust_mph)"},
            comments={}),
)


def demo_source():
    """The CSV files as tables, each row with the number of its line."""
    con = connect()
    con.execute(MACROS)
    for source in ("flights", "weather"):
        con.execute(f"""CREATE TABLE {source}_csv AS SELECT *, row_number() OVER () AS line
                        FROM read_csv('{DATA / source}.csv.zst', nullstr = 'NA', compression = 'zstd', parallel = false)""")
    return con


def flights(parsed, wrong):
    con = demo_source()
    found = {}
    for dataset in DATASETS:
        con.execute(f"CREATE TABLE {dataset.name} AS {dataset.columns} WHERE {dataset.accepted} ORDER BY line")
        found[dataset.name] = numbers(con, dataset, dataset.name)
        for cloud in parsed.clouds.split(","):
            folder = parsed.dir / cloud / "datasets"
            main = Table(con, f"{cloud}_{dataset.name}", folder / dataset.name).copied()
            aside = Table(con, f"{cloud}_{dataset.name}_quarantine", folder / f"{dataset.name}.quarantine").copied()
            check_rows(con, dataset, main, found[dataset.name], wrong)
            for column, due in dataset.comments.items():
                if main.comments.get(column) != due:
                    wrong(f"{main.uri}: {column} is described by {main.comments.get(column)!r}, not {due!r}")
            check_quarantine(con, dataset, aside, wrong)
            check_positions(con, dataset, main, aside, wrong)
    return found


def numbers(con, dataset, table):
    values = {"rows": scalar(con, f"SELECT count(*) FROM {table}")}
    values |= {name: scalar(con, f"SELECT {sql} FROM {table}") for name, sql in dataset.numbers.items()}
    values["months"] = dict(con.execute(f"SELECT month, count(*) FROM {table} GROUP BY 1 ORDER BY 1").fetchall())
    return values


def check_rows(con, dataset, table, due, wrong):
    columns = [row[0] for row in con.execute(f"DESCRIBE {dataset.name}").fetchall() if row[0] != "line"]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        wrong(f"{table.uri}: no column {', '.join(missing)}")
        return
    for what, value in numbers(con, dataset, table.name).items():
        if value != due[what]:
            wrong(f"{table.uri}: {what} is {value}, the CSV gives {due[what]}")
    every = ", ".join(columns)
    if difference(con, f"SELECT {every} FROM {dataset.name}", f"SELECT {every} FROM {table.name}", table.uri, wrong):
        unequal = ", ".join(f"count(*) FILTER (due.{c} IS DISTINCT FROM got.{c})" for c in columns)
        pairs = con.execute(f"SELECT {unequal} FROM {dataset.name} due JOIN {table.name} got USING ({', '.join(dataset.key)})")
        for column, rows in zip(columns, pairs.fetchall()[0]):
            if rows:
                wrong(f"{table.uri}: {column} is not what the CSV gives in {rows} rows")


def check_quarantine(con, dataset, table, wrong):
    """Each rejected record is there once, under its rule, and its payload still says what the CSV said."""
    due = " UNION ALL ".join(f"SELECT {literal(rule)} AS rule, origin, time_hour, line FROM {dataset.source} WHERE {condition}"
                             for rule, condition in dataset.rejected.items())
    source = con.execute(f"DESCRIBE {dataset.source}").fetchall()
    structure = json.dumps({name: "VARCHAR" if kind.startswith("TIMESTAMP") else kind for name, kind, *_ in source if name != "line"})
    fields = ", ".join(f"x.{name}::{kind} AS {name}" for name, kind, *_ in source if name != "line")
    got = f"""SELECT rule, {fields} FROM (
                  SELECT rule, from_json(decode(payload), {literal(structure)}) AS x FROM {table.name})"""
    due = f"SELECT due.rule, s.* EXCLUDE (line) FROM ({due}) due JOIN {dataset.source} s USING (line)"
    difference(con, due, got, table.uri, wrong)


def check_positions(con, dataset, main, aside, wrong):
    """Every row is at the position its record was given: records lie in a partition in the CSV's order.

    The demo keys records by origin, so that all rows of one origin are in one partition. Its offset there
    must be the number of CSV lines before it of the origins that share the partition, dropped ones included.
    """
    (partition, offset), (aside_partition, aside_offset) = required_position(main), required_position(aside)
    split = f"SELECT origin FROM {main.name} GROUP BY origin HAVING count(DISTINCT {partition}) > 1"
    if scalar(con, f"SELECT count(*) FROM ({split})"):
        wrong(f"{main.uri}: in more than one Kafka partition: {sample(con, split)}")
        return
    con.execute(f"""CREATE OR REPLACE TABLE placed AS
                    SELECT line, p, row_number() OVER (PARTITION BY p ORDER BY line) - 1 AS o, ({dataset.dropped}) AS dropped
                    FROM {dataset.source} JOIN (SELECT DISTINCT origin, {partition} AS p FROM {main.name}) USING (origin)""")
    got = f"""SELECT {partition} AS p, {offset} AS o FROM {main.name}
              UNION ALL SELECT {aside_partition}, {aside_offset} FROM {aside.name}"""
    difference(con, "SELECT p, o FROM placed WHERE NOT dropped", got, f"positions (p, o) of {main.uri} and quarantine", wrong)
    keys = ", ".join(dataset.key)
    difference(con, f"SELECT {keys}, p, o FROM placed JOIN {dataset.name} USING (line)",
               f"SELECT {keys}, {partition}, {offset} FROM {main.name}", f"positions of the rows of {main.uri}", wrong)


# ---------------------------------------------------------------- command line


def arguments():
    parser = argparse.ArgumentParser(prog="oracle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for question, tables in ((counts, 1), (unique, 1), (offsets, "+"), (compare, "+")):
        sub = commands.add_parser(question.__name__)
        sub.set_defaults(question=question)
        sub.add_argument("tables", nargs=tables, metavar="TABLE")
        sub.add_argument("--storage-options", action="append", metavar="JSON")
        if question is unique:
            sub.add_argument("--columns", required=True, metavar="A,B")
        if question is offsets:
            sub.add_argument("--ends", required=True, metavar="PARTITION=END,…")
    sub = commands.add_parser("versions")
    sub.set_defaults(question=versions)
    sub.add_argument("table", metavar="TABLE")
    sub.add_argument("--at", action="append", required=True, metavar="VERSION=FILE")
    sub = commands.add_parser("as_of")
    sub.set_defaults(question=as_of)
    sub.add_argument("tables", nargs=2, metavar="TABLE")
    sub.add_argument("--storage-options", action="append", metavar="JSON")
    sub.add_argument("--answers", required=True, type=pathlib.Path, metavar="FILE")
    sub.add_argument("--match", required=True, choices=(">=", ">", "<=", "<", "known"))
    sub.add_argument("--ttl", type=float, metavar="SECONDS")
    sub = commands.add_parser("digest")
    sub.set_defaults(question=digest)
    sub.add_argument("file", type=pathlib.Path, metavar="FILE")
    sub.add_argument("--manifest", required=True, type=pathlib.Path, metavar="MANIFEST")
    sub = commands.add_parser("flights")
    sub.set_defaults(question=flights)
    sub.add_argument("dir", type=pathlib.Path, metavar="DIR")
    sub.add_argument("--clouds", default=",".join(CLOUDS), help="comma-separated; default: %(default)s")
    return parser.parse_args()


def main():
    parsed = arguments()
    problems = []
    try:
        answer = parsed.question(parsed, problems.append)
    except Unreadable as error:
        print(f"oracle: {error}", file=sys.stderr)
        return 2
    print(json.dumps(answer, indent=2))
    for problem in problems:
        print(f"oracle: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
