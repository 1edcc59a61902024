"""The law of published runs is the one that was published of them.

The 245 runs of Chinchilla's figure 4 (arXiv:2203.15556), as arXiv:2404.10102 read them
off; its law is L = 1.8172 + 482.01 / N^0.3478 + 2085.43 / D^0.3658, by a Huber loss of
log residuals from many starts. Ours is another loss and another search.
"""

import pathlib

import numpy as np
import pytest

from experiments.scaling import law

DATA = pathlib.Path(__file__).parents[2] / "data" / "scaling" / "chinchilla.csv"
PUBLISHED = {"floor": 1.8172, "size": 482.01, "data": 2085.43, "a": 0.3478, "b": 0.3658}
DOUBTFUL = 5  # runs of the highest loss, which the authors leave out


def test_the_law_of_chinchillas_runs_is_the_published_one() -> None:
    n, flops, loss = np.loadtxt(DATA, delimiter=",", skiprows=1).T
    kept = np.argsort(loss)[:-DOUBTFUL]
    runs = law.Runs(n, flops / (6 * n), flops, loss, np.zeros(len(n), int)).chosen(kept)
    assert len(runs) == 240
    best = law.fit(runs)
    resampled = law.fit(runs, law.bootstrap(runs.budget, resamples=400))
    for name, value in PUBLISHED.items():
        low, high = np.percentile(getattr(resampled, name), (2.5, 97.5))
        assert low <= value <= high
    assert best.floor[0] == pytest.approx(PUBLISHED["floor"], abs=0.02)
    assert best.a[0] == pytest.approx(PUBLISHED["a"], abs=0.01)
    assert best.b[0] == pytest.approx(PUBLISHED["b"], abs=0.02)
    # A Chinchilla of its own budget: 20 tokens a parameter, as was published.
    (parameters,), (tokens,) = (x[0] for x in best.optimum(np.array([5.76e23])))
    assert 10 < tokens / parameters < 40
