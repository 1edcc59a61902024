"""Schedulers of Wan's pipelines in diffusers: which noise levels a sampler visits.

Two are read, as far as they compute what is computed here: `UniPCMultistepScheduler` on
flow levels, that of all published folders, and `FlowMatchEulerDiscreteScheduler`. Every
field that would change the levels or the steps is refused by its name.
"""

import math
from collections.abc import Mapping
from typing import Any

from soraflax.diffusion import schedule
from soraflax.pretrained import io as model_io

UNIPC, EULER = "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"
SAMPLERS = {UNIPC: "unipc", EULER: "euler"}
# Of each class the field with the shift, and its default.
SHIFTS = {UNIPC: ("flow_shift", 1.0), EULER: ("shift", 1.0)}
# What fields must be, and what they are where they are missing.
_COMMON: dict[str, tuple[Any, Any]] = {
    "use_dynamic_shifting": (False, False),
    "shift_terminal": (None, None),
    "use_karras_sigmas": (False, False),
    "use_exponential_sigmas": (False, False),
    "use_beta_sigmas": (False, False),
}
_FIELDS: dict[str, dict[str, tuple[Any, Any]]] = {
    UNIPC: _COMMON
    | {
        "use_flow_sigmas": (True, False),
        "prediction_type": ("flow_prediction", "epsilon"),
        "solver_order": (2, 2),
        "solver_type": ("bh2", "bh2"),
        "predict_x0": (True, True),
        "lower_order_final": (True, True),
        "disable_corrector": ([], []),
        "solver_p": (None, None),
        "thresholding": (False, False),
        "final_sigmas_type": ("zero", "zero"),
    },
    EULER: _COMMON
    | {"invert_sigmas": (False, False), "stochastic_sampling": (False,) * 2},
}


def parse_config(
    values: Mapping[str, Any], *, origin: Any = "scheduler_config.json"
) -> tuple[str, schedule.TokenCountShift, schedule.TrainedLevels]:
    """The sampler's name, the shift of its levels, and the levels of training.

    Raises:
      ModelError: of another class, or a field that would compute something else.
    """
    name = values.get("_class_name")
    if name not in SAMPLERS:
        known = " or ".join(SAMPLERS)
        raise model_io.ModelError(f"{origin}: of class {name}, not {known}")
    for field, (needed, default) in _FIELDS[name].items():
        value = values.get(field, default)
        if value != needed:
            raise model_io.ModelError(
                f"{origin}: {field} is {value!r}; what is computed here is {needed!r}"
            )
    field, default = SHIFTS[name]
    shift, count = values.get(field, default), values.get("num_train_timesteps", 1000)
    if not isinstance(shift, int | float) or not 0 < shift < math.inf:
        raise model_io.ModelError(f"{origin}: {field} is {shift!r}: use one above 0")
    spacing = "open" if name == UNIPC else "closed"
    try:
        levels = schedule.TrainedLevels(count, spacing, whole=name == UNIPC)
    except (TypeError, ValueError) as error:
        raise model_io.ModelError(f"{origin}: num_train_timesteps: {error}") from None
    shift_of_all = schedule.TokenCountShift(float(shift), exponent=0.0)
    return SAMPLERS[name], shift_of_all, levels


def format_config(
    shift: schedule.TokenCountShift, levels: schedule.TrainedLevels
) -> dict[str, Any]:
    """The inverse of `parse_config`, of the scheduler with such levels."""
    name = UNIPC if levels.spacing == "open" else EULER
    fields = {field: needed for field, (needed, _) in _FIELDS[name].items()}
    fields |= {"num_train_timesteps": levels.count, SHIFTS[name][0]: shift.base}
    return {"_class_name": name, **fields}
