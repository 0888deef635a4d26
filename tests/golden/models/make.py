#!/usr/bin/env python3
"""Makes the models of this folder, their signatures, and what ONNX Runtime's own Python says of 1,000 rows.

    python -m venv DIR && DIR/bin/pip install -r requirements.txt && DIR/bin/python make.py

Everything is seeded. A later version of a library may write other bytes; what the tests hold the models against is written
with them.
"""

import csv
import json
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier

HERE = pathlib.Path(__file__).resolve().parent
FEATURES = 8
ROWS = 1000
DATATYPES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.STRING: "BYTES",
}
OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 4)]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def described(value):
    """An input or output as the registry has it."""
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    return {"name": value.name, "datatype": DATATYPES[tensor.elem_type], "shape": shape}


def save(name, model, check=True):
    if check:
        onnx.checker.check_model(model, full_check=True)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())
    signature = {
        "inputs": [described(value) for value in model.graph.input],
        "outputs": [described(value) for value in model.graph.output if value.type.HasField("tensor_type")],
    }
    (HERE / f"{name}.json").write_text(json.dumps(signature, indent=2) + "\n")


def model(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=list(initializers))
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10, producer_name="isobar-tests")


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def forest(x, random):
    """scikit-learn's forest: an int64 label and a probability per class."""
    chance = 1 / (1 + np.exp(-(x[:, 0] + x[:, 1] * x[:, 2] - x[:, 3])))
    y = (random.random(len(x)) < chance).astype(np.int64)
    trees = RandomForestClassifier(n_estimators=10, max_depth=5, random_state=7).fit(x, y)
    made = to_onnx(trees, x[:1], options={"zipmap": False}, target_opset={"": 21, "ai.onnx.ml": 3})
    made.ir_version = 10
    # The exporter says how many classes there are in the weights only.
    made.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 2
    made.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    made.graph.output[1].type.tensor_type.shape.dim[0].Clear()
    return made


def network(random):
    """A dense network as Keras exports it: one probability."""
    first, second = random.normal(size=(FEATURES, 16)), random.normal(size=(16, 1))
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["probability"]),
    ]
    weights = [
        constant("w1", first.astype(np.float32)),
        constant("b1", np.zeros(16, np.float32)),
        constant("w2", second.astype(np.float32)),
        constant("b2", np.zeros(1, np.float32)),
    ]
    return model(nodes, [value("x", FLOAT, [None, FEATURES])], [value("probability", FLOAT, [None, 1])], weights)


def separate():
    """An input of its own for each feature: a + 10 b, in double precision."""
    nodes = [
        helper.make_node("Cast", ["b"], ["b_double"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["b_double", "ten"], ["tens"]),
        helper.make_node("Add", ["a", "tens"], ["sum"]),
    ]
    inputs = [value("a", TensorProto.DOUBLE, [None, 1]), value("b", INT64, [None, 1])]
    ten = constant("ten", np.array([10.0]))
    return model(nodes, inputs, [value("sum", TensorProto.DOUBLE, [None, 1])], [ten])


def twice():
    """2 x."""
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    two = constant("two", np.array([2.0], np.float32))
    return model([node], [value("x", FLOAT, [None, 1])], [value("y", FLOAT, [None, 1])], [two])


def picky():
    """Fails on rows that are not from 0 to 9: it looks them up in a table of ten."""
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=INT64),
        helper.make_node("Gather", ["table", "index"], ["found"]),
    ]
    table = constant("table", np.arange(10, dtype=np.float32) * 10)
    return model(nodes, [value("x", FLOAT, [None, 1])], [value("found", FLOAT, [None, 1])], [table])


def endless():
    """Would compute for hours: a loop of 10^12 additions."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes_on"]),
            helper.make_node("Add", ["sum_before", "sum_before"], ["sum_after"]),
        ],
        "body",
        [value("step", INT64, []), value("go", TensorProto.BOOL, []), value("sum_before", FLOAT, [None, 1])],
        [value("goes_on", TensorProto.BOOL, []), value("sum_after", FLOAT, [None, 1])],
    )
    nodes = [helper.make_node("Loop", ["steps", "yes", "x"], ["sum"], body=body)]
    weights = [constant("steps", np.int64(10**12)), constant("yes", np.bool_(True))]
    return model(nodes, [value("x", FLOAT, [None, 1])], [value("sum", FLOAT, [None, 1])], weights)


def huge():
    """Claims a tensor of four terabytes, and has none of it."""
    claim = TensorProto(name="w", data_type=FLOAT, dims=[1 << 40])
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    return model(nodes, [value("x", FLOAT, [None, 1])], [value("y", FLOAT, [None, 1])], [claim])


def made_huge():
    """Makes a tensor of four terabytes of a shape."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    shape = constant("shape", np.array([1 << 20, 1 << 20], np.int64))
    return model(nodes, [value("x", FLOAT, [None, 1])], [value("y", FLOAT, [None, 1])], [shape])


def maps():
    """A classifier exported with `zipmap`: a map per row."""
    zipped = helper.make_node(
        "ZipMap", ["x"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]
    )
    output = helper.make_value_info(
        "probabilities",
        helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, None))),
    )
    return model([zipped], [value("x", FLOAT, [None, 2])], [output])


def answers(x):
    """What ONNX Runtime's Python says of every row."""
    def session(name):
        return onnxruntime.InferenceSession(HERE / f"{name}.onnx", providers=["CPUExecutionProvider"])

    labels, probabilities = session("forest").run(None, {session("forest").get_inputs()[0].name: x})
    (network_values,) = session("network").run(None, {"x": x})
    with open(HERE / "answers.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f"f{index}" for index in range(FEATURES)] + ["label", "forest", "network"])
        for row, label, forest_value, network_value in zip(x, labels, probabilities[:, 1], network_values[:, 0]):
            numbers = [str(number) for number in row] + [str(label), str(forest_value), str(network_value)]
            writer.writerow(numbers)


def main():
    random = np.random.default_rng(20130101)
    x = random.normal(size=(ROWS, FEATURES)).round(2).astype(np.float32)
    save("forest", forest(x, random))
    save("network", network(random))
    save("separate", separate())
    save("twice", twice())
    save("picky", picky())
    save("endless", endless())
    save("huge", huge(), check=False)
    save("made_huge", made_huge())
    save("maps", maps(), check=False)
    answers(x)


if __name__ == "__main__":
    main()
