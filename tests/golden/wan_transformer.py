"""Wan's transformers in diffusers with random weights, and the clips they judge.

Weights and inputs follow from seeds, so `wan_transformer.npz` holds no more than what
diffusers made of them at reduced width. Make it again when a case is added:

    pip install -e .[parity] && python -m tests.golden.wan_transformer
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from soraflax.ops import packing, patch

GOLDEN = pathlib.Path(__file__).with_suffix(".npz")
TEXT = 512
TRAINED = 1000.0

# Head sizes 16 and 22 share their pairs differently between time, height and width.
SMALL: dict[str, dict[str, Any]] = {
    "wan2.1": {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 8,
        "freq_dim": 32,
        "ffn_dim": 48,
        "num_layers": 2,
    },
    "wan2.2": {
        "num_attention_heads": 3,
        "attention_head_dim": 22,
        "in_channels": 6,
        "out_channels": 6,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 64,
        "num_layers": 3,
    },
}
# What differs in the published `config.json` files from diffusers' defaults.
FULL: dict[str, dict[str, Any]] = {
    "wan2_1_t2v_1_3b": {
        "num_attention_heads": 12,
        "ffn_dim": 8960,
        "num_layers": 30,
    },
    "wan2_1_t2v_14b": {},
    "wan2_2_ti2v_5b": {
        "num_attention_heads": 24,
        "in_channels": 48,
        "out_channels": 48,
        "ffn_dim": 14336,
        "num_layers": 30,
    },
}
# Weights of `high` and `low` of two experts; the first is also the only transformer.
HIGH, LOW = 0, 1


@dataclasses.dataclass(frozen=True)
class Case:
    """A latent's sizes, its noise level, how many frames are known, and its caption."""

    frames: int
    height: int
    width: int
    level: float
    known: int = 0
    text: int = 5


CASES = (
    Case(1, 6, 4, 0.9),
    Case(3, 4, 10, 0.5, text=1),
    Case(2, 14, 2, 0.02, text=512),
    Case(5, 4, 6, 0.7, known=1),
    Case(4, 6, 6, 1.0, known=2, text=9),
)


def tensors(
    shapes: Mapping[str, tuple[int, ...]], *, seed: int = HIGH
) -> dict[str, np.ndarray]:
    """Random weights under diffusers' names; each depends on its name and the seed."""
    found = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
        values = rng.random(shape, np.float32)
        if "norm" in name and name.endswith("weight"):
            found[name] = 0.5 + values
        elif name.endswith("bias"):
            found[name] = 0.4 * values - 0.2
        elif name.endswith("table"):
            found[name] = values - 0.5
        else:
            bound = (3.0 / np.prod(shape[1:])) ** 0.5
            found[name] = ((2 * values - 1) * bound).astype(np.float32)
    return found


def make(sizes: dict[str, Any], *, seed: int = HIGH) -> Any:
    """The model in diffusers."""
    import diffusers
    import torch

    model = diffusers.WanTransformer3DModel(**sizes).eval()
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    state = tensors(shapes, seed=seed)
    model.load_state_dict({k: torch.from_numpy(t) for k, t in state.items()})
    return model


def inputs(case: Case, sizes: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Latent `[t, h, w, z]`, and text features `[512, E]`, zero past the caption."""
    rng = np.random.default_rng(1)
    shape = (case.frames, case.height, case.width, sizes["in_channels"])
    latent = rng.standard_normal(shape, np.float32)
    text = np.zeros((TEXT, sizes["text_dim"]), np.float32)
    text[: case.text] = rng.standard_normal((case.text, sizes["text_dim"]))
    return latent, text


def segment(case: Case, sizes: dict[str, Any]) -> packing.Segment:
    """The same as a segment of a row."""
    latent, text = inputs(case, sizes)
    cut = sizes.get("patch_size", (1, 2, 2))
    grid = patch.patch_grid(latent.shape, cut)
    positions = patch.positions(grid)
    known = positions[:, 0] < case.known
    return packing.Segment(patch.patchify(latent, cut), positions, known, text)


def run(model: Any, case: Case, sizes: dict[str, Any]) -> np.ndarray:
    """What diffusers predicts, `[t, h, w, z]`; one timestep a token if some are known.

    Where nothing is known the timestep is one number, as in Wan 2.1.
    """
    import torch

    latent, text = inputs(case, sizes)
    level = TRAINED * np.float32(case.level)
    times = np.array([level], np.float32)
    if case.known:
        times = np.where(segment(case, sizes).cond_mask, np.float32(0), level)[None]
    x = torch.from_numpy(np.einsum("thwz->zthw", latent)[None].copy())
    with torch.no_grad():
        found = model(x, torch.from_numpy(times), torch.from_numpy(text[None]))
    return np.einsum("zthw->thwz", found.sample[0].numpy())


def key(family: str, seed: int, at: int) -> str:
    """Where the golden file has a case."""
    return f"{family}/{seed}/{at}"


def main() -> None:
    found = {}
    for family, sizes in SMALL.items():
        for seed in (HIGH, LOW):
            model = make(sizes, seed=seed)
            for at, case in enumerate(CASES):
                found[key(family, seed, at)] = run(model, case, sizes)
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
