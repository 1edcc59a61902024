"""The law of the loss of N parameters after D tokens, fitted to many runs at once.

    L(N, D) = E + A / N^a + B / D^b                       (arXiv:2203.15556)      (1)

For given a and b, (1) is linear in E, A and B: variable projection solves for these and
searches the plane of (a, b) alone (arXiv:2603.22339). Residuals are relative,

    r = 1 - L(N, D) / loss,     sum over runs of w huber(r),                      (2)

and whatever is fitted is fitted for K sets of weights w at a time: those of a bootstrap
that draws, within each budget of m runs, m - 1 of them (which leaves the variance of a
mean unbiased where m is small: Rao and Wu, 1988).

With model FLOPs of a run C = k N^(1 + q) D (k and q fitted; 6 and 0 for a transformer
of nothing but products), the least loss of a budget C has

    N_opt = [a A / (b (1 + q) B)]^(1 / s) (C / k)^(b / s),   s = a + b (1 + q)    (3)

Beside it stand IsoFLOP parabolas: a quadratic of the loss in log N for each budget, and
a line through the logarithms of their minima. They are biased where a and b differ.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

EXPONENTS = (0.02, 2.5)  # the least and greatest a and b that are looked for
_GRID = 18
_ITERATIONS = 60
_TOLERANCE = 1e-4  # of log a and log b
_RIDGE = 1e-12

Weights = Float[np.ndarray, "K runs"]


@dataclasses.dataclass(frozen=True)
class Runs:
    """Finished runs; `budget` numbers groups of about equal FLOPs from 0.

    Attributes:
      parameters: N.
      tokens: D, tokens seen in training.
      flops: C, model FLOPs of training.
      loss: validation loss.
      budget: group of each run.
    """

    parameters: Float[np.ndarray, "runs"]
    tokens: Float[np.ndarray, "runs"]
    flops: Float[np.ndarray, "runs"]
    loss: Float[np.ndarray, "runs"]
    budget: Int[np.ndarray, "runs"]

    def __len__(self) -> int:
        return len(self.loss)

    def chosen(self, which: Any) -> "Runs":
        """Some of the runs, by a mask or by indices."""
        values = (
            getattr(self, field.name)[which] for field in dataclasses.fields(self)
        )
        return Runs(*values)


@dataclasses.dataclass(frozen=True)
class Law:
    """Equations (1) and (3) for K sets of weights; every attribute is `[K]`.

    Attributes:
      floor: E.
      size, data: A and B.
      a, b: their exponents.
      cost, cost_exponent: k and q.
    """

    floor: Float[np.ndarray, "K"]
    size: Float[np.ndarray, "K"]
    data: Float[np.ndarray, "K"]
    a: Float[np.ndarray, "K"]
    b: Float[np.ndarray, "K"]
    cost: Float[np.ndarray, "K"]
    cost_exponent: Float[np.ndarray, "K"]

    def loss(
        self, parameters: Float[np.ndarray, "runs"], tokens: Float[np.ndarray, "runs"]
    ) -> Float[np.ndarray, "K runs"]:
        """Equation (1)."""
        size = self.size[:, None] * parameters[None] ** -self.a[:, None]
        data = self.data[:, None] * tokens[None] ** -self.b[:, None]
        return self.floor[:, None] + size + data

    @property
    def size_exponent(self) -> Float[np.ndarray, "K"]:
        """The exponent of C in N_opt."""
        return self.b / (self.a + self.b * (1 + self.cost_exponent))

    @property
    def data_exponent(self) -> Float[np.ndarray, "K"]:
        """The exponent of C in D_opt."""
        return 1 - (1 + self.cost_exponent) * self.size_exponent

    def optimum(
        self, flops: Float[np.ndarray, "budgets"]
    ) -> tuple[Float[np.ndarray, "K budgets"], Float[np.ndarray, "K budgets"]]:
        """N_opt of equation (3) and D_opt; NaN where a term of (1) is not there."""
        slope = 1 + self.cost_exponent
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(self.a * self.size) - np.log(self.b * slope * self.data)
            compute = np.log(flops)[None] - np.log(self.cost)[:, None]
            whole = (self.a + self.b * slope)[:, None]
            parameters = (ratio[:, None] + self.b[:, None] * compute) / whole
            parameters = np.where(np.isfinite(parameters), parameters, np.nan)
        tokens = compute - slope[:, None] * parameters
        return np.exp(parameters), np.exp(tokens)


def bootstrap(
    budget: Int[np.ndarray, "runs"], *, resamples: int, seed: int = 0
) -> Weights:
    """Weights of resamples: of m runs of a budget, m - 1 are drawn with replacement."""
    random = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(budget)))
    for group in np.unique(budget):
        members = np.flatnonzero(budget == group)
        m = len(members)
        draws = random.multinomial(max(1, m - 1), np.full(m, 1 / m), size=resamples)
        weights[:, members] = draws * (m / max(1, m - 1))
    return weights


def fit(runs: Runs, weights: Weights | None = None) -> Law:
    """The law of every set of weights; of the runs as they are without any.

    Raises:
      ValueError: fewer runs than the five numbers of equation (1).
    """
    if len(runs) < 5:
        raise ValueError(f"{len(runs)} runs for a law of 5 numbers; give 9 or more")
    ones = np.ones((1, len(runs)))
    first, start = _search(runs, ones, limit=np.inf)
    spread = np.median(np.abs(_residuals(runs, first)[0])) / 0.6745
    limit = max(1.345 * spread, 1e-9)  # 95 % of the efficiency of least squares
    robust, start = _search(runs, ones, limit=limit, start=start)
    if weights is None:
        return robust
    return _search(runs, weights, limit=limit, start=start)[0]


def relative_residuals(runs: Runs, law: Law) -> Float[np.ndarray, "K runs"]:
    """(loss - L) / L of every run under every law."""
    return runs.loss / law.loss(runs.parameters, runs.tokens) - 1


def parabolas(runs: Runs, weights: Weights) -> Float[np.ndarray, "K budgets"]:
    """N_opt of every budget by a parabola; NaN where it opens downward."""
    groups = np.unique(runs.budget)
    found = np.full((len(weights), len(groups)), np.nan)
    for column, group in enumerate(groups):
        chosen = runs.budget == group
        x = np.log(runs.parameters[chosen])
        middle, w = x.mean(), weights[:, chosen]
        features = np.stack([np.ones_like(x), x - middle, (x - middle) ** 2], -1)
        solution = _normal(features[None], runs.loss[chosen], w=w)
        with np.errstate(divide="ignore", invalid="ignore"):
            least = middle - solution[:, 1] / (2 * solution[:, 2])
        opens = (solution[:, 2] > 1e-9) & (np.abs(least - middle) < np.log(100))
        found[opens, column] = np.exp(least[opens])
    return found


def power_exponent(
    x: Float[np.ndarray, "budgets"], y: Float[np.ndarray, "K budgets"]
) -> Float[np.ndarray, "K"]:
    """The slope of log y over log x, of what is finite; NaN with fewer than two."""
    u, v = np.log(x)[None], np.log(y)
    there = np.isfinite(v)
    count = np.maximum(there.sum(1, keepdims=True), 1)
    u = np.where(there, u, 0.0)
    v = np.where(there, v, 0.0)
    u = np.where(there, u - u.sum(1, keepdims=True) / count, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (u * v).sum(1) / (u * u).sum(1)
    return np.where(there.sum(1) >= 2, slope, np.nan)


def _cost(runs: Runs, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """k and q by a weighted line of log(C / (N D)) over log N."""
    x = np.log(runs.parameters)
    middle = x.mean()
    features = np.stack([np.ones_like(x), x - middle], -1)
    target = np.log(runs.flops / (runs.parameters * runs.tokens))
    solution = _normal(features[None], target, w=weights)
    return np.exp(solution[:, 0] - solution[:, 1] * middle), solution[:, 1]


def _normal(features: np.ndarray, target: np.ndarray, *, w: np.ndarray) -> np.ndarray:
    """Weighted least squares for features `[1 or K, n, p]`, weights `[K, n]`."""
    weighted = features * w[..., None]
    gram = np.einsum(
        "knp,knq->kpq", weighted, np.broadcast_to(features, weighted.shape)
    )
    size = np.trace(gram, axis1=1, axis2=2)[:, None, None]
    gram = gram + _RIDGE * np.maximum(size, 1e-30) * np.eye(features.shape[-1])
    return np.linalg.solve(gram, np.einsum("knp,n->kp", weighted, target)[..., None])[
        ..., 0
    ]


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """Runs about their own means: x = log N and y = log D less those, and 1 / loss."""

    x: np.ndarray
    y: np.ndarray
    inverse: np.ndarray
    middles: tuple[float, float]

    @classmethod
    def of(cls, runs: Runs) -> "_Scaled":
        x, y = np.log(runs.parameters), np.log(runs.tokens)
        middles = (float(x.mean()), float(y.mean()))
        return cls(x - middles[0], y - middles[1], 1 / runs.loss, middles)

    def features(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """What E, A and B are multiplied with, relative to the loss, `[K, n, 3]`."""
        size = np.exp(-a[:, None] * self.x)
        data = np.exp(-b[:, None] * self.y)
        return np.stack([np.ones_like(size), size, data], -1) * self.inverse[:, None]


def _huber_weight(residual: np.ndarray, limit: float) -> np.ndarray:
    return np.minimum(1.0, limit / np.maximum(np.abs(residual), 1e-300))


def _objective(residual: np.ndarray, w: np.ndarray, *, limit: float) -> np.ndarray:
    """Equation (2)."""
    size = np.abs(residual)
    quadratic = 0.5 * np.square(residual)
    if np.isfinite(limit):
        quadratic = np.where(size <= limit, quadratic, limit * (size - limit / 2))
    return (w * quadratic).sum(1)


def _linear(features: np.ndarray, *, w: np.ndarray) -> np.ndarray:
    """E, A and B, none negative, of the least squares of 1 - features @ (E, A, B).

    Where one would be negative, the best of the solutions that leave one out.
    """
    target = np.ones(features.shape[1])
    solution = _normal(features, target, w=w)
    wrong = np.flatnonzero((solution < 0).any(1))
    if len(wrong):
        best = np.full(len(wrong), np.inf)
        chosen = np.maximum(solution[wrong], 0.0)
        for left_out in range(3):
            kept = features[wrong].copy()
            kept[..., left_out] = 0.0
            few = _normal(kept, target, w=w[wrong])
            few = np.where(np.arange(3) == left_out, 0.0, few)
            rest = 1 - np.einsum("knp,kp->kn", kept, few)
            error = np.where((few < 0).any(1), np.inf, (w[wrong] * rest**2).sum(1))
            chosen = np.where((error < best)[:, None], few, chosen)
            best = np.minimum(best, error)
        solution[wrong] = chosen
    return solution


def _grid_start(scaled: _Scaled, *, limit: float) -> np.ndarray:
    """The best (log a, log b) of a grid for all runs alike, `[1, 2]`."""
    axis = np.log(np.geomspace(EXPONENTS[0], EXPONENTS[1], _GRID))
    pairs = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    weights = np.ones((len(pairs), len(scaled.x)))
    _, _, cost = _evaluate(scaled, pairs, w=weights, weights=weights, limit=limit)
    return pairs[[cost.argmin()]]


def _search(
    runs: Runs, weights: Weights, *, limit: float, start: np.ndarray | None = None
) -> tuple[Law, np.ndarray]:
    """The law of every set of weights, and its (log a, log b), `[K, 2]`.

    Gauss-Newton on the projected residual, damped, from `start` or the best of a grid.
    With the linear numbers solved for, the residual changes with a as the part of its
    derivative that no change of E, A and B makes up for (Kaufman, 1975).
    """
    scaled = _Scaled.of(runs)
    start = _grid_start(scaled, limit=limit) if start is None else start
    at = np.repeat(start, len(weights), axis=0)
    linear, residual, cost = _evaluate(
        scaled, at, w=weights, weights=weights, limit=limit
    )
    damping = np.full(len(at), 1e-4)
    moving = np.arange(len(at))
    for _ in range(_ITERATIONS):
        w = weights[moving] * _huber_weight(residual[moving], limit)
        step = _step(
            scaled,
            at[moving],
            linear=linear[moving],
            residual=residual[moving],
            w=w,
            damping=damping[moving],
        )
        proposed = np.clip(at[moving] + np.clip(step, -0.7, 0.7), *np.log(EXPONENTS))
        found = _evaluate(scaled, proposed, w=w, weights=weights[moving], limit=limit)
        better = found[2] < cost[moving]
        moved = np.abs(proposed - at[moving]).max(1)
        chosen = moving[better]
        at[chosen] = proposed[better]
        for known, new in zip((linear, residual, cost), found, strict=True):
            known[chosen] = new[better]
        damping[moving] *= np.where(better, 0.2, 10.0)
        ended = np.where(better, moved < _TOLERANCE, damping[moving] > 1e4)
        moving = moving[~ended]
        if not len(moving):
            break
    a, b = np.exp(at).T
    k, q = _cost(runs, weights)
    size = linear[:, 1] * np.exp(a * scaled.middles[0])
    data = linear[:, 2] * np.exp(b * scaled.middles[1])
    return Law(linear[:, 0], size, data, a, b, k, q), at


def _evaluate(
    scaled: _Scaled, at: np.ndarray, *, w: np.ndarray, weights: Weights, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E, A and B at (log a, log b), least squares with `w`; residuals; equation (2)."""
    features = scaled.features(*np.exp(at).T)
    linear = _linear(features, w=w)
    residual = 1 - np.einsum("knp,kp->kn", features, linear)
    return linear, residual, _objective(residual, weights, limit=limit)


