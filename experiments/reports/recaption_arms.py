"""The arms of the ablation of re-captioning: captions, training, and what they make.

What `experiments.reports.recaption` compares. A run of an arm is `soraflax train` in a
process of its own; finished ones are left alone, stopped ones resumed.
"""

import dataclasses
import pathlib
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipelines import added_captions, caption_statistics, recaption, records
from data_pipelines.worlds import bodies, captions, judge
from experiments import demo
from soraflax.cli import parser as cli
from soraflax.evaluation import frechet
from soraflax.generation import expansion, generator
from soraflax.pretrained import models, shipped

UPLOADER, CAPTIONER, TRUTH = ARMS = ("uploader", "captioner", "detailed")
SHOWN = 4  # videos of an arm that are kept
Run = Callable[[Sequence[str]], int]


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Sizes of the ablation.

    Attributes:
      config: of training, `NAME` or `NAME:ARGUMENT`.
      modality: a key of `sweep.MODALITIES`, of the data; of images prompts are too.
      clips: of the data.
      rows: packed rows of a batch.
      steps: updates of every run.
      seeds: runs of every arm.
      prompts: held-out prompts that each run is given; of images there are 18.
      samples: videos of each prompt, each from noise of its own.
      solver_steps: of sampling.
      guidance: guidance scale.
      attributes: that equations (1) and (2) are of.
    """

    config: str = "bodies"
    modality: str = "images"
    clips: int = 12_000
    rows: int = 8
    steps: int = 600
    seeds: int = 3
    prompts: int = 18
    samples: int = 5
    solver_steps: int = 20
    guidance: float = 2.0
    attributes: tuple[str, ...] = ("background", "colour", "size")

    def __post_init__(self) -> None:
        if self.images and "direction" in self.attributes:
            raise ValueError(
                "attribute 'direction': still images have none; use --modality both"
            )

    @property
    def images(self) -> bool:
        return self.modality == "images"


QUICK = Ablation(
    config="bodies:tiny",
    clips=200,
    steps=4,
    seeds=2,
    prompts=6,
    samples=1,
    solver_steps=2,
)


@dataclasses.dataclass(frozen=True)
class Readings:
    """What one arm made of the prompts.

    Attributes:
      own: attribute to whether it agrees with its prompt, `[seeds, prompts, samples]`.
      others: attribute to the mean agreement with all others' prompts.
      features: of everything that was made, `[N, D]`.
      shown: the first videos.
    """

    own: dict[str, np.ndarray]
    others: dict[str, float]
    features: np.ndarray
    shown: list[np.ndarray]

    def share(self, attributes: Sequence[str]) -> np.ndarray:
        """The share of attributes that agree, `[seeds, prompts]`."""
        return np.mean([self.own[name] for name in attributes], axis=(0, -1))


def noisy(text: str, rng: random.Random) -> str:
    """A detailed caption as an uploader might have it.

    One in five is a file's name. Of the others, half have a word replaced by another of
    its kind, half lose four in ten of their words, and a quarter are shuffled.
    """
    if rng.random() < 0.2:
        return f"{rng.choice(('IMG', 'VID', 'clip'))}_{rng.randrange(10_000):04d}.mp4"
    words = text.split()
    if rng.random() < 0.5:
        words = _with_a_wrong_word(words, rng)
    if rng.random() < 0.5:
        words = [w for w in words if rng.random() > 0.4] or words[:1]
    if rng.random() < 0.25:
        rng.shuffle(words)
    return " ".join(words)


def _with_a_wrong_word(words: list[str], rng: random.Random) -> list[str]:
    """One word that tells something replaced by another of its kind."""
    kinds = [kind[1:] for kind in bodies.word_kinds(bodies.VARIANTS["demo"])]
    telling = [(n, kind) for n, w in enumerate(words) for kind in kinds if w in kind]
    if not telling:
        return words
    place, kind = rng.choice(telling)
    wrong = rng.choice([w for w in kind if w != words[place]])
    return [*words[:place], wrong, *words[place + 1 :]]


def add_sources(
    dataset: pathlib.Path, *, captioner: pathlib.Path
) -> dict[str, dict[str, Any]]:
    """Write the captions of both other arms; each arm's statistics.

    Raises:
      DatasetError: latents of another encoder, or of no world that says all of itself.
    """
    splits = [
        recaption.opened(str(dataset), split)
        for split, count in sorted(records.read_info(dataset)["splits"].items())
        if count
    ]
    clips = [split[n] for split in splits for n in range(len(split))]
    for clip in clips:
        if TRUTH not in clip.captions or "attributes" not in clip.truth:
            raise records.DatasetError(
                f"{dataset}: clip {clip.id!r} has no {TRUTH!r} caption with its truth: "
                "the ablation is of clips of the world 'bodies'"
            )
    said = recaption.recaption(
        dataset, writer=recaption.Writer(str(captioner)), name=CAPTIONER
    )
    texts = [
        (clip.id, noisy(clip.captions[TRUTH], random.Random(clip.id))) for clip in clips
    ]
    truths = [clip.truth for clip in clips]
    noise = caption_statistics.measure([text for _, text in texts], truths)
    added_captions.write(dataset, UPLOADER, captions=texts, statistics=noise)
    truth = caption_statistics.measure([c.captions[TRUTH] for c in clips], truths)
    return {UPLOADER: noise, CAPTIONER: said, TRUTH: truth}


def arguments(
    ablation: Ablation, *, data: pathlib.Path, arm: str, seed: int
) -> list[str]:
    """The words after `soraflax train` of a run, but for its work folder."""
    steps = ablation.steps
    fields = {
        "data.path": data,
        "data.captions.names": f"('{arm}',)",
        "data.rows": ablation.rows,
        "autoencoder": shipped.folder() / models.AUTOENCODER,
        "model.latent_channels": encoder().config.latent_channels,
        "seed": seed,
        "optimizer.warmup": max(1, min(50, steps // 10)),
        "train.steps": steps,
        "train.log_every": max(1, min(50, steps // 5)),
        "train.checkpoint_every": max(50, steps // 3),
        "train.evaluate_every": 0,
        "train.ema_decay": min(0.998, 1 - 10 / (steps + 10)),
        "evaluation.words": "()",
    }
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    return [f"--config={ablation.config}", *words]


def train(
    ablation: Ablation,
    folder: pathlib.Path,
    *,
    data: pathlib.Path,
    arm: str,
    seed: int,
    run: Run,
) -> pathlib.Path:
    """The work folder of a run; a finished one is left alone, a stopped one resumed.

    Raises:
      ValueError: the training failed.
    """
    workdir = folder / f"{arm}-{seed}"
    if (workdir / "result.json").is_file():
        return workdir
    status = run(
        [
            *arguments(ablation, data=data, arm=arm, seed=seed),
            f"--config.compilation_cache={folder / 'programs'}",
            f"--workdir={workdir}",
        ]
    )
    if status == cli.EXIT_INTERRUPTED:
        raise KeyboardInterrupt("the same command goes on")
    if status:
        raise ValueError(f"{arm}-{seed} failed; the same command tries it again")
    return workdir


def read(ablation: Ablation, runs: Sequence[pathlib.Path]) -> Readings:
    """What the runs of one arm, one for each seed, make of the held-out prompts."""
    asked = [each for each in prompts(ablation) for _ in range(ablation.samples)]
    own: list[list[dict[str, bool]]] = []
    others: list[dict[str, bool]] = []
    videos: list[np.ndarray] = []
    for seed, workdir in enumerate(runs):
        texts = [text for text, _ in asked]
        made = sample(workdir, texts, ablation=ablation, seed=seed)
        readings = [judge.read(video) for video in made]
        own.append([])
        for index, reading in enumerate(readings):
            for other, (_, wanted) in enumerate(asked):
                agrees = judge.agreement(reading, wanted)
                if other == index:
                    own[-1].append(agrees)
                elif other // ablation.samples != index // ablation.samples:
                    others.append(agrees)
        videos += made
    names, shape = sorted(own[0][0]), (len(runs), -1, ablation.samples)
    return Readings(
        own={
            n: np.reshape([[a[n] for a in seed] for seed in own], shape).astype(float)
            for n in names
        },
        others={n: float(np.mean([a[n] for a in others])) for n in names},
        features=features(videos),
        shown=videos[:: ablation.samples][:SHOWN],
    )


def read_short(
    ablation: Ablation, runs: Sequence[pathlib.Path]
) -> dict[str, np.ndarray]:
    """Of short prompts as they are and expanded, whether all that they name holds.

    Returns:
      `short` and `expanded`: `[seeds, prompts]`.
    """
    briefs = [
        short(text) for text, _ in prompts(ablation) for _ in range(ablation.samples)
    ]
    kinds = bodies.word_kinds(bodies.VARIANTS["demo"])
    known = {word for kind in kinds for word in kind[1:]} | {"moves", "stays", "still"}
    expand = expansion.Template(known, moving=not ablation.images)
    longer = [expand(text, seed=n) for n, text in enumerate(briefs)]
    held: dict[str, list[list[bool]]] = {"short": [], "expanded": []}
    for seed, workdir in enumerate(runs):
        for name, texts in (("short", briefs), ("expanded", longer)):
            made = sample(workdir, texts, ablation=ablation, seed=seed)
            found = [_holds(v, text) for v, text in zip(made, briefs, strict=True)]
            held[name].append(found)
    shape = len(runs), -1, ablation.samples
    return {name: np.reshape(table, shape).mean(-1) for name, table in held.items()}


def prompts(ablation: Ablation) -> list[tuple[str, dict[str, Any]]]:
    """Held-out prompts, the same for every run, with the attributes of each."""
    world = dataclasses.replace(bodies.VARIANTS["demo"], holdout="only")
    return bodies.prompts(
        demo.HELD_OUT_SEED, ablation.prompts, config=world, images=ablation.images
    )


def sample(
    workdir: pathlib.Path, texts: Sequence[str], *, ablation: Ablation, seed: int
) -> list[np.ndarray]:
    """What a run makes of prompts; runs of one seed begin at the same noise."""
    print(f"{workdir.name}: {len(texts)} prompts", file=sys.stderr, flush=True)
    model = generator.Generator.load(workdir)
    frames = 1 if ablation.images else demo.FRAMES
    jobs = [
        model.prompt(text, size=(64, 64), frames=frames, seed=1000 * seed + n)
        for n, text in enumerate(texts)
    ]
    sampling = generator.SamplingConfig(ablation.solver_steps, ablation.guidance)
    return [np.asarray(video) for video in model(jobs, sampling)]


def short(text: str) -> str:
    """A prompt with its colour and shape alone, as people type."""
    words = {*expansion.COLOURS, *expansion.SHAPES}
    return "a " + " ".join(word for word in text.split() if word in words)


def _holds(video: np.ndarray, text: str) -> bool:
    """Whether a video shows all that a prompt names."""
    return all(judge.agreement(judge.read(video), captions.parse(text)).values())


def features(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Band features of videos of one size, `[N, D]`."""
    x = np.stack(videos).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.asarray(frechet.band_features(x))


def renders(ablation: Ablation) -> np.ndarray:
    """Features of as many real renders as an arm makes."""
    world = dataclasses.replace(bodies.VARIANTS["demo"], sizes=((64, 64),))
    frames = 1 if ablation.images else demo.FRAMES
    count = ablation.seeds * ablation.prompts * ablation.samples
    clips = demo.real_renders(world, count, frames=frames)
    return features([clip.video for clip in clips])


def encoder() -> models.AutoencoderModel:
    """The shipped autoencoder, whose latents all arms learn."""
    return models.load_autoencoder(shipped.folder() / models.AUTOENCODER)
