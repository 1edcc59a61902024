"""Video files and bytes to frames and back (PyAV; the `media` extra).

Frames are uint8 RGB, `[T, H, W, 3]`; an image is a video of one frame. Whatever cannot
be read raises `MediaError`, one line that names the file and the cause.

A file whose frames are unevenly spaced in time is read at a constant rate: output
frame k is the last one shown at time

    t_k = t_0 + k / fps,   fps = 1 / median gap,                                  (1)

so that motion keeps its speed. Frames are as they are shown: upright, in square pixels,
over white, deinterlaced, 8 bits in the colours of sRGB, to which PQ and HLG are
tone-mapped. `notes` say where that changed more than the shape. What reads which file
is in `reading`; files that nobody vouches for are for `guard`.

`open_frames` and `write_frames` stream: their memory does not grow with the duration.
So do `open_array` and `write_array`, for `.npy` files of float32 frames in [-1, 1].
Sound is never decoded: `write_frames` copies that of other files beside the frames.
"""

from soraflax.media.arrays import check_array_target, open_array, write_array
from soraflax.media.common import (
    MAX_PIXELS,
    MAX_SIDE,
    SUFFIXES,
    FrameStream,
    MediaError,
    VideoInfo,
    check_writable,
)
from soraflax.media.reading import (
    decode,
    open_frames,
    probe,
    read_bytes,
    read_metadata,
    read_video,
)
from soraflax.media.sound import PlacedSound, Sound, can_hold, find_sound
from soraflax.media.source import Fit
from soraflax.media.video import Video
from soraflax.media.writing import (
    check_target,
    encode_lossless,
    write_frames,
    write_video,
)

__all__ = [
    "MAX_PIXELS",
    "MAX_SIDE",
    "SUFFIXES",
    "Fit",
    "FrameStream",
    "MediaError",
    "PlacedSound",
    "Sound",
    "Video",
    "VideoInfo",
    "can_hold",
    "check_array_target",
    "check_target",
    "check_writable",
    "decode",
    "encode_lossless",
    "find_sound",
    "open_array",
    "open_frames",
    "probe",
    "read_bytes",
    "read_metadata",
    "read_video",
    "write_array",
    "write_frames",
    "write_video",
]
