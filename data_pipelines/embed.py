"""Text features of all captions of a dataset, for transformers that take features.

    python -m data_pipelines.embed --dataset DATASET --text-encoder WAN \\
        --output FEATURES

Training reads them with `--config.data.features=FEATURES`. FEATURES/report.jsonl has a
line for every caption that was cut.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines import records, text_features
from soraflax.cli import parser as cli

_EXAMPLES = """examples:
  the captions of two datasets, by the text encoder of a converted Wan:
    python -m data_pipelines.embed --dataset CLIPS OTHERS --text-encoder WAN \\
        --output FEATURES
  by any text encoder of the T5 family, in float32:
    python -m data_pipelines.embed --dataset CLIPS --text-encoder TEXT \\
        --dtype float32 --output FEATURES
"""


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m data_pipelines.embed",
        description="Embed the captions of datasets of clips or latents, each once.",
        epilog=_EXAMPLES,
    )
    add = parser.add_argument
    add("--dataset", nargs="+", required=True, help="of clips or latents")
    add(
        "--text-encoder",
        type=Path,
        required=True,
        metavar="DIR",
        help="a text encoder, or a video model that has one",
    )
    add("--output", type=Path, required=True, help="the features to write")
    add("--max-length", type=int, default=512, help="most tokens of a caption")
    add(
        "--dtype",
        choices=sorted(text_features.DTYPES),
        default="bfloat16",
        help="in which features are computed and stored",
    )
    add("--overwrite", action="store_true", help="replace the features at --output")
    return parser


def _run(args: argparse.Namespace) -> None:
    import jax

    from soraflax import sharding
    from soraflax.generation import text_features as encoding
    from soraflax.pretrained import text_encoders

    records.check_output(args.output, overwrite=args.overwrite)
    for path in args.dataset:
        records.read_info(path)
    directory = args.text_encoder
    if (directory / text_encoders.KIND).is_dir():
        directory = directory / text_encoders.KIND
    model = text_encoders.load_text_encoder(directory)
    mesh = sharding.make_mesh() if jax.device_count() > 1 else None
    info = text_features.embed(
        args.dataset,
        args.output,
        encoder=encoding.FeatureEncoder(model, dtype=args.dtype, mesh=mesh),
        max_length=args.max_length,
        overwrite=args.overwrite,
    )
    captions = info["splits"]["train"]
    print(
        f"{args.output}: {captions:,} captions, {info['tokens']:,} features of width "
        f"{info['width']:,} in {info['dtype']}; {info['cut']:,} captions cut to "
        f"{info['max_length']} tokens"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 after one line on stderr that says what was wrong."""
    args = _parser().parse_args(argv)
    return cli.run_command("embed", lambda: _run(args), extra="data")


if __name__ == "__main__":
    sys.exit(main())
