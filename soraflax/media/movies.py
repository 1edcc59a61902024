"""Movies, and what else FFmpeg's demuxers open, to pictures (PyAV).

FFmpeg returns what it could decode from a damaged file without complaint, so a full
read is held against the container, each by what it has: a table of samples, an index, a
count of frames, a duration.

The packets of a file are scanned before any is decoded, since equation (1) needs their
times. A clip's are kept for decoding; a long one's are dropped and the file is read
twice, so that memory does not grow with the duration.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from soraflax.media import (
    boxes,
    cadence,
    common,
    evidence,
    pixels,
    source,
    timeline,
    vectors,
)

DEMUXERS = {"mov": "mov", "matroska": "matroska,webm", "avi": "avi", "gif": "gif"}
_STILL_CODECS = ("mjpeg", "png", "bmp", "gif")
# Decoders of FFmpeg's own leave the alpha of these out.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclasses.dataclass(frozen=True)
class Movie:
    """A video stream, its packets yet to be decoded, and the scan of them."""

    name: str
    container: Any
    stream: Any
    decoder: Any
    packets: Iterable[Any]
    scan: timeline.Scan
    evidence: evidence.Evidence
    rhythm: cadence.Cadence | None
    displacements: list[float] | None = None  # of decoded frames, where asked for

    @property
    def promised(self) -> int:
        """Frames that the header and the packets promise, before equation (1)."""
        counted = max(self.evidence.counted(self.stream), self.scan.packets)
        return counted - self.scan.hidden

    @property
    def unlisted(self) -> int:
        """Frames that an edit list leaves out."""
        if self.evidence.kind != "mov":
            return 0
        hidden = self.scan.hidden - len(self.scan.undecodable)
        return max(0, self.stream.frames - self.scan.packets + hidden)


@contextlib.contextmanager
def open_movie(
    file: Any,
    kind: str,
    *,
    name: str,
    max_pixels: int,
    keep: bool,
    partly: bool,
    measure: bool = False,
) -> Iterator[source.Source]:
    """The first video stream that is none of cover art.

    Args:
      file: of bytes, at any position.
      kind: key of `DEMUXERS`.
      name: of the file in errors.
      max_pixels: most pixels of a frame.
      keep: hold packets in memory rather than read the file twice.
      partly: not all frames will be drawn.
      measure: have the displacements of frames.

    Raises:
      MediaError: unreadable, truncated as far as is known before decoding, or frames of
        more than `max_pixels`.
    """
    found = evidence.collect(file, kind, name=name)
    with contextlib.ExitStack() as stack:
        opening = functools.partial(
            _container, file, kind, name=name, max_pixels=max_pixels, measure=measure
        )
        container, stream, decoder = stack.enter_context(opening())
        packets = _packets(container, stream, name=name)
        if keep:
            packets = list(packets)
        scan = _scanned(packets, stream, clock=found.clock(stream), name=name)
        if not keep:
            stack.close()
            container, stream, decoder = stack.enter_context(opening())
            packets = _packets(container, stream, name=name)
        rhythm = None if partly else cadence.Cadence()
        measured = [] if measure else None
        parts = (container, stream, decoder, packets, scan, found)
        movie = Movie(name, *parts, rhythm, measured)
        if not keep:  # all of it is to be read
            check_whole(movie, scan.packets - scan.hidden)
        yield _source(movie, _geometry(file, kind, stream=stream))


def _scanned(
    packets: Iterable[Any], stream: Any, *, clock: timeline.Clock, name: str
) -> timeline.Scan:
    try:
        return timeline.scan(packets, stream, clock=clock)
    except ValueError as error:
        raise common.MediaError(f"{name}: {error}") from error


def _source(movie: Movie, geometry: pixels.Geometry) -> source.Source:
    context = movie.stream.codec_context
    notes = list(movie.evidence.notes)
    metadata = dict(movie.stream.metadata) | dict(movie.container.metadata)
    declared = evidence.declared_end(movie.container, movie.stream)
    if movie.evidence.open_ended and declared is None:
        notes.append("recorded live: were its end missing, nothing would show it")
    streams = len(_video_streams(movie.container, name=movie.name))
    if streams > 1:
        notes.append(f"{streams} videos in it: the first is read")
    if hidden := movie.unlisted:
        notes.append(
            f"its edit list leaves out {hidden} of {movie.stream.frames} frames"
        )
    if movie.scan.undecodable:
        count = len(movie.scan.undecodable)
        notes.append(f"{count} frames before its first key frame cannot be decoded")
    if movie.scan.order is not None:
        notes.append(timeline.note(movie.scan.fps))
    return source.Source(
        name=movie.name,
        container=movie.container.format.name,
        codec=context.name,
        size=(context.width, context.height),
        stored=movie.promised,
        fps=movie.scan.fps,
        order=movie.scan.order,
        pictures=_pictures(movie, geometry, notes=notes, metadata=metadata),
        metadata=metadata,
        notes=notes,
        displacements=[] if movie.displacements is None else movie.displacements,
    )


@contextlib.contextmanager
def _container(
    file: Any, kind: str, *, name: str, max_pixels: int, measure: bool
) -> Iterator[tuple[Any, Any, Any]]:
    """Open a file, find its video stream and a decoder, and check its size."""
    with opened(file, DEMUXERS[kind], name=name) as container:
        stream = _video_streams(container, name=name)[0]
        context = stream.codec_context
        if context is None:
            raise common.MediaError(f"{name}: its video codec is not supported")
        common.check_pixels(
            name, context.height, width=context.width, max_pixels=max_pixels
        )
        decoder = _decoder(stream, name=name)
        limit_decoder(decoder, max_pixels=max_pixels)
        if measure:
            decoder.options = decoder.options | vectors.OPTIONS
        yield container, stream, decoder


@contextlib.contextmanager
def opened(file: Any, demuxers: str, *, name: str) -> Iterator[Any]:
    """A container of PyAV, of one of these demuxers."""
    pyav = common.pyav()
    file.seek(0)
    try:
        container = pyav.open(file, options={"format_whitelist": demuxers})
    except (pyav.FFmpegError, ValueError, OSError) as error:
        raise common.MediaError(
            f"{name}: not a video or image that can be read: {common.cause(error)}"
        ) from error
    with container:
        yield container


def limit_decoder(context: Any, *, max_pixels: int) -> None:
    """One thread: threads inside a data worker deadlock, and clips are short."""
    context.thread_type, context.thread_count = "NONE", 1
    context.options = {"max_pixels": str(max_pixels)}


def _video_streams(container: Any, *, name: str) -> list[Any]:
    """Streams of video, cover art apart; the first is shown by default.

    Raises:
      MediaError: there is none.
    """
    disposition = common.pyav().stream.Disposition
    streams = list(container.streams.video)
    covers = disposition.attached_pic | disposition.timed_thumbnails
    moving = [s for s in streams if not s.disposition & covers]
    if not moving:
        what = "only a cover picture" if streams else "no video stream"
        holds = sorted({s.type for s in container.streams if s not in streams})
        beside = f" (it holds {', '.join(holds)})" if holds else ""
        raise common.MediaError(f"{name}: {what} in it{beside}")
    # Further choices only where they leave something: a picture file has one of its
    # items as a stream, and a track that is a picture is a cover where others are not.
    for preferred in (
        lambda s: s.duration or s.frames != 1,
        lambda s: s.codec_context is None or s.codec_context.name not in _STILL_CODECS,
    ):
        moving = [s for s in moving if preferred(s)] or moving
    return sorted(moving, key=lambda s: not s.disposition & disposition.default)


def _decoder(stream: Any, *, name: str) -> Any:
    """The stream's own, or one that reads the alpha that it tells of."""
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") != "1" or context.name not in _WITH_ALPHA:
        return context
    pyav = common.pyav()
    try:
        decoder = pyav.CodecContext.create(_WITH_ALPHA[context.name], "r")
    except (pyav.FFmpegError, ValueError) as error:
        raise common.MediaError(
            f"{name}: {context.name} with transparency, for which this PyAV has no "
            "decoder: save it without"
        ) from error
    decoder.extradata = context.extradata
    return decoder


