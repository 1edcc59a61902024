"""Intervals, verdicts and the page: what is not shown is printed as that."""

import pathlib
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.reports import joint, scoreboard
from tests.generation import tiny


def test_wilson_holds_the_share_and_never_leaves_the_unit_interval() -> None:
    half = scoreboard.share("x", [True] * 50 + [False] * 50, chance=0.3)
    assert (half.value, half.count) == (0.5, 100)
    assert half.low == pytest.approx(0.4038, abs=1e-3)  # Wilson, 1927, by hand
    assert half.high == pytest.approx(0.5962, abs=1e-3)
    assert half.shown
    every = scoreboard.share("x", [True] * 4, chance=0.6)
    assert 0.5 < every.low < 0.52 and every.high == 1.0 and not every.shown
    assert scoreboard.share("x", [], chance=0.1).shown is None


def test_means_have_intervals_and_leave_out_what_is_not_finite() -> None:
    values = np.linspace(0, 1, 101).tolist()
    found = scoreboard.mean("x", [*values, float("nan")], chance=0.2)
    assert found.count == 101 and found.value == pytest.approx(0.5)
    assert 0.42 < found.low < 0.5 < found.high < 0.58 and found.shown
    low = scoreboard.mean("error", values, chance=0.7, better="low")
    assert low.shown
    assert scoreboard.mean("x", []).count == 0


def test_few_clips_have_no_interval_and_show_nothing(tmp_path: pathlib.Path) -> None:
    """All alike they would have one of no width."""
    few = scoreboard.mean("x", [1.0] * 4, chance=0.0)
    assert few.value == 1.0 and np.isnan(few.low) and few.shown is False
    assert scoreboard.mean("x", [1.0] * 5, chance=0.0).shown
    folder = tmp_path / "reports" / "few"
    _claim("few", figures=(few,)).save(folder)
    assert scoreboard.read(folder).verdict == "not shown"
    text = scoreboard.page([scoreboard.read(folder)])
    assert "| x | 1 | too few clips | 0 |  | 4 |" in text
    assert "4 clip(s), too few for an interval" in text and "nan" not in text


def test_a_difference_is_beside_none() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(1.0, 0.1, 50), random.normal(0.0, 0.1, 50)
    assert scoreboard.difference("x", a.tolist(), theirs=b.tolist()).shown
    assert not scoreboard.difference("x", a.tolist(), theirs=a.tolist()).shown


def _claim(name: str, **values) -> scoreboard.Claim:
    return scoreboard.Claim(name, f"{name} holds", f"python -m {name}", **values)


def test_the_page_prints_what_is_shown_and_what_is_not(tmp_path: pathlib.Path) -> None:
    good = scoreboard.share("right", [True] * 50, chance=0.5, ceiling=1.0)
    bad = scoreboard.share("right", [True, False] * 25, chance=0.5)
    first = tmp_path / "reports" / "first"
    first.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(first / "p.png")
    _claim("first", figures=(good,), pictures=(("p.png", "four pixels"),)).save(first)
    second = tmp_path / "reports" / "second"
    claim = _claim("second", figures=(bad,), notes=("it fails",), quick=True)
    claim.save(second)
    assert scoreboard.read(second) == claim
    output = tmp_path / "docs" / "report.md"
    arguments = [str(tmp_path / "reports"), f"--output={output}"]
    assert scoreboard.main(arguments) == 0
    text = output.read_text()
    assert "first holds **Shown.**" in text
    assert "second holds **Not shown, in the quick form alone.**" in text
    row = "| first holds | [`first`](#first) | shown | right: 1 [0.929, 1], chance 0.5"
    assert row in text and "| not shown (quick) | right: 0.5" in text
    assert "- it fails" in text and "![four pixels](report/first/p.png)" in text
    assert (output.parent / "report" / "first" / "p.png").is_file()
    # What is run again alone takes its place, and the rest stays.
    again = tmp_path / "again"
    _claim("second", figures=(good,)).save(again / "second")
    _claim("first", figures=(bad,), quick=True).save(again / "first")
    assert scoreboard.main([str(again), f"--output={output}"]) == 0
    text = output.read_text()
    assert "second holds **Shown.**" in text and "first holds **Shown.**" in text
    assert "![four pixels](report/first/p.png)" in text


def test_a_full_form_counts_before_a_quick_one_and_the_rest_is_not_run(
    tmp_path: pathlib.Path,
) -> None:
    for folder, names in (("full", ["physics"]), ("quick", ["sizes", "physics"])):
        for name in names:
            claim = _claim(name, figures=(), quick=folder == "quick")
            claim.save(tmp_path / folder / name)
    folders = scoreboard.find([tmp_path / "quick", tmp_path / "full"])
    assert folders == [tmp_path / "quick" / "sizes", tmp_path / "full" / "physics"]
    text = scoreboard.page([scoreboard.read(folder) for folder in folders])
    assert "[`physics`](#physics) | measured |" in text
    assert "[`sizes`](#sizes) | measured (quick) |" in text
    rest = [name for name in scoreboard.REPORTS if name not in ("sizes", "physics")]
    assert all(f"| `{name}` | not run | |" in text for name in rest)
    assert f"| {joint.CLAIM} | `joint` | not run" in text
    assert "compute (larger reading). | `ladder_larger` | not run" in text


def test_make_runs_every_report() -> None:
    lines = (pathlib.Path(__file__).parents[3] / "Makefile").read_text()
    names = re.search(r"\nCLAIMS \?= ([\w\s\\]*)\nreport:", lines)
    assert names is not None
    ran = tuple(word for word in names[1].split() if word != "\\")
    assert ran == scoreboard.REPORTS


def test_a_folder_without_reports_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scoreboard.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_report_of_another_model_records_which(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(output: pathlib.Path, model: Any, *, config: str) -> scoreboard.Claim:
        return _claim("some", figures=(), notes=(config,))

    def run(*words: str) -> int:
        argv = ["--output", str(tmp_path / "out"), *words]
        return scoreboard.run_of_model(
            "some", make, full="full", quick="quick", doc="Some.", argv=argv
        )

    folder = tiny.save(tmp_path / "a model")
    assert run("--quick", "--checkpoint", str(folder)) == 0
    saved = scoreboard.read(tmp_path / "out" / "some")
    assert saved.command.endswith(f"some --checkpoint '{folder}' --quick")
    assert saved.quick and saved.notes == ("quick",)
    capsys.readouterr()
    assert run("--checkpoint", str(tmp_path / "none")) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_a_picture_on_the_page_keeps_its_colours(tmp_path: pathlib.Path) -> None:
    """A median cut made a small red patch among many greys magenta."""
    random = np.random.default_rng(0)
    pixels = np.repeat(random.integers(90, 160, (64, 64, 1), np.uint8), 3, axis=2)
    pixels = pixels + random.integers(0, 12, pixels.shape, np.uint8)
    pixels[:6, :6], pixels[8:12, 8:12] = (220, 20, 30), (150, 20, 150)
    folder = tmp_path / "some"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "p.png")
    _claim("some", figures=(), pictures=(("p.png", "patches"),)).save(folder)
    scoreboard.keep(folder, tmp_path / "kept")
    with Image.open(tmp_path / "kept" / "p.png") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(shown - pixels).max() <= 24
