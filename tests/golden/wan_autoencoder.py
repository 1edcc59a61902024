"""Wan's autoencoders in diffusers with random weights, and the cases they judge.

Weights and videos follow from seeds, so `wan_autoencoder.npz` holds no more than what
diffusers made of them at reduced width. Make it again when a case is added:

    pip install -e .[parity] && python -m tests.golden.wan_autoencoder
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

GOLDEN = pathlib.Path(__file__).with_suffix(".npz")

SMALL = {
    "wan2.1": {"base_dim": 8, "z_dim": 4, "num_res_blocks": 1},
    "wan2.2": {
        "base_dim": 8,
        "decoder_base_dim": 12,
        "z_dim": 4,
        "num_res_blocks": 1,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
    },
}
FULL = {
    "wan2.1": {},
    "wan2.2": {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
    },
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A video's sizes: frames, height, width in units of the spatial ratio."""

    frames: int
    height: int
    width: int


CASES = (Case(1, 3, 2), Case(5, 2, 3), Case(17, 1, 3), Case(33, 3, 1))


def tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random weights under diffusers' names; each depends on its name alone."""
    found = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        values = rng.random(shape, np.float32)
        if name.endswith("gamma"):
            found[name] = 0.5 + values
        elif name.endswith("bias"):
            found[name] = 0.4 * values - 0.2
        else:
            bound = (3.0 / np.prod(shape[1:])) ** 0.5
            found[name] = ((2 * values - 1) * bound).astype(np.float32)
    return found


def config(sizes: dict[str, Any]) -> dict[str, Any]:
    """`config.json`, with random latent statistics."""
    z = sizes.get("z_dim", 16)
    rng = np.random.default_rng(0)
    mean, std = rng.random(z) - 0.5, rng.random(z) + 0.5
    return sizes | {"latents_mean": mean.tolist(), "latents_std": std.tolist()}


def make(sizes: dict[str, Any]) -> Any:
    """The model in diffusers."""
    import diffusers
    import torch

    model = diffusers.AutoencoderKLWan(**config(sizes)).eval()
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    state = {name: torch.from_numpy(t) for name, t in tensors(shapes).items()}
    model.load_state_dict(state)
    return model


def video(case: Case, ratio: int, *, seed: int = 1) -> np.ndarray:
    """`[1, T, H, W, 3]` in [-1, 1]: smooth, moving, with some noise."""
    rng = np.random.default_rng(seed)
    t, h, w = case.frames, case.height * ratio, case.width * ratio
    time, row, column = np.meshgrid(*(np.arange(n) for n in (t, h, w)), indexing="ij")
    waves = [
        np.sin(0.3 * time + a * row + b * column) for a, b in 0.5 * rng.random((3, 2))
    ]
    noise = rng.random((t, h, w, 3)) - 0.5
    return np.clip(0.6 * np.stack(waves, -1) + 0.3 * noise, -1, 1)[None].astype("f4")


def run(model: Any, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean `[1, t, h, w, z]` and the video decoded from it, clipped."""
    import torch

    x = torch.from_numpy(np.einsum("bthwc->bcthw", pixels).copy())
    with torch.no_grad():
        mean = model.encode(x).latent_dist.mean
        decoded = model.decode(mean).sample
    to_ours = "bcthw->bthwc"
    return np.einsum(to_ours, mean.numpy()), np.einsum(to_ours, decoded.numpy())


def main() -> None:
    found = {}
    for family, sizes in SMALL.items():
        model = make(sizes)
        for at, case in enumerate(CASES):
            ratio = sizes.get("scale_factor_spatial", 8)
            mean, decoded = run(model, video(case, ratio))
            found[f"{family}/{at}/mean"] = mean
            found[f"{family}/{at}/video"] = decoded[:, :, ::4, ::4]
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
