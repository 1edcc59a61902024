"""The law of the learning rate, from losses whose best rates are known."""

import pathlib

import numpy as np
import pytest

from experiments.configs import bodies
from experiments.scaling import grid, learning_rate

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


def _losses(best: float) -> dict[float, float]:
    return {rate: 1 + np.log(rate / best) ** 2 for rate in RATES}


def test_a_law_through_the_best_rates() -> None:
    found = learning_rate.fit({64: _losses(6e-3), 128: _losses(3e-3)})
    assert found.exponent == pytest.approx(1.0)
    assert found.at(64) == pytest.approx(6e-3)
    assert found.at(256) == pytest.approx(1.5e-3)


def test_what_would_be_enough_is_said() -> None:
    with pytest.raises(ValueError, match=r"best at 0.016, the last .*; add 0.032"):
        learning_rate.fit({64: _losses(6e-2), 128: _losses(3e-3)})
    with pytest.raises(ValueError, match="needs 2 or more"):
        learning_rate.fit({64: _losses(6e-3)})
    with pytest.raises(ValueError, match=r"has 1 rate\(s\)"):
        learning_rate.fit({64: _losses(6e-3), 128: {1e-3: 1.0}})


def test_every_width_is_trained_at_every_rate() -> None:
    rates = {64: RATES, 128: RATES}
    planned = learning_rate.points(rates, base=bodies.MODEL, steps=10, rows=2)
    assert len({point.name for point in planned}) == 10
    assert {point.model.width for point in planned} == {64, 128}
    for rates, complaint in (
        ({64: RATES, 65: RATES}, "width 65: use 64"),
        ({64: RATES}, r"1 width\(s\) with 5 rate\(s\): .* 2 widths or more"),
        ({64: RATES, 128: RATES[:2]}, r"with 2 rate\(s\): .* 3 rates or more"),
    ):
        with pytest.raises(ValueError, match=complaint):
            learning_rate.points(rates, base=bodies.MODEL, steps=10, rows=2)


@pytest.mark.parametrize("name", list(learning_rate.PRESETS))
def test_a_preset_sweeps_about_the_rule_at_two_widths(
    name: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--output={tmp_path / 'rates'}", f"--preset={name}", "--plan"]
    assert learning_rate.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and not (tmp_path / "rates").exists()
    rates = [float(line.split()[0].partition("-r")[2]) for line in lines]
    low, high = (np.array(part) for part in (rates[:5], rates[5:]))
    np.testing.assert_allclose(low / high, 2.0, rtol=0.01)  # half the width
    rule = grid.LearningRate().at(learning_rate.PRESETS[name].widths[0])
    assert low[2] == pytest.approx(rule, rel=0.01) and low[0] < rule / 3


def test_bad_input_is_one_line_before_any_run(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--output={tmp_path / 'rates'}"
    assert learning_rate.main([out, f"--data={tmp_path / 'nowhere'}"]) == 2
    error = capsys.readouterr().err
    assert "make the dataset again" in error and error.count("\n") == 1
    for words in (["--rates=-1,1e-3,1"], ["--rates=nan,1,2"], ["--widths=a"]):
        with pytest.raises(SystemExit) as stop:
            learning_rate.main([out, *words])
        assert stop.value.code == 2
