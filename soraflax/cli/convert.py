"""`soraflax convert`: Wan's models to soraflax and back; adapters to diffusers."""

import argparse

import jax

from soraflax.cli import checkpoints
from soraflax.pretrained import models
from soraflax.weights import wan


def run(args: argparse.Namespace) -> None:
    """Convert, and print one line about what was."""
    way, needed, other = "from", "weights", "checkpoint"
    if args.source is None:
        way, needed, other = "to", other, needed
    if getattr(args, needed) is None:
        raise ValueError(f"--{way} needs --{needed} DIR")
    if getattr(args, other) is not None:
        raise ValueError(f"--{way} reads --{needed}: leave --{other} out")
    family = args.source or args.target
    if args.source is not None:
        model = wan.convert(args.weights, args.out, family=family)
    else:
        source = checkpoints.autoencoder_directory(args.checkpoint)
        model = wan.export(source, args.out, family=family)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    print(f"{args.out}: {family}, {count:,} parameters, {_describe(model)}")


def _describe(model: wan.Model) -> str:
    z = model.config.latent_channels
    if isinstance(model, models.TransformerModel):
        config = model.config
        return f"{config.depth} blocks of width {config.width}, {z} latent channels"
    if isinstance(model, models.AdaptersModel):
        return f"adapters of rank {model.form.rank}, alpha {model.form.alpha:g}"
    known = "no" if model.statistics is None else "with"
    return f"{known} mean and standard deviation of the {z} latent channels"
