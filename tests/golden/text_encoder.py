"""Text encoders of the T5 family in transformers, and the captions they judge.

Weights and token ids follow from seeds, so `text_encoder.npz` holds no more than what
transformers made of them at reduced width. Make it again when a case is added:

    pip install -e .[parity] && python -m tests.golden.text_encoder
"""

import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

GOLDEN = pathlib.Path(__file__).with_suffix(".npz")
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 3,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}
KINDS = ("t5", "umt5")
# The last two reach the logarithmic buckets, and the last of them all.
LENGTHS = (1, 2, 7, 33, 150)


def tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random weights under transformers' names; each depends on its name."""
    found = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        values = rng.standard_normal(shape, np.float32)
        if "norm" in name:
            found[name] = 1 + 0.3 * values
        elif "bias" in name or "shared" in name:
            found[name] = values
        else:
            found[name] = values * np.float32(shape[1] ** -0.5)
    return found


def make(kind: str, sizes: Mapping[str, Any] = SIZES) -> Any:
    """The encoder in transformers."""
    import torch
    import transformers

    if kind == "t5":
        model = transformers.T5EncoderModel(transformers.T5Config(**sizes))
    else:
        model = transformers.UMT5EncoderModel(transformers.UMT5Config(**sizes))
    tied = "encoder.embed_tokens.weight"
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items() if n != tied}
    state = {name: torch.from_numpy(t) for name, t in tensors(shapes).items()}
    missing = model.load_state_dict(state | {tied: state["shared.weight"]})
    assert not missing.unexpected_keys
    return model.eval()


def caption(length: int, vocabulary: int = SIZES["vocab_size"]) -> np.ndarray:
    """int32 ids of a caption."""
    return np.random.default_rng(length).integers(1, vocabulary, length, np.int32)


def run(model: Any, lengths: tuple[int, ...]) -> list[np.ndarray]:
    """What transformers makes of captions padded to the longest, without padding."""
    import torch

    most = max(lengths)
    ids = np.zeros((len(lengths), most), np.int64)
    vocabulary = model.config.vocab_size
    for row, length in enumerate(lengths):
        ids[row, :length] = caption(length, vocabulary)
    mask = np.arange(most) < np.array(lengths)[:, None]
    with torch.no_grad():
        out = model(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))
    features = out.last_hidden_state.numpy()
    return [features[row, :length] for row, length in enumerate(lengths)]


def key(kind: str, length: int) -> str:
    """Where the golden file has a caption."""
    return f"{kind}/{length}"


def main() -> None:
    found = {}
    for kind in KINDS:
        features = run(make(kind), LENGTHS)
        found |= {key(kind, n): f for n, f in zip(LENGTHS, features, strict=True)}
    np.savez_compressed(GOLDEN, **found)


if __name__ == "__main__":
    main()
