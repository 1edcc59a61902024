"""Make a trained captioner the one that comes with the package, with its card.

    python -m experiments.ship_captioner --captioner CAPTIONER --card card.md

writes `pretrained.shipped`'s: parameters in bfloat16, without an autoencoder, which is
that of the shipped model; a captioner of another encoder's latents is refused.
"""

import pathlib
import sys
from collections.abc import Sequence

from soraflax.cli import parser as cli
from soraflax.pretrained import captioners, models, rounding, shipped


def ship(captioner: pathlib.Path, output: pathlib.Path, *, card: pathlib.Path) -> int:
    """Write the captioner and its card; the bytes that it takes in a package.

    Raises:
      ModelError: latents of another encoder than the shipped model's.
      ValueError: more bytes than both models have room for; what was there is gone.
      FileNotFoundError, ConfigError: see `captioners.load_captioner`.
    """
    model = captioners.load_captioner(captioner)
    codec = models.load_autoencoder(shipped.folder() / models.AUTOENCODER)
    captioners.check_encoder(captioner, codec, config=model.config)
    captioners.save_captioner(
        output,
        rounding.rounded(model.params),
        config=model.config,
        vocabulary=model.tokenizer,
        metadata={"rounded_from": {"digest": model.digest}},
        files={shipped.CARD: card},
    )
    size = shipped.packed_bytes(output)
    both = size + shipped.packed_bytes(shipped.folder())
    if both > shipped.MAX_BYTES:
        raise ValueError(
            f"{captioner}: both models take {both:,} bytes, and the package has room "
            f"for {shipped.MAX_BYTES:,}: train a smaller one"
        )
    return size


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.ship_captioner",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    add("--captioner", required=True, type=pathlib.Path, help="its folder")
    add("--card", required=True, type=pathlib.Path, help="Markdown that goes with it")
    add("--output", default=shipped.CAPTIONER, type=pathlib.Path, help="to write")
    args = parser.parse_args(argv)

    def run() -> None:
        size = ship(args.captioner, args.output, card=args.card)
        print(f"{args.output}: {size:,} bytes")

    return cli.run_command(parser.prog, run, extra="train")


if __name__ == "__main__":
    sys.exit(main())
