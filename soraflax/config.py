"""Configuration: one strict door from nested dicts to frozen dataclasses.

A configuration file builds a nested dict (or an `ml_collections.ConfigDict`); the
program turns it into dataclasses once, here, and sees only those. Types are checked,
lists become tuples, and a key that no field bears is refused with the nearest one.
"""

import dataclasses
import difflib
import hashlib
import importlib.util
import json
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint that follows an unknown name: the closest choice, or all of them."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(choices)}" if choices else "none is known"


def load_file(path: str, *, directory: pathlib.Path | None = None) -> Any:
    """The result of `get_config` of a Python file.

    Args:
      path: `FILE.py`, or the bare `NAME` of a file in `directory`; after a colon the
        argument of `get_config`, `NAME:argument`.
      directory: shipped configs, of which the nearest is named where there is no such
        file; that of the file by default.

    Raises:
      ConfigError: no such file (naming the nearest), or one that refuses its argument.
    """
    name, *arguments = path.split(":", 1)
    file = pathlib.Path(name)
    if directory is not None and file.name == name and file.suffix != ".py":
        file = directory / f"{name}.py"
    if not file.is_file():
        others = (directory or file.parent).glob("[!_]*.py")
        hint = nearest(file.stem, [p.stem for p in others])
        raise ConfigError(f"{name}: no such config; {hint}")
    spec = importlib.util.spec_from_file_location("config", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(*arguments)
    except (ValueError, TypeError, SyntaxError, AttributeError, ImportError) as error:
        raise ConfigError(f"{path}: {error}") from error


def to_dataclass(values: Any, cls: type[T], *, path: str = "config") -> T:
    """Build the frozen dataclass `cls` from a nested dict or ConfigDict.

    Fields that `values` leaves out take their defaults.

    Raises:
      ConfigError: an unknown key, a missing one, or a value of the wrong type, named
        by its full dotted path; also what `cls` itself refuses in `__post_init__`.
    """
    if isinstance(values, cls):
        return values
    items = _mapping(values)
    if items is None:
        raise ConfigError(f"{path}: expected a group of keys, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # pyright: ignore[reportArgumentType]
    for key in items:
        if key not in fields:
            hint = nearest(str(key), fields)
            raise ConfigError(f"{path}.{key}: unknown key; {hint}")
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in items:
            raise ConfigError(f"{path}.{name}: missing")
    built = {k: _convert(v, hints[k], path=f"{path}.{k}") for k, v in items.items()}
    try:
        return cls(**built)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def to_dict(config: Any) -> Any:
    """The plain nested dict of a dataclass: JSON types only, tuples kept as tuples."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)
        }
    items = _mapping(config)
    if items is not None:
        return {str(k): to_dict(v) for k, v in items.items()}
    if isinstance(config, (list, tuple)):
        return tuple(to_dict(v) for v in config)
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise ConfigError(f"{config!r} has no place in a configuration")


def to_json(config: Any) -> str:
    """Canonical JSON: equal configurations give equal text."""
    return json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))


def digest(config: Any) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()


def first_difference(
    ours: Any, theirs: Any, *, ignore: Iterable[str] = ()
) -> tuple[str, Any, Any] | None:
    """The first dotted key where two configurations differ, with both values.

    Args:
      ours: a configuration.
      theirs: another; a key that only one of them has counts as a difference.
      ignore: dotted keys that may differ, each with all that is below it.

    Returns:
      `(key, our value, their value)`, `"absent"` where there is none; None if equal.
    """
    left, right = dict(_leaves(to_dict(ours))), dict(_leaves(to_dict(theirs)))
    ignored = tuple(ignore)
    for key in sorted({**left, **right}):
        if any(key == i or key.startswith(f"{i}.") for i in ignored):
            continue
        a, b = left.get(key, "absent"), right.get(key, "absent")
        if a != b:
            return key, a, b
    return None


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif path:
        yield path, tree


def _mapping(values: Any) -> Mapping[str, Any] | None:
    """A dict, or what a ConfigDict holds; None for anything else."""
    if isinstance(values, Mapping):
        return values
    return dict(values.items()) if hasattr(values, "items") else None


def _convert(value: Any, hint: Any, *, path: str) -> Any:
    """`value` as the type `hint` asks for."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(
                f"{path}: {value!r} is not legal; {_choices(value, args)}"
            )
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args, path=path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return to_dataclass(value, hint, path=path)
    if origin is tuple or hint is tuple:
        return _convert_tuple(value, args, path=path)
    if origin is not None and issubclass(origin, Mapping):
        items = _mapping(value)
        if items is None:
            raise ConfigError(f"{path}: expected a group of keys, got {value!r}")
        return {k: _convert(v, args[1], path=f"{path}.{k}") for k, v in items.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain: Any = hint
    if not isinstance(value, plain) or (plain is not bool and isinstance(value, bool)):
        raise ConfigError(f"{path}: expected {plain.__name__}, got {value!r}")
    return value


def _choices(value: Any, args: tuple[Any, ...]) -> str:
    if isinstance(value, str) and all(isinstance(a, str) for a in args):
        return nearest(value, args)
    return f"known: {', '.join(map(str, args))}"


def _convert_union(value: Any, args: tuple[Any, ...], *, path: str) -> Any:
    """The first alternative that takes the value; the first complaint if none does."""
    if value is None and types.NoneType in args:
        return None
    failures = []
    for alternative in args:
        if alternative is types.NoneType:
            continue
        try:
            return _convert(value, alternative, path=path)
        except ConfigError as error:
            failures.append(error)
    raise failures[0]


def _convert_tuple(value: Any, args: tuple[Any, ...], *, path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{path}: expected a list, got {value!r}")
    if not args:
        return tuple(value)
    hints = (args[0],) * len(value) if args[-1] is Ellipsis else args
    if len(hints) != len(value):
        raise ConfigError(f"{path}: expected {len(hints)} values, got {len(value)}")
    return tuple(
        _convert(v, h, path=f"{path}[{i}]")
        for i, (v, h) in enumerate(zip(value, hints, strict=True))
    )
