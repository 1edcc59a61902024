"""Two runs of one seed: the same metrics, byte for byte; the clock has its own file."""

import json
import pathlib

from soraflax.train import metrics
from tests.train import toy


def _run(workdir: pathlib.Path, *, steps: int = 8) -> pathlib.Path:
    evaluate = lambda params, *, check: {"validation/loss": 1.5}  # noqa: E731
    job = toy.job(toy.mesh(1), evaluate=evaluate)
    course = {"evaluate_every": 4, "checkpoint_every": 4}
    toy.fit(job, workdir, steps=steps, **course)
    return workdir


def test_they_write_the_same_metrics(tmp_path: pathlib.Path) -> None:
    first, second = _run(tmp_path / "a"), _run(tmp_path / "b")
    texts = [(path / metrics.FILE).read_text() for path in (first, second)]
    assert texts[0] == texts[1]
    assert len(texts[0].splitlines()) == 6


def test_the_clock_has_a_file_of_its_own(tmp_path: pathlib.Path) -> None:
    _run(tmp_path)
    untimed = [
        json.loads(x) for x in (tmp_path / metrics.FILE).read_text().split("\n")[:-1]
    ]
    assert not any(set(line) & set(metrics.TIMED) for line in untimed)
    timed = [
        json.loads(x) for x in (tmp_path / metrics.RATES).read_text().split("\n")[:-1]
    ]
    assert [line["step"] for line in timed] == [2, 4, 6, 8]
    assert all(set(line) <= {"step", *metrics.TIMED} for line in timed)
    # Read, they are one line again, and those of an evaluation have no rates.
    for line in metrics.read(tmp_path):
        assert ("seconds_per_step" in line) == ("loss" in line)


def test_lines_after_the_last_checkpoint_go_from_both(tmp_path: pathlib.Path) -> None:
    _run(tmp_path)
    whole = (tmp_path / metrics.FILE).read_text()
    for name in (metrics.FILE, metrics.RATES):
        with (tmp_path / name).open("a") as file:
            file.write('{"step": 10}\n{"step": 1')
    with metrics.Writer(tmp_path, start=8, steps=10, name="toy"):
        pass
    assert (tmp_path / metrics.FILE).read_text() == whole
    assert [line["step"] for line in metrics.read(tmp_path)][-1] == 8


def test_records_of_earlier_versions_are_read(tmp_path: pathlib.Path) -> None:
    line = {"step": 2, "loss": 1.0, "seconds_per_step": 3.0}
    (tmp_path / metrics.FILE).write_text(json.dumps(line) + "\n")
    assert metrics.read(tmp_path) == [line]
