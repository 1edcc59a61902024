"""What a command compiled is there for the next one, on one device."""

import argparse
import os
import pathlib
import subprocess
import sys

import pytest

from soraflax import compilation_cache
from soraflax.cli import devices, main

ROOT = str(pathlib.Path(main.__file__).parents[2])


def generate(place, checkpoint, *words, count=1):
    """Run it in a process of its own, whose cache is in `place`."""
    flags = f"--xla_force_host_platform_device_count={count}"
    flags += " --xla_backend_optimization_level=0"
    env = {"XLA_FLAGS": flags, "PYTHONPATH": ROOT, "XDG_CACHE_HOME": str(place)}
    line = "generate circle --size 16x16 --frames 5 --steps 1 --out a.mkv --checkpoint"
    command = [sys.executable, "-m", "soraflax.cli.main", *line.split()]
    done = subprocess.run(
        [*command, str(checkpoint), *words],
        env=os.environ | env,
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "a.mkv\n")
    # A slow machine may say how far it is; nothing else may be said.
    assert all(" s so far)" in line for line in done.stderr.splitlines())
    folder = place / "soraflax"
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in files}


def test_the_second_command_compiles_and_traces_nothing_new(tmp_path, checkpoint):
    first = generate(tmp_path, checkpoint)
    names = {path.name.partition("-")[0] for path in first}
    assert {"jit_step", "jit__encode", "jit_decode", "index.json"} <= names
    assert len([path for path in first if path.parts[0] == "shapes"]) == 2
    video = (tmp_path / "a.mkv").read_bytes()
    assert generate(tmp_path, checkpoint) == first
    assert (tmp_path / "a.mkv").read_bytes() == video


@pytest.mark.parametrize(("words", "count"), [(["--no-compilation-cache"], 1), ([], 2)])
def test_nothing_is_kept_where_it_is_off(tmp_path, checkpoint, words, count):
    assert generate(tmp_path, checkpoint, *words, count=count) == {}


@pytest.mark.parametrize(
    ("size", "count"), [((832, 480), 8), ((480, 720), 2), ((48, 32), 2), (None, 4)]
)
def test_a_large_model_takes_devices_that_divide_its_longer_side(
    size, count, monkeypatch, checkpoint
):
    assert devices.suited(checkpoint, size) == 1  # not a large one
    read = devices.model_io.model_config

    def outside(directory):
        record = dict(read(directory))
        if record["kind"] == "video":
            transformer = record["model"]["transformer"] | {"text": None}
            sampling = {"size": [96, 64]}
            model = {"transformer": transformer, "sampling": sampling}
            record["model"] = record["model"] | model
        return record

    monkeypatch.setattr(devices.model_io, "model_config", outside)
    assert devices.suited(checkpoint, size) == count


def test_the_arguments_decide(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation_cache, "is_safe", lambda: True)
    for refused, place in ((True, None), (False, tmp_path / "soraflax")):
        args = argparse.Namespace(no_compilation_cache=refused)
        with devices.kept_programs(args) as cache:
            assert cache == place
