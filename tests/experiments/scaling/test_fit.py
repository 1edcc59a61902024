"""The command on work folders: figures and curves of good ones, one line for others."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from experiments.scaling import fit, plot, runs
from tests.experiments.scaling import synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Thirty runs of one law, and one of ten times the compute beside them."""
    path = tmp_path_factory.mktemp("scaling")
    synthetic.write_all(path / "runs", synthetic.runs())
    value = synthetic.loss(4e6, 1.25e9)
    synthetic.write(path, "large", parameters=4e6, tokens=1.25e9, value=value)
    return path


def test_it_fits_predicts_and_draws(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder / "runs"), f"--held-out={folder / 'large'}"]
    assert fit.main([*arguments, f"--output={tmp_path}"]) == 0
    report = json.loads((tmp_path / fit.REPORT).read_text())
    for name, value in synthetic.TRUTH.items():
        found = report["law"][name]
        assert found["low"] <= value <= found["high"]
        assert found["low"] <= found["value"] <= found["high"]
    assert len(report["optimum"]) == len(report["leave_one_budget_out"]) == 5
    assert max(row["rms_error"] for row in report["leave_one_budget_out"]) < 0.02
    assert report["held_out"]["inside"]
    assert abs(report["held_out"]["relative_error"]) < 0.02
    assert report["notes"] == []
    printed = capsys.readouterr().out
    assert "size_exponent" in printed and "0.415 video, Yin" in printed
    for name in plot.NAMES:
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 600


def test_a_run_below_the_folder_is_held_out_of_the_fit(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    held_out = folder / "runs" / "run29"
    arguments = [str(folder / "runs"), f"--held-out={held_out}"]
    assert fit.main([*arguments, f"--output={tmp_path}"]) == 0
    report = json.loads((tmp_path / fit.REPORT).read_text())
    assert len(report["runs"]["loss"]) == 29
    assert plot.main([str(tmp_path / fit.REPORT), f"--output={tmp_path / 'more'}"]) == 0
    assert (tmp_path / "more" / plot.NAMES[0]).is_file()


def _complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert fit.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("fit: ") and error.count("\n") == 1
    return error


def test_bad_runs_are_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such folder" in _complaint(capsys, str(tmp_path / "nowhere"))
    assert "no finished run" in _complaint(capsys, str(tmp_path))
    good = synthetic.runs()
    synthetic.write_all(tmp_path, good.chosen(good.budget < 2))
    error = _complaint(capsys, str(tmp_path))
    assert "2 budget(s)" in error and "needs 3 or more" in error
    for index, n in enumerate((1e5, 2e5)):
        size = {"parameters": n, "tokens": 1e14 / (6 * n)}
        synthetic.write(tmp_path, f"third{index}", **size, value=1.0)
    error = _complaint(capsys, str(tmp_path))
    assert "budget 1e+14 has 2 size(s)" in error and "give it 3 or more" in error
    assert "percentiles need 1000" in _complaint(
        capsys, str(tmp_path), "--resamples=10"
    )


def test_runs_of_several_configurations_are_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.write_all(tmp_path, synthetic.runs())
    more = {"parameters": 1e5, "tokens": 1e8, "value": 1.0}
    synthetic.write(tmp_path, "velocity", **more, prediction="velocity")
    error = _complaint(capsys, str(tmp_path))
    assert "run00 and velocity differ in loss.prediction: 'x0'" in error


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda p: p.unlink(), "no metrics.jsonl"),
        (lambda p: p.write_text(p.read_text()[:-9]), "half a line"),
        (
            lambda p: p.write_text(p.read_text().replace("validation/loss", "x")),
            "no validation/loss after its last step",
        ),
        (
            lambda p: p.write_text(p.read_text().replace("training_flops", "x")),
            "has no parameters, training_tokens, training_flops",
        ),
        (
            lambda p: p.write_text(
                '{"step": 20, "training_flops": 1.0, "training_tokens": 1.0, '
                '"parameters": 1.0}\n{"step": 20, "validation/loss": NaN}\n'
            ),
            "nan is no positive number",
        ),
        (
            lambda p: p.write_text(p.read_text().replace('"parameters": ', '"n": ')),
            "has no parameters",
        ),
        (
            lambda p: p.write_text("[1]\n" + p.read_text()),
            "line 1 has no step",
        ),
        (
            lambda p: p.with_name("point.json").write_text("[]"),
            "point.json is no JSON object",
        ),
    ],
)
def test_a_run_without_a_result_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], spoil, complaint
) -> None:
    synthetic.write_all(tmp_path, synthetic.runs())
    (tmp_path / "run07" / "point.json").write_text('{"steps": 20, "settings": {}}')
    spoil(tmp_path / "run07" / "metrics.jsonl")
    error = _complaint(capsys, str(tmp_path))
    assert "1 of 30 runs have no result; first: run07: " in error
    assert complaint in error and "--finished" in error
    assert len(runs.read(tmp_path, finished=True)) == 29


def test_what_is_not_defined_is_null_and_read_again(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A budget whose parabola opens downward has no minimum."""
    made = synthetic.runs(noise=0.0)
    ends = made.parameters.reshape(5, 6)[0, [0, -1]]
    spoilt = np.where(np.isin(made.parameters, ends), 0.8 * made.loss, made.loss)
    synthetic.write_all(tmp_path / "runs", dataclasses.replace(made, loss=spoilt))
    assert fit.main([str(tmp_path / "runs"), f"--output={tmp_path}"]) == 0
    text = (tmp_path / fit.REPORT).read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["parabolas"]["parameters"][0]["value"] is None
    assert plot.main([str(tmp_path / fit.REPORT), f"--output={tmp_path / 'more'}"]) == 0
    assert (tmp_path / "more" / plot.NAMES[2]).is_file()
    (tmp_path / "other.json").write_text("{}")
    assert plot.main([str(tmp_path / "other.json")]) == 2
    assert "is not of python -m experiments.scaling.fit" in capsys.readouterr().err


def test_runs_without_an_optimum_are_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = synthetic.runs(noise=0.0)
    rising = dataclasses.replace(made, loss=1 + 0.01 * np.log(made.tokens))
    synthetic.write_all(tmp_path / "runs", rising)
    error = _complaint(capsys, str(tmp_path / "runs"))
    assert "the loss does not fall with" in error and "further apart" in error
    (tmp_path / "file").touch()
    error = _complaint(capsys, str(tmp_path / "runs"), f"--output={tmp_path / 'file'}")
    assert "is a file; give a folder" in error


def test_a_budget_whose_minimum_is_not_bracketed_is_told() -> None:
    made = synthetic.runs(noise=0.0)
    assert runs.unbracketed(made) == []
    largest = made.parameters.reshape(5, 6)[0, 3]
    few = made.chosen((made.budget > 0) | (made.parameters < largest))
    (line,) = runs.unbracketed(few)
    assert line.startswith("budget 1e+12: its lowest loss") and "above" in line
