"""Input at scale: decoding, cached latents and the index of 100 million clips.

    python -m experiments.benchmarks.data [--workers 0 1 2] [--repeats 3]

As JSON lines:

    decode    frames a second, decoded and resized, beside a torch DataLoader with PyAV
              on the same bytes (`ratio`), and with torchcodec where it is installed
              (`torchcodec_ratio`), for each number of worker processes
    latents   cached latents a second out of our shards, read by as many threads, beside
              a torch DataLoader that reads a file for each
    index     a synthetic manifest of 100 million clips in 100,000 shards: MiB of it,
              processor seconds and MiB of what opening a dataset makes of it, and
              microseconds for a clip of the shuffled order to be found
    stall     part of the time of the demo's training steps in which the devices had
              nothing to do but to wait for data, from cached latents of its world

Times are the least of several, taken in turns: of the processor without workers, on the
wall with some. Without torch (extra `parity`) `index` and `stall` are measured alone,
with --only.
"""

import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import latents, reading, records, shards, sources, transforms
from data_pipelines.builders import latent_records
from experiments.benchmarks import measurement
from soraflax import media
from soraflax.cli import parser as cli
from soraflax.ops import grid as grids

CLIPS, FRAMES, NATIVE, FITTED = 24, 33, (240, 320), (96, 128)
LATENTS, LATENT = 512, (9, 30, 52, 16)  # 33 frames of 832x480, in Wan's latents
SYNTHETIC_CLIPS, SYNTHETIC_SHARDS = 100_000_000, 100_000
BOUNDS = {"decode": 1.0, "latents": 1.2}
STALL_BOUND = 0.02


def synthetic_clips() -> list[records.ClipRecord]:
    """H.264 clips of moving gradients with grain, which cost as real ones do."""
    height, width = NATIVE
    rows, columns = np.mgrid[:height, :width]
    clips = []
    for number in range(CLIPS):
        rng = np.random.default_rng(number)
        shift = 4 * np.arange(FRAMES)[:, None, None]
        waves = [rows + columns + shift, rows - columns + 2 * shift, columns - shift]
        video = np.stack([128 + 90 * np.sin(w / (9 + number)) for w in waves], -1)
        video = np.clip(video + rng.normal(0, 6, video.shape), 0, 255).astype(np.uint8)
        data = media.Video(video, 24.0).encode(".mp4")
        clips.append(
            records.ClipRecord(f"{number}", data, 24.0, FRAMES, height, width, {})
        )
    return clips


class FittedClips:
    """Clips, decoded and resized as caching does it."""

    def __init__(self, clips: Sequence[records.ClipRecord]) -> None:
        self.clips = clips
        config = transforms.FitConfig(
            max_tokens=10**6, max_frames=FRAMES, max_side=max(FITTED)
        )
        self.plan = transforms.plan_fit(
            FRAMES,
            NATIVE[0],
            width=NATIVE[1],
            fps=24.0,
            grid=grids.Grid(4, 8, patch=(1, 2, 2)),
            config=config,
        )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Any:
        clip = self.clips[index]
        return transforms.decode_fitted(clip.video, self.plan, name=clip.id)


def drain(stream: Any, config: reading.ReadConfig) -> int:
    """Read a stream to its end; the number of its elements."""
    it = iter(reading.StreamIterDataset(stream, config))
    count = sum(1 for _ in it)
    it.close()
    return count


def decode_lines(workers: Sequence[int], repeats: int) -> Iterator[measurement.Line]:
    """Frames a second, ours and torch's, of each number of workers."""
    from experiments.benchmarks.peers import torch_clips

    clips = synthetic_clips()
    ours = FittedClips(clips)
    plan = ours.plan
    size = (plan.frames, plan.height, plan.width)
    theirs = torch_clips.Clips([clip.video for clip in clips], size)
    second = torch_clips.TorchcodecClips([clip.video for clip in clips], size)
    if missing := torch_clips.missing_torchcodec():
        yield {"figure": "decode", "skipped": "torchcodec", "because": missing}
    for count in workers:
        config = reading.ReadConfig(threads=0, buffer=0, workers=count)
        calls = {
            "ours": lambda config=config: drain(ours, config),
            "torch": lambda count=count: sum(
                1 for _ in torch_clips.items(theirs, workers=count)
            ),
        }
        if missing is None:
            calls["torchcodec"] = lambda count=count: sum(
                1 for _ in torch_clips.items(second, workers=count)
            )
        seconds = measurement.least_seconds(calls, repeats, clock=clock_of(count))
        yield _compared("decode", seconds, items=CLIPS * plan.frames, workers=count)


