"""A place to type commands in: a tiny model of short windows, and clips to work on."""

import dataclasses
import functools
import shlex

import numpy as np
import pytest

from soraflax import media
from soraflax.cli import main, progress
from soraflax.cli import parser as cli
from soraflax.generation import generator
from soraflax.pretrained import models
from tests.generation import tiny

WINDOW = 4  # latent frames: 13 of video


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A model on disk, as training exports it."""
    model, place = tiny.model(), tmp_path_factory.mktemp("model")
    models.save_autoencoder(
        place / "ae" / "model",
        model.autoencoder.params,
        config=model.autoencoder.config,
    )
    models.save_video_model(
        place / "video" / "model",
        model.params,
        config=dataclasses.replace(model.config, window=WINDOW),
        autoencoder_dir=place / "ae",
        vocabulary=model.tokenizer,
    )
    return place / "video"


@pytest.fixture(scope="session")
def load():
    """`Generator.load` that shares what it has loaded and compiled."""
    once = functools.cache(generator.Generator.load)
    return lambda directory, cache=None: once(directory)


@pytest.fixture
def place(tmp_path, monkeypatch, load):
    """An empty working directory; loading a model twice costs nothing.

    However slow the machine is, nothing is said of progress.
    """
    monkeypatch.setattr(progress, "FIRST", float("inf"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generator.Generator, "load", load)
    return tmp_path


@pytest.fixture
def run(capsys, place, checkpoint):
    """Type a command: its exit status, the files it names, lines of what it says."""

    def typed(line, *more):
        words = [*(shlex.split(line) if isinstance(line, str) else line), *more]
        if not any(word.startswith("--checkpoint") for word in words):
            words[1:1] = ["--checkpoint", str(checkpoint), "--steps", "1"]
        try:
            status = main.main(words)
        except SystemExit as stop:
            status = stop.code
        told = capsys.readouterr()
        return status, told.out.split(), told.err.splitlines()

    return typed


def parsers():
    """The library's own commands."""
    program = cli.Parser(prog="soraflax")
    subparsers = program.add_subparsers(dest="command", parser_class=cli.Parser)
    commands = [module.add_parser(subparsers) for module in main.COMMANDS]
    return program, {each.prog.split()[-1]: each for each in commands}


def squares(frames, *, width=32, height=16, seed=0):
    """uint8 noise in squares of 4 pixels."""
    rng = np.random.default_rng(seed)
    shape = (frames, -(-height // 4), -(-width // 4), 3)
    small = rng.integers(0, 256, shape).astype(np.uint8)
    return small.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]


@pytest.fixture
def clip(place):
    """Write a clip, without loss; its pixels."""

    def written(name, frames=9, *, fps=8.0, **how):
        video = squares(frames, **how)
        media.write_video(place / name, video, fps=fps)
        return video

    return written
