"""Make a dataset of latents from those that other trainers cached.

    python -m data_pipelines.import_latents --input LATENTS --encoder AUTOENCODER \\
        --output DATASET

LATENTS is a file, or a folder of files, of one of two layouts:

    .tfrec .tfrecord   MaxDiffusion (Wan): `latents` and `encoder_hidden_states`, each a
                       serialised tensor, of axes C, T, H, W and tokens, width
    .parquet           FastVideo: `vae_latent_bytes`, `_shape` and `_dtype`, the same of
                       `text_embedding`, `caption`, `fps`

AUTOENCODER is a trained autoencoder in soraflax's layout, the one that made them: its
digest is stored with the latents, its grid is held against their sizes. `--normalized`
says that they were divided by its statistics; they are stored as the encoder gives
them. Captions are kept where there are some; the embeddings of texts are read
(`read_latents`), but not stored: `python -m data_pipelines.embed` makes ours.
"""

import argparse
import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, Float32

from data_pipelines import account, latents, progress, records
from data_pipelines.builders import captions, files, tables, tfrecords
from soraflax import config as config_lib
from soraflax.cli import parser as cli
from soraflax.ops import grid as grids
from soraflax.pretrained import models

TFRECORD_SUFFIXES = (".tfrec", ".tfrecord")
SUFFIXES = (*TFRECORD_SUFFIXES, ".parquet")
_LATENT, _TEXT = "vae_latent", "text_embedding"
_DTYPES: dict[str, Any] = {"bfloat16": ml_dtypes.bfloat16}


@dataclasses.dataclass(frozen=True)
class CachedLatent:
    """A latent that another trainer cached.

    Attributes:
      id: name of the file, and of the record or clip in it.
      latent: as it was cached, time first.
      text: embedding of its caption; None where there is none.
      captions: source name to text.
      fps: frames per second; 0 where it is not known.
      notes: what was changed in the captions.
    """

    id: str
    latent: Float[np.ndarray, "t h w z"]
    text: Float[np.ndarray, "m D"] | None = None
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fps: float = 0.0
    notes: Sequence[str] = ()


def read_latents(path: Path) -> Iterator[CachedLatent | tuple[str, str]]:
    """The latents of a file; for a record that holds none, its id and why.

    Raises:
      DatasetError: the file is damaged or cut off, after the records that are not.
    """
    is_table = path.suffix.lower() == ".parquet"
    rows: Any = (
        _parquet_rows(path) if is_table else enumerate(tfrecords.read_frames(path))
    )
    parse: Any = _fastvideo if is_table else _maxdiffusion
    for number, row in rows:
        name = f"{path.name}/{number}"
        try:
            yield parse(name, row)
        except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
            missing = f"no {error}" if isinstance(error, KeyError) else str(error)
            yield name, missing


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    table = tables.open_parquet(path)
    for group in range(table.metadata.num_row_groups):
        try:
            rows = table.read_row_group(group)
        except OSError as error:
            raise records.DatasetError(
                f"{path}: row group {group} is damaged: {str(error).splitlines()[0]}"
            ) from error
        for number in range(rows.num_rows):
            yield f"{group}-{number}", rows.slice(number, 1).to_pylist()[0]


def _maxdiffusion(name: str, data: bytes) -> CachedLatent:
    features = tfrecords.read_example(data)
    text = features.get("encoder_hidden_states")
    return CachedLatent(
        id=name,
        latent=_time_first(tfrecords.read_tensor(features["latents"])),
        text=None if text is None else _embedding(tfrecords.read_tensor(text)),
    )


def _fastvideo(name: str, row: Mapping[str, Any]) -> CachedLatent:
    caption = row.get("caption") or ""
    texts, notes = captions.clean({"caption": caption} if caption.strip() else {})
    text = _array(row, _TEXT) if row.get(f"{_TEXT}_bytes") else None
    own = files.printable(str(row.get("file_name") or row.get("id") or ""))
    return CachedLatent(
        id=f"{name}/{own}" if own else name,
        latent=_time_first(_array(row, _LATENT)),
        text=None if text is None else _embedding(text),
        captions=texts,
        fps=float(row.get("fps") or 0.0),
        notes=notes,
    )


