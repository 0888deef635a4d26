"""Models go to MLflow's own Python and come from it: the same model, the same answers.

    ISOBAR_BIN=target/release/isobar $(tests/services/services python tests/clients/mlflow-requirements.txt) \\
        -m unittest discover --start-directory tests/clients --pattern test_mlflow.py
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import mlflow.onnx
import numpy
import onnx
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
ISOBAR = os.environ.get("ISOBAR_BIN", str(ROOT / "target/release/isobar"))
CLOUDS = ("aws", "azure", "gcp")
SPEC = """
topology: mlflow
kafka: { brokers: "localhost:9092" }
clouds: { %s }
sources: { events: { topic: events, format: json, fields: { id: int64 } } }
datasets: { rows: { from: events, sql: SELECT id FROM events } }
"""
ROWS = numpy.array([[1, 2], [-3, 0.5]], dtype=numpy.float32)


def linear(weights):
    """A model of one product: `features` in, `prediction` out."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["prediction"])], "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(numpy.array(weights, dtype=numpy.float32).reshape(2, 1), "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class MLflow(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        clouds = ", ".join(f'{cloud}: {{ url: "file://{self.folder}/{cloud}" }}' for cloud in CLOUDS)
        (self.folder / "topology.yaml").write_text(SPEC % clouds)

    def isobar(self, *arguments, code=0):
        command = [ISOBAR, "models", *map(str, arguments), "--config", str(self.folder / "topology.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def shown(self, reference):
        command = [ISOBAR, "models", "show", reference, "--format", "json", "--config", str(self.folder / "topology.yaml")]
        return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout)

    def save(self, name, model, signature=None, **options):
        path = self.folder / name
        mlflow.onnx.save_model(model, path, signature=signature, pip_requirements=["onnx"], **options)
        return path

    def test_a_model_of_mlflow_is_registered_and_exported_and_answers_the_same(self):
        columns = ModelSignature(inputs=Schema([ColSpec("double", "distance"), ColSpec("float", "wind")]))
        saved = self.save("saved", linear([2, 3]), columns)
        self.isobar("register", saved, "--model", "delay", "--alias", "champion")
        manifest = self.shown("delay@champion")
        self.assertEqual([(it["name"], it["type"]) for it in manifest["features"]], [("distance", "float64"), ("wind", "float32")])
        tensor = {"name": "features", "datatype": "FP32", "shape": [None, 2]}
        self.assertEqual(manifest["signature"]["inputs"], [tensor])
        for cloud in CLOUDS:
            self.assertEqual((self.folder / cloud / "models/delay/1/model.onnx").read_bytes(), (saved / "model.onnx").read_bytes())

        exported = self.folder / "exported"
        self.isobar("export", "delay@champion", "--out", exported)
        signature = Model.load(exported).signature
        self.assertEqual(signature.inputs, Schema([TensorSpec(numpy.dtype("float32"), (-1, 2), "features")]))
        self.assertEqual(signature.outputs, Schema([TensorSpec(numpy.dtype("float32"), (-1, 1), "prediction")]))
        self.assertEqual(mlflow.onnx.load_model(str(exported)), onnx.load(saved / "model.onnx"))
        found = mlflow.pyfunc.load_model(str(exported)).predict({"features": ROWS})["prediction"]
        numpy.testing.assert_array_equal(found, ROWS @ numpy.array([[2], [3]], dtype=numpy.float32))

        self.isobar("register", exported, "--model", "delay")
        again = self.shown("delay@2")
        self.assertEqual({**again, "version": 1}, manifest)
        self.isobar("verify")

    def test_what_cannot_be_served_is_refused_with_the_way_out(self):
        large = self.save("large", linear([1, 2]))
        onnx.save_model(linear([1, 2]), large / "model.onnx", save_as_external_data=True, size_threshold=0)
        self.assertIn("save_as_external_data=False", self.isobar("register", large, "--model", "delay", code=2))
        (large / "model.onnx").write_bytes(b"not a model")
        self.assertIn("no ONNX model", self.isobar("register", large, "--model", "delay", code=2))
        (large / "MLmodel").write_text("flavors: { sklearn: {} }\n")
        self.assertIn("flavour `onnx`", self.isobar("register", large, "--model", "delay", code=2))
        self.assertIn("there is no model yet", self.isobar("ls"))
