"""The mean of the parameters of two models, one of which was trained on to the other.

    python -m experiments.average --checkpoints FIRST SECOND --output MEAN

Between a model and what it was trained on to there is often one that keeps what the
first knew and has what the second learnt (WiSE-FT, arXiv 2109.01903; model soups,
arXiv 2203.05482). `--share` is the second's part. What else MEAN says of itself, such
as the clips of its training, is the second's.
"""

import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

from soraflax.cli import parser as cli
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models

ALIKE = ("transformer", "statistics", "autoencoder", "process", "prediction")


def average(
    first: pathlib.Path, second: pathlib.Path, *, share: float, output: pathlib.Path
) -> str:
    """Write (1 - share) `first` + share `second`, float32.

    Args:
      first: a VIDEO directory.
      second: another; its configuration, autoencoder and vocabulary are kept.
      share: from 0 to 1.
      output: directory to write.

    Returns:
      The digest of the mean.

    Raises:
      ModelError: their parameters do not mean the same.
      FileNotFoundError, ConfigError: see `models.load_video_model`.
    """
    one, other = (models.load_video_model(path) for path in (first, second))
    for name in ALIKE:
        if getattr(one.config, name) != getattr(other.config, name):
            raise model_io.ModelError(f"{first}, {second}: differ in {name}")
    params = jax.tree.map(
        lambda a, b: (1 - share) * np.float32(a) + share * np.float32(b),
        one.params,
        other.params,
    )
    return models.save_video_model(
        output,
        params,
        config=other.config,
        autoencoder_dir=model_io.find_model(second, kind="video") / models.AUTOENCODER,
        vocabulary=other.tokenizer,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.average",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add(
        "--checkpoints",
        nargs=2,
        required=True,
        type=pathlib.Path,
        metavar=("FIRST", "SECOND"),
        help="VIDEO directories of one size",
    )
    add("--share", type=cli.fraction, default=0.5, help="of the second")
    add("--output", required=True, type=pathlib.Path, help="to write")
    args = parser.parse_args(argv)

    def run() -> None:
        digest = average(*args.checkpoints, share=args.share, output=args.output)
        print(f"{args.output}: {digest[:12]}")

    return cli.run_command(parser.prog, run, extra="train")


if __name__ == "__main__":
    sys.exit(main())
