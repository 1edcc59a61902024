"""LPIPS against the paper's formula in PyTorch, on the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from soraflax.nn import perceptual
from soraflax.weights import lpips
from tests.nn import lpips_params

POOLS_BEFORE = (5, 10, 17, 24)
LAST = (2, 7, 14, 21, 28)


def _torch_distance(tensors, a, b):
    """Equation (1) of arXiv:1801.03924 over channels-first images in [-1, 1]."""
    shift = torch.tensor(perceptual.SHIFT).reshape(1, 3, 1, 1)
    scale = torch.tensor(perceptual.SCALE).reshape(1, 3, 1, 1)
    found = torch.zeros(a.shape[0])
    stages = [[], []]
    for side, x in zip(stages, (a, b), strict=True):
        x = (x - shift) / scale
        for at in sorted({int(k.split(".")[1]) for k in tensors if k[0] == "f"}):
            if at in POOLS_BEFORE:
                x = torch.nn.functional.max_pool2d(x, 2)
            weight, bias = (tensors[f"features.{at}.{p}"] for p in ("weight", "bias"))
            x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1))
            if at in LAST:
                side.append(x / x.square().sum(1, keepdim=True).sqrt().add(1e-10))
    for k, (f, g) in enumerate(zip(*stages, strict=True)):
        head = tensors[f"lin{k}.model.1.weight"]
        found = found + torch.nn.functional.conv2d((f - g) ** 2, head).mean((1, 2, 3))
    return found


def _norms(videos):
    """Of each frame."""
    return np.sqrt(np.square(videos).sum((2, 3, 4))).ravel()


@pytest.mark.parametrize(("height", "width"), [(32, 48), (37, 50)])
def test_distance_and_gradient_equal_pytorch(tmp_path, height, width):
    flat = lpips_params.tensors(lpips_params.random(), prefixed=False)
    path = tmp_path / "lpips.safetensors"
    safetensors.numpy.save_file(flat, path)
    params = lpips.load_lpips(path)
    rng = np.random.default_rng(1)
    a = rng.uniform(-1, 1, (2, 3, height, width, 3)).astype(np.float32)
    b = (a + 0.2 * rng.standard_normal(a.shape)).astype(np.float32)

    def total(x):
        found = perceptual.distance(x, jnp.asarray(b), params=params)
        return found.sum(), found

    slope, found = jax.jit(jax.grad(total, has_aux=True))(a)
    tensors = {name: torch.from_numpy(value) for name, value in flat.items()}
    images = torch.from_numpy(a).requires_grad_()
    x, y = (v.flatten(0, 1).permute(0, 3, 1, 2) for v in (images, torch.from_numpy(b)))
    true = _torch_distance(tensors, x, y).reshape(2, 3).mean(1)
    true.sum().backward()
    np.testing.assert_allclose(found, true.detach().numpy(), rtol=1e-4)
    expected = images.grad.numpy()
    errors = np.sort(_norms(np.asarray(slope) - expected) / _norms(expected))
    # A rectifier or a pool within rounding of its kink may fall either way: one frame.
    assert errors[-2] < 1e-4 and errors[-1] < 0.1
