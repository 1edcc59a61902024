"""Every script of examples/ runs, on the tiny model and with small numbers."""

import importlib.util
import pathlib
import re
import runpy
import types

import numpy as np
import pytest

import soraflax
from tests.generation import tiny

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
RNG = np.random.default_rng(0)
# Tested here one by one, or where what they need is.
SCRIPTS = {path.name for path in EXAMPLES.glob("*.py")}


def load(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.save(tmp_path_factory.mktemp("model"))


def test_every_script_is_tested():
    here = pathlib.Path(__file__).read_text()
    assert {name for name in SCRIPTS if f'"{name[:-3]}"' not in here} == set()


def test_generate(folder, tmp_path, capsys):
    out = tmp_path / "out.mkv"
    numbers = ["--size", "32", "16", "--frames", "5", "--steps", "2"]
    load("generate").main([str(folder), "a circle", *numbers, "--out", str(out)])
    assert soraflax.read_video(out).frames.shape == (5, 16, 32, 3)
    assert "5 frames of 32x16" in capsys.readouterr().out


def test_every_task(folder, tmp_path):
    words = [str(folder), "--side", "32", "--steps", "2", "--out", str(tmp_path)]
    load("every_task").main(words)
    videos = {path.stem for path in tmp_path.glob("*.mp4")}
    assert len(videos) == 10 and (tmp_path / "image.png").exists()


@pytest.mark.parametrize("length", [9, 12])
def test_add_a_task(folder, tmp_path, length):
    frames = RNG.integers(0, 255, (length, 32, 32, 3)).astype(np.uint8)
    clip = soraflax.Video(frames, 8.0).save(tmp_path / "clip.mkv")
    out = tmp_path / "out.mkv"
    words = [str(folder), str(clip), "--turn", "4", "--steps", "2", "--out", str(out)]
    load("add_a_task").main(words)
    mirrored = soraflax.read_video(out).frames
    assert len(mirrored) == length + 4 + length - 1
    np.testing.assert_array_equal(mirrored[:length], frames)
    np.testing.assert_array_equal(mirrored[length + 4 :], frames[-2::-1])


def test_a_task_is_added_in_under_60_lines():
    source = (EXAMPLES / "add_a_task.py").read_text().splitlines()
    assert len([line for line in source if line.strip()]) < 60


def test_add_a_world(tmp_path):
    records = pytest.importorskip("data_pipelines.records")
    out = tmp_path / "stripes"
    world = load("add_a_world")
    world.main(["--count", "3", "--out", str(out)])
    clips = records.open_dataset(out, "train", verify=True)
    assert [clip.id for clip in clips] == [f"stripes/0/{i:06d}" for i in range(3)]
    assert clips[1] == world.clip(0, 1) != records.open_dataset(out, "validation")[0]


ALONE = [
    "add_a_sampler",
    "add_an_attention_kernel",
    "attention_alone",
    "nnx_wrapper",
    "packed_transformer",
]


@pytest.mark.parametrize("name", ALONE)
def test_a_program_that_stands_alone(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out


def test_train_on_your_clips(tmp_path, capsys):
    clips = tmp_path / "clips"
    clips.mkdir()
    for index, colour in enumerate((40, 120, 200)):
        frames = np.full((9, 64, 64, 3), colour, np.uint8)
        soraflax.Video(frames, 8.0).save(clips / f"{index}.mkv")
        (clips / f"{index}.txt").write_text(f"grey {index}")
    words = [str(clips), "--text", "grey", "--out", str(tmp_path / "trained")]
    load("train_on_your_clips").main(words)
    assert (tmp_path / "trained" / "generated.mp4").exists()
    assert "5 frames of 64x64" in capsys.readouterr().out


def test_plan_a_pod_in_closed_form(capsys):
    load("plan_a_pod").main(["--topology", "v5p:4x4x4"])
    assert "64 chips" in capsys.readouterr().out


def notebook(name: str, **constants: str) -> dict[str, object]:
    """Runs a notebook, its constants replaced; returns its names."""
    path = EXAMPLES / "notebooks" / f"{name}.py"
    code = path.read_text()
    for old, new in constants.items():
        assert code.count(f"{old} = ") == 1
        code = re.sub(rf"^{old} = .*$", f"{old} = {new}", code, flags=re.MULTILINE)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code, str(path), "exec"), names)
    return names


def test_notebook_library_tour(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = notebook("library_tour", MODEL=repr(str(folder)), STEPS="2")
    assert names["deviations"] and (tmp_path / "tour.mp4").exists()


def test_notebook_train_your_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"SIZE, COUNT, OUT": '"tiny", 12, pathlib.Path("trained")'}
    made = notebook("train_your_own", **sizes)["made"]
    assert isinstance(made, soraflax.Video) and made.frames.shape == (5, 64, 64, 3)


def test_examples_use_public_names_only():
    """No name with an underscore, nor one imported from a test."""
    for path in EXAMPLES.rglob("*.py"):
        text = path.read_text()
        assert "import tests" not in text and "from tests" not in text, path
        assert not any(f".{word}" in text for word in ("_one(", "_begin(")), path
