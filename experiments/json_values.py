"""Values as JSON that every reader takes: what is not finite is null.

Python writes `NaN` and `Infinity`, which are no JSON and which strict readers refuse.
"""

import json
import math
import pathlib
from typing import Any


def plain(values: Any) -> Any:
    """Dictionaries, lists and tuples with null for floats that are not finite."""
    if isinstance(values, dict):
        return {key: plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def write(path: pathlib.Path, values: Any) -> None:
    """Write a file of `plain` values."""
    text = json.dumps(plain(values), indent=2, allow_nan=False)
    path.write_text(text + "\n")
