"""How fast a sampler's error falls with the number of its steps.

An error C n^-p of n steps is a line of slope -p in log-log coordinates:

    log e = log C - p log n                                                     (1)
"""

from collections.abc import Sequence

import numpy as np


def convergence_order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """p of equation (1), by least squares.

    Args:
      steps: numbers of steps, two or more different ones.
      errors: the sampler's error with each of them, above 0.

    Raises:
      ValueError: too few steps, or an error that is not above 0.
    """
    if len(steps) != len(errors) or len(set(steps)) < 2:
        raise ValueError(
            f"{len(steps)} numbers of steps and {len(errors)} errors: use as many of "
            "each, two different numbers or more"
        )
    if not (np.isfinite(errors).all() and np.min(errors) > 0):
        raise ValueError(f"errors {list(errors)}: an order needs finite ones above 0")
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    return -float(slope)
