"""The oracle must pass what is right and name what is wrong. `tests/run oracle` runs these."""

import contextlib
import hashlib
import io
import json
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

import oracle
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema, write_deltalake
from deltalake.exceptions import DeltaProtocolError

# Kafka partitions of the fixture: two origins share one, as keyed records may.
PARTITION = "CASE origin WHEN 'JFK' THEN 3 ELSE 0 END"


def ask(*arguments):
    """Exit code, answer and complaints."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["oracle", *map(str, arguments)]):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = oracle.main()
    return code, json.loads(out.getvalue()) if out.getvalue() else None, err.getvalue()


def commented(rows, comments):
    """The same rows with comments of columns, as a table has them."""
    fields = [field.with_metadata({"comment": comments[field.name]}) if field.name in comments else field for field in rows.schema]
    return pa.Table.from_arrays(rows.columns, schema=pa.schema(fields))


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def table(self, name, **columns):
        write_deltalake(str(self.folder / name), pa.table(columns), mode="append")
        return self.folder / name


class SmallTables(Folder):
    def test_counts_add_up_over_commits_and_partitions(self):
        self.table("t", kafka_partition=[0, 0, 1], kafka_offset=[4, 5, 9])
        table = self.table("t", kafka_partition=[1], kafka_offset=[10])
        code, answer, _ = ask("counts", table)
        self.assertEqual((code, answer["rows"], answer["version"], answer["files"]), (0, 4, 1, 2))
        self.assertEqual(answer["kafka"]["1"], {"rows": 2, "first_offset": 9, "last_offset": 10})

    def test_counts_of_a_folder_that_is_no_table_is_an_error(self):
        self.assertEqual(ask("counts", self.folder / "nothing")[0], 2)

    def test_unique_counts_each_further_copy(self):
        table = self.table("t", a=[1, 1, 1, 2], b=["x", "x", "x", "x"])
        code, answer, complaint = ask("unique", table, "--columns", "a,b")
        self.assertEqual((code, answer["duplicates"]), (1, 2))
        self.assertIn('"copies":3', complaint)
        self.assertEqual(ask("unique", self.table("u", a=[1, 2]), "--columns", "a")[0], 0)

    def test_offsets_of_a_table_and_its_quarantine_fill_each_partition(self):
        main = self.table("t", kafka_partition=[0, 0, 1], kafka_offset=[0, 2, 0])
        aside = self.table("t.quarantine", partition=[0], offset=[1])
        self.assertEqual(ask("offsets", main, aside, "--ends", "0=3,1=1")[0], 0)
        for ends, what in (("0=4,1=1", "missing"), ("0=3", "unexpected")):
            code, answer, _ = ask("offsets", main, aside, "--ends", ends)
            self.assertEqual((code, answer[what]), (1, 1))
        self.table("t.quarantine", partition=[1], offset=[0])
        code, answer, _ = ask("offsets", main, aside, "--ends", "0=3,1=1")
        self.assertEqual((code, answer["repeated"], answer["missing"]), (1, 1, 0))

    def test_compare_is_of_multisets_and_of_columns(self):
        first = self.table("first", a=[1, 2, 2])
        self.assertEqual(ask("compare", first, self.table("reordered", a=[2, 1, 2]))[0], 0)
        self.assertEqual(ask("compare", first, self.table("fewer_copies", a=[1, 1, 2]))[0], 1)
        self.assertEqual(ask("compare", first, self.table("another_type", a=pa.array([1, 2, 2], pa.int32())))[0], 1)

    def test_compare_is_of_comments_too(self):
        told = []
        for name, comment in (("first", "minutes"), ("same", "minutes"), ("other", "hours")):
            told.append(self.folder / name)
            write_deltalake(str(told[-1]), commented(pa.table({"a": [1, 2]}), {"a": comment}))
        self.assertEqual(ask("compare", told[0], told[1])[0], 0)
        code, _, complaint = ask("compare", told[0], told[2])
        self.assertEqual(code, 1)
        self.assertIn("comments {'a': 'hours'}", complaint)
        self.assertEqual(ask("counts", told[0])[1]["comments"], {"a": "minutes"})


class Evolved(Folder):
    """What docs/evolution.md says of the readers that the oracle is made of. Logs written by hand, files of several shapes."""

    def evolved(self, name, schema, files, features=()):
        """A table of this Arrow schema, whose files are Arrow tables of whatever columns."""
        folder = self.folder / name
        (folder / "_delta_log").mkdir(parents=True)
        protocol = {"minReaderVersion": 1, "minWriterVersion": 2}
        if features:
            protocol = {"minReaderVersion": 3, "minWriterVersion": 7,
                        "readerFeatures": list(features), "writerFeatures": list(features)}
        metadata = {"id": name, "format": {"provider": "parquet", "options": {}}, "partitionColumns": [], "configuration": {},
                    "schemaString": Schema.from_arrow(schema).to_json()}
        actions = [{"protocol": protocol}, {"metaData": metadata}]
        for number, rows in enumerate(files):
            path = f"{number}.parquet"
            pq.write_table(rows, folder / path, store_schema=False)
            actions.append({"add": {"path": path, "partitionValues": {}, "size": (folder / path).stat().st_size,
                                    "modificationTime": 0, "dataChange": True}})
        (folder / "_delta_log" / f"{0:020}.json").write_text("".join(json.dumps(action) + "\n" for action in actions))
        return folder

    @staticmethod
    def rows(x, names, fields):
        """Two rows of structs with the fields `fields`, of which those of `names` are numbers: the second struct is null."""
        struct = pa.struct([(name, pa.int64()) for name in fields])
        value = {name: x for name in names}
        return pa.table({
            "s": pa.array([value, None], struct),
            "items": pa.array([[value, None], []], pa.list_(pa.field("element", struct))),
            "rates": pa.array([[("k", value)], []], pa.map_(pa.string(), struct)),
            "deep": pa.array([[("k", [value])], None], pa.map_(pa.string(), pa.list_(pa.field("element", struct)))),
        })

    def test_fields_that_structs_of_older_files_do_not_have_are_null(self):
        every = ["a", "b", "c"]
        shapes = [(1, ["b"]), (2, every), (3, ["a", "c"])]
        due = [self.rows(x, names, every) for x, names in shapes]
        whole = self.evolved("whole", due[0].schema, due)
        grown = self.evolved("grown", due[0].schema, [self.rows(x, names, names) for x, names in shapes])
        self.assertEqual(ask("compare", whole, grown)[::2], (0, ""))
        short = self.evolved("short", due[0].schema, [self.rows(x, names, names) for x, names in shapes[1:]])
        self.assertEqual(ask("compare", whole, short)[0], 1)

    def test_a_table_whose_types_widen_is_refused(self):
        files = [pa.table({"n": pa.array([1], kind)}) for kind in (pa.int32(), pa.int64())]
        widened = DeltaTable(self.evolved("widened", files[1].schema, files, ["typeWidening"]))
        with self.assertRaises(DeltaProtocolError):
            widened.to_pyarrow_dataset()


    def test_versions_have_the_rows_and_columns_that_they_had(self):
        table = self.table("t", a=[1], b=["x"])
        self.table("t", a=[2, 2], b=["y", None])

        def file(name, **columns):
            pq.write_table(pa.table(columns), self.folder / name)
            return self.folder / name

        first, second = file("first", a=[1], b=["x"]), file("second", a=[2, 1, 2], b=[None, "x", "y"])
        code, answer, _ = ask("versions", table, "--at", f"0={first}", "--at", f"1={second}")
        self.assertEqual((code, answer["rows"]), (0, {"0": 1, "1": 3}))
        code, answer, complaint = ask("versions", table, "--at", f"1={first}")
        self.assertEqual((code, answer["different"]), (1, {"1": 2}))
        self.assertIn("missing", complaint)
        self.assertEqual(ask("versions", table, "--at", f"0={file('c', b=['x'], a=[1])}")[0], 1)
        self.assertEqual(ask("versions", table, "--at", f"7={first}")[0], 2)


class AsOf(Folder):
    """Four questions about one entity; two observations at the same time, one of them known late."""

    def setUp(self):
        super().setUp()
        second = lambda *seconds: pa.array([s if s is None else s * 1_000_000 for s in seconds], pa.timestamp("us", "UTC"))
        integers = lambda *numbers: pa.array(numbers, pa.int64())
        self.questions = self.table("q", id=integers(1, 2, 3, 4), trial=integers(1, 1, 1, 1), k=["a", "a", "a", None], t=second(10, 20, None, 20))
        self.observations = self.table(
            "o", trial=integers(1, 1, 1), k=["a", "a", "a"], event_time=second(10, 15, 15),
            known_time=second(10, 15, 30), seq=integers(1, 2, 3), value=integers(100, 200, 300))

    def answers(self, *values):
        path = self.folder / "answers.csv"
        path.write_text("id,value\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values, 1)))
        return path

    def test_each_match_has_its_answers(self):
        for match, values in ((">=", (100, 300, "", "")), (">", ("", 300, "", "")), ("<=", (100, "", "", "")),
                              ("<", (300, "", "", "")), ("known", (100, 200, "", ""))):
            code, answer, complaint = ask("as_of", self.questions, self.observations, "--answers", self.answers(*values), "--match", match)
            self.assertEqual((code, answer["different"]), (0, 0), (match, complaint))

    def test_a_time_to_live_includes_its_end(self):
        for ttl, values in ((5, (100, 200, "", "")), (4.999999, (100, "", "", ""))):
            answers = self.answers(*values)
            code, _, complaint = ask("as_of", self.questions, self.observations, "--answers", answers, "--match", "known", "--ttl", ttl)
            self.assertEqual(code, 0, (ttl, complaint))

    def test_a_wrong_answer_and_one_too_few_are_named(self):
        for values in ((100, 200, "", ""), (100, 300, "")):
            code, _, complaint = ask("as_of", self.questions, self.observations, "--answers", self.answers(*values), "--match", ">=")
            self.assertEqual(code, 1)
            self.assertIn("missing", complaint)


class Digest(Folder):
    """A file of two rows, and a manifest whose digests are written out by hand."""

    def manifest(self, path, **changes):
        sha256 = lambda value: hashlib.sha256(value).hexdigest()
        columns = [
            {"name": "id", "type": "int64", "sha256": sha256(bytes([1, 7, 0, 0, 0, 0, 0, 0, 0, 0]))},
            {"name": "t", "type": "timestamp", "sha256": sha256(bytes([0, 1, 1, 0, 0, 0, 0, 0, 0, 0]))},
            {"name": "é", "type": "string", "sha256": sha256(bytes([1, 1, 0, 0, 0, 0, 0, 0, 0]) + b"a" + bytes([1] + [0] * 8))},
        ]
        lines = "".join(f'column "{c["name"]}" {c["type"]} {c["sha256"]}\n' for c in columns)
        manifest = {
            "rows": 2, "columns": columns, "digest": sha256(f"isobar training set 1\nrows 2\n{lines}".encode()),
            "file": {"sha256": sha256(path.read_bytes())}, **changes}
        written = self.folder / "m.json"
        written.write_text(json.dumps(manifest))
        return written

    def test_the_digest_is_that_of_the_documentation(self):
        path = self.folder / "set.parquet"
        columns = {"id": pa.array([7, None], pa.int64()), "t": pa.array([None, 1], pa.timestamp("us", "UTC")), "é": ["a", ""]}
        pq.write_table(pa.table(columns), path)
        code, _, complaint = ask("digest", path, "--manifest", self.manifest(path))
        self.assertEqual(code, 0, complaint)
        for change in ({"rows": 3}, {"digest": "0" * 64}, {"file": {"sha256": "0" * 64}}, {"columns": []}):
            self.assertEqual(ask("digest", path, "--manifest", self.manifest(path, **change))[0], 1, change)


class Demo(Folder):
    """The demo's output, made from the CSV files with the oracle's own SQL, then damaged."""

    def write(self, damage=""):
        con = oracle.demo_source()
        for dataset in oracle.DATASETS:
            con.execute(f"""CREATE TABLE placed AS SELECT line, {PARTITION} AS p,
                                row_number() OVER (PARTITION BY p ORDER BY line) - 1 AS o FROM {dataset.source}""")
            rejected = " UNION ALL ".join(f"SELECT *, '{rule}' AS rule FROM {dataset.source} WHERE {condition}"
                                          for rule, condition in dataset.rejected.items())
            con.execute(f"""
                CREATE TABLE main AS SELECT d.* EXCLUDE (line), p AS kafka_partition, o AS kafka_offset
                    FROM ({dataset.columns} WHERE {dataset.accepted}) d JOIN placed USING (line);
                CREATE TABLE aside AS SELECT rule, p AS partition, o AS "offset",
                        encode(row_to_json(r)::VARCHAR) AS payload
                    FROM (SELECT * EXCLUDE (line, rule) REPLACE (strftime(time_hour, '%Y-%m-%dT%H:%M:%SZ') AS time_hour),
                                 rule, line FROM ({rejected})) AS r JOIN placed USING (line)""")
            con.execute(damage if dataset.name == "weather_hourly" else "")
            for name, table in ((dataset.name, "main"), (f"{dataset.name}.quarantine", "aside")):
                rows = con.sql(f"FROM {table}").to_arrow_table()
                rows = commented(rows, dataset.comments if table == "main" else {})
                write_deltalake(str(self.folder / "aws" / "datasets" / name), rows)
            con.execute("DROP TABLE placed; DROP TABLE main; DROP TABLE aside")

    def test_right_output_passes(self):
        self.write()
        code, answer, complaint = ask("flights", self.folder, "--clouds", "aws")
        self.assertEqual((code, complaint), (0, ""))
        self.assertEqual(answer["flight_features"]["rows"], 327_346)
        self.assertEqual(answer["weather_hourly"]["rows"], 26_114)

    def test_each_damage_is_named(self):
        self.write("""
            UPDATE main SET visibility_miles = -1 WHERE kafka_partition = 3 AND kafka_offset = 100;
            UPDATE main SET kafka_offset = 1_000_000 WHERE kafka_partition = 3 AND kafka_offset = 200;
            DELETE FROM main WHERE kafka_partition = 3 AND kafka_offset = 300;
            INSERT INTO main FROM main WHERE kafka_partition = 3 AND kafka_offset = 400;
            UPDATE aside SET rule = 'another'""")
        code, _, complaint = ask("flights", self.folder, "--clouds", "aws")
        self.assertEqual(code, 1)
        for part in ("visibility_miles is not what the CSV gives in 1 rows", "weather_hourly: 2 rows are missing",
                     "weather_hourly: 2 rows are not expected", '"o":1000000', '"rule":"another"'):
            self.assertIn(part, complaint)
        self.assertNotIn("flight_features", complaint)


if __name__ == "__main__":
    unittest.main()