def latent_lines(workers: Sequence[int], repeats: int) -> Iterator[measurement.Line]:
    """Latents a second, ours and torch's, of each number of readers."""
    from experiments.benchmarks.peers import torch_clips

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(LATENT).astype(np.float16) for _ in range(LATENTS)]
    with tempfile.TemporaryDirectory() as folder:
        theirs = torch_clips.Latents(torch_clips.save_latents(Path(folder), arrays))
        dataset = write_latents(Path(folder) / "latents", arrays)
        del arrays
        opened = latents.open_latents(dataset)
        stream = sources.ShuffledPasses(opened, 0, 1)
        for count in workers:
            config = reading.ReadConfig(threads=count, buffer=2 * count)
            calls = {
                "ours": lambda config=config: drain(stream, config),
                "torch": lambda count=count: sum(
                    1 for _ in torch_clips.items(theirs, workers=count)
                ),
            }
            seconds = measurement.least_seconds(calls, repeats, clock=clock_of(count))
            yield _compared("latents", seconds, items=LATENTS, workers=count)


def clock_of(workers: int) -> Callable[[], float]:
    """Processor time of this process where it works alone, which others disturb less.

    With workers it is the time on the wall, in which they start.
    """
    return time.perf_counter if workers else time.process_time


def _compared(
    figure: str, seconds: dict[Any, float], *, items: int, workers: int
) -> measurement.Line:
    ratio = seconds["torch"] / seconds["ours"]
    peers = seconds.keys() - {"ours"}
    second = (
        {
            "torchcodec_per_second": round(items / seconds["torchcodec"], 1),
            "torchcodec_ratio": round(seconds["torchcodec"] / seconds["ours"], 2),
        }
        if "torchcodec" in seconds
        else {}
    )
    return {
        "figure": figure,
        "workers": workers,
        "clock": "wall" if workers else "processor",
        "per_second": round(items / seconds["ours"], 1),
        "torch_per_second": round(items / seconds["torch"], 1),
        "ratio": round(ratio, 2),
        **second,
        "ok": seconds["ours"] * BOUNDS[figure] <= min(seconds[peer] for peer in peers),
    }


def write_latents(path: Path, arrays: Sequence[np.ndarray]) -> Path:
    """A latent dataset of given arrays."""
    examples = (
        latents.LatentRecord(f"{n}", array, 16.0, {}).to_example()
        for n, array in enumerate(arrays)
    )
    with records.publish(path) as root:
        builder = latent_records.Latents(data_dir=root, examples={"train": examples})
        info = {
            "kind": "latents",
            "name": "synthetic",
            "encoder": {"digest": "0" * 64},
            "config": {},
            "mean": [0.0] * LATENT[-1],
            "std": [1.0] * LATENT[-1],
            "shapes": [list(LATENT)],
        }
        records.write_metadata(root, builder.write(), info=info, report=[])
    return path


