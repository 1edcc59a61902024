"""How samplers converge, what caching and packing save, and what a seed decides.

order      error of a latent against one of 1,000 steps, and its order
caching    time and accuracy with settings of `caching.StepCacheConfig` over those
           without, the same prompts and seeds, taken in turns
packed     videos a second of mixed sizes in shared rows over one at a time
seed       pixels of a video made alone and in company
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies
from experiments.benchmarks import measurement
from experiments.benchmarks.tasks import clips as shared
from experiments.reports import scoring
from soraflax.diffusion import convergence, samplers
from soraflax.generation import caching as caches
from soraflax.generation import generator

REFERENCE, STEPS = 1000, (8, 16, 32, 64, 128, 256)
FITTED = (64, 128, 256)  # with fewer steps errors are a tenth of the latent, and more
NOISE = 0.25  # of an order: what a fit to three points is worth
ORDER_PROMPTS = 2
CACHED_PROMPTS, PACKED_PROMPTS, COMPANY = 24, 18, 7
MIN_SPEEDUP, MAX_LOSS, MIN_PACKED = 1.7, 0.02, 1.5
SETTINGS = (
    caches.StepCacheConfig(),
    caches.StepCacheConfig(0.2, max_consecutive_skips=2, warmup_steps=2),
    caches.StepCacheConfig(1.0, max_consecutive_skips=2, warmup_steps=1),
)
ORDERS: dict[str, tuple[samplers.Sampler, int]] = {
    "Euler": (samplers.Euler(), 1),
    "Heun": (samplers.Heun(), 2),
    "DPM-Solver++(2M)": (samplers.DPMSolver(), 2),
    "UniPC": (samplers.UniPC(), 2),
}


def order(bench: shared.Bench) -> Iterator[dict[str, Any]]:
    """A line for every sampler, with guidance and without."""
    asked = bodies.prompts(shared.SEED + bench.seed, ORDER_PROMPTS, config=_unseen())
    canvases = [
        bench.model.canvas(bench.model.prompt(text, frames=9, seed=bench.seed + index))
        for index, (text, _) in enumerate(asked)
    ]

    def latents(sampler: samplers.Sampler, steps: int, guidance: float) -> np.ndarray:
        how = dataclasses.replace(
            bench.sampling, sampler=sampler, steps=steps, guidance=guidance, cache=None
        )
        watch = shared.progress(f"order, {steps} steps")
        found = bench.model.fill(canvases, how, progress=watch)
        return np.stack(found).astype(np.float64)

    for guidance in dict.fromkeys((bench.sampling.guidance, 1.0)):
        truth = latents(samplers.Heun(), REFERENCE, guidance)
        for name, (sampler, claimed) in ORDERS.items():
            errors = {
                steps: float(np.std(latents(sampler, steps, guidance) - truth))
                / float(np.std(truth))
                for steps in STEPS
            }
            fitted = [errors[steps] for steps in FITTED]
            found = convergence.convergence_order(FITTED, fitted)
            yield {
                "figure": "order",
                "sampler": name,
                "guidance": guidance,
                "order": found,
                "fitted on steps": FITTED,
                "errors": errors,
                "reference": f"Heun, {REFERENCE} steps",
                "asked": f"order >= {claimed}, within {NOISE}",
                "ok": found >= claimed - NOISE,
            }


def caching(bench: shared.Bench) -> Iterator[dict[str, Any]]:
    """A line for every setting; `bench.sampling` gives sampler and steps."""
    jobs, expected = _jobs(bench, CACHED_PROMPTS, frames=(shared.FRAMES,))
    configs = {
        setting: dataclasses.replace(bench.sampling, cache=setting)
        for setting in (None, *SETTINGS)
    }
    canvases = [bench.model.canvas(job) for job in jobs]
    latents: dict[Any, list[np.ndarray]] = {}

    def fill(setting: Any) -> None:
        watch = shared.progress(f"caching, {setting}")
        latents[setting] = bench.model.fill(canvases, configs[setting], progress=watch)

    seconds = measurement.least_seconds(
        {setting: lambda s=setting: fill(s) for setting in configs}, repeats=2
    )
    start = time.perf_counter()
    videos = {setting: bench.model.decode(found) for setting, found in latents.items()}
    decoding = (time.perf_counter() - start) / len(videos)
    scores = {k: scoring.accuracy(found, expected) for k, found in videos.items()}
    names = learned(scores[None])
    for setting in SETTINGS:
        speedup = seconds[None] / seconds[setting]
        loss = _mean(scores[None], names) - _mean(scores[setting], names)
        skipped = bench.model.denoiser.skips(configs[setting])
        yield {
            "figure": "caching",
            **dataclasses.asdict(setting),
            "steps": bench.sampling.steps,
            "skipped": sum(skipped),
            "videos": len(jobs),
            "speed-up": speedup,
            "speed-up, decoding included": (seconds[None] + decoding)
            / (seconds[setting] + decoding),
            "attributes": names,
            "accuracy without": _mean(scores[None], names),
            "accuracy loss": loss,
            "asked": f"speed-up >= {MIN_SPEEDUP}, loss <= {MAX_LOSS}",
            "ok": speedup >= MIN_SPEEDUP and loss <= MAX_LOSS,
        }


def learned(scores: dict[str, dict[str, float]]) -> list[str]:
    """Attributes read right more often than half way from chance to always."""
    return [
        name
        for name, score in scores.items()
        if score["accuracy"] > (1 + score["chance"]) / 2
    ]


def packed(bench: shared.Bench) -> Iterator[dict[str, Any]]:
    """Sampling alone and with decoding, all together and one at a time."""
    jobs, _ = _jobs(bench, PACKED_PROMPTS, frames=(1, 9, shared.FRAMES))
    canvases = [bench.model.canvas(job) for job in jobs]
    latents = bench.model.fill(canvases, bench.sampling)

    def fill(groups: Sequence[Sequence[Any]]) -> None:
        for group in groups:
            bench.model.fill(group, bench.sampling)

    def decode(groups: Sequence[Sequence[np.ndarray]]) -> None:
        for group in groups:
            bench.model.decode(group)

    calls: dict[Any, Callable[[], None]] = {
        "fill together": lambda: fill([canvases]),
        "fill alone": lambda: fill([[canvas] for canvas in canvases]),
        "decode together": lambda: decode([latents]),
        "decode alone": lambda: decode([[latent] for latent in latents]),
    }
    seconds = measurement.least_seconds(calls, repeats=2)
    alone = seconds["fill alone"] + seconds["decode alone"]
    together = seconds["fill together"] + seconds["decode together"]
    ratio = alone / together
    yield {
        "figure": "packed",
        "videos": len(jobs),
        "sizes": sorted({job.conditioning.size for job in jobs}),
        "frames": sorted({job.conditioning.frames for job in jobs}),
        "videos a second, alone": len(jobs) / alone,
        "videos a second, together": len(jobs) / together,
        "ratio": ratio,
        "ratio of sampling": seconds["fill alone"] / seconds["fill together"],
        "ratio of decoding": seconds["decode alone"] / seconds["decode together"],
        "seconds": seconds,
        "asked": f"ratio >= {MIN_PACKED}",
        "ok": ratio >= MIN_PACKED,
    }


def seed(bench: shared.Bench) -> Iterator[dict[str, Any]]:
    """A line for every company that a video is made in."""
    jobs, _ = _jobs(bench, COMPANY, frames=(shared.FRAMES, 9, 1))
    subject, others = jobs[0], jobs[1:]
    alone = bench.model([subject], bench.sampling)[0]
    companies = {
        "alone, once more": [subject],
        "first of two": [subject, others[0]],
        "last": [*others, subject],
        "in the middle": [*others[:3], subject, *others[3:]],
        "of two of the same size": [dataclasses.replace(subject, seed=99), subject],
    }
    for name, company in companies.items():
        videos = bench.model(company, bench.sampling)
        video = videos[_position(company, subject)]
        apart = np.abs(video.astype(int) - alone.astype(int))
        unequal = int((apart > 0).any(axis=-1).sum())
        yield {
            "figure": "seed",
            "company": name,
            "videos": len(company),
            "pixels": alone[..., 0].size,
            "unequal pixels": unequal,
            "greatest difference": int(apart.max()),
            "align": bench.model.model.config.row.align,
            "asked": "no unequal pixel",
            "ok": unequal == 0,
        }


def _jobs(
    bench: shared.Bench, count: int, *, frames: Sequence[int]
) -> tuple[list[generator.Job], list[dict[str, Any]]]:
    """Jobs of all of the world's sizes and of these lengths, and what they ask."""
    asked = bodies.prompts(
        shared.SEED + bench.seed, bench.count or count, config=_unseen()
    )
    sizes = shared.WORLD.sizes
    jobs = [
        bench.model.prompt(
            text,
            size=sizes[index % len(sizes)],
            frames=frames[index // len(sizes) % len(frames)],
            seed=bench.seed + index,
        )
        for index, (text, _) in enumerate(asked)
    ]
    return jobs, [expected for _, expected in asked]


def _position(jobs: Sequence[generator.Job], job: generator.Job) -> int:
    """Where this very job is; jobs hold arrays, which `==` does not decide."""
    return next(index for index, other in enumerate(jobs) if other is job)


def _unseen() -> bodies.WorldConfig:
    return dataclasses.replace(shared.WORLD, holdout="only")


def _mean(scores: dict[str, dict[str, float]], names: Sequence[str]) -> float:
    found = [scores[name]["accuracy"] for name in names]
    return float(np.mean(found)) if found else 0.0
