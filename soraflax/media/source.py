"""A file that is open: what is known of it before and while its frames are decoded."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Fit:
    """Resizing while frames are decoded: bicubic, antialiased.

    Attributes:
      size: width and height to resize to.
      native: width and height as displayed that the frames must have.
    """

    size: Size
    native: Size


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded frame that is yet to be converted, before the next one is drawn.

    Attributes:
      size: width and height as displayed.
      convert: to RGB of a width and height, area-averaged, or of its own for None.
      fit: to RGB of another size by `Fit`, straight from how it is stored into an
        array; None where it has to be converted before it is resized.
    """

    size: Size
    convert: Callable[[Size | None], UInt8[np.ndarray, "H W 3"]]
    fit: Callable[[UInt8[np.ndarray, "h w 3"]], None] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """An open video or image.

    Attributes:
      name: of the file, in errors.
      container: of the file.
      codec: of its frames.
      size: width and height as stored, before decoding.
      stored: number of frames that are to be decoded.
      fps: of the output, equation (1) of the package's docstring.
      order: for each output frame the index of the decoded frame it shows; None where
        each is shown once.
      pictures: the frames in the order of presentation; after the last one, raises
        `MediaError` unless the file was whole.
      metadata: of the file; frames may add to it.
      notes: what was done to the frames or left out, a line each; grows while decoding.
      displacements: of decoded frames, in their order (`vectors.displacement`); grows
        while decoding, where they were asked for.
    """

    name: str
    container: str
    codec: str
    size: Size
    stored: int
    fps: float
    order: Int[np.ndarray, "output"] | None
    pictures: Iterator[Picture]
    metadata: Mapping[str, Any]
    notes: list[str]
    displacements: list[float] = dataclasses.field(default_factory=list)

    @property
    def shown_displacements(self) -> list[float]:
        """Those of the output frames; a frame that is shown again did not move."""
        known = self.displacements
        if self.order is None or not known:
            return list(known)
        return [
            known[index] if at == 0 or index != self.order[at - 1] else 0.0
            for at, index in enumerate(self.order)
        ]

    @property
    def frames(self) -> int:
        """Number of output frames."""
        return self.stored if self.order is None else len(self.order)