class Numbered:
    """As many clips as are wanted, which are their numbers."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


def open_index(folder: str) -> shards.ShardedExamples:
    """What opening a dataset keeps of its manifest."""
    listed = records.read_shards(folder, "train")
    return shards.ShardedExamples(
        [line["file"] for line in listed],
        [line["records"] for line in listed],
        parse=bytes,
    )


def index_line(
    clips: int = SYNTHETIC_CLIPS, count: int = SYNTHETIC_SHARDS
) -> measurement.Line:
    """What opening so many clips costs, before the first is read."""
    each = clips // count
    lines = [
        {
            "file": f"set/1.0.0/set-train.array_record-{n:05d}-of-{count}",
            "split": "train",
            "records": each,
            "bytes": 10**9,
            "sha256": f"{n:064x}",
        }
        for n in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / records.MANIFEST
        manifest.write_text(json.dumps({"shards": lines}))
        size = manifest.stat().st_size
        del lines
        start = time.process_time()
        index = open_index(folder)
        seconds = time.process_time() - start
        del index
        tracemalloc.start()
        index = open_index(folder)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    stream = sources.stream([Numbered(len(index))], seed=0)
    start, draws = time.process_time(), 20_000
    seen = {stream[position] for position in range(draws)}
    each_draw = (time.process_time() - start) / draws
    return {
        "figure": "index",
        "clips": len(index),
        "shards": count,
        "manifest_mib": round(size / 2**20, 1),
        "seconds": round(seconds, 2),
        "held_mib": round(held / 2**20, 1),
        "peak_mib": round(peak / 2**20, 1),
        "microseconds_per_draw": round(1e6 * each_draw, 1),
        "ok": len(index) == each * count and len(seen) == draws,
    }


def stall_line(size: str = "small", *, clips: int = 96, steps: int = 40) -> Any:
    """The demo's second stage for a few steps, of latents of the shipped encoder."""
    from data_pipelines import prepare
    from experiments import demo
    from experiments.configs import video_small
    from experiments.stages.video import stage
    from soraflax import config as config_lib
    from soraflax.pretrained import models, shipped
    from soraflax.train import metrics

    values: Any = video_small.get_config(size)
    encoder = shipped.folder() / "autoencoder"
    model = models.load_autoencoder(encoder)
    with tempfile.TemporaryDirectory() as folder:
        dataset, cached = Path(folder, "dataset"), Path(folder, "latents")
        held_out = prepare.ValidationSplit(count=max(8, clips // 8))
        prepare.prepare_world("bodies", dataset, count=clips, validation=held_out)
        latents.cache_latents(
            dataset,
            cached,
            encoder=latents.LatentEncoder.of_model(model),
            config=config_lib.to_dataclass(values.cache, latents.LatentCacheConfig),
        )
        values.data.path, values.autoencoder = str(cached), str(encoder)
        values.model.latent_channels = model.config.latent_channels
        values.data.row.text = demo.ROW_TEXT
        values.train.update(steps=steps, log_every=max(1, steps // 4))
        values.evaluation.batches = 1
        stage.run(values, Path(folder, "video"))
        found = metrics.read(Path(folder, "video"))
    return {"figure": "stall", "size": size, "steps": steps, **stall_of(found)}


def stall_of(log: Sequence[Any]) -> measurement.Line:
    """Input stall over all timed steps of a run's metrics, whose lines are as long."""
    timed = [line for line in log if "input_stall" in line]
    seconds = sum(line["seconds_per_step"] for line in timed)
    waited = sum(line["input_stall"] * line["seconds_per_step"] for line in timed)
    return {
        "seconds_per_step": round(seconds / len(timed), 4),
        "input_stall": round(waited / seconds, 5),
        "ok": waited < STALL_BOUND * seconds,
    }


def lines(
    only: str, workers: Sequence[int], *, repeats: int
) -> Iterator[measurement.Line]:
    """The lines of every figure, or of one."""
    if only in ("", "index"):
        yield index_line() | measurement.environment()
    if only in ("", "decode"):
        for line in decode_lines(workers, repeats):
            yield line | measurement.environment()
    if only in ("", "latents"):
        for line in latent_lines(workers, repeats):
            yield line | measurement.environment()
    if only in ("", "stall"):
        yield stall_line() | measurement.environment()


def main(argv: Sequence[str] | None = None) -> int:
    parser = measurement.make_parser("data", __doc__)
    add = parser.add_argument
    add(
        "--only",
        choices=("decode", "latents", "index", "stall"),
        default="",
        help="one figure",
    )
    add("--workers", type=int, nargs="+", default=[0, 1, 2], help="of each figure")
    add("--repeats", type=cli.positive_int, default=3, help="of which the least counts")
    options = parser.parse_args(argv)
    return measurement.run_benchmark(
        "data", lambda: lines(options.only, options.workers, repeats=options.repeats)
    )


if __name__ == "__main__":
    sys.exit(main())
