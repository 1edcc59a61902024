"""What every step of a curation may be told."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from soraflax.media import guard

DETECTORS = ("histogram", "pyscenedetect")

# A clip outside these bounds is rejected. Scores are those of `scoring`.
LIMITS: Mapping[str, "Bounds"]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The least and the greatest value of a score that is kept; None for no limit."""

    least: float | None = None
    greatest: float | None = None

    def __post_init__(self) -> None:
        for value in (self.least, self.greatest):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"limit {value}: use a finite number")
        low = -math.inf if self.least is None else self.least
        high = math.inf if self.greatest is None else self.greatest
        if low > high:
            raise ValueError(
                f"least {low:g} is more than greatest {high:g}: use at most {high:g}"
            )

    def broken(self, value: float) -> float | None:
        """The limit that a value breaks; None where it breaks none. NaN breaks any."""
        if self.least is not None and not value >= self.least:
            return self.least
        if self.greatest is not None and not value <= self.greatest:
            return self.greatest
        return None


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """How files are decoded and measured; a change decodes every file again.

    Attributes:
      seconds: that the decoder of a file may take for its next frame.
      total_seconds: that a file may take in all.
      memory: bytes that the decoder may take.
      max_pixels: most pixels of a frame.
      sample_seconds: time between two frames that are kept as samples.
      detector: of shots: 'histogram', or 'pyscenedetect' (the extra `scenes`).
      scorers: name of a score to `module:function`, a user's model (`scoring.Scorer`).
    """

    seconds: float = 60.0
    total_seconds: float = 3600.0
    memory: int = 4 * 2**30
    max_pixels: int = 2**26
    sample_seconds: float = 0.5
    detector: str = "histogram"
    scorers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise ValueError(
                f"unknown detector {self.detector!r}; there are: {', '.join(DETECTORS)}"
            )
        for name in ("seconds", "total_seconds", "sample_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}: use more than 0")

    @property
    def limits(self) -> guard.Limits:
        return guard.Limits(seconds=self.seconds, memory=self.memory)


@dataclasses.dataclass(frozen=True)
class CutSettings:
    """Where a shot ends.

    Attributes:
      floor: least change of a frame, after motion, that can be a cut; levels of 255.
      ratio: least change of a frame over that of the frames around it.
      window: frames around it, on either side.
      max_seconds: a longer shot is divided into equal parts; 0 keeps it whole.
    """

    floor: float = 1.0
    ratio: float = 4.0
    window: int = 8
    max_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class DuplicateSettings:
    """What counts as nearly the same clip.

    Attributes:
      exact: reject files whose bytes are those of another.
      near: reject clips that show what another shows.
      bits: of 64 that the hashes of two equal frames may differ in, at most 7.
      difference: greatest difference of two equal frames in any of 8 x 8 cells, in
        levels of 255, when brightness and contrast were matched.
      share: of the shorter clip's frames that the other has to hold.
    """

    exact: bool = True
    near: bool = True
    bits: int = 7
    difference: float = 16.0
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= 7:
            raise ValueError(f"bits {self.bits}: use 0 to 7, which a search finds all")
        if not 0 < self.share <= 1:
            raise ValueError(f"share {self.share}: use more than 0, at most 1")


@dataclasses.dataclass(frozen=True)
class ShardSettings:
    """How the kept clips lie in files.

    Attributes:
      size: bytes of clips after which a shard is full.
      keep_bytes: a file that is one shot is stored as it is, not encoded again.
    """

    size: int = 2**28
    keep_bytes: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"shard size {self.size}: use 1 byte or more")


@dataclasses.dataclass(frozen=True)
class CurationSettings:
    """All of it.

    Attributes:
      limits: score to bounds, over those of `LIMITS`.
      max_rejected: greatest part of the clips that may be rejected before the run
        stops.
    """

    probe: ProbeSettings = dataclasses.field(default_factory=ProbeSettings)
    cut: CutSettings = dataclasses.field(default_factory=CutSettings)
    limits: Mapping[str, Bounds] = dataclasses.field(default_factory=dict)
    duplicates: DuplicateSettings = dataclasses.field(default_factory=DuplicateSettings)
    shards: ShardSettings = dataclasses.field(default_factory=ShardSettings)
    max_rejected: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(
                f"max_rejected {self.max_rejected}: use a part of the clips, 0 to 1"
            )
        known = [*LIMITS, *self.probe.scorers]
        for name in self.limits:
            if name not in known:
                raise ValueError(
                    f"unknown score {name!r}; there are: {', '.join(known)}"
                )

    @property
    def bounds(self) -> dict[str, Bounds]:
        """Every score that is limited, with its bounds."""
        bounds = dict(LIMITS) | dict(self.limits)
        return {n: b for n, b in bounds.items() if b != Bounds()}

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


LIMITS = {
    "seconds": Bounds(),
    "frames": Bounds(),
    "short_side": Bounds(least=16),
    "motion": Bounds(least=0.004),
    "speed": Bounds(),
    "frozen": Bounds(greatest=0.6),
    "sharpness": Bounds(),
    "brightness": Bounds(least=8, greatest=250),
    "borders": Bounds(greatest=0.03),
    "text": Bounds(),
}
