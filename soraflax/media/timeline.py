"""The timeline of a video: equation (1) of the package's docstring, from its packets.

Packets are scanned before any is decoded: they hold the times of frames.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

# A gap that is so long, in seconds, and so many times the usual one, is a jump.
_JUMP_SECONDS, _JUMP_TIMES = 60.0, 100.0
_NAL_RASL = (8, 9)  # of HEVC: pictures that refer to ones before their key frame


@dataclasses.dataclass(frozen=True)
class Scan:
    """Facts of the packets, collected before any is decoded.

    Attributes:
      packets: number of packets.
      hidden: number of packets that are never shown.
      undecodable: indices of packets that need frames from before the file begins.
      times: presentation times of those that are shown in seconds, sorted.
      last: how long the last frame is shown by its packet, in seconds; 0 where unknown.
      fps: frame rate of the output, equation (1).
      order: for each output frame the index of the decoded frame it shows; None where
        the frames are evenly spaced and each is shown once.
    """

    packets: int
    hidden: int
    undecodable: frozenset[int]
    times: Float64[np.ndarray, "shown"]
    last: float
    fps: float
    order: Int[np.ndarray, "output"] | None


@dataclasses.dataclass(frozen=True)
class Clock:
    """What a container says of time.

    Attributes:
      declared: frame rate; None where it does not say.
      steady: the rate is exact, and a frame that is missing is shown for longer.
      held: times that the last frame is shown again.
      shortest: seconds; frames that are shown for less are shown for `default`.
      default: seconds.
    """

    declared: float | None = None
    steady: bool = False
    held: int = 0
    shortest: float = 0.0
    default: float = 0.0


def scan(packets: Iterable[Any], stream: Any, *, clock: Clock) -> Scan:
    """Count packets and sort the times of those that are shown.

    Packets come in decoding order, which B-frames make differ from the order of
    presentation; a container without presentation times has decoding times. A file
    that was cut from a longer one may begin with packets that cannot be decoded: those
    before its first key frame, and those that are shown before it.

    Raises:
      ValueError: times that jump.
    """
    base = float(stream.time_base or 1)
    codec = stream.codec_context.name
    vp8 = codec in ("vp8", "libvpx")
    undecodable: list[int] = []
    shown: list[tuple[float, float]] = []
    held: set[float] = set()  # times at which the frame before is shown again
    packed = False
    count = hidden = 0
    key = None  # time of the first key frame
    for index, packet in enumerate(packets):
        count += 1
        stamp = packet.dts if packet.pts is None else packet.pts
        key = stamp if key is None and packet.is_keyframe else key
        packed = packed or (codec == "mpeg4" and _is_packed(packet))
        early = key is not None and stamp is not None and stamp < key
        if key is None or (early and _lacks_reference(packet, codec)):
            undecodable.append(index)
        elif packet.is_discard or (vp8 and not _vp8_is_shown(packet)):
            hidden += 1
        elif stamp is not None:
            shown.append((stamp * base, (packet.duration or 0) * base))
            if codec == "mpeg4" and not packed and shown[1:] and _not_coded(packet):
                hidden += 1
                held.add(stamp * base)
    shown.sort()
    coded = np.array([time not in held for time, _ in shown], bool)
    if shown and min(length for _, length in shown) < clock.shortest:
        shown = _lengthened(shown, clock)
    times = np.array([time for time, _ in shown], np.float64)
    last = shown[-1][1] if shown else 0.0
    fps, order = _timeline(times, last, clock=clock)
    if held:
        every = np.arange(len(times)) if order is None else order
        order = np.maximum(np.cumsum(coded) - 1, 0)[every]
    left_out = frozenset(undecodable)
    return Scan(count, hidden + len(left_out), left_out, times, last, fps, order)


def _lengthened(
    shown: list[tuple[float, float]], clock: Clock
) -> list[tuple[float, float]]:
    """Times and lengths as viewers have them, which wait after too short a frame."""
    lengths = [b if b >= clock.shortest else clock.default for _, b in shown]
    starts = np.cumsum([0.0, *lengths[:-1]])
    return list(zip(starts.tolist(), lengths, strict=True))


def constant_rate(
    times: Float64[np.ndarray, "shown"], *, last: float
) -> tuple[float, Int[np.ndarray, "output"] | None]:
    """Equation (1) for frames at these times, sorted; `last` is that of the last one.

    Returns:
      Frame rate, and for each output frame the index of the frame it shows; None where
      they are evenly spaced and each is shown once.

    Raises:
      ValueError: times that jump.
    """
    return _timeline(times, last, clock=Clock())


def note(fps: float) -> str:
    """What to say of frames that equation (1) chose."""
    return f"frames unevenly spaced in time: read at {fps:.4g} frames per second"


def _lacks_reference(packet: Any, codec: str) -> bool:
    """Whether a packet that is shown before the first key frame cannot be decoded.

    HEVC marks those (ITU-T H.265, table 7-1); others of its kind refer to nothing
    earlier. In H.264 and MPEG-2 all do.
    """
    if codec != "hevc":
        return codec in ("h264", "mpeg2video", "mpeg1video")
    data = bytes(packet)
    annex_b = data[:4] == b"\0\0\0\1" or data[:3] == b"\0\0\1"
    at = data.index(1) + 1 if annex_b else 4
    while at < len(data):
        nal = data[at] >> 1 & 63
        if nal < 32:  # a slice
            return nal in _NAL_RASL
        if annex_b:
            following = data.find(b"\0\0\1", at)
            at = following + 3 if following >= 0 else len(data)
        else:
            at += int.from_bytes(data[at - 4 : at], "big") + 4
    return False


def _not_coded(packet: Any) -> bool:
    """MPEG-4 writes frames that repeat the one before as a few bytes, not coded.

    They hold a start code, then type, time and a bit that is not set (ISO/IEC 14496-2,
    6.2.5); no coded frame is as short.
    """
    return packet.size <= 8 and bytes(packet).startswith(b"\0\0\1\xb6")


def _is_packed(packet: Any) -> bool:
    """DivX may pack two frames in one packet, and one that is not coded in the next."""
    return packet.is_keyframe and bool(re.search(rb"DivX\d+\D\d+p", bytes(packet)))


def _vp8_is_shown(packet: Any) -> bool:
    """VP8 keeps hidden reference frames as packets (RFC 6386, section 9.1)."""
    return bool(memoryview(packet)[0] >> 4 & 1)


def _timeline(
    times: Float64[np.ndarray, "shown"], last: float, *, clock: Clock
) -> tuple[float, Int[np.ndarray, "output"] | None]:
    """Frame rate, and equation (1) as indices of frames where they are uneven.

    Args:
      times: presentation times in seconds, sorted.
      last: how long the last frame is shown, in seconds; 0 where not known.
      clock: of the container.
    """
    declared = clock.declared
    gaps = np.diff(times)
    if not gaps.any():  # one frame, or all at one time
        held = np.r_[np.arange(len(times)), np.full(clock.held, len(times) - 1)]
        return declared or 1.0, held if clock.held and len(times) else None
    gap = float(np.median(gaps[gaps > 0]))
    _check_jumps(gaps)
    if clock.steady and declared:
        gap = 1 / declared
        last = gap * (1 + clock.held)
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
    fps = 1 / gap if clock.steady else min(1 / gap, 4 * measured, 120.0)
    count = max(1, round((times[-1] - times[0] + last) * fps))
    output_times = times[0] + np.arange(count) / fps
    # The last frame shown at t_k; a quarter of a frame later, lest rounding of equal
    # times chooses the frame before.
    return fps, np.searchsorted(times, output_times + 0.25 / fps, side="right") - 1


def _check_jumps(gaps: Float64[np.ndarray, "gaps"]) -> None:
    """Refuse a jump, which would slow the frames around it down to nothing.

    Raises:
      ValueError: with where to cut.
    """
    longest = float(gaps.max())
    usual = float(np.quantile(gaps[gaps > 0], 0.5, method="lower"))
    if longest > max(_JUMP_SECONDS, _JUMP_TIMES * usual):
        raise ValueError(
            f"its times jump by {longest:.0f} s after frame {int(gaps.argmax())}: cut "
            "it there"
        )
