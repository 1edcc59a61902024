"""Clips are said in words; what cannot be read is one line."""

import json

import jax
import numpy as np
import pytest

from soraflax import tokenizer
from soraflax.generation import captioner as captioners
from soraflax.nn import autoencoder, captioner
from soraflax.pretrained import captioners as stored


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """A captioner of random words that reads the latents of the tiny model."""
    from soraflax.pretrained import models

    codec = models.load_autoencoder(checkpoint / "model" / "autoencoder")
    z = codec.config.latent_channels
    sizes = captioner.CaptionerConfig(
        latent_channels=z,
        vocabulary=1024,
        width=16,
        heads=2,
        mlp=16,
        encoder_depth=1,
        decoder_depth=1,
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        stored.shapes(sizes),
    )
    place = tmp_path_factory.mktemp("captioner")
    stored.save_captioner(
        place / "model",
        params,
        config=stored.CaptionerModelConfig(
            sizes,
            autoencoder.LatentStatistics((0.0,) * z, (1.0,) * z),
            autoencoder=codec.encoder_digest,
            text_length=5,
            max_tokens=24,
            max_frames=9,
        ),
        vocabulary=tokenizer.Tokenizer.embedded(),
        autoencoder_dir=checkpoint / "model" / "autoencoder",
    )
    return place


@pytest.fixture
def caption(run, folder, capsys):
    """Type `soraflax caption` with this captioner."""

    def typed(line):
        from soraflax.cli import main

        try:
            status = main.main(["caption", "--checkpoint", str(folder), *line.split()])
        except SystemExit as stop:
            status = stop.code
        told = capsys.readouterr()
        return status, told.out.splitlines(), told.err.splitlines()

    return typed


def test_every_clip_has_a_line_of_its_own(caption, clip, folder):
    clip("a.mkv", 9)
    clip("b.mkv", 30, seed=1, width=48, height=32)
    clip("c.png", 1, seed=2)
    status, lines, _ = caption("a.mkv b.mkv c.png")
    assert status == 0 and [line.partition(":")[0] for line in lines] == [
        "a.mkv",
        "b.mkv",
        "c.png",
    ]
    words = [line.partition(": ")[2] for line in lines]
    assert all(words)
    status, alone, _ = caption("a.mkv")
    assert (status, alone) == (0, words[:1])
    status, (line,), _ = caption("c.png --json")
    assert json.loads(line)["caption"] == words[2]
    model = captioners.Captioner.load(folder)
    assert model(["b.mkv", "c.png"]) == words[1:]
    assert model("a.mkv", beams=2) == caption("a.mkv --beams 2")[1][0]
    drawn = [caption(f"a.mkv --top-p 1 --seed {seed}")[1] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] and all(drawn)


def test_what_cannot_be_captioned_is_one_line(caption, clip, folder, place):
    clip("a.mkv", 9)
    (place / "notes.txt").write_text("words")
    for line, message in (
        ("none.mp4", "none.mp4: no such file"),
        ("notes.txt", "notes.txt: "),
        ("a.mkv --beams 100", "100 is too large: use 64 or less"),
        ("a.mkv --beams 2 --top-p 0.5", "not allowed with argument"),
        ("a.mkv --top-p 0", "top_p 0.0: use a number in (0, 1]"),
        ("a.mkv --checkpoint nowhere", "nowhere: no such directory"),
    ):
        status, out, told = caption(line)
        assert (status, out, len(told)) == (2, [], 1) and message in told[0], told
    model = captioners.Captioner.load(folder)
    with pytest.raises(ValueError, match=r"give uint8 \[T, H, W, 3\]"):
        model(np.zeros((2, 8, 8, 3), np.float32))
