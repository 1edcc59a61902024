"""`soraflax convert`: Wan's models to soraflax and back; adapters to diffusers."""

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

from soraflax.cli import parser as cli

if TYPE_CHECKING:
    from soraflax.weights import wan

FAMILIES = ("wan2.1", "wan2.2")


def add_parser(subparsers: Any) -> cli.Parser:
    parser = subparsers.add_parser(
        "convert",
        help="convert the weights of Wan's models, both ways",
        description="Convert an autoencoder or a transformer between Wan's "
        "safetensors, in the layout of diffusers, and a soraflax checkpoint; the "
        "config.json there says which it is. Adapters that a fine-tuning wrote become "
        "the one file that diffusers loads, where their base has Wan's form.",
        epilog="examples: soraflax convert --from wan2.1 --weights wan/vae --out ae; "
        "soraflax convert --from wan2.1 --weights wan/transformer --out dit; "
        "soraflax convert --to wan2.1 --checkpoint ae --out wan/vae; "
        "soraflax convert --to wan2.1 --checkpoint tuned/adapters --out lora",
    )
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument(
        "--from", dest="source", choices=FAMILIES, help="needs --weights"
    )
    direction.add_argument(
        "--to", dest="target", choices=FAMILIES, help="needs --checkpoint"
    )
    add = parser.add_argument
    add("--weights", type=pathlib.Path, metavar="DIR", help="safetensors, with --from")
    add("--checkpoint", type=pathlib.Path, metavar="DIR", help="of soraflax, with --to")
    add("--out", required=True, type=pathlib.Path, metavar="DIR", help="to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert, and print one line about the model."""
    import jax

    from soraflax.cli import checkpoints
    from soraflax.weights import wan

    direction, needed, other = "from", "weights", "checkpoint"
    if args.source is None:
        direction, needed, other = "to", other, needed
    if getattr(args, needed) is None:
        raise ValueError(f"--{direction} needs --{needed} DIR")
    if getattr(args, other) is not None:
        raise ValueError(f"--{direction} reads --{needed}: leave --{other} out")
    family = args.source or args.target
    if args.source is not None:
        model = wan.convert(args.weights, args.out, family=family)
    else:
        source = checkpoints.autoencoder_directory(args.checkpoint)
        model = wan.export(source, args.out, family=family)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    print(f"{args.out}: {family}, {count:,} parameters, {_description(model)}")


def _description(model: "wan.Model") -> str:
    from soraflax.pretrained import models

    z = model.config.latent_channels
    if isinstance(model, models.TransformerModel):
        config = model.config
        return f"{config.depth} blocks of width {config.width}, {z} latent channels"
    if isinstance(model, models.AdaptersModel):
        config = model.lora_config
        return f"adapters of rank {config.rank}, alpha {config.alpha:g}"
    known = "no" if model.statistics is None else "with"
    return f"{known} mean and standard deviation of the {z} latent channels"
