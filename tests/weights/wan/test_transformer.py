"""Wan's transformers: what diffusers computed, strictness, streaming, the way back."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from soraflax import flops, sharding
from soraflax.nn import dit, experts
from soraflax.ops import packing, patch
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io
from soraflax.weights import files, tensor_map, wan
from soraflax.weights.wan import transformer
from tests.golden import wan_transformer as judge

STEM = transformer.STEM
TOLERANCE = 1e-4
FAMILIES = tuple(judge.SMALL)
# So many rows in every batch, some empty: everything compiles once.
ROWS = 5
QUICK = {"xla_backend_optimization_level": 0}


def sizes_of(family):
    config = transformer.parse_config(judge.SMALL[family])
    return dataclasses.replace(config, dtype="float32", remat="none")


def shapes_of(config):
    return model_io.flat_shapes(abstract.transformer_shapes(config))


def tensors_of(config, *, seed=judge.HIGH):
    like = tensor_map.expected(transformer.entries(config), shapes_of(config))
    return judge.tensors({name: a.shape for name, a in like.items()}, seed=seed)


def save(folder, family, tensors, **changes):
    folder.mkdir(parents=True)
    values = {"_class_name": transformer.CLASS} | judge.SMALL[family] | changes
    (folder / "config.json").write_text(json.dumps(values))
    safetensors.numpy.save_file(tensors, folder / f"{STEM}.safetensors")
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def theirs(family, tmp_path_factory):
    """A directory of diffusers'."""
    folder = tmp_path_factory.mktemp("theirs") / "transformer"
    return save(folder, family, tensors_of(sizes_of(family)))


def packed_cases(family, rows, *, align=1):
    """Rows of cases, by their number, and where each stands."""
    config, sizes = sizes_of(family), judge.SMALL[family]
    rows = [*rows, *[[]] * (ROWS - len(rows))]
    segments = [[judge.segment(judge.CASES[at], sizes) for at in row] for row in rows]
    shape = packing.RowShape(tokens=140, text=3 * judge.TEXT, segments=4, align=align)
    packed = packing.assemble(segments, shape)
    levels = np.zeros((len(rows), shape.segments + 1), np.float32)
    for r, row in enumerate(rows):
        levels[r, 1 : len(row) + 1] = [judge.CASES[at].level for at in row]
    table = np.asarray(packing.level_table(jnp.asarray(levels)))
    config = dataclasses.replace(config, attention_block=32)
    return config, packed.replace(levels=table), packing.segment_slices(segments, shape)


def check(found, rows, slices, family, config, *, seed=lambda case: judge.HIGH):
    """Every segment against what diffusers made of it alone."""
    with np.load(judge.GOLDEN) as golden:
        for r, row in enumerate(rows):
            for place, at in zip(slices[r], row, strict=True):
                case = judge.CASES[at]
                expected = golden[judge.key(family, seed(case), at)]
                wanted = patch.patchify(expected, config.patch)
                error = np.linalg.norm(found[r, place] - wanted)
                assert error <= TOLERANCE * np.linalg.norm(wanted), (r, at)
                assert np.abs(found[r, place] - wanted).max() <= TOLERANCE * np.max(
                    np.abs(wanted)
                )


@functools.cache
def applied(config):
    return jax.jit(dit.DiT(config).apply, compiler_options=QUICK)


PACKED = [[[at] for at in range(5)], [[1, 0, 3], [2, 4]], [[4, 3, 0]]]


@pytest.mark.parametrize("rows", PACKED, ids=["alone", "packed", "one row"])
def test_equals_what_diffusers_computed(family, theirs, rows):
    config, packed, slices = packed_cases(family, rows, align=1 + 7 * (len(rows) < 5))
    _, params = wan.load_transformer(theirs)
    check(applied(config)({"params": params}, packed), rows, slices, family, config)


