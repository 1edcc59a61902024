"""What a command leaves on disk: results that say how they were made, and previews.

A result is a video or an image, and beside it a sidecar, `out.mp4.json` of `out.mp4`.
Both hold one record (`generation.provenance`), from which the result can be made again
and by which it can be told from a recording. Both files appear, or neither.
"""

import argparse
import functools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from soraflax import media
from soraflax.cli import parser as cli
from soraflax.generation import guardrails, provenance, signing

GENERATOR = provenance.GENERATOR
_PREVIEW_RATES = (1.0, 25.0)  # frames per second; viewers slow faster gifs down
# Say where results go, not what they are.
_NOT_REPEATED = {
    "command",
    "out",
    "preview",
    "num_videos",
    "no_compilation_cache",
    "sign",
}


def result_paths(out: pathlib.Path, count: int) -> list[pathlib.Path]:
    """`out` itself, or `out-0`, `out-1`, ... for several results."""
    if count == 1 or not out.name:
        return [out]
    return [out.with_name(f"{out.stem}-{n}{out.suffix}") for n in range(count)]


def sidecar(path: pathlib.Path) -> pathlib.Path:
    """Where the record of a result is."""
    return path.with_name(f"{path.name}.json")


def preview_path(path: pathlib.Path, *, frames: int) -> pathlib.Path:
    """Where the preview of a result of so many (latent) frames is."""
    return path.with_name(f"{path.name}.preview{'.png' if frames == 1 else '.gif'}")


def check_result(
    path: pathlib.Path,
    *,
    frames: int,
    fps: float,
    size: tuple[int, int],
    inputs: Iterable[pathlib.Path] = (),
    previewed: bool = False,
) -> None:
    """Refuse a result that could not be written; ask before long work.

    Args:
      path: where it goes.
      frames: how many.
      fps: frames per second.
      size: its width and height in pixels.
      inputs: files it is made from, none of which it may replace.
      previewed: whether there are previews of it.

    Raises:
      MediaError: as `media.check_target`, of it, its sidecar or its preview; or one of
        them would replace an input, or a file that no result of ours left there.
    """
    media.check_target(path, frames=frames, fps=fps, size=(size[1], size[0]))
    beside, preview = sidecar(path), preview_path(path, frames=frames)
    for file in inputs:
        for target in (path, beside, *[preview] * previewed):
            if (
                os.path.exists(target)
                and os.path.exists(file)
                and os.path.samefile(target, file)
            ):
                raise media.MediaError(
                    f"{path}: would replace the input {file}: choose another name"
                )
    if os.path.isdir(beside) or (os.path.exists(beside) and not _is_record(beside)):
        raise media.MediaError(
            f"{path}: its record would replace {beside}, which soraflax did not write: "
            "choose another name"
        )
    media.check_writable(beside)
    if previewed:
        media.check_writable(preview)
        if preview.exists() and not _is_preview(preview):
            raise media.MediaError(
                f"{path}: its preview would replace {preview}, which is none: choose "
                "another name"
            )


def signer(args: argparse.Namespace) -> signing.Signer | None:
    """Who signs the results of a command; None where `--sign` was not given.

    Raises:
      SigningError: certificate and key cannot sign, or `--out` holds no credentials.
      ImportError: the extra `c2pa` is not installed.
    """
    if args.sign is None:
        return None
    signing.check_kind(args.out)
    return signing.Signer.load(*args.sign)


def write(
    path: pathlib.Path,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    record: Mapping[str, Any],
    sounds: Sequence[media.PlacedSound] = (),
    signer: signing.Signer | None = None,
) -> None:
    """Write a result and its sidecar, both whole, or leave what was there before.

    Args:
      path: `.mp4`, `.mkv`, `.gif` or `.png`.
      frames: uint8 `[H, W, 3]`, drawn one at a time and not kept.
      fps: frames per second.
      record: goes into the file's metadata and into the sidecar.
      sounds: heard beside the frames.
      signer: puts content credentials with the record into the file.

    Raises:
      MediaError: as `media.write_frames`, such as a full disk.
    """
    beside: Any = {"sidecar": sidecar(path), "sounds": sounds}
    if signer is not None:
        beside["finish"] = functools.partial(signer.sign, record=record)
    media.write_frames(path, frames, fps=fps, metadata=record, **beside)


