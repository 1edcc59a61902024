"""A thousand damaged files of each kind: read, or refused by a typed error of one line.

Names in a file stay inside its folder, and nothing that runs is read from one.
"""

import ast
import copy
import json
import pathlib
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from data_pipelines import latents, manifests, records, storage
from experiments import configs
from experiments.stages.video import config as video_config
from soraflax import config as config_lib
from soraflax.nn import autoencoder, dit
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models
from soraflax.train import digests
from soraflax.weights import files
from tests.data_pipelines import clip_data

COUNT = 1000
ROOT = pathlib.Path(__file__).parents[2]
VALUES = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**70), 1.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "..", "/etc/passwd", "../../x", "a\0b"),
    *("\ud800", "é" * 300, [], {}, [[]], [0] * 9, [None], {"": 0}, {"a": {"b": []}}),
)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    keys = range(len(tree)) if isinstance(tree, list) else list(tree)
    for key in keys:
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from _places(tree[key])


def mutated_json(value: Any, rng: random.Random) -> str:
    """A JSON text that differs: values, keys, what is there at all, or bytes."""
    tree = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        container, key = rng.choice(list(_places(tree)) or [(tree, None)])
        if key is None:
            break
        action = rng.randrange(4)
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[rng.choice(("digest", "x", "splits", ""))] = container.pop(key)
        elif action == 2 and type(container[key]) is int:
            container[key] += rng.choice((-1, 1, 10**6, -container[key]))
        else:
            container[key] = rng.choice(VALUES)
    text = json.dumps(tree)
    if rng.random() < 0.1:
        text = rng.choice(
            ("", "[]", "null", "1", "[" * 100_000, text[: len(text) // 2])
        )
    return text


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flipped, cut off, cut out, doubled or filled with others."""
    place, size = rng.randrange(len(data)), rng.choice((1, 2, 8, 64))
    before, after = data[:place], data[place + size :]
    return rng.choice(
        (
            before + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :],
            before,
            before + after,
            before + data[place : place + size] * 2 + after,
            before + rng.randbytes(size) + after,
        )
    )


def survey(read: Callable[[int], object]) -> dict[str, int]:
    """How many of `COUNT` mutations were read, and how many refused.

    Raises:
      AssertionError: an error that is not typed, or not one line.
    """
    found = {"read": 0, "refused": 0}
    for number in range(COUNT):
        try:
            read(number)
        except (ValueError, OSError) as error:
            assert str(error), f"{number}: says nothing"
            assert "\n" not in str(error), f"{number}: {error}"
            assert not isinstance(error, (UnicodeError, json.JSONDecodeError)), number
            found["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number}: {error!r}") from error
        else:
            found["read"] += 1
    return found


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    params = {
        "stack": {"kernel": rng.standard_normal((3, 4), np.float32)},
        "bias": np.arange(5, dtype=np.float32),
    }
    model_io.save_model(tmp_path / "model", params, config={"kind": "autoencoder"})
    return tmp_path / "model"


def test_safetensors(model: pathlib.Path) -> None:
    path = model / model_io.PARAMS
    whole, (expected, _) = path.read_bytes(), model_io.load_model(model)
    size = struct.unpack("<Q", whole[:8])[0]
    header, rest = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), expected)

    def read(number: int) -> None:
        rng = random.Random(number)
        if number % 2:
            path.write_bytes(mutated_bytes(whole, rng))
        else:
            text = mutated_json(header, rng).encode(errors="replace")
            path.write_bytes(struct.pack("<Q", len(text)) + text + rest)
        tensors: Any = None
        # As another project's file, whose values have no digest.
        with_digest = number % 3
        if not with_digest:
            tensors = files.open_tensors(path)
            for tensor in tensors.values():
                tensor.read(())
        elif with_digest == 1:
            params, _ = model_io.load_model(model)
            assert jax.tree.all(jax.tree.map(np.array_equal, params, expected))
        else:
            params, _ = model_io.open_model(model, like=like)
            assert jax.tree.all(jax.tree.map(np.array_equal, params, expected))

    found = survey(read)
    assert found["refused"] > COUNT / 2 and found["read"]


def test_configs_of_models(model: pathlib.Path) -> None:
    config = config_lib.to_dict(autoencoder.VARIANTS["small"])
    other = config_lib.to_dict(dit.VARIANTS["tiny"])
    path = model / model_io.CONFIG
    header = json.loads(path.read_text())

    def read(number: int) -> None:
        rng = random.Random(number)
        kind = ("autoencoder", "transformer")[number % 2]
        record = {"kind": kind, "model": (config, other)[number % 2]}
        path.write_text(mutated_json({**header, "config": record}, rng))
        values = models.config_of(model, kind=kind)
        schema: Any = (autoencoder.AutoencoderConfig, dit.DiTConfig)[number % 2]
        config_lib.to_dataclass(values, schema)

    found = survey(read)
    assert found["refused"] > COUNT / 2 and found["read"]


def test_configs_of_runs() -> None:
    shipped = configs.load("video_small:tiny")
    shipped.data.path = shipped.autoencoder = "/somewhere"
    values = json.loads(config_lib.to_json(shipped))
    config_lib.to_dataclass(values, video_config.VideoRunConfig)

    def read(number: int) -> None:
        text = mutated_json(values, random.Random(number))
        try:
            mutated = json.loads(text)
        except (ValueError, RecursionError):
            return  # no run has such a one
        config_lib.to_dataclass(mutated, video_config.VideoRunConfig)

    found = survey(read)
    assert found["refused"] > COUNT / 2 and found["read"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("datasets")
    clips = clip_data.write_clips(folder / "clips", train=3)
    latents.cache_latents(clips, folder / "latents", encoder=clip_data.encoder())
    return {"clips": clips, "latents": folder / "latents"}


def _open_latents(path: pathlib.Path) -> latents.LatentDataset:
    """As `latents.open_latents`, whose result type checkers read a record of."""
    info = records.read_info(path)
    manifests.check_latents(info, origin=path)
    return latents.LatentDataset(records.open_source(path, "train"), info)


def test_manifests(
    datasets: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", ())
    opened = {"clips": records.open_dataset, "latents": _open_latents}
    whole = {
        (kind, name): (path / name).read_bytes()
        for kind, path in datasets.items()
        for name in (records.INFO, records.MANIFEST, _features(path))
    }
    targets = list(whole)

    def read(number: int) -> None:
        rng = random.Random(number)
        kind, name = targets[number % len(targets)]
        path, data = datasets[kind] / name, whole[kind, name]
        if rng.random() < 0.3:
            path.write_bytes(mutated_bytes(data, rng))
        else:
            text = mutated_json(json.loads(data), rng)
            path.write_text(text, errors="replace")
        try:
            found: Any = opened[kind](datasets[kind])
            _ = found[0]
        finally:
            path.write_bytes(data)

    found = survey(read)
    assert found["refused"] > COUNT / 2 and found["read"]


def _features(path: pathlib.Path) -> str:
    return f"{records.read_info(path)['directory']}/{manifests.FEATURES}"


@pytest.mark.parametrize(
    "name", ["../clips", "/etc/passwd", "a/../../b", "..", "", "a\0b", 3, None, ["a"]]
)
def test_names_in_manifests_are_never_paths_out_of_the_dataset(
    name: Any, datasets: dict[str, pathlib.Path]
) -> None:
    path = datasets["clips"]
    for file, change in (
        (records.MANIFEST, lambda v: v["shards"][0].update(file=name)),
        (records.INFO, lambda v: v.update(directory=name)),
    ):
        whole = (path / file).read_text()
        values = json.loads(whole)
        change(values)
        (path / file).write_text(json.dumps(values))
        with pytest.raises(records.DatasetError, match="no name inside the dataset"):
            records.open_dataset(path)
        (path / file).write_text(whole)


def test_no_class_that_a_manifest_names_is_imported(
    datasets: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = datasets["clips"] / _features(datasets["clips"])
    whole = path.read_text()
    path.write_text(whole.replace("tensorflow_datasets.core.features.", "antigravity."))
    assert path.read_text() != whole
    with pytest.raises(records.DatasetError, match="is no feature of TFDS"):
        records.open_dataset(datasets["clips"])
    path.write_text(whole)


def test_names_in_digests_and_indices_stay_inside(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for name in ("../model/config.json", "/etc/passwd"):
        index = {"weight_map": {"bias": name}}
        (model / "x.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(model_io.ModelError):
            files.open_tensors(model)
        (tmp_path / digests.DIGESTS).write_text(json.dumps({"files": {name: [1, 2]}}))
        with pytest.raises(digests.CheckpointError):
            digests.read(tmp_path)
        with pytest.raises(model_io.ModelError, match="not a name inside"):
            model_io.save_model(tmp_path / "out", {}, config={}, files={name: b""})


def _code() -> Iterator[pathlib.Path]:
    for package in ("soraflax", "data_pipelines", "experiments"):
        yield from (ROOT / package).rglob("*.py")


def test_no_pickle_is_read() -> None:
    """No module that unpickles is imported, and no reader is told to."""
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for path in _code():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {name.name for name in node.names} & forbidden, path
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in forbidden, path
            elif isinstance(node, ast.Call):
                _check_call(node, path)


def _check_call(node: ast.Call, path: pathlib.Path) -> None:
    given = {word.arg: word.value for word in node.keywords}
    name = ast.unparse(node.func)
    if name.endswith(("np.load", "numpy.load")) or "allow_pickle" in given:
        allowed = given.get("allow_pickle")
        assert allowed is None or ast.unparse(allowed) == "False", path
    if name == "torch.load":
        assert ast.unparse(given["weights_only"]) == "True", path
