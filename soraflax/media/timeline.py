"""The timeline of a video: equation (1) of the package's docstring, from its packets.

Packets are scanned before any is decoded: they hold the times of frames.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float64, Int


@dataclasses.dataclass(frozen=True)
class Scan:
    """Facts of the packets, collected before any is decoded.

    Attributes:
      packets: number of packets.
      hidden: number of packets that are never shown.
      times: presentation times of the others in seconds, sorted.
      fps: frame rate of the output, equation (1).
      order: for each output frame the index of the decoded frame it shows; None where
        the frames are evenly spaced and each is shown once.
    """

    packets: int
    hidden: int
    times: Float64[np.ndarray, "shown"]
    fps: float
    order: Int[np.ndarray, "output"] | None


def scan(packets: Iterable[Any], container: Any, *, stream: Any) -> Scan:
    """Count packets and sort the times of those that are shown.

    Packets come in decoding order, which B-frames make differ from the order of
    presentation; a container without presentation times has decoding times.
    """
    base = float(stream.time_base or 1)
    vp8 = stream.codec_context.name in ("vp8", "libvpx")
    shown: dict[float, float] = {}
    count = hidden = 0
    for packet in packets:
        count += 1
        if packet.is_discard or (vp8 and not _vp8_is_shown(packet)):
            hidden += 1
            continue
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is not None:
            shown[stamp * base] = (packet.duration or 0) * base
    times = sorted(shown)
    last = shown[times[-1]] if times else 0.0
    stamps = np.asarray(times, np.float64)
    fps, order = _timeline(stamps, last, declared=_declared_rate(container, stream))
    return Scan(count, hidden, stamps, fps, order)


def _vp8_is_shown(packet: Any) -> bool:
    """VP8 keeps hidden reference frames as packets (RFC 6386, section 9.1)."""
    return bool(memoryview(packet)[0] >> 4 & 1)


def _declared_rate(container: Any, stream: Any) -> float | None:
    if container.format.name.endswith("_pipe"):
        return None
    rate = stream.guessed_rate or stream.average_rate
    return float(rate) if rate else None


def _timeline(
    times: Float64[np.ndarray, "shown"], last: float, *, declared: float | None
) -> tuple[float, Int[np.ndarray, "output"] | None]:
    """Frame rate, and equation (1) as indices of frames where they are uneven.

    Args:
      times: presentation times in seconds, sorted.
      last: how long the last frame is shown, in seconds; 0 where not known.
      declared: frame rate by the container; None where it does not say.
    """
    if len(times) < 2:
        return declared or 1.0, None
    gaps = np.diff(times)
    gap = float(np.median(gaps))
    last = max(last, gap)
    # Containers round times to a millisecond; half a gap more is a missing frame.
    even = max(gaps.max(), last) <= 1.5 * gap + 1e-3
    measured = (len(times) - 1) / float(times[-1] - times[0])
    if even:
        close = declared and abs(declared / measured - 1) < 0.02
        return (declared if close else measured) or measured, None
    # The declared rate is exact where the median gap, rounded, comes near it.
    if declared and abs(declared * gap - 1) < 0.05:
        gap = 1 / declared
    fps = min(1 / gap, 4 * measured, 120.0)
    count = max(1, round((times[-1] - times[0] + last) * fps))
    output_times = times[0] + np.arange(count) / fps
    # The last frame shown at t_k; a quarter of a frame later, lest rounding of equal
    # times chooses the frame before.
    return fps, np.searchsorted(times, output_times + 0.25 / fps, side="right") - 1
