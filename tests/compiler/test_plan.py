"""The tiny config compiled for a TPU that is not there."""

import json
import pathlib

import pytest

from experiments import configs
from soraflax.cli import main
from soraflax.nn import transformer
from soraflax.planning import chips, program
from soraflax.planning import workload as workload_lib

TINY = f"{configs.DIRECTORY}/wan2_1_t2v_14b.py:tiny"


def run(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    status = main.main(["plan", f"--config={TINY}", *words])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_a_step_compiles_to_the_end(
    capsys: pytest.CaptureFixture, tmp_path: pathlib.Path
):
    out = tmp_path / "plan.json"
    words = ["--topology", "v5e:2x4", "--rows", "8", "--json", str(out)]
    status, said, _ = run(capsys, *words)
    assert status == 0
    assert "v5e:2x4: 8 chips, mesh data 1 x fsdp 8 x context 1 x tensor 1" in said
    made = json.loads(out.read_text())
    held = made["memory"]
    parts = ("parameters", "optimizer", "average", "batch", "temporaries")
    assert sum(held[part] for part in parts) == held["peak"] <= held["capacity"]
    assert held["optimizer"] >= 2 * held["parameters"] == 2 * held["average"]
    assert made["fits"] and 0 < made["utilisation"] < 1
    assert {t["kind"] for t in made["traffic"]} >= {"all-gather", "all-reduce"}


def test_slices_are_crossed_by_gradients_alone(
    capsys: pytest.CaptureFixture, tmp_path: pathlib.Path
):
    out = tmp_path / "plan.json"
    words = ["--topology", "v5e:2x2", "--slices", "2", "--rows", "8", "--quick"]
    status, said, _ = run(capsys, *words, "--json", str(out))
    assert status == 0
    assert "2 slices: 8 chips, mesh data 2 x fsdp 4 x context 1 x tensor 1" in said
    made = json.loads(out.read_text())
    crossing = [t for t in made["traffic"] if t["crosses"]]
    assert {t["kind"] for t in crossing} <= {"all-reduce", "reduce-scatter"}
    assert {tuple(t["axes"]) for t in crossing} == {("data",)}
    # Gradients alone: the smallest are summed whole, and padded to tiles.
    share, shards = made["memory"]["parameters"], 4
    assert share <= sum(t["bytes"] for t in crossing) <= 2 * shards * share


def test_too_few_rows_are_refused_before_compiling(capsys: pytest.CaptureFixture):
    status, said, error = run(capsys, "--topology", "v5e:2x4", "--rows", "3")
    assert (status, said) == (2, "")
    assert "3 rows do not divide over data x fsdp = 8: use 8 rows" in error


@pytest.mark.parametrize("policy", sorted(transformer.REMAT_POLICIES))
def test_every_remat_policy_compiles(policy: str):
    values = configs.load(TINY)
    values.model.remat = policy
    topology = chips.parse("v5e:2x4")
    devices = program.topology_devices(topology)
    workload = workload_lib.with_tpu_attention(workload_lib.from_config(values))
    mesh = workload.mesh.make(devices)
    built = program.compile_step(workload, topology, mesh=mesh, quick=True)
    assert built.hbm > 0
    assert (built.host > 0) == (policy == "offload")
