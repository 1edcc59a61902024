"""Packed rows of canvases, denoised: compiled functions, and the loop that calls them.

All three functions are compiled for a row of a certain capacity:

    encode    texts to features, attention plans                 once per set of rows
    start     x = alpha clean + sigma noise at the first level                    (1)
    advance   one step of the sampler                            once per level

Prompt, seed, size, guidance and number of steps are their arguments, so that none of
these compiles anything anew, as long as the row's capacity suffices. Without guidance,
or where a step takes over what the blocks added before (`generation.caching`),
`advance` is another program, compiled once too.

A video does not depend on what else is generated with it. The noise of a token is a
function of its segment's seed, the step, and its place in the segment; segments begin
at blocks of attention (`generation.batching`); and on a CPU the transformer takes one
row after the other, for its compiler sums in another order where there are more rows.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soraflax.diffusion import guidance as guidance_lib
from soraflax.diffusion import process as process_lib
from soraflax.diffusion import samplers, schedule, solver
from soraflax.generation import batching as rows_lib
from soraflax.generation import caching
from soraflax.generation import windows as windows_lib
from soraflax.nn import dit, experts, text_encoder
from soraflax.ops import batch_invariance, packing
from soraflax.pretrained import models

# Tokens in an attention block on a CPU: segments begin at blocks, and small ones leave
# less room between short segments.
CPU_BLOCK = 32
Report = Callable[[int, Callable[[], np.ndarray]], None]


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How canvases are filled.

    Attributes:
      steps: of the sampler.
      guidance: scale of classifier-free guidance; 1 is none, and costs half.
      sampler: the rule of a step.
      interval: noise levels that are guided; the others cost half.
      rescale, zero_init: as in `diffusion.guidance.GuidanceConfig`.
      cache: which steps take over what the blocks added before; None computes all.
      windows: how long and large canvases are taken apart; None for windows as long
        as the clips of training.
      rows: most rows denoised at once; tiles of one canvas always are.
      decode: most latents decoded at once.
    """

    steps: int = 25
    guidance: float = 4.0
    sampler: samplers.Sampler = dataclasses.field(default_factory=samplers.Euler)
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    zero_init: int = 0
    cache: caching.StepCacheConfig | None = None
    windows: windows_lib.WindowConfig | None = None
    rows: int = 8
    decode: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rows < 1 or self.decode < 1:
            raise ValueError("steps, rows and decode: use 1 or more")
        if self.cache and self.sampler.evaluations > 1:
            raise ValueError(
                f"caching with {self.sampler}, which calls the model twice a step: use "
                "one that calls it once, such as UniPC"
            )
        self.guide  # noqa: B018, refuses numbers out of range

    @property
    def guide(self) -> guidance_lib.GuidanceConfig:
        """Its guidance.

        Raises:
          ValueError: a number out of its range.
        """
        return guidance_lib.GuidanceConfig(
            scale=self.guidance,
            low=self.interval[0],
            high=self.interval[1],
            rescale=self.rescale,
            zero_init=self.zero_init,
        )