def test_experts_take_the_segments_of_their_levels(family, theirs, tmp_path):
    """A row that both share, and rows that one has for itself."""
    repository = tmp_path / "repository"
    for name, seed in (("transformer", judge.HIGH), ("transformer_2", judge.LOW)):
        save(repository / name, family, tensors_of(sizes_of(family), seed=seed))
    index = repository / "model_index.json"
    index.write_text(json.dumps({"boundary_ratio": 0.875}))
    form, params = wan.load_experts(repository)
    assert form.boundary == 0.875
    config, packed, slices = packed_cases(family, PACKED[1])
    form = dataclasses.replace(form, transformer=config)
    predict = functools.partial(experts.predict, config=form)
    found = jax.jit(predict, compiler_options=QUICK)(params, packed)
    seed = {True: judge.HIGH, False: judge.LOW}
    check(
        found,
        PACKED[1],
        slices,
        family,
        config,
        seed=lambda case: seed[case.level >= 0.875],
    )
    index.write_text("{}")
    with pytest.raises(model_io.ModelError, match="boundary_ratio is None"):
        wan.load_experts(repository)


def test_fields_without_effect_are_left():
    values = judge.SMALL["wan2.1"]
    others = {
        "_diffusers_version": "0.33",
        "rope_max_seq_len": 512,
        "vace_layers": None,
    }
    assert transformer.parse_config(values | others) == transformer.parse_config(values)


@pytest.mark.parametrize("boundary", [1.5, 0.0, float("nan")])
def test_a_boundary_is_refused_before_weights_are_read(tmp_path, boundary):
    """There are none to read."""
    for name in ("transformer", "transformer_2"):
        (tmp_path / name).mkdir()
        text = json.dumps(judge.SMALL["wan2.1"])
        (tmp_path / name / "config.json").write_text(text)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"boundary_ratio": boundary}))
    message = f"model_index.json: boundary_ratio: boundary {boundary}: use one between"
    with pytest.raises(model_io.ModelError, match=message):
        wan.load_experts(tmp_path)


@pytest.mark.parametrize("name", sorted(judge.FULL))
def test_variants_are_the_published_ones(name):
    variant = dit.VARIANTS[name]
    assert transformer.parse_config(judge.FULL[name]) == variant
    assert transformer.parse_config(transformer.format_config(variant)) == variant
    shapes = shapes_of(variant)
    like = tensor_map.expected(transformer.entries(variant), shapes)
    published = {
        "wan2_1_t2v_1_3b": (1_418_996_800, 825),
        "wan2_1_t2v_14b": (14_288_491_584, 1_095),
        "wan2_2_ti2v_5b": (4_999_787_712, 825),
    }
    count = sum(a.size for a in like.values())
    assert (count, len(like)) == published[name]
    assert sum(leaf.size for leaf in shapes.values()) == count
    assert flops.transformer_parameters(variant) == count


def same(tree, expected):
    flat = model_io.flatten(tree)
    for name, leaf in model_io.flatten(expected).items():
        np.testing.assert_array_equal(flat[name], leaf)
    return True


@pytest.mark.parametrize(
    "axes", [{"fsdp": 2}, {"data": 2, "fsdp": 2, "tensor": 2}, {"tensor": 2}], ids=str
)
def test_a_mesh_holds_what_the_host_would(theirs, axes):
    """On meshes of 2 and 8 devices; what is copied is read once."""
    devices = jax.devices()[: np.prod(list(axes.values()))]
    if "fsdp" not in axes:
        axes = axes | {"fsdp": 1}
    mesh = sharding.make_mesh(**axes, devices=devices)
    config, whole = wan.load_transformer(theirs)
    _, params = wan.load_transformer(theirs, mesh=mesh)
    places = abstract.transformer_shardings(config, mesh)
    for leaf, place in zip(
        jax.tree.leaves(params), jax.tree.leaves(places), strict=True
    ):
        assert leaf.sharding == place and leaf.dtype == jnp.float32
    kernel = params["stack"]["blocks"]["mlp"]["up"]["kernel"]
    split = mesh.shape["fsdp"] * mesh.shape["tensor"]
    assert kernel.addressable_shards[0].data.size * split == kernel.size
    assert same(params, whole)


