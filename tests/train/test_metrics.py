"""The meter: the right rates of runs of any length, by a clock of its own."""

import contextlib
import dataclasses
import itertools
import types
from typing import Any

import jax
import numpy as np
import pytest

from soraflax.train import loop, metrics

SECONDS, DISPATCH, COMPILE, SAVE = 2.0, 0.01, 30.0, 7.0
COST = metrics.StepCost(tokens=90.0, capacity=120.0, flops=1e9)


@dataclasses.dataclass
class Device:
    """Takes `SECONDS` a step, one after the other, while whoever asked goes on."""

    now: float = 0.0
    busy_until: float = 0.0

    def wait(self, until: float) -> None:
        self.now = max(self.now, until)

    def step(self, *, compile: bool) -> "Value":
        self.now += DISPATCH + COMPILE * compile
        self.busy_until = max(self.now, self.busy_until) + SECONDS
        return Value(self, self.busy_until)


@dataclasses.dataclass
class Value:
    """A number that is there once the device is so far."""

    device: Device
    ready: float

    def block_until_ready(self) -> "Value":
        self.device.wait(self.ready)
        return self

    def is_ready(self) -> bool:
        return self.device.now >= self.ready

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        self.block_until_ready()
        return np.zeros(())


class Data:
    """Batches of given sizes, each of which takes so many seconds to read."""

    def __init__(self, device, shapes, *, seconds):
        self.device, self.seconds = device, seconds
        self.batches = ({"x": np.zeros(n)} for n in itertools.cycle(shapes))

    def __next__(self):
        self.device.now += self.seconds
        batch = next(self.batches)
        return batch, batch

    def get_state(self):
        return None


def train(*, steps, shapes=(8,), reading=0.0, **course):
    """The loop, on a device that is simulated; the lines of its record with rates."""
    device, compiled, lines = Device(), set(), []

    def train_step(current, batch, key):
        value = device.step(compile=batch["x"].shape not in compiled)
        compiled.add(batch["x"].shape)
        return types.SimpleNamespace(step=current.step + 1, ema=None), {
            "skipped": value
        }

    def spend(*_: Any, **__: Any) -> dict[str, float]:
        device.wait(device.busy_until)
        device.now += SAVE
        return {}

    peak = metrics.PeakFlops(1e9, "simulated")
    meter = metrics.Meter(
        lambda _: COST, peak=peak, batch_shards=1, clock=lambda: device.now
    )
    writer = types.SimpleNamespace(
        write=lambda step, values: lines.append((step, values)), advance=lambda: None
    )
    run: Any = types.SimpleNamespace(
        job=types.SimpleNamespace(key=None, evaluate=spend, identity=None, epochs=None),
        data=Data(device, shapes, seconds=reading),
        config=loop.TrainConfig(steps=steps, **course),
        checkpointer=types.SimpleNamespace(save=spend, wait=lambda: None),
        ledger=types.SimpleNamespace(
            step=0,
            phase=lambda _: contextlib.nullcontext(),
            write=lambda _: None,
            window=lambda _: {},
        ),
        profiler=types.SimpleNamespace(
            finish=lambda *_, **__: None, step=lambda _: contextlib.nullcontext()
        ),
        incidents=types.SimpleNamespace(examine=lambda *_, **__: 0.0),
        folder=types.SimpleNamespace(copy=lambda: None),
        writer=writer,
        meter=meter,
    )
    start: Any = types.SimpleNamespace(step=0, ema=None)
    step: Any = train_step
    loop.train(start, step, run=run)
    return [(step, values) for step, values in lines if values]


@pytest.mark.parametrize("log_every", [1, 2, 3, 10])
@pytest.mark.parametrize("steps", [2, 3, 5, 20])
def test_a_step_takes_as_long_as_it_takes(steps, log_every):
    """However few there are, and however often a line is written."""
    lines = train(steps=steps, log_every=log_every)
    rates = [values for _, values in lines if "seconds_per_step" in values]
    assert rates
    for values in rates:
        assert values["seconds_per_step"] == pytest.approx(SECONDS, rel=0.01)
        assert values["model_flops_utilisation"] == pytest.approx(0.5, rel=0.01)
        assert values["useful_tokens_per_second"] == pytest.approx(45.0, rel=0.01)


