"""The names a user meets first."""

import ast
import pathlib
import subprocess
import sys

import pytest

import soraflax


def test_every_public_name_is_where_it_says():
    for name in soraflax._HOMES:
        assert getattr(soraflax, name).__name__ == name


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="Generater"):
        soraflax.Generater  # noqa: B018


def test_the_import_is_light():
    check = "import sys, soraflax; print(*{'jax', 'flax', 'av'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_type_checkers_are_told_the_same_names():
    tree = ast.parse(pathlib.Path(soraflax.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname  # others are for annotations
    }
    homes = {name: f"{home}.{name}" for name, home in soraflax._HOMES.items()}
    assert told == homes | soraflax._MODULES
    assert sorted(soraflax.__all__) == sorted([*told, "load"])
