"""The Open Inference Protocol by Triton's client, HTTP and gRPC: the answers that ONNX Runtime's Python gives.

    ISOBAR_BIN=target/release/isobar ISOBAR_ONNXRUNTIME=/path/of/libonnxruntime.so \\
        $(tests/services/services python tests/clients/inference-requirements.txt) \\
        -m unittest discover --start-directory tests/clients --pattern test_inference.py
"""

import csv
import json
import pathlib
import subprocess
import tempfile
import unittest

import clients
import numpy
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

MODELS = pathlib.Path(__file__).resolve().parents[1] / "golden" / "models"
TOKEN, OTHER_TOKEN = "a-token-of-a-program", "a-token-of-somebody-else"
TOKENS = {"PROGRAM_TOKEN": TOKEN, "OTHER_TOKEN": OTHER_TOKEN}
CLOUDS = ("aws", "azure", "gcp")
SPEC = """
topology: inference
kafka: { brokers: "localhost:9092" }
clouds: { %s }
sources: { events: { topic: events, format: json, fields: { id: int64 } } }
datasets: { rows: { from: events, sql: SELECT id FROM events } }
serve:
  callers:
    program: { token: "${env:PROGRAM_TOKEN}" }
    other: { token: "${env:OTHER_TOKEN}", role: other }
  roles:
    other: { models: [twice] }
  inference: { limits: { batch: 8 } }
"""
PATTERNS = {"grpc": r"inference protocol by gRPC.*?(127\.0\.0\.1:\d+)", "http": r"serving topology=.*?(127\.0\.0\.1:\d+)"}
TOLERANCE = 1e-5


def setUpModule():
    folder = pathlib.Path(unittest.enterModuleContext(tempfile.TemporaryDirectory()))
    topology = folder / "topology.yaml"
    places = ", ".join(f'{cloud}: {{ url: "file://{folder}/{cloud}" }}' for cloud in CLOUDS)
    topology.write_text(SPEC % places)
    for model in ("forest", "network", "twice"):
        made = folder / model
        made.mkdir()
        (made / "model.onnx").write_bytes((MODELS / f"{model}.onnx").read_bytes())
        (made / "manifest.json").write_text(json.dumps({"features": []}))
        command = [clients.variable("ISOBAR_BIN"), "models", "register", str(made), "--model", model, "--alias", "champion",
                   "--config", str(topology)]
        subprocess.run(command, check=True, capture_output=True, timeout=clients.PATIENCE_SECONDS)
    served = clients.server(topology, ["--inference-grpc", "127.0.0.1:0"], PATTERNS, TOKENS)
    Served.addresses = unittest.enterModuleContext(served)
    with open(MODELS / "answers.csv", newline="") as file:
        rows = [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]
    Served.answers = numpy.array(rows)


