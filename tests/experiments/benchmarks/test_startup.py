"""The benchmark of start-up, on the tiny model."""

from experiments.benchmarks import startup
from tests.generation import tiny


def test_both_runs_say_when_their_stages_were_over(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # one device
    monkeypatch.setenv("PYTHONPATH", ":".join(startup.sys.path))
    checkpoint = tiny.save(tmp_path)
    first, again = startup.lines(checkpoint, size="16x16", repeats=1)
    assert (first["run"], again["run"]) == ("first", "again")
    for line in (first, again):
        order = [line[n] for n in ("import", "model", "step_1", "steps", "decode")]
        assert order == sorted(order) and order[-1] <= line["seconds"] + 0.5
        assert line["cpu"] > 0
    assert again["cpu"] < first["cpu"]
    assert again["ok"] == (again["seconds"] <= startup.BOUND)
