"""What an ONNX file answers, and whether that is what the library answers that it was trained with.

Every model here has the same face, so that one can take the place of another:

    features       FP32  [rows, 12]   in, NaN where a value is missing
    label          INT64 [rows]       out: 1 if late is more likely than not
    probabilities  FP32  [rows, 2]    out: of being in time, of being late
"""

import os
import pathlib

import numpy
import onnx
import onnxruntime
import pyarrow
import pyarrow.parquet

from .features import FEATURES

# Old enough for runtimes of the last years.
OPSETS = {"": 18, "ai.onnx.ml": 3}
IR_VERSION = 9
TOLERANCE = 1e-5


class Unequal(Exception):
    """A file that answers something else than the model that it was made of."""


def named(model, label="label", probabilities="probabilities"):
    """`model` with our names for its outputs, and everything in between numbered through in the order of the graph.

    Converters number by what they did before, and tf2onnx by the order of sets, which is another in each process; so is the order of the
    operator sets of skl2onnx. So the same model is the same bytes.
    """
    onnx.checker.check_model(model)
    graph = model.graph
    names = {"": "", "features": "features", label: "label", probabilities: "probabilities"}
    constants = {constant.name: constant for constant in graph.initializer}
    used = []
    for place, node in enumerate(graph.node):
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ValueError(f"{node.name} has a graph of its own, whose names are not looked at")
        node.name = f"{node.op_type}_{place}"
        for name in node.input:
            if name in constants and name not in names:
                names[name] = f"constant_{len(used)}"
                used.append(constants[name])
        for name in node.output:
            names.setdefault(name, f"value_{place}_{len(names)}")
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for constant in used:
        constant.name = names[constant.name]
    del graph.initializer[:], graph.value_info[:], model.metadata_props[:]
    graph.initializer.extend(used)
    for output in graph.output:
        output.name = names[output.name]
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    graph.name, graph.doc_string, model.doc_string = "flight_delay", "", ""
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def session(onnx_bytes, threads=None):
    """One that answers; on one thread the order of sums is fixed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    return onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])


def predict(running, x, rows_at_once=10_000):
    """The probability that each row is late, and its label."""
    parts = [
        running.run(["probabilities", "label"], {"features": x[start:start + rows_at_once]}) for start in range(0, len(x), rows_at_once)
    ]
    return numpy.concatenate([part[0][:, 1] for part in parts]), numpy.concatenate([part[1] for part in parts])


def compare(onnx_bytes, probabilities, labels, x):
    """The largest difference between the file's probabilities and the library's. All labels must be the same."""
    ours, our_labels = predict(session(onnx_bytes), x)
    difference = float(numpy.abs(ours.astype("float64") - probabilities).max())
    others = int((our_labels != labels).sum())
    if not difference <= TOLERANCE or others > 0:
        raise Unequal(f"of {len(x)} rows {others} have another label; probabilities differ by up to {difference:.2g}, at most {TOLERANCE} may be")
    return difference


def keep(path, x, probabilities, labels):
    """Rows and what the library answers, for whoever answers them in another way and wants to compare: NaN is null."""
    columns = {name: pyarrow.array(x[:, index], mask=numpy.isnan(x[:, index])) for index, name in enumerate(FEATURES)}
    said = {"probability": pyarrow.array(probabilities.astype("float64")), "label": pyarrow.array(labels.astype("int64"))}
    pyarrow.parquet.write_table(pyarrow.table({**columns, **said}), path)


def signature(onnx_bytes):
    """Inputs and outputs as a manifest has them, with the types of the Open Inference Protocol."""
    graph = onnx.load_from_string(onnx_bytes).graph
    return {"inputs": [tensor(value) for value in graph.input], "outputs": [tensor(value) for value in graph.output]}


def tensor(value):
    kinds = {onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.DOUBLE: "FP64", onnx.TensorProto.INT64: "INT64", onnx.TensorProto.BOOL: "BOOL"}
    kind = value.type.tensor_type
    shape = [dimension.dim_value if dimension.HasField("dim_value") else None for dimension in kind.shape.dim]
    return {"name": value.name, "datatype": kinds[kind.elem_type], "shape": shape}


def library():
    """The shared library of ONNX Runtime, which isobar loads too: set ISOBAR_ONNXRUNTIME to it."""
    folder = pathlib.Path(onnxruntime.__file__).parent / "capi"
    (path,) = folder.glob("libonnxruntime.so.*")
    return path
