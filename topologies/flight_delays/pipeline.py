#!/usr/bin/env python3
"""The way from the datasets to a deployed model as a Kubeflow pipeline (kfp v2).

    build training set ─┬▶ train forest ──┬▶ evaluate ─▶ compare with the champion ─▶ register both ─▶ deploy
                        └▶ train network ─┘

    python pipeline.py             compiles it to pipeline.yaml, which a cluster takes
    python pipeline.py --check     exit code 1 if pipeline.yaml is not what would be compiled
    python pipeline.py --run OUT --arguments '{"topology": "topology.yaml"}'      runs it here, each step as a process

Steps run in the image of deploy/training: isobar, this folder and every package of pipeline-requirements.txt, pinned by hashes, so that no
step installs anything. They are thin; what they do is in delay_model, which train.py uses as well.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile

from kfp import compiler, dsl, local

HERE = pathlib.Path(__file__).resolve().parent
COMPILED = HERE / "pipeline.yaml"
IMAGE = "isobar-training:0.1.0"

step = dsl.component(base_image=IMAGE, install_kfp_package=False)


def each_time(task):
    """Never taken from the cluster's cache: what the step sees or does outside is not in its arguments."""
    return task.set_caching_options(False)


@step
def build_training_set(training_set: str, at: str, rows: dsl.Output[dsl.Dataset]) -> str:
    """Makes the set at the versions `at`, or at the newest, and says its digest."""
    import json
    import os
    import subprocess

    os.makedirs(rows.path, exist_ok=True)
    command = [os.environ.get("ISOBAR_BIN", "isobar"), "training-set", training_set, "--out", rows.path]
    subprocess.run(command + (["--at", at] if at else []), check=True)
    (name,) = [name for name in os.listdir(rows.path) if name.endswith(".json")]
    with open(os.path.join(rows.path, name)) as file:
        manifest = json.load(file)
    rows.metadata.update(digest=manifest["digest"], rows=manifest["rows"], versions=json.dumps(manifest["versions"]))
    return manifest["digest"]


@step
def train_model(kind: str, digest: str, topology: str, seed: int, take: int, rows: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model]):
    """Trains one model from the rows with this digest, and holds its ONNX file against its library."""
    import glob
    import shutil

    import train

    (manifest,) = glob.glob(f"{rows.path}/*.json")
    options = {"digest": digest, "topology": topology, "models": kind, "seed": seed, "take": take, "out": f"{model.path}.parts"}
    wrong = train.main([manifest, *(f"--{name}={value}" for name, value in options.items())])
    if wrong:
        raise SystemExit(wrong)
    shutil.move(f"{model.path}.parts/{kind}", model.path)
    model.metadata.update(kind=kind, training_set=digest)


@step
def evaluate(
    seed: int, take: int, rows: dsl.Input[dsl.Dataset], forest: dsl.Input[dsl.Model], network: dsl.Input[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Which of the two is better on the rows that are later than all that they learnt from: the forest, unless the network surely is."""
    from delay_model import steps

    for kind, folder in (("forest", forest.path), ("network", network.path)):
        for name, value in steps.metrics(folder).items():
            metrics.log_metric(f"{kind}_{name}", value)
    found = steps.compare(rows.path, forest.path, network.path, seed, take)
    metrics.log_metric("network_auc_gain", found.auc_gain)
    return "network" if found.is_better else "forest"


@step
def compare_with_champion(
    best: str, topology: str, seed: int, take: int, rows: dsl.Input[dsl.Dataset], forest: dsl.Input[dsl.Model],
    network: dsl.Input[dsl.Model], metrics: dsl.Output[dsl.Metrics],
) -> str:
    """`promote` if the best is surely better than the champion on the same rows, or if there is no champion; otherwise `keep`."""
    import tempfile

    from delay_model import steps

    with tempfile.TemporaryDirectory() as folder:
        champion = steps.champion(topology, folder)
        if champion is None:
            return "promote"
        challenger = {"forest": forest.path, "network": network.path}[best]
        found = steps.compare(rows.path, champion, challenger, seed, take)
    for name in ("auc_gain", "auc_gain_low", "auc_gain_high", "log_loss_gain", "log_loss_gain_low", "log_loss_gain_high", "auc_p_value"):
        metrics.log_metric(name, getattr(found, name))
    return "promote" if found.is_better else "keep"


@step
def register(topology: str, model: dsl.Input[dsl.Model]) -> int:
    """Makes it a version in every cloud, and says which."""
    from delay_model import steps

    return steps.register(topology, model.path)


@step
def deploy(topology: str, best: str, decision: str, forest_version: int, network_version: int):
    """Has the aliases mean the new versions: streams and servers take them up by themselves."""
    from delay_model import steps

    versions = {"forest": forest_version, "network": network_version}
    other = versions["network" if best == "forest" else "forest"]
    if decision == "promote":
        steps.promote(topology, versions[best], "champion")
        steps.promote(topology, other, "challenger")
    else:
        # It answers in the shadow, so that the next decision has more to go by.
        steps.promote(topology, versions[best], "challenger")


@dsl.pipeline(name="flight-delay", description="From a pinned training set to a champion of flight_delay in every cloud.")
def flight_delay(
    training_set: str = "/etc/isobar/flight_delay.yaml", topology: str = "/etc/isobar/topology.yaml", at: str = "", seed: int = 2013,
    take: int = 1, publish: bool = True,
):
    """`publish: false` ends after the evaluation, and needs no registry."""
    made = each_time(build_training_set(training_set=training_set, at=at))
    rows = made.outputs["rows"]
    of_rows = {"digest": made.outputs["Output"], "topology": topology, "seed": seed, "take": take, "rows": rows}
    forest = train_model(kind="forest", **of_rows).set_display_name("train forest").outputs["model"]
    network = train_model(kind="network", **of_rows).set_display_name("train network").outputs["model"]
    best = evaluate(seed=seed, take=take, rows=rows, forest=forest, network=network).outputs["Output"]
    with dsl.If(publish == True, name="publish"):  # noqa: E712: this is a comparison that the cluster makes
        compared = each_time(
            compare_with_champion(best=best, topology=topology, seed=seed, take=take, rows=rows, forest=forest, network=network)
        )
        first = each_time(register(topology=topology, model=forest)).set_display_name("register forest")
        # One after the other: each takes the registry over.
        second = each_time(register(topology=topology, model=network)).set_display_name("register network").after(first)
        versions = {"forest_version": first.output, "network_version": second.output}
        each_time(deploy(topology=topology, best=best, decision=compared.outputs["Output"], **versions))


def compiled():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(flight_delay, str(path))
        return path.read_text()


def run(out, arguments):
    """All steps on this machine, with what is installed here; artefacts lie below `out`."""
    # Steps find train.py and delay_model as they do in the image.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(out), raise_on_error=True)
    return flight_delay(**arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--run", type=pathlib.Path, metavar="OUT")
    parser.add_argument("--arguments", type=json.loads, default={}, metavar="JSON")
    parsed = parser.parse_args()
    if parsed.run is not None:
        run(parsed.run, parsed.arguments)
    elif parsed.check:
        if COMPILED.read_text() != compiled():
            print("pipeline.yaml is not what pipeline.py says: run python pipeline.py", file=sys.stderr)
            return 1
    else:
        COMPILED.write_text(compiled())
    return 0


if __name__ == "__main__":
    sys.exit(main())
