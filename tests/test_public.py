"""The names a user meets first."""

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
