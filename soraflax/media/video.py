"""A video in memory: its frames, how fast they follow each other, and what is known.

A notebook shows one inline: H.264 in a page's `<video>`, a picture for a single frame.
"""

import base64
import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

# A page shows small videos larger, with sharp pixels, up to this width.
_SHOWN_WIDTH = 384


@dataclasses.dataclass(frozen=True)
class Video:
    """Decoded frames.

    Attributes:
      frames: `[T, H, W, 3]` uint8 RGB; an image is a video of one frame.
      fps: frames per second; 1.0 for a still image.
      metadata: JSON values, such as how the video was made; written into its file.
      notes: what reading it did to the frames or left out, a line each.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    fps: float
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.frames.shape[2], self.frames.shape[1]

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.frames) / self.fps

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the video to a file, which appears whole or not at all.

        Args:
          path: the suffix chooses the format: `.mp4` (H.264 4:2:0, plays anywhere),
            `.mkv` (lossless), `.gif`, or `.png` of one frame.

        Returns:
          The path.

        Raises:
          MediaError: a file that cannot be written, with the reason.
        """
        from soraflax.media import writing

        rate = {"fps": self.fps, "metadata": self.metadata}
        writing.write_video(path, self.frames, **rate)
        return Path(path)

    def encode(self, suffix: str = ".mp4") -> bytes:
        """The bytes that `save` would write to a file of this suffix."""
        with tempfile.TemporaryDirectory() as folder:
            return self.save(Path(folder) / f"video{suffix}").read_bytes()

    def _repr_html_(self) -> str:
        """HTML that shows the video inline in a notebook."""
        still = len(self.frames) == 1
        suffix, kind = (".png", "image/png") if still else (".mp4", "video/mp4")
        data = base64.b64encode(self.encode(suffix)).decode("ascii")
        source = f'src="data:{kind};base64,{data}"'
        width = self.size[0] * max(1, _SHOWN_WIDTH // self.size[0])
        style = f'width="{width}" style="image-rendering: pixelated"'
        if still:
            return f'<img {source} {style} alt="{self!r}">'
        return f"<video {source} {style} controls loop autoplay muted></video>"

    def __repr__(self) -> str:
        width, height = self.size
        if len(self.frames) == 1:
            return f"Video(image of {width}x{height})"
        return f"Video({len(self)} frames of {width}x{height} at {self.fps:g} fps)"
