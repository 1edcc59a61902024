"""A run that fails early removes nothing that was made in it, and leaves no litter."""

import pathlib

import pytest

from experiments.stages import runtime
from tests.train import toy


def test_cached_latents_outlive_a_failure(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match="bad"), runtime.run_directory(workdir) as path:
        (path / "latents").mkdir()
        (path / "latents/dataset.json").write_text("{}")
        (path / "checkpoints").mkdir()
        raise ValueError("bad input")
    assert [str(p.relative_to(workdir)) for p in sorted(workdir.rglob("*"))] == [
        "latents",
        "latents/dataset.json",
    ]


@pytest.mark.parametrize("name", ["note.txt", "tensorboard/mine.txt", "checkpoints/7"])
def test_files_of_others_stay(tmp_path: pathlib.Path, name: str) -> None:
    workdir = tmp_path / "run"
    with pytest.raises(OSError, match="full"), runtime.run_directory(workdir) as path:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("mine")
        raise OSError("disk is full")
    assert (workdir / name).read_text() == "mine"


def test_bad_input_leaves_nothing(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    with (
        pytest.raises(ValueError, match="ended after 0"),
        runtime.run_directory(workdir) as path,
    ):
        toy.fit(toy.job(toy.mesh(1), toy.Data(length=0)), path)
    assert not workdir.exists()


def test_metrics_of_a_run_that_failed_later_stay(tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    with (
        pytest.raises(ValueError, match="ended after 3"),
        runtime.run_directory(workdir) as path,
    ):
        toy.fit(toy.job(toy.mesh(1), toy.Data(length=3)), path)
    assert (workdir / "metrics.jsonl").read_text()
    assert any((workdir / "tensorboard").iterdir())


def test_a_folder_that_was_there_stays(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="bad"), runtime.run_directory(tmp_path):
        raise ValueError("bad input")
    assert tmp_path.is_dir()
