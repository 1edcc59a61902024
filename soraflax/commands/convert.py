"""`soraflax convert`: Wan's autoencoders to soraflax and back."""

import argparse

import jax

from soraflax.commands import checkpoints
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
    if args.source is not None:
        model = wan.convert_autoencoder(args.weights, args.out, family=args.source)
    else:
        directory = checkpoints.autoencoder_directory(args.checkpoint)
        model = wan.export_autoencoder(directory, args.out, family=args.target)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    known = "no" if model.statistics is None else "with"
    family = args.source or args.target
    print(
        f"{args.out}: {family}, {count:,} parameters, {known} mean and standard "
        f"deviation of the {model.config.latent_channels} latent channels"
    )
