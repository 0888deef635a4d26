"""A training set of isobar's, pinned by versions and digest, as an Arrow table.

The manifest that `isobar training-set` writes says which versions of which datasets the rows are of, and what their digest is. The
rows are read from the file beside it, from the Delta tables of any cloud, or by Flight SQL from a server; each time the digest is
computed again, from the values, and must be the manifest's. So it does not matter which way they came.
"""

import dataclasses
import hashlib
import json
import pathlib

import numpy
import pandas
import pyarrow
import pyarrow.compute
import pyarrow.fs
import pyarrow.parquet
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler

TYPES = {
    "boolean": pyarrow.bool_(),
    "int32": pyarrow.int32(),
    "int64": pyarrow.int64(),
    "float64": pyarrow.float64(),
    "string": pyarrow.string(),
    "timestamp": pyarrow.timestamp("us", tz="UTC"),
}


class Differs(Exception):
    """The data are not what the manifest says."""


@dataclasses.dataclass(frozen=True)
class Pinned:
    """A training set as its manifest has it."""

    path: pathlib.Path
    manifest: dict

    @classmethod
    def read(cls, path, digest=None):
        """The manifest at `path`, which must be that of the rows with this `digest`, if one is given."""
        path = pathlib.Path(path)
        manifest = json.loads(path.read_text())
        if manifest.get("format") != "isobar training set 1":
            raise Differs(f"{path} is no manifest of a training set")
        if digest is not None and manifest["digest"] != digest:
            raise Differs(f"{path} is of the rows {manifest['digest']}, and not of {digest}")
        return cls(path, manifest)

    @property
    def digest(self):
        return self.manifest["digest"]

    @property
    def schema(self):
        return pyarrow.schema([(column["name"], TYPES[column["type"]]) for column in self.manifest["columns"]])

    @property
    def inputs(self):
        """Name, version and SHA-256 of the log entry of each dataset that was read."""
        return [(entry["table"], entry["version"], entry["sha256"]) for entry in self.manifest["inputs"]]

    def names(self, role):
        return [column["name"] for column in self.manifest["columns"] if column["role"] == role]

    def checked(self, table):
        """`table` in the order and with the types of the manifest, if its rows are the ones that are meant."""
        table = table.select(self.schema.names).cast(self.schema)
        found = digest(table)
        if found != self.digest:
            raise Differs(f"the rows that were read have the digest {found}, and those of {self.path} have {self.digest}")
        return table


# ---------------------------------------------------------------- three ways


