"""The tables of a cell in a cloud, object by object: what lies there, damaging it, and taking all of it away."""

import hashlib
import json
import urllib.parse

from bench import DATASET, QUARANTINE, Wrong


def version_path(table, version):
    return f"datasets/{table}/_delta_log/{version:020}.json"


def hint_path(table):
    return f"datasets/{table}/_delta_log/_last_checkpoint"


def checkpoint_path(table, version):
    return f"datasets/{table}/_delta_log/{version:020}.checkpoint.parquet"


def actions(data):
    return [json.loads(line) for line in data.decode().splitlines()]


def log(objects, table):
    """The actions of every version of a table, by version."""
    return {version: actions(objects.read(version_path(table, version))) for version in versions(objects, table)}


def head(objects, table):
    """The newest version, -1 if there is none."""
    return max(versions(objects, table), default=-1)


def versions(objects, table):
    names = (path.rpartition("/")[2] for path in objects.list(f"datasets/{table}/_delta_log"))
    return [int(name.removesuffix(".json")) for name in names if name.endswith(".json")]


def files(entries, table, kind):
    """Paths of the objects that actions of this kind, `add` or `remove`, name in these versions' entries."""
    found = [action[kind]["path"] for entry in entries for action in entry if kind in action]
    return [f"datasets/{table}/{urllib.parse.unquote(path)}" for path in found]


def checkpointed(objects, table):
    """The version that `_last_checkpoint` names, -1 if there is none."""
    while True:
        hint = objects.read(hint_path(table))
        try:
            return json.loads(hint)["version"] if hint else -1
        except ValueError:
            # Its size was asked for before its bytes, and it was replaced in between. Replaced by something that is no JSON, it
            # would end the cell: no process of isobar is patient with that.
            if objects.read(hint_path(table)) == hint:
                raise


def vacuumed(objects, table):
    """The version of the newest VACUUM, -1 if there is none, and the files that it lets go."""
    entries, newest, through = log(objects, table), -1, -1
    for version in sorted(entries):
        for info in (action["commitInfo"] for action in entries[version] if "commitInfo" in action):
            if info["operation"] == "VACUUM":
                newest, through = version, int(info["operationParameters"]["through"])
    return newest, set(files([entries[version] for version in entries if version <= through], table, "remove"))


# ---------------------------------------------------------------- damage


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]


def foreign(data):
    """A version as another program would have written it."""
    changed = data.replace(b'"timestamp":1', b'"timestamp":2')
    if changed == data:
        raise Wrong("a version states no time that could be changed")
    return changed


def damage(objects):
    """Damages what can be damaged, each in its own way. The foreign versions, by table and version: they must be kept."""
    entries = log(objects, DATASET)
    beyond = head(objects, QUARANTINE) + 1
    added = files([entries[version] for version in sorted(entries)], DATASET, "add")
    kept = {
        (DATASET, 1): foreign(objects.read(version_path(DATASET, 1))),
        (QUARANTINE, beyond): foreign(objects.read(version_path(QUARANTINE, beyond - 1))),
    }
    checkpoint = checkpoint_path(DATASET, checkpointed(objects, DATASET))
    for path in (added[0], checkpoint):
        objects.write(path, flipped(objects.read(path)))
    objects.delete(added[-1])
    objects.delete(version_path(DATASET, 2))
    objects.write(hint_path(DATASET), b'{"version":1,"size":1}')
    for (table, version), data in kept.items():
        objects.write(version_path(table, version), data)
    return kept


def must_be_kept(objects, kept):
    """Foreign versions were not lost with the place they had."""
    for (table, version), data in kept.items():
        path = f"control/cells/foreign/{table}/{version:020}-{hashlib.sha256(data).hexdigest()}.json"
        if objects.read(path) != data:
            raise Wrong(f"what lay at version {version} of {table} is not at {path}")


def wipe(objects):
    for path in objects.list():
        objects.delete(path)
    left = objects.list()
    if left:
        raise Wrong(f"a cloud cannot be wiped: {left[:3]} are left")
