"""`soraflax serve`: a page in the browser for every way of prompting a model."""

import argparse
import contextlib
import gc
import logging
import signal
import sys
import time
from typing import Any

from soraflax.cli import options
from soraflax.cli import parser as cli

EXTRA = "ui"
_COLLECTIONS = (700, 10, 10)  # Python's own `gc.get_threshold()`
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_parser(subparsers: Any) -> cli.Parser:
    parser = options.add_command(
        subparsers,
        "serve",
        summary="open a page in the browser for every way of prompting",
        example="serve",
        details="One job runs at a time, others wait. The page needs no network; only "
        "this machine reaches it unless --host says otherwise.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on")
    add(
        "--port",
        default=7860,
        type=int,
        metavar="N",
        help="port to listen on; 0 for any that is free",
    )
    options.add_size(
        parser,
        meaning="pixels that suit the model, to about which clips are brought "
        "(default: those of its training)",
    )
    _add_limits(parser)
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """What the page takes."""
    add = parser.add_argument
    add(
        "--queue",
        default=8,
        type=int,
        metavar="N",
        help="jobs that may wait while one runs",
    )
    add(
        "--max-upload",
        default=64.0,
        type=cli.positive_float,
        metavar="MB",
        help="largest file",
    )
    add(
        "--max-size",
        default=(1280, 720),
        type=cli.size,
        metavar="WxH",
        help="largest frame, by its pixels",
    )
    add(
        "--max-seconds",
        default=60.0,
        type=cli.positive_float,
        metavar="S",
        help="longest clip, and longest video made",
    )
    add(
        "--max-steps",
        default=100,
        type=cli.int_up_to(options.MAX_COUNT),
        metavar="N",
        help="most sampler steps",
    )
    add(
        "--guard",
        action="append",
        metavar="NAME",
        help="filter of prompts and results, as of `soraflax generate`; may be "
        "repeated (default: words)",
    )
    add("--no-guard", action="store_true", help="filter nothing")


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    if args.queue < 0:
        raise ValueError(f"--queue {args.queue}: use 0 or more")
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port {args.port}: use 0 to 65535")
    # Before the model is read: it may be missing.
    from soraflax.serving import page  # isort: skip

    from soraflax.cli import devices, progress, wording
    from soraflax.generation import generator, guardrails
    from soraflax.generation import model as models
    from soraflax.pretrained import shipped
    from soraflax.serving import studio, uploads

    limits = uploads.Limits(
        upload_bytes=round(args.max_upload * 2**20),
        size=args.max_size,
        seconds=args.max_seconds,
        steps=args.max_steps,
    )
    # What is refused, a line each.
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger(guardrails.__name__).setLevel(logging.INFO)
    filters = [] if args.no_guard else args.guard or [guardrails.WORDS]
    with contextlib.ExitStack() as stack:
        with progress.Progress("soraflax serve") as line:
            line.begin("reading the model")
            cache = stack.enter_context(devices.kept_programs(args))
            folder = shipped.or_given(args.checkpoint)
            model = models.Model(generator.Generator.load(folder, cache=cache))
            settings = studio.Settings(
                limits=limits,
                queue=args.queue,
                size=args.size,
                guard=guardrails.load(
                    filters, caption=wording.LazyCaption(model.generator)
                ),
            )
            place = stack.enter_context(studio.Studio(model, settings))
            address: Any = {"host": args.host, "port": args.port}
            url = stack.enter_context(page.opened(place, **address))
        # Quick commands put it off; a server goes on and on.
        gc.set_threshold(*_COLLECTIONS)
        if args.host not in LOOPBACK:
            print(
                f"soraflax serve: listens on {args.host}: whoever reaches this machine "
                "can use it, without a password",
                file=sys.stderr,
            )
        # As Ctrl-C, so that nothing is left behind.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"{url} (Ctrl-C stops)", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the page is closed") from None
