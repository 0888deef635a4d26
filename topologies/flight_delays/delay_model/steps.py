"""What the steps of the pipeline do with models that lie in folders and in isobar's registry."""

import json
import os
import pathlib
import subprocess

from . import answers, data, evaluation, features, package


def command(*arguments):
    return [os.environ.get("ISOBAR_BIN", "isobar"), *map(str, arguments)]


def isobar(*arguments):
    """What a command of isobar says, as JSON. What it logs is shown."""
    return json.loads(subprocess.run(command(*arguments, "--format", "json"), check=True, stdout=subprocess.PIPE, text=True).stdout)


def metrics(folder):
    return json.loads((pathlib.Path(folder) / "manifest.json").read_text())["metrics"]


def compare(rows, champion, challenger, seed, take):
    """Two folders with a model.onnx each, on the same test rows."""
    (manifest,) = pathlib.Path(rows).glob("*.json")
    test = features.split(data.from_file(data.Pinned.read(manifest)).to_pandas(), take).test
    scores = [answers.predict(answers.session(pathlib.Path(folder, "model.onnx").read_bytes()), test.x)[0] for folder in (champion, challenger)]
    return evaluation.compare(test.y, *scores, test.times, seed)


def champion(topology, folder):
    """The champion's files, in a folder below `folder`; nothing if there is no champion."""
    models = {model["name"]: model["aliases"] for model in isobar("models", "ls", "--config", topology)["models"]}
    if "champion" not in models.get(package.MODEL, {}):
        return None
    reference = f"{package.MODEL}@champion"
    names = [feature["name"] for feature in isobar("models", "show", reference, "--config", topology)["features"]]
    if names != features.FEATURES:
        raise ValueError(f"the champion takes {names}: make rows with these features as well, and compare by hand")
    out = pathlib.Path(folder) / "champion"
    isobar("models", "export", reference, "--out", out, "--config", topology)
    return out


def register(topology, folder):
    """A new version of the model in every cloud: its number."""
    return isobar("models", "register", folder, "--model", package.MODEL, "--config", topology)["manifest"]["version"]


def promote(topology, version, alias):
    isobar("models", "promote", f"{package.MODEL}@{version}", "--alias", alias, "--config", topology)
