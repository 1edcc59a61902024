"""What words are worth: the report's ablation of re-captioning, on a world of our own.

    python -m experiments.reports.recaption --latents LATENTS --output DIR [--quick]

One model, one number of steps, the same clips; only the captions differ:

    uploader    what people type: words dropped, shuffled, wrong, or a file's name
    captioner   what the captioner says of the clips (`data_pipelines.recaption`)
    detailed    the ground truth

Every arm is trained with every seed, makes videos of the same held-out prompts, and the
judge reads them back. Prints a JSON line for each arm: accuracy of its captions, mean
accuracy of the judge over all attributes with the interval of 95 % (bootstrap over
seeds and prompts), and the Fréchet distance to real renders of those prompts'
distribution; then one with the share of the way from `uploader` to `detailed` that the
captioner recovers. With `--expand` every arm also makes short prompts, as they are and
expanded.

The full form takes hours on a CPU. `--quick` trains for two steps, to try it out.
"""

import dataclasses
import json
import pathlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data_pipelines import added_captions, caption_statistics, recaption, records
from data_pipelines.worlds import bodies, judge
from experiments import configs, demo
from experiments.benchmarks import measurement
from experiments.stages.video import stage
from soraflax.cli import parser as cli
from soraflax.evaluation import frechet
from soraflax.generation import expansion, generator
from soraflax.pretrained import shipped

UPLOADER, CAPTIONER, TRUTH = ARMS = ("uploader", "captioner", "detailed")
BOOTSTRAPS = 2000
FRAMES = 17


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Sizes of the ablation.

    Attributes:
      config: name of the training config.
      steps: updates of every arm.
      seeds: runs of every arm.
      prompts: videos that each run makes.
      sampling: solver steps of each.
      expand: whether short prompts are made too.
    """

    config: str = "bodies"
    steps: int = 3000
    seeds: int = 3
    prompts: int = 48
    sampling: int = 20
    expand: bool = False


def noisy(text: str, rng: random.Random) -> str:
    """A detailed caption as an uploader might have it.

    One in five is a file's name; of the others words are left out (each of half of the
    captions with probability 0.4), put in another order (a quarter), or replaced by
    another word of their kind (half).
    """
    if rng.random() < 0.2:
        return f"{rng.choice(('IMG', 'VID', 'clip'))}_{rng.randrange(10_000):04d}.mp4"
    words = text.split()
    kinds = [kind[1:] for kind in bodies.word_kinds(bodies.VARIANTS["full"])]
    if rng.random() < 0.5:
        at = [n for n, w in enumerate(words) if any(w in kind for kind in kinds)]
        for n in at[:1] and [rng.choice(at)]:
            kind = next(kind for kind in kinds if words[n] in kind)
            words[n] = rng.choice([w for w in kind if w != words[n]])
    if rng.random() < 0.5:
        words = [w for w in words if rng.random() > 0.4] or words[:1]
    if rng.random() < 0.25:
        rng.shuffle(words)
    return " ".join(words)


def add_sources(
    dataset: pathlib.Path, *, captioner: pathlib.Path | None
) -> dict[str, dict[str, Any]]:
    """Write the captions of both other arms; each arm's statistics."""
    clips = [
        clip
        for split, count in sorted(records.read_info(dataset)["splits"].items())
        if count
        for clip in recaption.opened(str(dataset), split)
    ]
    texts = [
        (clip.id, noisy(clip.captions[TRUTH], random.Random(clip.id))) for clip in clips
    ]
    truths = [clip.truth for clip in clips]
    noise = caption_statistics.measure([text for _, text in texts], truths)
    added_captions.write(dataset, UPLOADER, captions=texts, statistics=noise)
    folder = shipped.captioner_or_given(captioner)
    said = recaption.recaption(
        dataset, writer=recaption.Writer(str(folder)), name=CAPTIONER
    )
    truth = caption_statistics.measure([c.captions[TRUTH] for c in clips], truths)
    return {UPLOADER: noise, CAPTIONER: said, TRUTH: truth}


def train(
    ablation: Ablation,
    *,
    dataset: pathlib.Path,
    arm: str,
    seed: int,
    workdir: pathlib.Path,
) -> generator.Generator:
    """A model of one arm and one seed."""
    values = configs.load(ablation.config)
    values.data.path = str(dataset)
    values.data.captions.names = (arm,)
    values.autoencoder = str(shipped.folder() / "autoencoder")
    values.seed = seed
    values.train.steps = ablation.steps
    values.train.checkpoint_every = 0
    values.evaluation.words = ()
    stage.run(values, workdir)
    return generator.Generator.load(workdir)