@pytest.fixture
def reads(monkeypatch):
    """Bytes of every read of a tensor, in order."""
    found = []
    read = files.Tensor.read

    def counted(self, index):
        part = read(self, index)
        found.append(part.nbytes)
        return part

    monkeypatch.setattr(files.Tensor, "read", counted)
    return found


def test_the_host_reads_one_layer_of_one_shard_at_a_time(theirs, reads):
    """Everything once, and nothing whole."""
    total = sum(
        t.nbytes
        for t in safetensors.numpy.load_file(theirs / f"{STEM}.safetensors").values()
    )
    mesh = sharding.make_mesh(fsdp=2, data=4)
    config, params = wan.load_transformer(theirs, mesh=mesh)
    assert sum(reads) <= 1.05 * total
    largest = params["levels"]["projection"]["kernel"].nbytes
    assert max(reads) == largest // 2
    layer = params["stack"]["blocks"]["mlp"]["up"]["kernel"].nbytes // config.depth
    assert reads.count(layer // 2) >= 4 * config.depth
    reads.clear()
    wan.load_transformer(theirs)
    assert sum(reads) == total


def test_no_more_than_one_shard_is_staged(theirs, monkeypatch):
    """Peak of what was read and is not yet on its devices."""
    staged, put = [], jax.device_put

    def counted(values, device, **how):
        staged.append(values.nbytes)
        return put(values, device, **how)

    monkeypatch.setattr(tensor_map.jax, "device_put", counted)
    mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    _, params = wan.load_transformer(theirs, mesh=mesh)
    shards = [
        s.data.nbytes for p in jax.tree.leaves(params) for s in p.addressable_shards
    ]
    assert sorted(staged) == sorted(shards)
    assert max(staged) < 0.05 * sum(p.nbytes for p in jax.tree.leaves(params))


@pytest.mark.parametrize("most", [1, 30_000, 10**9])
def test_files_become_ours_and_theirs_again(family, theirs, tmp_path, most):
    converted: Any = wan.convert(theirs, tmp_path / "ours", family=family)
    loaded = models.load_transformer(tmp_path / "ours")
    assert loaded.config == converted.config
    assert loaded.digest == converted.digest
    wan.export(
        tmp_path / "ours", tmp_path / "back", family=family, max_shard_bytes=most
    )
    wan.export(
        tmp_path / "ours", tmp_path / "back", family=family, max_shard_bytes=most
    )
    paths = sorted((tmp_path / "back").glob("*.safetensors"))
    back = {}
    for path in paths:
        part = safetensors.numpy.load_file(path)
        assert len(part) == 1 or sum(t.nbytes for t in part.values()) <= most
        back |= part
    tensors = safetensors.numpy.load_file(theirs / f"{STEM}.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
    assert (len(paths) > 1) == (tmp_path / "back" / f"{STEM}{files.INDEX}").is_file()
    again = wan.load_transformer(tmp_path / "back")
    assert again[0] == loaded.config and same(again[1], loaded.params)


def test_sharded_parameters_are_saved_as_whole_ones(theirs, tmp_path):
    mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    config, params = wan.load_transformer(theirs, mesh=mesh)
    wan.save_transformer(
        tmp_path / "back", params, config=config, max_shard_bytes=30_000
    )
    assert same(wan.load_transformer(tmp_path / "back")[1], params)
    with pytest.raises(model_io.ModelError, match="is not empty"):
        wan.save_transformer(tmp_path / "back", params, config=config)


def test_half_precision_is_read(family, tmp_path):
    tensors = tensors_of(sizes_of(family))
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}
    theirs = save(tmp_path / "theirs", family, half)
    mesh = sharding.make_mesh(fsdp=2, data=4)
    _, params = wan.load_transformer(theirs, mesh=mesh)
    kernel = params["stack"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.dtype == jnp.float32
    expected = half["blocks.1.ffn.net.0.proj.weight"].astype(np.float32)
    np.testing.assert_array_equal(kernel[1], expected.T)


def _without(tensors):
    del tensors["blocks.1.attn2.to_q.bias"]


def _extra(tensors):
    tensors["blocks.9.attn2.to_q.bias"] = np.zeros(1, np.float32)


def _misshapen(tensors):
    tensors["proj_out.bias"] = np.zeros(7, np.float32)


def _infinite(tensors):
    tensors["blocks.1.norm2.bias"][3] = np.nan


def _whole(tensors):
    tensors["proj_out.bias"] = tensors["proj_out.bias"].astype(np.int32)


DAMAGE = [
    (_without, r"blocks\.1\.attn2\.to_q\.bias is missing"),
    (_extra, r"blocks\.9\.attn2\.to_q\.bias is unknown"),
    (_misshapen, r"proj_out\.bias has shape \(7,\), not \(16,\)"),
    (_infinite, r"blocks\.1\.norm2\.bias is not finite"),
    (_whole, r"proj_out\.bias is of I32; those read: F64, F32, F16, BF16"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damaged_weights_are_named_and_nothing_is_written(tmp_path, damage, message):
    tensors = tensors_of(sizes_of("wan2.1"))
    damage(tensors)
    theirs = save(tmp_path / "theirs", "wan2.1", tensors)
    with pytest.raises(model_io.ModelError, match=message):
        wan.convert(theirs, tmp_path / "ours", family="wan2.1")
    mesh = sharding.make_mesh(fsdp=2, data=4)
    with pytest.raises(model_io.ModelError, match=message):
        wan.load_transformer(theirs, mesh=mesh)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "WanVACETransformer3DModel"}, "of class WanVACE"),
        ({"image_dim": 1280}, "4 input channels: an image-to-video transformer"),
        ({"added_kv_proj_dim": 5120}, "added_kv_proj_dim is 5120, not None"),
        ({"in_channels": 36}, "36 input channels: an image-to-video transformer"),
        ({"in_channels": 8}, "8 input channels: a transformer with a control video"),
        ({"qk_norm": None}, "qk_norm is None, not 'rms_norm_across_heads'"),
        ({"cross_attn_norm": False}, "cross_attn_norm is False, not True"),
        ({"eps": 1e-5}, "eps is 1e-05, not 1e-06"),
        ({"num_layers": "2"}, "num_layers is '2', not a number"),
        ({"num_layers": 0}, "depth 0: use 1 or more"),
        ({"attention_head_dim": 15}, "2 heads do not divide width 30"),
        ({"patch_size": [1, 2]}, r"patch_size is \[1, 2\], not three whole"),
        ({"patch_size": 2}, "patch_size is 2, not three whole numbers"),
        ({"patch_size": [[1], 2, 2]}, r"patch_size is \[\[1\], 2, 2\], not three"),
        ({"patch_size": None}, "patch_size is None, not three whole numbers"),
        ({"patch_size": [1, 2.0, 2]}, r"patch_size is \[1, 2\.0, 2\], not three"),
        ({"patch_size": [1, 0, 2]}, r"patch \(1, 0, 2\): use \(1, 1, 2\)"),
        ({"vace_layers": [0, 5]}, r"vace_layers is \[0, 5\], which no module"),
        ({"guidance_embeds": False}, "guidance_embeds is False, which no module"),
    ],
)
def test_other_configurations_are_refused(tmp_path, changes, message):
    theirs = save(tmp_path / "theirs", "wan2.1", {}, **changes)
    for read in (wan.convert, wan.load_transformer):
        more = {} if read is wan.load_transformer else {"family": "wan2.1"}
        more = {"out": tmp_path / "ours", **more} if more else {}
        with pytest.raises(model_io.ModelError, match=message):
            read(theirs, **more)


