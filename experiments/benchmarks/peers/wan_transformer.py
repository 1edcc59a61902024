"""Wan's transformer in diffusers (PyTorch) and ours, with the same random weights."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import torch

from experiments.benchmarks.peers import wan_clips as clips
from soraflax.nn import dit
from soraflax.weights import files
from soraflax.weights.wan import transformer

TIMESTEPS = 1000.0  # noise level 1 as the timestep that Wan is trained with


def make(
    config: dit.DiTConfig, *, seed: int = 0, device: str = "cpu"
) -> tuple[Any, dict[str, Any]]:
    """The PyTorch module on its device, and our parameters on the host."""
    torch.manual_seed(seed)
    values = transformer.format_config(config)
    del values["_class_name"]
    theirs: Any = diffusers.WanTransformer3DModel(**values)
    tensors = {name: t.numpy().copy() for name, t in theirs.state_dict().items()}
    params = transformer.from_tensors(files.in_memory(tensors), config)
    return theirs.to(device), params


def train_step(
    theirs: Any,
    batches: Sequence[clips.Batch],
    *,
    rate: float,
    compile: bool,
    dtype: str,
) -> Callable[[], float]:
    """A call that trains `theirs` for one step, and gives its loss.

    One batch after another, none padded, gradients added up: the mean is over the
    tokens of all of them.
    """
    device = next(theirs.parameters()).device
    move = lambda a: torch.from_numpy(np.ascontiguousarray(a)).to(device)  # noqa: E731
    rule = torch.optim.AdamW(theirs.parameters(), lr=rate, fused=device.type == "cuda")
    half = dtype == "bfloat16"

    def loss(x: Any, times: Any, text: Any, target: Any) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            prediction = theirs(x, times, text).sample
        return torch.nn.functional.mse_loss(prediction.float(), target)

    forward = torch.compile(loss, dynamic=False) if compile else loss
    total = sum(batch.latent.size for batch in batches)
    inputs = [
        (
            batch.latent.size / total,
            move(np.einsum("bthwz->bzthw", batch.latent)),
            move(TIMESTEPS * batch.level),
            move(batch.text),
            move(np.einsum("bthwz->bzthw", batch.target)),
        )
        for batch in batches
    ]

    def step() -> float:
        rule.zero_grad(set_to_none=True)
        loss_sum = torch.zeros((), device=device)
        for weight, *arguments in inputs:
            value = weight * forward(*arguments)
            value.backward()
            loss_sum += value.detach()
        rule.step()
        return float(loss_sum)

    return step