class Served:
    """What the tests of both protocols share: one server."""

    def headers(self, token=TOKEN):
        return {"authorization": f"Bearer {token}"}

    def infer(self, model, inputs, token=TOKEN, **options):
        given = []
        for name, (datatype, values) in inputs.items():
            given.append(self.triton.InferInput(name, list(values.shape), datatype))
            given[-1].set_data_from_numpy(values)
        return self.client.infer(model, given, headers=self.headers(token), **options)

    def test_the_server_and_its_models_say_what_they_are(self):
        client, headers = self.client, self.headers()
        self.assertTrue(client.is_server_live(headers=headers))
        self.assertTrue(client.is_server_ready(headers=headers))
        for version, expected in (("", True), ("1", True), ("champion", True), ("2", False)):
            self.assertIs(client.is_model_ready("forest", version, headers=headers), expected, version)
        self.assertFalse(client.is_model_ready("absent", headers=headers))
        said = self.metadata("forest")
        self.assertEqual((said["name"], said["versions"]), ("forest", ["1", "champion"]))
        shape = [int(size) for size in said["inputs"][0]["shape"]]
        self.assertEqual((said["inputs"][0]["name"], said["inputs"][0]["datatype"], shape), ("X", "FP32", [-1, 8]))

    def test_the_answers_are_those_of_python(self):
        features = self.answers[:, :8].astype(numpy.float32)
        for first, rows in ((0, 1000), (7, 1), (990, 10)):
            expected = self.answers[first:first + rows]
            forest = self.infer("forest", {"X": ("FP32", features[first:first + rows])}, request_id="42")
            numpy.testing.assert_array_equal(forest.as_numpy("label"), expected[:, 8].astype(numpy.int64))
            numpy.testing.assert_allclose(forest.as_numpy("probabilities")[:, 1], expected[:, 9], rtol=0, atol=TOLERANCE)
            network = self.infer("network", {"x": ("FP32", features[first:first + rows])}, model_version="1")
            output = self.metadata("network")["outputs"][0]["name"]
            numpy.testing.assert_allclose(network.as_numpy(output).reshape(-1), expected[:, 10], rtol=0, atol=TOLERANCE)

    def test_an_output_that_is_asked_for_comes_alone(self):
        row = self.answers[:1, :8].astype(numpy.float32)
        wanted = [self.triton.InferRequestedOutput("probabilities")]
        said = self.infer("forest", {"X": ("FP32", row)}, outputs=wanted)
        self.assertIsNone(said.as_numpy("label"))
        self.assertEqual(said.as_numpy("probabilities").shape, (1, 2))

    def test_what_is_wrong_is_an_error_and_the_server_answers_on(self):
        one = numpy.ones((1, 1), dtype=numpy.float32)
        for model, inputs, what in (
            ("twice", {"x": ("FP32", numpy.ones((1, 2), dtype=numpy.float32))}, "the model takes FP32[?, 1]"),
            ("twice", {"x": ("FP64", numpy.ones((1, 1)))}, "the model takes FP32[?, 1]"),
            ("twice", {"x": ("FP32", one * numpy.nan)}, "is NaN"),
            ("twice", {"y": ("FP32", one)}, "no input of the model"),
            ("absent", {"x": ("FP32", one)}, "there is no model absent"),
        ):
            with self.assertRaisesRegex(InferenceServerException, what.replace("[?", r"\[\?")):
                self.infer(model, inputs)
            numpy.testing.assert_array_equal(self.infer("twice", {"x": ("FP32", one)}).as_numpy(self.twice), 2 * one)

    def test_a_caller_asks_the_models_of_its_role(self):
        one = numpy.ones((1, 1), dtype=numpy.float32)
        numpy.testing.assert_array_equal(self.infer("twice", {"x": ("FP32", one)}, OTHER_TOKEN).as_numpy(self.twice), 2 * one)
        row = {"X": ("FP32", self.answers[:1, :8].astype(numpy.float32))}
        with self.assertRaisesRegex(InferenceServerException, "there is no model forest"):
            self.infer("forest", row, OTHER_TOKEN)
        with self.assertRaises(InferenceServerException):
            self.infer("forest", row, "a-token-of-nobody-at-all")

    @property
    def twice(self):
        return self.metadata("twice")["outputs"][0]["name"]


class Http(Served, unittest.TestCase):
    triton = tritonclient.http

    def setUp(self):
        self.client = tritonclient.http.InferenceServerClient(self.addresses["http"])
        self.addCleanup(self.client.close)

    def metadata(self, model):
        return self.client.get_model_metadata(model, headers=self.headers())

    def test_tensors_in_json_are_the_same(self):
        row = self.answers[:3, :8].astype(numpy.float32)
        given = self.triton.InferInput("X", [3, 8], "FP32")
        given.set_data_from_numpy(row, binary_data=False)
        wanted = [self.triton.InferRequestedOutput("probabilities", binary_data=False)]
        said = self.client.infer("forest", [given], outputs=wanted, headers=self.headers())
        numpy.testing.assert_allclose(said.as_numpy("probabilities")[:, 1], self.answers[:3, 9], rtol=0, atol=TOLERANCE)
        parameters = said.get_response()["parameters"]
        self.assertEqual((parameters["version"], len(parameters["sha256"])), (1, 64))


class Grpc(Served, unittest.TestCase):
    triton = tritonclient.grpc

    def setUp(self):
        self.client = tritonclient.grpc.InferenceServerClient(self.addresses["grpc"])
        self.addCleanup(self.client.close)

    def metadata(self, model):
        return self.client.get_model_metadata(model, headers=self.headers(), as_json=True)
