"""The law of the learning rate, from losses whose best rates are known."""

import numpy as np
import pytest

from experiments.configs import bodies
from experiments.scaling import learning_rate

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
    planned = learning_rate.points(
        [64, 128], RATES, base=bodies.MODEL, steps=10, rows=2
    )
    assert len({point.name for point in planned}) == 10
    assert {point.model.width for point in planned} == {64, 128}
    with pytest.raises(ValueError, match="width 65: use 64"):
        learning_rate.points([65], RATES, base=bodies.MODEL, steps=10, rows=2)
