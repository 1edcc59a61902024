"""Every block of Python in README.md and docs/ runs, and every link leads somewhere.

The blocks of a page run one after the other, in one namespace. `soraflax.load` gives a
stand-in whose methods check the arguments that they are called with: what models make
is tested elsewhere. A block after `<!-- not run: why -->` is left out.
"""

import pathlib
import re
import textwrap
from typing import Any
from unittest import mock

import numpy as np
import pytest

import soraflax
from soraflax import media
from soraflax.generation import generator
from tests.generation import tiny

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(
    r"^(?P<skip>[ ]*<!-- not run: [^\n]* -->\n)?"
    r"(?P<indent>[ ]*)```(python|{ \.python)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
SNIPPET = re.compile(r'^--8<-- "(?P<file>[^":]+)(:(?P<part>\w+))?"$', re.MULTILINE)
LINK = re.compile(r"(?<!`)\]\((?P<target>[^)\s]+)\)")


def included(match: re.Match[str]) -> str:
    """What mkdocs puts in place of a line that includes a part of a file."""
    text = (ROOT / match["file"]).read_text()
    if match["part"] is None:
        return text
    start, end = (f"# --8<-- [{edge}:{match['part']}]\n" for edge in ("start", "end"))
    return text[text.index(start) + len(start) : text.index(end)]


def blocks(page: pathlib.Path) -> list[str]:
    """The Python of a page that is to run."""
    found = FENCE.finditer(page.read_text())
    code = [textwrap.dedent(m["code"]) for m in found if m["skip"] is None]
    return [SNIPPET.sub(included, block) for block in code]


def stand_in() -> Any:
    """A model whose methods take what `soraflax.Model`'s take, and make grey videos."""
    real = generator.Generator(tiny.model())

    def make(*arguments: Any, **keywords: Any) -> media.Video:
        del arguments
        if "callback" in keywords:
            latent = np.zeros((2, 4, 4, 4), np.float32)
            keywords["callback"](soraflax.Step(1, 25, lambda: [latent]))
        frames = np.full((17, 64, 64, 3), 128, np.uint8)
        return media.Video(frames, 8.0, {"seed": 0})

    model = mock.create_autospec(soraflax.Model, instance=True)
    for name in soraflax.Model.__dict__:
        if not name.startswith("_") and callable(getattr(soraflax.Model, name)):
            getattr(model, name).side_effect = make
    model.run.side_effect = lambda jobs, *_, **__: [make() for _ in jobs]
    model.configure_mock(grid=real.grid, fps=8.0, generator=real)
    return model


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder that holds `DATASET`, of the example's world."""
    pytest.importorskip("data_pipelines.records")
    folder = tmp_path_factory.mktemp("pages")
    code = compile((ROOT / "examples" / "add_a_world.py").read_text(), "world", "exec")
    names: dict[str, Any] = {"__name__": "world"}
    exec(code, names)
    names["main"](["--count", "2", "--out", str(folder / "DATASET")])
    return folder


def name(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name)
def test_the_python_of_a_page_runs(page, dataset, monkeypatch):
    monkeypatch.chdir(dataset)
    monkeypatch.setattr(soraflax, "load", lambda folder=None: stand_in())
    names: dict[str, Any] = {"__name__": page.stem}
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page.name} block {number}", "exec"), names)


def anchor(heading: str) -> str:
    """The id that a heading gets, here and at GitHub."""
    text = re.sub(r"[`*_]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        if "://" in target:
            continue
        file, _, fragment = target.partition("#")
        other = (page.parent / file) if file else page
        assert other.exists(), f"{page.name}: {target}"
        if fragment and other.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{page.name}: {target}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
