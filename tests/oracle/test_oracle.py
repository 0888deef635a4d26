"""The oracle must pass what is right and name what is wrong. `tests/run oracle` runs these."""

import contextlib
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
from deltalake import write_deltalake

# Kafka partitions of the fixture: two origins share one, as keyed records may.
PARTITION = "CASE origin WHEN 'JFK' THEN 3 ELSE 0 END"


def ask(*arguments):
    """Exit code, answer and complaints."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["oracle", *map(str, arguments)]):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = oracle.main()
    return code, json.loads(out.getvalue()) if out.getvalue() else None, err.getvalue()


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