def _geometry(file: Any, kind: str, *, stream: Any) -> pixels.Geometry:
    aspect = stream.sample_aspect_ratio
    # Viewers ignore what a gif says of its pixels.
    if kind == "gif" or not aspect or not 1 / 64 <= aspect <= 64:
        aspect = pixels.Geometry().aspect
    aperture = boxes.aperture(file, stream.id) if kind == "mov" else None
    return pixels.Geometry(aspect, aperture)


def _packets(container: Any, stream: Any, *, name: str) -> Iterator[Any]:
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except common.pyav().FFmpegError as error:
        raise common.MediaError(f"{name}: {common.cause(error)}") from error


def _pictures(
    movie: Movie, geometry: pixels.Geometry, *, notes: list[str], metadata: dict
) -> Iterator[source.Picture]:
    """Every frame in presentation order, then the checks of a full read.

    Raises:
      MediaError: a frame cannot be decoded, is damaged, or is missing.
    """
    pyav, name, count = common.pyav(), movie.name, 0
    moving = movie.stream.codec_context.name not in _STILL_CODECS
    packet: list[Any] = [None]
    try:
        for frame in pixels.progressive(_decoded(movie, packet), notes):
            if moving:
                pixels.complete_matrix(frame)
            if not count:
                metadata.update(frame.metadata)
                colours = pixels.wide_colours(frame)
                if colours:
                    notes.append(f"colours of {colours} were brought to sRGB")
            shown = pixels.picture(frame, geometry, name=name, still=packet[0])
            count += 1
            yield shown
    except pyav.FFmpegError as error:
        where = f"after frame {count}" if count else "at the first frame"
        raise common.MediaError(f"{name}: {common.cause(error)} {where}") from error
    except ValueError as error:
        if isinstance(error, common.MediaError):
            raise
        raise common.MediaError(f"{name}: {error}") from error
    notes += movie.rhythm.notes if movie.rhythm else []
    check_whole(movie, count)


