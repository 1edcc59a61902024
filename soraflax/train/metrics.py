"""Metrics of a run: in the terminal, as JSON lines, in TensorBoard.

    metrics.jsonl    what follows from the configuration and its seed: two runs of one
                     seed on one machine write the same bytes
    rates.jsonl      what the clock said of the same steps (`TIMED`)

`read` gives both as one.

Model FLOP/s utilisation (arXiv:2204.02311, appendix B) is the floating point
operations the mathematics needs, nothing recomputed counted twice, over what the
devices could do in the same time:

    utilisation = model FLOPs per step / (seconds per step * peak FLOP/s)     (1)

A device is handed a step while it computes the one before, so that the time of a call
is none of a step's: `Meter` times spans that begin and end with nothing under way.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import tensorboardX
import tqdm

from soraflax.train import wandb_board

# Dense bfloat16 FLOP/s of one device, from the makers' data sheets. The first name
# that occurs in `device_kind` counts, so longer names come before their prefixes.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 1153.5e12,  # one of the two devices that a chip is
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Tokens and FLOPs of one batch.

    Attributes:
      tokens: useful tokens, without padding.
      capacity: useful tokens and padding.
      flops: model FLOPs of a training step, forward and backward.
    """

    tokens: float
    capacity: float
    flops: float


@dataclasses.dataclass(frozen=True)
class PeakFlops:
    """Peak FLOP/s of all devices of a run.

    Attributes:
      flops: FLOP/s.
      source: data sheet or measurement that says so.
    """

    flops: float
    source: str


def device_peak() -> PeakFlops:
    """Peak FLOP/s of all devices: their data sheet, or a measured matmul."""
    kind = jax.devices()[0].device_kind
    for name, flops in PEAK_FLOPS.items():
        if name in kind:
            total = flops * jax.device_count()
            return PeakFlops(
                total, f"data sheet, bfloat16, {jax.device_count()} x {kind}"
            )
    # Fake CPU devices share the same cores: one matmul fills them all.
    measured = {d: _measured_flops(d) for d in ("float32", "bfloat16")}
    dtype, flops = max(measured.items(), key=lambda item: item[1])
    total = flops * jax.process_count()
    return PeakFlops(total, f"{dtype} matmul of 1024, measured on {kind}")


