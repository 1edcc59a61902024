"""Clips of a procedural world, rendered into records.

Dataset seed S renders its training split from stream 2 S without the world's held-out
combinations, and its validation split from stream 2 S + 1 with nothing but them.
"""

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import records
from data_pipelines.builders import base
from data_pipelines.worlds import blocks, bodies, canvas, room
from soraflax import media

WorldConfig = (
    bodies.WorldConfig | room.RoomConfig | canvas.CanvasConfig | blocks.BlocksConfig
)
# Every world has VARIANTS and `render_clip(seed, index, *, config)`.
WORLDS: dict[str, Any] = {
    "bodies": bodies,
    "room": room,
    "canvas": canvas,
    "blocks": blocks,
}
_CHUNK = 8
_WORTH_A_PROCESS = 64


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """Stream, index and configuration of a clip, which decide every pixel of it."""

    stream: int
    index: int
    config: WorldConfig

    @property
    def world(self) -> str:
        """The name of the world that the configuration is of."""
        return type(self.config).__module__.rpartition(".")[-1]

    @property
    def id(self) -> str:
        return f"{self.world}/{self.stream}/{self.index:06d}"


class WorldClips(base.RecordBuilder):
    """Clips of a procedural world with captions and ground truth.

    Args:
      data_dir: parent of the TFDS directory.
      shots: split name to the clips of the split.
      workers: number of processes that render; the records do not depend on it.
      tick: called after every clip, for a progress bar.
    """

    def __init__(
        self,
        *,
        data_dir: str | Path,
        shots: Mapping[str, Sequence[ClipSpec]],
        workers: int = 1,
        tick: Callable[[], Any] = lambda: None,
    ) -> None:
        self._shots = shots
        self._workers = workers
        self._tick = tick
        self.lines: list[dict[str, Any]] = []
        self.captions: list[Mapping[str, str]] = []
        super().__init__(data_dir=data_dir)

    def features(self) -> dict[str, Any]:
        return base.clip_features()

    def splits(self) -> dict[str, Iterator[Mapping[str, Any]]]:
        return {name: self._render(name) for name in self._shots if self._shots[name]}

    def _records(self, split: str) -> Iterable[records.ClipRecord]:
        return render_all(self._shots[split], workers=self._workers)

    def _render(self, split: str) -> Iterator[Mapping[str, Any]]:
        """Examples of a split in order; appends to `lines` and `captions`."""
        for record in self._records(split):
            line = {"input": record.id, "outcome": "kept", "split": split}
            for name in ("frames", "height", "width", "fps"):
                line[name] = getattr(record, name)
            self.lines.append(line)
            self.captions.append(record.captions)
            self._tick()
            yield record.to_example()


class RenderedClips(WorldClips):
    """Clips that another program renders, with captions and ground truth.

    Args:
      data_dir: parent of the TFDS directory.
      name: what ids begin with.
      clips: split name to its clips; they are rendered when they are written.
      tick: called after every clip, for a progress bar.
    """

    def __init__(
        self,
        *,
        data_dir: str | Path,
        name: str,
        clips: Mapping[str, Iterable[bodies.RenderedClip]],
        tick: Callable[[], Any] = lambda: None,
    ) -> None:
        self._name, self._clips = name, clips
        super().__init__(data_dir=data_dir, shots={}, tick=tick)

    def splits(self) -> dict[str, Iterator[Mapping[str, Any]]]:
        return {split: self._render(split) for split in self._clips}

    def _records(self, split: str) -> Iterable[records.ClipRecord]:
        for index, clip in enumerate(self._clips[split]):
            yield to_record(f"{self._name}/{split}/{index:06d}", clip)


def plan_splits(
    config: WorldConfig, *, count: int, validation: int, seed: int
) -> dict[str, list[ClipSpec]]:
    """The clips of both splits, `count` in all, `validation` of them held out."""
    train = dataclasses.replace(config, holdout="exclude")
    held_out = dataclasses.replace(config, holdout="only")
    return {
        "train": [ClipSpec(2 * seed, i, train) for i in range(count - validation)],
        "validation": [ClipSpec(2 * seed + 1, i, held_out) for i in range(validation)],
    }


def render(shot: ClipSpec) -> records.ClipRecord:
    """Render one clip."""
    clip = WORLDS[shot.world].render_clip(shot.stream, shot.index, config=shot.config)
    return to_record(shot.id, clip)


def to_record(name: str, clip: bodies.RenderedClip) -> records.ClipRecord:
    """A rendered clip as a record; its video is stored without loss."""
    frames, height, width = clip.video.shape[:3]
    return records.ClipRecord(
        id=name,
        video=media.encode_lossless(clip.video, clip.fps),
        fps=clip.fps if frames > 1 else 1.0,
        frames=frames,
        height=height,
        width=width,
        captions=clip.captions,
        truth=clip.truth,
    )


def render_all(
    shots: Sequence[ClipSpec], *, workers: int
) -> Iterator[records.ClipRecord]:
    """Render shots in order, many of them in `workers` processes."""
    if workers <= 1 or len(shots) < _WORTH_A_PROCESS:
        yield from map(render, shots)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(render, shots, chunksize=_CHUNK)
