"""What JAX is told of the processes of a run."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from soraflax.train import cluster

PLAIN = {"initialization_timeout": 300, "heartbeat_timeout_seconds": 100}
THREE = {"coordinator_address": "n0:9876", "num_processes": 4, "process_id": 2}


@pytest.mark.parametrize(
    ("config", "environ", "expected"),
    [
        ({}, {}, {}),
        ({}, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "2"}, {}),
        ({"coordinator": "n0:9876", "count": 4, "id": 2}, {"RANK": "1"}, THREE),
        (
            {},
            {
                "SORAFLAX_COORDINATOR": "n0:9876",
                "SORAFLAX_PROCESSES": "4",
                "SORAFLAX_PROCESS": "2",
                "MASTER_ADDR": "n9",
                "RANK": "0",
            },
            THREE,
        ),
        (
            {},
            {
                "MASTER_ADDR": "n0",
                "MASTER_PORT": "9876",
                "WORLD_SIZE": "4",
                "RANK": "2",
            },
            THREE,
        ),
        (
            {"id": 2},
            {
                "MASTER_ADDR": "n0",
                "MASTER_PORT": "9876",
                "WORLD_SIZE": "4",
                "RANK": "0",
            },
            THREE,
        ),
    ],
)
def test_what_is_not_given_comes_from_the_environment(config, environ, expected):
    words = cluster.arguments(cluster.ClusterConfig(**config), environ)
    if len(expected) == 3:  # nothing is left to JAX to find
        expected = expected | {"cluster_detection_method": "deactivate"}
    assert words == PLAIN | expected


@pytest.mark.parametrize(
    ("config", "environ", "message"),
    [
        ({"coordinator": "n0"}, {}, r"coordinator 'n0': use HOST:PORT, as in n0:9876"),
        ({"coordinator": "n0:70000"}, {}, "use HOST:PORT"),
        ({"count": 4, "id": 4}, {}, "cluster.id 4 of cluster.count 4: use 0 to 3"),
        ({"heartbeat_seconds": 0}, {}, "use 1 or more"),
        ({}, {"MASTER_ADDR": "n0", "RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'"),
        (
            {},
            {"MASTER_ADDR": "n0", "RANK": "2", "WORLD_SIZE": "2"},
            "cluster.id 2 of cluster.count 2: use 0 to 1",
        ),
    ],
)
def test_impossible_processes_are_refused(config, environ, message):
    with pytest.raises(ValueError, match=message):
        cluster.arguments(cluster.ClusterConfig(**config), environ)


def test_a_run_whose_processes_nobody_knows_says_what_to_give(
    monkeypatch: pytest.MonkeyPatch,
):
    def initialize(**words: object) -> None:
        assert words == PLAIN
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    assert not cluster.ClusterConfig().is_given
    with pytest.raises(ValueError, match=r"give --config\.cluster"):
        cluster.start(cluster.ClusterConfig(), {})


@pytest.mark.parametrize("by", ["configuration", "slurm"])
def test_two_processes_meet(by: str):
    """By the configuration, in a job of SLURM that knows of one; and by SLURM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = "coordinator=sys.argv[1], count=2, id=int(sys.argv[2])"
    script = (
        "import sys, jax; from soraflax.train import cluster; "
        f"cluster.start(cluster.ClusterConfig({given if by != 'slurm' else ''})); "
        "print(jax.process_index(), jax.process_count())"
    )
    slurm = {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost"}
    slurm |= {"SLURM_NTASKS": "2" if by == "slurm" else "1", "SLURM_LOCALID": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"127.0.0.1:{port}", str(rank)],
            env=os.environ
            | slurm
            | {"SLURM_PROCID": str(rank if by == "slurm" else 0)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [text.splitlines()[-1] for text in said] == ["0 2", "1 2"]