def _measured_flops(dtype: str, *, size: int = 1024, tries: int = 3) -> float:
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(
        functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    )
    multiply(a, a).block_until_ready()
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        multiply(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class Meter:
    """Sums the costs of steps and the time of the spans they took; gives rates.

    meter.start()         nothing is under way; the span begins
    meter.add(batch)      a step of the span, perhaps still under way
    meter.stop()          all its steps are done; the span ends
    meter.add(batch)      outside of spans: counted, not timed, such as to compile
    meter.stall(seconds)  in a span: the devices had nothing to do but to wait for data

    Attributes:
      clock: seconds.
    """

    def __init__(
        self,
        step_cost: Callable[[Any], StepCost],
        *,
        peak: PeakFlops,
        batch_shards: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Start empty, outside of spans.

        Args:
          step_cost: cost of one process's rows of a batch.
          peak: peak FLOP/s of the devices.
          batch_shards: groups of processes with rows of their own; the costs of one
            stand for those of all.
          clock: seconds.
        """
        self._step_cost = step_cost
        self._peak = peak
        self._batch_shards = batch_shards
        self.clock = clock
        self._costs: list[StepCost] = []
        self._timed: list[StepCost] = []
        self._seconds = 0.0
        self._began: float | None = None
        self._in_span = 0
        self._stalled = 0.0

    def start(self) -> None:
        """A span begins, if none has."""
        if self._began is None:
            self._began, self._in_span = self.clock(), 0

    def stop(self) -> None:
        """The span ends: what was added in it is done. One without steps is none."""
        if self._began is not None and self._in_span:
            self._seconds += self.clock() - self._began
        self._began = None

    def add(self, batch: Any) -> None:
        """Count a step, and time it where a span has begun."""
        cost = self._step_cost(batch)
        self._costs.append(cost)
        if self._began is not None:
            self._timed.append(cost)
            self._in_span += 1

    def stall(self, seconds: float) -> None:
        """Count time that devices waited for data, where a span has begun."""
        if self._began is not None:
            self._stalled += seconds

    def clear(self) -> None:
        """Forget all but whether a span has begun."""
        self._costs.clear()
        self._timed.clear()
        self._seconds = self._stalled = 0.0

    def summary(self) -> dict[str, float]:
        """Since the last `clear`: packing, costs, and rates where a step was timed.

        Call it outside of spans.
        """
        tokens = sum(cost.tokens for cost in self._costs)
        capacity = sum(cost.capacity for cost in self._costs)
        shards, flops = self._batch_shards, sum(cost.flops for cost in self._costs)
        packing = {
            "packing_efficiency": tokens / capacity,
            "tokens_per_step": tokens * shards / len(self._costs),
            "flops_per_step": flops * shards / len(self._costs),
        }
        if not self._timed:
            return packing
        tokens = sum(cost.tokens for cost in self._timed) * self._batch_shards
        flops = sum(cost.flops for cost in self._timed) * self._batch_shards
        return packing | {
            "seconds_per_step": self._seconds / len(self._timed),
            "useful_tokens_per_second": tokens / self._seconds,
            "model_flops_utilisation": flops / (self._seconds * self._peak.flops),
            "input_stall": self._stalled / self._seconds,
        }


FILE, RATES = "metrics.jsonl", "rates.jsonl"
# Metrics of the clock, by the name of each.
TIMED = (
    "seconds_per_step",
    "useful_tokens_per_second",
    "model_flops_utilisation",
    "input_stall",
    "input_seconds",
    "save_seconds",
)
# Metrics of the progress bar, by shorter names.
_BAR_NAMES = {
    "loss": "loss",
    "gradient_norm": "grad",
    "useful_tokens_per_second": "tok/s",
    "packing_efficiency": "packed",
    "model_flops_utilisation": "MFU",
}


class Writer:
    """The metrics of a run as JSON lines, TensorBoard and a progress bar.

    A line with `tokens_per_step` and `flops_per_step` gets the sums since step 0 beside
    them, `training_tokens` and `training_flops`; steps of which a stop left no line
    count as those of the next line. Only the first process writes. Where standard error
    is no terminal, a line at each of `write` takes the place of the bar.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        start: int,
        steps: int,
        name: str,
        parameters: int = 0,
        board: wandb_board.Board | None = None,
    ) -> None:
        """Open the record at step `start` of `steps`; later lines are cut off.

        Args:
          workdir: directory of the run.
          start: number of steps done.
          steps: number of steps of the run.
          name: label of the progress bar.
          parameters: number of trained parameters, part of every line with costs.
          board: a further place for scalars, of the first process.
        """
        self._parameters, self._web = parameters, board
        self._totals = {"step": 0.0, "training_tokens": 0.0, "training_flops": 0.0}
        self._active = jax.process_index() == 0
        paths = [pathlib.Path(workdir) / name for name in (FILE, RATES)]
        if self._active:
            for path in paths:
                _truncate(path, after=start)
            for line in read(workdir) if paths[0].exists() else ():
                if "training_flops" in line:
                    self._totals = {name: line[name] for name in self._totals}
            self._file, self._rates = (p.open("a", buffering=1) for p in paths)
            self._board = tensorboardX.SummaryWriter(
                str(pathlib.Path(workdir) / "tensorboard"), purge_step=start + 1
            )
        self._label, self._steps = name, steps
        self._lines = self._active and not sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=steps,
            initial=start,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            disable=not self._active or self._lines,
        )

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def note(self, line: str) -> None:
        """A line above the progress bar."""
        if self._active:
            self._bar.write(line)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Record scalars of `step`."""
        if not self._active:
            return
        scalars = {name: float(value) for name, value in values.items()}
        if "flops_per_step" in scalars:
            scalars |= self._add_costs(step, scalars)
        timed = {name: scalars[name] for name in TIMED if name in scalars}
        untimed = {name: x for name, x in scalars.items() if name not in timed}
        # The clock's first: a line of metrics that a kill left has its rates.
        if timed:
            self._rates.write(json.dumps({"step": step, **timed}) + "\n")
        self._file.write(json.dumps({"step": step, **untimed}) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)
        if self._web is not None:
            self._web.write(step, scalars)
        postfix = {
            short: f"{scalars[name]:.3g}"
            for name, short in _BAR_NAMES.items()
            if name in scalars
        }
        if postfix and self._lines:
            shown = ", ".join(f"{name} {value}" for name, value in postfix.items())
            line = f"{self._label}: step {step} of {self._steps}, {shown}"
            print(line, file=sys.stderr, flush=True)
        elif postfix:
            self._bar.set_postfix(postfix, refresh=False)

    def _add_costs(self, step: int, line: Mapping[str, float]) -> dict[str, float]:
        steps, totals = step - self._totals["step"], self._totals
        for name in ("tokens", "flops"):
            totals[f"training_{name}"] += steps * line[f"{name}_per_step"]
        totals["step"] = step
        sums = {name: value for name, value in totals.items() if name != "step"}
        return sums | ({"parameters": self._parameters} if self._parameters else {})

    def close(self) -> None:
        self._bar.close()
        if self._active:
            self._file.close()
            self._rates.close()
            self._board.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def read(workdir: str | pathlib.Path) -> list[dict[str, float]]:
    """The lines of a run's `metrics.jsonl`, with its rates.

    Raises:
      FileNotFoundError: there are no metrics.
    """
    rates = pathlib.Path(workdir) / RATES
    found = _lines(rates) if rates.exists() else []
    timed = {line.get("step"): line for line in found if isinstance(line, dict)}
    # Rates are of training, whose line comes before that of an evaluation.
    return [
        line | timed.pop(line.get("step"), {}) if isinstance(line, dict) else line
        for line in _lines(pathlib.Path(workdir) / FILE)
    ]


def _lines(path: pathlib.Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _truncate(path: pathlib.Path, *, after: int) -> None:
    """Drop the lines of steps beyond `after`: a resumed run writes them again."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        # A run that was killed may have left half a line.
        complete = [line for line in lines if line.endswith("\n")]
        path.write_text(
            "".join(line for line in complete if json.loads(line)["step"] <= after)
        )
