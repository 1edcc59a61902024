"""What `python -m data_pipelines.prepare --input PATTERN` reads, and does."""

import argparse
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.curate import settings as settings_lib

_WILD = "*?["
_BARE = "--captioner writes them, --keep-uncaptioned keeps the clips as they are"


def is_pattern(text: str) -> bool:
    """Whether an input is curated: it has a wildcard, or a bucket's scheme."""
    return "://" in text or (any(c in text for c in _WILD) and not os.path.exists(text))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of curation."""
    group = parser.add_argument_group(
        "curation", "of an --input that is a pattern, as 'raw/**/*.mp4' or gs://..."
    )
    add = group.add_argument
    add(
        "--cache", help="what steps made, kept for the next run (default: OUTPUT.cache)"
    )
    for side in ("min", "max"):
        add(
            f"--{side}",
            action="append",
            default=[],
            metavar="SCORE=VALUE",
            help=f"{side}imum of a score: {', '.join(settings_lib.LIMITS)}, or one of "
            "--scorer; 'none' for no limit",
        )
    add(
        "--scorer",
        action="append",
        default=[],
        metavar="NAME=MODULE:FUNCTION",
        help="your model: a function of a frame to a number",
    )
    detectors = settings_lib.DETECTORS
    add("--detector", choices=detectors, default=detectors[0], help="of shots")
    add("--max-shot", type=float, default=0.0, metavar="SECONDS", help="divide longer")
    add("--no-near", action="store_true", help="keep near duplicates")
    add("--max-rejected", type=float, default=0.9, help="part that may be rejected")
    add("--shard-size", type=int, default=2**28, metavar="BYTES", help="of a shard")
    add("--timeout", type=float, default=60.0, metavar="SECONDS", help="for a frame")
    add(
        "--captioner",
        nargs="?",
        const="",
        metavar="DIR",
        help="a captioner captions the clips as well (default: the shipped one); clips "
        "without a caption are kept",
    )
    add("--encoder", help="an autoencoder: latents of the clips go to OUTPUT.latents")
    add(
        "--runner",
        help="of Apache Beam, with its own options after it: DirectRunner, "
        "DataflowRunner --project NAME ... (default: processes here)",
    )


def settings_of(args: argparse.Namespace) -> settings_lib.CurationSettings:
    """Settings from parsed arguments.

    Raises:
      ValueError: a limit or a scorer that cannot be.
    """
    return settings_lib.CurationSettings(
        probe=settings_lib.ProbeSettings(
            seconds=args.timeout,
            detector=args.detector,
            scorers=dict(_pair(text, "NAME=MODULE:FUNCTION") for text in args.scorer),
        ),
        cut=settings_lib.CutSettings(max_seconds=args.max_shot),
        limits=limits(args.min, args.max),
        duplicates=settings_lib.DuplicateSettings(near=not args.no_near),
        shards=settings_lib.ShardSettings(size=args.shard_size),
        max_rejected=args.max_rejected,
    )


def limits(
    least: Sequence[str], greatest: Sequence[str]
) -> dict[str, settings_lib.Bounds]:
    """Bounds by score, over the defaults.

    Raises:
      ValueError: not SCORE=VALUE.
    """
    bounds: dict[str, dict[str, float | None]] = {}
    for side, texts in (("least", least), ("greatest", greatest)):
        for text in texts:
            name, value = _pair(text, "SCORE=VALUE")
            try:
                number = None if value == "none" else float(value)
            except ValueError:
                raise ValueError(
                    f"{text!r}: {value!r} is not a number, nor 'none'"
                ) from None
            bounds.setdefault(name, {})[side] = number
    defaults = settings_lib.LIMITS
    made = {}
    for name, own in bounds.items():
        default = defaults.get(name, settings_lib.Bounds())
        sides = {"least": default.least, "greatest": default.greatest} | own
        made[name] = settings_lib.Bounds(**sides)
    return made


def _pair(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{text!r}: use {form}")
    return name, value


def run(
    args: argparse.Namespace, *, held_out: Callable[[int], int]
) -> Mapping[str, Any]:
    """Curate as the arguments say; returns dataset.json, and the steps that `ran`."""
    from data_pipelines import storage
    from data_pipelines.curate import curation, publishing, runners

    settings = settings_of(args)
    if args.encoder:
        publishing.check_output(_latents(args), overwrite=args.overwrite)
    encoder = _encoder(args.encoder) if args.encoder else None
    captioner = None if args.captioner is None else _captioner(args.captioner)
    cache = args.cache or f"{args.output.rstrip('/')}.cache"
    runner: runners.Runner = runners.Local(args.workers)
    if args.runner:
        options = [f"--runner={args.runner}", *args.beam_options]
        folder = cache if storage.is_bucket(cache) else None
        runner = runners.Beam(options, folder)
    job = curation.CurationJob(
        pattern=args.input,
        output=args.output,
        store=storage.Store(cache),
        captions=args.captions,
        seed=args.seed,
        held_out=held_out,
        keep_uncaptioned=args.keep_uncaptioned or captioner is not None,
        overwrite=args.overwrite,
    )
    info = curation.curate(job, settings, runner=runner)
    if captioner is not None:
        from data_pipelines import recaption

        recaption.recaption(args.output, writer=captioner, name="captioner")
    if encoder is not None:
        _encode(args, encoder)
    return info


def _captioner(folder: str) -> Any:
    """Who captions the clips; found before any work.

    Raises:
      FileNotFoundError, ModelError: no such captioner.
    """
    from data_pipelines import recaption
    from soraflax.pretrained import shipped

    directory = shipped.captioner_or_given(Path(folder) if folder else None)
    writer = recaption.Writer(str(directory))
    _ = writer.identity
    return writer


def _latents(args: argparse.Namespace) -> str:
    return f"{args.output.rstrip('/')}.latents"


def _encoder(folder: str) -> Any:
    """Who encodes the clips; found before any work, as a captioner is."""
    from data_pipelines import latents
    from soraflax.pretrained import models

    return latents.LatentEncoder.of_model(models.load_autoencoder(folder))


def _encode(args: argparse.Namespace, encoder: Any) -> None:
    """Write the latents of the clips beside them.

    Those of a bucket are made on this machine, where a run that was stopped goes on,
    and then put there.
    """
    from data_pipelines import latents, mirrors, storage
    from data_pipelines.curate import publishing

    target = _latents(args)
    if not storage.is_bucket(target):
        rules = {"encoder": encoder, "overwrite": args.overwrite}
        latents.cache_latents(args.output, target, **rules)
        return
    staged = mirrors.staging(target)
    latents.cache_latents(args.output, staged, encoder=encoder, overwrite=True)
    publishing.put(staged, target)
    shutil.rmtree(staged)


def summary(info: Mapping[str, Any]) -> list[str]:
    """What each step rejected, and which steps ran."""

    def counted(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "none"

    bare = info["rejected"].get("caption", 0)
    return [
        f"  rejected by step: {counted(info['rejected'])}; why is in quarantine.jsonl",
        *([f"  without a caption: {bare:,}; {_BARE}"] if bare else []),
        f"  steps that ran: {counted(info['ran'])}; the rest was made before",
    ]