def from_file(pinned):
    """The Parquet file beside the manifest."""
    file = pinned.manifest["file"]
    path = pinned.path.parent / file["name"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
        raise Differs(f"{path} is not the file of {pinned.path}")
    return pinned.checked(pyarrow.parquet.read_table(path))


def from_flight(pinned, connection):
    """By Flight SQL: the same request over the same versions, answered by `isobar serve --flight`. docs/python.md connects."""
    with connection.cursor() as cursor:
        cursor.execute(sql(pinned))
        return pinned.checked(cursor.fetch_arrow_table())


def from_deltalake(pinned, cloud, storage_options=None):
    """From the Delta tables in a cloud, without a server: the request of flight_delay.yaml, written in pandas.

    `cloud` is its URL, or a folder; `storage_options` has the names of `clouds` in a topology.
    """
    tables = {}
    for name, version, sha256 in pinned.inputs:
        url = f"{cloud}/datasets/{name}"
        # It holds that of the entry before it, so one hash stands for the whole table.
        entry = DeltaStorageHandler(url, storage_options).open_input_file(f"_delta_log/{version:020}.json").readall()
        if hashlib.sha256(entry).hexdigest() != sha256:
            raise Differs(f"version {version} of {name} in {cloud} is not the one in {pinned.path}")
        tables[name] = DeltaTable(url, version=version, storage_options=storage_options)
    (view,) = pinned.manifest["request"]["views"]
    features = {feature["column"]: feature["name"] for feature in view["features"]}

    rows = tables["flight_features"].to_pandas(
        columns=["scheduled_at", "origin", "destination", "carrier", "distance_miles", "day_of_week", "hour_of_day", "late"]
    )
    for name in ("origin", "destination", "carrier"):
        rows[f"{name}_code"] = code(rows[name])
    rows["minute_of_day"] = rows["hour_of_day"].astype("int64") * 60 + rows["scheduled_at"].dt.minute

    weather = tables["weather_hourly"].to_pandas(columns=["origin", "observed_at", "kafka_offset", *features])
    # The newest reading that had been made, of several the one with the highest offset, and none that is older than three hours.
    rows = pandas.merge_asof(
        rows.sort_values("scheduled_at"),
        weather.sort_values(["observed_at", "kafka_offset"]),
        left_on="scheduled_at", right_on="observed_at", by="origin", tolerance=pandas.Timedelta(view["ttl_ms"], "ms"),
    ).rename(columns=features)
    # The order of a training set: by time, keys, and all other columns of the spine.
    rows = rows.sort_values(pinned.names("time") + pinned.names("key") + pinned.names("label"))
    return pinned.checked(pyarrow.Table.from_pandas(rows[pinned.schema.names], preserve_index=False))


def code(texts):
    """Letters as a number, their bytes one after the other, as in flight_delay.yaml."""
    return texts.map({text: int.from_bytes(text.encode("ascii"), "big") for text in texts.unique()}).astype("int64")


def sql(pinned):
    """The request of a manifest as a query over the versions that it was made of."""
    request = pinned.manifest["request"]
    spine = request["spine"]
    query = spine["source"]["query"]
    if spine["where"] is not None:
        query = f"SELECT * FROM ({query}) WHERE {spine['where']}"
    tables = ", ".join(f'"{name}" AS (SELECT * FROM "{name}" VERSION AS OF {version})' for name, version, _ in pinned.inputs)
    views = "".join(f",\n  {view_sql(view)}" for view in request["views"])
    names = ", ".join(f'"{name}"' for name in pinned.schema.names)
    order = ", ".join(f'"{name}" NULLS FIRST' for name in pinned.names("time") + pinned.names("key") + pinned.names("label"))
    keys = ", ".join(spine["keys"])
    return f"WITH {tables}\nSELECT {names} FROM point_in_time(\n  ({query}), {spine['time']}, keys => ({keys}){views}\n)\nORDER BY {order}"


def view_sql(view):
    columns = [*view["keys"], view["time"], *([view["offset"]] if view["offset"] else [])]
    prefix = f"{view['name']}__"
    for feature in view["features"]:
        if not feature["name"].startswith(prefix):
            raise Differs(f"{feature['name']} does not begin with {prefix}: this SQL cannot say that")
        columns.append(f'{feature["column"]} AS {feature["name"].removeprefix(prefix)}')
    where = f" WHERE {view['where']}" if view["where"] else ""
    settings = [
        f"(SELECT {', '.join(columns)} FROM {view['dataset']}{where})",
        f"keys => ({', '.join(view['keys'])})",
        f"spine_keys => ({', '.join(view['spine_keys'])})",
        f"time => {view['time']}",
        f"prefix => '{view['name']}'",
        *([f"offset => {view['offset']}"] if view["offset"] else []),
        *([f"ttl => INTERVAL '{view['ttl_ms']} milliseconds'"] if view["ttl_ms"] else []),
    ]
    return f"view({', '.join(settings)})"


# ---------------------------------------------------------------- the digest


def digest(table):
    """The digest of rows, by the definition in docs/training-sets.md."""
    lines = ["isobar training set 1", f"rows {table.num_rows}"]
    names_of_types = {kind: name for name, kind in TYPES.items()}
    for field in table.schema:
        column = table.column(field.name).combine_chunks()
        name = json.dumps(field.name, ensure_ascii=False)
        lines.append(f"column {name} {names_of_types[field.type]} {hashlib.sha256(encoded(column)).hexdigest()}")
    return hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()


def encoded(column):
    """The values of a column as bytes: `00` for null, otherwise `01` and the value."""
    if pyarrow.types.is_string(column.type):
        values = column.dictionary_encode()
        texts = [text.encode() for text in values.dictionary.to_pylist()]
        parts = [b"\1" + len(text).to_bytes(8, "little") + text for text in texts] + [b"\0"]
        return b"".join(parts[index] for index in values.indices.fill_null(len(texts)).to_numpy())
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if pyarrow.types.is_boolean(column.type):
        column = column.cast(pyarrow.uint8())
    elif pyarrow.types.is_timestamp(column.type):
        column = column.cast(pyarrow.int64())
    numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
    numbers = numbers.astype(numbers.dtype.newbyteorder("<"))
    values = numbers.view(numpy.uint8).reshape(len(numbers), numbers.dtype.itemsize)
    marked = numpy.column_stack([valid.astype(numpy.uint8), values])
    # Of a null only the mark.
    kept = numpy.column_stack([numpy.ones(len(numbers), bool), numpy.repeat(valid[:, None], values.shape[1], axis=1)])
    return marked[kept].tobytes()
