import numpy as np
import pytest

from data_pipelines import latents, packing, pipeline, records, transforms
from soraflax.ops import grid as grids
from soraflax.ops import packing as packed_rows
from tests.data_pipelines import clip_data

CONFIG = latents.LatentCacheConfig(
    fit=transforms.FitConfig(max_tokens=100, max_frames=17), batch=4, chunk=5
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return clip_data.write_clips(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture(scope="module")
def cached(clips, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "latents"
    latents.cache_latents(clips, path, encoder=clip_data.encoder(), config=CONFIG)
    return path


def test_every_clip_becomes_one_latent_in_order(clips, cached):
    for split, count in (("train", 12), ("validation", 3)):
        stored = latents.open_latents(cached, split)
        source = records.open_dataset(clips, split)
        assert [r.id for r in stored] == [r.id for r in source]
        assert [r.truth for r in stored] == [r.truth for r in source]
        assert [r.captions for r in stored] == [r.captions for r in source]
        assert len(stored) == count


def test_latents_are_what_the_encoder_gives(clips, cached):
    encoder = clip_data.encoder()
    windows = latents.plan_windows(
        records.open_dataset(clips), encoder.grid((1, 2, 2)), config=CONFIG
    )
    for window, record in zip(windows, latents.open_latents(cached), strict=True):
        _, video = latents.load_window(records.open_dataset(clips), window)
        expected = encoder.encode(video[None].astype(np.float32) / 127.5 - 1)[0]
        assert record.latent.dtype == np.float16
        np.testing.assert_allclose(record.latent, expected, atol=2e-3)
        t, h, w = window.fit.grid
        assert record.latent.shape == (t, 2 * h, 2 * w, 5)
        assert record.fps == window.fit.fps


def test_statistics_are_those_of_the_training_split(cached):
    stored = latents.open_latents(cached)
    cells = np.concatenate([r.latent.reshape(-1, 5).astype(np.float64) for r in stored])
    np.testing.assert_allclose(stored.mean, cells.mean(0), atol=1e-6)
    np.testing.assert_allclose(stored.std, cells.std(0), rtol=1e-5)
    assert set(stored.shapes) >= {r.latent.shape for r in stored}


def test_the_report_accounts_for_every_clip(clips, cached):
    lines = records.read_report(cached)
    assert [line["input"] for line in lines] == [f"clip-{i}" for i in range(15)]
    assert {line["split"] for line in lines} == {"train", "validation"}
    cut = next(line for line in lines if line["input"] == "clip-3")
    (window,) = cut["windows"]
    assert cut["frames"] == 21 and window["fitted"]["frames"] == 17
    assert cut["lost_seconds"] == window["trimmed_seconds"] == 0.5
    summary = records.read_info(cached)["account"]
    assert any(line.startswith("cut in time: 4 of 15, 1.50 of") for line in summary)


def test_long_clips_may_give_several_windows(clips):
    config = latents.LatentCacheConfig(
        fit=transforms.FitConfig(max_frames=9), windows=4
    )
    source = records.open_dataset(clips)
    windows = latents.plan_windows(source, grids.Grid(4, 8, (1, 2, 2)), config=config)
    starts = [w.start for w in windows if w.id.split("#")[0] == "clip-3"]
    assert starts == [0, 12]
    assert {w.index for w in windows} == set(range(len(source)))


def test_random_windows_are_those_of_the_seed(clips):
    def starts(seed):
        config = latents.LatentCacheConfig(
            fit=transforms.FitConfig(max_frames=5), seed=seed
        )
        source = records.open_dataset(clips)
        return [
            w.start
            for w in latents.plan_windows(
                source, grids.Grid(4, 8, (1, 2, 2)), config=config
            )
        ]

    assert starts(0) == starts(0) != starts(1)


def test_each_fitted_size_is_encoded_at_one_batch_size(clips, tmp_path):
    seen = set()
    encoder = clip_data.encoder()

    def encode(video):
        seen.add(video.shape)
        return encoder.encode(video)

    spy = latents.LatentEncoder(encode, "c" * 64, temporal_ratio=4, spatial_ratio=8)
    latents.cache_latents(clips, tmp_path / "out", encoder=spy, config=CONFIG)
    assert {shape[0] for shape in seen} == {CONFIG.batch}
    assert len(seen) == len({shape[1:] for shape in seen})


def test_another_encoders_latents_are_refused_in_one_line(cached):
    latents.open_latents(cached, digest="a" * 64)
    with pytest.raises(
        ValueError, match=r"latents of encoder a{12}, but b{12} is in use; [^\n]*$"
    ):
        latents.open_latents(cached, digest="b" * 64)


def test_clips_are_not_latents_and_latents_not_clips(clips, cached):
    with pytest.raises(ValueError, match="holds clips, not latents"):
        latents.open_latents(clips)
    with pytest.raises(ValueError, match="holds latents, not clips"):
        records.open_dataset(cached)


def test_latents_name_the_clips_they_were_made_from(clips, cached, tmp_path):
    source = latents.open_latents(cached).info["source"]
    assert source == {"path": str(clips), "digest": records.dataset_digest(clips)}
    other = clip_data.write_clips(tmp_path / "other", train=2, validation=1)
    assert records.dataset_digest(other) != source["digest"]


@pytest.mark.parametrize("name", ["batch", "chunk", "windows"])
def test_nothing_at_a_time_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} 0: use 1 or more"):
        latents.LatentCacheConfig(**{name: 0})


def test_a_truncated_shard_is_refused(clips, tmp_path):
    out = tmp_path / "out"
    latents.cache_latents(clips, out, encoder=clip_data.encoder(), config=CONFIG)
    shard = next(out.rglob("*train.array_record*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        latents.open_latents(out)


def test_nothing_is_left_when_the_encoder_fails(clips, tmp_path):
    def broken(video):
        return np.full((len(video), 1, 1, 1, 1), np.nan)

    encoder = latents.LatentEncoder(broken, "d" * 64, temporal_ratio=4, spatial_ratio=8)
    with pytest.raises(ValueError, match="float16 cannot hold"):
        latents.cache_latents(clips, tmp_path / "out", encoder=encoder, config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_the_way_is_kept_unless_asked(clips, cached):
    before = (cached / "dataset.json").read_text()
    with pytest.raises(ValueError, match="exists"):
        latents.cache_latents(clips, cached, encoder=clip_data.encoder())
    assert (cached / "dataset.json").read_text() == before


def test_cached_latents_feed_packed_batches(cached):
    settings = pipeline.PackedDataConfig(
        path=str(cached),
        rows=2,
        row=packed_rows.RowShape(tokens=200, text=256, segments=8),
        passes=1,
    )
    batches = list(pipeline.make_dataset(settings, digest="a" * 64))
    assert sum(int(b.segments[r].max()) for b in batches for r in range(2)) == 12
    assert batches[0].tokens.shape == (2, 200, 20)
    assert packing.efficiency(batches[0]) > 0.8
    inside = np.concatenate([b.tokens[b.segments > 0] for b in batches])
    cells = inside.reshape(-1, 5)
    np.testing.assert_allclose(cells.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(cells.std(0), 1, atol=1e-3)
