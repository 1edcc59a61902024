"""A task of your own: `mirror`, a clip continued by its own reverse.

python examples/add_a_task.py demo/video clip.mkv --out mirrored.mp4
"""

# --8<-- [start:task]
import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

import soraflax
from soraflax.generation.conditioning import Conditioning


def mirror(model: soraflax.Model, clip: soraflax.Video, *, turn: int) -> Conditioning:
    """The clip, `turn` generated frames in which motion turns round, its reverse.

    Raises:
      ValueError: a clip too short to be seen on both sides of the turn.
    """
    # Frames are encoded in groups: joins lie between two of them.
    group = model.grid.frame_step
    tail = model.grid.min_frames + group
    reverse = clip.frames[-2::-1]
    if len(clip) < tail:
        raise ValueError(f"a clip of {len(clip)} frames: use {tail} or more")
    # The model sees the end of the clip, what it is to fill, the start of the reverse.
    still = np.repeat(clip.frames[-1:], turn, axis=0)
    video = np.concatenate([clip.frames[-tail:], still, reverse[:group]])
    keep_mask = np.ones(video.shape[:3], bool)
    keep_mask[tail : tail + turn] = False
    return Conditioning(
        video,
        keep_mask,
        fps=clip.fps,
        frames=len(video),
        strength=0.8,  # the turn starts from the last frame, held, with much noise
        before=clip.frames[:-tail],
        after=reverse[group:],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("clip", help="a video file of a size that the model can make")
    parser.add_argument("--turn", type=int, default=8, help="frames to generate")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out.mkv"))
    options = parser.parse_args(arguments)
    model, clip = soraflax.load(options.model), soraflax.read_video(options.clip)
    job = soraflax.Job(mirror(model, clip, turn=options.turn), task="mirror")
    [video] = model.run([job], soraflax.SamplingConfig(steps=options.steps))
    print(video.save(options.out), video)


# --8<-- [end:task]


if __name__ == "__main__":
    main()
