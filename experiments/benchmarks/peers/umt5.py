"""UMT5's encoder in transformers (PyTorch) and ours, with the same random weights."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from soraflax.nn import text_encoder
from soraflax.weights import files, umt5


def make(
    config: text_encoder.TextEncoderConfig, *, seed: int = 0
) -> tuple[Any, dict[str, Any]]:
    """The PyTorch module, and our parameters on the host."""
    torch.manual_seed(seed)
    values = umt5.format_config(config)
    kept = {k: v for k, v in values.items() if k not in ("architectures", "model_type")}
    theirs = transformers.UMT5EncoderModel(transformers.UMT5Config(**kept)).eval()
    tensors = {name: t.numpy().copy() for name, t in theirs.state_dict().items()}
    return theirs, umt5.from_tensors(files.in_memory(tensors), config)


def encode(
    theirs: Any, captions: Sequence[np.ndarray], *, batch: int, dtype: str
) -> Callable[[], list[np.ndarray]]:
    """A call that encodes captions, sorted by length, each batch padded to its longest.

    Args:
      theirs: the PyTorch module.
      captions: int32 ids of every caption.
      batch: captions in a batch.
      dtype: 'float32', or 'bfloat16', to which parameters are cast.
    """
    module = theirs.to(getattr(torch, dtype))
    order = sorted(range(len(captions)), key=lambda i: -len(captions[i]))
    groups = [order[i : i + batch] for i in range(0, len(order), batch)]

    def call() -> list[np.ndarray]:
        found: list[Any] = [None] * len(captions)
        for group in groups:
            most = len(captions[group[0]])
            ids = np.zeros((len(group), most), np.int64)
            for row, index in enumerate(group):
                ids[row, : len(captions[index])] = captions[index]
            lengths = np.array([len(captions[index]) for index in group])
            mask = torch.from_numpy((np.arange(most) < lengths[:, None]).astype(int))
            with torch.inference_mode():
                out = module(torch.from_numpy(ids), mask).last_hidden_state.float()
            for row, index in enumerate(group):
                found[index] = out[row, : len(captions[index])].numpy()
        return found

    return call
