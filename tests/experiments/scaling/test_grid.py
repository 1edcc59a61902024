"""Points of a sweep: their FLOPs, their sizes about the optimum, what does not fit."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from experiments.configs import bodies
from experiments.scaling import grid
from soraflax import flops

ROWS = [flops.Lengths([60, 60], [14, 14]), flops.Lengths([120], [20])]
RATE = grid.LearningRate()


@pytest.mark.parametrize("name", list(grid.PRESETS))
def test_every_preset_is_a_grid_of_its_budgets(name: str) -> None:
    preset = grid.PRESETS[name]
    points = grid.plan(preset, ROWS, base=bodies.MODEL, rate=RATE)
    assert len({point.name for point in points}) == len(points)
    assert len(preset.budgets) >= 5
    for budget in preset.budgets:
        column = [point for point in points if point.budget == budget]
        assert len(column) >= 6
        optimum = np.sqrt(budget / (6 * preset.tokens_per_parameter))
        sizes = [point.parameters for point in column]
        assert sizes[0] < optimum < sizes[-1]
        assert np.sqrt(sizes[0] * sizes[-1]) == pytest.approx(optimum, rel=0.35)
        for point in column:
            assert point.parameters == flops.transformer_parameters(point.model)
            step = point.rows * grid.row_flops(point.model, ROWS)
            assert step * point.steps == pytest.approx(budget, rel=0.01)


def test_sizes_are_centred_on_a_fit() -> None:
    estimate = {"value": 3e6}
    fit = {
        "optimum": [{"flops": 1e13, "parameters": estimate}],
        "law": {"size_exponent": {"value": 0.5}},
    }
    preset = dataclasses.replace(grid.PRESETS["two_cores"], budgets=(1e13, 4e13, 9e13))
    assert grid.predicted_optimum(4e13, preset, fit=fit) == pytest.approx(6e6)


def test_a_budget_that_no_size_fits_is_refused() -> None:
    preset = dataclasses.replace(grid.PRESETS["two_cores"], budgets=(1e10, 1e12, 1e13))
    with pytest.raises(ValueError, match=r"budget 1e\+10 has 2 .*a larger budget"):
        grid.plan(preset, ROWS, base=bodies.MODEL, rate=RATE)
    wide = dataclasses.replace(preset, budgets=(1e12, 1e13, 1e14), rows=4096)
    with pytest.raises(ValueError, match=r"budget 1e\+12.*use .* FLOPs or more"):
        grid.plan(wide, ROWS, base=bodies.MODEL, rate=RATE)
    with pytest.raises(ValueError, match="a law needs 3 or more"):
        dataclasses.replace(preset, sizes=2)


def test_the_rate_follows_the_width(tmp_path: pathlib.Path) -> None:
    assert RATE.at(128) == 3e-3 and RATE.at(64) == pytest.approx(6e-3)
    fitted = grid.LearningRate(1e-3, 64, 0.5, "fitted")
    assert fitted.at(256) == pytest.approx(5e-4)
    (tmp_path / "rate.json").write_text(json.dumps(dataclasses.asdict(fitted)))
    assert grid.LearningRate.read(tmp_path / "rate.json") == fitted
