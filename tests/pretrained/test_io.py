import json

import jax
import numpy as np
import pytest

from soraflax.pretrained import io as model_io

PARAMS = {
    "in": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "stack": {"block": {"scale": np.ones(4, np.float32)}},
}


def save(tmp_path, **options):
    model_io.save_model(
        tmp_path / "m" / "model", PARAMS, config={"width": 3}, **options
    )
    return tmp_path / "m" / "model"


def test_there_and_back(tmp_path):
    path = save(tmp_path, files={"vocabulary.model": b"abc"})
    for place in (path, path.parent):
        params, config = model_io.load_model(place, like=PARAMS)
        assert config == {"width": 3}
        jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    assert (path / "vocabulary.model").read_bytes() == b"abc"
    assert model_io.model_digest(path) == model_io.digest(PARAMS)
    assert [p.name for p in path.parent.iterdir()] == ["model"]


def test_a_model_inside_a_model(tmp_path):
    inner = save(tmp_path)
    outer = tmp_path / "video"
    model_io.save_model(outer, PARAMS, config={}, files={"autoencoder": inner})
    params, config = model_io.load_model(outer / "autoencoder")
    assert config == {"width": 3}
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)


def test_saving_again_replaces(tmp_path):
    path = save(tmp_path, files={"old": b"x"})
    model_io.save_model(path, PARAMS, config={"width": 4})
    assert model_io.model_config(path) == {"width": 4}
    assert not (path / "old").exists()


def test_never_replaces_what_is_not_a_model(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(ValueError, match="is not a model"):
        model_io.save_model(tmp_path, PARAMS, config={})
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({**PARAMS, "out": {"bias": np.zeros(1)}}, "out/bias is missing"),
        ({"in": PARAMS["in"]}, "stack/block/scale is unknown"),
        (
            {**PARAMS, "in": {"kernel": np.zeros((3, 2))}},
            r"in/kernel has shape \(2, 3\), not \(3, 2\)",
        ),
    ],
)
def test_another_model_is_refused_by_name(tmp_path, like, message):
    with pytest.raises(model_io.ModelError, match=message):
        model_io.load_model(save(tmp_path), like=like)


def test_not_finite_is_refused_by_name(tmp_path):
    bad = {**PARAMS, "in": {"kernel": np.full((2, 3), np.nan, np.float32)}}
    with pytest.raises(model_io.ModelError, match="in/kernel is not finite"):
        model_io.save_model(tmp_path / "model", bad, config={})
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_is_noticed(tmp_path):
    path = save(tmp_path) / model_io.PARAMS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(model_io.ModelError, match="does not match the digest"):
        model_io.load_model(path.parent)


@pytest.mark.parametrize("keep", (0, 7, 40))
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = save(tmp_path) / model_io.PARAMS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(model_io.ModelError, match="not a readable safetensors"):
        model_io.load_model(path.parent)


@pytest.mark.parametrize("text", ("", "[]", "{}", '{"digest": 3, "config": {}}'))
def test_a_broken_config_is_refused(tmp_path, text):
    path = save(tmp_path)
    (path / "config.json").write_text(text)
    with pytest.raises(model_io.ModelError, match="not the configuration"):
        model_io.load_model(path)


def test_missing_directories_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such directory"):
        model_io.load_model(tmp_path / "nothing")
    (tmp_path / "published" / "vae").mkdir(parents=True)
    (tmp_path / "published" / "vae" / "config.json").write_text("{}")
    (tmp_path / "published" / "model_index.json").write_text("{}")
    with pytest.raises(model_io.ModelError, match=r"soraflax convert --from wan2\.1"):
        model_io.find_model(tmp_path / "published", kind="video")
    with pytest.raises(FileNotFoundError, match="no trained model in it"):
        model_io.load_model(tmp_path)
    path = save(tmp_path)
    (path / model_io.PARAMS).unlink()
    with pytest.raises(FileNotFoundError, match="missing"):
        model_io.load_model(path)


@pytest.mark.parametrize("name", ("../out", "/out"))
def test_files_stay_inside(tmp_path, name):
    with pytest.raises(model_io.ModelError, match="not a name inside"):
        save(tmp_path, files={name: b""})


def test_config_is_plain_json(tmp_path):
    header = json.loads((save(tmp_path) / "config.json").read_text())
    assert set(header) == {"soraflax", "digest", "config"}


def test_the_one_model_below_a_directory_is_found(tmp_path):
    for name, kind in (("b/model", "video"), ("a", "autoencoder")):
        model_io.save_model(tmp_path / name, {"x": np.zeros(1)}, config={"kind": kind})
        if name == "b/model":
            assert model_io.find_model(tmp_path) == tmp_path / name
    assert model_io.find_model(tmp_path, kind="video") == tmp_path / "b" / "model"
    says = rf"no trained model in it.*; name one of {tmp_path}/a, {tmp_path}/b"
    for kind in (None, "discriminator"):
        with pytest.raises(FileNotFoundError, match=says):
            model_io.find_model(tmp_path, kind=kind)
