"""What the package promises to someone who installs it: commands, extras, files."""

import importlib
import importlib.metadata
import pathlib
import re
import tomllib

import pytest

import soraflax
from soraflax.cli import parser as cli

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = PROJECT["entry-points"]["soraflax.commands"]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_entry_point_is_a_command(name):
    module, _, attribute = COMMANDS[name].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert command.name == name
    assert callable(importlib.import_module(command.module).main)
    assert command.EXTRA in cli.EXTRAS


def test_a_delegate_hands_on_every_word(monkeypatch, capsys):
    words = ["--config.a=1", "b", "--help", "-x", "c", "--d", "e"]
    monkeypatch.setattr(
        importlib, "import_module", lambda _: type("module", (), {"main": seen.append})
    )
    seen = []
    command = cli.Delegate("train", "anything", "a summary", EXTRA="train")
    assert cli.dispatch([command], ["train", *words]) == 0
    assert seen == [words]


def dependencies(extra, seen=()):
    """Names of the distributions of an extra, those of the extras in it included."""
    names = set()
    for line in PROJECT["optional-dependencies"][extra]:
        match = re.match(r"([\w-]+)(?:\[(\w+)\])?", line)
        assert match is not None
        name, inner = match.groups()
        names |= dependencies(inner) if name == "soraflax" else {name}
    return names


def test_the_parser_knows_the_extras():
    """Each extra holds the one in it, and what `parser.EXTRAS` says."""
    distributions = {"PIL": "pillow", "absl": "absl-py", "orbax": "orbax-checkpoint"}
    distributions |= {"c2pa": "c2pa-python"}
    for extra in cli.EXTRAS:
        modules = cli.modules_of(extra)
        names = {distributions.get(m, m.replace("_", "-")) for m in modules}
        assert {n.replace("_", "-") for n in dependencies(extra)} == names
    inner = map(dependencies, ("clean", "gcs", "parquet", "plan", "ui"))
    assert dependencies("all") == set().union(*inner)


def test_everything_that_has_code_is_in_the_wheel():
    """Packages are found by folder: every one needs its `__init__.py`."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) == {"soraflax", "data_pipelines", "experiments"}
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def test_the_version_is_one():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {soraflax.__version__}\n" in citation
    assert PROJECT["version"] == soraflax.__version__