@pytest.fixture
def shards(theirs, tmp_path):
    """A copy in several files, its index, and a way to write that."""
    config, params = wan.load_transformer(theirs)
    wan.save_transformer(
        tmp_path / "shards", params, config=config, max_shard_bytes=30_000
    )
    path = tmp_path / "shards" / f"{STEM}{files.INDEX}"
    return tmp_path / "shards", path, json.loads(path.read_text())


def test_an_index_must_say_what_its_files_hold(shards):
    folder, path, index = shards
    places = index["weight_map"]
    total = sum(t.size * 4 for _, t in _all(folder))
    assert index["metadata"]["total_size"] == total
    name, place = next(iter(places.items()))
    other = next(p for p in places.values() if p != place)

    def refused(changes, message, *, error=model_io.ModelError):
        path.write_text(json.dumps({"weight_map": places | changes}))
        with pytest.raises(error, match=message):
            wan.load_transformer(folder)

    refused({name: other}, f"says nothing of {name} in {place}")
    refused({"more": place}, f"{place}: more is missing")
    refused({"more": "../x.safetensors"}, "'../x.safetensors' is no file beside it")
    absent = "absent.safetensors"
    refused({"more": absent}, f"{absent}: missing", error=FileNotFoundError)
    path.write_text("{}")
    with pytest.raises(model_io.ModelError, match="has no weight_map"):
        wan.load_transformer(folder)
    path.unlink()
    wan.load_transformer(folder)
    twice = safetensors.numpy.load_file(folder / place)
    safetensors.numpy.save_file({name: twice[name]}, folder / "more.safetensors")
    with pytest.raises(model_io.ModelError, match=f"{name} is in another file"):
        wan.load_transformer(folder)


