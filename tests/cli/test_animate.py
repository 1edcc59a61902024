"""`soraflax animate --path`: paths become a dragged clip, and are written down."""

import argparse
import pathlib

import numpy as np
import pytest

from soraflax import media
from soraflax.cli import animate, outputs
from soraflax.cli import parser as cli
from soraflax.generation import generator
from tests.generation import tiny


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    """A red square on white."""
    frame = np.full((1, 32, 32, 3), 236, np.uint8)
    frame[0, 10:20, 6:16] = (214, 39, 40)
    media.write_video(tmp_path / "i.png", frame, fps=1.0)
    return tmp_path / "i.png"


def _arguments(*words: str | pathlib.Path) -> argparse.Namespace:
    root = cli.Parser(prog="soraflax")
    animate.add_parser(root.add_subparsers(dest="command"))
    return root.parse_args(["animate", *map(str, words)])


def _job(*words: str | pathlib.Path) -> generator.Job:
    return animate.make_job(_arguments(*words), generator.Generator(tiny.model()))


def test_the_body_under_a_path_is_dragged(image: pathlib.Path) -> None:
    plain = _job(image, "it moves", "--frames=9")
    assert len(plain.conditioning.video) == 1 and plain.conditioning.strength == 1.0
    moved = _job(image, "it moves", "--frames=9", "--path=10,15:20,15").conditioning
    assert moved.frames == 9 and moved.strength == 0.6
    assert (moved.video[0] == plain.conditioning.video[0]).all()
    assert (moved.video[-1, 10:20, 16:26] == (214, 39, 40)).all()
    assert (moved.video[-1, 10:20, 6:16] == 236).all()
    words = ("--path=10,15:20,15", "--path-strength=0.4", "--frames=9")
    assert _job(image, *words).conditioning.strength == 0.4


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--path=10,15"], "give two points or more"),
        (["--path=40,15:20,15"], "outside of 32x32: use 31,15"),
        (["--path=1,1:20,15"], "begin it on a body"),
        (["--path-strength=0.4"], "give a --path too"),
    ],
)
def test_bad_paths_are_one_line(
    image: pathlib.Path, words: list[str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        _job(image, *words)


def test_every_path_is_in_the_command_of_a_result(image: pathlib.Path) -> None:
    args = _arguments(image, "--path=10,15:20,15", "--path=1,2:3,4")
    again = outputs.repeat_command(args, positional=("image", "prompt"), seed=3)
    assert "--path=10,15:20,15" in again and "--path=1,2:3,4" in again
    assert not any(word.startswith("--path-strength") for word in again)
