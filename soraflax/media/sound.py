"""The sound of a file beside other pictures: its packets copied, never decoded.

A piece of sound that begins with the first frame of its file, at v_0, is heard from
time a on if each of its packets, of time t there, has the time

    t' = t - v_0 + a,        0 <= t - v_0 < seconds,                              (1)

so that it begins and ends with a whole packet, some hundredths of a second.
"""

import contextlib
import dataclasses
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from soraflax.media import common

# Of a file, that are written once to see whether a container takes them.
_TRIED_PACKETS = 64
# Pictures have no sound.
_DEMUXERS = "mov,matroska,webm,avi"
_FORMATS = {".mp4": "mp4", ".mkv": "matroska"}


@dataclasses.dataclass(frozen=True)
class Sound:
    """The first sound track of a file.

    Attributes:
      path: the file.
      codec: FFmpeg's name of it.
      layout: what two tracks must share to follow each other in one.
    """

    path: Path
    codec: str
    layout: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class PlacedSound:
    """The beginning of a file's sound, and when it is heard.

    Attributes:
      path: the file.
      seconds: how much of it, from its first frame on.
      at: time in the result at which it begins.
    """

    path: Path
    seconds: float
    at: float = 0.0


def find_sound(path: str | os.PathLike[str]) -> Sound | None:
    """The sound of a file, read to its end; None where it has none.

    Raises:
      MediaError: the file, or a packet of its sound, cannot be read.
    """
    with _opened(Path(path)) as (_, stream):
        if stream is None:
            return None
        for _ in _packets(Path(path), stream):
            pass
        context = stream.codec_context
        layout = (
            context.name,
            context.sample_rate,
            context.layout.name,
            bytes(context.extradata or b""),
        )
        return Sound(Path(path), context.name, layout)


def can_hold(suffix: str, sound: Sound) -> bool:
    """Whether files of this suffix hold such sound; the first packets are tried."""
    if suffix.lower() not in _FORMATS:
        return False
    pyav = common.pyav()
    try:
        with (
            pyav.open(io.BytesIO(), "w", format=_FORMATS[suffix.lower()]) as out,
            SoundWriter(out, [PlacedSound(sound.path, float("inf"))]) as writer,
        ):
            for _ in range(_TRIED_PACKETS):
                writer.write_next()
    except (pyav.FFmpegError, ValueError):
        return False
    return True


def extract(path: str | os.PathLike[str], target: Path) -> bool:
    """Copy a file's sound alone into a matroska file, from its first frame on.

    Returns:
      Whether there is any; else nothing is written.

    Raises:
      MediaError: as `find_sound`.
    """
    with _opened(Path(path)) as (start, stream):
        if stream is None:
            return False
        whole = PlacedSound(Path(path), float("inf"))
        with common.pyav().open(str(target), "w", format="matroska") as out:
            track = out.add_stream_from_template(stream)
            for _, packet in _placed(whole, stream, start=start, track=track):
                out.mux(packet)
    return True


class SoundWriter:
    """Copies sound into an open container beside its pictures; a context manager.

    To be made before the container's first packet is written.
    """

    def __init__(self, out: Any, sounds: Sequence[PlacedSound]) -> None:
        """Nothing is written yet.

        Args:
          out: a container that is open for writing.
          sounds: by the time at which they begin, one after the other; alike in layout.
        """
        self._out, self._sounds = out, sounds
        self._stack = contextlib.ExitStack()
        self._packets: Iterator[tuple[float, Any]] = iter(())
        self._next: tuple[float, Any] | None = None

    def __enter__(self) -> "SoundWriter":
        parts, track = [], None
        for sound in self._sounds:
            start, stream = self._stack.enter_context(_opened(sound.path))
            if stream is None:
                continue
            track = track or self._out.add_stream_from_template(stream)
            parts.append(_placed(sound, stream, start=start, track=track))
        self._packets = itertools.chain.from_iterable(parts)
        self._next = next(self._packets, None)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write_until(self, seconds: float) -> None:
        """Write what is heard before a time of the result."""
        while self._next is not None and self._next[0] <= seconds:
            self.write_next()

    def write_next(self) -> None:
        """Write one more packet, if there is one."""
        if self._next is not None:
            self._out.mux(self._next[1])
            self._next = next(self._packets, None)


def _placed(
    sound: PlacedSound, stream: Any, *, start: float, track: Any
) -> Iterator[tuple[float, Any]]:
    """Packets with their times by equation (1)."""
    base = float(stream.time_base)
    shift = round((sound.at - start) / base)
    for packet in _packets(sound.path, stream):
        time = packet.pts * base - start
        # Rounded to the clock of the file: half a tick early is on time.
        if time < -0.5 * base or time >= sound.seconds - 0.5 * base:
            continue
        packet.pts += shift
        packet.dts = packet.pts
        packet.stream = track
        yield max(0.0, time + sound.at), packet


def _packets(path: Path, stream: Any) -> Iterator[Any]:
    """Packets of a sound stream that have a time."""
    try:
        for packet in stream.container.demux(stream):
            if packet.size and packet.pts is not None:
                yield packet
    except common.pyav().FFmpegError as error:
        raise common.MediaError(f"{path}: sound: {common.cause(error)}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[float, Any]]:
    """Time of a file's first frame in seconds, and its sound stream or None."""
    pyav = common.pyav()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(common.open_regular(path))
        try:
            container = stack.enter_context(
                pyav.open(file, options={"format_whitelist": _DEMUXERS})
            )
        except (pyav.FFmpegError, ValueError, OSError):
            yield 0.0, None
            return
        if not container.streams.audio:
            yield 0.0, None
            return
        start = 0.0
        for video in container.streams.video[:1]:
            start = float((video.start_time or 0) * (video.time_base or 0))
        sound = container.streams.audio[0]
        yield start, sound if sound.codec_context is not None else None
