"""New captions of a dataset: cached, resumed, beside the old ones."""

import json
import sys
from pathlib import Path

import pytest

from data_pipelines import added_captions, recaption, records
from tests.data_pipelines import clip_data

OWN = """
import os

def caption(video):
    with open("calls", "a") as file:
        file.write("x")
    if os.path.exists("stop") and len(video) == 1:
        raise RuntimeError("stopped")
    return f"  {len(video)}\\nframes "

def number(video):
    return 3

def silent(video):
    return " \u202e "
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a dataset and a captioning module."""
    monkeypatch.chdir(tmp_path)
    clip_data.write_clips(tmp_path / "clips", train=5, validation=1)
    (tmp_path / "captions_of_ones_own.py").write_text(OWN)
    return tmp_path


def run(*words):
    return recaption.main(["clips", *words])


def calls(place):
    path = place / "calls"
    return len(path.read_text()) if path.exists() else 0


FUNCTION = ("--function", "captions_of_ones_own:caption", "--name", "frames")


def test_captions_stand_beside_the_old_ones(place, capsys):
    assert run(*FUNCTION, "--chunk", "2") == 0
    statistics = json.loads(capsys.readouterr().out)
    assert (statistics["written"], statistics["cached"]) == (6, 0)
    assert statistics["captions"] == 6 and statistics["empty"] == 0
    beside = place / "clips" / "captions" / "frames.statistics.json"
    assert json.loads(beside.read_text()) == statistics
    for split in ("train", "validation"):
        for clip in records.open_dataset(place / "clips", split):
            assert clip.captions["frames"] == f"{clip.frames} frames"
            assert clip.captions["short"].startswith("clip ")


def test_what_was_written_is_not_written_again(place, capsys):
    (place / "stop").touch()
    assert run(*FUNCTION, "--chunk", "2") == 2  # clip 2 is an image
    line = capsys.readouterr().err.splitlines()[-1]
    assert "captions_of_ones_own:caption failed on clip-2: RuntimeError" in line
    assert not Path(added_captions.path_of("clips", "frames")).exists()
    before = calls(place)
    assert before == 3
    (place / "stop").unlink()
    assert run(*FUNCTION, "--chunk", "2") == 0
    assert calls(place) == before + 4  # clips 2 to 5: the first chunk was cached
    statistics = json.loads(capsys.readouterr().out)
    assert (statistics["written"], statistics["cached"]) == (4, 2)
    assert run(*FUNCTION, "--chunk", "2") == 0
    assert calls(place) == before + 4


def test_a_function_that_changed_writes_anew(place, capsys, monkeypatch):
    assert run(*FUNCTION) == 0
    (place / "captions_of_ones_own.py").write_text(OWN.replace("frames ", "pictures "))
    monkeypatch.delitem(sys.modules, "captions_of_ones_own")
    assert run(*FUNCTION) == 0
    clip = records.open_dataset("clips")[0]
    assert clip.captions["frames"] == f"{clip.frames} pictures"
    written = [
        json.loads(line)["written"]
        for line in capsys.readouterr().out.split("\n")
        if line
    ]
    assert written == [6, 6]


def test_captions_of_others_are_taken_whole_or_not_at_all(place, capsys):
    path = place / "theirs.jsonl"
    lines = [{"id": f"clip-{n}", "caption": f"their {n}"} for n in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("--jsonl", "theirs.jsonl", "--name", "theirs") == 0
    assert records.open_dataset("clips")[3].captions["theirs"] == "their 3"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    assert run("--jsonl", "theirs.jsonl", "--name", "fewer") == 2
    assert "no caption of 'clip-0'" in capsys.readouterr().err
    path.write_text(json.dumps({"id": "clip-9", "caption": "x"}) + "\n")
    lines = [*lines, {"id": "other", "caption": "x"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("--jsonl", "theirs.jsonl", "--name", "more") == 2
    assert "no clip of the id 'other'" in capsys.readouterr().err
    silent = {"id": "clip-5", "caption": " \u202e"}
    for given, message in (
        ([*lines[:6], lines[4]], "several captions of 'clip-4'"),
        ([*lines[:5], silent], "an empty caption of 'clip-5'"),
    ):
        path.write_text("".join(json.dumps(line) + "\n" for line in given))
        assert run("--jsonl", "theirs.jsonl", "--name", "odd") == 2
        assert message in capsys.readouterr().err
    path.write_bytes(b'{"id": "clip-0", "caption": "x"}\n{"id": "caf\xe9"')
    assert run("--jsonl", "theirs.jsonl", "--name", "odd") == 2
    assert "theirs.jsonl: line 2 is not UTF-8" in capsys.readouterr().err
    assert not Path(added_captions.path_of("clips", "odd")).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--name", "short"), "captions 'short' of their own: choose another --name"),
        (("--name", "a b"), "caption source 'a b'"),
        (("--captioner", "nowhere"), "nowhere: no such directory"),
        (("--function", "captions_of_ones_own:number"), "gave 3 of clip-0"),
        (("--function", "captions_of_ones_own:none"), "has no function 'none'"),
        (("--function", "captions_of_ones_own:silent"), "a text that is not empty"),
        (("--jsonl", "none.jsonl", "--name", "x"), "none.jsonl: No such file"),
        (("--nothing",), "unknown argument '--nothing'"),
    ],
)
def test_bad_input_is_one_line(place, capsys, words, message):
    if "--function" not in words and "--jsonl" not in words:
        words = (*words, *(() if "--captioner" in words else ("--captioner", ".")))
    assert run(*words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("recaption: ") and message in line
