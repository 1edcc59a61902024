"""Weights & Biases, without it: what is sent where."""

import importlib
import pathlib
import sys
import types
from typing import Any

import pytest

from soraflax.train import metrics
from tests.train import toy


class Page:
    """What wandb gives, as far as it is used."""

    def __init__(self, **given: Any) -> None:
        self.given, self.lines = given, []
        self.status: int | None = None

    def log(self, scalars: dict[str, float], *, step: int) -> None:
        self.lines.append((step, scalars))

    def finish(self, *, exit_code: int) -> None:
        self.status = exit_code


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Page]:
    opened: list[Page] = []

    def init(**given: Any) -> Page:
        opened.append(Page(**given))
        return opened[-1]

    module = types.ModuleType("wandb")
    module.init = init  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return opened


def test_a_run_keeps_its_page_when_it_is_resumed(
    tmp_path: pathlib.Path, pages: list[Page]
) -> None:
    job = toy.job(toy.mesh(1), settings={"seed": 1})
    toy.fit(job, tmp_path, steps=2, wandb="me/videos")
    toy.fit(toy.job(toy.mesh(1)), tmp_path, steps=4, wandb="me/videos")
    toy.fit(toy.job(toy.mesh(1)), tmp_path / "other", steps=2, wandb="videos")
    first, second, other = pages
    assert first.given["project"] == "videos" and first.given["entity"] == "me"
    assert first.given["config"] == {"seed": 1}
    assert first.given["id"] == second.given["id"] != other.given["id"]
    assert other.given["entity"] is None
    assert first.status == second.status == 0
    sent = [line for page in (first, second) for line in page.lines]
    written = metrics.read(tmp_path)
    assert [{"step": step, **scalars} for step, scalars in sent] == written


def test_a_run_that_fails_says_so(tmp_path: pathlib.Path, pages: list[Page]) -> None:
    with pytest.raises(ValueError, match="ended after 1"):
        toy.fit(toy.job(toy.mesh(1), toy.Data(length=1)), tmp_path, wandb="videos")
    assert pages[0].status == 1


def test_without_wandb_it_says_what_to_install(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"pip install 'soraflax\[wandb\]'"):
        toy.fit(toy.job(toy.mesh(1)), tmp_path, wandb="videos")
