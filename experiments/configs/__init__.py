"""Shipped configurations: each module's docstring is the record of its run.

`load` finds one by its bare name, from any working directory, and `override` applies
the `--config.FIELD=VALUE` arguments of a command line.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from soraflax import config as config_lib

DIRECTORY = pathlib.Path(__file__).parent
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def load(name: str) -> Any:
    """The ConfigDict of `NAME` or `FILE.py`, each with or without `:argument`.

    Raises:
      ConfigError: no such config (naming the nearest), or it refuses its argument.
    """
    return config_lib.load_file(name, directory=DIRECTORY)


def override(config: Any, arguments: Sequence[str]) -> None:
    """Set fields of a ConfigDict from `--config.FIELD=VALUE`, converted to their types.

    Raises:
      ConfigError: an unknown field (naming the nearest), a value of another type, or an
        argument that is no override.
    """
    from absl import flags
    from ml_collections import config_flags

    for argument in arguments:
        if match := _OVERRIDE.match(argument):
            check_key(config, match[1])
    argv = ["", *arguments]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=argv
        )
        rest = values(argv)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        raise config_lib.ConfigError(str(error)) from error
    if rest:
        raise config_lib.ConfigError(f"{rest[0]!r} is not a flag; see --help")


def check_key(config: Any, key: str) -> None:
    """Refuse a dotted key that `config` does not have.

    Raises:
      ConfigError: naming the nearest key.
    """
    node, path = config, "config"
    for name in key.split("."):
        names = list(node.keys()) if hasattr(node, "keys") else []
        if name not in names:
            hint = config_lib.nearest(name, names)
            raise config_lib.ConfigError(f"{path}.{name}: unknown key; {hint}")
        node, path = node[name], f"{path}.{name}"
