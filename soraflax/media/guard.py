"""Decoding of files that nobody vouches for, in a process of its own.

Decoders are large, old and written in C: a damaged file can crash one, make it wait
forever, or make it fill the memory. Here that ends a worker, which is replaced, and the
file is refused in one line. A process keeps one worker for all of its files, so that a
file costs no start:

    caller                                 worker
    {"call": "probe", ...}          ->
                                    <-     {"beat": true} ... {"info": {...}}
    {"call": "sound", ...}          ->
                                    <-     {"sound": whether there is any}
    {"call": "open", ...}           ->
                                    <-     {"opened": {...}}
    {"call": "next"}                ->
                                    <-     {"frame": bytes} and them, or {"end": {...}}
    {"call": "close"}               ->     (to the next probe or open)

Every message is JSON behind its length in four bytes.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import pathlib
import selectors
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from soraflax.media import common, reading, sound

_LENGTH = struct.Struct(">I")
_BEAT = 1.0  # seconds between two signs of life
_START = 60.0  # seconds more for the first answer of a worker, which imports


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a worker may take.

    Attributes:
      seconds: that a file may take for its next frame, or to be opened.
      memory: bytes.
    """

    seconds: float = 60.0
    memory: int = 4 * 2**30


def probe(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    max_pixels: int = common.MAX_PIXELS,
    limits: Limits | None = None,
) -> common.VideoInfo:
    """`media.probe` of a file, guarded.

    Raises:
      MediaError: as in `media.probe`; its decoder crashed, hung, or took too much.
    """
    name = name or os.fspath(path)
    call = {"call": "probe", "path": os.fspath(path), "name": name}
    with _worker(limits or Limits()) as worker:
        answer = worker.ask(call | {"max_pixels": max_pixels}, name=name)
    info = answer["info"]
    return common.VideoInfo(**info | {"notes": tuple(info["notes"])})


@contextlib.contextmanager
def open_frames(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = common.MAX_PIXELS,
    limits: Limits | None = None,
    measure: bool = False,
) -> Iterator[common.FrameStream]:
    """`media.open_frames` of a file, guarded.

    Raises:
      MediaError: as in `media.open_frames`; its decoder crashed, hung, or took too
        much.
    """
    name = os.fspath(path)
    with _worker(limits or Limits()) as worker:
        call = {"call": "open", "path": name, "max_pixels": max_pixels}
        opened = worker.ask(call | {"measure": measure}, name=name)["opened"]
        shape = (opened["height"], opened["width"], 3)
        ends = {"notes": opened["notes"], "displacements": opened["displacements"]}
        pixels = _frames(worker, shape, name=name, ends=ends)
        yield common.FrameStream(name=name, pixels=pixels, **opened)
        worker.tell({"call": "close"})


def extract_sound(
    path: str | os.PathLike[str],
    target: pathlib.Path,
    *,
    name: str | None = None,
    limits: Limits | None = None,
) -> bool:
    """The sound of a file alone, copied by `sound.extract` to a file of ours, guarded.

    Returns:
      Whether there is any.

    Raises:
      MediaError: its sound cannot be read or copied, or as in `probe`.
    """
    name = name or os.fspath(path)
    call = {"call": "sound", "path": os.fspath(path), "target": os.fspath(target)}
    with _worker(limits or Limits()) as worker:
        return worker.ask(call | {"name": name}, name=name)["sound"]


def _frames(
    worker: "_Worker",
    shape: tuple[int, int, int],
    *,
    name: str,
    ends: Mapping[str, list[Any]],
) -> Iterator[np.ndarray]:
    """Frames up to the last one, after which the lists of `ends` are whole."""
    while True:
        answer = worker.ask({"call": "next"}, name=name)
        if "frame" not in answer:
            for key, values in answer["end"].items():
                ends[key][:] = values
            return
        data = worker.read(answer["frame"], name=name)
        yield np.frombuffer(data, np.uint8).reshape(shape)


