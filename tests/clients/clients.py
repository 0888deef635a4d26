"""A server of the demo's tables, for tests of the clients that people have. No code of isobar is used but the binary.

    ISOBAR_BIN=target/release/isobar $(tests/services/services python tests/clients/requirements.txt) \\
        -m unittest discover --start-directory tests/clients --pattern test_postgres.py

$ISOBAR_DEMO names a folder that `isobar demo --keep` has filled; without, it is run.
"""

import contextlib
import datetime
import decimal
import importlib.machinery
import importlib.util
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import threading

HERE = pathlib.Path(__file__).resolve().parent
SERVICES = HERE.parent / "services" / "services"
# After that something hangs: the machine may be slow, and nothing here measures it.
PATIENCE_SECONDS = 600

# Who may ask the server of the tests: somebody for everything, and somebody for one table.
TOKEN, WEATHER_TOKEN = "a-token-of-a-notebook", "a-token-of-somebody-else"
TOKENS = {"NOTEBOOK_TOKEN": TOKEN, "WEATHER_TOKEN": WEATHER_TOKEN}
SERVE = """
serve:
  callers:
    notebook: { token: "${env:NOTEBOOK_TOKEN}" }
    weather: { token: "${env:WEATHER_TOKEN}", role: weather }
  roles:
    weather: { datasets: { weather_hourly: {} } }
"""
# Flights of the demo's `flight_features`.
ROWS = 327346


def queries():
    """The questions that all clients ask."""
    lines = (HERE / "queries.sql").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("--")]


def answers():
    """What is known without isobar of the answers: rows by question, of values as `plain` has them."""
    known, last = {}, None
    for line in (HERE / "queries.sql").read_text().splitlines():
        if line.startswith("--= "):
            known[last] = json.loads(line.removeprefix("--= "))
        last = line
    return known


def plain(value):
    """A value that compares equal whichever client it came by."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        return value.isoformat(timespec="microseconds")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def services():
    """The program that fetches packages and makes certificates, as a module."""
    loader = importlib.machinery.SourceFileLoader("services", str(SERVICES))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("services", loader))
    loader.exec_module(module)
    return module


def variable(name):
    value = os.environ.get(name)
    if value is None:
        raise RuntimeError(f"{name} is not set: these tests are run by `tests/run live`")
    return value


def demo(folder):
    """A topology with the demo's tables, in a folder of its own."""
    made = os.environ.get("ISOBAR_DEMO")
    if made:
        shutil.copytree(made, folder)
    else:
        command = [variable("ISOBAR_BIN"), "demo", "--keep", str(folder)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_SECONDS)
    return folder / "topology.yaml"


def asked(topology, sql):
    """What `isobar query` answers: a list of rows by the names of columns."""
    command = [variable("ISOBAR_BIN"), "query", sql, "--config", str(topology), "--format", "json"]
    done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_SECONDS)
    # Numbers as they are written.
    return json.loads(done.stdout, parse_float=str)


@contextlib.contextmanager
def server(topology, options, patterns, environment=()):
    """Serves `topology` until the end of the block. `patterns` find addresses in what the server says, by name."""
    command = [variable("ISOBAR_BIN"), "serve", str(topology), "--listen", "127.0.0.1:0", *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, **dict(environment), "NO_COLOR": "1"})
    found, said = {}, []
    for line in process.stderr:
        said.append(line)
        for name, pattern in patterns.items():
            match = re.search(pattern, line)
            if match:
                found[name] = match[1]
        if len(found) == len(patterns):
            break
    else:
        raise RuntimeError(f"the server did not start, exit code {process.wait()}:\n{''.join(said)}")
    # What it says from now on must not fill the pipe.
    reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
    reader.start()
    try:
        yield found
    finally:
        process.terminate()
        try:
            code = process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        reader.join()
        process.stderr.close()
    if code != 0:
        raise RuntimeError(f"the server ended with exit code {code}:\n{''.join(said)}")
