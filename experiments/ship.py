"""Make a trained video model the one that comes with the package, with its card.

    python -m experiments.ship --checkpoint VIDEO --facts facts.json \\
        --output soraflax/assets/bodies

writes `pretrained.shipped`: parameters in bfloat16 (`pretrained.rounding`), and
`card.md`. What no file of the model says comes from `facts.json`, the fields of
`CardFacts`:

    {"title": "...", "summary": "...", "data": "...", "training": ["COMMAND", ...],
     "hardware": "...", "limits": ["...", ...],
     "figures": [{"what": "...", "value": "...", "command": "..."}, ...],
     "sampling": {"sampler": "ancestral", "steps": 60, "guidance": 2.0,
                  "size": [64, 64], "frames": 17}}
"""

import dataclasses
import json
import pathlib
import shutil
import sys
from collections.abc import Sequence

from data_pipelines import latents as latent_lib
from data_pipelines import transforms
from experiments.stages.video import export
from soraflax import config as config_lib
from soraflax.cli import parser as cli
from soraflax.pretrained import io as model_io
from soraflax.pretrained import (
    models,
    rounding,
    sampling_defaults,
    shipped,
    training_data,
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured number.

    Attributes:
      what: was measured.
      value: with its unit.
      command: that measures it again.
    """

    what: str
    value: str | float | int
    command: str


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a model's card says that its files do not.

    Attributes:
      title: of the card.
      summary: what the model makes, in a paragraph.
      data: what it was trained on, and whose it is.
      training: commands that train it again, in order.
      hardware: on what they ran, and for how long.
      figures: how good it is; at least one.
      limits: what it cannot do.
      sampling: how the model is to be sampled; None leaves it as it is.
      licence: of its parameters.
    """

    title: str
    summary: str
    data: str
    training: tuple[str, ...]
    hardware: str
    figures: tuple[Figure, ...]
    limits: tuple[str, ...]
    sampling: sampling_defaults.SamplingDefaults | None = None
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        for name in ("training", "figures", "limits"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: give one or more")


def read_facts(path: pathlib.Path) -> CardFacts:
    """The facts in a JSON file.

    Raises:
      ConfigError: no JSON, or other fields, named.
    """
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise config_lib.ConfigError(f"{path}: not JSON ({error})") from error
    return config_lib.to_dataclass(values, CardFacts, path=str(path))


def card(
    facts: CardFacts,
    model: models.VideoModel,
    *,
    seen: training_data.TrainingData | None = None,
) -> str:
    """A model's card, in Markdown.

    Args:
      facts: that no file of the model says.
      model: as it was before rounding.
      seen: what it was trained on, if that is known.
    """
    return "\n".join(
        [
            f"# {facts.title}",
            f"\n{facts.summary}",
            "\n## Model\n",
            *_table([("", ""), *_sizes(model), *_sampled(facts.sampling)]),
            "\n## Training\n",
            f"{facts.data}\n",
            *([] if seen is None else [*_table([("", ""), *_seen(seen)]), ""]),
            f"Hardware: {facts.hardware}\n",
            "```bash",
            *facts.training,
            "```",
            "\n## Figures\n",
            *_table(
                [("what", "value", "command")]
                + [(f.what, str(f.value), f"`{f.command}`") for f in facts.figures]
            ),
            "\n## Limits\n",
            *(f"- {limit}" for limit in facts.limits),
            f"\n## Licence\n\n{facts.licence}\n",
        ]
    )


def _sizes(model: models.VideoModel) -> list[tuple[str, str]]:
    """What the model's own files say."""
    config, encoder = model.config, model.autoencoder.config
    transformer = config.transformer
    counts = [
        sum(leaf.size for leaf in model_io.flatten(params).values())
        for params in (model.params, model.autoencoder.params)
    ]
    return [
        ("transformer", f"{counts[0]:,} parameters, {transformer.depth} blocks"),
        ("autoencoder", f"{counts[1]:,} parameters"),
        (
            "latent",
            f"{encoder.latent_channels} channels; {encoder.temporal_ratio} frames and "
            f"{encoder.spatial_ratio} x {encoder.spatial_ratio} pixels a cell",
        ),
        ("frame rate", f"{config.reference_fps:g} frames per second"),
        ("window", f"{config.window} latent frames"),
        ("text", f"{config.text_length} tokens of {model.tokenizer.vocab_size} pieces"),
        ("stored in", "bfloat16, computed in float32 parameters"),
        ("before rounding", f"transformer `{model.digest[:12]}`"),
    ]


def _sampled(
    sampling: sampling_defaults.SamplingDefaults | None,
) -> list[tuple[str, str]]:
    """How it is sampled where no one says otherwise."""
    if sampling is None:
        return []
    numbers = f"{sampling.steps} steps, guidance {sampling.guidance:g}"
    if (skip := sampling.skip) is not None:
        blocks = ", ".join(map(str, skip.blocks))
        numbers += f", skip guidance {skip.scale:g} of block {blocks}"
    return [("sampled by", f"{sampling.sampler}, {numbers}")]


def _seen(seen: training_data.TrainingData) -> list[tuple[str, str]]:
    """What the clips of training were."""
    return [
        ("sides", "{} to {} pixels".format(*seen.sides)),
        ("width / height", "{:.3g} to {:.3g}".format(*seen.aspects)),
        ("frames", "{} to {}".format(*seen.frames)),
        ("frames per second", "{:g} to {:g}".format(*seen.fps)),
        ("words", ", ".join(seen.words) or "not listed"),
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first row is its head."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def ship(
    checkpoint: pathlib.Path,
    output: pathlib.Path,
    *,
    facts: CardFacts,
    autoencoder: pathlib.Path | None = None,
    latents: Sequence[str] = (),
) -> int:
    """Write the model and its card.

    Args:
      checkpoint: a VIDEO directory.
      output: directory to write.
      facts: what the card says.
      autoencoder: in place of the model's own, see `rounding.save_rounded`.
      latents: that it was trained on, for a model that does not say on what.

    Returns:
      The bytes that it takes in a package.

    Raises:
      ValueError: more bytes than a package has room for; nothing is written.
      FileNotFoundError, ModelError, ConfigError: see `models.load_video_model`.
    """
    model = models.load_video_model(checkpoint)
    seen = model.config.trained_on
    if latents:
        opened = map(latent_lib.open_latents, latents)
        seen = export.measure_data(opened, transforms.CaptionConfig())
    text = card(facts, model, seen=seen).encode()
    draft = output.with_name(f".{output.name}.draft")
    try:
        rounding.save_rounded(
            checkpoint,
            draft,
            autoencoder=autoencoder,
            trained_on=seen,
            sampling=facts.sampling,
            files={shipped.CARD: text},
        )
        size = shipped.packed_bytes(draft)
        if size > shipped.MAX_BYTES:
            raise ValueError(
                f"{checkpoint}: takes {size:,} bytes, and the package has room for "
                f"{shipped.MAX_BYTES:,}: train a smaller model"
            )
        model_io.replace_directory(draft, output, is_replaceable=model_io.is_model)
    finally:
        if draft.exists():
            shutil.rmtree(draft)
    return size


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.ship", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--checkpoint", required=True, type=pathlib.Path, help="a VIDEO directory")
    add("--facts", required=True, type=pathlib.Path, help="JSON of what the card says")
    add("--output", default=shipped.FOLDER, type=pathlib.Path, help="to write")
    add("--autoencoder", type=pathlib.Path, help="one whose decoder was trained on")
    add(
        "--latents",
        nargs="+",
        default=[],
        metavar="DIR",
        help="latents that it was trained on (default: what the model says of them)",
    )
    args = parser.parse_args(argv)

    def run() -> None:
        facts = read_facts(args.facts)
        size = ship(
            args.checkpoint,
            args.output,
            facts=facts,
            autoencoder=args.autoencoder,
            latents=args.latents,
        )
        print(f"{args.output}: {size:,} bytes of at most {shipped.MAX_BYTES:,}")

    return cli.run_command(parser.prog, run, extra="train")


if __name__ == "__main__":
    sys.exit(main())
