"""How far a picture moves, by the motion vectors that its codec wrote.

H.264, MPEG-4 and their forerunners say of most blocks of a frame from where in another
frame they were taken, and FFmpeg's decoders export that; those of HEVC, VP9 and AV1 do
not.
"""

import math
from typing import Any

import numpy as np

from soraflax.media import common

OPTIONS = {"flags2": "+export_mvs"}  # of a decoder


def displacement(frame: Any) -> float:
    """Mean length of the vectors over the picture, as a part of its longer side.

    A block without a vector did not move; of one with two, both count half. NaN for a
    frame without vectors, such as a key frame.
    """
    # Not `frame.side_data`, which the frame keeps and which keeps the frame.
    data = common.pyav().sidedata.sidedata.SideDataContainer(frame)
    exported = data.get("MOTION_VECTORS")
    if exported is None:
        return math.nan
    blocks = exported.to_ndarray()
    area = blocks["w"].astype(np.float64) * blocks["h"]
    lengths = np.hypot(blocks["motion_x"], blocks["motion_y"]) / blocks["motion_scale"]
    whole = max(float(area.sum()), float(frame.width * frame.height))
    return float((lengths * area).sum()) / whole / max(frame.width, frame.height)
