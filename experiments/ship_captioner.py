"""Make a trained captioner, or prompt expander, the one that comes with the package.

    python -m experiments.ship_captioner --captioner CAPTIONER --card card.md
    python -m experiments.ship_captioner --expander EXPANDER --card card.md

writes `pretrained.shipped`'s: parameters in bfloat16, and the card. A captioner goes
without an autoencoder, which is that of the shipped model; one of another encoder's
latents is refused.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from soraflax.cli import parser as cli
from soraflax.pretrained import captioners, expanders, models, rounding, shipped


def ship(captioner: pathlib.Path, output: pathlib.Path, *, card: pathlib.Path) -> int:
    """Write the captioner and its card; the bytes that it takes in a package.

    Raises:
      ModelError: latents of another encoder than the shipped model's.
      ValueError: more bytes than the package has room for; what was there is gone.
      FileNotFoundError, ConfigError: see `captioners.load_captioner`.
    """
    model = captioners.load_captioner(captioner)
    codec = models.load_autoencoder(shipped.folder() / models.AUTOENCODER)
    captioners.check_encoder(captioner, codec, config=model.config)
    _save(captioners.save_captioner, model, output=output, card=card)
    return _checked_bytes(output, captioner, others=(shipped.EXPANDER,))


def ship_expander(
    expander: pathlib.Path, output: pathlib.Path, *, card: pathlib.Path
) -> int:
    """Write the expander and its card; the bytes that it takes in a package.

    Raises:
      ValueError: more bytes than the package has room for; what was there is gone.
      FileNotFoundError, ModelError, ConfigError: see `expanders.load_expander`.
    """
    model = expanders.load_expander(expander)
    _save(expanders.save_expander, model, output=output, card=card)
    return _checked_bytes(output, expander, others=(shipped.CAPTIONER,))


def _save(
    write: Callable[..., Any], model: Any, *, output: pathlib.Path, card: pathlib.Path
) -> None:
    """Write a loaded model by `write`, rounded, with its card."""
    write(
        output,
        rounding.rounded(model.params),
        config=model.config,
        vocabulary=model.tokenizer,
        metadata={"rounded_from": {"digest": model.digest}},
        files={shipped.CARD: card},
    )


def _checked_bytes(
    output: pathlib.Path, source: pathlib.Path, *, others: Sequence[pathlib.Path]
) -> int:
    """Bytes of what was written, which must fit beside the shipped model and others."""
    size = shipped.packed_bytes(output)
    together = size + sum(map(shipped.packed_bytes, (shipped.folder(), *others)))
    if together > shipped.MAX_BYTES:
        raise ValueError(
            f"{source}: all models take {together:,} bytes, and the package has room "
            f"for {shipped.MAX_BYTES:,}: train a smaller one"
        )
    return size


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.ship_captioner",
        description=(__doc__ or "").split("\n\n")[0],
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    for name in ("--captioner", "--expander"):
        which.add_argument(name, type=pathlib.Path, help="its folder")
    add("--card", required=True, type=pathlib.Path, help="Markdown that goes with it")
    add("--output", type=pathlib.Path, help="to write (default: in the package)")
    args = parser.parse_args(argv)
    return cli.run_command(parser.prog, lambda: _run(args), extra="train")


def _run(args: argparse.Namespace) -> None:
    if args.captioner is not None:
        output = args.output or shipped.CAPTIONER
        size = ship(args.captioner, output, card=args.card)
    else:
        output = args.output or shipped.EXPANDER
        size = ship_expander(args.expander, output, card=args.card)
    print(f"{output}: {size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
