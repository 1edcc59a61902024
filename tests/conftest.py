"""Every test runs on eight fake CPU devices, with strict dtypes and checked shapes."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_backend_optimization_level=0"  # tests compile far longer than they run
)

import sys
import types

import beartype
import jaxtyping

# Annotations hold: the shapes of arrays, and all other types. As type checkers have it,
# an int passes for a float (PEP 484). The hook takes the dotted name of a checker.
checker = types.ModuleType("checker")
checker.check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
sys.modules["checker"] = checker
jaxtyping.install_import_hook(
    [
        "soraflax.ops",
        "soraflax.diffusion",
        "soraflax.media",
        "soraflax.evaluation",
        "soraflax.autoencoding",
        "soraflax.weights",
        "soraflax.pretrained",
        "soraflax.tokenizer",
        "soraflax.config",
        "data_pipelines",
    ],
    "checker.check",
)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
