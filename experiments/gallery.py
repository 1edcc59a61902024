"""A picture for every way of prompting: what `make gallery` runs.

    python -m experiments.gallery --checkpoint VIDEO --output experiments/gallery

Takes clips of the world as inputs, does with them what the commands do, and writes for
each a PNG (given frames underlined in grey, made ones in blue); in `results/` what the
commands make, in `inputs/` what they are given. Prints the table of the README.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.worlds import bodies
from experiments import strips
from soraflax import media
from soraflax.generation import generator, tasks, windows
from soraflax.generation import given as givens

STEPS, GUIDANCE = 30, 2.0
FRAMES, HALF, SIDE, WIDE = 17, 9, 64, 96
EDIT, UPSCALE = 0.7, 0.4
SHOWN, SCALE = 7, 2
HOLE = 90  # grey level of what a mask marks
RED = "a large red circle moves right on a white background"
BLUE = "a small blue square moves down on a tan background"
GREEN = "a large green circle moves right on a white background"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the gallery.

    Attributes:
      name: of the command.
      command: as a person would type it beside the inputs.
      meaning: in a few words.
      rows: of the picture.
      result: the video that the command makes.
    """

    name: str
    command: str
    meaning: str
    rows: tuple[strips.Row, ...]
    result: np.ndarray


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is given to the commands; videos uint8 `[T, H, W, 3]`.

    Attributes:
      red, blue: clips of two bodies; `start` is the first half of `red`.
      wide: a landscape clip.
      mask: `[T, H, W]` bool, the right half of the frame.
    """

    red: np.ndarray
    start: np.ndarray
    blue: np.ndarray
    wide: np.ndarray
    mask: np.ndarray

    def write(self, folder: pathlib.Path, fps: float) -> None:
        """As files that the commands read."""
        for name in ("red", "start", "blue", "wide"):
            media.write_video(folder / f"{name}.mkv", getattr(self, name), fps)
        media.write_video(folder / "first.png", self.red[:1], 1.0)
        mask = np.where(self.mask[:1, ..., None], np.uint8(255), np.uint8(0))
        media.write_video(folder / "mask.png", mask.repeat(3, axis=-1), 1.0)


def inputs(seed: int) -> Inputs:
    """The same for the same seed."""
    red = render(RED, seed)
    mask = np.zeros(red.shape[:3], bool)
    mask[:, :, SIDE // 2 :] = True
    wide = render(RED, seed, size=(WIDE, SIDE))
    return Inputs(red, red[:HALF], render(BLUE, seed), wide, mask)


def render(text: str, seed: int, *, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """A clip of the world that shows what a text of its grammar says."""
    _, scale, colour, shape, _, direction, _, _, background, _ = text.split()
    world = dataclasses.replace(
        bodies.VARIANTS["demo"],
        sizes=(size,),
        frames=(FRAMES,),
        image_share=0.0,
        colours=(colour,),
        shapes=(shape,),
        object_sizes=(scale,),
        directions=(direction,),
        backgrounds=(background,),
    )
    return bodies.clip(seed, 0, world).video


class Studio:
    """A model, what it is given, and how it is asked."""

    def __init__(self, model: generator.Generator, seed: int) -> None:
        config = model.model.config
        self.model = model
        self.grid = model.grid
        self.given = inputs(seed)
        self.seed = seed
        self.fps = config.reference_fps
        self.contexts = tasks.contexts(model.grid, config.window)
        self.sampling = generator.SamplingConfig(STEPS, GUIDANCE)

    def prompt(self, text: str, frames: int) -> np.ndarray:
        """A video from text alone."""
        prompt = generator.Prompt(text, (WIDE, SIDE), frames, seed=self.seed)
        return self.model([prompt], self.sampling)[0]

    def complete(
        self, given: givens.Given, text: str, *, how: windows.WindowConfig | None = None
    ) -> np.ndarray:
        """A video from given pixels, in such windows and tiles."""
        job = generator.Job(given, text, seed=self.seed)
        sampling = dataclasses.replace(self.sampling, windows=how)
        return self.model.complete([job], sampling)[0]

    def generate(self) -> Entry:
        text = "a large blue square moves left on a tan background"
        video = self.prompt(text, FRAMES)
        command = f'generate "{text}" --size {WIDE}x{SIDE} --frames {FRAMES}'
        return Entry("generate", command, "text to video", (row(video),), video)

    def image(self) -> Entry:
        text = "a large yellow triangle on a black background"
        video = self.prompt(text, 1)
        command = f'image "{text}" --size {WIDE}x{SIDE}'
        return Entry("image", command, "text to image", (row(video),), video)

    def animate(self) -> Entry:
        first = self.given.red[0]
        given = tasks.animate(self.grid, first, frames=FRAMES, fps=self.fps)
        video = self.complete(given, RED)
        command = f'animate first.png "{RED}" --frames {FRAMES}'
        meaning = "an image begins to move"
        return Entry("animate", command, meaning, (row(video, 1),), video)

    def extend(self) -> Entry:
        clip, (context, new) = self.given.start, self.contexts["forward"]
        given = tasks.extend(
            self.grid,
            clip,
            direction="forward",
            frames=new,
            context=context,
            fps=self.fps,
        )
        video = self.complete(given, RED)
        command = f'extend start.mkv "{RED}" --direction forward '
        command += f"--seconds {new / self.fps:g}"
        meaning = "what comes after a clip, or what came before it"
        return Entry("extend", command, meaning, (row(video, len(clip)),), video)

    def loop(self) -> Entry:
        clip, (context, new) = self.given.red, self.contexts["between"]
        given = tasks.loop(self.grid, clip, frames=new, context=context, fps=self.fps)
        video = self.complete(given, RED)
        meaning = "the piece that leads back to the first frame"
        shown = (row(video, len(clip)),)
        return Entry("loop", "loop red.mkv", meaning, shown, video)

    def connect(self) -> Entry:
        first, second = self.given.red, self.given.blue
        context, new = self.contexts["between"]
        given = tasks.connect(
            self.grid, first, second, frames=new, context=context, fps=self.fps
        )
        video = self.complete(given, BLUE)
        kept = np.ones(len(video), bool)
        kept[len(first) : -len(second)] = False
        near = slice(len(first) - 4, len(first) + new + 4)
        shown = (strips.Row(video[near], kept[near]),)
        command = f'connect red.mkv blue.mkv "{BLUE}"'
        return Entry("connect", command, "a transition", shown, video)

    def edit(self) -> Entry:
        clip = self.given.red
        given = tasks.edit(self.grid, clip, strength=EDIT, fps=self.fps)
        video = self.complete(given, GREEN)
        command = f'edit red.mkv "{GREEN}" --strength {EDIT}'
        shown = (row(clip, FRAMES), row(video))
        return Entry("edit", command, "the same clip, another prompt", shown, video)

    def inpaint(self) -> Entry:
        clip, mask = self.given.red, self.given.mask
        given = tasks.inpaint(self.grid, clip, mask, fps=self.fps)
        video = self.complete(given, RED)
        cut = np.where(mask[..., None], HOLE, clip).astype(np.uint8)
        command = f'inpaint red.mkv "{RED}" --mask mask.png'
        shown = (row(cut, FRAMES), row(video))
        return Entry("inpaint", command, "what a mask marks, anew", shown, video)

    def outpaint(self) -> Entry:
        clip, size = self.given.wide, (SIDE, WIDE)
        given = tasks.outpaint(self.grid, clip, size=size, fps=self.fps)
        video = self.complete(given, RED)
        command = f'outpaint wide.mkv "{RED}" --size {SIDE}x{WIDE}'
        shown = (row(clip, FRAMES), row(video))
        return Entry("outpaint", command, "a larger frame around a clip", shown, video)

    def upscale(self) -> Entry:
        clip, size = self.given.red, (2 * SIDE, 2 * SIDE)
        given = tasks.upscale(
            self.grid, clip, size=size, strength=UPSCALE, fps=self.fps
        )
        tiles = dataclasses.replace(self.model.windows, tile=(SIDE, SIDE))
        video = self.complete(given, RED, how=tiles)
        command = f'upscale red.mkv "{RED}" --size {size[0]}x{size[1]} --tile {SIDE}'
        shown = (row(clip, FRAMES), row(video, scale=0.5))
        return Entry("upscale", command, "larger, tile by tile", shown, video)

    def entries(self) -> Iterator[Entry]:
        """All of them, in the order of the README."""
        for make in (
            *(self.generate, self.image, self.animate, self.extend, self.loop),
            *(self.connect, self.edit, self.inpaint, self.outpaint, self.upscale),
        ):
            yield make()


def row(video: np.ndarray, kept: int = 0, *, scale: float = 1.0) -> strips.Row:
    """A strip whose first `kept` frames are given."""
    return strips.Row(video, np.arange(len(video)) < kept, scale=scale)


def write(entry: Entry, folder: pathlib.Path, fps: float) -> pathlib.Path:
    """Its picture, and its result as a video or an image; returns the picture."""
    picture = folder / f"{entry.name}.png"
    strips.sheet(picture, entry.rows, frames=SHOWN, scale=SCALE)
    suffix = "mp4" if len(entry.result) > 1 else "png"
    path = folder / "results" / f"{entry.name}.{suffix}"
    details = {"command": f"soraflax {entry.command}"}
    media.write_video(path, entry.result, fps, metadata=details)
    return picture


def table(entries: Sequence[Entry], folder: str) -> str:
    """The README's table in Markdown."""
    lines = ["| command | meaning | picture |", "|---|---|---|"]
    for entry in entries:
        picture = f"![{entry.name}]({folder}/{entry.name}.png)"
        command = f"`soraflax {entry.command}`"
        lines.append(f"| {command} | {entry.meaning} | {picture} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gallery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=pathlib.Path, required=True, help="a trained VIDEO folder")
    add("--output", type=pathlib.Path, default=pathlib.Path("experiments/gallery"))
    add("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        studio = Studio(generator.Generator.load(options.checkpoint), options.seed)
        options.output.mkdir(parents=True, exist_ok=True)
        studio.given.write(options.output / "inputs", studio.fps)
        made = []
        for entry in studio.entries():
            made.append(entry)
            picture = write(entry, options.output, studio.fps)
            print(f"{picture}: {picture.stat().st_size} bytes", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"gallery: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gallery: stopped", file=sys.stderr)
        return 1
    print(table(made, options.output.as_posix()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
