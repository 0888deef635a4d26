"""Asks a server for the answers of two models to all rows of a matrix, by HTTP and by gRPC, with Triton's client.

    python ask.py HTTP GRPC rows.npy answers.npz

A program of its own, because the client's packages (tests/clients/inference-requirements.txt) are not those of the training.
"""

import sys

import numpy
import tritonclient.grpc
import tritonclient.http


def asked(triton, address, version, rows):
    with triton.InferenceServerClient(address) as client:
        features = triton.InferInput("features", list(rows.shape), "FP32")
        features.set_data_from_numpy(rows)
        answer = client.infer("flight_delay", [features], model_version=version)
        return answer.as_numpy("probabilities")[:, 1], answer.as_numpy("label")


def main(http, grpc, path, out):
    rows = numpy.load(path)
    answers = {}
    for protocol, triton, address in (("http", tritonclient.http, http), ("grpc", tritonclient.grpc, grpc)):
        for version in ("champion", "challenger"):
            probabilities, labels = asked(triton, address, version, rows)
            answers |= {f"{protocol}_{version}_probabilities": probabilities, f"{protocol}_{version}_labels": labels}
    numpy.savez(out, **answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