def _all(folder):
    for path in folder.glob("*.safetensors"):
        yield from safetensors.numpy.load_file(path).items()


def test_files_beside_those_of_the_index_are_left_alone(shards):
    folder, path, index = shards
    other = folder / f"{STEM}.fp16.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(1, np.float16)}, other)
    wan.load_transformer(folder)
    path.with_name(f"other{files.INDEX}").write_text(json.dumps(index))
    with pytest.raises(model_io.ModelError, match="remove all but one"):
        wan.load_transformer(folder)


def test_pickled_weights_are_refused(tmp_path):
    folder = tmp_path / "transformer"
    folder.mkdir()
    values = {"_class_name": transformer.CLASS} | judge.SMALL["wan2.1"]
    (folder / "config.json").write_text(json.dumps(values))
    (folder / f"{STEM}.bin").write_bytes(b"\x80\x02")
    with pytest.raises(model_io.ModelError, match="are not read; convert it once"):
        wan.convert(folder, tmp_path / "ours", family="wan2.1")
    with pytest.raises(model_io.ModelError, match=r"has no model_index\.json"):
        wan.convert(tmp_path, tmp_path / "ours", family="wan2.1")
    for path in (folder, tmp_path):
        with pytest.raises(model_io.ModelError, match="are not read; convert it once"):
            wan.load_transformer(path)


@pytest.mark.parametrize(
    "changes",
    [{"input_skip": True}, {"pooled_text": True}, {"theta": 10.0}, {"text": "small"}],
    ids=str,
)
def test_our_own_forms_are_refused(tmp_path, changes):
    (name,) = changes
    config = sizes_of("wan2.1")
    if name == "text":
        small = dit.VARIANTS["small"]
        changes = {"text": small.text, "text_width": small.text_width}
    config = dataclasses.replace(config, **changes)
    with pytest.raises(model_io.ModelError, match=f"Wan's form: {name} is"):
        wan.save_transformer(tmp_path / "out", {}, config=config)
    assert not (tmp_path / "out").exists()
