"""A small folder of raw files, good and bad, for the tests of this folder."""

import json
from pathlib import Path

import numpy as np

from data_pipelines.worlds import bodies
from soraflax import media

CLIPS = Path(__file__).parents[2] / "data" / "clips"
WORLD = bodies.WorldConfig(
    sizes=((64, 64),),
    frames=(17,),
    image_share=0.0,
    directions=("left", "right"),
    gravity=0.0,
    backgrounds=("gray", "white", "tan", "mint"),
)
CUT = 9  # frame of the second world in two.mp4


def world(index: int) -> np.ndarray:
    """The frames of a clip of the world."""
    return bodies.render_clip(0, index, config=WORLD).video


def save(path: Path, frames: np.ndarray) -> Path:
    return media.Video(frames, 8.0).save(path)


def write(root: Path) -> Path:
    """Five good shots in four files; seven files that are to be rejected."""
    root.mkdir(parents=True)
    (root / "sub").mkdir()
    for index, name in enumerate(("a.mp4", "b.mp4", "sub/c.MP4")):
        save(root / "clip.mp4", world(index)).rename(root / name)
    save(root / "two.mp4", np.concatenate([world(3)[:CUT], world(4)]))
    (root / "copy.mp4").write_bytes((root / "a.mp4").read_bytes())
    small = world(1)[:, 1:-1, 1:-1]
    save(root / "near.mp4", np.clip(small * 0.9 + 15, 0, 255).astype(np.uint8))
    save(root / "still.mp4", np.repeat(world(5)[:1], 17, axis=0))
    framed = world(6).copy()
    framed[:, :8] = framed[:, -8:] = 0
    save(root / "framed.mp4", framed)
    (root / "cut_off.mp4").write_bytes((root / "a.mp4").read_bytes()[:2000])
    (root / "list.mp4").write_text("#EXTM3U\nhttp://example.com/a.ts\n")
    save(root / "silent.mp4", world(7))
    (root / "notes.pdf").write_bytes(b"%PDF")
    names = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*.[mM][pP]4"))]
    lines = [
        json.dumps({"file": n, "caption": f"the clip {n}"})
        for n in names
        if n != "silent.mp4"
    ]
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return root


KEPT = ["a.mp4", "b.mp4", "sub/c.MP4", "two.mp4#0-8", "two.mp4#9-25"]
REJECTED = {
    "copy.mp4": ("deduplicate", "its file is a.mp4 again"),
    "near.mp4": ("deduplicate", "shows what b.mp4 shows"),
    "still.mp4": ("score", "motion is less than the limit"),
    "framed.mp4": ("score", "borders is more than the limit"),
    "silent.mp4": ("caption", "no caption"),
}
FAILED = ("cut_off.mp4", "list.mp4")
