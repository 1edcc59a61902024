"""A picture for every way of prompting: what `make gallery` runs.

    python -m experiments.gallery --checkpoint VIDEO --output docs/gallery

Runs each command on clips of the world and draws a PNG of its result, given frames
underlined in grey and made ones in blue; `results/` has the results as videos,
`inputs/` the given clips. Prints a table of the pictures in Markdown.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds import bodies
from experiments.plots import strips
from soraflax import media
from soraflax.cli import main as soraflax_cli
from soraflax.cli import parser as cli

SETTINGS = ("--sampler", "ancestral", "--steps", "48", "--guidance", "2")
FRAMES, HALF, SIDE, WIDE, FPS = 17, 9, 64, 96, 8.0
EDIT = 0.5
SHOWN, SCALE = 7, 2
NEAR = 4  # frames of each clip in the picture of a transition
HOLE = 90  # grey level of what a mask marks
RED = "a large red circle moves right on a white background"
BLUE = "a small blue square moves down on a tan background"
NAMES = (
    *("generate", "image", "animate", "extend", "loop"),
    *("connect", "edit", "inpaint", "outpaint", "upscale"),
)
Video = np.ndarray
GREEN = "a large green circle moves right on a white background"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, and the contents of its picture.

    Attributes:
      name: name of the command.
      words: its arguments; files are those of `Inputs`.
      meaning: a few words for the table.
      kept: number of frames at the start of the result that were given.
      beside: name of an input that is shown above the result.
      scale: enlargement of the result in the picture.
    """

    name: str
    words: tuple[str, ...]
    meaning: str
    kept: int = 0
    beside: str = ""
    scale: float = 1.0

    def __str__(self) -> str:
        """The command as it is typed."""
        return f"soraflax {self.name} " + " ".join(
            f'"{word}"' if " " in word else word for word in self.words
        )


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Inputs of the commands; videos uint8 `[T, H, W, 3]`.

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

    @property
    def masked(self) -> np.ndarray:
        """`red` without what the mask marks."""
        return np.where(self.mask[..., None], HOLE, self.red).astype(np.uint8)

    def write(self, folder: pathlib.Path, fps: float) -> None:
        """Write them as the files that the commands read."""
        for name in ("red", "start", "blue", "wide"):
            media.write_video(folder / f"{name}.mkv", getattr(self, name), fps=fps)
        media.write_video(folder / "first.png", self.red[:1], fps=1.0)
        mask = np.where(self.mask[:1, ..., None], np.uint8(255), np.uint8(0))
        media.write_video(folder / "mask.png", mask.repeat(3, axis=-1), fps=1.0)


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
    return bodies.render_clip(seed, 0, config=world).video


def commands() -> list[Command]:
    """All of them, in the order of docs/tasks.md."""
    wide, tall, double = f"{WIDE}x{SIDE}", f"{SIDE}x{WIDE}", f"{2 * SIDE}x{2 * SIDE}"
    square = "a large blue square moves left on a tan background"
    triangle = "a large yellow triangle on a black background"
    return [
        Command("generate", (square, "--size", wide), "text to video"),
        Command("image", (triangle, "--size", wide), "text to image"),
        Command("animate", ("first.png", RED), "an image begins to move", 1),
        Command(
            "extend",
            ("start.mkv", RED, "--direction", "forward"),
            "what comes after a clip, or came before it",
            HALF,
        ),
        Command("loop", ("start.mkv",), "the piece that leads back", HALF),
        Command("connect", ("red.mkv", "blue.mkv"), "a transition", FRAMES),
        Command(
            "edit",
            ("red.mkv", GREEN, "--strength", str(EDIT)),
            "the same clip, another prompt",
            beside="red",
        ),
        Command(
            "inpaint",
            ("red.mkv", RED, "--mask", "mask.png"),
            "what a mask marks, anew",
            beside="masked",
        ),
        Command(
            "outpaint",
            ("wide.mkv", RED, "--size", tall),
            "a larger frame around a clip",
            beside="wide",
        ),
        Command(
            "upscale",
            ("red.mkv", RED, "--size", double, "--tile", f"{SIDE}x{SIDE}"),
            "larger, tile by tile",
            beside="red",
            scale=0.5,
        ),
    ]


def run(
    command: Command, checkpoint: pathlib.Path, *, folder: pathlib.Path, seed: int
) -> media.Video:
    """The result of a command on `folder/inputs`; written to `folder/results`.

    Raises:
      ValueError: the command fails, after its own message.
    """
    inputs_at = folder / "inputs"
    words = [
        str(inputs_at / word) if (inputs_at / word).is_file() else word
        for word in command.words
    ]
    suffix = "png" if command.name == "image" else "mkv"
    out = folder / "results" / f"{command.name}.{suffix}"
    settings = ["--checkpoint", checkpoint, "--seed", seed, *SETTINGS, "--out", out]
    status = soraflax_cli.main([command.name, *words, *map(str, settings)])
    if status:
        raise ValueError(f"soraflax {command.name} ends with {status}")
    video = media.read_video(out)
    if len(video.frames) > 1:
        media.write_video(out.with_suffix(".mp4"), video.frames, fps=video.fps)
    return video


def draw(path: pathlib.Path, command: Command, *, given: Inputs, video: Video) -> None:
    """The picture of a command: its input where that is shown, and its result."""
    kept = np.arange(len(video)) < command.kept
    if command.name == "connect":
        kept[-len(given.blue) :] = True
        near = slice(FRAMES - NEAR, len(video) - FRAMES + NEAR)
        video, kept = video[near], kept[near]
    rows = [strips.Row(video, kept, scale=command.scale)]
    if command.beside:
        clip = getattr(given, command.beside)
        rows.insert(0, strips.Row(clip, np.ones(len(clip), bool)))
    strips.sheet(path, rows, frames=SHOWN, scale=SCALE)


def table(shown: Sequence[Command], folder: str) -> str:
    """A table of the pictures, in Markdown."""
    lines = ["| command | meaning | picture |", "|---|---|---|"]
    for command in shown:
        picture = f"![{command.name}]({folder}/{command.name}.png)"
        lines.append(f"| `{command}` | {command.meaning} | {picture} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m experiments.gallery", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=pathlib.Path, required=True, help="a trained VIDEO folder")
    add("--output", type=pathlib.Path, default=pathlib.Path("docs/gallery"))
    add("--seed", type=int, default=0)
    add("--only", nargs="+", choices=NAMES, default=NAMES, metavar="COMMAND")
    options = parser.parse_args(argv)

    def draw_all() -> None:
        options.output.mkdir(parents=True, exist_ok=True)
        given = inputs(options.seed)
        given.write(options.output / "inputs", FPS)
        chosen = [command for command in commands() if command.name in options.only]
        for command in chosen:
            video = run(
                command, options.checkpoint, folder=options.output, seed=options.seed
            )
            picture = options.output / f"{command.name}.png"
            draw(picture, command, given=given, video=video.frames)
        print(table(chosen, options.output.as_posix()))

    return cli.run_command("gallery", draw_all, interrupted="pictures so far remain")


if __name__ == "__main__":
    sys.exit(main())
