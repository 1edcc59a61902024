"""Configurations saved by earlier versions: renamed keys, old to new, one way.

A dataclass field that is written to a file (a model's `config.json`, the configuration
in a training run's checkpoints) keeps its old name in the files that exist. Whoever
renames such a field adds it to `RENAMED_KEYS`; readers call `migrate` before
`config.to_dataclass`, writers know the new names alone.
"""

from collections.abc import Mapping
from typing import Any

from soraflax import config as config_lib

TRANSFORMER = {"gate": "gate_init", "locality": "qk_bias_init", "skip": "input_skip"}

# Kind of configuration -> dotted path of a group in it -> old key -> new key. The kinds
# are those of model directories, and 'run' for a training run of any stage.
RENAMED_KEYS: dict[str, dict[str, dict[str, str]]] = {
    "transformer": {"": TRANSFORMER},
    "lora": {"": TRANSFORMER},
    "video": {"transformer": TRANSFORMER},
    "run": {"model": TRANSFORMER, "loss": {"canvases": "mask_rates"}},
}


# Keys that a group did not have yet, with the value that it behaved by.
ADDED_KEYS: dict[str, dict[str, dict[str, Any]]] = {
    "run": {
        "model.text": {"shared_bias": False},
        "cache": {"enabled": True, "measured": 256},
    },
}

# Such keys of the groups at a path that have another key.
ADDED_BESIDE: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "run": {"data": {"open_rows": {"look_ahead": 0}}},
}


def migrate(values: Any, kind: str) -> Any:
    """`values` with the keys of today; anything but a group of keys as it is.

    A group that has the old key and the new one is left alone: whoever reads it will
    complain of the old one.

    Args:
      values: nested dict or ConfigDict of a saved configuration; not changed.
      kind: a key of `RENAMED_KEYS`; others have no renamed keys.
    """
    if not hasattr(values, "items"):
        return values
    migrated = config_lib.to_dict(values)
    for path, renames in RENAMED_KEYS.get(kind, {}).items():
        group = _group(migrated, path)
        for old, new in renames.items():
            if old in group and new not in group:
                group[new] = group.pop(old)
    for path, added in ADDED_KEYS.get(kind, {}).items():
        if group := _group(migrated, path):
            group.update(added | group)
    for path, beside in ADDED_BESIDE.get(kind, {}).items():
        group = _group(migrated, path)
        for key in beside.keys() & group.keys():
            group.update(beside[key] | group)
    return migrated


def _group(values: dict[str, Any], path: str) -> dict[str, Any]:
    """The group at a dotted path; an empty one where there is none."""
    group: Any = values
    for name in filter(None, path.split(".")):
        group = group.get(name) if isinstance(group, Mapping) else None
    return group if isinstance(group, dict) else {}
