"""What the drills have in common: the real services, as `tests/services/services` started them, steady traffic, and
processes that end with the script."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of every topic.
PARTITIONS = 4
CLOUDS = ("aws", "azure", "gcp")
# How long a process has between SIGTERM and SIGKILL.
GRACE_SECONDS = 30
# How long a producer may take to hand over what it holds.
DELIVERY_SECONDS = 120
SERVICES = ROOT / "tests/services/services"


def oracle_python():
    """Starts this script again with an interpreter that has deltalake, if this one does not."""
    try:
        import deltalake  # noqa: F401
    except ImportError:
        if os.environ.get("ISOBAR_DRILLS_PYTHON"):
            sys.exit("the interpreter of tests/oracle has no deltalake")
        command = [SERVICES, "python", ROOT / "tests/oracle/requirements.txt"]
        python = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        os.environ["ISOBAR_DRILLS_PYTHON"] = python
        os.execv(python, [python, *sys.argv])


# ---------------------------------------------------------------- services


class Stores:
    """The three stores: how isobar reaches them, and how Python does."""

    def __init__(self, gcs=None):
        """`gcs`: where Google's store is, `host:port`; without it only the other two can be used."""
        self.key = json.dumps({"client_email": "tests@example.com", "private_key": "", "private_key_id": "",
                               "disable_oauth": True, "gcs_base_url": f"http://{gcs}"})

    def urls(self, prefix):
        e = os.environ
        return {"aws": f"s3://{e['ISOBAR_S3_BUCKET']}/{prefix}", "azure": f"az://{e['ISOBAR_AZURE_CONTAINER']}/{prefix}",
                "gcp": f"gs://isobar/{prefix}"}

    def yaml(self, prefix, names=CLOUDS):
        """The section `clouds` of a specification; `gcs.json` beside it must hold the key."""
        e, urls = os.environ, self.urls(prefix)
        options = {
            "aws": {"endpoint": e["ISOBAR_S3_ENDPOINT"], "allow_http": "true", "region": e["ISOBAR_S3_REGION"],
                    "access_key_id": "${env:ISOBAR_S3_ACCESS_KEY_ID}",
                    "secret_access_key": "${env:ISOBAR_S3_SECRET_ACCESS_KEY}"},
            "azure": {"endpoint": e["ISOBAR_AZURE_ENDPOINT"], "allow_http": "true",
                      "account_name": e["ISOBAR_AZURE_ACCOUNT"], "account_key": "${env:ISOBAR_AZURE_KEY}"},
            "gcp": {"service_account_key": "${file:gcs.json}", "allow_http": "true"},
        }
        lines = [f"  {name}: {{ url: {json.dumps(urls[name])}, options: {json.dumps(options[name])} }}\n" for name in names]
        return "clouds:\n" + "".join(lines)

    def python_options(self, cloud):
        e = os.environ
        return {
            "aws": {"AWS_ENDPOINT_URL": e["ISOBAR_S3_ENDPOINT"], "AWS_ALLOW_HTTP": "true",
                    "AWS_REGION": e["ISOBAR_S3_REGION"], "AWS_ACCESS_KEY_ID": e["ISOBAR_S3_ACCESS_KEY_ID"],
                    "AWS_SECRET_ACCESS_KEY": e["ISOBAR_S3_SECRET_ACCESS_KEY"]},
            "azure": {"azure_storage_account_name": e["ISOBAR_AZURE_ACCOUNT"],
                      "azure_storage_account_key": e["ISOBAR_AZURE_KEY"],
                      "azure_endpoint": e["ISOBAR_AZURE_ENDPOINT"], "allow_http": "true"},
            "gcp": {"google_service_account_key": self.key, "allow_http": "true"},
        }[cloud]

    def objects(self, cloud, prefix):
        return Objects(self.urls(prefix)[cloud], self.python_options(cloud))


