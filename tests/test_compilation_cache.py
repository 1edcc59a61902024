"""Compiled programs are kept where that is safe, bounded, and harmless if damaged.

Processes of their own: these tests have eight devices, and so no cache.
"""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from soraflax import compilation_cache

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import pathlib, sys, warnings
import jax, jax.numpy as jnp
from soraflax import compilation_cache

warnings.simplefilter("error")
hits = []
jax.monitoring.register_event_listener(
    lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None
)
with compilation_cache.enabled(pathlib.Path(sys.argv[1])) as place:
    result = float(jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(jnp.arange(9.0)))
print(place is not None, len(hits) > 0, result, jax.config.jax_compilation_cache_dir)
"""


def run(place, *, devices=1, **env):
    """Whether the cache was on, whether it had the program, what came out of it."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags} | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    on, hit, result, left = done.stdout.split()
    return on == "True", hit == "True", result, left


def entries(place):
    return sorted((place / compilation_cache.PROGRAMS).glob("*-cache"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with what a process compiled, and what came out there."""
    place = tmp_path_factory.mktemp("kept") / "deep" / "soraflax"
    on, hit, result, left = run(place)
    assert (on, hit, left) == (True, False, "None")
    assert place.stat().st_mode & 0o077 == 0
    return place, result


def test_the_next_process_compiles_nothing(kept):
    place, result = kept
    before = {path: path.stat().st_mtime_ns for path in entries(place)}
    assert run(place) == (True, True, result, "None")
    assert {path: path.stat().st_mtime_ns for path in entries(place)} == before


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "unknown", "no index"])
def test_damaged_entries_are_compiled_anew(kept, tmp_path, how):
    place, result = kept[0], kept[1]
    copy = tmp_path / "soraflax"
    subprocess.run(["cp", "-r", str(place), str(copy)], check=True)
    index = copy / compilation_cache.PROGRAMS / compilation_cache.INDEX
    for path in entries(copy):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        if how in ("cut", "empty"):
            data = data[: len(data) // 2 * (how == "cut")]
        if how in ("flipped", "cut", "empty"):
            path.write_bytes(data)
    if how == "unknown":
        index.write_text("[]")
    elif how == "no index":
        index.unlink()
    assert run(copy) == (True, False, result, "None")
    assert run(copy) == (True, True, result, "None")


def test_it_is_off_on_several_cpu_devices(tmp_path):
    """Loaded programs of several devices can wait for each other forever."""
    assert run(tmp_path / "soraflax", devices=2)[:2] == (False, False)
    assert not list(tmp_path.iterdir())
    assert jax.device_count() == 8 and not compilation_cache.is_safe()
    with compilation_cache.enabled(tmp_path) as place:
        assert place is None


def test_it_leaves_a_cache_of_the_users_own_alone(tmp_path):
    theirs = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "theirs")}
    on, _, _, left = run(tmp_path / "ours", **theirs)
    assert (on, left) == (False, str(tmp_path / "theirs"))
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_cannot_be_written_is_no_cache(tmp_path):
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "soraflax")[0] is False


def test_what_was_used_longest_ago_goes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", 250)
    for number in range(4):
        path = tmp_path / f"{number}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
    os.utime(tmp_path / "0-cache", (2000, 1000))  # read since
    compilation_cache._evict(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-cache", "3-cache"]


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/soraflax"),
        ({"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/h/.cache/soraflax"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/soraflax"),
        ({}, None),
    ],
)
def test_where_it_is(environ, place):
    assert compilation_cache.folder(environ) == (place and pathlib.Path(place))