def repeat_command(
    args: argparse.Namespace, *, positional: Sequence[str] = (), seed: int
) -> list[str]:
    """The words of a command that makes one of its results again.

    Args:
      args: as parsed; `args.command` is its name. Pairs of whole numbers are sizes,
        `32x16`; others have a comma.
      positional: names of the arguments that are given without a flag, in order.
      seed: of that result.
    """
    values = {k: v for k, v in vars(args).items() if k not in _NOT_REPEATED}
    given = [values.pop(name) for name in positional]
    first = [cli.spelled(value) for value in given if value is not None]
    words = [GENERATOR, args.command]
    for name, value in (values | {"seed": seed}).items():
        flag = f"--{name.replace('_', '-')}"
        for each in value if isinstance(value, list) else [value]:
            if each is True:
                words.append(flag)
            elif each is not None and each is not False:
                words.append(f"{flag}={cli.spelled(each)}")
    # A text may begin with a dash.
    return [*words, *(["--"] if any(w.startswith("-") for w in first) else []), *first]


def print_notes(command: str, notes: Iterable[str]) -> None:
    """Print what was done to an input, a line each, where errors go."""
    for note in notes:
        print(f"{GENERATOR} {command}: {cli.one_line(note)}", file=sys.stderr)


class PreviewWriter:
    """Shows a result that is being made, in a file beside it; a context manager.

        with outputs.PreviewWriter(out, projection, fps=2.0) as preview:
            for latent in steps: preview(latent)
            outputs.write(out, ...)

    The file is `out.mp4.preview.gif`, of an image `out.png.preview.png`, and always
    whole. Once the block ends it is removed; it stays if the block raises, Ctrl-C
    included, unless a filter refused what it shows. A disk that refuses it ends the
    previews, with one line on standard error, not the work. Previews take a tenth of
    the time at most.

    Attributes:
      path: of the last preview; None until there is one.
    """

    def __init__(
        self,
        out: pathlib.Path,
        show: Callable[[np.ndarray], np.ndarray],
        *,
        fps: float,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is written yet.

        Args:
          out: where the result goes.
          show: latent `[t, h, w, z]` to uint8 frames; `previews.Projection` is one.
          fps: of these frames: the result's, divided by the frames of a latent frame.
          every: seconds between two previews, at least.
          clock: seconds.
        """
        self.path: pathlib.Path | None = None
        self._out, self._show, self._clock = out, show, clock
        self._fps = min(max(fps, _PREVIEW_RATES[0]), _PREVIEW_RATES[1])
        self._every = every
        self._due = clock()

    @property
    def due(self) -> bool:
        """Whether a call would write; ask where the latent is costly to get at."""
        return self._clock() >= self._due

    def __call__(self, latent: np.ndarray) -> bool:
        """Write a preview, if one is due; whether one was written."""
        if not self.due:
            return False
        start = self._clock()
        frames = self._show(latent)
        path = preview_path(self._out, frames=len(frames))
        if path.suffix == ".gif":
            # To the middle of 32 levels: a palette takes time by the colours there are.
            frames = frames & 0xF8 | 0x04
        about = {
            "generator": GENERATOR,
            "generated": True,
            "preview_of": self._out.name,
        }
        try:
            media.write_video(path, frames, fps=self._fps, metadata=about)
        except media.MediaError as error:
            print(f"{GENERATOR}: no more previews: {error}", file=sys.stderr)
            self._due = float("inf")
            return False
        self.path, now = path, self._clock()
        self._due = max(start + self._every, now + 9 * (now - start))
        return True

    def __enter__(self) -> "PreviewWriter":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        refused = isinstance(error, guardrails.RefusedError)
        if (kind is None or refused) and self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None


def _is_record(path: pathlib.Path) -> bool:
    """Whether a file is a sidecar of ours."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.get("generator") == GENERATOR


def _is_preview(path: pathlib.Path) -> bool:
    """Whether a file is a preview of ours, left by work that stopped."""
    try:
        return "preview_of" in media.read_metadata(path)
    except media.MediaError:
        return False