class Objects:
    """The objects below a prefix of a cloud, by the store's own protocol, as deltalake's client speaks it. Paths are
    relative to the prefix."""

    def __init__(self, url, options):
        from deltalake.fs import DeltaStorageHandler
        from pyarrow import fs

        handler = DeltaStorageHandler(url, options)
        self.files = fs.PyFileSystem(handler)
        # A stream of pyarrow hands on its own buffers, and deltalake's takes nothing but bytes.
        self.writer = handler._handler

    def list(self, folder=""):
        from pyarrow import fs

        found = self.files.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        return sorted(info.path for info in found if info.type == fs.FileType.File)

    def read(self, path):
        """Its bytes, None where there is none."""
        try:
            with self.files.open_input_file(path) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, path, data):
        stream = self.writer.open_output_stream(path, None)
        stream.write(data)
        stream.close()

    def delete(self, path):
        self.files.delete_file(path)


# ---------------------------------------------------------------- processes


class Children:
    """The processes that a script has started. When the block ends, however it ends, so do they: within `grace_seconds`, by
    SIGTERM, and then by SIGKILL."""

    def __init__(self, grace_seconds=GRACE_SECONDS):
        self.processes, self.grace_seconds = [], grace_seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            end(process, self.grace_seconds)

    def start(self, command, **options):
        """Starts a process in a session of its own: an interrupt at the terminal reaches only this script, which decides
        what ends when; and what the process starts can be ended with it."""
        self.processes = [process for process in self.processes if process.poll() is None]
        process = subprocess.Popen(command, start_new_session=True, **options)
        self.processes.append(process)
        return process


def end(process, grace_seconds=GRACE_SECONDS):
    """Ends a process and what it has started: by SIGTERM, and if that takes too long by SIGKILL."""
    if process.poll() is None:
        # It may have been frozen.
        for number in (signal.SIGTERM, signal.SIGCONT):
            os.killpg(process.pid, number)
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def exit_on_signals():
    """Has SIGINT and SIGTERM end this script like an exception, so that every block is left as it should be."""

    def leave(number, _frame):
        # Once: nothing interrupts what is being put away. A handler, unlike SIG_IGN, is not inherited.
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, lambda *_: None)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def start_gcs(children, programs):
    """Starts the simulator of Google's store; where it is."""
    process = children.start([programs / "isobar-gcs-sim", "127.0.0.1:0", "isobar"], stdout=subprocess.PIPE, text=True)
    return process.stdout.readline().strip()


def know_services(folder):
    """Takes the addresses of the services that were started under `folder` into the environment."""
    lines = (folder / "services.env").read_text().splitlines()
    os.environ.update(line.split("=", 1) for line in lines if "=" in line)


@contextlib.contextmanager
def new_services(programs, folder):
    """Kafka and the stores, started anew; how to reach the stores, and what ends with them."""
    with Children() as children:
        starting = children.start([SERVICES, "start", "kafka", "s3", "azure", "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            if starting.wait() != 0:
                raise SystemExit("the services did not start")
            know_services(folder)
            yield Stores(start_gcs(children, programs)), children
        finally:
            end(starting)
            subprocess.run([SERVICES, "stop", "--dir", folder], check=True, stdout=subprocess.DEVNULL, start_new_session=True)


# ---------------------------------------------------------------- records


def start_producer(children, programs, topic, partitions):
    """Starts a producer of lines `PARTITION<TAB>PAYLOAD`, which makes the topic if it is not there."""
    command = [programs / "isobar-produce", os.environ["ISOBAR_KAFKA_BROKERS"], topic, str(partitions)]
    return children.start(command, stdin=subprocess.PIPE, text=True)


@contextlib.contextmanager
def traffic(producer, records_per_second, lines):
    """Has `producer` produce at a steady rate, until the block ends; then the broker has everything. `lines(count)` is the
    text of the next records. What could not be produced while the broker was away follows at once."""
    stop = threading.Event()

    def produce():
        began, produced = time.monotonic(), 0
        # A producer that has ended is noticed at the end.
        with contextlib.suppress(BrokenPipeError):
            while not stop.wait(0.01):
                due = int((time.monotonic() - began) * records_per_second)
                producer.stdin.write(lines(due - produced))
                producer.stdin.flush()
                produced = due

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield
    except BaseException:
        # Nobody asks any more what was produced.
        producer.kill()
        raise
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(BrokenPipeError):
            producer.stdin.close()
        code = producer.wait(DELIVERY_SECONDS)
    if code != 0:
        raise SystemExit(f"the producer ended with {code}")
