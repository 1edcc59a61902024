"""Real clips: what is missing is said first, and a stop is one line."""

import pathlib

import pytest

from experiments.reports import real_clips
from experiments.stages import runtime


def test_the_shipped_clips_are_complete() -> None:
    real_clips.check_clips(real_clips.CLIPS)


def test_a_missing_clip_is_refused_before_anything_is_made(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "captions.jsonl").write_text("")
    output = tmp_path / "out"
    arguments = [f"--output={output}", f"--input={tmp_path}"]
    assert real_clips.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"{real_clips.MEMORISED[0]}: missing" in error
    assert error.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (
            runtime.Interrupted("step 3 of 7 is saved; the same command resumes"),
            "step 3 of 7 is saved; name a new folder",
        ),
        (KeyboardInterrupt(), "name a new folder to start again"),
    ],
)
def test_a_stop_is_one_line(
    stop: BaseException,
    said: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr(real_clips, "run", stopped)
    assert real_clips.main([f"--output={tmp_path / 'out'}"]) == 130
    error = capsys.readouterr().err
    assert error == f"real_clips: stopped; {said}\n"
