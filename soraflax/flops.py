"""Parameters, FLOPs and bytes in closed form, from sizes alone.

A product of `[a, b]` and `[b, c]` is 2 a b c FLOPs; norms, activations and softmax are
left out, as is usual for model FLOP utilisation (PaLM, arXiv:2204.02311, appendix B).
Padding does not count: attention costs what its segments cost,

    self  = 4 D sum_s l_s^2,    cross = 4 D sum_s l_s m_s,                        (1)

for segments of l tokens and m text tokens, and a training step is a forward pass and a
backward pass of twice its cost, whatever is recomputed:

    training = 3 forward.                                                         (2)

(XLA's own count ignores the trip counts of loops; it agrees with these where there are
no loops, which the tests check.)
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int


@runtime_checkable
class TextEncoderSizes(Protocol):
    """What a T5-like encoder's configuration has."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def mlp(self) -> int: ...
    @property
    def buckets(self) -> int: ...
    @property
    def shared_bias(self) -> bool: ...


@runtime_checkable
class TransformerSizes(Protocol):
    """What a diffusion transformer's configuration has."""

    @property
    def patch_size(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def mlp(self) -> int: ...
    @property
    def text_width(self) -> int: ...
    @property
    def frequency_width(self) -> int: ...
    @property
    def text(self) -> Any: ...
    @property
    def input_skip(self) -> bool: ...
    @property
    def pooled_text(self) -> bool: ...
    @property
    def dtype(self) -> str: ...
    @property
    def remat(self) -> str: ...


@runtime_checkable
class CaptionerSizes(Protocol):
    """What a captioner's configuration has."""

    @property
    def patch_size(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def mlp(self) -> int: ...
    @property
    def encoder_depth(self) -> int: ...
    @property
    def decoder_depth(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...


@runtime_checkable
class AutoencoderSizes(Protocol):
    """What an autoencoder's configuration has."""

    @property
    def latent_channels(self) -> int: ...
    @property
    def patch(self) -> tuple[int, int]: ...
    @property
    def width(self) -> int: ...
    @property
    def spatial_downsample(self) -> tuple[bool, ...]: ...
    @property
    def temporal_downsample(self) -> tuple[bool, ...]: ...
    @property
    def blocks(self) -> int: ...
    @property
    def end_kernel(self) -> int: ...
    @property
    def attention(self) -> bool: ...
    @property
    def shortcuts(self) -> bool: ...
    @property
    def linear_path(self) -> bool: ...
    @property
    def stage_widths(self) -> tuple[int, ...]: ...
    @property
    def decoder_widths(self) -> tuple[int, ...]: ...


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens and text tokens of every segment of a batch, without padding.

    Attributes:
      tokens: l of equation (1) for each segment.
      text: m of equation (1) for each segment, in the same order.
    """

    tokens: Sequence[int]
    text: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.text):
            raise ValueError(
                f"{len(self.tokens)} segments have tokens, {len(self.text)} have text"
            )

    @property
    def self_pairs(self) -> int:
        """Pairs of tokens in one segment."""
        return sum(n * n for n in self.tokens)

    @property
    def cross_pairs(self) -> int:
        """Pairs of a token and a text token in one segment."""
        return sum(n * m for n, m in zip(self.tokens, self.text, strict=True))

    @property
    def text_pairs(self) -> int:
        """Pairs of text tokens in one segment."""
        return sum(m * m for m in self.text)


def lengths(
    segments: Int[np.ndarray, "B N"], text_segments: Int[np.ndarray, "B M"]
) -> Lengths:
    """Lengths of the segments of packed rows, from segment ids on the host."""
    tokens: list[int] = []
    text: list[int] = []
    for row, text_row in zip(segments, text_segments, strict=True):
        count = max(int(np.max(row, initial=0)), int(np.max(text_row, initial=0))) + 1
        sizes = np.bincount(row, minlength=count)[1:]
        text_sizes = np.bincount(text_row, minlength=count)[1:]
        present = (sizes > 0) | (text_sizes > 0)
        tokens += sizes[present].tolist()
        text += text_sizes[present].tolist()
    return Lengths(tokens, text)


def training(forward: int) -> int:
    """Equation (2)."""
    return 3 * forward


def _linear(a: int, b: int) -> int:
    """Parameters of a linear layer with a bias."""
    return a * b + b


def text_encoder_parameters(config: TextEncoderSizes) -> int:
    """Parameters of a text encoder."""
    d, inner = config.width, config.heads * config.head_size
    layer = 4 * d * inner + 3 * d * config.mlp + 2 * d
    tables = (1 if config.shared_bias else config.depth) * config.buckets * config.heads
    return config.vocabulary * d + config.depth * layer + tables + d


def text_encoder_flops(config: TextEncoderSizes, sizes: Lengths) -> int:
    """Forward FLOPs of encoding the text of a batch."""
    d, inner, m = config.width, config.heads * config.head_size, sum(sizes.text)
    products = 2 * m * (4 * d * inner + 3 * d * config.mlp)
    return config.depth * (products + 4 * inner * sizes.text_pairs)


def transformer_parameters(config: TransformerSizes) -> int:
    """Parameters of a diffusion transformer, its text encoder included."""
    d, p = config.width, config.patch_size
    attention = 4 * _linear(d, d) + 2 * d
    mlp = _linear(d, config.mlp) + _linear(config.mlp, d)
    block = 6 * d + 2 * attention + 2 * d + mlp
    levels = _linear(config.frequency_width, d) + _linear(d, d) + _linear(d, 6 * d)
    if config.pooled_text:
        levels += _linear(config.text_width, d)
    text = _linear(config.text_width, d) + _linear(d, d)
    if config.text is not None:
        text += text_encoder_parameters(config.text)
    ends = _linear(p, d) + 2 * d + (2 if config.input_skip else 1) * _linear(d, p)
    return config.depth * block + levels + text + ends


def transformer_flops(config: TransformerSizes, sizes: Lengths) -> int:
    """Forward FLOPs of a batch; equation (1) in every block."""
    d, n, m = config.width, sum(sizes.tokens), sum(sizes.text)
    products = 2 * d * (n * (6 * d + 2 * config.mlp) + m * 2 * d)
    block = products + 4 * d * (sizes.self_pairs + sizes.cross_pairs)
    entry = config.frequency_width + 7 * d
    entry += config.patch_size if config.input_skip else 0
    entry += config.text_width if config.pooled_text else 0
    # Two entries of the table of levels per segment, two FLOPs per product.
    levels = 4 * len(sizes.tokens) * d * entry
    text = 2 * m * d * (config.text_width + d)
    if config.text is not None:
        text += text_encoder_flops(config.text, sizes)
    ends = 4 * n * d * config.patch_size
    return config.depth * block + levels + text + ends


def captioner_flops(config: CaptionerSizes, sizes: Lengths) -> int:
    """Forward FLOPs of a batch of clips and their captions; causal pairs count half."""
    d, n, m = config.width, sum(sizes.tokens), sum(sizes.text)
    layer = 2 * d * (4 * d + 2 * config.mlp)
    encoder = n * layer + 4 * d * sizes.self_pairs
    decoder = m * (layer + 4 * d * d) + 4 * n * d * d
    decoder += 2 * d * sizes.text_pairs + 4 * d * sizes.cross_pairs
    ends = 2 * d * (n * config.patch_size + m * config.vocabulary)
    return config.encoder_depth * encoder + config.decoder_depth * decoder + ends


def transformer_activation_bytes(
    config: TransformerSizes, *, tokens: int, text: int
) -> int:
    """Bytes of activations saved for the backward pass of all blocks, by remat policy.

    The residual stream that enters each block is always saved. 'attention' adds two
    attention outputs and log-sum-exps, 'dots' the results of the products, and 'none'
    saves the inputs of every operation (19 D + 2 F a token and 4 D a text token, F the
    hidden size of the MLP).

    Args:
      config: sizes.
      tokens: B N, padding included.
      text: B M, padding included.

    Raises:
      ValueError: a remat policy without a formula.
    """
    d, f = config.width, config.mlp
    size = 2 if config.dtype == "bfloat16" else 4
    log_sum_exp = 2 * 4 * config.heads * tokens
    saved = {
        "full": size * d * tokens,
        "offload": size * d * tokens,
        "attention": size * 3 * d * tokens + log_sum_exp,
        "dots": size * ((8 * d + f) * tokens + 2 * d * text),
        "none": size * ((19 * d + 2 * f) * tokens + 4 * d * text) + log_sum_exp,
    }
    if config.remat not in saved:
        raise ValueError(
            f"remat policy {config.remat!r} has no formula; those that have: "
            f"{', '.join(saved)}"
        )
    return config.depth * saved[config.remat]


@dataclasses.dataclass(frozen=True)
class ConvolutionSizes:
    """Sizes of a convolution, or of a norm (`kernel` 0).

    Attributes:
      positions: positions of its output, in all frames.
      kernel: number of taps.
      channels: channels in and out.
      pairs: pairs of positions, where attention follows it.
    """

    positions: int
    kernel: int
    channels: tuple[int, int]
    pairs: int = 0

    @property
    def parameters(self) -> int:
        return math.prod((self.kernel, *self.channels)) + self.channels[1]

    @property
    def flops(self) -> int:
        products = self.positions * math.prod((self.kernel, *self.channels))
        return 2 * products + 4 * self.pairs * self.channels[0]


Extent = tuple[int, int, int]  # frames, height, width


def _norm(extent: Extent, c: int) -> ConvolutionSizes:
    return ConvolutionSizes(math.prod(extent), 0, (c, c))


def _residual(extent: Extent, a: int, *, b: int) -> Iterator[ConvolutionSizes]:
    n = math.prod(extent)
    yield _norm(extent, a)
    yield ConvolutionSizes(n, 27, (a, b))
    yield _norm(extent, b)
    yield ConvolutionSizes(n, 27, (b, b))
    if a != b:
        yield ConvolutionSizes(n, 1, (a, b))


def _middle(
    config: AutoencoderSizes, extent: Extent, *, c: int
) -> Iterator[ConvolutionSizes]:
    yield from _residual(extent, c, b=c)
    if config.attention:
        n = math.prod(extent)
        yield _norm(extent, c)
        yield ConvolutionSizes(n, 1, (c, 3 * c), pairs=n * extent[1] * extent[2])
        yield ConvolutionSizes(n, 1, (c, c))
    yield from _residual(extent, c, b=c)


def _ends(config: AutoencoderSizes) -> tuple[int, int]:
    """Numbers in a block of pixels, and taps of the kernels that read or write them."""
    frames, side = config.patch
    return 3 * frames * side * side, config.end_kernel**3


def _stage_extents(config: AutoencoderSizes, video: Extent) -> list[Extent]:
    """Frames, height and width in each stage of the encoder."""
    t, h, w = video
    frames, side = config.patch
    stages = [(1 + (t - 1) // frames, h // side, w // side)]
    flags = zip(config.spatial_downsample, config.temporal_downsample, strict=True)
    for spatial, temporal in flags:
        t, h, w = stages[-1]
        t = 1 + (t - 1) // 2 if temporal else t
        stages.append((t, h // 2, w // 2) if spatial else (t, h, w))
    return stages


def encoder_layers(
    config: AutoencoderSizes, video: Extent
) -> Iterator[ConvolutionSizes]:
    """Every layer of the encoder for a video of `(frames, height, width)`."""
    stages = _stage_extents(config, video)
    block, taps = _ends(config)
    yield ConvolutionSizes(math.prod(stages[0]), taps, (block, config.width))
    c = config.width
    for at, (extent, width) in enumerate(zip(stages, config.stage_widths, strict=True)):
        for _ in range(config.blocks):
            yield from _residual(extent, c, b=width)
            c = width
        if at + 1 < len(stages) and config.spatial_downsample[at]:
            halved = (extent[0], *stages[at + 1][1:])
            yield ConvolutionSizes(math.prod(halved), 9, (c, c))
        if at + 1 < len(stages) and config.temporal_downsample[at]:
            # The first frame is copied, not convolved.
            later = (stages[at + 1][0] - 1, *stages[at + 1][1:])
            yield ConvolutionSizes(math.prod(later), 3, (c, c))
    n, z = math.prod(stages[-1]), config.latent_channels
    yield from _middle(config, stages[-1], c=c)
    yield _norm(stages[-1], c)
    yield ConvolutionSizes(n, 27, (c, 2 * z))
    yield ConvolutionSizes(n, 1, (2 * z, 2 * z))
    if config.linear_path:
        yield ConvolutionSizes(n, 1, (_ratio_block(config), z))


def decoder_layers(
    config: AutoencoderSizes, video: Extent
) -> Iterator[ConvolutionSizes]:
    """Every layer of the decoder for a video of `(frames, height, width)`."""
    stages = _stage_extents(config, video)[::-1]
    widths = config.decoder_widths
    z, c = config.latent_channels, widths[0]
    yield ConvolutionSizes(math.prod(stages[0]), 1, (z, z))
    yield ConvolutionSizes(math.prod(stages[0]), 27, (z, c))
    yield from _middle(config, stages[0], c=c)
    for at, (extent, width) in enumerate(zip(stages, widths, strict=True)):
        for _ in range(config.blocks + 1):
            yield from _residual(extent, c, b=width)
            c = width
        if at + 1 < len(stages) and config.temporal_downsample[::-1][at]:
            later = (extent[0] - 1, *extent[1:])
            yield ConvolutionSizes(math.prod(later), 3, (c, 2 * c))
        if at + 1 < len(stages) and config.spatial_downsample[::-1][at]:
            out = c if config.shortcuts else c // 2
            yield ConvolutionSizes(math.prod(stages[at + 1]), 9, (c, out))
            c = out
    block, taps = _ends(config)
    yield _norm(stages[-1], c)
    yield ConvolutionSizes(math.prod(stages[-1]), taps, (c, block))
    if config.linear_path:
        yield ConvolutionSizes(math.prod(stages[0]), 1, (z, _ratio_block(config)))


def _ratio_block(config: AutoencoderSizes) -> int:
    """Numbers of the video per position of the latent."""
    frames = config.patch[0] * 2 ** sum(config.temporal_downsample)
    side = config.patch[1] * 2 ** sum(config.spatial_downsample)
    return 3 * frames * side * side


def _autoencoder_layers(
    config: AutoencoderSizes, video: Extent
) -> Iterator[ConvolutionSizes]:
    yield from encoder_layers(config, video)
    yield from decoder_layers(config, video)


def autoencoder_parameters(config: AutoencoderSizes) -> int:
    """Parameters of encoder and decoder."""
    return sum(layer.parameters for layer in _autoencoder_layers(config, (1, 1, 1)))


def autoencoder_flops(config: AutoencoderSizes, *, video: Extent) -> int:
    """Forward FLOPs of encoding and decoding one video `(frames, height, width)`.

    Taps on zero padding count, as they do in XLA.
    """
    return sum(layer.flops for layer in _autoencoder_layers(config, video))


def autoencoder_activation_bytes(
    config: AutoencoderSizes, *, video: Extent, bytes_per_number: int = 4
) -> int:
    """Bytes of activations saved for the backward pass of one video, without remat.

    Every layer saves its input, a norm also the two factors of the SiLU after it.
    Convolutions that stack frames on channels may save up to three times their input.
    """
    layers = _autoencoder_layers(config, video)
    numbers = sum(
        layer.positions * layer.channels[0] * (3 if layer.kernel == 0 else 1)
        for layer in layers
    )
    return bytes_per_number * numbers