class Denoiser:
    """A trained transformer, ready to denoise rows.

    Attributes:
      model: what it is.
      process: what it was trained on.
      block: tokens of an attention block, where segments begin.
    """

    def __init__(self, model: models.VideoModel, params: Any) -> None:
        """`params`: those of the model, where computation takes place."""
        config = model.config
        self.model = model
        self.process = process_lib.make(config.process, config.prediction)
        self._params = params
        form = _fixed(config.transformer)
        self.block = form.attention_block
        self._encode = jax.jit(functools.partial(_encode, form, config.boundary))
        self._start = jax.jit(functools.partial(_start, self.process))
        self._advance = jax.jit(
            functools.partial(_advance, form, config.boundary, self.process),
            static_argnames=("sampler", "guided", "keep"),
        )

    @property
    def compiled(self) -> tuple[int, ...]:
        """How many programs each function has been compiled to."""
        functions: tuple[Any, ...] = (self._encode, self._start, self._advance)
        return tuple(function._cache_size() for function in functions)

    def run(
        self, rows: rows_lib.Rows, config: SamplingConfig, report: Report
    ) -> np.ndarray:
        """The filled tokens of a few rows, `[B, N, P]`.

        Args:
          rows: what to fill.
          config: how.
          report: called after every step with the steps done, and a function that gives
            the newest estimate of the filled tokens.
        """
        guide = config.guide
        times = self.levels(rows, config.steps)
        noise = (rows.seeds, rows.places)
        x = self._start(rows.positive, times[0], noise)
        state = solver.init(x, times[0])
        residual, was_guided = None, None
        contexts: dict[bool, Any] = {}
        skips = self.skips(config)
        present = rows.counts > 0
        for step in range(config.steps):
            if step and step == config.zero_init:
                state = solver.init(state.x, times[0])
            seen = times[step : step + config.sampler.evaluations, present]
            guided = self.guided(guide, seen, config=config)
            if guided not in contexts:
                contexts[guided] = self._context(rows, guided=guided)
            skip = skips[step] and guided == was_guided
            state, residual = self._advance(
                self._params,
                state,
                residual if skip else None,
                contexts[guided],
                times=times[step : step + 2],
                step=np.int32(step),
                noise=noise,
                settings=guide.arrays(),
                overlap=rows.overlap,
                sampler=config.sampler,
                guided=guided,
                keep=config.cache is not None,
            )
            was_guided = guided
            jax.block_until_ready(state.x)
            report(step + 1, functools.partial(np.asarray, state.clean[0]))
        return np.asarray(state.x)

    def guided(
        self,
        guide: guidance_lib.GuidanceConfig,
        levels: np.ndarray,
        *,
        config: SamplingConfig,
    ) -> bool:
        """Whether a step computes both copies of its rows.

        Some segments may need it and others not, so with a cache it is all steps or
        none: what a step takes over must not depend on who shares the row.
        """
        return guide.is_enabled if config.cache else guide.is_active(levels)

    def levels(self, rows: rows_lib.Rows, steps: int) -> np.ndarray:
        """Of every segment at every step, `[steps + 1, B, S + 1]`."""
        return np.asarray(
            schedule.inference_levels(
                steps,
                self.model.config.shift(jnp.asarray(rows.counts, jnp.float32)),
                start=process_lib.start_level(self.process),
                strength=jnp.asarray(rows.strengths),
            )
        )

    def skips(self, config: SamplingConfig) -> list[bool]:
        """For every step, whether its blocks do not run.

        Raises:
          ValueError: caching with two experts.
        """
        if config.cache is None:
            return [False] * config.steps
        if self.model.config.boundary is not None:
            raise ValueError("caching needs one transformer; this model has two")
        changes = caching.modulation_changes(
            self._params,
            self.model.config.transformer,
            shift=self.model.config.shift,
            steps=config.steps,
        )
        return caching.skipped(changes.tolist(), config.cache)

    def _context(self, rows: rows_lib.Rows, *, guided: bool) -> Any:
        texts = [rows.positive, rows.negative] if guided else [rows.positive]
        packed = jax.tree.map(lambda *parts: np.concatenate(parts), *texts)
        return self._encode(self._params, packed)


def token_noise(
    segments: jax.Array, noise: tuple[Any, Any], *, step: Any, size: int
) -> jax.Array:
    """Standard normal noise `[B, N, size]` of a step; see the module docstring.

    Args:
      segments: `[B, N]`.
      noise: seeds `[B, S + 1]` uint32, and places `[B, N]` of tokens in their segment.
      step: 0 for the noise that sampling starts from, k + 1 for that of step k.
      size: P.
    """
    seeds, places = noise
    seeds = jnp.take_along_axis(seeds, segments, axis=1)

    def one(seed: jax.Array, place: jax.Array) -> jax.Array:
        key = jax.random.key(seed, impl="threefry2x32")
        key = jax.random.fold_in(jax.random.fold_in(key, step), place)
        return jax.random.normal(key, (size,), jnp.float32)

    return jax.vmap(jax.vmap(one))(seeds, places)


def _encode(
    config: dit.DiTConfig, boundary: float | None, params: Any, packed: packing.Packed
) -> tuple[packing.Packed, dit.Plans]:
    """Rows with text features in the place of text ids, and their plans.

    Of two experts each has an encoder of its own: ids stay.
    """
    packed = jax.tree.map(jnp.asarray, packed)
    plans = dit.make_plans(packed, config)
    if config.text is None:
        raise NotImplementedError(
            "this model takes text features of an outside encoder; generation from "
            "text needs a model with its own"
        )
    if boundary is not None:
        return packed, plans
    encoder = text_encoder.TextEncoder(config.text, dit.DTYPES[config.dtype])

    def features(parts: Any) -> Any:
        ids, segments, plan = parts
        return encoder.apply(
            {"params": params["text_encoder"]}, ids, segments, plan=plan
        )

    text = batch_invariance.map_rows(
        features, (packed.text, packed.text_segments, plans.text)
    )
    return packed.replace(text=text), dataclasses.replace(plans, text=None)


