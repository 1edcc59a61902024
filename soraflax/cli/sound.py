"""The sound of clips, kept over their frames; and what is said where there is none."""

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

from soraflax import media
from soraflax.generation import generator

_ROLES = ("clip", "first", "second")  # of inputs whose frames are in the result


@dataclasses.dataclass(frozen=True)
class KeptSound:
    """What is heard in a result.

    Attributes:
      sounds: pieces of the clips' sound, in their order.
      notes: what has none, a line each.
    """

    sounds: Sequence[media.PlacedSound] = ()
    notes: Sequence[str] = ()


def of_job(
    args: argparse.Namespace,
    job: generator.Job,
    *,
    inputs: Mapping[str, pathlib.Path],
) -> KeptSound:
    """The sound of the clips that a command was given, at the frames that it keeps.

    All frames of a clip are in its result, one after the other: at its beginning, or
    at its end where something is made before them.

    Args:
      args: of the command: `no_audio`, `fps`, `out`.
      job: of the command.
      inputs: files by their role.
    """
    clips = [path for role, path in inputs.items() if role in _ROLES]
    if getattr(args, "no_audio", True) or not clips:
        return KeptSound()
    length, fps = job.conditioning.length, job.conditioning.fps
    placed = []
    for index, path in enumerate(clips):
        with media.open_frames(path) as stream:
            frames, own = stream.frames, stream.fps
        at_end = index > 0 or job.options.get("direction") == "backward"
        start = (length - frames) / fps if at_end else 0.0
        seconds = min(frames, length) / fps
        placed.append((media.PlacedSound(path, seconds, start), own))
    return kept(placed, out=args.out, fps=fps, seconds=length / fps)


def kept(
    placed: Sequence[tuple[media.PlacedSound, float | None]],
    *,
    out: pathlib.Path,
    fps: float,
    seconds: float,
) -> KeptSound:
    """Those of sounds that can be kept, and a line for what is left out or silent.

    Args:
      placed: each with the frame rate of its file.
      out: the result.
      fps: its frame rate.
      seconds: its duration.
    """
    sounds: list[media.PlacedSound] = []
    notes: list[str] = []
    layout = None
    for place, own in placed:
        try:
            found = media.find_sound(place.path)
        except media.MediaError as error:
            notes.append(f"{error}: its sound is left out")
            continue
        if found is None:
            continue
        reason = None
        if not media.can_hold(out.suffix, found):
            reason = f"a {out.suffix} has none of {found.codec}: use .mkv"
        elif own is None or not math.isclose(own, fps, rel_tol=1e-6):
            reason = f"{fps:g} frames per second are not its own, {own or 0:g}"
        elif layout is not None and found.layout != layout:
            reason = "it is coded otherwise than that of the first clip"
        if reason:
            notes.append(f"{place.path}: its sound is left out: {reason}")
            continue
        layout = found.layout
        sounds.append(place)
    silent = seconds - sum(sound.seconds for sound in sounds)
    if sounds and silent > 0.5 / fps:
        names = " and ".join(str(sound.path) for sound in sounds)
        notes.append(
            f"{names}: the sound is kept over its frames; the other {silent:.3g} "
            "seconds have none"
        )
    return KeptSound(sounds, notes)
