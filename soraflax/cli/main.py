"""The command `soraflax`: what a user does with the shipped model, or another.

    soraflax generate "a small blue square moves up" --out out.mp4
    soraflax generate "a large red circle moves right" --checkpoint demo/video \\
        --size 96x64 --frames 17 --seed 0 --out out.mp4
    soraflax image | animate | extend | loop | connect | edit | inpaint | outpaint |
        upscale ...
    soraflax serve
    soraflax caption clip.mp4
    soraflax expand "a red ball"
    soraflax verify out.mp4
    soraflax reconstruct clip.mp4 --out out.mp4
    soraflax convert --from wan2.1 --weights wan/vae --out autoencoder
    soraflax info
    soraflax plan --config=wan2_1_t2v_14b --topology v5p:8x8x8

A command is a module with `add_parser` and `run` (`parser.Command`). Packages above the
library add theirs by entry points of the group `soraflax.commands`: `prepare`, `train`
and `demo` come so, from the same wheel. Bad input is one line on standard error and
exit status 2; nothing is written then.
"""

import importlib.metadata
import sys
from collections.abc import Sequence

import soraflax
from soraflax.cli import (
    animate,
    caption,
    connect,
    convert,
    edit,
    expand,
    extend,
    generate,
    image,
    info,
    inpaint,
    loop,
    outpaint,
    plan,
    reconstruct,
    serve,
    upscale,
    verify,
)
from soraflax.cli import parser as cli

COMMANDS: tuple[cli.Command, ...] = (
    generate,
    image,
    animate,
    extend,
    loop,
    connect,
    edit,
    inpaint,
    outpaint,
    upscale,
    serve,
    caption,
    expand,
    verify,
    reconstruct,
    convert,
    info,
    plan,
)
ENTRY_POINTS = "soraflax.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 2 after one line that says what was wrong."""
    installed = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return cli.dispatch(
        [*COMMANDS, *(entry.load() for entry in installed)],
        argv,
        description="Make videos from text, images, clips; reconstruct, convert, plan.",
        version=f"soraflax {soraflax.__version__}",
    )


if __name__ == "__main__":
    sys.exit(main())
