"""Functions of a user's own, by name: `module:function`, or an installed entry point.

    soraflax generate "a red ball" --expand my_package.words:longer
    soraflax generate "a red ball" --expand longer       # of group soraflax.expanders

A module is found as `python -m` finds it, in the working directory too.
"""

import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterable
from typing import Any


class ExtensionError(ValueError):
    """A function that cannot be loaded; the message is one line."""


def load(name: str, *, group: str, known: Iterable[str] = ()) -> Callable[..., Any]:
    """The function of a name.

    Args:
      name: `module:function`, or the name of an entry point.
      group: of entry points.
      known: further names that the caller knows, for the hint of an error.

    Raises:
      ExtensionError: no such module, function or entry point; the nearest is named.
    """
    if ":" in name:
        return _import(name)
    installed = importlib.metadata.entry_points(group=group)
    names = sorted({*known, *(entry.name for entry in installed)})
    if name not in installed.names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
        raise ExtensionError(f"{name!r}: {hint}, or give MODULE:FUNCTION")
    try:
        function = installed[name].load()
    except (ImportError, AttributeError) as error:
        raise ExtensionError(f"{name!r}: cannot be loaded ({error})") from error
    return _checked(name, function)


def _import(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, function_name)
    except ImportError as error:
        raise ExtensionError(f"{name!r}: {error}") from error
    except (AttributeError, ValueError) as error:
        raise ExtensionError(
            f"{name!r}: {module_name} has no function {function_name!r}"
        ) from error
    finally:
        sys.path.remove("")
    return _checked(name, function)


def _checked(name: str, function: Any) -> Callable[..., Any]:
    if not callable(function):
        raise ExtensionError(f"{name!r}: is a {type(function).__name__}, no function")
    return function
