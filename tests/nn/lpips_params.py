"""Random LPIPS parameters, as `nn.perceptual` takes them."""

from typing import Any

import jax
import numpy as np

from soraflax.nn import perceptual


def random(seed: int = 0) -> Any:
    """Layers that keep the size of their input, small biases, non-negative heads."""
    rng = np.random.default_rng(seed)

    def leaf(path: Any, like: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(like.shape) == 4:
            fan_in = np.prod(like.shape[:3])
            return _normal(rng, like.shape) * np.float32(np.sqrt(2.0 / fan_in))
        if path[0].key == "heads":
            return np.abs(_normal(rng, like.shape))
        return 0.1 * _normal(rng, like.shape)

    return jax.tree_util.tree_map_with_path(leaf, perceptual.shapes())


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def tensors(params: Any, *, prefixed: bool = False) -> dict[str, np.ndarray]:
    """The same under the names of torchvision, or of the lpips package."""
    actual, at = {}, 0
    for number, stage in enumerate(params["stages"], start=1):
        for layer in stage:
            name = f"net.slice{number}.{at}" if prefixed else f"features.{at}"
            kernel = np.einsum("hwio->oihw", layer["kernel"])
            actual[f"{name}.weight"] = np.ascontiguousarray(kernel)
            actual[f"{name}.bias"] = layer["bias"]
            at += 2
        at += 1
    for k, head in enumerate(params["heads"]):
        actual[f"lin{k}.model.1.weight"] = head.reshape(1, -1, 1, 1)
    return actual
