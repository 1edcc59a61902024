"""Packed rows of canvases, denoised: compiled functions, and the loop that calls them.

All functions are compiled for a row of a certain capacity:

    encode    texts to features, attention plans                 once per batch of rows
    start     x = alpha clean + sigma noise at the first level                    (1)
    step      one step of the sampler (`diffusion.solver.step`)  once per level
    average   tiles where they overlap (`batching.TileOverlap`)  once per level

    SamplingContext   what all steps of a batch share (`generation.batching`)
    SamplingState     what one step hands to the next
    StepSpec          what a step is compiled for

Prompt, seed, size, guidance and number of steps are their arguments, so that none of
these compiles anything anew, as long as the row's capacity suffices. Without guidance,
or where a step takes over what the blocks added before (`generation.caching`),
`step` is another program, compiled once too.

A video does not depend on what else is generated with it. The noise of a token is a
function of its canvas's seed, the step, and its number in the canvas; segments begin
at blocks of attention (`generation.batching`); and on a CPU the transformer takes one
row after the other, for its compiler sums in another order where there are more rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from soraflax.diffusion import guidance as guidance_lib
from soraflax.diffusion import process as process_lib
from soraflax.diffusion import samplers, schedule, solver
from soraflax.generation import batching, caching, sampling_config
from soraflax.nn import dit, experts, layers, text_encoder
from soraflax.ops import batch_invariance, packing
from soraflax.pretrained import models

SamplingConfig = sampling_config.SamplingConfig
# Tokens in an attention block on a CPU: segments begin at blocks, and small ones leave
# less room between short segments.
CPU_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """What a sampling step is compiled for.

    Attributes:
      transformer: sizes of the transformer.
      boundary: noise level at which the second of two experts takes over; None for one
        transformer.
      process: the diffusion process that it was trained on.
      trained_levels: the levels that it is told; None for all.
      sampler: the update rule.
      guided: whether the context holds every row a second time, without its caption.
      skipping: whether it holds every row once more at its end, and the blocks that
        this copy goes around; none if not.
      cached: whether the step returns what the blocks added.
    """

    transformer: dit.DiTConfig
    boundary: float | None
    process: process_lib.Process
    trained_levels: schedule.TrainedLevels | None
    sampler: samplers.Sampler
    guided: bool
    skipping: tuple[int, ...]
    cached: bool

    @property
    def copies(self) -> int:
        """How often the context holds every row."""
        return 1 + self.guided + bool(self.skipping)

    def predictions(self, output: Float[Array, "BC N P"]) -> guidance_lib.Predictions:
        """Those of the copies, whose rows come one copy after the other."""
        parts = list(jnp.split(output, self.copies))
        return guidance_lib.Predictions(
            parts.pop(0),
            parts.pop(0) if self.guided else None,
            parts.pop(0) if self.skipping else None,
        )

    def kept(self, rows: int) -> Bool[Array, "BC depth"] | None:
        """Whether each row of the context goes through each block; None for all."""
        if not self.skipping:
            return None
        depth = self.transformer.depth
        whole = np.ones((rows * (self.copies - 1), depth), bool)
        kept = guidance_lib.SkipGuidance(self.skipping).kept(depth)
        own = np.broadcast_to(kept, (rows, depth))
        return jnp.asarray(np.concatenate([whole, own]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplingState:
    """What one step hands to the next.

    Attributes:
      solver: tokens `[B, N, P]` on their way, and the sampler's memory.
      index: number of the step to come, int32. Not `solver.count`, which begins anew
        after zero-init.
      residual: what the blocks added in the step before, `[copies, N, D]` of every row
        and copy; None where the step to come runs them.
    """

    solver: solver.SolverState
    index: Any
    residual: Any = None

    def replace(self, **changes: Any) -> "SamplingState":
        return dataclasses.replace(self, **changes)


class Denoiser:
    """A trained transformer, ready to denoise rows.

    Attributes:
      model: the trained model.
      process: the diffusion process that it was trained on.
      block: tokens of an attention block, where segments begin.
    """

    def __init__(self, model: models.VideoModel, params: Callable[[], Any]) -> None:
        """`params`: gives those of the model, where computation takes place."""
        config = model.config
        self.model = model
        self.process = process_lib.make(config.process, config.prediction)
        self._place, self._placed = params, None
        self._transformer = _one_attention(config.transformer)
        self.block = self._transformer.attention_block
        self._encode = jax.jit(
            functools.partial(_encode, self._transformer, config.boundary)
        )
        self._start = jax.jit(functools.partial(_start, self.process))
        self._step = jax.jit(step, static_argnames="spec")
        self._average = jax.jit(batching.TileOverlap.average)
        self._levels = jax.jit(self._levels_of, static_argnames=("steps", "shift"))

    @property
    def _params(self) -> Any:
        if self._placed is None:
            self._placed = self._place()
        return self._placed

    def release(self) -> None:
        """Free the memory of the parameters until they are needed again."""
        self._placed = None

    @property
    def compiled(self) -> tuple[int, ...]:
        """How many programs each function has been compiled to."""
        functions: tuple[Any, ...] = (
            self._encode,
            self._start,
            self._step,
            self._average,
        )
        return tuple(function._cache_size() for function in functions)

    def sample(
        self, context: batching.SamplingContext, config: SamplingConfig
    ) -> Iterator[solver.SolverState]:
        """The state of a batch after every step; the last one's `x` is denoised.

        Args:
          context: from `batching.make_context`.
          config: how to sample.
        """
        levels = self.levels(context, config)
        state = self._start(
            context.conditional, levels[0], context.seeds, context.noise_ids
        )
        encoded: dict[tuple[bool, bool], batching.SamplingContext] = {}
        before = None
        for index, skipped in enumerate(self.skips(config)):
            if index and index == config.zero_init:
                # Estimates of steps that stood still are none.
                state = state.replace(solver=solver.init(state.solver.x, levels[0]))
            copies = self.copies(context, index, levels=levels, config=config)
            guided, skipping = copies
            if copies not in encoded:
                encoded[copies] = self._encoded(
                    context, guided=guided, skipping=skipping
                )
            if not skipped or copies != before:
                state = state.replace(residual=None)
            spec = StepSpec(
                self._transformer,
                self.model.config.boundary,
                self.process,
                self.model.config.trained_levels,
                config.sampler,
                guided=guided,
                skipping=config.skip.blocks if config.skip and skipping else (),
                cached=config.cache is not None,
            )
            state = self._step(
                spec,
                self._params,
                state=state,
                context=encoded[copies].replace(overlap=None),
                levels=levels[index : index + 2],
                guidance=config.guide.arrays(),
            )
            if context.overlap is not None:
                # A program of its own, so that a step rounds alike with and without.
                x = self._average(context.overlap, state.solver.x)
                state = state.replace(solver=state.solver.replace(x=x))
            before = copies
            jax.block_until_ready(state.solver.x)
            yield state.solver

    def copies(
        self,
        context: batching.SamplingContext,
        index: int,
        *,
        levels: np.ndarray,
        config: SamplingConfig,
    ) -> tuple[bool, bool]:
        """Whether a step computes rows without their captions, and with fewer blocks.

        Some segments may need it and others not, so with a cache it is all steps or
        none: what a step takes over must not depend on who shares the row.
        """
        if config.cache:
            return config.guide.is_enabled, config.skip is not None
        evaluated = slice(index, index + config.sampler.evaluations)
        told = levels[evaluated, context.token_counts > 0]
        return config.guide.is_active(told), config.guide.is_skipping(told)

    def levels(
        self, context: batching.SamplingContext, config: SamplingConfig
    ) -> Float[np.ndarray, "steps1 B S1"]:
        """Noise level of every segment at every step."""
        counts = np.asarray(context.token_counts, np.float32)
        shift = self._shift(config)
        if (trained := self.model.config.trained_levels) is not None:
            return trained.inference_levels(
                config.steps,
                np.asarray(shift(jnp.asarray(counts))),
                strength=context.strengths,
            )
        levels = self._levels(
            config.steps, counts, strengths=context.strengths, shift=shift
        )
        return np.asarray(levels)

    def _shift(self, config: SamplingConfig) -> schedule.TokenCountShift:
        if config.shift is None:
            return self.model.config.shift
        return schedule.TokenCountShift(config.shift, exponent=0.0)

    def _levels_of(
        self,
        steps: int,
        counts: Float[Array, "B S1"],
        *,
        strengths: Any,
        shift: schedule.TokenCountShift,
    ) -> Float[Array, "steps1 B S1"]:
        return schedule.inference_levels(
            steps,
            shift(counts),
            start=process_lib.start_level(self.process),
            strength=strengths,
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
            shift=self._shift(config),
            steps=config.steps,
        )
        return caching.skipped(changes.tolist(), config.cache)

    def _encoded(
        self, context: batching.SamplingContext, *, guided: bool, skipping: bool
    ) -> batching.SamplingContext:
        """With text features and plans, of the copies of rows that a step computes."""
        rows = context.conditional.tokens.shape[0]
        packed = context.packed if guided else context.conditional
        both = self._encode(self._params, packed)
        if skipping:  # with the caption
            both = jax.tree.map(lambda a: jnp.concatenate([a, a[:rows]]), both)
        return context.replace(packed=both[0], plans=both[1])


def token_noise(
    segments: Int[Array, "B N"],
    *,
    seeds: UInt32[Array, "B S1"],
    noise_ids: Int[Array, "B N"],
    index: Any,
    size: int,
) -> Float[Array, "B N P"]:
    """Standard normal noise of every token; see the module docstring.

    Args:
      segments: segment id of each token.
      seeds: PRNG seed of each segment.
      noise_ids: number of each token within its canvas.
      index: 0 for the noise that sampling starts from, k + 1 for that of step k.
      size: P.
    """
    seeds = jnp.take_along_axis(seeds, segments, axis=1)

    def draw(seed: jax.Array, noise_id: jax.Array) -> jax.Array:
        key = jax.random.key(seed, impl="threefry2x32")
        key = jax.random.fold_in(jax.random.fold_in(key, index), noise_id)
        return jax.random.normal(key, (size,), jnp.float32)

    return jax.vmap(jax.vmap(draw))(seeds, noise_ids)


def _one_attention(config: dit.DiTConfig) -> dit.DiTConfig:
    """On a CPU with one implementation of attention, however short the rows are."""
    if jax.default_backend() != "cpu":
        return config
    kind = "blocks" if config.attention == "auto" else config.attention
    block = min(config.attention_block, CPU_BLOCK)
    return dataclasses.replace(config, attention=kind, attention_block=block)


def _encode(
    config: dit.DiTConfig, boundary: float | None, params: Any, packed: packing.Packed
) -> tuple[packing.Packed, dit.Plans]:
    """Rows with text features in the place of text ids, and their plans.

    Features of an outside encoder are there already. Of two experts with encoders each
    has its own: ids stay.
    """
    packed = jax.tree.map(jnp.asarray, packed)
    plans = dit.make_plans(packed, config)
    if config.text is None or boundary is not None:
        return packed, plans
    dtype, kind = layers.compute_dtype(config.dtype), dit.ATTENTION[config.attention]
    encoder = text_encoder.TextEncoder(config.text, dtype, kind)

    def features(parts: Any) -> Any:
        ids, segments, plan = parts
        return encoder.apply(
            {"params": params["text_encoder"]}, ids, segments, plan=plan
        )

    text = batch_invariance.map_rows(
        features, (packed.text, packed.text_segments, plans.text)
    )
    return packed.replace(text=text), dataclasses.replace(plans, text=None)


def _start(
    process: process_lib.Process,
    packed: packing.Packed,
    levels: Float[Array, "B S1"],
    seeds: UInt32[Array, "B S1"],
    noise_ids: Int[Array, "B N"],
) -> SamplingState:
    """Equation (1), before the first step."""
    packed = packed.replace(levels=packing.level_table(levels))
    t = packed.noise_levels[..., None]
    noise = token_noise(
        packed.segments,
        seeds=seeds,
        noise_ids=noise_ids,
        index=jnp.int32(0),
        size=packed.tokens.shape[-1],
    )
    x = process_lib.add_noise(process, packed.tokens, noise=noise, t=t)
    return SamplingState(solver.init(x, levels), jnp.zeros((), jnp.int32))


def step(
    spec: StepSpec,
    params: Any,
    *,
    state: SamplingState,
    context: batching.SamplingContext,
    levels: Float[Array, "2 B S1"],
    guidance: guidance_lib.GuidanceArrays,
) -> SamplingState:
    """One step of the sampler for every row.

    Args:
      spec: static.
      params: of the transformer, or of both experts.
      state: from the step before.
      context: of the batch, its texts encoded, with all copies of its rows.
      levels: noise level of each segment before and after the step.
      guidance: numbers of the guidance.
    """
    rows, copies = state.solver.x.shape[0], spec.copies
    kept = spec.kept(rows)
    conditional = context.conditional
    predict = functools.partial(_predict, spec, params)

    def expand(level: Float[Array, "B S1"]) -> Float[Array, "B N 1"]:
        # One level a segment to one a token; known tokens have level 0.
        table = packing.level_table(level)
        return conditional.replace(levels=table).noise_levels[..., None]

    def denoise(x: jax.Array, level: jax.Array) -> tuple[jax.Array, Any]:
        told = spec.trained_levels.told(level) if spec.trained_levels else level
        inputs = context.packed.replace(
            tokens=jnp.tile(x, (copies, 1, 1)),
            levels=jnp.tile(packing.level_table(told), (copies, 1)),
        )
        output, residual = batch_invariance.map_rows(
            predict, (inputs, context.plans, state.residual, kept)
        )
        settings = guidance.at(expand(told), boundary=spec.boundary)
        arguments: Any = {"settings": settings, "process": spec.process, "x": x}
        arguments |= {"level": expand(level), "step": state.index}
        if copies == 1:
            return guidance_lib.zero_init(output, **arguments), residual
        arguments["deviation"] = functools.partial(_deviation, conditional)
        return guidance_lib.guide(spec.predictions(output), **arguments), residual

    def noise(_: Any) -> jax.Array:
        return token_noise(
            conditional.segments,
            seeds=context.seeds,
            noise_ids=context.noise_ids,
            index=state.index + 1,
            size=state.solver.x.shape[-1],
        )

    after, residual = solver.step(
        spec.sampler,
        state.solver,
        process=spec.process,
        denoise=denoise,
        levels=(levels[0], levels[1]),
        expand=expand,
        noise=noise,
        cond_mask=conditional.cond_mask[..., None],
    )
    return SamplingState(after, state.index + 1, residual)


def _predict(
    spec: StepSpec,
    params: Any,
    parts: tuple[packing.Packed, dit.Plans, jax.Array | None, jax.Array | None],
) -> tuple[Any, Any]:
    """Predictions of rows, and where steps are cached what the blocks added."""
    inputs, plans, residual, kept = parts
    if not spec.cached or spec.boundary is not None:
        predictor = experts.predictor(spec.transformer, spec.boundary)
        return predictor(params, inputs, plans, kept), None
    prediction, variables = dit.DiT(spec.transformer).apply(
        {"params": params},
        inputs,
        plans=plans,
        residual=residual,
        kept=kept,
        mutable=[dit.CACHE],
    )
    if residual is None:
        residual = variables[dit.CACHE]["residual"][0]
    return prediction, residual


def _deviation(
    packed: packing.Packed, data: Float[Array, "B N P"]
) -> Float[Array, "B N 1"]:
    """Standard deviation over the unknown tokens of each segment."""
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
