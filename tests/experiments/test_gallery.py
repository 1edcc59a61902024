"""The gallery runs the commands it shows, and draws what they make."""

import pathlib
import subprocess

import numpy as np
import pytest

from data_pipelines.worlds import judge
from experiments import gallery
from experiments.plots import strips
from soraflax import media
from tests.generation import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("model"))


def test_inputs_show_what_their_captions_say():
    given = gallery.inputs(0)
    for video, text in ((given.red, gallery.RED), (given.blue, gallery.BLUE)):
        reading = judge.read(video)
        _, size, colour, shape, _, direction, _, _, background, _ = text.split()
        wanted = {"size": size, "colour": colour, "shape": shape}
        wanted |= {"direction": direction, "background": background}
        assert wanted.items() <= reading.items()
    assert (given.start == given.red[: len(given.start)]).all()
    assert (given.masked[given.mask] == gallery.HOLE).all()
    assert (given.masked[~given.mask] == given.red[~given.mask]).all()


def test_commands_make_pictures(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gallery, "SETTINGS", ("--steps", "1", "--guidance", "1"))
    words = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "gallery")]
    assert gallery.main([*words, "--only", "image", "connect"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| `soraflax ")]
    assert [row.split()[2] for row in rows] == ["image", "connect"]
    for name in ("image", "connect"):
        picture = tmp_path / "gallery" / f"{name}.png"
        assert media.read_video(picture).frames.std() > 0
        assert picture.stat().st_size < 200_000
    results = tmp_path / "gallery" / "results"
    connected = media.read_video(results / "connect.mkv").frames
    given = gallery.inputs(0)
    assert (connected[: len(given.red)] == given.red).all()
    assert (connected[-len(given.blue) :] == given.blue).all()
    assert len(media.read_video(results / "connect.mp4").frames) == len(connected)


def test_every_command_is_in_the_table():
    commands = gallery.commands()
    assert tuple(command.name for command in commands) == gallery.NAMES
    table = gallery.table(commands, "pictures")
    assert table.count("\n") == len(commands) + 1
    assert '`soraflax edit red.mkv "a large green circle' in table
    assert "![loop](pictures/loop.png)" in table


def test_a_strip_tells_given_from_made(tmp_path):
    video = np.full((5, 16, 24, 3), 200, np.uint8)
    given = np.array([True, True, False, False, False])
    strips.sheet(tmp_path / "a.png", [strips.Row(video, given)], frames=3)
    sheet = media.read_video(tmp_path / "a.png").frames[0]
    bar = 2 * 24 * strips.LINE
    assert (sheet == strips.GIVEN).all(axis=-1).sum() == bar
    assert (sheet == strips.GENERATED).all(axis=-1).sum() == 2 * bar
    assert strips.chosen(5, 3).tolist() == [0, 2, 4]
    assert strips.chosen(1, 7).tolist() == [0]


def test_bad_input_is_one_line(tmp_path, capsys):
    words = ["--checkpoint", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert gallery.main([*words, "--only", "generate"]) == 2
    assert "none" in capsys.readouterr().err


def test_make_says_what_to_do_without_a_model(tmp_path):
    root = pathlib.Path(gallery.__file__).parents[1]
    command = ["make", "-C", str(root), "gallery", f"CHECKPOINT={tmp_path}/none"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 2
    assert "run 'make demo' first" in made.stderr