def _decoded(movie: Movie, last_packet: list[Any]) -> Iterator[Any]:
    name, count, size = movie.name, 0, None
    for index, packet in enumerate(itertools.chain(movie.packets, (None,))):
        if index in movie.scan.undecodable:
            continue
        last_packet[0] = packet
        for frame in movie.decoder.decode(packet):
            if frame.is_corrupt:
                raise common.MediaError(f"{name}: frame {count} is damaged")
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                raise common.MediaError(
                    f"{name}: frame {count} is {frame.width} x {frame.height}, the "
                    f"first is {size[0]} x {size[1]}: cut it there"
                )
            count += 1
            if movie.displacements is not None:
                movie.displacements.append(vectors.displacement(frame))
            if movie.rhythm is not None:
                movie.rhythm.add(frame)
            yield frame


def check_whole(movie: Movie, count: int) -> None:
    """Refuse a file of which so many frames are there, if it promises more.

    Raises:
      MediaError: with both numbers.
    """
    if not count:
        raise common.MediaError(f"{movie.name}: no frames in it")
    if count < movie.promised:
        raise common.MediaError(
            f"{movie.name}: holds {movie.promised} frames but {count} decode; "
            "truncated or damaged"
        )
    declared = evidence.declared_end(movie.container, movie.stream)
    times = movie.scan.times
    if declared is None or not len(times):
        return
    gaps = times[1:] - times[:-1]
    gap = float(gaps.max()) if len(gaps) else 1 / movie.scan.fps
    length = float(times[-1] - times[0]) + max(gap, movie.scan.last)
    end = length if declared.from_first else max(0.0, float(times[0])) + length
    # Headers of whole files are off by as much as a frame.
    if end + 1.5 * gap < declared.seconds:
        raise common.MediaError(
            f"{movie.name}: declares {declared.seconds:.2f} s but its frames end at "
            f"{end:.2f} s; truncated"
        )