def _array(row: Mapping[str, Any], name: str) -> Any:
    dtype = str(row[f"{name}_dtype"]).removeprefix("torch.")
    known = np.dtype(_DTYPES.get(dtype, dtype))
    if known.kind != "f" and dtype != "bfloat16":
        raise ValueError(f"{name} is of {dtype}")
    return np.frombuffer(row[f"{name}_bytes"], known).reshape(row[f"{name}_shape"])


def _time_first(array: Float[np.ndarray, "..."]) -> Float32[np.ndarray, "t h w z"]:
    """Axes C, T, H, W (of an image C, H, W; a batch of one before) moved to T, H, W, C.

    Raises:
      ValueError: other axes, or numbers that are not finite.
    """
    whole = np.asarray(array, np.float32)
    while whole.ndim > 4 and whole.shape[0] == 1:
        whole = whole[0]
    if whole.ndim == 3:
        whole = whole[:, None]
    if whole.ndim != 4 or not whole.size:
        raise ValueError(f"a latent of shape {array.shape}: C, T, H, W are expected")
    if not np.isfinite(whole).all():
        raise ValueError("a latent with numbers that are not finite")
    return np.ascontiguousarray(whole.transpose(1, 2, 3, 0))


def _embedding(array: Float[np.ndarray, "..."]) -> Float32[np.ndarray, "m D"]:
    whole = np.asarray(array, np.float32)
    return whole.reshape(-1, whole.shape[-1])


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Whose the latents are, and how they were cached.

    Attributes:
      digest: digest of the encoder that made them.
      grid: its ratios and channels, and the patch of the transformer.
      mean, std: what they were normalised by; None where they were not.
      fps: frame rate of those that say none; 0 refuses them.
      encoder: record stored beside the digest (JSON types).
    """

    digest: str
    grid: grids.Grid
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fps: float = 0.0
    encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.fps < math.inf:
            raise ValueError(f"fps {self.fps}: use a frame rate above 0, or 0 for none")


def import_latents(
    source: Path,
    output: Path,
    *,
    config: ImportConfig,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Read every file of `source`; returns the contents of dataset.json.

    Raises:
      DatasetError: no latent can be used, or `output` is in the way.
    """
    from data_pipelines.builders import latent_records as builder

    records.check_output(output, overwrite=overwrite)
    paths = [source] if source.is_file() else sorted(source.rglob("*"))
    paths = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise records.DatasetError(
            f"{source}: no latents of others in it ({' '.join(SUFFIXES)})"
        )
    reading = _Import(config)
    examples = reading.examples(paths)
    first = next(examples, None)
    if first is None:
        failed = reading.report[0] if reading.report else {"reason": "no records"}
        raise records.DatasetError(
            f"{source}: no latent can be used; first: {failed['reason']}"
        )
    with records.publish(output, overwrite=overwrite) as root:
        splits = {"train": itertools.chain([first], examples)}
        directory = builder.Latents(data_dir=root, examples=splits).write()
        info = {
            "kind": "latents",
            "account": account.summary(reading.report),
            "name": source.stem,
            "source": {"path": str(source)},
            "encoder": {"digest": config.digest, "config": dict(config.encoder)},
            "grid": dataclasses.asdict(config.grid),
            "config": {"imported": True},
            "shapes": sorted(reading.shapes),
            **latents.measure_statistics(root / directory),
        }
        return records.write_metadata(root, directory, info=info, report=reading.report)


