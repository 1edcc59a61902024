"""What a process compiled, kept on disk for the next one.

JAX has a persistent cache of compiled programs; this says where it is, bounds it, and
turns it on only where it is safe:

- Programs of several devices that a CPU loads from it can wait for each other forever,
  as their collectives come in another order (jax 0.10.2). So with more than one CPU
  device there is no cache.
- An entry is used only if it is, byte for byte, what some run wrote: SHA-256 of every
  entry stands in `index.json`, and what differs, or was half written, is removed and
  compiled anew.
- The entries used longest ago are removed beyond `MAX_BYTES`.

The folder is the user's own (mode 0700), for what lies in it is run.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache

MAX_BYTES = 128 * 2**20
PROGRAMS, INDEX = "programs", "index.json"
_SUFFIX = "-cache"  # of JAX's entries
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def folder(environ: Mapping[str, str] = os.environ) -> pathlib.Path | None:
    """`$XDG_CACHE_HOME/soraflax`, else `~/.cache/soraflax`; None without a home."""
    home = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(home):  # the standard ignores others
        return pathlib.Path(home) / "soraflax"
    home = environ.get("HOME", "")
    return pathlib.Path(home) / ".cache" / "soraflax" if os.path.isabs(home) else None


def is_safe() -> bool:
    """Whether programs may be loaded from disk: on one CPU device, or on no CPU."""
    return jax.default_backend() != "cpu" or jax.device_count() == 1


@contextlib.contextmanager
def enabled(place: pathlib.Path | None) -> Iterator[pathlib.Path | None]:
    """What is compiled inside comes from `place`, and goes there.

    Args:
      place: such as `folder()`; made if it is missing. None is no cache.

    Yields:
      `place`; None where there is no cache: on several CPU devices, where the folder
      cannot be written, or where JAX has a cache of the user's own already.
    """
    if place is None or _setting("jax_compilation_cache_dir") or not is_safe():
        yield None
        return
    programs = place / PROGRAMS
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        programs.mkdir(mode=0o700, exist_ok=True)
        _remove_damaged(programs)
    except OSError:
        yield None
        return
    settings = _SETTINGS | {"jax_compilation_cache_dir": str(programs)}
    try:
        with configured(settings), warnings.catch_warnings():
            # Such as a full disk: then it is compiled again the next time.
            message = "Error (reading|writing) persistent compilation cache"
            warnings.filterwarnings("ignore", message)
            yield place
    finally:
        with contextlib.suppress(OSError):
            _evict(programs)
            _write_index(programs)


def _setting(name: str) -> Any:
    return getattr(jax.config, name)


@contextlib.contextmanager
def configured(settings: Mapping[str, Any]) -> Iterator[None]:
    """JAX's own cache under other settings inside, by their names in its config."""
    before = {name: _setting(name) for name in settings}
    try:
        _configure(settings)
        yield
    finally:
        _configure(before)


def _configure(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()  # it remembers the folder that it began with


def write_atomically(path: pathlib.Path, text: str) -> None:
    """A small file, whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_index(programs: pathlib.Path) -> dict[str, str]:
    try:
        index = json.loads((programs / INDEX).read_text())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _write_index(programs: pathlib.Path) -> None:
    """Adds what is new; what is known keeps its digest, of when it was written."""
    known = _read_index(programs)
    entries = {path.name: path for path in programs.glob(f"*{_SUFFIX}")}
    index = {n: known[n] if n in known else _digest(p) for n, p in entries.items()}
    if index != known:
        write_atomically(programs / INDEX, json.dumps(index, indent=0))


def _remove_damaged(programs: pathlib.Path) -> None:
    known = _read_index(programs)
    for path in programs.glob(f"*{_SUFFIX}"):
        if known.get(path.name) != _digest(path):
            path.unlink(missing_ok=True)


def _evict(programs: pathlib.Path) -> None:
    """Removes the entries used longest ago, until the others take `MAX_BYTES`."""
    stats = {path: path.stat() for path in programs.glob(f"*{_SUFFIX}")}
    total = sum(stat.st_size for stat in stats.values())
    by_age = sorted(stats, key=lambda p: max(stats[p].st_atime, stats[p].st_mtime))
    for path in by_age:
        if total <= MAX_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= stats[path].st_size
