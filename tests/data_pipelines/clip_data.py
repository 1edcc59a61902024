"""Small clips and datasets for the tests of this folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import latents, records
from data_pipelines.builders import base
from soraflax import media
from soraflax.ops import packing

SIZES = ((17, 64, 96), (9, 96, 64), (1, 64, 64), (21, 80, 48), (1, 48, 80), (3, 64, 64))


class Clips(base.RecordBuilder):
    """Given records."""

    def __init__(
        self, *, data_dir: Path, clips: Mapping[str, Sequence[records.ClipRecord]]
    ) -> None:
        self._clips = clips
        super().__init__(data_dir=data_dir)

    def features(self) -> dict[str, Any]:
        return base.clip_features()

    def splits(self) -> dict[str, Any]:
        return {k: (c.to_example() for c in v) for k, v in self._clips.items()}


def clip(index: int) -> records.ClipRecord:
    """A clip whose frame k is one colour that names the clip and k."""
    frames, height, width = SIZES[index % len(SIZES)]
    video = np.empty((frames, height, width, 3), np.uint8)
    video[..., 0] = 10 * (index % 20)
    video[..., 1] = 8 * np.arange(frames)[:, None, None]
    video[..., 2] = 128
    fps = 8.0 if frames > 1 else 1.0
    return records.ClipRecord(
        id=f"clip-{index}",
        video=media.encode_lossless(video, fps),
        fps=fps,
        frames=frames,
        height=height,
        width=width,
        captions={"short": f"clip {index}", "detailed": f"this is clip {index}"},
        truth={"index": index},
    )


def write_clips(path: Path, *, train: int = 12, validation: int = 3) -> Path:
    """A clip dataset on disk."""
    clips = [clip(index) for index in range(train + validation)]
    splits = {"train": clips[:train], "validation": clips[train:]}
    report = [
        {"input": clip.id, "outcome": "kept", "split": split}
        for split, own in splits.items()
        for clip in own
    ]
    with records.publish(path) as work:
        directory = Clips(data_dir=work, clips=splits).write()
        info = {"kind": "clips", "name": "test"}
        records.write_metadata(work, directory, info=info, report=report)
    return path


def encoder(digest: str = "a" * 64) -> latents.LatentEncoder:
    """Averages 4 x 8 x 8 blocks, the first frame by itself; five channels."""

    def encode(video: np.ndarray) -> np.ndarray:
        b, frames, height, width, _ = video.shape
        first, rest = video[:, :1], video[:, 1:]
        rest = rest.reshape(b, frames // 4, 4, height, width, 3).mean(axis=2)
        x = np.concatenate([first, rest], axis=1)
        x = x.reshape(b, x.shape[1], height // 8, 8, width // 8, 8, 3).mean(axis=(3, 5))
        noise = np.random.default_rng(0).standard_normal((*x.shape[1:4], 2))
        extra = np.broadcast_to(noise, (*x.shape[:4], 2))
        wave = np.linspace(0, 1, x[0, ..., 0].size).reshape(x.shape[1:4])
        return np.concatenate([x + wave[..., None], extra], axis=-1)

    return latents.LatentEncoder(encode, digest, temporal_ratio=4, spatial_ratio=8)


class Latents:
    """A latent dataset in memory: many small clips of mixed sizes."""

    digest = "a" * 64
    mean = np.zeros(4, np.float32)
    std = np.full(4, 2.0, np.float32)
    shapes = [(1, 8, 8, 4), (5, 8, 12, 4), (3, 12, 8, 4), (5, 8, 8, 4), (1, 6, 10, 4)]  # noqa: RUF012

    def __init__(self, size: int = 50) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> latents.LatentRecord:
        rng = np.random.default_rng(index)
        shape = self.shapes[int(rng.integers(len(self.shapes)))]
        latent = np.full(shape, index, np.float16)
        captions = {"short": f"s{index}", "detailed": f"d{index} " * 3}
        return latents.LatentRecord(f"clip-{index}", latent, 4.0, captions)


def encode_text(text: str, max_length: int) -> np.ndarray:
    """Bytes, shifted past the padding and the end-of-text id 1."""
    ids = [byte + 2 for byte in text.encode()][: max_length - 1]
    return np.array([*ids, 1], np.int32)


def decode_text(ids: np.ndarray) -> str:
    return bytes(int(i) - 2 for i in ids if i > 1).decode()


def segment(tokens: int, *, text: int = 1) -> packing.Segment:
    return packing.Segment(
        tokens=np.zeros((tokens, 2), np.float32),
        positions=np.zeros((tokens, 3), np.float32),
        cond_mask=np.zeros(tokens, bool),
        text=np.ones(text, np.int32),
    )


def plain(state: Any) -> Any:
    """The state after a trip through JSON."""
    return json.loads(json.dumps(state))
