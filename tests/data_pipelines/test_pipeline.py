import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines import cropping, packing, pipeline, transforms
from soraflax import config as configs
from soraflax.ops import packing as packed_rows
from tests.data_pipelines import clip_data

ROW = packed_rows.RowShape(tokens=256, text=256, segments=8)


def config(**changes):
    base = pipeline.PackedDataConfig(
        rows=2, row=ROW, captions=transforms.CaptionConfig(max_length=20)
    )
    return dataclasses.replace(base, **changes)


def make(settings=None, *, size=50, host=None):
    return pipeline.make_dataset(
        settings or config(),
        encode=clip_data.encode_text,
        latents=[clip_data.Latents(size)],
        host=host,
    )


def equal(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves)


def open_rows(state):
    """The packer's open rows in a state, however deep it lies."""
    if "open" in state:
        return state["open"]
    return next(open_rows(v) for v in state.values() if isinstance(v, dict))


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def clips_of(packed):
    """The clip number of every segment: latents are flat, `(number - 0) / 2`."""
    found = []
    for row in range(len(packed.tokens)):
        for number in range(1, packed.segments[row].max() + 1):
            inside = packed.segments[row] == number
            values = np.unique(packed.tokens[row][inside])
            assert len(values) == 1
            found.append(round(2 * float(values[0])))
    return found


def test_batches_hold_whole_clips_with_their_own_captions():
    packed = next(iter(make(config(captions=transforms.CaptionConfig(dropout=0.3)))))
    assert packed.tokens.shape == (2, 256, 16) and packed.tokens.dtype == np.float32
    numbers = iter(clips_of(packed))
    for row in range(2):
        for number in range(1, packed.segments[row].max() + 1):
            ids = packed.text[row][packed.text_segments[row] == number]
            assert ids[-1] == 1
            text = clip_data.decode_text(ids).strip()
            clip = next(numbers)
            assert text in ("", f"s{clip}") or set(text.split()) == {f"d{clip}"}


def test_one_pass_delivers_every_clip_once():
    packed = list(make(config(passes=1)))
    clips = [clip for p in packed for clip in clips_of(p)]
    assert sorted(clips) == list(range(50))
    assert {p.tokens.shape for p in packed} == {(2, 256, 16)}


def test_hosts_together_deliver_every_clip_once():
    hosts = [make(config(passes=1), host=pipeline.HostShard(i, 2)) for i in range(2)]
    clips = [clip for host in hosts for p in host for clip in clips_of(p)]
    assert sorted(clips) == list(range(50))


def test_batches_do_not_depend_on_reading_ahead():
    plain = config(read=pipeline.ReadConfig(threads=0, ahead=0))
    eager = config(read=pipeline.ReadConfig(threads=3, buffer=7, ahead=3))
    it = iter(make(eager))
    assert equal(take(iter(make(plain)), 6), take(it, 6))
    it.close()


def test_every_pass_draws_captions_anew():
    settings = config(captions=transforms.CaptionConfig(dropout=0.5))
    texts = set()
    for packed in take(iter(make(settings, size=1)), 4):
        for row in range(2):
            ids = [packed.text[row][packed.text_segments[row] == n] for n in (1, 2)]
            texts |= {clip_data.decode_text(i).strip() for i in ids}
    assert texts == {"", "s0", "d0 d0 d0"}


@pytest.mark.parametrize("ahead", [0, 2])
def test_resuming_gives_the_batches_that_were_due(ahead):
    settings = config(read=pipeline.ReadConfig(ahead=ahead))
    it = iter(make(settings))
    take(it, 5)
    state = clip_data.plain(it.get_state())
    due = take(it, 4)
    again = iter(make(settings))
    again.set_state(state)
    assert equal(take(again, 4), due)
    it.set_state(state)
    assert equal(take(it, 4), due)
    it.close()
    again.close()


def test_seeds_give_other_batches():
    assert not equal(next(iter(make())), next(iter(make(config(seed=1)))))


def test_video_batches_resume():
    def fresh():
        return iter(
            pipeline.make_video_dataset(
                pipeline.VideoDataConfig(
                    crops=cropping.CropConfig(shapes=((1, 32, 32), (5, 32, 48)))
                ),
                batch=2,
                clips=[[clip_data.clip(i) for i in range(6)]],
            )
        )

    it = fresh()
    take(it, 3)
    state = clip_data.plain(it.get_state())
    due = take(it, 4)
    again = fresh()
    again.set_state(state)
    assert equal(take(again, 4), due)
    assert {batch["video"].shape[1] for batch in due} == {1, 5}
    it.close()
    again.close()


def test_no_tensorflow_is_imported():
    modules = "latents, packing, pipeline, sources, transforms, builders.latent_records"
    names = [f"data_pipelines.{name.strip()}" for name in modules.split(",")]
    script = f"import sys, {', '.join(names)}; print('tensorflow' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    assert out.stdout.strip() == "False", out.stderr


def test_mixed_corpus_fills_97_percent_of_its_rows():
    row = packed_rows.RowShape(tokens=1024, text=1024, segments=32)
    it = iter(make(config(row=row, rows=4), size=500))
    assert np.mean([packing.efficiency(packed) for packed in take(it, 10)]) > 0.97
    it.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"row": packed_rows.RowShape(100, 64, 8)},
            "a clip of 120 tokens does not fit a row of 100",
        ),
        (
            {"row": packed_rows.RowShape(256, 16, 8)},
            "a caption of 20 tokens does not fit a row's 16: use 20",
        ),
        ({"shards": 3}, "a row of 256 tokens does not divide over 3 shards"),
        ({"patch": (1, 5, 2)}, "latent height 8 is not a multiple of the patch 5"),
    ],
)
def test_rows_too_small_for_the_data_are_refused_before_training(changes, message):
    with pytest.raises(ValueError, match=message):
        make(config(**changes))


def test_latents_of_two_encoders_are_not_mixed():
    other = clip_data.Latents()
    other.digest = "b" * 64
    with pytest.raises(ValueError, match="latents of two encoders, aaaaaaaaaaaa and b"):
        pipeline.make_dataset(config(), latents=[clip_data.Latents(), other])


def test_a_missing_dataset_is_one_clear_line(tmp_path):
    for build in (
        lambda: pipeline.make_dataset(config(path=str(tmp_path / "none"))),
        lambda: pipeline.make_video_dataset(
            pipeline.VideoDataConfig(path=str(tmp_path / "none")), batch=1
        ),
    ):
        with pytest.raises(ValueError, match=r"none: no such dataset; [^\n]*$"):
            build()


def test_configs_come_from_nested_dicts():
    values = {"rows": 3, "row": {"tokens": 64, "text": 32, "segments": 4}}
    built = configs.to_dataclass(values, pipeline.PackedDataConfig)
    assert built.row == packed_rows.RowShape(64, 32, 4)
    values = {"crops": {"shapes": [[1, 8, 8]], "weights": [1.0]}}
    built = configs.to_dataclass(values, pipeline.VideoDataConfig)
    assert built.crops.shapes == ((1, 8, 8),)


def environment():
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
