"""Causal 3-D convolution, space-to-depth and resampling of video `[..., T, H, W, C]`.

A causal convolution sees only frames up to its own:

    y[t] = sum_i  x[s t + i - front] * kernel[i],   x[negative] = 0,              (1)

where `*` is a 2-D convolution over height and width with SAME padding, `s` the stride
in time and `front` the number of zero frames put before the first (kernel size - 1 by
default, which makes (1) causal).

Since (1) is a sum over i of 2-D convolutions, it is one 2-D convolution of the shifted
frames stacked on channels:

    y[t] = concat_i(x[s t + i - front]) * concat_i(kernel[i]).                    (2)

XLA's CPU backend runs (2) about twice as fast as (1), forward and backward; GPUs and
TPUs have good 3-D convolutions and need not store the copies of (2).

Blocks of (time, height, width) become channels unchanged (`space_to_depth`) or as the
coefficients of their cosine transform (`block_cosine`), scaled up by frequency since
the amplitudes of video fall off as 1 / f:

    c[k] = (1 + |k|) mean_n x[n] prod_a u_a(k_a) cos(pi k_a (n_a + 1/2) / N_a),   (3)

with u_a = 1 for k_a = 0 and sqrt(2) otherwise.

`average_down` and `duplicate_up` change resolution and channels at once, without
parameters: a block's values, channel by channel, are averaged in runs of equal length;
or each channel is repeated until a block can be filled (the shortcuts of Wan 2.2, after
DC-AE, arXiv:2410.10733).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

IMPLEMENTATIONS = ("reference", "stacked")
MIN_SUMMED_CHANNELS = 96  # from here on the sum in (1) is faster than the stack in (2)
CACHED_POSITIONS = 1024  # of images, in one product of `_kernel_gradient`
Sides = tuple[tuple[int, int], tuple[int, int]]  # before and after height and width


def default_implementation() -> str:
    """`stacked` on CPU, `reference` elsewhere."""
    return "stacked" if jax.default_backend() == "cpu" else "reference"


def causal_conv3d(
    x: Float[Array, "B T H W C"],
    kernel: Float[Array, "kt kh kw C O"],
    *,
    strides: tuple[int, int, int] = (1, 1, 1),
    front: int | None = None,
    sides: Sides | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T2 H2 W2 O"]:
    """Equation (1): causal in time, SAME in space.

    Args:
      x: videos.
      kernel: time, height, width, channels in, channels out.
      strides: strides in time, height and width.
      front: zero frames before the first; kernel size in time - 1 by default.
      sides: zeros before and after height and width; SAME by default.
      implementation: `reference` is (1), `stacked` is (2); None chooses by backend.

    Raises:
      ValueError: unknown implementation, or fewer frames than the kernel needs.
    """
    taps = kernel.shape[0]
    front = taps - 1 if front is None else front
    if x.shape[1] + front < taps:
        raise ValueError(
            f"{x.shape[1]} frames with {front} in front: a kernel of {taps} frames "
            f"needs at least {taps - front}"
        )
    if sides is None:
        sides = same(x.shape[2:4], kernel.shape[1:3], strides=strides[1:])
    implementation = implementation or default_implementation()
    if implementation == "reference":
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            [(front, 0), *sides],
            dimension_numbers=("NTHWC", "THWIO", "NTHWC"),
        )
    if implementation == "stacked":
        return _stacked(x, kernel, strides, front, sides)
    raise ValueError(f"convolution {implementation!r}: use 'reference' or 'stacked'")


def same(
    sizes: tuple[int, ...], kernel: tuple[int, ...], *, strides: tuple[int, ...]
) -> Sides:
    """Padding of height and width, (before, after) each, of a SAME convolution.

    At stride 2 and even sizes all of it is at the end.

    Args:
      sizes: height and width of the input.
      kernel: height and width of the kernel.
      strides: strides in height and width.
    """
    height, width = jax.lax.padtype_to_pads(sizes, kernel, strides, "SAME")
    return height, width


def _shifted(x: jax.Array, taps: int, *, stride: int, front: int) -> list[jax.Array]:
    """x[s t + i - front] of equation (1) for each i, as images `[B * T2, H, W, C]`."""
    x = jnp.pad(x, [(0, 0), (front, 0), (0, 0), (0, 0), (0, 0)])
    # With tap 0 at frame `last - 1`, the last output has its last tap inside the video.
    last = (x.shape[1] - taps) // stride * stride + 1
    frames = [x[:, i : i + last : stride] for i in range(taps)]
    return [part.reshape(-1, *part.shape[2:]) for part in frames]


def _stacked_convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int, int],
    front: int,
    sides: Sides,
) -> jax.Array:
    """Equation (2), or (1) where frames are wide enough to fill the vector units."""
    taps, channels = kernel.shape[0], kernel.shape[3]
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=strides[1:],
        padding=sides,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    shifted = _shifted(x, taps, stride=strides[0], front=front)
    if channels >= MIN_SUMMED_CHANNELS:
        first, *later = map(convolve, shifted, kernel)
        y = sum(later, start=first)
    else:
        stacked = jnp.concatenate(shifted, axis=-1)
        y = convolve(stacked, jnp.concatenate(list(kernel), axis=-2))
    return y.reshape(x.shape[0], -1, *y.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _stacked(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int, int],
    front: int,
    sides: Sides,
) -> jax.Array:
    """Equation (2); keeps `x` alone for the backward pass, not the shifted copies."""
    return _stacked_convolution(x, kernel, strides, front, sides)


def _stacked_forward(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int, int],
    front: int,
    sides: Sides,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _stacked_convolution(x, kernel, strides, front, sides), (x, kernel)


def _stacked_backward(
    strides: tuple[int, int, int],
    front: int,
    sides: Sides,
    residuals: tuple[jax.Array, jax.Array],
    dy: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    run = functools.partial(
        _stacked_convolution, strides=strides, front=front, sides=sides
    )
    (dx,) = jax.vjp(lambda x: run(x, kernel), x)[1](dy)
    mesh = jax.sharding.get_abstract_mesh()
    if strides[1:] != (1, 1) or not (mesh.empty or mesh.size == 1):
        (dkernel,) = jax.vjp(lambda kernel: run(x, kernel), kernel)[1](dy)
        return dx, dkernel
    shifted = _shifted(x, kernel.shape[0], stride=strides[0], front=front)
    images = jnp.concatenate(shifted, axis=-1)
    return dx, _kernel_gradient(images, dy, kernel=kernel, sides=sides)


_stacked.defvjp(_stacked_forward, _stacked_backward)


def _kernel_gradient(
    images: jax.Array, dy: jax.Array, *, kernel: jax.Array, sides: Sides
) -> jax.Array:
    """Gradient of the kernel at stride 1: one matrix product per kernel position.

    A product runs over as many images as fit in the cache; the products of all images
    at once, and XLA's own gradient, are bound by memory. On one device only: a loop
    over images would gather those that a mesh has distributed.

    Args:
      images: frames stacked as in (2), `[B * T2, H, W, kt * C]`.
      dy: gradient of the output, `[B, T2, H, W, O]`.
      kernel: `[kt, kh, kw, C, O]`; its shape and dtype.
      sides: padding of height and width.
    """
    taps, kh, kw, channels, features = kernel.shape
    images = jnp.pad(images, [(0, 0), *sides, (0, 0)])
    dy = dy.reshape(-1, *dy.shape[2:])
    count, height, width, _ = dy.shape
    fitting = max(1, CACHED_POSITIONS // (height * width))
    group = max(n for n in range(1, count + 1) if count % n == 0 and n <= fitting)
    offsets = [(i, j) for i in range(kh) for j in range(kw)]

    def products(image: jax.Array, dy: jax.Array) -> jax.Array:
        dy = dy.reshape(-1, features).T
        # dkernel[i, j] = sum over positions of dy[h, w] x[h + i, w + j].
        windows = [image[:, i : i + height, j : j + width] for i, j in offsets]
        flat = [window.reshape(-1, taps * channels) for window in windows]
        terms = [jnp.matmul(dy, w, preferred_element_type=jnp.float32) for w in flat]
        return jnp.stack(terms)

    images, dy = (x.reshape(-1, group, *x.shape[1:]) for x in (images, dy))
    total = products(images[0], dy[0])
    if len(images) > 1:
        total, _ = jax.lax.scan(
            lambda total, pair: (total + products(*pair), None),
            total,
            (images[1:], dy[1:]),
        )
    total = total.reshape(kh, kw, features, taps, channels)
    return jnp.einsum("hwotc->thwco", total).astype(kernel.dtype)


def space_to_depth(
    x: Float[Array, "*b T H W C"], block: tuple[int, int, int]
) -> Float[Array, "*b T2 H2 W2 C2"]:
    """Blocks of (time, height, width) become channels, ordered as `block` then C.

    Raises:
      ValueError: a size is not a multiple of its block.
    """
    *batch, frames, height, width, channels = x.shape
    for size, side in zip((frames, height, width), block, strict=True):
        if size % side:
            raise ValueError(f"size {size} is not a multiple of the block's {side}")
    p, q, r = block
    t, h, w = frames // p, height // q, width // r
    y = x.reshape(*batch, t, p, h, q, w, r, channels)
    y = jnp.einsum("...tphqwrc->...thwpqrc", y)
    return y.reshape(*batch, t, h, w, p * q * r * channels)


def depth_to_space(
    x: Float[Array, "*b T H W C"], block: tuple[int, int, int]
) -> Float[Array, "*b T2 H2 W2 C2"]:
    """The inverse of `space_to_depth`.

    Raises:
      ValueError: the channels are not a multiple of the block's volume.
    """
    *batch, t, h, w, depth = x.shape
    p, q, r = block
    if depth % (p * q * r):
        raise ValueError(f"{depth} channels are not a multiple of {p * q * r}")
    channels = depth // (p * q * r)
    y = x.reshape(*batch, t, h, w, p, q, r, channels)
    y = jnp.einsum("...thwpqrc->...tphqwrc", y)
    return y.reshape(*batch, t * p, h * q, w * r, channels)


def block_cosine(
    x: Float[Array, "*b T H W C"], block: tuple[int, int, int]
) -> Float[Array, "*b T2 H2 W2 C2"]:
    """Equation (3) of each block: channels ordered as in `space_to_depth`.

    The mean and the details of a block get about the same scale.
    """
    y = space_to_depth(x, block)
    y = y.reshape(*y.shape[:-1], *block, x.shape[-1])
    p, q, r = (jnp.asarray(_cosines(n) / n, x.dtype) for n in block)
    y = jnp.einsum("...pqrc,ip,jq,kr->...ijkc", y, p, q, r)
    y = y * jnp.asarray(1.0 + block_frequencies(block)[..., None], x.dtype)
    return y.reshape(*y.shape[:-4], -1)


def block_cosine_inverse(
    x: Float[Array, "*b T H W C"], block: tuple[int, int, int]
) -> Float[Array, "*b T2 H2 W2 C2"]:
    """The inverse of `block_cosine`."""
    y = x.reshape(*x.shape[:-1], *block, -1)
    y = y / jnp.asarray(1.0 + block_frequencies(block)[..., None], x.dtype)
    p, q, r = (jnp.asarray(_cosines(n), x.dtype) for n in block)
    y = jnp.einsum("...ijkc,ip,jq,kr->...pqrc", y, p, q, r)
    return depth_to_space(y.reshape(x.shape), block)


def to_blocks(
    video: Float[Array, "B T H W C"],
    patch: tuple[int, int],
    *,
    cosine: bool = True,
    first: bool = True,
) -> Float[Array, "B T2 H2 W2 C2"]:
    """Blocks of p frames and s x s pixels as channels, ending at frame 0, p, 2 p, ...

    Args:
      video: a video, or a chunk of one.
      patch: p and s; with (1, 1), `video` itself.
      cosine: whether the channels are the block's cosine coefficients, (3), or pixels.
      first: whether the chunk begins with frame 0, which then fills its block alone; a
        later chunk begins after a frame n p.

    Raises:
      ValueError: a size is not a multiple of its block.
    """
    frames, side = patch
    if patch == (1, 1):
        return video
    if first:
        before = jnp.repeat(video[:, :1], frames - 1, axis=1)
        video = jnp.concatenate([before, video], axis=1)
    block = (frames, side, side)
    return block_cosine(video, block) if cosine else space_to_depth(video, block)


def from_blocks(
    blocks: Float[Array, "B T H W C"],
    patch: tuple[int, int],
    *,
    cosine: bool = True,
    first: bool = True,
) -> Float[Array, "B T2 H2 W2 C2"]:
    """The inverse of `to_blocks`, float32; the repeats of frame 0 are dropped."""
    blocks = blocks.astype(jnp.float32)
    frames, side = patch
    if patch == (1, 1):
        return blocks
    block = (frames, side, side)
    inverse = block_cosine_inverse if cosine else depth_to_space
    video = inverse(blocks, block)
    return video[:, frames - 1 :] if first else video


@functools.cache
def _cosines(n: int) -> np.ndarray:
    """Rows sqrt(2 - [k = 0]) cos(pi k (m + 1/2) / n): orthogonal, of squared norm n."""
    k, m = np.arange(n)[:, None], np.arange(n)[None, :]
    return np.where(k == 0, 1.0, np.sqrt(2.0)) * np.cos(np.pi * k * (m + 0.5) / n)


def block_frequencies(
    block: tuple[int, int, int],
) -> Float[np.ndarray, "time height width"]:
    """|k| of every coefficient of equation (3), shaped as `block`."""
    k = np.stack(np.meshgrid(*(np.arange(n) for n in block), indexing="ij"))
    return np.sqrt(np.square(k).sum(axis=0))


def average_down(
    x: Float[Array, "*b T H W C"], block: tuple[int, int, int], *, features: int
) -> Float[Array, "*b T2 H2 W2 features"]:
    """Blocks of (time, height, width) to `features` means of equally many values.

    Raises:
      ValueError: `features` does not divide the values of a block.
    """
    values = math.prod(block) * x.shape[-1]
    if values % features:
        raise ValueError(f"{values} values do not average to {features} channels")
    y = space_to_depth(x, block)
    # Channel by channel, each with the values of its block, as Wan 2.2 orders them.
    y = y.reshape(*y.shape[:-1], -1, x.shape[-1])
    y = jnp.einsum("...bc->...cb", y)
    return jnp.mean(y.reshape(*y.shape[:-2], features, -1), axis=-1)


def duplicate_up(
    x: Float[Array, "*b T H W C"], block: tuple[int, int, int], *, features: int
) -> Float[Array, "*b T2 H2 W2 features"]:
    """Channels repeated to fill blocks of (time, height, width) of `features` each.

    Raises:
      ValueError: the channels do not divide the values of a block.
    """
    values = math.prod(block) * features
    if values % x.shape[-1]:
        raise ValueError(f"{x.shape[-1]} channels do not repeat to {values} values")
    y = jnp.repeat(x, values // x.shape[-1], axis=-1)
    y = y.reshape(*y.shape[:-1], features, -1)
    y = jnp.einsum("...cb->...bc", y)
    return depth_to_space(y.reshape(*y.shape[:-2], values), block)


def average_pool(
    x: Float[Array, "*b T H W C"], block: tuple[int, int, int]
) -> Float[Array, "*b T2 H2 W2 C"]:
    """The mean of each block of (time, height, width)."""
    channels = x.shape[-1]
    y = space_to_depth(x, block)
    return jnp.mean(y.reshape(*y.shape[:-1], -1, channels), axis=-2)


def repeat_nearest(
    x: Float[Array, "*b T H W C"], block: tuple[int, int, int]
) -> Float[Array, "*b T2 H2 W2 C"]:
    """Every value repeated over a block of (time, height, width)."""
    *batch, t, h, w, channels = x.shape
    p, q, r = block
    y = x[..., :, None, :, None, :, None, :]
    y = jnp.broadcast_to(y, (*batch, t, p, h, q, w, r, channels))
    return y.reshape(*batch, t * p, h * q, w * r, channels)