class _Import:
    """The import of some files.

    Attributes:
      report: a line for every record, or file that cannot be read.
      shapes: shapes of the latents so far.
    """

    def __init__(self, config: ImportConfig) -> None:
        self.config = config
        self.report: list[dict[str, Any]] = []
        self.shapes: set[tuple[int, ...]] = set()

    def examples(self, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
        for path in progress.bar(paths, what="latents", unit="file"):
            try:
                for found in read_latents(path):
                    if (record := self._record(found)) is not None:
                        yield record.to_example()
            except (records.DatasetError, OSError) as error:
                reason = str(error).removeprefix(f"{path}: ")
                self._fail(path.name, reason)

    def _fail(self, name: str, reason: str) -> None:
        self.report.append({"input": name, "outcome": "failed", "reason": reason})

    def _record(
        self, found: CachedLatent | tuple[str, str]
    ) -> latents.LatentRecord | None:
        """The record of a latent, or None after a line in the report."""
        if isinstance(found, tuple):
            self._fail(*found)
            return None
        grid, fps = self.config.grid, found.fps
        time, height, width, channels = found.latent.shape
        steps = zip((time, height, width), grid.patch, strict=True)
        frames, high, wide = grid.video_size(time, height, width)
        fps = fps if 0 < fps < math.inf else self.config.fps
        if channels != grid.channels or any(n % p for n, p in steps):
            self._fail(
                found.id,
                f"a latent of shape {found.latent.shape}: this encoder has "
                f"{grid.channels} channels, and patches are {grid.patch}",
            )
            return None
        if not fps:
            self._fail(found.id, "no frame rate: give --fps")
            return None
        latent = found.latent
        if self.config.mean is not None:
            std, mean = (
                np.array(x, np.float32) for x in (self.config.std, self.config.mean)
            )
            latent = latent * std + mean
        if np.abs(latent).max() > np.finfo(np.float16).max:
            self._fail(found.id, "numbers that float16 cannot hold")
            return None
        self.shapes.add(latent.shape)
        line: dict[str, Any] = {"input": found.id, "outcome": "kept", "split": "train"}
        line |= {"frames": frames, "height": high, "width": wide, "fps": fps}
        self.report.append(line | ({"notes": found.notes} if found.notes else {}))
        return latents.LatentRecord(
            found.id, latent.astype(np.float16), fps, found.captions
        )


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python -m data_pipelines.import_latents",
        description="Make a dataset of latents from MaxDiffusion's or FastVideo's.",
    )
    add = parser.add_argument
    add("--input", type=Path, required=True, help="a file or folder of latents")
    add("--encoder", required=True, help="directory of the autoencoder they came from")
    add("--output", type=Path, required=True, help="the dataset directory to make")
    add("--fps", type=float, default=0.0, help="frame rate of latents that say none")
    add("--normalized", action="store_true", help="they were normalised")
    add("--overwrite", action="store_true", help="replace the dataset at --output")
    return parser


def _run(args: argparse.Namespace) -> None:
    model = models.load_autoencoder(args.encoder)
    statistics = model.statistics if args.normalized else None
    if args.normalized and statistics is None:
        raise records.DatasetError(
            f"{args.encoder}: holds no statistics, so that nothing can be normalised "
            "by them; leave --normalized out"
        )
    sizes = model.config
    grid = grids.Grid(
        sizes.temporal_ratio,
        sizes.spatial_ratio,
        patch=(1, 2, 2),
        channels=sizes.latent_channels,
    )
    config = ImportConfig(
        model.encoder_digest,
        grid,
        statistics.mean if statistics else None,
        statistics.std if statistics else None,
        fps=args.fps,
        encoder=json.loads(config_lib.to_json(sizes)),
    )
    info = import_latents(
        args.input, args.output, config=config, overwrite=args.overwrite
    )
    print(*account.block(args.output, info), sep="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 after one line on stderr that says what was wrong."""
    args = _parser().parse_args(argv)
    return cli.run_command("import_latents", lambda: _run(args), extra="parquet")


if __name__ == "__main__":
    sys.exit(main())
