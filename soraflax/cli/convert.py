"""`soraflax convert`: Wan's models to soraflax and back; adapters to diffusers."""

import argparse
import math
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
        description="Convert a whole pipeline of Wan's in the layout of diffusers (the "
        "folder with model_index.json), or an autoencoder or a transformer alone, to a "
        "soraflax checkpoint and back. A transformer may also come in the layout of "
        "Wan's own repositories or as one file of ComfyUI. Adapters that a fine-tuning "
        "wrote become the one file that diffusers loads.",
        epilog="examples: soraflax convert --from wan2.1 --weights "
        "Wan2.1-T2V-1.3B-Diffusers --out wan; "
        "soraflax convert --from wan2.1 --weights wan/vae --out ae; "
        "soraflax convert --from wan2.1 --weights one.safetensors "
        "--pipeline Wan2.1-T2V-1.3B-Diffusers --out wan; "
        "soraflax convert --to wan2.1 --checkpoint wan --out folder; "
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
    add(
        "--pipeline",
        type=pathlib.Path,
        metavar="DIR",
        help="a pipeline with all other parts, where --weights is a transformer "
        "(default: the transformer alone is converted)",
    )
    add("--checkpoint", type=pathlib.Path, metavar="DIR", help="of soraflax, with --to")
    add("--out", required=True, type=pathlib.Path, metavar="DIR", help="to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert, and print one line about the model."""
    import jax

    from soraflax.weights import wan

    direction, needed, other = "from", "weights", "checkpoint"
    if args.source is None:
        direction, needed, other = "to", other, needed
    if getattr(args, needed) is None:
        raise ValueError(f"--{direction} needs --{needed} DIR")
    if getattr(args, other) is not None:
        raise ValueError(f"--{direction} reads --{needed}: leave --{other} out")
    if args.pipeline is not None and args.source is None:
        raise ValueError("--to needs no --pipeline: leave it out")
    family = args.source or args.target
    if args.source is not None:
        model = wan.convert(
            args.weights, args.out, family=family, pipeline_folder=args.pipeline
        )
    else:
        model = wan.export(args.checkpoint, args.out, family=family)
    if isinstance(model, wan.Folder):
        params: Any = [tensors for _, tensors in model.transformers.values()]
    else:
        params = model.params
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    print(f"{args.out}: {family}, {count:,} parameters, {_description(model)}")
    if isinstance(model, wan.Folder) and model.unused:
        print(f"not taken: {', '.join(model.unused)}")


def _description(model: "wan.Model | wan.Folder") -> str:
    from soraflax.pretrained import models
    from soraflax.weights import wan

    if isinstance(model, wan.Folder):
        config, _ = model.transformers["high"]
        two = "two transformers" if model.boundary is not None else "a transformer"
        return (
            f"{two} of {config.depth} blocks of width {config.width}, an autoencoder, "
            f"a text encoder of {model.text_encoder.depth} layers and its vocabulary; "
            f"shift {model.shift.base:g}, {model.sampler}"
        )
    if isinstance(model, models.VideoModel):
        config = model.config.transformer
        return f"{config.depth} blocks of width {config.width}, and all other parts"
    z = model.config.latent_channels
    if isinstance(model, models.TransformerModel):
        config = model.config
        return f"{config.depth} blocks of width {config.width}, {z} latent channels"
    if isinstance(model, models.AdaptersModel):
        form = model.lora_config
        return f"adapters of rank {form.rank}, alpha {form.alpha:g}"
    known = "no" if model.statistics is None else "with"
    return f"{known} mean and standard deviation of the {z} latent channels"
