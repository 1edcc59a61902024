"""The script for an accelerator at hand, at tiny size on a CPU."""

import dataclasses
import json

import pytest

from experiments.benchmarks import accelerator
from soraflax.ops import packing
from soraflax.ops.attention import api, splash

TINY = accelerator.SIZES["tiny"]


def test_the_full_model_has_about_a_billion_parameters():
    from soraflax import flops

    found = flops.transformer_parameters(accelerator.SIZES["full"].model)
    assert 0.9e9 < found < 1.1e9


def test_kernels_match_the_reference():
    *errors, dense = accelerator.kernels(TINY)
    assert [line["dtype"] for line in errors] == ["bfloat16", "float32"]
    assert all(line["error"] > 0 and line["ok"] for line in errors)
    assert dense["blocks / reference"] > 0
    assert dense["attention"] == ["blocks"]


def test_an_error_beyond_the_bar_fails(monkeypatch):
    monkeypatch.setattr(accelerator.kernel_check, "relative_error", lambda *_: 0.1)
    first = next(accelerator.kernels(TINY))
    assert first["error"] == 0.1 and not first["ok"]


def test_a_packed_step_is_timed():
    (line,) = accelerator.mfu(TINY)
    assert line["tokens"] == 512 and line["segments"] == 2
    assert line["tokens_per_second"] == pytest.approx(512 / line["seconds"], abs=1)
    assert line["ok"] and line["target"] is None  # of a CPU no peak is known


def test_a_step_says_which_attention_ran(monkeypatch):
    """On a CPU there is no kernel; one that does not take the sizes is not used."""
    (line,) = accelerator.mfu(TINY)
    assert line["attention"] == ["blocks"] and line["fallback"]
    assert line["text_attention"] == ["blocks"]
    heads_of_64 = dataclasses.replace(TINY.model, width=128, heads=2)
    monkeypatch.setattr(api, "PLATFORM_KERNELS", {"cpu": ("splash", splash)})
    matches = {"kernel": True}
    monkeypatch.setattr(
        api.kernel_check, "matches_reference", lambda *_, **__: matches["kernel"]
    )
    assert _ran(heads_of_64) == (["splash"], False)
    assert _ran(TINY.model) == (["blocks"], True)  # heads of 8
    matches["kernel"] = False
    assert _ran(heads_of_64) == (["blocks"], True)


def _ran(model):
    segment = accelerator.packed_step.segment(512, model)
    shape = packing.RowShape(512, accelerator.packed_step.TEXT, 1)
    packed = packing.assemble([[segment]], shape)
    found = accelerator.train_step.attention_of(model, packed)
    return found["attention"], found["fallback"]


def test_a_step_below_the_bar_fails(monkeypatch):
    class Slow:
        def __init__(self, *_):
            pass

        def seconds(self, *_):
            return 3600.0

    monkeypatch.setattr(accelerator.packed_step, "Trainer", Slow)
    monkeypatch.setattr(
        accelerator.train_step, "utilisation", lambda rate, **_: {"mfu": 0.1}
    )
    (line,) = accelerator.mfu(TINY)
    assert (line["mfu"], line["target"], line["ok"]) == (0.1, 0.5, False)


def test_frames_a_second_both_ways():
    (line,) = accelerator.frames(TINY)
    assert line["video"] == (5, 16, 16)
    assert all(line["frames_per_second"][way] > 0 for way in ("encode", "decode"))


def test_a_checkpoint_is_saved_verified_and_restored():
    (line,) = accelerator.checkpoints(TINY)
    # Parameters, two moments and their average, and the counts of steps.
    assert line["gigabytes"] == round(4 * 2 * 2**10 * 4 / 1e9, 3)
    assert all(line["seconds"][name] > 0 for name in ("save", "verify", "restore"))
    assert 0 < line["blocking"] <= 1


def test_a_part_that_fails_is_a_line_and_the_time_ends(monkeypatch, capsys):
    def no_memory(sizes):
        yield {"figure": "first"}
        raise RuntimeError("RESOURCE_EXHAUSTED:\nout of memory")

    now = iter((0.0, 1.0, 2.0, 601.0, 602.0))
    parts = dict.fromkeys(accelerator.PARTS, no_memory)
    monkeypatch.setattr(accelerator, "PARTS", parts)
    found = list(
        accelerator.lines(
            ["kernels", "mfu", "peers"], TINY, minutes=10, clock=lambda: next(now)
        )
    )
    fault = {"error": "RuntimeError: RESOURCE_EXHAUSTED: out of memory", "ok": False}
    assert found == [
        {"figure": "first"},
        {"figure": "kernels"} | fault,
        {"figure": "first"},
        {"figure": "mfu"} | fault,
        {"figure": "peers", "left_out": "10 minutes are over"},
    ]
    assert accelerator.main(["--size", "tiny", "--only", "mfu"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["size"] == "tiny" and "machine" in first and not second["ok"]
