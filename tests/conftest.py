"""Every test runs on eight fake CPU devices, with strict dtypes and checked shapes."""

import os
import pathlib
import sys
import types
from importlib import metadata
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = [
    "--xla_force_host_platform_device_count=8",
    # Tests compile far longer than they run. What was compiled is not kept on disk:
    # programs of several devices that a CPU loads from there can wait for each other
    # forever, as their collectives come in another order (jax 0.10.2).
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if metadata.version("jaxlib").startswith("0.10."):  # 0.11 does not know it
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # half of compiling
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

import beartype  # noqa: E402
import hypothesis  # noqa: E402
import jaxtyping  # noqa: E402

# No test is timed: what compiles, or runs beside others, takes as long as it takes.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Annotations hold: the shapes of arrays, and all other types. As type checkers have it,
# an int passes for a float (PEP 484). The hook takes the dotted name of a checker.
checker: Any = types.ModuleType("checker")
checker.check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
sys.modules["checker"] = checker
# Not sharding and flops, whose tests pass meshes of no devices and wrong words, nor
# records: a sequence is checked by an entry drawn at random, which reads the disk.
jaxtyping.install_import_hook(
    [
        "soraflax.ops",
        "soraflax.diffusion",
        "soraflax.nn",
        "soraflax.media",
        "soraflax.evaluation",
        "soraflax.autoencoding",
        "soraflax.weights",
        "soraflax.pretrained",
        "soraflax.tokenizer",
        "soraflax.config",
        "data_pipelines.builders",
        "data_pipelines.cropping",
        "data_pipelines.curate",
        "data_pipelines.inspection",
        "data_pipelines.latents",
        "data_pipelines.packing",
        "data_pipelines.pipeline",
        "data_pipelines.prepare",
        "data_pipelines.sources",
        "data_pipelines.text_features",
        "data_pipelines.transforms",
        "data_pipelines.vocabulary",
        "data_pipelines.worlds",
    ],
    "checker.check",
)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")

TESTS = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow what `slow.txt` names."""
    lines = (TESTS / "slow.txt").read_text().splitlines()
    slow = tuple(line for line in lines if not line.startswith("#"))
    for item in items:
        names = item.nodeid.split("::")[1:]
        name = "::".join([str(item.path.relative_to(TESTS)), *names])
        if name.startswith(slow):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
