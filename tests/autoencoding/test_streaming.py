"""A video in chunks is the video; in tiles it nearly is."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from soraflax import sharding
from soraflax.autoencoding import streaming, tiling
from soraflax.nn import autoencoder
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io
from tests.generation import tiny

SMALL = dataclasses.replace(autoencoder.VARIANTS["small"], width=16)
WAN2_1 = autoencoder.AutoencoderConfig(latent_channels=4, width=8, blocks=1)
WAN2_2 = dataclasses.replace(
    autoencoder.VARIANTS["wan2_2"],
    latent_channels=4,
    width=8,
    decoder_width=12,
    blocks=1,
)
CONFIGS = {
    "tiny": autoencoder.VARIANTS["tiny"],
    "small": SMALL,
    "wan2_1": WAN2_1,
    "wan2_2": WAN2_2,
}


def model_of(config) -> models.AutoencoderModel:
    shapes = abstract.autoencoder_shapes(config)
    params = jax.tree.map(np.asarray, tiny.randomised(shapes, scale=0.15))
    return models.AutoencoderModel(config, params, model_io.digest(params))


def video_of(frames, height=32, width=48):
    rng = np.random.default_rng(frames)
    return rng.uniform(-1.0, 1.0, (frames, height, width, 3)).astype(np.float32)


def whole(model, video):
    """Latent and video of one shot."""
    module = autoencoder.Autoencoder(model.config)
    result = jax.jit(module.apply)({"params": model.params}, video[None])
    return np.asarray(result.mean[0]), np.asarray(result.video[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_equal_the_whole(name):
    model, video = model_of(CONFIGS[name]), video_of(17)
    latent, frames = whole(model, video)
    for chunk in (1, 3):
        config = streaming.StreamConfig(chunk=chunk)
        parts = list(streaming.encode(model, video, config=config))
        assert [len(p) for p in parts] == ([2, 1, 1, 1] if chunk == 1 else [4, 1])
        found = np.concatenate(parts)
        assert np.max(np.abs(found - latent)) <= 1e-5 * np.max(np.abs(latent))
        decoded = np.concatenate(list(streaming.decode(model, parts, config=config)))
        assert decoded.shape == video.shape
        assert np.max(np.abs(decoded - frames)) <= 1e-5 * np.max(np.abs(frames))


def test_reconstruction_is_lazy_and_an_image_is_one_chunk():
    model, read = model_of(CONFIGS["tiny"]), []

    def frames():
        for number, frame in enumerate(video_of(41)):
            read.append(number)
            yield frame

    stream = streaming.reconstruct(
        model, frames(), config=streaming.StreamConfig(chunk=1)
    )
    assert not read
    assert next(stream).shape[0] == 5
    assert len(read) <= 9
    assert sum(len(part) for part in stream) == 36
    image = list(streaming.reconstruct(model, video_of(1)))
    assert [part.shape for part in image] == [(1, 32, 48, 3)]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 32, 48), "16 frames: use 13 or 17"),
        ((17, 33, 48), "33 pixels: use 32 or 40"),
        ((17, 32, 1), "1 pixels: use 8"),
    ],
)
def test_what_is_off_the_grid_is_refused(shape, message):
    model = model_of(CONFIGS["tiny"])
    with pytest.raises(ValueError, match=message):
        list(streaming.encode(model, video_of(*shape)))


def test_frames_that_are_no_video_are_refused():
    model, video = model_of(CONFIGS["tiny"]), video_of(9)
    video[7, 3, 4] = np.nan
    with pytest.raises(ValueError, match="frames 5 to 8: pixels that are not finite"):
        config = streaming.StreamConfig(chunk=1)
        list(streaming.encode(model, video, config=config))
    with pytest.raises(ValueError, match=r"frames of uint8: give float in \[-1, 1\]"):
        list(streaming.encode(model, np.zeros((1, 8, 8, 3), np.uint8)))
    for nothing in (streaming.encode, streaming.decode):
        with pytest.raises(ValueError, match="give 1 or more"):
            list(nothing(model, []))
    with pytest.raises(ValueError, match="latents of 3 channels; this"):
        list(streaming.decode(model, [np.zeros((1, 2, 2, 3), np.float32)]))


@pytest.mark.parametrize("values", [{"chunk": 0}, {"overlap": -1}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ValueError, match="use "):
        streaming.StreamConfig(**values)


@pytest.mark.parametrize(("tile", "overlap"), [((16, 16), 16), ((4, 64), 0)])
def test_impossible_tiles_are_refused(tile, overlap):
    model = model_of(CONFIGS["tiny"])
    config = streaming.StreamConfig(tile=tile, overlap=overlap)
    with pytest.raises(ValueError, match="use "):
        list(streaming.encode(model, video_of(1), config=config))


def test_tiles_wider_than_what_a_pixel_reaches_equal_the_whole():
    """Without attention an inner pixel of a tile sees only so far."""
    config = dataclasses.replace(CONFIGS["tiny"], attention=False)
    model, video = model_of(config), video_of(5, 16, 256)
    latent, frames = whole(model, video)
    tiled = streaming.StreamConfig(chunk=1, tile=(16, 160), overlap=64)
    places = tiling.tiles((2, 32), (2, 20), overlap=8)
    assert [(c.start, c.stop) for _, c in places] == [(0, 20), (12, 32)]
    found = np.concatenate(list(streaming.encode(model, video, config=tiled)))
    decoded = np.concatenate(list(streaming.decode(model, [latent], config=tiled)))
    inner = [*range(10), *range(22, 32)]
    np.testing.assert_allclose(found[:, :, inner], latent[:, :, inner], atol=1e-4)
    assert decoded.shape == frames.shape
    np.testing.assert_allclose(decoded[:, :, :64], frames[:, :, :64], atol=1e-4)


def test_blended_tiles_of_a_whole_are_the_whole():
    x = np.random.default_rng(0).normal(size=(3, 29, 40, 2)).astype(np.float32)
    for size, overlap in [((16, 16), 4), ((29, 13), 6), ((10, 40), 0)]:
        places = tiling.tiles(x.shape[1:3], size, overlap=overlap)
        parts = [tiling.crop_tile(x, place) for place in places]
        assert {part.shape[1:3] for part in parts} == {size}
        np.testing.assert_allclose(
            tiling.blend(parts, places, ramp=overlap), x, rtol=1e-5, atol=1e-6
        )
        starts = sorted({rows.start for rows, _ in places})
        stops = [start + size[0] for start in starts]
        shared = [b - a for a, b in zip(starts[1:], stops, strict=False)]
        assert all(s >= overlap for s in shared)


def test_a_seam_is_a_ramp():
    a, b = tiling.spans(24, 16, overlap=8)
    weights = np.zeros((2, 24))
    weights[0, :16], weights[1, 8:] = a.weights(8), b.weights(8)
    share = weights[1] / weights.sum(axis=0)
    np.testing.assert_allclose(share[8:16], (np.arange(8) + 1) / 9)
    assert set(share[:8]) == {0.0} and set(share[16:]) == {1.0}


@pytest.mark.parametrize(
    ("name", "size"),
    [("tiny", (64, 32)), ("wan2_1", (64, 32)), ("wan2_2", (32, 64))],
)
def test_sides_split_over_devices_equal_one_device(name, size):
    model, video = model_of(CONFIGS[name]), video_of(9, *size)
    config = streaming.StreamConfig(chunk=1)
    expected = list(streaming.reconstruct(model, video, config=config))
    mesh = sharding.make_mesh(fsdp=1, data=4, context=2)
    with jax.set_mesh(sharding.make_mesh(context=2, devices=mesh.devices.flat[:2])):
        found = list(streaming.reconstruct(model, video, config=config))
    for a, b in itertools.zip_longest(found, expected):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.max(np.abs(b)), rtol=0)