def scores(
    model: generator.Generator,
    ablation: Ablation,
    *,
    seed: int,
    change: Callable[[str], str] = lambda text: text,
) -> tuple[list[float], list[np.ndarray]]:
    """Of every held-out prompt the share of attributes that the judge reads, and video.

    Args:
      model: of one arm.
      ablation: sizes.
      seed: of the noise.
      change: what becomes of a prompt before the model is given it.
    """
    world = dataclasses.replace(bodies.VARIANTS["demo"], holdout="only")
    asked = bodies.prompts(demo.HELD_OUT_SEED, ablation.prompts, config=world)
    jobs = [
        model.prompt(change(text), size=(64, 64), frames=FRAMES, seed=1000 * seed + n)
        for n, (text, _) in enumerate(asked)
    ]
    sampling = generator.SamplingConfig(steps=ablation.sampling, guidance=2.0)
    videos = model(jobs, sampling)
    shares = [
        float(np.mean([*judge.agreement(judge.read(video), expected).values()]))
        for video, (_, expected) in zip(videos, asked, strict=True)
    ]
    return shares, videos


def interval(values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean over seeds and prompts, and its bootstrap interval of 95 %.

    Args:
      values: for each seed, those of the same prompts.
    """
    table = np.asarray(values)
    rng = np.random.default_rng(0)
    means = [
        table[rng.integers(len(table), size=len(table))][
            :, rng.integers(table.shape[1], size=table.shape[1])
        ].mean()
        for _ in range(BOOTSTRAPS)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return {
        "mean": round(float(table.mean()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


def distance(videos: Sequence[np.ndarray], *, count: int) -> float:
    """Fréchet distance of band features to renders of held-out clips."""
    world = dataclasses.replace(bodies.VARIANTS["demo"], sizes=((64, 64),))
    renders = demo.real_renders(world, count, frames=FRAMES)

    def features(clips: Sequence[np.ndarray]) -> frechet.Moments:
        x = np.stack(clips).astype(np.float32) / 127.5 - 1
        return frechet.moments([frechet.band_features(jax.numpy.asarray(x))])

    real = features([clip.video for clip in renders])
    return round(float(frechet.distance(features(videos), real, too_few="allow")), 4)


def short(text: str) -> str:
    """A prompt with its colour and shape alone, as people type."""
    words = {*expansion.COLOURS, *expansion.SHAPES}
    return "a " + " ".join(word for word in text.split() if word in words)


def lines(
    ablation: Ablation,
    *,
    dataset: pathlib.Path,
    output: pathlib.Path,
    captioner: pathlib.Path | None,
) -> Iterator[measurement.Line]:
    """A line for each arm, and one for what the captioner recovers."""
    statistics = add_sources(dataset, captioner=captioner)
    means = {}
    for arm in ARMS:
        figures: dict[str, list[list[float]]] = {"judge": [], "short": [], "long": []}
        made: list[np.ndarray] = []
        for seed in range(ablation.seeds):
            folder = output / f"{arm}-{seed}"
            model = train(ablation, dataset=dataset, arm=arm, seed=seed, workdir=folder)
            shares, videos = scores(model, ablation, seed=seed)
            figures["judge"].append(shares)
            made += videos
            for name, change in (_SHORT if ablation.expand else {}).items():
                figures[name].append(
                    scores(model, ablation, seed=seed, change=change)[0]
                )
        measured = {name: interval(table) for name, table in figures.items() if table}
        means[arm] = measured["judge"]["mean"]
        yield {
            "arm": arm,
            "captions": statistics[arm]["accuracy"],
            **measured,
            "frechet": distance(made, count=len(made)),
            **dataclasses.asdict(ablation),
            **measurement.environment(),
        }
    yield {"figure": "recovered", "share": _recovered(means)}


_SHORT: Mapping[str, Callable[[str], str]] = {
    "short": short,
    "long": lambda text: expansion.Template()(short(text)),
}


def _recovered(means: Mapping[str, float]) -> float | None:
    """The captioner's part of the way; None where there is none to go."""
    way = means[TRUTH] - means[UPLOADER]
    part = means[CAPTIONER] - means[UPLOADER]
    return round(part / way, 4) if way > 0 else None


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.reports.recaption", description=__doc__
    )
    full = Ablation()
    add = parser.add_argument
    add("--latents", required=True, type=pathlib.Path, help="of the shipped encoder")
    add("--output", required=True, type=pathlib.Path, help="folder of the runs")
    add("--captioner", type=pathlib.Path, help="its folder (default: the shipped)")
    add("--config", default=full.config, help="of training, NAME or NAME:ARGUMENT")
    add("--steps", type=cli.positive_int, default=full.steps, help="of every run")
    add("--seeds", type=cli.positive_int, default=full.seeds, help="runs of an arm")
    add(
        "--prompts", type=cli.positive_int, default=full.prompts, help="videos of a run"
    )
    add("--expand", action="store_true", help="short prompts too, expanded and not")
    add("--quick", action="store_true", help="two steps, two seeds, four prompts")
    args = parser.parse_args(argv)
    ablation = Ablation(
        args.config, args.steps, args.seeds, args.prompts, expand=args.expand
    )
    if args.quick:
        ablation = dataclasses.replace(
            ablation, config="bodies:tiny", steps=2, seeds=2, prompts=4, sampling=2
        )

    def run() -> None:
        for line in lines(
            ablation,
            dataset=args.latents,
            output=args.output,
            captioner=args.captioner,
        ):
            print(json.dumps(line), flush=True)

    return cli.run_command("recaption", run, extra="train")


if __name__ == "__main__":
    sys.exit(main())
