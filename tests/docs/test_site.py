"""The site holds every page, and the diagrams are those that their script draws."""

import importlib.util
import pathlib

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"


def pages(entry: object) -> set[str]:
    if isinstance(entry, str):
        return {entry}
    values = entry.values() if isinstance(entry, dict) else entry
    assert not isinstance(values, (int, float)) and values is not None
    return set().union(*(pages(value) for value in values))  # pyright: ignore


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages(config["nav"]) == there


@pytest.fixture(scope="module")
def draw():
    spec = importlib.util.spec_from_file_location("draw", DOCS / "images" / "draw.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["prompt.svg", "training.svg", "packing.svg"])
def test_diagrams_are_as_drawn(draw, name):
    assert (DOCS / "images" / name).read_text() == draw.DIAGRAMS[name]()


def test_nothing_is_loaded_from_elsewhere():
    config = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in config and "http" not in config