class _Worker:
    """A process that decodes; it ends when its caller does."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(limits.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt is the caller's
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.output, selectors.EVENT_READ)
        self.started = False

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def tell(self, call: Mapping[str, Any]) -> None:
        """Send a call; a worker that is gone is noticed by the next answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # a pipe that is closed
            _write(self.process.stdin, call)

    def ask(self, call: Mapping[str, Any], *, name: str) -> dict[str, Any]:
        """The answer to a call.

        Raises:
          MediaError: of the worker, or because of what became of it.
        """
        self.tell(call)
        while True:
            (length,) = _LENGTH.unpack(self.read(_LENGTH.size, name=name))
            answer = json.loads(self.read(length, name=name))
            if "error" in answer:
                raise common.MediaError(answer["error"])
            if "beat" not in answer:
                return answer

    def read(self, count: int, *, name: str) -> bytes:
        """So many bytes of an answer."""
        parts = bytearray()
        seconds = self.limits.seconds + (0 if self.started else _START)
        while len(parts) < count:
            if not self.selector.select(timeout=seconds):
                self.end()
                raise common.MediaError(
                    f"{name}: no frame within {self.limits.seconds:g} s: given up"
                )
            part = os.read(self.output, count - len(parts))
            if not part:
                code = self.end()
                raise common.MediaError(
                    f"{name}: its decoder crashed "
                    f"({f'signal {-code}' if code < 0 else f'exit {code}'})"
                )
            parts += part
        self.started = True
        return bytes(parts)

    def end(self) -> int:
        """End the process; its exit status, of a signal where it is negative."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=0.2)  # one that crashes says how
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self.selector.close()
        return code


# The worker that waits for this process's next file.
_idle: list[_Worker] = []
_lock = threading.Lock()


@contextlib.contextmanager
def _worker(limits: Limits) -> Iterator[_Worker]:
    """The worker that waits, or a new one; it waits again unless the block raised."""
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is not None and (
        worker.limits != limits or worker.process.poll() is not None
    ):
        worker.end()
        worker = None
    worker = worker or _Worker(limits)
    try:
        yield worker
    except ValueError:  # of the worker or of the block, between two answers
        worker.tell({"call": "close"})
        _keep(worker)
        raise
    except BaseException:
        worker.process.kill()
        worker.end()
        raise
    _keep(worker)


def _keep(worker: _Worker) -> None:
    if worker.process.returncode is not None:
        return
    with _lock:
        if not _idle:
            _idle.append(worker)
            return
    worker.process.kill()
    worker.end()


@atexit.register
def stop() -> None:
    """End the worker that waits."""
    with _lock:
        workers, _idle[:] = list(_idle), []
    for worker in workers:
        worker.process.kill()
        worker.end()


def serve(calls: BinaryIO, answers: BinaryIO) -> None:
    """What a worker does: answer calls until there are no more."""
    for call in _calls(calls):
        try:
            if call["call"] == "probe":
                _serve_probe(call, answers)
            elif call["call"] == "sound":
                _serve_sound(call, answers)
            elif call["call"] == "open":
                _serve_frames(call, calls, answers=answers)
        except common.MediaError as error:
            _write(answers, {"error": str(error)})
        except MemoryError:
            name = call.get("name", call.get("path"))
            _write(answers, {"error": f"{name}: takes too much memory"})


def _serve_probe(call: Mapping[str, Any], answers: BinaryIO) -> None:
    last = time.monotonic()

    def progress() -> None:
        nonlocal last
        if time.monotonic() - last > _BEAT:
            last = time.monotonic()
            _write(answers, {"beat": True})

    rules = {"name": call["name"], "max_pixels": call["max_pixels"]}
    info = reading.probe(call["path"], progress=progress, **rules)
    _write(answers, {"info": dataclasses.asdict(info)})


def _serve_sound(call: Mapping[str, Any], answers: BinaryIO) -> None:
    try:
        found = sound.extract(call["path"], pathlib.Path(call["target"]))
    except (ValueError, OSError) as error:  # FFmpeg's own too
        message = f"{call['name']}: sound: {common.cause(error)}"
        raise common.MediaError(message) from error
    _write(answers, {"sound": found})


def _serve_frames(
    call: Mapping[str, Any], calls: BinaryIO, *, answers: BinaryIO
) -> None:
    rules = {"max_pixels": call["max_pixels"], "measure": call["measure"]}
    with reading.open_frames(call["path"], **rules) as stream:
        keys = ("frames", "height", "width", "fps")
        facts: dict[str, Any] = {key: getattr(stream, key) for key in keys}
        lists: dict[str, Any] = {"notes": list(stream.notes), "displacements": []}
        _write(answers, {"opened": facts | lists})
        frames = iter(stream)
        for request in _calls(calls):
            if request["call"] != "next":
                return
            frame = next(frames, None)
            if frame is None:
                ends = {"displacements": list(stream.displacements)}
                _write(answers, {"end": {"notes": list(stream.notes), **ends}})
                continue
            _write(answers, {"frame": frame.nbytes}, data=frame.tobytes())


def _calls(calls: BinaryIO) -> Iterator[dict[str, Any]]:
    while len(head := calls.read(_LENGTH.size)) == _LENGTH.size:
        yield json.loads(calls.read(_LENGTH.unpack(head)[0]))


def _write(out: Any, message: Mapping[str, Any], *, data: bytes = b"") -> None:
    text = json.dumps(message).encode()
    out.write(_LENGTH.pack(len(text)) + text)
    out.write(data)
    out.flush()


def limit_memory(memory: int) -> None:
    """Let this process allocate at most so many bytes, where that can be set."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


if __name__ == "__main__":
    limit_memory(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer)