def _step(
    scaled: _Scaled,
    at: np.ndarray,
    *,
    linear: np.ndarray,
    residual: np.ndarray,
    w: np.ndarray,
    damping: np.ndarray,
) -> np.ndarray:
    """A damped Gauss-Newton step of (log a, log b), `[K, 2]`."""
    a, b = np.exp(at).T
    features = scaled.features(a, b)
    slopes = -np.stack(
        [
            a[:, None] * scaled.x * features[..., 1] * linear[:, 1, None],
            b[:, None] * scaled.y * features[..., 2] * linear[:, 2, None],
        ],
        -1,
    )  # [K, n, 2], of the model
    weighted = features * w[..., None]
    gram = np.einsum("knp,knq->kpq", weighted, features)
    size = np.trace(gram, axis1=1, axis2=2)[:, None, None]
    gram += _RIDGE * size * np.eye(3)
    along = np.linalg.solve(gram, np.einsum("knp,knj->kpj", weighted, slopes))
    across = slopes - np.einsum("knp,kpj->knj", features, along)
    normal = np.einsum("kni,knj->kij", across * w[..., None], across)
    scale = np.trace(normal, axis1=1, axis2=2)[:, None, None]
    normal += (damping[:, None, None] * scale + 1e-30) * np.eye(2)
    force = np.einsum("kni,kn->ki", across * w[..., None], residual)
    return np.linalg.solve(normal, force[..., None])[..., 0]


def _residuals(runs: Runs, law: Law) -> np.ndarray:
    return 1 - law.loss(runs.parameters, runs.tokens) / runs.loss
