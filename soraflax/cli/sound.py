"""The sound of the clips that a command was given, over the frames that it keeps."""

import argparse
import pathlib
from collections.abc import Mapping

from soraflax import media
from soraflax.generation import generator, sounds

_ROLES = ("clip", "first", "second")  # of inputs whose frames are in the result


def of_job(
    args: argparse.Namespace,
    job: generator.Job,
    *,
    inputs: Mapping[str, pathlib.Path],
) -> sounds.KeptSound:
    """`sounds.of_job` of a command.

    Args:
      args: of the command: `no_audio`, `out`.
      job: of the command.
      inputs: files by their role.
    """
    if getattr(args, "no_audio", True):
        return sounds.KeptSound()
    clips = []
    for path in (path for role, path in inputs.items() if role in _ROLES):
        with media.open_frames(path) as stream:
            clips.append(sounds.Clip(path, stream.frames, stream.fps, str(path)))
    return sounds.of_job(job, clips, suffix=args.out.suffix)
