"""Plans of making a video: the equations by hand, what fits, what is advised."""

import dataclasses

import pytest

from soraflax import flops
from soraflax.cli import main
from soraflax.diffusion import schedule
from soraflax.nn import autoencoder, dit, text_encoder
from soraflax.ops import packing
from soraflax.planning import chips, generation
from soraflax.pretrained import models, sampling_defaults
from tests.generation import tiny

TEXT = text_encoder.VARIANTS["umt5_xxl"]


def sizes(name="wan2_1_t2v_14b", *, codec="wan2_1", item=2):
    """Of a published pipeline, in bfloat16."""
    transformer, vae = dit.VARIANTS[name], autoencoder.VARIANTS[codec]
    z = vae.latent_channels
    video = models.VideoModelConfig(
        transformer=transformer,
        statistics=autoencoder.LatentStatistics((0.0,) * z, (1.0,) * z),
        autoencoder="",
        row=packing.RowShape(32760, 512, 1),
        text_length=512,
        window=21,
        shift=schedule.TokenCountShift(3.0, exponent=0.0),
        sampling=sampling_defaults.SamplingDefaults(),
    )
    return generation.Sizes(
        video,
        vae,
        TEXT,
        item * flops.transformer_parameters(transformer),
        4 * 127_000_000,
        item * flops.text_encoder_parameters(TEXT),
    )


def planned(topology, **changes):
    of = changes.pop("of", sizes())
    return generation.plan(of, generation.parse_devices(topology), **changes)


def test_the_equations_by_hand():
    found = planned("h200")
    assert (found.size, found.frames, found.tokens) == ((832, 480), 81, 21 * 30 * 52)
    weights = 2 * 14_288_491_584
    assert found.weights["denoise"] == weights
    working = 2 * 32760 * (24 * 5120 + 6 * 13824)
    assert found.phases["denoise"] == weights + working
    assert found.phases["text"] == found.weights["text"] + 8 * 64 * 512**2
    decoder = 6 * 4 * 192 * 9 * 832 * 480
    assert found.phases["decode"] == 4 * 127_000_000 + decoder
    assert found.fits and not found.advice


def test_devices_share_everything_but_the_decoder_s_weights():
    one, four = planned("h200"), planned("h200:4")
    gathered = 4 * 14_288_491_584 // 40
    rest = four.phases["denoise"] - gathered
    assert rest == pytest.approx(one.phases["denoise"] / 4, rel=1e-6)
    assert four.weights["decode"] == one.weights["decode"]


def test_what_does_not_fit_says_what_would():
    found = planned("rtx4090")
    assert not found.fits
    assert any("devices of this kind" in line for line in found.advice)
    assert any("of the phase 'denoise' alone take 26.6 GiB" in a for a in found.advice)
    (line,) = (line for line in found.advice if "devices of this kind" in line)
    more = int(line.split()[0])
    assert planned(f"rtx4090:{more}").fits and not planned(f"rtx4090:{more // 2}").fits


def test_a_shorter_or_smaller_video_that_fits_is_named():
    small = sizes("wan2_1_t2v_1_3b")
    long = {"size": (1280, 720), "frames": 81}
    memory = int(planned("a100", of=small, **long).phases["denoise"])
    device = generation.Devices("one", 1, int(memory * 0.9))
    found = generation.plan(small, device, **long)
    assert not found.fits
    frames = int(found.advice[0].split()[1])
    assert generation.plan(small, device, size=(1280, 720), frames=frames).fits
    assert not generation.plan(small, device, size=(1280, 720), frames=frames + 4).fits
    width, height = map(int, found.advice[1].split()[1].split("x"))
    assert generation.plan(small, device, size=(width, height), frames=81).fits


@pytest.mark.parametrize(
    ("name", "count", "gib"),
    [("v5e:2x2", 4, 16), ("h100", 1, 80), ("h100:8", 8, 80), ("tpu7x:2x2x1", 8, 96)],
)
def test_devices(name, count, gib):
    devices = generation.parse_devices(name)
    assert (devices.count, devices.memory) == (count, gib * chips.GIB)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h10", "no chip or GPU 'h10'; did you mean 'h100'"),
        ("h100:x", "use a form like h100:4"),
        ("h100:0", "use a form like h100:4"),
        ("v5e:3x3", "no such slice"),
    ],
)
def test_other_devices_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        generation.parse_devices(name)


def test_the_command(tmp_path, capsys):
    checkpoint = tiny.save(tmp_path)
    words = ["plan", "--generate", "--checkpoint", str(checkpoint), "--topology"]
    assert main.main([*words, "h100", "--json", str(tmp_path / "p.json")]) == 0
    output = capsys.readouterr().out
    assert "h100: 1 x 80 GiB" in output and output.endswith("it fits\n")
    assert "64x64, 17 frames" in output and (tmp_path / "p.json").is_file()
    for more, says in (
        (["h100", "--size", "63x64"], "63 pixels wide: use 48 or 64"),
        (["h100", "--config", "x"], "leave --config out"),
        (["h1000"], "did you mean 'h100'"),
    ):
        assert main.main([*words, *more]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert says in line
    assert main.main(["plan", "--topology", "v5p:2x2x1"]) == 2
    assert "--config NAME is needed" in capsys.readouterr().err


def test_bytes_are_those_of_the_files(tmp_path):
    of = generation.Sizes.of_checkpoint(tiny.save(tmp_path))
    config = tiny.model().config.transformer
    assert of.transformer_bytes == 4 * flops.transformer_parameters(config)
    assert of.text is None and of.text_bytes == 0
    found = generation.plan(of, generation.parse_devices("h100:2"))
    assert set(found.phases) == {"denoise", "decode"}
    assert found.weights["denoise"] == of.transformer_bytes  # small ones are whole
    assert dataclasses.replace(found, phases={"x": 81 * chips.GIB}).fits is False
