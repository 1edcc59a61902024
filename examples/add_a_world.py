"""A world of your own: `stripes`, a grating that drifts, with exact captions.

python examples/add_a_world.py --count 100 --out DATASET
"""

# --8<-- [start:world]
import argparse
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import records
from data_pipelines.builders import base
from soraflax import media

COLOURS = {"red": (220, 40, 40), "blue": (40, 80, 220), "green": (30, 160, 70)}
DIRECTIONS = {"right": 1, "left": -1}


def clip(seed: int, index: int) -> records.ClipRecord:
    """Clip `index` of stream `seed`: the same bytes whatever else is rendered."""
    rng = np.random.default_rng((seed, index))
    colour = str(rng.choice(list(COLOURS)))
    direction = str(rng.choice(list(DIRECTIONS)))
    frames, height, width, fps = 17, 64, 64, 8.0
    time, column = np.arange(frames)[:, None], np.arange(width)[None, :]
    phase = (column - 2 * DIRECTIONS[direction] * time) % 16 < 8  # [T, W]
    stripes = np.where(phase[..., None], COLOURS[colour], (240, 240, 240))
    video = np.repeat(stripes[:, None], height, axis=1).astype(np.uint8)
    return records.ClipRecord(
        id=f"stripes/{seed}/{index:06d}",
        video=media.encode_lossless(video, fps),
        fps=fps,
        frames=frames,
        height=height,
        width=width,
        captions={"short": f"{colour} stripes drift {direction}"},
        truth={"colour": colour, "direction": direction},
    )


class StripesClips(base.RecordBuilder):
    """Clips of the world `stripes`."""

    def __init__(self, *, data_dir: str | pathlib.Path, counts: Mapping[str, int]):
        self.counts = counts
        self.lines: list[dict[str, Any]] = []
        super().__init__(data_dir=data_dir)

    def features(self) -> dict[str, Any]:
        return base.clip_features()

    def splits(self) -> dict[str, Iterator[Mapping[str, Any]]]:
        return {name: self.render(name) for name in self.counts}

    def render(self, split: str) -> Iterator[Mapping[str, Any]]:
        stream = list(self.counts).index(split)  # splits never share a clip
        for index in range(self.counts[split]):
            record = clip(stream, index)
            line = {"input": record.id, "outcome": "kept", "split": split}
            self.lines.append(line)
            yield record.to_example()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("stripes"))
    options = parser.parse_args(arguments)
    counts = {"train": options.count, "validation": max(1, options.count // 10)}
    with records.publish(options.out) as root:  # appears whole or not at all
        builder = StripesClips(data_dir=root, counts=counts)
        directory = builder.write()
        info = {
            "kind": "clips",
            "name": "stripes",
            "captions": {"short": sum(counts.values())},
        }
        made = records.write_metadata(root, directory, info=info, report=builder.lines)
    print(options.out, made["splits"])


# --8<-- [end:world]


if __name__ == "__main__":
    main()
