"""Wan's autoencoder in diffusers (PyTorch) and ours, with the same random weights."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

import dataclasses
from collections.abc import Callable
from typing import Any

import diffusers
import jax
import numpy as np
import torch

from soraflax.nn import autoencoder
from soraflax.weights.wan import autoencoder as wan_autoencoder

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same autoencoder in PyTorch and in JAX.

    Attributes:
      theirs: the PyTorch module.
      module: the Linen module.
      params: parameters of `module`, on the device.
    """

    theirs: Any
    module: autoencoder.Autoencoder
    params: Any

    @property
    def config(self) -> autoencoder.AutoencoderConfig:
        return self.module.config

    def encode_and_decode(self, video: torch.Tensor) -> tuple[Any, Any]:
        """Posterior mean and reconstruction in PyTorch, `[B, C, T, H, W]`."""
        with torch.no_grad():
            mean = self.theirs.encode(video).latent_dist.mean
            return mean, self.theirs.decode(mean).sample


def narrowed(
    config: autoencoder.AutoencoderConfig, width: int
) -> autoencoder.AutoencoderConfig:
    """The same form with `width` channels at its finest encoder stage."""
    decoder = config.decoder_width
    if decoder is not None:
        decoder = round(decoder * width / config.width / 4) * 4
    return dataclasses.replace(config, width=width, decoder_width=decoder)


def make(config: autoencoder.AutoencoderConfig, *, seed: int = 0) -> Pair:
    """Both modules, every parameter random, norms' and biases' too."""
    torch.manual_seed(seed)
    values = wan_autoencoder.format_config(config, None)
    del values["_class_name"]
    theirs = diffusers.AutoencoderKLWan(**values).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.uniform_(-0.2, 0.2)
    tensors = {name: t.numpy() for name, t in theirs.state_dict().items()}
    params = jax.device_put(wan_autoencoder.autoencoder_from_tensors(tensors, config))
    return Pair(theirs, autoencoder.Autoencoder(config), params)


def compiled(
    pair: Pair, video: np.ndarray, *, dtype: str
) -> Callable[[], torch.Tensor]:
    """Encode and decode by `torch.compile`, on the accelerator where there is one.

    The call waits for the device and returns the video, float32 on the host.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = getattr(torch, dtype)
    module = pair.theirs.to(device, kind)
    x = channels_first(video).to(device, kind)

    @torch.compile
    def run(x: torch.Tensor) -> torch.Tensor:
        return module.decode(module.encode(x).latent_dist.mean).sample

    def call() -> torch.Tensor:
        with torch.no_grad():
            return run(x).float().cpu()

    return call


def adamw(module: Any, *, rate: float) -> Any:
    """PyTorch's optimizer of all parameters of a module."""
    return torch.optim.AdamW(module.parameters(), lr=rate)


def video(shape: Shape, *, seed: int = 0) -> np.ndarray:
    """`[1, T, H, W, 3]`, float32 in [-1, 1]: moving waves and some noise."""
    rng = np.random.default_rng(seed)
    time, row, column = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    slopes = rng.uniform(0.0, 0.5, (3, 2))
    waves = [np.sin(0.3 * time + a * row + b * column) for a, b in slopes]
    noise = rng.uniform(-0.2, 0.2, (*shape, 3))
    return (0.8 * np.stack(waves, axis=-1) + noise)[None].astype(np.float32)


def channels_first(video: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.einsum("bthwc->bcthw", video).copy())


def channels_last(video: torch.Tensor) -> np.ndarray:
    return np.einsum("bcthw->bthwc", video.numpy())
