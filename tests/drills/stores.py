"""What the drills have in common: the real services, as `tests/services/services` started them."""

import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of every topic.
PARTITIONS = 4
CLOUDS = ("aws", "azure", "gcp")


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


def start_gcs(arguments):
    """Starts the simulator of Google's store; the process, and where it is."""
    command = [arguments.bin / "isobar-gcs-sim", "127.0.0.1:0", "isobar"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()
