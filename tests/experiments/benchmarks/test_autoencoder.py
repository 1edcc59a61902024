"""The parts of the autoencoder's benchmarks that need no PyTorch."""

import pathlib

import pytest

from experiments.benchmarks import autoencoder as benchmark
from experiments.benchmarks import autoencoder_quality as quality
from experiments.benchmarks import measurement
from soraflax import flops
from soraflax.nn import autoencoder
from soraflax.weights.wan import autoencoder as wan_autoencoder


def test_wan_s_form_has_as_many_parameters_and_the_same_ratios():
    form = quality.wan_of_as_many_parameters()
    ours = autoencoder.VARIANTS["small"]
    found, wanted = map(flops.autoencoder_parameters, (form, ours))
    assert abs(found - wanted) < 0.05 * wanted
    assert wan_autoencoder.family_of(form) == "wan2.1"
    assert form.video_shape(3, 2, 2) == ours.video_shape(3, 2, 2)
    assert form.latent_channels == ours.latent_channels


def test_a_step_costs_what_its_crops_cost():
    sizes = autoencoder.VARIANTS["tiny"]
    values = quality.values_of(sizes, [pathlib.Path("a"), pathlib.Path("b")], rate=1e-3)
    assert values.data.also == ("b",) and values.optimizer.learning_rate == 1e-3
    values.data.crops.shapes, values.data.crops.weights = ((1, 8, 8), (5, 8, 8)), (3, 1)
    image, clip = (
        flops.training(flops.autoencoder_flops(sizes, video=shape))
        for shape in values.data.crops.shapes
    )
    step = quality.flops_of_a_step(values, sizes)
    assert step == pytest.approx(values.batch * (0.75 * image + 0.25 * clip))


def test_streaming_counts_its_frames(monkeypatch):
    monkeypatch.setattr(benchmark, "MEMORY_SIDE", 16)
    assert benchmark.stream(5) > 1.0
    with pytest.raises(ValueError, match="6 frames: use 5 or 9"):
        benchmark.stream(6)


def test_times_are_the_least_of_every_call():
    calls = []
    both = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = measurement.least_seconds(both, repeats=2)
    assert calls == list("ababab") and found.keys() == both.keys()


def test_quality_refuses_a_folder_that_exists(tmp_path, capsys):
    assert quality.main(["--output", str(tmp_path)]) == 2
    assert "exists; name a new folder" in capsys.readouterr().err
