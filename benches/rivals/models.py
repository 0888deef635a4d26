#!/usr/bin/env python3
"""Makes the models that `isobar-bench predict` measures, and says what ONNX Runtime's own Python does with them.

    python -m venv DIR && DIR/bin/pip install -r benches/rivals/models-requirements.txt
    DIR/bin/python benches/rivals/models.py make MODELS
    target/release/isobar-bench predict --model MODELS/forest.onnx --model MODELS/network.onnx
    DIR/bin/python benches/rivals/models.py measure MODELS

`forest.onnx`: scikit-learn's random forest of 100 trees over 16 features. `network.onnx`: a dense network over the same, 16-64-32-1,
as Keras exports it. All of it is seeded.
"""

import argparse
import pathlib
import statistics
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier

FEATURES = 16
TRAINING_ROWS = 50_000


def forest(random):
    x = random.normal(size=(TRAINING_ROWS, FEATURES)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(x[:, 0] + x[:, 1] * x[:, 2] - x[:, 3] + 0.5 * x[:, 4])))
    y = (random.random(len(x)) < chance).astype(np.int64)
    trees = RandomForestClassifier(n_estimators=100, max_depth=12, min_samples_leaf=20, n_jobs=1, random_state=7)
    made = to_onnx(trees.fit(x, y), x[:1], options={"zipmap": False}, target_opset={"": 21, "ai.onnx.ml": 3})
    made.ir_version = 10
    return made


def network(random):
    sizes = [FEATURES, 64, 32, 1]
    nodes, weights, last = [], [], "x"
    for layer, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        weights.append(numpy_helper.from_array(random.normal(size=(inputs, outputs)).astype(np.float32), f"w{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{layer}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
        is_last = layer == len(sizes) - 2
        last = "probability" if is_last else f"a{layer}"
        nodes.append(helper.make_node("Sigmoid" if is_last else "Relu", [f"z{layer}"], [last]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
        initializer=weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def make(folder):
    random = np.random.default_rng(20130101)
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in [("forest", forest(random)), ("network", network(random))]:
        path = folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        print(f"{path}: {path.stat().st_size} bytes")


def measure(folder, batch_rows, rows):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    x = np.random.default_rng(1).uniform(-2, 2, size=(batch_rows, FEATURES)).astype(np.float32)
    for name in ["forest", "network"]:
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        inputs = {session.get_inputs()[0].name: x}
        rates = []
        for _ in range(6):
            started = time.process_time()
            for _ in range(rows // batch_rows):
                session.run(None, inputs)
            rates.append(rows // batch_rows * batch_rows / (time.process_time() - started))
        print(f"{name}: {statistics.median(rates[1:]):.0f} rows/s per core in Python")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["make", "measure"])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--batch-rows", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=500_000)
    arguments = parser.parse_args()
    if arguments.action == "make":
        make(arguments.folder)
    else:
        measure(arguments.folder, arguments.batch_rows, arguments.rows)


if __name__ == "__main__":
    main()
