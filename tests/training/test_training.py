"""The training of topologies/flight_delays, on the demo's real rows: from the tables in three clouds to folders that can be registered.

    ISOBAR_BIN=target/release/isobar $(tests/services/services python topologies/flight_delays/pipeline-requirements.txt) \\
        -m unittest discover --start-directory tests/training

Every twentieth row is learnt from, which takes five minutes; ISOBAR_TRAINING=full takes all of them, as the documentation's figures do,
and ten. $ISOBAR_DEMO names a folder that `isobar demo --keep` has filled; without, it is run.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CODE = ROOT / "topologies" / "flight_delays"
sys.path[:0] = [str(CODE), str(ROOT / "tests" / "clients")]

import clients
import numpy
import onnx
import pandas
import pyarrow
import pyarrow.parquet
from delay_model import answers, data, evaluation, features, package, statistics, steps, stream
from sklearn.metrics import roc_auc_score

FULL = os.environ.get("ISOBAR_TRAINING") == "full"
TAKE = 1 if FULL else 20
# Of the demo's rows, whoever replays them and into whichever partitions: docs/training-models.md.
DIGEST = "a8c957922085d9269a9d034c7e0db438e819f1fc52b08004bae94b711de78199"
ROWS = 327_346
CLOUDS = ("aws", "azure", "gcp")
# Rows that every way to ask a model answers; more than a trial is judged by.
COMPARED_ROWS = 10_000
# What is known of a flight only after it should have left.
LATER = ["departure_delay_minutes", "arrival_delay_minutes", "late", "air_time"]
TOKEN = "a-token-of-a-training"


def isobar(*arguments):
    command = [clients.variable("ISOBAR_BIN"), *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=clients.PATIENCE_SECONDS)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done


def setUpModule():
    Made.folder = pathlib.Path(unittest.enterModuleContext(tempfile.TemporaryDirectory()))
    Made.topology = clients.demo(Made.folder / "demo")
    # The set is described beside the topology that it is of.
    Made.spec = shutil.copy(CODE / "flight_delay.yaml", Made.topology.parent)
    isobar("training-set", Made.spec, "--out", Made.folder / "sets")
    (manifest,) = (Made.folder / "sets").glob("*.json")
    Made.pinned = data.Pinned.read(manifest)
    Made.table = data.from_file(Made.pinned)
    Made.split = features.split(Made.table.to_pandas(), TAKE)
    Made.held_out = features.held_out(Made.table.to_pandas(), COMPARED_ROWS)
    # The library that isobar loads to ask models.
    os.environ.setdefault("ISOBAR_ONNXRUNTIME", str(answers.library()))


class Made(unittest.TestCase):
    """What all tests below share: the demo's clouds, and a training set of them."""

    @classmethod
    def train(cls, out, *arguments):
        """What train.py does, in a process of its own; once for each `out`."""
        out = cls.folder / out
        command = [sys.executable, CODE / "train.py", cls.pinned.path, "--out", out, "--take", TAKE, "--topology", cls.topology, *arguments]
        if not out.exists():
            done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode != 0:
                raise AssertionError(f"train.py: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
            print(done.stdout, file=sys.stderr)
        return out


class Rows(Made):
    def test_the_rows_are_those_of_the_documentation(self):
        self.assertEqual((self.pinned.digest, self.table.num_rows), (DIGEST, ROWS))
        self.assertIn(DIGEST, (ROOT / "docs" / "training-models.md").read_text())

    def test_the_tables_of_every_cloud_give_the_same_rows(self):
        for cloud in CLOUDS:
            with self.subTest(cloud):
                self.assertTrue(data.from_deltalake(self.pinned, str(self.topology.parent / cloud)).equals(self.table))

    def test_the_query_of_flight_gives_the_same_rows(self):
        """What Flight SQL is asked, asked without a server."""
        file = self.folder / "asked.parquet"
        isobar("query", data.sql(self.pinned), "--config", self.topology, "--output", file)
        self.assertTrue(self.pinned.checked(pyarrow.parquet.read_table(file)).equals(self.table))

    def test_flight_gives_the_same_rows(self):
        from adbc_driver_flightsql import DatabaseOptions, dbapi

        topology = self.topology.with_name("served.yaml")
        topology.write_text(self.topology.read_text() + '\nserve:\n  callers:\n    training: { token: "${env:TRAINING_TOKEN}" }\n')
        patterns = {"flight": r"Flight SQL.*?(127\.0\.0\.1:\d+)"}
        with clients.server(topology, ["--flight", "127.0.0.1:0"], patterns, {"TRAINING_TOKEN": TOKEN}) as found:
            options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {TOKEN}"}
            with dbapi.connect(f"grpc://{found['flight']}", options, autocommit=True) as connection:
                self.assertTrue(data.from_flight(self.pinned, connection).equals(self.table))

    def test_other_rows_are_refused(self):
        late = self.table.schema.get_field_index("late")
        other = self.table.column("late").to_pylist()
        other[1000] = not other[1000]
        changed = self.table.set_column(late, "late", pyarrow.array(other))
        swapped = self.table.take([1, 0, *range(2, self.table.num_rows)])
        for name, table in {"a value": changed, "the order": swapped, "a row": self.table.slice(1)}.items():
            with self.subTest(name), self.assertRaisesRegex(data.Differs, "digest"):
                self.pinned.checked(table)

    def test_another_manifest_is_refused(self):
        with self.assertRaisesRegex(data.Differs, "not of"):
            data.Pinned.read(self.pinned.path, "0" * 64)
        broken = self.folder / "broken.json"
        manifest = json.loads(self.pinned.path.read_text())
        manifest["inputs"][0]["sha256"] = "0" * 64
        broken.write_text(json.dumps(manifest))
        with self.assertRaisesRegex(data.Differs, "is not the one"):
            data.from_deltalake(data.Pinned.read(broken), str(self.topology.parent / "aws"))

    def test_nulls_are_part_of_the_digest(self):
        column = pyarrow.array([1.5, None, 0.0])
        by_hand = b"\1" + numpy.float64(1.5).tobytes() + b"\0" + b"\1" + numpy.float64(0).tobytes()
        self.assertEqual(data.encoded(column), by_hand)
        self.assertEqual(data.encoded(pyarrow.array(["é", None])), b"\1\2\0\0\0\0\0\0\0" + "é".encode() + b"\0")
        self.assertEqual(data.encoded(pyarrow.array([True, None, False])), b"\1\1\0\1\0")


class Leaks(Made):
    def test_nothing_is_known_later_than_the_departure(self):
        self.assertEqual([name for name in features.FEATURES if name in LATER], [])
        # Each feature is in the set, as something that the timetable or the weather says.
        self.assertLessEqual(set(features.FEATURES), set(self.pinned.names("label") + self.pinned.names("feature")))
        # Each row of the set is held against every reading at its airport: a week of rows is enough.
        week = pathlib.Path(self.spec).with_name("week.yaml")
        text = pathlib.Path(self.spec).read_text()
        week.write_text(text.replace("  keys: [origin]\n", "  keys: [origin]\n  where: scheduled_at < TIMESTAMP '2013-01-08T00:00:00Z'\n", 1))
        self.assertNotEqual(week.read_text(), text)
        found = json.loads(isobar("leak-check", week, "--format", "json").stdout)
        self.assertEqual((found["leaks"], found["rows"]), (0, 5901), found)

    def test_the_parts_follow_each_other(self):
        train, validation, test = self.split.train.times, self.split.validation.times, self.split.test.times
        self.assertGreaterEqual(validation.min() - train.max(), features.GAP)
        self.assertGreaterEqual(test.min() - validation.max(), features.GAP)
        self.assertEqual((test.min().tz_convert("America/New_York").month, test.max().tz_convert("America/New_York").month), (10, 12))

    def test_codes_are_whole_in_float32(self):
        codes = self.table.select(features.CATEGORIES).to_pandas().to_numpy()
        self.assertTrue((codes.astype("float32").astype("int64") == codes).all())


class Models(Made):
    def test_both_models_are_written(self):
        out = self.train("first")
        for kind in ("forest", "network"):
            with self.subTest(kind):
                manifest = json.loads((out / kind / "manifest.json").read_text())
                self.assertEqual(manifest["training_set_sha256"], DIGEST)
                self.assertEqual([feature["name"] for feature in manifest["features"]], features.FEATURES)
                self.assertEqual({feature.get("contract") for feature in manifest["features"][:6]}, {"1.0.0"})
                self.assertEqual([feature.get("column") for feature in manifest["features"][5:7]], [None, "temperature_fahrenheit"])
                self.assertEqual(manifest["signature"]["inputs"], [{"name": "features", "datatype": "FP32", "shape": [None, 12]}])
                self.assertEqual([output["name"] for output in manifest["signature"]["outputs"]], ["label", "probabilities"])
                said = [manifest["onnx"], manifest["statistics"], *manifest["files"]]
                for artifact in said:
                    content = (out / kind / artifact["file"]).read_bytes()
                    self.assertEqual((len(content), hashlib.sha256(content).hexdigest()), (artifact["bytes"], artifact["sha256"]))
                there = {path.relative_to(out / kind).as_posix() for path in (out / kind).rglob("*") if path.is_file()}
                self.assertEqual({artifact["file"] for artifact in said} | {"manifest.json"}, there)
                # Better than nothing by far, and not so good that it must have seen the future.
                self.assertTrue(0.62 < manifest["metrics"]["auc"] < 0.8, manifest["metrics"])
                self.assertLessEqual(manifest["metrics"]["library_difference"], 1e-5)

    def test_the_same_rows_make_the_same_models_whichever_way_they_come(self):
        first, second = self.train("first"), self.train("second", "--deltalake", self.topology.parent / "azure")
        for kind in ("forest", "network"):
            said = [json.loads((out / kind / "manifest.json").read_text())["training_set_sha256"] for out in (first, second)]
            self.assertEqual(said, [DIGEST, DIGEST])
            for name in ("model.onnx", "statistics.json", "model_card.md", "plots/importance.png"):
                with self.subTest(kind, file=name):
                    self.assertEqual((first / kind / name).read_bytes(), (second / kind / name).read_bytes())

    def test_the_answers_of_the_library_are_kept(self):
        for kind in ("forest", "network"):
            kept = pyarrow.parquet.read_table(self.train("first") / f"{kind}-held-out.parquet")
            self.assertEqual(kept.column_names, [*features.FEATURES, "probability", "label"])
            x = features.matrix(kept.to_pandas())
            self.assertEqual(len(x), COMPARED_ROWS)
            numpy.testing.assert_array_equal(x, self.held_out)
            answers.compare(
                (self.train("first") / kind / "model.onnx").read_bytes(),
                kept.column("probability").to_numpy(), kept.column("label").to_numpy(), x,
            )

    def test_a_saved_model_answers_as_the_onnx_file_does(self):
        import tensorflow

        out = self.train("first") / "network"
        x = self.held_out
        loaded = tensorflow.saved_model.load(str(out / "saved_model"))
        theirs = loaded.serve(x).numpy()[:, 0]
        ours, _ = answers.predict(answers.session((out / "model.onnx").read_bytes()), x)
        self.assertLessEqual(abs(theirs - ours).max(), answers.TOLERANCE)

    def test_missing_values_and_unseen_names_have_an_answer(self):
        x = self.split.test.x[:4].copy()
        x[0, features.FEATURES.index("weather__pressure_millibars")] = numpy.nan
        x[1, 6:] = numpy.nan
        x[2, features.FEATURES.index("carrier_code")] = 1
        x[3, :3] = 16_777_215
        for kind in ("forest", "network"):
            found, labels = answers.predict(answers.session((self.train("first") / kind / "model.onnx").read_bytes()), x)
            self.assertTrue(((found > 0) & (found < 1)).all(), (kind, found))
            self.assertEqual(labels.tolist(), (found > 0.5).astype(int).tolist())

    def test_a_file_that_answers_something_else_is_refused(self):
        onnx_bytes = (self.train("first") / "forest" / "model.onnx").read_bytes()
        x = self.split.test.x[:100]
        found, labels = answers.predict(answers.session(onnx_bytes), x)
        answers.compare(onnx_bytes, found, labels, x)
        for name, wrong in {"a probability": (found + 2e-5, labels), "a label": (found, 1 - labels), "nothing": (found * numpy.nan, labels)}.items():
            with self.subTest(name), self.assertRaises(answers.Unequal):
                answers.compare(onnx_bytes, *wrong, x)

    def test_the_order_of_sets_in_a_converter_does_not_matter(self):
        model = onnx.load(self.train("first") / "forest" / "model.onnx")
        due = model.SerializeToString(deterministic=True)
        opsets = list(model.opset_import)[::-1]
        self.assertGreater(len(opsets), 1)
        del model.opset_import[:]
        model.opset_import.extend(opsets)
        self.assertNotEqual(model.SerializeToString(deterministic=True), due)
        self.assertEqual(answers.named(model).SerializeToString(deterministic=True), due)

    def test_names_from_a_converter_do_not_matter(self):
        model = onnx.load(self.train("first") / "network" / "model.onnx")
        due = model.SerializeToString(deterministic=True)
        for constant in model.graph.initializer:
            for node in model.graph.node:
                node.input[:] = [f"other_{name}" if name == constant.name else name for name in node.input]
            constant.name = f"other_{constant.name}"
        model.graph.initializer.sort(key=lambda constant: len(constant.raw_data))
        self.assertNotEqual(model.SerializeToString(deterministic=True), due)
        self.assertEqual(answers.named(model).SerializeToString(deterministic=True), due)

    def test_a_revision_that_nobody_says_is_left_out(self):
        """The image of deploy/training has no git, and says a revision only if it was told one."""
        with tempfile.TemporaryDirectory() as nothing:
            with unittest.mock.patch.dict(os.environ, {"PATH": nothing, "ISOBAR_REVISION": ""}):
                self.assertIsNone(package.revision())
            with unittest.mock.patch.dict(os.environ, {"PATH": nothing, "ISOBAR_REVISION": "4f2a9c1"}):
                self.assertEqual(package.revision(), "4f2a9c1")

    def test_the_library_of_onnx_runtime_is_found(self):
        self.assertTrue(answers.library().is_file())


class Scored(Made):
    """The libraries' own answers to 10,000 departures beside those of a stream and of a server."""

    PATTERNS = {"grpc": r"inference protocol by gRPC.*?(127\.0\.0\.1:\d+)", "http": r"serving topology=.*?(127\.0\.0\.1:\d+)"}
    # A machine that does something else is no error.
    PATIENT = "\nserve: { inference: { limits: { time: 1m } } }\n"

    @classmethod
    def setUpClass(cls):
        cls.models, cls.place = cls.train("first"), cls.folder / "scored"
        cls.place.mkdir()
        cls.departures = cls.place / "departures.yaml"
        text = (CODE / "departures.yaml").read_text() + cls.PATIENT
        cls.departures.write_text(text)
        # The dataset has the challenger's probability, and here its label as well.
        (call,) = re.findall(r"predict\('flight_delay'[^)]*\)", text)
        asked = call.replace("'flight_delay'", "'flight_delay@challenger'")
        text = text.replace(f"{call} AS delay,", f"{call} AS delay,\n          {asked}['label'] AS challenger_label,", 1)
        text = text.replace("delay['challenger'] AS", "challenger_label,\n        delay['challenger'] AS", 1)
        cls.labelled = cls.place / "labelled.yaml"
        cls.labelled.write_text(text)
        for kind, alias in (("forest", "champion"), ("network", "challenger")):
            isobar("models", "register", cls.models / kind, "--model", "flight_delay", "--alias", alias, "--config", cls.departures)

    def library(self, kind):
        """Probabilities and labels as scikit-learn or Keras gave them when the model was trained."""
        kept = pyarrow.parquet.read_table(self.models / f"{kind}-held-out.parquet")
        numpy.testing.assert_array_equal(features.matrix(kept.to_pandas()), self.held_out)
        return kept.column("probability").to_numpy(), kept.column("label").to_numpy()

    def assert_like_library(self, what, kind, probabilities, labels, rows=slice(None)):
        due, due_labels = (values[rows] for values in self.library(kind))
        self.assertEqual(len(probabilities), len(due))
        difference = float(numpy.abs(numpy.asarray(probabilities, dtype="float64") - due).max())
        print(f"{what}: {len(due):,} rows as the library of the {kind} answers, within {difference:.1g}", file=sys.stderr)
        self.assertLessEqual(difference, answers.TOLERANCE)
        numpy.testing.assert_array_equal(numpy.asarray(labels), due_labels)

    def test_a_stream_answers_as_the_libraries_do(self):
        rows = stream.test_rows(self.table).slice(0, COMPARED_ROWS)
        self.assertTrue(any(column.null_count for column in rows.columns), "there are departures of which something is missing")
        records = self.place / "departures.jsonl"
        stream.write_records(rows, records)
        stream.replay(self.labelled, records)
        found = {cloud: stream.scored(self.labelled, cloud, self.place) for cloud in CLOUDS}
        for cloud, of_cloud in found.items():
            # Delta's own reader sees what isobar says.
            table = data.DeltaTable(str(self.place / cloud / "datasets" / stream.DATASET)).to_pandas()
            pandas.testing.assert_frame_equal(table.sort_values(stream.KEY, ignore_index=True), of_cloud, check_dtype=False)
            self.assertTrue(of_cloud.equals(found["aws"]), cloud)
        found = found["aws"]
        self.assert_like_library("stream", "forest", found["probability"], found["label"])
        self.assert_like_library("stream", "network", found["challenger_probability"], found["challenger_label"])
        self.assertEqual(set(found["feature_versions"]), {"flight_features@1.0.0, weather_hourly"})
        judged = stream.judged(self.labelled, rows, found)
        self.assertEqual([(one.alias, one.version) for one in judged], [("champion", 1), ("challenger", 2)])
        late = rows.column("late").to_numpy(zero_copy_only=False)
        for one, kind in zip(judged, ("forest", "network")):
            self.assertAlmostEqual(one.auc, roc_auc_score(late, self.library(kind)[0]), places=5)
        with self.assertRaisesRegex(stream.Unscored, "9999 departures are scored, and not the 10000"):
            stream.judged(self.labelled, rows, found[1:])
        found.loc[7, "model_sha256"] = "0" * 64
        with self.assertRaisesRegex(stream.Unscored, "flight_delay@1, the champion"):
            stream.judged(self.labelled, rows, found)

    def test_a_server_answers_as_the_libraries_do(self):
        matrix, said = self.place / "rows.npy", self.place / "answers.npz"
        numpy.save(matrix, self.held_out)
        python = subprocess.run(
            [clients.SERVICES, "python", ROOT / "tests" / "clients" / "inference-requirements.txt"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.split()[-1]
        with clients.server(self.departures, ["--inference-grpc", "127.0.0.1:0"], self.PATTERNS) as found:
            subprocess.run([python, HERE / "ask.py", found["http"], found["grpc"], matrix, said], check=True)
            # In JSON, without a client: NaN has no place there, so rows with all features.
            whole = ~numpy.isnan(self.held_out).any(axis=1)
            self.assertGreater(whole.sum(), COMPARED_ROWS // 2)
            for kind, alias in (("forest", "champion"), ("network", "challenger")):
                probabilities, labels = self.asked_in_json(found["http"], alias, self.held_out[whole])
                self.assert_like_library("JSON", kind, probabilities, labels, whole)
        with numpy.load(said) as by_client:
            for kind, alias in (("forest", "champion"), ("network", "challenger")):
                for protocol in ("http", "grpc"):
                    probabilities, labels = (by_client[f"{protocol}_{alias}_{name}"] for name in ("probabilities", "labels"))
                    self.assert_like_library(protocol, kind, probabilities, labels)

    def asked_in_json(self, address, alias, rows):
        tensor = {"name": "features", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}
        url = f"http://{address}/v2/models/flight_delay/versions/{alias}/infer"
        with urllib.request.urlopen(url, json.dumps({"inputs": [tensor]}).encode(), clients.PATIENCE_SECONDS) as response:
            answer = json.load(response)
        outputs = {output["name"]: output for output in answer["outputs"]}
        return numpy.reshape(outputs["probabilities"]["data"], (-1, 2))[:, 1], outputs["label"]["data"]

    def test_records_are_the_rows(self):
        """Every number is read as the one that was written, and nothing that is known later is in a record."""
        rows = stream.test_rows(self.table)
        self.assertGreater(rows.num_rows, 80_000)
        some = rows.slice(0, 500)
        path = self.place / "some.jsonl"
        stream.write_records(some, path)
        records = pandas.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
        numpy.testing.assert_array_equal(features.matrix(records), self.held_out[:500])
        self.assertEqual(set(records), {stream.KEY, features.TIME, *features.FEATURES})
        self.assertEqual(self.table.take(pyarrow.array(records[stream.KEY])).column(features.TIME), some.column(features.TIME))


class Live(Made):
    def test_one_command_goes_from_the_topics_to_scored_flights(self):
        out = self.folder / "live"
        command, environment = [CODE / "live", out], {**os.environ, "ISOBAR_TAKE": str(TAKE), "ISOBAR_TRAINING_PYTHON": sys.executable}
        # It finds ONNX Runtime by itself.
        environment.pop("ISOBAR_ONNXRUNTIME")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
        self.assertEqual(done.returncode, 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        said = done.stdout
        for cloud in CLOUDS:
            self.assertIn(f"the training set, made again from {cloud} alone", said)
        self.assertRegex(said, r"82,609 departures .* are scored, the same in aws, azure, gcp")
        for alias, version in (("champion", 1), ("challenger", 2)):
            self.assertRegex(said, rf"{alias} +flight_delay@{version}: AUC 0\.\d{{4}} in the stream, 0\.\d{{4}} in training")
        isobar("models", "verify", "--config", out / "demo" / "departures.yaml")

        # What it says of a server, asked.
        (body,) = re.findall(r"-d \\\n +'(.*)'", said)
        with clients.server(out / "demo" / "departures.yaml", [], {"http": Scored.PATTERNS["http"]}) as found:
            url = f"http://{found['http']}/v2/models/flight_delay/infer"
            with urllib.request.urlopen(url, body.encode(), clients.PATIENCE_SECONDS) as response:
                outputs = {output["name"]: output["data"] for output in json.load(response)["outputs"]}
        x = numpy.float32(json.loads(body)["inputs"][0]["data"])
        due, labels = answers.predict(answers.session((out / "models" / "forest" / "model.onnx").read_bytes()), x)
        self.assertAlmostEqual(numpy.ravel(outputs["probabilities"])[1], due[0], delta=answers.TOLERANCE)
        self.assertEqual(outputs["label"], labels.tolist())

        # A record lands once: what is scored is not scored again.
        again = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
        self.assertEqual((again.returncode, again.stdout), (1, ""))
        self.assertIn("scored already", again.stderr)


class Statistics(Made):
    def test_every_row_is_counted_once(self):
        found = statistics.statistics(self.split.train, numpy.linspace(0, 1, 1000))
        self.assertEqual(list(found["features"]), features.FEATURES)
        for name, one in found["features"].items():
            with self.subTest(name):
                counts = one["counts"]
                counted = sum(counts.values() if isinstance(counts, dict) else counts)
                self.assertEqual(counted + one["missing"], len(self.split.train))
        pressure = self.split.train.x[:, features.FEATURES.index("weather__pressure_millibars")]
        self.assertEqual(found["features"]["weather__pressure_millibars"]["missing"], int(numpy.isnan(pressure).sum()))
        self.assertEqual(sum(found["label"]["counts"].values()), len(self.split.train))
        json.dumps(found, allow_nan=False)

    def test_bins_are_those_of_their_edges(self):
        found = statistics.numbers(numpy.array([0.0, 0.5, 1.0, 1.0, 2.0, 3.0]), numpy.array([0.0, 1.0, 2.0]))
        self.assertEqual(found["counts"], [0, 2, 2, 2])
        self.assertEqual(statistics.numbers(numpy.array([-1.0, 2.0]), numpy.array([0.0, 1.0]))["counts"], [1, 0, 1])


def of_days(rows, days):
    """Times on that many days, in turn."""
    return pandas.Series(pandas.date_range("2013-10-01T12:00:00Z", periods=days)[numpy.arange(rows) % days])


class Evaluation(unittest.TestCase):
    def setUp(self):
        random = numpy.random.default_rng(1)
        self.y = random.integers(0, 2, 4000)
        self.good = self.y + random.normal(0, 1, 4000)
        self.bad = self.y + random.normal(0, 3, 4000)
        self.times = of_days(4000, 80)

    def squeezed(self, score):
        return 1 / (1 + numpy.exp(-(score - 0.5)))

    def test_a_resample_that_draws_each_day_once_is_the_whole(self):
        # Rounded, so that many are equal.
        for score in (self.good, numpy.round(self.good), numpy.zeros(4000)):
            _, day = numpy.unique(self.times.dt.floor("D"), return_inverse=True)
            once = evaluation.Scored(self.y, self.squeezed(score), day, 80).aucs(numpy.ones((1, 80), dtype=int))
            self.assertAlmostEqual(once[0], roc_auc_score(self.y, score), places=12)

    def test_the_better_one_is_better_and_the_same_one_is_not(self):
        good, bad = self.squeezed(self.good), self.squeezed(self.bad)
        self.assertTrue(evaluation.compare(self.y, bad, good, self.times, 7).is_better)
        self.assertFalse(evaluation.compare(self.y, good, bad, self.times, 7).is_better)
        same = evaluation.compare(self.y, good, good, self.times, 7)
        self.assertFalse(same.is_better)
        self.assertEqual((same.auc_gain, same.auc_p_value), (0, 1))

    def test_chance_alone_is_rarely_better(self):
        """Two models that are equally good: of 200 pairs some five seem better, by the 2.5 % above the interval."""
        random = numpy.random.default_rng(2)
        better = 0
        for _ in range(200):
            y = random.integers(0, 2, 600)
            one, other = (self.squeezed(y + random.normal(0, 2, 600)) for _ in range(2))
            better += evaluation.compare(y, one, other, of_days(600, 60), 3, resamples=200).is_better
        self.assertLessEqual(better, 14)

    def test_delong_is_that_of_the_definition(self):
        y, one, other = self.y[:60], self.good[:60], self.bad[:60]
        late, on_time = [score[y == 1] for score in (one, other)], [score[y == 0] for score in (one, other)]
        wins = [numpy.greater.outer(a, b) + 0.5 * numpy.equal.outer(a, b) for a, b in zip(late, on_time)]
        of_late, of_on_time = [w.mean(axis=1) for w in wins], [w.mean(axis=0) for w in wins]
        covariance = numpy.cov(of_late) / len(of_late[0]) + numpy.cov(of_on_time) / len(of_on_time[0])
        z = (wins[1].mean() - wins[0].mean()) / numpy.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        from scipy.stats import norm

        self.assertAlmostEqual(evaluation.delong(y, one, other), 2 * norm.sf(abs(z)), places=10)

    def test_calibration_sees_what_is_off(self):
        honest = numpy.clip(numpy.random.default_rng(3).random(20_000), 0.01, 0.99)
        y = (numpy.random.default_rng(4).random(20_000) < honest).astype(int)
        self.assertLess(evaluation.metrics(y, honest)["calibration_error"], 0.02)
        self.assertGreater(evaluation.metrics(y, honest**3)["calibration_error"], 0.1)


class Pipeline(Made):
    def test_the_compiled_pipeline_is_the_one_in_the_source(self):
        subprocess.run([sys.executable, CODE / "pipeline.py", "--check"], check=True)

    def test_no_step_installs_anything(self):
        self.assertNotIn("pip install", (CODE / "pipeline.yaml").read_text())

    def ran(self, out):
        """Runs the pipeline: what each of its steps said, and where the folders of both models are."""
        given = {"training_set": str(self.spec), "topology": str(self.topology), "take": 20}
        command = [sys.executable, CODE / "pipeline.py", "--run", out, "--arguments", json.dumps(given)]
        environment = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
        self.assertEqual(done.returncode, 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        outputs = {path.parent.name: json.loads(path.read_text()) for path in out.rglob("executor_output.json")}
        said = {name: output.get("parameterValues", {}).get("Output") for name, output in outputs.items()}
        return said, sorted(out.glob("*/train-model*/model"))

    def registered(self):
        """The digest of every version's ONNX file, and the versions that the aliases mean."""
        (model,) = json.loads(isobar("models", "ls", "--config", self.topology, "--format", "json").stdout)["models"]
        shown = json.loads(isobar("models", "show", "flight_delay", "--config", self.topology, "--format", "json").stdout)
        self.assertEqual({version["training_set_sha256"] for version in shown["versions"]}, {DIGEST})
        return {version["version"]: version["onnx"]["sha256"] for version in shown["versions"]}, model["aliases"]

    def test_the_pipeline_runs_from_the_tables_to_the_champion(self):
        said, folders = self.ran(self.folder / "steps")
        steps_due = {"build-training-set", "train-model", "train-model-2", "evaluate", "compare-with-champion", "register", "register-2", "deploy"}
        self.assertLessEqual(steps_due, set(said))
        self.assertEqual((said["build-training-set"], said["compare-with-champion"]), (DIGEST, "promote"))
        files, aliases = self.registered()
        made = [hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() for folder in folders]
        # The forest's step is the first.
        self.assertEqual(files, {1: made[0], 2: made[1]})
        best, other = (1, 2) if said["evaluate"] == "forest" else (2, 1)
        self.assertEqual(aliases, {"champion": best, "challenger": other})

        # The same models are not better than the champion is: it stays, and the better one of them answers in its shadow.
        again, _ = self.ran(self.folder / "again")
        self.assertEqual((again["evaluate"], again["compare-with-champion"]), (said["evaluate"], "keep"))
        self.assertEqual(self.registered(), ({1: made[0], 2: made[1], 3: made[0], 4: made[1]}, {"champion": best, "challenger": best + 2}))
        isobar("models", "verify", "--config", self.topology)
        with tempfile.TemporaryDirectory() as folder:
            champion = steps.champion(self.topology, folder)
            same = steps.compare(self.pinned.path.parent, champion, champion, seed=1, take=20)
        self.assertEqual((same.auc_gain, same.is_better), (0, False))


if __name__ == "__main__":
    unittest.main()
