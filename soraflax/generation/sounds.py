"""The sound of clips, kept over their frames; and what is said where there is none."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from soraflax import media
from soraflax.generation import generator


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip whose frames are in a result.

    Attributes:
      path: of a file that holds its sound; None where it has none.
      frames: how many of it are in the result.
      fps: frames per second of them at which they keep their speed; None where the
        file does not say.
      name: what notes call it.
    """

    path: pathlib.Path | None
    frames: int
    fps: float | None
    name: str


@dataclasses.dataclass(frozen=True)
class KeptSound:
    """What is heard in a result.

    Attributes:
      sounds: pieces of the clips' sound, in their order.
      notes: what has none, a line each.
    """

    sounds: Sequence[media.PlacedSound] = ()
    notes: Sequence[str] = ()


def of_job(job: generator.Job, clips: Sequence[Clip], *, suffix: str) -> KeptSound:
    """The sound of the clips that a job was given, at the frames that it keeps.

    All frames of a clip are in its result, one after the other: at its beginning, or
    at its end where something is made before them.

    Args:
      job: that is made.
      clips: in the order in which they are shown.
      suffix: of the file of the result.
    """
    length, fps = job.conditioning.length, job.conditioning.fps
    starts = []
    for index, clip in enumerate(clips):
        at_end = index > 0 or job.options.get("direction") == "backward"
        starts.append(max(0.0, (length - clip.frames) / fps) if at_end else 0.0)
    return kept(clips, starts=starts, suffix=suffix, fps=fps, seconds=length / fps)


def kept(
    clips: Sequence[Clip],
    *,
    starts: Sequence[float],
    suffix: str,
    fps: float,
    seconds: float,
) -> KeptSound:
    """Those of sounds that can be kept, and a line for what is left out or silent.

    Args:
      clips: in the order in which they are heard.
      starts: seconds at which each begins.
      suffix: of the file of the result.
      fps: its frame rate.
      seconds: its duration.
    """
    sounds: list[media.PlacedSound] = []
    heard: list[str] = []
    notes: list[str] = []
    layout = None
    for clip, start in zip(clips, starts, strict=True):
        if clip.path is None:
            continue
        try:
            found = media.find_sound(clip.path)
        except media.MediaError as error:
            notes.append(f"{error}: its sound is left out")
            continue
        if found is None:
            continue
        reason = None
        if not media.can_hold(suffix, found):
            reason = f"a {suffix} has none of {found.codec}: use .mkv"
        elif clip.fps is None or not math.isclose(clip.fps, fps, rel_tol=1e-6):
            reason = f"{fps:g} frames per second are not its own, {clip.fps or 0:g}"
        elif layout is not None and found.layout != layout:
            reason = "it is coded otherwise than that of the first clip"
        if reason:
            notes.append(f"{clip.name}: its sound is left out: {reason}")
            continue
        layout = found.layout
        length = min(clip.frames / fps, seconds)
        sounds.append(media.PlacedSound(clip.path, length, start))
        heard.append(clip.name)
    silent = seconds - sum(sound.seconds for sound in sounds)
    if sounds and silent > 0.5 / fps:
        notes.append(
            f"{' and '.join(heard)}: the sound is kept over its frames; the other "
            f"{silent:.3g} seconds have none"
        )
    return KeptSound(sounds, notes)