def test_a_run_of_one_step_has_no_rates():
    ((_, values),) = train(steps=1, log_every=1)
    assert values["packing_efficiency"] == 0.75
    assert "model_flops_utilisation" not in values


@pytest.mark.parametrize(
    "course",
    [
        {"evaluate_every": 3, "checkpoint_every": 2, "log_every": 5},
        {"shapes": (8, 4, 8, 4, 2), "log_every": 4},
    ],
)
def test_neither_compiling_nor_what_comes_between_steps_counts(course):
    rates = [v for _, v in train(steps=20, **course) if "seconds_per_step" in v]
    assert len(rates) == 20 // course["log_every"]
    for values in rates:
        assert values["seconds_per_step"] == pytest.approx(SECONDS, rel=0.01)


@pytest.mark.parametrize("reading", [0.0, 1.9, 3.0, 6.0])
def test_only_a_wait_that_outlasts_the_step_before_is_a_stall(reading):
    """A step is under way while the next batch is read, but for the first of a span."""
    lines = train(steps=40, log_every=20, reading=reading)
    *_, values = (values for _, values in lines if "input_stall" in values)
    seconds = 20 * values["seconds_per_step"]
    stalls = 20 if reading > SECONDS else 1
    assert values["input_stall"] == pytest.approx(stalls * reading / seconds, abs=0.02)


def test_a_span_without_steps_counts_nothing():
    now = iter(range(0, 100, 10))
    meter = metrics.Meter(
        lambda _: COST,
        peak=metrics.PeakFlops(1e9, "simulated"),
        batch_shards=4,
        clock=lambda: float(next(now)),
    )
    meter.start()
    meter.stop()
    meter.add(None)
    untimed = {
        "packing_efficiency": 0.75,
        "tokens_per_step": 360.0,
        "flops_per_step": 4e9,
    }
    assert meter.summary() == untimed
    meter.start()
    meter.start()
    meter.add(None)
    meter.add(None)
    meter.stop()
    found = meter.summary()
    assert found["seconds_per_step"] == 5.0
    assert found["useful_tokens_per_second"] == 4 * 90 / 5
    meter.clear()
    meter.add(None)
    assert meter.summary() == untimed


def test_a_record_sums_the_costs_of_all_steps_over_resumes(tmp_path):
    costs = {"tokens_per_step": 10.0, "flops_per_step": 1e6}
    with metrics.Writer(tmp_path, start=0, steps=9, name="x", parameters=7) as writer:
        writer.write(2, costs)
        writer.write(4, costs | {"tokens_per_step": 20.0})
        writer.write(4, {"validation/loss": 0.5})
    with metrics.Writer(tmp_path, start=3, steps=9, name="x", parameters=7) as writer:
        writer.write(6, costs | {"flops_per_step": 2e6})
    first, last = metrics.read(tmp_path)
    assert first == {"step": 2, **costs} | {
        "training_tokens": 20.0,
        "training_flops": 2e6,
        "parameters": 7.0,
    }
    assert last["training_tokens"] == 20 + 4 * 10
    assert last["training_flops"] == 2e6 + 4 * 2e6


def test_the_peak_of_an_unknown_device_is_that_of_its_fastest_products(monkeypatch):
    rates = {"float32": 1e11, "bfloat16": 4e11}
    monkeypatch.setattr(metrics, "_measured_flops", lambda dtype: rates[dtype])
    peak = metrics.device_peak()
    assert peak.flops == 4e11 and peak.source.startswith("bfloat16 matmul of 1024")
    rates["bfloat16"] = 1e10  # as where a processor has no such products
    assert metrics.device_peak().source.startswith("float32 matmul of 1024")


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1153.5e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
    ],
)
def test_the_peak_is_that_of_the_device(monkeypatch, kind, flops):
    device = types.SimpleNamespace(device_kind=kind, platform="tpu")
    monkeypatch.setattr(metrics.jax, "devices", lambda *_: [device])
    assert metrics.device_peak().flops == flops * jax.device_count()