def _fixed(config: dit.DiTConfig) -> dit.DiTConfig:
    """On a CPU with one implementation of attention, however short the rows are."""
    if jax.default_backend() != "cpu":
        return config
    kind = "blocks" if config.attention == "auto" else config.attention
    block = min(config.attention_block, CPU_BLOCK)
    return dataclasses.replace(config, attention=kind, attention_block=block)


def _start(
    process: process_lib.Process, packed: packing.Packed, levels: Any, noise: Any
) -> jax.Array:
    """Equation (1)."""
    packed = packed.replace(levels=packing.level_table(levels))
    t = packed.noise_levels[..., None]
    size = packed.tokens.shape[-1]
    fresh = token_noise(packed.segments, noise, step=jnp.int32(0), size=size)
    return process_lib.add_noise(process, packed.tokens, noise=fresh, t=t)


def _advance(
    config: dit.DiTConfig,
    boundary: float | None,
    process: process_lib.Process,
    params: Any,
    state: solver.SolverState,
    residual: jax.Array | None,
    context: tuple[packing.Packed, dit.Plans],
    *,
    times: jax.Array,
    step: jax.Array,
    noise: Any,
    settings: guidance_lib.GuidanceArrays,
    overlap: rows_lib.Overlap | None,
    sampler: samplers.Sampler,
    guided: bool,
    keep: bool,
) -> tuple[solver.SolverState, jax.Array | None]:
    """One step of the sampler; with guidance, the context holds every row twice."""
    rows, copies = state.x.shape[0], 2 if guided else 1
    packed, plans = context
    once = jax.tree.map(lambda a: a[:rows], packed)
    cached = keep and boundary is None
    predict = functools.partial(_predict, config, boundary, cached, params)
    expand = functools.partial(_spread_levels, once)

    def denoise(x: jax.Array, levels: jax.Array) -> tuple[jax.Array, Any]:
        table = jnp.tile(packing.level_table(levels), (copies, 1))
        inputs = packed.replace(tokens=jnp.tile(x, (copies, 1, 1)), levels=table)
        output, added = batch_invariance.map_rows(predict, (inputs, plans, residual))
        how: Any = {"settings": settings, "process": process, "x": x, "step": step}
        how["level"] = expand(levels)
        if not guided:
            return guidance_lib.zero_init(output, **how), added
        away = functools.partial(_deviation, once)
        guided_output = guidance_lib.guide(
            output[:rows], output[rows:], deviation=away, **how
        )
        return guided_output, added

    state, added = solver.step(
        sampler,
        state,
        process=process,
        denoise=denoise,
        levels=(times[0], times[1]),
        expand=expand,
        noise=lambda _: token_noise(
            once.segments, noise, step=step + 1, size=state.x.shape[-1]
        ),
        cond_mask=once.cond_mask[..., None],
    )
    if overlap is not None:
        state = state.replace(x=overlap.agree(state.x))
    return state, added


def _spread_levels(packed: packing.Packed, levels: jax.Array) -> jax.Array:
    """One level per segment to one per token, `[B, N, 1]`."""
    table = packing.level_table(levels)
    return packed.replace(levels=table).noise_levels[..., None]


def _predict(
    config: dit.DiTConfig,
    boundary: float | None,
    cached: bool,
    params: Any,
    parts: tuple[packing.Packed, dit.Plans, jax.Array | None],
) -> tuple[Any, Any]:
    """Predictions of rows, and where steps are cached what the blocks added."""
    inputs, plans, residual = parts
    if not cached:
        return experts.predictor(config, boundary)(params, inputs, plans), None
    y, state = dit.DiT(config).apply(
        {"params": params},
        inputs,
        plans=plans,
        residual=residual,
        mutable=[dit.CACHE],
    )
    found = state[dit.CACHE]["residual"][0] if residual is None else residual
    return y, found


def _deviation(packed: packing.Packed, data: jax.Array) -> jax.Array:
    """Standard deviation over the unknown tokens of each segment, `[B, N, 1]`."""
    unknown = (packed.segments > 0) & ~packed.cond_mask
    total = functools.partial(
        packing.segment_sum, segments=packed.segments, max_segments=packed.max_segments
    )
    count = jnp.maximum(total(unknown.astype(jnp.float32)), 1.0) * data.shape[-1]
    mean = total(jnp.where(unknown, jnp.sum(data, axis=-1), 0.0)) / count
    away = data - packing.segment_gather(mean, packed.segments)[..., None]
    square = jnp.sum(jnp.square(away), axis=-1)
    variance = total(jnp.where(unknown, square, 0.0)) / count
    return packing.segment_gather(jnp.sqrt(variance), packed.segments)[..., None]
